mod display;
mod told;

pub use told::{decide_told, needs_name};

use crate::{
    Claim, Claims, DomainName, Host, Prefix, Profile, ProfileId, Profiles, Reason, Resolver,
    RouteSet, State, Target, UnavailableAction, World,
};

/// What happens to a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes through an upstream of this profile.
    Relay(ProfileId),
    /// It goes out as if offramp were not there.
    Direct(Why),
    /// It does not go out.
    Refuse(Why),
}

impl Verdict {
    /// The profile that is still connecting and makes this verdict a passing one: the flow may be
    /// held for a while and decided again.
    pub fn waits_for(&self) -> Option<&ProfileId> {
        match self {
            Verdict::Direct(Why::NotConnected(profile, State::Connecting))
            | Verdict::Refuse(Why::NotConnected(profile, State::Connecting)) => Some(profile),
            _ => None,
        }
    }
}

/// Why a flow is not relayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The target is this machine.
    Loopback,
    /// No profile claims the app.
    Unmanaged,
    /// The claiming profile excludes the target.
    Excluded(ProfileId, Exclusion),
    /// The claiming profile's rules are for other names alone (`MatchDomains`).
    OtherDomain(ProfileId),
    /// The claiming profile is not needed on this network.
    OnDemand(ProfileId),
    /// The claiming profile is not connected; its `UnavailableAction` chose the verdict.
    NotConnected(ProfileId, State),
    /// The app was started under this profile, which is disabled or gone.
    NotInForce(ProfileId),
    /// The claiming profile keeps its apps from resolvers of their own that encrypt
    /// (`RefuseEncryptedResolvers`), and the target is one.
    EncryptedResolver(ProfileId, Resolver),
}

impl Why {
    /// The profile whose word it is; none where no profile has said anything.
    pub fn profile(&self) -> Option<&ProfileId> {
        match self {
            Why::Excluded(profile, _)
            | Why::OtherDomain(profile)
            | Why::OnDemand(profile)
            | Why::NotConnected(profile, _)
            | Why::EncryptedResolver(profile, _)
            | Why::NotInForce(profile) => Some(profile),
            Why::Loopback | Why::Unmanaged => None,
        }
    }
}

/// What of a profile excludes a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// The name is within this one of `ExcludedDomains`, or is this one of `ExcludedFQDNs`.
    Domain(DomainName),
    /// The address is in this one of `ExcludedRoutes`, the longest if several.
    Route(Prefix),
    /// The address is in this local network.
    LocalNetwork(Prefix),
}

/// A verdict and the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What happens to the flow.
    pub verdict: Verdict,
    /// Every profile that was asked and what it said, in order.
    pub steps: Vec<Step>,
}

/// What one profile said about a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The profile that was asked.
    pub profile: ProfileId,
    /// The rule that claims the app, as its `Identifier`; none where no rule does.
    pub rule: Option<String>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of asking one profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has `Enabled: false` and was passed over.
    Disabled,
    /// None of its rules names the app.
    NoRule,
    /// It claims the app for other names alone (`MatchDomains`): the next one is asked.
    OtherDomain,
    /// It claims the app and excludes the target: the next one is asked.
    Excluded(Exclusion),
    /// It claims the app and is not needed on this network: the next one is asked.
    OnDemand,
    /// It claims the app and refuses the target, a resolver that encrypts.
    EncryptedResolver(Resolver),
    /// It claims the flow and is connected.
    Relay,
    /// It claims the flow and is not connected.
    NotConnected(State, UnavailableAction),
}

/// Decides what happens to a flow to `target` of an app with these claims. Never fails, and depends
/// on nothing but its arguments.
pub fn decide(profiles: &Profiles, claims: &Claims, target: &Target, world: &World) -> Decision {
    decide_host(profiles, claims, &target.host, Some(target.port), world)
}

/// Decides which way a name is for an app with these claims, for the answer to a lookup: a directly
/// reachable name gets the system's answer, that of a refused resolver is not to be found, any other
/// one gets an address that stands for the name.
pub fn decide_name(
    profiles: &Profiles,
    claims: &Claims,
    name: &DomainName,
    world: &World,
) -> Decision {
    decide_host(profiles, claims, &Host::Name(name.clone()), None, world)
}

