//! What was decided about programs when they started, for those whose first flows were faster.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use offramp_rules::Claims;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// How many are remembered; what a flow asks for was decided a moment ago.
const KEPT: usize = 16_384;

/// What claims a program; none: that cannot be found out any more, and what it leaves to the next
/// program of its process neither.
pub(crate) type Verdict = Option<Arc<Claims>>;

/// The verdict on each program that was asked about, by the number of its exec.
#[derive(Default)]
pub(crate) struct Verdicts {
    known: Mutex<Known>,
    news: Notify,
}

#[derive(Default)]
struct Known {
    claims: HashMap<u32, Verdict>,
    order: VecDeque<u32>,
}

impl Verdicts {
    pub(crate) fn get(&self, exec: u32) -> Option<Verdict> {
        self.lock().claims.get(&exec).cloned()
    }

    pub(crate) fn put(&self, exec: u32, verdict: Verdict) {
        let mut known = self.lock();
        if known.claims.insert(exec, verdict).is_none() {
            known.order.push_back(exec);
        }
        if known.order.len() > KEPT
            && let Some(oldest) = known.order.pop_front()
        {
            known.claims.remove(&oldest);
        }
        drop(known);
        self.news.notify_waiters();
    }

    /// Waits for a verdict, not for long: the question may have been lost.
    pub(crate) async fn wait(&self, exec: u32, patience: Duration) -> Option<Verdict> {
        let deadline = Instant::now() + patience;
        loop {
            let news = self.news.notified();
            if let Some(verdict) = self.get(exec) {
                return Some(verdict);
            }
            timeout_at(deadline, news).await.ok()?;
        }
    }

    /// Everything that is known, the oldest first.
    pub(crate) fn all(&self) -> Vec<(u32, Verdict)> {
        let known = self.lock();
        let told = |exec: &u32| Some((*exec, known.claims.get(exec)?.clone()));
        known.order.iter().filter_map(told).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known
            .lock()
            .expect("nothing panics while it holds the verdicts")
    }
}
