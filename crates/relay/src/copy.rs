use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use direction::{Direction, Fault};

mod direction;

/// How long a flow may stand still.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Without a byte either way. Default 15 minutes.
    pub idle: Duration,
    /// Without a byte, once one side has ended its half. Default 60 seconds.
    pub half_closed_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(15 * 60),
            half_closed_idle: Duration::from_secs(60),
        }
    }
}

/// What a flow has moved so far, in bytes; others may read it while the flow runs.
#[derive(Debug, Default)]
pub struct Counters {
    /// From the app to the far end.
    pub sent: AtomicU64,
    /// From the far end to the app.
    pub received: AtomicU64,
}

impl Counters {
    /// Bytes from the app to the far end.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes from the far end to the app.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// How a flow ended, and who ended it.
#[derive(Debug)]
pub enum End {
    /// Both sides ended their half and everything was delivered.
    Closed,
    /// The app's side broke off, or ended TLS without saying so.
    AppReset(io::Error),
    /// The far side broke off, or ended TLS without saying so.
    FarReset(io::Error),
    /// [`Limits::idle`] passed.
    Idle,
    /// [`Limits::half_closed_idle`] passed.
    HalfClosedIdle,
    /// The caller cancelled the flow.
    Stopped,
}

impl End {
    /// Whether everything was delivered; if not, both ends are to be [`reset`](crate::reset).
    pub fn is_clean(&self) -> bool {
        matches!(self, End::Closed)
    }

    /// One constant word or two for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            End::Closed => "closed",
            End::AppReset(_) => "app reset",
            End::FarReset(_) => "far reset",
            End::Idle => "idle",
            End::HalfClosedIdle => "half-closed idle",
            End::Stopped => "stopped",
        }
    }
}

/// Moves bytes both ways until both sides have ended, one breaks, a limit passes or `stop` is
/// cancelled.
///
/// A buffer is held only while bytes are in hand, so an idle flow costs its two ends and little
/// more. An end of stream on one side shuts the other's writing half down and the opposite
/// direction goes on. Neither end is closed here: drop both after [`End::Closed`],
/// [`reset`](crate::reset) both after anything else.
pub async fn copy<A, B>(
    app: &mut A,
    far: &mut B,
    limits: &Limits,
    counters: &Counters,
    stop: &CancellationToken,
) -> End
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut stopped = pin!(stop.cancelled());
    let mut clock = pin!(sleep_until(Instant::now() + limits.idle));
    let mut flow = Flow {
        up: Direction::new(),
        down: Direction::new(),
        moved: Instant::now(),
        half_closed: false,
    };
    poll_fn(|cx| {
        if stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::Stopped);
        }
        let end = flow.poll(cx, app, far);
        let (sent, received) = (flow.up.take_moved(), flow.down.take_moved());
        counters.sent.fetch_add(sent, Ordering::Relaxed);
        counters.received.fetch_add(received, Ordering::Relaxed);
        if end.is_ready() {
            return end;
        }
        if sent + received > 0 {
            flow.moved = Instant::now();
        }
        flow.poll_clock(cx, clock.as_mut(), limits)
    })
    .await
}

struct Flow {
    up: Direction,
    down: Direction,
    moved: Instant,
    half_closed: bool,
}

impl Flow {
    fn poll<A, B>(&mut self, cx: &mut Context<'_>, app: &mut A, far: &mut B) -> Poll<End>
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        let up = self.up.poll(cx, app, far, !self.down.cannot_write());
        let down = self.down.poll(cx, far, app, !self.up.cannot_write());
        // A side that cannot be read has nothing left to deliver. A side that only takes no more
        // may have sent a last answer before it broke: that is delivered first.
        let reader_failed = self.up.cannot_read() || self.down.cannot_read();
        if !reader_failed && (up.is_pending() || down.is_pending()) {
            return Poll::Pending;
        }
        Poll::Ready(match (self.up.take_fault(), self.down.take_fault()) {
            (Some(Fault::Reader(error)), _) => End::AppReset(error),
            (_, Some(Fault::Reader(error))) => End::FarReset(error),
            (Some(Fault::Writer(error)), _) => End::FarReset(error),
            (None, Some(Fault::Writer(error))) => End::AppReset(error),
            (None, None) => End::Closed,
        })
    }

    fn poll_clock(
        &mut self,
        cx: &mut Context<'_>,
        mut clock: Pin<&mut Sleep>,
        limits: &Limits,
    ) -> Poll<End> {
        let half_closed = self.up.is_over() || self.down.is_over();
        let limit = if half_closed {
            limits.half_closed_idle
        } else {
            limits.idle
        };
        if half_closed && !self.half_closed {
            self.half_closed = true;
            // The end of a half is a sign of life too.
            self.moved = Instant::now();
            clock.as_mut().reset(self.moved + limit);
        }
        // The clock is not set anew on every byte: when it strikes, it is asked how long ago the
        // last one was.
        while clock.as_mut().poll(cx).is_ready() {
            let deadline = self.moved + limit;
            if deadline <= Instant::now() {
                return Poll::Ready(if half_closed {
                    End::HalfClosedIdle
                } else {
                    End::Idle
                });
            }
            clock.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}
