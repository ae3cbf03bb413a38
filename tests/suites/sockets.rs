//! Every way to make a socket: each flow takes the gateway, and answers come from where they should.

use std::net::SocketAddr;

use offramp_tests::addresses::{CLIENT, CLIENT6, ORIGIN, ORIGIN6, PROXY, PROXY6, target, target6};
use offramp_tests::{Daemon, Gateway, Lab, User, binary, port};

/// Runs the probe managed, as both users, checks the wire, and returns what it printed.
#[track_caller]
fn probe(lab: &Lab, daemon: &Daemon<'_>, user: User, arguments: &[&str]) -> String {
    let program = binary("offramp-probe").display().to_string();
    let capture = lab.capture();
    let said = daemon
        .run_as(user, &[&[program.as_str()], arguments].concat())
        .success();
    capture.packets().assert_only_gateway();
    said
}

fn unmanaged(lab: &Lab, arguments: &[&str]) -> String {
    let program = binary("offramp-probe").display().to_string();
    lab.client()
        .run(&[&[program.as_str()], arguments].concat())
        .success()
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn tcp() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let four = SocketAddr::from((ORIGIN, port::BANNER)).to_string();
    let six = SocketAddr::from((ORIGIN6, port::BANNER)).to_string();
    let (client, client6) = (CLIENT.to_string(), CLIENT6.to_string());
    let variants: [&[&str]; 11] = [
        &[&four],
        &[&six],
        &["--mapped", &four],
        &["--nonblocking", &four],
        &["--nonblocking", &six],
        &["--bind", &client, &four],
        &["--bind", &client6, &six],
        &["--fast-open", &four],
        &["--fast-open", &six],
        &["--mapped", "--bind", &client, &four],
        &["--bind", "198.18.0.1", &four],
    ];
    for user in [User::Root, User::Nobody] {
        for variant in variants {
            check_tcp(
                &lab,
                &probe(&lab, &daemon, user, &[&["tcp"], variant].concat()),
                variant,
            );
        }
    }
    for variant in [
        &["--device", "eth0", &four][..],
        &["--device", "eth0", &six],
    ] {
        let said = probe(&lab, &daemon, User::Root, &[&["tcp"], variant].concat());
        check_tcp(&lab, &said, variant);
        let said = unmanaged(&lab, &[&["tcp"], variant].concat());
        assert!(
            said.contains(" ok ") && said.contains("said=\"10.90.1.2")
                || said.contains("fd00:90:1::2"),
            "{said}"
        );
    }
}

/// The origin saw the gateway, the app sees the target as its peer, and the echo was right.
#[track_caller]
fn check_tcp(_lab: &Lab, said: &str, variant: &[&str]) {
    let target = variant.last().expect("a target");
    let peer = if target.starts_with('[') {
        format!("[{PROXY6}]:")
    } else {
        format!("{PROXY}:")
    };
    // The gateway may reach an IPv6 target only over IPv6, so the families agree.
    assert!(
        said.contains(" ok ") && said.contains(&format!("said=\"{peer}")),
        "{variant:?}: {said}"
    );
    assert!(said.contains("token\""), "{variant:?}: {said}");
    let peername = said.split("peername=").nth(1).unwrap_or_default();
    let mapped = format!("[::ffff:{}]", target.split(':').next().unwrap_or_default());
    let expected = peername.starts_with(target) || peername.starts_with(&mapped);
    assert!(expected, "{variant:?}: {said}");
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn udp_from_one_socket_to_many_targets() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let four: Vec<String> = (1..=10)
        .map(|number| SocketAddr::from((target(number), port::ECHO)).to_string())
        .collect();
    let six: Vec<String> = (1..=10)
        .map(|number| SocketAddr::from((target6(number), port::ECHO)).to_string())
        .collect();
    for options in [
        &[][..],
        &["--bind", "10.90.1.2"],
        &["--connect"],
        &["--mapped"],
    ] {
        check_udp(
            &probe_udp(&lab, &daemon, options, &four),
            &four,
            "10.90.2.2",
        );
    }
    for options in [&[][..], &["--bind", "fd00:90:1::2"], &["--connect"]] {
        check_udp(
            &probe_udp(&lab, &daemon, options, &six),
            &six,
            "fd00:90:2::2",
        );
    }
    check_udp(
        &probe_udp(&lab, &daemon, &["--device", "eth0"], &four),
        &four,
        "10.90.2.2",
    );
}

