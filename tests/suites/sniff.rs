//! Names that apps tell of addresses: read where a rule needs one, and not believed.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use offramp_tests::addresses::{CLIENT, DNS, GATEWAY, ORIGIN, ORIGIN6};
use offramp_tests::{Daemon, Gateway, Lab, PROFILE, Packet, Running, User, port, wait_until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);
const DIRECT: &str = "peer=10.90.1.2:";
const DIRECT6: &str = "peer=[fd00:90:1::2]:";
const RELAYED: &str = "peer=10.90.2.2:";
const RELAYED6: &str = "peer=[fd00:90:2::2]:";

/// `v4.test` and `v6.test` are excluded; `origin.test` has the address of both, and is not.
fn profile() -> Value {
    let mut profile = Daemon::profile();
    profile["Payload"]["ExcludedDomains"] = json!(["v4.test", "v6.test"]);
    profile["Payload"]["NetworkRouting"] = json!({});
    profile
}

fn script(lab: &Lab, name: &str, text: &str) -> String {
    let path = lab.directory().join(name);
    std::fs::write(&path, text).expect("the directory is ours");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&path, mode).expect("the file is ours");
    path.display().to_string()
}

/// A request by curl, and where the origin has to see it come from.
const REQUESTS: &[(&str, &str, &str)] = &[
    // One address, two names.
    (
        "TLS 1.3",
        "--tlsv1.3 --resolve v4.test:443:203.0.113.10 https://v4.test/",
        DIRECT,
    ),
    (
        "TLS 1.2",
        "--tls-max 1.2 --resolve v4.test:443:203.0.113.10 https://v4.test/",
        DIRECT,
    ),
    (
        "TLS 1.3, relayed",
        "--resolve origin.test:443:203.0.113.10 https://origin.test/",
        RELAYED,
    ),
    (
        "TLS 1.2, relayed",
        "--tls-max 1.2 --resolve origin.test:443:203.0.113.10 https://origin.test/",
        RELAYED,
    ),
    (
        "IPv6",
        "--resolve v6.test:443:[2001:db8::10] https://v6.test/",
        DIRECT6,
    ),
    (
        "IPv6, relayed",
        "--resolve origin.test:443:[2001:db8::10] https://origin.test/",
        RELAYED6,
    ),
    (
        "TLS by --connect-to",
        "--connect-to ::203.0.113.10: https://V4.Test./",
        DIRECT,
    ),
    ("HTTP", "-H Host:v4.test http://203.0.113.10/", DIRECT),
    (
        "HTTP, relayed",
        "-H Host:origin.test http://203.0.113.10/",
        RELAYED,
    ),
    (
        "HTTP as to a proxy",
        "-x http://203.0.113.10:80 -H Host:origin.test http://v4.test/",
        DIRECT,
    ),
    (
        "HTTP over IPv6",
        "-H Host:v6.test:80 http://[2001:db8::10]/",
        DIRECT6,
    ),
    // No name.
    ("TLS without a name", "https://203.0.113.10/", RELAYED),
    ("HTTP to an address", "http://203.0.113.10/", RELAYED),
    (
        "HTTP/2 at once",
        "--http2-prior-knowledge -H Host:v4.test http://203.0.113.10/",
        RELAYED,
    ),
    // Lies: an excluded name, and an address that it does not have.
    (
        "TLS to another address",
        "--resolve v4.test:443:203.0.113.11 https://v4.test/",
        RELAYED,
    ),
    (
        "HTTP to another address",
        "-H Host:v4.test http://203.0.113.11/",
        RELAYED,
    ),
    (
        "the name has IPv6 alone",
        "--resolve v6.test:443:203.0.113.10 https://v6.test/",
        RELAYED,
    ),
    (
        "the name has IPv4 alone",
        "--resolve v4.test:443:[2001:db8::10] https://v4.test/",
        RELAYED6,
    ),
    (
        "below the name is nothing",
        "--resolve a.v4.test:443:203.0.113.10 https://a.v4.test/",
        RELAYED,
    ),
];

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn one_address_and_two_names() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start_with(&lab, &[profile()]);
    for is_direct in [true, false] {
        let capture = lab.capture();
        let requests = REQUESTS.iter();
        for (what, request, peer) in
            requests.filter(|(_, _, peer)| is_direct == [DIRECT, DIRECT6].contains(peer))
        {
            let line = ["curl", "-sSk", "--max-time", "20"].into_iter();
            let line: Vec<_> = line.chain(request.split(' ')).collect();
            let said = daemon.run(&line).success();
            assert!(said.contains(peer), "{what}: {said}");
        }
        capture.packets().assert_only(|packet| {
            packet.is_with(GATEWAY)
                || packet.is_with((DNS, 53).into())
                || is_direct && is_of_origin(packet)
        });
    }
    // The machine's resolver is asked for excluded names alone.
    for query in lab.names().queries() {
        let of_excluded = ["v4.test", "v6.test", "a.v4.test"].map(|name| format!("] {name} "));
        let is_known = of_excluded.iter().any(|name| query.contains(name))
            // The gateway's own.
            || !query.contains(&CLIENT.to_string());
        assert!(is_known, "{query}");
    }
    // Bytes in parts, and bytes that only begin like something.
    let parts = script(&lab, "parts.py", include_str!("sniff/parts.py"));
    let said = daemon.run(&["/usr/bin/python3", &parts]).success();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 20, "{said}");
    for line in lines {
        let is_well = match line.split(' ').next() {
            Some("v4.test") => line.contains(" 10.90.1.2:"),
            Some("origin.test") => line.contains(" 10.90.2.2:"),
            _ => line.ends_with(" whole"),
        };
        assert!(is_well, "{line}");
    }
}

