//! What the daemon and the gateway have given up, and what they tell nobody.

use std::path::Path;

use nix::sys::signal::Signal;
use offramp_tests::{Daemon, Gateway, Lab};

/// The lines of a status file of the kernel, of every thread.
fn statuses(pid: i32) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let read = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("status"));
    threads.flatten().flat_map(read).collect()
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("{name}: {status}")).trim()
}

/// Capabilities by their numbers in linux/capability.h.
fn mask(numbers: &[u32]) -> String {
    let mask: u64 = numbers.iter().map(|number| 1u64 << number).sum();
    format!("{mask:016x}")
}

const DAC_READ_SEARCH: u32 = 2;
const SETGID: u32 = 6;
const SETUID: u32 = 7;
const NET_BIND_SERVICE: u32 = 10;
const NET_ADMIN: u32 = 12;
const SYS_PTRACE: u32 = 19;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn rights_are_given_up_in_every_thread() {
    let lab = Lab::new();
    let gateway = Gateway::start(&lab);
    let mut daemon = Daemon::start(&lab);
    let of_daemon = mask(&[
        DAC_READ_SEARCH,
        SETGID,
        SETUID,
        NET_BIND_SERVICE,
        NET_ADMIN,
        SYS_PTRACE,
        SYS_ADMIN,
        PERFMON,
        BPF,
    ]);
    let of_gateway = mask(&[DAC_READ_SEARCH]);
    let none = mask(&[]);
    let pid = daemon.process().id();
    for (pid, effective, bounding) in [
        (pid, &of_daemon, &of_daemon),
        (gateway.id(), &of_gateway, &none),
    ] {
        let threads = statuses(pid);
        assert!(threads.len() > 1, "{threads:?}");
        for status in threads {
            assert_eq!(field(&status, "CapEff:"), effective, "{status}");
            assert_eq!(field(&status, "CapPrm:"), effective, "{status}");
            assert_eq!(field(&status, "CapBnd:"), bounding, "{status}");
            assert_eq!(field(&status, "CapInh:"), none, "{status}");
            assert_eq!(field(&status, "CapAmb:"), none, "{status}");
            assert_eq!(field(&status, "NoNewPrivs:"), "1", "{status}");
            assert_eq!(field(&status, "Seccomp:"), "2", "{status}");
        }
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        let core = core.expect("the kernel lists it");
        assert_eq!(
            core.split_whitespace().filter(|word| *word == "0").count(),
            2,
            "{core}"
        );
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_crash_leaves_no_memory_behind() {
    let lab = Lab::new();
    let mut daemon = Daemon::prepare(&lab);
    daemon.start_unconnected();
    let pid = daemon.process().id();
    let folder = std::fs::read_link(format!("/proc/{pid}/cwd")).expect("it runs");
    let dumps = || {
        let files = std::fs::read_dir(&folder).expect("it is there").flatten();
        let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
        let mut names: Vec<_> = names.filter(|name| name.starts_with("core")).collect();
        names.sort();
        names
    };
    let before = dumps();
    // As if somebody had raised the limit again.
    let raised = lab
        .client()
        .run(&["prlimit", "--pid", &pid.to_string(), "--core=unlimited"]);
    assert!(raised.status.success(), "{raised}");
    daemon.process().signal(Signal::SIGSEGV);
    offramp_tests::wait_until("it is gone", std::time::Duration::from_secs(30), || {
        !daemon.process().is_running()
    });
    assert_eq!(dumps(), before);
    assert!(!Path::new(&format!("/proc/{pid}/exe")).exists());
}
