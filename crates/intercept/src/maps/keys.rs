//! Flows and targets as the kernel programs have them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use offramp_rules::{Prefix, Protocol};

use crate::class::ClassId;
use crate::programs::skeleton::types;

pub(super) fn tuple(protocol: Protocol, source: SocketAddr, target: SocketAddr) -> types::tuple {
    types::tuple {
        source: to_words(source.ip()),
        target: to_words(target.ip()),
        source_port: source.port().to_be(),
        target_port: target.port().to_be(),
        protocol: match protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        },
    }
}

pub(super) fn prefix(class: ClassId, target: Prefix) -> types::prefix {
    let length = u32::from(target.length()) + if target.address().is_ipv4() { 96 } else { 0 };
    types::prefix {
        length: 32 + length,
        class: (u32::from(class.number()) << 1 | u32::from(target.address().is_ipv6())).to_be(),
        address: to_words(target.address()),
    }
}

/// An address as the kernel programs have it: IPv6, v4-mapped where it is IPv4, in network order.
pub(super) fn to_words(address: IpAddr) -> [u32; 4] {
    let octets = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let word =
        |i: usize| u32::from_ne_bytes([octets[i], octets[i + 1], octets[i + 2], octets[i + 3]]);
    [word(0), word(4), word(8), word(12)]
}

pub(super) fn from_words(words: [u32; 4]) -> Ipv6Addr {
    let mut octets = [0; 16];
    for (chunk, word) in octets.chunks_exact_mut(4).zip(words) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    octets.into()
}
