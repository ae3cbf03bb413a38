//! Doors that are sockets.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage,
    sendmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::{Outcome, PATIENCE, Trace, Tried, refused, skipped};
use crate::leaktest::doors::{Family, Given, HTTPS, Kind, Plan, Via};

/// For an error or an answer of a target that nobody has.
const MOMENT: Duration = Duration::from_millis(500);

#[derive(Clone, Copy)]
struct UnicastV4;
#[derive(Clone, Copy)]
struct UnicastV6;
nix::setsockopt_impl!(
    UnicastV4,
    libc::IPPROTO_IP,
    libc::IP_UNICAST_IF,
    u32,
    sockopt::SetStruct<u32>
);
nix::setsockopt_impl!(
    UnicastV6,
    libc::IPPROTO_IPV6,
    libc::IPV6_UNICAST_IF,
    u32,
    sockopt::SetStruct<u32>
);

pub(super) fn attempt(kind: Kind, target: SocketAddr, plan: &Plan) -> io::Result<Tried> {
    match kind {
        Kind::Tcp(_, via) => tcp(target, via, plan),
        Kind::DnsOverTls | Kind::Child => tcp(target, Via::Default, plan),
        Kind::Udp(_, via) => udp(target, via, plan),
        Kind::Multicast(_) | Kind::Namespace => udp(target, Via::Default, plan),
        Kind::Broadcast => {
            let socket = open(target, Type::DGRAM)?;
            socket.set_broadcast(true)?;
            send(&socket, target, b"offramp leaktest", MOMENT)
        }
        Kind::Quic(_) => quic(target, MOMENT),
        Kind::Raw(family) => other(family, Type::RAW, target),
        Kind::Ping(family) => other(family, Type::DGRAM, target),
        Kind::Packet => packet(),
        Kind::InheritedTcp => connect(&inherited(plan.tcp)?, target),
        Kind::InheritedUdp => send(&inherited(plan.udp)?, target, b"offramp leaktest", MOMENT),
        _ => Ok(skipped("it is no socket")),
    }
}

/// Doors that lead to the target that the person has given.
pub(super) fn given(kind: Kind, plan: &Plan) -> io::Result<Tried> {
    let Some(Given { host, port }) = &plan.target else {
        return Ok(skipped("there is no target"));
    };
    let port = if kind == Kind::TargetQuic {
        HTTPS
    } else {
        *port
    };
    let target = (host.as_str(), port).to_socket_addrs()?.next();
    let target = target.ok_or_else(|| io::Error::from_raw_os_error(libc::EADDRNOTAVAIL))?;
    match kind {
        Kind::TargetTcp => converse(target, host),
        Kind::TargetUdp => send(
            &open(target, Type::DGRAM)?,
            target,
            b"offramp leaktest",
            PATIENCE,
        ),
        _ => quic(target, PATIENCE),
    }
}

fn open(target: SocketAddr, kind: Type) -> io::Result<Socket> {
    Socket::new(Domain::for_address(target), kind, None)
}

/// Sets what `via` says; what the machine has not is told.
fn prepare(
    socket: &Socket,
    target: SocketAddr,
    via: Via,
    plan: &Plan,
) -> io::Result<Result<(), &'static str>> {
    let own: Option<IpAddr> = match target {
        SocketAddr::V4(_) => plan.own4.map(IpAddr::from),
        SocketAddr::V6(_) => plan.own6.map(IpAddr::from),
    };
    let Some(device) = plan.device.as_deref() else {
        return Ok(match via {
            Via::Default | Via::Connected => Ok(()),
            _ => Err("this machine has no network"),
        });
    };
    match via {
        Via::Own => match own {
            Some(own) => socket.bind(&SocketAddr::new(own, 0).into())?,
            None => return Ok(Err("this machine has no such address")),
        },
        Via::Device => socket.bind_device(Some(device.as_bytes()))?,
        Via::Unicast => {
            // In network order, as the options want it.
            let index = if_nametoindex(device)?.to_be();
            match target {
                SocketAddr::V4(_) => setsockopt(socket, UnicastV4, &index)?,
                SocketAddr::V6(_) => setsockopt(socket, UnicastV6, &index)?,
            }
        }
        Via::Default | Via::Connected | Via::PacketInfo => {}
    }
    Ok(Ok(()))
}

