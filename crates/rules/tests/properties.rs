//! What holds for every set of profiles, every app and every target.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use offramp_rules::{
    App, Claim, Claims, DomainName, Exclusion, Host, Identity, Layer, Outcome, Prefix, Profile,
    ProfileId, Profiles, Reason, Resolver, RouteSet, Rule, State, Target, UnavailableAction,
    Verdict, Why, World, claims, decide, decide_name, decide_told, direct_routes, needs_name,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

// Few names and few bits, so that things meet.
const IDS: &[&str] = &["a", "b", "c", "d"];
const LABELS: &[&str] = &["a", "b", "ab", "xn--bcher-kva", "localhost", "com"];

fn id() -> impl Strategy<Value = ProfileId> {
    select(IDS).prop_map(ProfileId::new)
}

fn name() -> impl Strategy<Value = DomainName> {
    vec(select(LABELS), 1..5).prop_map(|labels| DomainName::parse(&labels.join(".")).unwrap())
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (select(&[10u8, 127, 192, 224][..]), 0..4u8, 0..4u8, 0..4u8)
            .prop_map(|(a, b, c, d)| Ipv4Addr::new(a, b, c, d).into()),
        (
            select(&[0xfd00u16, 0xfe80, 0x2001, 0][..]),
            0..4u16,
            0..4u16
        )
            .prop_map(|(a, b, c)| Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, c).into()),
        any::<IpAddr>(),
    ]
}

fn prefix() -> impl Strategy<Value = Prefix> {
    (address(), 0..=128u8).prop_map(|(address, length)| {
        let most = if address.is_ipv4() { 32 } else { 128 };
        Prefix::containing(address, length.min(most)).unwrap()
    })
}

fn host() -> impl Strategy<Value = Host> {
    prop_oneof![
        name().prop_map(Host::Name),
        address().prop_map(Host::Address)
    ]
}

fn profile() -> impl Strategy<Value = Profile> {
    let layer = select(
        &[
            Layer::Managed,
            Layer::User,
            Layer::Recommended,
            Layer::Vendor,
        ][..],
    );
    let rule = id().prop_map(|profile| Rule {
        identifier: format!("rule for {profile}"),
        ..Rule::new(Identity::Wrapper(profile))
    });
    (
        (layer, 1..4u32, id(), prop::bool::weighted(0.8)),
        vec(rule, 0..3),
        (vec(name(), 0..3), vec(prefix(), 0..4), vec(name(), 0..2)),
        (any::<bool>(), any::<bool>(), vec(resolver(), 0..2)),
        select(&[UnavailableAction::Drop, UnavailableAction::Direct][..]),
    )
        .prop_map(
            |(
                head,
                rules,
                excluded,
                (exclude_local_networks, refuse_encrypted, resolvers),
                unavailable,
            )| Profile {
                layer: head.0,
                order: head.1,
                id: head.2,
                owner: None,
                enabled: head.3,
                rules,
                excluded_domains: excluded.0,
                excluded_fqdns: excluded.2,
                excluded_routes: excluded.1,
                exclude_local_networks,
                unavailable,
                real_addresses: false,
                refuse_encrypted,
                encrypted_resolvers: resolvers,
                overlays: BTreeMap::new(),
            },
        )
}

fn resolver() -> impl Strategy<Value = Resolver> {
    prop_oneof![
        name().prop_map(Resolver::Name),
        prefix().prop_map(Resolver::Block)
    ]
}

/// A profile with rules that are for some names alone.
fn with_names() -> impl Strategy<Value = Profile> {
    let domains = prop_oneof![Just(Vec::new()), vec(name(), 1..3)];
    let named = (id(), id(), domains).prop_map(|(profile, identifier, domains)| Rule {
        identifier: format!("named {identifier}"),
        domains,
        ..Rule::new(Identity::Wrapper(profile))
    });
    (profile(), vec(named, 0..3)).prop_map(|(profile, rules)| Profile { rules, ..profile })
}

fn app() -> impl Strategy<Value = App> {
    prop::option::weighted(0.9, id()).prop_map(|wrapper| App {
        wrapper,
        ..App::default()
    })
}

