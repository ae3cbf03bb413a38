//! Declarations of users and administrators, URLs, credentials.

use std::path::Path;

use offramp_fuzz::fuzz;
use offramp_rules::{Layer, Profiles, candidates};

use crate::url::ServerUrl;
use crate::{ephemeral, notices, read, read_bytes, read_user};

const EXAMPLES: &[&[u8]] = &[
    include_bytes!("../../../rules/examples/minimal.json"),
    include_bytes!("../../../rules/examples/corporate.json"),
    include_bytes!("../../../rules/examples/units.json"),
    include_bytes!("../../../rules/examples/two.json"),
    include_bytes!("../../../rules/examples/browser.json"),
    br#"{"Type":"org.offramp.overlay","Identifier":"com.example.work","Payload":{"ExcludedDomains":["a.b"],"NetworkRouting":{"ExcludedRoutes":["10.0.0.0/8"]}}}"#,
    br#"{"Declarations":[{"Type":"x","Identifier":"\ud83d\ude00"}]}"#,
];

#[test]
fn declarations() {
    fuzz("declarations", EXAMPLES, |input| {
        let file = Path::new("p.json");
        let managed = read_bytes(input, Some(file), Layer::Managed);
        if let Ok(text) = std::str::from_utf8(input) {
            let again = read(text, Some(file), Layer::Managed);
            assert_eq!(again.is_ok(), managed.is_ok(), "check and install agree");
        }
        match managed {
            Ok(profiles) => {
                let rules = profiles.iter().map(|profile| profile.rules.clone());
                candidates(&Profiles::new(rules));
                for profile in &profiles {
                    notices(profile);
                }
            }
            Err(problems) => {
                assert!(!problems.is_empty(), "what is refused has a reason");
                let lines = input.iter().filter(|byte| **byte == b'\n').count() + 1;
                for problem in problems {
                    assert!(!problem.to_string().is_empty());
                    assert!((1..=lines).contains(&problem.line), "{problem}");
                }
            }
        }
    });
}

#[test]
fn declarations_of_users() {
    fuzz("declarations_of_users", EXAMPLES, |input| {
        let read = read_user(input, Some(Path::new("p.json")), 1000);
        assert!(!read.is_err_and(|problems| problems.is_empty()));
    });
}

#[test]
fn urls() {
    let seeds: &[&[u8]] = &[
        b"https://gw.example.com:8443",
        b"https://alice:correct%20horse@gw.example.com",
        b"https://[2001:db8::1]:443/",
        b"http://x",
        b"https://a:b@c@d:1",
    ];
    fuzz("urls", seeds, |input| {
        let Ok(text) = std::str::from_utf8(input) else {
            return;
        };
        let ephemeral = ephemeral("com.example.run", text, None);
        let parsed = ServerUrl::parse(text);
        if let Err(problem) = ephemeral {
            assert!(parsed.is_err(), "{text}: {problem}");
        }
    });
}

#[test]
fn passwords_stay_out_of_messages() {
    fuzz(
        "passwords",
        &[b"@", b"@gw.example.com:8443", b"@:0", b"/x?y#z"],
        |input| {
            let rest = String::from_utf8_lossy(input);
            for begin in [
                "https://alice:hunter2hunter2",
                "http://a:hunter2hunter2",
                "hunter2hunter2",
            ] {
                let text = format!("{begin}{rest}");
                if let Err(problem) = ephemeral("com.example.run", &text, None) {
                    assert!(
                        !format!("{problem} {problem:?}").contains("hunter2"),
                        "{text}"
                    );
                }
                if let Ok(url) = ServerUrl::parse(&text)
                    && url.credentials.is_some()
                {
                    assert!(!format!("{url:?}").contains("hunter2"), "{text}");
                }
            }
        },
    );
}
