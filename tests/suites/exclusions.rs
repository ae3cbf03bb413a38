//! What a profile keeps off the proxy: excluded targets on the wire, and connections from outside.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use offramp_tests::addresses::{CLIENT, CLIENT6, DNS, GATEWAY, ROUTER, ROUTER6};
use offramp_tests::{Daemon, Gateway, Held, Lab, Packet, Running, binary, port, wait_until};
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

/// The profile of the lab with `near.test` excluded, and its addresses alone.
fn near() -> Value {
    let mut profile = Daemon::profile();
    profile["Payload"]["ExcludedDomains"] = json!(["NEAR.test."]);
    profile
}

/// What `ask` says it is, whom its peer takes it for.
const DIRECT: &str = "10.90.1.2:";
const RELAYED: &str = "10.90.2.2:";

/// Asks both names over and over, from several threads: banners of TCP, echoes of UDP, TLS.
const BOTH_NAMES: &str = "
import socket, ssl, sys, threading
banner, echo, tls, trusted = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
ways = {'near.test': '10.90.1.2', 'far.test': '10.90.2.2'}
wrong = []
def tcp(name):
    with socket.create_connection((name, banner), 20) as flow:
        return flow.recv(100).decode()
def udp(name):
    target = socket.getaddrinfo(name, echo, socket.AF_INET, socket.SOCK_DGRAM)[0][4]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flow:
        flow.settimeout(20)
        flow.sendto(b'hello', target)
        return flow.recv(100).decode()
def web(name):
    context = ssl.create_default_context(cafile=trusted)
    context.check_hostname = False
    address = socket.getaddrinfo(name, tls, socket.AF_INET, socket.SOCK_STREAM)[0][4]
    with context.wrap_socket(socket.create_connection(address, 20), server_hostname='origin.test') as flow:
        flow.sendall(b'GET / HTTP/1.1\\r\\nHost: origin.test\\r\\nConnection: close\\r\\n\\r\\n')
        said = b''
        while data := flow.recv(1000):
            said += data
        return said.decode()
def ask(names):
    for name in names * 5:
        for way in tcp, udp, web:
            try:
                said = way(name)
            except OSError as error:
                said = repr(error)
            if ways[name] + ':' not in said:
                wrong.append((name, way.__name__, said))
names = ['near.test', 'far.test']
threads = [threading.Thread(target=ask, args=(order,)) for order in (names, names[::-1]) * 2]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(wrong)
";

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn one_address_with_two_names() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start_with(&lab, &[near()]);
    let ca = lab.authority().certificate().display().to_string();
    let ports = [port::BANNER, port::ECHO, port::HTTPS].map(|port| port.to_string());
    let [banner, echo, https] = &ports;
    let line = [
        "/usr/bin/python3",
        "-c",
        BOTH_NAMES,
        banner,
        echo,
        https,
        &ca,
    ];
    let capture = lab.capture();
    assert_eq!(daemon.run(&line).success().trim(), "[]");
    for (name, peer) in [
        ("far.test", RELAYED),
        ("near.test", DIRECT),
        ("far.test", RELAYED),
    ] {
        let url = format!("http://{name}/");
        let said = daemon.run(&["curl", "-sS", "-4", &url]).success();
        assert!(said.contains(&format!("peer={peer}")), "{name}: {said}");
    }
    let address = IpAddr::from([203, 0, 113, 14]);
    capture.packets().assert_only(|packet| {
        let ends = [packet.source.ip(), packet.target.ip()];
        ends.contains(&address) || packet.is_with(GATEWAY) || is_dns(packet)
    });
    let asked = lab.names().queries();
    let leaked = |query: &&String| query.contains(" far.test ") && query.contains("10.90.1.2");
    assert_eq!(asked.iter().find(leaked), None, "no relayed name leaves");
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn the_name_that_was_asked_for_decides() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start_with(&lab, &[near()]);
    let cases = [
        ("near.test", DIRECT),
        ("NEAR.Test.", DIRECT),
        ("alias.near.test", DIRECT),
        ("xn--bcher-kva.near.test", DIRECT),
        ("b\u{fc}cher.near.test", DIRECT),
        ("_odd.near.test", DIRECT),
        ("alias.far.test", RELAYED),
        ("near.far.test", RELAYED),
        ("notnear.test", RELAYED),
    ];
    for (name, peer) in cases {
        let url = format!("http://{name}/");
        let said = daemon.run(&["curl", "-sS", "-4", &url]).success();
        assert!(said.contains(&format!("peer={peer}")), "{name}: {said}");
    }
    // As octets, without IDNA, which curl does itself.
    let raw = "import socket