/// The addresses that an app with these claims reaches directly, whatever the state of its
/// upstreams: what a class has as `throw` routes. Loopback is not listed; it is direct before any
/// route. A rule for some names alone (`MatchDomains`) claims no address, only what stands for a
/// name; where names have true addresses, any may stand for one.
pub fn direct_routes(profiles: &Profiles, claims: &Claims, world: &World) -> RouteSet {
    if not_in_force(profiles, claims).is_some() {
        return RouteSet::default();
    }
    profiles
        .iter()
        .filter(|profile| profile.enabled)
        .filter(|profile| {
            let mut rules = claims.of(profile);
            rules.any(|rule| profile.real_addresses || rule.domains == [&[], &[]])
        })
        .filter(|profile| world.state(&profile.id) != State::Disconnected(Reason::OnDemand))
        .fold(RouteSet::everything(), |direct, profile| {
            direct.intersection(&excluded_routes(profile, claims, world))
        })
}

/// Whether all rules that name an app are in force. Where one is not, the app is to be recognised
/// anew, and does not go out until then.
pub fn is_in_force(profiles: &Profiles, claims: &Claims) -> bool {
    gone_rule(profiles, claims).is_none()
}

fn decide_host(
    profiles: &Profiles,
    claims: &Claims,
    host: &Host,
    port: Option<u16>,
    world: &World,
) -> Decision {
    if is_loopback(host) {
        return Decision {
            verdict: Verdict::Direct(Why::Loopback),
            steps: Vec::new(),
        };
    }
    decide_by(profiles, claims, |profile| {
        ask(profile, claims, &[host], port, world)
    })
}

/// Asks the profiles in order.
fn decide_by(
    profiles: &Profiles,
    claims: &Claims,
    ask: impl Fn(&Profile) -> (Option<String>, Outcome),
) -> Decision {
    let mut steps = Vec::new();
    let mut passed = None;
    for profile in profiles.iter() {
        let (rule, outcome) = ask(profile);
        let verdict = verdict_of(profile, &outcome, &mut passed);
        steps.push(Step {
            profile: profile.id.clone(),
            rule,
            outcome,
        });
        if let Some(verdict) = verdict {
            return Decision { verdict, steps };
        }
    }
    let verdict = match (not_in_force(profiles, claims), passed) {
        (Some(id), _) => Verdict::Refuse(Why::NotInForce(id.clone())),
        (None, passed) => Verdict::Direct(passed.unwrap_or(Why::Unmanaged)),
    };
    Decision { verdict, steps }
}

/// What one profile says, and the rule by which it claims the app. `hosts` is what the target is
/// known by.
fn ask(
    profile: &Profile,
    claims: &Claims,
    hosts: &[&Host],
    port: Option<u16>,
    world: &World,
) -> (Option<String>, Outcome) {
    if !profile.enabled {
        return (None, Outcome::Disabled);
    }
    let mut claiming = claims.of(profile).peekable();
    let Some(first) = claiming.peek().map(|rule| rule.name.clone()) else {
        return (None, Outcome::NoRule);
    };
    let is_for = |list: &[DomainName]| hosts.iter().any(|host| admit(list, host));
    let admitting = claiming.find(|rule| rule.domains.iter().all(|list| is_for(list)));
    let is_claimed = admitting.is_some();
    let own = profile.for_user(claims.user);
    let outcome = match (
        hosts
            .iter()
            .find_map(|host| exclusion(profile, claims, host, world)),
        world.state(&profile.id),
        hosts
            .iter()
            .find_map(|host| profile.refuses(host, port, is_claimed)),
    ) {
        (_, _, None) if !is_claimed => return (None, Outcome::OtherDomain),
        (Some(exclusion), ..) => Outcome::Excluded(exclusion),
        (None, State::Disconnected(Reason::OnDemand), _) => Outcome::OnDemand,
        (None, _, Some(resolver)) => Outcome::EncryptedResolver(resolver),
        (None, State::Connected | State::Reasserting, None) => Outcome::Relay,
        (None, state, None) => Outcome::NotConnected(state, own.unavailable()),
    };
    (Some(admitting.map_or(first, |rule| rule.name)), outcome)
}

