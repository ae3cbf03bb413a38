//! What the two daemons say to each other, over a Unix socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use offramp_rules::{DomainName, Host, ProfileId, Target, Verdict, Why};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use crate::classes::KeptClaims;

/// Another number: these two cannot take over from each other.
pub(crate) const FORMAT: u32 = 1;
/// Sockets of flows, the control socket, the lock.
pub(crate) const DESCRIPTORS: usize = 6;
/// The longest message: that of all flows there can be.
const LONGEST: usize = 256 << 20;
const JSON: u8 = 0;
const DATAGRAM: u8 = 1;

/// Everything that is said.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    /// The new one: who it is and how long the flows of the old one may go on, in seconds.
    Hello { format: u32, drain: u64 },
    /// The old one: the profiles that are connected. The descriptors follow.
    Offer { connected: Vec<String> },
    /// The old one goes on alone.
    Refused { why: String },
    /// The new one is ready.
    Take,
    /// The old one has stopped taking work.
    State(Box<State>),
    /// The new one has everything.
    Have,
    /// The old one leaves everything to it.
    Yours,
    /// The new one: end the ways of this flow to this target, or all.
    Cut {
        flow: u64,
        target: Option<WireTarget>,
    },
    /// The new one: this UDP socket of an app is gone.
    Closed { cookie: u64 },
    /// The new one ends.
    End,
    /// The old one: a flow has one more way.
    Way { flow: u64, way: Way },
    /// The old one: bytes of flows, sent and received.
    Progress(Vec<(u64, u64, u64)>),
    /// The old one: a flow has ended.
    Ended {
        flow: u64,
        sent: u64,
        received: u64,
        error: Option<String>,
    },
    /// The old one: datagrams of this socket to this target are the new one's from here on.
    Free { cookie: u64, target: SocketAddr },
    /// Either: a datagram of an app for the other.
    #[serde(skip)]
    Datagram(Forward),
}

/// A datagram of an app.
#[derive(Clone, Debug)]
pub(crate) struct Forward {
    pub(crate) cookie: u64,
    pub(crate) source: SocketAddr,
    pub(crate) target: SocketAddr,
    pub(crate) payload: Bytes,
}

/// What the old one knows and no file has.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) flows: Vec<Flow>,
    pub(crate) last_flow: u64,
    /// UDP sockets, by cookie, and their targets.
    pub(crate) legs: Vec<(u64, SocketAddr)>,
    /// Datagrams that were taken and not dealt with.
    pub(crate) undone: Vec<Undone>,
    /// What was decided about programs when they started.
    pub(crate) verdicts: Vec<(u32, Option<KeptClaims>)>,
    /// Tells whether the rules are the same.
    pub(crate) rules: u64,
    pub(crate) last_run: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Undone {
    pub(crate) source: SocketAddr,
    pub(crate) target: SocketAddr,
    pub(crate) payload: Vec<u8>,
}

/// A live flow.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Flow {
    pub(crate) id: u64,
    pub(crate) class: u16,
    pub(crate) exec: u32,
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) cookie: u64,
    pub(crate) executable: String,
    pub(crate) profile: String,
    pub(crate) claims: KeptClaims,
    pub(crate) is_tcp: bool,
    pub(crate) source: SocketAddr,
    pub(crate) target: WireTarget,
    #[serde(default)]
    pub(crate) told: Option<offramp_control::Told>,
    pub(crate) age_ms: u64,
    pub(crate) began_unix_ms: u64,
    pub(crate) is_open: bool,
    pub(crate) is_relayed: bool,
    pub(crate) server: Option<String>,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) ways: Vec<Way>,
}

/// The way of a flow to one target.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Way {
    target: WireTarget,
    /// The name that the verdict depends on besides.
    #[serde(default)]
    name: Option<String>,
    verdict: WireVerdict,
}

/// A name or an address, and the port.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WireTarget(String, u16);

#[derive(Debug, Serialize, Deserialize)]
enum WireVerdict {
    Relay(String),
    Direct,
}

impl Way {
    /// None: it leads nowhere.
    pub(crate) fn of(
        target: &Target,
        name: Option<&DomainName>,
        verdict: &Verdict,
    ) -> Option<Self> {
        let verdict = match verdict {
            Verdict::Relay(profile) => WireVerdict::Relay(profile.to_string()),
            Verdict::Direct(_) => WireVerdict::Direct,
            Verdict::Refuse(_) => return None,
        };
        let target = WireTarget::of(target);
        let name = name.map(ToString::to_string);
        Some(Self {
            target,
            name,
            verdict,
        })
    }

    pub(crate) fn read(&self) -> Option<(Target, Option<DomainName>, Verdict)> {
        let verdict = match &self.verdict {
            WireVerdict::Relay(profile) => Verdict::Relay(ProfileId::new(profile)),
            WireVerdict::Direct => Verdict::Direct(Why::Unmanaged),
        };
        let name = match &self.name {
            Some(name) => Some(DomainName::parse(name).ok()?),
            None => None,
        };
        Some((self.target.read()?, name, verdict))
    }
}

impl WireTarget {
    pub(crate) fn of(target: &Target) -> Self {
        let host = match &target.host {
            Host::Name(name) => name.as_str().to_owned(),
            Host::Address(address) => address.to_string(),
        };
        Self(host, target.port)
    }

    pub(crate) fn read(&self) -> Option<Target> {
        let host = match self.0.parse::<IpAddr>() {
            Ok(address) => Host::Address(address),
            Err(_) => Host::Name(DomainName::parse(&self.0).ok()?),
        };
        let port = self.1;
        Some(Target { host, port })
    }
}

