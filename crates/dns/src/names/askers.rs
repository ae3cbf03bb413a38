use std::collections::HashMap;

use tokio::time::Instant;

use super::table::{NoAddress, ROOT};
use super::uses::Uses;

/// How many users may have asked for the names of a full table, on average.
const ASKERS: usize = 2;

/// A user's part in an entry: the user has asked for the name, and sees what the address stands for.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) uid: u32,
    pub(super) used: Instant,
    pub(super) turn: u64,
    /// Flows of this user to the address.
    pub(super) holders: usize,
}

/// Who has asked for how many names. Root's are not counted.
#[derive(Debug)]
pub(super) struct Askers {
    capacity: usize,
    shares: HashMap<u32, usize>,
    /// Of all users together.
    claims: usize,
    /// Entries that a user other than root was the first to ask for.
    pub(super) of_users: usize,
    /// Entries of each user by that user's last use of them.
    pub(super) uses: Uses<(u32, u64)>,
}

impl Askers {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            shares: HashMap::new(),
            claims: 0,
            of_users: 0,
            uses: Uses::default(),
        }
    }

    /// How many names this user has asked for.
    pub(super) fn share(&self, uid: u32) -> usize {
        self.shares.get(&uid).copied().unwrap_or(0)
    }

    /// Whether a user may have one more name, and one that is new to the table.
    pub(super) fn may_have(&self, uid: u32, is_new: bool) -> Result<(), NoAddress> {
        let own = self.share(uid);
        let most = (self.capacity / 4).max(1);
        if own >= most {
            return Err(NoAddress::User(most));
        }
        // Where there is room for addresses, memory for many users of each is still to be had.
        let leaves_others = leaves_others(own, self.claims, self.capacity.saturating_mul(ASKERS))
            && (!is_new || leaves_others(own, self.of_users, self.capacity));
        match leaves_others {
            true => Ok(()),
            false => Err(NoAddress::All(self.capacity)),
        }
    }

    pub(super) fn begin(&mut self, uid: u32, place: u128, turn: u64, used: Instant) -> Claim {
        if uid != ROOT {
            *self.shares.entry(uid).or_default() += 1;
            self.claims += 1;
        }
        let claim = Claim {
            uid,
            used,
            turn,
            holders: 0,
        };
        self.order(&claim, place);
        claim
    }

    pub(super) fn forget(&mut self, claim: &Claim) {
        self.disorder(claim);
        if let Some(count) = self.shares.get_mut(&claim.uid) {
            self.claims -= 1;
            *count -= 1;
            if *count == 0 {
                self.shares.remove(&claim.uid);
            }
        }
    }

    pub(super) fn order(&mut self, claim: &Claim, place: u128) {
        self.uses
            .put((claim.uid, claim.turn), place, claim.holders > 0);
    }

    pub(super) fn disorder(&mut self, claim: &Claim) {
        self.uses.remove(&(claim.uid, claim.turn));
    }
}

/// Whether one more of a user who has `own` leaves enough for other users, who have `taken`: of three
/// quarters no more than is left, and an eighth to those who have less than a thousandth.
fn leaves_others(own: usize, taken: usize, capacity: usize) -> bool {
    let left = (capacity - capacity / 4).saturating_sub(taken);
    match own < (capacity / 1024).max(1) {
        true => left > 0,
        false => own < left.saturating_sub(capacity / 8),
    }
}
