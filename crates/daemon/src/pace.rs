//! How often a user may do something.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// So many times a second on the average, and so many at once after a pause; counted by user.
pub(crate) struct Pace {
    rate: f64,
    burst: f64,
    users: Mutex<HashMap<u32, Left>>,
}

struct Left {
    count: f64,
    at: Instant,
    /// How often it was too often since that was last told.
    over: u64,
}

/// Users that are remembered before those who paused are forgotten.
const KEPT: usize = 1024;

impl Pace {
    pub(crate) fn new(rate: u32, burst: u32) -> Self {
        Self {
            rate: rate.into(),
            burst: burst.into(),
            users: Mutex::default(),
        }
    }

    /// Once more. Returns how often it was too often since the last time that it was not, or, where
    /// it is too often, how long to wait.
    pub(crate) fn take(&self, uid: u32, now: Instant) -> Result<u64, Duration> {
        let mut users = self.lock();
        if users.len() >= KEPT {
            users.retain(|_, left| self.refilled(left, now) < self.burst || left.over > 0);
        }
        let left = users.entry(uid).or_insert(Left {
            count: self.burst,
            at: now,
            over: 0,
        });
        left.count = self.refilled(left, now);
        left.at = now;
        if left.count < 1.0 {
            left.over += 1;
            return Err(Duration::from_secs_f64((1.0 - left.count) / self.rate));
        }
        left.count -= 1.0;
        Ok(std::mem::take(&mut left.over))
    }

    /// How often it was too often, for users who have stopped; to be called now and then.
    pub(crate) fn left_over(&self, now: Instant) -> Vec<(u32, u64)> {
        let mut users = self.lock();
        let idle = |left: &Left| left.over > 0 && self.refilled(left, now) >= self.burst;
        users
            .iter_mut()
            .filter(|(_, left)| idle(left))
            .map(|(uid, left)| (*uid, std::mem::take(&mut left.over)))
            .collect()
    }

    fn refilled(&self, left: &Left, now: Instant) -> f64 {
        let seconds = now.saturating_duration_since(left.at).as_secs_f64();
        (left.count + seconds * self.rate).min(self.burst)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Left>> {
        self.users.lock().expect("nothing panics with the counts")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let (pace, now) = (Pace::new(10, 5), Instant::now());
        let taken = (0..100).filter(|_| pace.take(1000, now).is_ok()).count();
        assert_eq!(taken, 5);
        let wait = pace.take(1000, now).unwrap_err();
        assert!(wait <= Duration::from_millis(100), "{wait:?}");
        assert_eq!(pace.take(1001, now), Ok(0), "users are counted apart");
        assert_eq!(pace.take(1000, now + wait), Ok(96), "the rest is told");
        assert_eq!(pace.take(1000, now + wait * 2), Ok(0));
    }

    #[test]
    fn what_is_left_is_told_in_the_end() {
        let (pace, now) = (Pace::new(10, 1), Instant::now());
        let _ = pace.take(1000, now);
        let _ = pace.take(1000, now);
        assert!(pace.left_over(now).is_empty());
        assert_eq!(pace.left_over(now + Duration::from_secs(1)), [(1000, 1)]);
        assert!(pace.left_over(now + Duration::from_secs(2)).is_empty());
    }

    #[test]
    fn users_who_paused_are_forgotten() {
        let (pace, now) = (Pace::new(10, 1), Instant::now());
        for uid in 0..5000 {
            let _ = pace.take(uid, now + Duration::from_secs(uid.into()));
        }
        assert!(pace.lock().len() <= KEPT);
    }
}
