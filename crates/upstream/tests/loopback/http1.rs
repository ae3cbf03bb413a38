use std::io::ErrorKind;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use offramp_upstream::{Authorization, OpenError, Secret, State, Tunnel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::fake::{self, Identity, Proxy, Running, target};
use crate::limited;

/// Opens through a server that answers every CONNECT with these bytes and then echoes.
async fn open(alpn: &[&str], answer: &'static [u8]) -> Result<(Tunnel, Running, Proxy), OpenError> {
    let proxy = Proxy::new(&Identity::new(alpn), move |mut stream, _| async move {
        if fake::answer(&mut stream, answer).await.is_none() {
            return;
        }
        let (mut read, mut write) = tokio::io::split(stream);
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    })
    .await;
    let running = Running::new(vec![proxy.server("one")]);
    let tunnel = running.upstream.open_tcp(&target()).await?;
    Ok((tunnel, running, proxy))
}

#[tokio::test]
async fn accepts_what_servers_answer() {
    for (alpn, answer, first) in [
        (&["http/1.1"][..], &b"HTTP/1.1 200 OK\r\n\r\n"[..], ""),
        (
            &[],
            b"HTTP/1.0 200 Connection established\r\nProxy-Agent: x\r\n\r\n",
            "",
        ),
        (
            &[],
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            "",
        ),
        (&[], b"HTTP/1.1 200 OK\r\n\r\nbanner first", "banner first"),
    ] {
        limited(async {
            let (mut tunnel, running, _proxy) = open(alpn, answer).await.unwrap();
            let expected = State::Connected {
                server: "one".into(),
                protocol: "http/1.1",
                udp: true,
            };
            assert_eq!(running.connected().await, expected);
            tunnel.write_all(b"hello").await.unwrap();
            tunnel.shutdown().await.unwrap();
            let mut all = String::new();
            tunnel.read_to_string(&mut all).await.unwrap();
            assert_eq!(all, format!("{first}hello"));
            running.stop().await;
        })
        .await;
    }
}

#[tokio::test]
async fn says_whose_fault_a_refusal_is() {
    let too_long: &'static [u8] = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(20_000))
        .leak()
        .as_bytes();
    for (answer, expected) in [
        (
            &b"HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic\r\n\r\n"[..],
            "one does not accept the credentials (status 407): the profile has none for it",
        ),
        (b"HTTP/1.1 403 No\r\n\r\n", "one does not allow this target"),
        (
            b"HTTP/1.1 502 Bad\r\n\r\n",
            "one could not connect to the target: status 502",
        ),
        (
            b"HTTP/1.1 502 Bad\r\nProxy-Status: x; error=dns_error\r\n\r\n",
            "one could not find the target's name",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "one is not available"),
        (
            b"HTTP/1.1 200 OK\r\nNot-Finished: ",
            "the target did not answer one in time",
        ),
        (too_long, "one is not available"),
    ] {
        limited(async {
            let Err(error) = open(&[], answer).await else {
                panic!("{expected}");
            };
            assert_eq!(error.to_string(), expected);
        })
        .await;
    }
}

#[tokio::test]
async fn a_server_that_closes_before_it_answers() {
    limited(async {
        let proxy = Proxy::new(&Identity::new(&[]), |mut stream, _| async move {
            fake::head(&mut stream).await;
        })
        .await;
        let running = Running::new(vec![proxy.server("one")]);
        let error = running.upstream.open_tcp(&target()).await.unwrap_err();
        assert!(matches!(error, OpenError::Unavailable { .. }), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn a_warm_connection_that_was_closed_is_replaced() {
    limited(async {
        let proxy = Proxy::new(&Identity::new(&[]), |mut stream, number| async move {
            if number == 0 {
                return;
            }
            fake::answer(&mut stream, b"HTTP/1.1 200 OK\r\n\r\n").await;
            let _ = stream.read_u8().await;
        })
        .await;
        let running = Running::new(vec![proxy.server("one")]);
        running.upstream.open_tcp(&target()).await.unwrap();
        assert!(proxy.accepted.load(Ordering::Acquire) >= 2);
    })
    .await;
}

#[tokio::test]
async fn a_cut_is_never_an_end() {
    limited(async {
        let proxy = Proxy::new(&Identity::new(&[]), |mut stream, _| async move {
            fake::answer(&mut stream, b"HTTP/1.1 200 OK\r\n\r\npart").await;
            // TCP ends without close_notify.
            let _ = stream.get_mut().0.shutdown().await;
        })
        .await;
        let running = Running::new(vec![proxy.server("one")]);
        let mut tunnel = running.upstream.open_tcp(&target()).await.unwrap();
        let mut all = Vec::new();
        let error = tunnel.read_to_end(&mut all).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert_eq!(all, b"part");
    })
    .await;
}

#[tokio::test]
async fn dropping_resets_the_connection() {
    limited(async {
        let (told, mut seen) = mpsc::channel(1);
        let proxy = Proxy::new(&Identity::new(&[]), move |mut stream, number| {
            let told = told.clone();
            async move {
                if fake::answer(&mut stream, b"HTTP/1.1 200 OK\r\n\r\n")
                    .await
                    .is_some()
                {
                    let end = stream.read_u8().await.unwrap_err().kind();
                    told.send((number, end)).await.unwrap();
                }
            }
        })
        .await;
        let running = Running::new(vec![proxy.server("one")]);
        drop(running.upstream.open_tcp(&target()).await.unwrap());
        assert_eq!(seen.recv().await.unwrap().1, ErrorKind::ConnectionReset);
    })
    .await;
}

#[tokio::test]
async fn sends_the_credentials_unasked() {
    for (authorization, expected) in [
        (
            Authorization::Password {
                user: "anna".into(),
                password: Secret::new("s:1"),
            },
            "Proxy-Authorization: Basic YW5uYTpzOjE=\r\n",
        ),
        (
            Authorization::Bearer(Secret::new("abc.def")),
            "Proxy-Authorization: Bearer abc.def\r\n",
        ),
    ] {
        limited(async {
            let (told, mut seen) = mpsc::channel(1);
            let proxy = Proxy::new(&Identity::new(&[]), move |mut stream, _| {
                let told = told.clone();
                async move {
                    if let Some(head) = fake::answer(&mut stream, b"HTTP/1.1 200 OK\r\n\r\n").await
                    {
                        told.send(head).await.unwrap();
                    }
                }
            })
            .await;
            let mut server = proxy.server("one");
            server.authorization = Some(authorization);
            let running = Running::new(vec![server]);
            let _tunnel = running.upstream.open_tcp(&target()).await.unwrap();
            for target in ["offramp.invalid:443", "origin.test:443"] {
                let head = seen.recv().await.unwrap();
                let start = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
                assert!(head.starts_with(&start), "{head}");
                assert!(head.contains(expected), "{head}");
            }
        })
        .await;
    }
}

#[tokio::test]
async fn asks_the_server_itself() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nanswer"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nan\r\n4;x=y\r\nswer\r\n0\r\n\r\n",
    ] {
        limited(async {
            let proxy = Proxy::new(&Identity::new(&[]), move |mut stream, _| async move {
                let Some(head) = fake::head(&mut stream).await else {
                    return;
                };
                assert!(head.starts_with("POST /dns-query HTTP/1.1\r\n"), "{head}");
                assert!(head.contains("Content-Length: 8\r\n"), "{head}");
                let mut query = [0; 8];
                stream.read_exact(&mut query).await.unwrap();
                assert_eq!(&query, b"question");
                stream.write_all(answer).await.unwrap();
                stream.flush().await.unwrap();
                let _ = stream.read_u8().await;
            })
            .await;
            let running = Running::new(vec![proxy.server("one")]);
            let query = Bytes::from_static(b"question");
            assert_eq!(running.upstream.resolve(query).await.unwrap(), "answer");
        })
        .await;
    }
}
