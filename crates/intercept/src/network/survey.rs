//! What the host's network looks like: own addresses, networks on the link, IPv6.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType,
};
use offramp_rules::Prefix;
use rtnetlink::Handle;

use super::{Doing, NetworkError, netlink};

const MAIN_TABLE: u32 = 254;

/// The host's addresses and the networks that it reaches without a router.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Every address of the machine but loopback and our own.
    pub own: BTreeSet<IpAddr>,
    /// Prefixes on the link, link-local ones included. Blocks wider than /8 (IPv4) or /16 (IPv6)
    /// are left out: no real link has them, and a hostile network could claim the internet so.
    pub local: BTreeSet<Prefix>,
    /// Whether a global IPv6 address exists besides ours.
    pub ipv6: bool,
}

pub(super) async fn survey(
    handle: &Handle,
    device: u32,
    ipv6: bool,
) -> Result<Survey, NetworkError> {
    let mut survey = Survey::default();
    let addresses: Vec<_> = handle
        .address()
        .get()
        .execute()
        .try_collect()
        .await
        .doing(|| "list the addresses".into())?;
    for message in addresses
        .iter()
        .filter(|message| message.header.index != device)
    {
        let local = message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
        let other = message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            });
        // On a point-to-point link the other one is the peer's.
        if let Some(address) = local.or(other).filter(|address| !address.is_loopback()) {
            survey.own.insert(address);
            survey.ipv6 |= matches!(address, IpAddr::V6(v6) if !v6.is_unicast_link_local());
        }
    }
    for family in [false, true] {
        if family && !ipv6 {
            continue;
        }
        let routes = netlink::routes(handle, family, MAIN_TABLE)
            .await
            .doing(|| "list the routes".into())?;
        survey
            .local
            .extend(routes.iter().filter_map(|route| on_link(route, device)));
    }
    if !survey.own.is_empty() {
        survey
            .local
            .extend(Prefix::new(Ipv4Addr::new(169, 254, 0, 0).into(), 16));
        survey.local.extend(Prefix::new(
            Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).into(),
            10,
        ));
    }
    survey.ipv6 &= ipv6;
    Ok(survey)
}

fn on_link(route: &RouteMessage, device: u32) -> Option<Prefix> {
    let mut destination = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => {
                destination = Some(IpAddr::V4(*v4))
            }
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => {
                destination = Some(IpAddr::V6(*v6))
            }
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_) => {
                return None;
            }
            RouteAttribute::Oif(index) if *index == device || *index == 1 => return None,
            _ => {}
        }
    }
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    let length = route.header.destination_prefix_length;
    let (narrow_enough, direct) = match destination? {
        IpAddr::V4(_) => (length >= 8, route.header.scope == RouteScope::Link),
        IpAddr::V6(_) => (length >= 16, true),
    };
    if !(narrow_enough && direct) {
        return None;
    }
    Prefix::containing(destination?, length).ok()
}
