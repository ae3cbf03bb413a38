//! An upgrade: a new daemon takes over from the one that runs, and nobody notices.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use offramp_tests::addresses::{GATEWAY, ORIGIN};
use offramp_tests::{Daemon, Gateway, Lab, Running, User, binary, port, wait_until};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

/// A managed program that uses open flows and makes new ones all the time.
struct Load(Running, std::process::ChildStdin);

impl Load {
    fn start(daemon: &Daemon<'_>, flows: usize, makers: usize) -> Self {
        let probe = binary("offramp-probe").display().to_string();
        let mut command = daemon.command_as(User::Root, &probe);
        command
            .args(["steady", &flows.to_string(), &makers.to_string()])
            .arg(format!("{ORIGIN}:{}", port::ECHO))
            .arg(format!("{ORIGIN}:{}", port::ECHO))
            .arg("origin.test")
            .stdin(Stdio::piped());
        let mut running = Running::start(command);
        let input = running.input();
        wait_until("the load begins", LIMIT, || {
            running.said().contains("ready") || !running.is_running()
        });
        Self(running, input)
    }

    /// What came of it.
    fn end(self) -> Value {
        let Self(running, mut input) = self;
        input.write_all(b"end\n").expect("the probe waits for it");
        let said = running.finish(LIMIT).success();
        let line = said.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {said}"))
    }
}

/// Nothing failed, and something of each sort was done.
#[track_caller]
fn assert_well(said: &Value) {
    eprintln!("{said}");
    for sort in ["tcp", "udp", "connect", "name", "datagram"] {
        assert!(said[sort]["done"].as_u64() > Some(0), "{sort}: {said}");
        assert_eq!(
            said[sort]["failures"].as_object().map(serde_json::Map::len),
            Some(0),
            "{sort}: {said}"
        );
    }
}

fn flows(daemon: &Daemon<'_>) -> Vec<Value> {
    let said = daemon.offramp(&["flows", "--json"]).success();
    let all: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    all.as_array().cloned().unwrap_or_default()
}

/// Prints what a daemon says besides the ends of flows.
fn told(log: &str) {
    for line in log.lines().filter(|line| !line.contains("flow ended")) {
        eprintln!("{line}");
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn an_upgrade_under_load_drops_and_refuses_nothing() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut daemon = Daemon::start(&lab);
    let capture = lab.capture_only(&format!("host {ORIGIN}"));
    let load = Load::start(&daemon, 100, 8);
    wait_until("all flows are open", LIMIT, || flows(&daemon).len() > 200);
    let first = daemon.take_over();
    // Those of the daemon before are shown.
    assert!(flows(&daemon).len() >= 200);
    std::thread::sleep(Duration::from_secs(1));
    let said = load.end();
    told(&first.complained());
    told(&daemon.process().complained());
    assert_well(&said);
    let end = first.finish(LIMIT);
    assert!(end.status.success(), "{end}");
    wait_until("no flow is left", LIMIT, || flows(&daemon).is_empty());
    capture
        .packets()
        .assert_only(|packet| packet.is_with(GATEWAY));
    let end = daemon.stop();
    assert!(end.status.success(), "{end}");
    let _ = Signal::SIGTERM;
}
