//! The daemon before this one, as long as it relays flows: they are shown and cut here, and what
//! arrives for them here is passed on.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use offramp_dns::Held;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::give::mark_of;
use super::wire::{self, Forward, Message, State, Undone, Way, WireTarget};
use crate::DRAIN;
use crate::flows::{FlowGuard, Leg};
use crate::shared::{Counts, Shared};
use crate::udp::{self, Order};
use crate::work::Work;

/// Words and datagrams that wait to be written.
const WORDS: usize = 4096;

/// The daemon that relays flows from before, if there is one.
#[derive(Default)]
pub(crate) struct Before {
    /// Whether there is one: most never have.
    any: AtomicBool,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    pid: u32,
    words: Option<mpsc::Sender<Message>>,
    /// UDP sockets, and those with their targets, whose datagrams are its.
    cookies: HashMap<u64, usize>,
    legs: HashSet<udp::Leg>,
    flows: HashMap<u64, Flow>,
}

/// A flow of that daemon.
struct Flow {
    guard: FlowGuard,
    ways: Vec<Open>,
}

/// One of its ways.
struct Open {
    _leg: Leg,
    /// The name's address is not to become another's.
    _held: Option<Held>,
    watch: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Before {
    /// The process and how many flows it has; none where there is none.
    pub(crate) fn first(&self) -> Option<(u32, usize)> {
        let known = self.any().then(|| self.lock())?;
        Some((known.pid, known.flows.len()))
    }

    /// Whether datagrams of this socket to this target are for that daemon.
    pub(crate) fn has(&self, leg: udp::Leg) -> bool {
        self.any() && self.lock().legs.contains(&leg)
    }

    /// Gives a datagram to that daemon. Returns whether it fitted into the queue.
    pub(crate) fn pass_on(&self, datagram: Forward) -> bool {
        self.tell(Message::Datagram(datagram))
    }

    /// A UDP socket of an app is gone.
    pub(crate) fn close(&self, cookie: u64) {
        if self.any() && self.lock().cookies.contains_key(&cookie) {
            self.tell(Message::Closed { cookie });
        }
    }

    fn tell(&self, message: Message) -> bool {
        let words = self.lock().words.clone();
        words.is_some_and(|words| words.try_send(message).is_ok())
    }

    fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known
            .lock()
            .expect("nothing panics while it holds the daemon before")
    }
}

/// Shows the flows of the daemon before, and passes on what arrives for them. To be called before
/// anything arrives.
pub(crate) fn begin(shared: &Arc<Shared>, pid: u32, state: &State) -> Conversation {
    let (words, waiting) = mpsc::channel(WORDS);
    let mut known = Known {
        pid,
        words: Some(words.clone()),
        ..Known::default()
    };
    for leg in &state.legs {
        *known.cookies.entry(leg.0).or_default() += 1;
        known.legs.insert(*leg);
    }
    let mut conversation = Conversation {
        shared: Arc::clone(shared),
        words,
        waiting: Some(waiting),
        watches: JoinSet::new(),
        orders: Vec::new(),
    };
    for flow in &state.flows {
        let Some(guard) = shared.flows.adopt(flow) else {
            continue;
        };
        let ways = flow.ways.iter();
        let ways = ways.filter_map(|way| conversation.open(flow.id, &guard, way));
        let ways = ways.collect();
        known.flows.insert(flow.id, Flow { guard, ways });
    }
    *shared.before.lock() = known;
    shared.before.any.store(true, Ordering::Relaxed);
    conversation
}

/// The conversation with the daemon before.
pub(crate) struct Conversation {
    shared: Arc<Shared>,
    words: mpsc::Sender<Message>,
    /// None: they are being written.
    waiting: Option<mpsc::Receiver<Message>>,
    watches: JoinSet<()>,
    /// Of the desks, IPv4 first.
    orders: Vec<mpsc::Sender<Order>>,
}

impl Conversation {
    /// Goes on as part of the work, and with what the other one has taken and not dealt with.
    pub(crate) async fn go_on(mut self, work: &mut Work, stream: UnixStream, state: State) {
        let shared = Arc::clone(&self.shared);
        self.orders = work.orders().into();
        for undone in state.undone {
            let desk = &self.orders[usize::from(undone.target.is_ipv6())];
            let _ = desk.send(Order::Again(undone)).await;
        }
        work.spawn(move |stop| self.hold(stream, stop));
        // Other rules may be in force here than there.
        let policy = shared.policy();
        if state.rules != mark_of(&policy.rules) {
            let _changing = shared.changing.lock().await;
            shared.recognise_running(&policy.rules).await;
        }
    }

