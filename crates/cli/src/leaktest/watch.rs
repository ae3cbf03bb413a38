//! Looks at what leaves this machine, which takes root.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use nix::net::if_::if_indextoname;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// `PACKET_OUTGOING` of linux/if_packet.h.
const OUTGOING: u8 = 4;
/// Devices that do not leave the machine: loopback and our own.
const INSIDE: [&str; 2] = ["lo", "offramp0"];
const DNS: u16 = 53;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Packets that are kept; of one connection all count as one.
const MOST: usize = 65_536;
/// What arrives while the doors are tried, on a busy machine.
const BUFFER: usize = 8 << 20;

/// A packet that has left.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seen {
    pub(super) device: String,
    pub(super) protocol: u8,
    pub(super) target: IpAddr,
    /// Ports; zero where there are none.
    pub(super) source_port: u16,
    pub(super) target_port: u16,
    /// The name that it asks for, where that is one of ours.
    pub(super) name: Option<String>,
}

/// What is looked for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) targets: BTreeSet<IpAddr>,
    /// Whatever goes to these ports.
    pub(super) ports: BTreeSet<u16>,
    /// What the names begin with.
    pub(super) nonce: String,
}

/// A watch over all devices.
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Seen>>,
}

impl Watch {
    /// None without the right to.
    pub(super) fn start(wanted: Wanted) -> Option<Self> {
        let socket = socket(
            AddressFamily::Packet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )
        .ok()?;
        // It may be less; what is lost is one packet of several.
        let _ = setsockopt(&socket, sockopt::RcvBuf, &BUFFER);
        setsockopt(
            &socket,
            sockopt::ReceiveTimeout,
            &TimeVal::milliseconds(100),
        )
        .ok()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || watch(&socket, &wanted, &stopped));
        Some(Self { stop, thread })
    }

    /// All that was seen.
    pub(super) fn finish(self) -> Vec<Seen> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap_or_default()
    }
}

fn watch(socket: &OwnedFd, wanted: &Wanted, stop: &AtomicBool) -> Vec<Seen> {
    let mut seen = BTreeSet::new();
    let mut packet = [0; 2048];
    loop {
        // Looked at before the packets are: those that have left by then are taken in.
        let last = stop.load(Ordering::Acquire);
        while let Ok((length, Some(from))) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut packet) {
            if from.pkttype() == OUTGOING
                && seen.len() < MOST
                && let Some(found) = look(&packet[..length], wanted)
                && let Some(device) = name_of(from.ifindex())
                && !INSIDE.contains(&device.as_str())
            {
                seen.insert(Seen { device, ..found });
            }
        }
        if last {
            return seen.into_iter().collect();
        }
    }
}

fn name_of(index: usize) -> Option<String> {
    let name = if_indextoname(index.try_into().ok()?).ok()?;
    Some(name.to_string_lossy().into_owned())
}

/// What a packet is, if it is one that is looked for.
fn look(packet: &[u8], wanted: &Wanted) -> Option<Seen> {
    let (protocol, target, body) = match packet.first()? >> 4 {
        4 => {
            let target: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            let head = usize::from(packet[0] & 0xf) * 4;
            (
                packet[9],
                Ipv4Addr::from(target).into(),
                packet.get(head..)?,
            )
        }
        6 => {
            let target: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            (
                packet[6],
                IpAddr::from(Ipv6Addr::from(target)),
                packet.get(40..)?,
            )
        }
        _ => return None,
    };
    let port = |at: usize| match (protocol, body.get(at..at + 2)) {
        (TCP | UDP, Some(port)) => u16::from_be_bytes([port[0], port[1]]),
        _ => 0,
    };
    let (source_port, target_port) = (port(0), port(2));
    let name = (target_port == DNS)
        .then(|| asked(body, &wanted.nonce))
        .flatten();
    let is_wanted = wanted.targets.contains(&target) || wanted.ports.contains(&target_port);
    (name.is_some() || is_wanted).then(|| Seen {
        device: String::new(),
        protocol,
        target,
        source_port,
        target_port,
        name,
    })
}

/// The first label of a name of ours.
fn asked(body: &[u8], nonce: &str) -> Option<String> {
    let at = body
        .windows(nonce.len())
        .position(|window| window.eq_ignore_ascii_case(nonce.as_bytes()))?;
    let length = usize::from(*body.get(at.checked_sub(1)?)?);
    let label = body.get(at..at + length)?;
    Some(String::from_utf8_lossy(label).to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            targets: BTreeSet::from(["192.0.2.7".parse().unwrap()]),
            ports: BTreeSet::new(),
            nonce: "leaktest1f".into(),
        }
    }

    fn ipv4(protocol: u8, target: [u8; 4], body: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1];
        packet.extend(target);
        packet.extend(body);
        packet
    }

    #[test]
    fn targets_and_names_are_found_and_others_are_not() {
        let ports = [0x12, 0x34, 0, 9];
        let seen = look(&ipv4(UDP, [192, 0, 2, 7], &ports), &wanted()).unwrap();
        assert_eq!((seen.source_port, seen.target_port), (0x1234, 9));
        assert_eq!(look(&ipv4(UDP, [192, 0, 2, 8], &ports), &wanted()), None);
        let question = b"\x12\x34\0\x35\0\0\0\0............\x0cLeaktest1f-9\x07offramp";
        let seen = look(&ipv4(UDP, [10, 0, 0, 9], question), &wanted()).unwrap();
        assert_eq!(seen.name.as_deref(), Some("leaktest1f-9"));
    }

    #[test]
    fn a_short_packet_is_none() {
        let whole = ipv4(UDP, [192, 0, 2, 7], b"\x12\x34\0\x35\0\0\0\0leaktest1f");
        for length in 0..whole.len() {
            look(&whole[..length], &wanted());
            let mut six = whole[..length].to_vec();
            if let Some(first) = six.first_mut() {
                *first = 0x60;
            }
            look(&six, &wanted());
        }
    }
}
