//! How long it takes to load what a large fleet may install. Run it in release mode with
//! `cargo test --release -p offramp-profile --test speed -- --ignored --nocapture`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::time::Instant;

use offramp_profile::{Directories, load};
use serde_json::json;

const PROFILES: usize = 200;
const RULES: usize = 25;

fn profile(number: usize) -> String {
    let rules: Vec<_> = (0..RULES)
        .map(|rule| match rule % 5 {
            0 => json!({ "SigningIdentifier": format!("exe:tool-{number}-{rule}") }),
            1 => json!({ "SigningIdentifier": format!("exe:/opt/app-{number}/bin/tool-{rule}"),
                         "DesignatedRequirement": "owner = \"root\"" }),
            2 => json!({ "SigningIdentifier": format!("unit:worker-{number}-{rule}@*.service") }),
            3 => json!({ "SigningIdentifier": format!("flatpak:org.example.App{number}.Part{rule}"),
                         "User": "root", "MatchDomains": ["corp.example.com"] }),
            _ => json!({ "SigningIdentifier": format!("app:org.example.Terminal{number}.{rule}"),
                         "MatchTools": [{ "SigningIdentifier": "exe:curl", "Path": "/usr/bin/curl" }] }),
        })
        .collect();
    let text = json!({
        "Type": "org.offramp.configuration.network.vpn",
        "Identifier": format!("com.example.{number}"),
        "Payload": {
            "VisibleName": format!("Profile {number}"),
            "Servers": [{ "URL": "https://gw.example.com" }],
            "AppRules": rules,
            "ExcludedDomains": ["a.example", "b.example"],
        },
    });
    serde_json::to_string_pretty(&text).unwrap()
}

#[test]
#[ignore = "measures; run it by name"]
fn load_200_profiles_of_25_rules() {
    let machine = tempfile::tempdir().unwrap();
    let managed = machine.path().join("etc/policies/managed");
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&managed)
        .unwrap();
    for number in 0..PROFILES {
        fs::write(managed.join(format!("{number}.json")), profile(number)).unwrap();
    }
    let directories = Directories {
        vendor: None,
        ..Directories::new(machine.path().join("etc"))
    };
    let with_state = directories.clone().with_state(machine.path().join("state"));
    let mut previous = None;
    for (what, directories) in [
        ("without copies", &directories),
        ("the first time, which writes the copies", &with_state),
        ("again", &with_state),
        ("once more", &with_state),
    ] {
        let start = Instant::now();
        let loaded = load(directories, previous.as_ref());
        println!(
            "{PROFILES} profiles x {RULES} rules, {what}: {:?}",
            start.elapsed()
        );
        assert_eq!(loaded.profiles.len(), PROFILES);
        assert_eq!(loaded.problems, []);
        previous = Some(loaded);
    }
}
