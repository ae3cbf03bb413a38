//! The side of the daemon that runs: it hands over, and relays what it has until that has ended.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use offramp_rules::{Profiles, State as ProfileState};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::wire::{self, DESCRIPTORS, FORMAT, Forward, Message, State, Way};
use super::{READY, TAKE, WORD};
use crate::api::Peer;
use crate::classes::KeptClaims;
use crate::flows::Record;
use crate::shared::Shared;
use crate::udp::{Order, Paused};
use crate::work::{Doors, Work};

/// Words for the new daemon that wait to be written: more than there are flows.
const WORDS: usize = 1 << 18;
const PROGRESS: Duration = Duration::from_secs(1);

/// A new daemon that is ready to take over.
pub(crate) struct Request {
    stream: UnixStream,
    peer: Peer,
    drain: Duration,
}

/// Waits for new daemons until `stop`.
pub(crate) async fn listen(
    shared: Arc<Shared>,
    listener: UnixListener,
    doors: Arc<Doors>,
    requests: mpsc::Sender<Request>,
    stop: CancellationToken,
) -> bool {
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let Ok((stream, _)) = accepted else {
            // Descriptors may be scarce; the next one may have more luck.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let met = stop.run_until_cancelled(meet(&shared, &doors, stream));
        match met.await {
            Some(Ok(request)) => drop(requests.send(request).await),
            Some(Err(error)) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "a new daemon does not take over"
                );
            }
            None => break,
        }
    }
    true
}

/// Everything that is said while this daemon goes on as ever.
async fn meet(shared: &Shared, doors: &Doors, mut stream: UnixStream) -> anyhow::Result<Request> {
    let peer = Peer::of(&stream).context("it is gone")?;
    if !peer.is_root() {
        bail!("it is not root's");
    }
    let Message::Hello { format, drain } = word(&mut stream, WORD).await? else {
        bail!("it does not begin with its name");
    };
    if let Some(why) = objection(shared, format) {
        let refused = Message::Refused { why: why.clone() };
        wire::say(&mut stream, &refused).await?;
        bail!(why);
    }
    tracing::info!(pid = peer.pid, "a new daemon gets ready to take over");
    let connected = connected(shared);
    let passed = doors.pass(shared)?;
    let told = async {
        wire::say(&mut stream, &Message::Offer { connected }).await?;
        wire::pass(&stream, &passed).await
    };
    timeout(WORD, told).await??;
    let Message::Take = word(&mut stream, READY).await? else {
        bail!("it says something else than that it is ready");
    };
    let drain = Duration::from_secs(drain);
    Ok(Request {
        stream,
        peer,
        drain,
    })
}

fn objection(shared: &Shared, format: u32) -> Option<String> {
    if format != FORMAT {
        return Some(format!(
            "the running daemon hands over in format {FORMAT}, the new one takes format {format}"
        ));
    }
    let (pid, flows) = shared.before.first()?;
    Some(format!(
        "the daemon before the running one (process {pid}) still relays {flows} flows: \
         wait for their end, or end it with `kill {pid}`"
    ))
}

fn connected(shared: &Shared) -> Vec<String> {
    let off = shared.off();
    let policy = shared.policy();
    let active = policy.active.iter();
    let connected = active.filter(|(id, active)| {
        !off.contains(id) && matches!(active.state(), ProfileState::Connected)
    });
    connected.map(|(id, _)| id.to_string()).collect()
}

/// The next word of the other daemon.
pub(super) async fn word(stream: &mut UnixStream, patience: Duration) -> anyhow::Result<Message> {
    match timeout(patience, wire::hear(stream)).await {
        Ok(Ok(Some(message))) => Ok(message),
        Ok(Ok(None)) => bail!("the other daemon has ended the conversation"),
        Ok(Err(error)) => {
            Err(anyhow::Error::new(error).context("cannot understand the other daemon"))
        }
        Err(_) => bail!("the other daemon says nothing for {} s", patience.as_secs()),
    }
}

