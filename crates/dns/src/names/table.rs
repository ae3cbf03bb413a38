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
    /// Of these, the ones that one user alone has asked for, by user.
    own_idle: BTreeMap<(u32, u64), u128>,
    /// How many entries stand for names that each user other than root was the first to ask for.
    shares: HashMap<u32, usize>,
    of_users: usize,
    turn: u64,
}

#[derive(Debug)]
struct Entry {
    name: DomainName,
    used: Instant,
    turn: u64,
    holders: usize,
    /// Who was the first to ask; root for what was restored.
    owner: u32,
    /// Others have asked as well.
    shared: bool,
}

/// Why a name has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAddress {
    /// The asking user has as many names as one may have.
    User(usize),
    /// All addresses are in use; what is left is for other users.
    All(usize),
    /// There is no block of addresses of this family.
    NoBlock,
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
            own_idle: BTreeMap::new(),
            shares: HashMap::new(),
            of_users: 0,
            turn: 0,
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn address_for(
        &mut self,
        name: &DomainName,
        asker: u32,
        now: Instant,
    ) -> Result<IpAddr, NoAddress> {
        if let Some(&place) = self.places.get(name) {
            self.share(place, asker);
            self.touch(place, now);
            return Ok(self.address_at(place));
        }
        self.make_room(asker, now)?;
        let all = NoAddress::All(self.capacity);
        let place = self.free_place(name, now).ok_or(all)?;
        self.insert(name.clone(), place, asker, now);
        Ok(self.address_at(place))
    }

    /// Another user's question for the name keeps it from going with the first one's.
    fn share(&mut self, place: u128, asker: u32) {
        if let Some(entry) = self.entries.get_mut(&place)
            && entry.owner != asker
            && !entry.shared
        {
            entry.shared = true;
            self.own_idle.remove(&(entry.owner, entry.turn));
        }
    }

    /// Whether one more name of a user who has `own` leaves enough for other users: of three quarters
    /// no more than is left, and an eighth to those who have less than a thousandth.
    fn leaves_others(&self, own: usize) -> bool {
        let left = (self.capacity - self.capacity / 4).saturating_sub(self.of_users);
        match own < (self.capacity / 1024).max(1) {
            true => left > 0,
            false => own < left.saturating_sub(self.capacity / 8),
        }
    }

    /// A user other than root has a quarter of the names at most: one who asks for names without end
    /// is out of names before others are.
    fn make_room(&mut self, asker: u32, now: Instant) -> Result<(), NoAddress> {
        if asker == 0 {
            return Ok(());
        }
        let own = self.shares.get(&asker).copied().unwrap_or(0);
        let most = (self.capacity / 4).max(1);
        if own < most && self.leaves_others(own) {
            return Ok(());
        }
        let oldest = self.own_idle.range((asker, 0)..=(asker, u64::MAX)).next();
        let old = oldest.map(|(_, place)| *place).filter(|place| {
            let used = self.entries.get(place).map(|entry| entry.used);
            used.is_some_and(|used| now.saturating_duration_since(used) >= KEEP)
        });
        match old {
            Some(place) => {
                self.remove(place);
                Ok(())
            }
            None if own >= most => Err(NoAddress::User(most)),
            None => Err(NoAddress::All(self.capacity)),
        }
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
        self.own_idle.remove(&(entry.owner, entry.turn));
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
            self.insert(line.name.clone(), place, 0, used);
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

    fn insert(&mut self, name: DomainName, place: u128, owner: u32, now: Instant) {
        self.turn += 1;
        self.places.insert(name.clone(), place);
        self.idle.insert(self.turn, place);
        self.own_idle.insert((owner, self.turn), place);
        if owner != 0 {
            *self.shares.entry(owner).or_default() += 1;
            self.of_users += 1;
        }
        let entry = Entry {
            name,
            used: now,
            turn: self.turn,
            holders: 0,
            owner,
            shared: false,
        };
        self.entries.insert(place, entry);
    }

    fn touch(&mut self, place: u128, now: Instant) {
        let Some(entry) = self.entries.get_mut(&place) else {
            return;
        };
        self.idle.remove(&entry.turn);
        self.own_idle.remove(&(entry.owner, entry.turn));
        self.turn += 1;
        entry.turn = self.turn;
        entry.used = now;
        if entry.holders == 0 {
            self.idle.insert(entry.turn, place);
            if !entry.shared {
                self.own_idle.insert((entry.owner, entry.turn), place);
            }
        }
    }

    fn remove(&mut self, place: u128) {
        let Some(entry) = self.entries.remove(&place) else {
            return;
        };
        self.places.remove(&entry.name);
        self.idle.remove(&entry.turn);
        self.own_idle.remove(&(entry.owner, entry.turn));
        if let Some(count) = self.shares.get_mut(&entry.owner) {
            self.of_users -= 1;
            *count -= 1;
            if *count == 0 {
                self.shares.remove(&entry.owner);
            }
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
        let (_, &place) = self.idle.first_key_value()?;
        let entry = self.entries.get(&place)?;
        if now.saturating_duration_since(entry.used) < KEEP {
            return None;
        }
        self.remove(place);
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
