//! The pair of devices, and the private namespace: there every address is local.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use rtnetlink::{Handle, LinkUnspec, LinkVeth};

use super::netlink::{self, Route, Selector, Way};
use super::settings::write;
use super::{DEVICE, Doing, INNER_DEVICE, INNER_V4, INNER_V6, NetworkError, SOURCE_V4, SOURCE_V6};
use crate::namespace::Namespace;

/// The largest that the kernel lets a veth have: no flow of ours meets a real link.
const MTU: u32 = 65535;
const LOCAL_TABLE: u32 = 255;
const OUT_TABLE: u32 = 100;

/// The indexes of the two ends, host's first. A pair whose other end is gone is made anew.
pub(super) async fn pair(
    host: &Handle,
    inner: &Handle,
    namespace: &Namespace,
) -> Result<(u32, u32), NetworkError> {
    let find_host = || format!("look for {DEVICE}");
    let outer_end = netlink::find(host, DEVICE).await.doing(find_host)?;
    let inner_end = netlink::find(inner, INNER_DEVICE)
        .await
        .doing(|| format!("look for {INNER_DEVICE}"))?;
    match (outer_end, inner_end) {
        (Some((outer, outer_mac)), Some((inner, inner_mac))) if outer_mac == inner_mac => {
            return Ok((outer, inner));
        }
        (Some((stale, _)), _) => {
            host.link()
                .del(stale)
                .execute()
                .await
                .doing(|| format!("remove the old {DEVICE}"))?;
        }
        _ => {}
    }
    create(host, namespace).await?;
    let (outer, mac) = netlink::find(host, DEVICE)
        .await
        .and_then(|found| found.ok_or(rtnetlink::Error::RequestFailed))
        .doing(find_host)?;
    let (inner_index, _) = netlink::find(inner, INNER_DEVICE)
        .await
        .and_then(|found| found.ok_or(rtnetlink::Error::RequestFailed))
        .doing(|| format!("look for {INNER_DEVICE}"))?;
    // Without ARP a packet carries the sender's own MAC as its target: equal ones make it arrive.
    inner
        .link()
        .set(
            LinkUnspec::new_with_index(inner_index)
                .address(mac)
                .arp(false)
                .mtu(MTU)
                .build(),
        )
        .execute()
        .await
        .doing(|| format!("set up {INNER_DEVICE}"))?;
    Ok((outer, inner_index))
}

async fn create(host: &Handle, namespace: &Namespace) -> Result<(), NetworkError> {
    host.link()
        .add(LinkVeth::new(DEVICE, INNER_DEVICE).build())
        .execute()
        .await
        .doing(|| format!("make the device pair {DEVICE} and {INNER_DEVICE}"))?;
    host.link()
        .set(
            LinkUnspec::new_with_name(INNER_DEVICE)
                .setns_by_fd(namespace.file().as_raw_fd())
                .build(),
        )
        .execute()
        .await
        .doing(|| format!("move {INNER_DEVICE} into its namespace"))?;
    host.link()
        .set(
            LinkUnspec::new_with_name(DEVICE)
                .arp(false)
                .mtu(MTU)
                .build(),
        )
        .execute()
        .await
        .doing(|| format!("set up {DEVICE}"))
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
    netlink::bring_up(inner, 1)
        .await
        .doing(|| "bring lo up inside".into())?;
    netlink::bring_up(inner, device)
        .await
        .doing(|| format!("bring {INNER_DEVICE} up"))?;
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
        way: Way::Local { device: 1 },
        metric: None,
    };
    if netlink::routes(inner, ipv6, OUT_TABLE).await?.is_empty() {
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
