use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use tokio::time::Instant;

use offramp_rules::ProfileId;

use crate::far::Answer;
use crate::message::{Asked, Flags};
use crate::wire::labels;

/// What one user may have kept.
const USER_ENTRIES: usize = 2048;
const USER_BYTES: usize = 1 << 20;

/// What all users together may have kept; who has the most loses first.
const ALL_BYTES: usize = 16 << 20;

/// What an entry takes besides its name and its message, about.
const ENTRY: usize = 256;

/// Whose far side an answer comes from: a profile, and a number that tells its connections from
/// those it had before or will have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// The profile.
    pub profile: ProfileId,
    /// Another one for every set of servers.
    pub number: u64,
}

/// One kept answer, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cached {
    /// Whose far side gave it.
    pub source: Source,
    /// The user whose programs asked; no other user is answered from it.
    pub asker: u32,
    /// The resolver that was asked.
    pub resolver: SocketAddr,
    /// The name, in lower case.
    pub name: String,
    /// The type, as `MX` or `TYPE1234`.
    pub kind: String,
    /// How it went, as `No Error`.
    pub code: String,
    /// How long it is kept from now.
    pub expires: Duration,
    /// The length of the message, in bytes.
    pub bytes: usize,
}

/// A question as it is kept. Users have their own, so that the time an answer takes tells nobody
/// what others ask.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    source: Source,
    asker: u32,
    resolver: SocketAddr,
    name: Box<[u8]>,
    kind: u16,
    flags: Flags,
}

/// Answers of the far side, kept as long as they say.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    shelves: HashMap<u32, Shelf>,
    flights: HashMap<Key, Flight>,
    bytes: usize,
    turn: u64,
}

/// What is kept for one user.
#[derive(Debug, Default)]
struct Shelf {
    entries: HashMap<Arc<Key>, Entry>,
    /// The longest unused first.
    turns: BTreeMap<u64, Arc<Key>>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    answer: Answer,
    since: Instant,
    turn: u64,
}

/// A question that is being asked; whoever asks the same waits for the lock, and takes what the one
/// before has found.
type Flight = Arc<tokio::sync::Mutex<Option<Answer>>>;

/// Takes part in a question that is being asked.
pub(crate) struct Boarded<'a> {
    cache: &'a Cache,
    key: Key,
    flight: Option<Flight>,
}

impl Key {
    pub(crate) fn new(source: Source, asker: u32, resolver: SocketAddr, asked: &Asked) -> Self {
        Self {
            source,
            asker,
            resolver,
            name: asked.wire_name().to_ascii_lowercase().into(),
            kind: asked.kind.into(),
            flags: asked.flags(),
        }
    }
}

impl Cache {
    /// A kept answer and its age.
    pub(crate) fn find(&self, key: &Key) -> Option<(Answer, Duration)> {
        let now = Instant::now();
        let mut kept = self.lock();
        kept.turn += 1;
        let turn = kept.turn;
        let shelf = kept.shelves.get_mut(&key.asker)?;
        let entry = shelf.entries.get_mut(key)?;
        let age = now.saturating_duration_since(entry.since);
        if age >= entry.answer.keep {
            kept.remove(key);
            return None;
        }
        let last = std::mem::replace(&mut entry.turn, turn);
        let found = (entry.answer.clone(), age);
        if let Some(key) = shelf.turns.remove(&last) {
            shelf.turns.insert(turn, key);
        }
        Some(found)
    }

    /// Keeps an answer as long as it says.
    pub(crate) fn keep(&self, key: &Key, answer: &Answer) {
        if answer.keep.is_zero() {
            return;
        }
        let since = Instant::now();
        let mut kept = self.lock();
        kept.remove(key);
        kept.turn += 1;
        let (turn, key) = (kept.turn, Arc::new(key.clone()));
        let answer = answer.alone();
        let size = size(&key, &answer);
        kept.bytes += size;
        let shelf = kept.shelves.entry(key.asker).or_default();
        shelf.bytes += size;
        shelf.turns.insert(turn, Arc::clone(&key));
        let asker = key.asker;
        let entry = Entry {
            answer,
            since,
            turn,
        };
        shelf.entries.insert(key, entry);
        kept.make_room(asker);
    }

