use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::sync::Notify;

use crate::config::Endpoint;
use crate::connection::{Connection, Seat};
use crate::error::ConnectError;
use crate::health::{Board, Condition};
use crate::tls;
use crate::way::Ends;

/// At most so many connections to one server; further flows wait for a stream to come free.
const CONNECTIONS: usize = 256;

/// One server and the warm connections to it.
pub(crate) struct Slot {
    pub(crate) endpoint: Endpoint,
    pub(crate) rank: usize,
    pub(crate) board: Arc<Board>,
    /// Asks the keeper for a connection now.
    pub(crate) demand: Notify,
    /// Tells an attempt that the network has changed under it.
    pub(crate) moved: Notify,
    connections: Mutex<Vec<Connection>>,
    spare: Mutex<Option<tls::Stream>>,
    udp_refused: AtomicBool,
}

/// A stream's worth of a warm connection.
pub(crate) struct Lease {
    pub(crate) send: SendRequest<Bytes>,
    pub(crate) seat: Seat,
}

/// What can be used right now.
pub(crate) enum Lane {
    H2(Lease),
    /// The server speaks HTTP/1.1; the stream is warm where there is one.
    H1(Option<Box<tls::Stream>>),
}

impl Slot {
    pub(crate) fn new(endpoint: Endpoint, rank: usize, board: Arc<Board>) -> Self {
        Self {
            endpoint,
            rank,
            board,
            demand: Notify::new(),
            moved: Notify::new(),
            connections: Mutex::default(),
            spare: Mutex::default(),
            udp_refused: AtomicBool::new(false),
        }
    }

    pub(crate) fn lane(&self) -> Option<Lane> {
        if let Some(lease) = self.lease() {
            return Some(Lane::H2(lease));
        }
        match self.board.watch().borrow()[self.rank].condition {
            Condition::Up { protocol } if protocol == HTTP1 => {
                let spare = lock(&self.spare).take();
                self.demand.notify_one();
                Some(Lane::H1(spare.map(Box::new)))
            }
            _ => None,
        }
    }

    /// The least loaded connection; asks for another one while there is still room on this one.
    fn lease(&self) -> Option<Lease> {
        let connections = lock(&self.connections);
        if connections.iter().all(suspect) {
            self.demand.notify_one();
        }
        let (connection, live, most) = connections
            .iter()
            .filter(|connection| connection.is_usable() && !suspect(connection))
            .map(|connection| {
                let live = connection.vitals.live.load(Ordering::Acquire);
                (connection, live, connection.send.current_max_send_streams())
            })
            .min_by_key(|(_, live, most)| (live >= most, *live))?;
        if (live + 1).saturating_mul(5) >= most.saturating_mul(4) && connections.len() < CONNECTIONS
        {
            self.demand.notify_one();
        }
        if live >= most {
            return None;
        }
        Some(self.seat(connection, live + 1 >= most))
    }

    /// One more stream of a connection, the last that it takes where it is then `full`.
    pub(crate) fn seat(&self, connection: &Connection, full: bool) -> Lease {
        connection.vitals.live.fetch_add(1, Ordering::AcqRel);
        Lease {
            send: connection.send.clone(),
            seat: Seat {
                vitals: connection.vitals.clone(),
                server: self.endpoint.name.clone(),
                full,
            },
        }
    }

    pub(crate) fn add(&self, connection: Connection) {
        let mut connections = lock(&self.connections);
        connections.retain(Connection::is_usable);
        connections.push(connection);
    }

    /// Forgets connections that take no more streams; says whether one is left that does.
    pub(crate) fn prune(&self) -> bool {
        let mut connections = lock(&self.connections);
        connections.retain(Connection::is_usable);
        !connections.is_empty()
    }

    /// Whether the connections that are there are about to be full.
    pub(crate) fn crowded(&self) -> bool {
        let connections = lock(&self.connections);
        !connections.is_empty()
            && connections.len() < CONNECTIONS
            && connections.iter().all(|connection| {
                let live = connection.vitals.live.load(Ordering::Acquire);
                let most = connection.send.current_max_send_streams();
                suspect(connection)
                    || live.saturating_add(1).saturating_mul(5) >= most.saturating_mul(4)
            })
    }

