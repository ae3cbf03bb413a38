use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::Endpoint;
use crate::error::ConnectError;
use crate::health::Board;
use crate::tls;
use crate::way::Ends;

/// One app may be this far behind; throughput is at most this much per round trip.
const STREAM_WINDOW: u32 = 4 << 20;
/// The windows of 32 apps that do not read: only then do they stop the others on their connection.
const CONNECTION_WINDOW: u32 = 128 << 20;
const FRAME: u32 = 256 << 10;
const SEND_BUFFER: usize = 1 << 20;
/// h2 ends the whole connection when small unread frames have used this up, at most 256 for each:
/// half a million one-byte frames that apps have not read.
const FRAME_BUDGET: usize = 128 << 20;
/// How many dropped streams h2 remembers, and for how long, to ignore what still comes for them.
const RESET_STREAMS: usize = 4096;
const RESET_MEMORY: Duration = Duration::from_secs(10);

/// Between two pings while streams are open.
const PING_BUSY: Duration = Duration::from_secs(10);
/// Between two pings while none is; so a connection that is used again after a rest has answered
/// within this time.
const PING_IDLE: Duration = Duration::from_secs(30);
/// Without an answer, or any byte, for so long a connection is dead.
const PONG: Duration = Duration::from_secs(20);
/// The same after the network has changed.
const PONG_HURRY: Duration = Duration::from_secs(10);
/// The same while the machine has not got the connection's own address: it may come back.
const PONG_GONE: Duration = Duration::from_secs(5);
/// Without an answer for so long no new stream is opened on it until one comes.
const DOUBT: Duration = Duration::from_secs(2);

/// An HTTP/2 connection, as the pool sees it.
pub(crate) struct Connection {
    pub(crate) send: SendRequest<Bytes>,
    pub(crate) vitals: Arc<Vitals>,
}

impl Connection {
    /// Whether it takes new streams, as far as their number allows.
    pub(crate) fn is_usable(&self) -> bool {
        !self.vitals.draining.load(Ordering::Acquire)
    }

    /// The network has changed: asks for a sign of life. Where packets to the server take another
    /// way now it is doubted until that comes; says whether it is.
    pub(crate) fn follow(&self) -> bool {
        let vitals = &self.vitals;
        let moved = vitals.ends.as_ref().is_some_and(Ends::is_moved);
        let gone = moved && vitals.ends.as_ref().is_some_and(Ends::is_gone);
        vitals.gone.store(gone, Ordering::Release);
        if moved {
            self.doubt();
        } else {
            vitals.ping.notify_one();
        }
        moved
    }

    /// Opens no streams on it until it has answered a ping; those that are being opened are opened
    /// elsewhere.
    pub(crate) fn doubt(&self) {
        self.vitals.suspect.store(true, Ordering::Release);
        self.vitals.hurry.store(true, Ordering::Release);
        self.vitals.ping.notify_one();
        self.vitals.doubted.notify_waiters();
    }

    /// Takes no new streams from now on, and closes once its streams have ended.
    pub(crate) fn retire(&self) {
        self.vitals.draining.store(true, Ordering::Release);
        self.vitals.retire.cancel();
    }
}

/// What the pool, the driver and the streams of one connection share.
pub(crate) struct Vitals {
    /// Streams that are open or being opened.
    pub(crate) live: AtomicUsize,
    /// Takes no new streams: GOAWAY came, or it is dead.
    pub(crate) draining: AtomicBool,
    /// A ping has not been answered yet and should have been: takes no new streams until then.
    pub(crate) suspect: AtomicBool,
    /// The network has changed: little patience.
    pub(crate) hurry: AtomicBool,
    /// The machine has not got its own address any more: less patience.
    pub(crate) gone: AtomicBool,
    /// Tells opens that wait for an answer that it may never come.
    pub(crate) doubted: Notify,
    pub(crate) ends: Option<Ends>,
    /// Asks for a ping now.
    pub(crate) ping: Notify,
    /// Lets the connection close once its streams have ended.
    pub(crate) retire: CancellationToken,
    pub(crate) board: Arc<Board>,
}

/// One stream's place on a connection; frees it when dropped.
pub(crate) struct Seat {
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) server: Arc<str>,
    pub(crate) full: bool,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.vitals.live.fetch_sub(1, Ordering::AcqRel);
        if self.full {
            self.vitals.board.wake();
        }
    }
}

/// Speaks HTTP/2 on a fresh connection until the server's settings are known and a ping has been
/// answered.
pub(crate) async fn establish(
    endpoint: &Endpoint,
    stream: tls::Stream,
    board: Arc<Board>,
) -> Result<(Connection, Driver), ConnectError> {
    let server = || endpoint.name.to_string();
    let ends = Ends::of(stream.get_ref().0);
    let received = Arc::new(AtomicU64::new(0));
    let stream = Counted {
        stream,
        received: received.clone(),
    };
    let (send, connection, pings) = match timeout(endpoint.timeouts.tls, greet(stream)).await {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(detail)) => {
            return Err(ConnectError::Protocol {
                server: server(),
                detail,
            });
        }
        Err(_) => return Err(ConnectError::TlsTimeout { server: server() }),
    };
    let vitals = Arc::new(Vitals {
        live: AtomicUsize::new(0),
        draining: AtomicBool::new(false),
        suspect: AtomicBool::new(false),
        hurry: AtomicBool::new(false),
        gone: AtomicBool::new(false),
        doubted: Notify::new(),
        ends,
        ping: Notify::new(),
        retire: CancellationToken::new(),
        board,
    });
    let driver = Driver {
        connection,
        pings,
        probe: send.clone(),
        received,
        vitals: vitals.clone(),
    };
    Ok((Connection { send, vitals }, driver))
}

