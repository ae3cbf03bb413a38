//! Datagrams in all their forms.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::OwnedFd;

use offramp_tests::addresses::{CLIENT, CLIENT6, ROUTER, ROUTER6};
use socket2::{Domain, Protocol, Socket, Type};

use super::raw::{self, Control, NOBODY, name_of};
use super::tcp::{index, source_route};
use super::{Outcome, Said, Target, limit, tcp};

pub(super) fn socket(domain: Domain) -> io::Result<Socket> {
    with_protocol(domain, None)
}

fn with_protocol(domain: Domain, protocol: Option<i32>) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM, protocol.map(Protocol::from))?;
    socket.set_read_timeout(Some(limit()))?;
    Ok(socket)
}

/// Whom the target saw, as its echo tells.
pub(super) fn echo(socket: &Socket) -> Outcome {
    let socket = std::net::UdpSocket::from(socket.try_clone()?);
    let mut buffer = vec![0; 65536];
    let count = socket.recv(&mut buffer)?;
    tcp::seen(&String::from_utf8_lossy(&buffer[..count]))
}

fn ask(socket: &Socket, to: SocketAddr, controls: &[Control<'_>]) -> Outcome {
    raw::send(socket, Some(&name_of(to)), b"out", controls, 0, 1)?;
    echo(socket)
}

/// Sends where nobody answers.
fn tell(socket: &Socket, to: SocketAddr, controls: &[Control<'_>]) -> Outcome {
    raw::send(socket, Some(&name_of(to)), b"out", controls, 0, 1)?;
    Ok(Said::Sent)
}

pub(super) fn four(target: Target, _: Vec<OwnedFd>) -> Outcome {
    ask(&socket(Domain::IPV4)?, target.udp4(), &[])
}

pub(super) fn six(target: Target, _: Vec<OwnedFd>) -> Outcome {
    ask(&socket(Domain::IPV6)?, target.udp6(), &[])
}

pub(super) fn mapped(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(Domain::IPV6)?;
    socket.set_only_v6(false)?;
    let SocketAddr::V4(four) = target.udp4() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    ask(
        &socket,
        (four.ip().to_ipv6_mapped(), four.port()).into(),
        &[],
    )
}

pub(super) fn connected4(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(Domain::IPV4)?;
    socket.connect(&target.udp4().into())?;
    socket.send(b"out")?;
    echo(&socket)
}

pub(super) fn connected6(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(Domain::IPV6)?;
    socket.connect(&target.udp6().into())?;
    socket.send(b"out")?;
    echo(&socket)
}

/// Connected to an excluded target, and sent elsewhere; connected, let go, and sent.
pub(super) fn elsewhere(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let excluded = SocketAddr::from((Ipv4Addr::new(203, 0, 113, 12), 7));
    let first = socket(Domain::IPV4)?;
    first.connect(&excluded.into())?;
    tell(&first, target.udp4(), &[])?;
    let second = socket(Domain::IPV4)?;
    second.connect(&target.udp4().into())?;
    raw::connect(&second, &NOBODY)?;
    ask(&second, target.udp4(), &[])
}

pub(super) fn many(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(Domain::IPV4)?;
    raw::send(&socket, Some(&name_of(target.udp4())), b"out", &[], 0, 4)?;
    echo(&socket)
}

/// One call, several datagrams.
pub(super) fn segmented(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(Domain::IPV4)?;
    let size = 500_u16.to_ne_bytes();
    let controls = [(libc::SOL_UDP, libc::UDP_SEGMENT, &size[..])];
    raw::send(
        &socket,
        Some(&name_of(target.udp4())),
        &[b'x'; 1400],
        &controls,
        0,
        1,
    )?;
    echo(&socket)
}

pub(super) fn large(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(Domain::IPV6)?;
    raw::send(
        &socket,
        Some(&name_of(target.udp6())),
        &[b'x'; 4000],
        &[],
        0,
        1,
    )?;
    echo(&socket)
}

/// A datagram that is put together from several calls.
pub(super) fn corked(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(Domain::IPV4)?;
    let excluded = SocketAddr::from((Ipv4Addr::new(203, 0, 113, 12), 7));
    raw::send(
        &socket,
        Some(&name_of(target.udp4())),
        b"out",
        &[],
        libc::MSG_MORE,
        1,
    )?;
    raw::send(&socket, Some(&name_of(excluded)), b"out", &[], 0, 1)?;
    echo(&socket)
}

pub(super) fn bound4(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(Domain::IPV4)?;
    socket.bind(&SocketAddr::from((CLIENT, 0)).into())?;
    ask(&socket, target.udp4(), &[])
}

pub(super) fn bound6(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(Domain::IPV6)?;
    socket.bind(&SocketAddr::from((CLIENT6, 0)).into())?;
    ask(&socket, target.udp6(), &[])
}

/// From an address that is not this machine's.
pub(super) fn foreign(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(Domain::IPV4)?;
    raw::set_number(&socket, libc::SOL_IP, libc::IP_FREEBIND, 1)?;
    let source = Ipv4Addr::new(10, 90, 1, 77);
    socket.bind(&SocketAddr::from((source, target.port())).into())?;
    tell(&socket, target.udp4(), &[])
}

pub(super) fn device(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(Domain::IPV4)?;
    socket.bind_device(Some(b"eth0"))?;
    ask(&socket, target.udp4(), &[])
}

pub(super) fn device_index(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(Domain::IPV6)?;
    raw::set_number(
        &socket,
        libc::SOL_SOCKET,
        libc::SO_BINDTOIFINDEX,
        index()? as i32,
    )?;
    socket.connect(&target.udp6().into())?;
    socket.send(b"out")?;
    echo(&socket)
}

pub(super) fn mark(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(Domain::IPV4)?;
    socket.set_mark(77)?;
    let mark = 77_u32.to_ne_bytes();
    // By the message too, where the kernel knows that.
    ask(
        &socket,
        target.udp4(),
        &[(libc::SOL_SOCKET, libc::SO_MARK, &mark)],
    )
}

pub(super) fn unicast_device4(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(Domain::IPV4)?;
    raw::set(
        &socket,
        libc::SOL_IP,
        libc::IP_UNICAST_IF,
        &index()?.to_be_bytes(),
    )?;
    ask(&socket, target.udp4(), &[])
}

pub(super) fn unicast_device6(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(Domain::IPV6)?;
    raw::set(
        &socket,
        libc::SOL_IPV6,
        libc::IPV6_UNICAST_IF,
        &index()?.to_be_bytes(),
    )?;
    ask(&socket, target.udp6(), &[])
}

pub(super) fn not_routed(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(Domain::IPV4)?;
    let to = name_of(target.udp4());
    raw::send(&socket, Some(&to), b"out", &[], libc::MSG_DONTROUTE, 1)?;
    Ok(Said::Sent)
}

fn info4(device: u32, source: Ipv4Addr) -> Vec<u8> {
    [device.to_ne_bytes(), source.octets(), [0; 4]].concat()
}

fn info6(device: u32, source: Ipv6Addr) -> Vec<u8> {
    [&source.octets()[..], &device.to_ne_bytes()].concat()
}

fn with_info4(target: Target, info: &[u8]) -> Outcome {
    let socket = socket(Domain::IPV4)?;
    ask(
        &socket,
        target.udp4(),
        &[(libc::SOL_IP, libc::IP_PKTINFO, info)],
    )
}

fn with_info6(target: Target, info: &[u8]) -> Outcome {
    let socket = socket(Domain::IPV6)?;
    ask(
        &socket,
        target.udp6(),
        &[(libc::SOL_IPV6, libc::IPV6_PKTINFO, info)],
    )
}

pub(super) fn info_device4(target: Target, _: Vec<OwnedFd>) -> Outcome {
    with_info4(target, &info4(index()?, Ipv4Addr::UNSPECIFIED))
}

pub(super) fn info_device6(target: Target, _: Vec<OwnedFd>) -> Outcome {
    with_info6(target, &info6(index()?, Ipv6Addr::UNSPECIFIED))
}

pub(super) fn info_source4(target: Target, _: Vec<OwnedFd>) -> Outcome {
    with_info4(target, &info4(0, CLIENT))
}

pub(super) fn info_source6(target: Target, _: Vec<OwnedFd>) -> Outcome {
    with_info6(target, &info6(0, CLIENT6))
}

/// On the socket itself, for all that it sends.
pub(super) fn sticky_info6(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(Domain::IPV6)?;
    let info = info6(index()?, CLIENT6);
    raw::set(&socket, libc::SOL_IPV6, libc::IPV6_PKTINFO, &info)?;
    ask(&socket, target.udp6(), &[])
}

pub(super) fn multicast4(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let group = Ipv4Addr::new(239, 1, 2, 3);
    tell(&socket(Domain::IPV4)?, (group, target.port()).into(), &[])
}

pub(super) fn multicast4_by_device(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(Domain::IPV4)?;
    socket.set_multicast_if_v4(&CLIENT)?;
    socket.join_multicast_v4(&Ipv4Addr::new(224, 0, 0, 251), &CLIENT)?;
    let group = Ipv4Addr::new(224, 0, 0, 251);
    tell(&socket, (group, target.port()).into(), &[])
}

fn scoped(address: Ipv6Addr, port: u16) -> io::Result<SocketAddr> {
    Ok(SocketAddrV6::new(address, port, 0, index()?).into())
}

pub(super) fn multicast6(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(Domain::IPV6)?;
    socket.set_multicast_if_v6(index()?)?;
    let group = Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 0, 0x1234);
    tell(&socket, (group, target.port()).into(), &[])
}

pub(super) fn multicast6_by_scope(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
    tell(&socket(Domain::IPV6)?, scoped(group, target.port())?, &[])
}

pub(super) fn broadcast(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(Domain::IPV4)?;
    socket.set_broadcast(true)?;
    tell(&socket, (Ipv4Addr::BROADCAST, target.port()).into(), &[])
}

pub(super) fn directed_broadcast(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(Domain::IPV4)?;
    socket.set_broadcast(true)?;
    let to = Ipv4Addr::new(10, 90, 1, 255);
    tell(&socket, (to, target.port()).into(), &[])
}

pub(super) fn neighbour(target: Target, _: Vec<OwnedFd>) -> Outcome {
    tell(&socket(Domain::IPV4)?, (ROUTER, target.port()).into(), &[])
}

/// To a link-local address, as neighbours have it.
pub(super) fn link_local(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let router = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    tell(&socket(Domain::IPV6)?, scoped(router, target.port())?, &[])
}

/// Over other machines; by the socket.
fn routed4(target: Target, hop: Ipv4Addr) -> Outcome {
    let socket = socket(Domain::IPV4)?;
    let to = SocketAddr::new(target.udp4().ip(), target.port());
    raw::set(
        &socket,
        libc::SOL_IP,
        libc::IP_OPTIONS,
        &source_route(&[hop], to),
    )?;
    tell(&socket, to, &[])
}

pub(super) fn source_routed(target: Target, _: Vec<OwnedFd>) -> Outcome {
    routed4(target, ROUTER)
}

pub(super) fn source_routed_over_excluded(target: Target, _: Vec<OwnedFd>) -> Outcome {
    routed4(target, Ipv4Addr::new(198, 51, 100, 10))
}

/// By the message.
pub(super) fn source_routed_once(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let to = SocketAddr::new(target.udp4().ip(), target.port());
    let option = source_route(&[Ipv4Addr::new(198, 51, 100, 10)], to);
    let controls = [(libc::SOL_IP, libc::IP_RETOPTS, &option[..])];
    tell(&socket(Domain::IPV4)?, to, &controls)
}

/// An IPv6 routing header (for mobile nodes, the sort that a program may send) over `hop`.
fn routing_header(hop: Ipv6Addr) -> Vec<u8> {
    [&[0, 2, 2, 1, 0, 0, 0, 0][..], &hop.octets()].concat()
}

/// The header of a segment route over `hop`.
fn segment_header(hop: Ipv6Addr) -> Vec<u8> {
    let head = [0, 4, 4, 1, 1, 0, 0, 0];
    [&head[..], &[0; 16], &hop.octets()].concat()
}

pub(super) fn routing_header6(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(Domain::IPV6)?;
    let to = SocketAddr::new(target.udp6().ip(), target.port());
    raw::set(
        &socket,
        libc::SOL_IPV6,
        libc::IPV6_RTHDR,
        &routing_header(ROUTER6),
    )?;
    tell(&socket, to, &[])
}

pub(super) fn segments6(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(Domain::IPV6)?;
    let to = SocketAddr::new(target.udp6().ip(), target.port());
    raw::set(
        &socket,
        libc::SOL_IPV6,
        libc::IPV6_RTHDR,
        &segment_header(ROUTER6),
    )?;
    tell(&socket, to, &[])
}

pub(super) fn routing_header6_once(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let to = SocketAddr::new(target.udp6().ip(), target.port());
    let header = routing_header(ROUTER6);
    let controls = [(libc::SOL_IPV6, libc::IPV6_RTHDR, &header[..])];
    tell(&socket(Domain::IPV6)?, to, &controls)
}

const PADDING: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];

