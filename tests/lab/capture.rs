//! What was on the wire between the client and the router.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::addresses::{CLIENT, CLIENT6, GATEWAY, ROUTER};
use crate::host::Host;
use crate::process::{Running, wait_until};

const MARKER_PORT: u16 = 9;
const LIMIT: Duration = Duration::from_secs(20);

/// A running capture at the router's end of the client's cable.
#[derive(Debug)]
pub struct Capture<'lab> {
    client: &'lab Host,
    tcpdump: Running,
    file: PathBuf,
}

impl<'lab> Capture<'lab> {
    /// Starts to capture what `filter` lets through (empty: all); returns when nothing of that can be
    /// missed any more.
    pub(crate) fn start(client: &'lab Host, router: &Host, file: PathBuf, filter: &str) -> Self {
        let path = file.to_str().expect("the lab's directory is text");
        let mut command = router.command("tcpdump");
        command.args([
            "-i", "client", "-U", "-n", "-s", "128", "-B", "65536", "-Z", "root",
        ]);
        command.args(["-w", path]);
        if !filter.is_empty() {
            command.arg(format!("({filter}) or udp port {MARKER_PORT}"));
        }
        let capture = Self {
            client,
            tcpdump: Running::start(command),
            file,
        };
        // The file's header is written after the socket is open, and -U writes each packet.
        wait_until("tcpdump listens", LIMIT, || {
            std::fs::metadata(&capture.file).is_ok_and(|file| file.len() >= 24)
        });
        capture.mark("the marker at the start");
        capture
    }

    /// Stops and says whether the first label of this name was on the wire until now, in DNS or what
    /// looks like it.
    pub fn heard(self, name: &str) -> bool {
        let file = self.stop();
        let label = name.split('.').next().unwrap_or_default();
        let bytes = std::fs::read(file).expect("tcpdump has written it");
        let mut windows = bytes.windows(label.len());
        windows.any(|window| window.eq_ignore_ascii_case(label.as_bytes()))
    }

    /// Stops and returns every packet that was on the wire until now.
    pub fn packets(self) -> Packets {
        let file = self.stop();
        let mut packets = read(&file);
        packets.retain(|packet| !packet.is_marker());
        Packets(packets)
    }

    fn stop(self) -> PathBuf {
        self.mark("the marker at the end");
        self.tcpdump.signal(Signal::SIGTERM);
        let finished = self.tcpdump.finish(LIMIT);
        let lost = finished.stderr.contains("\n0 packets dropped by kernel");
        assert!(lost, "tcpdump has not seen everything: {}", finished.stderr);
        self.file
    }

    /// Sends a packet over the cable and waits until the file has it, so that the file also has
    /// all that went before.
    fn mark(&self, what: &str) {
        let markers = || {
            read(&self.file)
                .iter()
                .filter(|packet| packet.is_marker())
                .count()
        };
        let before = markers();
        self.client.enter(|| {
            let socket = std::net::UdpSocket::bind((CLIENT, 0)).expect("the client is up");
            socket
                .send_to(b"marker", (ROUTER, MARKER_PORT))
                .expect("the router is a neighbour");
        });
        wait_until(what, LIMIT, || markers() > before);
    }
}

/// The protocol of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP, with ports.
    Tcp,
    /// UDP, with ports.
    Udp,
    /// ICMP of either kind, with its type.
    Icmp(u8),
    /// Any other protocol above IP, by number.
    Other(u8),
    /// ARP, or something else that is not IP.
    Link(u16),
}

/// One packet; ports are 0 where there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Packet {
    /// The protocol.
    pub transport: Transport,
    /// Who sent it.
    pub source: SocketAddr,
    /// Whom it was for.
    pub target: SocketAddr,
    /// Whether it is TCP and says no more than that there is no such connection.
    pub is_reset: bool,
}

impl Packet {
    /// Whether it went to or came from `peer`.
    pub fn is_with(&self, peer: SocketAddr) -> bool {
        self.source == peer || self.target == peer
    }

    fn touches(&self, address: IpAddr) -> bool {
        self.source.ip() == address || self.target.ip() == address
    }

    fn is_marker(&self) -> bool {
        self.target == SocketAddr::from((ROUTER, MARKER_PORT))
            || self.source.ip() == IpAddr::V4(ROUTER)
                && matches!(self.transport, Transport::Icmp(_))
    }

    /// ARP, neighbour discovery, router and group messages: every network has them.
    fn is_housekeeping(&self) -> bool {
        match self.transport {
            Transport::Link(_) => true,
            Transport::Icmp(kind) => self.source.is_ipv6() && matches!(kind, 130..=137 | 143),
            _ => false,
        }
    }
}

/// All packets of a capture, without the housekeeping of the link being any of the test's matter.
#[derive(Debug)]
pub struct Packets(pub Vec<Packet>);

impl Packets {
    /// Fails the test unless every packet is between the client and the gateway.
    #[track_caller]
    pub fn assert_only_gateway(&self) {
        self.assert_only(|packet| {
            packet.transport == Transport::Tcp
                && packet.is_with(GATEWAY)
                && (packet.touches(CLIENT.into()) || packet.touches(CLIENT6.into()))
        });
    }

    /// Fails the test unless every packet is between the client and the gateway, or a look-up that
    /// the machine itself makes.
    #[track_caller]
    pub fn assert_only_gateway_and_dns(&self) {
        let resolver = (crate::addresses::DNS, 53).into();
        self.assert_only(|packet| packet.is_with(GATEWAY) || packet.is_with(resolver));
    }

