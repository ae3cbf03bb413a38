//! What is away, refuses: at once, for managed apps only, and only for as long as it is away.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use offramp_tests::addresses::{GATEWAY, ORIGIN, ORIGIN6};
use offramp_tests::{Daemon, Gateway, Lab, binary, port, wait_until};

const LIMIT: Duration = Duration::from_secs(30);

/// What the probe says about one TCP target, managed.
fn tcp(daemon: &Daemon<'_>, target: &str) -> String {
    daemon
        .run(&[
            &binary("offramp-probe").display().to_string(),
            "tcp",
            target,
        ])
        .success()
}

fn works(daemon: &Daemon<'_>) -> bool {
    let banner = port::BANNER;
    tcp(daemon, &format!("{ORIGIN}:{banner}")).contains("said=\"10.90.2.2:")
        && tcp(daemon, &format!("[{ORIGIN6}]:{banner}")).contains("said=\"[fd00:90:2::2]:")
}

/// Every managed connect fails within a second with ECONNREFUSED, TCP and UDP, over both families.
#[track_caller]
fn assert_refused(lab: &Lab, label: &str, said: &str) {
    for line in said.lines() {
        assert!(
            line.contains(" failed Some(ConnectionRefused) "),
            "{label}: {said}"
        );
        let after = line
            .split("after_ms=")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        let after: u64 = after
            .and_then(|text| text.parse().ok())
            .expect("the probe prints it");
        assert!(after < 1000, "{label}: {said}");
    }
    assert!(said.lines().count() > 0, "{label}: nothing was tried");
    assert_unmanaged(lab);
}

#[track_caller]
fn assert_unmanaged(lab: &Lab) {
    let said = lab
        .client()
        .run(&["curl", "-sS", "http://v4.test/"])
        .success();
    assert!(said.contains("peer=10.90.1.2:"), "{said}");
}

/// A managed shell that is started while all is well and tries later, at a word from the test.
struct Waiting {
    shell: offramp_tests::Running,
    input: std::process::ChildStdin,
    output: std::path::PathBuf,
    round: u32,
}

impl Waiting {
    fn start(lab: &Lab, daemon: &Daemon<'_>) -> Self {
        let mut command = daemon.command_as(offramp_tests::User::Root, "sh");
        let output = lab.directory().join("waiting");
        let probe = binary("offramp-probe").display().to_string();
        let script = format!(
            "while read round; do
               {{ {probe} tcp {ORIGIN}:{0} [{ORIGIN6}]:{0}; }} > {1}.part 2>&1
               mv {1}.part {1}.$round
             done",
            port::BANNER,
            output.display()
        );
        command
            .args(["-c", &script])
            .stdin(std::process::Stdio::piped());
        let mut shell = offramp_tests::Running::start(command);
        let input = shell.input();
        Self {
            shell,
            input,
            output,
            round: 0,
        }
    }

