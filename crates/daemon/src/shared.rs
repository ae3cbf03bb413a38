//! What the daemon's tasks share.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use offramp_control::{Lifecycle, LookupEvent};
use offramp_dns::Held;
use offramp_intercept::{Capture, ClassId, Identity, Label, Labelled, Replies, StartError};
use offramp_relay::Limits;
use offramp_rules::{Claims, Decision, Host, ProfileId, Profiles, Target, Verdict, World, decide};
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;

use crate::Config;
use crate::active::Link;
use crate::approvals::Approvals;
use crate::budget::{Budget, Reached, Share};
use crate::classes::Classes;
use crate::ephemeral::Ephemeral;
use crate::facts::Facts;
use crate::flows::{Flows, executable};
use crate::followers::Followers;
use crate::policy::Policy;
use crate::pulse::Pulse;
use crate::refusals::{Key, Refused, What};
use crate::takeover::Before;
use crate::told::{self, Told};
use crate::verdicts::Verdicts;

/// How long a flow waits for an upstream that is still connecting.
const HOLD: Duration = Duration::from_secs(5);

/// How many flows and look-ups there may be at one time, of all apps; less where the daemon may not
/// have descriptors for them.
pub(crate) const TCP_FLOWS: usize = 65_536;
const UDP_LEGS: usize = 32_768;
const LOOKUPS: usize = 4096;
/// Datagrams that wait until it is known which app sent them.
const WAITING: usize = 1024;
/// Descriptors for all but flows: control socket, upstreams, files.
const RESERVE: usize = 1024;

/// A target that no list of exclusions has, which stands for any other: reserved for future use
/// (RFC 1112 section 4).
pub(crate) const ANYWHERE: Host = Host::Address(IpAddr::V4(Ipv4Addr::new(240, 0, 0, 1)));

/// One for the whole daemon.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) started: Instant,
    pub(crate) capture: Capture,
    pub(crate) replies: Arc<Replies>,
    pub(crate) flows: Arc<Flows>,
    pub(crate) policy: watch::Sender<Arc<Policy>>,
    pub(crate) world: watch::Sender<Arc<World>>,
    pub(crate) lifecycle: watch::Sender<Lifecycle>,
    pub(crate) limits: Limits,
    /// Who hears of look-ups.
    pub(crate) followed_lookups: Followers<LookupEvent>,
    /// Notified when something that decisions depend on may be another.
    pub(crate) changed: Arc<Notify>,
    /// Held by whoever changes profiles or classes, so that changes come one after another.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// Held while files are read, before `changing`, so that what is read last is in force last.
    pub(crate) reloading: tokio::sync::Mutex<()>,
    pub(crate) counts: Counts,
    pub(crate) pulse: Pulse,
    /// TCP flows at one time.
    pub(crate) tcp_flows: Arc<Budget>,
    /// Targets of UDP sockets at one time.
    pub(crate) udp_legs: Arc<Budget>,
    /// Look-ups at one time.
    pub(crate) lookups: Arc<Budget>,
    /// Datagrams of programs that are not recognised yet.
    pub(crate) waiting: Arc<Budget>,
    pub(crate) synthetic_v6: offramp_rules::Prefix,
    /// Whether relayed names have IPv6 addresses.
    pub(crate) ipv6: AtomicBool,
    /// Addresses of excluded names.
    pub(crate) approvals: Approvals,
    /// What is known of processes.
    pub(crate) facts: Facts,
    /// What was decided about programs when they started.
    pub(crate) verdicts: Verdicts,
    rules_seen: AtomicU64,
    /// Whether processes changed faster than they could be recognised.
    pub(crate) restless: AtomicBool,
    /// Flows that ask what claims their app, and look-ups over TCP: who takes over waits for them.
    pub(crate) asking: TaskTracker,
    /// Which true addresses apps were told.
    pub(crate) told: Arc<Told>,
    /// The daemon that this one has taken over from.
    pub(crate) before: Before,
    tables: Mutex<Tables>,
}

struct Tables {
    classes: Classes,
    ephemeral: BTreeMap<ProfileId, Ephemeral>,
    off: BTreeSet<ProfileId>,
    last_run: u32,
}

