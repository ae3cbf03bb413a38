use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::connection;
use crate::dial::dial;
use crate::error::ConnectError;
use crate::health::{Condition, Health};
use crate::slot::{HTTP1, HTTP2, Slot};

/// Waits before the attempts that follow a failed one; the last is repeated.
const BACKOFF: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];
/// A connection that lived so long was a good one: the next attempt comes at once.
const GOOD: Duration = Duration::from_secs(5);
/// How long a server is given before the next one in order is tried beside it.
const HEAD_START: Duration = Duration::from_secs(1);
/// How often idle surplus connections are let go.
const THIN: Duration = Duration::from_secs(60);
/// How long open streams may hold up the end.
const CLOSE: Duration = Duration::from_secs(1);

/// Keeps one server ready for as long as it is the best that answers.
pub(crate) struct Keeper {
    slot: Arc<Slot>,
    drivers: JoinSet<()>,
    started: Instant,
    /// Attempts that failed, or led to a short life, in a row.
    failures: usize,
    earliest: Instant,
    last_end: Instant,
    demanded: bool,
    /// The last attempt did.
    failed: bool,
}

impl Keeper {
    pub(crate) fn new(slot: Arc<Slot>) -> Self {
        let now = Instant::now();
        Self {
            slot,
            drivers: JoinSet::new(),
            started: now,
            failures: 0,
            earliest: now,
            last_end: now - GOOD,
            demanded: false,
            failed: false,
        }
    }

    /// Ends after `stop`, when the connections are closed.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut board = self.slot.board.watch();
        let mut thin = Instant::now() + THIN;
        while !stop.is_cancelled() {
            let wanted = self.wanted(&board.borrow_and_update());
            let due = self.due(wanted);
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = self.drivers.join_next() => if let Err(error) = ended {
                    tracing::error!(server = %self.slot.endpoint.name, %error, "connection task failed");
                },
                changed = board.changed() => if changed.is_err() { break },
                () = self.slot.demand.notified() => self.demanded = true,
                ended = poll_fn(|cx| self.slot.poll_spare(cx)), if self.slot.has_spare() => {
                    if ended { tracing::debug!(server = %self.slot.endpoint.name, "warm connection was closed"); }
                }
                () = sleep_until(due.unwrap_or(thin)) => match due {
                    Some(_) => tokio::select! {
                        () = stop.cancelled() => break,
                        () = self.attempt() => {}
                    },
                    None => {
                        self.slot.thin(usize::from(wanted));
                        thin = Instant::now() + THIN;
                    }
                }
            }
        }
        self.close().await;
    }

    /// Whether no server before this one is in use.
    fn wanted(&self, board: &[Health]) -> bool {
        let patient = self.started.elapsed() < HEAD_START * self.slot.rank as u32;
        board[..self.slot.rank]
            .iter()
            .all(|health| match health.condition {
                Condition::Untried => !patient,
                Condition::Up { .. } => false,
                Condition::Down(_) => true,
            })
    }

    /// When the next attempt is to be made, if one is.
    fn due(&mut self, wanted: bool) -> Option<Instant> {
        let streams = self.slot.prune();
        let ready = streams || self.slot.has_spare();
        self.demanded &= !ready || self.slot.crowded();
        if self.demanded {
            return Some(match streams && !self.failed {
                true => Instant::now(),
                false => self.earliest.min(self.last_end + BACKOFF[0]),
            });
        }
        if ready {
            return None;
        }
        if wanted {
            return Some(self.earliest);
        }
        let head_start = self.started + HEAD_START * self.slot.rank as u32;
        // Looked at again when the head start of those before is over.
        (Instant::now() < head_start).then_some(head_start)
    }

    async fn attempt(&mut self) {
        let wanted = self.wanted(&self.slot.board.watch().borrow());
        if !wanted && !self.demanded {
            return;
        }
        self.demanded = false;
        let began = Instant::now();
        if began.saturating_duration_since(self.earliest) > GOOD {
            self.failures = 0;
        }
        let outcome = self.connect().await;
        self.last_end = Instant::now();
        self.failed = outcome.is_err();
        match outcome {
            Ok(protocol) => {
                let slot = &self.slot;
                tracing::debug!(server = %slot.endpoint.name, protocol, "connected to the server");
                let before = &slot.board.watch().borrow()[slot.rank].condition.clone();
                if !matches!(before, Condition::Up { .. }) {
                    slot.forget_udp();
                }
                slot.board.attempted(slot.rank, Condition::Up { protocol });
            }
            Err(error) => {
                let slot = &self.slot;
                tracing::debug!(server = %slot.endpoint.name, %error, "server cannot be used");
                if !slot.prune() {
                    slot.board
                        .attempted(slot.rank, Condition::Down(Arc::new(error)));
                }
            }
        }
        let pause = BACKOFF[self.failures.min(BACKOFF.len() - 1)];
        self.failures += 1;
        self.earliest = self.last_end + jitter(pause);
    }

    async fn connect(&mut self) -> Result<&'static str, ConnectError> {
        let slot = &self.slot;
        let stream = dial(&slot.endpoint).await?;
        if stream.get_ref().1.alpn_protocol() != Some(HTTP2.as_bytes()) {
            slot.keep_spare(stream);
            return Ok(HTTP1);
        }
        let board = slot.board.clone();
        let (connection, driver) = connection::establish(&slot.endpoint, stream, board).await?;
        slot.add(connection);
        let slot = slot.clone();
        self.drivers.spawn(async move {
            if let Some(why) = driver.run().await
                && !slot.prune()
            {
                let reason = ConnectError::Protocol {
                    server: slot.endpoint.name.to_string(),
                    detail: why,
                };
                slot.board.lost(slot.rank, reason);
            }
        });
        Ok(HTTP2)
    }

    async fn close(mut self) {
        self.slot.close();
        let all = async { while self.drivers.join_next().await.is_some() {} };
        if timeout(CLOSE, all).await.is_err() {
            self.drivers.shutdown().await;
        }
    }
}

/// Three quarters to the whole of it, so that many machines do not come back as one.
fn jitter(pause: Duration) -> Duration {
    let random = (RandomState::new().hash_one(0) % 256) as u32;
    pause * (768 + random) / 1024
}
