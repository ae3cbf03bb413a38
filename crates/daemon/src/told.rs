//! Which true addresses apps were told, and of which names.
//!
//! All names of an address are forgotten together: of two names, the one that is left alone would
//! decide for flows that are meant for the other.

mod choice;
mod flow;
mod kept;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use offramp_rules::{Claims, DomainName};

use crate::budget::{Budget, Share};

pub(crate) use choice::choose;

/// How long an address is remembered at least, after it was told or used: apps keep addresses for
/// longer than their time to live. And at most.
const KEEP: [Duration; 2] = [Duration::from_secs(600), Duration::from_secs(86_400)];
/// Names with their addresses, of all apps.
const PAIRS: usize = 65_536;
/// Names of one address; that there are more is remembered.
const NAMES: usize = 64;

/// Who said that a name has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum By {
    /// The far side, or who it asks.
    Far,
    /// The system's resolver.
    System,
}

/// What an app was told of an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// The last one first.
    pub(crate) names: Vec<(DomainName, By)>,
    /// Whether there were more.
    pub(crate) more: bool,
}

/// Apps of one user that the same rules name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct App {
    uid: u32,
    claims: Arc<Claims>,
}

type Place = (App, IpAddr);
/// When an address is forgotten; no two have the same.
type Turn = (Instant, u64);

/// All that apps were told.
pub(crate) struct Told {
    table: Mutex<Table>,
    budget: Arc<Budget>,
}

#[derive(Default)]
struct Table {
    entries: HashMap<Place, Entry>,
    /// Addresses that no flow uses, those that are forgotten first in front: of all, and by user.
    idle: BTreeMap<Turn, Place>,
    own_idle: BTreeMap<(u32, Turn), Place>,
    last: u64,
}

struct Entry {
    /// The last one told at the end.
    names: Vec<Name>,
    more: bool,
    turn: Turn,
    holders: usize,
}

struct Name {
    name: DomainName,
    by: By,
    _share: Share,
}

/// A flow to an address that its app was told; the address is remembered while this lives.
pub(crate) struct Held {
    told: Arc<Told>,
    place: Place,
    known: Known,
}

impl Held {
    fn known(&self) -> &Known {
        &self.known
    }
}

impl Default for Told {
    fn default() -> Self {
        Self::with(PAIRS)
    }
}

impl Told {
    fn with(pairs: usize) -> Self {
        Self {
            table: Mutex::default(),
            budget: Budget::new(pairs),
        }
    }

    /// Remembers that apps of a user with these claims are told that `name` has these addresses.
    /// Where the user has no more room, the oldest addresses give way.
    pub(crate) fn tell(
        &self,
        (uid, claims): (u32, &Arc<Claims>),
        name: &DomainName,
        by: By,
        addresses: &[(IpAddr, Duration)],
    ) {
        let now = Instant::now();
        let mut table = self.lock();
        table.forget_old(now);
        for (address, ttl) in addresses {
            let app = App {
                uid,
                claims: Arc::clone(claims),
            };
            let place = (app, address.to_canonical());
            let until = now + (*ttl).clamp(KEEP[0], KEEP[1]);
            table.tell(place, name, by, until, &self.budget);
        }
    }

    /// What apps of a user with these claims were told of an address.
    pub(crate) fn known(&self, uid: u32, claims: &Arc<Claims>, address: IpAddr) -> Option<Known> {
        self.lock()
            .known(&place(uid, claims, address), Instant::now())
    }

