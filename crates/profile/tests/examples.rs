//! The examples in `rules/` are read, decide as the table beside them says, and the schema there
//! is the one that the reader's table makes.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

use offramp_profile::{Profile, read, schema};
use offramp_rules::{
    App, Claims, DomainName, Host, Layer, ProfileId, Profiles, Reason, State, Target, World,
    claims, decide,
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Expected {
    app: Option<String>,
    target: String,
    state: Option<String>,
    verdict: String,
}

fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules")
}

#[test]
fn examples_decide_as_their_tables_say() {
    let mut seen = 0;
    for entry in fs::read_dir(rules().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let Some(stem) = name
            .strip_suffix(".json")
            .filter(|stem| !stem.contains(".verdicts"))
        else {
            continue;
        };
        let text = fs::read_to_string(&path).unwrap();
        let profiles = read(&text, Some(&path), Layer::Managed).unwrap();
        let table = path.with_file_name(format!("{stem}.verdicts.json"));
        let table: Vec<Expected> =
            serde_json::from_str(&fs::read_to_string(table).unwrap()).unwrap();
        for expected in table {
            check(name, &profiles, &expected);
        }
        seen += 1;
    }
    assert_eq!(seen, 3);
}

fn check(file: &str, profiles: &[Profile], expected: &Expected) {
    let mut world = World::new(["192.168.1.0/24".parse().unwrap()]);
    for profile in profiles {
        world.set_state(profile.id().clone(), state(expected.state.as_deref()));
    }
    let rules = Profiles::new(profiles.iter().map(|profile| profile.rules.clone()));
    let app = App {
        wrapper: expected.app.as_deref().map(ProfileId::new),
        ..App::default()
    };
    let app = claims(&rules, &app, &Claims::default());
    let decision = decide(&rules, &app, &target(&expected.target), &world);
    assert_eq!(
        decision.verdict.to_string(),
        expected.verdict,
        "{file}: {:?} to {}",
        expected.app,
        expected.target
    );
}

fn state(name: Option<&str>) -> State {
    match name {
        None => State::Connected,
        Some("Off") => State::Off,
        Some("Connecting") => State::Connecting,
        Some("Reasserting") => State::Reasserting,
        Some("OnDemand") => State::Disconnected(Reason::OnDemand),
        Some("Unreachable") => State::Disconnected(Reason::Unreachable),
        Some("NotAuthorised") => State::Disconnected(Reason::NotAuthorised),
        Some(other) => panic!("no state {other}"),
    }
}

fn target(text: &str) -> Target {
    if let Ok(address) = text.parse::<std::net::SocketAddr>() {
        return address.into();
    }
    let (name, port) = text.rsplit_once(':').unwrap();
    Target {
        host: Host::Name(DomainName::parse(name).unwrap()),
        port: port.parse().unwrap(),
    }
}

/// Write the file anew with `OFFRAMP_REGENERATE=1 cargo test -p offramp-profile --test examples`.
#[test]
fn the_schema_is_up_to_date() {
    let path = rules().join("profile.schema.json");
    if std::env::var_os("OFFRAMP_REGENERATE").is_some() {
        let text = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
        fs::write(&path, text).unwrap();
    }
    let checked_in: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert!(checked_in == schema(), "write the schema anew");
}
