//! What the kernel tells of changes to devices, addresses, routes and rules.

use std::io;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkAttribute;
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use rtnetlink::MulticastGroup;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use super::tables::is_ours;
use super::{DEVICE, netlink};
use crate::namespace::Namespace;

/// Messages that are read in one go; more come with the next.
const BURST: usize = 1024;
/// Room for what comes while nobody reads, in octets. When it is full everything is looked at.
const BUFFER: usize = 1 << 20;
const MAIN_TABLE: u32 = 254;

/// What may be another than before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Somebody else touched what is ours, or the routing rules.
    pub ours: bool,
    /// Addresses, devices or routes of the host itself.
    pub host: bool,
}

impl Change {
    /// Everything may be another.
    pub const ALL: Self = Self {
        ours: true,
        host: true,
    };
    const NONE: Self = Self {
        ours: false,
        host: false,
    };
    const OURS: Self = Self {
        ours: true,
        host: false,
    };
    const HOST: Self = Self {
        ours: false,
        host: true,
    };

    fn join(&mut self, other: Self) {
        self.ours |= other.ours;
        self.host |= other.host;
    }
}

/// Listens to both namespaces. What was changed through the sockets `own` is not told.
pub(crate) struct Changes {
    host: Listener,
    inside: Listener,
}

struct Listener {
    socket: AsyncFd<Socket>,
    own: u32,
    /// Everything inside is ours.
    is_inside: bool,
}

impl Changes {
    pub(super) fn listen(namespace: &Namespace, [host, inside]: [u32; 2]) -> io::Result<Self> {
        Ok(Self {
            host: Listener::open(host, false)?,
            inside: namespace.within(|| Listener::open(inside, true))?,
        })
    }

    /// Waits for changes by others, and takes all that have come by then.
    pub(crate) async fn next(&mut self) -> Change {
        loop {
            let change = tokio::select! {
                change = self.host.take() => change,
                change = self.inside.take() => change,
            };
            if change != Change::NONE {
                return change;
            }
        }
    }
}

impl Listener {
    /// Opens the socket in the namespace of the calling thread.
    fn open(own: u32, is_inside: bool) -> io::Result<Self> {
        use MulticastGroup::{
            Ipv4Ifaddr, Ipv4Netconf, Ipv4Route, Ipv4Rule, Ipv6Ifaddr, Ipv6Netconf, Ipv6Route,
            Ipv6Rule, Link,
        };
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        for group in [
            Link,
            Ipv4Ifaddr,
            Ipv4Route,
            Ipv4Rule,
            Ipv4Netconf,
            Ipv6Ifaddr,
            Ipv6Route,
            Ipv6Rule,
            Ipv6Netconf,
        ] {
            socket.add_membership(group as u32)?;
        }
        socket.set_rx_buf_sz(BUFFER as libc::c_int)?;
        socket.set_non_blocking(true)?;
        Ok(Self {
            socket: register(socket)?,
            own,
            is_inside,
        })
    }

    async fn take(&self) -> Change {
        match self.socket.readable().await {
            Ok(mut ready) => self.drain(&mut ready),
            // The runtime ends.
            Err(_) => std::future::pending().await,
        }
    }

    fn drain(&self, ready: &mut AsyncFdReadyGuard<'_, Socket>) -> Change {
        let mut change = Change::NONE;
        let mut buffer = Vec::with_capacity(32 << 10);
        for _ in 0..BURST {
            buffer.clear();
            match ready.try_io(|socket| socket.get_ref().recv(&mut buffer, 0)) {
                Ok(Ok(_)) => change.join(self.read(&buffer)),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                // ENOBUFS: some were lost.
                Ok(Err(_)) => return Change::ALL,
                Err(_) => break,
            }
        }
        change
    }

    fn read(&self, mut buffer: &[u8]) -> Change {
        let mut change = Change::NONE;
        while !buffer.is_empty() && change != Change::ALL {
            let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(buffer) else {
                // Such as NETCONF: a setting is another.
                change.join(Change::OURS);
                let Some(length) = buffer.first_chunk().map(|word| u32::from_ne_bytes(*word))
                else {
                    break;
                };
                buffer = after(buffer, length);
                continue;
            };
            buffer = after(buffer, message.header.length);
            if message.header.port_number != self.own {
                change.join(self.judge(&message.payload));
            }
        }
        change
    }

    fn judge(&self, payload: &NetlinkPayload<RouteNetlinkMessage>) -> Change {
        use RouteNetlinkMessage::{
            DelAddress, DelLink, DelRoute, DelRule, NewAddress, NewLink, NewRoute, NewRule,
        };
        if self.is_inside {
            return Change::OURS;
        }
        let NetlinkPayload::InnerMessage(message) = payload else {
            return Change::ALL;
        };
        match message {
            NewRule(_) | DelRule(_) => Change::OURS,
            NewRoute(route) | DelRoute(route) => {
                let table = netlink::table_of(route);
                if route.header.protocol == netlink::PROTOCOL || is_ours(table) {
                    Change::OURS
                } else if table == MAIN_TABLE {
                    Change::HOST
                } else {
                    Change::NONE
                }
            }
            NewLink(link) | DelLink(link) => {
                let ours = LinkAttribute::IfName(DEVICE.to_owned());
                if link.attributes.contains(&ours) {
                    Change::ALL
                } else {
                    Change::HOST
                }
            }
            // Also what IPv6 does to every device when it is switched off or on.
            NewAddress(_) | DelAddress(_) => Change::ALL,
            _ => Change::NONE,
        }
    }
}

#[expect(unsafe_code, reason = "the socket says nothing about what it holds")]
fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: the socket owns its descriptor, which stays the same and open for as long as it lives.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(io::Error::from)
}

/// What follows a message of this length; messages begin at multiples of four octets.
fn after(buffer: &[u8], length: u32) -> &[u8] {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    buffer
        .get(length.max(16).saturating_add(3) & !3..)
        .unwrap_or_default()
}
