//! Captured datagrams: one flow for each app socket, one leg of it for each target.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use offramp_control::Way;
use offramp_dns::{Begun, Transport};
use offramp_intercept::{ClassId, Datagram, Identity, UdpIntake};
use offramp_rules::{Claims, Protocol, Verdict, is_in_force};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::active::Link;
use crate::flows::{Beginning, FlowGuard, executable};
use crate::lookup::AppLookup;
use crate::refusals::What;
use crate::shared::{Counts, Ends, Shared};
use crate::sniff::{self, Decided};
use crate::takeover::wire::{Forward, Undone};

const DNS_PORT: u16 = 53;
/// A leg without a datagram either way ends (RFC 4787 section 4.3 asks for two minutes at least).
const IDLE: Duration = Duration::from_secs(120);
/// Datagrams that wait for a leg that is being opened or is slow.
const QUEUE: usize = 128;
/// Datagrams after which it is looked whether all are taken; the kernel lets every user have more
/// waiting.
const ROUND: u32 = 16;
/// Datagrams that are taken before anything else is looked at.
const AT_ONCE: usize = 512;
/// How long a leg that was not opened swallows what its socket sends on.
const REFUSED: Duration = Duration::from_secs(1);
/// What a leg has taken is sent before it ends with its socket.
const FLUSH: Duration = Duration::from_millis(200);
/// How long look-ups may take that another daemon would have to make anew.
const FINISH: Duration = Duration::from_millis(250);

/// A socket of an app and one of its targets.
pub(crate) type Leg = (u64, SocketAddr);

/// A datagram with the address that the socket has by now: `connect` may give it another.
pub(crate) type Sent = (SocketAddr, Bytes);

/// What a desk is told.
pub(crate) enum Order {
    /// Take no more datagrams, and say what there is.
    Pause(oneshot::Sender<Paused>),
    /// Take datagrams again.
    Resume,
    /// The intake is another daemon's: go on with the legs that there are, and end with them.
    Drain,
    /// A datagram that the other daemon has taken for a leg of here.
    Forwarded(Forward),
    /// A datagram that another desk has taken and not dealt with.
    Again(Undone),
    /// The socket of an app is gone.
    Closed(u64),
}

/// What a desk has, and all desks together.
#[derive(Default)]
pub(crate) struct Paused {
    pub(crate) legs: Vec<Leg>,
    pub(crate) undone: Vec<(SocketAddr, SocketAddr, Bytes)>,
    /// The flows of the daemon, with their bytes.
    pub(crate) flows: HashMap<u64, (u64, u64)>,
}

impl Paused {
    pub(crate) fn undone(&self) -> Vec<Undone> {
        let undone = self.undone.iter();
        let undone = undone.map(|(source, target, payload)| Undone {
            source: *source,
            target: *target,
            payload: payload.to_vec(),
        });
        undone.collect()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    Paused,
    Draining,
}

/// Takes the datagrams of one address family until `stop`. Returns whether it was told to end.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    intake: Arc<UdpIntake>,
    mut closed: tokio::sync::broadcast::Receiver<u64>,
    mut orders: mpsc::Receiver<Order>,
    stop: CancellationToken,
) -> bool {
    let mut desk = Desk {
        shared,
        legs: HashMap::new(),
        guards: HashMap::new(),
        tasks: JoinSet::new(),
        lookups: JoinSet::new(),
        waiting: JoinSet::new(),
        undone: HashMap::new(),
        taken: 0,
    };
    let mut intake = Some(intake);
    let mut buffer = vec![0; 65_535];
    let mut mode = Mode::Open;
    while mode != Mode::Draining || !desk.tasks.is_empty() {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = desk.tasks.join_next() => if let Ok(leg) = ended { desk.end(leg) },
            Some(looked_up) = desk.lookups.join_next_with_id() => desk.done(looked_up),
            Some(known) = desk.waiting.join_next_with_id() => desk.known(known),
            Ok(cookie) = closed.recv() => desk.close(cookie),
            Some(order) = orders.recv() => {
                desk.obey(order, &mut mode).await;
                if mode == Mode::Draining {
                    intake = None;
                }
            }
            received = receive(&intake, &mut buffer), if mode == Mode::Open => match received {
                Ok(first) => desk.take_all(first, intake.as_deref(), &mut buffer),
                Err(error) => tracing::debug!(error = %error, "datagram not received"),
            },
        }
    }
    true
}