/// Whether a rule that is for these names is for `host`; empty: it is for all.
fn admit(domains: &[DomainName], host: &Host) -> bool {
    match host {
        _ if domains.is_empty() => true,
        Host::Name(name) => domains.iter().any(|suffix| name.is_within(suffix)),
        Host::Address(_) => false,
    }
}

/// The verdict that an outcome settles; where the next profile is asked, notes why it `passed`.
fn verdict_of(profile: &Profile, outcome: &Outcome, passed: &mut Option<Why>) -> Option<Verdict> {
    let id = || profile.id.clone();
    match outcome {
        Outcome::Disabled | Outcome::NoRule => None,
        Outcome::OtherDomain => {
            passed.get_or_insert_with(|| Why::OtherDomain(id()));
            None
        }
        Outcome::Excluded(exclusion) => {
            passed.get_or_insert_with(|| Why::Excluded(id(), exclusion.clone()));
            None
        }
        Outcome::OnDemand => {
            passed.get_or_insert_with(|| Why::OnDemand(id()));
            None
        }
        Outcome::EncryptedResolver(resolver) => {
            let why = Why::EncryptedResolver(id(), resolver.clone());
            Some(Verdict::Refuse(why))
        }
        Outcome::Relay => Some(Verdict::Relay(id())),
        Outcome::NotConnected(state, UnavailableAction::Drop) => {
            Some(Verdict::Refuse(Why::NotConnected(id(), *state)))
        }
        Outcome::NotConnected(state, UnavailableAction::Direct) => {
            Some(Verdict::Direct(Why::NotConnected(id(), *state)))
        }
    }
}

/// The profile that claims the app and is not there any more, or has the rule no more. An app under
/// `offramp run` was promised that it would not go out by itself; one that a rule named has not been
/// recognised anew yet.
fn not_in_force<'a>(profiles: &Profiles, claims: &'a Claims) -> Option<&'a ProfileId> {
    let in_force = |id: &&ProfileId| profiles.find(id).is_some_and(|found| found.enabled);
    let wrapper = claims.wrapper.as_ref().filter(|id| !in_force(id));
    wrapper.or_else(|| gone_rule(profiles, claims))
}

fn gone_rule<'a>(profiles: &Profiles, claims: &'a Claims) -> Option<&'a ProfileId> {
    let in_force = |claim: &&Claim| {
        let profile = profiles.find(&claim.profile).filter(|found| found.enabled);
        profile.is_some_and(|profile| profile.has_rule(&claim.rule))
    };
    let gone = claims.rules.iter().find(|claim| !in_force(claim));
    gone.map(|claim| &claim.profile)
}

fn exclusion(profile: &Profile, claims: &Claims, host: &Host, world: &World) -> Option<Exclusion> {
    let own = profile.for_user(claims.user);
    match host {
        Host::Name(name) => profile
            .excluded_fqdns
            .iter()
            .filter(|exact| *exact == name)
            .chain(
                own.excluded_domains()
                    .filter(|suffix| name.is_within(suffix)),
            )
            .max_by_key(|suffix| suffix.as_str().len())
            .map(|suffix| Exclusion::Domain(suffix.clone())),
        Host::Address(address) => {
            let routes: RouteSet = own.excluded_routes().collect();
            let local = || {
                let known = own
                    .exclude_local_networks()
                    .then(|| world.local_networks())?;
                known.longest(*address).map(Exclusion::LocalNetwork)
            };
            routes
                .longest(*address)
                .map(Exclusion::Route)
                .or_else(local)
        }
    }
}

fn excluded_routes(profile: &Profile, claims: &Claims, world: &World) -> RouteSet {
    let own = profile.for_user(claims.user);
    let local = match own.exclude_local_networks() {
        true => world.local_networks().normalised(),
        false => Vec::new(),
    };
    own.excluded_routes().chain(local).collect()
}

fn is_loopback(host: &Host) -> bool {
    match host {
        // RFC 6761 section 6.3: localhost and all below it are this machine.
        Host::Name(name) => name.as_str() == "localhost" || name.as_str().ends_with(".localhost"),
        // Linux takes the unspecified address as this machine when something connects to it.
        Host::Address(address) => {
            let address = address.to_canonical();
            address.is_loopback() || address.is_unspecified()
        }
    }
}
