//! Puts other profiles in force: for programs that start, for apps that run, for flows that are open.

use std::collections::BTreeMap;
use std::sync::Arc;

use offramp_control::Lifecycle;
use offramp_dns::Way;
use offramp_intercept::{Interest, Swept};
use offramp_rules::{Claims, ProfileId, Profiles, Verdict, Why, decide, decide_told};

use crate::ephemeral;
use crate::facts::Browsers;
use crate::policy::{self, Policy, Sources};
use crate::recognise::retained;
use crate::shared::Shared;

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
            reaches: true,
        }
    }

    /// Reads the profiles again and puts them in force, all in one step. Returns whether they are
    /// others now.
    pub(crate) async fn reload(self: &Arc<Self>) -> bool {
        let _reloading = self.reloading.lock().await;
        let _word = Reloading::begin(self);
        let (loaded, browsers) = self.load().await;
        let _changing = self.changing.lock().await;
        let directories = self.config.directories();
        let ephemeral = self.ephemeral();
        let before = self.policy();
        let sources = self.sources(&directories, &ephemeral);
        let fresh = Policy::with(loaded, browsers, &sources, &before);
        for problem in &fresh.loaded.problems {
            if !before.loaded.problems.contains(problem) {
                tracing::warn!(problem = %problem, "profile problem");
            }
        }
        let decides_anew = fresh.rules != before.rules;
        let changed = decides_anew
            || fresh.loaded.profiles != before.loaded.profiles
            || fresh.loaded.problems != before.loaded.problems;
        let fresh = Arc::new(fresh);
        if decides_anew {
            self.recognise(fresh, &before.rules).await;
        } else {
            self.policy.send_replace(fresh);
            self.publish().await;
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

    /// Reads the files of profiles, beside the tasks that move bytes.
    async fn load(self: &Arc<Self>) -> (offramp_profile::Loaded, Arc<Browsers>) {
        let shared = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || {
            policy::load(&shared.config.directories(), &shared.policy())
        });
        match read.await {
            Ok(loaded) => loaded,
            Err(_) => {
                let policy = self.policy();
                (policy.loaded.clone(), Arc::clone(&policy.browsers))
            }
        }
    }

    /// Puts the same profiles in force with the browsers that are installed by now.
    pub(crate) async fn follow_browsers(self: &Arc<Self>) {
        let look = |shared: &Shared| {
            let is_current = shared.policy().browsers.is_current();
            (!is_current).then(|| Arc::new(Browsers::search()))
        };
        let Some(browsers) = self.ask(look).await else {
            return;
        };
        let _reloading = self.reloading.lock().await;
        let _changing = self.changing.lock().await;
        let (directories, ephemeral) = (self.config.directories(), self.ephemeral());
        let (sources, before) = (self.sources(&directories, &ephemeral), self.policy());
        let loaded = before.loaded.clone();
        let fresh = Arc::new(Policy::with(loaded, browsers, &sources, &before));
        match fresh.rules == before.rules {
            true => drop(self.policy.send_replace(fresh)),
            false => self.recognise(fresh, &before.rules).await,
        }
    }

    /// Puts the rules of a policy in force: for programs that start, then for apps that run and for
    /// flows that are open. To be called with `changing` held.
    pub(crate) async fn recognise(self: &Arc<Self>, policy: Arc<Policy>, before: &Profiles) {
        // First: whoever sees the new profiles may start an app at once.
        self.ask_kernel(&policy).await;
        // Who asked the facts before they were learnt asks them again.
        self.see_rules();
        self.policy.send_replace(policy);
        // What is of rules that are gone waits until its apps are of others.
        self.recheck_approvals(|way| matches!(way, Way::System | Way::Refuse))
            .await;
        self.recognise_running(before).await;
        self.recheck_approvals(|way| way == Way::System).await;
    }

    /// The same for what runs and is open. To be called with `changing` held.
    pub(crate) async fn recognise_running(self: &Arc<Self>, before: &Profiles) {
        // Classes of before keep for the kernel programs what they were until nobody is of them:
        // what is excluded goes on, and flows that begin are refused here.
        self.world.send_replace(Arc::new(self.survey().await));
        let labelled = self.labelled().unwrap_or_default();
        let apps = self.recognise_all(before).await;
        self.publish().await;
        self.carry_approvals(&labelled, &apps).await;
        self.end_classes(&apps).await;
        self.sweep().await;
        self.recheck_flows(&apps, before);
    }

    /// Tells the kernel programs what to ask about by these rules. To be called with `changing` held.
    async fn ask_kernel(self: &Arc<Self>, policy: &Arc<Policy>) {
        let (shared, policy) = (Arc::clone(self), Arc::clone(policy));
        let learn = move || shared.facts.learn(&policy.rules);
        if let Ok(interest) = tokio::task::spawn_blocking(learn).await {
            self.tell_kernel(interest).await;
        }
    }

    /// To be called with `changing` held: what is told last is asked about.
    pub(crate) async fn tell_kernel(self: &Arc<Self>, interest: Interest) {
        let shared = Arc::clone(self);
        let told = tokio::task::spawn_blocking(move || shared.capture.set_interest(&interest));
        if let Ok(Err(error)) = told.await {
            tracing::error!(
                error = crate::chain(&error),
                "kernel programs not told what to ask, and ask about every program"
            );
        }
    }

    /// Ends what processes had open before they were managed, and gives back what was taken from
    /// those that are so no more.
    pub(crate) async fn sweep(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        let swept = tokio::task::spawn_blocking(move || shared.capture.sweep());
        match swept.await {
            Ok(Ok(swept)) if swept != Swept::default() => {
                let Swept {
                    ended,
                    claimed,
                    released,
                } = swept;
                tracing::info!(ended, claimed, released, "sockets swept");
            }
            Ok(Err(error)) => tracing::error!(error = crate::chain(&error), "sockets not swept"),
            Ok(Ok(_)) | Err(_) => {}
        }
    }

    /// Cuts the flows that go another way under the rules of now.
    pub(crate) fn recheck_flows(&self, apps: &BTreeMap<u32, Arc<Claims>>, before: &Profiles) {
        let (policy, world) = (self.policy(), Arc::clone(&self.world.borrow()));
        let cut = self.flows.recheck(|way, claims| {
            let now = match apps.get(&way.pid) {
                Some(now) => Arc::clone(now),
                // The process is gone, and somebody holds its socket; or nothing claims it.
                None => Arc::new(retained(claims, before, &policy.rules)),
            };
            let fresh = match way.name {
                Some(name) => decide_told(&policy.rules, &now, way.target, name, &world),
                None => decide(&policy.rules, &now, way.target, &world),
            };
            (!is_same_way(way.verdict, &fresh.verdict), now)
        });
        if cut > 0 {
            tracing::info!(flows = cut, "flows cut that go another way now");
        }
    }

    /// Puts the profiles of `offramp run --server` in force as they are now.
    pub(crate) async fn reload_ephemeral(&self) {
        let directories = self.config.directories();
        let ephemeral = self.ephemeral();
        let fresh = Policy::with_ephemeral(&self.sources(&directories, &ephemeral), &self.policy());
        self.policy.send_replace(Arc::new(fresh));
        self.publish().await;
    }
}