async fn receive(intake: &Option<Arc<UdpIntake>>, buffer: &mut [u8]) -> io::Result<Datagram> {
    match intake {
        Some(intake) => intake.receive(buffer).await,
        None => std::future::pending().await,
    }
}

/// A datagram with what claims its app; none: that is not known.
type Known = Option<(Arrival, Arc<Claims>)>;

/// A datagram with its sender.
struct Arrival {
    source: SocketAddr,
    target: SocketAddr,
    payload: Bytes,
    identity: Identity,
}

impl Arrival {
    fn leg(&self) -> Leg {
        (self.identity.cookie, self.target)
    }

    fn forward(self) -> Forward {
        Forward {
            cookie: self.identity.cookie,
            source: self.source,
            target: self.target,
            payload: self.payload,
        }
    }
}

struct Desk {
    shared: Arc<Shared>,
    legs: HashMap<Leg, mpsc::Sender<Sent>>,
    /// The flow of each socket, for as long as it has a leg.
    guards: HashMap<u64, std::sync::Weak<FlowGuard>>,
    tasks: JoinSet<Leg>,
    lookups: JoinSet<()>,
    waiting: JoinSet<Known>,
    /// What look-ups and waiting datagrams began with.
    undone: HashMap<task::Id, (SocketAddr, SocketAddr, Bytes)>,
    /// Datagrams since the kernel was told that all are taken.
    taken: u32,
}

impl Desk {
    async fn obey(&mut self, order: Order, mode: &mut Mode) {
        match order {
            Order::Pause(tell) => {
                *mode = Mode::Paused;
                // Who asked first is gone where nobody waits.
                let _ = tell.send(self.pause().await);
            }
            Order::Resume => *mode = Mode::Open,
            Order::Drain => *mode = Mode::Draining,
            Order::Forwarded(datagram) => self.forwarded(datagram),
            Order::Again(Undone {
                source,
                target,
                payload,
            }) => self.take(source, target, payload.into()),
            Order::Closed(cookie) => self.close(cookie),
        }
    }

    /// Look-ups that are fast are finished; who takes over makes the others anew.
    async fn pause(&mut self) -> Paused {
        let deadline = Instant::now() + FINISH;
        while let Ok(Some(done)) = timeout_at(deadline, self.lookups.join_next_with_id()).await {
            self.done(done);
        }
        self.lookups.abort_all();
        while let Some(done) = self.lookups.join_next_with_id().await {
            self.done(done);
        }
        self.waiting.abort_all();
        while let Some(known) = self.waiting.join_next_with_id().await {
            self.known(known);
        }
        Paused {
            legs: self.legs.keys().copied().collect(),
            undone: self.undone.drain().map(|(_, undone)| undone).collect(),
            flows: HashMap::new(),
        }
    }

    fn forwarded(&mut self, datagram: Forward) {
        let leg = (datagram.cookie, datagram.target);
        let open = self.legs.get(&leg).filter(|sender| !sender.is_closed());
        match (open, self.shared.flows.successor()) {
            (Some(sender), _) => {
                let sent = (datagram.source, datagram.payload);
                if sender.try_send(sent).is_err() {
                    Counts::add(&self.shared.counts.dropped_datagrams);
                }
            }
            (None, Some(successor)) => successor.back(datagram),
            (None, None) => {}
        }
    }

    fn done(&mut self, done: Result<(task::Id, ()), JoinError>) {
        match done {
            Ok((id, ())) => drop(self.undone.remove(&id)),
            // It was interrupted, and is still to be done.
            Err(error) if error.is_cancelled() => {}
            Err(error) => drop(self.undone.remove(&error.id())),
        }
    }

    fn known(&mut self, known: Result<(task::Id, Known), JoinError>) {
        match known {
            Ok((id, known)) => {
                self.undone.remove(&id);
                match known {
                    Some((arrival, claims)) => self.pass(arrival, claims),
                    None => Counts::add(&self.shared.counts.unidentified),
                }
            }
            Err(error) if error.is_cancelled() => {}
            Err(error) => drop(self.undone.remove(&error.id())),
        }
    }