fn probe_udp(lab: &Lab, daemon: &Daemon<'_>, options: &[&str], targets: &[String]) -> String {
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    probe(
        lab,
        daemon,
        User::Root,
        &[&["udp"], options, &targets[..]].concat(),
    )
}

/// Each target answered twice, from its own address, and saw `peer`.
#[track_caller]
fn check_udp(said: &str, targets: &[String], peer: &str) {
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2 * targets.len(), "{said}");
    for (number, line) in lines.iter().enumerate() {
        let target = &targets[number % targets.len()];
        let round = ["a", "b"][number / targets.len()];
        assert!(
            line.starts_with(&format!("{target} ok from={target} ")),
            "{line} in {said}"
        );
        assert!(
            line.contains(peer) && line.ends_with(&format!("{round}-{target}")),
            "{line}"
        );
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn udp_to_excluded_targets_goes_direct_from_the_same_socket() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let program = binary("offramp-probe").display().to_string();
    let line = [
        program.as_str(),
        "udp",
        "203.0.113.11:7",
        "203.0.113.12:7",
        "203.0.113.13:7",
    ];
    let capture = lab.capture();
    let said = daemon.run(&line).success();
    for (number, line) in said.lines().enumerate() {
        let peer = if number % 3 == 1 {
            " 10.90.1.2:"
        } else {
            " 10.90.2.2:"
        };
        assert!(
            line.contains(" ok from=203.0.113.1") && line.contains(peer),
            "{said}"
        );
    }
    let excluded = "203.0.113.12:7".parse().expect("an address");
    let packets = capture.packets();
    packets.assert_only(|packet| packet.is_with(excluded) || packet.is_with(GATEWAY));
}

const GATEWAY: SocketAddr = offramp_tests::addresses::GATEWAY;

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn tcp_to_excluded_targets_goes_direct() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let ca = lab.authority().certificate().display().to_string();
    let said = daemon.run(&[
        "curl",
        "-sS",
        "-4",
        "--cacert",
        &ca,
        "https://excluded.test/",
    ]);
    assert!(said.success().contains("peer=10.90.1.2:"));
    let said = daemon
        .run(&["curl", "-sS", "http://203.0.113.12/"])
        .success();
    assert!(said.contains("peer=10.90.1.2:"));
    let said = daemon
        .run(&["curl", "-sS", "http://203.0.113.13/"])
        .success();
    assert!(said.contains("peer=10.90.2.2:"));
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn other_protocols_are_refused() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let sockets = "import socket as s, sys
for family, kind, protocol in [(s.AF_INET, s.SOCK_RAW, 1), (s.AF_INET6, s.SOCK_RAW, 58),
        (s.AF_INET, s.SOCK_DGRAM, 1), (s.AF_INET, s.SOCK_DGRAM, 136), (s.AF_INET, s.SOCK_STREAM, 132),
        (s.AF_PACKET, s.SOCK_RAW, 0)]:
    try:
        s.socket(family, kind, protocol)
        print('open', family, kind, protocol)
    except OSError as error:
        print('refused', error.errno)";
    let capture = lab.capture();
    let said = daemon.run(&["/usr/bin/python3", "-c", sockets]).success();
    assert!(
        !said.contains("open") && said.lines().count() == 6,
        "{said}"
    );
    capture.packets().assert_only_gateway();
}
