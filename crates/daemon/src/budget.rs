//! What one user, and one program of a user, may take of what all share.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

/// Something that is counted by user and program.
///
/// A quarter of it is root's alone. Of the rest, a user may take up to a quarter of the whole, and no
/// more than is left for others; an eighth is for those who have less than a thousandth. One program
/// may take half of what its user may, one of root's seven eighths.
pub(crate) struct Budget {
    whole: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    /// By users other than root.
    by_users: usize,
    users: HashMap<u32, usize>,
    programs: HashMap<(u32, Arc<str>), usize>,
}

/// One unit, given back when it is dropped.
pub(crate) struct Share {
    budget: Arc<Budget>,
    uid: u32,
    program: Option<Arc<str>>,
}

/// The limit that left no unit, with what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reached {
    /// Of one program of a user.
    Program(usize),
    /// Of one user.
    User(usize),
    /// Of the machine: what is left is for others.
    Machine(usize),
}

impl fmt::Display for Reached {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program(most) => write!(out, "one program of a user may have {most}"),
            Self::User(most) => write!(out, "one user may have {most}"),
            Self::Machine(most) => {
                write!(
                    out,
                    "this machine may have {most}, and what is left is for others"
                )
            }
        }
    }
}

impl Budget {
    pub(crate) fn new(whole: usize) -> Arc<Self> {
        Arc::new(Self {
            whole,
            taken: Mutex::default(),
        })
    }

    /// One unit for this user, where no program is asked about.
    pub(crate) fn take(self: &Arc<Self>, uid: u32) -> Result<Share, Reached> {
        self.take_for(uid, None::<fn() -> Arc<str>>)
    }

    /// One unit for this program of this user; nobody is asked which where the user may have no more.
    pub(crate) fn take_by(
        self: &Arc<Self>,
        uid: u32,
        program: impl FnOnce() -> Arc<str>,
    ) -> Result<Share, Reached> {
        self.take_for(uid, Some(program))
    }

    fn take_for(
        self: &Arc<Self>,
        uid: u32,
        program: Option<impl FnOnce() -> Arc<str>>,
    ) -> Result<Share, Reached> {
        let mut taken = self.lock();
        let own = taken.users.get(&uid).copied().unwrap_or(0);
        let most = self.most(uid);
        if taken.all >= self.whole {
            return Err(Reached::Machine(self.whole));
        }
        if own >= most {
            return Err(Reached::User(most));
        }
        if uid != 0 && !self.leaves_others(own, taken.by_users) {
            return Err(Reached::Machine(self.whole));
        }
        let program = program.map(|program| program());
        if let Some(program) = &program {
            // A server of root's may be all that a machine is there for.
            let most = match uid {
                0 => most - most / 8,
                _ => (most / 2).max(1),
            };
            let count = taken
                .programs
                .entry((uid, Arc::clone(program)))
                .or_default();
            if *count >= most {
                return Err(Reached::Program(most));
            }
            *count += 1;
        }
        taken.all += 1;
        taken.by_users += usize::from(uid != 0);
        *taken.users.entry(uid).or_default() += 1;
        Ok(Share {
            budget: Arc::clone(self),
            uid,
            program,
        })
    }

    /// Whether one more for a user who has `own` leaves enough for other users, who have the rest of
    /// `by_users`.
    fn leaves_others(&self, own: usize, by_users: usize) -> bool {
        let left = (self.whole - self.whole / 4).saturating_sub(by_users);
        match own < (self.whole / 1024).max(1) {
            true => left > 0,
            false => own < left.saturating_sub(self.whole / 8),
        }
    }

    /// What this user may take at most.
    fn most(&self, uid: u32) -> usize {
        match uid {
            0 => self.whole,
            _ => self.whole / 4,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().expect("nothing panics with the counts")
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.budget.lock();
        taken.all -= 1;
        taken.by_users -= usize::from(self.uid != 0);
        give_back(&mut taken.users, &self.uid);
        if let Some(program) = self.program.take() {
            give_back(&mut taken.programs, &(self.uid, program));
        }
    }
}

/// One less; nobody is remembered for nothing.
fn give_back<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(budget: &Arc<Budget>, uid: u32) -> (Vec<Share>, Reached) {
        let mut shares = Vec::new();
        loop {
            match budget.take(uid) {
                Ok(share) => shares.push(share),
                Err(reached) => return (shares, reached),
            }
        }
    }

    #[test]
    fn a_user_takes_a_quarter_and_gives_it_back() {
        let budget = Budget::new(8);
        let (mut shares, reached) = all(&budget, 1000);
        assert_eq!((shares.len(), reached), (2, Reached::User(2)));
        assert!(budget.take(1001).is_ok(), "others have their own");
        shares.pop();
        assert!(budget.take(1000).is_ok());
        drop(shares);
        let (shares, reached) = all(&budget, 0);
        assert_eq!((shares.len(), reached), (8, Reached::Machine(8)));
        drop(shares);
        let taken = budget.lock();
        assert!(taken.users.is_empty() && taken.programs.is_empty());
        assert_eq!((taken.all, taken.by_users), (0, 0));
    }

    #[test]
    fn users_who_take_all_they_may_leave_some_to_others() {
        let budget = Budget::new(65_536);
        let users: Vec<_> = (1000..1100).map(|uid| all(&budget, uid).0).collect();
        assert_eq!(users[0].len(), 16_384);
        assert!(users[2].len() >= 4096, "{}", users[2].len());
        let (other, reached) = all(&budget, 5000);
        assert_eq!((other.len(), reached), (64, Reached::Machine(65_536)));
        let (root, reached) = all(&budget, 0);
        assert!(root.len() >= 16_384, "a quarter is root's");
        assert_eq!(reached, Reached::Machine(65_536));
    }

    #[test]
    fn a_program_takes_half_of_what_its_user_may() {
        let budget = Budget::new(32);
        let take = |uid, program: &str| budget.take_by(uid, || program.into());
        for (uid, most) in [(1000, 4), (0, 28)] {
            let shares: Vec<_> = (0..most).map(|_| take(uid, "/a")).collect();
            assert!(shares.iter().all(Result::is_ok));
            assert_eq!(take(uid, "/a").err(), Some(Reached::Program(most)));
            assert!(take(uid, "/b").is_ok(), "another program has some left");
        }
    }
}
