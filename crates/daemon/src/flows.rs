//! The live flows: who sees them, and the one line that each leaves in the log.

mod handed;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use offramp_control as control;
use offramp_intercept::Identity;
use offramp_relay::Counters;
use offramp_rules::{Claims, DomainName, ProfileId, Protocol, Target, Verdict};
use tokio_util::sync::CancellationToken;

use crate::active::Link;
use crate::followers::Followers;
use crate::pace::Pace;
use crate::refusals::{Line, Refusals};
use crate::sniff::Sniffed;
use crate::takeover::Successor;
use crate::takeover::wire::Way;

/// Lines of one user in the log: in a second on the average, and at once.
const LINES: (u32, u32) = (100, 1000);

/// All live flows.
pub(crate) struct Flows {
    next: AtomicU64,
    live: Mutex<HashMap<u64, Arc<Record>>>,
    pub(crate) followers: Followers<control::FlowEvent>,
    /// The daemon that shows these flows as its own from here on.
    successor: OnceLock<Successor>,
    /// Flows that have ended, by way.
    pub(crate) relayed: AtomicU64,
    pub(crate) direct: AtomicU64,
    pub(crate) refused: AtomicU64,
    /// Limits that were reached.
    pub(crate) refusals: Refusals,
    lines: Pace,
}

impl Default for Flows {
    fn default() -> Self {
        Self {
            next: AtomicU64::new(0),
            live: Mutex::default(),
            followers: Followers::default(),
            relayed: AtomicU64::new(0),
            direct: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            refusals: Refusals::default(),
            lines: Pace::new(LINES.0, LINES.1),
            successor: OnceLock::new(),
        }
    }
}

/// What is known of one flow.
pub(crate) struct Record {
    id: u64,
    identity: Identity,
    executable: Arc<str>,
    profile: Mutex<ProfileId>,
    claims: Mutex<Arc<Claims>>,
    legs: Mutex<Vec<LegRecord>>,
    protocol: Protocol,
    source: SocketAddr,
    target: Target,
    /// The name that the app has told of it.
    told: OnceLock<Sniffed>,
    began: Instant,
    began_unix_ms: u64,
    pub(crate) counters: Counters,
    way: AtomicU8,
    open: AtomicU8,
    server: Mutex<Option<String>>,
    error: OnceLock<String>,
}

/// The way of a flow to one target.
struct LegRecord {
    target: Target,
    /// What the verdict depends on besides.
    name: Option<DomainName>,
    verdict: Verdict,
    cut: CancellationToken,
}

/// The way of a flow to one target, for as long as it is open. A UDP flow has one for each target.
pub(crate) struct Leg {
    record: Arc<Record>,
    target: Target,
    /// Ends it: its profile is gone, or the rules have changed.
    pub(crate) cut: CancellationToken,
}

/// An open way that is asked about.
pub(crate) struct Asked<'a> {
    pub(crate) pid: u32,
    pub(crate) target: &'a Target,
    /// The name that the verdict depends on besides.
    pub(crate) name: Option<&'a DomainName>,
    /// By which it was opened.
    pub(crate) verdict: &'a Verdict,
}

/// Ends its flow when it is dropped, however that comes about.
pub(crate) struct FlowGuard {
    flows: Arc<Flows>,
    record: Arc<Record>,
}

/// What begins a flow.
pub(crate) struct Beginning {
    pub(crate) identity: Identity,
    /// See [`executable`].
    pub(crate) executable: Arc<str>,
    pub(crate) claims: Arc<Claims>,
    pub(crate) profile: ProfileId,
    pub(crate) protocol: Protocol,
    pub(crate) source: SocketAddr,
    pub(crate) target: Target,
    /// The name that the app has told of it.
    pub(crate) told: Option<Sniffed>,
}

impl Flows {
    pub(crate) fn begin(self: &Arc<Self>, beginning: Beginning) -> FlowGuard {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let guard = self.enter(id, beginning, Instant::now(), unix_ms());
        self.tell(&guard.record, |flow| control::FlowEvent::Begin { flow });
        guard
    }

