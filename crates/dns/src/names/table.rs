use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;

use offramp_rules::{DomainName, Prefix};

use super::askers::{Askers, Claim};
use super::file::Line;
use super::uses::Uses;

/// How long an address keeps its name after the last answer or use: apps cache beyond the TTL.
pub(super) const KEEP: Duration = Duration::from_secs(600);

/// Whose names everybody sees: daemons resolve as root, and connect as another.
pub(super) const ROOT: u32 = 0;

/// Addresses left out at either end of a block, where the daemon's own stand.
const MARGIN: u128 = 256;

/// How far from its own place a name is looked a free address for once another was evicted.
const SHORT_SEARCH: u128 = 64;

/// How much later than it was saved an entry may have been used.
const LATE: Duration = Duration::from_secs(300);

/// Changes that are remembered until they are saved; after more, everything is to be saved.
const UNSAVED: usize = 8192;

/// The names of one family.
#[derive(Debug)]
pub(super) struct Table {
    first: IpAddr,
    size: u128,
    capacity: usize,
    places: HashMap<DomainName, u128>,
    pub(super) entries: HashMap<u128, Entry>,
    /// Entries by their last use.
    pub(super) order: Uses<u64>,
    pub(super) askers: Askers,
    turn: u64,
    /// Entries that have changed since they were saved.
    unsaved: Vec<u128>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: DomainName,
    pub(super) used: Instant,
    /// Of what is saved, or will be in a moment, the last use.
    saved: Instant,
    turn: u64,
    pub(super) holders: usize,
    /// Who has asked for it, and root where it has.
    pub(super) claims: Vec<Claim>,
    /// A user other than root was the first to ask.
    is_of_users: bool,
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
        let capacity = capacity.min(usize::try_from(size).unwrap_or(usize::MAX));
        Self {
            first: block.address(),
            size,
            capacity,
            places: HashMap::new(),
            entries: HashMap::new(),
            order: Uses::default(),
            askers: Askers::new(capacity),
            turn: 0,
            unsaved: Vec::new(),
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
            self.ask(place, asker, now)?;
            return Ok(self.address_at(place));
        }
        self.make_room(asker, true, now)?;
        let all = NoAddress::All(self.capacity);
        let place = self.free_place(name, now).ok_or(all)?;
        self.insert(name.clone(), place, asker != ROOT, now);
        self.claim(place, asker, now);
        Ok(self.address_at(place))
    }

    /// A user asks for a name that has its address already.
    fn ask(&mut self, place: u128, asker: u32, now: Instant) -> Result<(), NoAddress> {
        let claim_of = |table: &Self, uid| {
            let claims = table.entries.get(&place).map(|entry| &entry.claims);
            claims.is_some_and(|claims| claims.iter().any(|claim| claim.uid == uid))
        };
        if !claim_of(self, asker) {
            match self.make_room(asker, false, now) {
                Ok(()) => self.claim(place, asker, now),
                // Everybody sees it, so that nobody has to have it.
                Err(_) if claim_of(self, ROOT) => {
                    self.touch(place, Some(ROOT), now);
                    return Ok(());
                }
                Err(why) => return Err(why),
            }
        }
        self.touch(place, Some(asker), now);
        Ok(())
    }

    /// A user other than root has a quarter of the names at most: one who asks for names without end
    /// is out of names before others are. What that user has not used for long makes room.
    fn make_room(&mut self, asker: u32, is_new: bool, now: Instant) -> Result<(), NoAddress> {
        if asker == ROOT {
            return Ok(());
        }
        while let Err(why) = self.askers.may_have(asker, is_new) {
            let oldest = self.askers.uses.oldest_idle((asker, 0)..=(asker, u64::MAX));
            let old = oldest.filter(|place| {
                let claims = self.entries.get(place).map(|entry| &entry.claims);
                let own = claims.and_then(|claims| claims.iter().find(|c| c.uid == asker));
                own.is_some_and(|claim| now.saturating_duration_since(claim.used) >= KEEP)
            });
            self.give_up(old.ok_or(why)?, asker);
        }
        Ok(())
    }

    /// A user has no part in an entry any more, which goes with the last one.
    fn give_up(&mut self, place: u128, uid: u32) {
        let Some(entry) = self.entries.get_mut(&place) else {
            return;
        };
        entry.claims.retain(|claim| {
            if claim.uid == uid {
                self.askers.forget(claim);
            }
            claim.uid != uid
        });
        if entry.claims.is_empty() && entry.holders == 0 {
            self.remove(place);
        }
    }

    /// The name where the address stands for one that `asker` may see; asking counts as use.
    pub(super) fn name_of(
        &mut self,
        address: IpAddr,
        asker: u32,
        now: Instant,
    ) -> Option<DomainName> {
        let place = self.place_of(address)?;
        let entry = self.entries.get(&place)?;
        let by = entry.seen_by(asker)?;
        let name = entry.name.clone();
        self.touch(place, by, now);
        Some(name)
    }

    /// The same, and asking changes nothing.
    pub(super) fn peek(&self, address: IpAddr, asker: u32) -> Option<&DomainName> {
        let entry = self.entries.get(&self.place_of(address)?)?;
        entry.seen_by(asker).map(|_| &entry.name)
    }

    /// The address of a name that `asker` may see; asking changes nothing.
    pub(super) fn find(&self, name: &DomainName, asker: u32) -> Option<IpAddr> {
        let place = *self.places.get(name)?;
        let entry = self.entries.get(&place)?;
        entry.seen_by(asker).map(|_| self.address_at(place))
    }

    /// The name, and by whose part in it the address is held.
    pub(super) fn hold(
        &mut self,
        address: IpAddr,
        asker: u32,
    ) -> Option<(DomainName, Option<u32>)> {
        let place = self.place_of(address)?;
        let entry = self.entries.get_mut(&place)?;
        let by = entry.seen_by(asker)?;
        entry.holders += 1;
        self.order.put(entry.turn, place, true);
        let claim = entry.claims.iter_mut().find(|claim| Some(claim.uid) == by);
        if let Some(claim) = claim {
            claim.holders += 1;
            self.askers.order(claim, place);
        }
        Some((entry.name.clone(), by))
    }

    pub(super) fn release(&mut self, address: IpAddr, by: Option<u32>, now: Instant) {
        let Some(place) = self.place_of(address) else {
            return;
        };
        let Some(entry) = self.entries.get_mut(&place) else {
            return;
        };
        entry.holders = entry.holders.saturating_sub(1);
        let claim = entry.claims.iter_mut().find(|claim| Some(claim.uid) == by);
        if let Some(claim) = claim {
            claim.holders = claim.holders.saturating_sub(1);
        }
        self.touch(place, by, now);
    }

    /// Puts a remembered line back; false when the name or the address is another's or not ours.
    pub(super) fn restore(&mut self, line: &Line, now: Instant) -> bool {
        let Some(place) = self.place_of(line.address) else {
            return false;
        };
        if self.places.get(&line.name) == Some(&place) {
            return true;
        }
        let fits = self.entries.len() < self.capacity
            && !self.entries.contains_key(&place)
            && !self.places.contains_key(&line.name);
        if fits {
            let of_users =
                !line.askers.is_empty() && line.askers.iter().all(|(uid, _)| *uid != ROOT);
            self.insert(line.name.clone(), place, of_users, before(now, line.unused));
        }
        fits
    }

    /// Gives a line that was put back its turn. To be called with the longest unused first.
    pub(super) fn settle(&mut self, line: &Line, now: Instant) {
        let (place, used) = (
            self.places.get(&line.name).copied(),
            before(now, line.unused),
        );
        let entry = place.and_then(|place| self.entries.get(&place));
        if let (Some(place), Some(entry)) = (place, entry)
            && entry.used <= used
        {
            self.touch(place, None, used);
        }
    }

    /// Puts back who asked for a remembered name. To be called with the longest unused first.
    pub(super) fn restore_asker(&mut self, line: &Line, uid: u32, unused: Duration, now: Instant) {
        let Some(&place) = self.places.get(&line.name) else {
            return;
        };
        let is_known = self.place_of(line.address) == Some(place)
            && self
                .entries
                .get(&place)
                .is_some_and(|entry| entry.claims.iter().all(|claim| claim.uid != uid));
        if is_known && (uid == ROOT || self.askers.may_have(uid, false).is_ok()) {
            self.claim(place, uid, before(now, unused));
        }
    }

    /// All that there is, the latest used first.
    pub(super) fn latest_first(&mut self, now: Instant) -> Vec<Line> {
        self.unsaved = Vec::new();
        let places: Vec<_> = self.order.latest_first().collect();
        places
            .into_iter()
            .filter_map(|place| self.line(place, now))
            .collect()
    }

    /// What has changed since the last call, the latest change last. None: more than is remembered.
    pub(super) fn take_unsaved(&mut self, now: Instant) -> Option<Vec<Line>> {
        if self.unsaved.len() > UNSAVED {
            return None;
        }
        let places = std::mem::take(&mut self.unsaved);
        let lines = places.into_iter();
        Some(lines.filter_map(|place| self.line(place, now)).collect())
    }

    fn line(&self, place: u128, now: Instant) -> Option<Line> {
        let entry = self.entries.get(&place)?;
        let unused = |holders, used| match holders {
            0 => now.saturating_duration_since(used),
            _ => Duration::ZERO,
        };
        let askers = entry.claims.iter();
        Some(Line {
            name: entry.name.clone(),
            address: self.address_at(place),
            unused: unused(entry.holders, entry.used),
            askers: askers
                .map(|claim| (claim.uid, unused(claim.holders, claim.used)))
                .collect(),
        })
    }

    fn insert(&mut self, name: DomainName, place: u128, is_of_users: bool, used: Instant) {
        self.turn += 1;
        self.places.insert(name.clone(), place);
        self.order.put(self.turn, place, false);
        self.askers.of_users += usize::from(is_of_users);
        let entry = Entry {
            name,
            used,
            saved: used,
            turn: self.turn,
            holders: 0,
            claims: Vec::with_capacity(1),
            is_of_users,
        };
        self.entries.insert(place, entry);
    }

    /// Gives a user a part in an entry.
    fn claim(&mut self, place: u128, uid: u32, used: Instant) {
        let Some(entry) = self.entries.get_mut(&place) else {
            return;
        };
        self.turn += 1;
        let claim = self.askers.begin(uid, place, self.turn, used);
        entry.claims.push(claim);
        entry.saved = entry.used.max(used);
        if self.unsaved.len() <= UNSAVED {
            self.unsaved.push(place);
        }
    }

    fn touch(&mut self, place: u128, by: Option<u32>, now: Instant) {
        let Some(entry) = self.entries.get_mut(&place) else {
            return;
        };
        self.turn += 1;
        self.order.remove(&entry.turn);
        (entry.turn, entry.used) = (self.turn, now);
        self.order.put(entry.turn, place, entry.holders > 0);
        if now.saturating_duration_since(entry.saved) >= LATE && self.unsaved.len() <= UNSAVED {
            entry.saved = now;
            self.unsaved.push(place);
        }
        let claim = entry.claims.iter_mut().find(|claim| Some(claim.uid) == by);
        if let Some(claim) = claim {
            self.askers.disorder(claim);
            (claim.turn, claim.used) = (self.turn, now);
            self.askers.order(claim, place);
        }
    }

    fn remove(&mut self, place: u128) {
        let Some(entry) = self.entries.remove(&place) else {
            return;
        };
        self.places.remove(&entry.name);
        self.order.remove(&entry.turn);
        self.askers.of_users -= usize::from(entry.is_of_users);
        for claim in &entry.claims {
            self.askers.forget(claim);
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
        let place = self.order.oldest_idle(..)?;
        let entry = self.entries.get(&place)?;
        if now.saturating_duration_since(entry.used) < KEEP {
            return None;
        }
        self.remove(place);
        Some(place)
    }

    pub(super) fn address_at(&self, place: u128) -> IpAddr {
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

impl Entry {
    /// None where it stands for nothing as far as `asker` may know; else by whose part in it the
    /// asker sees it, root sees all.
    fn seen_by(&self, asker: u32) -> Option<Option<u32>> {
        let has = |uid| self.claims.iter().any(|claim| claim.uid == uid);
        match asker {
            asker if has(asker) => Some(Some(asker)),
            ROOT => Some(None),
            _ => has(ROOT).then_some(Some(ROOT)),
        }
    }
}

/// When what was saved may have been used last. What nobody used for long makes room for new names
/// after a restart too.
fn before(now: Instant, unused: Duration) -> Instant {
    let unused = unused.saturating_sub(LATE).min(KEEP);
    now.checked_sub(unused).unwrap_or(now)
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
