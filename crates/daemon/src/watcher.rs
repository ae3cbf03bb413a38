//! Follows the network: what is ours is put back, what the host has is told to whom it concerns.

use std::sync::Arc;
use std::time::Duration;

use offramp_intercept::Change;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::shared::Shared;

/// Changes come in bursts: the next look is no sooner.
const PAUSE: Duration = Duration::from_millis(100);
/// Where something is lost again so soon after it was put back the pause doubles.
const SOON: Duration = Duration::from_secs(1);
/// How long it becomes at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often it is looked for what no change tells of.
const QUIET: Duration = Duration::from_secs(2);

/// Follows the host's network, and what is ours in it.
pub(crate) async fn follow_network(shared: Arc<Shared>, stop: CancellationToken) {
    let mut watcher = Watcher {
        shared,
        pause: PAUSE,
        lost: None,
        contested: false,
    };
    // What has changed before anybody listened.
    let mut change = Change::ALL;
    loop {
        let look = watcher.look(change);
        if stop.run_until_cancelled(look).await.is_none() {
            return;
        }
        match stop.run_until_cancelled(watcher.wait()).await {
            Some(next) => change = next,
            None => return,
        }
    }
}

struct Watcher {
    shared: Arc<Shared>,
    pause: Duration,
    /// When something was lost last.
    lost: Option<Instant>,
    /// Whether what was put back is gone again, or could not be put back.
    contested: bool,
}

impl Watcher {
    async fn look(&mut self, change: Change) {
        if change.ours {
            self.mend().await;
        }
        if change.host {
            self.refresh().await;
        }
    }

    /// Waits for the next change, and until the pause is over.
    async fn wait(&self) -> Change {
        let is_calm = self.lost.is_none_or(|last| last.elapsed() > self.pause);
        let pause = if is_calm { PAUSE } else { self.pause };
        let deadline = Instant::now() + pause;
        let mut change = Change::default();
        while let Ok(next) = timeout_at(deadline, self.shared.capture.network_changed()).await {
            // Nobody looks for a while: until then what was touched counts as lost.
            if next.ours && pause > PAUSE && !change.ours {
                self.suspect().await;
            }
            change.ours |= next.ours;
            change.host |= next.host;
        }
        if self.contested {
            change.ours = true;
        }
        while !change.ours && !change.host {
            let quiet = Instant::now() + QUIET;
            match timeout_at(quiet, self.shared.capture.network_changed()).await {
                Ok(next) => change = next,
                Err(_) => {
                    change.ours = self.shared.capture.is_quietly_lost().await;
                }
            }
        }
        change
    }

    async fn suspect(&self) {
        if let Err(error) = self.shared.capture.suspect().await {
            tracing::warn!(error = crate::chain(&error), "refusal not told");
        }
    }

    async fn mend(&mut self) {
        let lost = match self.shared.capture.mend().await {
            Ok(mended) => {
                if let Some(what) = &mended.what {
                    tracing::warn!(what, contested = mended.contested, "network put back");
                }
                self.contested = mended.contested;
                mended.what.is_some()
            }
            Err(error) => {
                tracing::warn!(error = crate::chain(&error), "network not put back");
                self.contested = true;
                true
            }
        };
        if lost {
            let soon = self
                .lost
                .is_some_and(|last| last.elapsed() < self.pause + SOON);
            self.pause = if soon {
                (self.pause * 2).min(LONGEST_PAUSE)
            } else {
                PAUSE
            };
            self.lost = Some(Instant::now());
        }
    }

    async fn refresh(&self) {
        let shared = &self.shared;
        match shared.capture.refresh().await {
            Ok(true) => shared.changed.notify_one(),
            Ok(false) => {}
            Err(error) => tracing::warn!(error = crate::chain(&error), "network not surveyed"),
        }
        // Routes change without addresses.
        shared.follow_ways();
    }
}
