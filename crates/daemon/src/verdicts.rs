//! What was decided about programs when they started, for those whose first flows were faster.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use offramp_rules::Claims;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// How many are remembered; what a flow asks for was decided a moment ago.
const KEPT: usize = 16_384;

/// The claims of each program that was asked about, by the number of its exec.
#[derive(Default)]
pub(crate) struct Verdicts {
    known: Mutex<Known>,
    news: Notify,
}

#[derive(Default)]
struct Known {
    claims: HashMap<u32, Arc<Claims>>,
    order: VecDeque<u32>,
}

impl Verdicts {
    pub(crate) fn get(&self, exec: u32) -> Option<Arc<Claims>> {
        self.lock().claims.get(&exec).cloned()
    }

    pub(crate) fn put(&self, exec: u32, claims: Arc<Claims>) {
        let mut known = self.lock();
        if known.claims.insert(exec, claims).is_none() {
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
    pub(crate) async fn wait(&self, exec: u32, patience: Duration) -> Option<Arc<Claims>> {
        let deadline = Instant::now() + patience;
        loop {
            let news = self.news.notified();
            if let Some(claims) = self.get(exec) {
                return Some(claims);
            }
            timeout_at(deadline, news).await.ok()?;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known
            .lock()
            .expect("nothing panics while it holds the verdicts")
    }
}
