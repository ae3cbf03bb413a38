//! A decision, as `decide` made it.

use std::net::IpAddr;
use std::sync::Arc;

use offramp_control::{Decided, DecidedStep, Way};
use offramp_rules::{
    Claims, Decision, Host, ProfileId, Target, Verdict, Why, World, decide, decide_name,
};

use super::wanted::Wanted;
use super::{Desk, is_visible};
use crate::api::Peer;
use crate::policy::{Book, Policy};
use crate::told::{By, Known, choose};

impl Desk {
    pub(super) fn decided(
        &self,
        peer: &Peer,
        policy: &Policy,
        claims: &Claims,
        asker: u32,
        wanted: &Wanted,
    ) -> Decided {
        let world = Arc::clone(&self.shared.world.borrow());
        let stands_for = stands_for(policy, claims, &wanted.host, asker);
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
        let told = self.told(asker, claims, &host);
        let (decision, note) = match &told {
            Some((known, told)) => {
                let port = wanted.port.unwrap_or_default();
                let target = Target {
                    host: host.clone(),
                    port,
                };
                let choice = choose(&policy.rules, claims, &world, &target, known, None);
                (choice.decision, Some(told.clone()))
            }
            None => (decision(policy, claims, &host, wanted, &world), note),
        };
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
            note: note.or_else(|| {
                let book = policy.book(claims);
                of_names(policy, &host, &decision.verdict, (book, asker))
            }),
            verdict: self.words(policy, &decision.verdict),
        }
    }

    /// The names that the app was told of an address, for the decision and in words.
    fn told(&self, uid: u32, claims: &Claims, host: &Host) -> Option<(Known, String)> {
        let Host::Address(address) = host else {
            return None;
        };
        let claims = Arc::new(claims.clone());
        let known = self.shared.told.known(uid, &claims, *address)?;
        let names = known.names.iter().map(|(name, by)| match by {
            By::Far => name.to_string(),
            By::System => format!("{name} (by the system's resolver)"),
        });
        let more = known.more.then(|| "others".to_owned());
        let names: Vec<_> = names.chain(more).collect();
        let told = format!("apps like it were told {address} for {}", names.join(", "));
        Some((known, told))
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
}

/// What a look-up of the name is answered; see `AppLookup::way`.
fn of_names(
    policy: &Policy,
    host: &Host,
    verdict: &Verdict,
    (book, asker): (Option<&Book>, u32),
) -> Option<String> {
    let Host::Name(name) = host else { return None };
    let answer = match verdict {
        Verdict::Direct(Why::Unmanaged | Why::Loopback) => return None,
        Verdict::Direct(Why::Excluded(..) | Why::OtherDomain(_) | Why::OnDemand(_)) => {
            "answered by the system's resolver"
        }
        Verdict::Refuse(Why::NotInForce(_)) => "refused",
        Verdict::Refuse(Why::EncryptedResolver(..)) => "that there is no such name",
        Verdict::Relay(profile) | Verdict::Refuse(Why::NotConnected(profile, _))
            if policy
                .rules
                .find(profile)
                .is_some_and(|own| own.real_addresses) =>
        {
            "answered by true addresses, as the far side resolves it"
        }
        _ => {
            let known = book.map(|book| book.names.addresses_of(name, asker));
            let known: Vec<_> = known.iter().flatten().map(ToString::to_string).collect();
            let known = match known.is_empty() {
                true => format!("none yet: no app of user {asker} has asked"),
                false => known.join(", "),
            };
            return Some(format!(
                "a look-up of {name} is answered by an address that stands for the name ({known})"
            ));
        }
    };
    Some(format!("a look-up of {name} is {answer}"))
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

/// The address and the name that it stands for, where such an app of this user takes it for one that
/// does.
fn stands_for(
    policy: &Policy,
    claims: &Claims,
    host: &Host,
    asker: u32,
) -> Option<(IpAddr, Option<Host>)> {
    let Host::Address(address) = host else {
        return None;
    };
    if claims.is_empty() || claims.is_only_above() {
        return None;
    }
    let book: &Book = policy.book(claims)?;
    let is_name = book.names.contains(*address);
    is_name.then(|| (*address, book.names.peek(*address, asker).map(Host::Name)))
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

pub(in crate::control) fn way(verdict: &Verdict) -> Way {
    match verdict {
        Verdict::Relay(_) => Way::Relay,
        Verdict::Direct(_) => Way::Direct,
        Verdict::Refuse(_) => Way::Refused,
    }
}
