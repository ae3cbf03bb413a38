//! The live flows: who sees them, and the one line that each leaves in the log.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use offramp_control as control;
use offramp_intercept::Identity;
use offramp_relay::Counters;
use offramp_rules::{ProfileId, Protocol, Target};
use tokio::sync::mpsc;

/// How many events a slow follower may be behind before it misses some.
const FOLLOWER_QUEUE: usize = 1024;

/// All live flows.
#[derive(Default)]
pub(crate) struct Flows {
    next: AtomicU64,
    live: Mutex<HashMap<u64, Arc<Record>>>,
    followers: Mutex<Vec<Follower>>,
    /// Flows that have ended, by way.
    pub(crate) relayed: AtomicU64,
    pub(crate) direct: AtomicU64,
    pub(crate) refused: AtomicU64,
}

struct Follower {
    /// None sees the flows of every user.
    uid: Option<u32>,
    events: mpsc::Sender<control::FlowEvent>,
    missed: u64,
}

/// What is known of one flow.
pub(crate) struct Record {
    id: u64,
    identity: Identity,
    executable: String,
    profile: ProfileId,
    protocol: Protocol,
    source: SocketAddr,
    target: Target,
    began: Instant,
    began_unix_ms: u64,
    pub(crate) counters: Counters,
    way: AtomicU8,
    open: AtomicU8,
    server: OnceLock<String>,
    error: OnceLock<String>,
}

/// Ends its flow when it is dropped, however that comes about.
pub(crate) struct FlowGuard {
    flows: Arc<Flows>,
    record: Arc<Record>,
}

/// What begins a flow.
pub(crate) struct Beginning {
    pub(crate) identity: Identity,
    pub(crate) profile: ProfileId,
    pub(crate) protocol: Protocol,
    pub(crate) source: SocketAddr,
    pub(crate) target: Target,
}

impl Flows {
    pub(crate) fn begin(self: &Arc<Self>, beginning: Beginning) -> FlowGuard {
        let record = Arc::new(Record {
            id: self.next.fetch_add(1, Ordering::Relaxed) + 1,
            executable: executable(beginning.identity.pid),
            identity: beginning.identity,
            profile: beginning.profile,
            protocol: beginning.protocol,
            source: beginning.source,
            target: beginning.target,
            began: Instant::now(),
            began_unix_ms: unix_ms(),
            counters: Counters::default(),
            way: AtomicU8::new(control::Way::Refused as u8),
            open: AtomicU8::new(control::FlowState::Opening as u8),
            server: OnceLock::new(),
            error: OnceLock::new(),
        });
        self.lock().insert(record.id, Arc::clone(&record));
        self.tell(&record, |flow| control::FlowEvent::Begin { flow });
        FlowGuard {
            flows: Arc::clone(self),
            record,
        }
    }

