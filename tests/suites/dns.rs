//! Lookups of managed apps: answered on the machine, whoever they ask; excluded names as before.

use std::path::PathBuf;
use std::time::Duration;

use offramp_tests::addresses::{DNS, GATEWAY, ORIGIN, PROXY6};
use offramp_tests::{Daemon, Gateway, Lab, PROFILE, Running, User, wait_until};

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

/// A name server whose answers may be kept, for the gateway to ask; and its log.
fn lasting_names(lab: &Lab) -> (Running, PathBuf) {
    let log = lab.directory().join("lasting.log");
    let facility = format!("--log-facility={}", log.display());
    // 1 . mandatory=alpn,ipv4hint alpn=h2 ipv4hint=203.0.113.11 ech=… ipv6hint=2001:db8::11
    let service = "000100\
                   000000040001000400010003026832\
                   00040004cb00710b00050008000401020304050600060010\
                   20010db8000000000000000000000011";
    let service = format!("--dns-rr=service.test,65,{service}");
    let server = lab.dns().spawn(&[
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--local=//",
        "--local-ttl=300",
        "--port=5353",
        "--user=root",
        "--pid-file=",
        "--log-queries=extra",
        "--host-record=service.test,203.0.113.11,2001:db8::11",
        "--mx-host=lasting.test,service.test,10",
        &service,
        &facility,
    ]);
    wait_until("dnsmasq answers", Duration::from_secs(30), || {
        let dig = [
            "dig",
            "+short",
            "+time=1",
            "+tries=1",
            "-p5353",
            "@10.90.4.2",
        ];
        let said = lab.dns().run(&[&dig[..], &["service.test"]].concat());
        said.stdout.trim() == "203.0.113.11"
    });
    (server, log)
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn services_lead_to_synthetic_addresses() {
    let lab = Lab::new();
    let _names = lasting_names(&lab);
    let _gateway = Gateway::start_with(&lab, &["--resolver", "10.90.4.2:5353"]);
    let daemon = Daemon::start(&lab);
    let capture = lab.capture();
    let service = dig(&daemon, &["service.test", "HTTPS"]);
    let [v4, v6] = ["A", "AAAA"].map(|kind| dig(&daemon, &["service.test", kind]));
    let (v4, v6) = (v4.trim(), v6.trim());
    assert!(is_synthetic(v4) && is_synthetic(v6), "{v4} {v6}");
    for part in [
        "1 . mandatory=alpn,ipv4hint alpn=\"h2\"",
        &format!("ipv4hint={v4}"),
        "ech=AAQBAgMEBQY=",
    ] {
        assert!(service.contains(part), "{part}: {service}");
    }
    assert!(service.contains(&format!("ipv6hint={v6}")), "{service}");
    // What servers tell beside the answer is not told.
    let full = daemon.run(&["dig", "+tries=1", "+time=10", "lasting.test", "MX"]);
    let full = full.success();
    assert!(
        full.contains("10 service.test.") && !full.contains("203.0.113"),
        "{full}"
    );
    capture.packets().assert_only_gateway();
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn answers_of_the_far_side_are_kept_for_who_asked() {
    let lab = Lab::new();
    let (_names, log) = lasting_names(&lab);
    let _gateway = Gateway::start_with(&lab, &["--resolver", "10.90.4.2:5353"]);
    let daemon = Daemon::start(&lab);
    let asked = || {
        let log = std::fs::read_to_string(&log).expect("dnsmasq has it");
        log.matches("query[MX] lasting.test").count()
    };
    let line = [
        "dig",
        "+short",
        "+tries=1",
        "+time=10",
        "@127.0.0.53",
        "lasting.test",
        "MX",
    ];
    let ask = |user| {
        let said = daemon.run_as(user, &line).success();
        assert_eq!(said.trim(), "10 service.test.");
        asked()
    };
    assert_eq!(ask(User::Root), 1);
    assert_eq!(ask(User::Root), 1, "it is kept");
    assert_eq!(ask(User::Nobody), 2, "another user has another's answer");
    assert_eq!([ask(User::Nobody), ask(User::Root)], [2, 2]);
    daemon.offramp(&["off", "--profile", PROFILE]).success();
    daemon.offramp(&["on", "--profile", PROFILE]).success();
    assert_eq!(ask(User::Root), 3, "what is switched off is forgotten");
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
    let limit = Duration::from_secs(20);
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
