use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use h2::Reason;
use offramp_upstream::{OpenError, State};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use crate::fake::{self, Identity, Proxy, Running, builder, target};
use crate::limited;

async fn echo() -> (Proxy, Running) {
    let identity = Identity::new(&["h2", "http/1.1"]);
    let proxy = Proxy::new(&identity, |stream, _| async {
        fake::http2(stream, &builder(), fake::echo).await;
    })
    .await;
    let running = Running::new(vec![proxy.server("one")]);
    (proxy, running)
}

#[tokio::test]
async fn carries_bytes_and_half_closes() {
    limited(async {
        let (proxy, running) = echo().await;
        let state = running.connected().await;
        let expected = State::Connected {
            server: "one".into(),
            protocol: "h2",
            udp: true,
        };
        assert_eq!(state, expected);
        let tunnel = running.upstream.open_tcp(&target()).await.unwrap();
        assert_eq!(tunnel.server(), "one");
        let (mut read, mut write) = tokio::io::split(tunnel);
        let sent: Vec<u8> = (0..9_000_000u32).map(|n| (n % 251) as u8).collect();
        let mut writer = JoinSet::new();
        let expected = sent.clone();
        writer.spawn(async move {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
            let late = write.write(b"late").await.unwrap_err();
            assert_eq!(late.kind(), ErrorKind::BrokenPipe);
            write
        });
        let mut received = Vec::new();
        read.read_to_end(&mut received).await.unwrap();
        assert!(received == expected);
        writer.join_next().await.unwrap().unwrap();
        assert_eq!(proxy.accepted.load(Ordering::Acquire), 1);
        running.stop().await;
    })
    .await;
}

/// What a tunnel reads to its end, over a server that sends `data` and then resets.
async fn read_over_reset(reason: Reason) -> std::io::Result<Vec<u8>> {
    let proxy = Proxy::new(&Identity::new(&["h2"]), move |stream, _| async move {
        fake::http2(stream, &builder(), move |request, respond| async move {
            let (mut receive, mut send) = fake::accept(request, respond);
            assert!(fake::write(&mut send, Bytes::from_static(b"data")).await);
            // A reset throws away what has not arrived, so the client says that it has.
            receive.data().await.unwrap().unwrap();
            send.send_reset(reason);
        })
        .await;
    })
    .await;
    let running = Running::new(vec![proxy.server("one")]);
    let mut tunnel = running.upstream.open_tcp(&target()).await.unwrap();
    let mut received = vec![0; 4];
    tunnel.read_exact(&mut received).await?;
    tunnel.write_all(b"!").await?;
    tunnel.read_to_end(&mut received).await.map(|_| received)
}