query = b'\\x07\\x07\\x01\\0\\0\\x01\\0\\0\\0\\0\\0\\0' + b'\\x07b\\xc3\\xbccher\\x04near\\x04test\\0' + b'\\0\\x01\\0\\x01'
flow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
flow.settimeout(20)
flow.sendto(query, ('192.0.2.1', 53))
print(flow.recv(1000)[3] & 15)";
    let line = ["/usr/bin/python3", "-c", raw];
    // The resolver has no such name, and it is the one who was asked.
    let code = daemon.run(&line).success();
    assert!(["3", "5"].contains(&code.trim()), "{code}");
    let queries = lab.names().queries();
    let asked = |query: &String| query.contains("unprintable") && query.contains("10.90.1.2");
    assert!(queries.iter().any(asked), "{queries:?}");
    // Targets of services are names of their own.
    let line = [
        "dig",
        "+short",
        "+tries=1",
        "+time=20",
        "_web._tcp.near.test",
        "SRV",
    ];
    assert_eq!(daemon.run(&line).success().trim(), "0 0 80 far.test.");
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn direct_flows_outlive_daemons_and_rules_that_still_exclude_them() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut daemon = Daemon::start_with(&lab, &[near()]);
    let line = ["dig", "+short", "+tries=1", "+time=20", "near.test", "A"];
    assert_eq!(daemon.run(&line).success().trim(), "203.0.113.14");
    let target = format!("203.0.113.14:{}", port::ECHO);
    let held: Vec<Held> = (0..5).map(|_| Held::open(&daemon, &target)).collect();
    let mut held = held.into_iter();
    let mut works = |what: &str| assert!(held.next().expect("one is left").works(), "{what}");
    let seen = lab.servers().seen();
    assert!(seen.iter().all(|seen| seen.peer.ip() == CLIENT), "{seen:?}");
    works("as before");
    let file = "policies/managed/0.json";
    let mut profile = near();
    profile["Payload"]["ExcludedDomains"] = json!(["near.test", "other.test"]);
    daemon.write(file, &profile.to_string());
    let others = || {
        let line = ["dig", "+short", "+tries=1", "+time=10", "other.test", "A"];
        daemon.run(&line).stdout
    };
    wait_until("the other rules are in force", LIMIT, || {
        others().contains("203.0.113.11")
    });
    works("other rules, the same exclusion");
    drop(daemon.take_over());
    works("an upgrade");
    daemon.process().signal(nix::sys::signal::Signal::SIGKILL);
    daemon.start_again();
    works("a daemon that was killed");
    let approved = || daemon.map_entries()["approved"];
    let before = approved();
    profile["Payload"]["ExcludedDomains"] = json!(["other.test"]);
    daemon.write(file, &profile.to_string());
    wait_until("the address is closed", LIMIT, || approved() < before);
    assert!(
        !held.next().expect("one is left").works(),
        "it is not excluded"
    );
}

/// A resolver on the client, which has one more name below `near.test`.
fn stub(lab: &Lab, program: &str) -> Running {
    let facility = lab.directory().join("stub.log").display().to_string();
    let stub = lab.client().spawn(&[
        program,
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--cache-size=0",
        "--server=10.90.4.2",
        "--host-record=corp.near.test,203.0.113.16",
        "--listen-address=127.0.0.1",
        "--bind-interfaces",
        "--user=root",
        "--pid-file=",
        &format!("--log-facility={facility}"),
    ]);
    let answers = || {
        let line = [
            "dig",
            "+short",
            "+tries=1",
            "+time=2",
            "@127.0.0.1",
            "corp.near.test",
        ];
        lab.client().run(&line).stdout.contains("203.0.113.16")
    };
    wait_until("the stub answers", LIMIT, answers);
    stub
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn excluded_names_are_what_the_machines_own_resolver_says() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let conf = lab.directory().join("stub.conf");
    std::fs::write(&conf, "nameserver 127.0.0.1\n").expect("the directory is ours");
    let hosts = lab.directory().join("hosts");
    let text = "127.0.0.1 localhost\n203.0.113.17 files.near.test\n\
                203.0.113.18 both.near.test far.test\n";
    std::fs::write(&hosts, text).expect("the directory is ours");
    for (file, place) in [(&conf, "resolv.conf"), (&hosts, "hosts")] {
        let mount = format!("mount --bind {} /etc/{place}", file.display());
        lab.client().sh(&mount);
    }
    // A resolver that is under the rule itself, too: its look-ups must not go round.
    let own = lab.directory().join("own-dnsmasq");
    lab.client()
        .sh(&format!("cp $(command -v dnsmasq) {}", own.display()));
    let mut profile = near();
    profile["Payload"]["AppRules"] = json!([{ "SigningIdentifier": "exe:own-dnsmasq" }]);
    let daemon = Daemon::start_with(&lab, &[profile]);
    let own = own.display().to_string();
    // What programs read in a file they ask nobody about.
    for (name, peer) in [("files.near.test", DIRECT), ("both.near.test", RELAYED)] {
        let url = format!("http://{name}/");
        let said = daemon.run(&["curl", "-sS", "-4", &url]).success();
        assert!(said.contains(&format!("peer={peer}")), "{name}: {said}");
    }
    for program in ["dnsmasq", &own] {
        let _stub = stub(&lab, program);
        let apps = daemon.offramp(&["apps"]).success();
        assert_eq!(apps.contains("own-dnsmasq"), program == own, "{apps}");
        for (name, address) in [
            ("corp.near.test", "203.0.113.16"),
            ("near.test", "203.0.113.14"),
        ] {
            let before = lab.names().queries().len();
            let line = ["dig", "+short", "+tries=1", "+time=20", name, "A"];
            let said = daemon.run(&line).success();
            assert_eq!(said.trim(), address, "{program}: {name}");
            let asked = lab.names().queries().len() - before;
            assert!(asked <= 1, "{program}: {name} was asked for {asked} times");
            let url = format!("http://{name}/");
            let said = daemon.run(&["curl", "-sS", "-4", &url]).success();
            assert!(
                said.contains(&format!("peer={DIRECT}")),
                "{program}: {said}"
            );
        }
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
