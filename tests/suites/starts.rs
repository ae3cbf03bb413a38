//! Starts that cannot succeed: the message says what is missing, and nothing is left of the attempt.

use std::time::Duration;

use offramp_tests::{Daemon, Gateway, Lab, Running, User};

const LIMIT: Duration = Duration::from_secs(30);

/// The daemon refuses to start and says why; afterwards nothing is left of the attempt.
#[track_caller]
fn refuses_to_start(daemon: &Daemon<'_>, expected: &[&str]) {
    let said = Running::start(daemon.command()).finish(LIMIT);
    assert!(!said.status.success(), "{said}");
    let text = said.to_string();
    assert!(
        expected.iter().all(|word| text.contains(word)),
        "{expected:?}: {text}"
    );
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn starts_that_cannot_succeed() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let left = || {
        lab.client().sh(
            "ip -brief link | cut -d' ' -f1; ip rule; ip -6 rule; find /sys/fs/bpf -mindepth 1
             findmnt -rno TARGET",
        )
    };
    let before = left();
    let good = Daemon::profile().to_string();

    let daemon = Daemon::prepare(&lab);
    daemon.write("policies/managed/0.json", &good);
    let mut command = lab
        .client()
        .command_as(User::Nobody, offramp_tests::binary("offrampd"));
    for part in ["config", "state", "runtime"] {
        command
            .arg(format!("--{part}"))
            .arg(daemon.directory().join(part));
    }
    let said = Running::start(command).finish(LIMIT);
    assert!(
        !said.status.success() && said.to_string().contains("root"),
        "no root: {said}"
    );

    lab.client()
        .sh("mount --bind -o ro /sys/kernel /sys/fs/bpf");
    refuses_to_start(&daemon, &["bpf"]);
    lab.client().sh("umount /sys/fs/bpf");

    let state = daemon.directory().join("state").display().to_string();
    lab.client().sh(&format!(
        "mkdir -p {state}; mount -t tmpfs -o ro tmpfs {state}"
    ));
    refuses_to_start(&daemon, &["state"]);
    lab.client().sh(&format!("umount {state}"));

    // A container: root by name, without the rights.
    let mut command = lab.client().command("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--"]);
    command
        .arg(offramp_tests::binary("offrampd"))
        .args(daemon.command().get_args().skip(6));
    let said = Running::start(command).finish(LIMIT);
    assert!(!said.status.success(), "no rights: {said}");

    lab.client()
        .sh("umount -l $(findmnt -rno TARGET -t cgroup2)");
    refuses_to_start(&daemon, &["cgroup2"]);
    assert_eq!(
        left()
            .lines()
            .filter(|line| !line.contains("cgroup"))
            .count(),
        before
            .lines()
            .filter(|line| !line.contains("cgroup"))
            .count()
    );
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_kernel_without_type_information() {
    let lab = Lab::new();
    let daemon = Daemon::prepare(&lab);
    lab.client().sh("mount -t tmpfs tmpfs /sys/kernel/btf");
    refuses_to_start(&daemon, &["btf", "CONFIG_DEBUG_INFO_BTF"]);
    assert!(!daemon.directory().join("state").exists());
    let doctor = Running::start(daemon.command()).finish(LIMIT).to_string();
    assert!(doctor.contains("/sys/kernel/btf/vmlinux"), "{doctor}");
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_second_daemon_in_one_network() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let first = Daemon::start(&lab);
    let works = || {
        let line = ["curl", "-sS", "http://203.0.113.11/"];
        first.run(&line).success().contains("peer=10.90.2.2:")
    };
    let second = Daemon::prepare(&lab);
    second.write("policies/managed/0.json", &Daemon::profile().to_string());
    refuses_to_start(&second, &["another offrampd serves this network namespace"]);
    assert!(works());
    // The same folders, socket and instance.
    refuses_to_start(&first, &["another offrampd"]);
    assert!(works());
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_full_state_folder() {
    let lab = Lab::new();
    let daemon = Daemon::prepare(&lab);
    daemon.write("policies/managed/0.json", &Daemon::profile().to_string());
    let state = daemon.directory().join("state").display().to_string();
    lab.client().sh(&format!(
        "mkdir -p {state}; mount -t tmpfs -o size=16k tmpfs {state}
         dd if=/dev/zero of={state}/filler bs=1k count=64 2>/dev/null || true"
    ));
    refuses_to_start(&daemon, &["No space left"]);
}
