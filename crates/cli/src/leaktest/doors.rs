//! The ways out that are tried.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// The port that throws away what it gets (RFC 863).
pub(super) const DISCARD: u16 = 9;
pub(super) const HTTPS: u16 = 443;
const DNS: u16 = 53;
const DNS_OVER_TLS: u16 = 853;
/// Where the system bus listens.
pub(super) const BUS: &str = "/run/dbus/system_bus_socket";
/// What its row is called.
pub(super) const BUS_DOOR: &str = "DNS, D-Bus";
/// The door to names on the local network.
pub(super) const AVAHI: &str = "/run/avahi-daemon/socket";

/// One way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Door {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

/// What is done at a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp(Family, Via),
    Udp(Family, Via),
    /// What begins a QUIC connection of a version that nobody speaks: it is answered with those
    /// that the other end does.
    Quic(Family),
    Multicast(Family),
    Broadcast,
    Lookup(Resolver),
    /// `getaddrinfo`, as most programs look names up.
    Libc,
    /// A Unix socket behind which somebody else looks names up.
    Service(&'static str),
    /// systemd-resolved over the system bus.
    Bus,
    DnsOverTls,
    Raw(Family),
    Ping(Family),
    Packet,
    /// UDP from a network namespace that was made for it.
    Namespace,
    /// TCP by a process that was started for it.
    Child,
    InheritedTcp,
    InheritedUdp,
    TargetTcp,
    TargetUdp,
    TargetQuic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// What a socket is told about its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    Default,
    /// UDP alone: connected first.
    Connected,
    /// Bound to the machine's own address.
    Own,
    /// `SO_BINDTODEVICE`.
    Device,
    /// `IP_UNICAST_IF`, `IPV6_UNICAST_IF`.
    Unicast,
    /// `IP_PKTINFO`, `IPV6_PKTINFO` with a device.
    PacketInfo,
}

/// Who is asked for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resolver {
    /// The first one of `/etc/resolv.conf`.
    Configured,
    ConfiguredTcp,
    /// systemd-resolved's stub.
    Stub,
    /// An address that is no resolver's.
    Literal(Family),
}

const fn door(name: &'static str, kind: Kind) -> Door {
    Door { name, kind }
}

/// All, in the order in which they are shown.
pub(super) const DOORS: [Door; 46] = {
    use Family::{V4, V6};
    [
        door("TCP", Kind::Tcp(V4, Via::Default)),
        door("TCP over IPv6", Kind::Tcp(V6, Via::Default)),
        door("TCP, bound to an address", Kind::Tcp(V4, Via::Own)),
        door(
            "TCP over IPv6, bound to an address",
            Kind::Tcp(V6, Via::Own),
        ),
        door("TCP, bound to a device", Kind::Tcp(V4, Via::Device)),
        door(
            "TCP over IPv6, bound to a device",
            Kind::Tcp(V6, Via::Device),
        ),
        door("UDP", Kind::Udp(V4, Via::Default)),
        door("UDP over IPv6", Kind::Udp(V6, Via::Default)),
        door("UDP, connected", Kind::Udp(V4, Via::Connected)),
        door("UDP over IPv6, connected", Kind::Udp(V6, Via::Connected)),
        door("UDP, bound to an address", Kind::Udp(V4, Via::Own)),
        door(
            "UDP over IPv6, bound to an address",
            Kind::Udp(V6, Via::Own),
        ),
        door("UDP, bound to a device", Kind::Udp(V4, Via::Device)),
        door(
            "UDP over IPv6, bound to a device",
            Kind::Udp(V6, Via::Device),
        ),
        door("UDP, IP_UNICAST_IF", Kind::Udp(V4, Via::Unicast)),
        door("UDP, IPV6_UNICAST_IF", Kind::Udp(V6, Via::Unicast)),
        door("UDP, IP_PKTINFO", Kind::Udp(V4, Via::PacketInfo)),
        door("UDP, IPV6_PKTINFO", Kind::Udp(V6, Via::PacketInfo)),
        door("QUIC", Kind::Quic(V4)),
        door("QUIC over IPv6", Kind::Quic(V6)),
        door("multicast", Kind::Multicast(V4)),
        door("multicast over IPv6", Kind::Multicast(V6)),
        door("broadcast", Kind::Broadcast),
        door(
            "DNS, configured resolver",
            Kind::Lookup(Resolver::Configured),
        ),
        door(
            "DNS over TCP, configured resolver",
            Kind::Lookup(Resolver::ConfiguredTcp),
        ),
        door("DNS, 127.0.0.53", Kind::Lookup(Resolver::Stub)),
        door("DNS, any address", Kind::Lookup(Resolver::Literal(V4))),
        door("DNS, any IPv6 address", Kind::Lookup(Resolver::Literal(V6))),
        door("DNS, getaddrinfo", Kind::Libc),
        door(
            "DNS, systemd-resolved's socket",
            Kind::Service("/run/systemd/resolve/io.systemd.Resolve"),
        ),
        door("DNS, nscd's socket", Kind::Service("/run/nscd/socket")),
        door("DNS, avahi's socket", Kind::Service(AVAHI)),
        door(BUS_DOOR, Kind::Bus),
        door("DNS over TLS", Kind::DnsOverTls),
        door("raw socket", Kind::Raw(V4)),
        door("raw socket over IPv6", Kind::Raw(V6)),
        door("ping socket", Kind::Ping(V4)),
        door("ping socket over IPv6", Kind::Ping(V6)),
        door("packet socket", Kind::Packet),
        door("TCP by a child", Kind::Child),
        door("TCP, socket made before", Kind::InheritedTcp),
        door("UDP, socket made before", Kind::InheritedUdp),
        door("another network namespace", Kind::Namespace),
        door("TCP to the target", Kind::TargetTcp),
        door("UDP to the target", Kind::TargetUdp),
        door("QUIC to the target", Kind::TargetQuic),
    ]
};

