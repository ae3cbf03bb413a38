//! Keeps the kernel programs told: states, exclusions, networks, what has ended.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use offramp_intercept::{Class, ClassId, Event};
use offramp_rules::{Claims, ProfileId, Target, Verdict, Why, World, decide, direct_routes};
use tokio::sync::broadcast;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::ephemeral;
use crate::policy::{Policy, Sources};
use crate::shared::{ANYWHERE, Shared};

const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often it is looked which classes have processes left.
const CENSUS: Duration = Duration::from_secs(5);
/// How long a class outlives its last app at least, for flows that wait to be accepted.
const SETTLED: Duration = Duration::from_secs(3);
/// And at most, for flows that do not end.
const LINGER: Duration = Duration::from_secs(300);
/// Changes of the network come in bursts.
const SETTLE: Duration = Duration::from_millis(100);

impl Shared {
    fn sources<'a>(
        &'a self,
        directories: &'a offramp_profile::Directories,
        ephemeral: &'a BTreeMap<ProfileId, ephemeral::Ephemeral>,
    ) -> Sources<'a> {
        Sources {
            directories,
            ephemeral,
            synthetic_v6: self.synthetic_v6,
            changed: &self.changed,
        }
    }

    /// Reads the profiles again and puts them in force, all in one step. Returns whether they are
    /// others now.
    pub(crate) async fn reload(&self) -> bool {
        let _changing = self.changing.lock().await;
        let directories = offramp_profile::Directories::new(&self.config.config);
        let ephemeral = self.ephemeral();
        let before = self.policy();
        let fresh = Policy::read(&self.sources(&directories, &ephemeral), &before);
        for problem in &fresh.loaded.problems {
            if !before.loaded.problems.contains(problem) {
                tracing::warn!(problem = %problem, "profile problem");
            }
        }
        let changed = fresh.rules != before.rules
            || fresh.loaded.profiles != before.loaded.profiles
            || fresh.loaded.problems != before.loaded.problems;
        let decides_anew = fresh.rules != before.rules;
        self.policy.send_replace(Arc::new(fresh));
        self.publish().await;
        if decides_anew {
            self.disapprove_all().await;
        }
        let now = self.policy();
        for (id, gone) in before
            .active
            .iter()
            .filter(|(id, _)| !now.active.contains_key(id))
        {
            tracing::debug!(profile = %id, "flows of a profile that is gone are cut");
            gone.link().cut();
        }
        changed
    }

    /// What names resolved to under the rules before need not be excluded under those of now.
    async fn disapprove_all(&self) {
        for class in self.classes().into_keys() {
            if let Err(error) = self.capture.disapprove_all(class).await {
                tracing::error!(class = %class, error = crate::chain(&error), "excluded addresses not taken back");
            }
        }
    }

    /// Puts the profiles of `offramp run --server` in force as they are now.
    pub(crate) async fn reload_ephemeral(&self) {
        let directories = offramp_profile::Directories::new(&self.config.config);
        let ephemeral = self.ephemeral();
        let fresh = Policy::with_ephemeral(&self.sources(&directories, &ephemeral), &self.policy());
        self.policy.send_replace(Arc::new(fresh));
        self.publish().await;
    }

    /// Tells decisions and the kernel programs how things are. To be called with `changing` held.
    pub(crate) async fn publish(&self) {
        let survey = self.capture.survey().await;
        let policy = self.policy();
        let world = policy.world(survey.local, &self.off());
        self.ipv6.store(survey.ipv6, Ordering::Relaxed);
        for (class, profile) in self.classes() {
            self.publish_class(class, &profile, &policy, &world).await;
        }
        // Those who wait for a state go on when the kernel programs know it too.
        self.world.send_replace(Arc::new(world));
    }

    /// Defines a class for the kernel programs.
    pub(crate) async fn publish_class(
        &self,
        class: ClassId,
        profile: &ProfileId,
        policy: &Policy,
        world: &World,
    ) {
        let shape = shape(profile, policy, world);
        if let Err(error) = self.capture.set_class(class, shape).await {
            tracing::error!(class = %class, profile = %profile, error = crate::chain(&error), "class not defined");
        }
    }
}

/// What the kernel programs are told of the apps under `profile`.
fn shape(profile: &ProfileId, policy: &Policy, world: &World) -> Class {
    let app = Claims {
        wrapper: Some(profile.clone()),
        ..Claims::default()
    };
    let anywhere = Target {
        host: ANYWHERE,
        port: 443,
    };
    let verdict = decide(&policy.rules, &app, &anywhere, world).verdict;
    let (open, udp) = match &verdict {
        Verdict::Relay(by) => (
            true,
            policy.active.get(by).is_some_and(|by| by.carries_udp()),
        ),
        Verdict::Direct(_) => (true, true),
        Verdict::Refuse(Why::NotConnected(..)) => {
            let waits = verdict.waits_for().is_some();
            (waits, waits)
        }
        Verdict::Refuse(_) => (false, false),
    };
    let own = policy.active.get(profile);
    Class {
        direct: direct_routes(&policy.rules, &app, world).normalised(),
        multicast: own.is_some_and(|own| own.profile.rules.exclude_local_networks),
        inbound: own.is_some_and(|own| own.profile.allow_inbound),
        personal: own.and_then(|own| own.owner).filter(|uid| *uid != 0),
        open,
        udp,
        ..Class::default()
    }
}

