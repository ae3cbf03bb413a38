//! The rules and tables of the host namespace: one for each class, one for what comes back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use offramp_rules::Prefix;
use rtnetlink::{Error, Handle};

use super::netlink::{self, Route, Selector, Way};
use super::{Doing, INNER_V4, INNER_V6, NetworkError, SOURCE_V4, SOURCE_V6};
use crate::class::{ClassId, MARK_MASK, RETURN_CLASS};

/// Where our rules stand: behind `local`, before everything that VPNs and Docker add.
const PREFERENCE: u32 = 100;
/// Table numbers are this plus the class.
const TABLES: u32 = 198_180_000;
/// Behind every other route of a table: without the device nothing goes elsewhere.
const LAST_RESORT: u32 = 4_000_000;

/// The host's routes into the pair.
pub(crate) struct Tables {
    handle: Handle,
    device: u32,
    ipv6: bool,
}

/// What the table of a class holds besides the way to the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClassRoutes {
    /// Targets that take the main table.
    pub(crate) throws: Vec<Prefix>,
}

/// Something in the host's rules that stands in the way of capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// A rule of ours was removed; the flows of the class are refused.
    RuleGone {
        /// The class whose rule it was.
        class: ClassId,
        /// Its address family.
        ipv6: bool,
    },
    /// Somebody else's rule is asked before ours.
    ComesFirst {
        /// Its preference.
        preference: u32,
        /// Its address family.
        ipv6: bool,
    },
    /// Somebody else's rule looks at the bits of the mark that are ours.
    SharesMark {
        /// The mark that it looks for.
        mark: u32,
        /// The bits that it looks at.
        mask: u32,
    },
}

/// What a check needs of a rule.
struct Seen {
    ours: bool,
    preference: u32,
    table: u32,
    /// Mark and mask.
    mark: (u32, u32),
}

impl Seen {
    fn of(rule: &netlink_packet_route::rule::RuleMessage) -> Self {
        use netlink_packet_route::rule::RuleAttribute;
        let mut seen = Self {
            ours: false,
            preference: 0,
            table: rule.header.table.into(),
            mark: (0, 0),
        };
        for attribute in &rule.attributes {
            match attribute {
                RuleAttribute::Protocol(protocol) => seen.ours = *protocol == netlink::PROTOCOL,
                RuleAttribute::Priority(preference) => seen.preference = *preference,
                RuleAttribute::Table(table) => seen.table = *table,
                RuleAttribute::FwMark(mark) => seen.mark.0 = *mark,
                RuleAttribute::FwMask(mask) => seen.mark.1 = *mask,
                _ => {}
            }
        }
        seen
    }
}

impl Tables {
    pub(super) fn new(handle: &Handle, device: u32, ipv6: bool) -> Self {
        Self {
            handle: handle.clone(),
            device,
            ipv6,
        }
    }

    pub(super) async fn start(
        handle: &Handle,
        device: u32,
        ipv6: bool,
    ) -> Result<Self, NetworkError> {
        let tables = Self::new(handle, device, ipv6);
        tables
            .add_class(RETURN_CLASS, &ClassRoutes::default())
            .await?;
        for source in tables.families::<IpAddr>([SOURCE_V4.into(), SOURCE_V6.into()]) {
            let rule = netlink::rule(
                source.is_ipv6(),
                PREFERENCE + 1,
                &Selector::Source(source),
                table(RETURN_CLASS),
            );
            netlink::rule_add(handle, rule)
                .await
                .doing(|| format!("add the rule for {source}"))?;
        }
        Ok(tables)
    }

    /// Writes the table first and the rule last, so that the mark never leads nowhere.
    pub(crate) async fn add_class(
        &self,
        class: ClassId,
        routes: &ClassRoutes,
    ) -> Result<(), NetworkError> {
        self.try_add(class, routes)
            .await
            .doing(|| format!("add the routes of class {class}"))
    }

    /// Adds one direct target to a class.
    pub(crate) async fn throw(&self, class: ClassId, target: Prefix) -> Result<(), NetworkError> {
        if target.address().is_ipv6() && !self.ipv6 {
            return Ok(());
        }
        netlink::route_add(&self.handle, &throw(class, target))
            .await
            .doing(|| format!("add the route to {target} of class {class}"))
    }

    /// Takes one back.
    pub(crate) async fn unthrow(&self, class: ClassId, target: Prefix) -> Result<(), NetworkError> {
        if target.address().is_ipv6() && !self.ipv6 {
            return Ok(());
        }
        netlink::route_delete(&self.handle, &throw(class, target))
            .await
            .doing(|| format!("remove the route to {target} of class {class}"))
    }

    pub(crate) async fn remove_class(&self, class: ClassId) -> Result<(), NetworkError> {
        self.try_remove(class)
            .await
            .doing(|| format!("remove the routes of class {class}"))
    }

