//! Several profiles from several hands: who wins for whom, and what nobody may do.

#[path = "layers/files.rs"]
mod files;

use std::time::Duration;

use offramp_tests::addresses::target;
use offramp_tests::{
    Daemon, Gateway, Lab, PROFILE, Person, Visit, Way, copy_probe, port, wait_until,
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const NOBODY: u32 = 65534;
const ANOTHER: u32 = 4711;

/// The lab's profile under another name, for these apps.
fn profile(identifier: &str, rules: &[&str]) -> Value {
    let mut profile = Daemon::profile();
    let rules = rules
        .iter()
        .map(|rule| json!({ "SigningIdentifier": rule }));
    profile["Identifier"] = identifier.into();
    profile["Payload"]["AppRules"] = rules.collect();
    profile
}

fn ordered(identifier: &str, rules: &[&str], order: u32) -> Value {
    let mut profile = profile(identifier, rules);
    profile["Payload"]["Order"] = order.into();
    profile
}

/// The way that `name`, a copy of the probe, takes when `person` runs it.
fn way_to(lab: &Lab, daemon: &Daemon<'_>, person: &Person<'_>, name: &str, number: u8) -> Way {
    let command = person.command(copy_probe(lab, name));
    let target = format!("{}:{}", target(number), port::ECHO);
    Visit::to(lab, daemon, command, &target).way
}

fn way(lab: &Lab, daemon: &Daemon<'_>, person: &Person<'_>, name: &str) -> Way {
    way_to(lab, daemon, person, name, 1)
}

fn relayed(profile: &str) -> Way {
    Way::Relayed(profile.to_owned())
}

/// Under a profile of the user's own.
fn own(person: &Person<'_>, identifier: &str) -> Way {
    relayed(&format!("{identifier}~{}", person.id))
}

/// Waits until the daemon has this profile and a connection for it.
fn wait_for(daemon: &Daemon<'_>, identifier: &str) {
    wait_until("the profile is connected", LIMIT, || {
        state(daemon, identifier).is_some_and(|state| state == "connected")
    });
}

fn wait_without(daemon: &Daemon<'_>, identifier: &str) {
    wait_until("the profile is gone", LIMIT, || {
        state(daemon, identifier).is_none()
    });
}

fn state(daemon: &Daemon<'_>, identifier: &str) -> Option<Value> {
    let status = daemon.status();
    let mut profiles = status["profiles"].as_array().into_iter().flatten();
    let found = profiles.find(|profile| {
        let name = profile["identifier"].as_str().unwrap_or_default();
        name.split('~').next() == Some(identifier)
    });
    found.map(|profile| profile["state"].clone())
}

/// A user's own profile needs the user's own credential.
fn give_credential(lab: &Lab, person: &Person<'_>) {
    let pem = std::fs::read_to_string(lab.directory().join("gateway-authority.pem"));
    let pem = pem.expect("the gateway has an authority");
    person.write(".config/offramp/credentials/gateway-authority", &pem);
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn managed_beats_user_beats_recommended() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let managed = profile("test.managed", &["exe:common"]);
    let recommended = profile("test.recommended", &["exe:common", "exe:advised"]);
    let daemon = Daemon::prepare(&lab);
    daemon.write("policies/managed/m.json", &managed.to_string());
    daemon.write("policies/recommended/r.json", &recommended.to_string());
    let mut daemon = daemon;
    daemon.start_again();
    let [root, nobody, another] = [0, NOBODY, ANOTHER].map(|id| Person::new(&lab, id));
    give_credential(&lab, &nobody);
    let mine = profile("test.own", &["exe:common", "exe:advised", "exe:own"]);
    nobody.install(&daemon, &mine).success();
    wait_for(&daemon, "test.own");

    for person in [&root, &nobody, &another] {
        let common = way(&lab, &daemon, person, "common");
        assert_eq!(common, relayed("test.managed"), "{}", person.id);
    }
    assert_eq!(
        way(&lab, &daemon, &nobody, "advised"),
        own(&nobody, "test.own")
    );
    assert_eq!(way(&lab, &daemon, &nobody, "own"), own(&nobody, "test.own"));
    for person in [&root, &another] {
        let advised = way(&lab, &daemon, person, "advised");
        assert_eq!(advised, relayed("test.recommended"), "{}", person.id);
        assert_eq!(
            way(&lab, &daemon, person, "own"),
            Way::Direct,
            "{}",
            person.id
        );
    }
    daemon.start_again();
    wait_for(&daemon, "test.own");
    assert_eq!(way(&lab, &daemon, &nobody, "own"), own(&nobody, "test.own"));
    assert_eq!(way(&lab, &daemon, &another, "own"), Way::Direct);
    nobody
        .offramp(&daemon, &["profile", "remove", "test.own"])
        .success();
    wait_without(&daemon, "test.own");
    assert_eq!(way(&lab, &daemon, &nobody, "own"), Way::Direct);
    assert_eq!(
        way(&lab, &daemon, &nobody, "advised"),
        relayed("test.recommended")
    );
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn the_lower_order_wins_then_the_name() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let profiles = [
        ordered("test.a", &["exe:first", "exe:second"], 20),
        ordered("test.b", &["exe:first", "exe:third"], 10),
        ordered("test.c", &["exe:first", "exe:second", "exe:third"], 20),
    ];
    let daemon = Daemon::start_with(&lab, &profiles);
    let root = Person::new(&lab, 0);
    assert_eq!(way(&lab, &daemon, &root, "first"), relayed("test.b"));
    assert_eq!(way(&lab, &daemon, &root, "second"), relayed("test.a"));
    assert_eq!(way(&lab, &daemon, &root, "third"), relayed("test.b"));
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn an_overlay_changes_what_is_not_locked_for_its_user() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut managed = profile(PROFILE, &["exe:app"]);
    managed["Payload"]["UserOverridableKeys"] = json!(["NetworkRouting.ExcludedRoutes"]);
    let daemon = Daemon::start_with(&lab, &[managed]);
    let [root, nobody] = [0, NOBODY].map(|id| Person::new(&lab, id));
    let overlay = |payload: Value| json!({ "Type": "org.offramp.overlay", "Identifier": PROFILE, "Payload": payload });
    let routes = json!({ "ExcludedRoutes": [format!("{}/32", target(1))] });
    nobody
        .install(&daemon, &overlay(json!({ "NetworkRouting": routes })))
        .success();
    wait_until("the overlay is in force", LIMIT, || {
        way_to(&lab, &daemon, &nobody, "app", 1) == Way::Direct
    });
    assert_eq!(way_to(&lab, &daemon, &nobody, "app", 2), relayed(PROFILE));
    assert_eq!(way_to(&lab, &daemon, &root, "app", 1), relayed(PROFILE));

    let locked = overlay(json!({ "UnavailableAction": "Direct" }));
    let said = nobody.install(&daemon, &locked);
    let told = format!("{}{}", said.stdout, said.stderr);
    assert_eq!(said.status.code(), Some(1), "{told}");
    assert!(told.contains("UnavailableAction"), "{told}");
    nobody.offramp(&daemon, &["profile", "sync"]);
    assert_eq!(way_to(&lab, &daemon, &root, "app", 1), relayed(PROFILE));
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_user_reaches_own_credentials_alone() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let [nobody, another] = [NOBODY, ANOTHER].map(|id| Person::new(&lab, id));
    give_credential(&lab, &another);
    another
        .install(&daemon, &profile("test.another", &["exe:app"]))
        .success();
    wait_for(&daemon, "test.another");
    // Both the machine and another user have a credential of this name.
    nobody.install(&daemon, &profile("test.own", &["exe:app"]));
    let without = way(&lab, &daemon, &nobody, "app");
    assert!(!matches!(without, Way::Relayed(_)), "{without:?}");
    assert_eq!(
        way(&lab, &daemon, &another, "app"),
        own(&another, "test.another")
    );
    give_credential(&lab, &nobody);
    nobody.offramp(&daemon, &["profile", "sync"]).success();
    wait_for(&daemon, "test.own");
    assert_eq!(way(&lab, &daemon, &nobody, "app"), own(&nobody, "test.own"));
    let said = nobody
        .offramp(&daemon, &["profile", "list", "--json"])
        .success();
    assert!(!said.contains("test.another"), "{said}");
    nobody
        .offramp(&daemon, &["profile", "show", "test.another"])
        .failure();
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn what_a_users_profile_may_not_name() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let nobody = Person::new(&lab, NOBODY);
    give_credential(&lab, &nobody);
    for rule in ["unit:cups.service", "cgroup:/system.slice"] {
        let said = nobody.install(&daemon, &profile("test.own", &[rule]));
        assert_eq!(said.status.code(), Some(1), "{rule}: {said}");
    }
    let status = daemon.status().to_string();
    assert!(!status.contains("test.own"), "{status}");
}