impl Door {
    /// Whether it is there without a target of the person's own.
    pub(super) fn needs_target(&self) -> bool {
        matches!(
            self.kind,
            Kind::TargetTcp | Kind::TargetUdp | Kind::TargetQuic
        )
    }
}

/// A target of the door with this number, which nobody has: an address for documentation (RFC 5737,
/// RFC 3849), or for multicast the same (RFC 6676).
pub(super) fn address(number: usize, family: Family, multicast: bool) -> IpAddr {
    let last = number as u8 + 1;
    match (family, multicast) {
        (Family::V4, false) => Ipv4Addr::new(192, 0, 2, last).into(),
        (Family::V4, true) => Ipv4Addr::new(233, 252, 0, last).into(),
        (Family::V6, false) => Ipv6Addr::new(0x2001, 0xdb8, 0x192, 0, 0, 0, 0, last.into()).into(),
        (Family::V6, true) => Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 0xdb8, last.into()).into(),
    }
}

impl Kind {
    /// Where the door with this number leads; none where that is not one address.
    pub(super) fn target(self, number: usize, plan: &Plan) -> Option<SocketAddr> {
        let at = |family, port| Some(SocketAddr::new(address(number, family, false), port));
        match self {
            Self::Tcp(family, _) => at(family, HTTPS),
            Self::Udp(family, _) => at(family, DISCARD),
            Self::Quic(family) => at(family, HTTPS),
            Self::Multicast(family) => {
                Some(SocketAddr::new(address(number, family, true), DISCARD))
            }
            Self::Broadcast => Some(SocketAddr::new(Ipv4Addr::BROADCAST.into(), DISCARD)),
            Self::Lookup(Resolver::Configured | Resolver::ConfiguredTcp) => plan.resolver,
            Self::Lookup(Resolver::Stub) => Some(SocketAddr::from(([127, 0, 0, 53], DNS))),
            Self::Lookup(Resolver::Literal(family)) => at(family, DNS),
            Self::DnsOverTls => at(Family::V4, DNS_OVER_TLS),
            Self::Raw(family) | Self::Ping(family) => at(family, 0),
            Self::Packet | Self::Namespace | Self::InheritedUdp => at(Family::V4, DISCARD),
            Self::Child | Self::InheritedTcp => at(Family::V4, HTTPS),
            Self::Libc | Self::Service(_) | Self::Bus => None,
            Self::TargetTcp | Self::TargetUdp | Self::TargetQuic => None,
        }
    }
}

/// The name that the door with this number looks up, below a domain that nobody has (RFC 6761).
pub(super) fn name(number: usize, plan: &Plan) -> String {
    format!("{}-{number}.offramp.test", plan.nonce)
}

/// What the tests at the doors need to know of the machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) own4: Option<Ipv4Addr>,
    pub(super) own6: Option<Ipv6Addr>,
    /// The device of the default way out.
    pub(super) device: Option<String>,
    pub(super) resolver: Option<SocketAddr>,
    /// Stands in the names that are looked up.
    pub(super) nonce: String,
    pub(super) target: Option<Given>,
    /// Descriptors of sockets that were made outside.
    pub(super) tcp: i32,
    pub(super) udp: i32,
}

/// What `--target` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Given {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Given {
    pub(crate) fn new(host: String, port: Option<u16>) -> Self {
        Self {
            host,
            port: port.unwrap_or(HTTPS),
        }
    }

    /// As the daemon reads targets.
    pub(super) fn at(&self, port: u16) -> String {
        match self.host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]:{port}"),
            Err(_) => format!("{}:{port}", self.host),
        }
    }
}
