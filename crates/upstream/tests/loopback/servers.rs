use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use offramp_upstream::{OpenError, State};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::fake::{self, Identity, Proxy, Running, builder, target};
use crate::limited;

async fn echo_on(port: u16, identity: &Identity) -> Proxy {
    Proxy::on(port, identity, |stream, _| async {
        fake::http2(stream, &builder(), fake::echo).await;
    })
    .await
}

fn source(error: &OpenError) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

#[tokio::test]
async fn a_server_that_goes_is_noticed_and_one_that_comes_back_is_used() {
    limited(async {
        let identity = Identity::new(&["h2"]);
        let proxy = echo_on(0, &identity).await;
        let port = proxy.port;
        let running = Running::new(vec![proxy.server("one")]);
        running.connected().await;
        let mut tunnel = running.upstream.open_tcp(&target()).await.unwrap();
        drop(proxy);
        let error = tunnel.read(&mut [0; 16]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        running
            .until(|state| matches!(state, State::Reasserting { .. }))
            .await;
        for _ in 0..5 {
            let began = Instant::now();
            let error = running.upstream.open_tcp(&target()).await.unwrap_err();
            assert!(matches!(error, OpenError::Unavailable { .. }), "{error:?}");
            assert!(
                began.elapsed() < Duration::from_secs(1),
                "{:?}",
                began.elapsed()
            );
        }
        let _proxy = echo_on(port, &identity).await;
        running.connected().await;
        let mut tunnel = running.upstream.open_tcp(&target()).await.unwrap();
        tunnel.write_all(b"back").await.unwrap();
        tunnel.read_exact(&mut [0; 4]).await.unwrap();
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_server_that_was_never_there_is_told_at_once() {
    limited(async {
        let port = fake::free_port();
        let authority = Identity::new(&[]).authority;
        let running = Running::new(vec![fake::server("one", port, authority)]);
        let state = running.until(|state| *state != State::Connecting).await;
        let reason = "one cannot be reached: Connection refused (os error 111)".to_owned();
        assert_eq!(state, State::Disconnected { reason });
        let began = Instant::now();
        let error = running.upstream.open_tcp(&target()).await.unwrap_err();
        assert_eq!(error.to_string(), "one is not available");
        assert!(began.elapsed() < Duration::from_millis(100));
    })
    .await;
}

#[tokio::test]
async fn the_next_server_is_used_while_the_first_is_away() {
    limited(async {
        let identity = Identity::new(&["h2"]);
        let port = fake::free_port();
        let second = echo_on(0, &identity).await;
        let first = fake::server("first", port, identity.authority.clone());
        let running = Running::new(vec![first, second.server("second")]);
        let tunnel = running.upstream.open_tcp(&target()).await.unwrap();
        assert_eq!(tunnel.server(), "second");
        let _first = echo_on(port, &identity).await;
        running
            .until(|state| matches!(state, State::Connected { server, .. } if server == "first"))
            .await;
        let tunnel = running.upstream.open_tcp(&target()).await.unwrap();
        assert_eq!(tunnel.server(), "first");
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn the_next_server_is_used_where_the_first_refuses_the_credentials() {
    limited(async {
        let identity = Identity::new(&["h2", "http/1.1"]);
        let first = Proxy::new(&Identity::new(&[]), |mut stream, _| async move {
            fake::answer(&mut stream, b"HTTP/1.1 407 Who\r\n\r\n").await;
        })
        .await;
        let second = echo_on(0, &identity).await;
        let running = Running::new(vec![first.server("first"), second.server("second")]);
        let tunnel = running.upstream.open_tcp(&target()).await.unwrap();
        assert_eq!(tunnel.server(), "second");
    })
    .await;
}

#[tokio::test]
async fn bad_certificates_are_told_with_what_to_do() {
    let other = Identity::new(&["h2"]);
    let year = |year| rcgen::date_time_ymd(year, 1, 1);
    for (identity, authority, expected) in [
        (
            Identity::with(&["h2"], |params| params.not_after = year(2001)),
            None,
            "the certificate of one was not accepted for proxy.test: \
             it has expired: renew it on the server, or check this machine's clock",
        ),
        (
            Identity::with(&["h2"], |params| params.not_before = year(2999)),
            None,
            "the certificate of one was not accepted for proxy.test: \
             it is not valid yet: check the clocks of this machine and the server",
        ),
        (
            Identity::new(&["h2"]),
            Some(other.authority),
            "the certificate of one was not accepted for proxy.test: \
             its issuer is not trusted: name the authority that signed it in the profile",
        ),
        (
            Identity::with(&["h2"], |params| {
                params.subject_alt_names =
                    vec![rcgen::SanType::DnsName("other.test".try_into().unwrap())];
            }),
            None,
            "the certificate of one was not accepted for proxy.test: \
             it is for other.test: use one of these names, or set the TLS server name",
        ),
        (
            Identity::with(&["h2"], |params| {
                params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            }),
            None,
            "the certificate of one was not accepted for proxy.test: \
             it is an authority's (CA:TRUE), not a server's: make it with \
             `-addext basicConstraints=critical,CA:FALSE`",
        ),
    ] {
        limited(async {
            let proxy = echo_on(0, &identity).await;
            let authority = authority.unwrap_or(identity.authority);
            let running = Running::new(vec![fake::server("one", proxy.port, authority)]);
            let error = running.upstream.open_tcp(&target()).await.unwrap_err();
            assert_eq!(source(&error), expected);
            let state = running.until(|state| *state != State::Connecting).await;
            let reason = expected.to_owned();
            assert_eq!(state, State::Disconnected { reason });
        })
        .await;
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_costs_the_time_limit() {
    limited(async {
        // Accepted by the kernel, and nobody reads.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let authority = Identity::new(&[]).authority;
        let running = Running::new(vec![fake::server("one", port, authority)]);
        let error = running.upstream.open_tcp(&target()).await.unwrap_err();
        assert_eq!(source(&error), "one did not complete the handshake in time");
    })
    .await;
}

#[tokio::test]
async fn a_probe_opens_a_connection_beside_the_old_one() {
    limited(async {
        let proxy = echo_on(0, &Identity::new(&["h2"])).await;
        let running = Running::new(vec![proxy.server("one")]);
        running.connected().await;
        let mut tunnel = running.upstream.open_tcp(&target()).await.unwrap();
        running.upstream.probe();
        tunnel.write_all(b"still").await.unwrap();
        tunnel.read_exact(&mut [0; 5]).await.unwrap();
        running.upstream.open_tcp(&target()).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_probe_leaves_a_connection_that_does_not_answer() {
    limited(async {
        let freeze = Arc::new(Notify::new());
        let frozen = freeze.clone();
        let proxy = Proxy::new(&Identity::new(&["h2"]), move |stream, number| {
            let frozen = frozen.clone();
            async move {
                if number > 0 {
                    return fake::http2(stream, &builder(), fake::echo).await;
                }
                let mut connection = builder().handshake(stream).await.unwrap();
                let mut requests = JoinSet::new();
                let serve = async {
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        requests.spawn(fake::echo(request, respond));
                    }
                };
                tokio::select! {
                    () = serve => {}
                    () = frozen.notified() => std::future::pending().await,
                }
            }
        })
        .await;
        let running = Running::new(vec![proxy.server("one")]);
        let mut old = running.upstream.open_tcp(&target()).await.unwrap();
        freeze.notify_one();
        running.upstream.probe();
        let began = Instant::now();
        let mut tunnel = running.upstream.open_tcp(&target()).await.unwrap();
        tunnel.write_all(b"new").await.unwrap();
        tunnel.read_exact(&mut [0; 3]).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(1));
        let error = old.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert!(began.elapsed() < Duration::from_secs(15));
        let state = running.upstream.state().borrow().clone();
        assert!(matches!(state, State::Connected { .. }), "{state:?}");
    })
    .await;
}
