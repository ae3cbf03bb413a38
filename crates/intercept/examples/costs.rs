//! What unmanaged programs pay: exec, connect and packets, beside a machine without capture.
//!
//! Run it as root on a machine that is quiet. Each line is the best of several rounds, as a ratio.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use offramp_intercept::{Capture, Config, FileId, Interest};

const ROUNDS: usize = 7;

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "this is what it is for")]
async fn main() {
    unshare(CloneFlags::CLONE_NEWNET).expect("root makes a network namespace");
    for arguments in [
        "link set lo up",
        "link add wire0 type veth peer name wire1",
        "addr add 192.0.2.1/24 dev wire0",
        "link set wire0 up",
        "link set wire1 up",
        "neigh add 192.0.2.254 lladdr 02:00:00:00:00:01 dev wire0 nud permanent",
        "route add default via 192.0.2.254",
    ] {
        let done = Command::new("ip").args(arguments.split(' ')).status();
        assert!(done.is_ok_and(|done| done.success()), "ip {arguments}");
    }
    let folder = tempfile::tempdir().expect("a folder is made");
    let nothing = build(folder.path());
    let mut best = BTreeMap::new();
    for _ in 0..ROUNDS {
        measure("without", &nothing, &mut best);
        let config = Config {
            bpffs: PathBuf::from("/sys/fs/bpf"),
            runtime: folder.path().join("runtime"),
            instance: format!("costs-{}", std::process::id()),
            patience: Duration::from_secs(60),
        };
        let (capture, _sockets) = Capture::start(&config).await.expect("capture starts");
        measure("interest off", &nothing, &mut best);
        capture.set_interest(&interest()).expect("it is set");
        measure("interest on", &nothing, &mut best);
        capture.stop().await.expect("capture stops");
    }
    for what in ["exec", "connect", "packet"] {
        let of = |when| best[&(what, when)];
        let base = of("without");
        println!(
            "{what}: {:.0} ns; interest off {:.3}, interest on {:.3}",
            base,
            of("interest off") / base,
            of("interest on") / base
        );
    }
}

/// 500 names and 50 files, none of which is ever started.
fn interest() -> Interest {
    Interest {
        executables: (0..500).map(|i| format!("program-{i}")).collect(),
        files: (0..50)
            .map(|inode| FileId {
                device: 1,
                inode,
                generation: 1,
            })
            .collect(),
        ..Interest::default()
    }
}

/// A static program that does nothing.
fn build(folder: &Path) -> PathBuf {
    let source = folder.join("nothing.c");
    std::fs::write(&source, "int main(void) { return 0; }").expect("a file is written");
    let program = folder.join("nothing");
    let done = Command::new("cc")
        .args(["-static", "-O2", "-o"])
        .args([&program, &source])
        .status();
    assert!(done.is_ok_and(|done| done.success()), "cc builds");
    program
}

type Best = BTreeMap<(&'static str, &'static str), f64>;

/// The best of a few batches of each, in nanoseconds for one.
fn measure(when: &'static str, nothing: &Path, best: &mut Best) {
    let mut keep = |what, one: f64| {
        let known = best.entry((what, when)).or_insert(f64::MAX);
        *known = known.min(one);
    };
    for _ in 0..12 {
        keep(
            "exec",
            batch(50, || {
                let done = Command::new(nothing).stdin(Stdio::null()).status();
                assert!(done.is_ok_and(|done| done.success()));
            }),
        );
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket is bound");
        keep(
            "connect",
            batch(10_000, || {
                socket.connect("203.0.113.5:9").expect("it connects");
            }),
        );
        keep(
            "packet",
            batch(10_000, || {
                socket.send(b"some octets").expect("it is sent");
            }),
        );
    }
}

/// In processor time, of this process and of those that it has waited for: a busy machine shows less
/// in it than in time.
fn batch(times: u32, mut one: impl FnMut()) -> f64 {
    let begin = used();
    for _ in 0..times {
        one();
    }
    (used() - begin).as_nanos() as f64 / f64::from(times)
}

fn used() -> Duration {
    [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN]
        .into_iter()
        .map(|who| getrusage(who).expect("it can be asked for"))
        .flat_map(|usage| [usage.user_time(), usage.system_time()])
        .map(|time| Duration::from_micros(time.num_microseconds().unsigned_abs()))
        .sum()
}
