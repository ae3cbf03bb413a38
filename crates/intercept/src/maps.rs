//! The maps that the daemon and the kernel programs share.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::Path;

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use offramp_rules::{Prefix, Protocol};

use crate::class::{Class, ClassId};
use crate::programs::skeleton::types;

/// An update or a look-up that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the map {map}")]
pub struct MapError {
    action: &'static str,
    map: &'static str,
    source: libbpf_rs::Error,
}

/// Whose a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The class of the app.
    pub class: ClassId,
    /// The launch that the process descends from; see [`crate::Capture::label`].
    pub app: u32,
    /// The process that used the socket last.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// The socket, for as long as the machine is up.
    pub cookie: u64,
}

/// What the kernel programs count, since they were first attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Connects and sends turned away because the proxy is away.
    Refused,
    /// Sockets of a kind that managed apps may not have.
    Forbidden,
    /// Packets that would have gone past the proxy.
    EgressDrop,
    /// Packets from outside to a managed app.
    IngressDrop,
    /// Socket options that would have led past the proxy.
    Swallowed,
    /// Packets inside, with no listener to take them.
    Orphan,
    /// Name look-ups by other ways than port 53.
    DoorClosed,
    /// Tasks whose label had to be kept elsewhere.
    Stray,
}

impl Counter {
    /// Every counter, in the kernel's order, with the name that metrics use.
    pub const ALL: [(Counter, &'static str); 8] = [
        (Counter::Refused, "refused"),
        (Counter::Forbidden, "forbidden_sockets"),
        (Counter::EgressDrop, "egress_drops"),
        (Counter::IngressDrop, "ingress_drops"),
        (Counter::Swallowed, "swallowed_options"),
        (Counter::Orphan, "orphans"),
        (Counter::DoorClosed, "closed_doors"),
        (Counter::Stray, "strays"),
    ];
}

const CLASS_OPEN: u32 = 1;
const CLASS_UDP: u32 = 2;
const CLASS_MULTICAST: u32 = 4;
const CLASS_INBOUND: u32 = 8;
const CLASS_PERSONAL: u32 = 16;

/// The plain structs that are read and written as bytes.
///
/// # Safety
///
/// Without padding, and any bytes are a value.
#[expect(unsafe_code, reason = "a promise about layout")]
unsafe trait Plain: Copy + Default {}

macro_rules! plain {
    ($($type:ty),*) => {$(
        // SAFETY: integers and arrays of them, laid out by the C compiler without padding.
        #[expect(unsafe_code, reason = "a promise about layout")]
        unsafe impl Plain for $type {}
    )*};
}
plain!(
    types::settings,
    types::owner,
    types::app,
    types::label,
    types::tuple,
    types::prefix,
    u32,
    u64,
    [u32; 4]
);

#[expect(unsafe_code, reason = "reads a struct as bytes")]
fn bytes<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: Plain has no padding, so every byte is initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

#[expect(unsafe_code, reason = "reads bytes as a struct")]
fn value<T: Plain>(bytes: &[u8]) -> Option<T> {
    // SAFETY: any bytes are a value of a Plain type, and the length fits.
    (bytes.len() >= size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// The maps, opened from their pins.
pub(crate) struct Maps {
    settings: MapHandle,
    heartbeat: MapHandle,
    census: MapHandle,
    classes: MapHandle,
    labels: MapHandle,
    apps: MapHandle,
    identities: MapHandle,
    approved: MapHandle,
    own: MapHandle,
    resolvers: MapHandle,
    listeners: MapHandle,
    counters: MapHandle,
    pub(crate) events: MapHandle,
}

impl Maps {
    pub(crate) fn open(pins: &Path) -> Result<Self, MapError> {
        let open = |map: &'static str| {
            MapHandle::from_pinned_path(pins.join(map)).map_err(|source| MapError {
                action: "open",
                map,
                source,
            })
        };
        Ok(Self {
            settings: open("settings")?,
            heartbeat: open("heartbeat")?,
            census: open("census")?,
            classes: open("classes")?,
            labels: open("labels")?,
            apps: open("apps")?,
            identities: open("identities")?,
            approved: open("approved")?,
            own: open("own")?,
            resolvers: open("resolvers")?,
            listeners: open("listeners")?,
            counters: open("counters")?,
            events: open("events")?,
        })
    }

    /// The cookie of the network namespace that pins were made for; none where there are none.
    pub(crate) fn pinned_for(pins: &Path) -> Option<u64> {
        let settings = MapHandle::from_pinned_path(pins.join("settings")).ok()?;
        let settings: types::settings = get(&settings, "settings", &0u32).ok()??;
        (settings.netns_cookie != 0).then_some(settings.netns_cookie)
    }

    pub(crate) fn settings(&self) -> Result<types::settings, MapError> {
        Ok(get(&self.settings, "settings", &0u32)?.unwrap_or_default())
    }

    pub(crate) fn set_settings(&self, settings: &types::settings) -> Result<(), MapError> {
        put(&self.settings, "settings", &0u32, bytes(settings))
    }

    pub(crate) fn beat(&self, now: u64) -> Result<(), MapError> {
        put(&self.heartbeat, "heartbeat", &0u32, bytes(&now))
    }

    /// Empties the map that a census is counted in.
    pub(crate) fn begin_census(&self) -> Result<(), MapError> {
        for key in self.census.keys().filter_map(|key| value::<u32>(&key)) {
            delete(&self.census, "census", &key)?;
        }
        Ok(())
    }

    /// How many tasks a launch had in the last census.
    pub(crate) fn counted(&self, app: u32) -> Result<u64, MapError> {
        Ok(get(&self.census, "census", &app)?.unwrap_or(0))
    }

    pub(crate) fn set_class(&self, id: ClassId, mark: u32, class: &Class) -> Result<(), MapError> {
        let mut value = [0u8; size_of::<types::class>()];
        let flags = [
            (class.open, CLASS_OPEN),
            (class.udp, CLASS_UDP),
            (class.multicast, CLASS_MULTICAST),
            (class.inbound, CLASS_INBOUND),
            (class.personal, CLASS_PERSONAL),
        ];
        let flags: u32 = flags
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, flag)| flag)
            .sum();
        value[..4].copy_from_slice(&mark.to_ne_bytes());
        value[4..8].copy_from_slice(&flags.to_ne_bytes());
        let name = class.profile.as_bytes();
        let kept = name.len().min(64);
        value[8..8 + kept].copy_from_slice(&name[..kept]);
        put(&self.classes, "classes", &u32::from(id.number()), &value)
    }

