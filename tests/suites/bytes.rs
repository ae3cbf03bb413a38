//! Bytes arrive whole and in order, ends arrive as ends, and failures as failures.

use std::net::SocketAddr;
use std::time::Duration;

use offramp_tests::addresses::{BLACK_HOLE, BLACK_HOLE6, ORIGIN, ORIGIN6};
use offramp_tests::{
    Daemon, Digest, Gateway, Lab, Running, User, binary, pattern, port, wait_until,
};

const GIB: usize = 1 << 30;
const LIMIT: Duration = Duration::from_secs(240);

fn digest(bytes: usize) -> String {
    let block = pattern();
    let mut digest = Digest::default();
    let mut left = bytes;
    while left > 0 {
        let piece = left.min(block.len());
        digest.update(&block[..piece]);
        left -= piece;
    }
    digest.finish()
}

#[track_caller]
fn probe(daemon: &Daemon<'_>, arguments: &[&str]) -> String {
    let mut command = daemon.command_as(User::Root, &binary("offramp-probe").display().to_string());
    command.args(arguments);
    Running::start(command).finish(LIMIT).success()
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_gibibyte_each_way() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let expected = digest(GIB);
    let bytes = GIB.to_string();
    let capture = lab.capture();
    let said = probe(
        &daemon,
        &["upload", &format!("{ORIGIN}:{}", port::SINK), &bytes],
    );
    assert_eq!(said, format!("sent {expected}\nseen {expected}\n"));
    let said = probe(
        &daemon,
        &["download", &format!("{ORIGIN}:{}", port::SOURCE), &bytes],
    );
    assert_eq!(said, format!("seen {expected}\n"));
    capture.packets().assert_only_gateway();
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn half_close_in_both_directions() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    for (round, address) in [ORIGIN.into(), ORIGIN6.into()].into_iter().enumerate() {
        for bytes in [0, 1, 5_000_000] {
            let expected = digest(bytes);
            let bytes = bytes.to_string();
            let target = |port| SocketAddr::new(address, port).to_string();
            let said = probe(&daemon, &["upload", &target(port::SINK), &bytes]);
            assert_eq!(said, format!("sent {expected}\nseen {expected}\n"));
            lab.servers().forget();
            let said = probe(&daemon, &["ends-first", &target(port::ENDS_FIRST), &bytes]);
            assert_eq!(
                said,
                format!("first bye\nsent {expected}\n"),
                "round {round}"
            );
            let arrived = || !lab.servers().totals().is_empty();
            wait_until(
                "the origin has read to the end",
                Duration::from_secs(20),
                arrived,
            );
            assert_eq!(lab.servers().totals(), [expected]);
        }
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_target_that_speaks_first() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let script = format!(
        "import socket; print(socket.create_connection(('{ORIGIN}', {}), 10).recv(100).decode())",
        port::BANNER
    );
    let said = daemon.run(&["/usr/bin/python3", "-c", &script]).success();
    assert!(said.starts_with("10.90.2.2:"), "{said}");
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn targets_that_refuse_reset_or_say_nothing() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let capture = lab.capture();
    let script = "import socket, sys, time
def use(host, port):
    start = time.monotonic()
    flow = socket.create_connection((host, port), 60)
    flow.settimeout(60)
    try:
        flow.sendall(b'x')
        got = flow.recv(10)
        print('got', got, time.monotonic() - start)
    except OSError as error:
        print('error', error.errno, time.monotonic() - start)
try:
    use(sys.argv[1], int(sys.argv[2]))
except OSError as error:
    print('connect', error.errno)";
    for address in [ORIGIN.to_string(), ORIGIN6.to_string()] {
        for port in [port::REFUSED, port::RESET] {
            let said = daemon
                .run(&[
                    "/usr/bin/python3",
                    "-c",
                    script,
                    &address,
                    &port.to_string(),
                ])
                .success();
            // 104 is ECONNRESET, 111 ECONNREFUSED: either way not an orderly end.
            let failed = ["error 104", "connect 111", "connect 104", "error 32"];
            assert!(
                failed.iter().any(|text| said.starts_with(text)),
                "{address} {port}: {said}"
            );
        }
    }
    for address in [BLACK_HOLE.to_string(), BLACK_HOLE6.to_string()] {
        let said = daemon
            .run(&["/usr/bin/python3", "-c", script, &address, "80"])
            .success();
        assert!(
            said.starts_with("error") || said.starts_with("connect"),
            "{address}: {said}"
        );
    }
    capture.packets().assert_only_gateway();
}
