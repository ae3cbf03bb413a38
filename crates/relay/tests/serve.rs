//! The accept loop: its limits, its ends, and listeners that fail.

#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use offramp_relay::{Limit, Listener, Served, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

async fn echo(mut stream: TcpStream) {
    let (mut read, mut write) = stream.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

async fn ask(stream: &mut TcpStream) -> io::Result<u8> {
    stream.write_u8(7).await?;
    stream.read_u8().await
}

#[tokio::test]
async fn a_stream_over_the_limit_is_reset_or_waits() {
    for limit in [Limit::refuse(1), Limit::wait(1)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let refuses = limit.when_full == offramp_relay::WhenFull::Refuse;
        let clients = async {
            let mut first = TcpStream::connect(address).await.unwrap();
            assert_eq!(ask(&mut first).await.unwrap(), 7);
            let mut second = TcpStream::connect(address).await.unwrap();
            if refuses {
                let error = second.read_u8().await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                assert_eq!(ask(&mut first).await.unwrap(), 7);
            } else {
                second.write_u8(7).await.unwrap();
                assert_eq!(ask(&mut first).await.unwrap(), 7);
                drop(first);
                assert_eq!(second.read_u8().await.unwrap(), 7);
            }
            stop.cancel();
        };
        let loop_ = serve(listener, limit, &stop, Duration::ZERO, |stream, _| {
            echo(stream)
        });
        let (served, ()) = tokio::join!(loop_, clients);
        let (accepted, refused) = if refuses { (1, 1) } else { (2, 0) };
        assert_eq!((served.accepted, served.refused), (accepted, refused));
    }
}

#[tokio::test]
async fn a_panic_is_counted_and_the_others_go_on() {
    let dir = std::env::temp_dir().join(format!("offramp-relay-{}", std::process::id()));
    let _ = std::fs::remove_file(&dir);
    let listener = UnixListener::bind(&dir).unwrap();
    let stop = CancellationToken::new();
    let clients = async {
        let mut first = UnixStream::connect(&dir).await.unwrap();
        assert_eq!(first.read(&mut [0]).await.unwrap(), 0);
        let mut second = UnixStream::connect(&dir).await.unwrap();
        assert_eq!(second.read_u8().await.unwrap(), 2);
        stop.cancel();
    };
    let count = AtomicUsize::new(0);
    let limit = Limit::wait(10);
    let served = serve(
        listener,
        limit,
        &stop,
        Duration::from_secs(5),
        |mut stream, _| {
            let number = count.fetch_add(1, Ordering::Relaxed) + 1;
            async move {
                assert_ne!(number, 1, "this panic is part of the test");
                stream.write_u8(2).await.unwrap();
            }
        },
    );
    let (served, ()) = tokio::join!(served, clients);
    std::fs::remove_file(&dir).unwrap();
    let expected = Served {
        accepted: 2,
        panicked: 1,
        ..Served::default()
    };
    assert_eq!(served, expected);
}

/// Gives a listener's answers from a list, then waits.
struct Script {
    answers: Mutex<VecDeque<io::Result<u32>>>,
    asked: Semaphore,
}

impl Listener for Script {
    type Stream = u32;
    type Peer = ();

    async fn accept(&self) -> io::Result<(u32, ())> {
        self.asked.add_permits(1);
        let answer = self.answers.lock().unwrap().pop_front();
        match answer {
            Some(answer) => answer.map(|stream| (stream, ())),
            None => std::future::pending().await,
        }
    }

    fn refuse(_stream: u32) {}
}

fn script(answers: Vec<io::Result<u32>>) -> Script {
    Script {
        answers: Mutex::new(answers.into()),
        asked: Semaphore::new(0),
    }
}

#[tokio::test(start_paused = true)]
async fn want_of_descriptors_does_not_spin() {
    let error = |code| Err(io::Error::from_raw_os_error(code));
    // Two times want of descriptors, one connection that was gone before it was accepted.
    let listener = script(vec![error(24), error(24), error(103), Ok(1)]);
    let stop = CancellationToken::new();
    let start = Instant::now();
    let served = serve(listener, Limit::wait(1), &stop, Duration::ZERO, |_, ()| {
        let stop = stop.clone();
        async move { stop.cancel() }
    });
    assert_eq!(served.await.accepted, 1);
    assert_eq!(start.elapsed(), Duration::from_millis(200));
}

#[tokio::test(start_paused = true)]
async fn a_stop_drains_and_then_aborts() {
    let listener = script(vec![Ok(1), Ok(10), Ok(1000)]);
    let stop = CancellationToken::new();
    let start = Instant::now();
    let cancel = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        stop.cancel();
    };
    let drain = Duration::from_secs(20);
    let served = serve(listener, Limit::wait(9), &stop, drain, |seconds, ()| {
        tokio::time::sleep(Duration::from_secs(seconds.into()))
    });
    let (served, ()) = tokio::join!(served, cancel);
    let expected = Served {
        accepted: 3,
        aborted: 1,
        ..Served::default()
    };
    assert_eq!(served, expected);
    assert_eq!(start.elapsed(), Duration::from_millis(20_500));
}
