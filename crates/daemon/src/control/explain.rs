//! `offramp explain`: why a flow goes the way it goes, told by the functions that decide.

mod case;
mod decided;
#[cfg(test)]
mod fuzz;
mod known;
mod open;
mod wanted;

use offramp_control::{Code, ExplainRequest, Explanation, Finding, KernelView, Refusal, Way};
use offramp_intercept::Label;
use offramp_rules::{Claims, Found, Profile, ProfileId, claims, examine};

use self::case::Case;
pub(super) use self::decided::way;
pub(super) use self::known::login;
use self::open::open;
use self::wanted::Wanted;
use super::{Desk, scope, sees};
use crate::api::Peer;
use crate::approvals::Shown;
use crate::policy::Policy;

impl Desk {
    pub(super) async fn explanation(
        &self,
        peer: &Peer,
        request: ExplainRequest,
    ) -> Result<Explanation, Refusal> {
        let wanted = request.target.as_ref().map(Wanted::read).transpose()?;
        let shown = self.shared.approvals.shown(scope(peer)).await;
        match (request.subject, wanted) {
            (Some(subject), wanted) => {
                let case = self.case(peer, &subject).await?;
                Ok(self.of_app(peer, case, wanted, &shown))
            }
            (None, Some(wanted)) => Ok(self.of_profiles(peer, &wanted, &shown)),
            (None, None) => {
                let message = "neither an app nor a target is asked about";
                Err(Refusal::new(Code::BadRequest, message))
            }
        }
    }

    /// What becomes of a flow of one app.
    fn of_app(
        &self,
        peer: &Peer,
        case: Case,
        wanted: Option<Wanted>,
        shown: &[Shown],
    ) -> Explanation {
        let policy = self.shared.policy();
        let found = match &case.app {
            Some(app) if !case.is_left_alone() => claims(&policy.rules, app, &case.inherited),
            Some(_) => Claims::default(),
            // The flow has outlived its process.
            None => Claims::clone(&case.inherited),
        };
        let findings = case.app.iter().flat_map(|app| {
            let inherited = case.inherited.wrapper.as_ref().map(by_wrapper);
            let findings = examine(&policy.rules, app, &case.inherited);
            let rules = findings
                .into_iter()
                .filter(|finding| is_visible(&policy, peer, &finding.claim.profile))
                .filter(|finding| {
                    sees_rule(&policy, peer, &finding.claim.profile, &finding.claim.rule)
                })
                .map(by_rule);
            inherited.into_iter().chain(rules)
        });
        let findings = findings.collect();
        let wanted = wanted.or(case.target).unwrap_or_else(Wanted::anywhere);
        let mut notes = case.notes;
        if let Some(class) = self.shared.find_class(&found) {
            notes.extend(open(shown, &wanted, Some(class)));
        }
        let asker = case.uid.unwrap_or(peer.uid);
        let mut decided = self.decided(peer, &policy, &found, asker, &wanted);
        if case.is_elsewhere && !found.is_empty() {
            decided.way = Way::Refused;
            decided.verdict = "refuse: another network namespace is open to managed apps on its \
                               loopback alone"
                .into();
        }
        Explanation {
            subject: case.subject,
            facts: case.facts,
            findings,
            kernel: case
                .label
                .map(|label| self.kernel(label.map(|label| label.label), &found)),
            decisions: vec![decided],
            notes,
        }
    }

    /// What each profile makes of a target, whatever its rules name.
    fn of_profiles(&self, peer: &Peer, wanted: &Wanted, shown: &[Shown]) -> Explanation {
        let policy = self.shared.policy();
        let visible = policy
            .rules
            .iter()
            .filter(|profile| sees_profile(peer, profile));
        let decisions: Vec<_> = visible
            .filter(|profile| profile.enabled)
            .map(|profile| {
                let as_if = Claims {
                    wrapper: Some(profile.id.clone()),
                    user: profile.overlays.contains_key(&peer.uid).then_some(peer.uid),
                    ..Claims::default()
                };
                let mut decided = self.decided(peer, &policy, &as_if, peer.uid, wanted);
                decided.profile = Some(profile.id.to_string());
                decided.steps.retain(|step| step.rule.is_some());
                decided
            })
            .collect();
        let limited = policy
            .rules
            .iter()
            .filter(|profile| sees_profile(peer, profile));
        let mut notes: Vec<String> = limited
            .filter_map(|profile| of_some_names(&policy, peer, profile))
            .collect();
        notes.extend(open(shown, wanted, None));
        if decisions.is_empty() {
            notes.push("no profile is in force".into());
        }
        Explanation {
            subject: format!("{}, as if an app of each profile asked", wanted.shown),
            facts: Vec::new(),
            findings: Vec::new(),
            kernel: None,
            decisions,
            notes,
        }
    }