    /// The same for a flow, which has the address remembered.
    pub(crate) fn hold(
        self: &Arc<Self>,
        uid: u32,
        claims: &Arc<Claims>,
        address: IpAddr,
    ) -> Option<Held> {
        let place = place(uid, claims, address);
        let mut table = self.lock();
        let known = table.known(&place, Instant::now())?;
        table.hold(&place);
        Some(Held {
            told: Arc::clone(self),
            place,
            known,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table
            .lock()
            .expect("nothing panics with what was told")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.told.lock().release(&self.place, Instant::now());
    }
}

fn place(uid: u32, claims: &Arc<Claims>, address: IpAddr) -> Place {
    let claims = Arc::clone(claims);
    (App { uid, claims }, address.to_canonical())
}

impl Table {
    fn tell(
        &mut self,
        place: Place,
        name: &DomainName,
        by: By,
        until: Instant,
        budget: &Arc<Budget>,
    ) {
        let names = self
            .entries
            .get(&place)
            .map_or(&[][..], |entry| &entry.names);
        let known = names.iter().position(|known| known.name == *name);
        let is_full = names.len() >= NAMES;
        let share = match known {
            None if !is_full => self.share(&place, budget),
            _ => None,
        };
        let is_new = !self.entries.contains_key(&place);
        if is_new && share.is_none() {
            // Flows to it are decided by the address, as those to any that nobody asked for.
            return;
        }
        self.unlist(&place);
        let turn = self.turn(until);
        let entry = self.entries.entry(place.clone()).or_insert_with(|| Entry {
            names: Vec::new(),
            more: false,
            turn,
            holders: 0,
        });
        match (known, share) {
            (Some(known), _) => {
                let mut last = entry.names.remove(known);
                // What the system's resolver has said stays said.
                last.by = last.by.max(by);
                entry.names.push(last);
            }
            (None, Some(share)) => entry.names.push(Name {
                name: name.clone(),
                by,
                _share: share,
            }),
            (None, None) => entry.more = true,
        }
        entry.turn = (entry.turn.0.max(until), turn.1);
        self.list(&place);
    }

    /// Room for one more name; the user's oldest addresses other than this one give way.
    fn share(&mut self, place: &Place, budget: &Arc<Budget>) -> Option<Share> {
        let uid = place.0.uid;
        loop {
            if let Ok(share) = budget.take(uid) {
                return Some(share);
            }
            let least = (uid, (self.first()?, 0));
            let own = self.own_idle.range(least..);
            let mut own = own.take_while(|((user, _), _)| *user == uid);
            let oldest = own.find(|(_, other)| *other != place)?.1.clone();
            self.remove(&oldest);
        }
    }

    /// When the first of all is forgotten.
    fn first(&self) -> Option<Instant> {
        self.idle.first_key_value().map(|((first, _), _)| *first)
    }

    fn known(&mut self, place: &Place, now: Instant) -> Option<Known> {
        let entry = self.entries.get(place)?;
        if entry.holders == 0 && entry.turn.0 <= now {
            self.remove(place);
            return None;
        }
        let names = entry.names.iter().rev();
        Some(Known {
            names: names.map(|known| (known.name.clone(), known.by)).collect(),
            more: entry.more,
        })
    }

    fn hold(&mut self, place: &Place) {
        self.unlist(place);
        if let Some(entry) = self.entries.get_mut(place) {
            entry.holders += 1;
        }
    }

    fn release(&mut self, place: &Place, now: Instant) {
        let turn = self.turn(now + KEEP[0]);
        if let Some(entry) = self.entries.get_mut(place) {
            entry.holders = entry.holders.saturating_sub(1);
            entry.turn = (entry.turn.0.max(turn.0), turn.1);
        }
        self.list(place);
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some(((until, _), place)) = self.idle.first_key_value() {
            if *until > now {
                return;
            }
            let place = place.clone();
            self.remove(&place);
        }
    }

    fn remove(&mut self, place: &Place) {
        self.unlist(place);
        self.entries.remove(place);
    }

    fn turn(&mut self, until: Instant) -> Turn {
        self.last += 1;
        (until, self.last)
    }

    fn list(&mut self, place: &Place) {
        if let Some(entry) = self.entries.get(place).filter(|entry| entry.holders == 0) {
            self.idle.insert(entry.turn, place.clone());
            self.own_idle
                .insert((place.0.uid, entry.turn), place.clone());
        }
    }

    fn unlist(&mut self, place: &Place) {
        if let Some(entry) = self.entries.get(place) {
            self.idle.remove(&entry.turn);
            self.own_idle.remove(&(place.0.uid, entry.turn));
        }
    }
}

#[cfg(test)]
mod tests;
