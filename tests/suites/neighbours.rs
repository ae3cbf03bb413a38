//! Nobody on the machine notices: local servers bind, listen and serve as if offramp were not there;
//! firewalls, VPNs, containers and other programs of the kernel work beside us, and we beside them.

#[path = "neighbours/doctor.rs"]
mod doctor;
#[path = "neighbours/firewalls.rs"]
mod firewalls;
#[path = "neighbours/programs.rs"]
mod programs;
#[path = "neighbours/routing.rs"]
mod routing;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use offramp_tests::addresses::CLIENT;
use offramp_tests::{Daemon, Gateway, Lab, User, binary, port};
use socket2::{Domain, Socket, Type};

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Binds a local server on the client, unmanaged.
fn bind(lab: &Lab, kind: Type, address: SocketAddr, reuse: bool) -> std::io::Result<Socket> {
    lab.client().enter(|| {
        let socket = Socket::new(Domain::for_address(address), kind, None)?;
        socket.set_reuse_address(reuse)?;
        socket.bind(&address.into())?;
        if kind == Type::STREAM {
            socket.listen(16)?;
        }
        Ok(socket)
    })
}

/// Managed flows to the targets' ports that the local servers have, too.
#[track_caller]
fn use_flows(daemon: &Daemon<'_>) {
    let program = binary("offramp-probe").display().to_string();
    for target in [
        "203.0.113.10:8443",
        "[2001:db8::10]:8443",
        "203.0.113.11:8443",
    ] {
        let said = daemon.run(&[&program, "tcp", target]).success();
        assert!(
            said.contains(" ok ") && said.contains("said=\"token\""),
            "{said}"
        );
        let said = daemon.run(&[&program, "udp", target]).success();
        assert_eq!(said.matches(" ok from=").count(), 2, "{said}");
    }
    let said = daemon
        .run(&["curl", "-sSk", "https://origin.test/"])
        .success();
    assert!(
        said.contains("peer=10.90.2.2:") || said.contains("peer=[fd00:90:2::2]:"),
        "{said}"
    );
    for target in ["203.0.113.10:443", "[2001:db8::10]:443"] {
        let said = daemon.run(&[&program, "udp", target]).success();
        assert_eq!(
            said.matches(&format!(" ok from={target}")).count(),
            2,
            "{said}"
        );
    }
    let said = daemon.run(&["dig", "+short", "+tries=1", "@203.0.113.15", "origin.test"]);
    assert!(said.success().starts_with("198.1"));
}

/// The servers that the issue of neighbours is about.
fn servers() -> [(Type, SocketAddr); 6] {
    [
        (Type::DGRAM, (ANY, 53).into()),
        (Type::STREAM, (ANY, 53).into()),
        (Type::STREAM, (ANY6, port::HTTPS).into()),
        (Type::DGRAM, (ANY6, port::HTTPS).into()),
        (Type::STREAM, (ANY, 8443).into()),
        (Type::DGRAM, (ANY, 8443).into()),
    ]
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn servers_that_were_there_first() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    for reuse in [false, true] {
        let open: Vec<_> = servers()
            .map(|(kind, address)| bind(&lab, kind, address, reuse).expect("the port is free"))
            .into();
        let mut daemon = Daemon::start(&lab);
        use_flows(&daemon);
        serve_tcp(&lab, &open[4]);
        serve_udp(&lab, &open[5]);
        let end = daemon.stop();
        assert!(end.status.success(), "{end}");
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn servers_that_come_after_flows() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let program = binary("offramp-probe").display().to_string();
    for reuse in [false, true] {
        use_flows(&daemon);
        // Flows that stay open to the very ports.
        let mut command = daemon.command_as(User::Root, &program);
        command.args(["open", "20", "203.0.113.10:8443", "[2001:db8::10]:8443"]);
        command.stdin(std::process::Stdio::piped());
        lab.servers().forget();
        let mut held = offramp_tests::Running::start(command);
        let limit = std::time::Duration::from_secs(20);
        offramp_tests::wait_until("20 flows", limit, || lab.servers().seen().len() == 20);
        for (kind, address) in servers() {
            let socket = bind(&lab, kind, address, reuse);
            let socket = socket.unwrap_or_else(|error| panic!("{kind:?} {address}: {error}"));
            match (kind, address.port()) {
                (Type::STREAM, 8443) => serve_tcp(&lab, &socket),
                (Type::DGRAM, 8443) => serve_udp(&lab, &socket),
                _ => {}
            }
        }
        held.input()
            .write_all(b"go\n")
            .expect("the probe waits for it");
        let said = held.finish(limit).success();
        assert!(said.contains("working 20 {}"), "{said}");
    }
}

/// Somebody from outside reaches the local TCP server.
#[track_caller]
fn serve_tcp(lab: &Lab, socket: &Socket) {
    let listener = TcpListener::from(socket.try_clone().expect("there are descriptors left"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut flow, _) = listener.accept().expect("somebody comes");
            flow.write_all(b"local").expect("somebody reads");
            // The other side ends first, so that no TIME-WAIT is left on the server's port.
            let _ = flow.read(&mut [0; 1]);
        });
        let said = lab.origin().enter(|| {
            let mut flow = std::net::TcpStream::connect((CLIENT, 8443)).expect("it listens");
            let mut said = [0; 5];
            flow.read_exact(&mut said).map(|()| said)
        });
        assert_eq!(&said.expect("the server writes"), b"local");
    });
}

/// Somebody from outside reaches the local UDP server.
#[track_caller]
fn serve_udp(lab: &Lab, socket: &Socket) {
    let server = UdpSocket::from(socket.try_clone().expect("there are descriptors left"));
    server
        .set_read_timeout(Some(std::time::Duration::from_secs(10)))
        .expect("not zero");
    lab.origin().enter(|| {
        let client = UdpSocket::bind("0.0.0.0:0").expect("a port is free");
        client
            .send_to(b"hello", (CLIENT, 8443))
            .expect("there is a route");
    });
    let mut buffer = [0; 16];
    let (count, _) = server.recv_from(&mut buffer).expect("the datagram arrives");
    assert_eq!(&buffer[..count], b"hello");
}
