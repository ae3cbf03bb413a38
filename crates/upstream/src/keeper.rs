use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::dial::dial;
use crate::error::ConnectError;
use crate::health::{Condition, Health};
use crate::slot::{HTTP1, HTTP2, Slot};
use crate::tls::is_h2;
use crate::{connection, proof, tls};

/// Waits before the attempts that follow a failed one; the last is repeated.
const BACKOFF: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];
/// The same after the credentials were turned down: servers lock out who tries wrong ones often,
/// and with him those who share his address.
const REFUSED: [Duration; 3] = [
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(30),
];
/// Credentials that were not turned down for so long were good ones.
const ACCEPTED: Duration = Duration::from_secs(60);
/// A connection that lived so long was a good one: the next attempt comes at once.
const GOOD: Duration = Duration::from_secs(5);
/// How long a server is given before the next one in order is tried beside it.
const HEAD_START: Duration = Duration::from_secs(1);
/// How long an attempt goes on although the network changes.
const YOUNG: Duration = Duration::from_secs(1);
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
    /// Times that the credentials were turned down in a row, the last time, and whether that was
    /// taken into account.
    refusals: usize,
    last_refusal: Instant,
    refused: bool,
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
            refusals: 0,
            last_refusal: now,
            refused: false,
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
            self.note_refusal();
            self.note_revival();
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

    /// Puts the next attempt off where the credentials were turned down, for us or for a flow.
    fn note_refusal(&mut self) {
        let refused = self.slot.condition().is_refusal();
        let new = refused && !self.refused;
        self.refused = refused;
        if !new {
            return;
        }
        let now = Instant::now();
        if now.saturating_duration_since(self.last_refusal) > ACCEPTED {
            self.refusals = 0;
        }
        self.last_refusal = now;
        self.earliest = now + jitter(REFUSED[self.refusals.min(REFUSED.len() - 1)]);
        self.refusals += 1;
    }

    /// Where every connection was doubted and no new one could be made, one of them may have
    /// answered since.
    fn note_revival(&self) {
        let condition = self.slot.condition();
        let lost = matches!(condition, Condition::Down(_)) && !condition.is_refusal();
        if lost && self.slot.has_trusted() {
            self.slot.board.revived(self.slot.rank, HTTP2);
        }
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
        let ready = self.slot.has_trusted() || self.slot.has_spare();
        self.demanded &= !ready || self.slot.crowded();
        if self.refused {
            return wanted.then_some(self.earliest);
        }
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
        self.refused = false;
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
                if !matches!(slot.condition(), Condition::Up { .. }) {
                    slot.forget_udp();
                }
                slot.board.attempted(slot.rank, Condition::Up { protocol });
            }
            Err(error) => {
                let slot = &self.slot;
                tracing::debug!(server = %slot.endpoint.name, %error, "server cannot be used");
                if error.is_refusal() {
                    slot.close();
                }
                slot.prune();
                if !slot.has_trusted() {
                    slot.board
                        .attempted(slot.rank, Condition::Down(Arc::new(error)));
                }
            }
        }
        let pause = BACKOFF[self.failures.min(BACKOFF.len() - 1)];
        self.failures += 1;
        // From the beginning: an attempt that took long was pause enough.
        self.earliest = self.last_end.max(began + jitter(pause));
    }

    async fn connect(&mut self) -> Result<&'static str, ConnectError> {
        let slot = self.slot.clone();
        let stream = dial_anew(&slot).await?;
        if is_h2(&stream) {
            return self.connect_h2(stream).await;
        }
        if !unproven(&slot) {
            slot.keep_spare(stream);
            return Ok(HTTP1);
        }
        proof::over_h1(&slot, stream).await?;
        let stream = dial(&slot.endpoint).await?;
        if !is_h2(&stream) {
            slot.keep_spare(stream);
        }
        Ok(HTTP1)
    }

    async fn connect_h2(&mut self, stream: tls::Stream) -> Result<&'static str, ConnectError> {
        let slot = self.slot.clone();
        let board = slot.board.clone();
        let (connection, driver) = connection::establish(&slot.endpoint, stream, board).await?;
        let driven = slot.clone();
        self.drivers.spawn(async move {
            if let Some(why) = driver.run().await
                && !driven.prune()
                // Who turns credentials down may hang up as well; the first is the reason.
                && !driven.condition().is_refusal()
            {
                driven.board.lost(driven.rank, ended(&driven, why));
            }
        });
        if unproven(&slot) {
            if let Err(refused) = proof::over_h2(&slot, &connection).await {
                connection.retire();
                return Err(refused);
            }
            if !connection.is_usable() {
                return Err(ended(&slot, "it ended at the first request".to_owned()));
            }
        }
        slot.add(connection);
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

/// Begins again where the network has changed under it: what it waits for may have been sent
/// nowhere. One that is young is given its time, or a restless network would let none through.
async fn dial_anew(slot: &Slot) -> Result<tls::Stream, ConnectError> {
    loop {
        let began = Instant::now();
        let moved = async {
            loop {
                slot.moved.notified().await;
                if began.elapsed() >= YOUNG {
                    return;
                }
            }
        };
        tokio::select! {
            stream = dial(&slot.endpoint) => return stream,
            () = moved => tracing::debug!(server = %slot.endpoint.name, "network changed, dialling again"),
        }
    }
}

/// Whether the server has to accept the credentials before it counts as up; while it is up, flows
/// show soon enough that it still does. Without credentials it is asked only where it wanted some.
fn unproven(slot: &Slot) -> bool {
    match slot.condition() {
        Condition::Up { .. } => false,
        condition => slot.endpoint.authorization.is_some() || condition.is_refusal(),
    }
}

fn ended(slot: &Slot, detail: String) -> ConnectError {
    ConnectError::Protocol {
        server: slot.endpoint.name.to_string(),
        detail,
    }
}

/// Three quarters to the whole of it, so that many machines do not come back as one.
fn jitter(pause: Duration) -> Duration {
    let random = (RandomState::new().hash_one(0) % 256) as u32;
    pause * (768 + random) / 1024
}
