//! Many flows: none fails that would not fail direct, and what they used comes back.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use offramp_tests::addresses::target;
use offramp_tests::{Daemon, Gateway, Lab, Running, User, binary, port, wait_until};

const OPEN: usize = 10_000;
const SHORT: usize = 200_000;
const LIMIT: Duration = Duration::from_secs(600);

fn targets() -> Vec<String> {
    (1..=11)
        .map(|number| format!("{}:{}", target(number), port::ECHO))
        .collect()
}

/// Descriptors of a process.
fn descriptors(process: i32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).map_or(0, Iterator::count)
}

/// Resident memory of a process, in MiB.
fn memory(process: i32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap_or_default();
    let kib = line
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<usize>().ok());
    kib.expect("a process has memory") / 1024
}

/// Waits until the daemon and the gateway have given back what flows used.
fn wait_for_rest(daemon: &mut Daemon<'_>, gateway: &Gateway, before: [usize; 2]) {
    let limit = Duration::from_secs(90);
    let id = daemon.process().id();
    wait_until("the daemon's descriptors come back", limit, || {
        descriptors(id) <= before[0] + 16
    });
    wait_until("the gateway's descriptors come back", limit, || {
        descriptors(gateway.id()) <= before[1] + 16
    });
    wait_until("no flow is listed", limit, || {
        let flows = daemon.offramp(&["flows", "--json"]).success();
        !flows.contains(":7\"") && !flows.contains("203.0.113.")
    });
}

/// Waits until the kernel's maps hold no more than they held.
fn wait_for_maps(daemon: &Daemon<'_>, before: &BTreeMap<String, usize>) {
    assert!(before.contains_key("identities"), "{before:?}");
    let mut now = before.clone();
    let end = Instant::now() + Duration::from_secs(90);
    let more = |now: &BTreeMap<String, usize>| {
        now.iter()
            .any(|(map, count)| *count > before.get(map).copied().unwrap_or(0) + 16)
    };
    loop {
        now.clone_from(&daemon.map_entries());
        if !more(&now) {
            return;
        }
        assert!(Instant::now() < end, "before {before:?}, after {now:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn ten_thousand_flows_at_once() {
    let lab = Lab::new();
    let gateway = Gateway::start(&lab);
    let mut daemon = Daemon::start(&lab);
    let program = binary("offramp-probe").display().to_string();
    let id = daemon.process().id();
    daemon
        .run(&[&program, "short", "100", &targets()[0]])
        .success();
    let before = [descriptors(id), descriptors(gateway.id())];
    let entries_before = daemon.map_entries();
    let memory_before = memory(id);
    for round in 0..2 {
        let mut command = daemon.command_as(User::Root, &program);
        command
            .args(["open", &OPEN.to_string()])
            .args(targets())
            .stdin(Stdio::piped());
        lab.servers().forget();
        let mut running = Running::start(command);
        let mut input = running.input();
        wait_until("all flows have arrived", LIMIT, || {
            lab.servers().seen().len() >= OPEN || !running.is_running()
        });
        // The probe reads this only after it has opened all flows.
        input.write_all(b"go\n").expect("the probe waits for it");
        let said = running.finish(LIMIT).success();
        assert_eq!(
            said,
            format!("open {OPEN} {{}}\nworking {OPEN} {{}}\n"),
            "round {round}"
        );
        lab.servers()
            .assert_seen_only(&["10.90.2.2".parse().expect("an address")]);
        wait_for_rest(&mut daemon, &gateway, before);
        wait_for_maps(&daemon, &entries_before);
    }
    let after = memory(id);
    assert!(
        after < memory_before + 256,
        "{memory_before} MiB before, {after} MiB after"
    );
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn two_hundred_thousand_short_flows() {
    let lab = Lab::new();
    let gateway = Gateway::start(&lab);
    let mut daemon = Daemon::start(&lab);
    let program = binary("offramp-probe").display().to_string();
    let id = daemon.process().id();
    daemon
        .run(&[&program, "short", "1000", &targets()[0]])
        .success();
    let before = [descriptors(id), descriptors(gateway.id())];
    let entries_before = daemon.map_entries();
    let memory_before = memory(id);
    let run = |mut command: std::process::Command| {
        command.args(["short", &SHORT.to_string()]).args(targets());
        Running::start(command).finish(LIMIT).success()
    };
    let direct = run(lab.client().command(&program));
    let managed = run(daemon.command_as(User::Root, &program));
    assert_eq!(managed, direct);
    assert_eq!(managed, format!("done {SHORT} {{}}\n"));
    wait_for_rest(&mut daemon, &gateway, before);
    wait_for_maps(&daemon, &entries_before);
    let after = memory(id);
    assert!(
        after < memory_before + 64,
        "{memory_before} MiB before, {after} MiB after"
    );
}
