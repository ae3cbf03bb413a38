//! Who has which address in a lab; the same in every lab, since labs share no network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The client, where apps and the daemon run.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 90, 1, 2);
/// The client over IPv6.
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x90, 1, 0, 0, 0, 0, 2);
/// The router, on the client's side.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 90, 1, 1);
/// The router over IPv6, on the client's side.
pub const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x90, 1, 0, 0, 0, 0, 1);
/// The proxy, where the gateway runs.
pub const PROXY: Ipv4Addr = Ipv4Addr::new(10, 90, 2, 2);
/// The proxy over IPv6.
pub const PROXY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x90, 2, 0, 0, 0, 0, 2);
/// The name server that every host has in its `resolv.conf`.
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 90, 4, 2);
/// What `origin.test` stands for: the origin's main address.
pub const ORIGIN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// What `origin.test` stands for over IPv6.
pub const ORIGIN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
/// An address that the router drops without a word.
pub const BLACK_HOLE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 66);
/// An IPv6 address that the router drops without a word.
pub const BLACK_HOLE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x66);
/// Where the gateway listens.
pub const GATEWAY: SocketAddr = SocketAddr::new(IpAddr::V4(PROXY), 443);

/// The `number`th target of the origin; all of 203.0.113.0/24 but the black hole is the origin.
pub fn target(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, number)
}

/// The `number`th IPv6 target of the origin.
pub fn target6(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number)
}
