use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{ConnectError, chain};
use crate::slot::Slot;

/// How long a lost connection may be replaced before the state says disconnected.
const REASSERT: Duration = Duration::from_secs(10);

/// Whether flows can be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// No server has answered yet, and not all have been tried.
    Connecting,
    /// A server is ready.
    Connected {
        /// The server's name.
        server: String,
        /// `h2` or `http/1.1`.
        protocol: &'static str,
        /// Whether it carries UDP; for HTTP/1.1 true until it has said no.
        udp: bool,
    },
    /// The last connection was lost and a new one is tried.
    Reasserting {
        /// Why it was lost.
        reason: String,
    },
    /// No server can be used; trying goes on.
    Disconnected {
        /// Why, for the first server.
        reason: String,
    },
}

/// What is known about one server.
#[derive(Clone, Default)]
pub(crate) struct Health {
    /// Attempts that have ended, well or not.
    pub(crate) attempts: u64,
    pub(crate) condition: Condition,
}

#[derive(Clone, Default)]
pub(crate) enum Condition {
    #[default]
    Untried,
    Up {
        protocol: &'static str,
    },
    Down(Arc<ConnectError>),
}

/// What is known about all servers, in failover order; every change wakes those who wait.
pub(crate) struct Board(watch::Sender<Vec<Health>>);

impl Board {
    pub(crate) fn new(servers: usize) -> Self {
        Self(watch::Sender::new(vec![Health::default(); servers]))
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Vec<Health>> {
        self.0.subscribe()
    }

    /// Wakes those who wait: a stream came free, or a connection can take no more.
    pub(crate) fn wake(&self) {
        self.0.send_modify(|_| {});
    }

    pub(crate) fn attempted(&self, rank: usize, condition: Condition) {
        self.0.send_modify(|all| {
            all[rank].attempts += 1;
            all[rank].condition = condition;
        });
    }

    pub(crate) fn lost(&self, rank: usize, reason: ConnectError) {
        self.0
            .send_modify(|all| all[rank].condition = Condition::Down(Arc::new(reason)));
    }
}

/// Turns what is known about the servers into the one state that is shown.
pub(crate) struct Judge {
    until: Option<Instant>,
}

impl Judge {
    pub(crate) fn new() -> Self {
        Self { until: None }
    }

    /// When the state changes although nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.until
    }

    pub(crate) fn judge(&mut self, before: &State, board: &[Health], slots: &[Arc<Slot>]) -> State {
        for (health, slot) in board.iter().zip(slots) {
            if let Condition::Up { protocol } = health.condition {
                self.until = None;
                return State::Connected {
                    server: slot.endpoint.name.to_string(),
                    protocol,
                    udp: slot.carries_udp(),
                };
            }
        }
        let reason = board.iter().find_map(|health| match &health.condition {
            Condition::Down(error) => Some(chain(&**error)),
            _ => None,
        });
        let Some(reason) = reason else {
            return State::Connecting;
        };
        let tried = board
            .iter()
            .all(|health| matches!(health.condition, Condition::Down(_)));
        match before {
            State::Connecting if !tried => State::Connecting,
            State::Connected { .. } => {
                self.until = Some(Instant::now() + REASSERT);
                State::Reasserting { reason }
            }
            State::Reasserting { .. } if self.until.is_some_and(|until| Instant::now() < until) => {
                State::Reasserting { reason }
            }
            _ => {
                self.until = None;
                State::Disconnected { reason }
            }
        }
    }
}
