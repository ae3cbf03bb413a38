//! The rules and tables of the host namespace: one for each class, one for what comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::rule::RuleMessage;
use offramp_rules::Prefix;
use rtnetlink::{Error, Handle};

use super::lost::Lost;
use super::netlink::{self, Route, Selector, Way};
use super::rules::{self, Conflict, Seen};
use super::{Doing, INNER_V4, INNER_V6, NetworkError, SOURCE_V4, SOURCE_V6};
use crate::class::{ClassId, MARK_MASK, RETURN_CLASS};

/// Table numbers are this plus the class.
const TABLES: u32 = 198_180_000;
/// Behind every other route of a table: without the device nothing goes elsewhere.
const LAST_RESORT: u32 = 4_000_000;

/// The host's routes into the pair.
pub(crate) struct Tables {
    handle: Handle,
    device: u32,
    /// Whether IPv6 is on.
    ipv6: bool,
    /// Where our rules stand, for IPv4 and IPv6.
    places: [u32; 2],
}

/// Each class with what its table holds.
pub(crate) type Wanted = BTreeMap<ClassId, ClassRoutes>;

/// What the table of a class holds besides the way to the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClassRoutes {
    /// Targets that take the main table.
    pub(crate) throws: Vec<Prefix>,
}

impl Tables {
    pub(super) fn new(handle: &Handle, device: u32, ipv6: bool) -> Self {
        Self {
            handle: handle.clone(),
            device,
            ipv6,
            places: [0; 2],
        }
    }

    pub(super) async fn start(
        handle: &Handle,
        device: u32,
        ipv6: bool,
    ) -> Result<Self, NetworkError> {
        let mut tables = Self::new(handle, device, ipv6);
        // IPv6 may be switched on later.
        for ipv6 in all_families() {
            let place = rules::place(&tables.rules(ipv6).await?);
            tables.settle(ipv6, place).await?;
        }
        tables
            .add_class(RETURN_CLASS, &ClassRoutes::default())
            .await?;
        for ipv6 in tables.families([false, true]) {
            tables.add_source_rule(ipv6).await?;
        }
        Ok(tables)
    }

