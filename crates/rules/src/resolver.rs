use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::LazyLock;

use crate::{DomainName, Host, InvalidName, InvalidPrefix, Prefix, Profile, RouteSet};

/// Resolvers that encrypt, with where each is told of.
const KNOWN: &str = include_str!("../../../rules/encrypted-resolvers.txt");
/// DNS over TLS (RFC 7858) and QUIC (RFC 9250).
const DNS_PORT: u16 = 853;
const HTTPS_PORT: u16 = 443;

/// What a resolver that encrypts (DNS over TLS, HTTPS or QUIC) is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resolver {
    /// The port for it, 853.
    Port,
    /// This name, or one below it.
    Name(DomainName),
    /// An address in this block, where it serves HTTPS or port 853.
    Block(Prefix),
}

/// Why a text names no [`Resolver`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidResolver {
    /// It looks like a block of addresses, and is none.
    #[error(transparent)]
    Block(InvalidPrefix),
    /// It is no name either.
    #[error(transparent)]
    Name(InvalidName),
}

impl FromStr for Resolver {
    type Err = InvalidResolver;

    /// Reads a name, an address or a block of addresses.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Resolver::Block(Prefix::host(address)));
        }
        if text.contains('/') {
            let block = text.parse().map_err(InvalidResolver::Block)?;
            return Ok(Resolver::Block(block));
        }
        let name = DomainName::parse(text).map_err(InvalidResolver::Name)?;
        Ok(Resolver::Name(name))
    }
}

impl fmt::Display for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Resolver::Port => write!(f, "port {DNS_PORT}"),
            Resolver::Name(name) => write!(f, "{name}"),
            Resolver::Block(block) => write!(f, "{block}"),
        }
    }
}

impl Profile {
    /// By what a target is a resolver that encrypts, which the profile refuses. `port`: none for a
    /// look-up of the name. `is_claimed`: whether the profile claims flows there; of other flows of
    /// its apps none is refused, but names of resolvers are not told: an app that asks a resolver of
    /// its own has no names that the profile could claim it by.
    pub(crate) fn refuses(
        &self,
        host: &Host,
        port: Option<u16>,
        is_claimed: bool,
    ) -> Option<Resolver> {
        if !self.refuse_encrypted {
            return None;
        }
        let by_host = match host {
            Host::Name(name) => self.resolver_name(name).map(Resolver::Name),
            Host::Address(_) if !is_claimed => None,
            Host::Address(_) if ![Some(HTTPS_PORT), Some(DNS_PORT)].contains(&port) => None,
            Host::Address(address) => self.resolver_block(*address).map(Resolver::Block),
        };
        let by_port = || (is_claimed && port == Some(DNS_PORT)).then_some(Resolver::Port);
        by_host.or_else(by_port)
    }

    fn resolver_name(&self, name: &DomainName) -> Option<DomainName> {
        let own = self.encrypted_resolvers.iter().find_map(|own| match own {
            Resolver::Name(suffix) if name.is_within(suffix) => Some(suffix.clone()),
            _ => None,
        });
        own.or_else(|| {
            let mut rest = name.as_str();
            loop {
                if let Some(known) = LIST.names.get(rest) {
                    return Some(known.clone());
                }
                rest = rest.split_once('.')?.1;
            }
        })
    }

    fn resolver_block(&self, address: IpAddr) -> Option<Prefix> {
        let own = self.encrypted_resolvers.iter().find_map(|own| match own {
            Resolver::Block(block) if block.contains(address) => Some(*block),
            _ => None,
        });
        own.or_else(|| LIST.blocks.longest(address))
    }
}

struct List {
    names: HashSet<DomainName>,
    blocks: RouteSet,
}

static LIST: LazyLock<List> = LazyLock::new(|| {
    let lines = KNOWN.lines().filter(|line| !line.starts_with('#'));
    let known = lines.filter(|line| !line.is_empty());
    let mut names = HashSet::new();
    let mut blocks = Vec::new();
    for known in known.map(str::parse) {
        match known.expect("a test has read the list") {
            Resolver::Name(name) => drop(names.insert(name)),
            Resolver::Block(block) => blocks.push(block),
            Resolver::Port => {}
        }
    }
    List {
        names,
        blocks: blocks.into_iter().collect(),
    }
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read_and_says_nothing_twice() {
        assert!(LIST.names.len() > 50 && LIST.blocks.contains("9.9.9.9".parse().unwrap()));
        let above = |name: &DomainName| {
            let mut rest = name.as_str();
            while let Some((_, above)) = rest.split_once('.') {
                if LIST.names.contains(above) {
                    return true;
                }
                rest = above;
            }
            false
        };
        let twice: Vec<_> = LIST.names.iter().filter(|name| above(name)).collect();
        assert_eq!(twice, Vec::<&DomainName>::new());
        let lines = KNOWN
            .lines()
            .filter(|line| line.contains('/') && !line.starts_with('#'));
        assert_eq!(lines.count(), LIST.blocks.normalised().len());
        // Addresses of services that people may mean are no resolvers.
        for address in ["104.16.132.229", "142.250.1.1", "10.0.0.53", "2606:4700::1"] {
            assert!(!LIST.blocks.contains(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn names_and_blocks_are_read() {
        let check = |text: &str, expected: Result<&str, &str>| {
            let read = text.parse::<Resolver>();
            let told = read.map(|read| read.to_string()).map_err(|e| e.to_string());
            assert_eq!(told, expected.map(str::to_owned).map_err(str::to_owned));
        };
        check("DNS.example.com.", Ok("dns.example.com"));
        check("192.0.2.1", Ok("192.0.2.1/32"));
        check("2001:db8::/32", Ok("2001:db8::/32"));
        check(
            "a b",
            Err("the name has a character that names cannot have"),
        );
        check("192.0.2.1/40", Err("the length is over 32"));
        check(
            "https://dns.google/",
            Err("not an address block such as 10.0.0.0/8 or fd00::/8"),
        );
    }
}