fn tcp(target: SocketAddr, via: Via, plan: &Plan) -> io::Result<Tried> {
    let socket = open(target, Type::STREAM)?;
    match prepare(&socket, target, via, plan)? {
        Ok(()) => connect(&socket, target),
        Err(why) => Ok(skipped(why)),
    }
}

fn connect(socket: &Socket, target: SocketAddr) -> io::Result<Tried> {
    let outcome = match socket.connect_timeout(&target.into(), PATIENCE) {
        Ok(()) => Outcome::Connected,
        Err(error) => refused(&error),
    };
    Ok((trace(socket, target), outcome))
}

/// Connects and says what most servers answer to, if only to complain.
fn converse(target: SocketAddr, host: &str) -> io::Result<Tried> {
    let socket = open(target, Type::STREAM)?;
    let (trace, outcome) = connect(&socket, target)?;
    if outcome != Outcome::Connected {
        return Ok((trace, outcome));
    }
    let question = format!("HEAD / HTTP/1.0\r\nHost: {host}\r\n\r\n");
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut answer = [MaybeUninit::uninit(); 512];
    let heard = socket
        .send(question.as_bytes())
        .and_then(|_| socket.recv(&mut answer));
    let outcome = match heard {
        Ok(0) => Outcome::Answered("it closed the connection".to_owned()),
        Ok(count) => Outcome::Answered(format!("it answered {count} bytes")),
        Err(error) => match refused(&error) {
            // The connection stands all the same.
            Outcome::Silent => Outcome::Connected,
            _ => Outcome::Answered(format!("it ended the connection: {error}")),
        },
    };
    Ok((trace, outcome))
}

fn udp(target: SocketAddr, via: Via, plan: &Plan) -> io::Result<Tried> {
    let socket = open(target, Type::DGRAM)?;
    if let Err(why) = prepare(&socket, target, via, plan)? {
        return Ok(skipped(why));
    }
    match (via, plan.device.as_deref()) {
        (Via::Connected, _) => {
            let (trace, outcome) = connect(&socket, target)?;
            if outcome != Outcome::Connected {
                return Ok((trace, outcome));
            }
            let outcome = match socket.send(b"offramp leaktest") {
                Ok(_) => hear(&socket, MOMENT),
                Err(error) => refused(&error),
            };
            Ok((trace, outcome))
        }
        (Via::PacketInfo, Some(device)) => with_packet_info(&socket, target, device),
        (Via::PacketInfo, None) => Ok(skipped("this machine has no network")),
        _ => send(&socket, target, b"offramp leaktest", MOMENT),
    }
}

fn send(
    socket: &Socket,
    target: SocketAddr,
    payload: &[u8],
    patience: Duration,
) -> io::Result<Tried> {
    let outcome = match socket.send_to(payload, &target.into()) {
        Ok(_) => hear(socket, patience),
        Err(error) => refused(&error),
    };
    Ok((trace(socket, target), outcome))
}

/// Waits for an answer, or for an error that comes late.
fn hear(socket: &Socket, patience: Duration) -> Outcome {
    if let Err(error) = socket.set_read_timeout(Some(patience)) {
        return refused(&error);
    }
    match socket.recv(&mut [MaybeUninit::uninit(); 2048]) {
        Ok(count) => Outcome::Answered(format!("it answered {count} bytes")),
        Err(error) => refused(&error),
    }
}

