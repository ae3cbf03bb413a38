//! Resolvers that encrypt: what a profile refuses of them, and names that are excluded alone.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use offramp_rules::{
    App, Claims, DomainName, Host, Layer, Profile, ProfileId, Profiles, Program, Reason, Rule,
    State, Target, UnavailableAction, World, claims, decide, decide_name,
};

fn names(names: &[&str]) -> Vec<DomainName> {
    let names = names.iter().map(|name| DomainName::parse(name));
    names.map(Result::unwrap).collect()
}

/// Claims the browser whole, and git for one name.
fn work() -> Profile {
    let rule = |identity: &str, domains: &[&str]| Rule {
        domains: names(domains),
        ..Rule::new(identity.parse().unwrap())
    };
    Profile {
        layer: Layer::Managed,
        order: 1,
        id: ProfileId::new("work"),
        owner: None,
        enabled: true,
        rules: vec![
            rule("exe:browser", &[]),
            rule("exe:git", &["git.example.com"]),
        ],
        excluded_domains: names(&["dns.quad9.net"]),
        excluded_fqdns: names(&["example.net", "dns.google"]),
        excluded_routes: vec!["208.67.222.0/24".parse().unwrap()],
        exclude_local_networks: true,
        unavailable: UnavailableAction::Direct,
        real_addresses: false,
        refuse_encrypted: true,
        encrypted_resolvers: ["doh.example.com", "192.0.2.0/24"]
            .map(|text| text.parse().unwrap())
            .to_vec(),
        overlays: BTreeMap::new(),
    }
}

fn world(state: State) -> World {
    let mut world = World::new(["192.168.1.0/24".parse().unwrap()]);
    world.set_state(ProfileId::new("work"), state);
    world
}

fn claimed(profiles: &Profiles, program: &str) -> Claims {
    let app = App {
        executable: Some(Program {
            name: Some(program.to_owned()),
            ..Program::default()
        }),
        ..App::default()
    };
    claims(profiles, &app, &Claims::default())
}

fn verdict(profile: Profile, program: &str, target: &str, state: State) -> String {
    let profiles = Profiles::new([profile]);
    let claims = claimed(&profiles, program);
    let target: Target = match target.parse::<std::net::SocketAddr>() {
        Ok(address) => address.into(),
        Err(_) => {
            let (name, port) = target.rsplit_once(':').unwrap();
            Target {
                host: Host::Name(DomainName::parse(name).unwrap()),
                port: port.parse().unwrap(),
            }
        }
    };
    let decision = decide(&profiles, &claims, &target, &world(state));
    decision.verdict.to_string()
}

fn refused(by: &str) -> String {
    format!("refuse: work refuses {by}, a resolver that encrypts (RefuseEncryptedResolvers)")
}

const OTHER: &str = "direct: work names the app for other targets alone (MatchDomains)";
const RELAY: &str = "relay through work";

