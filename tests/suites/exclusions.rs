//! What a profile keeps off the proxy: excluded targets on the wire, and connections from outside.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use offramp_tests::addresses::{CLIENT, CLIENT6, DNS, GATEWAY, ROUTER, ROUTER6};
use offramp_tests::{Daemon, Gateway, Lab, Packet, Running, binary, port, wait_until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);
const LOCAL: u16 = 7000;

fn probe(daemon: &Daemon<'_>, kind: &str, target: &str) -> String {
    let program = binary("offramp-probe").display().to_string();
    daemon.run(&[&program, kind, target]).success()
}

fn is_dns(packet: &Packet) -> bool {
    packet.is_with((DNS, 53).into())
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn excluded_routes() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut profile = Daemon::profile();
    profile["Payload"]["NetworkRouting"]["ExcludedRoutes"] =
        json!(["203.0.113.12/31", "2001:db8::8/128"]);
    let daemon = Daemon::start_with(&lab, &[profile]);
    let excluded = [
        ("203.0.113.12", "10.90.1.2:"),
        ("203.0.113.13", "10.90.1.2:"),
        ("[2001:db8::8]", "[fd00:90:1::2]:"),
    ];
    for (address, peer) in excluded {
        for (kind, number) in [("tcp", port::BANNER), ("udp", port::ECHO)] {
            let target = format!("{address}:{number}");
            let capture = lab.capture();
            let said = probe(&daemon, kind, &target);
            assert!(said.contains(" ok ") && said.contains(peer), "{said}");
            let target = target.parse().expect("an address");
            let packets = capture.packets();
            packets.assert_some_with(target);
            packets.assert_only(|packet| packet.is_with(target) || packet.is_with(GATEWAY));
        }
    }
    for (address, peer) in [
        ("203.0.113.11", "10.90.2.2:"),
        ("203.0.113.14", "10.90.2.2:"),
        ("[2001:db8::9]", "[fd00:90:2::2]:"),
    ] {
        for (kind, number) in [("tcp", port::BANNER), ("udp", port::ECHO)] {
            let capture = lab.capture();
            let said = probe(&daemon, kind, &format!("{address}:{number}"));
            assert!(said.contains(" ok ") && said.contains(peer), "{said}");
            capture.packets().assert_only_gateway();
        }
    }
    // One socket that has another address and port when it sends again.
    let script = "import ctypes, socket
flow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
flow.settimeout(10)
flow.connect(('203.0.113.12', 7))
flow.sendto(b'hello', ('203.0.113.11', 7))
unspecified = bytes(16)
ctypes.CDLL(None).connect(flow.fileno(), unspecified, 16)
flow.sendto(b'hello', ('203.0.113.11', 7))
print(flow.recvfrom(100)[0].decode())";
    let said = daemon.run(&["/usr/bin/python3", "-c", script]).success();
    assert!(said.contains("10.90.2.2:"), "{said}");
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn excluded_domains() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut profile = Daemon::profile();
    profile["Payload"]["ExcludedDomains"] = json!(["wild.test"]);
    let daemon = Daemon::start_with(&lab, &[profile]);
    let get = |url: &str| daemon.run(&["curl", "-sS", "-4", url]).success();
    for name in ["wild.test", "deep.wild.test", "DEEP.WILD.TEST."] {
        let capture = lab.capture();
        let said = get(&format!("http://{name}/"));
        assert!(said.contains("peer=10.90.1.2:"), "{name}: {said}");
        let target = ([203, 0, 113, 13], port::HTTP).into();
        let packets = capture.packets();
        packets.assert_some_with(target);
        packets.assert_only(|packet| {
            packet.is_with(target) || packet.is_with(GATEWAY) || is_dns(packet)
        });
    }
    // Another name, and one that only ends in the same letters.
    for name in ["v4.test", "excluded.test"] {
        let capture = lab.capture();
        let said = get(&format!("http://{name}/"));
        assert!(said.contains("peer=10.90.2.2:"), "{name}: {said}");
        capture.packets().assert_only_gateway();
    }
}