    /// Lets the shell try once and returns what came of it.
    fn attempt(&mut self) -> String {
        self.round += 1;
        std::io::Write::write_all(&mut self.input, format!("{}\n", self.round).as_bytes())
            .expect("the shell waits");
        let file = format!("{}.{}", self.output.display(), self.round);
        wait_until("the attempt ends", LIMIT, || {
            assert!(self.shell.is_running(), "the shell is gone");
            std::fs::exists(&file).is_ok_and(|exists| exists)
        });
        std::fs::read_to_string(file).expect("it exists")
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn gateway_away_and_back() {
    let lab = Lab::new();
    let mut gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let mut app = Waiting::start(&lab, &daemon);
    assert!(app.attempt().contains("said=\"10.90.2.2:"));
    gateway.stop();
    // From the moment that the daemon knows, refusal is immediate.
    wait_until("flows are refused", LIMIT, || {
        app.attempt().contains("ConnectionRefused")
    });
    let capture = lab.capture();
    assert_refused(&lab, "gateway away", &app.attempt());
    capture.packets().assert_only(|packet| {
        packet.is_with(GATEWAY) || packet.is_with((ORIGIN, port::HTTP).into()) || is_dns(packet)
    });
    gateway.start_again(&lab);
    wait_until("flows work again", LIMIT, || works(&daemon));
    assert!(app.attempt().contains("said=\"10.90.2.2:"));
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn the_first_connect_after_the_gateway_went_fails_within_a_second() {
    let lab = Lab::new();
    let mut gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let mut app = Waiting::start(&lab, &daemon);
    assert!(app.attempt().contains("said=\"10.90.2.2:"));
    gateway.stop();
    let start = Instant::now();
    let said = app.attempt();
    assert!(said.lines().all(|line| line.contains(" failed ")), "{said}");
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{said} after {:?}",
        start.elapsed()
    );
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn daemon_killed_and_restarted() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut daemon = Daemon::start(&lab);
    let mut app = Waiting::start(&lab, &daemon);
    assert!(app.attempt().contains("said=\"10.90.2.2:"));
    for round in 0..2 {
        daemon.process().signal(Signal::SIGKILL);
        wait_until("the daemon is gone", LIMIT, || {
            !daemon.process().is_running()
        });
        let capture = lab.capture();
        assert_refused(
            &lab,
            &format!("round {round}: daemon killed"),
            &app.attempt(),
        );
        capture.packets().assert_only(|packet| {
            packet.is_with((ORIGIN, port::HTTP).into()) || is_dns(packet) || packet.is_with(GATEWAY)
        });
        let out = daemon.run(&["true"]);
        assert_eq!(out.status.code(), Some(69), "{out}");
        daemon.start_again();
        let said = app.attempt();
        assert!(
            said.contains("said=\"10.90.2.2:"),
            "the app that ran on: {said}"
        );
        assert!(works(&daemon), "a new app");
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn daemon_hung() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut daemon = Daemon::start(&lab);
    let mut app = Waiting::start(&lab, &daemon);
    assert!(app.attempt().contains("said=\"10.90.2.2:"));
    daemon.process().signal(Signal::SIGSTOP);
    let refused = || {
        app.attempt()
            .lines()
            .all(|line| line.contains("ConnectionRefused"))
    };
    wait_until("the heartbeat is stale", LIMIT, refused);
    assert_refused(&lab, "daemon hung", &app.attempt());
    daemon.process().signal(Signal::SIGCONT);
    wait_until("flows work again", LIMIT, || {
        app.attempt().contains("said=\"10.90.2.2:")
    });
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_clean_stop_leaves_nothing() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    // Devices, rules, routes, pins and mounts on the client.
    let left = || {
        lab.client().sh(
            "ip -brief link | cut -d' ' -f1; ip rule; ip -6 rule; ip route show table all
             ip -brief addr show dev lo; find /sys/fs/bpf -mindepth 1; findmnt -rno TARGET
             sysctl -a 2>/dev/null | grep -E 'fwmark_reflect|src_valid_mark|rp_filter'",
        )
    };
    let before = left();
    let mut daemon = Daemon::start(&lab);
    assert!(works(&daemon));
    assert_ne!(left(), before, "the daemon has added something");
    let end = daemon.stop();
    assert!(end.status.success(), "{end}");
    assert_eq!(left(), before);
    assert_unmanaged(&lab);
    daemon.start_again();
    assert!(works(&daemon));
    daemon.process().signal(Signal::SIGKILL);
    wait_until("the daemon is gone", LIMIT, || {
        !daemon.process().is_running()
    });
    let runtime = daemon.directory().join("runtime").display().to_string();
    let uninstall = daemon.offramp(&["uninstall"]);
    assert!(uninstall.status.success(), "{uninstall} in {runtime}");
}

fn is_dns(packet: &offramp_tests::Packet) -> bool {
    packet.is_with((offramp_tests::addresses::DNS, 53).into())
}