type Wire = h2::client::Connection<Counted, Bytes>;

async fn greet(stream: Counted) -> Result<(SendRequest<Bytes>, Wire, PingPong), String> {
    let said = |error: h2::Error| error.to_string();
    let (send, mut connection) = builder().handshake(stream).await.map_err(said)?;
    let mut pings = connection
        .ping_pong()
        .expect("the connection is new, so nobody has taken its pings");
    tokio::select! {
        ended = &mut connection => {
            ended.map_err(said)?;
            return Err("the server closed it at once".to_owned());
        }
        // The settings come before the answer.
        pong = pings.ping(Ping::opaque()) => pong.map_err(said)?,
    };
    Ok((send, connection, pings))
}

fn builder() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(FRAME_BUDGET)
        .max_concurrent_reset_streams(RESET_STREAMS)
        .reset_stream_duration(RESET_MEMORY)
        // What is under way to a flow that its app has dropped counts against this, once h2 has
        // forgotten the stream; over it h2 ends the connection with all other flows.
        .max_local_error_reset_streams(None)
        .enable_push(false);
    builder
}

/// Moves the frames of one connection and watches that it lives.
pub(crate) struct Driver {
    connection: Wire,
    pings: PingPong,
    /// Tells of a GOAWAY; as long as it exists the connection stays open without streams.
    probe: SendRequest<Bytes>,
    received: Arc<AtomicU64>,
    vitals: Arc<Vitals>,
}

impl Driver {
    /// Ends with the connection; says why, unless it was leaving anyway.
    pub(crate) async fn run(self) -> Option<String> {
        let Self {
            mut connection,
            pings,
            probe,
            received,
            vitals,
        } = self;
        let mut probe = Some(probe);
        let mut retired = pin!(vitals.retire.cancelled());
        let mut liveness = pin!(liveness(pings, &vitals, &received));
        let why = poll_fn(|cx| {
            if probe.is_some() && retired.as_mut().poll(cx).is_ready() {
                probe = None;
            }
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(match ended {
                    Ok(()) => "the server closed it".to_owned(),
                    Err(error) => error.to_string(),
                });
            }
            if let Some(send) = &mut probe
                && let Poll::Ready(Err(_)) = send.poll_ready(cx)
            {
                probe = None;
                vitals.draining.store(true, Ordering::Release);
                vitals.board.wake();
                // Polled once more, so that it notices that nobody holds it any longer.
                cx.waker().wake_by_ref();
            }
            liveness.as_mut().poll(cx)
        })
        .await;
        let left = vitals.draining.swap(true, Ordering::AcqRel);
        (!left).then_some(why)
    }
}

/// Pings at intervals and when asked to; ends when an answer does not come, and says so.
async fn liveness(mut pings: PingPong, vitals: &Vitals, received: &AtomicU64) -> String {
    loop {
        let pause = match vitals.live.load(Ordering::Acquire) {
            0 => PING_IDLE,
            _ => PING_BUSY,
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = vitals.ping.notified() => {}
        }
        let pong = pin!(pings.ping(Ping::opaque()));
        if let Err(why) = answered(pong, vitals, received).await {
            return why;
        }
        vitals.hurry.store(false, Ordering::Release);
        if vitals.suspect.swap(false, Ordering::AcqRel) {
            vitals.board.wake();
        }
    }
}

async fn answered(
    mut pong: Pin<&mut impl Future<Output = Result<h2::Pong, h2::Error>>>,
    vitals: &Vitals,
    received: &AtomicU64,
) -> Result<(), String> {
    let mut seen = received.load(Ordering::Acquire);
    let mut since = Instant::now();
    loop {
        let limit = match (
            vitals.gone.load(Ordering::Acquire),
            vitals.hurry.load(Ordering::Acquire),
        ) {
            (true, _) => PONG_GONE,
            (false, true) => PONG_HURRY,
            (false, false) => PONG,
        };
        let next = match vitals.suspect.load(Ordering::Acquire) {
            true => limit,
            false => DOUBT,
        };
        tokio::select! {
            answer = &mut pong => {
                return answer.map(|_| ()).map_err(|error| error.to_string());
            }
            () = vitals.ping.notified() => since = Instant::now(),
            () = sleep_until(since + next) => {
                let now = received.load(Ordering::Acquire);
                if now != seen {
                    // The answer may wait behind data: bytes of any kind are a sign of life.
                    seen = now;
                    since = Instant::now();
                } else if since.elapsed() >= limit {
                    return Err(format!("no answer for {} s", limit.as_secs()));
                } else if !vitals.suspect.swap(true, Ordering::AcqRel) {
                    vitals.board.wake();
                }
            }
        }
    }
}

/// Counts what is received, as a sign of life.
struct Counted {
    stream: tls::Stream,
    received: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let count = (buffer.filled().len() - before) as u64;
        self.received.fetch_add(count, Ordering::Release);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
