//! Single requests to rtnetlink, each idempotent.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressScope,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_sys::AsyncSocket;
use rtnetlink::{Error, Handle, IpVersion, LinkUnspec, RouteMessageBuilder};
use tokio::task::JoinSet;

/// The `proto` of every route and rule of ours (rt_protos leaves 192 to 253 to whom it may concern).
pub(super) const PROTOCOL: RouteProtocol = RouteProtocol::Other(198);

/// Opens a netlink socket in the namespace of the calling thread. Returns with the handle the port
/// that the kernel knows the socket by: it names who made a change.
pub(super) fn connect(connections: &mut JoinSet<()>) -> io::Result<(Handle, u32)> {
    let (mut connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
    let socket = AsyncSocket::socket_mut(connection.socket_mut());
    let port = socket.bind_auto()?.port_number();
    connections.spawn(connection);
    Ok((handle, port))
}

/// What matters of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) index: u32,
    pub(super) mac: Vec<u8>,
    pub(super) mtu: u32,
    pub(super) is_up: bool,
    /// Without ARP.
    pub(super) is_plain: bool,
}

/// The device `name`.
pub(super) async fn find(handle: &Handle, name: &str) -> Result<Option<Found>, Error> {
    let mut links = handle.link().get().match_name(name).execute();
    let link = match links.try_next().await {
        Ok(Some(link)) => link,
        Ok(None) => return Ok(None),
        Err(error) if is(&error, libc::ENODEV) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut found = Found {
        index: link.header.index,
        is_up: link.header.flags.contains(LinkFlags::Up),
        is_plain: link.header.flags.contains(LinkFlags::Noarp),
        ..Found::default()
    };
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::Address(mac) => found.mac = mac,
            LinkAttribute::Mtu(mtu) => found.mtu = mtu,
            _ => {}
        }
    }
    Ok(Some(found))
}

/// The addresses of the device.
pub(super) async fn addresses(handle: &Handle, device: u32) -> Result<Vec<IpAddr>, Error> {
    let all: Vec<_> = handle.address().get().execute().try_collect().await?;
    let of_device = all
        .into_iter()
        .filter(|message| message.header.index == device);
    Ok(of_device
        .flat_map(|message| message.attributes)
        .filter_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(address),
            _ => None,
        })
        .collect())
}

pub(super) async fn bring_up(handle: &Handle, device: u32) -> Result<(), Error> {
    handle
        .link()
        .set(LinkUnspec::new_with_index(device).up().build())
        .execute()
        .await
}

/// Gives one address, of host scope so that no program gets it as a source by chance.
pub(super) async fn add_address(
    handle: &Handle,
    device: u32,
    address: IpAddr,
) -> Result<(), Error> {
    let length = if address.is_ipv4() { 32 } else { 128 };
    let mut request = handle.address().add(device, address, length).replace();
    let message = request.message_mut();
    if address.is_ipv4() {
        message.header.scope = AddressScope::Host;
    } else {
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(
            AddressFlags::Nodad | AddressFlags::Noprefixroute,
        ));
    }
    request.execute().await
}

/// A route that [`route_add`] takes; every one carries our protocol number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(super) table: u32,
    pub(super) destination: (IpAddr, u8),
    pub(super) way: Way,
    pub(super) metric: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Via {
        device: u32,
        gateway: IpAddr,
        source: Option<IpAddr>,
    },
    Local {
        device: u32,
    },
    Throw,
    Unreachable,
}

impl Route {
    fn message(&self) -> RouteMessage {
        match self.destination.0 {
            IpAddr::V4(destination) => {
                let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(destination, self.destination.1)
                    .table_id(self.table)
                    .protocol(PROTOCOL);
                if let Way::Via {
                    device,
                    gateway: IpAddr::V4(gateway),
                    source,
                } = self.way
                {
                    builder = builder.output_interface(device).gateway(gateway).onlink();
                    if let Some(IpAddr::V4(source)) = source {
                        builder = builder.pref_source(source);
                    }
                }
                self.finish(builder)
            }
            IpAddr::V6(destination) => {
                let mut builder = RouteMessageBuilder::<Ipv6Addr>::new()
                    .destination_prefix(destination, self.destination.1)
                    .table_id(self.table)
                    .protocol(PROTOCOL);
                if let Way::Via {
                    device,
                    gateway: IpAddr::V6(gateway),
                    source,
                } = self.way
                {
                    builder = builder.output_interface(device).gateway(gateway).onlink();
                    if let Some(IpAddr::V6(source)) = source {
                        builder = builder.pref_source(source);
                    }
                }
                self.finish(builder)
            }
        }
    }

    fn finish<T>(&self, builder: RouteMessageBuilder<T>) -> RouteMessage {
        let builder = match self.way {
            Way::Via { .. } => builder,
            Way::Local { device } => builder
                .kind(RouteType::Local)
                .scope(RouteScope::Host)
                .output_interface(device),
            Way::Throw => builder.kind(RouteType::Throw),
            Way::Unreachable => builder.kind(RouteType::Unreachable),
        };
        match self.metric {
            Some(metric) => builder.priority(metric).build(),
            None => builder.build(),
        }
    }
}

