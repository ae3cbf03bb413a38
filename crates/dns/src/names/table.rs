use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;

use offramp_rules::{DomainName, Prefix};

use super::file::Line;

/// How long an address keeps its name after the last answer or use: apps cache beyond the TTL.
pub(super) const KEEP: Duration = Duration::from_secs(600);

/// Addresses left out at either end of a block, where the daemon's own stand.
const MARGIN: u128 = 256;

/// How far from its own place a name is looked a free address for once another was evicted.
const SHORT_SEARCH: u128 = 64;

/// The names of one family.
#[derive(Debug)]
pub(super) struct Table {
    first: IpAddr,
    size: u128,
    capacity: usize,
    places: HashMap<DomainName, u128>,
    entries: HashMap<u128, Entry>,
    /// Entries that nobody holds, the longest unused first.
    idle: BTreeMap<u64, u128>,
    turn: u64,
}

#[derive(Debug)]
struct Entry {
    name: DomainName,
    used: Instant,
    turn: u64,
    holders: usize,
}

impl Table {
    pub(super) fn new(block: Prefix, capacity: usize) -> Self {
        let bits = if block.address().is_ipv4() { 32 } else { 128 };
        let total = 1_u128
            .checked_shl(u32::from(bits - block.length()))
            .unwrap_or(u128::MAX);
        let size = total.saturating_sub(2 * MARGIN);
        Self {
            first: block.address(),
            size,
            capacity: capacity.min(usize::try_from(size).unwrap_or(usize::MAX)),
            places: HashMap::new(),
            entries: HashMap::new(),
            idle: BTreeMap::new(),
            turn: 0,
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn address_for(&mut self, name: &DomainName, now: Instant) -> Option<IpAddr> {
        let place = match self.places.get(name) {
            Some(&place) => place,
            None => self.free_place(name, now)?,
        };
        if self.entries.contains_key(&place) {
            self.touch(place, now);
        } else {
            self.insert(name.clone(), place, now);
        }
        Some(self.address_at(place))
    }

    pub(super) fn name_of(&mut self, address: IpAddr, now: Instant) -> Option<DomainName> {
        let place = self.place_of(address)?;
        let name = self.entries.get(&place)?.name.clone();
        self.touch(place, now);
        Some(name)
    }

    pub(super) fn hold(&mut self, address: IpAddr) -> Option<DomainName> {
        let entry = self.entries.get_mut(&self.place_of(address)?)?;
        entry.holders += 1;
        self.idle.remove(&entry.turn);
        Some(entry.name.clone())
    }

    pub(super) fn release(&mut self, address: IpAddr, now: Instant) {
        let Some(place) = self.place_of(address) else {
            return;
        };
        if let Some(entry) = self.entries.get_mut(&place) {
            entry.holders = entry.holders.saturating_sub(1);
            self.touch(place, now);
        }
    }

    /// Puts a remembered line back; false when the name or the address is taken or not ours.
    pub(super) fn restore(&mut self, line: &Line, now: Instant) -> bool {
        let Some(place) = self.place_of(line.address) else {
            return false;
        };
        let fits = self.entries.len() < self.capacity
            && !self.entries.contains_key(&place)
            && !self.places.contains_key(&line.name);
        if fits {
            // What nobody used for long makes room for new names after a restart too.
            let used = now.checked_sub(line.unused.min(KEEP)).unwrap_or(now);
            self.insert(line.name.clone(), place, used);
        }
        fits
    }

    pub(super) fn latest_first(&self, now: Instant) -> Vec<Line> {
        let held = self.entries.iter().filter(|(_, entry)| entry.holders > 0);
        let idle = self.idle.values().rev();
        let idle = idle.filter_map(|place| self.entries.get_key_value(place));
        held.chain(idle)
            .map(|(place, entry)| Line {
                name: entry.name.clone(),
                address: self.address_at(*place),
                unused: match entry.holders {
                    0 => now.saturating_duration_since(entry.used),
                    _ => Duration::ZERO,
                },
            })
            .collect()
    }

    fn insert(&mut self, name: DomainName, place: u128, now: Instant) {
        self.turn += 1;
        self.places.insert(name.clone(), place);
        self.idle.insert(self.turn, place);
        let entry = Entry {
            name,
            used: now,
            turn: self.turn,
            holders: 0,
        };
        self.entries.insert(place, entry);
    }

    fn touch(&mut self, place: u128, now: Instant) {
        let Some(entry) = self.entries.get_mut(&place) else {
            return;
        };
        self.idle.remove(&entry.turn);
        self.turn += 1;
        entry.turn = self.turn;
        entry.used = now;
        if entry.holders == 0 {
            self.idle.insert(entry.turn, place);
        }
    }

    fn free_place(&mut self, name: &DomainName, now: Instant) -> Option<u128> {
        if self.capacity == 0 {
            return None;
        }
        let evicted = if self.entries.len() < self.capacity {
            None
        } else {
            Some(self.evict(now)?)
        };
        let start = u128::from(stable_hash(name)) % self.size;
        let search = evicted.map_or(self.size, |_| SHORT_SEARCH.min(self.size));
        (0..search)
            .map(|step| (start + step) % self.size)
            .find(|place| !self.entries.contains_key(place))
            .or(evicted)
    }

    fn evict(&mut self, now: Instant) -> Option<u128> {
        let (&turn, &place) = self.idle.first_key_value()?;
        let entry = self.entries.get(&place)?;
        if now.saturating_duration_since(entry.used) < KEEP {
            return None;
        }
        self.places.remove(&entry.name);
        self.entries.remove(&place);
        self.idle.remove(&turn);
        Some(place)
    }

    fn address_at(&self, place: u128) -> IpAddr {
        let offset = place + MARGIN;
        match self.first {
            IpAddr::V4(first) => {
                let offset = u32::try_from(offset).expect("an IPv4 block has at most 2^32 places");
                IpAddr::V4(Ipv4Addr::from_bits(first.to_bits() + offset))
            }
            IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from_bits(first.to_bits() + offset)),
        }
    }

    fn place_of(&self, address: IpAddr) -> Option<u128> {
        let offset = match (address.to_canonical(), self.first) {
            (IpAddr::V4(address), IpAddr::V4(first)) => {
                u128::from(address.to_bits().checked_sub(first.to_bits())?)
            }
            (IpAddr::V6(address), IpAddr::V6(first)) => {
                address.to_bits().checked_sub(first.to_bits())?
            }
            _ => return None,
        };
        let place = offset.checked_sub(MARGIN)?;
        (place < self.size).then_some(place)
    }
}

/// FNV-1a with a final mix: std's hashers may change from one release to the next.
fn stable_hash(name: &DomainName) -> u64 {
    let hash = name
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}
