use std::collections::BTreeMap;
use std::ops::RangeBounds;

/// Places by the time of their last use, those that a flow holds apart. A key is a time, or begins
/// with a user.
#[derive(Debug)]
pub(super) struct Uses<K> {
    idle: BTreeMap<K, u128>,
    held: BTreeMap<K, u128>,
}

impl<K> Default for Uses<K> {
    fn default() -> Self {
        Self {
            idle: BTreeMap::new(),
            held: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Copy> Uses<K> {
    pub(super) fn put(&mut self, key: K, place: u128, is_held: bool) {
        self.remove(&key);
        match is_held {
            true => self.held.insert(key, place),
            false => self.idle.insert(key, place),
        };
    }

    pub(super) fn remove(&mut self, key: &K) {
        if self.idle.remove(key).is_none() {
            self.held.remove(key);
        }
    }

    /// The place that is unused for the longest time and that nobody holds.
    pub(super) fn oldest_idle(&self, keys: impl RangeBounds<K>) -> Option<u128> {
        self.idle.range(keys).next().map(|(_, place)| *place)
    }

    /// Those that are held, then the others.
    pub(super) fn latest_first(&self) -> impl Iterator<Item = u128> {
        self.held
            .values()
            .rev()
            .chain(self.idle.values().rev())
            .copied()
    }

    /// At most `most` of those with these keys, the latest used first, each with its key.
    pub(super) fn some(
        &self,
        is_held: bool,
        keys: impl RangeBounds<K>,
        most: usize,
    ) -> Vec<(K, u128)> {
        let uses = match is_held {
            true => &self.held,
            false => &self.idle,
        };
        let some = uses.range(keys).rev().take(most);
        some.map(|(key, place)| (*key, *place)).collect()
    }
}