/// Says one thing.
pub(crate) async fn say(
    stream: &mut (impl AsyncWriteExt + Unpin),
    message: &Message,
) -> io::Result<()> {
    let mut frame = BytesMut::new();
    frame.put_u32(0);
    match message {
        Message::Datagram(datagram) => {
            frame.put_u8(DATAGRAM);
            datagram.write(&mut frame);
        }
        message => {
            frame.put_u8(JSON);
            serde_json::to_writer((&mut frame).writer(), message)?;
        }
    }
    let length = u32::try_from(frame.len() - 4).map_err(|_| io::ErrorKind::InvalidInput)?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    stream.write_all(&frame).await
}

/// Hears one thing; none at the end. Not to be dropped half-way.
pub(crate) async fn hear(stream: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Option<Message>> {
    let mut length = [0; 4];
    if stream.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut length[1..]).await?;
    let length = u32::from_be_bytes(length) as usize;
    if !(1..=LONGEST).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await?;
    read(frame.into()).map(Some)
}

fn read(mut frame: Bytes) -> io::Result<Message> {
    match frame.split_to(1)[0] {
        DATAGRAM => {
            let datagram = Forward::read(frame).ok_or(io::ErrorKind::InvalidData)?;
            Ok(Message::Datagram(datagram))
        }
        JSON => Ok(serde_json::from_slice(&frame)?),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

impl Forward {
    fn write(&self, frame: &mut BytesMut) {
        frame.put_u64(self.cookie);
        for end in [self.source, self.target] {
            match end.ip() {
                IpAddr::V4(v4) => {
                    frame.put_u8(4);
                    frame.put_slice(&v4.octets());
                }
                IpAddr::V6(v6) => {
                    frame.put_u8(6);
                    frame.put_slice(&v6.octets());
                }
            }
            frame.put_u16(end.port());
        }
        frame.put_slice(&self.payload);
    }

    fn read(mut frame: Bytes) -> Option<Self> {
        Some(Self {
            cookie: frame.try_get_u64().ok()?,
            source: read_end(&mut frame)?,
            target: read_end(&mut frame)?,
            payload: frame,
        })
    }
}

fn read_end(frame: &mut Bytes) -> Option<SocketAddr> {
    let address = match frame.try_get_u8().ok()? {
        4 => {
            let mut octets = [0; 4];
            frame.try_copy_to_slice(&mut octets).ok()?;
            IpAddr::from(octets)
        }
        6 => {
            let mut octets = [0; 16];
            frame.try_copy_to_slice(&mut octets).ok()?;
            IpAddr::from(octets)
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, frame.try_get_u16().ok()?))
}

/// Passes descriptors.
pub(crate) async fn pass(stream: &UnixStream, passed: &[OwnedFd; DESCRIPTORS]) -> io::Result<()> {
    let raw = passed.each_ref().map(AsRawFd::as_raw_fd);
    let send = || {
        let control = [ControlMessage::ScmRights(&raw)];
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        Ok(sendmsg::<()>(
            stream.as_raw_fd(),
            &[IoSlice::new(&[0])],
            &control,
            flags,
            None,
        )?)
    };
    stream.async_io(Interest::WRITABLE, send).await.map(drop)
}

/// Takes descriptors that were passed.
pub(crate) async fn receive(stream: &UnixStream) -> io::Result<[OwnedFd; DESCRIPTORS]> {
    let take = || {
        let mut byte = [0];
        let mut slices = [IoSliceMut::new(&mut byte)];
        let mut space = nix::cmsg_space!([RawFd; DESCRIPTORS]);
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
        let mut taken = Vec::new();
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = control {
                taken.extend(raw.into_iter().map(own));
            }
        }
        Ok(taken)
    };
    let taken = stream.async_io(Interest::READABLE, take).await?;
    taken
        .try_into()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "descriptors are missing"))
}

#[expect(unsafe_code, reason = "takes a descriptor that the kernel has made")]
fn own(raw: RawFd) -> OwnedFd {
    // SAFETY: recvmsg has just made it for this process, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_said_is_heard() {
        let (mut one, mut other) = UnixStream::pair().unwrap();
        let forward = Forward {
            cookie: 7,
            source: "198.18.0.1:4000".parse().unwrap(),
            target: "[2001:db8::1]:443".parse().unwrap(),
            payload: Bytes::from_static(b"hello"),
        };
        say(&mut one, &Message::Datagram(forward)).await.unwrap();
        say(&mut one, &Message::Closed { cookie: 9 }).await.unwrap();
        drop(one);
        let Some(Message::Datagram(heard)) = hear(&mut other).await.unwrap() else {
            panic!("a datagram was said")
        };
        assert_eq!(heard.cookie, 7);
        assert_eq!(heard.source.to_string(), "198.18.0.1:4000");
        assert_eq!(heard.target.to_string(), "[2001:db8::1]:443");
        assert_eq!(&heard.payload[..], b"hello");
        let next = hear(&mut other).await.unwrap();
        assert!(matches!(next, Some(Message::Closed { cookie: 9 })));
        assert!(hear(&mut other).await.unwrap().is_none());
    }

    #[test]
    fn foreign_bytes_are_errors() {
        for bytes in [
            &b"\x02"[..],
            b"\x01",
            b"\x01abcdefgh\x05",
            b"\x00{",
            b"\x00[]",
        ] {
            assert!(read(Bytes::copy_from_slice(bytes)).is_err(), "{bytes:?}");
        }
    }
}
