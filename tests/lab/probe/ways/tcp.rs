//! TCP in all its forms.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use offramp_tests::addresses::{CLIENT, CLIENT6, ROUTER};
use socket2::{Domain, Protocol, Socket, Type};

use super::raw::{self, NOBODY, name_of};
use super::{Outcome, Said, Target, limit};

const DEVICE: &str = "eth0";

pub(super) fn socket(target: SocketAddr) -> io::Result<Socket> {
    with_protocol(Domain::for_address(target), None)
}

fn with_protocol(domain: Domain, protocol: Option<i32>) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM, protocol.map(Protocol::from))?;
    socket.set_read_timeout(Some(limit()))?;
    socket.set_write_timeout(Some(limit()))?;
    Ok(socket)
}

/// Whom the target saw, as its banner tells.
pub(super) fn banner(socket: Socket) -> Outcome {
    let mut flow = TcpStream::from(socket);
    let (mut line, mut byte) = (Vec::new(), [0]);
    while byte != *b"\n" {
        flow.read_exact(&mut byte)?;
        line.extend(byte);
    }
    seen(&String::from_utf8_lossy(&line))
}

/// The address at the beginning of what a server says.
pub(super) fn seen(text: &str) -> Outcome {
    let first = text.split_whitespace().next().unwrap_or_default();
    let address: SocketAddr = first.parse().map_err(io::Error::other)?;
    Ok(Said::Seen(address.ip().to_canonical()))
}

pub(super) fn open(socket: Socket, target: SocketAddr) -> Outcome {
    socket.connect(&target.into())?;
    banner(socket)
}

pub(super) fn four(target: Target, _: Vec<OwnedFd>) -> Outcome {
    open(socket(target.tcp4())?, target.tcp4())
}

pub(super) fn six(target: Target, _: Vec<OwnedFd>) -> Outcome {
    open(socket(target.tcp6())?, target.tcp6())
}

fn mapped_of(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(four) => (four.to_ipv6_mapped(), address.port()).into(),
        IpAddr::V6(_) => address,
    }
}

pub(super) fn mapped(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = with_protocol(Domain::IPV6, None)?;
    socket.set_only_v6(false)?;
    open(socket, mapped_of(target.tcp4()))
}

/// An IPv6 socket that becomes one of IPv4 when it is connected.
pub(super) fn turned(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = with_protocol(Domain::IPV6, None)?;
    socket.set_only_v6(false)?;
    socket.connect(&mapped_of(target.tcp4()).into())?;
    raw::set_number(&socket, libc::SOL_IPV6, libc::IPV6_ADDRFORM, libc::AF_INET)?;
    banner(socket)
}

pub(super) fn bound4(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(target.tcp4())?;
    socket.bind(&SocketAddr::from((CLIENT, 0)).into())?;
    open(socket, target.tcp4())
}

pub(super) fn bound6(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(target.tcp6())?;
    socket.bind(&SocketAddr::from((CLIENT6, 0)).into())?;
    open(socket, target.tcp6())
}

pub(super) fn device(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(target.tcp4())?;
    socket.bind_device(Some(DEVICE.as_bytes()))?;
    open(socket, target.tcp4())
}

/// The number of the device that leads out.
pub(super) fn index() -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(DEVICE)?)
}

pub(super) fn device_index(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(target.tcp6())?;
    raw::set_number(
        &socket,
        libc::SOL_SOCKET,
        libc::SO_BINDTOIFINDEX,
        index()? as i32,
    )?;
    open(socket, target.tcp6())
}

pub(super) fn mark(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(target.tcp4())?;
    socket.set_mark(77)?;
    open(socket, target.tcp4())
}

pub(super) fn unicast_device(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(target.tcp4())?;
    let index = index()?.to_be_bytes();
    raw::set(&socket, libc::SOL_IP, libc::IP_UNICAST_IF, &index)?;
    open(socket, target.tcp4())
}

pub(super) fn not_routed(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(target.tcp4())?;
    raw::set_number(&socket, libc::SOL_SOCKET, libc::SO_DONTROUTE, 1)?;
    open(socket, target.tcp4())
}

pub(super) fn multipath4(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = with_protocol(Domain::IPV4, Some(libc::IPPROTO_MPTCP))?;
    open(socket, target.tcp4())
}

