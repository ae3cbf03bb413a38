//! Sockets below and beside TCP and UDP.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use offramp_tests::addresses::CLIENT;
use socket2::{Domain, Protocol, Socket, Type};

use super::raw::{self, name_of};
use super::tcp::index;
use super::{Outcome, Said, Target, udp};

const ECHO4: [u8; 8] = [8, 0, 247, 255, 0, 0, 0, 0];
const ECHO6: [u8; 8] = [128, 0, 0, 0, 0, 0, 0, 0];

fn made(domain: Domain, kind: Type, protocol: i32) -> io::Result<Socket> {
    Socket::new(domain, kind, Some(Protocol::from(protocol)))
}

/// Sends what says itself what it is.
fn tell(socket: &Socket, to: SocketAddr, payload: &[u8]) -> Outcome {
    let to = SocketAddr::new(to.ip(), 0);
    raw::send(socket, Some(&name_of(to)), payload, &[], 0, 1)?;
    Ok(Said::Sent)
}

pub(super) fn raw4(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = made(Domain::IPV4, Type::RAW, libc::IPPROTO_ICMP)?;
    tell(&socket, target.tcp4(), &ECHO4)
}

pub(super) fn raw6(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = made(Domain::IPV6, Type::RAW, libc::IPPROTO_ICMPV6)?;
    tell(&socket, target.tcp6(), &ECHO6)
}

/// A datagram that the program has put together itself.
fn datagram(target: Target) -> Vec<u8> {
    let port = target.port().to_be_bytes();
    [&port[..], &port, &[0, 11, 0, 0], b"out"].concat()
}

pub(super) fn raw_udp(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = made(Domain::IPV4, Type::RAW, libc::IPPROTO_UDP)?;
    tell(&socket, target.udp4(), &datagram(target))
}

fn header(target: Target, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let SocketAddr::V4(to) = target.udp4() else {
        return Vec::new();
    };
    let length = (20 + payload.len() as u16).to_be_bytes();
    let head = [
        0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0,
    ];
    [&head[..], &CLIENT.octets(), &to.ip().octets(), payload].concat()
}

/// With the header of the packet, too.
pub(super) fn with_header(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = made(Domain::IPV4, Type::RAW, libc::IPPROTO_RAW)?;
    let packet = header(target, 17, &datagram(target));
    tell(&socket, target.udp4(), &packet)
}

pub(super) fn with_header6(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = made(Domain::IPV6, Type::RAW, libc::IPPROTO_RAW)?;
    let SocketAddr::V6(to) = target.udp6() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let payload = datagram(target);
    let head = [0x60, 0, 0, 0, 0, payload.len() as u8, 17, 64];
    let source = offramp_tests::addresses::CLIENT6.octets();
    let packet = [&head[..], &source, &to.ip().octets(), &payload].concat();
    tell(&socket, target.udp6(), &packet)
}

/// A packet in a packet.
pub(super) fn tunnel(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = made(Domain::IPV4, Type::RAW, libc::IPPROTO_IPIP)?;
    tell(
        &socket,
        target.udp4(),
        &header(target, 17, &datagram(target)),
    )
}

pub(super) fn tunnel_by_gre(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = made(Domain::IPV4, Type::RAW, libc::IPPROTO_GRE)?;
    let inner = header(target, 17, &datagram(target));
    let packet = [&[0, 0, 8, 0][..], &inner].concat();
    tell(&socket, target.udp4(), &packet)
}

pub(super) fn ping4(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = made(Domain::IPV4, Type::DGRAM, libc::IPPROTO_ICMP)?;
    tell(&socket, target.udp4(), &ECHO4)
}

pub(super) fn ping6(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = made(Domain::IPV6, Type::DGRAM, libc::IPPROTO_ICMPV6)?;
    tell(&socket, target.udp6(), &ECHO6)
}

pub(super) fn sctp(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = made(Domain::IPV4, Type::STREAM, libc::IPPROTO_SCTP)?;
    socket.connect(&target.tcp4().into())?;
    Ok(Said::Sent)
}

pub(super) fn sctp_many(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = made(Domain::IPV6, Type::SEQPACKET, libc::IPPROTO_SCTP)?;
    tell(&socket, target.udp6(), b"out")
}

pub(super) fn dccp(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = made(Domain::IPV4, Type::DCCP, libc::IPPROTO_DCCP)?;
    socket.connect(&target.tcp4().into())?;
    Ok(Said::Sent)
}

/// The address of a machine on the link, for packets of `protocol`.
fn link_name(protocol: u16) -> io::Result<Vec<u8>> {
    let family = (libc::AF_PACKET as u16).to_ne_bytes();
    let index = (index()? as i32).to_ne_bytes();
    let head = [&family[..], &protocol.to_be_bytes(), &index].concat();
    Ok([&head[..], &[0, 0, 0, 6], &[0xff; 6], &[0; 2]].concat())
}

/// Past IP altogether.
pub(super) fn frame(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = made(Domain::PACKET, Type::DGRAM, 0)?;
    let packet = header(target, 17, &datagram(target));
    raw::send(&socket, Some(&link_name(0x0800)?), &packet, &[], 0, 1)?;
    Ok(Said::Sent)
}

/// Past the kernel's network altogether.
pub(super) fn express(_: Target, _: Vec<OwnedFd>) -> Outcome {
    made(Domain::from(libc::AF_XDP), Type::RAW, 0)?;
    Ok(Said::Sent)
}

/// A route of the program's own, then a datagram.
pub(super) fn route(target: Target, held: Vec<OwnedFd>) -> Outcome {
    let mut ip = std::process::Command::new("ip");
    ip.args(["route", "replace", &format!("{}/32", target.udp4().ip())]);
    ip.args(["via", "10.90.1.1", "table", "local"]);
    let ended = ip.stderr(std::process::Stdio::null()).status()?;
    if ended.success() {
        return Err(io::Error::other("a user has changed the routes"));
    }
    udp::four(target, held)
}

/// A device of the program's own.
pub(super) fn tunnel_device(_: Target, _: Vec<OwnedFd>) -> Outcome {
    std::fs::File::options().write(true).open("/dev/net/tun")?;
    Ok(Said::Sent)
}
