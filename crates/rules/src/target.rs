use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::DomainName;

/// The `Identifier` of a profile.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProfileId(Arc<str>);

impl ProfileId {
    /// Names a profile; the profile's reader has checked the text.
    pub fn new(identifier: &str) -> Self {
        Self(identifier.into())
    }

    /// The `Identifier` as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProfileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a flow is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// One TCP connection.
    Tcp,
    /// One UDP conversation of one app socket.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

/// The far end of a flow as an upstream is told it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// The far side looks the name up.
    Name(DomainName),
    /// Nothing but the address is known.
    Address(IpAddr),
}

/// Where a flow wants to go.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// A name where one is known, else the address that the app asked for.
    pub host: Host,
    /// The port that the app asked for.
    pub port: u16,
}

impl Target {
    /// The name, where one is known.
    pub fn name(&self) -> Option<&DomainName> {
        match &self.host {
            Host::Name(name) => Some(name),
            Host::Address(_) => None,
        }
    }

    /// The address, where no name stands for it.
    pub fn address(&self) -> Option<IpAddr> {
        match self.host {
            Host::Name(_) => None,
            Host::Address(address) => Some(address),
        }
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: Host::Address(address.ip().to_canonical()),
            port: address.port(),
        }
    }
}

/// `name:port`, `192.0.2.1:port` or `[2001:db8::1]:port`: the authority form of RFC 9110
/// section 9.3.6.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => write!(f, "{name}:{}", self.port),
            Host::Address(address) => write!(f, "{}", SocketAddr::new(*address, self.port)),
        }
    }
}
