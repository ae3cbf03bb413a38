//! Questions of the kernel programs that wait, so that nobody's many keep others waiting.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Programs that are recognised at one time, of all and of one who asks.
const AT_WORK: usize = 128;
const AT_WORK_EACH: usize = 16;
/// What waits beyond this is found again in the kernel.
const WAITING: usize = 65_536;

/// Execs that are asked about, by who asks.
#[derive(Default)]
pub(crate) struct Questions {
    askers: BTreeMap<u32, Asker>,
    /// Who has questions that wait, in the order in which they come to their turn.
    turns: VecDeque<u32>,
    waiting: usize,
}

#[derive(Default)]
struct Asker {
    waiting: VecDeque<u32>,
    at_work: Arc<()>,
}

impl Asker {
    fn at_work(&self) -> usize {
        Arc::strong_count(&self.at_work) - 1
    }
}

/// An exec to be decided about. To be held as long as that takes.
pub(crate) struct Turn {
    pub(crate) exec: u32,
    _at_work: Arc<()>,
}

impl Questions {
    pub(crate) fn add(&mut self, exec: u32, asker: u32) {
        if self.waiting == WAITING {
            return;
        }
        self.waiting += 1;
        let of_asker = self.askers.entry(asker).or_default();
        of_asker.waiting.push_back(exec);
        if of_asker.waiting.len() == 1 {
            self.turns.push_back(asker);
        }
    }

    /// Adds those of whom nothing waits: of others they may be among what does.
    pub(crate) fn add_found(&mut self, found: &[(u32, u32)]) {
        let is_idle = |asker: &u32| {
            let of_asker = self.askers.get(asker);
            of_asker.is_none_or(|asker| asker.waiting.is_empty() && asker.at_work() == 0)
        };
        let mut idle: Vec<_> = found.iter().filter(|(_, asker)| is_idle(asker)).collect();
        idle.sort_unstable();
        for (exec, asker) in idle {
            self.add(*exec, *asker);
        }
    }

    /// The next one, where so many are not at work: each who asks has one after the other.
    pub(crate) fn next(&mut self, at_work: usize) -> Option<Turn> {
        if at_work >= AT_WORK {
            return None;
        }
        for _ in 0..self.turns.len() {
            let number = self.turns.pop_front()?;
            let Some(asker) = self.askers.get_mut(&number) else {
                continue;
            };
            if asker.at_work() >= AT_WORK_EACH {
                self.turns.push_back(number);
                continue;
            }
            let Some(exec) = asker.waiting.pop_front() else {
                continue;
            };
            self.waiting -= 1;
            if !asker.waiting.is_empty() {
                self.turns.push_back(number);
            }
            return Some(Turn {
                exec,
                _at_work: Arc::clone(&asker.at_work),
            });
        }
        None
    }

    /// Forgets those who ask no more.
    pub(crate) fn tidy(&mut self) {
        self.askers
            .retain(|_, asker| !asker.waiting.is_empty() || asker.at_work() > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_who_asks_much_leaves_others_their_turn() {
        let mut questions = Questions::default();
        (0..1000).for_each(|exec| questions.add(exec, 7));
        let first: Vec<_> = std::iter::from_fn(|| questions.next(0)).collect();
        assert_eq!(first.len(), AT_WORK_EACH);
        questions.add(5000, 8);
        questions.add(5001, 8);
        let other = questions.next(0).expect("another has a turn");
        assert_eq!(other.exec, 5000);
        drop(first);
        let turns: Vec<_> = (0..3).filter_map(|_| questions.next(0)).collect();
        assert!(turns.iter().any(|turn| turn.exec == 5001));
        assert!(questions.next(AT_WORK).is_none());
    }

    #[test]
    fn what_is_found_again_does_not_wait_twice() {
        let mut questions = Questions::default();
        questions.add(1, 7);
        questions.add_found(&[(1, 7), (3, 8), (2, 8)]);
        let turns: Vec<_> = std::iter::from_fn(|| questions.next(0)).collect();
        let execs: Vec<_> = turns.iter().map(|turn| turn.exec).collect();
        assert_eq!(execs.len(), 3);
        assert!(
            execs.iter().position(|exec| *exec == 2) < execs.iter().position(|exec| *exec == 3)
        );
        questions.add_found(&[(1, 7)]);
        assert!(questions.next(0).is_none(), "it is at work");
        drop(turns);
        questions.tidy();
        assert!(questions.askers.is_empty());
    }
}