/// Hands everything over, and relays the open flows until they have ended. Returns whether it came
/// to that; otherwise the daemon goes on as before.
pub(crate) async fn hand_over(
    work: &mut Work,
    request: Request,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    let shared = Arc::clone(&work.shared);
    let Request {
        mut stream,
        peer,
        drain,
    } = request;
    let paused = work.pause().await;
    // Held to the end: nobody here changes anything any more.
    let reloading = shared.reloading.lock().await;
    let changing = shared.changing.lock().await;
    let given = give(&shared, &paused, &mut stream).await;
    if let Err(error) = given {
        drop((changing, reloading));
        tracing::warn!(error = format!("{error:#}"), "takeover failed: going on");
        drop(stream);
        end(&peer).await;
        work.resume(paused).await?;
        return Ok(false);
    }
    shared.capture.leave();
    tracing::info!(
        pid = peer.pid,
        flows = shared.flows.count(),
        drain_s = drain.as_secs(),
        "handed over: open flows go on here until they end"
    );
    let link = Link::begin(&shared, stream, &paused);
    work.drain(link, drain, stop).await;
    Ok(true)
}

async fn give(shared: &Shared, paused: &Paused, stream: &mut UnixStream) -> anyhow::Result<()> {
    let state = Message::State(Box::new(state(shared, paused).await));
    timeout(TAKE, wire::say(stream, &state))
        .await
        .context("it does not listen")??;
    let Message::Have = word(stream, TAKE).await? else {
        bail!("it says something else than that it has everything");
    };
    timeout(WORD, wire::say(stream, &Message::Yours)).await??;
    Ok(())
}

async fn state(shared: &Shared, paused: &Paused) -> State {
    crate::state::State::open(&shared.config.state)
        .inspect_err(|error| tracing::warn!(error = %error, "names not saved"))
        .map(|state| {
            state.save_new_names(&shared.policy());
            state.save_told(&shared.told);
        })
        .ok();
    let (flows, last_flow) = shared.flows.hand();
    let kept = |claims: Arc<offramp_rules::Claims>| KeptClaims::of(&claims);
    let verdicts = shared.verdicts.all().into_iter();
    State {
        flows,
        last_flow,
        legs: paused.legs.clone(),
        undone: paused.undone(),
        verdicts: verdicts
            .map(|(exec, verdict)| (exec, verdict.map(kept)))
            .collect(),
        rules: mark_of(&shared.policy().rules),
        last_run: shared.last_run(),
    }
}

/// The same for the same rules; another number for the same rules of another version costs no more
/// than some look-ups.
pub(super) fn mark_of(rules: &Profiles) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{rules:?}").hash(&mut hasher);
    hasher.finish()
}

/// Ends the new daemon, which may be at work on the same things.
async fn end(peer: &Peer) {
    if let Err(error) = kill(&peer.pidfd) {
        tracing::debug!(pid = peer.pid, error = %error, "the new daemon is gone already");
    }
    if timeout(WORD, ended(&peer.pidfd)).await.is_err() {
        tracing::error!(pid = peer.pid, "the new daemon does not end");
    }
}

/// Waits until a process has ended.
#[expect(unsafe_code, reason = "registers a descriptor")]
pub(super) async fn ended(process: &OwnedFd) {
    let Ok(process) = process.try_clone() else {
        return std::future::pending().await;
    };
    // SAFETY: an OwnedFd stays the same open descriptor for as long as it lives.
    let watched = unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) };
    match watched {
        Ok(watched) => drop(watched.readable().await),
        Err(_) => std::future::pending().await,
    }
}

