use offramp_rules::{
    Claims, Decision, DomainName, ProfileId, Profiles, Target, Verdict, World, decide, decide_told,
};

use super::{By, Known};

/// What is decided about a flow to an address that its app was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) decision: Decision,
    /// The name that has decided.
    pub(crate) name: Option<DomainName>,
    /// Whether a name that the app itself says in the flow could change the decision.
    pub(crate) may_change: bool,
}

/// One of the names, or the address alone, with what is decided by it.
type Candidate = (Decision, Option<DomainName>);

/// Decides about a flow to an address that its app was told of these names, by those of them that
/// could be meant. `seen` is what the app says in the flow itself: anybody can say anything there, so
/// it tells names that were told apart, and opens no direct way that they do not.
pub(crate) fn choose(
    profiles: &Profiles,
    claims: &Claims,
    world: &World,
    target: &Target,
    known: &Known,
    seen: Option<&DomainName>,
) -> Choice {
    let by_name = |name: &DomainName| decide_told(profiles, claims, target, name, world);
    let by_address = decide(profiles, claims, target, world);
    let mut candidates: Vec<Candidate> = known
        .names
        .iter()
        .map(|(name, by)| match (by_name(name), by) {
            // Where the far side says that a name is opens no direct way to there.
            (decision, By::Far) if is_direct(&decision) => (by_address.clone(), None),
            (decision, _) => (decision, Some(name.clone())),
        })
        .collect();
    if known.more || candidates.is_empty() {
        candidates.push((by_address.clone(), None));
    }
    let meant = seen.and_then(|seen| {
        let told = candidates
            .iter()
            .find(|(_, name)| name.as_ref() == Some(seen));
        let said = || (by_name(seen), Some(seen.clone()));
        told.cloned()
            .or_else(|| Some(said()).filter(|(said, _)| !is_direct(said)))
    });
    let may_change = seen.is_none() && may_change(&candidates);
    let (decision, name) = meant.unwrap_or_else(|| first(profiles, candidates));
    Choice {
        decision,
        name,
        may_change,
    }
}

/// Whether names go several ways, or the only way may be a wrong direct one.
fn may_change(candidates: &[Candidate]) -> bool {
    let mut ways = candidates
        .iter()
        .map(|(decision, _)| way(&decision.verdict));
    let first = ways.next().flatten();
    first.is_none() || ways.any(|way| way != first)
}

/// What is decided where nothing tells the names apart: what may be meant for a profile goes that
/// profile's way.
fn first(profiles: &Profiles, candidates: Vec<Candidate>) -> Candidate {
    let place = |(decision, _): &Candidate| match way(&decision.verdict) {
        Some(id) => profiles.iter().position(|profile| profile.id == *id),
        None => Some(usize::MAX),
    };
    let first = candidates.into_iter().min_by_key(place);
    first.expect("there is one: the address, or a name")
}

fn is_direct(decision: &Decision) -> bool {
    matches!(decision.verdict, Verdict::Direct(_))
}

/// The profile that a flow is for; none: it goes directly.
fn way(verdict: &Verdict) -> Option<&ProfileId> {
    match verdict {
        Verdict::Direct(_) => None,
        Verdict::Relay(profile) => Some(profile),
        Verdict::Refuse(why) => why.profile(),
    }
}