    /// What of the host's rules would keep flows of these classes from the daemon: ours that are
    /// gone, and those of others that come first.
    pub(crate) async fn conflicts(
        &self,
        classes: &[ClassId],
    ) -> Result<Vec<Conflict>, NetworkError> {
        let mut conflicts = Vec::new();
        for ipv6 in self.families([false, true]) {
            let rules = netlink::rules(&self.handle, ipv6)
                .await
                .doing(|| "list the routing rules".into())?;
            let rules: Vec<_> = rules.iter().map(Seen::of).collect();
            for class in classes.iter().chain([&RETURN_CLASS]) {
                let present = |rule: &Seen| {
                    rule.ours && rule.table == table(*class) && rule.mark.0 == class.mark()
                };
                if !rules.iter().any(present) {
                    conflicts.push(Conflict::RuleGone {
                        class: *class,
                        ipv6,
                    });
                }
            }
            for rule in rules
                .iter()
                .filter(|rule| !rule.ours && rule.preference > 0)
            {
                let overlaps = rule.mark.1 & MARK_MASK != 0;
                if rule.preference <= PREFERENCE + 1 {
                    conflicts.push(Conflict::ComesFirst {
                        preference: rule.preference,
                        ipv6,
                    });
                } else if overlaps && rule.mark.1 != u32::MAX {
                    conflicts.push(Conflict::SharesMark {
                        mark: rule.mark.0,
                        mask: rule.mark.1,
                    });
                }
            }
        }
        Ok(conflicts)
    }

    /// Removes every rule and route of ours, those of earlier runs too.
    pub(super) async fn stop(&self) -> Result<(), NetworkError> {
        for ipv6 in self.families([false, true]) {
            for rule in netlink::rules(&self.handle, ipv6)
                .await
                .doing(|| "list the routing rules".into())?
            {
                use netlink_packet_route::rule::RuleAttribute;
                if rule
                    .attributes
                    .contains(&RuleAttribute::Protocol(netlink::PROTOCOL))
                {
                    netlink::rule_delete(&self.handle, rule)
                        .await
                        .doing(|| "remove a routing rule".into())?;
                }
            }
        }
        // The routes through the device go with it; the others are told by their protocol.
        self.flush().await.doing(|| "remove the routes".into())
    }

    async fn flush(&self) -> Result<(), Error> {
        for ipv6 in self.families([false, true]) {
            for route in netlink::all_routes(&self.handle, ipv6).await? {
                if route.header.protocol == netlink::PROTOCOL {
                    netlink::remove(&self.handle, route).await?;
                }
            }
        }
        Ok(())
    }

    async fn try_add(&self, class: ClassId, routes: &ClassRoutes) -> Result<(), Error> {
        for any in
            self.families::<IpAddr>([Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()])
        {
            for route in [self.default_route(class, any), last_resort(class, any)] {
                netlink::route_add(&self.handle, &route).await?;
            }
        }
        for target in &routes.throws {
            if target.address().is_ipv4() || self.ipv6 {
                netlink::route_add(&self.handle, &throw(class, *target)).await?;
            }
        }
        for rule in self.mark_rules(class) {
            netlink::rule_add(&self.handle, rule).await?;
        }
        Ok(())
    }

    async fn try_remove(&self, class: ClassId) -> Result<(), Error> {
        for rule in self.mark_rules(class) {
            netlink::rule_delete(&self.handle, rule).await?;
        }
        for ipv6 in self.families([false, true]) {
            for route in netlink::routes(&self.handle, ipv6, table(class)).await? {
                netlink::remove(&self.handle, route).await?;
            }
        }
        Ok(())
    }

    fn mark_rules(&self, class: ClassId) -> Vec<netlink_packet_route::rule::RuleMessage> {
        let selector = Selector::Mark {
            mark: class.mark(),
            mask: MARK_MASK,
        };
        self.families([false, true])
            .into_iter()
            .map(|ipv6| netlink::rule(ipv6, PREFERENCE, &selector, table(class)))
            .collect()
    }

    fn default_route(&self, class: ClassId, any: IpAddr) -> Route {
        let (gateway, source): (IpAddr, IpAddr) = match any {
            IpAddr::V4(_) => (INNER_V4.into(), SOURCE_V4.into()),
            IpAddr::V6(_) => (INNER_V6.into(), SOURCE_V6.into()),
        };
        Route {
            table: table(class),
            destination: (any, 0),
            way: Way::Via {
                device: self.device,
                gateway,
                source: Some(source),
            },
            metric: None,
        }
    }

    /// The IPv4 and, where there is IPv6, the IPv6 one of a pair.
    fn families<T>(&self, [v4, v6]: [T; 2]) -> Vec<T> {
        if self.ipv6 { vec![v4, v6] } else { vec![v4] }
    }
}

fn table(class: ClassId) -> u32 {
    TABLES + u32::from(class.number())
}

fn throw(class: ClassId, target: Prefix) -> Route {
    Route {
        table: table(class),
        destination: (target.address(), target.length()),
        way: Way::Throw,
        metric: None,
    }
}

fn last_resort(class: ClassId, any: IpAddr) -> Route {
    Route {
        table: table(class),
        destination: (any, 0),
        way: Way::Unreachable,
        metric: Some(LAST_RESORT),
    }
}
