use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Keeps one user from taking all connections; root has no limit.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    open: Mutex<BTreeMap<u32, usize>>,
}

/// One connection within the budget, until it is dropped.
#[derive(Debug)]
pub(super) struct Ticket<'a> {
    budget: &'a Budget,
    uid: u32,
}

impl Budget {
    /// A budget of so many connections for each user.
    pub(super) const fn new(limit: usize) -> Self {
        Self {
            limit,
            open: Mutex::new(BTreeMap::new()),
        }
    }

    /// A ticket, or none where the user has used up the budget.
    pub(super) fn enter(&self, uid: u32) -> Option<Ticket<'_>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(uid).or_default();
        if uid != 0 && *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Ticket { budget: self, uid })
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut open = self
            .budget
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_so_many_and_gets_them_back() {
        let budget = Budget::new(2);
        let first = budget.enter(1000);
        let second = budget.enter(1000);
        assert!(first.is_some() && second.is_some());
        assert!(budget.enter(1000).is_none());
        assert!(
            budget.enter(1001).is_some(),
            "another user has a budget of their own"
        );
        drop(first);
        let again = budget.enter(1000);
        assert!(again.is_some());
        drop((second, again));
        assert!(
            budget.open.lock().unwrap().is_empty(),
            "nobody is remembered for ever"
        );
    }

    #[test]
    fn root_has_no_limit() {
        let budget = Budget::new(0);
        assert!(budget.enter(1000).is_none());
        assert!(budget.enter(0).is_some());
    }
}
