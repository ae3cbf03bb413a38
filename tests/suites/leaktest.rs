//! `offramp leaktest` tells what the wire shows, and what `offramp run` takes from a command.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use offramp_tests::addresses::ORIGIN;
use offramp_tests::{Daemon, Finished, Gateway, Lab, PROFILE, Running, User, binary, port};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
const USERS: [User; 2] = [User::Root, User::Nobody];

fn leaktest(lab: &Lab, daemon: &Daemon<'_>, user: User, arguments: &[&str]) -> Finished {
    let mut command = lab.client().command_as(user, binary("offramp"));
    command.arg("--socket").arg(daemon.socket());
    command
        .args(["leaktest", "--profile", PROFILE])
        .args(arguments);
    Running::start(command).finish(LIMIT)
}

/// The verdict and the reason of each door.
#[track_caller]
fn doors(said: &Finished) -> Vec<(String, String, String)> {
    let report: Value =
        serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    let rows = report["rows"].as_array().expect("rows");
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    rows.iter()
        .map(|row| (text(row, "door"), text(row, "verdict"), text(row, "reason")))
        .collect()
}

#[track_caller]
fn verdict<'a>(rows: &'a [(String, String, String)], door: &str) -> (&'a str, &'a str) {
    let found = rows.iter().find(|row| row.0 == door);
    let (_, verdict, reason) = found.unwrap_or_else(|| panic!("no door {door}: {rows:?}"));
    (verdict, reason)
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn no_door_leads_past_the_proxy() {
    let lab = Lab::new();
    let mut gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    for user in USERS {
        let capture = lab.capture();
        let start = Instant::now();
        let said = leaktest(&lab, &daemon, user, &["--json"]);
        let took = start.elapsed();
        capture.packets().assert_only_gateway();
        assert_eq!(said.status.code(), Some(0), "{user:?}: {said}");
        let rows = doors(&said);
        assert_eq!(rows.len(), 43, "{user:?}: {said}");
        for door in [
            "TCP",
            "TCP over IPv6",
            "TCP, bound to an address",
            "TCP over IPv6, bound to an address",
            "TCP, bound to a device",
            "TCP over IPv6, bound to a device",
            "UDP",
            "UDP over IPv6",
            "UDP, connected",
            "UDP over IPv6, connected",
            "UDP, bound to an address",
            "UDP over IPv6, bound to an address",
            "UDP, bound to a device",
            "UDP over IPv6, bound to a device",
            "UDP, IP_UNICAST_IF",
            "UDP, IPV6_UNICAST_IF",
            "QUIC",
            "QUIC over IPv6",
            "DNS, configured resolver",
            "DNS over TCP, configured resolver",
            "DNS, 127.0.0.53",
            "DNS, any address",
            "DNS, any IPv6 address",
            "DNS, getaddrinfo",
            "DNS over TLS",
            "TCP by a child",
            "TCP, socket made before",
        ] {
            let told = verdict(&rows, door);
            assert_eq!(told.0, "captured", "{user:?}, {door}: {told:?}");
        }
        for door in [
            "UDP, IP_PKTINFO",
            "UDP, IPV6_PKTINFO",
            "multicast",
            "multicast over IPv6",
            "broadcast",
            "raw socket",
            "raw socket over IPv6",
            "ping socket",
            "ping socket over IPv6",
            "packet socket",
            "another network namespace",
        ] {
            let told = verdict(&rows, door);
            assert_eq!(told.0, "refused", "{user:?}, {door}: {told:?}");
        }
        assert!(took < Duration::from_secs(20), "{user:?}: {took:?}");
    }
    gateway.stop();
    let away = leaktest(&lab, &daemon, User::Root, &[]);
    assert_eq!(away.status.code(), Some(0), "{away}");
    assert!(away.stdout.contains("\nNo leak: "), "{away}");
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_target_is_spoken_to_by_the_way_that_the_profile_says() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let echo = SocketAddr::from((ORIGIN, port::ECHO)).to_string();
    let excluded = format!("203.0.113.12:{}", port::HTTP);
    let named = format!("excluded.test:{}", port::HTTP);
    let web = format!("origin.test:{}", port::HTTP);
    for (user, target, door) in [
        (User::Root, &echo, "UDP to the target"),
        (User::Nobody, &web, "TCP to the target"),
    ] {
        let capture = lab.capture();
        let said = leaktest(&lab, &daemon, user, &["--json", "--target", target]);
        capture.packets().assert_only_gateway();
        assert_eq!(said.status.code(), Some(0), "{user:?} {target}: {said}");
        let rows = doors(&said);
        let told = verdict(&rows, door);
        assert!(
            told.0 == "captured" && told.1.contains("it answered"),
            "{user:?} {target}: {told:?}"
        );
    }
    for (user, target) in [(User::Root, &named), (User::Nobody, &excluded)] {
        let said = leaktest(&lab, &daemon, user, &["--json", "--target", target]);
        assert_eq!(said.status.code(), Some(0), "{user:?} {target}: {said}");
        let rows = doors(&said);
        let told = verdict(&rows, "TCP to the target");
        assert_eq!(told.0, "direct", "{user:?} {target}: {told:?}");
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_leak_is_found() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    daemon.detach_programs();
    for user in USERS {
        let said = leaktest(&lab, &daemon, user, &["--json"]);
        assert_eq!(said.status.code(), Some(1), "{user:?}: {said}");
        let rows = doors(&said);
        for door in [
            "TCP",
            "TCP over IPv6",
            "TCP, bound to an address",
            "UDP",
            "UDP over IPv6",
            "UDP, IP_PKTINFO",
            "QUIC",
            "DNS, configured resolver",
            "DNS, any address",
            "TCP by a child",
            "TCP, socket made before",
            "UDP, socket made before",
        ] {
            let told = verdict(&rows, door);
            assert_eq!(told.0, "leaked", "{user:?}, {door}: {told:?}");
            let wire = told.1.contains("on the wire of eth0");
            assert_eq!(wire, user == User::Root, "{user:?}, {door}: {told:?}");
        }
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn what_the_profile_lets_go_is_no_leak() {
    let lab = Lab::new();
    // Nobody listens there.
    let mut profile = Daemon::profile();
    profile["Payload"]["Servers"][0]["TLS"] = Value::Null;
    profile["Payload"]["Servers"][0]
        .as_object_mut()
        .expect("a server")
        .remove("TLS");
    profile["Payload"]["UnavailableAction"] = "Direct".into();
    let mut daemon = Daemon::prepare(&lab);
    daemon.write("policies/managed/0.json", &profile.to_string());
    daemon.start_unconnected();
    offramp_tests::wait_until("the profile is disconnected", LIMIT, || {
        daemon.status()["profiles"][0]["state"] == "disconnected"
    });
    for user in USERS {
        let said = leaktest(&lab, &daemon, user, &["--json"]);
        assert_eq!(said.status.code(), Some(0), "{user:?}: {said}");
        let rows = doors(&said);
        for door in ["TCP", "UDP", "QUIC over IPv6", "TCP by a child"] {
            let told = verdict(&rows, door);
            assert_eq!(told.0, "direct", "{user:?}, {door}: {told:?}");
        }
        assert_eq!(verdict(&rows, "packet socket").0, "refused", "{user:?}");
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn without_a_daemon_nothing_is_tried() {
    let lab = Lab::new();
    let daemon = Daemon::prepare(&lab);
    let capture = lab.capture();
    let said = leaktest(&lab, &daemon, User::Root, &[]);
    assert_eq!(said.status.code(), Some(69), "{said}");
    capture.packets().assert_only_gateway();
}

/// What root's command tries in order to get past its capture, one line for each thing.
const TRIES: &str = r#"
import os, socket, struct, subprocess, sys
def attempt(name, work):
    try:
        work()
        print(name, "done")
    except OSError as error:
        print(name, "errno", error.errno)
def packet():
    udp = struct.pack("!HHHH", 1, 9, 8, 0)
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 17, 0,
                     socket.inet_aton("10.90.1.2"), socket.inet_aton("203.0.113.77"))
    s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    s.sendto(ip + udp, ("eth0", 0x0800, 0, 0, b"\xff" * 6))
attempt("packet", packet)
for line in sys.argv[1:]:
    code = subprocess.run(["sh", "-c", line], stderr=subprocess.DEVNULL).returncode
    print(line, "done" if code == 0 else "failed")
"#;

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_command_goes_without_what_undoes_its_capture() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let (script, armed) = (
        lab.directory().join("tries.py"),
        lab.directory().join("armed"),
    );
    std::fs::write(&script, TRIES).expect("the lab's directory is ours");
    // A copy of the interpreter that has CAP_NET_RAW from its file.
    lab.client().sh(&format!(
        "cp $(readlink -f /usr/bin/python3) {0}
         /usr/bin/python3 -c 'import os, struct, sys
os.setxattr(sys.argv[1], \"security.capability\", struct.pack(\"<5I\", 0x02000001, 1 << 13, 0, 0, 0))' {0}",
        armed.display()
    ));
    let tries = [
        "ip rule add pref 5 to 203.0.113.77 lookup main",
        "ip route add 203.0.113.77 via 10.90.1.1",
        "ip link set offramp0 down",
        "unshare --net true",
        "mount -t tmpfs tmpfs /mnt",
        "setpriv --inh-caps=+net_admin true",
        // Children, other users and files have them no more either.
        &format!("/usr/bin/python3 {} | grep 'packet done'", script.display()),
        &format!(
            "setpriv --reuid=65534 --clear-groups {} {} | grep 'packet done'",
            armed.display(),
            script.display()
        ),
        // What has nothing to do with it goes on.
        &format!("chown 65534 {}", script.display()),
        "setpriv --reuid=65534 --clear-groups true",
    ];
    let line = |options: &[&str]| {
        let mut command = lab.client().command(binary("offramp"));
        command.arg("--socket").arg(daemon.socket());
        command.args(["run", "--profile", PROFILE]).args(options);
        command
            .args(["--", "/usr/bin/python3"])
            .arg(&script)
            .args(tries);
        Running::start(command).finish(LIMIT).success()
    };
    let capture = lab.capture();
    let said = line(&[]);
    capture.packets().assert_only_gateway();
    let outcomes: Vec<_> = said
        .lines()
        .filter(|line| !line.starts_with("packet"))
        .collect();
    for (number, outcome) in outcomes.iter().enumerate() {
        let expected = if number < 8 { "failed" } else { "done" };
        assert!(outcome.ends_with(expected), "{outcome} in {said}");
    }
    assert_eq!(outcomes.len(), tries.len(), "{said}");
    assert!(said.contains("packet errno 1\n"), "{said}");
    for kept in ["net_raw", "all"] {
        let capture = lab.capture();
        let said = line(&["--keep-capabilities", kept]);
        assert!(said.contains("packet done\n"), "{kept}: {said}");
        let straight = "203.0.113.77:9".parse().expect("an address");
        capture.packets().assert_some_with(straight);
        assert_eq!(
            said.contains("unshare --net true done"),
            kept == "all",
            "{said}"
        );
        lab.client().sh("ip link set offramp0 up
            ip rule del pref 5 || true; ip route del 203.0.113.77 || true");
    }
}
