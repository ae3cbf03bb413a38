//! Lookups, by every door that is a socket.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use offramp_tests::addresses::DNS;
use socket2::{Domain, Socket};

use super::{Outcome, Said, Target, tcp, udp};

const STUB: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);

/// Asks for the address of `v4.test`.
fn question() -> Vec<u8> {
    let head = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    [&head[..], b"\x02v4\x04test\x00", &[0, 1, 0, 1]].concat()
}

/// The address that is the last thing in an answer with one address.
fn answer(octets: &[u8]) -> Outcome {
    let last: Option<[u8; 4]> = octets.last_chunk().copied();
    let found = octets.get(6..8) == Some(&[0, 1]);
    match last {
        Some(address) if found => Ok(Said::Seen(IpAddr::from(address))),
        _ => Err(io::Error::other(format!("no address in {octets:?}"))),
    }
}

fn ask(resolver: SocketAddr, is_connected: bool) -> Outcome {
    let socket = udp::socket(Domain::IPV4)?;
    if is_connected {
        socket.connect(&resolver.into())?;
        socket.send(&question())?;
    } else {
        socket.send_to(&question(), &resolver.into())?;
    }
    let mut buffer = [0; 512];
    let count = (&socket).read(&mut buffer)?;
    answer(&buffer[..count])
}

fn ask_stream(resolver: SocketAddr) -> Outcome {
    let socket: Socket = tcp::socket(resolver)?;
    socket.connect(&resolver.into())?;
    let question = question();
    let length = (question.len() as u16).to_be_bytes();
    (&socket).write_all(&[&length[..], &question].concat())?;
    let mut length = [0; 2];
    (&socket).read_exact(&mut length)?;
    let mut said = vec![0; u16::from_be_bytes(length).into()];
    (&socket).read_exact(&mut said)?;
    answer(&said)
}

pub(super) fn datagram(_: Target, _: Vec<OwnedFd>) -> Outcome {
    ask((DNS, 53).into(), false)
}

pub(super) fn connected(_: Target, _: Vec<OwnedFd>) -> Outcome {
    ask((DNS, 53).into(), true)
}

pub(super) fn stream(_: Target, _: Vec<OwnedFd>) -> Outcome {
    ask_stream((DNS, 53).into())
}

pub(super) fn stub(_: Target, _: Vec<OwnedFd>) -> Outcome {
    ask((STUB, 53).into(), true)
}

pub(super) fn stub_stream(_: Target, _: Vec<OwnedFd>) -> Outcome {
    ask_stream((STUB, 53).into())
}
