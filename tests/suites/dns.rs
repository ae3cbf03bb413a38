//! Lookups of managed apps: answered on the machine, whoever they ask; excluded names as before.

use offramp_tests::addresses::{DNS, GATEWAY, ORIGIN, PROXY6};
use offramp_tests::{Daemon, Gateway, Lab, wait_until};

fn dig(daemon: &Daemon<'_>, arguments: &[&str]) -> String {
    let line = ["dig", "+short", "+tries=1", "+time=10"];
    daemon.run(&[&line[..], arguments].concat()).success()
}

fn is_synthetic(said: &str) -> bool {
    said.starts_with("198.18.") || said.starts_with("198.19.") || said.starts_with("fd")
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn any_resolver_address_and_both_protocols() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let capture = lab.capture();
    let asked = lab.names().queries().len();
    let resolvers = [
        "@10.90.4.2",
        "@203.0.113.99",
        "@2001:db8::99",
        "@192.0.2.1",
        "@127.0.0.53",
    ];
    for resolver in resolvers.into_iter().chain(["@127.0.0.1", "@::1"]) {
        for way in ["+notcp", "+tcp"] {
            for kind in ["A", "AAAA"] {
                let said = dig(&daemon, &[resolver, way, "origin.test", kind]);
                assert!(is_synthetic(&said), "{resolver} {way} {kind}: {said}");
            }
        }
    }
    capture.packets().assert_only_gateway();
    assert_eq!(
        lab.names().queries().len(),
        asked,
        "no lookup has left the client"
    );
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn excluded_names_get_the_systems_answer() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    for way in ["+notcp", "+tcp"] {
        let capture = lab.capture();
        assert_eq!(
            dig(&daemon, &[way, "excluded.test", "A"]).trim(),
            "203.0.113.12"
        );
        assert_eq!(
            dig(&daemon, &[way, "excluded.test", "AAAA"]).trim(),
            "2001:db8::12"
        );
        capture
            .packets()
            .assert_only(|packet| packet.is_with(GATEWAY) || packet.is_with((DNS, 53).into()));
    }
    let said = daemon
        .run(&["curl", "-sS", "-4", "http://excluded.test/"])
        .success();
    assert!(said.contains("peer=10.90.1.2:"), "{said}");
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn other_records_are_resolved_at_the_far_side() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let capture = lab.capture();
    assert_eq!(
        dig(&daemon, &["origin.test", "TXT"]).trim(),
        "\"a text of the origin\""
    );
    assert_eq!(
        dig(&daemon, &["origin.test", "MX"]).trim(),
        "10 mail.wild.test."
    );
    capture.packets().assert_only_gateway();
    let from_proxy = |query: &String| query.contains("query[TXT]") && query.contains("10.90.2.2");
    assert!(
        lab.names().queries().iter().any(from_proxy),
        "{:?}",
        lab.names().queries()
    );
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_local_stub_is_left_to_unmanaged_apps() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let log = lab.directory().join("stub.log").display().to_string();
    let facility = format!("--log-facility={log}");
    let _stub = lab.client().spawn(&[
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--server=10.90.4.2",
        "--listen-address=127.0.0.53",
        "--bind-interfaces",
        "--user=root",
        "--log-queries",
        "--pid-file=",
        &facility,
    ]);
    let unmanaged = || {
        let line = [
            "dig",
            "+short",
            "+tries=1",
            "+time=2",
            "@127.0.0.53",
            "v4.test",
        ];
        lab.client().run(&line).stdout
    };
    let limit = std::time::Duration::from_secs(20);
    wait_until("the stub answers", limit, || {
        unmanaged().trim() == ORIGIN.to_string()
    });
    let daemon = Daemon::start(&lab);
    let asked = std::fs::read_to_string(&log)
        .unwrap_or_default()
        .matches("query[")
        .count();
    assert!(is_synthetic(&dig(&daemon, &["@127.0.0.53", "v4.test"])));
    assert!(is_synthetic(&dig(
        &daemon,
        &["+tcp", "@127.0.0.53", "v4.test"]
    )));
    let now = std::fs::read_to_string(&log)
        .unwrap_or_default()
        .matches("query[")
        .count();
    assert_eq!(now, asked, "the stub was asked by a managed app");
    assert_eq!(unmanaged().trim(), ORIGIN.to_string());
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_name_goes_to_the_gateway_as_a_name() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let said = daemon
        .run(&["curl", "-sS", "-4", "http://deep.wild.test/"])
        .success();
    assert!(said.contains("peer=10.90.2.2:"), "{said}");
    let queries = lab.names().queries();
    let asked = |who: &str| {
        queries
            .iter()
            .any(|query| query.contains("deep.wild.test") && query.contains(who))
    };
    assert!(asked("10.90.2.2") && !asked("10.90.1.2"), "{queries:?}");
    let said = daemon.run(&["curl", "-sS", "--max-time", "10", "http://nowhere.test/"]);
    said.failure();
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn an_origin_with_ipv6_alone() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let ca = lab.authority().certificate().display().to_string();
    // The name goes to the gateway, so it does not matter which family the app takes.
    for family in ["-4", "-6"] {
        let capture = lab.capture();
        let line = ["curl", "-sS", family, "--cacert", &ca, "https://v6.test/"];
        let said = daemon.run(&line).success();
        assert!(said.contains("peer=[fd00:90:2::2]:"), "{family}: {said}");
        capture.packets().assert_only_gateway();
    }
    lab.servers().assert_seen_only(&[PROXY6.into()]);
    lab.client()
        .run(&["curl", "-sS", "-4", "http://v6.test/"])
        .failure();
}
