//! What a name that is told of an address changes.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use offramp_rules::{
    App, Claims, DomainName, Identity, Layer, Profile, ProfileId, Profiles, Rule, State, Target,
    UnavailableAction, World, claims, decide, decide_told, needs_name,
};

fn profile(id: &str, order: u32) -> Profile {
    Profile {
        layer: Layer::Managed,
        order,
        id: ProfileId::new(id),
        owner: None,
        enabled: true,
        rules: Vec::new(),
        excluded_domains: Vec::new(),
        excluded_fqdns: Vec::new(),
        excluded_routes: vec!["192.0.2.0/24".parse().unwrap()],
        exclude_local_networks: false,
        unavailable: UnavailableAction::Drop,
        real_addresses: false,
        refuse_encrypted: false,
        encrypted_resolvers: Vec::new(),
        overlays: BTreeMap::new(),
    }
}

fn names(names: &[&str]) -> Vec<DomainName> {
    let names = names.iter().map(|name| DomainName::parse(name).unwrap());
    names.collect()
}

/// `first` is for git.example.com alone; `second` for all, without example.org, and refuses
/// resolvers that encrypt.
fn both() -> Profiles {
    let wrapper = Identity::Wrapper(ProfileId::new("second"));
    let first = Profile {
        rules: vec![Rule {
            domains: names(&["git.example.com"]),
            ..Rule::new(wrapper)
        }],
        ..profile("first", 1)
    };
    let second = Profile {
        excluded_domains: names(&["example.org"]),
        refuse_encrypted: true,
        ..profile("second", 2)
    };
    Profiles::new([first, second])
}

fn started_under(profiles: &Profiles, wrapper: &str) -> Claims {
    let app = App {
        wrapper: Some(ProfileId::new(wrapper)),
        ..App::default()
    };
    claims(profiles, &app, &Claims::default())
}

fn connected() -> World {
    let mut world = World::default();
    for id in ["first", "second"] {
        world.set_state(ProfileId::new(id), State::Connected);
    }
    world
}

#[test]
fn a_name_chooses_excludes_and_refuses() {
    let (profiles, world) = (both(), connected());
    let claims = started_under(&profiles, "second");
    let verdict = |address: &str, name: &str| {
        let target = Target::from(address.parse::<std::net::SocketAddr>().unwrap());
        let [name] = &names(&[name])[..] else {
            unreachable!("one goes in");
        };
        assert!(needs_name(&profiles, &claims, &target, &world));
        let told = decide_told(&profiles, &claims, &target, name, &world);
        told.verdict.to_string()
    };
    for (address, name, expected) in [
        ("203.0.113.1:443", "git.example.com", "relay through first"),
        ("203.0.113.1:443", "www.example.com", "relay through second"),
        ("203.0.113.1:443", "localhost", "relay through second"),
        (
            "203.0.113.1:443",
            "www.example.org",
            "direct: first names the app for other targets alone (MatchDomains)",
        ),
        (
            "203.0.113.1:443",
            "dns.google",
            "refuse: second refuses dns.google, a resolver that encrypts (RefuseEncryptedResolvers)",
        ),
        (
            "8.8.8.8:443",
            "www.example.com",
            "refuse: second refuses 8.8.8.8/32, a resolver that encrypts (RefuseEncryptedResolvers)",
        ),
    ] {
        assert_eq!(verdict(address, name), expected, "{address} {name}");
    }
}

#[test]
fn nobody_asks_where_no_rule_needs_a_name() {
    let (profiles, world) = (both(), connected());
    let needs = |profiles: &Profiles, wrapper: &str, address: &str| {
        let target = address.parse::<std::net::SocketAddr>().unwrap().into();
        needs_name(profiles, &started_under(profiles, wrapper), &target, &world)
    };
    assert!(
        !needs(&profiles, "first", "203.0.113.1:443"),
        "it has no such key"
    );
    assert!(
        !needs(&profiles, "second", "192.0.2.1:443"),
        "excluded by its address"
    );
    assert!(!needs(&profiles, "second", "127.0.0.1:443"), "this machine");
    assert!(
        !needs(&profiles, "gone", "203.0.113.1:443"),
        "refused anyway"
    );
    let claims = started_under(&profiles, "second");
    let known = Target {
        host: offramp_rules::Host::Name(names(&["a.example.org"]).remove(0)),
        port: 443,
    };
    assert!(
        !needs_name(&profiles, &claims, &known, &world),
        "it is known"
    );
    let excluded = "192.0.2.1:443"
        .parse::<std::net::SocketAddr>()
        .unwrap()
        .into();
    let [git] = &names(&["git.example.com"])[..] else {
        unreachable!("one goes in");
    };
    let told = decide_told(&profiles, &claims, &excluded, git, &world).verdict;
    let by_address = decide(&profiles, &claims, &excluded, &world).verdict;
    assert_eq!(told.to_string(), "direct: first excludes 192.0.2.0/24");
    assert!(by_address.to_string().starts_with("direct: "));
}