    fn enter(
        self: &Arc<Self>,
        id: u64,
        beginning: Beginning,
        began: Instant,
        began_unix_ms: u64,
    ) -> FlowGuard {
        let record = Arc::new(Record {
            id,
            executable: beginning.executable,
            identity: beginning.identity,
            profile: Mutex::new(beginning.profile),
            claims: Mutex::new(beginning.claims),
            legs: Mutex::new(Vec::new()),
            protocol: beginning.protocol,
            source: beginning.source,
            target: beginning.target,
            told: beginning.told.map(OnceLock::from).unwrap_or_default(),
            began,
            began_unix_ms,
            counters: Counters::default(),
            way: AtomicU8::new(control::Way::Refused as u8),
            open: AtomicU8::new(control::FlowState::Opening as u8),
            server: Mutex::default(),
            error: OnceLock::new(),
        });
        self.lock().insert(id, Arc::clone(&record));
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

    /// A live flow, if it is this user's, with what claims its app and where it goes.
    pub(crate) fn find(
        &self,
        id: u64,
        uid: Option<u32>,
    ) -> Option<(control::Flow, Arc<Claims>, Target)> {
        let live = self.lock();
        let record = live.get(&id)?;
        let is_seen = uid.is_none_or(|uid| uid == record.identity.uid);
        is_seen.then(|| {
            (
                record.describe(),
                Arc::clone(&record.claims()),
                record.target.clone(),
            )
        })
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    pub(crate) fn count_of(&self, profile: &ProfileId, uid: Option<u32>) -> u64 {
        let counted = |record: &&Arc<Record>| {
            record.profile() == *profile && uid.is_none_or(|uid| uid == record.identity.uid)
        };
        self.lock().values().filter(counted).count() as u64
    }

    /// Whether apps with these claims have flows.
    pub(crate) fn has_any(&self, claims: &Arc<Claims>) -> bool {
        let live = self.lock();
        live.values().any(|record| *record.claims() == *claims)
    }

    /// Asks about every open way of every flow. Cuts those for which the answer says so, and notes the claims of now. Returns how
    /// many were cut.
    pub(crate) fn recheck(
        &self,
        ask: impl Fn(&Asked<'_>, &Claims) -> (bool, Arc<Claims>),
    ) -> usize {
        let live: Vec<_> = self.lock().values().cloned().collect();
        let mut cut = 0;
        for record in live {
            let mut claims = Arc::clone(&record.claims());
            for leg in record.legs().iter() {
                let asked = Asked {
                    pid: record.identity.pid,
                    target: &leg.target,
                    name: leg.name.as_ref(),
                    verdict: &leg.verdict,
                };
                let (is_over, now) = ask(&asked, &claims);
                if is_over && !leg.cut.is_cancelled() {
                    leg.cut.cancel();
                    cut += 1;
                }
                claims = now;
            }
            *record.claims() = claims;
        }
        cut
    }

    /// Tells of a limit that was reached, once for all that it has refused since the last time.
    pub(crate) fn limit_reached(&self, (key, refused, count): Line) {
        let what = key.what.as_str();
        tracing::warn!(
            uid = refused.app.uid,
            app = refused.app.executable,
            what,
            limit = %key.limit,
            refused = count,
            "limit reached"
        );
        let now = unix_ms();
        let uid = refused.app.uid;
        let flow = control::Flow {
            id: 0,
            profile: String::new(),
            protocol: refused.protocol,
            source: refused.source,
            target: refused.target,
            told: None,
            way: control::Way::Refused,
            upstream: None,
            sent: 0,
            received: 0,
            started: now,
            duration_ms: 0,
            state: control::FlowState::Closed,
            error: Some(format!(
                "limit of {what} reached: {} ({count} refused)",
                key.limit
            )),
            app: refused.app,
        };
        let event = || control::FlowEvent::End { flow: flow.clone() };
        self.followers.tell(uid, event);
    }

    /// Tells what was left out of the log, and of limits. To be called now and then.
    pub(crate) fn tell_what_is_due(&self) {
        let now = Instant::now();
        for line in self.refusals.due(now) {
            self.limit_reached(line);
        }
        for (uid, count) in self.lines.left_over(now) {
            left_out(uid, count);
        }
    }

    fn tell(&self, record: &Record, event: impl Fn(control::Flow) -> control::FlowEvent) {
        let uid = record.identity.uid;
        self.followers.tell(uid, || event(record.describe()));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Record>>> {
        self.live
            .lock()
            .expect("nothing panics while it holds the flows")
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
            let now = self.record.server.lock();
            *now.expect("nothing panics with the server") = Some(server.to_owned());
        }
    }

    /// Opens a way to a target, over the connections that end it with their profile.
    /// `name` is what the verdict depends on besides.
    pub(crate) fn leg(
        &self,
        target: &Target,
        name: Option<DomainName>,
        verdict: &Verdict,
        link: Option<&Link>,
    ) -> Leg {
        let cut = link
            .map(|link| link.flows().child_token())
            .unwrap_or_default();
        if let (Some(successor), Some(way)) = (
            self.flows.successor(),
            Way::of(target, name.as_ref(), verdict),
        ) {
            successor.has_way(self.record.id, way);
        }
        self.record.legs().push(LegRecord {
            target: target.clone(),
            name,
            verdict: verdict.clone(),
            cut: cut.clone(),
        });
        Leg {
            record: Arc::clone(&self.record),
            target: target.clone(),
            cut,
        }
    }

    /// The flow goes by another profile than it began with.
    pub(crate) fn goes_by(&self, profile: ProfileId) {
        let now = self.record.profile.lock();
        *now.expect("nothing panics with the profile") = profile;
    }

    /// The app has told a name; the first one stays.
    pub(crate) fn told(&self, told: Sniffed) {
        let _ = self.record.told.set(told);
    }

    pub(crate) fn was_opened(&self) -> bool {
        self.record.state() != control::FlowState::Opening
    }

    /// Why the flow was refused or broke; the first reason stays.
    pub(crate) fn failed(&self, reason: impl Into<String>) {
        let _ = self.record.error.set(reason.into());
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        let mut legs = self.record.legs();
        if let Some(own) = legs.iter().position(|leg| leg.target == self.target) {
            legs.swap_remove(own);
        }
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
        if let Some(successor) = self.flows.successor() {
            // It writes the line.
            return successor.ended(record);
        }
        match self.flows.lines.take(record.identity.uid, Instant::now()) {
            Ok(0) => {}
            Ok(count) => left_out(record.identity.uid, count),
            Err(_) => return,
        }
        tracing::info!(
            flow = record.id,
            app = &*record.executable,
            pid = record.identity.pid,
            uid = record.identity.uid,
            profile = %record.profile(),
            protocol = %record.protocol,
            src.addr = %record.source,
            target = %record.target,
            way,
            upstream = record.server(),
            bytes.sent = record.counters.sent(),
            bytes.received = record.counters.received(),
            duration_ms = record.began.elapsed().as_millis() as u64,
            error = record.error.get(),
            "flow ended"
        );
    }
}

impl Record {
    fn claims(&self) -> MutexGuard<'_, Arc<Claims>> {
        self.claims.lock().expect("nothing panics with the claims")
    }

    fn legs(&self) -> MutexGuard<'_, Vec<LegRecord>> {
        self.legs.lock().expect("nothing panics with the legs")
    }

    fn profile(&self) -> ProfileId {
        let profile = self.profile.lock();
        profile.expect("nothing panics with the profile").clone()
    }

    /// The server that carries it.
    fn server(&self) -> Option<String> {
        let is_relayed = matches!(self.way(), control::Way::Relay);
        let server = self.server.lock();
        let server = server.expect("nothing panics with the server");
        server.clone().filter(|_| is_relayed)
    }

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
                executable: self.executable.to_string(),
                command: None,
            },
            profile: self.profile().to_string(),
            protocol: match self.protocol {
                Protocol::Tcp => control::Protocol::Tcp,
                Protocol::Udp => control::Protocol::Udp,
            },
            source: self.source.to_string(),
            target: self.target.to_string(),
            told: self.told.get().map(Sniffed::describe),
            way: self.way(),
            upstream: self.server(),
            sent: self.counters.sent(),
            received: self.counters.received(),
            started: self.began_unix_ms,
            duration_ms: self.began.elapsed().as_millis() as u64,
            state: self.state(),
            error: self.error.get().cloned(),
        }
    }
}

/// For people to read, and to tell one program of a user from the other; no way of a flow depends on
/// it.
pub(crate) fn executable(pid: u32) -> Arc<str> {
    std::fs::read_link(format!("/proc/{pid}/exe"))
        .map_or_else(|_| "?".into(), |path| path.display().to_string().into())
}

/// Says how many flows have no line.
fn left_out(uid: u32, count: u64) {
    tracing::info!(uid, flows = count, "flows ended without a line each");
}

pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_millis() as u64
}