    /// Lets idle connections go, all but `keep`.
    pub(crate) fn thin(&self, keep: usize) {
        let mut connections = lock(&self.connections);
        let mut surplus = connections.len().saturating_sub(keep);
        connections.retain(|connection| {
            let idle = connection.vitals.live.load(Ordering::Acquire) == 0;
            if surplus == 0 || !idle {
                return true;
            }
            surplus -= 1;
            connection.retire();
            false
        });
    }

    /// The server does not accept the credentials: no new flow tries them until the keeper has.
    pub(crate) fn refuse(&self, reason: ConnectError) {
        self.board.lost(self.rank, reason);
        self.close();
    }

    /// What is known about the server.
    pub(crate) fn condition(&self) -> Condition {
        self.board.watch().borrow()[self.rank].condition.clone()
    }

    /// Lets every connection go once its streams have ended.
    pub(crate) fn close(&self) {
        for connection in lock(&self.connections).drain(..) {
            connection.retire();
        }
        lock(&self.spare).take();
    }

    /// Doubts every connection until it has answered a ping.
    pub(crate) fn probe(&self) {
        for connection in lock(&self.connections).iter() {
            connection.doubt();
        }
        self.reach();
    }

    /// The network has changed: doubts the connections that it concerns.
    pub(crate) fn follow(&self) {
        let connections = lock(&self.connections);
        let moved = connections
            .iter()
            .filter(|connection| connection.follow())
            .count();
        let trusted = connections.len() > moved;
        drop(connections);
        let warm = lock(&self.spare)
            .as_ref()
            .and_then(|spare| Ends::of(spare.get_ref().0))
            .is_some_and(|ends| !ends.is_moved());
        // Who stands behind another server waits for the turn that the keeper gives.
        if moved > 0 || (self.rank == 0 && !trusted && !warm) {
            self.reach();
        }
    }

    /// Reaches for the server now, by the network as it is now.
    fn reach(&self) {
        lock(&self.spare).take();
        self.demand.notify_one();
        self.moved.notify_one();
    }

    /// Whether a connection is left that is not doubted.
    pub(crate) fn has_trusted(&self) -> bool {
        let connections = lock(&self.connections);
        let mut usable = connections.iter().filter(|known| known.is_usable());
        usable.any(|known| !suspect(known))
    }

    pub(crate) fn keep_spare(&self, stream: tls::Stream) {
        *lock(&self.spare) = Some(stream);
    }

    /// Ready once there is no spare connection that lives: with true if one was there and the
    /// server ended it.
    pub(crate) fn poll_spare(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut spare = lock(&self.spare);
        let Some(stream) = &mut *spare else {
            return Poll::Ready(false);
        };
        let mut byte = [0];
        // Session tickets are taken in here; anything else is a server that spoke unasked.
        match std::pin::Pin::new(stream).poll_read(cx, &mut ReadBuf::new(&mut byte)) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(_) => {
                *spare = None;
                Poll::Ready(true)
            }
        }
    }

    /// Whether a spare connection is there and alive.
    pub(crate) fn has_spare(&self) -> bool {
        self.poll_spare(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    }

    pub(crate) fn refuse_udp(&self) {
        if !self.udp_refused.swap(true, Ordering::AcqRel) {
            self.board.wake();
        }
    }

    /// The server was away and may be another one now.
    pub(crate) fn forget_udp(&self) {
        self.udp_refused.store(false, Ordering::Release);
    }

    pub(crate) fn carries_udp(&self) -> bool {
        if self.udp_refused.load(Ordering::Acquire) {
            return false;
        }
        // Without a connection the server speaks HTTP/1.1, which has no setting that tells.
        lock(&self.connections)
            .last()
            .is_none_or(|connection| connection.send.is_extended_connect_protocol_enabled())
    }
}

pub(crate) const HTTP1: &str = "http/1.1";
pub(crate) const HTTP2: &str = "h2";

fn suspect(connection: &Connection) -> bool {
    connection.vitals.suspect.load(Ordering::Acquire)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // No code under these locks leaves them half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
