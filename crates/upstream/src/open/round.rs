use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::dial::dial;
use crate::error::{ConnectError, OpenError};
use crate::health::{Condition, Health, State};
use crate::open::Upstream;
use crate::reply::Failure;
use crate::slot::{Lane, Lease, Slot};
use crate::tls::{self, is_h2};

/// How many connections may die under one open.
const STALE: usize = 4;

/// One open's way through the servers.
pub(crate) struct Round<'a> {
    upstream: &'a Upstream,
    board: watch::Receiver<Vec<Health>>,
    /// Attempts that had ended when the open began.
    attempts: Vec<u64>,
    /// Servers that have failed in this round.
    failed: Vec<bool>,
    first: Option<OpenError>,
    /// It is for CONNECT: to another request 401 may be about that resource alone.
    tunnel: bool,
    stale: usize,
    deadline: Instant,
}

/// A connection on which a request can be sent now.
pub(crate) enum Ready {
    H2(Lease),
    H1 {
        stream: Box<tls::Stream>,
        /// Waited for us, so the server may have closed it.
        warm: bool,
    },
}

impl<'a> Round<'a> {
    /// For CONNECT to a TCP target.
    pub(crate) fn tunnel(upstream: &'a Upstream) -> Self {
        Self {
            tunnel: true,
            ..Self::new(upstream)
        }
    }

    pub(crate) fn new(upstream: &'a Upstream) -> Self {
        let board = upstream.board.watch();
        let attempts = board
            .borrow()
            .iter()
            .map(|health| health.attempts)
            .collect();
        let timeouts = upstream.slots[0].endpoint.timeouts;
        Self {
            upstream,
            board,
            attempts,
            failed: vec![false; upstream.slots.len()],
            first: None,
            tunnel: false,
            stale: 0,
            deadline: Instant::now() + timeouts.connect + timeouts.tls,
        }
    }

    /// The best server that is ready, or becomes so within the time limits.
    pub(crate) async fn next(&mut self) -> Result<(Arc<Slot>, Ready), OpenError> {
        loop {
            self.board.mark_unchanged();
            if let Some(ready) = self.ready().await {
                return Ok(ready);
            }
            self.give_up()?;
            let changed = self.board.changed();
            if timeout_at(self.deadline, changed).await.is_err() {
                return Err(self.unavailable());
            }
        }
    }

    /// Takes note of a failure; an error ends the open.
    pub(crate) fn failed(&mut self, slot: &Slot, failure: Failure) -> Result<(), OpenError> {
        match failure {
            Failure::Target(error) => Err(error),
            Failure::Server(error) => {
                if let Some(reason) = self.refusal(&error) {
                    slot.refuse(reason);
                }
                self.pass(slot.rank, error);
                Ok(())
            }
            Failure::Stale(_) if self.stale < STALE => {
                self.stale += 1;
                Ok(())
            }
            Failure::Stale(detail) => {
                let server = slot.endpoint.name.to_string();
                self.pass(
                    slot.rank,
                    unavailable(
                        &slot.endpoint.name,
                        ConnectError::Protocol { server, detail }.into(),
                    ),
                );
                Ok(())
            }
        }
    }

    /// Whether an answer says that no open through this server can succeed.
    fn refusal(&self, error: &OpenError) -> Option<ConnectError> {
        match error {
            OpenError::Unauthorized {
                server,
                status,
                advice,
            } if self.tunnel || *status == 407 => Some(ConnectError::Unauthorized {
                server: server.clone(),
                status: *status,
                advice,
            }),
            _ => None,
        }
    }

    async fn ready(&mut self) -> Option<(Arc<Slot>, Ready)> {
        for slot in &self.upstream.slots {
            if self.failed[slot.rank] {
                continue;
            }
            let ready = match slot.lane() {
                None => continue,
                Some(Lane::H2(lease)) => Ready::H2(lease),
                Some(Lane::H1(Some(stream))) => Ready::H1 { stream, warm: true },
                Some(Lane::H1(None)) => match dial(&slot.endpoint).await {
                    Ok(stream) if is_h2(&stream) => {
                        let server = slot.endpoint.name.to_string();
                        let detail = "it speaks another protocol now".to_owned();
                        self.upstream
                            .board
                            .lost(slot.rank, ConnectError::Protocol { server, detail });
                        continue;
                    }
                    Ok(stream) => Ready::H1 {
                        stream: Box::new(stream),
                        warm: false,
                    },
                    Err(error) => {
                        let error = Arc::new(error);
                        let down = Condition::Down(error.clone());
                        self.upstream.board.attempted(slot.rank, down);
                        let error = unavailable(&slot.endpoint.name, error);
                        self.failed[slot.rank] = true;
                        self.first.get_or_insert(error);
                        continue;
                    }
                },
            };
            return Some((slot.clone(), ready));
        }
        None
    }

    /// Ends the open where no server is left to wait for; else asks for connections.
    fn give_up(&mut self) -> Result<(), OpenError> {
        let board = self.board.borrow();
        let stopped = matches!(*self.upstream.state.borrow(), State::Disconnected { .. });
        let hopeless = board.iter().enumerate().all(|(rank, health)| {
            self.failed[rank]
                || health.condition.is_refusal()
                || matches!(health.condition, Condition::Down(_))
                    && (stopped || health.attempts > self.attempts[rank])
        });
        if hopeless || stopped {
            drop(board);
            return Err(self.unavailable());
        }
        for (rank, health) in board.iter().enumerate() {
            if self.failed[rank] {
                continue;
            }
            self.upstream.slots[rank].demand.notify_one();
            if !matches!(health.condition, Condition::Down(_)) {
                break;
            }
        }
        Ok(())
    }

    /// What the person is told: the first failure of this round, or what is known.
    fn unavailable(&self) -> OpenError {
        if let Some(first) = &self.first {
            return first.clone();
        }
        let board = self.board.borrow();
        for (slot, health) in self.upstream.slots.iter().zip(board.iter()) {
            if let Condition::Down(error) = &health.condition {
                return unavailable(&slot.endpoint.name, error.clone());
            }
        }
        let server = &self.upstream.slots[0].endpoint.name;
        let waiting = ConnectError::Waiting {
            server: server.to_string(),
        };
        unavailable(server, waiting.into())
    }

    fn pass(&mut self, rank: usize, error: OpenError) {
        self.failed[rank] = true;
        self.first.get_or_insert(error);
    }
}

fn unavailable(server: &str, source: Arc<ConnectError>) -> OpenError {
    let server = server.to_owned();
    match *source {
        ConnectError::Unauthorized { status, advice, .. } => OpenError::Unauthorized {
            server,
            status,
            advice,
        },
        _ => OpenError::Unavailable { server, source },
    }
}
