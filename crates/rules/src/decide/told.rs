//! Flows to an address that the app chose itself, of which a name is told besides.

use super::{ask, decide, decide_by, exclusion, is_loopback};
use crate::{Claims, Decision, DomainName, Host, Profile, Profiles, Reason, State, Target, World};

/// Decides about a flow to a `target` known by its address, of which the app has told that it is
/// meant for `name`. What is excluded or refused by its address stays so; the name excludes, refuses
/// and admits besides. Who told it may lie: whoever calls this has to doubt it before a flow goes
/// directly.
pub fn decide_told(
    profiles: &Profiles,
    claims: &Claims,
    target: &Target,
    name: &DomainName,
    world: &World,
) -> Decision {
    if is_loopback(&target.host) {
        return decide(profiles, claims, target, world);
    }
    let hosts = [&target.host, &Host::Name(name.clone())];
    decide_by(profiles, claims, |profile| {
        ask(profile, claims, &hosts, Some(target.port), world)
    })
}

/// Whether to know a name could change the verdict on a flow to a `target` known by its address:
/// whether a profile that is asked claims the app for some names alone, or excludes or refuses some.
/// Where not, [`decide_told`] says of every name what [`decide`] says of the address.
pub fn needs_name(profiles: &Profiles, claims: &Claims, target: &Target, world: &World) -> bool {
    let host = &target.host;
    if target.address().is_none() || is_loopback(host) {
        return false;
    }
    for profile in profiles.iter().filter(|profile| profile.enabled) {
        let mut claiming = claims.of(profile).peekable();
        if claiming.peek().is_none()
            || world.state(&profile.id) == State::Disconnected(Reason::OnDemand)
            || exclusion(profile, claims, host, world).is_some()
        {
            // The next one is asked, whatever the name.
            continue;
        }
        let is_for_all = claiming.any(|rule| rule.domains == [&[], &[]]);
        return !is_for_all || profile.refuse_encrypted || excludes_names(profile, claims);
    }
    false
}

fn excludes_names(profile: &Profile, claims: &Claims) -> bool {
    let own = profile.for_user(claims.user);
    !profile.excluded_fqdns.is_empty() || own.excluded_domains().next().is_some()
}
