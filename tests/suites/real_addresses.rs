//! `DNS.RealAddresses`: apps see true addresses, and their flows follow the names that they were told
//! them for.

use std::time::Duration;

use offramp_tests::addresses::{CLIENT, CLIENT6, DNS, ORIGIN, ORIGIN6, PROXY, PROXY6};
use offramp_tests::{Daemon, Gateway, Held, Lab, PROFILE, Person, binary, port, wait_until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);
/// What `*.wild.test` stands for.
const SHARED: &str = "203.0.113.13";
/// Two of these names.
const EXCLUDED: &str = "excluded.wild.test";
const RELAYED: &str = "relayed.wild.test";

fn profile(real: bool) -> Value {
    let mut profile = Daemon::profile();
    profile["Payload"]["DNS"] = json!({ "RealAddresses": real });
    profile["Payload"]["ExcludedDomains"] = json!([EXCLUDED, "excluded.test"]);
    profile["Payload"]["NetworkRouting"] = json!({ "ExcludedRoutes": ["198.51.100.0/24"] });
    profile
}

/// Puts another profile in force, for flows that run too.
#[track_caller]
fn change(daemon: &Daemon<'_>, profile: &Value) {
    daemon.write("fresh.json", &profile.to_string());
    let file = daemon.config("fresh.json").display().to_string();
    let config = daemon.config("").display().to_string();
    daemon
        .offramp(&["profile", "install", "--config", &config, &file])
        .success();
}

/// Runs a command line under the profile as a user.
#[track_caller]
fn run(person: &Person<'_>, daemon: &Daemon<'_>, line: &[&str]) -> String {
    let run = ["run", "--profile", PROFILE, "--"];
    person.offramp(daemon, &[&run[..], line].concat()).success()
}

#[track_caller]
fn dig(person: &Person<'_>, daemon: &Daemon<'_>, arguments: &[&str]) -> String {
    let line = ["dig", "+short", "+tries=1", "+time=10"];
    run(person, daemon, &[&line[..], arguments].concat())
}

/// Who the target of a flow saw.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Client,
    Gateway,
}

impl Seen {
    #[track_caller]
    fn read(said: &str) -> Self {
        let is = |all: [String; 2]| all.iter().any(|address| said.contains(address.as_str()));
        let client = [format!("{CLIENT}:"), format!("[{CLIENT6}]:")];
        let gateway = [format!("{PROXY}:"), format!("[{PROXY6}]:")];
        match (is(client), is(gateway)) {
            (true, false) => Self::Client,
            (false, true) => Self::Gateway,
            _ => panic!("{said}"),
        }
    }
}

/// Opens flows of a user to an address, and tells who was seen: by TCP and by UDP.
#[track_caller]
fn flows(person: &Person<'_>, daemon: &Daemon<'_>, address: &str) -> [Seen; 2] {
    let probe = binary("offramp-probe").display().to_string();
    [("tcp", port::BANNER), ("udp", port::ECHO)].map(|(kind, number)| {
        let target = format!("{address}:{number}");
        let said = run(person, daemon, &[&probe, kind, &target]);
        assert!(said.contains(" ok "), "{said}");
        Seen::read(&said.replace(&target, "target"))
    })
}

