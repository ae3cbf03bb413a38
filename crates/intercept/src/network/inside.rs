//! The pair of devices, and the private namespace: there every address is local.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use netlink_packet_route::link::{InfoData, InfoVeth};
use netlink_packet_route::route::RouteAttribute;
use rtnetlink::{Handle, LinkUnspec, LinkVeth};

use super::lost::Lost;
use super::netlink::{self, Found, Route, Selector, Way};
use super::rules::Seen;
use super::settings::write;
use super::{DEVICE, Doing, INNER_DEVICE, INNER_V4, INNER_V6, NetworkError, SOURCE_V4, SOURCE_V6};
use crate::namespace::Namespace;

/// The largest that the kernel lets a veth have: no flow of ours meets a real link.
const MTU: u32 = 65535;
const LOCAL_TABLE: u32 = 255;
const OUT_TABLE: u32 = 100;
const LOOPBACK: u32 = 1;

/// The indexes of the two ends, host's first. A pair that is not whole is made anew.
pub(super) async fn pair(
    host: &Handle,
    inner: &Handle,
    namespace: &Namespace,
) -> Result<(u32, u32), NetworkError> {
    let (outer_end, inner_end) = ends(host, inner).await?;
    if let Some(pair) = joined(outer_end.as_ref(), inner_end.as_ref()) {
        return Ok(pair);
    }
    // The other end of one that was moved or renamed goes with it.
    for (handle, stale, name) in [(host, outer_end, DEVICE), (inner, inner_end, INNER_DEVICE)] {
        let Some(stale) = stale else { continue };
        let removed = handle.link().del(stale.index).execute().await;
        // The first one may have taken the second along.
        if netlink::find(handle, name).await.is_ok_and(|f| f.is_some()) {
            removed.doing(|| format!("remove the old {name}"))?;
        }
    }
    create(host, namespace).await?;
    let (Some(outer_end), Some(inner_end)) = ends(host, inner).await? else {
        return Err(rtnetlink::Error::RequestFailed)
            .doing(|| format!("find {DEVICE} and {INNER_DEVICE}"));
    };
    Ok((outer_end.index, inner_end.index))
}

/// The two ends, host's first.
async fn ends(
    host: &Handle,
    inner: &Handle,
) -> Result<(Option<Found>, Option<Found>), NetworkError> {
    let outer_end = netlink::find(host, DEVICE)
        .await
        .doing(|| format!("look for {DEVICE}"))?;
    let inner_end = netlink::find(inner, INNER_DEVICE)
        .await
        .doing(|| format!("look for {INNER_DEVICE}"))?;
    Ok((outer_end, inner_end))
}

/// The indexes of two ends that belong together.
fn joined(outer_end: Option<&Found>, inner_end: Option<&Found>) -> Option<(u32, u32)> {
    let (outer_end, inner_end) = (outer_end?, inner_end?);
    (outer_end.mac == inner_end.mac).then_some((outer_end.index, inner_end.index))
}

/// What of the pair is not as it should be, `known` being the indexes that it has.
pub(super) async fn inspect_pair(
    host: &Handle,
    inner: &Handle,
    known: (u32, u32),
) -> Result<Vec<Lost>, NetworkError> {
    let (outer_end, inner_end) = ends(host, inner).await?;
    if joined(outer_end.as_ref(), inner_end.as_ref()) != Some(known) {
        return Ok(vec![Lost::Pair]);
    }
    let is_off = |end: &Found| !end.is_up || !end.is_plain || end.mtu != MTU;
    let mut lost = Vec::new();
    for (inside, end) in [(false, outer_end), (true, inner_end)] {
        if end.as_ref().is_some_and(is_off) {
            lost.push(Lost::Device { inside });
        }
    }
    Ok(lost)
}

/// Brings one end up, as it should be.
pub(super) async fn set_up(handle: &Handle, device: u32, name: &str) -> Result<(), NetworkError> {
    let state = LinkUnspec::new_with_index(device).arp(false).mtu(MTU).up();
    handle
        .link()
        .set(state.build())
        .execute()
        .await
        .doing(|| format!("bring {name} up"))
}

/// Makes both ends where they belong in one step: the inner one is never seen here, and takes no name
/// that a device of the host has.
async fn create(host: &Handle, namespace: &Namespace) -> Result<(), NetworkError> {
    // Without ARP a packet carries the sender's own MAC as its target: equal ones make it arrive.
    // One that is given at the start is left alone by udevd (systemd.link(5), MACAddressPolicy=).
    let mac = local_mac();
    let inner = LinkUnspec::new_with_name(INNER_DEVICE)
        .setns_by_fd(namespace.file().as_raw_fd())
        .address(mac.to_vec())
        .build();
    let pair = LinkVeth::new(DEVICE, INNER_DEVICE)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(inner)))
        .address(mac.to_vec());
    host.link()
        .add(pair.build())
        .execute()
        .await
        .doing(|| format!("make the device pair {DEVICE} and {INNER_DEVICE}"))
}

/// A random address, locally administered and of one device (RFC 9542 section 2.1).
fn local_mac() -> [u8; 6] {
    let random = RandomState::new().build_hasher().finish();
    let [a, b, c, d, e, f, ..] = random.to_ne_bytes();
    [a & 0xfc | 0x02, b, c, d, e, f]
}