fn own(profiles: &Profiles, app: &App) -> Claims {
    claims(profiles, app, &Claims::default())
}

fn world() -> impl Strategy<Value = World> {
    let state = select(
        &[
            State::Off,
            State::Connecting,
            State::Connected,
            State::Connected,
            State::Reasserting,
            State::Disconnected(Reason::OnDemand),
            State::Disconnected(Reason::Unreachable),
        ][..],
    );
    (vec(prefix(), 0..4), vec(state, IDS.len())).prop_map(|(on_link, states)| {
        let mut world = World::new(on_link);
        for (id, state) in IDS.iter().zip(states) {
            world.set_state(ProfileId::new(id), state);
        }
        world
    })
}

fn target(host: Host) -> Target {
    Target { host, port: 443 }
}

fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Name(name) => name.as_str().split('.').next_back() == Some("localhost"),
        Host::Address(address) => {
            let address = address.to_canonical();
            address.is_loopback() || address.is_unspecified()
        }
    }
}

proptest! {
    // A failure prints its input; a file of past ones is not kept.
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn decide_is_total_and_deterministic(
        profiles in vec(profile(), 0..6), app in app(), host in host(), world in world(),
    ) {
        let profiles = Profiles::new(profiles);
        let claims = own(&profiles, &app);
        let target = target(host.clone());
        let decision = decide(&profiles, &claims, &target, &world);
        prop_assert_eq!(&decision, &decide(&profiles, &claims, &target, &world));
        for step in &decision.steps {
            prop_assert!(!step.to_string().is_empty());
        }
        if let Host::Name(name) = &host {
            prop_assert_eq!(&decision, &decide_name(&profiles, &claims, name, &world));
        }
        if is_loopback(&host) {
            prop_assert_eq!(decision.verdict, Verdict::Direct(Why::Loopback));
        }
    }

    #[test]
    fn the_order_of_the_input_does_not_matter(
        (profiles, shuffled) in vec(profile(), 0..6).prop_flat_map(|profiles| {
            (Just(profiles.clone()), Just(profiles).prop_shuffle())
        }),
    ) {
        prop_assert_eq!(Profiles::new(profiles), Profiles::new(shuffled));
    }

    #[test]
    fn exclusion_beats_a_match(
        profiles in vec(profile(), 0..6), app in app(), host in host(), world in world(),
    ) {
        let profiles = Profiles::new(profiles);
        let claims = own(&profiles, &app);
        let decision = decide(&profiles, &claims, &target(host.clone()), &world);
        let (Verdict::Relay(id)
        | Verdict::Refuse(Why::NotConnected(id, _) | Why::EncryptedResolver(id, _))
        | Verdict::Direct(Why::NotConnected(id, _))) = &decision.verdict
        else {
            return Ok(());
        };
        let profile = profiles.find(id).unwrap();
        prop_assert!(profile.enabled);
        match &host {
            Host::Name(name) => {
                prop_assert!(!profile.excluded_domains.iter().any(|suffix| name.is_within(suffix)));
                prop_assert!(!profile.excluded_fqdns.contains(name));
            }
            Host::Address(address) => {
                prop_assert!(!profile.excluded_routes.iter().any(|block| block.contains(*address)));
                prop_assert!(
                    !profile.exclude_local_networks || !world.local_networks().contains(*address)
                );
            }
        }
    }

    #[test]
    fn nobody_leaks(
        profiles in vec(profile(), 0..6), app in app(), host in host(), world in world(),
    ) {
        let profiles = Profiles::new(profiles);
        let claims = own(&profiles, &app);
        let decision = decide(&profiles, &claims, &target(host), &world);
        match decision.verdict {
            Verdict::Relay(id) => prop_assert!(
                matches!(world.state(&id), State::Connected | State::Reasserting)
            ),
            Verdict::Direct(Why::NotConnected(id, _)) => {
                let unavailable = profiles.find(&id).unwrap().unavailable;
                prop_assert_eq!(unavailable, UnavailableAction::Direct);
            }
            Verdict::Direct(Why::OnDemand(id)) => {
                prop_assert_eq!(world.state(&id), State::Disconnected(Reason::OnDemand));
            }
            // Whoever was started under a profile goes out by one of its exclusions or not at all.
            Verdict::Direct(Why::Unmanaged) => prop_assert_eq!(&app.wrapper, &None),
            Verdict::Direct(Why::Loopback | Why::Excluded(..)) | Verdict::Refuse(_) => {}
            Verdict::Direct(
                Why::NotInForce(_) | Why::OtherDomain(_) | Why::EncryptedResolver(..),
            ) => prop_assert!(false),
        }
    }

    #[test]
    fn the_first_in_order_wins(
        profiles in vec(profile(), 1..6), app in app(), host in host(), world in world(),
    ) {
        let profiles = Profiles::new(profiles);
        let claims = own(&profiles, &app);
        let decision = decide(&profiles, &claims, &target(host), &world);
        let order: Vec<_> = profiles.iter().map(|profile| profile.id.clone()).collect();
        let asked: Vec<_> = decision.steps.iter().map(|step| step.profile.clone()).collect();
        prop_assert!(order.starts_with(&asked));
        if let Some((_, passed)) = decision.steps.split_last() {
            for step in passed {
                prop_assert!(!matches!(
                    step.outcome,
                    Outcome::Relay | Outcome::NotConnected(..) | Outcome::EncryptedResolver(_)
                ));
            }
        }
    }

    #[test]
    fn routes_say_what_decide_says(
        profiles in vec(profile(), 0..6), app in app(), address in address(), world in world(),
    ) {
        let profiles = Profiles::new(profiles);
        let claims = own(&profiles, &app);
        let host = Host::Address(address);
        if is_loopback(&host) {
            return Ok(());
        }
        let decision = decide(&profiles, &claims, &target(host), &world);
        let thrown = direct_routes(&profiles, &claims, &world).contains(address);
        match decision.verdict {
            Verdict::Direct(Why::NotConnected(..)) => prop_assert!(!thrown),
            Verdict::Direct(_) => prop_assert!(thrown),
            Verdict::Relay(_) | Verdict::Refuse(_) => prop_assert!(!thrown),
        }
    }

    #[test]
    fn no_name_changes_what_needs_none(
        profiles in vec(with_names(), 0..6), app in app(), address in address(),
        names in vec(name(), 8), world in world(),
    ) {
        let profiles = Profiles::new(profiles);
        // The implied rule is for all names: without it, those of `with_names` decide.
        for wrapper in [app.wrapper.clone(), None] {
            let claims = Claims { wrapper, ..own(&profiles, &app) };
            let by_address = decide(&profiles, &claims, &target(Host::Address(address)), &world);
            if needs_name(&profiles, &claims, &target(Host::Address(address)), &world) {
                prop_assert!(!is_loopback(&Host::Address(address)));
                continue;
            }
            for name in &names {
                let told = decide_told(&profiles, &claims, &target(Host::Address(address)), name, &world);
                match (&by_address.verdict, &told.verdict) {
                    (Verdict::Direct(_), Verdict::Direct(_)) => {}
                    (by_address, told) => prop_assert_eq!(by_address, told),
                }
            }
        }
    }

    #[test]
    fn a_name_opens_no_more_than_it_does_by_itself(
        profiles in vec(with_names(), 0..6), app in app(), address in address(), name in name(),
        world in world(),
    ) {
        let profiles = Profiles::new(profiles);
        let claims = own(&profiles, &app);
        let told = decide_told(&profiles, &claims, &target(Host::Address(address)), &name, &world).verdict;
        let by_address = decide(&profiles, &claims, &target(Host::Address(address)), &world).verdict;
        if !matches!(told, Verdict::Direct(_)) || matches!(by_address, Verdict::Direct(_)) {
            return Ok(());
        }
        // A profile that claims the address has let it pass because of the name.
        let told = decide_told(&profiles, &claims, &target(Host::Address(address)), &name, &world);
        let excluded = |step: &offramp_rules::Step| match &step.outcome {
            Outcome::Excluded(Exclusion::Domain(suffix)) => name.is_within(suffix),
            _ => false,
        };
        let unavailable = matches!(told.verdict, Verdict::Direct(Why::NotConnected(..)));
        prop_assert!(unavailable || told.steps.iter().any(excluded));
    }

    #[test]
    fn a_suffix_ends_at_a_label(name in name(), suffix in name()) {
        let naive = {
            let (name, suffix) = (name.as_str(), suffix.as_str());
            name == suffix || name.ends_with(&format!(".{suffix}"))
        };
        prop_assert_eq!(name.is_within(&suffix), naive);
    }

    #[test]
    fn the_longest_block_is_what_a_scan_finds(
        blocks in vec(prefix(), 0..12), address in address(),
    ) {
        let set: RouteSet = blocks.iter().copied().collect();
        let naive = blocks
            .iter()
            .filter(|block| block.contains(address))
            .max_by_key(|block| block.length());
        prop_assert_eq!(set.longest(address), naive.copied());
    }

    #[test]
    fn normalised_blocks_are_few_and_the_same(
        blocks in vec(prefix(), 0..12), address in address(),
    ) {
        let set: RouteSet = blocks.iter().copied().collect();
        let few = set.normalised();
        prop_assert!(few.is_sorted());
        for (index, block) in few.iter().enumerate() {
            prop_assert!(blocks.contains(block));
            prop_assert!(few[..index].iter().all(|other| !other.overlaps(block)));
        }
        let again: RouteSet = few.iter().copied().collect();
        prop_assert_eq!(set.contains(address), again.contains(address));
    }

    #[test]
    fn an_intersection_has_what_both_have(
        a in vec(prefix(), 0..8), b in vec(prefix(), 0..8), address in address(),
    ) {
        let a: RouteSet = a.into_iter().collect();
        let b: RouteSet = b.into_iter().collect();
        let both = a.contains(address) && b.contains(address);
        prop_assert_eq!(a.intersection(&b).contains(address), both);
    }

    #[test]
    fn what_is_printed_is_read_back(
        prefix in prefix(), name in name(), id in id(), resolver in resolver(),
    ) {
        prop_assert_eq!(resolver.to_string().parse(), Ok(resolver));
        prop_assert_eq!(prefix.to_string().parse(), Ok(prefix));
        prop_assert_eq!(DomainName::parse(name.as_str()), Ok(name));
        let identity = Identity::Wrapper(id);
        prop_assert_eq!(identity.to_string().parse(), Ok(identity));
    }

    #[test]
    fn names_and_blocks_take_any_text(text in ".{0,80}") {
        if let Ok(name) = DomainName::parse(&text) {
            prop_assert_eq!(DomainName::parse(name.as_str()), Ok(name));
        }
        if let Ok(prefix) = text.parse::<Prefix>() {
            prop_assert_eq!(prefix.to_string().parse(), Ok(prefix));
        }
    }
}

