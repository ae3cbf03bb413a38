//! Tries the way that flows take: from a socket of the host into the private namespace and back.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::timeout;

use super::{Capture, StartError, cookie};
use crate::class::RETURN_CLASS;
use crate::network::{INNER_V4, INNER_V6};

/// On this machine nothing takes longer, unless it is dropped.
const LIMIT: Duration = Duration::from_secs(1);
/// What firewalls let out where they let out anything: HTTPS and look-ups.
const TCP_PORT: u16 = 443;
const UDP_PORT: u16 = 53;

/// One try of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Over UDP, not TCP.
    pub udp: bool,
    /// Over IPv6, not IPv4.
    pub ipv6: bool,
    /// How far it came.
    pub way: Way,
}

/// How far a probe came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// There and back.
    Whole,
    /// Not to the device.
    NotOut,
    /// Into the device, and nothing came back.
    NotBack,
}

impl Capture {
    /// Sends a few packets of the daemon's own on the way that flows of apps take. They are
    /// answered inside, see [`Capture::is_probe`].
    pub async fn probe(&self) -> Result<Vec<Probe>, StartError> {
        let families: &[bool] = match self.network.lock().await.ipv6() {
            true => &[false, true],
            false => &[false],
        };
        let mut probes = Vec::new();
        for ipv6 in families {
            let (tcp, udp) = tokio::join!(self.try_way(false, *ipv6), self.try_way(true, *ipv6));
            probes.extend([tcp?, udp?]);
        }
        Ok(probes)
    }

    /// Whether a flow without an identity is one of [`Capture::probe`]: a datagram is to be sent
    /// back as it is, a connection to be closed.
    pub fn is_probe(&self, target: SocketAddr) -> bool {
        let inner = [IpAddr::V4(INNER_V4), IpAddr::V6(INNER_V6)];
        inner.contains(&target.ip()) && [TCP_PORT, UDP_PORT].contains(&target.port())
    }

    async fn try_way(&self, udp: bool, ipv6: bool) -> Result<Probe, StartError> {
        const SO_COOKIE: libc::c_int = 57;
        let socket = socket(udp, ipv6).map_err(StartError::Sockets)?;
        let cookie = cookie(&socket, SO_COOKIE).map_err(StartError::Sockets)?;
        self.maps.add_probe(cookie)?;
        let inner: IpAddr = if ipv6 {
            INNER_V6.into()
        } else {
            INNER_V4.into()
        };
        let answered = if udp {
            timeout(LIMIT, ask(socket, (inner, UDP_PORT).into())).await
        } else {
            timeout(LIMIT, connect(socket, (inner, TCP_PORT).into())).await
        };
        let left = self.maps.end_probe(cookie)?;
        let way = match answered {
            Ok(Ok(())) => Way::Whole,
            _ if left > 0 => Way::NotBack,
            _ => Way::NotOut,
        };
        Ok(Probe { udp, ipv6, way })
    }
}

fn socket(udp: bool, ipv6: bool) -> io::Result<Socket> {
    let domain = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
    let (kind, protocol) = if udp {
        (Type::DGRAM, Protocol::UDP)
    } else {
        (Type::STREAM, Protocol::TCP)
    };
    let socket = Socket::new(domain, kind.nonblocking().cloexec(), Some(protocol))?;
    socket.set_mark(RETURN_CLASS.mark())?;
    Ok(socket)
}

async fn connect(socket: Socket, target: SocketAddr) -> io::Result<()> {
    let stream = TcpSocket::from_std_stream(socket.into());
    stream.connect(target).await.map(drop)
}

async fn ask(socket: Socket, target: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::from_std(socket.into())?;
    socket.connect(target).await?;
    socket.send(b"offramp").await?;
    socket.recv(&mut [0; 16]).await.map(drop)
}
