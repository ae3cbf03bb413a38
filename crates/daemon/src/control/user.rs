//! The profiles that users have of their own.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use offramp_control::{Code, Refusal, UserAnswer, UserFile, UserFiles};
use offramp_profile::{ChangeError, Installed, Problem, Profile};
use offramp_rules::ProfileId;

use super::{Desk, invalid, problem, sees};
use crate::api::Peer;

/// How often the rules of the whole machine may be looked at again for the sake of one user.
const CHANGES: u32 = 30;
const WITHIN: Duration = Duration::from_secs(60);

/// When the count of a user began, and how many changes there were since.
static COUNTS: LazyLock<Mutex<HashMap<u32, (Instant, u32)>>> = LazyLock::new(Mutex::default);

impl Desk {
    /// Puts what a user gives in the place of what the user gave before.
    pub(super) async fn take_files(
        &self,
        peer: &Peer,
        files: UserFiles,
    ) -> Result<UserAnswer, Refusal> {
        if !peer.is_root() && !may_change(peer.uid, Instant::now()) {
            let message = format!("your profiles have changed {CHANGES} times within a minute");
            return Err(Refusal::new(Code::LimitReached, message).hint("try again in a minute"));
        }
        let directories = self.shared.config.directories();
        let (uid, users) = (peer.uid, directories.users.clone());
        let users = users.ok_or_else(|| {
            Refusal::new(Code::NotSupported, "this daemon keeps no profiles of users")
        })?;
        let files = offramp_profile::UserFiles {
            policies: files.policies.into_iter().map(given).collect(),
            credentials: files.credentials.into_iter().map(given).collect(),
        };
        let install = move || offramp_profile::install_user(&users, uid, &files).map_err(Box::new);
        let installed = tokio::task::spawn_blocking(install).await;
        let changed = match installed {
            Ok(Ok(Installed::Installed(_))) => true,
            Ok(Ok(Installed::Unchanged(_))) => false,
            Ok(Err(error)) => {
                if let ChangeError::Invalid(problems) = &*error {
                    return Err(invalid(problems));
                }
                // Where the daemon keeps them is of no use to the user.
                tracing::error!(
                    uid,
                    error = crate::chain(&error),
                    "profiles of a user not kept"
                );
                return Err(Refusal::new(Code::Unavailable, "cannot keep your profiles"));
            }
            Err(_) => return Err(Refusal::new(Code::Internal, "cannot keep your profiles")),
        };
        if changed {
            tracing::info!(uid, "profiles of a user changed");
            self.shared.reload().await;
        }
        let policy = self.shared.policy();
        let own = policy
            .loaded
            .profiles
            .iter()
            .filter(|profile| profile.rules.owner == Some(uid));
        Ok(UserAnswer {
            changed,
            profiles: own.map(|profile| profile.identifier().to_owned()).collect(),
            problems: self.problems_of(uid),
        })
    }

    /// What is wrong with the files that this user has given.
    pub(super) fn problems_of(&self, uid: u32) -> Vec<offramp_control::Problem> {
        let directories = self.shared.config.directories();
        let policy = self.shared.policy();
        let is_own = |found: &&Problem| {
            let file = found.file.as_deref();
            file.and_then(|file| directories.owner_of(file)) == Some(uid)
        };
        let own = policy.loaded.problems.iter().filter(is_own);
        own.map(|found| {
            let name = found.file.as_deref().and_then(|file| file.file_name());
            problem(&Problem {
                file: name.map(Into::into),
                ..found.clone()
            })
        })
        .collect()
    }

    /// The profile that a user means by a name, as it is known in the whole machine.
    pub(super) fn meant(&self, peer: &Peer, name: &str) -> ProfileId {
        let policy = self.shared.policy();
        let found = policy.loaded.find_for(peer.uid, name);
        found.map_or_else(|| ProfileId::new(name), |profile| profile.id().clone())
    }
}

/// Whether a profile is of the machine or the user's own.
pub(super) fn may_see(peer: &Peer, profile: &Profile) -> bool {
    profile.rules.owner.is_none_or(|owner| sees(peer, owner))
}

/// Whether a user may run commands under a profile.
pub(super) fn may_use(peer: &Peer, profile: &Profile) -> bool {
    profile.rules.owner.is_none_or(|owner| owner == peer.uid)
}

fn given(file: UserFile) -> offramp_profile::UserFile {
    offramp_profile::UserFile {
        name: file.name,
        content: file.content.0,
    }
}

fn may_change(uid: u32, now: Instant) -> bool {
    let mut counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    counts.retain(|_, (began, _)| now.saturating_duration_since(*began) < WITHIN);
    let (_, count) = counts.entry(uid).or_insert((now, 0));
    *count += 1;
    *count <= CHANGES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_may_change_again_after_a_while() {
        let (uid, other, now) = (u32::MAX - 1, u32::MAX - 2, Instant::now());
        let allowed = (0..CHANGES + 5).filter(|_| may_change(uid, now)).count();
        assert_eq!(allowed as u32, CHANGES);
        assert!(may_change(other, now), "users are counted apart");
        assert!(may_change(uid, now + WITHIN));
    }
}