    /// What the kernel has for a process that the rules come to `found` for.
    fn kernel(&self, label: Option<Label>, found: &Claims) -> KernelView {
        let class = match label {
            Some(Label::Class(class)) => Some(class),
            _ => None,
        };
        let has = class.map(|class| self.shared.class(class).unwrap_or_default());
        let (agrees, sentence) = match (label, &has) {
            (None, _) if found.is_empty() => (
                true,
                "has no class for the process, as the rules say".to_owned(),
            ),
            (None, _) => {
                let message = format!("has no class for the process; the rules say {found}");
                (false, message)
            }
            (Some(Label::Undecided { .. }), _) => {
                let message = "has asked about the process, and refuses it until it is answered";
                (true, message.to_owned())
            }
            (Some(Label::Class(class)), Some(has)) if **has == *found => {
                let class = class.number();
                (
                    true,
                    format!("has the process in class {class} ({has}), as the rules say"),
                )
            }
            (Some(Label::Class(class)), has) => {
                let (class, has) = (class.number(), has.clone().unwrap_or_default());
                let message =
                    format!("has the process in class {class} ({has}); the rules say {found}");
                (false, message)
            }
        };
        KernelView {
            class: class.map(|class| class.number()),
            agrees,
            sentence,
        }
    }
}

fn by_wrapper(profile: &ProfileId) -> Finding {
    Finding {
        profile: profile.to_string(),
        rule: Some(format!("wrapper:{profile}")),
        matches: true,
        sentence: "offramp run started the app, or an ancestor of it".into(),
    }
}

fn by_rule(finding: offramp_rules::Finding) -> Finding {
    Finding {
        profile: finding.claim.profile.to_string(),
        rule: Some(finding.claim.label()),
        matches: matches!(finding.found, Found::Matches | Found::Inherited),
        sentence: finding.sentence,
    }
}

/// Which rules of a profile are for some names alone.
fn of_some_names(policy: &Policy, peer: &Peer, profile: &Profile) -> Option<String> {
    let rules = profile.rules.iter().filter(|rule| {
        rule.is_for_domains() && sees_rule(policy, peer, &profile.id, &rule.identifier)
    });
    let names: Vec<_> = rules.map(|rule| rule.identifier.as_str()).collect();
    (!names.is_empty()).then(|| {
        format!(
            "{}: what {} names alone is under it for its MatchDomains only",
            profile.id,
            names.join(", ")
        )
    })
}

fn is_visible(policy: &Policy, peer: &Peer, id: &ProfileId) -> bool {
    let profile = policy.rules.find(id);
    profile.is_none_or(|profile| sees_profile(peer, profile))
}

/// Nobody is told which browsers others have installed for themselves.
fn sees_rule(policy: &Policy, peer: &Peer, profile: &ProfileId, rule: &str) -> bool {
    let owner = policy.browser_owner(profile, rule);
    owner.is_none_or(|owner| sees(peer, owner))
}

fn sees_profile(peer: &Peer, profile: &Profile) -> bool {
    profile.owner.is_none_or(|owner| sees(peer, owner))
}

/// A number that may be a process or a flow.
fn both(number: u64) -> String {
    format!("there is a flow {number} too: `offramp explain flow:{number}`")
}

fn no_process(pid: u64) -> Refusal {
    Refusal::new(Code::NotFound, format!("there is no process {pid}"))
}

fn no_flow(id: u64) -> Refusal {
    Refusal::new(Code::NotFound, format!("there is no live flow {id}"))
        .hint("`offramp flows` shows those that there are")
}