/// Says that the daemon is well, for as long as its runtime runs tasks.
pub(crate) async fn beat(shared: Arc<Shared>, stop: CancellationToken) {
    let mut tick = interval(HEARTBEAT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        if let Err(error) = shared.capture.beat() {
            tracing::error!(error = %error, "heartbeat not written");
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
    }
}

/// Follows the states of the upstreams.
pub(crate) async fn follow_states(shared: Arc<Shared>, stop: CancellationToken) {
    while stop
        .run_until_cancelled(shared.changed.notified())
        .await
        .is_some()
    {
        let _changing = shared.changing.lock().await;
        shared.publish().await;
    }
}

/// Follows the host's network.
pub(crate) async fn follow_network(shared: Arc<Shared>, stop: CancellationToken) {
    while stop
        .run_until_cancelled(shared.capture.network_changed())
        .await
        .is_some()
    {
        sleep(SETTLE).await;
        match shared.capture.refresh().await {
            Ok(true) => {
                for active in shared.policy().active.values() {
                    if let Ok(upstream) = active.link().upstream() {
                        upstream.probe();
                    }
                }
                shared.changed.notify_one();
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(error = crate::chain(&error), "network not surveyed"),
        }
    }
}

/// Follows what ends in the kernel.
pub(crate) async fn follow_events(
    shared: Arc<Shared>,
    closed: broadcast::Sender<u64>,
    stop: CancellationToken,
) {
    let mut tick = interval(CENSUS);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut closing = Closing::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            event = shared.capture.event() => match event {
                Some(Event::SocketClosed { cookie }) => drop(closed.send(cookie)),
                Some(Event::Ended) => closing.sweep(&shared).await,
                Some(Event::Exec(_) | Event::Moved { .. }) => {}
                None => return,
            },
            _ = tick.tick() => closing.sweep(&shared).await,
        }
    }
}

/// Classes whose apps have ended, and since when. What the apps sent last is still on its way.
#[derive(Default)]
struct Closing(BTreeMap<ClassId, Instant>);

impl Closing {
    /// Forgets the classes that nothing uses any more, with the profiles that were made for them.
    async fn sweep(&mut self, shared: &Shared) {
        let _changing = shared.changing.lock().await;
        let labelled = match shared.labelled() {
            Ok(labelled) => labelled,
            Err(error) => {
                return tracing::warn!(error = crate::chain(&error), "no list of apps");
            }
        };
        let policy = shared.policy();
        for (class, profile) in shared.classes() {
            let used = labelled.contains_key(&class);
            let own = policy.active.get(&profile);
            let stays = own.is_some_and(|own| own.owner.is_none());
            if used || stays {
                self.0.remove(&class);
                continue;
            }
            let since = self.0.entry(class).or_insert_with(Instant::now).elapsed();
            let busy = shared.flows.count_of(&profile, None) > 0 && since < LINGER;
            if busy || since < SETTLED {
                continue;
            }
            self.0.remove(&class);
            remove_class(shared, class, &profile).await;
        }
    }
}

async fn remove_class(shared: &Shared, class: ClassId, profile: &ProfileId) {
    shared.forget_class(class);
    if shared.remove_ephemeral(profile) {
        ephemeral::forget(&shared.config.ephemeral(), profile);
        shared.reload_ephemeral().await;
    }
    if let Err(error) = shared.capture.remove_class(class).await {
        tracing::warn!(class = %class, error = crate::chain(&error), "class not removed");
    }
}

/// Puts changed profiles in force soon after their files change.
pub(crate) async fn follow_files(shared: Arc<Shared>, stop: CancellationToken) {
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut seen = fingerprint(&shared);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let now = fingerprint(&shared);
        if now != seen {
            seen = now;
            shared.reload().await;
        }
    }
}

/// Names of all files that profiles come from, and when each was changed in any way.
fn fingerprint(shared: &Shared) -> Vec<(std::path::PathBuf, i64, i64)> {
    let config = &shared.config.config;
    let folders = [
        config.join("policies/managed"),
        config.join("policies/recommended"),
        config.join("credentials"),
        "/usr/lib/offramp/policies/managed".into(),
        "/usr/lib/offramp/policies/recommended".into(),
    ];
    let mut found = Vec::new();
    for entry in folders
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten()
        .flatten()
    {
        if let Ok(metadata) = entry.metadata() {
            found.push((entry.path(), metadata.ctime(), metadata.ctime_nsec()));
        }
    }
    found.sort();
    found
}
