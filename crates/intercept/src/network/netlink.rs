//! Single requests to rtnetlink, each idempotent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_channel::mpsc;
use futures_util::{StreamExt, TryStreamExt};
use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressScope,
};
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::{RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_sys::SocketAddr;
use rtnetlink::{Error, Handle, IpVersion, LinkUnspec, RouteMessageBuilder};
use tokio::task::JoinSet;

/// The `proto` of every route and rule of ours (rt_protos leaves 192 to 253 to whom it may concern).
pub(super) const PROTOCOL: RouteProtocol = RouteProtocol::Other(198);

/// Opens a netlink socket in the namespace of the calling thread.
pub(super) fn connect(connections: &mut JoinSet<()>) -> Result<Handle, Error> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|error| Error::NamespaceError(error.to_string()))?;
    connections.spawn(connection);
    Ok(handle)
}

/// What the kernel tells of changes; one message for each.
pub(crate) struct Changes(
    mpsc::UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
);

impl Changes {
    /// Waits for one, and takes all that have come with it.
    pub(crate) async fn next(&mut self) {
        self.0.next().await;
        while self.0.try_recv().is_ok() {}
    }
}

/// Tells of devices, addresses and routes.
pub(super) fn watch(connections: &mut JoinSet<()>) -> Result<Changes, Error> {
    use rtnetlink::MulticastGroup::{Ipv4Ifaddr, Ipv4Route, Ipv6Ifaddr, Ipv6Route, Link};
    let groups = [Link, Ipv4Ifaddr, Ipv4Route, Ipv6Ifaddr, Ipv6Route];
    let (connection, _, messages) = rtnetlink::new_multicast_connection(&groups)
        .map_err(|error| Error::NamespaceError(error.to_string()))?;
    connections.spawn(connection);
    Ok(Changes(messages))
}

/// The index and MAC of the device `name`.
pub(super) async fn find(handle: &Handle, name: &str) -> Result<Option<(u32, Vec<u8>)>, Error> {
    let mut links = handle.link().get().match_name(name).execute();
    match links.try_next().await {
        Ok(Some(link)) => {
            let mac = link
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    LinkAttribute::Address(mac) => Some(mac.clone()),
                    _ => None,
                });
            Ok(Some((link.header.index, mac.unwrap_or_default())))
        }
        Ok(None) => Ok(None),
        Err(error) if is(&error, libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
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
pub(super) struct Route {
    pub(super) table: u32,
    pub(super) destination: (IpAddr, u8),
    pub(super) way: Way,
    pub(super) metric: Option<u32>,
}

pub(super) enum Way {
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

/// Every route of one family, of all tables.
pub(super) async fn all_routes(handle: &Handle, ipv6: bool) -> Result<Vec<RouteMessage>, Error> {
    let filter = if ipv6 {
        RouteMessageBuilder::<Ipv6Addr>::new().build()
    } else {
        RouteMessageBuilder::<Ipv4Addr>::new().build()
    };
    handle.route().get(filter).execute().try_collect().await
}

pub(super) async fn routes(
    handle: &Handle,
    ipv6: bool,
    table: u32,
) -> Result<Vec<RouteMessage>, Error> {
    let filter = if ipv6 {
        RouteMessageBuilder::<Ipv6Addr>::new()
            .table_id(table)
            .build()
    } else {
        RouteMessageBuilder::<Ipv4Addr>::new()
            .table_id(table)
            .build()
    };
    let all: Vec<_> = handle.route().get(filter).execute().try_collect().await?;
    Ok(all
        .into_iter()
        .filter(|route| table_of(route) == table)
        .collect())
}

fn table_of(route: &RouteMessage) -> u32 {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            netlink_packet_route::route::RouteAttribute::Table(table) => Some(*table),
            _ => None,
        })
        .unwrap_or(route.header.table.into())
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
