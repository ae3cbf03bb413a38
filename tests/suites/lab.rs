//! The lab itself, with unmanaged traffic and with the gateway used by hand.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use offramp_tests::addresses::{BLACK_HOLE, CLIENT, CLIENT6, DNS, GATEWAY, ORIGIN, ORIGIN6, PROXY};
use offramp_tests::{Gateway, Lab, Postgres, Shell, Transport, User, port};

fn origin(port: u16) -> SocketAddr {
    (ORIGIN, port).into()
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn unmanaged_programs_are_seen_as_the_client() {
    let lab = Lab::new();
    let ca = lab.authority().certificate().display().to_string();
    for user in [User::Root, User::Nobody] {
        let capture = lab.capture();
        for (family, peer) in [("-4", IpAddr::from(CLIENT)), ("-6", CLIENT6.into())] {
            let line = [
                "curl",
                "-sS",
                family,
                "--cacert",
                &ca,
                "https://origin.test/",
            ];
            let said = lab.client().run_as(user, &line).success();
            assert!(
                said.contains(&peer.to_string()) && said.contains("HTTP/2"),
                "{said}"
            );
        }
        lab.servers()
            .assert_seen_only(&[CLIENT.into(), CLIENT6.into()]);
        let packets = capture.packets();
        packets.assert_some_with(origin(port::HTTPS));
        packets.assert_some_with((ORIGIN6, port::HTTPS).into());
        packets.assert_only(|packet| {
            packet.is_with(origin(port::HTTPS))
                || packet.is_with((ORIGIN6, port::HTTPS).into())
                || packet.is_with((DNS, 53).into()) && packet.transport == Transport::Udp
        });
    }
    assert!(
        lab.names()
            .queries()
            .iter()
            .any(|query| query.contains("origin.test"))
    );
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn curl_through_the_gateway_is_seen_as_the_gateway() {
    let lab = Lab::new();
    let gateway = Gateway::start(&lab);
    let ca = lab.authority().certificate().display().to_string();
    let proxy_ca = gateway.authority.certificate().display().to_string();
    let capture = lab.capture();
    let proxy = format!("https://{GATEWAY}");
    for way in ["--http1.1", "--http2"] {
        let line = [
            "curl",
            "-sS",
            way,
            "--cacert",
            &ca,
            "--proxy-cacert",
            &proxy_ca,
        ];
        let line = [&line[..], &["--proxy", &proxy, "https://v4.test/"]].concat();
        let said = lab.client().run(&line).success();
        assert!(said.contains(&PROXY.to_string()), "{said}");
    }
    lab.servers().assert_seen_only(&[PROXY.into()]);
    let packets = capture.packets();
    packets.assert_some_with(GATEWAY);
    packets.assert_only_gateway();
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn each_target_behaves_as_it_should() {
    let lab = Lab::new();
    let connect = |address: SocketAddr, limit| {
        lab.client()
            .enter(|| std::net::TcpStream::connect_timeout(&address, limit))
    };
    let second = Duration::from_secs(1);
    let refused = connect(origin(port::REFUSED), second).expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let silent = connect((BLACK_HOLE, 80).into(), second).expect_err("the router drops it");
    assert_eq!(silent.kind(), std::io::ErrorKind::TimedOut);
    let datagram = lab.client().enter(|| {
        let socket = std::net::UdpSocket::bind((CLIENT, 0)).expect("the client is up");
        socket
            .set_read_timeout(Some(10 * second))
            .expect("not zero");
        socket
            .send_to(b"hello", origin(port::ECHO))
            .expect("there is a route");
        let mut buffer = [0; 100];
        let (count, from) = socket.recv_from(&mut buffer).expect("the origin answers");
        (String::from_utf8_lossy(&buffer[..count]).into_owned(), from)
    });
    assert_eq!(datagram.1, origin(port::ECHO));
    assert!(datagram.0.starts_with("10.90.1.2:") && datagram.0.ends_with(" hello"));
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn the_servers_that_are_programs_serve() {
    let lab = Lab::new();
    let shell = Shell::start(lab.origin(), lab.directory());
    for user in [User::Root, User::Nobody] {
        let arguments = shell.arguments(user);
        let mut line = vec!["ssh"];
        line.extend(arguments.iter().map(String::as_str));
        line.extend(["root@v4.test", "echo $SSH_CONNECTION"]);
        let said = lab.client().run_as(user, &line).success();
        assert!(said.starts_with("10.90.1.2 "), "{said}");
    }
    let _postgres = Postgres::start(lab.origin(), lab.directory());
    let query = ["psql", "-AtX", "-h", "v4.test", "-U", "postgres", "-c"];
    let said = lab
        .client()
        .run(&[&query[..], &["select inet_client_addr()"]].concat())
        .success();
    assert_eq!(said.trim(), "10.90.1.2");
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn nothing_is_left_of_a_lab() {
    let lab = Lab::new();
    let directory = lab.directory().to_owned();
    let left_alone = lab.client().spawn(&["sleep", "1000"]);
    let process = format!("/proc/{}/exe", left_alone.id());
    assert!(std::path::Path::new(&process).exists());
    drop(lab);
    drop(left_alone);
    assert!(!std::path::Path::new(&process).exists());
    assert!(!directory.exists());
}
