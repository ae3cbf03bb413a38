//! Tells of limits that are reached: a line for each limit and interval, never one for each refusal.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use offramp_control as control;

use crate::budget::Reached;

/// How often one limit is told of.
const INTERVAL: Duration = Duration::from_secs(10);
/// For how long a limit that was reached is shown.
const SHOWN: Duration = Duration::from_secs(300);
/// Limits that are remembered; of more, only the numbers are counted.
const KEPT: usize = 1024;

/// What is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum What {
    Flows,
    /// Targets of UDP sockets.
    Legs,
    Lookups,
    /// Names of one user in a profile's table.
    Names,
    /// Of excluded names.
    Addresses,
}

impl What {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Flows => "TCP flows",
            Self::Legs => "targets of UDP sockets",
            Self::Lookups => "look-ups at one time",
            Self::Names => "names",
            Self::Addresses => "addresses of excluded names",
        }
    }
}

/// What was refused: one stands for all of an interval.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) app: control::App,
    pub(crate) protocol: control::Protocol,
    pub(crate) source: String,
    pub(crate) target: String,
}

/// All limits that were reached lately.
#[derive(Default)]
pub(crate) struct Refusals {
    bursts: Mutex<HashMap<Key, Burst>>,
}

/// A limit that was reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) uid: u32,
    /// Where it is the limit of one program, and others of the user's are not concerned.
    pub(crate) program: Option<Arc<str>>,
    pub(crate) what: What,
    pub(crate) limit: Reached,
}

struct Burst {
    /// The one that was told of last.
    last: Refused,
    at: Instant,
    told: Instant,
    untold: u64,
    all: u64,
}

/// One line to tell: what was refused, and how many since the last line.
pub(crate) type Line = (Key, Refused, u64);

impl Refusals {
    /// Notes a refusal, and returns a line where it is time to tell. What was refused is asked for
    /// the lines alone: there may be many that have none.
    pub(crate) fn note(
        &self,
        key: Key,
        refused: impl FnOnce() -> Refused,
        now: Instant,
    ) -> Option<Line> {
        let mut bursts = self.lock();
        let is_full = bursts.len() >= KEPT;
        match bursts.get_mut(&key) {
            Some(burst) => {
                burst.at = now;
                burst.untold += 1;
                burst.all += 1;
                if burst.is_due(now) {
                    burst.last = refused();
                }
                let (last, count) = burst.tell(now)?;
                Some((key, last, count))
            }
            None if is_full => None,
            None => {
                let last = refused();
                let line = (key.clone(), last.clone(), 1);
                let burst = Burst {
                    last,
                    at: now,
                    told: now,
                    untold: 0,
                    all: 1,
                };
                bursts.insert(key, burst);
                Some(line)
            }
        }
    }

    /// What is left to be told; forgets what is long over. To be called now and then.
    pub(crate) fn due(&self, now: Instant) -> Vec<Line> {
        let mut bursts = self.lock();
        let lines = bursts.iter_mut().filter_map(|(key, burst)| {
            let (last, count) = burst.tell(now)?;
            Some((key.clone(), last, count))
        });
        let lines = lines.collect();
        bursts.retain(|_, burst| now.saturating_duration_since(burst.at) < SHOWN);
        lines
    }

    /// The limits that were reached within the last minutes, in words; of a user, or of all.
    pub(crate) fn shown(&self, uid: Option<u32>, now: Instant) -> Vec<String> {
        let bursts = self.lock();
        let own = bursts
            .iter()
            .filter(|(key, _)| uid.is_none_or(|uid| uid == key.uid));
        let mut shown: Vec<_> = own.map(|(key, burst)| burst.show(key, now)).collect();
        shown.sort();
        shown
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Burst>> {
        self.bursts
            .lock()
            .expect("nothing panics with the refusals")
    }
}

impl Burst {
    fn show(&self, key: &Key, now: Instant) -> String {
        format!(
            "{}: {}; {} more of user {} were refused, such as of {}, the last {} s ago",
            key.what.as_str(),
            key.limit,
            self.all,
            key.uid,
            self.last.app.executable,
            now.saturating_duration_since(self.at).as_secs()
        )
    }

    fn is_due(&self, now: Instant) -> bool {
        self.untold > 0 && now.saturating_duration_since(self.told) >= INTERVAL
    }

    fn tell(&mut self, now: Instant) -> Option<(Refused, u64)> {
        if !self.is_due(now) {
            return None;
        }
        self.told = now;
        Some((self.last.clone(), std::mem::take(&mut self.untold)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(refusals: &Refusals, uid: u32, program: &str, now: Instant) -> Option<u64> {
        let key = Key {
            uid,
            program: Some(program.into()),
            what: What::Flows,
            limit: Reached::Program(2),
        };
        let refused = || Refused {
            app: control::App {
                pid: 1,
                uid,
                executable: program.into(),
                command: None,
            },
            protocol: control::Protocol::Tcp,
            source: String::new(),
            target: String::new(),
        };
        let line = refusals.note(key, refused, now);
        line.map(|(_, _, count)| count)
    }

    #[test]
    fn one_line_for_an_interval_with_the_count_of_the_rest() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        let lines = (0..10_000).filter_map(|_| note(&refusals, 1000, "/a", now));
        assert_eq!(lines.collect::<Vec<_>>(), [1]);
        assert_eq!(
            note(&refusals, 1001, "/a", now),
            Some(1),
            "users are told apart"
        );
        assert!(refusals.due(now).is_empty());
        let later = refusals.due(now + INTERVAL);
        assert_eq!(later.iter().map(|line| line.2).collect::<Vec<_>>(), [9999]);
        assert_eq!(note(&refusals, 1000, "/a", now + INTERVAL * 2), Some(1));
    }

    #[test]
    fn users_see_their_own_for_a_while() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        note(&refusals, 1000, "/a", now);
        note(&refusals, 1001, "/b", now);
        assert_eq!(refusals.shown(None, now).len(), 2);
        let own = refusals.shown(Some(1000), now);
        assert!(
            own[0].contains("may have 2; 1 more of user 1000"),
            "{own:?}"
        );
        refusals.due(now + SHOWN);
        assert!(refusals.shown(None, now).is_empty());
    }

    #[test]
    fn nobody_fills_the_memory_with_names() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        for number in 0..KEPT + 10 {
            note(&refusals, 1000, &format!("/{number}"), now);
        }
        assert_eq!(refusals.lock().len(), KEPT);
    }
}
