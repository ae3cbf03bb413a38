//! A program that is on the wire before any C library could have started.

use std::net::SocketAddrV4;
use std::path::Path;
use std::process::Command;

use crate::capture::Transport;

const SOURCE: &str = include_str!("first.c");

/// Builds a static program at `path` that reaches `target` in its first instructions.
///
/// It ends with the third number of the IPv4 address that the target saw (1: the client itself, 2:
/// the proxy), with 99 where no answer came, or with 100 and the error's number. `target` has to be a
/// banner for TCP and an echo for UDP. The program is small and needs no file but itself.
#[track_caller]
pub fn build_first(path: &Path, transport: Transport, target: SocketAddrV4) {
    let source = path.with_extension("c");
    std::fs::write(&source, SOURCE).expect("the lab's directory is ours");
    let numbers = target.ip().octets().map(|number| number.to_string());
    let mut compiler = Command::new("gcc");
    compiler.args(["-static", "-nostdlib", "-no-pie", "-fno-pie", "-Os", "-s"]);
    compiler.args(["-fno-stack-protector", "-fno-builtin", "-Wall", "-Werror"]);
    compiler.args(["-Wl,--build-id=none", "-fno-asynchronous-unwind-tables"]);
    compiler.arg(format!("-DTARGET={}", numbers.join(",")));
    compiler.arg(format!("-DPORT={}", target.port()));
    if transport == Transport::Udp {
        compiler.arg("-DUDP");
    }
    compiler.arg("-o").arg(path).arg(&source);
    let built = compiler
        .output()
        .expect("gcc is among the packages of scripts/deps");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
}
