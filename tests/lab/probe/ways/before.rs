//! Sockets that were made before their program was managed, or by another that is not.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use io_uring::{IoUring, opcode, types};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use offramp_tests::addresses::CLIENT;
use socket2::{Domain, Protocol, Socket, Type};

use super::raw;
use super::{Made, Outcome, Said, Target, limit, tcp, udp};

fn one(socket: Socket) -> Made {
    Ok(vec![socket.into()])
}

fn only(held: Vec<OwnedFd>) -> io::Result<OwnedFd> {
    let mut held = held.into_iter();
    held.next().ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// With the time limit of now, not that of before.
fn socket(held: OwnedFd) -> io::Result<Socket> {
    let socket = Socket::from(held);
    socket.set_read_timeout(Some(limit()))?;
    socket.set_write_timeout(Some(limit()))?;
    Ok(socket)
}

pub(super) fn make_tcp(target: Target) -> Made {
    one(tcp::socket(target.tcp4())?)
}

pub(super) fn connect_it(target: Target, held: Vec<OwnedFd>) -> Outcome {
    tcp::open(socket(only(held)?)?, target.tcp4())
}

pub(super) fn make_udp(_: Target) -> Made {
    one(udp::socket(Domain::IPV4)?)
}

/// The first datagram of such a socket is refused; see the README.
pub(super) fn send_it(target: Target, held: Vec<OwnedFd>) -> Outcome {
    let socket = socket(only(held)?)?;
    if let Err(error) = socket.send_to(b"out", &target.udp4().into())
        && error.raw_os_error() != Some(libc::EPERM)
    {
        return Err(error);
    }
    socket.send_to(b"out", &target.udp4().into())?;
    udp::echo(&socket)
}

fn connected(target: SocketAddr, protocol: Option<i32>) -> io::Result<Socket> {
    let domain = Domain::for_address(target);
    let made = Socket::new(domain, Type::STREAM, protocol.map(Protocol::from))?;
    let mut socket = socket(made.into())?;
    socket.connect(&target.into())?;
    let mut byte = [0];
    while byte != *b"\n" {
        socket.read_exact(&mut byte)?;
    }
    Ok(socket)
}

pub(super) fn connect_tcp(target: Target) -> Made {
    one(connected(target.tcp4(), None)?)
}

pub(super) fn connect_tcp6(target: Target) -> Made {
    one(connected(target.tcp6(), None)?)
}

pub(super) fn connect_multipath(target: Target) -> Made {
    one(connected(target.tcp4(), Some(libc::IPPROTO_MPTCP))?)
}

/// Asks the server at the other end for what it is sent.
pub(super) fn use_tcp(_: Target, held: Vec<OwnedFd>) -> Outcome {
    let mut socket = socket(only(held)?)?;
    socket.write_all(b"out")?;
    let mut said = [0; 3];
    socket.read_exact(&mut said)?;
    Ok(Said::Seen(IpAddr::from(CLIENT)))
}

fn connected_datagrams(target: SocketAddr) -> io::Result<Socket> {
    let socket = udp::socket(Domain::for_address(target))?;
    socket.connect(&target.into())?;
    Ok(socket)
}

pub(super) fn connect_udp(target: Target) -> Made {
    one(connected_datagrams(target.udp4())?)
}

pub(super) fn connect_udp6(target: Target) -> Made {
    one(connected_datagrams(target.udp6())?)
}

pub(super) fn use_udp(_: Target, held: Vec<OwnedFd>) -> Outcome {
    let socket = socket(only(held)?)?;
    socket.send(b"out")?;
    udp::echo(&socket)
}

/// A socket of a sort that managed programs do not get, used as it was made.
pub(super) fn make_raw(target: Target) -> Made {
    let made = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
    made.connect(&SocketAddr::new(target.tcp4().ip(), 0).into())?;
    one(made)
}

pub(super) fn make_ping(target: Target) -> Made {
    let made = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::ICMPV6))?;
    made.connect(&SocketAddr::new(target.tcp6().ip(), 0).into())?;
    one(made)
}

pub(super) fn use_raw(_: Target, held: Vec<OwnedFd>) -> Outcome {
    socket(only(held)?)?.send(&[8, 0, 247, 255, 0, 0, 0, 0])?;
    Ok(Said::Sent)
}

pub(super) fn use_ping(_: Target, held: Vec<OwnedFd>) -> Outcome {
    socket(only(held)?)?.send(&[128, 0, 0, 0, 0, 0, 0, 0])?;
    Ok(Said::Sent)
}

/// A socket on its way through another one, where nobody has it.
fn in_flight(socket: Socket) -> Made {
    let (near, far) = UnixStream::pair()?;
    let rights = [socket.as_raw_fd()];
    let message = [ControlMessage::ScmRights(&rights)];
    let part = [IoSlice::new(b"s")];
    sendmsg::<()>(near.as_raw_fd(), &part, &message, MsgFlags::empty(), None)?;
    Ok(vec![far.into(), near.into()])
}

