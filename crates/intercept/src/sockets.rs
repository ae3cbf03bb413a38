//! The app-facing sockets, all of them in the private namespace.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage,
    recvmsg, sendmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::{TcpListener, UdpSocket};

use crate::namespace::Namespace;

/// Any port will do: every flow is assigned to a listener whatever its target.
const PORT: u16 = 1;
const BACKLOG: i32 = 65_535;
/// Room for bursts while the daemon is busy, in octets.
const UDP_BUFFER: usize = 8 << 20;
/// Reply sockets that are kept open, one for each port that replies came from; fewer where there are
/// few descriptors.
const REPLY_SOCKETS: usize = 1024;

/// Where captured flows arrive.
pub struct Sockets {
    /// TCP over IPv4, then over IPv6. The local address of what is accepted is the flow's target.
    pub tcp: [TcpListener; 2],
    /// UDP over IPv4, then over IPv6.
    pub udp: [Arc<UdpIntake>; 2],
    /// Sends datagrams back to apps.
    pub replies: Arc<Replies>,
}

impl Sockets {
    pub(crate) fn open(namespace: &Arc<Namespace>, ipv6: bool) -> io::Result<Self> {
        let opened = namespace.within(|| {
            Ok([
                tcp(false, PORT)?,
                tcp(ipv6, PORT + 1)?,
                udp(false)?,
                udp(ipv6)?,
            ])
        })?;
        Self::of(namespace, opened.map(OwnedFd::from))
    }

    /// The sockets as [`Sockets::descriptors`] has them, those of another process perhaps.
    pub(crate) fn of(namespace: &Arc<Namespace>, descriptors: [OwnedFd; 4]) -> io::Result<Self> {
        let [tcp_v4, tcp_v6, udp_v4, udp_v6] = descriptors;
        let listener = |passed: OwnedFd| TcpListener::from_std(passed.into());
        let intake = |passed: OwnedFd| {
            let socket = UdpSocket::from_std(passed.into())?;
            Ok::<_, io::Error>(Arc::new(UdpIntake { socket }))
        };
        Ok(Self {
            tcp: [listener(tcp_v4)?, listener(tcp_v6)?],
            udp: [intake(udp_v4)?, intake(udp_v6)?],
            replies: Arc::new(Replies {
                namespace: Arc::clone(namespace),
                sockets: Mutex::new(HashMap::new()),
            }),
        })
    }

    /// Other descriptors of the same sockets where flows arrive: TCP over IPv4 and IPv6, UDP over
    /// IPv4 and IPv6.
    pub fn descriptors(&self) -> io::Result<[OwnedFd; 4]> {
        let [tcp_v4, tcp_v6] = &self.tcp;
        let [udp_v4, udp_v6] = &self.udp;
        Ok([
            tcp_v4.as_fd().try_clone_to_owned()?,
            tcp_v6.as_fd().try_clone_to_owned()?,
            udp_v4.socket.as_fd().try_clone_to_owned()?,
            udp_v6.socket.as_fd().try_clone_to_owned()?,
        ])
    }
}