    /// Takes what has arrived by now. All of it is taken before any of it is dealt with, so that the
    /// kernel lets users send more meanwhile.
    fn take_all(&mut self, first: Datagram, intake: Option<&UdpIntake>, buffer: &mut [u8]) {
        let (mut next, mut all) = (first, Vec::new());
        while let Some(intake) = intake {
            let payload = Bytes::copy_from_slice(&buffer[..next.length]);
            all.push((next.source, next.target, payload));
            self.taken += 1;
            match intake.receive_now(buffer) {
                Ok(more) if all.len() < AT_ONCE => next = more,
                Ok(more) => {
                    let payload = Bytes::copy_from_slice(&buffer[..more.length]);
                    all.push((more.source, more.target, payload));
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.taken >= ROUND {
                        self.shared.capture.took_all(first.target.is_ipv6());
                        self.taken = 0;
                    }
                    break;
                }
                Err(error) => {
                    tracing::debug!(error = %error, "datagram not received");
                    break;
                }
            }
        }
        for (source, target, payload) in all {
            self.take(source, target, payload);
        }
    }

    fn take(&mut self, source: SocketAddr, target: SocketAddr, payload: Bytes) {
        let Some(identity) = self.shared.capture.identify_udp(source, target) else {
            if self.shared.capture.is_probe(target) {
                // Where it is not delivered, doctor says so.
                return drop(self.shared.replies.send(&payload, target, source));
            }
            return Counts::add(&self.shared.counts.unidentified);
        };
        let arrival = Arrival {
            source,
            target,
            payload,
            identity,
        };
        if target.port() != DNS_PORT && self.shared.before.has(arrival.leg()) {
            if !self.shared.before.pass_on(arrival.forward()) {
                Counts::add(&self.shared.counts.dropped_datagrams);
            }
            return;
        }
        let claims = match identity.class {
            ClassId::UNDECIDED => self.shared.verdicts.get(identity.exec).flatten(),
            class => match self.shared.class(class) {
                Some(claims) => Some(claims),
                None => return,
            },
        };
        match claims.filter(|claims| self.is_current(&arrival, claims)) {
            Some(claims) => self.pass(arrival, claims),
            None => self.wait(arrival),
        }
    }

    /// Whether what claimed the app does so still; where its rule has gone, the app is recognised
    /// anew before anything begins.
    fn is_current(&self, arrival: &Arrival, claims: &Claims) -> bool {
        self.legs.contains_key(&arrival.leg()) || is_in_force(&self.shared.policy().rules, claims)
    }

    /// Keeps a datagram until it is known which app sent it.
    fn wait(&mut self, arrival: Arrival) {
        let Ok(share) = self.shared.waiting.take(arrival.identity.uid) else {
            return Counts::add(&self.shared.counts.dropped_datagrams);
        };
        let shared = Arc::clone(&self.shared);
        let undone = (arrival.source, arrival.target, arrival.payload.clone());
        let asked = self.waiting.spawn(async move {
            let _share = share;
            let claims = match arrival.target.port() {
                DNS_PORT => shared.claims_of_asker(&arrival.identity).await,
                _ => shared.claims_of(&arrival.identity).await,
            };
            claims.map(|claims| (arrival, claims))
        });
        self.undone.insert(asked.id(), undone);
    }

    fn pass(&mut self, arrival: Arrival, claims: Arc<Claims>) {
        if arrival.target.port() == DNS_PORT {
            return self.look_up(arrival, claims);
        }
        let Arrival {
            source,
            target,
            payload,
            identity,
        } = arrival;
        let leg = (identity.cookie, target);
        if self.legs.get(&leg).is_none_or(mpsc::Sender::is_closed) {
            self.begin(leg, source, identity, claims);
        }
        if self
            .legs
            .get(&leg)
            .is_some_and(|sender| sender.try_send((source, payload)).is_err())
        {
            Counts::add(&self.shared.counts.dropped_datagrams);
        }
    }

