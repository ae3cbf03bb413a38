//! Whether the parts of the daemon go on: the service manager is told so only while all of them do,
//! and starts a daemon again that is stuck.
//!
//! The kernel's heartbeat is another thing: it says that flows are served, which a daemon whose rules
//! cannot be changed any more still does.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often a part says that it goes on.
const TURN: Duration = Duration::from_secs(1);
/// How long a part may be silent where the service manager does not say.
const SILENCE: Duration = Duration::from_secs(30);
/// Changes of rules look at files, which may be slow: as many times as long.
const CHANGES: u32 = 3;

/// The parts of a daemon.
pub(crate) struct Pulse {
    began: Instant,
    silence: Duration,
    parts: Mutex<Vec<Weak<Part>>>,
}

/// One of them, for as long as somebody has it.
pub(crate) struct Part {
    name: &'static str,
    began: Instant,
    patience: Duration,
    /// Milliseconds since `began`.
    last: AtomicU64,
}

impl Pulse {
    /// With the patience of the service manager, where it has said one.
    pub(crate) fn new() -> Self {
        Self::with(sd_notify::watchdog_enabled().unwrap_or(SILENCE))
    }

    fn with(silence: Duration) -> Self {
        Self {
            began: Instant::now(),
            silence,
            parts: Mutex::default(),
        }
    }

    /// A part whose task is to have its turn.
    pub(crate) fn task(&self, name: &'static str) -> Arc<Part> {
        self.part(name, self.silence)
    }

    /// A part that waits for changes of rules.
    pub(crate) fn changes(&self, name: &'static str) -> Arc<Part> {
        self.part(name, self.silence * CHANGES)
    }

    fn part(&self, name: &'static str, patience: Duration) -> Arc<Part> {
        let part = Arc::new(Part {
            name,
            began: self.began,
            patience,
            last: AtomicU64::new(0),
        });
        part.beat();
        let mut parts = self.parts();
        parts.retain(|part| part.strong_count() > 0);
        parts.push(Arc::downgrade(&part));
        part
    }

    /// A part that has been silent for too long.
    pub(crate) fn stuck(&self) -> Option<&'static str> {
        let parts = self.parts();
        // One that has ended is no part any more.
        let mut parts = parts.iter().filter_map(Weak::upgrade);
        parts.find(|part| part.is_stuck()).map(|part| part.name)
    }

    fn parts(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Part>>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    /// Says that it goes on.
    pub(crate) fn beat(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Does `work`, and says that it goes on for as long as the task has its turns.
    pub(crate) async fn during<T>(self: Arc<Self>, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut turn = interval(TURN.min(self.patience / 4));
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = turn.tick() => self.beat(),
            }
        }
    }

    fn is_stuck(&self) -> bool {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(last) > self.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_part_that_is_silent_is_named() {
        let pulse = Pulse::with(Duration::from_secs(10));
        let (task, changes) = (pulse.task("task"), pulse.changes("changes"));
        let held = tokio::sync::Mutex::new(());
        let guard = held.lock().await;
        let mut waiting = Box::pin(task.during(held.lock()));
        // A task that waits is well, for as long as it has its turns.
        for _ in 0..40 {
            let turn = tokio::time::timeout(Duration::from_secs(1), &mut waiting).await;
            assert!(turn.is_err());
            changes.beat();
            assert_eq!(pulse.stuck(), None);
        }
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(pulse.stuck(), None);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(pulse.stuck(), Some("task"));
        drop(guard);
        drop(waiting.as_mut().await);
        drop(waiting);
        changes.beat();
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(pulse.stuck(), None, "it has ended");
    }
}