#[test]
fn flows_to_resolvers_are_refused() {
    let check = |program, target, expected: &str| {
        assert_eq!(
            verdict(work(), program, target, State::Connected),
            expected,
            "{program} {target}"
        );
    };
    let port = refused("port 853");
    check("browser", "203.0.113.1:853", &port);
    check("browser", "[2001:db8::1]:853", &port);
    check("browser", "www.example.org:853", &port);
    // By address where it serves TLS alone; by name everywhere.
    check("browser", "1.1.1.1:443", &refused("1.1.1.1/32"));
    check("browser", "8.8.4.4:853", &refused("8.8.4.4/32"));
    check("browser", "[2620:fe::fe]:443", &refused("2620:fe::fe/128"));
    check("browser", "[::ffff:1.1.1.1]:443", &refused("1.1.1.1/32"));
    check("browser", "1.1.1.1:80", RELAY);
    check("browser", "1.1.1.4:443", RELAY);
    let by_name = refused("cloudflare-dns.com");
    check("browser", "cloudflare-dns.com:443", &by_name);
    check("browser", "mozilla.cloudflare-dns.com:8443", &by_name);
    check("browser", "notcloudflare-dns.com:443", RELAY);
    // What the profile adds.
    check("browser", "192.0.2.7:443", &refused("192.0.2.0/24"));
    check("browser", "192.0.2.7:80", RELAY);
    check(
        "browser",
        "a.doh.example.com:443",
        &refused("doh.example.com"),
    );
    // What is excluded is direct, resolver or not.
    check(
        "browser",
        "dns.quad9.net:443",
        "direct: work excludes dns.quad9.net",
    );
    check(
        "browser",
        "dns.google:443",
        "direct: work excludes dns.google",
    );
    check(
        "browser",
        "208.67.222.222:443",
        "direct: work excludes 208.67.222.0/24",
    );
    check(
        "browser",
        "192.168.1.1:853",
        "direct: work excludes the local network 192.168.1.0/24",
    );
    check(
        "browser",
        "127.0.0.1:853",
        "direct: the target is this machine",
    );
    // A rule for some names takes hold of nothing else, but of the names of resolvers.
    check("git", "git.example.com:443", RELAY);
    check("git", "git.example.com:853", &port);
    check("git", "1.1.1.1:443", OTHER);
    check("git", "203.0.113.1:853", OTHER);
    check("git", "cloudflare-dns.com:443", &by_name);
    check(
        "git",
        "dns.quad9.net:443",
        "direct: work excludes dns.quad9.net",
    );
    check(
        "other",
        "1.1.1.1:443",
        "direct: no rule of any profile names the app",
    );
}

#[test]
fn resolvers_are_refused_whatever_the_state_and_only_if_asked_for() {
    let away = State::Disconnected(Reason::Unreachable);
    let away = verdict(work(), "browser", "1.1.1.1:443", away);
    assert_eq!(away, refused("1.1.1.1/32"), "it would go directly");
    let connecting = verdict(work(), "browser", "1.1.1.1:443", State::Connecting);
    assert_eq!(connecting, refused("1.1.1.1/32"), "no flow is held for it");
    let on_demand = State::Disconnected(Reason::OnDemand);
    let on_demand = verdict(work(), "browser", "1.1.1.1:443", on_demand);
    assert_eq!(on_demand, "direct: work is not needed on this network");
    for target in ["1.1.1.1:443", "203.0.113.1:853", "cloudflare-dns.com:443"] {
        let plain = Profile {
            refuse_encrypted: false,
            ..work()
        };
        assert_eq!(verdict(plain, "browser", target, State::Connected), RELAY);
    }
}

#[test]
fn look_ups_of_resolvers_are_refused() {
    let check = |program: &str, name: &str, expected: &str| {
        let profiles = Profiles::new([work()]);
        let claims = claimed(&profiles, program);
        let name = DomainName::parse(name).unwrap();
        let decision = decide_name(&profiles, &claims, &name, &world(State::Connected));
        assert_eq!(decision.verdict.to_string(), expected, "{program} {name}");
    };
    for program in ["browser", "git"] {
        check(
            program,
            "chrome.cloudflare-dns.com",
            &refused("cloudflare-dns.com"),
        );
        check(program, "doh.example.com", &refused("doh.example.com"));
        check(
            program,
            "dns.quad9.net",
            "direct: work excludes dns.quad9.net",
        );
    }
    check("browser", "www.example.org", RELAY);
    check("git", "www.example.org", OTHER);
}

#[test]
fn a_name_is_excluded_without_those_below_it() {
    let check = |target, expected: &str| {
        assert_eq!(
            verdict(work(), "browser", target, State::Connected),
            expected
        );
    };
    check("example.net:80", "direct: work excludes example.net");
    check("EXAMPLE.net.:80", "direct: work excludes example.net");
    check("www.example.net:80", RELAY);
    check("net:80", RELAY);
    check("dns64.dns.google:443", &refused("dns.google"));
    // The longer one is told where both are meant.
    let both = Profile {
        excluded_domains: names(&["net"]),
        ..work()
    };
    let told = verdict(both, "browser", "example.net:80", State::Connected);
    assert_eq!(told, "direct: work excludes example.net");
}