    fn look_up(&mut self, arrival: Arrival, claims: Arc<Claims>) {
        let Arrival {
            source,
            target,
            payload: query,
            identity,
        } = arrival;
        let shared = &self.shared;
        let ends = ends(source, target);
        let (Some(asked), Some(lookup)) = (
            shared.capture.asked(target.ip()),
            AppLookup::new(shared, identity, ends, claims),
        ) else {
            return;
        };
        let responder = lookup.responder();
        let question = match responder.begin(query.clone(), Transport::Udp, &lookup) {
            Begun::Done(answer) => {
                return answer
                    .into_iter()
                    .for_each(|answer| shared.reply(&answer, target, source));
            }
            Begun::Waits(question) => question,
        };
        let Some(share) = shared.share(What::Lookups, &identity, lookup.ends()) else {
            return Counts::add(&shared.counts.dropped_datagrams);
        };
        let undone = (source, target, query);
        let shared = Arc::clone(shared);
        let waiting = self.lookups.spawn(async move {
            let _share = share;
            let asked = SocketAddr::new(asked, target.port());
            let answer = responder.finish(question, asked, Transport::Udp, &lookup);
            shared.reply(&answer.await, target, source);
        });
        self.undone.insert(waiting.id(), undone);
    }

    fn begin(&mut self, leg: Leg, source: SocketAddr, identity: Identity, claims: Arc<Claims>) {
        let shared = Arc::clone(&self.shared);
        let Some(wanted) = shared.wanted(&identity, &claims, leg.1) else {
            return;
        };
        let Some(share) = shared.share(What::Legs, &identity, &ends(source, leg.1)) else {
            return Counts::add(&shared.counts.dropped_datagrams);
        };
        let (sender, datagrams) = mpsc::channel(QUEUE);
        self.legs.insert(leg, sender);
        let guard = self
            .guards
            .get(&leg.0)
            .and_then(std::sync::Weak::upgrade)
            .unwrap_or_else(|| {
                Arc::new(shared.flows.begin(Beginning {
                    identity,
                    executable: executable(identity.pid),
                    profile: Shared::first_profile(&claims),
                    claims: Arc::clone(&claims),
                    protocol: Protocol::Udp,
                    source,
                    target: wanted.target.clone(),
                    told: None,
                }))
            });
        self.guards.insert(leg.0, Arc::downgrade(&guard));
        self.tasks.spawn(async move {
            let _share = share;
            let capture = Arc::clone(&shared);
            let conversation = Conversation {
                shared,
                guard,
                source,
                target: leg.1,
                datagrams,
                seen: VecDeque::new(),
            };
            Box::pin(conversation.hold(claims, wanted)).await;
            match capture.flows.successor() {
                Some(successor) => successor.free(leg),
                None => capture.capture.forget_udp(source, leg.1),
            }
            leg
        });
    }

    /// A leg has ended by itself.
    fn end(&mut self, leg: Leg) {
        // A datagram may have begun it anew in the meantime.
        if self.legs.get(&leg).is_some_and(mpsc::Sender::is_closed) {
            self.legs.remove(&leg);
        }
        if self
            .guards
            .get(&leg.0)
            .is_some_and(|guard| guard.strong_count() == 0)
        {
            self.guards.remove(&leg.0);
        }
    }

    /// The app's socket is gone: its legs end as their queues do.
    fn close(&mut self, cookie: u64) {
        self.guards.remove(&cookie);
        self.legs.retain(|leg, _| leg.0 != cookie);
    }
}

struct Conversation {
    shared: Arc<Shared>,
    guard: Arc<FlowGuard>,
    source: SocketAddr,
    target: SocketAddr,
    datagrams: mpsc::Receiver<Sent>,
    /// Datagrams that were looked at before the way was open.
    seen: VecDeque<Sent>,
}

impl Conversation {
    async fn hold(mut self, claims: Arc<Claims>, wanted: crate::shared::Wanted) {
        let told = match self.shared.needs_name(&claims, &wanted) {
            true => sniff::udp(&mut self.datagrams, &mut self.seen).await,
            false => None,
        };
        let decided = self.shared.decide_told(&claims, &wanted, told.as_ref());
        let decided = decided.await;
        let told = wanted.shown(told, &decided);
        let Decided { decision, name } = decided;
        told.into_iter().for_each(|told| self.guard.told(told));
        let profile = Shared::profile_of(&decision.verdict, &claims);
        let link = self.shared.link(&profile);
        // Before the flow opens: what is cut meanwhile is not to run on.
        let leg = self
            .guard
            .leg(&wanted.target, name, &decision.verdict, link.as_deref());
        let cut = &leg.cut;
        match (&decision.verdict, link) {
            (Verdict::Relay(_), Some(link)) => self.relay(&link, &wanted.target, cut).await,
            (Verdict::Relay(_), None) => {}
            (Verdict::Direct(_), _) => self.direct(&wanted.target, cut).await,
            (Verdict::Refuse(why), _) => self.guard.failed(self.shared.explain(why)),
        }
        if !self.guard.was_opened() {
            // What the app sends meanwhile is part of this refusal, not of a new one each.
            let refused = async { while self.datagrams.recv().await.is_some() {} };
            let _ = timeout(REFUSED, refused).await;
        }
    }