/// Tells that a reload is under way, for as long as it lasts.
struct Reloading<'a>(&'a Shared);

impl<'a> Reloading<'a> {
    fn begin(shared: &'a Shared) -> Self {
        Self::turn(shared, Lifecycle::Ready, Lifecycle::Reloading);
        Self(shared)
    }

    fn turn(shared: &Shared, from: Lifecycle, to: Lifecycle) {
        shared.lifecycle.send_if_modified(|now| {
            let turns = *now == from;
            if turns {
                *now = to;
            }
            turns
        });
    }
}

impl Drop for Reloading<'_> {
    fn drop(&mut self) {
        Self::turn(self.0, Lifecycle::Reloading, Lifecycle::Ready);
    }
}

/// Whether a flow that went the one way may stay open where a new one would go the other. A profile
/// that is not connected for a while is still the way.
fn is_same_way(old: &Verdict, new: &Verdict) -> bool {
    match (old, new) {
        (Verdict::Relay(old), Verdict::Relay(new))
        | (Verdict::Relay(old), Verdict::Refuse(Why::NotConnected(new, _)))
        | (Verdict::Relay(old), Verdict::Direct(Why::NotConnected(new, _))) => old == new,
        (Verdict::Direct(_), Verdict::Direct(_)) => true,
        _ => false,
    }
}
