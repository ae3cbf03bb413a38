//! The maps that the daemon and the kernel programs share.

mod approved;
mod keys;
mod labels;
mod plain;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::Path;

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use offramp_rules::Protocol;

pub(crate) use self::approved::Approval;
use self::keys::{from_words, to_words, tuple};
pub(crate) use self::labels::{from_word, read_label, read_rows, to_word};
pub(crate) use self::plain::{Plain, bytes, delete, get, open, put, value};
use self::plain::{get_bytes, put_bytes};
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
    /// The class of the app; [`ClassId::UNDECIDED`] while that is asked for.
    pub class: ClassId,
    /// The exec that was asked about; see [`crate::Labelled::exec`].
    pub exec: u32,
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
const CLASS_TRACKED: u32 = 32;
const CLASS_TOOLS: u32 = 64;
const CLASS_ENDING: u32 = 128;

/// The maps, opened from their pins.
pub(crate) struct Maps {
    settings: MapHandle,
    heartbeat: MapHandle,
    settled: MapHandle,
    ended: MapHandle,
    classes: MapHandle,
    labels: MapHandle,
    identities: MapHandle,
    approved: MapHandle,
    own: MapHandle,
    resolvers: MapHandle,
    listeners: MapHandle,
    rounds: MapHandle,
    probes: MapHandle,
    counters: MapHandle,
    pub(crate) events: MapHandle,
}

