//! Everything that works in the background: how it begins, pauses and ends.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::socket::Backlog;
use offramp_intercept::Sockets;
use offramp_relay::{Limit, serve};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::control::Desk;
use crate::shared::{Shared, TCP_FLOWS};
use crate::state::State;
use crate::takeover::{self, Link, Request};
use crate::udp::{self, Order, Paused};
use crate::{DRAIN, api, keeper, roam, tcp, watcher};

/// Ends of UDP sockets that wait to be acted on.
const CLOSED: usize = 16_384;
/// Orders that wait for a desk, datagrams of flows of another daemon among them.
const ORDERS: usize = 4096;
/// How long flows may ask what claims their app when nothing new is taken.
const ASKING: Duration = Duration::from_secs(2);
/// Flows end by themselves, or when they are told to.
const LONG: Duration = Duration::from_secs(365 * 86_400);

/// The sockets where work comes from, to be listened at again or to be passed on.
pub(crate) struct Doors {
    /// As [`Sockets::descriptors`] has them.
    pub(crate) sockets: [OwnedFd; 4],
    pub(crate) control: OwnedFd,
}

/// The tasks of the daemon. Each returns whether it was told to end.
pub(crate) struct Work {
    pub(crate) shared: Arc<Shared>,
    /// None: they are another daemon's.
    doors: Option<Arc<Doors>>,
    orders: [mpsc::Sender<Order>; 2],
    closed: broadcast::Sender<u64>,
    requests: mpsc::Receiver<Request>,
    /// Ends everything; flows may end by themselves for a while.
    stop: CancellationToken,
    /// Cuts the flows that are left.
    end: CancellationToken,
    /// Ends what takes work.
    intake: CancellationToken,
    /// Ends what answers clients.
    serving: CancellationToken,
    /// Ends what follows the machine.
    keeping: CancellationToken,
    flows: JoinSet<bool>,
    clients: JoinSet<bool>,
    keepers: JoinSet<bool>,
    /// What goes on while all else pauses.
    always: JoinSet<bool>,
    beating: CancellationToken,
}

impl Work {
    /// Starts everything.
    pub(crate) fn begin(
        shared: Arc<Shared>,
        sockets: Sockets,
        control: UnixListener,
        next: UnixListener,
    ) -> anyhow::Result<Self> {
        let failed = "cannot start to work";
        let doors = Arc::new(Doors {
            sockets: sockets.descriptors().context(failed)?,
            control: control.as_fd().try_clone_to_owned().context(failed)?,
        });
        let stop = CancellationToken::new();
        let (closed, _) = broadcast::channel(CLOSED);
        let (asks, requests) = mpsc::channel(1);
        let mut flows = JoinSet::new();
        let orders = sockets.udp.map(|intake| {
            let (orders, ordered) = mpsc::channel(ORDERS);
            let (shared, stop) = (Arc::clone(&shared), stop.clone());
            let pulse = shared.pulse.task("UDP");
            flows.spawn(pulse.during(udp::serve(
                shared,
                intake,
                closed.subscribe(),
                ordered,
                stop,
            )));
            orders
        });
        let mut work = Self {
            intake: stop.child_token(),
            serving: stop.child_token(),
            keeping: stop.child_token(),
            beating: stop.child_token(),
            end: CancellationToken::new(),
            clients: JoinSet::new(),
            keepers: JoinSet::new(),
            always: JoinSet::new(),
            shared,
            doors: Some(Arc::clone(&doors)),
            orders,
            closed,
            requests,
            stop,
            flows,
        };
        work.accept(sockets.tcp);
        work.keep(control)?;
        let (shared, beating) = (Arc::clone(&work.shared), work.beating.clone());
        work.always.spawn(async move {
            keeper::beat(shared, beating).await;
            true
        });
        let shared = Arc::clone(&work.shared);
        let listening = takeover::listen(shared, next, doors, asks, work.beating.clone());
        work.always.spawn(listening);
        Ok(work)
    }

