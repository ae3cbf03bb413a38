//! How long decisions take with 200 profiles of 25 rules each; prints what it measures.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "what is measured is told")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use offramp_rules::{
    App, Cgroup, Claims, DomainName, Host, Layer, Profile, ProfileId, Profiles, Program, Rule,
    Target, UnavailableAction, World, candidates, claims, decide, direct_routes, examine,
    is_settled,
};

/// Names the app of the rule of this number.
type Namer = fn(u32) -> String;

fn profile(number: u32, identity: Namer) -> Profile {
    let rules = (0..25).map(|rule| Rule {
        domains: match rule % 5 {
            0 => vec![DomainName::parse(&format!("d{rule}.example.com")).unwrap()],
            _ => Vec::new(),
        },
        ..Rule::new(identity(number * 25 + rule).parse().unwrap())
    });
    Profile {
        layer: Layer::Managed,
        order: number,
        id: ProfileId::new(&format!("profile-{number}")),
        owner: None,
        enabled: true,
        rules: rules.collect(),
        excluded_domains: vec![DomainName::parse("intranet.example.com").unwrap()],
        excluded_fqdns: Vec::new(),
        excluded_routes: vec!["10.0.0.0/8".parse().unwrap()],
        exclude_local_networks: true,
        unavailable: UnavailableAction::Drop,
        real_addresses: false,
        refuse_encrypted: false,
        encrypted_resolvers: Vec::new(),
        overlays: BTreeMap::new(),
    }
}

fn mixed(number: u32) -> String {
    match number % 10 {
        0..4 => format!("exe:program-{number}"),
        4 => format!("exe:/usr/bin/program-{number}"),
        5 => format!("exe:/opt/*/program-{number}"),
        6 => format!("unit:service-{number}"),
        7 => format!("flatpak:org.example.App{number}"),
        8 => format!("org.example.App{number}"),
        _ => format!("exe:program-{number}*"),
    }
}

/// Prints how long one of many runs takes.
fn measure<T>(what: &str, mut run: impl FnMut() -> T) {
    let mut times: Vec<_> = (0..200)
        .map(|_| {
            let begin = Instant::now();
            black_box(run());
            begin.elapsed()
        })
        .collect();
    times.sort();
    println!(
        "{what}: median {:?}, 99 in 100 within {:?}",
        times[100], times[198]
    );
}

#[test]
#[ignore = "measures: run with --release and --nocapture"]
fn with_200_profiles_and_5000_rules() {
    let app = |name: &str| App {
        executable: Some(Program {
            name: Some(name.to_owned()),
            path: Some(format!("/usr/bin/{name}").into()),
            ..Program::default()
        }),
        cgroup: Some(Cgroup::new(
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-org.example.App-12.scope",
        )),
        ..App::default()
    };
    let kinds: [(&str, Namer); 5] = [
        ("mixed", mixed),
        ("names", |number| format!("exe:program-{number}")),
        ("paths", |number| format!("exe:/usr/bin/program-{number}")),
        ("patterns", |number| format!("exe:*-{number}-*")),
        ("bundles", |number| format!("org.example.App{number}")),
    ];
    for (kind, identity) in kinds {
        let profiles = Profiles::new((0..200).map(|number| profile(number, identity)));
        println!("{kind}");
        measure("  claims of an app of no rule", || {
            claims(&profiles, &app("other"), &Claims::default())
        });
        measure("  claims of an app of one rule", || {
            claims(&profiles, &app("program-4990"), &Claims::default())
        });
        measure("  whether it is settled", || {
            is_settled(&profiles, &app("other"))
        });
        measure("  examine", || {
            examine(&profiles, &app("other"), &Claims::default())
        });
        measure("  candidates", || candidates(&profiles));
    }
    let all = |_| "exe:/usr/**".to_owned();
    let one = Profiles::new((0..200).map(|number| profile(number, mixed)));
    let many = Profiles::new((0..200).map(|number| {
        let mut profile = profile(number, all);
        for (index, rule) in profile.rules.iter_mut().enumerate() {
            rule.identifier = format!("rule {index}");
        }
        profile
    }));
    let target = Target {
        host: Host::Name(DomainName::parse("www.example.org").unwrap()),
        port: 443,
    };
    let world = World::new(["192.168.1.0/24".parse().unwrap()]);
    for (what, profiles) in [("few of 5,000 match", &one), ("all 5,000 match", &many)] {
        let found = claims(profiles, &app("program-4990"), &Claims::default());
        println!("{what}: {} claims", found.rules.len());
        measure("  claims inherited and found", || {
            claims(profiles, &app("program-4990"), &found)
        });
        measure("  decide", || decide(profiles, &found, &target, &world));
        let none = Claims::default();
        measure("  decide for no app", || {
            decide(profiles, &none, &target, &world)
        });
        measure("  direct_routes", || {
            direct_routes(profiles, &found, &world)
        });
    }
}
