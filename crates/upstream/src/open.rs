use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use offramp_rules::Target;

use crate::config::{Config, ConfigError, Endpoint};
use crate::error::OpenError;
use crate::health::{Board, Judge, State};
use crate::keeper::Keeper;
use crate::slot::Slot;
use crate::tunnel::Tunnel;
use crate::udp::{self, UdpTunnel};
use crate::{h1, h2};

mod round;

use round::{Ready, Round};

/// The servers of one profile and the warm connections that all its flows share.
pub struct Upstream {
    slots: Vec<Arc<Slot>>,
    board: Arc<Board>,
    state: watch::Sender<State>,
}

impl Upstream {
    /// Checks the declaration and reads the machine's certificate authorities where they are
    /// trusted; connects to nothing.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        if config.servers.is_empty() {
            return Err(ConfigError::NoServer);
        }
        let board = Arc::new(Board::new(config.servers.len()));
        let slots = config.servers.iter().enumerate().map(|(rank, server)| {
            let endpoint = Endpoint::new(server, config.timeouts)?;
            Ok(Arc::new(Slot::new(endpoint, rank, board.clone())))
        });
        Ok(Self {
            slots: slots.collect::<Result<_, ConfigError>>()?,
            board,
            state: watch::Sender::new(State::Connecting),
        })
    }

    /// Owns every connection and task: nothing opens before it runs, and all tunnels over HTTP/2
    /// end with it. To be called once; returns after `stop`, when all is closed.
    pub async fn run(&self, stop: CancellationToken) {
        let mut keepers = JoinSet::new();
        for slot in &self.slots {
            keepers.spawn(Keeper::new(slot.clone()).run(stop.child_token()));
        }
        let mut board = self.board.watch();
        let mut judge = Judge::new();
        loop {
            let next = {
                let known = board.borrow_and_update();
                judge.judge(&self.state.borrow(), &known, &self.slots)
            };
            self.publish(next);
            let deadline = judge.deadline();
            tokio::select! {
                () = stop.cancelled() => break,
                _ = board.changed() => {}
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {}
            }
        }
        while keepers.join_next().await.is_some() {}
        self.publish(State::Disconnected {
            reason: "stopped".to_owned(),
        });
    }

    /// Opens a byte stream to the target.
    pub async fn open_tcp(&self, target: &Target) -> Result<Tunnel, OpenError> {
        let mut round = Round::tunnel(self);
        loop {
            let (slot, ready) = round.next().await?;
            let outcome = match ready {
                Ready::H2(lease) => h2::connect(&slot, lease, target).await,
                Ready::H1 { stream, warm } => h1::connect(&slot, stream, warm, target).await,
            };
            match outcome {
                Ok(tunnel) => return Ok(tunnel),
                Err(failure) => round.failed(&slot, failure)?,
            }
        }
    }

    /// Opens a conversation with a UDP target.
    pub async fn open_udp(&self, target: &Target) -> Result<UdpTunnel, OpenError> {
        let mut round = Round::new(self);
        loop {
            let (slot, ready) = round.next().await?;
            let outcome = match ready {
                _ if !slot.carries_udp() => Err(udp::unsupported(&slot)),
                Ready::H2(lease) => udp::connect_h2(&slot, lease, target).await,
                Ready::H1 { stream, warm } => udp::connect_h1(&slot, stream, warm, target).await,
            };
            match outcome {
                Ok(tunnel) => return Ok(tunnel),
                Err(failure) => round.failed(&slot, failure)?,
            }
        }
    }

    /// Asks the proxy server itself: a DNS message out, a DNS message back (RFC 8484).
    pub async fn resolve(&self, query: Bytes) -> Result<Bytes, OpenError> {
        let mut round = Round::new(self);
        loop {
            let (slot, ready) = round.next().await?;
            let query = query.clone();
            let outcome = match ready {
                Ready::H2(lease) => h2::query(&slot, lease, query).await,
                Ready::H1 { stream, warm } => h1::query(&slot, stream, warm, query).await,
            };
            match outcome {
                Ok(message) => return Ok(message),
                Err(failure) => round.failed(&slot, failure)?,
            }
        }
    }

    /// The state now and its changes.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Nothing is known of the connections any more, as after a sleep: asks for a sign of life on
    /// each, prefers none of them until it came, and opens a new one beside them.
    pub fn probe(&self) {
        for slot in &self.slots {
            slot.probe();
        }
    }

    /// The network has changed: asks for a sign of life on every connection, and does with those
    /// that would begin at another address now as [`probe`](Self::probe) does. To be called
    /// outside of hot paths: it makes a few system calls for each connection.
    pub fn follow(&self) {
        for slot in &self.slots {
            slot.follow();
        }
    }

    fn publish(&self, next: State) {
        self.state.send_if_modified(|state| {
            if *state == next {
                return false;
            }
            tracing::info!(state = ?next, "upstream state changed");
            *state = next;
            true
        });
    }
}