/// Opens a flow over TLS to an address, in the name of a host.
#[track_caller]
fn tls(lab: &Lab, person: &Person<'_>, daemon: &Daemon<'_>, name: &str, address: &str) -> Seen {
    let ca = lab.authority().certificate().display().to_string();
    let (resolve, url) = (format!("{name}:443:{address}"), format!("https://{name}/"));
    let line = ["curl", "-sS", "--cacert", &ca, "--resolve", &resolve, &url];
    Seen::read(&run(person, daemon, &line))
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn names_have_their_true_addresses() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start_with(&lab, &[profile(true)]);
    let root = Person::new(&lab, 0);
    let capture = lab.capture();
    let asks = |arguments: &[&str]| dig(&root, &daemon, arguments);
    for resolver in ["@10.90.4.2", "@127.0.0.53", "@::1"] {
        for way in ["+notcp", "+tcp"] {
            let said = asks(&[resolver, way, "origin.test", "A"]);
            assert_eq!(said.trim(), ORIGIN.to_string(), "{resolver} {way}");
            let said = asks(&[resolver, way, "origin.test", "AAAA"]);
            assert_eq!(said.trim(), ORIGIN6.to_string(), "{resolver} {way}");
        }
    }
    assert_eq!(asks(&["alias.test"]), format!("origin.test.\n{ORIGIN}\n"));
    assert_eq!(
        asks(&["TYPE65", "hints.test"]).trim(),
        "1 . alpn=\"h2\" ipv4hint=203.0.113.11"
    );
    assert_eq!(
        asks(&["TXT", "origin.test"]).trim(),
        "\"a text of the origin\""
    );
    assert!(asks(&["nowhere.test"]).is_empty());
    // What would lead to this machine is answered by what stands for the name.
    for (kind, block) in [("A", "198.1"), ("AAAA", "fd")] {
        let said = asks(&[kind, "loopback.test"]);
        assert!(said.starts_with(block), "{kind}: {said}");
    }
    // By name, by the addresses that were told, and by one that was not.
    for (family, peer) in [("-4", "10.90.2.2:"), ("-6", "[fd00:90:2::2]:")] {
        let said = run(
            &root,
            &daemon,
            &["curl", "-sS", family, "http://alias.test/"],
        );
        assert!(said.contains(&format!("peer={peer}")), "{said}");
    }
    for address in [
        ORIGIN.to_string(),
        format!("[{ORIGIN6}]"),
        SHARED.to_owned(),
    ] {
        assert_eq!(
            flows(&root, &daemon, &address),
            [Seen::Gateway, Seen::Gateway]
        );
    }
    shows_name_and_address(&daemon);
    capture.packets().assert_only_gateway();
    let unmanaged = lab
        .client()
        .run(&["dig", "+short", "origin.test"])
        .success();
    assert_eq!(unmanaged.trim(), ORIGIN.to_string());
    let unmanaged = lab
        .client()
        .run(&["curl", "-sS", "-4", "http://origin.test/"]);
    assert_eq!(Seen::read(&unmanaged.success()), Seen::Client);
}

fn shows_name_and_address(daemon: &Daemon<'_>) {
    let target = format!("{ORIGIN}:{}", port::ECHO);
    let held = Held::open(daemon, &target);
    let said = daemon.offramp(&["flows", "--json"]).success();
    let all: Value = serde_json::from_str(&said).expect("JSON was asked for");
    let mut all = all.as_array().into_iter().flatten();
    let flow = all.find(|flow| flow["target"] == *target && flow["protocol"] == "tcp");
    let flow = flow.unwrap_or_else(|| panic!("{said}"));
    let told = json!({ "name": "alias.test", "by": "dns" });
    assert_eq!(flow["told"], told, "the last that was told: {said}");
    let explained = daemon
        .offramp(&["explain", &format!("flow:{}", flow["id"])])
        .success();
    assert!(explained.contains("alias.test"), "{explained}");
    let pid = flow["app"]["pid"].to_string();
    let explained = daemon
        .offramp(&["explain", &pid, "--target", &target])
        .success();
    assert!(
        explained.contains("were told 203.0.113.10 for alias.test, origin.test"),
        "{explained}"
    );
    assert!(held.works());
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn an_address_of_two_names() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start_with(&lab, &[profile(true)]);
    let [first, second, both, neither] = [1001, 1002, 1003, 1004].map(|id| Person::new(&lab, id));
    let approved = || daemon.map_entries()["approved"];
    run(&neither, &daemon, &["true"]);
    let before = approved();
    let capture = lab.capture();
    for person in [&second, &both] {
        assert_eq!(dig(person, &daemon, &[RELAYED]).trim(), SHARED);
    }
    capture.packets().assert_only_gateway();
    for person in [&first, &both] {
        assert_eq!(dig(person, &daemon, &[EXCLUDED]).trim(), SHARED);
    }
    assert_eq!(approved(), before, "the kernel lets nobody past the daemon");
    let capture = lab.capture();
    assert_eq!(flows(&first, &daemon, SHARED), [Seen::Client, Seen::Client]);
    assert_eq!(tls(&lab, &first, &daemon, EXCLUDED, SHARED), Seen::Client);
    let packets = capture.packets();
    packets.assert_some_with(([203, 0, 113, 13], port::BANNER).into());
    let capture = lab.capture();
    assert_eq!(
        flows(&second, &daemon, SHARED),
        [Seen::Gateway, Seen::Gateway]
    );
    // Nothing tells which of the names is meant.
    assert_eq!(
        flows(&both, &daemon, SHARED),
        [Seen::Gateway, Seen::Gateway]
    );
    assert_eq!(tls(&lab, &both, &daemon, RELAYED, SHARED), Seen::Gateway);
    // What one user was told decides for no other.
    assert_eq!(
        flows(&neither, &daemon, SHARED),
        [Seen::Gateway, Seen::Gateway]
    );
    capture.packets().assert_only_gateway();
    // On a busy machine it may be too late to say its name. An old answer may be meant as well.
    wait_until("the app says which name it means", LIMIT, || {
        tls(&lab, &both, &daemon, EXCLUDED, SHARED) == Seen::Client
            && tls(&lab, &first, &daemon, RELAYED, SHARED) == Seen::Gateway
    });
    // To say a name leads nowhere that it was not told to lead.
    let capture = lab.capture_only("tcp port 443 or udp port 443");
    assert_eq!(tls(&lab, &second, &daemon, EXCLUDED, SHARED), Seen::Gateway);
    for person in [&first, &second, &both, &neither] {
        let seen = tls_unchecked(person, &daemon, EXCLUDED, "203.0.113.11");
        assert_eq!(seen, Seen::Gateway, "{}", person.id);
    }
    capture.packets().assert_only_gateway();
    // The whole of it by a program that asks for itself.
    let get = |url: &str| Seen::read(&run(&first, &daemon, &["curl", "-sS", "-4", url]));
    let capture = lab.capture();
    assert_eq!(get("http://excluded.test/"), Seen::Client);
    assert_eq!(get("http://v4.test/"), Seen::Gateway);
    capture.packets().assert_some_with((DNS, 53).into());
}