    /// Follows a device that was made anew, and IPv6 that was switched off or on.
    pub(super) fn use_device(&mut self, device: u32, ipv6: bool) {
        self.device = device;
        self.ipv6 = ipv6;
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

    /// What of the host's rules of others has to do with flows of these classes.
    pub(crate) async fn conflicts(
        &self,
        classes: &[ClassId],
    ) -> Result<Vec<Conflict>, NetworkError> {
        let mut conflicts = Vec::new();
        for ipv6 in self.families([false, true]) {
            let rules = self.rules(ipv6).await?;
            let place = self.places[usize::from(ipv6)];
            conflicts.extend(rules::conflicts(&rules, ipv6, place, classes));
        }
        Ok(conflicts)
    }

    /// What is not as it should be.
    pub(super) async fn inspect(&self, wanted: &Wanted) -> Result<Vec<Lost>, NetworkError> {
        let mut lost = Vec::new();
        let none = ClassRoutes::default();
        for ipv6 in self.families([false, true]) {
            let rules = self.rules(ipv6).await?;
            let at = self.places[usize::from(ipv6)];
            let place = rules::place(&rules);
            if place != at {
                let overtaken = rules::is_overtaken(&rules, at);
                lost.push(Lost::Place {
                    ipv6,
                    place,
                    overtaken,
                });
            }
            let routes = self.own_routes(ipv6).await?;
            for (class, routes_of) in wanted.iter().chain([(&RETURN_CLASS, &none)]) {
                let class = *class;
                let is_there = |rule: &Seen| rule.is_of(class) && rule.preference == at;
                if !rules.iter().any(is_there) {
                    lost.push(Lost::Rule { class, ipv6 });
                }
                let found = routes.get(&table(class));
                let wanted = self.routes_of(class, routes_of, ipv6);
                let gone = wanted.filter(|route| found.is_none_or(|f| !f.contains(&key(route))));
                lost.extend(gone.map(|route| Lost::Route { class, route }));
            }
            if !rules.iter().any(|rule| is_source_rule(rule, at + 1)) {
                lost.push(Lost::SourceRule { ipv6 });
            }
        }
        Ok(lost)
    }

    /// Puts back one of what [`Tables::inspect`] found.
    pub(super) async fn restore(&mut self, lost: &Lost) -> Result<(), NetworkError> {
        match lost {
            Lost::Place { ipv6, place, .. } => self.settle(*ipv6, *place).await,
            Lost::Rule { class, ipv6 } => {
                let rule = self.mark_rule(*class, *ipv6);
                netlink::rule_add(&self.handle, rule)
                    .await
                    .doing(|| format!("put back the rule of class {class}"))
            }
            Lost::SourceRule { ipv6 } => self.add_source_rule(*ipv6).await,
            Lost::Route { class, route } => {
                let mut route = *route;
                // The device may have been made anew meanwhile.
                if let Way::Via { device, .. } = &mut route.way {
                    *device = self.device;
                }
                netlink::route_add(&self.handle, &route)
                    .await
                    .doing(|| format!("put back a route of class {class}"))
            }
            _ => Ok(()),
        }
    }

    /// Brings all rules of ours to `place`, those of an earlier run too: at no moment is one missing.
    async fn settle(&mut self, ipv6: bool, place: u32) -> Result<(), NetworkError> {
        use netlink_packet_route::rule::RuleAttribute;
        self.places[usize::from(ipv6)] = place;
        for rule in self
            .rules(ipv6)
            .await?
            .into_iter()
            .filter(|rule| rule.is_ours)
        {
            let to = if rule.is_marked() { place } else { place + 1 };
            if rule.preference == to {
                continue;
            }
            let mut moved = rule.message.clone();
            moved
                .attributes
                .retain(|attribute| !matches!(attribute, RuleAttribute::Priority(_)));
            moved.attributes.push(RuleAttribute::Priority(to));
            let action = || format!("move a rule to {to}");
            netlink::rule_add(&self.handle, moved).await.doing(action)?;
            netlink::rule_delete(&self.handle, rule.message)
                .await
                .doing(action)?;
        }
        Ok(())
    }

    async fn rules(&self, ipv6: bool) -> Result<Vec<Seen>, NetworkError> {
        let rules = netlink::rules(&self.handle, ipv6)
            .await
            .doing(|| "list the routing rules".into())?;
        Ok(rules.into_iter().map(Seen::of).collect())
    }

    /// What each table has of ours.
    async fn own_routes(
        &self,
        ipv6: bool,
    ) -> Result<BTreeMap<u32, BTreeSet<RouteKey>>, NetworkError> {
        let routes = netlink::own_routes(&self.handle, ipv6)
            .await
            .doing(|| "list our routes".into())?;
        let mut found = BTreeMap::<_, BTreeSet<_>>::new();
        for route in routes {
            let table = netlink::table_of(&route);
            found.entry(table).or_default().insert(seen(&route));
        }
        Ok(found)
    }

    async fn add_source_rule(&self, ipv6: bool) -> Result<(), NetworkError> {
        let source: IpAddr = if ipv6 {
            SOURCE_V6.into()
        } else {
            SOURCE_V4.into()
        };
        let place = self.places[usize::from(ipv6)] + 1;
        let selector = Selector::Source(source);
        let rule = netlink::rule(ipv6, place, &selector, table(RETURN_CLASS));
        netlink::rule_add(&self.handle, rule)
            .await
            .doing(|| format!("add the rule for {source}"))
    }

    /// Removes every rule and route of ours, those of earlier runs too.
    pub(super) async fn stop(&self) -> Result<(), NetworkError> {
        for ipv6 in all_families() {
            for rule in self.rules(ipv6).await? {
                if rule.is_ours {
                    netlink::rule_delete(&self.handle, rule.message)
                        .await
                        .doing(|| "remove a routing rule".into())?;
                }
            }
        }
        // The routes through the device go with it; the others are told by their protocol.
        self.flush().await.doing(|| "remove the routes".into())
    }

    async fn flush(&self) -> Result<(), Error> {
        for ipv6 in all_families() {
            for route in netlink::own_routes(&self.handle, ipv6).await? {
                netlink::remove(&self.handle, route).await?;
            }
        }
        Ok(())
    }

    async fn try_add(&self, class: ClassId, routes: &ClassRoutes) -> Result<(), Error> {
        for ipv6 in self.families([false, true]) {
            for route in self.routes_of(class, routes, ipv6) {
                netlink::route_add(&self.handle, &route).await?;
            }
        }
        for ipv6 in self.families([false, true]) {
            netlink::rule_add(&self.handle, self.mark_rule(class, ipv6)).await?;
        }
        Ok(())
    }

    async fn try_remove(&self, class: ClassId) -> Result<(), Error> {
        for ipv6 in all_families() {
            netlink::rule_delete(&self.handle, self.mark_rule(class, ipv6)).await?;
            for route in netlink::routes(&self.handle, ipv6, table(class)).await? {
                netlink::remove(&self.handle, route).await?;
            }
        }
        Ok(())
    }

    fn mark_rule(&self, class: ClassId, ipv6: bool) -> RuleMessage {
        let selector = Selector::Mark {
            mark: class.mark(),
            mask: MARK_MASK,
        };
        let place = self.places[usize::from(ipv6)];
        netlink::rule(ipv6, place, &selector, table(class))
    }

    /// All that the table of a class holds of one family.
    fn routes_of(
        &self,
        class: ClassId,
        routes: &ClassRoutes,
        ipv6: bool,
    ) -> impl Iterator<Item = Route> {
        let any: IpAddr = if ipv6 {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        let of_family = move |target: &&Prefix| target.address().is_ipv6() == ipv6;
        let throws = routes.throws.iter().filter(of_family);
        [self.default_route(class, any), last_resort(class, any)]
            .into_iter()
            .chain(throws.map(move |target| throw(class, *target)))
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

    /// The IPv4 and, where IPv6 is on, the IPv6 one of a pair.
    fn families<T>(&self, [v4, v6]: [T; 2]) -> Vec<T> {
        if self.ipv6 { vec![v4, v6] } else { vec![v4] }
    }
}

/// IPv4 and, where the kernel has it at all, IPv6.
fn all_families() -> Vec<bool> {
    if Path::new("/proc/net/if_inet6").exists() {
        vec![false, true]
    } else {
        vec![false]
    }
}

pub(super) fn table(class: ClassId) -> u32 {
    TABLES + u32::from(class.number())
}

/// Whether the table is one of a class.
pub(super) fn is_ours(table: u32) -> bool {
    (TABLES..=self::table(RETURN_CLASS)).contains(&table)
}

fn is_source_rule(rule: &Seen, preference: u32) -> bool {
    rule.is_ours
        && !rule.is_marked()
        && rule.table == table(RETURN_CLASS)
        && rule.preference == preference
}

/// What tells a route from the others of its table: where to, and by what kind of way.
type RouteKey = (IpAddr, u8, Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Through the device of this index, from this address: IPv6 routes lose theirs with it.
    Via(u32, Option<IpAddr>),
    Throw,
    Unreachable,
    Other,
}

fn key(route: &Route) -> RouteKey {
    let kind = match route.way {
        Way::Via { device, source, .. } => Kind::Via(device, source),
        Way::Throw => Kind::Throw,
        Way::Unreachable => Kind::Unreachable,
        Way::Local { .. } => Kind::Other,
    };
    (route.destination.0, route.destination.1, kind)
}

fn seen(route: &RouteMessage) -> RouteKey {
    let (mut device, mut source) = (0, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => device = *index,
            RouteAttribute::PrefSource(RouteAddress::Inet(v4)) => source = Some(IpAddr::V4(*v4)),
            RouteAttribute::PrefSource(RouteAddress::Inet6(v6)) => source = Some(IpAddr::V6(*v6)),
            _ => {}
        }
    }
    let kind = match route.header.kind {
        RouteType::Unicast => Kind::Via(device, source),
        RouteType::Throw => Kind::Throw,
        RouteType::Unreachable => Kind::Unreachable,
        _ => Kind::Other,
    };
    let (address, length) = netlink::destination_of(route);
    (address, length, kind)
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