fn tcp(ipv6: bool, port: u16) -> io::Result<Socket> {
    let socket = socket(ipv6, Type::STREAM, Protocol::TCP)?;
    // The port of a daemon that was killed stays taken for a while.
    socket.set_reuse_address(true)?;
    socket.bind(&any(ipv6, port).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn udp(ipv6: bool) -> io::Result<Socket> {
    let socket = socket(ipv6, Type::DGRAM, Protocol::UDP)?;
    socket.set_reuse_address(true)?;
    // Root may go over the system's limit; without that right the limit is what we get.
    if setsockopt(&socket, sockopt::RcvBufForce, &UDP_BUFFER).is_err() {
        socket.set_recv_buffer_size(UDP_BUFFER)?;
    }
    if ipv6 {
        setsockopt(&socket, sockopt::Ipv6OrigDstAddr, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv4OrigDstAddr, &true)?;
    }
    socket.bind(&any(ipv6, PORT).into())?;
    Ok(socket)
}

fn socket(ipv6: bool, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let domain = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, kind.nonblocking().cloexec(), Some(protocol))?;
    if ipv6 {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn any(ipv6: bool, port: u16) -> SocketAddr {
    let address: IpAddr = if ipv6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    SocketAddr::new(address, port)
}

/// One captured datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The app's socket.
    pub source: SocketAddr,
    /// Where the app sent it.
    pub target: SocketAddr,
    /// How many octets of the buffer it fills.
    pub length: usize,
}

/// Captured datagrams of one address family.
pub struct UdpIntake {
    socket: UdpSocket,
}

impl UdpIntake {
    /// Waits for the next datagram; `buffer` should have room for 65,535 octets.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<Datagram> {
        self.socket
            .async_io(Interest::READABLE, || {
                receive(self.socket.as_raw_fd(), buffer)
            })
            .await
    }

    /// The next datagram if one has arrived; else an error of kind `WouldBlock`.
    pub fn receive_now(&self, buffer: &mut [u8]) -> io::Result<Datagram> {
        self.socket.try_io(Interest::READABLE, || {
            receive(self.socket.as_raw_fd(), buffer)
        })
    }
}

fn receive(socket: RawFd, buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut slices = [IoSliceMut::new(buffer)];
    let mut control = nix::cmsg_space!(libc::sockaddr_in6);
    let message = recvmsg::<SockaddrStorage>(
        socket,
        &mut slices,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let source = message.address.as_ref().and_then(to_std);
    let mut target = None;
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv4OrigDstAddr(address) => {
                target = Some(SocketAddr::V4(SocketAddrV4::from(SockaddrIn::from(
                    address,
                ))));
            }
            ControlMessageOwned::Ipv6OrigDstAddr(address) => {
                let address = SocketAddrV6::from(SockaddrIn6::from(address));
                target = Some(SocketAddr::new((*address.ip()).into(), address.port()));
            }
            _ => {}
        }
    }
    match (source, target) {
        (Some(source), Some(target)) => Ok(Datagram {
            source,
            target,
            length: message.bytes,
        }),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the kernel did not say the target",
        )),
    }
}

/// The address without scope and flow label, which the kernel programs do not see.
fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::V4((*v4).into()));
    }
    let v6 = SocketAddrV6::from(*address.as_sockaddr_in6()?);
    Some(SocketAddr::new((*v6.ip()).into(), v6.port()))
}

/// Sends datagrams to apps from the address that they sent to.
pub struct Replies {
    namespace: Arc<Namespace>,
    sockets: Mutex<HashMap<(bool, u16), Arc<Socket>>>,
}

impl Replies {
    /// Sends `payload` as if `from` had. What the app's socket has no room for is lost, as on any
    /// network; an error may be that of an earlier datagram, of whichever app.
    pub fn send(&self, payload: &[u8], from: SocketAddr, app: SocketAddr) -> io::Result<()> {
        let socket = self.socket(from)?;
        let slices = [IoSlice::new(payload)];
        let sent = match from.ip() {
            IpAddr::V4(source) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr {
                        s_addr: source.to_bits().to_be(),
                    },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                let control = [ControlMessage::Ipv4PacketInfo(&info)];
                self.send_with(&socket, &slices, &control, app)
            }
            IpAddr::V6(source) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr {
                        s6_addr: source.octets(),
                    },
                    ipi6_ifindex: 0,
                };
                let control = [ControlMessage::Ipv6PacketInfo(&info)];
                self.send_with(&socket, &slices, &control, app)
            }
        };
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            sent => sent,
        }
    }

    fn send_with(
        &self,
        socket: &Socket,
        slices: &[IoSlice<'_>],
        control: &[ControlMessage<'_>],
        app: SocketAddr,
    ) -> io::Result<()> {
        let app = SockaddrStorage::from(app);
        sendmsg(
            socket.as_raw_fd(),
            slices,
            control,
            MsgFlags::MSG_DONTWAIT,
            Some(&app),
        )?;
        Ok(())
    }

    /// The socket of a port; the address is given with each datagram.
    fn socket(&self, from: SocketAddr) -> io::Result<Arc<Socket>> {
        let key = (from.is_ipv6(), from.port());
        let mut sockets = self
            .sockets
            .lock()
            .expect("nothing panics while it holds the sockets");
        if let Some(socket) = sockets.get(&key) {
            return Ok(Arc::clone(socket));
        }
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let most = REPLY_SOCKETS.min(usize::try_from(descriptors / 8).unwrap_or(REPLY_SOCKETS));
        if sockets.len() >= most {
            // Rare (an app that asks a thousand ports), and a new one costs little.
            sockets.clear();
        }
        let opened = self.namespace.within(|| {
            let opened = socket(key.0, Type::DGRAM, Protocol::UDP)?;
            opened.set_reuse_address(true)?;
            opened.bind(&any(key.0, key.1).into())?;
            Ok(Arc::new(opened))
        })?;
        sockets.insert(key, Arc::clone(&opened));
        Ok(opened)
    }
}
