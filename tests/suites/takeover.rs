//! An upgrade: a new daemon takes over from the one that runs, and nobody notices.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use offramp_tests::addresses::{CLIENT, GATEWAY, ORIGIN, target};
use offramp_tests::{Daemon, Gateway, Held, Lab, Running, User, binary, port, wait_until};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
/// Flows of one program, one after another, sixteen at a time.
const SHORT: usize = 20_000;

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
    wait_until("new flows are relayed", LIMIT, || {
        daemon.counter("flows_relayed") > 20
    });
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
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn an_upgrade_beside_flows_that_begin_without_end() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut daemon = Daemon::start(&lab);
    let targets = (1..=11).map(|number| format!("{}:{}", target(number), port::ECHO));
    let probe = binary("offramp-probe").display().to_string();
    let mut command = daemon.command_as(User::Root, &probe);
    command.args(["short", &SHORT.to_string()]).args(targets);
    let began = Instant::now();
    let mut short = Running::start(command);
    wait_until("a tenth of them is done", LIMIT, || {
        daemon.counter("flows_relayed") > SHORT as u64 / 10
    });
    let first = daemon.take_over();
    assert!(short.is_running(), "they go on");
    let said = short.finish(LIMIT).success();
    eprintln!("{SHORT} flows in {:?}", began.elapsed());
    assert_eq!(said, format!("done {SHORT} {{}}\n"));
    let end = first.finish(LIMIT);
    assert!(end.status.success(), "{end}");
}

/// How far a new daemon goes before it dies, and what it has heard by then.
const HALF_WAY: [(&str, &str); 5] = [
    ("nothing", ""),
    ("garbage", ""),
    ("other", "takes format 999"),
    ("offer", "connected"),
    ("state", "flows"),
];

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_new_daemon_that_dies_on_the_way_leaves_the_old_one_serving() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut daemon = Daemon::start(&lab);
    let capture = lab.capture_only(&format!("host {ORIGIN}"));
    let load = Load::start(&daemon, 5, 2);
    let socket = daemon.directory().join("runtime/takeover.sock");
    for (step, heard) in HALF_WAY {
        let mut command = lab.client().command(binary("offramp-probe"));
        command.arg("heir").arg(&socket).arg(step);
        // The last one may be ended by the daemon that goes on.
        let said = Running::start(command).finish(LIMIT);
        assert!(said.stdout.contains(heard), "{step}: {said}");
    }
    let log = |daemon: &mut Daemon<'_>| daemon.process().complained();
    wait_until("the daemon goes on", LIMIT, || {
        log(&mut daemon).contains("going on")
    });
    assert_well(&load.end());
    let load = Load::start(&daemon, 5, 2);
    // With everything of a real one: killed while it gets ready.
    let mut command = daemon.command();
    command.arg("--takeover");
    let new = Running::start(command);
    let met = "gets ready to take over";
    let before = log(&mut daemon).matches(met).count();
    wait_until("they have met", LIMIT, || {
        log(&mut daemon).matches(met).count() > before
    });
    drop(new);
    let first = daemon.take_over();
    assert_well(&load.end());
    assert!(first.finish(LIMIT).status.success());
    capture
        .packets()
        .assert_only(|packet| packet.is_with(GATEWAY));
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_new_daemon_that_dies_with_everything_leaves_apps_refused() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut daemon = Daemon::start(&lab);
    let capture = lab.capture_only(&format!("host {ORIGIN}"));
    let held = Held::open(&daemon, &format!("{ORIGIN}:{}", port::ECHO));
    let load = Load::start(&daemon, 5, 2);
    let mut first = daemon.take_over();
    daemon.process().signal(Signal::SIGKILL);
    wait_until("the old daemon leaves too", LIMIT, || !first.is_running());
    assert!(!held.works());
    daemon.start_again();
    drop(load);
    assert_well(&Load::start(&daemon, 5, 2).end());
    capture
        .packets()
        .assert_only(|packet| packet.is_with(GATEWAY));
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn flows_of_the_daemon_before_obey_the_new_one() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut daemon = Daemon::prepare(&lab);
    let mut profile = Daemon::profile();
    // The address of `excluded.test` is excluded by its name alone.
    profile["Payload"]["NetworkRouting"] = serde_json::json!({});
    daemon.write("policies/managed/0.json", &profile.to_string());
    // Where none runs, it starts one.
    let mut command = daemon.command();
    command.arg("--takeover");
    let first = Running::start(command);
    wait_until("the daemon is ready", LIMIT, || {
        first.complained().contains(" ready ")
    });
    assert!(
        first.complained().contains("no daemon runs"),
        "{}",
        first.complained()
    );
    daemon.adopt(first);
    daemon.offramp(&["status", "--wait", "20"]).success();

    let target = format!("{ORIGIN}:{}", port::ECHO);
    let held = Held::open(&daemon, &target);
    let relayed = Held::open(&daemon, &target);
    daemon
        .run(&["getent", "ahostsv4", "excluded.test"])
        .success();
    let excluded = Held::open(
        &daemon,
        &format!("{}:{}", offramp_tests::addresses::target(12), port::ECHO),
    );
    let is_direct = || {
        let seen = lab.servers().seen();
        seen.last().is_some_and(|seen| seen.peer.ip() == CLIENT)
    };
    assert!(is_direct(), "{:?}", lab.servers().seen());
    let mut first = daemon.take_over();
    assert!(excluded.works());
    assert_eq!(flows(&daemon).len(), 2);
    // One is enough.
    let mut command = daemon.command();
    command.arg("--takeover");
    let refused = Running::start(command).finish(LIMIT).failure();
    assert!(refused.contains("still relays 2 flows"), "{refused}");
    assert!(relayed.works());
    // Nobody else than root may.
    let mut command = lab.client().command_as(User::Nobody, binary("offrampd"));
    let options = daemon.command();
    let options = options.get_args().skip_while(|word| *word != "--").skip(2);
    command.args(options).arg("--takeover");
    let refused = Running::start(command).finish(LIMIT).failure();
    assert!(refused.contains("root"), "{refused}");
    // What is switched off ends there too.
    daemon.offramp(&["off"]).success();
    assert!(!held.works());
    wait_until("the daemon before leaves", LIMIT, || !first.is_running());
    assert!(first.finish(LIMIT).status.success());
    daemon.offramp(&["on"]).success();

    let held = Held::open(&daemon, &target);
    let mut second = daemon.take_over();
    assert!(second.is_running());
    let end = daemon.stop();
    assert!(end.status.success(), "{end}");
    wait_until("the daemon before leaves", LIMIT, || !second.is_running());
    assert!(second.finish(LIMIT).status.success());
    assert!(!held.works());
}