fn arrived(held: &[OwnedFd]) -> io::Result<Vec<OwnedFd>> {
    let door = held.first().ok_or(io::ErrorKind::NotFound)?;
    let mut octet = [0];
    let mut part = [IoSliceMut::new(&mut octet)];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let flags = MsgFlags::empty();
    let message = recvmsg::<()>(door.as_raw_fd(), &mut part, Some(&mut space), flags)?;
    let mut found = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            found.extend(numbers.into_iter().map(raw::inherited));
        }
    }
    Ok(found)
}

pub(super) fn pass_udp(_: Target) -> Made {
    in_flight(udp::socket(Domain::IPV4)?)
}

pub(super) fn pass_connected_udp(target: Target) -> Made {
    in_flight(connected_datagrams(target.udp4())?)
}

pub(super) fn pass_connected_tcp(target: Target) -> Made {
    in_flight(connected(target.tcp4(), None)?)
}

pub(super) fn receive_and_send(target: Target, held: Vec<OwnedFd>) -> Outcome {
    send_it(target, arrived(&held)?)
}

pub(super) fn receive_and_use_udp(target: Target, held: Vec<OwnedFd>) -> Outcome {
    use_udp(target, arrived(&held)?)
}

pub(super) fn receive_and_use_tcp(target: Target, held: Vec<OwnedFd>) -> Outcome {
    use_tcp(target, arrived(&held)?)
}

/// Gives a socket to an unmanaged process, too, which has it until we end: it reads from the pipe
/// that comes second.
fn shared(socket: Socket) -> Made {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("way-hold").stdout(Stdio::null());
    let copy = OwnedFd::from(socket.try_clone()?);
    super::keep_over_exec(&copy)?;
    let mut child = command.stdin(Stdio::piped()).spawn()?;
    let input = child.stdin.take().ok_or(io::ErrorKind::NotFound)?;
    drop(copy);
    Ok(vec![socket.into(), input.into()])
}

pub(super) fn share_connected_udp(target: Target) -> Made {
    shared(connected_datagrams(target.udp4())?)
}

/// A socket that only another process has, which tells its number.
pub(super) fn steal_udp(target: Target) -> Made {
    let (mut near, far) = UnixStream::pair()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["way-open", &target.udp4().to_string()]);
    command.stdin(OwnedFd::from(far)).stdout(Stdio::null());
    command.spawn()?;
    // It says its numbers, which are for us to keep until we are another program.
    near.write_all(b"?")?;
    let mut said = [0; 8];
    near.read_exact(&mut said)?;
    near.write_all(&said)?;
    Ok(vec![near.into()])
}

pub(super) fn steal_and_use(target: Target, held: Vec<OwnedFd>) -> Outcome {
    let door = UnixStream::from(only(held)?);
    (&door).write_all(b"?")?;
    let mut said = [0; 8];
    (&door).read_exact(&mut said)?;
    let number = |part: &[u8]| part.try_into().map(i32::from_ne_bytes);
    let (Ok(process), Ok(descriptor)) = (number(&said[..4]), number(&said[4..])) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    use_udp(target, vec![raw::stolen(process, descriptor)?])
}

/// Opens a connected socket and tells its number to whoever asks.
pub(crate) fn open_and_tell(target: SocketAddr) -> anyhow::Result<()> {
    let socket = connected_datagrams(target)?;
    let mut door = UnixStream::from(raw::inherited(0));
    let said = [std::process::id() as i32, socket.as_raw_fd()].map(i32::to_ne_bytes);
    let mut octet = [0];
    while door.read(&mut octet)? > 0 {
        if octet == *b"?" {
            door.write_all(&said.concat())?;
        }
    }
    Ok(())
}

/// A socket from before that only a ring has: no descriptor tells of it.
pub(super) fn use_by_ring(_: Target, held: Vec<OwnedFd>) -> Outcome {
    let socket = only(held)?;
    let mut ring = IoUring::new(4)?;
    ring.submitter().register_files(&[socket.as_raw_fd()])?;
    drop(socket);
    let send = opcode::Send::new(types::Fixed(0), b"out".as_ptr(), 3).build();
    ring_result(&mut ring, &send)?;
    let mut said = [0; 100];
    let receive = opcode::Recv::new(types::Fixed(0), said.as_mut_ptr(), said.len() as u32);
    let count = ring_result(&mut ring, &receive.build())?;
    tcp::seen(&String::from_utf8_lossy(&said[..count]))
}

#[expect(unsafe_code, reason = "the kernel is given pointers")]
fn ring_result(ring: &mut IoUring, entry: &io_uring::squeue::Entry) -> io::Result<usize> {
    // SAFETY: what the entry points to lives in the caller, who waits for its end here.
    unsafe { ring.submission().push(entry) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let done = ring.completion().next();
    let result = done.map_or(-libc::EIO, |done| done.result());
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}
