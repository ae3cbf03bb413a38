//! The name in an app's own first bytes, where the app has connected to an address that it was not
//! given for a name, and a rule needs one (`offramp_rules::needs_name`). Where none does, nothing is
//! read and nobody waits.
//!
//! Three protocols tell one: TLS (the server name of a ClientHello), QUIC (the same, in its Initial
//! packets) and HTTP/1 (the target, or `Host`). HTTP/2 without TLS is not read, since whoever speaks
//! it has been told to. The bytes stay where they are: TCP is peeked at, datagrams are kept.
//!
//! A server that speaks first is not delayed for longer than [`SILENCE`]: then the flow is opened as
//! the address says. An app that speaks only then, and before the server does, is still listened to:
//! nothing has gone either way, and the flow may be opened once more, another way
//! (`crate::tcp::late`). Who has begun to speak gets [`PATIENCE`] for the rest.
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
//! A class whose rules are all for some names alone has no address at all: the kernel lets it go, and
//! it never arrives here. What arrives is of a class that another rule claims as well.
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
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv};
use offramp_control::{Told, ToldBy};
use offramp_rules::DomainName;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use crate::udp::Sent;

pub(crate) use self::decide::Decided;

/// How long an app may be silent before its flow is opened as the address says. A server that speaks
/// first is to be delayed for ten milliseconds at most, on a busy machine too.
const SILENCE: Duration = Duration::from_millis(4);
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

/// What an app says at the beginning of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Name(Sniffed),
    /// No name, and there will be none.
    Other,
    /// Nothing yet.
    Nothing,
}

/// What the app says at the beginning of a flow which was accepted at this time; the bytes stay in
/// the socket.
pub(crate) async fn tcp(stream: &TcpStream, accepted: Instant) -> Said {
    listen(stream, Some(accepted + SILENCE)).await
}

/// The name that it tells when it begins to speak, whenever that is.
pub(crate) async fn later(stream: &TcpStream) -> Option<Sniffed> {
    match listen(stream, None).await {
        Said::Name(sniffed) => Some(sniffed),
        Said::Other | Said::Nothing => None,
    }
}

async fn listen(stream: &TcpStream, silent_until: Option<Instant>) -> Said {
    let begins = async {
        // Mostly it is there already; the runtime would learn of it only by the next turn.
        match peek(stream, &mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let begins = || peek(stream, &mut [0]);
                stream.async_io(Interest::READABLE, begins).await
            }
            result => result,
        }
    };
    let begun = match silent_until {
        Some(until) => timeout_at(until, begins).await.ok(),
        None => Some(begins.await),
    };
    match begun {
        None => Said::Nothing,
        Some(Ok(1)) => {
            let name = timeout(PATIENCE, whole(stream)).await;
            name.ok().flatten().map_or(Said::Other, Said::Name)
        }
        Some(_) => Said::Other,
    }
}

/// The name in what an app has begun to say.
async fn whole(stream: &TcpStream) -> Option<Sniffed> {
    let mut buffer = vec![0; MOST];
    let mut length = peek(stream, &mut buffer).ok()?;
    let mut growing = None;
    loop {
        match name(&buffer[..length]) {
            Found::Name(sniffed) => return Some(sniffed),
            Found::More if length < MOST => {}
            Found::Nothing | Found::More => return None,
        }
        let growing = match &growing {
            Some(growing) => growing,
            None => growing.insert(Growing::new(stream)?),
        };
        length = growing.beyond(length, &mut buffer).await?;
    }
}

/// A socket with bytes in it that are left there. The runtime would take it for empty once it has
/// waited for more of them, so that this has a descriptor of its own.
struct Growing(TcpStream);

impl Growing {
    fn new(stream: &TcpStream) -> Option<Self> {
        let own = stream.as_fd().try_clone_to_owned().ok()?;
        TcpStream::from_std(own.into()).map(Self).ok()
    }

    /// Looks at the bytes again once there are more than this many. None: there will be none.
    async fn beyond(&self, length: usize, buffer: &mut [u8]) -> Option<usize> {
        loop {
            let ready = self.0.ready(Interest::READABLE).await.ok()?;
            let more = self
                .0
                .try_io(Interest::READABLE, || match peek(&self.0, buffer) {
                    Ok(now) if now <= length => Err(io::ErrorKind::WouldBlock.into()),
                    result => result,
                });
            match more {
                Ok(now) => return Some(now),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return None,
                Err(_) if ready.is_read_closed() => return None,
                Err(_) => {}
            }
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
