//! `offramp explain`: why a flow goes the way it goes, told by the functions that decide.

mod case;
mod known;
mod wanted;

use std::sync::Arc;

use offramp_control::{
    Code, Decided, DecidedStep, ExplainRequest, Explanation, Finding, KernelView, Refusal, Way,
};
use offramp_intercept::Label;
use offramp_rules::{
    Claims, Decision, Found, Host, Profile, ProfileId, Target, Verdict, Why, World, claims, decide,
    decide_name, examine,
};

use self::case::Case;
pub(super) use self::known::login;
use self::wanted::Wanted;
use super::{Desk, sees};
use crate::api::Peer;
use crate::policy::{Book, Policy};

impl Desk {
    pub(super) async fn explanation(
        &self,
        peer: &Peer,
        request: ExplainRequest,
    ) -> Result<Explanation, Refusal> {
        let wanted = request.target.as_ref().map(Wanted::read).transpose()?;
        match (request.subject, wanted) {
            (Some(subject), wanted) => {
                let case = self.case(peer, &subject).await?;
                Ok(self.of_app(peer, case, wanted))
            }
            (None, Some(wanted)) => Ok(self.of_profiles(peer, &wanted)),
            (None, None) => {
                let message = "neither an app nor a target is asked about";
                Err(Refusal::new(Code::BadRequest, message))
            }
        }
    }

    /// What becomes of a flow of one app.
    fn of_app(&self, peer: &Peer, case: Case, wanted: Option<Wanted>) -> Explanation {
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
                .map(by_rule);
            inherited.into_iter().chain(rules)
        });
        let findings = findings.collect();
        let wanted = wanted.or(case.target).unwrap_or_else(Wanted::anywhere);
        let mut decided = self.decided(peer, &policy, &found, &wanted);
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
            notes: case.notes,
        }
    }

    /// What each profile makes of a target, whatever its rules name.
    fn of_profiles(&self, peer: &Peer, wanted: &Wanted) -> Explanation {
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
                let mut decided = self.decided(peer, &policy, &as_if, wanted);
                decided.profile = Some(profile.id.to_string());
                decided.steps.retain(|step| step.rule.is_some());
                decided
            })
            .collect();
        let limited = policy
            .rules
            .iter()
            .filter(|profile| sees_profile(peer, profile));
        let mut notes: Vec<String> = limited.filter_map(of_some_names).collect();
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

    fn decided(&self, peer: &Peer, policy: &Policy, claims: &Claims, wanted: &Wanted) -> Decided {
        let world = Arc::clone(&self.shared.world.borrow());
        let stands_for = stands_for(policy, claims, &wanted.host);
        let (host, note) = match &stands_for {
            Some((address, Some(name))) => (
                name.clone(),
                Some(format!("{address} stands for {name}", name = shown(name))),
            ),
            Some((address, None)) => {
                return Decided {
                    profile: None,
                    target: wanted.shown.clone(),
                    steps: Vec::new(),
                    way: Way::Refused,
                    verdict: format!("refuse: {address} stands for no name any more"),
                    note: None,
                };
            }
            None => (wanted.host.clone(), None),
        };
        let decision = decision(policy, claims, &host, wanted, &world);
        let steps = decision.steps.iter();
        Decided {
            profile: None,
            target: wanted.shown.clone(),
            steps: steps
                .filter(|step| is_visible(policy, peer, &step.profile))
                .map(|step| DecidedStep {
                    profile: step.profile.to_string(),
                    rule: step.rule.clone(),
                    sentence: without_name(&step.to_string(), &step.profile),
                })
                .collect(),
            way: way(&decision.verdict),
            note: note.or_else(|| self.of_names(policy, &host, &decision)),
            verdict: self.words(policy, &decision.verdict),
        }
    }

    /// A verdict, with what the upstream says of itself.
    fn words(&self, policy: &Policy, verdict: &Verdict) -> String {
        match verdict {
            Verdict::Relay(profile) => match policy.active.get(profile) {
                Some(active) if !active.carries_udp() => {
                    format!("{verdict}; UDP is refused: the server does not carry it")
                }
                _ => verdict.to_string(),
            },
            Verdict::Direct(why) => format!("direct: {}", self.shared.explain(why)),
            Verdict::Refuse(why) => format!("refuse: {}", self.shared.explain(why)),
        }
    }

    /// What a look-up of the name is answered.
    fn of_names(&self, policy: &Policy, host: &Host, decision: &Decision) -> Option<String> {
        let Host::Name(name) = host else { return None };
        match &decision.verdict {
            Verdict::Direct(Why::Unmanaged | Why::Loopback) => None,
            Verdict::Direct(_) if decision.steps.is_empty() => None,
            Verdict::Direct(_) => Some(format!(
                "a look-up of {name} is answered by the system's resolver"
            )),
            Verdict::Refuse(Why::NotInForce(_)) => Some(format!("a look-up of {name} is refused")),
            Verdict::Relay(_) | Verdict::Refuse(_) if policy.books().next().is_some() => Some(
                format!("a look-up of {name} is answered by an address that stands for the name"),
            ),
            Verdict::Relay(_) | Verdict::Refuse(_) => None,
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

fn decision(
    policy: &Policy,
    claims: &Claims,
    host: &Host,
    wanted: &Wanted,
    world: &World,
) -> Decision {
    match (host, wanted.port) {
        (Host::Name(name), None) => decide_name(&policy.rules, claims, name, world),
        (host, port) => {
            let target = Target {
                host: host.clone(),
                port: port.unwrap_or_default(),
            };
            decide(&policy.rules, claims, &target, world)
        }
    }
}

/// The address and the name that it stands for, where such an app takes it for one that does.
fn stands_for(
    policy: &Policy,
    claims: &Claims,
    host: &Host,
) -> Option<(std::net::IpAddr, Option<Host>)> {
    let Host::Address(address) = host else {
        return None;
    };
    if claims.is_empty() || claims.is_only_above() {
        return None;
    }
    let book: &Book = policy.book(claims)?;
    let is_name = book.names.contains(*address);
    is_name.then(|| (*address, book.names.name_of(*address).map(Host::Name)))
}

fn shown(host: &Host) -> String {
    match host {
        Host::Name(name) => name.to_string(),
        Host::Address(address) => address.to_string(),
    }
}

/// Of what `decide` says of a step, that which follows the profile's name.
fn without_name(sentence: &str, profile: &ProfileId) -> String {
    let prefix = format!("{profile}: ");
    sentence
        .strip_prefix(&prefix)
        .unwrap_or(sentence)
        .to_owned()
}

pub(super) fn way(verdict: &Verdict) -> Way {
    match verdict {
        Verdict::Relay(_) => Way::Relay,
        Verdict::Direct(_) => Way::Direct,
        Verdict::Refuse(_) => Way::Refused,
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
fn of_some_names(profile: &Profile) -> Option<String> {
    let rules = profile.rules.iter().filter(|rule| rule.is_for_domains());
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
