//! The name in an app's own first bytes, where the app has connected to an address that it was not
//! given for a name, and a rule needs one (`offramp_rules::needs_name`). Where none does, nothing is
//! read and nobody waits.
//!
//! Three protocols tell one: TLS (the server name of a ClientHello), QUIC (the same, in its Initial
//! packets) and HTTP/1 (the target, or `Host`). HTTP/2 without TLS is not read, since whoever speaks
//! it has been told to. The bytes stay where they are: TCP is peeked at, datagrams are kept.
//!
//! A server that speaks first is not delayed for longer than [`SILENCE`]; an app that has begun to
//! speak gets [`PATIENCE`] for the rest.
//!
//! What an app says is not believed:
//!
//! | by the address | by the name as well | the flow |
//! |---|---|---|
//! | direct | anything | as by the name: it can only get stricter |
//! | relayed or refused | relayed, or refused | as by the name: which of its own profiles an app's flow takes is the app's to tell, as by a look-up |
//! | relayed or refused | direct | direct if the machine's resolver has this address for the name, else as by the address |
//! | relayed or refused | direct, from a hello with ECH | as by the address |
//!
//! The flow goes to the address in each case, never to the name: it is what the app asked for, and
//! the look-up at the far side could lead elsewhere.
//!
//! A hello with `encrypted_client_hello` has a name on its outside that need not be the one that is
//! meant: that of the provider, or, where the extension is there for show (GREASE, RFC 9849 section
//! 6.2; Chromium always sends it), the real one. Nobody on the way can tell the two apart, so the
//! outer name opens nothing. It still chooses between profiles that relay, which is harmless where
//! it is not the real one, and right where it is.

mod decide;
mod http;
mod quic;
mod tls;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod hellos;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv};
use offramp_control::{Told, ToldBy};
use offramp_rules::DomainName;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::udp::Sent;

pub(crate) use self::decide::Decided;

/// How long an app may be silent before its flow is one where the server speaks first. Timers are a
/// millisecond late at most, and all together is to stay below ten.
const SILENCE: Duration = Duration::from_millis(8);
/// How long the rest of what an app has begun to say is waited for.
const PATIENCE: Duration = Duration::from_millis(300);
/// How much of it is looked at, in bytes; a ClientHello with post-quantum keys has 1.8 KiB.
const MOST: usize = 16 << 10;

/// A name that an app has told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sniffed {
    pub(crate) name: DomainName,
    pub(crate) by: ToldBy,
}

impl Sniffed {
    pub(crate) fn describe(&self) -> Told {
        Told {
            name: self.name.to_string(),
            by: self.by,
        }
    }

    /// None: it is no name.
    pub(crate) fn read(told: &Told) -> Option<Self> {
        Some(Self {
            name: domain(&told.name)?,
            by: told.by,
        })
    }
}

/// What the first bytes come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Name(Sniffed),
    /// They tell no name, and more of them will not either.
    Nothing,
    /// They may be the beginning of something that does.
    More,
}

/// What the first bytes of a TCP flow come to.
pub(crate) fn name(bytes: &[u8]) -> Found {
    match bytes.first() {
        None => Found::More,
        Some(&tls::HANDSHAKE) => tls::hello(bytes),
        Some(_) => http::request(bytes),
    }
}

/// The name that the app tells at the beginning of a flow which was accepted at this time; the
/// bytes stay in the socket.
pub(crate) async fn tcp(stream: &TcpStream, accepted: Instant) -> Option<Sniffed> {
    let mut buffer = vec![0; MOST];
    let mut until = accepted + SILENCE;
    // Mostly they are there already; the runtime would learn of it only by the next turn.
    let mut length = match peek(stream, &mut buffer) {
        Ok(0) => return None,
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(_) => return None,
    };
    loop {
        match name(&buffer[..length]) {
            Found::Name(sniffed) => return Some(sniffed),
            Found::Nothing => return None,
            Found::More if length == MOST => return None,
            Found::More => {}
        }
        let was_silent = length == 0;
        let more = stream.async_io(Interest::READABLE, || match peek(stream, &mut buffer) {
            // The end, or nothing new: what is new wakes us again.
            Ok(now) if now == length && now > 0 => Err(io::ErrorKind::WouldBlock.into()),
            result => result,
        });
        length = timeout_at(until, more).await.ok()?.ok()?;
        if length == 0 {
            return None;
        }
        if was_silent {
            until = Instant::now() + PATIENCE;
        }
    }
}

fn peek(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    Ok(recv(stream.as_raw_fd(), buffer, flags)?)
}

/// The name that the datagrams of a UDP flow tell, the first of which are there; they are kept in
/// `seen`.
pub(crate) async fn udp(
    datagrams: &mut mpsc::Receiver<Sent>,
    seen: &mut VecDeque<Sent>,
) -> Option<Sniffed> {
    let until = Instant::now() + PATIENCE;
    let mut hello = quic::Hello::default();
    loop {
        let (source, payload) = timeout_at(until, datagrams.recv()).await.ok()??;
        let found = hello.take(&payload);
        seen.push_back((source, payload));
        match found {
            Found::Name(sniffed) => return Some(sniffed),
            Found::Nothing => return None,
            Found::More => {}
        }
    }
}

/// A name of the form that servers have; none where it is an address.
fn domain(text: &str) -> Option<DomainName> {
    match text.parse::<IpAddr>() {
        Ok(_) => None,
        Err(_) => DomainName::parse(text).ok(),
    }
}