/// Addresses, rules and routes of the private namespace.
pub(super) async fn furnish(
    inner: &Handle,
    device: u32,
    namespace: &Namespace,
    ipv6: bool,
) -> Result<(), NetworkError> {
    namespace
        .within(|| {
            settings(ipv6);
            Ok(())
        })
        .map_err(|error: io::Error| rtnetlink::Error::NamespaceError(error.to_string()))
        .doing(|| "enter the private network namespace".into())?;
    netlink::bring_up(inner, LOOPBACK)
        .await
        .doing(|| "bring lo up inside".into())?;
    set_up(inner, device, INNER_DEVICE).await?;
    family(
        inner,
        device,
        IpAddr::V4(INNER_V4),
        SOURCE_V4.into(),
        Ipv4Addr::UNSPECIFIED.into(),
    )
    .await
    .doing(|| "route IPv4 inside".into())?;
    if ipv6 {
        family(
            inner,
            device,
            IpAddr::V6(INNER_V6),
            SOURCE_V6.into(),
            Ipv6Addr::UNSPECIFIED.into(),
        )
        .await
        .doing(|| "route IPv6 inside".into())?;
    }
    Ok(())
}

/// What of the addresses, rules and routes inside is gone.
pub(super) async fn inspect(
    inner: &Handle,
    device: u32,
    ipv6: bool,
) -> Result<Vec<Lost>, NetworkError> {
    let mut lost = Vec::new();
    let addresses = netlink::addresses(inner, device)
        .await
        .doing(|| "list the addresses inside".into())?;
    let own = [IpAddr::V4(INNER_V4), IpAddr::V6(INNER_V6)];
    for address in own.into_iter().filter(|a| ipv6 || a.is_ipv4()) {
        if !addresses.contains(&address) {
            let inside = true;
            lost.push(Lost::Address { address, inside });
        }
        let ipv6 = address.is_ipv6();
        let whole = is_routed(inner, device, ipv6)
            .await
            .doing(|| "look at the routing inside".into())?;
        if !whole {
            lost.push(Lost::Inside { ipv6 });
        }
    }
    Ok(lost)
}

async fn is_routed(inner: &Handle, device: u32, ipv6: bool) -> Result<bool, rtnetlink::Error> {
    let rules: Vec<_> = netlink::rules(inner, ipv6).await?;
    let rules: Vec<_> = rules.into_iter().map(Seen::of).collect();
    let is_there = |at, table| {
        let mut ours = rules.iter().filter(|rule| rule.is_ours);
        ours.any(|rule| rule.preference == at && rule.table == table)
    };
    let routes = netlink::own_routes(inner, ipv6).await?;
    let has_default = |table, to| {
        let mut all = routes.iter();
        all.any(|route| {
            netlink::table_of(route) == table
                && netlink::destination_of(route).1 == 0
                && route.attributes.contains(&RouteAttribute::Oif(to))
        })
    };
    Ok(is_there(1, OUT_TABLE)
        && is_there(2, LOCAL_TABLE)
        && !rules.iter().any(|rule| rule.preference == 0)
        && has_default(OUT_TABLE, device)
        && has_default(LOCAL_TABLE, LOOPBACK))
}

/// What is sent inside leaves by the pair; what arrives is local, whatever its address.
async fn family(
    inner: &Handle,
    device: u32,
    own: IpAddr,
    gateway: IpAddr,
    any: IpAddr,
) -> Result<(), rtnetlink::Error> {
    let ipv6 = own.is_ipv6();
    netlink::add_address(inner, device, own).await?;
    let local = Route {
        table: LOCAL_TABLE,
        destination: (any, 0),
        way: Way::Local { device: LOOPBACK },
        metric: None,
    };
    let out = netlink::routes(inner, ipv6, OUT_TABLE).await?;
    if !out
        .iter()
        .any(|route| route.attributes.contains(&RouteAttribute::Oif(device)))
    {
        // Once every address is local the kernel takes none for a gateway.
        netlink::route_delete(inner, &local).await?;
        let out = Route {
            table: OUT_TABLE,
            destination: (any, 0),
            way: Way::Via {
                device,
                gateway,
                source: None,
            },
            metric: None,
        };
        netlink::route_add(inner, &out).await?;
    }
    netlink::route_add(inner, &local).await?;
    netlink::rule_add(
        inner,
        netlink::rule(ipv6, 1, &Selector::Input("lo"), OUT_TABLE),
    )
    .await?;
    netlink::rule_add(
        inner,
        netlink::rule(ipv6, 2, &Selector::Everything, LOCAL_TABLE),
    )
    .await?;
    for rule in netlink::rules(inner, ipv6).await? {
        let preference = rule
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                netlink_packet_route::rule::RuleAttribute::Priority(preference) => {
                    Some(*preference)
                }
                _ => None,
            });
        // The kernel's own first rule would keep everything inside.
        if preference.unwrap_or(0) == 0 {
            netlink::rule_delete(inner, rule).await?;
        }
    }
    Ok(())
}

fn settings(ipv6: bool) {
    for scope in ["all", "default", INNER_DEVICE] {
        write(&format!("net/ipv4/conf/{scope}/rp_filter"), "0");
        write(&format!("net/ipv4/conf/{scope}/accept_local"), "1");
        write(&format!("net/ipv4/conf/{scope}/route_localnet"), "1");
    }
    write("net/ipv4/icmp_ratelimit", "0");
    write("net/core/somaxconn", "65535");
    write("net/ipv4/tcp_max_syn_backlog", "65535");
    // Every captured flow has one half here: do not let the default limit orphans or TIME_WAIT.
    write("net/ipv4/tcp_max_tw_buckets", "262144");
    if ipv6 {
        write("net/ipv6/icmp/ratelimit", "0");
        // UDP replies are sent from the address that the app asked.
        write("net/ipv6/ip_nonlocal_bind", "1");
        for setting in [
            "accept_ra",
            "autoconf",
            "accept_dad",
            "router_solicitations",
        ] {
            write(&format!("net/ipv6/conf/{INNER_DEVICE}/{setting}"), "0");
        }
    }
}