    pub(crate) fn clear_class(&self, id: ClassId) -> Result<(), MapError> {
        let value = [0u8; size_of::<types::class>()];
        put(&self.classes, "classes", &u32::from(id.number()), &value)
    }

    /// The classes that an earlier run defined, with their profiles.
    pub(crate) fn classes(&self) -> Result<Vec<(ClassId, String)>, MapError> {
        let mut found = Vec::new();
        for id in (1..=ClassId::LIMIT).filter_map(ClassId::new) {
            let key = u32::from(id.number()).to_ne_bytes();
            let bytes = self
                .classes
                .lookup(&key, MapFlags::ANY)
                .map_err(|source| MapError {
                    action: "read",
                    map: "classes",
                    source,
                })?;
            let Some(bytes) = bytes.filter(|bytes| bytes[..4] != [0; 4]) else {
                continue;
            };
            let name: Vec<u8> = bytes[8..]
                .iter()
                .copied()
                .take_while(|byte| *byte != 0)
                .collect();
            found.push((id, String::from_utf8_lossy(&name).into_owned()));
        }
        Ok(found)
    }

    pub(crate) fn set_label(
        &self,
        pidfd: BorrowedFd<'_>,
        class: ClassId,
        app: u32,
    ) -> Result<(), MapError> {
        let label = types::label {
            class: class.number().into(),
            app,
        };
        let key = pidfd.as_raw_fd().to_ne_bytes();
        put_bytes(&self.labels, "labels", &key, bytes(&label))
    }

    pub(crate) fn label(&self, pidfd: BorrowedFd<'_>) -> Result<Option<(ClassId, u32)>, MapError> {
        let key = pidfd.as_raw_fd().to_ne_bytes();
        let found = get_bytes::<types::label>(&self.labels, "labels", &key)?;
        Ok(found
            .and_then(|label| Some((ClassId::new(u16::try_from(label.class).ok()?)?, label.app))))
    }

