//! Users' own profiles, overlays and credentials.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use offramp_profile::{
    ChangeError, Code, CredentialError, Credentials, Directories, Installed, Loaded, Problem,
    UserFile, UserFiles, install_user, read_user,
};
use offramp_rules::{
    App, Claims, Identity, Layer, ProfileId, Rule, State, Target, UnavailableAction, User, World,
    claims, decide,
};

use crate::machine::{Machine, declaration, names, told};

const ALICE: u32 = 1000;
const BOB: u32 = 1001;

fn file(name: &str, content: &str) -> UserFile {
    UserFile {
        name: name.to_owned(),
        content: content.as_bytes().to_vec(),
    }
}

fn policies(list: &[(&str, &str)]) -> UserFiles {
    UserFiles {
        policies: list.iter().map(|(name, text)| file(name, text)).collect(),
        credentials: Vec::new(),
    }
}

#[track_caller]
fn give(machine: &Machine, uid: u32, list: &[(&str, &str)]) {
    install_user(&machine.users(), uid, &policies(list)).unwrap();
}

/// A declaration with this in its payload.
fn with(id: &str, payload: &str) -> String {
    declaration(id, "x").replace(r#""Servers""#, &format!("{payload}, \"Servers\""))
}

fn overlay(id: &str, payload: &str) -> String {
    format!(
        r#"{{ "Type": "org.offramp.overlay", "Identifier": "{id}", "Payload": {{ {payload} }} }}"#
    )
}

fn ids(loaded: &Loaded) -> Vec<&str> {
    loaded
        .profiles
        .iter()
        .map(|profile| profile.id().as_str())
        .collect()
}

#[test]
fn a_users_profile_is_the_users_alone() {
    let machine = Machine::new();
    let text = with(
        "mine",
        r#""AppRules": [{ "SigningIdentifier": "exe:curl" }]"#,
    );
    give(&machine, ALICE, &[("a.json", &text)]);
    give(&machine, BOB, &[("a.json", &text)]);
    let loaded = machine.load(None);
    assert_eq!(loaded.problems, []);
    assert_eq!(ids(&loaded), ["mine~1000", "mine~1001"]);
    let profile = &loaded.profiles[1];
    assert_eq!(
        (profile.rules.layer, profile.rules.owner),
        (Layer::User, Some(BOB))
    );
    assert_eq!(profile.identifier(), "mine");
    assert!(!profile.removal_disallowed);

    assert_eq!(loaded.find_for(BOB, "mine").unwrap().rules.owner, Some(BOB));
    assert_eq!(
        loaded.find_for(BOB, "mine~1001").unwrap().rules.owner,
        Some(BOB)
    );
    assert!(loaded.find_for(BOB, "mine~1000").is_none());
    assert!(loaded.find_for(1002, "mine").is_none());

    let curl = |id| App {
        user: User {
            id,
            ..User::default()
        },
        executable: Some(offramp_rules::Program {
            name: Some("curl".to_owned()),
            ..Default::default()
        }),
        ..App::default()
    };
    let claimed = |id| claims(&loaded.rules(), &curl(id), &Claims::default());
    let by: Vec<_> = claimed(BOB)
        .rules
        .into_iter()
        .map(|claim| claim.profile)
        .collect();
    assert_eq!(by, [ProfileId::new("mine~1001")]);
    assert!(claimed(1002).is_empty() && claimed(0).is_empty());
}

#[test]
fn a_user_comes_and_goes_without_touching_the_others() {
    let machine = Machine::new();
    give(&machine, BOB, &[("a.json", &declaration("x", "bob"))]);
    let before = ids(&machine.load(None)).join(" ");
    give(&machine, ALICE, &[("a.json", &declaration("x", "alice"))]);
    assert_eq!(
        ids(&machine.load(None)).join(" "),
        format!("x~1000 {before}")
    );
    let gone = install_user(&machine.users(), ALICE, &UserFiles::default()).unwrap();
    assert_eq!(gone, Installed::Installed(machine.users().join("1000")));
    let gone = install_user(&machine.users(), ALICE, &UserFiles::default()).unwrap();
    assert_eq!(gone, Installed::Unchanged(machine.users().join("1000")));
    assert_eq!(ids(&machine.load(None)).join(" "), before);
}

#[test]
fn layers_have_an_order() {
    let machine = Machine::new();
    for (path, id) in [
        ("etc/policies/managed/m.json", "m"),
        ("etc/policies/recommended/r.json", "r"),
        ("vendor/recommended/v.json", "v"),
    ] {
        machine.write(path, &declaration(id, path));
    }
    let own = ["m", "r", "v", "u"].map(|id| declaration(id, id));
    let files: Vec<(&str, &str)> = ["1.json", "2.json", "3.json", "4.json"]
        .into_iter()
        .zip(own.iter().map(String::as_str))
        .chain([("5.json", &*own[3])])
        .collect();
    give(&machine, ALICE, &files);
    let loaded = machine.load(None);
    assert_eq!(ids(&loaded), ["m", "r~1000", "u~1000", "v~1000", "r", "v"]);
    assert_eq!(
        told(&machine, &loaded),
        [
            "Info.Superseded state/users/1000/policies/1.json:1:66: Identifier: \
             m is in force as etc/policies/managed/m.json has it",
            "Info.Superseded state/users/1000/policies/4.json:1:66: Identifier: \
             u is in force as state/users/1000/policies/5.json has it",
        ]
    );
    // By name, the first of these layers is meant.
    let layer = |uid, name| loaded.find_for(uid, name).unwrap().rules.layer;
    assert_eq!(layer(ALICE, "m"), Layer::Managed);
    assert_eq!(layer(ALICE, "r"), Layer::User);
    assert_eq!(layer(BOB, "r"), Layer::Recommended);
    let directories = machine.directories();
    let of = |problem: &Problem| directories.owner_of(problem.file.as_deref().unwrap());
    assert_eq!(of(&loaded.problems[0]), Some(ALICE));
    assert_eq!(
        directories.owner_of(&machine.config().join("policies/managed/m.json")),
        None
    );
}

#[test]
fn a_user_cannot_take_the_name_of_another() {
    let machine = Machine::new();
    for id in ["x~1001", "x~", "~7"] {
        let result = read_user(declaration(id, "x").as_bytes(), None, ALICE);
        assert_eq!(result.is_ok(), id == "x~", "{id}");
    }
    // Nor can an administrator by mistake.
    machine.write("etc/policies/managed/m.json", &declaration("x~1000", "x"));
    let loaded = machine.load(None);
    assert!(loaded.profiles.is_empty());
    assert_eq!(loaded.problems[0].code, Code::IsInvalid);
}

#[test]
fn wrapper_means_the_users_own_profile() {
    let machine = Machine::new();
    let rules = r#""AppRules": [{ "SigningIdentifier": "wrapper:b" },
        { "SigningIdentifier": "exe:sh", "MatchTools": [{ "SigningIdentifier": "wrapper:a" }] },
        { "SigningIdentifier": "wrapper:elsewhere" }]"#;
    give(
        &machine,
        ALICE,
        &[
            ("a.json", &with("a", rules)),
            ("b.json", &declaration("b", "x")),
        ],
    );
    let loaded = machine.load(None);
    let rules = &loaded.find_for(ALICE, "a").unwrap().rules.rules;
    let identity = |rule: &Rule| rule.identity.to_string();
    assert_eq!(identity(&rules[0]), "wrapper:b~1000");
    assert_eq!(rules[0].identifier, "wrapper:b");
    assert_eq!(identity(&rules[1].tools[0]), "wrapper:a~1000");
    assert_eq!(
        rules[2].identity,
        Identity::Wrapper(ProfileId::new("elsewhere"))
    );
}

