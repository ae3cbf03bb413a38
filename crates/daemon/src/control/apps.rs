//! `offramp apps`: the running processes that profiles claim.

use std::sync::Arc;

use offramp_control::{AppClaim, ClaimedBy, RunningApp, Way};
use offramp_intercept::{Label, Labelled};
use offramp_rules::{App, Claims, Profiles, Program, Target, claims, decide};

use super::explain::{login, way};
use super::{Desk, scope};
use crate::api::Peer;
use crate::shared::{ANYWHERE, Shared};

impl Desk {
    /// Those that this user may see, by number.
    pub(super) async fn running_apps(&self, peer: &Peer) -> Vec<RunningApp> {
        let (shared, uid) = (Arc::clone(&self.shared), scope(peer));
        let look = tokio::task::spawn_blocking(move || look(&shared, uid));
        let mut apps: Vec<_> = look
            .await
            .unwrap_or_default()
            .into_iter()
            .map(|(process, app, claims)| self.running_app(&process, &app, &claims))
            .collect();
        apps.sort_by_key(|app| app.pid);
        apps
    }

    fn running_app(&self, process: &Labelled, app: &App, claims: &Claims) -> RunningApp {
        let policy = self.shared.policy();
        let world = Arc::clone(&self.shared.world.borrow());
        let anywhere = Target {
            host: ANYWHERE,
            port: 443,
        };
        let verdict = decide(&policy.rules, claims, &anywhere, &world).verdict;
        let (class, way, verdict) = match process.label {
            Label::Class(class) => (Some(class.number()), way(&verdict), verdict.to_string()),
            Label::Undecided { .. } => (None, Way::Refused, "waits to be recognised".to_owned()),
        };
        RunningApp {
            pid: process.pid,
            uid: app.user.id,
            user: login(app.user.id),
            program: app.executable.as_ref().map(shown).unwrap_or_default(),
            script: app.script.as_ref().map(shown),
            claims: how(&policy.rules, app, claims),
            class,
            way,
            verdict,
        }
    }
}

fn look(shared: &Shared, uid: Option<u32>) -> Vec<(Labelled, App, Arc<Claims>)> {
    let labelled = shared.capture.labelled().unwrap_or_default();
    let own = labelled.into_iter().filter_map(|process| {
        let app = shared.facts.of_process(process.pid)?;
        let claims = shared.carried(&process)?;
        Some((process, app, claims))
    });
    own.filter(|(_, app, _)| uid.is_none_or(|uid| uid == app.user.id))
        .collect()
}

fn shown(program: &Program) -> String {
    program.to_string()
}

/// The claims in the order in which their profiles are asked, with how each came about.
fn how(profiles: &Profiles, app: &App, carried: &Claims) -> Vec<AppClaim> {
    // What names the app by itself, its ancestors left aside.
    let above = Claims {
        below: carried.below.clone(),
        ..Claims::default()
    };
    let own = claims(profiles, app, &above).rules;
    let wrapper = carried.wrapper.iter().map(|profile| AppClaim {
        profile: profile.to_string(),
        rule: None,
        by: ClaimedBy::Wrapper,
    });
    let rules = carried.rules.iter().map(|claim| AppClaim {
        profile: claim.profile.to_string(),
        rule: Some(claim.label()),
        by: match own.contains(claim) {
            true => ClaimedBy::Rule,
            false => ClaimedBy::Inheritance,
        },
    });
    let below = carried.below.iter().map(|claim| AppClaim {
        profile: claim.profile.to_string(),
        rule: Some(claim.label()),
        by: ClaimedBy::Tools,
    });
    let mut all: Vec<_> = wrapper.chain(rules).chain(below).collect();
    let place = |claim: &AppClaim| {
        let mut ids = profiles.iter().map(|profile| profile.id.as_str());
        ids.position(|id| id == claim.profile)
    };
    all.sort_by_key(|claim| place(claim).unwrap_or(usize::MAX));
    all
}

#[cfg(test)]
mod tests {
    use offramp_rules::{Claim, ProfileId};

    use super::*;

    #[test]
    fn each_claim_says_how_it_came_about() {
        let claim = |rule: &str| Claim {
            profile: ProfileId::new("work"),
            rule: rule.into(),
            tool: None,
        };
        let carried = Claims {
            wrapper: Some(ProfileId::new("home")),
            rules: [claim("exe:curl")].into(),
            below: [claim("exe:bash")].into(),
            ..Claims::default()
        };
        let found = how(&Profiles::default(), &App::default(), &carried);
        let told: Vec<_> = found
            .iter()
            .map(|claim| (claim.profile.as_str(), claim.rule.as_deref(), claim.by))
            .collect();
        assert_eq!(
            told,
            [
                ("home", None, ClaimedBy::Wrapper),
                ("work", Some("exe:curl"), ClaimedBy::Inheritance),
                ("work", Some("exe:bash"), ClaimedBy::Tools),
            ]
        );
    }
}