/// Servers of the router, on the client's own network; each says whom it saw.
fn local_servers(lab: &Lab) -> [TcpListener; 2] {
    [(ROUTER, LOCAL).into(), (ROUTER6, LOCAL).into()].map(|address: SocketAddr| {
        let listener = lab.router().enter(|| TcpListener::bind(address));
        listener.expect("the port is free")
    })
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn local_networks() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let servers = local_servers(&lab);
    let connect = format!(
        "import socket, sys
for host in '{ROUTER}', '{ROUTER6}':
    try:
        print(socket.create_connection((host, {LOCAL}), 10).getsockname()[0])
    except OSError as error:
        print('failed')
for family, host in (socket.AF_INET, '224.0.0.251'), (socket.AF_INET6, 'ff02::fb%eth0'):
    try:
        s = socket.socket(family, socket.SOCK_DGRAM)
        s.sendto(b'hello', socket.getaddrinfo(host, {LOCAL}, family, socket.SOCK_DGRAM)[0][4])
        print('sent')
    except OSError as error:
        print('errno', error.errno)"
    );
    let line = ["/usr/bin/python3", "-c", &connect];
    let is_local = |packet: &Packet| {
        packet.target.port() == LOCAL || packet.source.port() == LOCAL || packet.is_with(GATEWAY)
    };
    for excluded in [false, true] {
        let mut profile = Daemon::profile();
        profile["Payload"]["NetworkRouting"] = json!({ "ExcludeLocalNetworks": excluded });
        let mut daemon = Daemon::start_with(&lab, &[profile]);
        let capture = lab.capture();
        let said = daemon.run(&line).success();
        let packets = capture.packets();
        if excluded {
            assert_eq!(said, format!("{CLIENT}\n{CLIENT6}\nsent\nsent\n"));
            for (server, peer) in servers.iter().zip([IpAddr::from(CLIENT), CLIENT6.into()]) {
                let (_, seen) = server.accept().expect("the app has connected");
                assert_eq!(seen.ip(), peer);
            }
            packets.assert_some_with(([224, 0, 0, 251], LOCAL).into());
            packets.assert_only(is_local);
        } else {
            // The flow is accepted on the machine; the gateway does not allow private targets.
            assert!(said.ends_with("errno 1\nerrno 1\n"), "{said}");
            packets.assert_only_gateway();
        }
        let relayed = probe(&daemon, "tcp", &format!("203.0.113.12:{}", port::BANNER));
        assert!(relayed.contains("said=\"10.90.2.2:"), "{relayed}");
        let end = daemon.stop();
        assert!(end.status.success(), "{end}");
    }
}

const SERVER: &str = "import socket, threading
def serve(tcp):
    while True:
        flow, _ = tcp.accept()
        flow.sendall(b'managed')
        flow.close()
for family, address in (socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::'):
    tcp = socket.socket(family, socket.SOCK_STREAM)
    if family == socket.AF_INET6:
        tcp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    tcp.bind((address, 7000))
    tcp.listen()
    threading.Thread(target=serve, args=(tcp,)).start()";

/// What somebody hears from a managed server on the client.
fn ask(host: &offramp_tests::Host, server: SocketAddr) -> std::io::Result<String> {
    host.enter(|| {
        let mut flow = TcpStream::connect_timeout(&server, Duration::from_secs(2))?;
        flow.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut said = String::new();
        flow.read_to_string(&mut said)?;
        // What is written to a server that has ended may fail.
        let _ = flow.write_all(b"thanks");
        Ok(said)
    })
}

fn with_inbound(allowed: bool) -> Value {
    let mut profile = Daemon::profile();
    profile["Payload"]["AllowInbound"] = allowed.into();
    profile
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn connections_from_outside() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    for allowed in [false, true] {
        let mut daemon = Daemon::start_with(&lab, &[with_inbound(allowed)]);
        let server: Running = daemon.spawn(&["/usr/bin/python3", "-c", SERVER]);
        let listening = || {
            let line = format!("sport = :{LOCAL}");
            let out = lab.client().run(&["ss", "-Htnl", &line]).success();
            out.lines().count() == 2
        };
        wait_until("the managed server listens", LIMIT, listening);
        let [four, six]: [SocketAddr; 2] = [(CLIENT, LOCAL).into(), (CLIENT6, LOCAL).into()];
        let loopback: SocketAddr = ([127, 0, 0, 1], LOCAL).into();
        for address in [loopback, four, six] {
            let said = ask(lab.client(), address);
            assert_eq!(said.expect("this machine may"), "managed", "{address}");
        }
        let before = daemon.counter("kernel_ingress_drops");
        for address in [four, six] {
            let said = ask(lab.router(), address);
            if allowed {
                let said = said.unwrap_or_else(|error| panic!("{address}: {error}"));
                assert_eq!(said, "managed", "{address}");
            } else {
                assert!(said.is_err(), "{address}: {said:?}");
            }
        }
        let dropped = daemon.counter("kernel_ingress_drops") > before;
        assert_eq!(dropped, !allowed, "counted when dropped");
        drop(server);
        let end = daemon.stop();
        assert!(end.status.success(), "{end}");
    }
}
