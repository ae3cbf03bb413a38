//! Kills at an exact step: strace ends the daemon as it is about to make its n-th system call of
//! those that change something.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use offramp_tests::{Running, binary, wait_until};

use crate::world::{Chance, LIMIT, World};

/// Everything that is left on a machine is left by one of these.
pub(crate) const STEPS: [&str; 2] = [
    "bpf,sendto,sendmsg,mount,umount2,mkdir,rename,unlink,rmdir,bind",
    "write,openat,fsync",
];

/// With `OFFRAMP_KILLS` there are at most so many cuts of one kind.
const MOST: u64 = 300;

/// One moment to be killed at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    calls: &'static str,
    number: u64,
}

impl Cut {
    /// Calls `work` with about `count` cuts of each kind, the first by chance, or with `all` with one
    /// at each step; `work` returns whether it was cut.
    pub(crate) fn walk(
        chance: &mut Chance,
        count: u64,
        all: bool,
        mut work: impl FnMut(Cut) -> bool,
    ) -> usize {
        let mut cuts = 0;
        for calls in STEPS {
            // The first time the end comes first, and it shows how far that is.
            let whole = Cut {
                calls,
                number: u64::from(u16::MAX),
            };
            assert!(!work(whole), "more steps than can be counted");
            let steps = whole.counted();
            let stride = match all {
                true => steps.div_ceil(MOST),
                false => steps.div_ceil(count),
            };
            let mut number = 1 + chance.below(stride.max(1));
            while number <= steps {
                cuts += usize::from(work(Cut { calls, number }));
                number += stride.max(1);
            }
        }
        let _ = std::fs::remove_file(trace_file());
        cuts
    }

    /// How many calls the thread made that made the most in the last run.
    fn counted(self) -> u64 {
        let text = std::fs::read_to_string(trace_file()).expect("strace has written it");
        let mut threads = std::collections::BTreeMap::new();
        for line in text.lines().filter(|line| !line.contains(" resumed>")) {
            *threads.entry(line.split(' ').next()).or_insert(0) += 1;
        }
        threads.into_values().max().unwrap_or(0)
    }

    /// Starts the daemon until it is ready; returns whether it was cut before that.
    pub(crate) fn start(self, world: &World<'_>) -> bool {
        let mut traced = Running::start(self.trace(world, |strace| {
            let daemon = world.daemon.command();
            strace.args(daemon.get_args().skip_while(|word| *word != "--").skip(1));
        }));
        let is_ready = |traced: &Running| traced.complained().contains(" ready ");
        wait_until("the daemon is ready or cut", LIMIT, || {
            is_ready(&traced) || !traced.is_running()
        });
        if let Some(daemon) = child_of(traced.id()) {
            // It may have been cut since.
            let _ = kill(daemon, Signal::SIGKILL);
        }
        wait_until("strace is gone", LIMIT, || !traced.is_running());
        !is_ready(&traced)
    }

    /// Stops the daemon of `world`; returns whether that was cut.
    pub(crate) fn stop(self, world: &mut World<'_>) -> bool {
        let daemon = world.daemon.process().id();
        let mut tracer = Running::start(self.trace(world, |strace| {
            strace.arg("-p").arg(daemon.to_string());
        }));
        wait_until("all threads are traced", LIMIT, || {
            assert!(tracer.is_running(), "strace: {}", tracer.complained());
            is_traced(daemon) || !world.daemon.process().is_running()
        });
        if !world.daemon.process().is_running() {
            return true;
        }
        let ended = world.daemon.stop();
        ended.status.signal() == Some(Signal::SIGKILL as i32)
    }

    /// Removes what a dead daemon left; returns whether that was cut.
    pub(crate) fn uninstall(self, world: &mut World<'_>) -> bool {
        let runtime = world.daemon.directory().join("runtime");
        let command = self.trace(world, |strace| {
            strace.arg(binary("offrampd")).arg("--uninstall");
            strace.arg("--runtime").arg(runtime);
        });
        let ended = Running::start(command).finish(LIMIT);
        let is_cut = ended.status.signal() == Some(Signal::SIGKILL as i32);
        assert!(is_cut || ended.status.success(), "{ended}");
        is_cut
    }

    fn trace(self, world: &World<'_>, of: impl FnOnce(&mut Command)) -> Command {
        let mut strace = world.lab.client().command("strace");
        strace
            .args(["-f", "-qq", "-s0", "-o"])
            .arg(trace_file())
            .arg("-e");
        strace.arg(format!("trace={}", self.calls));
        strace.arg("-e").arg(format!(
            "inject={}:signal=KILL:when={}",
            self.calls, self.number
        ));
        of(&mut strace);
        strace
    }
}

/// What strace writes.
fn trace_file() -> PathBuf {
    std::env::temp_dir().join(format!("offramp-kills-{}", std::process::id()))
}

fn is_traced(process: i32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{process}/task"));
    let mut threads = threads.into_iter().flatten().flatten();
    threads.all(|thread| {
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        !status.contains("TracerPid:\t0\n")
    })
}

fn child_of(parent: i32) -> Option<Pid> {
    let found = std::fs::read_dir("/proc").expect("Linux has it").flatten();
    let mut processes = found.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let child = processes.find(|process: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let after = stat.rsplit(") ").next().unwrap_or_default();
        after.split(' ').nth(1) == Some(&parent.to_string())
    });
    child.map(Pid::from_raw)
}