    /// The senders of orders to the desks, IPv4 first.
    pub(crate) fn orders(&self) -> [mpsc::Sender<Order>; 2] {
        self.orders.clone()
    }

    /// Has a task run until it is told to end by the token.
    pub(crate) fn spawn<F: Future<Output = bool> + Send + 'static>(
        &mut self,
        task: impl FnOnce(CancellationToken) -> F,
    ) {
        self.flows.spawn(task(self.stop.clone()));
    }

    fn accept(&mut self, listeners: [TcpListener; 2]) {
        self.intake = self.stop.child_token();
        for listener in listeners {
            let (shared, intake, end) = (
                Arc::clone(&self.shared),
                self.intake.clone(),
                self.end.clone(),
            );
            let pulse = self.shared.pulse.task("TCP");
            self.flows.spawn(pulse.during(async move {
                let lookups = intake.clone();
                let handler = move |stream, source| {
                    let (end, shared) = (end.clone(), Arc::clone(&shared));
                    let flow = tcp::serve(shared, stream, source, lookups.clone());
                    async move {
                        // Where it is cut, the app sees a reset.
                        let _ = end.run_until_cancelled_owned(flow).await;
                    }
                };
                serve(listener, Limit::refuse(TCP_FLOWS), &intake, LONG, handler).await;
                intake.is_cancelled()
            }));
        }
    }

    /// Follows the machine, and answers clients.
    fn keep(&mut self, control: UnixListener) -> anyhow::Result<()> {
        self.serving = self.stop.child_token();
        self.keeping = self.stop.child_token();
        let state = State::open(&self.shared.config.state)?;
        let desk = Arc::new(Desk::new(Arc::clone(&self.shared), state));
        let stop = self.serving.clone();
        let pulse = self.shared.pulse.task("control socket");
        self.clients.spawn(pulse.during(async move {
            let clients = Limit::refuse(api::MOST);
            let answer = stop.clone();
            serve(control, clients, &stop, DRAIN, move |stream, _| {
                api::serve_connection(stream, Arc::clone(&desk), answer.clone())
            })
            .await;
            stop.is_cancelled()
        }));
        let closed = self.closed.clone();
        self.keeper(keeper::follow_states);
        self.keeper(watcher::follow_network);
        self.keeper(roam::follow_sleep);
        self.keeper(keeper::follow_files);
        self.keeper(keeper::follow_names);
        let pulse = self.shared.pulse.task("events");
        self.keeper(move |shared, stop| pulse.during(keeper::follow_events(shared, closed, stop)));
        Ok(())
    }

    fn keeper<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        follow: impl FnOnce(Arc<Shared>, CancellationToken) -> F,
    ) {
        let stop = self.keeping.clone();
        let following = follow(Arc::clone(&self.shared), stop.clone());
        self.keepers.spawn(async move {
            following.await;
            stop.is_cancelled()
        });
    }

    /// Waits for a new daemon that wants to take over. An error where a part of this one ends by
    /// itself.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Request> {
        loop {
            let ended = tokio::select! {
                Some(request) = self.requests.recv() => return Ok(request),
                Some(ended) = self.flows.join_next() => ended,
                Some(ended) = self.clients.join_next() => ended,
                Some(ended) = self.keepers.join_next() => ended,
                Some(ended) = self.always.join_next() => ended,
            };
            if !ended.context("a part of the daemon broke")? {
                bail!("a part of the daemon ended by itself");
            }
        }
    }

    /// Takes no more work, and ends what changes anything. Flows go on.
    pub(crate) async fn pause(&mut self) -> Paused {
        // Calls of clients are finished first, while flows go on.
        self.serving.cancel();
        while let Some(ended) = self.clients.join_next().await {
            note(ended);
        }
        self.intake.cancel();
        self.shared.asking.close();
        // What claims their apps is told by what happens in the keepers.
        if timeout(ASKING, self.shared.asking.wait()).await.is_err() {
            tracing::warn!("flows still wait to be recognised");
        }
        let mut paused = Paused::default();
        for orders in &self.orders {
            let (tell, told) = oneshot::channel();
            let sent = orders.send(Order::Pause(tell)).await;
            if let (Ok(()), Ok(of_desk)) = (sent, told.await) {
                paused.legs.extend(of_desk.legs);
                paused.undone.extend(of_desk.undone);
            }
        }
        self.keeping.cancel();
        while let Some(ended) = self.keepers.join_next().await {
            note(ended);
        }
        paused.flows = self.shared.flows.progress();
        paused
    }

    /// Goes on after a pause.
    pub(crate) async fn resume(&mut self, paused: Paused) -> anyhow::Result<()> {
        self.shared.asking.reopen();
        let failed = "cannot go on";
        let doors = self.doors.clone().context(failed)?;
        let sockets = &doors.sockets;
        self.shared.capture.regain(sockets).await.context(failed)?;
        crate::start::regain(&self.shared).await.context(failed)?;
        let [tcp_v4, tcp_v6, ..] = sockets;
        let listeners = [listener(tcp_v4)?, listener(tcp_v6)?];
        let control = doors.control.try_clone().context(failed)?;
        self.accept(listeners);
        self.keep(UnixListener::from_std(control.into())?)?;
        for undone in paused.undone() {
            let desk = &self.orders[usize::from(undone.target.is_ipv6())];
            let _ = desk.send(Order::Again(undone)).await;
        }
        for desk in &self.orders {
            let _ = desk.send(Order::Resume).await;
        }
        Ok(())
    }

    /// Lets the open flows end, at most until `limit`, `stop`, or the end of the new daemon; then
    /// cuts them.
    pub(crate) async fn drain(
        &mut self,
        mut link: Link,
        limit: Duration,
        stop: &CancellationToken,
    ) {
        // A listener that nobody accepts from would keep apps waiting when the new one dies.
        self.doors = None;
        self.beating.cancel();
        while let Some(ended) = self.always.join_next().await {
            note(ended);
        }
        self.keeping = self.stop.child_token();
        self.keeper(keeper::follow_states_alone);
        for desk in &self.orders {
            let _ = desk.send(Order::Drain).await;
        }
        let shared = Arc::clone(&self.shared);
        let ended = async {
            while let Some(ended) = self.flows.join_next().await {
                note(ended)
            }
        };
        tokio::select! {
            () = ended => tracing::info!("all flows have ended"),
            () = link.follow(&shared, &self.orders) => tracing::info!("the new daemon has ended"),
            () = stop.cancelled() => tracing::info!("stopping"),
            () = tokio::time::sleep(limit) => tracing::info!("flows had their time"),
        }
        self.end().await;
        // Their ends are told, and heard by whoever writes them down.
        link.finish(&shared).await;
    }

    /// Ends everything. Flows have a while to end by themselves.
    pub(crate) async fn end(&mut self) {
        self.stop.cancel();
        let ended = async {
            while let Some(ended) = self.flows.join_next().await {
                note(ended)
            }
        };
        if timeout(DRAIN, ended).await.is_err() {
            self.end.cancel();
        }
        let sets = [
            &mut self.flows,
            &mut self.clients,
            &mut self.keepers,
            &mut self.always,
        ];
        for tasks in sets {
            while let Some(ended) = tasks.join_next().await {
                note(ended);
            }
        }
    }
}

fn note(ended: Result<bool, tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(error = %error, "a part of the daemon broke");
    }
}

fn listener(descriptor: &OwnedFd) -> io::Result<TcpListener> {
    let copy: std::net::TcpListener = descriptor.try_clone()?.into();
    TcpListener::from_std(copy)
}

/// Listens at a path in the place of whoever did before.
pub(crate) fn listen_at(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    // One user who connects without end must not fill it before others.
    nix::sys::socket::listen(&listener, Backlog::MAXCONN)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}