fn with_packet_info(socket: &Socket, target: SocketAddr, device: &str) -> io::Result<Tried> {
    let index = if_nametoindex(device)?;
    let v4 = libc::in_pktinfo {
        ipi_ifindex: index as i32,
        ipi_spec_dst: libc::in_addr { s_addr: 0 },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    let v6 = libc::in6_pktinfo {
        ipi6_addr: libc::in6_addr { s6_addr: [0; 16] },
        ipi6_ifindex: index,
    };
    let control = match target {
        SocketAddr::V4(_) => ControlMessage::Ipv4PacketInfo(&v4),
        SocketAddr::V6(_) => ControlMessage::Ipv6PacketInfo(&v6),
    };
    let sent = sendmsg(
        socket.as_raw_fd(),
        &[IoSlice::new(b"offramp leaktest")],
        &[control],
        MsgFlags::empty(),
        Some(&SockaddrStorage::from(target)),
    );
    let outcome = match sent {
        Ok(_) => hear(socket, MOMENT),
        Err(errno) => refused(&errno.into()),
    };
    Ok((trace(socket, target), outcome))
}

/// The first packet of a QUIC connection as far as a server looks that does not know the version
/// (RFC 9000 section 17.2.2; the version is one of those that section 15 keeps for this).
fn quic(target: SocketAddr, patience: Duration) -> io::Result<Tried> {
    let mut packet = vec![0xc0, 0x1a, 0x2a, 0x3a, 0x4a];
    packet.extend([8, 1, 2, 3, 4, 5, 6, 7, 8]);
    packet.extend([8, 8, 7, 6, 5, 4, 3, 2, 1]);
    // No token, and the rest of the 1200 bytes as one protected payload.
    packet.push(0);
    let length = 1200 - packet.len() - 2;
    packet.extend((0x4000 | length as u16).to_be_bytes());
    packet.resize(1200, 0);
    send(&open(target, Type::DGRAM)?, target, &packet, patience)
}

/// Echo requests by a socket of another kind: raw, or the kernel's own for ping.
fn other(family: Family, kind: Type, target: SocketAddr) -> io::Result<Tried> {
    let protocol = match family {
        Family::V4 => Protocol::ICMPV4,
        Family::V6 => Protocol::ICMPV6,
    };
    let socket = Socket::new(Domain::for_address(target), kind, Some(protocol))?;
    let first = match family {
        Family::V4 => 8,
        Family::V6 => 128,
    };
    let mut request = [first, 0, 0, 0, 0, 1, 0, 1];
    let sum: u32 = request
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    request[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let outcome = match socket.send_to(&request, &target.into()) {
        Ok(_) => Outcome::Opened,
        Err(error) => refused(&error),
    };
    Ok((trace(&socket, target), outcome))
}

/// Opens one and sends nothing: whoever has it sends what they like.
fn packet() -> io::Result<Tried> {
    nix::sys::socket::socket(
        AddressFamily::Packet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )?;
    Ok((Trace::default(), Outcome::Opened))
}

/// A socket that was made before this process was under the profile.
fn inherited(descriptor: i32) -> io::Result<Socket> {
    #[expect(
        unsafe_code,
        reason = "a descriptor that comes by exec has no other way in"
    )]
    // SAFETY: the parent made it for this process, nothing here closes it, and the copy is our own.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    SockRef::from(&borrowed).try_clone()
}

fn trace(socket: &Socket, target: SocketAddr) -> Trace {
    Trace {
        local: socket
            .local_addr()
            .ok()
            .as_ref()
            .and_then(SockAddr::as_socket),
        target: Some(target),
        mark: socket.mark().unwrap_or(0),
    }
}

pub(super) fn trace_of(socket: &impl std::os::fd::AsFd, target: SocketAddr) -> Trace {
    match SockRef::from(socket).try_clone() {
        Ok(socket) => trace(&socket, target),
        Err(_) => Trace::default(),
    }
}

/// What an address is where a socket has none yet.
pub(super) fn nobody(target: SocketAddr) -> SocketAddr {
    match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