fn corp() -> Profile {
    Profile {
        layer: Layer::Managed,
        order: 1,
        id: ProfileId::new("corp"),
        owner: None,
        enabled: true,
        rules: Vec::new(),
        excluded_domains: Vec::new(),
        excluded_fqdns: Vec::new(),
        excluded_routes: Vec::new(),
        exclude_local_networks: false,
        unavailable: UnavailableAction::Drop,
        real_addresses: false,
        refuse_encrypted: false,
        encrypted_resolvers: Vec::new(),
        overlays: BTreeMap::new(),
    }
}

#[test]
fn one_name_is_in_force_once_and_the_earlier_layer_has_it() {
    let profile = |layer, order| Profile {
        layer,
        order,
        ..corp()
    };
    let profiles = Profiles::new([profile(Layer::User, 1), profile(Layer::Managed, 9)]);
    let kept: BTreeSet<_> = profiles.iter().map(|profile| profile.layer).collect();
    assert_eq!(kept, BTreeSet::from([Layer::Managed]));
}

#[test]
fn steps_read_as_sentences() {
    let mut profile = Profile {
        excluded_domains: vec![DomainName::parse("example.com").unwrap()],
        ..corp()
    };
    let app = App {
        wrapper: Some(ProfileId::new("corp")),
        ..App::default()
    };
    let steps = |profile: &Profile, app: &App, name: &str, state| {
        let mut world = World::default();
        world.set_state(profile.id.clone(), state);
        let name = DomainName::parse(name).unwrap();
        let profiles = Profiles::new([profile.clone()]);
        let decision = decide_name(&profiles, &own(&profiles, app), &name, &world);
        let steps: Vec<_> = decision.steps.iter().map(ToString::to_string).collect();
        (decision.verdict.to_string(), steps.join("; "))
    };
    let is = |(verdict, steps): (String, String), expected: [&str; 2]| {
        assert_eq!([&*verdict, &*steps], expected);
    };
    is(
        steps(&profile, &app, "example.org", State::Connected),
        [
            "relay through corp",
            "corp: claimed by wrapper:corp, and the profile relays",
        ],
    );
    is(
        steps(&profile, &app, "www.example.com", State::Connected),
        [
            "direct: corp excludes example.com",
            "corp: claimed by wrapper:corp, and the profile excludes example.com",
        ],
    );
    is(
        steps(&profile, &app, "example.org", State::Connecting),
        [
            "refuse: corp is connecting",
            "corp: claimed by wrapper:corp, and the profile is connecting, so it refuses",
        ],
    );
    is(
        steps(&profile, &App::default(), "example.org", State::Connected),
        [
            "direct: no rule of any profile names the app",
            "corp: no rule names the app",
        ],
    );
    profile.enabled = false;
    is(
        steps(&profile, &app, "example.org", State::Connected),
        [
            "refuse: the app was started under corp, which is disabled or gone",
            "corp: passed over, it has Enabled: false",
        ],
    );
}