    /// Shows a way of a flow, and has it cut there when it is cut here.
    fn open(&mut self, flow: u64, guard: &FlowGuard, way: &Way) -> Option<Open> {
        let (target, name, verdict) = way.read()?;
        let link = match &verdict {
            offramp_rules::Verdict::Relay(profile) => self.shared.link(profile),
            _ => None,
        };
        let leg = guard.leg(&target, name, &verdict, link.as_deref());
        let held = guard.hold_name(&self.shared.policy(), &target);
        let (cut, words) = (leg.cut.clone(), self.words.clone());
        let target = Some(WireTarget::of(&target));
        let watch = self.watches.spawn(async move {
            cut.cancelled().await;
            let _ = words.send(Message::Cut { flow, target }).await;
        });
        Some(Open {
            _leg: leg,
            _held: held,
            watch,
        })
    }

    /// Hears the daemon before until it has ended; after `stop` it is asked to.
    async fn hold(mut self, stream: UnixStream, stop: CancellationToken) -> bool {
        let (mut reading, mut writing) = stream.into_split();
        let (hears, mut heard) = mpsc::channel(WORDS);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok(Some(message)) = wire::hear(&mut reading).await {
                if hears.send(message).await.is_err() {
                    return;
                }
            }
        });
        let waiting = self.waiting.take();
        tasks.spawn(async move {
            let Some(mut waiting) = waiting else { return };
            while let Some(message) = waiting.recv().await {
                if wire::say(&mut writing, &message).await.is_err() {
                    return;
                }
            }
        });
        let ended = stop.run_until_cancelled(self.listen(&mut heard)).await;
        if ended.is_none() {
            let _ = self.words.send(Message::End).await;
            if timeout(DRAIN * 2, self.listen(&mut heard)).await.is_err() {
                tracing::warn!("the daemon before does not end");
            }
        }
        self.shared.before.any.store(false, Ordering::Relaxed);
        let left = std::mem::take(&mut *self.shared.before.lock());
        for flow in left.flows.values() {
            flow.guard.failed("the daemon that relayed it has ended");
        }
        tracing::info!(
            pid = left.pid,
            cut = left.flows.len(),
            "the daemon before has ended"
        );
        true
    }

    async fn listen(&mut self, heard: &mut mpsc::Receiver<Message>) {
        loop {
            let message = tokio::select! {
                message = heard.recv() => message,
                Some(_) = self.watches.join_next() => continue,
            };
            match message {
                None | Some(Message::End) => return,
                Some(message) => self.note(message).await,
            }
        }
    }

    async fn note(&mut self, message: Message) {
        let shared = Arc::clone(&self.shared);
        match message {
            Message::Way { flow, way } => self.add(flow, &way),
            Message::Progress(moved) => {
                let known = shared.before.lock();
                for (flow, sent, received) in moved {
                    if let Some(flow) = known.flows.get(&flow) {
                        flow.guard.count(sent, received);
                    }
                }
            }
            Message::Ended {
                flow,
                sent,
                received,
                error,
            } => {
                let ended = shared.before.lock().flows.remove(&flow);
                if let Some(ended) = ended {
                    ended.guard.count(sent, received);
                    error
                        .into_iter()
                        .for_each(|error| ended.guard.failed(error));
                }
            }
            Message::Free { cookie, target } => shared.before.lock().free((cookie, target)),
            Message::Datagram(Forward {
                cookie,
                source,
                target,
                payload,
            }) => {
                shared.before.lock().free((cookie, target));
                let payload = payload.to_vec();
                let desk = &self.orders[usize::from(target.is_ipv6())];
                let again = Undone {
                    source,
                    target,
                    payload,
                };
                if desk.try_send(Order::Again(again)).is_err() {
                    Counts::add(&shared.counts.dropped_datagrams);
                }
            }
            _ => {}
        }
    }

    /// A flow there has one more way, or is not known here and has none.
    fn add(&mut self, flow: u64, way: &Way) {
        let shared = Arc::clone(&self.shared);
        let mut known = shared.before.lock();
        let open = match known.flows.get(&flow) {
            Some(known) => self.open(flow, &known.guard, way),
            None => {
                let _ = self.words.try_send(Message::Cut { flow, target: None });
                None
            }
        };
        if let (Some(open), Some(known)) = (open, known.flows.get_mut(&flow)) {
            known.ways.push(open);
        }
    }
}

impl Known {
    fn free(&mut self, leg: udp::Leg) {
        if !self.legs.remove(&leg) {
            return;
        }
        if let Some(count) = self.cookies.get_mut(&leg.0) {
            *count -= 1;
            if *count == 0 {
                self.cookies.remove(&leg.0);
            }
        }
    }
}
