//! What one user may take of what all share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// Something that is counted by user. Root may take all of it, every other user a quarter.
pub(crate) struct Budget {
    whole: usize,
    taken: Mutex<HashMap<u32, usize>>,
}

/// One unit, given back when it is dropped.
pub(crate) struct Share {
    budget: Arc<Budget>,
    uid: u32,
}

impl Budget {
    pub(crate) fn new(whole: usize) -> Arc<Self> {
        Arc::new(Self {
            whole,
            taken: Mutex::default(),
        })
    }

    /// One unit for this user, if there is one left.
    pub(crate) fn take(self: &Arc<Self>, uid: u32) -> Option<Share> {
        let mut taken = self.lock();
        let limit = if uid == 0 { self.whole } else { self.whole / 4 };
        let own = taken.entry(uid).or_default();
        if *own >= limit {
            return None;
        }
        *own += 1;
        Some(Share {
            budget: Arc::clone(self),
            uid,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        self.taken.lock().expect("nothing panics with the counts")
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.budget.lock();
        if let Some(own) = taken.get_mut(&self.uid) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_takes_a_quarter_and_gives_it_back() {
        let budget = Budget::new(8);
        let first = budget.take(1000).expect("the first of two");
        let _second = budget.take(1000).expect("the second of two");
        assert!(budget.take(1000).is_none());
        assert!(budget.take(1001).is_some(), "others have their own");
        drop(first);
        assert!(budget.take(1000).is_some());
        let all: Vec<_> = (0..8).filter_map(|_| budget.take(0)).collect();
        assert_eq!(all.len(), 8, "root may take all");
        drop(all);
        assert!(
            !budget.lock().contains_key(&0),
            "nobody is remembered for nothing"
        );
    }
}
