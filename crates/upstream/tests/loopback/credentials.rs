use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};
use offramp_upstream::{Authorization, OpenError, Secret, Server, State};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::fake::{self, Identity, Proxy, Running, Stream, builder, target};
use crate::limited;

const WRONG: &str =
    "one does not accept the credentials (status 407): check the user name and the password";

/// What a server says to everybody, 200 for an echo, and how often it was asked.
#[derive(Default)]
struct Door {
    status: AtomicU16,
    asked: AtomicUsize,
    /// The part of that that was for a name that never resolves.
    proofs: AtomicUsize,
}

impl Door {
    fn new(status: u16) -> Arc<Self> {
        let door = Self::default();
        door.set(status);
        Arc::new(door)
    }

    fn set(&self, status: u16) {
        self.status.store(status, Ordering::Release);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Acquire)
    }

    fn answer(&self, target: &str) -> u16 {
        self.asked.fetch_add(1, Ordering::AcqRel);
        if target.contains("offramp.invalid") {
            self.proofs.fetch_add(1, Ordering::AcqRel);
        }
        self.status.load(Ordering::Acquire)
    }

    async fn http1(self: Arc<Self>, mut stream: Stream) {
        let Some(head) = fake::head(&mut stream).await else {
            return;
        };
        let answer = format!("HTTP/1.1 {} X\r\n\r\n", self.answer(&head));
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.flush().await;
        if answer.contains("200") {
            let (mut read, mut write) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
    }

    async fn request(
        self: Arc<Self>,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) {
        let status = self.answer(&request.uri().to_string());
        if status == 200 {
            return fake::echo(request, respond).await;
        }
        let answer = Response::builder().status(status).body(()).unwrap();
        let _ = respond.send_response(answer, true);
    }

    async fn proxy(self: &Arc<Self>, alpn: &str, streams: u32) -> Proxy {
        let door = self.clone();
        let h2 = alpn == "h2";
        Proxy::new(&Identity::new(&[alpn]), move |stream, _| {
            let door = door.clone();
            async move {
                if !h2 {
                    return door.http1(stream).await;
                }
                let mut builder = builder();
                builder.max_concurrent_streams(streams);
                let serve = |request, respond| door.clone().request(request, respond);
                fake::http2(stream, &builder, serve).await;
            }
        })
        .await
    }
}

fn with_password(proxy: &Proxy) -> Server {
    let mut server = proxy.server("one");
    server.authorization = Some(Authorization::Password {
        user: "user".into(),
        password: Secret::new("secret"),
    });
    server
}

async fn disconnected(running: &Running) -> String {
    match running
        .until(|state| matches!(state, State::Disconnected { .. }))
        .await
    {
        State::Disconnected { reason } => reason,
        other => panic!("{other:?}"),
    }
}

async fn refused_at_once(running: &Running) {
    let began = Instant::now();
    let error = running.upstream.open_tcp(&target()).await.unwrap_err();
    assert!(matches!(error, OpenError::Unauthorized { .. }), "{error:?}");
    assert_eq!(error.to_string(), WRONG);
    assert!(began.elapsed() < Duration::from_millis(300));
}

#[tokio::test]
async fn wrong_ones_are_told_without_a_flow_and_heal() {
    for alpn in ["h2", "http/1.1"] {
        limited(async {
            let door = Door::new(407);
            let proxy = door.proxy(alpn, 100).await;
            let running = Running::new(vec![with_password(&proxy)]);
            assert_eq!(disconnected(&running).await, WRONG);
            for _ in 0..20 {
                refused_at_once(&running).await;
            }
            assert_eq!(door.asked(), 1, "apps must not get the machine locked out");
            door.set(200);
            running.connected().await;
            running.upstream.open_tcp(&target()).await.unwrap();
            running.stop().await;
        })
        .await;
    }
}