    /// Fails the test unless every packet is housekeeping or what `allowed` says.
    #[track_caller]
    pub fn assert_only(&self, allowed: impl Fn(&Packet) -> bool) {
        let stray: Vec<_> = self.stray(allowed).take(20).collect();
        assert!(stray.is_empty(), "on the wire: {stray:#?}");
    }

    /// Fails the test if any packet went to or came from `address`.
    #[track_caller]
    pub fn assert_none_with(&self, address: impl Into<IpAddr>) {
        let address = address.into();
        self.assert_only(|packet| !packet.touches(address));
    }

    /// Fails the test if nothing at all was on the wire with `peer`.
    #[track_caller]
    pub fn assert_some_with(&self, peer: SocketAddr) {
        let seen = self.0.iter().any(|packet| packet.is_with(peer));
        assert!(seen, "nothing with {peer} on the wire: {:#?}", self.0);
    }

    fn stray(&self, allowed: impl Fn(&Packet) -> bool) -> impl Iterator<Item = &Packet> {
        self.0
            .iter()
            .filter(move |packet| !packet.is_housekeeping() && !allowed(packet))
    }
}

/// Reads a pcap file of Ethernet frames; a record that is still being written is left out.
fn read(path: &Path) -> Vec<Packet> {
    let bytes = std::fs::read(path).unwrap_or_default();
    let mut rest = bytes.get(24..).unwrap_or_default();
    let mut packets = Vec::new();
    while let Some(header) = rest.get(..16) {
        let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let Some(frame) = rest.get(16..16 + length) else {
            break;
        };
        packets.push(frame_packet(frame));
        rest = &rest[16 + length..];
    }
    packets
}

fn frame_packet(frame: &[u8]) -> Packet {
    let kind = frame
        .get(12..14)
        .map_or(0, |kind| u16::from_be_bytes([kind[0], kind[1]]));
    let body = frame.get(14..).unwrap_or_default();
    let parsed = match kind {
        0x0800 => ipv4_packet(body),
        0x86dd => ipv6_packet(body),
        _ => None,
    };
    let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    parsed.unwrap_or(Packet {
        transport: Transport::Link(kind),
        source: nobody,
        target: nobody,
        is_reset: false,
    })
}

fn ipv4_packet(body: &[u8]) -> Option<Packet> {
    let address = |at: usize| {
        let bytes: [u8; 4] = body.get(at..at + 4)?.try_into().ok()?;
        Some(IpAddr::from(Ipv4Addr::from(bytes)))
    };
    let payload = body.get(usize::from(body.first()? & 15) * 4..)?;
    let first = u16::from_be_bytes([*body.get(6)?, *body.get(7)?]) & 0x1fff == 0;
    Some(transport_packet(
        *body.get(9)?,
        address(12)?,
        address(16)?,
        payload,
        first,
    ))
}

fn ipv6_packet(body: &[u8]) -> Option<Packet> {
    let address = |at: usize| {
        let bytes: [u8; 16] = body.get(at..at + 16)?.try_into().ok()?;
        Some(IpAddr::from(Ipv6Addr::from(bytes)))
    };
    let (mut next, mut payload, mut first) = (*body.get(6)?, body.get(40..)?, true);
    // Hop-by-hop, routing, fragment and destination headers come before the payload.
    while matches!(next, 0 | 43 | 44 | 60) {
        let length = if next == 44 {
            8
        } else {
            usize::from(*payload.get(1)?) * 8 + 8
        };
        if next == 44 {
            first = u16::from_be_bytes([*payload.get(2)?, *payload.get(3)?]) & 0xfff8 == 0;
        }
        next = *payload.first()?;
        payload = payload.get(length..)?;
    }
    Some(transport_packet(
        next,
        address(8)?,
        address(24)?,
        payload,
        first,
    ))
}

fn transport_packet(
    protocol: u8,
    source: IpAddr,
    target: IpAddr,
    payload: &[u8],
    first: bool,
) -> Packet {
    let port = |at: usize| match payload.get(at..at + 2) {
        Some(bytes) if first => u16::from_be_bytes([bytes[0], bytes[1]]),
        _ => 0,
    };
    let (transport, ports) = match protocol {
        6 => (Transport::Tcp, (port(0), port(2))),
        17 => (Transport::Udp, (port(0), port(2))),
        1 | 58 => (
            Transport::Icmp(payload.first().copied().unwrap_or(0)),
            (0, 0),
        ),
        other => (Transport::Other(other), (0, 0)),
    };
    Packet {
        transport,
        source: SocketAddr::new(source, ports.0),
        target: SocketAddr::new(target, ports.1),
        is_reset: protocol == 6 && first && payload.get(13).is_some_and(|flags| flags & 4 != 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_frame_is_no_packet() {
        for length in 0..60 {
            let mut frame = vec![0; length];
            if length > 14 {
                (frame[12], frame[13]) = (0x86, 0xdd);
            }
            frame_packet(&frame);
        }
    }

    #[test]
    fn ports_of_a_udp_datagram() {
        let mut frame = vec![0; 14 + 20 + 8];
        frame[12] = 8;
        frame[14] = 0x45;
        frame[14 + 9] = 17;
        frame[14 + 12..14 + 20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        frame[34..38].copy_from_slice(&[0, 53, 4, 210]);
        let packet = frame_packet(&frame);
        assert_eq!(packet.transport, Transport::Udp);
        assert_eq!(packet.source, "10.0.0.1:53".parse().expect("an address"));
        assert_eq!(packet.target, "10.0.0.2:1234".parse().expect("an address"));
    }
}
