use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use tokio::net::TcpStream;

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    own: IpAddr,
    peer: SocketAddr,
}

impl Ends {
    /// None where the connection is gone already.
    pub(crate) fn of(stream: &TcpStream) -> Option<Self> {
        Some(Self {
            own: stream.local_addr().ok()?.ip(),
            peer: stream.peer_addr().ok()?,
        })
    }

    /// Whether a new connection would begin at another address of this machine, or nowhere.
    pub(crate) fn is_moved(&self) -> bool {
        source(self.peer).ok() != Some(self.own)
    }

    /// Whether this machine has not got its address any more.
    pub(crate) fn is_gone(&self) -> bool {
        let bound = UdpSocket::bind((self.own, 0));
        bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
    }
}

/// The address that packets to the peer begin at. Sends nothing.
fn source(peer: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match peer {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(peer)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_of_this_machine() {
        let ends = |own: &str| Ends {
            own: own.parse().unwrap(),
            peer: "127.0.0.1:9".parse().unwrap(),
        };
        let here = ends("127.0.0.1");
        assert!(!here.is_moved() && !here.is_gone());
        let other = ends("127.0.0.2");
        assert!(other.is_moved() && !other.is_gone());
        // An address for documentation (RFC 5737).
        let elsewhere = ends("192.0.2.1");
        assert!(elsewhere.is_moved() && elsewhere.is_gone());
    }
}