#[tokio::test]
async fn ones_that_become_wrong_are_told_at_once_and_running_flows_go_on() {
    for alpn in ["h2", "http/1.1"] {
        limited(async {
            let door = Door::new(200);
            let proxy = door.proxy(alpn, 100).await;
            let running = Running::new(vec![with_password(&proxy)]);
            let mut tunnel = running.upstream.open_tcp(&target()).await.unwrap();
            door.set(407);
            refused_at_once(&running).await;
            let state = running
                .until(|state| !matches!(state, State::Connected { .. }))
                .await;
            let reason = WRONG.to_owned();
            assert_eq!(state, State::Disconnected { reason });
            let asked = door.asked();
            refused_at_once(&running).await;
            assert_eq!(door.asked(), asked);
            tunnel.write_all(b"still").await.unwrap();
            tunnel.read_exact(&mut [0; 5]).await.unwrap();
        })
        .await;
    }
}

#[tokio::test]
async fn the_next_server_is_used_meanwhile() {
    limited(async {
        let (first, second) = (Door::new(401), Door::new(200));
        let (one, two) = (
            first.proxy("h2", 100).await,
            second.proxy("http/1.1", 1).await,
        );
        let running = Running::new(vec![with_password(&one), two.server("two")]);
        for _ in 0..5 {
            let tunnel = running.upstream.open_tcp(&target()).await.unwrap();
            assert_eq!(tunnel.server(), "two");
        }
        assert_eq!(first.asked(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_server_that_wants_some_where_there_are_none_is_down() {
    limited(async {
        let door = Door::new(407);
        let proxy = door.proxy("h2", 100).await;
        let running = Running::new(vec![proxy.server("one")]);
        running.connected().await;
        running.upstream.open_tcp(&target()).await.unwrap_err();
        let expected =
            "one does not accept the credentials (status 407): the profile has none for it";
        assert_eq!(disconnected(&running).await, expected);
    })
    .await;
}

#[tokio::test]
async fn a_lock_out_is_no_yes() {
    limited(async {
        let door = Door::new(429);
        let proxy = door.proxy("h2", 100).await;
        let running = Running::new(vec![with_password(&proxy)]);
        let expected = "one takes no credentials for a while (status 429): \
                        too many wrong ones were sent";
        assert_eq!(disconnected(&running).await, expected);
        assert_eq!(door.asked(), 1);
    })
    .await;
}

#[tokio::test]
async fn any_other_answer_is_a_yes() {
    for alpn in ["h2", "http/1.1"] {
        for status in [200, 400, 403, 404, 502, 503, 504] {
            limited(async {
                let door = Door::new(status);
                let proxy = door.proxy(alpn, 100).await;
                let running = Running::new(vec![with_password(&proxy)]);
                running.connected().await;
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_lookup_that_is_not_allowed_leaves_the_server_up() {
    limited(async {
        let door = Door::new(200);
        let proxy = door.proxy("h2", 100).await;
        let running = Running::new(vec![with_password(&proxy)]);
        running.connected().await;
        door.set(401);
        let query = Bytes::from_static(b"question");
        running.upstream.resolve(query).await.unwrap_err();
        door.set(200);
        running.upstream.open_tcp(&target()).await.unwrap();
        assert_eq!(door.proofs.load(Ordering::Acquire), 1);
    })
    .await;
}

#[tokio::test]
async fn they_are_asked_for_once_while_the_server_is_up() {
    for (alpn, streams) in [("h2", 10), ("http/1.1", 1)] {
        limited(async {
            let door = Door::new(200);
            let proxy = door.proxy(alpn, streams).await;
            let running = Running::new(vec![with_password(&proxy)]);
            let mut flows = JoinSet::new();
            for _ in 0..60 {
                let upstream = running.upstream.clone();
                flows.spawn(async move { upstream.open_tcp(&target()).await.unwrap() });
            }
            drop(flows.join_all().await);
            assert_eq!(door.proofs.load(Ordering::Acquire), 1);
            assert_eq!(door.asked(), 61);
        })
        .await;
    }
}