#[tokio::test]
async fn reset_without_error_is_an_end_and_any_other_a_reset() {
    limited(async {
        assert_eq!(read_over_reset(Reason::NO_ERROR).await.unwrap(), b"data");
        for reason in [
            Reason::CANCEL,
            Reason::CONNECT_ERROR,
            Reason::INTERNAL_ERROR,
        ] {
            let error = read_over_reset(reason).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{reason:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn dropping_resets_the_stream() {
    limited(async {
        let (told, mut seen) = mpsc::channel(1);
        let proxy = Proxy::new(&Identity::new(&["h2"]), move |stream, _| {
            let told = told.clone();
            async move {
                fake::http2(stream, &builder(), |request, respond| {
                    let told = told.clone();
                    async move {
                        let (mut receive, _send) = fake::accept(request, respond);
                        let end = receive.data().await;
                        let reason = end.and_then(Result::err).and_then(|error| error.reason());
                        told.send(reason).await.unwrap();
                    }
                })
                .await;
            }
        })
        .await;
        let running = Running::new(vec![proxy.server("one")]);
        drop(running.upstream.open_tcp(&target()).await.unwrap());
        assert_eq!(seen.recv().await.unwrap(), Some(Reason::CANCEL));
    })
    .await;
}

#[tokio::test]
async fn goaway_drains() {
    limited(async {
        let proxy = Proxy::new(&Identity::new(&["h2"]), |stream, number| async move {
            let mut connection = builder().handshake(stream).await.unwrap();
            let mut requests = JoinSet::new();
            while let Some(Ok((request, respond))) = connection.accept().await {
                requests.spawn(fake::echo(request, respond));
                if number == 0 {
                    connection.graceful_shutdown();
                }
            }
            requests.join_all().await;
        })
        .await;
        let running = Running::new(vec![proxy.server("one")]);
        let mut old = running.upstream.open_tcp(&target()).await.unwrap();
        old.write_all(b"before").await.unwrap();
        old.read_exact(&mut [0; 6]).await.unwrap();
        // Flows that come now, whatever the client knows yet, work; they take a new connection.
        while proxy.accepted.load(Ordering::Acquire) < 2 {
            let mut tunnel = running.upstream.open_tcp(&target()).await.unwrap();
            tunnel.write_all(b"new").await.unwrap();
            tunnel.read_exact(&mut [0; 3]).await.unwrap();
        }
        old.write_all(b"after").await.unwrap();
        old.shutdown().await.unwrap();
        let mut rest = String::new();
        old.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "after");
        let state = running.upstream.state().borrow().clone();
        assert!(matches!(state, State::Connected { .. }), "{state:?}");
    })
    .await;
}

#[tokio::test]
async fn opens_connections_as_streams_run_out() {
    limited(async {
        let proxy = Proxy::new(&Identity::new(&["h2"]), |stream, _| async {
            let mut builder = builder();
            builder.max_concurrent_streams(10);
            fake::http2(stream, &builder, fake::echo).await;
        })
        .await;
        let running = Running::new(vec![proxy.server("one")]);
        let mut flows = JoinSet::new();
        for _ in 0..100 {
            let upstream = running.upstream.clone();
            flows.spawn(async move { upstream.open_tcp(&target()).await.unwrap() });
        }
        let tunnels = flows.join_all().await;
        let accepted = proxy.accepted.load(Ordering::Acquire);
        assert!((10..=14).contains(&accepted), "{accepted}");
        drop(tunnels);
    })
    .await;
}

#[tokio::test]
async fn a_server_that_takes_nothing_stalls_the_writer_only() {
    limited(async {
        let go = Arc::new(Notify::new());
        let release = go.clone();
        let proxy = Proxy::new(&Identity::new(&["h2"]), move |stream, _| {
            let release = release.clone();
            async move {
                fake::http2(stream, &builder(), |request, respond| {
                    let release = release.clone();
                    async move {
                        let name = request.uri().authority().unwrap().as_str() == "origin.test:443";
                        if name {
                            release.notified().await;
                        }
                        fake::echo(request, respond).await;
                    }
                })
                .await;
            }
        })
        .await;
        let running = Running::new(vec![proxy.server("one")]);
        let slow = running.upstream.clone();
        let stalled = async move { slow.open_tcp(&target()).await };
        let mut other = target();
        other.port = 80;
        let mut quick = running.upstream.open_tcp(&other).await.unwrap();
        let refused = stalled.await.unwrap_err();
        assert!(matches!(refused, OpenError::Timeout { .. }), "{refused:?}");
        quick.write_all(b"still here").await.unwrap();
        quick.read_exact(&mut [0; 10]).await.unwrap();
        go.notify_waiters();
    })
    .await;
}

#[tokio::test]
async fn windows_bound_what_is_held() {
    limited(async {
        let go = Arc::new(Notify::new());
        let release = go.clone();
        let (told, mut sent) = mpsc::channel(100);
        let proxy = Proxy::new(&Identity::new(&["h2"]), move |stream, _| {
            let (release, told) = (release.clone(), told.clone());
            async move {
                fake::http2(stream, &builder(), |request, respond| {
                    let (release, told) = (release.clone(), told.clone());
                    async move {
                        let (mut receive, mut send) = fake::accept(request, respond);
                        // Sends until the client's window is full.
                        let chunk = Bytes::from(vec![1; 1 << 20]);
                        let until_full = async {
                            for _ in 0..20 {
                                fake::write(&mut send, chunk.clone()).await;
                                told.send(chunk.len()).await.unwrap();
                            }
                        };
                        tokio::select! {
                            () = until_full => panic!("the client took all without reading"),
                            () = release.notified() => {}
                        }
                        send.send_data(Bytes::new(), true).unwrap();
                        let mut total = 0;
                        while let Some(data) = receive.data().await {
                            let data = data.unwrap();
                            total += data.len();
                            receive.flow_control().release_capacity(data.len()).unwrap();
                        }
                        told.send(total).await.unwrap();
                    }
                })
                .await;
            }
        })
        .await;
        let running = Running::new(vec![proxy.server("one")]);
        let mut tunnel = running.upstream.open_tcp(&target()).await.unwrap();
        for _ in 0..4 {
            assert_eq!(sent.recv().await.unwrap(), 1 << 20);
        }
        // The server has not read: a megabyte of window, and a part of the next write, is taken.
        let data = vec![2; 4 << 20];
        let (mut read, mut write) = tokio::io::split(&mut tunnel);
        let mut written = 0;
        let full = async {
            loop {
                written += write.write(&data[written..]).await.unwrap();
            }
        };
        let pause = std::time::Duration::from_millis(300);
        assert!(tokio::time::timeout(pause, full).await.is_err());
        assert_eq!(written, 1 << 20);
        go.notify_waiters();
        write.write_all(&data[written..]).await.unwrap();
        write.shutdown().await.unwrap();
        let mut received = Vec::new();
        read.read_to_end(&mut received).await.unwrap();
        assert!(received.len() >= 4 << 20 && received.len() <= 5 << 20);
        assert_eq!(sent.recv().await.unwrap(), 4 << 20);
    })
    .await;
}

#[tokio::test]
async fn asks_the_server_itself() {
    limited(async {
        let proxy = Proxy::new(&Identity::new(&["h2"]), |stream, _| async {
            fake::http2(stream, &builder(), |request, respond| async {
                assert_eq!(request.uri().path(), "/dns-query");
                assert_eq!(request.headers()["content-type"], "application/dns-message");
                fake::echo(request, respond).await;
            })
            .await;
        })
        .await;
        let running = Running::new(vec![proxy.server("one")]);
        let query = Bytes::from_static(b"question");
        assert_eq!(
            running.upstream.resolve(query.clone()).await.unwrap(),
            query
        );
    })
    .await;
}

/// What comes for streams that were dropped must not count against the connection.
#[tokio::test]
async fn flows_that_are_dropped_in_mid_download_do_not_end_the_others() {
    limited(async {
        let proxy = Proxy::new(&Identity::new(&["h2"]), |stream, _| async {
            fake::http2(stream, &builder(), |request, respond| async {
                if request.uri().port_u16() == Some(443) {
                    return fake::echo(request, respond).await;
                }
                let (_receive, mut send) = fake::accept(request, respond);
                let small = Bytes::from_static(&[1; 512]);
                while fake::write(&mut send, small.clone()).await {
                    tokio::task::yield_now().await;
                }
            })
            .await;
        })
        .await;
        let running = Running::new(vec![proxy.server("one")]);
        let mut bystander = running.upstream.open_tcp(&target()).await.unwrap();
        let mut endless = target();
        endless.port = 80;
        for _ in 0..20 {
            let mut tunnels = Vec::new();
            for _ in 0..60 {
                let mut tunnel = running.upstream.open_tcp(&endless).await.unwrap();
                tunnel.read_exact(&mut [0; 1]).await.unwrap();
                tunnels.push(tunnel);
            }
            drop(tunnels);
        }
        bystander.write_all(b"here").await.unwrap();
        bystander.read_exact(&mut [0; 4]).await.unwrap();
        assert_eq!(proxy.accepted.load(Ordering::Acquire), 1);
    })
    .await;
}

#[tokio::test]
async fn apps_that_do_not_read_do_not_stop_the_others() {
    limited(async {
        let (told, mut full) = mpsc::channel(100);
        let proxy = Proxy::new(&Identity::new(&["h2"]), move |stream, _| {
            let told = told.clone();
            async move {
                fake::http2(stream, &builder(), |request, respond| {
                    let told = told.clone();
                    async move {
                        if request.uri().port_u16() == Some(443) {
                            return fake::echo(request, respond).await;
                        }
                        let (_receive, mut send) = fake::accept(request, respond);
                        let window = Bytes::from(vec![1; 4 << 20]);
                        assert!(fake::write(&mut send, window).await);
                        told.send(()).await.unwrap();
                        std::future::pending().await
                    }
                })
                .await;
            }
        })
        .await;
        let running = Running::new(vec![proxy.server("one")]);
        let mut bystander = running.upstream.open_tcp(&target()).await.unwrap();
        let mut endless = target();
        endless.port = 80;
        let mut stalled = Vec::new();
        for _ in 0..20 {
            stalled.push(running.upstream.open_tcp(&endless).await.unwrap());
            full.recv().await.unwrap();
        }
        bystander.write_all(b"here").await.unwrap();
        bystander.read_exact(&mut [0; 4]).await.unwrap();
        assert_eq!(proxy.accepted.load(Ordering::Acquire), 1);
    })
    .await;
}
