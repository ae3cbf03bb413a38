use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use offramp_rules::Prefix;

use crate::answer::Refusal;

/// Not for clients unless allowed: this network, private, shared, loopback, link-local, protocol
/// assignments, benchmarking, multicast and reserved (RFC 6890).
const PRIVATE_V4: [([u8; 4], u8); 10] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([224, 0, 0, 0], 3),
];

/// The same, and every form in which an IPv4 address hides in an IPv6 one: compatible, NAT64
/// well-known and local, 6to4, Teredo. Mapped addresses are told apart before.
const PRIVATE_V6: [([u16; 8], u8); 9] = [
    ([0; 8], 96),
    ([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96),
    ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32),
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
];

/// Mail relaying is what open proxies are looked for.
const SMTP: u16 = 25;

/// Which targets clients may reach.
#[derive(Debug)]
pub(crate) struct Policy {
    allow: Vec<Prefix>,
    private: Vec<Prefix>,
    listen: Vec<SocketAddr>,
}

impl Policy {
    /// `allow`: blocks that are open although private. `listen`: the gateway's own listeners.
    pub(crate) fn new(allow: Vec<Prefix>, listen: Vec<SocketAddr>) -> Self {
        let block = |address: IpAddr, length| {
            Prefix::new(address, length).expect("the table has no bit behind a length")
        };
        let v4 = PRIVATE_V4
            .iter()
            .map(|(octets, length)| block(Ipv4Addr::from(*octets).into(), *length));
        let v6 = PRIVATE_V6
            .iter()
            .map(|(segments, length)| block(Ipv6Addr::from(*segments).into(), *length));
        let private = v4.chain(v6).collect();
        Self {
            allow,
            private,
            listen,
        }
    }

    /// Refuses ports that are never open, before any lookup.
    pub(crate) fn check_port(&self, port: u16) -> Result<(), Refusal> {
        if port == SMTP {
            return Err(Refusal::PortForbidden);
        }
        Ok(())
    }

    /// Refuses private addresses, this machine's own, and the gateway itself.
    pub(crate) fn check(&self, target: SocketAddr) -> Result<(), Refusal> {
        let address = target.ip();
        let own = is_own(address);
        if own && self.listen.iter().any(|listen| is_reached(*listen, target)) {
            return Err(Refusal::AddressForbidden);
        }
        if self.allow.iter().any(|block| block.contains(address)) {
            return Ok(());
        }
        if own || is_mapped(address) || self.private.iter().any(|block| block.contains(address)) {
            return Err(Refusal::AddressForbidden);
        }
        Ok(())
    }
}

fn is_mapped(address: IpAddr) -> bool {
    address != address.to_canonical()
}

fn is_reached(listen: SocketAddr, target: SocketAddr) -> bool {
    let (listen_ip, target_ip) = (listen.ip().to_canonical(), target.ip().to_canonical());
    listen.port() == target.port() && (listen_ip.is_unspecified() || listen_ip == target_ip)
}

/// Whether this machine has the address, so that a firewall in front of it would be passed by.
fn is_own(address: IpAddr) -> bool {
    let address = address.to_canonical();
    if address.is_loopback() || address.is_unspecified() {
        return true;
    }
    own_route(address).unwrap_or(false)
}

/// The kernel takes an address itself as source for packets to it only if it is its own; nothing
/// is sent.
fn own_route(address: IpAddr) -> io::Result<bool> {
    let any: IpAddr = if address.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((address, 9))?;
    Ok(socket.local_addr()?.ip() == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(policy: &Policy, target: &str, expected: bool) {
        assert_eq!(
            policy.check(target.parse().unwrap()).is_ok(),
            expected,
            "{target}"
        );
    }

    fn policy(allow: &[&str]) -> Policy {
        let allow = allow.iter().map(|block| block.parse().unwrap()).collect();
        Policy::new(allow, vec!["0.0.0.0:8443".parse().unwrap()])
    }

    #[test]
    fn private_addresses_are_closed() {
        let policy = policy(&[]);
        for target in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "[::]",
            "[::1]",
            "[::8.8.8.8]",
            "[::ffff:127.0.0.1]",
            "[::ffff:8.8.8.8]",
            "[64:ff9b::7f00:1]",
            "[64:ff9b:1::1]",
            "[2001::1]",
            "[2002:7f00:1::]",
            "[fc00::1]",
            "[fdff::1]",
            "[fe80::1]",
            "[fec0::1]",
            "[ff02::1]",
        ] {
            check(&policy, &format!("{target}:80"), false);
        }
    }

    #[test]
    fn public_addresses_are_open() {
        let policy = policy(&[]);
        for target in [
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "223.255.255.255",
            "[2001:4860:4860::8888]",
            "[2a00::1]",
        ] {
            check(&policy, &format!("{target}:80"), true);
        }
    }

    #[test]
    fn allowed_blocks_are_open_but_not_the_gateway_itself() {
        let policy = policy(&["127.0.0.0/8", "10.0.0.0/8"]);
        check(&policy, "127.0.0.1:80", true);
        check(&policy, "10.1.2.3:80", true);
        check(&policy, "10.1.2.3:8443", true);
        check(&policy, "127.0.0.1:8443", false);
        check(&policy, "127.9.9.9:8443", false);
        check(&policy, "192.168.1.1:80", false);
        check(&policy, "[64:ff9b::7f00:1]:80", false);
    }

    #[test]
    fn mail_is_closed() {
        assert!(policy(&[]).check_port(25).is_err());
        assert!(policy(&[]).check_port(587).is_ok());
    }
}