    async fn relay(
        &mut self,
        link: &Link,
        target: &offramp_rules::Target,
        cut: &CancellationToken,
    ) {
        let opened = match link.upstream() {
            Ok(upstream) => upstream.open_udp(target).await,
            Err(reason) => return self.guard.failed(reason),
        };
        let mut tunnel = match opened {
            Ok(tunnel) => tunnel,
            Err(error) => return self.guard.failed(crate::chain(&error)),
        };
        self.guard.opened(Way::Relay, Some(tunnel.server()));
        let mut quiet_until = Instant::now() + IDLE;
        loop {
            tokio::select! {
                () = cut.cancelled() => return self.guard.failed("stopped"),
                sent = self.next() => match sent {
                    Some(sent) => tunnel.try_send(&self.take(sent)),
                    None => {
                        let flushed = async { while tunnel.recv().await.is_some() {} };
                        let _ = timeout(FLUSH, flushed).await;
                        return;
                    }
                },
                received = tunnel.recv() => match received {
                    Some(payload) => self.deliver(&payload),
                    None => return self.guard.failed("the upstream ended the conversation"),
                },
                () = sleep_until(quiet_until) => return,
            }
            quiet_until = Instant::now() + IDLE;
        }
    }

    async fn direct(&mut self, target: &offramp_rules::Target, cut: &CancellationToken) {
        let Ok(socket) = direct_socket(target).await else {
            return self.guard.failed("the target cannot be reached directly");
        };
        self.guard.opened(Way::Direct, None);
        let mut buffer = vec![0; 65_535];
        let mut quiet_until = Instant::now() + IDLE;
        loop {
            tokio::select! {
                () = cut.cancelled() => return self.guard.failed("stopped"),
                sent = self.next() => match sent {
                    Some(sent) => {
                        let _ = socket.send(&self.take(sent)).await;
                    }
                    None => return,
                },
                received = socket.recv(&mut buffer) => if let Ok(length) = received {
                    self.deliver(&buffer[..length]);
                },
                () = sleep_until(quiet_until) => return,
            }
            quiet_until = Instant::now() + IDLE;
        }
    }

    async fn next(&mut self) -> Option<Sent> {
        match self.seen.pop_front() {
            Some(seen) => Some(seen),
            None => self.datagrams.recv().await,
        }
    }

    fn take(&mut self, (source, payload): Sent) -> Bytes {
        self.source = source;
        let sent = &self.guard.counters().sent;
        sent.fetch_add(payload.len() as u64, std::sync::atomic::Ordering::Relaxed);
        payload
    }

    fn deliver(&self, payload: &[u8]) {
        let received = &self.guard.counters().received;
        received.fetch_add(payload.len() as u64, std::sync::atomic::Ordering::Relaxed);
        // An error may tell of an earlier datagram, of whichever app: the end of the socket is told
        // by the kernel programs.
        if let Err(error) = self.shared.replies.send(payload, self.target, self.source) {
            tracing::debug!(error = %error, "datagram not delivered");
        }
    }
}

fn ends(source: SocketAddr, target: SocketAddr) -> Ends {
    Ends {
        protocol: offramp_control::Protocol::Udp,
        source,
        target,
    }
}

async fn direct_socket(target: &offramp_rules::Target) -> io::Result<tokio::net::UdpSocket> {
    let host = match &target.host {
        offramp_rules::Host::Name(name) => name.to_string(),
        offramp_rules::Host::Address(address) => address.to_string(),
    };
    let address = tokio::net::lookup_host((host.as_str(), target.port))
        .await?
        .next()
        .ok_or(io::ErrorKind::NotFound)?;
    let any: SocketAddr = if address.is_ipv4() {
        (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = tokio::net::UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    Ok(socket)
}
