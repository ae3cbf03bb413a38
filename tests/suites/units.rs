//! The systemd units: what systemd says of them, and what a real one does with them.

#[path = "units/machine.rs"]
mod machine;
#[path = "units/upgrade.rs"]
mod upgrade;

use std::process::Command;
use std::time::Duration;

use machine::Machine;
use offramp_tests::addresses::{CLIENT, PROXY, target};
use offramp_tests::{Authority, Daemon, Gateway, Lab, copy_probe, port, wait_until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/units");

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn systemd_understands_every_line() {
    for (unit, most) in [
        ("offrampd", 5.5),
        ("offramp-lockdown", 5.0),
        ("offramp-gateway", 2.0),
    ] {
        let file = format!("{UNITS}/{unit}.service");
        let said = Command::new("systemd-analyze")
            .args(["verify", &file])
            .output();
        let said = said.expect("systemd-analyze is part of systemd");
        let said = String::from_utf8_lossy(&said.stderr);
        // Whether the programs are installed here is none of the units' matter.
        let wrong = said.lines().filter(|line| line.contains(unit));
        let wrong: Vec<_> = wrong
            .filter(|line| !line.contains("not executable"))
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        let said = Command::new("systemd-analyze")
            .args(["security", "--offline=yes", "--no-pager", &file])
            .output();
        let said = said.expect("systemd-analyze is part of systemd").stdout;
        let said = String::from_utf8_lossy(&said);
        let level = said
            .lines()
            .find_map(|line| line.split_once("exposure level for "));
        let level = level.and_then(|(_, rest)| rest.split_whitespace().nth(1));
        let level: f64 = level
            .and_then(|level| level.parse().ok())
            .expect("a number");
        assert!(level <= most, "{unit}: {said}");
    }
}

/// A unit that opens a flow once, as soon as the network may come up.
fn early(program: &str, arguments: &str) -> String {
    format!(
        "[Unit]\nDefaultDependencies=no\nAfter=network-pre.target\nBefore=sysinit.target\n\
         [Service]\nType=oneshot\nStandardOutput=file:/run/early-{program}\n\
         ExecStart=/usr/local/bin/{program} {arguments}\n\
         [Install]\nWantedBy=sysinit.target\n"
    )
}

/// A machine with a profile that names the program `named`, and with units as quick as a test wants
/// them.
fn with_a_rule(lab: &Lab) -> (Machine<'_>, Value) {
    let machine = Machine::new(lab);
    let mut profile = Daemon::profile();
    profile["Payload"]["AppRules"] = json!([{ "SigningIdentifier": "exe:named" }]);
    machine.write("etc/offramp/policies/managed/0.json", &profile.to_string());
    let anchors = lab.directory().join("gateway-authority.pem");
    let anchors = std::fs::read_to_string(anchors).expect("the gateway has one");
    machine.write("etc/offramp/credentials/gateway-authority", &anchors);
    machine.write(
        "etc/systemd/system/offrampd.service.d/quick.conf",
        "[Service]\nWatchdogSec=10\nTimeoutAbortSec=1\nRestartSec=100ms\n",
    );
    (machine, profile)
}

fn add_probe(lab: &Lab, program: &str) {
    let from = copy_probe(lab, program);
    let to = lab.directory().join("machine/usr/local/bin").join(program);
    std::fs::copy(from, to).expect("the directory is ours");
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_machine_boots_serves_hangs_and_stops() {
    let lab = Lab::new();
    let gateway = Gateway::start(&lab);
    let (mut machine, mut profile) = with_a_rule(&lab);
    let arguments = format!("tcp {}:{}", target(21), port::BANNER);
    for program in ["named", "neighbour"] {
        add_probe(&lab, program);
        let unit = format!("early-{program}.service");
        machine.write(
            &format!("etc/systemd/system/{unit}"),
            &early(program, &arguments),
        );
        machine.enable(&unit);
    }
    machine.enable("offrampd.service");
    machine.boot();

    // Before the daemon: refused, and others free.
    let refused = machine.run(&["cat", "/run/early-named"]).success();
    assert!(
        refused.contains("failed Some(ConnectionRefused)"),
        "{refused}"
    );
    let free = machine.run(&["cat", "/run/early-neighbour"]).success();
    assert!(free.contains(&format!("said=\"{CLIENT}:")), "{free}");
    assert_eq!(
        machine.property("offramp-lockdown.service", "Result"),
        "success"
    );

    let named = || {
        let said = machine.run(&["named", "tcp", &format!("{}:{}", target(21), port::BANNER)]);
        said.stdout
    };
    let works = || named().contains(&format!("said=\"{PROXY}:"));
    let ready = machine.run(&["offramp", "status", "--wait", "30"]);
    assert!(ready.status.success(), "{ready}");
    assert!(works(), "{}", named());

    // Rules that come later.
    profile["Payload"]["AppRules"] = json!([{ "SigningIdentifier": "exe:neighbour" }]);
    let text = profile.to_string().replace('\'', "");
    let path = "/etc/offramp/policies/managed/0.json";
    let reload = format!("printf '%s' '{text}' >{path}; systemctl reload offrampd");
    machine.run(&["sh", "-euc", &reload]).success();
    wait_until("the rules are in force", LIMIT, || {
        let said = machine.run(&[
            "neighbour",
            "tcp",
            &format!("{}:{}", target(21), port::BANNER),
        ]);
        said.stdout.contains(&format!("said=\"{PROXY}:"))
    });
    assert!(named().contains(&format!("said=\"{CLIENT}:")));

    // Hung: it is ended and started again; meanwhile its apps are refused.
    let neighbour = || {
        let said = machine.run(&[
            "neighbour",
            "tcp",
            &format!("{}:{}", target(21), port::BANNER),
        ]);
        assert!(
            !said.stdout.contains(&format!("said=\"{CLIENT}:")),
            "{said}"
        );
        said.stdout.contains(&format!("said=\"{PROXY}:"))
    };
    let pid = machine.property("offrampd.service", "MainPID");
    machine.run(&["kill", "-STOP", &pid]).success();
    wait_until("it is started again", LIMIT, || {
        neighbour();
        machine.property("offrampd.service", "NRestarts") == "1"
    });
    wait_until("its apps work again", LIMIT, neighbour);
    assert_ne!(machine.property("offrampd.service", "MainPID"), pid);

    // Stopped: the apps of managed rules stay refused, until nothing is left.
    machine.systemctl(&["stop", "offrampd.service"]).success();
    assert_eq!(machine.property("offrampd.service", "Result"), "success");
    assert!(!neighbour());
    machine.systemctl(&["start", "offrampd.service"]).success();
    wait_until("its apps work again", LIMIT, neighbour);
    machine.systemctl(&["stop", "offrampd.service"]).success();
    machine.run(&["offrampd", "--uninstall"]).success();
    let left = machine.run(&["sh", "-c", "ip link; ip rule; find /sys/fs/bpf -mindepth 1"]);
    assert!(
        !left.stdout.contains("offramp") && !left.stdout.contains("198"),
        "{left}"
    );
    drop(gateway);
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_gateway_serves_as_nobody_in_particular() {
    let lab = Lab::new();
    let mut machine = Machine::new(&lab);
    let authority = Authority::new(lab.directory(), "gateway-authority");
    let identity = authority.sign("gateway", &["10.90.1.2"]);
    let read = |path| std::fs::read_to_string(path).expect("it was just made");
    machine.write(
        "etc/offramp-gateway/certificate.pem",
        &read(&identity.certificate),
    );
    machine.write("etc/offramp-gateway/key.pem", &read(&identity.key));
    machine.write(
        "etc/offramp-gateway/users",
        "alice:sha256:2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90\n",
    );
    machine.enable("offramp-gateway.service");
    machine.boot();
    let unit = "offramp-gateway.service";
    wait_until("the gateway serves", LIMIT, || {
        machine.property(unit, "ActiveState") == "active"
    });
    let pid = machine.property(unit, "MainPID");
    let status = machine
        .run(&["cat", &format!("/proc/{pid}/status")])
        .success();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    assert_eq!(field("CapEff:"), "0000000000000000", "{status}");
    assert_eq!(field("CapPrm:"), "0000000000000000", "{status}");
    assert!(!field("Uid:").starts_with("0\t"), "{status}");
    assert_eq!(field("NoNewPrivs:"), "1");
    let answer = lab.router().run(&[
        "curl",
        "-sk",
        "--proxy-insecure",
        "-o",
        "/dev/null",
        "-w",
        "%{http_connect}",
        "-x",
        "https://10.90.1.2:443",
        "--proxy-header",
        "Proxy-Authorization: Bearer wrong",
        "https://203.0.113.10/",
    ]);
    assert_eq!(answer.stdout, "407", "{answer}");
}
