//! Forgets the classes that no process is of any more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use offramp_intercept::ClassId;
use offramp_rules::{Claims, Profiles};

use crate::ephemeral;
use crate::policy::Policy;
use crate::recognise::has_all_rules;
use crate::shared::Shared;

/// How long a class outlives its last app at least, for flows that wait to be accepted.
const SETTLED: Duration = Duration::from_secs(3);
/// Up to so many classes stay for the next process; each has routes of its own.
const SPARE: usize = 64;
/// And at most, for flows that do not end.
const LINGER: Duration = Duration::from_secs(300);

/// Classes whose apps have ended, and since when. What the apps sent last is still on its way.
#[derive(Default)]
pub(crate) struct Closing(BTreeMap<ClassId, Instant>);

impl Closing {
    /// Forgets the classes that nothing uses any more, with the profiles that were made for them.
    pub(crate) async fn sweep(&mut self, shared: &Shared) {
        let _changing = shared.changing.lock().await;
        let labelled = match shared.labelled() {
            Ok(labelled) => labelled,
            Err(error) => {
                return tracing::warn!(error = crate::chain(&error), "no list of apps");
            }
        };
        // What is undecided inherits what it was before.
        let before: BTreeSet<ClassId> = labelled
            .values()
            .flatten()
            .filter_map(|process| process.label.before())
            .collect();
        let policy = shared.policy();
        let rules = &policy.rules;
        let classes = shared.classes();
        let is_crowded = classes.len() > SPARE;
        for (class, claims) in classes {
            let stays = !is_crowded && stays(&claims, &policy, rules);
            if labelled.contains_key(&class) || before.contains(&class) || stays {
                self.0.remove(&class);
                continue;
            }
            let since = self.0.entry(class).or_insert_with(Instant::now).elapsed();
            let busy = shared.flows.has_any(&claims) && since < LINGER;
            if busy || since < SETTLED {
                continue;
            }
            self.0.remove(&class);
            remove_class(shared, class, &claims).await;
        }
    }
}

/// Whether the next process may have these claims again.
fn stays(claims: &Claims, policy: &Policy, rules: &Profiles) -> bool {
    let lasting = claims
        .wrapper
        .as_ref()
        .is_none_or(|profile| policy.loaded.find(profile).is_some());
    lasting && has_all_rules(claims, rules)
}

async fn remove_class(shared: &Shared, class: ClassId, claims: &Claims) {
    shared.forget_class(class);
    if let Some(profile) = &claims.wrapper
        && !shared.is_used(profile)
        && shared.remove_ephemeral(profile)
    {
        ephemeral::forget(&shared.config.ephemeral(), profile);
        shared.reload_ephemeral().await;
    }
    shared.approvals.forget(class).await;
    if let Err(error) = shared.capture.remove_class(class).await {
        tracing::warn!(class = %class, error = crate::chain(&error), "class not removed");
    }
}