    pub(crate) fn add_app(&self, app: u32, class: ClassId, uid: u32) -> Result<(), MapError> {
        let entry = types::app {
            tasks: 1,
            class: class.number().into(),
            uid,
        };
        put(&self.apps, "apps", &app, bytes(&entry))
    }

    pub(crate) fn remove_app(&self, app: u32) -> Result<(), MapError> {
        delete(&self.apps, "apps", &app)
    }

    /// The launches that are not forgotten: number, class, user, tasks.
    pub(crate) fn apps(&self) -> Result<Vec<(u32, ClassId, u32, u64)>, MapError> {
        let mut found = Vec::new();
        for key in self.apps.keys() {
            let Some(app) = value::<u32>(&key) else {
                continue;
            };
            let Some(entry) = get::<_, types::app>(&self.apps, "apps", &app)? else {
                continue;
            };
            let class = u16::try_from(entry.class).ok().and_then(ClassId::new);
            if let Some(class) = class {
                found.push((
                    app,
                    class,
                    entry.uid,
                    u64::try_from(entry.tasks).unwrap_or(0),
                ));
            }
        }
        Ok(found)
    }

    /// Takes the identity of a TCP flow: it is asked for once.
    pub(crate) fn take_identity(&self, source: SocketAddr, target: SocketAddr) -> Option<Identity> {
        let key = tuple(Protocol::Tcp, source, target);
        let found = self.identities.lookup_and_delete(bytes(&key)).ok()??;
        identity(value(&found)?)
    }

    pub(crate) fn identity(&self, source: SocketAddr, target: SocketAddr) -> Option<Identity> {
        let key = tuple(Protocol::Udp, source, target);
        identity(get(&self.identities, "identities", &key).ok()??)
    }

    pub(crate) fn forget_identity(&self, source: SocketAddr, target: SocketAddr) {
        let key = tuple(Protocol::Udp, source, target);
        let _ = self.identities.delete(bytes(&key));
    }

    pub(crate) fn approve(&self, class: ClassId, target: Prefix) -> Result<(), MapError> {
        put_bytes(
            &self.approved,
            "approved",
            bytes(&prefix(class, target)),
            &[1],
        )
    }

    pub(crate) fn disapprove(&self, class: ClassId, target: Prefix) -> Result<(), MapError> {
        delete(&self.approved, "approved", &prefix(class, target))
    }

    /// Every approved target of `class`, what earlier runs left included.
    pub(crate) fn approved(&self, class: ClassId) -> Vec<Prefix> {
        let of_class = |key: Vec<u8>| {
            let key: types::prefix = value(&key)?;
            let of = u32::from_be(key.class);
            if of >> 1 != u32::from(class.number()) {
                return None;
            }
            let address = from_words(key.address);
            let length = u8::try_from(key.length - 32).ok()?;
            match address.to_ipv4_mapped() {
                Some(v4) if of & 1 == 0 => Prefix::containing(v4.into(), length - 96).ok(),
                _ => Prefix::containing(address.into(), length).ok(),
            }
        };
        self.approved.keys().filter_map(of_class).collect()
    }

    /// Makes `addresses` the machine's own.
    pub(crate) fn set_own(&self, addresses: &BTreeSet<IpAddr>) -> Result<(), MapError> {
        let wanted: BTreeSet<_> = addresses.iter().map(|address| to_words(*address)).collect();
        for own in &wanted {
            put(&self.own, "own", own, &[1])?;
        }
        let known = self.own.keys().filter_map(|key| value::<[u32; 4]>(&key));
        for gone in known.filter(|own| !wanted.contains(own)) {
            delete(&self.own, "own", &gone)?;
        }
        Ok(())
    }

    /// The resolver that `stand_in` stands for.
    pub(crate) fn resolver(&self, stand_in: IpAddr) -> Option<IpAddr> {
        let words: [u32; 4] = get(&self.resolvers, "resolvers", &to_words(stand_in)).ok()??;
        Some(from_words(words).to_canonical())
    }