    /// The live flows of a user, or of all.
    pub(crate) fn list(&self, uid: Option<u32>) -> Vec<control::Flow> {
        let mut flows: Vec<_> = self
            .lock()
            .values()
            .filter(|record| uid.is_none_or(|uid| uid == record.identity.uid))
            .map(|record| record.describe())
            .collect();
        flows.sort_by_key(|flow| flow.id);
        flows
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    pub(crate) fn count_of(&self, profile: &ProfileId, uid: Option<u32>) -> u64 {
        let counted = |record: &&Arc<Record>| {
            record.profile == *profile && uid.is_none_or(|uid| uid == record.identity.uid)
        };
        self.lock().values().filter(counted).count() as u64
    }

    pub(crate) fn follow(&self, uid: Option<u32>) -> mpsc::Receiver<control::FlowEvent> {
        let (events, received) = mpsc::channel(FOLLOWER_QUEUE);
        let mut followers = self
            .followers
            .lock()
            .expect("nothing panics with the followers");
        followers.retain(|follower| !follower.events.is_closed());
        followers.push(Follower {
            uid,
            events,
            missed: 0,
        });
        received
    }

    fn tell(&self, record: &Record, event: impl Fn(control::Flow) -> control::FlowEvent) {
        let mut followers = self
            .followers
            .lock()
            .expect("nothing panics with the followers");
        followers.retain_mut(|follower| {
            if follower.uid.is_some_and(|uid| uid != record.identity.uid) {
                return !follower.events.is_closed();
            }
            follower.tell(event(record.describe()))
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Record>>> {
        self.live
            .lock()
            .expect("nothing panics while it holds the flows")
    }
}

impl Follower {
    /// Whether anybody still listens.
    fn tell(&mut self, event: control::FlowEvent) -> bool {
        if self.missed > 0 {
            let missed = control::FlowEvent::Missed { count: self.missed };
            if self.events.try_send(missed).is_ok() {
                self.missed = 0;
            }
        }
        match self.events.try_send(event) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.missed += 1;
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }
}

impl FlowGuard {
    pub(crate) fn counters(&self) -> &Counters {
        &self.record.counters
    }

    /// The flow is open, on this way.
    pub(crate) fn opened(&self, way: control::Way, server: Option<&str>) {
        self.record.way.store(way as u8, Ordering::Relaxed);
        self.record
            .open
            .store(control::FlowState::Open as u8, Ordering::Relaxed);
        if let Some(server) = server {
            let _ = self.record.server.set(server.to_owned());
        }
    }

    pub(crate) fn was_opened(&self) -> bool {
        self.record.state() != control::FlowState::Opening
    }

    /// Why the flow was refused or broke; the first reason stays.
    pub(crate) fn failed(&self, reason: impl Into<String>) {
        let _ = self.record.error.set(reason.into());
    }
}

impl Drop for FlowGuard {
    fn drop(&mut self) {
        let record = &self.record;
        record
            .open
            .store(control::FlowState::Closed as u8, Ordering::Relaxed);
        self.flows.lock().remove(&record.id);
        let (way, ended) = match record.way() {
            control::Way::Relay => ("relay", &self.flows.relayed),
            control::Way::Direct => ("direct", &self.flows.direct),
            control::Way::Refused => ("refused", &self.flows.refused),
        };
        ended.fetch_add(1, Ordering::Relaxed);
        self.flows
            .tell(record, |flow| control::FlowEvent::End { flow });
        tracing::info!(
            flow = record.id,
            app = record.executable,
            pid = record.identity.pid,
            uid = record.identity.uid,
            profile = %record.profile,
            protocol = %record.protocol,
            src.addr = %record.source,
            target = %record.target,
            way,
            upstream = record.server.get(),
            bytes.sent = record.counters.sent(),
            bytes.received = record.counters.received(),
            duration_ms = record.began.elapsed().as_millis() as u64,
            error = record.error.get(),
            "flow ended"
        );
    }
}

impl Record {
    fn way(&self) -> control::Way {
        match self.way.load(Ordering::Relaxed) {
            way if way == control::Way::Relay as u8 => control::Way::Relay,
            way if way == control::Way::Direct as u8 => control::Way::Direct,
            _ => control::Way::Refused,
        }
    }

    fn state(&self) -> control::FlowState {
        match self.open.load(Ordering::Relaxed) {
            state if state == control::FlowState::Opening as u8 => control::FlowState::Opening,
            state if state == control::FlowState::Open as u8 => control::FlowState::Open,
            _ => control::FlowState::Closed,
        }
    }

    fn describe(&self) -> control::Flow {
        control::Flow {
            id: self.id,
            app: control::App {
                pid: self.identity.pid,
                uid: self.identity.uid,
                executable: self.executable.clone(),
                command: None,
            },
            profile: self.profile.to_string(),
            protocol: match self.protocol {
                Protocol::Tcp => control::Protocol::Tcp,
                Protocol::Udp => control::Protocol::Udp,
            },
            source: self.source.to_string(),
            target: self.target.to_string(),
            way: self.way(),
            upstream: self.server.get().cloned(),
            sent: self.counters.sent(),
            received: self.counters.received(),
            started: self.began_unix_ms,
            duration_ms: self.began.elapsed().as_millis() as u64,
            state: self.state(),
            error: self.error.get().cloned(),
        }
    }
}

/// For people to read; no decision depends on it.
fn executable(pid: u32) -> String {
    std::fs::read_link(format!("/proc/{pid}/exe"))
        .map(|path| path.display().to_string())
        .unwrap_or_else(|_| "?".to_owned())
}

fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_millis() as u64
}
