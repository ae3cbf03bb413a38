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

impl Condition {
    /// Whether the server was tried and does not accept the credentials.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Down(error) if error.is_refusal())
    }
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

    /// A connection that was doubted has answered.
    pub(crate) fn revived(&self, rank: usize, protocol: &'static str) {
        self.0
            .send_modify(|all| all[rank].condition = Condition::Up { protocol });
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
        // Credentials do not become right within the time for which apps are held up.
        let hope = !board.iter().all(|health| health.condition.is_refusal());
        let tried = board
            .iter()
            .all(|health| matches!(health.condition, Condition::Down(_)));
        match before {
            State::Connecting if !tried => State::Connecting,
            State::Connected { .. } if hope => {
                self.until = Some(Instant::now() + REASSERT);
                State::Reasserting { reason }
            }
            State::Reasserting { .. }
                if hope && self.until.is_some_and(|until| Instant::now() < until) =>
            {
                State::Reasserting { reason }
            }
            _ => {
                self.until = None;
                State::Disconnected { reason }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Endpoint, Server, Timeouts, Trust};

    fn slots(board: &Arc<Board>) -> Vec<Arc<Slot>> {
        let authority = rcgen::generate_simple_self_signed(Vec::new()).unwrap();
        let slot = |rank| {
            let server = Server {
                name: format!("s{rank}"),
                host: offramp_rules::Host::Address([127, 0, 0, 1].into()),
                port: 443,
                server_name: None,
                trust: Trust::Anchors(authority.cert.pem().into_bytes()),
                authorization: None,
            };
            let endpoint = Endpoint::new(&server, Timeouts::default()).unwrap();
            Arc::new(Slot::new(endpoint, rank, board.clone()))
        };
        (0..2).map(slot).collect()
    }

    fn waiting(server: &str) -> ConnectError {
        ConnectError::Waiting {
            server: server.to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn from_connecting_to_disconnected() {
        let board = Arc::new(Board::new(2));
        let slots = slots(&board);
        let mut judge = Judge::new();
        let mut state = State::Connecting;
        let mut step = |state: &mut State| {
            *state = judge.judge(state, &board.watch().borrow(), &slots);
            judge.deadline().map(|until| until - Instant::now())
        };
        assert_eq!(step(&mut state), None);
        assert_eq!(state, State::Connecting);

        board.attempted(0, Condition::Down(waiting("s0").into()));
        step(&mut state);
        assert_eq!(state, State::Connecting, "the second has not been tried");
        let protocol = "h2";
        board.attempted(1, Condition::Up { protocol });
        step(&mut state);
        assert!(matches!(&state, State::Connected { server, .. } if server == "s1"));

        board.lost(1, waiting("s1"));
        assert_eq!(step(&mut state), Some(REASSERT));
        assert!(matches!(state, State::Reasserting { .. }));
        tokio::time::advance(REASSERT / 2).await;
        assert_eq!(step(&mut state), Some(REASSERT / 2));
        assert!(matches!(state, State::Reasserting { .. }));
        tokio::time::advance(REASSERT / 2).await;
        assert_eq!(step(&mut state), None);
        let reason = "no connection to s0 came up in time".to_owned();
        assert_eq!(state, State::Disconnected { reason });

        board.attempted(0, Condition::Up { protocol });
        step(&mut state);
        assert!(matches!(&state, State::Connected { server, .. } if server == "s0"));
    }

    #[tokio::test]
    async fn refused_credentials_are_not_waited_for() {
        let board = Arc::new(Board::new(2));
        let slots = slots(&board);
        let mut judge = Judge::new();
        let mut state = State::Connecting;
        let mut step = |state: &mut State| {
            *state = judge.judge(state, &board.watch().borrow(), &slots);
            state.clone()
        };
        let refused = |rank| ConnectError::Unauthorized {
            server: format!("s{rank}"),
            status: 407,
            advice: "check the token",
        };
        board.attempted(0, Condition::Up { protocol: "h2" });
        step(&mut state);
        board.lost(1, waiting("s1"));
        board.lost(0, refused(0));
        let state_now = step(&mut state);
        assert!(
            matches!(state_now, State::Reasserting { .. }),
            "{state_now:?}"
        );
        board.lost(1, refused(1));
        let reason = "s0 does not accept the credentials (status 407): check the token".to_owned();
        assert_eq!(step(&mut state), State::Disconnected { reason });
    }

    #[tokio::test]
    async fn disconnected_once_all_have_failed() {
        let board = Arc::new(Board::new(2));
        let slots = slots(&board);
        for rank in 0..2 {
            board.attempted(rank, Condition::Down(waiting("s").into()));
        }
        let state = Judge::new().judge(&State::Connecting, &board.watch().borrow(), &slots);
        assert!(matches!(state, State::Disconnected { .. }));
    }
}