fn is_of_origin(packet: &Packet) -> bool {
    [port::HTTP, port::HTTPS].iter().any(|number| {
        packet.is_with((ORIGIN, *number).into()) || packet.is_with((ORIGIN6, *number).into())
    })
}

/// Flows as `offramp flows --follow` tells them, from the start of this on.
struct Followed(Running);

impl Followed {
    fn start(lab: &Lab, daemon: &Daemon<'_>) -> Self {
        let mut command = lab.client().command(offramp_tests::binary("offramp"));
        command.arg("--socket").arg(daemon.socket());
        command.args(["flows", "--follow", "--json"]);
        let followed = Self(Running::start(command));
        // A flow that it tells of shows that it listens.
        wait_until("flows are followed", LIMIT, || {
            daemon
                .run(&["curl", "-sS", "http://203.0.113.14/"])
                .success();
            !followed.0.said().is_empty()
        });
        followed
    }

    /// How flows ended: protocol, target, who told which name, way.
    fn ended(&self) -> Vec<String> {
        let said = self.0.said();
        let events = said
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let ended = events.filter(|event| event["event"] == "end");
        ended.map(|event| describe(&event["flow"])).collect()
    }
}

fn describe(flow: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    format!(
        "{} {} {} {} {}",
        text(&flow["protocol"]),
        text(&flow["target"]),
        text(&flow["told"]["by"]),
        text(&flow["told"]["name"]),
        text(&flow["way"]),
    )
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn browsers() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start_with(&lab, &[profile()]);
    let followed = Followed::start(&lab, &daemon);
    // It sends ECH for show unless it is told not to: by a file, in the client's own mounts.
    let policy = r#"{"EncryptedClientHelloEnabled": false}"#;
    let policies = "/etc/chromium/policies/managed";
    for (ech, tls, quic) in [
        (true, ["ech", "relay"], ["ech", "relay"]),
        (false, ["sni", "direct"], ["quic", "direct"]),
    ] {
        if !ech {
            lab.client().sh(&format!(
                "mount -t tmpfs none /etc/chromium && mkdir -p {policies} && echo '{policy}' >{policies}/lab.json"
            ));
        }
        let data = lab.directory().join(format!("chromium-{ech}"));
        let data = format!("--user-data-dir={}", data.display());
        let rules = "--host-resolver-rules=MAP v4.test 203.0.113.10, MAP v6.test [2001:db8::10]";
        let page = "data:text/html,<img src=https://v4.test/><img src=https://v6.test/>";
        let mut line = vec![
            "chromium",
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            &data,
            rules,
        ];
        line.extend([
            "--ignore-certificate-errors",
            "--disable-dev-shm-usage",
            "--enable-quic",
        ]);
        line.extend(["--origin-to-force-quic-on=v6.test:443", "--dump-dom", page]);
        daemon.run(&line);
        let expected = [
            format!("tcp 203.0.113.10:443 {} v4.test {}", tls[0], tls[1]),
            format!("udp [2001:db8::10]:443 {} v6.test {}", quic[0], quic[1]),
        ];
        wait_until("the flows have ended", LIMIT, || {
            let ended = followed.ended();
            expected.iter().all(|flow| ended.contains(flow))
        });
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn who_speaks_first_is_not_delayed() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let shell = offramp_tests::Shell::start(lab.origin(), lab.directory());
    let speed = script(&lab, "speed.py", include_str!("sniff/speed.py"));
    let measure = |profile: &Value| {
        let mut daemon = Daemon::start_with(&lab, std::slice::from_ref(profile));
        let number = port::BANNER.to_string();
        let said = daemon.run(&["/usr/bin/python3", &speed, &number]).success();
        let mut line = vec!["ssh".to_owned()];
        line.extend(shell.arguments(User::Root));
        line.extend(["203.0.113.10", "echo", "$SSH_CLIENT"].map(String::from));
        let line: Vec<_> = line.iter().map(String::as_str).collect();
        let seen = daemon.run(&line).success();
        assert!(seen.starts_with("10.90.2.2 "), "{seen}");
        let end = daemon.stop();
        assert!(end.status.success(), "{end}");
        said.trim().parse::<u64>().expect("microseconds")
    };
    let mut without = profile();
    without["Payload"]["ExcludedDomains"] = json!([]);
    let (with, without) = (measure(&profile()), measure(&without));
    eprintln!("a banner after {with} us where a name is needed, {without} us where none is");
    assert!(with < without + 10_000, "{with} {without}");
}

/// A client that stays: its first answer, and its process.
struct Stays(Running);

impl Stays {
    fn ask(daemon: &Daemon<'_>, program: &str, name: &str) -> (Self, String) {
        let mut command = daemon.command_as(User::Root, program);
        command.args(["203.0.113.10", name]).stdin(Stdio::piped());
        let client = Running::start(command);
        wait_until("it is answered", LIMIT, || client.said().contains('\n'));
        let said = client.said();
        (Self(client), said)
    }

    fn asks_again(mut self) -> String {
        self.0
            .input()
            .write_all(b"go\n")
            .expect("it waits for this");
        let said = self.0.finish(LIMIT).success();
        said.lines().last().unwrap_or_default().to_owned()
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn profiles_by_told_names() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let rule =
        |domains: &[&str]| json!([{ "SigningIdentifier": "exe:told.py", "MatchDomains": domains }]);
    let mut first = profile();
    first["Identifier"] = "test.first".into();
    first["Payload"]["Order"] = 1.into();
    first["Payload"]["ExcludedDomains"] = json!([]);
    first["Payload"]["AppRules"] = rule(&["other.test"]);
    let mut daemon = Daemon::start_with(&lab, &[profile(), first]);
    let program = script(&lab, "told.py", include_str!("sniff/told.py"));
    let shown = |told: &str| {
        let said = daemon.offramp(&["flows", "--json"]);
        let flows: Value = serde_json::from_str(&said.stdout).expect("JSON");
        let flows = flows.as_array().or(flows["flows"].as_array()).cloned();
        let flow = flows
            .unwrap_or_default()
            .into_iter()
            .find(|flow| flow["told"]["name"] == told);
        flow.map(|flow| format!("{} {}", describe(&flow), flow["profile"]))
            .unwrap_or_default()
    };
    // Which profile relays it is the name's to say, whatever the address.
    let (other, said) = Stays::ask(&daemon, &program, "other.test");
    assert!(said.contains(RELAYED), "{said}");
    assert_eq!(
        shown("other.test"),
        "tcp 203.0.113.10:80 host other.test relay \"test.first\""
    );
    let (origin, said) = Stays::ask(&daemon, &program, "origin.test");
    assert!(said.contains(RELAYED), "{said}");
    assert_eq!(
        shown("origin.test"),
        format!("tcp 203.0.113.10:80 host origin.test relay \"{PROFILE}\"")
    );
    let (kept, said) = Stays::ask(&daemon, &program, "v4.test");
    assert!(said.contains(DIRECT), "{said}");
    let seen = shown("v4.test");
    let expected = "tcp 203.0.113.10:80 host v4.test direct ";
    assert!(seen.starts_with(expected), "{seen}");
    let (direct, _) = Stays::ask(&daemon, &program, "v4.test");
    let text = daemon.offramp(&["flows"]).success();
    assert!(text.contains("203.0.113.10:80 (host v4.test)"), "{text}");
    // Rules that say the same of a name leave its flow alone; others end it.
    let mut put_in_force = |names: &[&str], request: &str, peer: &str| {
        let mut changed = profile();
        changed["Payload"]["ExcludedDomains"] = json!(names);
        daemon.write("policies/managed/0.json", &changed.to_string());
        daemon.process().signal(nix::sys::signal::Signal::SIGHUP);
        let line: Vec<_> = ["curl", "-sS"]
            .into_iter()
            .chain(request.split(' '))
            .collect();
        wait_until("the profile is in force", LIMIT, || {
            daemon.run(&line).stdout.contains(peer)
        });
    };
    put_in_force(
        &["v4.test", "excluded.test"],
        "-H Host:excluded.test http://203.0.113.12/",
        DIRECT,
    );
    assert!(kept.asks_again().starts_with(DIRECT));
    assert!(origin.asks_again().starts_with(RELAYED));
    put_in_force(
        &["excluded.test"],
        "-H Host:v4.test http://203.0.113.10/",
        RELAYED,
    );
    assert_eq!(direct.asks_again(), "ended");
    assert!(other.asks_again().starts_with(RELAYED));
}