    /// Joins those who ask this question now, or is the first.
    pub(crate) fn board(&self, key: Key) -> Boarded<'_> {
        let flight = Arc::clone(self.lock().flights.entry(key.clone()).or_default());
        Boarded {
            cache: self,
            key,
            flight: Some(flight),
        }
    }

    /// Forgets what comes from elsewhere.
    pub(crate) fn retain(&self, stays: impl Fn(&Source) -> bool) {
        let mut kept = self.lock();
        let all = kept.shelves.values().flat_map(|shelf| shelf.entries.keys());
        let gone = all.filter(|key| !stays(&key.source)).cloned();
        for key in gone.collect::<Vec<_>>() {
            kept.remove(&key);
        }
    }

    /// What is kept, by name.
    pub(crate) fn entries(&self) -> Vec<Cached> {
        let now = Instant::now();
        let kept = self.lock();
        let all = kept.shelves.values().flat_map(|shelf| &shelf.entries);
        let mut all: Vec<_> = all
            .filter_map(|(key, entry)| {
                let age = now.saturating_duration_since(entry.since);
                Some(Cached {
                    source: key.source.clone(),
                    asker: key.asker,
                    resolver: key.resolver,
                    name: text(&key.name),
                    kind: RecordType::from(key.kind).to_string(),
                    code: entry.answer.code().to_string(),
                    expires: entry
                        .answer
                        .keep
                        .checked_sub(age)
                        .filter(|d| !d.is_zero())?,
                    bytes: entry.answer.len(),
                })
            })
            .collect();
        all.sort_by(|a, b| (&a.name, &a.kind, a.asker).cmp(&(&b.name, &b.kind, b.asker)));
        all
    }

    /// Panics where what is counted is not what is there, or somebody waits for nobody.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let kept = self.lock();
        let size = |shelf: &Shelf| -> usize {
            let entries = shelf.entries.iter();
            entries.map(|(key, entry)| size(key, &entry.answer)).sum()
        };
        for shelf in kept.shelves.values() {
            assert_eq!(shelf.bytes, size(shelf));
            assert!(!shelf.entries.is_empty() && shelf.turns.len() == shelf.entries.len());
            let turns = shelf.turns.iter();
            assert!(
                turns
                    .into_iter()
                    .all(|(turn, key)| shelf.entries[key].turn == *turn)
            );
        }
        assert_eq!(
            kept.bytes,
            kept.shelves
                .values()
                .map(|shelf| shelf.bytes)
                .sum::<usize>()
        );
        assert!(kept.bytes <= ALL_BYTES && kept.flights.is_empty());
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Every change is complete or not begun when something could panic.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Boarded<'_> {
    /// The answer of whoever was before, or what `ask` finds. Who is before may give up: then the
    /// next one asks.
    pub(crate) async fn answer<E>(
        &self,
        ask: impl AsyncFnOnce() -> Result<Answer, E>,
    ) -> Result<Answer, E> {
        let Some(flight) = &self.flight else {
            return ask().await;
        };
        let mut found = flight.lock().await;
        if let Some(answer) = &*found {
            return Ok(answer.clone());
        }
        let answer = ask().await?;
        self.cache.keep(&self.key, &answer);
        *found = Some(answer.clone());
        // Whoever comes from here on finds it kept, or asks anew.
        self.cache.land(&self.key, flight);
        Ok(answer)
    }
}

impl Cache {
    fn land(&self, key: &Key, flight: &Flight) {
        let mut kept = self.lock();
        if kept
            .flights
            .get(key)
            .is_some_and(|last| Arc::ptr_eq(last, flight))
        {
            kept.flights.remove(key);
        }
    }
}

impl Drop for Boarded<'_> {
    fn drop(&mut self) {
        let mut kept = self.cache.lock();
        drop(self.flight.take());
        if kept
            .flights
            .get(&self.key)
            .is_some_and(|flight| Arc::strong_count(flight) == 1)
        {
            kept.flights.remove(&self.key);
        }
    }
}

impl Kept {
    fn remove(&mut self, key: &Key) {
        let Some(shelf) = self.shelves.get_mut(&key.asker) else {
            return;
        };
        let Some((key, entry)) = shelf.entries.remove_entry(key) else {
            return;
        };
        shelf.turns.remove(&entry.turn);
        let size = size(&key, &entry.answer);
        shelf.bytes -= size;
        self.bytes -= size;
        if shelf.entries.is_empty() {
            self.shelves.remove(&key.asker);
        }
    }

    fn make_room(&mut self, asker: u32) {
        while let Some(shelf) = self.shelves.get(&asker)
            && (shelf.entries.len() > USER_ENTRIES || shelf.bytes > USER_BYTES)
        {
            self.remove_oldest(asker);
        }
        while self.bytes > ALL_BYTES {
            let fattest = self.shelves.iter().max_by_key(|(_, shelf)| shelf.bytes);
            let Some(asker) = fattest.map(|(asker, _)| *asker) else {
                return;
            };
            self.remove_oldest(asker);
        }
    }

    fn remove_oldest(&mut self, asker: u32) {
        let shelf = self.shelves.get(&asker);
        let oldest = shelf.and_then(|shelf| shelf.turns.values().next().cloned());
        if let Some(oldest) = oldest {
            self.remove(&oldest);
        }
    }
}

fn size(key: &Key, answer: &Answer) -> usize {
    ENTRY + key.name.len() + answer.len()
}

pub(crate) fn text(name: &[u8]) -> String {
    let mut text = String::new();
    for label in labels(name) {
        for octet in label {
            match octet {
                b'.' | b'\\' => text.extend(['\\', char::from(*octet)]),
                0x21..=0x7e => text.push(char::from(*octet)),
                other => text.push_str(&format!("\\{other:03}")),
            }
        }
        text.push('.');
    }
    match text.pop() {
        Some(_) if !text.is_empty() => text,
        _ => ".".to_owned(),
    }
}

#[cfg(test)]
mod tests;