/// The same where the certificate is another's.
#[track_caller]
fn tls_unchecked(person: &Person<'_>, daemon: &Daemon<'_>, name: &str, address: &str) -> Seen {
    let (resolve, url) = (format!("{name}:443:{address}"), format!("https://{name}/"));
    let line = ["curl", "-sSk", "--resolve", &resolve, &url];
    Seen::read(&run(person, daemon, &line))
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn what_was_told_outlasts_the_daemon() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut daemon = Daemon::start_with(&lab, &[profile(true)]);
    let [first, second] = [1001, 1002].map(|id| Person::new(&lab, id));
    dig(&first, &daemon, &[EXCLUDED]);
    dig(&second, &daemon, &[RELAYED]);
    let all = |daemon: &Daemon<'_>| [&first, &second].map(|person| flows(person, daemon, SHARED));
    let told = [[Seen::Client, Seen::Client], [Seen::Gateway, Seen::Gateway]];
    assert_eq!(all(&daemon), told);
    assert!(daemon.stop().status.success());
    daemon.start_again();
    assert_eq!(all(&daemon), told, "after a restart");
    let before = daemon.take_over();
    assert_eq!(all(&daemon), told, "after a takeover");
    drop(before);
    let file = daemon.directory().join("state/told.json");
    assert!(!file.exists(), "what is old would be less than the whole");
    daemon.process().signal(nix::sys::signal::Signal::SIGKILL);
    wait_until("the daemon is gone", LIMIT, || {
        !daemon.process().is_running()
    });
    daemon.start_again();
    let forgotten = [
        [Seen::Gateway, Seen::Gateway],
        [Seen::Gateway, Seen::Gateway],
    ];
    assert_eq!(all(&daemon), forgotten, "after a crash nobody is let past");
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn into_the_mode_and_out_of_it() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start_with(&lab, &[profile(false)]);
    let root = Person::new(&lab, 0);
    let approved = || daemon.map_entries()["approved"];
    let synthetic = dig(&root, &daemon, &[RELAYED]);
    let before = approved();
    assert!(synthetic.starts_with("198.1"), "{synthetic}");
    let by_name = Held::open(&daemon, &format!("{}:{}", synthetic.trim(), port::ECHO));
    assert_eq!(dig(&root, &daemon, &[EXCLUDED]).trim(), SHARED);
    assert!(approved() > before, "in the kernel");
    assert_eq!(flows(&root, &daemon, SHARED), [Seen::Client, Seen::Client]);

    change(&daemon, &profile(true));
    assert_eq!(approved(), before, "not any more");
    assert_eq!(
        flows(&root, &daemon, SHARED),
        [Seen::Gateway, Seen::Gateway]
    );
    assert_eq!(
        dig(&root, &daemon, &["origin.test"]).trim(),
        ORIGIN.to_string()
    );
    assert_eq!(dig(&root, &daemon, &[EXCLUDED]).trim(), SHARED);
    assert_eq!(flows(&root, &daemon, SHARED), [Seen::Client, Seen::Client]);
    let direct = Held::open(&daemon, &format!("{SHARED}:{}", port::ECHO));
    let relayed = Held::open(&daemon, &format!("{ORIGIN}:{}", port::ECHO));

    change(&daemon, &profile(false));
    for held in [by_name, direct, relayed] {
        assert!(held.works(), "its way is the same all the time");
    }
    let synthetic = dig(&root, &daemon, &["origin.test"]);
    assert!(synthetic.starts_with("198.1"), "{synthetic}");
    // What was told before goes where it went.
    assert_eq!(flows(&root, &daemon, SHARED), [Seen::Client, Seen::Client]);
    assert_eq!(
        flows(&root, &daemon, &ORIGIN.to_string()),
        [Seen::Gateway, Seen::Gateway]
    );
}