impl Maps {
    pub(crate) fn open(pins: &Path) -> Result<Self, MapError> {
        let open = |map| open(pins, map);
        Ok(Self {
            settings: open("settings")?,
            heartbeat: open("heartbeat")?,
            settled: open("settled")?,
            ended: open("ended")?,
            classes: open("classes")?,
            labels: open("labels")?,
            identities: open("identities")?,
            approved: open("approved")?,
            own: open("own")?,
            resolvers: open("resolvers")?,
            listeners: open("listeners")?,
            rounds: open("rounds")?,
            probes: open("probes")?,
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

    /// Defines a class. A number that had none becomes another instance of itself: sockets of the
    /// class that had it before are not taken for this one's.
    pub(crate) fn set_class(&self, id: ClassId, mark: u32, class: &Class) -> Result<(), MapError> {
        let known = self.class(id)?;
        let flags = [
            (class.open, CLASS_OPEN),
            (class.udp, CLASS_UDP),
            (class.multicast, CLASS_MULTICAST),
            (class.inbound, CLASS_INBOUND),
            (class.personal.is_some(), CLASS_PERSONAL),
            (class.tracked, CLASS_TRACKED),
            (class.tools, CLASS_TOOLS),
            (class.ending, CLASS_ENDING),
        ];
        let entry = types::class {
            mark,
            flags: flags.iter().filter(|(on, _)| *on).map(|(_, f)| f).sum(),
            instance: known.instance.wrapping_add((known.mark == 0).into()),
            user: class.personal.unwrap_or(0),
        };
        let key = u32::from(id.number());
        put(&self.classes, "classes", &key, bytes(&entry))
    }

    /// Takes a class away. Processes that still carry one that was tracked alone stay free.
    pub(crate) fn clear_class(&self, id: ClassId) -> Result<(), MapError> {
        let known = self.class(id)?;
        let entry = types::class {
            flags: known.flags & CLASS_TRACKED,
            instance: known.instance,
            ..types::class::default()
        };
        let key = u32::from(id.number());
        put(&self.classes, "classes", &key, bytes(&entry))
    }

    /// Lets the processes of all classes go: each is free or refused, with all that it does and
    /// starts. Where the map is gone, so are those who look into it.
    pub(crate) fn release_classes(pins: &Path) {
        let Ok(classes) = open(pins, "classes") else {
            return;
        };
        for (key, class) in defined(&classes) {
            let free = types::class {
                flags: CLASS_TRACKED,
                ..class
            };
            // What cannot be told is free when the programs are gone.
            let _ = put(&classes, "classes", &key, bytes(&free));
        }
    }

    fn class(&self, id: ClassId) -> Result<types::class, MapError> {
        let key = u32::from(id.number());
        Ok(get(&self.classes, "classes", &key)?.unwrap_or_default())
    }

    /// The classes that are defined, those of an earlier run among them.
    pub(crate) fn classes(&self) -> Result<Vec<ClassId>, MapError> {
        let known = defined(&self.classes).into_iter();
        Ok(known
            .filter_map(|(key, _)| ClassId::new(u16::try_from(key).ok()?))
            .collect())
    }

    pub(crate) fn set_label(
        &self,
        pidfd: BorrowedFd<'_>,
        label: types::label,
    ) -> Result<(), MapError> {
        let key = pidfd.as_raw_fd().to_ne_bytes();
        put_bytes(&self.labels, "labels", &key, bytes(&label))
    }

    /// The label of a process, with the verdict where that came after its exec; none where it is
    /// unmanaged.
    pub(crate) fn label(&self, pidfd: BorrowedFd<'_>) -> Result<Option<types::label>, MapError> {
        let key = pidfd.as_raw_fd().to_ne_bytes();
        let Some(mut label) = get_bytes::<types::label>(&self.labels, "labels", &key)? else {
            return Ok(None);
        };
        if label.class == ClassId::UNDECIDED.number()
            && let Some(class) = get::<_, u32>(&self.settled, "settled", &label.exec)?
        {
            label.class = u16::try_from(class).unwrap_or(ClassId::UNDECIDED.number());
            label.from = 0;
        }
        Ok((label.class != 0).then_some(label))
    }

    /// Which of the classes that have had this number it is.
    pub(crate) fn instance(&self, id: ClassId) -> Result<u32, MapError> {
        Ok(self.class(id)?.instance)
    }

    /// Answers for an exec.
    pub(crate) fn settle(&self, exec: u32, class: Option<ClassId>) -> Result<(), MapError> {
        let class = class.map_or(0, |class| u32::from(class.number()));
        put(&self.settled, "settled", &exec, bytes(&class))
    }

    /// What was answered for an exec.
    pub(crate) fn settled(&self, exec: u32) -> Option<Option<ClassId>> {
        let class: u32 = get(&self.settled, "settled", &exec).ok()??;
        match u16::try_from(class).ok()? {
            0 => Some(None),
            class => Some(Some(ClassId::of(class)?)),
        }
    }

    /// Says that the next end is to be told.
    pub(crate) fn listen_for_ends(&self) -> Result<(), MapError> {
        put(&self.ended, "ended", &0u32, bytes(&0u32))
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

    /// The cookie of the socket in this slot.
    pub(crate) fn listener(&self, slot: u32) -> Option<u64> {
        get(&self.listeners, "listeners", &slot).ok()?
    }

    pub(crate) fn set_listener(&self, slot: u32, socket: RawFd) -> Result<(), MapError> {
        let fd = u64::try_from(socket).expect("a descriptor is not negative");
        put(&self.listeners, "listeners", &slot, bytes(&fd))
    }

    /// Begins another round of datagrams: what users have sent is taken.
    pub(crate) fn begin_round(&self, ipv6: bool, round: u64) -> Result<(), MapError> {
        put(&self.rounds, "rounds", &u32::from(ipv6), bytes(&round))
    }

    /// How many datagrams were too many of one user's.
    pub(crate) fn crowded(&self) -> u64 {
        const DROPPED: u32 = 2;
        let count = get::<_, u64>(&self.rounds, "rounds", &DROPPED);
        count.ok().flatten().unwrap_or(0)
    }

    /// Lets the socket with this cookie begin a flow without an identity.
    pub(crate) fn add_probe(&self, cookie: u64) -> Result<(), MapError> {
        put(&self.probes, "probes", &cookie, bytes(&0u32))
    }

    /// Ends that. Returns how many packets came as far as the guard.
    pub(crate) fn end_probe(&self, cookie: u64) -> Result<u32, MapError> {
        let left = get(&self.probes, "probes", &cookie)?;
        delete(&self.probes, "probes", &cookie)?;
        Ok(left.unwrap_or(0))
    }

    /// How many entries each map that grows and shrinks has.
    pub(crate) fn entries(&self) -> [(&'static str, usize); 4] {
        [
            ("identities", &self.identities),
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

/// The classes that have a mark, [`ClassId::UNDECIDED`] among them; in one call where the kernel can.
fn defined(classes: &MapHandle) -> Vec<(u32, types::class)> {
    let size = classes.max_entries();
    let all = classes.lookup_batch(size, MapFlags::ANY, MapFlags::ANY);
    let rows = all.into_iter().flatten();
    let mut rows: Vec<_> = rows
        .filter_map(|(key, row)| Some((value(&key)?, value::<types::class>(&row)?)))
        .collect();
    if u32::try_from(rows.len()) != Ok(size) {
        let one = |key| Some((key, get(classes, "classes", &key).ok()??));
        rows = (0..size).filter_map(one).collect();
    }
    rows.retain(|(_, class)| class.mark != 0);
    rows
}

fn identity(owner: types::owner) -> Option<Identity> {
    Some(Identity {
        class: ClassId::of(owner.label.class)?,
        exec: owner.label.exec,
        pid: owner.pid,
        uid: owner.uid,
        cookie: owner.cookie,
    })
}
