//! Sockets that the kernel uses for the program: `io_uring`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, opcode, types};
use socket2::{Domain, Socket};

use super::raw::name_of;
use super::{Outcome, Target, tcp, udp};

/// A ring that lives in this process, with the flags that its entries have.
struct Ring {
    ring: IoUring,
    flags: Flags,
}

impl Ring {
    fn new(flags: Flags) -> io::Result<Self> {
        let ring = IoUring::new(4)?;
        Ok(Self { ring, flags })
    }

    /// With a thread of the kernel that looks for entries by itself.
    fn polled(flags: Flags) -> io::Result<Self> {
        let ring = IoUring::builder().setup_sqpoll(50).build(4)?;
        Ok(Self { ring, flags })
    }

    /// Lets the kernel do one thing, and waits for it.
    #[expect(unsafe_code, reason = "the kernel is given pointers")]
    fn run(&mut self, entry: Entry) -> io::Result<i32> {
        let entry = entry.flags(self.flags);
        // SAFETY: what the entry points to lives in the caller, who waits for its end here.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)?;
        self.ring.submit_and_wait(1)?;
        let done = self.ring.completion().next();
        let result = done.map_or(-libc::EIO, |done| done.result());
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result));
        }
        Ok(result)
    }

    fn connect(&mut self, socket: &Socket, target: SocketAddr) -> Outcome {
        let name = name_of(target);
        let number = types::Fd(socket.as_raw_fd());
        let connect = opcode::Connect::new(number, name.as_ptr().cast(), name.len() as u32);
        self.run(connect.build())?;
        tcp::banner(socket.try_clone()?)
    }

    fn send_to(&mut self, socket: &Socket, target: SocketAddr) -> Outcome {
        let name = name_of(target);
        let number = types::Fd(socket.as_raw_fd());
        let send = opcode::Send::new(number, b"out".as_ptr(), 3);
        let send = send
            .dest_addr(name.as_ptr().cast())
            .dest_addr_len(name.len() as u32);
        self.run(send.build())?;
        udp::echo(socket)
    }
}

pub(super) fn connect(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = tcp::socket(target.tcp4())?;
    Ring::new(Flags::empty())?.connect(&socket, target.tcp4())
}

pub(super) fn connect_async(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = tcp::socket(target.tcp6())?;
    Ring::new(Flags::ASYNC)?.connect(&socket, target.tcp6())
}

pub(super) fn connect_polled(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = tcp::socket(target.tcp4())?;
    Ring::polled(Flags::empty())?.connect(&socket, target.tcp4())
}

pub(super) fn connect_polled_async(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = tcp::socket(target.tcp6())?;
    Ring::polled(Flags::ASYNC)?.connect(&socket, target.tcp6())
}

pub(super) fn send(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = udp::socket(Domain::IPV4)?;
    Ring::new(Flags::empty())?.send_to(&socket, target.udp4())
}

pub(super) fn send_async(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = udp::socket(Domain::IPV6)?;
    Ring::new(Flags::ASYNC)?.send_to(&socket, target.udp6())
}

pub(super) fn send_polled(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = udp::socket(Domain::IPV4)?;
    Ring::polled(Flags::empty())?.send_to(&socket, target.udp4())
}

/// A socket that only the ring has, made by it.
pub(super) fn made_inside(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let mut ring = Ring::new(Flags::empty())?;
    ring.ring.submitter().register_files_sparse(1)?;
    let socket = opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0);
    let slot = types::DestinationSlot::try_from_slot_target(0)
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    ring.run(socket.file_index(Some(slot)).build())?;
    let name = name_of(target.tcp4());
    let connect = opcode::Connect::new(types::Fixed(0), name.as_ptr().cast(), name.len() as u32);
    ring.run(connect.build())?;
    let mut said = [0; 100];
    let receive = opcode::Recv::new(types::Fixed(0), said.as_mut_ptr(), said.len() as u32);
    let count = ring.run(receive.build())?;
    tcp::seen(&String::from_utf8_lossy(&said[..count as usize]))
}