#[test]
fn a_verdict_may_wait_for_a_connection() {
    let connecting = Why::NotConnected(ProfileId::new("corp"), State::Connecting);
    let away = Why::NotConnected(
        ProfileId::new("corp"),
        State::Disconnected(Reason::Unreachable),
    );
    assert!(Verdict::Refuse(connecting.clone()).waits_for().is_some());
    assert!(Verdict::Direct(connecting).waits_for().is_some());
    assert!(Verdict::Refuse(away).waits_for().is_none());
}

#[test]
fn networks_that_only_an_attacker_hands_out_are_not_local() {
    let world = World::new(["0.0.0.0/1", "::/1", "192.168.1.0/24"].map(|b| b.parse().unwrap()));
    let local = |address: &str| world.local_networks().contains(address.parse().unwrap());
    assert!(local("192.168.1.7"));
    assert!(!local("8.8.8.8"));
    assert!(!local("2001:db8::1"));
    assert!(local("fe80::1"));
}

#[test]
fn the_longest_exclusion_is_named() {
    let profile = Profile {
        excluded_domains: ["com", "example.com"]
            .map(|name| DomainName::parse(name).unwrap())
            .into(),
        ..corp()
    };
    let app = App {
        wrapper: Some(ProfileId::new("corp")),
        ..App::default()
    };
    let name = DomainName::parse("www.example.com").unwrap();
    let profiles = Profiles::new([profile]);
    let decision = decide_name(&profiles, &own(&profiles, &app), &name, &World::default());
    let excluded = Exclusion::Domain(DomainName::parse("example.com").unwrap());
    let why = Why::Excluded(ProfileId::new("corp"), excluded);
    assert_eq!(decision.verdict, Verdict::Direct(why));
}

#[test]
fn an_app_of_a_rule_that_is_gone_does_not_go_out() {
    let claim = |profile: &str| Claim {
        profile: ProfileId::new(profile),
        rule: "exe:curl".to_owned(),
        tool: None,
    };
    let claims = Claims {
        rules: [claim("corp")].into(),
        ..Claims::default()
    };
    let name = DomainName::parse("www.example.com").unwrap();
    let decision = decide_name(&Profiles::default(), &claims, &name, &World::default());
    let why = Why::NotInForce(ProfileId::new("corp"));
    assert_eq!(decision.verdict, Verdict::Refuse(why));
    let direct = direct_routes(&Profiles::default(), &claims, &World::default());
    assert_eq!(direct.normalised(), []);
}