#[test]
fn what_a_user_may_not_name_is_told() {
    let text = with(
        "a",
        r#""UserOverridableKeys": [], "AppRules": [
  { "SigningIdentifier": "unit:cups" }, { "SigningIdentifier": "user-unit:app" },
  { "SigningIdentifier": "exe:a", "MatchTools": [{ "SigningIdentifier": "cgroup:/a" }] }]"#,
    );
    let problems = read_user(text.as_bytes(), None, ALICE).unwrap_err();
    let told: Vec<_> = problems.iter().map(Problem::to_string).collect();
    assert_eq!(
        told,
        [
            "2:59: Payload.UserOverridableKeys: has no place in a user's own profile \
             (leave it out: it is the user's anyway)",
            "3:26: Payload.AppRules[0].SigningIdentifier: a user's profile cannot name unit: \
             (name user-unit:, exe: or the app)",
            "4:73: Payload.AppRules[2].MatchTools[0].SigningIdentifier: \
             a user's profile cannot name cgroup: (name user-unit:, exe: or the app)",
        ]
    );
    let always = with("a", r#""AlwaysOn": {}"#);
    assert!(read_user(always.as_bytes(), None, ALICE).is_err());
}

fn corporate(machine: &Machine, layer: &str, keys: &str) {
    let text = with(
        "corp",
        &format!(
            r#""UserOverridableKeys": [{keys}], "ExcludedDomains": ["a.example"],
            "NetworkRouting": {{ "ExcludeLocalNetworks": true }}"#
        ),
    );
    machine.write(&format!("{layer}/corp.json"), &text);
}