pub(super) async fn route_add(handle: &Handle, route: &Route) -> Result<(), Error> {
    match handle
        .route()
        .add(route.message())
        .replace()
        .execute()
        .await
    {
        Err(error) if is(&error, libc::EEXIST) => Ok(()),
        result => result,
    }
}

pub(super) async fn route_delete(handle: &Handle, route: &Route) -> Result<(), Error> {
    remove(handle, route.message()).await
}

/// Removes a route as the kernel told of it; one that is gone is no error.
pub(super) async fn remove(handle: &Handle, route: RouteMessage) -> Result<(), Error> {
    match handle.route().del(route).execute().await {
        Err(error) if is(&error, libc::ESRCH) => Ok(()),
        result => result,
    }
}

/// Every route of ours of one family, of all tables, in one answer.
pub(super) async fn own_routes(handle: &Handle, ipv6: bool) -> Result<Vec<RouteMessage>, Error> {
    dump(handle, ipv6, |filter| filter.header.protocol = PROTOCOL).await
}

/// Every route of one table, whoever made it.
pub(super) async fn routes(
    handle: &Handle,
    ipv6: bool,
    table: u32,
) -> Result<Vec<RouteMessage>, Error> {
    let all = dump(handle, ipv6, |filter| {
        filter.attributes.push(RouteAttribute::Table(table));
    })
    .await?;
    Ok(all
        .into_iter()
        .filter(|route| table_of(route) == table)
        .collect())
}

/// The kernel filters by what the header has that is not zero (the socket asks for strict checks).
async fn dump(
    handle: &Handle,
    ipv6: bool,
    narrow: impl FnOnce(&mut RouteMessage),
) -> Result<Vec<RouteMessage>, Error> {
    let mut filter = RouteMessage::default();
    filter.header.address_family = if ipv6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    narrow(&mut filter);
    match handle.route().get(filter).execute().try_collect().await {
        // There is no such table, or the kernel has no IPv6.
        Err(error) if is(&error, libc::ENOENT) || is(&error, libc::EOPNOTSUPP) => Ok(Vec::new()),
        found => found,
    }
}

pub(super) fn table_of(route: &RouteMessage) -> u32 {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        })
        .unwrap_or(route.header.table.into())
}

/// The block of addresses that a route is for.
pub(super) fn destination_of(route: &RouteMessage) -> (IpAddr, u8) {
    let any = match route.header.address_family {
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let address = route.attributes.iter().find_map(|attribute| {
        let RouteAttribute::Destination(address) = attribute else {
            return None;
        };
        match address {
            RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
            RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
            _ => None,
        }
    });
    (
        address.unwrap_or(any),
        route.header.destination_prefix_length,
    )
}

/// What a rule looks at.
pub(super) enum Selector {
    Mark { mark: u32, mask: u32 },
    Source(IpAddr),
    Input(&'static str),
    Everything,
}

pub(super) fn rule(ipv6: bool, preference: u32, selector: &Selector, table: u32) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if ipv6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    message.header.action = RuleAction::ToTable;
    message.attributes.push(RuleAttribute::Priority(preference));
    message.attributes.push(RuleAttribute::Table(table));
    message.attributes.push(RuleAttribute::Protocol(PROTOCOL));
    match selector {
        Selector::Mark { mark, mask } => {
            message.attributes.push(RuleAttribute::FwMark(*mark));
            message.attributes.push(RuleAttribute::FwMask(*mask));
        }
        Selector::Source(source) => {
            message.header.src_len = if ipv6 { 128 } else { 32 };
            message.attributes.push(RuleAttribute::Source(*source));
        }
        Selector::Input(device) => {
            message
                .attributes
                .push(RuleAttribute::Iifname((*device).to_owned()));
        }
        Selector::Everything => {}
    }
    message
}

pub(super) async fn rule_add(handle: &Handle, rule: RuleMessage) -> Result<(), Error> {
    let mut request = handle.rule().add();
    *request.message_mut() = rule;
    match request.execute().await {
        Err(error) if is(&error, libc::EEXIST) => Ok(()),
        result => result,
    }
}

pub(super) async fn rule_delete(handle: &Handle, rule: RuleMessage) -> Result<(), Error> {
    match handle.rule().del(rule).execute().await {
        Err(error) if is(&error, libc::ENOENT) => Ok(()),
        result => result,
    }
}

pub(super) async fn rules(handle: &Handle, ipv6: bool) -> Result<Vec<RuleMessage>, Error> {
    let version = if ipv6 { IpVersion::V6 } else { IpVersion::V4 };
    handle.rule().get(version).execute().try_collect().await
}

/// Whether the kernel answered with this errno.
fn is(error: &Error, errno: i32) -> bool {
    matches!(error, Error::NetlinkError(message) if message.raw_code() == -errno)
}