pub(super) fn multipath6(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = with_protocol(Domain::IPV6, Some(libc::IPPROTO_MPTCP))?;
    open(socket, target.tcp6())
}

fn fast(socket: Socket, target: SocketAddr, flags: i32) -> Outcome {
    let flags = libc::MSG_FASTOPEN | flags;
    raw::send(&socket, Some(&name_of(target)), b"early", &[], flags, 1)?;
    banner(socket)
}

pub(super) fn fast_blocking(target: Target, _: Vec<OwnedFd>) -> Outcome {
    fast(socket(target.tcp4())?, target.tcp4(), 0)
}

pub(super) fn fast_at_once(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(target.tcp6())?;
    let sent = fast(socket.try_clone()?, target.tcp6(), libc::MSG_DONTWAIT);
    match sent {
        // The connection is being made, without data as there is no cookie yet.
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => banner(socket),
        other => other,
    }
}

pub(super) fn fast_connect(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(target.tcp4())?;
    raw::set_number(&socket, libc::SOL_TCP, libc::TCP_FASTOPEN_CONNECT, 1)?;
    socket.connect(&target.tcp4().into())?;
    (&socket).write_all(b"early")?;
    banner(socket)
}

/// Connected, let go, and connected elsewhere.
pub(super) fn again(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(target.tcp4())?;
    socket.connect(&target.tcp4().into())?;
    raw::connect(&socket, &NOBODY)?;
    let other = SocketAddr::new(target.tcp4().ip(), offramp_tests::port::ECHO);
    socket.connect(&other.into())?;
    raw::connect(&socket, &NOBODY)?;
    open(socket, target.tcp4())
}

/// A connection that nobody has agreed to.
pub(super) fn repaired(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(target.tcp4())?;
    raw::set_number(&socket, libc::SOL_TCP, libc::TCP_REPAIR, 1)?;
    socket.bind(&SocketAddr::from((CLIENT, target.port())).into())?;
    socket.connect(&target.tcp4().into())?;
    raw::set_number(&socket, libc::SOL_TCP, libc::TCP_REPAIR, 0)?;
    (&socket).write_all(b"out")?;
    banner(socket)
}

/// The option that leads packets over `hops` to where they are sent.
pub(super) fn source_route(hops: &[Ipv4Addr], target: SocketAddr) -> Vec<u8> {
    let mut option = vec![1, 131, 7 + 4 * hops.len() as u8, 4];
    for hop in hops {
        option.extend(hop.octets());
    }
    if let IpAddr::V4(last) = target.ip() {
        option.extend(last.octets());
    }
    option
}

/// Begins a connection over other machines and waits for nothing.
fn routed(target: Target, hop: Ipv4Addr) -> Outcome {
    let socket = socket(target.tcp4())?;
    let to = SocketAddr::new(target.tcp4().ip(), target.port());
    raw::set(
        &socket,
        libc::SOL_IP,
        libc::IP_OPTIONS,
        &source_route(&[hop], to),
    )?;
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(Said::Sent),
    }
}

pub(super) fn source_routed(target: Target, _: Vec<OwnedFd>) -> Outcome {
    routed(target, ROUTER)
}

/// The first machine on the way is one that the profile excludes.
pub(super) fn source_routed_over_excluded(target: Target, _: Vec<OwnedFd>) -> Outcome {
    routed(target, Ipv4Addr::new(198, 51, 100, 10))
}

/// Closed by the program while the target still speaks; what comes then, the kernel answers.
pub(super) fn reset(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(target.tcp4())?;
    socket.bind(&SocketAddr::from((CLIENT, 0)).into())?;
    socket.connect(&target.tcp4().into())?;
    let said = banner(socket.try_clone()?)?;
    (&socket).write_all(&[b'x'; 60_000])?;
    socket.set_linger(Some(std::time::Duration::ZERO))?;
    drop(socket);
    Ok(said)
}

/// Closed in order: the last packets are the kernel's.
pub(super) fn ended(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = socket(target.tcp6())?;
    socket.bind(&SocketAddr::from((CLIENT6, 0)).into())?;
    socket.connect(&target.tcp6().into())?;
    let said = banner(socket.try_clone()?)?;
    socket.shutdown(std::net::Shutdown::Both)?;
    drop(socket);
    Ok(said)
}