const ALL: &str = r#""ExcludedDomains", "NetworkRouting.ExcludedRoutes",
    "NetworkRouting.ExcludeLocalNetworks", "UnavailableAction""#;

#[test]
fn overlays_change_what_they_may_for_their_user() {
    for layer in [
        "etc/policies/managed",
        "etc/policies/recommended",
        "vendor/managed",
    ] {
        let machine = Machine::new();
        corporate(&machine, layer, ALL);
        let changes = r#""ExcludedDomains": ["b.example"], "UnavailableAction": "Direct",
            "NetworkRouting": { "ExcludedRoutes": ["10.0.0.0/8"], "ExcludeLocalNetworks": false }"#;
        give(&machine, ALICE, &[("a.json", &overlay("corp", changes))]);
        let loaded = machine.load(None);
        assert_eq!(loaded.problems, [], "{layer}");
        let overlays = &loaded.profiles[0].rules.overlays;
        assert_eq!(overlays.keys().collect::<Vec<_>>(), [&ALICE]);
        let found = &overlays[&ALICE];
        assert_eq!(found.excluded_domains[0].as_str(), "b.example");
        assert_eq!(found.excluded_routes, ["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(found.exclude_local_networks, Some(false));
        assert_eq!(found.unavailable, Some(UnavailableAction::Direct));

        let rules = loaded.rules();
        let mut world = World::new([]);
        world.set_state(ProfileId::new("corp"), State::Connected);
        let verdict = |id, target: &str| {
            let app = App {
                wrapper: Some(ProfileId::new("corp")),
                user: User {
                    id,
                    ..User::default()
                },
                ..App::default()
            };
            let claims = claims(&rules, &app, &Claims::default());
            let target = Target::from(target.parse::<std::net::SocketAddr>().unwrap());
            decide(&rules, &claims, &target, &world).verdict.to_string()
        };
        assert!(verdict(ALICE, "10.1.2.3:1").starts_with("direct"));
        assert!(verdict(BOB, "10.1.2.3:1").starts_with("relay"));
    }
}

#[test]
fn an_overlay_with_a_locked_key_is_refused_whole() {
    let machine = Machine::new();
    corporate(&machine, "etc/policies/managed", r#""ExcludedDomains""#);
    let changes = r#""ExcludedDomains": ["b.example"],
  "UnavailableAction": "Direct", "NetworkRouting": { "ExcludedRoutes": ["198.18.0.0/16"] }"#;
    give(&machine, ALICE, &[("a.json", &overlay("corp", changes))]);
    give(
        &machine,
        BOB,
        &[("b.json", &overlay("corp", r#""ExcludedDomains": []"#))],
    );
    let loaded = machine.load(None);
    let overlays = &loaded.profiles[0].rules.overlays;
    assert_eq!(overlays.keys().collect::<Vec<_>>(), [&BOB]);
    assert_eq!(
        told(&machine, &loaded),
        [
            "Error.ConfigurationIsInvalid state/users/1000/policies/a.json:2:24: \
             Payload.UnavailableAction: is locked by corp (what can be changed: ExcludedDomains)",
            "Error.ConfigurationIsInvalid state/users/1000/policies/a.json:2:72: \
             Payload.NetworkRouting.ExcludedRoutes: is locked by corp \
             (what can be changed: ExcludedDomains)",
            "Error.ConfigurationIsInvalid state/users/1000/policies/a.json:2:72: \
             Payload.NetworkRouting.ExcludedRoutes: 198.18.0.0/16 has addresses that stand for names",
        ]
    );
}

#[test]
fn overlays_without_a_profile_and_doubles_are_told() {
    let machine = Machine::new();
    corporate(&machine, "etc/policies/managed", ALL);
    give(
        &machine,
        ALICE,
        &[
            (
                "1.json",
                &overlay("corp", r#""UnavailableAction": "Direct""#),
            ),
            ("2.json", &overlay("corp", r#""UnavailableAction": "Drop""#)),
            ("3.json", &overlay("own", "")),
            ("4.json", &declaration("own", "x")),
        ],
    );
    let loaded = machine.load(None);
    let corporate = loaded.find(&ProfileId::new("corp")).unwrap();
    let overlay = &corporate.rules.overlays[&ALICE];
    assert_eq!(overlay.unavailable, Some(UnavailableAction::Drop));
    assert_eq!(
        told(&machine, &loaded),
        [
            "Info.Superseded state/users/1000/policies/1.json:1:48: Identifier: \
             state/users/1000/policies/2.json changes the profile instead",
            "Error.ConfigurationCannotBeApplied state/users/1000/policies/3.json:1:48: Identifier: \
             there is no profile own for all users",
        ]
    );
}

#[test]
fn a_set_is_taken_whole_or_not_at_all() {
    let machine = Machine::new();
    let good = declaration("a", "good");
    give(&machine, ALICE, &[("a.json", &good)]);
    let same = install_user(&machine.users(), ALICE, &policies(&[("a.json", &good)]));
    assert_eq!(same, Ok(Installed::Unchanged(machine.users().join("1000"))));
    let bad = policies(&[("a.json", &declaration("a", "new")), ("b.json", "{")]);
    let Err(ChangeError::Invalid(problems)) = install_user(&machine.users(), ALICE, &bad) else {
        panic!("it was taken");
    };
    assert_eq!(
        problems[0].to_string(),
        "b.json:1:1: EOF while parsing an object"
    );
    assert_eq!(
        names(&machine.load(None)),
        [("good".to_owned(), Layer::User)]
    );
    give(&machine, ALICE, &[("b.json", &declaration("b", "new"))]);
    assert_eq!(
        names(&machine.load(None)),
        [("new".to_owned(), Layer::User)]
    );
    let left: Vec<_> = fs::read_dir(machine.users()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_load_sees_the_old_set_or_the_new_one() {
    let machine = Machine::new();
    let set = |name: &str| {
        let policies =
            ["a", "b", "c"].map(|id| file(&format!("{id}.json"), &declaration(id, name)));
        UserFiles {
            policies: policies.to_vec(),
            credentials: Vec::new(),
        }
    };
    let sets = [set("odd"), set("even")];
    install_user(&machine.users(), ALICE, &sets[0]).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for turn in 1..60 {
                install_user(&machine.users(), ALICE, &sets[turn % 2]).unwrap();
            }
        });
        for _ in 0..1000 {
            let loaded = machine.load(None);
            assert_eq!(loaded.problems, []);
            let found = names(&loaded);
            assert!(
                found.len() == 3 && found.iter().all(|name| *name == found[0]),
                "{found:?}"
            );
            if writer.is_finished() {
                break;
            }
        }
    });
}

#[test]
fn what_cannot_be_read_is_in_force_as_it_was() {
    let machine = Machine::new();
    give(&machine, ALICE, &[("a.json", &declaration("a", "x"))]);
    give(&machine, BOB, &[("a.json", &declaration("a", "x"))]);
    let before = machine.load(None);
    let aside = machine.root.path().join("aside");
    fs::rename(machine.users(), &aside).unwrap();
    fs::write(machine.users(), "a file where a directory should be").unwrap();
    let kept = machine.load(Some(&before));
    assert_eq!(ids(&kept), ids(&before));
    assert!(!kept.problems.is_empty());
    fs::remove_file(machine.users()).unwrap();
    assert_eq!(
        names(&machine.load(Some(&kept))),
        [],
        "what is gone is gone"
    );
    fs::rename(&aside, machine.users()).unwrap();
    let hers = machine.users().join("1000");
    crate::machine::mode(&hers, 0o777);
    let kept = machine.load(Some(&before));
    assert_eq!(ids(&kept), ids(&before));
    assert!(kept.problems[0].message.contains("mode 0777"));
    assert_eq!(ids(&machine.load(None)), ["a~1001"]);
}

#[test]
fn a_sudden_end_leaves_nothing_that_counts() {
    let machine = Machine::new();
    machine.write(
        "state/users/.new-x/policies/a.json",
        &declaration("a", "half"),
    );
    machine.write(
        "state/users/007/policies/a.json",
        &declaration("a", "no user"),
    );
    machine.write(
        "state/users/alice/policies/a.json",
        &declaration("a", "no user"),
    );
    assert_eq!(names(&machine.load(None)), []);
    give(&machine, ALICE, &[("a.json", &declaration("a", "x"))]);
    assert!(!machine.users().join(".new-x").exists());
}

#[test]
fn what_users_give_has_limits() {
    let refused = |files: &UserFiles| {
        let machine = Machine::new();
        match install_user(&machine.users(), ALICE, files) {
            Err(ChangeError::Invalid(problems)) => {
                assert!(!machine.users().join("1000").exists());
                problems
                    .iter()
                    .map(Problem::to_string)
                    .collect::<Vec<_>>()
                    .join("; ")
            }
            other => panic!("{other:?}"),
        }
    };
    let text = declaration("a", "x");
    let many = |policies, credentials| UserFiles {
        policies,
        credentials,
    };
    let files: Vec<_> = (0..65).map(|n| file(&format!("{n}.json"), &text)).collect();
    assert_eq!(
        refused(&many(files.clone(), Vec::new())),
        "policies: there are 65 files, and may be 64"
    );
    assert_eq!(
        refused(&many(Vec::new(), files)),
        "credentials: there are 65 files, and may be 64"
    );
    let list: Vec<_> = (0..65).map(|n| declaration(&n.to_string(), "x")).collect();
    let list = format!(r#"{{ "Declarations": [{}] }}"#, list.join(","));
    assert_eq!(
        refused(&many(vec![file("a.json", &list)], Vec::new())),
        "policies: there are 65 profiles, and may be 64"
    );
    let huge = file("a.json", &" ".repeat((1 << 20) + 1));
    assert_eq!(
        refused(&many(vec![huge], Vec::new())),
        "a.json:1:1: is over 1024 KiB"
    );
    let huge = file("a", &"x".repeat(64 * 1024 + 1));
    assert_eq!(
        refused(&many(Vec::new(), vec![huge])),
        "credentials/a: is over 64 KiB"
    );
    let twice = vec![file("a.json", &text), file("a.json", &text)];
    assert_eq!(refused(&many(twice, Vec::new())), "a.json: is there twice");
    for name in [
        "../a.json",
        ".a.json",
        "a",
        "",
        "a/b.json",
        "a\0.json",
        "a b.json",
    ] {
        let said = refused(&many(vec![file(name, &text)], Vec::new()));
        assert!(
            said.contains("is no name for a profile's file"),
            "{name}: {said}"
        );
    }
    for name in ["../a", ".a", "", "a/b"] {
        let said = refused(&many(Vec::new(), vec![file(name, "hunter2")]));
        assert!(said.contains("cannot be the name"), "{name}: {said}");
        assert!(!said.contains("hunter2"));
    }
    let shown = format!("{:?}", many(Vec::new(), vec![file("a", "hunter2")]));
    assert!(
        !shown.contains("hunter2") && !shown.contains("104"),
        "{shown}"
    );
}

/// As many apps as this, under names of their own.
fn naming(id: &str, apps: std::ops::Range<u32>) -> String {
    let rules: Vec<_> = apps
        .map(|n| format!(r#"{{ "SigningIdentifier": "exe:tool-{n}" }}"#))
        .collect();
    with(id, &format!(r#""AppRules": [{}]"#, rules.join(",")))
}

#[test]
fn all_profiles_of_a_user_have_so_many_names_together() {
    let machine = Machine::new();
    let most = [
        ("a.json", &*naming("a", 0..1500)),
        ("b.json", &*naming("b", 1000..2000)),
    ];
    give(&machine, ALICE, &most);
    give(&machine, BOB, &most);
    assert_eq!(machine.load(None).problems, []);
    let more = policies(&[
        ("a.json", &naming("a", 0..1500)),
        ("b.json", &naming("b", 1000..2001)),
    ]);
    let Err(ChangeError::Invalid(problems)) = install_user(&machine.users(), ALICE, &more) else {
        panic!("it was taken");
    };
    let told = "the apps of all profiles of the user have 2001 names, and may have 2000 (leave out \
                apps, or name them by exe:NAME, which is one name where app: is several)";
    assert_eq!(problems[0].to_string(), format!("policies: {told}"));

    // From before there was a limit.
    machine.write("state/users/1000/policies/b.json", &naming("b", 1000..2001));
    machine.write("state/users/1000/policies/c.json", &naming("c", 1500..1600));
    let loaded = machine.load(None);
    let mut in_force = ids(&loaded);
    in_force.sort_unstable();
    assert_eq!(in_force, ["a~1000", "a~1001", "b~1001", "c~1000"]);
    let said: Vec<_> = loaded.problems.iter().map(Problem::to_string).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].contains("/b.json:") && said[0].ends_with(&format!("b is not in force: {told}")),
        "{said:?}"
    );
}

const LOGIN: &str = r#""Servers": [{ "URL": "https://a.example", "Authentication":
  { "Method": "Password", "CredentialsAssetReference": "credential:login" } }], "Old""#;

fn with_login(id: &str) -> String {
    let text = declaration(id, "x");
    text.replace(r#""Servers""#, LOGIN)
        .replace(r#", "Old": [{ "URL": "https://a.example" }]"#, "")
}

#[test]
fn credentials_are_the_users_own() {
    let machine = Machine::new();
    let machines = machine.write("etc/credentials/login", "root:secret");
    crate::machine::mode(&machines, 0o600);
    let give = |uid, credentials| {
        let files = UserFiles {
            policies: vec![file("a.json", &with_login("a"))],
            credentials,
        };
        install_user(&machine.users(), uid, &files).unwrap();
    };
    give(ALICE, vec![file("login", "alice:hers\n")]);
    give(BOB, Vec::new());
    let loaded = machine.load(None);
    assert_eq!(
        told(&machine, &loaded),
        [
            "Error.MissingAssets state/users/1001/policies/a.json:3:56: \
             Payload.Servers[0].Authentication.CredentialsAssetReference: \
             the credential login is missing: put it into the user's own folder of credentials"
        ]
    );
    let directories = machine.directories();
    let [alice, bob] = [ALICE, BOB].map(|uid| loaded.find_for(uid, "a").unwrap());
    let asset = |profile: &offramp_profile::Profile| {
        let authentication = profile.servers[0].authentication.clone();
        authentication.unwrap().asset
    };
    let hers = Credentials::open_for(&directories, alice);
    assert_eq!(hers.password(&asset(alice)).unwrap().user, "alice");
    // Whoever opens the wrong ones finds nothing.
    for wrong in [
        Credentials::open_for(&directories, bob).password(&asset(alice)),
        hers.password(&asset(bob)),
        Credentials::open(&machine.config()).password(&asset(alice)),
        Credentials::open_for(&Directories::new(machine.config()), alice).password(&asset(alice)),
    ] {
        assert!(
            matches!(wrong, Err(CredentialError::NotGiven { .. })),
            "{wrong:?}"
        );
    }
    let stored = machine.users().join("1000");
    let bits = |path: &str| {
        fs::metadata(stored.join(path))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!(
        (bits(""), bits("policies"), bits("credentials")),
        (0o700, 0o700, 0o700)
    );
    assert_eq!(
        (bits("policies/a.json"), bits("credentials/login")),
        (0o600, 0o600)
    );
    assert_eq!(
        fs::metadata(machine.users()).unwrap().permissions().mode() & 0o7777,
        0o700
    );
}