/// What is counted besides flows.
#[derive(Default)]
pub(crate) struct Counts {
    /// Flows and datagrams that arrived without an identity.
    pub(crate) unidentified: AtomicU64,
    /// Flows to a synthetic address that stands for no name.
    pub(crate) unknown_names: AtomicU64,
    /// Look-ups that were answered.
    pub(crate) lookups: AtomicU64,
    /// TCP flows that were reset, and targets of UDP sockets that were not served, because their user
    /// or program has as many as one may have.
    pub(crate) over_budget: AtomicU64,
    /// Datagrams that found a queue full, or their user's budget used up.
    pub(crate) dropped_datagrams: AtomicU64,
}

impl Counts {
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a flow goes between, as the app sees it.
pub(crate) struct Ends {
    pub(crate) protocol: offramp_control::Protocol,
    pub(crate) source: SocketAddr,
    pub(crate) target: SocketAddr,
}

/// Where a flow wants to go, and what stands for a name held while it does.
pub(crate) struct Wanted {
    pub(crate) target: Target,
    pub(crate) _held: Option<Held>,
    /// The names that the app was told of the address, where it goes to one.
    pub(crate) known: Option<told::Held>,
}

impl Shared {
    #[expect(
        clippy::too_many_arguments,
        reason = "the one place that puts the parts together"
    )]
    pub(crate) fn new(
        config: Config,
        capture: Capture,
        replies: Arc<Replies>,
        policy: Policy,
        ephemeral: BTreeMap<ProfileId, Ephemeral>,
        off: BTreeSet<ProfileId>,
        synthetic_v6: offramp_rules::Prefix,
        changed: Arc<Notify>,
    ) -> Self {
        let classes = Classes::new(&config.runtime);
        let approvals = Approvals::new(&config.runtime);
        let (tcp_flows, udp_legs) = room(descriptors());
        Self {
            config,
            started: Instant::now(),
            capture,
            replies,
            flows: Arc::new(Flows::default()),
            policy: watch::Sender::new(Arc::new(policy)),
            world: watch::Sender::new(Arc::new(World::default())),
            lifecycle: watch::Sender::new(Lifecycle::Starting),
            limits: Limits::default(),
            followed_lookups: Followers::default(),
            changed,
            changing: tokio::sync::Mutex::new(()),
            reloading: tokio::sync::Mutex::new(()),
            counts: Counts::default(),
            pulse: Pulse::new(),
            tcp_flows: Budget::new(tcp_flows),
            udp_legs: Budget::new(udp_legs),
            lookups: Budget::new(LOOKUPS),
            waiting: Budget::new(WAITING),
            synthetic_v6,
            approvals,
            ipv6: AtomicBool::new(false),
            facts: Facts::new(),
            verdicts: Verdicts::default(),
            rules_seen: AtomicU64::new(0),
            restless: AtomicBool::new(false),
            asking: TaskTracker::new(),
            told: Arc::default(),
            before: Before::default(),
            tables: Mutex::new(Tables {
                classes,
                ephemeral,
                off,
                last_run: 0,
            }),
        }
    }

    pub(crate) fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.borrow())
    }

    /// The name where the address stands for one, or those that the app was told of it. None: it
    /// stands for a name that is not known, or not to this user.
    pub(crate) fn wanted(
        &self,
        identity: &Identity,
        claims: &Arc<Claims>,
        target: SocketAddr,
    ) -> Option<Wanted> {
        let policy = self.policy();
        let book = policy.book(claims);
        let address = target.ip().to_canonical();
        let Some(book) = book.filter(|book| book.names.contains(address)) else {
            return Some(Wanted {
                target: target.into(),
                _held: None,
                known: self.told.hold(identity.uid, claims, address),
            });
        };
        let Some(held) = book.names.hold(address, identity.uid) else {
            Counts::add(&self.counts.unknown_names);
            return None;
        };
        let host = Host::Name(held.name().clone());
        Some(Wanted {
            target: Target {
                host,
                port: target.port(),
            },
            _held: Some(held),
            known: None,
        })
    }

    /// Takes a share for a flow. None: a limit is reached, which is told.
    pub(crate) fn share(&self, what: What, identity: &Identity, ends: &Ends) -> Option<Share> {
        let budget = match what {
            What::Flows => &self.tcp_flows,
            What::Legs => &self.udp_legs,
            What::Lookups | What::Names | What::Addresses => &self.lookups,
        };
        let taken = match what {
            What::Lookups => budget.take(identity.uid),
            _ => budget.take_by(identity.uid, || executable(identity.pid)),
        };
        taken
            .map_err(|limit| self.refused(what, limit, identity, ends))
            .ok()
    }

    /// Sends the answer to a look-up to the app, as if the resolver that it asked had.
    pub(crate) fn reply(&self, answer: &[u8], resolver: SocketAddr, app: SocketAddr) {
        if let Err(error) = self.replies.send(answer, resolver, app) {
            tracing::debug!(error = %error, "answer not delivered");
        }
    }

    /// Counts and tells what a limit refuses.
    pub(crate) fn refused(&self, what: What, limit: Reached, identity: &Identity, ends: &Ends) {
        Counts::add(&self.counts.over_budget);
        let is_of_program = matches!(limit, Reached::Program(_));
        let key = Key {
            uid: identity.uid,
            program: is_of_program.then(|| executable(identity.pid)),
            what,
            limit,
        };
        let refused = || Refused {
            app: offramp_control::App {
                pid: identity.pid,
                uid: identity.uid,
                executable: executable(identity.pid).to_string(),
                command: None,
            },
            protocol: ends.protocol,
            source: ends.source.to_string(),
            target: ends.target.to_string(),
        };
        let line = self.flows.refusals.note(key, refused, Instant::now());
        line.into_iter()
            .for_each(|line| self.flows.limit_reached(line));
    }

    /// Decides about a flow; while its upstream is connecting it is held for a moment.
    pub(crate) async fn decide(&self, claims: &Claims, target: &Target) -> Decision {
        self.held(|rules, world| decide(rules, claims, target, world))
            .await
    }

    /// The same by another question.
    pub(crate) async fn held<T: Borrow<Decision>>(
        &self,
        ask: impl Fn(&Profiles, &World) -> T,
    ) -> T {
        let mut world = self.world.subscribe();
        let deadline = tokio::time::Instant::now() + HOLD;
        loop {
            let now = Arc::clone(&world.borrow_and_update());
            let decision = ask(&self.policy().rules, &now);
            if decision.borrow().verdict.waits_for().is_none() {
                return decision;
            }
            if tokio::time::timeout_at(deadline, world.changed())
                .await
                .is_err()
            {
                return decision;
            }
        }
    }

    /// Why a flow is not relayed, with what the upstream says of itself.
    pub(crate) fn explain(&self, why: &offramp_rules::Why) -> String {
        let reason = match why {
            offramp_rules::Why::NotConnected(profile, offramp_rules::State::Disconnected(_)) => {
                self.policy()
                    .active
                    .get(profile)
                    .and_then(|active| active.reason())
            }
            _ => None,
        };
        match reason {
            Some(reason) => format!("{why}: {reason}"),
            None => why.to_string(),
        }
    }

    /// A profile of those that claim an app; an empty name where none does.
    pub(crate) fn first_profile(claims: &Claims) -> ProfileId {
        let rule = claims.rules.first().map(|claim| &claim.profile);
        let named = claims.wrapper.as_ref().or(rule);
        named.cloned().unwrap_or_else(|| ProfileId::new(""))
    }

    /// The profile that a flow is shown under.
    pub(crate) fn profile_of(verdict: &Verdict, claims: &Claims) -> ProfileId {
        let said = match verdict {
            Verdict::Relay(profile) => Some(profile),
            Verdict::Direct(why) | Verdict::Refuse(why) => why.profile(),
        };
        said.cloned().unwrap_or_else(|| Self::first_profile(claims))
    }

    /// The connections of a profile; none where it is gone or disabled.
    pub(crate) fn link(&self, profile: &ProfileId) -> Option<Arc<Link>> {
        let policy = self.policy();
        policy
            .active
            .get(profile)
            .map(|active| Arc::clone(active.link()))
    }

    /// Whether `address` is this machine as a resolver.
    pub(crate) async fn is_own(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.capture.survey().await.own.contains(&address)
    }

    /// What the processes of a class have in common; none for a class that is gone.
    pub(crate) fn class(&self, class: ClassId) -> Option<Arc<Claims>> {
        self.tables().classes.get(class)
    }

    pub(crate) fn classes(&self) -> BTreeMap<ClassId, Arc<Claims>> {
        self.tables().classes.all()
    }

    pub(crate) fn find_class(&self, claims: &Claims) -> Option<ClassId> {
        self.tables().classes.find(claims)
    }

    pub(crate) fn add_class(&self, claims: &Claims) -> Option<ClassId> {
        self.tables().classes.add(claims)
    }

    pub(crate) fn restore_classes(&self, left: impl IntoIterator<Item = ClassId>) {
        self.tables().classes.restore(left);
    }

    /// Whether apps that `offramp run` started under this profile may still run.
    pub(crate) fn is_used(&self, profile: &ProfileId) -> bool {
        let classes = self.classes();
        classes
            .values()
            .any(|claims| claims.wrapper.as_ref() == Some(profile))
    }

    pub(crate) fn forget_class(&self, class: ClassId) {
        self.tables().classes.remove(class);
    }

    /// Tells whether other rules are in force than a moment ago.
    pub(crate) fn rules_seen(&self) -> u64 {
        self.rules_seen.load(Ordering::Relaxed)
    }

    /// Other rules are in force from here on. To be called with `changing` held.
    pub(crate) fn see_rules(&self) {
        self.rules_seen.fetch_add(1, Ordering::Relaxed);
    }

    /// A number for a profile of `offramp run --server`.
    pub(crate) fn next_run(&self) -> u32 {
        let mut tables = self.tables();
        tables.last_run += 1;
        tables.last_run
    }

    /// The last of those numbers.
    pub(crate) fn last_run(&self) -> u32 {
        self.tables().last_run
    }

    /// Those numbers go on from here.
    pub(crate) fn runs_begin_behind(&self, last: u32) {
        self.tables().last_run = last;
    }

    /// The processes that carry each class.
    pub(crate) fn labelled(&self) -> Result<BTreeMap<ClassId, Vec<Labelled>>, StartError> {
        let mut found = BTreeMap::<_, Vec<_>>::new();
        for process in self.capture.labelled()? {
            let class = match process.label {
                Label::Class(class) => class,
                Label::Undecided { .. } => ClassId::UNDECIDED,
            };
            found.entry(class).or_default().push(process);
        }
        Ok(found)
    }

    pub(crate) fn ephemeral(&self) -> BTreeMap<ProfileId, Ephemeral> {
        self.tables().ephemeral.clone()
    }

    pub(crate) fn add_ephemeral(&self, id: ProfileId, run: Ephemeral) {
        self.tables().ephemeral.insert(id, run);
    }

    pub(crate) fn remove_ephemeral(&self, id: &ProfileId) -> bool {
        let mut tables = self.tables();
        // Its name never comes again.
        tables.off.remove(id);
        tables.ephemeral.remove(id).is_some()
    }

    pub(crate) fn off(&self) -> BTreeSet<ProfileId> {
        self.tables().off.clone()
    }

    pub(crate) fn set_off(&self, off: BTreeSet<ProfileId>) {
        self.tables().off = off;
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables
            .lock()
            .expect("nothing panics while it holds the tables")
    }
}

/// How many descriptors this process may have.
fn descriptors() -> usize {
    use nix::sys::resource::{Resource, getrlimit};
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// How many TCP flows, and targets of UDP sockets, so many descriptors are enough for. A flow takes
/// one, or two where it goes directly; a target takes one where it does.
fn room(descriptors: usize) -> (usize, usize) {
    let free = descriptors - RESERVE.min(descriptors / 2);
    let wanted = 2 * TCP_FLOWS + UDP_LEGS;
    if free >= wanted {
        return (TCP_FLOWS, UDP_LEGS);
    }
    // Where there are many, most flows are relayed ones, which take one.
    if free >= 8192 {
        return (TCP_FLOWS.min(free / 4 * 3), UDP_LEGS.min(free / 8));
    }
    (TCP_FLOWS * free / wanted, UDP_LEGS * free / wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_fit_into_the_descriptors() {
        assert_eq!(room(262_144), (TCP_FLOWS, UDP_LEGS));
        for descriptors in [64, 1024, 4096, 65_536, 165_000] {
            let (flows, legs) = room(descriptors);
            assert!(flows > 0 && flows + legs <= descriptors - RESERVE.min(descriptors / 2));
        }
    }
}
