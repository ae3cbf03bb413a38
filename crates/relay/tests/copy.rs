//! The copy loop over pipes, over TCP, and over ends that misbehave.

#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use offramp_relay::{Counters, End, Limits, copy, reset};
use proptest::prelude::*;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

fn paused() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().unwrap()
}

async fn run<A, B>(app: &mut A, far: &mut B, counters: &Counters) -> End
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    copy(
        app,
        far,
        &Limits::default(),
        counters,
        &CancellationToken::new(),
    )
    .await
}

/// Writes the bytes in pieces of the given sizes, ends its half and reads the other to its end.
async fn talk(mut stream: DuplexStream, bytes: &[u8], pieces: &[usize]) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let send = async {
        let mut rest = bytes;
        let mut pieces = pieces.iter().cycle();
        while !rest.is_empty() {
            let size = (*pieces.next().unwrap()).min(rest.len());
            write.write_all(&rest[..size]).await.unwrap();
            write.flush().await.unwrap();
            tokio::task::yield_now().await;
            rest = &rest[size..];
        }
        write.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let (_, received) = tokio::join!(send, read.read_to_end(&mut got));
    received.unwrap();
    got
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_byte_arrives_once_and_in_order(
        up in prop::collection::vec(any::<u8>(), 0..200_000),
        down in prop::collection::vec(any::<u8>(), 0..200_000),
        app_pipe in 1_usize..100_000,
        far_pipe in 1_usize..100_000,
        pieces in prop::collection::vec(1_usize..70_000, 1..8),
    ) {
        // A pipe of a few bytes is slow: the payload shrinks with it.
        let limit = app_pipe.min(far_pipe) * 300;
        let (up, down) = (&up[..up.len().min(limit)], &down[..down.len().min(limit)]);
        paused().block_on(async {
            let (mut app, app_end) = duplex(app_pipe);
            let (mut far, far_end) = duplex(far_pipe);
            let counters = Counters::default();
            let (end, at_app, at_far) = tokio::join!(
                run(&mut app, &mut far, &counters),
                talk(app_end, up, &pieces),
                talk(far_end, down, &pieces),
            );
            assert!(end.is_clean(), "{end:?}");
            assert!(at_app == down && at_far == up);
            assert_eq!(counters.sent(), up.len() as u64);
            assert_eq!(counters.received(), down.len() as u64);
        });
    }
}

/// A TCP connection as both of its ends: the one to copy, the one of the peer.
async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), accepted.unwrap().0)
}

#[tokio::test]
async fn halves_close_one_after_the_other() {
    let (mut app, mut app_end) = tcp().await;
    let (mut far, mut far_end) = tcp().await;
    let peers = async {
        app_end.write_all(b"question").await.unwrap();
        app_end.shutdown().await.unwrap();
        let mut text = String::new();
        far_end.read_to_string(&mut text).await.unwrap();
        far_end
            .write_all(format!("answer to {text}").as_bytes())
            .await
            .unwrap();
        far_end.shutdown().await.unwrap();
        text.clear();
        app_end.read_to_string(&mut text).await.unwrap();
        text
    };
    let counters = Counters::default();
    let (end, text) = tokio::join!(run(&mut app, &mut far, &counters), peers);
    assert!(matches!(end, End::Closed), "{end:?}");
    assert_eq!(text, "answer to question");
}

