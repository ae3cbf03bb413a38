//! What people read about rules and apps.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use offramp_rules::{
    App, Cgroup, Claims, DomainName, Host, Layer, Profile, ProfileId, Profiles, Program, Rule,
    State, Target, UnavailableAction, User, World, claims, decide, examine,
};

fn rule(identity: &str) -> Rule {
    Rule::new(identity.parse().unwrap())
}

fn profile(id: &str, rules: Vec<Rule>) -> Profile {
    Profile {
        layer: Layer::Managed,
        order: 1,
        id: ProfileId::new(id),
        owner: None,
        enabled: true,
        rules,
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

fn app() -> App {
    let program = |path: &str| Program {
        name: path.rsplit('/').next().map(str::to_owned),
        path: Some(path.into()),
        owner: Some(1000),
        owner_name: Some("alice".to_owned()),
        ..Program::default()
    };
    App {
        script: Some(program("/home/alice/x.py")),
        executable: Some(program("/usr/bin/python3.11")),
        user: User {
            id: 1000,
            name: Some("alice".to_owned()),
            groups: [1000].into(),
            group_names: ["alice".to_owned()].into(),
        },
        cgroup: Some(Cgroup::new(
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-xterm-12.scope",
        )),
        ..App::default()
    }
}

fn told(profiles: Vec<Profile>, app: &App, inherited: &Claims) -> String {
    let findings = examine(&Profiles::new(profiles), app, inherited);
    let lines = findings.iter().map(|finding| format!("{finding}\n"));
    lines.collect()
}

#[track_caller]
fn check(told: &str, expected: &str) {
    let expected: String = expected
        .trim()
        .lines()
        .map(|line| format!("{}\n", line.trim()))
        .collect();
    assert!(told == expected, "told:\n{told}\nexpected:\n{expected}");
}

#[test]
fn what_a_rule_names_and_what_the_app_is() {
    let rules = [
        "exe:x.py",
        "exe:curl",
        "exe:/usr/bin/python3",
        "exe:/opt/**",
        "unit:cups",
        "user-unit:podman",
        "cgroup:/a",
        "flatpak:org.a.B",
        "snap:foo",
        "app:firefox",
        "firefox",
        "wrapper:home",
    ];
    check(
        &told(vec![profile("work", rules.map(rule).into())], &app(), &Claims::default()),
        "work: exe:x.py: names the app by exe:x.py
        work: exe:curl: names exe:curl, and the app is /home/alice/x.py, a script that /usr/bin/python3.11 executes
        work: exe:/usr/bin/python3: names exe:/usr/bin/python3, and the app is /home/alice/x.py, a script that /usr/bin/python3.11 executes
        work: exe:/opt/**: names exe:/opt/**, and the app is /home/alice/x.py, a script that /usr/bin/python3.11 executes
        work: unit:cups.service: names unit:cups.service, and the app is in user.slice, user-1000.slice, user@1000.service
        work: user-unit:podman.service: names user-unit:podman.service, and the app is in app.slice, app-xterm-12.scope
        work: cgroup:/a: names cgroup:/a, and the app is in /user.slice/user-1000.slice/user@1000.service/app.slice/app-xterm-12.scope
        work: flatpak:org.a.B: names flatpak:org.a.B, and the app is no such Flatpak (its unit is app-xterm-12.scope)
        work: snap:foo: names snap:foo, and the app is no such snap (its unit is app-xterm-12.scope)
        work: app:firefox: names app:firefox, and the app is no such desktop entry (its unit is app-xterm-12.scope)
        work: firefox: names firefox, and the app is no such Flatpak, snap or desktop entry (its unit is app-xterm-12.scope); an executable of this name would be exe:firefox
        work: wrapper:home: names wrapper:home, and the app was not started by offramp run",
    );
    let nothing = App::default();
    let rules = [
        "exe:curl",
        "unit:cups",
        "user-unit:podman",
        "cgroup:/a",
        "app:firefox",
    ];
    check(
        &told(vec![profile("work", rules.map(rule).into())], &nothing, &Claims::default()),
        "work: exe:curl: names exe:curl, and the app is an unknown program
        work: unit:cups.service: names unit:cups.service, and the app is in no unit of the system
        work: user-unit:podman.service: names user-unit:podman.service, and the app is in no unit of a user's service manager
        work: cgroup:/a: names cgroup:/a, and the app is in no known control group
        work: app:firefox: names app:firefox, and the app is no such desktop entry",
    );
}

#[test]
fn which_condition_is_not_met() {
    let with = |change: fn(&mut Rule)| {
        let mut rule = rule("exe:x.py");
        change(&mut rule);
        rule
    };
    let rules = vec![
        with(|rule| rule.path = Some("/usr/bin/x.py".into())),
        with(|rule| rule.user = Some("bob".parse().unwrap())),
        with(|rule| rule.user = Some("@wheel".parse().unwrap())),
        with(|rule| rule.requirement = Some("owner = root".parse().unwrap())),
        with(|rule| rule.requirement = Some(format!("sha256={}", "0".repeat(64)).parse().unwrap())),
    ];
    check(
        &told(vec![profile("work", rules)], &app(), &Claims::default()),
        "work: exe:x.py: wants the program at Path /usr/bin/x.py, and the app is /home/alice/x.py, a script that /usr/bin/python3.11 executes
        work: exe:x.py: is for User bob alone, and the app runs as alice (1000)
        work: exe:x.py: is for User @wheel alone, and the app runs as alice (1000), in the groups @alice, @1000
        work: exe:x.py: requires owner = \"root\", and /home/alice/x.py has owner = \"alice\" (1000)
        work: exe:x.py: requires sha256 = \"0000000000000000000000000000000000000000000000000000000000000000\", and /home/alice/x.py has an unknown sha256",
    );
}

#[test]
fn what_comes_from_elsewhere() {
    let terminal = Rule {
        tools: vec![rule("exe:x.py"), rule("exe:curl")],
        ..rule("exe:xterm")
    };
    let bash = rule("exe:bash");
    let profiles = vec![profile("work", vec![terminal, bash])];
    check(
        &told(profiles.clone(), &app(), &Claims::default()),
        "work: exe:xterm: names exe:xterm, and the app is /home/alice/x.py, a script that /usr/bin/python3.11 executes
        work: exe:xterm > exe:x.py: names exe:x.py only where exe:xterm has started it, and that is no ancestor of the app
        work: exe:xterm > exe:curl: names exe:curl only where exe:xterm has started it, and that is no ancestor of the app
        work: exe:bash: names exe:bash, and the app is /home/alice/x.py, a script that /usr/bin/python3.11 executes",
    );
    let run = |path: &str| App {
        script: None,
        executable: Some(Program {
            path: Some(path.into()),
            ..Program::default()
        }),
        ..app()
    };
    let all = Profiles::new(profiles.clone());
    let xterm = claims(&all, &run("/usr/bin/xterm"), &Claims::default());
    assert_eq!(xterm.to_string(), "work: tools of exe:xterm");
    let shell = claims(&all, &run("/usr/bin/bash"), &xterm);
    assert_eq!(shell.to_string(), "work: exe:bash, tools of exe:xterm");
    check(
        &told(profiles, &app(), &shell),
        "work: exe:xterm: names tools that exe:xterm starts, and the app is that or was started by it; the app itself is left alone
        work: exe:xterm > exe:x.py: names the app by exe:x.py, as a tool of exe:xterm
        work: exe:xterm > exe:curl: names exe:curl, and the app is /home/alice/x.py, a script that /usr/bin/python3.11 executes
        work: exe:bash: names an ancestor of the app by exe:bash, with all that it starts",
    );
    let script = claims(&all, &app(), &shell);
    assert_eq!(
        script.to_string(),
        "work: exe:bash, exe:xterm > exe:x.py, tools of exe:xterm"
    );
    assert_eq!(Claims::default().to_string(), "unmanaged");
}

#[test]
fn which_profiles_are_out_of_force() {
    let off = Profile {
        enabled: false,
        ..profile("a", vec![rule("exe:x.py")])
    };
    let of_another = Profile {
        owner: Some(1001),
        ..profile("b", vec![rule("exe:x.py")])
    };
    check(
        &told(vec![off, of_another], &app(), &Claims::default()),
        "a: exe:x.py: is out of force: the profile has Enabled: false
        b: exe:x.py: is of a profile of user 1001, and the app runs as alice (1000)",
    );
}

#[test]
fn how_a_flow_is_decided() {
    let domain = |name: &str| DomainName::parse(name).unwrap();
    let mut names = rule("exe:x.py");
    names.domains = vec![domain("example.com")];
    let mut off = profile("off", vec![rule("exe:x.py")]);
    off.enabled = false;
    let mut home = profile("home", vec![rule("exe:x.py")]);
    home.excluded_domains = vec![domain("example.org")];
    let profiles = Profiles::new([
        profile("a", vec![rule("exe:curl")]),
        profile("b", vec![names]),
        home,
        off,
    ]);
    let found = claims(&profiles, &app(), &Claims::default());
    let mut world = World::default();
    let mut steps = |name: &str, state| {
        world.set_state(ProfileId::new("home"), state);
        let host = Host::Name(domain(name));
        let decision = decide(&profiles, &found, &Target { host, port: 443 }, &world);
        let steps = decision.steps.iter().map(|step| format!("{step}\n"));
        format!("{}{}", steps.collect::<String>(), decision.verdict)
    };
    let told =
        steps("example.org", State::Connected) + "\n" + &steps("a.example", State::Off) + "\n";
    check(
        &told,
        "a: no rule names the app
        b: its rules name the app for other targets alone (MatchDomains)
        home: claimed by exe:x.py, and the profile excludes example.org
        off: passed over, it has Enabled: false
        direct: b names the app for other targets alone (MatchDomains)
        a: no rule names the app
        b: its rules name the app for other targets alone (MatchDomains)
        home: claimed by exe:x.py, and the profile is switched off, so it refuses
        refuse: home is switched off",
    );
}
