use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

/// The wait after an accept that failed for want of descriptors or memory.
const BACK_OFF: Duration = Duration::from_millis(100);

/// What [`serve`] takes streams from.
pub trait Listener: Send + 'static {
    /// What is accepted.
    type Stream: Send + 'static;
    /// What the system says of the peer at accept.
    type Peer: Send + 'static;

    /// Waits for the next stream; dropping the future loses none.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Peer)>> + Send;

    /// Drops a stream that is over the limit, so that its peer sees an error at once.
    fn refuse(stream: Self::Stream);
}

impl Listener for TcpListener {
    type Stream = TcpStream;
    type Peer = SocketAddr;

    fn accept(&self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send {
        TcpListener::accept(self)
    }

    fn refuse(stream: TcpStream) {
        crate::reset(stream);
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;
    type Peer = tokio::net::unix::SocketAddr;

    fn accept(
        &self,
    ) -> impl Future<Output = io::Result<(UnixStream, tokio::net::unix::SocketAddr)>> + Send {
        UnixListener::accept(self)
    }

    fn refuse(_stream: UnixStream) {}
}

/// How many streams are served at one time, and what becomes of the next.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Streams served at one time.
    pub live: usize,
    /// What happens to one more.
    pub when_full: WhenFull,
}

/// What happens to a stream over the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// It stays in the kernel's backlog until another ends: for peers that are few and patient.
    Wait,
    /// It is reset at once and counted: for peers that should try elsewhere.
    Refuse,
}

impl Limit {
    /// At most `live` streams, further ones wait.
    pub fn wait(live: usize) -> Self {
        let when_full = WhenFull::Wait;
        Self { live, when_full }
    }

    /// At most `live` streams, further ones are reset.
    pub fn refuse(live: usize) -> Self {
        let when_full = WhenFull::Refuse;
        Self { live, when_full }
    }
}

/// What an accept loop did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Streams given to the handler.
    pub accepted: u64,
    /// Streams reset because the limit was reached.
    pub refused: u64,
    /// Handlers that panicked.
    pub panicked: u64,
    /// Handlers still running at the end of the drain.
    pub aborted: u64,
}

/// Accepts streams and runs one task per stream until `stop` is cancelled; then closes the
/// listener, gives the tasks `drain` to end, and aborts the rest.
///
/// A handler that can end early should watch `stop` itself. Dropping the future aborts all tasks.
pub async fn serve<L, H, F>(
    listener: L,
    limit: Limit,
    stop: &CancellationToken,
    drain: Duration,
    mut handler: H,
) -> Served
where
    L: Listener,
    H: FnMut(L::Stream, L::Peer) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut served = Served::default();
    let mut tasks = JoinSet::new();
    let mut failing = false;
    loop {
        let may_accept = tasks.len() < limit.live || limit.when_full == WhenFull::Refuse;
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = tasks.join_next() => {
                served.note(ended);
                continue;
            }
            accepted = listener.accept(), if may_accept => accepted,
        };
        match accepted {
            Ok((stream, _)) if tasks.len() >= limit.live => {
                served.refused += 1;
                L::refuse(stream);
            }
            Ok((stream, peer)) => {
                failing = false;
                served.accepted += 1;
                tasks.spawn(handler(stream, peer));
            }
            Err(error) if concerns_one_peer(&error) => tracing::debug!(%error, "accept failed"),
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "cannot accept, trying again");
                }
                failing = true;
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = sleep(BACK_OFF) => {}
                }
            }
        }
    }
    drop(listener);
    drain_tasks(&mut tasks, drain, &mut served).await;
    served
}

async fn drain_tasks(tasks: &mut JoinSet<()>, drain: Duration, served: &mut Served) {
    let deadline = Instant::now() + drain;
    while let Ok(Some(ended)) = timeout_at(deadline, tasks.join_next()).await {
        served.note(ended);
    }
    tasks.abort_all();
    while let Some(ended) = tasks.join_next().await {
        served.note(ended);
    }
}

impl Served {
    fn note(&mut self, ended: Result<(), JoinError>) {
        match ended {
            Ok(()) => {}
            Err(error) if error.is_panic() => {
                self.panicked += 1;
                tracing::error!(%error, "a task panicked");
            }
            Err(_) => self.aborted += 1,
        }
    }
}

/// Errors that accept(2) passes on from the one connection that it took from the queue.
fn concerns_one_peer(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EINTR
                | libc::EPERM
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
        )
    )
}