#[tokio::test]
async fn a_reset_becomes_a_reset() {
    for far_resets in [true, false] {
        let (mut app, app_end) = tcp().await;
        let (mut far, far_end) = tcp().await;
        let (mut stays, goes) = if far_resets {
            (app_end, far_end)
        } else {
            (far_end, app_end)
        };
        reset(goes);
        let end = run(&mut app, &mut far, &Counters::default()).await;
        let error = match (&end, far_resets) {
            (End::FarReset(error), true) | (End::AppReset(error), false) => error,
            _ => panic!("{end:?}"),
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        reset(app);
        reset(far);
        let error = stays.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn a_last_answer_before_a_reset_is_delivered() {
    let (mut app, mut app_end) = tcp().await;
    let (mut far, mut far_end) = tcp().await;
    app_end.write_all(&[0; 100_000]).await.unwrap();
    let peers = async {
        // Closing with unread bytes is how servers refuse an upload: answer, FIN, RST.
        far_end.read_u8().await.unwrap();
        far_end.write_all(b"413").await.unwrap();
        reset(far_end);
        let mut answer = [0; 3];
        app_end.read_exact(&mut answer).await.unwrap();
        answer
    };
    let counters = Counters::default();
    let (end, answer) = tokio::join!(run(&mut app, &mut far, &counters), peers);
    assert_eq!(&answer, b"413");
    assert!(matches!(end, End::FarReset(_)), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_flow_ends_by_the_time_since_its_last_byte() {
    let (mut app, mut app_end) = duplex(64);
    let (mut far, _far_end) = duplex(64);
    let start = Instant::now();
    let peer = async {
        tokio::time::sleep(Duration::from_secs(600)).await;
        app_end.write_all(b"x").await.unwrap();
    };
    let counters = Counters::default();
    let (end, ()) = tokio::join!(run(&mut app, &mut far, &counters), peer);
    assert!(matches!(end, End::Idle), "{end:?}");
    assert_eq!(start.elapsed().as_secs(), 600 + 900);
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_flow_ends_sooner() {
    let (mut app, mut app_end) = duplex(64);
    let (mut far, mut far_end) = duplex(64);
    let start = Instant::now();
    let peers = async {
        app_end.shutdown().await.unwrap();
        tokio::time::sleep(Duration::from_secs(50)).await;
        far_end.write_all(b"x").await.unwrap();
    };
    let counters = Counters::default();
    let (end, ()) = tokio::join!(run(&mut app, &mut far, &counters), peers);
    assert!(matches!(end, End::HalfClosedIdle), "{end:?}");
    assert_eq!(start.elapsed().as_secs(), 50 + 60);
}

#[tokio::test(start_paused = true)]
async fn a_half_close_does_not_shorten_what_came_before_it() {
    let (mut app, mut app_end) = duplex(64);
    let (mut far, _far_end) = duplex(64);
    let start = Instant::now();
    let peers = async {
        tokio::time::sleep(Duration::from_secs(800)).await;
        app_end.shutdown().await.unwrap();
    };
    let counters = Counters::default();
    let (end, ()) = tokio::join!(run(&mut app, &mut far, &counters), peers);
    assert!(matches!(end, End::HalfClosedIdle), "{end:?}");
    assert_eq!(start.elapsed().as_secs(), 800 + 60);
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_a_flow() {
    let (mut app, _app_end) = duplex(64);
    let (mut far, _far_end) = duplex(64);
    let (limits, counters) = (Limits::default(), Counters::default());
    let stop = CancellationToken::new();
    let cancel = async { stop.cancel() };
    let (end, ()) = tokio::join!(copy(&mut app, &mut far, &limits, &counters, &stop), cancel);
    assert!(matches!(end, End::Stopped), "{end:?}");
}

/// Gives endless bytes or one error, takes everything, and counts flushes.
#[derive(Default)]
struct Odd {
    error: Option<io::ErrorKind>,
    silent: bool,
    unflushed: usize,
    flushes: usize,
}

impl AsyncRead for Odd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(error) = self.error.take() {
            return Poll::Ready(Err(error.into()));
        }
        if self.silent {
            return Poll::Pending;
        }
        let size = buf.remaining();
        buf.put_slice(&vec![7; size]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Odd {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.unflushed += buf.len();
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unflushed = 0;
        self.flushes += 1;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

#[tokio::test]
async fn an_end_without_close_notify_is_no_end_of_stream() {
    let mut truncated = Odd {
        error: Some(io::ErrorKind::UnexpectedEof),
        ..Odd::default()
    };
    let mut silent = Odd {
        silent: true,
        ..Odd::default()
    };
    let end = run(&mut silent, &mut truncated, &Counters::default()).await;
    assert!(matches!(end, End::FarReset(_)), "{end:?}");
    truncated.error = Some(io::ErrorKind::UnexpectedEof);
    let end = run(&mut truncated, &mut silent, &Counters::default()).await;
    assert!(matches!(end, End::AppReset(_)), "{end:?}");
}

#[tokio::test]
async fn a_fast_flow_lets_others_run() {
    let (mut app, mut far) = (Odd::default(), Odd::default());
    let (limits, counters) = (Limits::default(), Counters::default());
    let stop = CancellationToken::new();
    let mut flow = pin!(copy(&mut app, &mut far, &limits, &counters, &stop));
    for poll in 1..=3 {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(flow.as_mut().poll(&mut cx).is_pending());
        for moved in [counters.sent(), counters.received()] {
            assert!(moved > (poll - 1) << 20 && moved <= poll << 20, "{moved}");
        }
    }
}

#[tokio::test]
async fn a_burst_is_flushed_once_when_the_reader_has_no_more() {
    let (mut app, mut app_end) = duplex(1 << 20);
    let mut far = Odd {
        silent: true,
        ..Odd::default()
    };
    app_end.write_all(&[0; 300_000]).await.unwrap();
    let (limits, counters) = (Limits::default(), Counters::default());
    let stop = CancellationToken::new();
    {
        let mut flow = pin!(copy(&mut app, &mut far, &limits, &counters, &stop));
        let pending = poll_fn(|cx| Poll::Ready(flow.as_mut().poll(cx).is_pending())).await;
        assert!(pending);
    }
    assert_eq!(
        (far.unflushed, far.flushes, counters.sent()),
        (0, 1, 300_000)
    );
}