pub(super) fn hop_by_hop6(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(Domain::IPV6)?;
    let to = SocketAddr::new(target.udp6().ip(), target.port());
    raw::set(&socket, libc::SOL_IPV6, libc::IPV6_HOPOPTS, &PADDING)?;
    tell(&socket, to, &[])
}

pub(super) fn destination_options6(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let to = SocketAddr::new(target.udp6().ip(), target.port());
    let controls = [(libc::SOL_IPV6, libc::IPV6_DSTOPTS, &PADDING[..])];
    tell(&socket(Domain::IPV6)?, to, &controls)
}

pub(super) fn lite4(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = with_protocol(Domain::IPV4, Some(libc::IPPROTO_UDPLITE))?;
    tell(&socket, target.udp4(), &[])
}

pub(super) fn lite6(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = with_protocol(Domain::IPV6, Some(libc::IPPROTO_UDPLITE))?;
    tell(&socket, target.udp6(), &[])
}

/// Closed before the answer comes, which the kernel then has to answer.
pub(super) fn unreachable(target: Target, _: Vec<OwnedFd>) -> Outcome {
    for (domain, to, from) in [
        (Domain::IPV4, target.udp4(), SocketAddr::from((CLIENT, 0))),
        (Domain::IPV6, target.udp6(), SocketAddr::from((CLIENT6, 0))),
    ] {
        let socket = socket(domain)?;
        socket.bind(&from.into())?;
        for _ in 0..4 {
            tell(&socket, to, &[])?;
        }
    }
    // One that waits for its answer, so that the others have had time to come.
    let socket = socket(Domain::IPV4)?;
    ask(&socket, target.udp4(), &[])
}