#[expect(
    unsafe_code,
    reason = "no safe wrapper of pidfd_send_signal in the tree"
)]
fn kill(process: &OwnedFd) -> io::Result<()> {
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: without siginfo the call takes integers alone.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            libc::SIGKILL,
            nothing,
            0,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Doors {
    fn pass(&self, shared: &Shared) -> anyhow::Result<[OwnedFd; DESCRIPTORS]> {
        let failed = "cannot pass descriptors";
        let copy = |door: &OwnedFd| door.try_clone().context(failed);
        let [tcp_v4, tcp_v6, udp_v4, udp_v6] = &self.sockets;
        Ok([
            copy(tcp_v4)?,
            copy(tcp_v6)?,
            copy(udp_v4)?,
            copy(udp_v6)?,
            copy(&self.control)?,
            shared.capture.pass_lock().context(failed)?,
        ])
    }
}

/// Tells the new daemon what becomes of the flows.
pub(crate) struct Successor {
    words: mpsc::Sender<Message>,
}

impl Successor {
    pub(crate) fn has_way(&self, flow: u64, way: Way) {
        self.tell(Message::Way { flow, way });
    }

    pub(crate) fn ended(&self, record: &Record) {
        self.tell(Message::Ended {
            flow: record.id(),
            sent: record.counters.sent(),
            received: record.counters.received(),
            error: record.error(),
        });
    }

    /// Datagrams of this leg are the new daemon's.
    pub(crate) fn free(&self, (cookie, target): (u64, SocketAddr)) {
        self.tell(Message::Free { cookie, target });
    }

    /// There is no leg for this datagram here.
    pub(crate) fn back(&self, datagram: Forward) {
        self.tell(Message::Datagram(datagram));
    }

    fn tell(&self, message: Message) {
        // The queue has room for the ends of all flows; more than that is lost with a daemon that
        // does not listen.
        let _ = self.words.try_send(message);
    }
}

/// The conversation with the new daemon while flows drain.
pub(crate) struct Link {
    heard: mpsc::Receiver<Message>,
    writer: JoinSet<()>,
    _tasks: JoinSet<()>,
}

impl Link {
    fn begin(shared: &Arc<Shared>, stream: UnixStream, paused: &Paused) -> Self {
        let (mut reading, mut writing) = stream.into_split();
        let (words, mut waiting) = mpsc::channel(WORDS);
        let (hears, heard) = mpsc::channel(1024);
        let (mut writer, mut tasks) = (JoinSet::new(), JoinSet::new());
        writer.spawn(async move {
            while let Some(message) = waiting.recv().await {
                let said = wire::say(&mut writing, &message).await;
                if said.is_err() || matches!(message, Message::End) {
                    return;
                }
            }
        });
        tasks.spawn(async move {
            while let Ok(Some(message)) = wire::hear(&mut reading).await {
                if hears.send(message).await.is_err() {
                    return;
                }
            }
        });
        let successor = Successor { words };
        shared.flows.set_successor(successor);
        tasks.spawn(report(Arc::clone(shared), paused.flows.clone()));
        Self {
            heard,
            writer,
            _tasks: tasks,
        }
    }

    /// Says the last word, behind all others.
    pub(crate) async fn finish(mut self, shared: &Shared) {
        if let Some(successor) = shared.flows.successor() {
            successor.tell(Message::End);
        }
        let _ = timeout(WORD, self.writer.join_next()).await;
    }

    /// What is to be done until the new daemon wants an end, or is gone.
    pub(crate) async fn follow(&mut self, shared: &Shared, orders: &[mpsc::Sender<Order>; 2]) {
        while let Some(message) = self.heard.recv().await {
            match message {
                Message::Cut { flow, target } => {
                    let target = target.and_then(|target| target.read());
                    shared.flows.cut(flow, target.as_ref());
                }
                Message::Closed { cookie } => {
                    for desk in orders {
                        let _ = desk.try_send(Order::Closed(cookie));
                    }
                }
                Message::Datagram(datagram) => {
                    let desk = &orders[usize::from(datagram.target.is_ipv6())];
                    // As on any network, what finds the queue full is lost.
                    let _ = desk.try_send(Order::Forwarded(datagram));
                }
                Message::End => return,
                _ => {}
            }
        }
    }
}

/// Tells which of the flows that were handed over are gone, and what the others carry.
async fn report(shared: Arc<Shared>, mut known: HashMap<u64, (u64, u64)>) {
    let mut tick = interval(PROGRESS);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(successor) = shared.flows.successor() else {
            return;
        };
        let now = shared.flows.progress();
        for (flow, (sent, received)) in &known {
            if !now.contains_key(flow) {
                // Those that ended between the list and the handing over were told to nobody.
                successor.tell(Message::Ended {
                    flow: *flow,
                    sent: *sent,
                    received: *received,
                    error: None,
                });
            }
        }
        let moved = now
            .iter()
            .filter(|(flow, bytes)| known.get(flow) != Some(bytes));
        let moved: Vec<_> = moved
            .map(|(flow, (sent, got))| (*flow, *sent, *got))
            .collect();
        if !moved.is_empty() {
            successor.tell(Message::Progress(moved));
        }
        known = now;
    }
}