    pub(crate) fn set_listener(&self, slot: u32, socket: RawFd) -> Result<(), MapError> {
        let fd = u64::try_from(socket).expect("a descriptor is not negative");
        put(&self.listeners, "listeners", &slot, bytes(&fd))
    }

    /// How many entries each map that grows and shrinks has.
    pub(crate) fn entries(&self) -> [(&'static str, usize); 5] {
        [
            ("identities", &self.identities),
            ("apps", &self.apps),
            ("approved", &self.approved),
            ("own", &self.own),
            ("resolvers", &self.resolvers),
        ]
        // A key that goes while it is looked at begins the walk anew: the size bounds it.
        .map(|(name, map)| (name, map.keys().take(map.max_entries() as usize).count()))
    }

    pub(crate) fn counter(&self, counter: Counter) -> u64 {
        let key = (counter as u32).to_ne_bytes();
        let values = self
            .counters
            .lookup_percpu(&key, MapFlags::ANY)
            .ok()
            .flatten();
        values
            .unwrap_or_default()
            .iter()
            .filter_map(|bytes| value::<u64>(bytes))
            .sum()
    }
}

fn get<K: Plain, V: Plain>(
    handle: &MapHandle,
    map: &'static str,
    key: &K,
) -> Result<Option<V>, MapError> {
    get_bytes(handle, map, bytes(key))
}

fn get_bytes<V: Plain>(
    handle: &MapHandle,
    map: &'static str,
    key: &[u8],
) -> Result<Option<V>, MapError> {
    match handle.lookup(key, MapFlags::ANY) {
        Ok(found) => Ok(found.as_deref().and_then(value)),
        Err(source) => Err(MapError {
            action: "read",
            map,
            source,
        }),
    }
}

fn put<K: Plain>(
    handle: &MapHandle,
    map: &'static str,
    key: &K,
    value: &[u8],
) -> Result<(), MapError> {
    put_bytes(handle, map, bytes(key), value)
}

fn put_bytes(
    handle: &MapHandle,
    map: &'static str,
    key: &[u8],
    value: &[u8],
) -> Result<(), MapError> {
    handle
        .update(key, value, MapFlags::ANY)
        .map_err(|source| MapError {
            action: "write",
            map,
            source,
        })
}

fn delete<K: Plain>(handle: &MapHandle, map: &'static str, key: &K) -> Result<(), MapError> {
    match handle.delete(bytes(key)) {
        Err(source) if source.kind() != libbpf_rs::ErrorKind::NotFound => Err(MapError {
            action: "delete from",
            map,
            source,
        }),
        _ => Ok(()),
    }
}

fn identity(owner: types::owner) -> Option<Identity> {
    Some(Identity {
        class: ClassId::new(u16::try_from(owner.label.class).ok()?)?,
        app: owner.label.app,
        pid: owner.pid,
        uid: owner.uid,
        cookie: owner.cookie,
    })
}

fn tuple(protocol: Protocol, source: SocketAddr, target: SocketAddr) -> types::tuple {
    types::tuple {
        source: to_words(source.ip()),
        target: to_words(target.ip()),
        source_port: source.port().to_be(),
        target_port: target.port().to_be(),
        protocol: match protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        },
    }
}

fn prefix(class: ClassId, target: Prefix) -> types::prefix {
    let length = u32::from(target.length()) + if target.address().is_ipv4() { 96 } else { 0 };
    types::prefix {
        length: 32 + length,
        class: (u32::from(class.number()) << 1 | u32::from(target.address().is_ipv6())).to_be(),
        address: to_words(target.address()),
    }
}

/// An address as the kernel programs have it: IPv6, v4-mapped where it is IPv4, in network order.
fn to_words(address: IpAddr) -> [u32; 4] {
    let octets = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let word =
        |i: usize| u32::from_ne_bytes([octets[i], octets[i + 1], octets[i + 2], octets[i + 3]]);
    [word(0), word(4), word(8), word(12)]
}

fn from_words(words: [u32; 4]) -> Ipv6Addr {
    let mut octets = [0; 16];
    for (chunk, word) in octets.chunks_exact_mut(4).zip(words) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    octets.into()
}
