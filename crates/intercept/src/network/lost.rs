//! What of ours is not as it should be.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use super::netlink::Route;
use super::{DEVICE, INNER_DEVICE};
use crate::class::ClassId;

/// One thing that is gone, or is another than it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// One of the two devices, or what joins them.
    Pair,
    /// A device is down, or has another MTU or ARP.
    Device {
        inside: bool,
    },
    Address {
        address: IpAddr,
        inside: bool,
    },
    Rule {
        class: ClassId,
        ipv6: bool,
    },
    SourceRule {
        ipv6: bool,
    },
    /// Our rules stand elsewhere than at `place`, behind those of others where they are overtaken.
    Place {
        ipv6: bool,
        place: u32,
        overtaken: bool,
    },
    Route {
        class: ClassId,
        route: Route,
    },
    /// Rules and routes of the private namespace.
    Inside {
        ipv6: bool,
    },
    Setting(String),
    /// The private namespace has no name any more: it would end with the daemon.
    Mount,
}

/// The families that flows cannot be captured in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) v4: bool,
    pub(crate) v6: bool,
}

impl Broken {
    pub(crate) const ALL: Self = Self { v4: true, v6: true };

    fn of(ipv6: bool) -> Self {
        Self {
            v4: !ipv6,
            v6: ipv6,
        }
    }

    /// As the kernel programs have it.
    pub(crate) fn bits(self) -> u32 {
        u32::from(self.v4) | u32::from(self.v6) << 1
    }
}

impl Lost {
    fn breaks(&self) -> Broken {
        match self {
            Self::Pair | Self::Device { .. } => Broken::ALL,
            Self::Address { address, .. } => Broken::of(address.is_ipv6()),
            Self::Rule { ipv6, .. } | Self::SourceRule { ipv6 } | Self::Inside { ipv6 } => {
                Broken::of(*ipv6)
            }
            Self::Route { route, .. } => Broken::of(route.destination.0.is_ipv6()),
            Self::Place {
                ipv6,
                overtaken: true,
                ..
            } => Broken::of(*ipv6),
            Self::Place { .. } | Self::Setting(_) | Self::Mount => Broken::default(),
        }
    }

    fn name(&self) -> String {
        let family = |ipv6: bool| if ipv6 { "IPv6" } else { "IPv4" };
        let device = |inside: bool| if inside { INNER_DEVICE } else { DEVICE };
        match self {
            Self::Pair => format!("the devices {DEVICE} and {INNER_DEVICE}"),
            Self::Device { inside } => format!("the state of {}", device(*inside)),
            Self::Address { address, inside } => {
                format!("the address {address} of {}", device(*inside))
            }
            Self::Rule { ipv6, .. } | Self::SourceRule { ipv6 } => {
                format!("{} routing rules", family(*ipv6))
            }
            Self::Place { ipv6, .. } => format!("the place of the {} rules", family(*ipv6)),
            Self::Route { route, .. } => {
                format!("{} routes", family(route.destination.0.is_ipv6()))
            }
            Self::Inside { ipv6 } => format!("{} routing inside", family(*ipv6)),
            Self::Setting(name) => format!("the setting {name}"),
            Self::Mount => "the mount of the private namespace".into(),
        }
    }
}

/// What all of them break together.
pub(crate) fn broken(lost: &[Lost]) -> Broken {
    lost.iter().fold(Broken::default(), |all, lost| Broken {
        v4: all.v4 | lost.breaks().v4,
        v6: all.v6 | lost.breaks().v6,
    })
}

/// All of them in a few words, such as `the devices offramp0 and app0, IPv4 routes (12)`.
pub(crate) fn summary(lost: &[Lost]) -> String {
    let mut counts = BTreeMap::<_, (usize, usize)>::new();
    for (position, lost) in lost.iter().enumerate() {
        counts.entry(lost.name()).or_insert((position, 0)).1 += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, (position, _))| *position);
    let mut text = String::new();
    for (name, (_, count)) in counts {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(&name);
        if count > 1 {
            // Writing into a String does not fail.
            let _ = write!(text, " ({count})");
        }
    }
    text
}
