//! The system calls that no crate of the tree wraps: names and control messages are octets.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, c_void};

/// A control message: level, type, value.
pub(super) type Control<'a> = (c_int, c_int, &'a [u8]);

/// An address as the kernel takes it.
pub(super) fn name_of(address: SocketAddr) -> Vec<u8> {
    let mut name = Vec::new();
    match address {
        SocketAddr::V4(four) => {
            name.extend((libc::AF_INET as u16).to_ne_bytes());
            name.extend(four.port().to_be_bytes());
            name.extend(four.ip().octets());
            name.extend([0; 8]);
        }
        SocketAddr::V6(six) => {
            name.extend((libc::AF_INET6 as u16).to_ne_bytes());
            name.extend(six.port().to_be_bytes());
            name.extend(six.flowinfo().to_be_bytes());
            name.extend(six.ip().octets());
            name.extend(six.scope_id().to_ne_bytes());
        }
    }
    name
}

/// The address of nobody: AF_UNSPEC.
pub(super) const NOBODY: [u8; 16] = [0; 16];

fn checked(result: impl TryInto<i64>) -> io::Result<i64> {
    match result.try_into() {
        Ok(value @ 0..) => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets an option of a socket.
#[expect(unsafe_code, reason = "calls setsockopt with any option")]
pub(super) fn set(
    socket: &impl AsRawFd,
    level: c_int,
    name: c_int,
    value: &[u8],
) -> io::Result<()> {
    let (start, length) = (value.as_ptr().cast::<c_void>(), value.len() as u32);
    // SAFETY: the kernel reads `length` octets from `start`, which is as many as there are.
    checked(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, start, length) })?;
    Ok(())
}

/// Sets an option of a socket to a number.
pub(super) fn set_number(
    socket: &impl AsRawFd,
    level: c_int,
    name: c_int,
    value: c_int,
) -> io::Result<()> {
    set(socket, level, name, &value.to_ne_bytes())
}

/// Connects to what `name` says, which may be [`NOBODY`].
#[expect(unsafe_code, reason = "calls connect with any address")]
pub(super) fn connect(socket: &impl AsRawFd, name: &[u8]) -> io::Result<()> {
    let (start, length) = (name.as_ptr().cast(), name.len() as u32);
    // SAFETY: the kernel reads `length` octets from `start`, which is as many as there are.
    checked(unsafe { libc::connect(socket.as_raw_fd(), start, length) })?;
    Ok(())
}

/// Sends `payload`, `times` over in one call.
#[expect(unsafe_code, reason = "calls sendmsg with any control message")]
pub(super) fn send(
    socket: &impl AsRawFd,
    to: Option<&[u8]>,
    payload: &[u8],
    controls: &[Control<'_>],
    flags: c_int,
    times: usize,
) -> io::Result<()> {
    let control = encode(controls);
    let name = to.unwrap_or_default();
    let mut part = libc::iovec {
        iov_base: payload.as_ptr().cast_mut().cast(),
        iov_len: payload.len(),
    };
    // SAFETY: all octets zero is a valid message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    if !name.is_empty() {
        message.msg_name = name.as_ptr().cast_mut().cast();
        message.msg_namelen = name.len() as u32;
    }
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    if !control.is_empty() {
        message.msg_control = control.as_ptr().cast_mut().cast();
        message.msg_controllen = control.len() * 8;
    }
    let whole = libc::mmsghdr {
        msg_hdr: message,
        msg_len: 0,
    };
    let mut all = vec![whole; times];
    let (start, count) = (all.as_mut_ptr(), times as u32);
    // SAFETY: every message points to what outlives the call; the kernel only reads it.
    checked(unsafe { libc::sendmmsg(socket.as_raw_fd(), start, count, flags) })?;
    Ok(())
}

/// The octets of control messages, aligned as the kernel wants them.
fn encode(controls: &[Control<'_>]) -> Vec<u64> {
    let mut words = Vec::new();
    for (level, kind, value) in controls {
        let head = [
            (16 + value.len() as u64).to_ne_bytes(),
            u64_of(*level, *kind).to_ne_bytes(),
        ];
        words.extend(head.map(u64::from_ne_bytes));
        for piece in value.chunks(8) {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            words.push(u64::from_ne_bytes(word));
        }
    }
    words
}

fn u64_of(first: c_int, second: c_int) -> u64 {
    let mut word = [0; 8];
    word[..4].copy_from_slice(&first.to_ne_bytes());
    word[4..].copy_from_slice(&second.to_ne_bytes());
    u64::from_ne_bytes(word)
}

/// Splits the process; true in the child. Only for processes of one thread.
#[expect(unsafe_code, reason = "calls fork")]
pub(super) fn fork() -> io::Result<bool> {
    // SAFETY: there is one thread, so the child finds no lock taken.
    Ok(checked(unsafe { libc::fork() })? == 0)
}

/// Takes a descriptor that this process has from before its exec.
#[expect(unsafe_code, reason = "the number is all that an exec leaves")]
pub(super) fn inherited(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the launcher has opened it for this process, and nobody else here knows the number.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Takes a descriptor out of another process.
#[expect(unsafe_code, reason = "calls pidfd_open and pidfd_getfd")]
pub(super) fn stolen(process: i32, descriptor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: numbers alone; what comes back is a new descriptor of ours.
    let handle = checked(unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) })?;
    // SAFETY: it is new, nobody else has it.
    let handle = unsafe { OwnedFd::from_raw_fd(handle as RawFd) };
    let number = handle.as_raw_fd();
    // SAFETY: numbers alone; what comes back is a new descriptor of ours.
    let taken = checked(unsafe { libc::syscall(libc::SYS_pidfd_getfd, number, descriptor, 0) })?;
    // SAFETY: it is new, nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(taken as RawFd) })
}
