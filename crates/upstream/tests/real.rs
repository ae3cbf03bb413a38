//! Tunnels through proxy servers that other people wrote.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use offramp_rules::{DomainName, Host, Target};
use offramp_upstream::{
    Authorization, Config, OpenError, Secret, Server, State, Timeouts, Trust, Upstream,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

#[path = "real/server.rs"]
mod server;

use server::Proxy;

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
#[ignore = "needs the packages of scripts/deps: run scripts/test"]
async fn nghttpx_before_tinyproxy() {
    // tinyproxy behind it does not keep a half-closed tunnel open.
    check(server::nghttpx(), "h2", 120, false).await;
}

#[tokio::test]
#[ignore = "needs the packages of scripts/deps: run scripts/test"]
async fn apache() {
    // Apache works on six streams of a connection at a time until some have ended.
    check(server::apache(), "h2", 5, true).await;
}

#[tokio::test]
#[ignore = "needs the packages of scripts/deps: run scripts/test"]
async fn squid() {
    check(server::squid(), "http/1.1", 40, false).await;
}

/// Everything that is asked of every server.
async fn check(proxy: Proxy, protocol: &str, flows: usize, half_close: bool) {
    tokio::time::timeout(LIMIT, async {
        let upstream = Running::new(upstream(&proxy, "pass"));
        upstream.connected(protocol).await;
        let mut origins = JoinSet::new();
        echoes(&upstream, &mut origins, flows).await;
        carries(&upstream, &mut origins, 8 << 20).await;
        if half_close {
            half_closes(&upstream, &mut origins).await;
        }
        refuses(&upstream).await;
        wrong_password(&proxy).await;
        upstream.stop().await;
    })
    .await
    .expect("within the limit");
}

async fn echoes(upstream: &Running, origins: &mut JoinSet<()>, count: usize) {
    let target = echo(origins).await;
    let mut flows = JoinSet::new();
    for number in 0..count {
        let upstream = upstream.upstream.clone();
        let target = target.clone();
        flows.spawn(async move {
            let mut tunnel = upstream.open_tcp(&target).await.unwrap();
            for round in 0..3u32 {
                let said = format!("{number} {round}");
                tunnel.write_all(said.as_bytes()).await.unwrap();
                tunnel.flush().await.unwrap();
                let mut heard = vec![0; said.len()];
                tunnel.read_exact(&mut heard).await.unwrap();
                assert_eq!(heard, said.as_bytes());
            }
            tunnel
        });
    }
    // All of them are open at once before the first one is dropped.
    let tunnels = flows.join_all().await;
    assert_eq!(tunnels.len(), count);
}

/// The origin sends and ends first: all of it arrives, and then the end. Over HTTP/2 Apache keeps
/// the end to itself until we have ended too.
async fn carries(upstream: &Running, origins: &mut JoinSet<()>, size: usize) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = Target::from(listener.local_addr().unwrap());
    origins.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut start = [0; 5];
        stream.read_exact(&mut start).await.unwrap();
        stream.write_all(&vec![7; size]).await.unwrap();
    });
    let mut tunnel = upstream.upstream.open_tcp(&target).await.unwrap();
    tunnel.write_all(b"start").await.unwrap();
    tunnel.flush().await.unwrap();
    let mut received = vec![0; size];
    tunnel.read_exact(&mut received).await.unwrap();
    assert!(received.iter().all(|byte| *byte == 7));
    tunnel.shutdown().await.unwrap();
    let end = tunnel.read(&mut [0; 16]).await;
    assert!(matches!(end, Ok(0)), "{end:?}");
}

async fn half_closes(upstream: &Running, origins: &mut JoinSet<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = Target::from(listener.local_addr().unwrap());
    origins.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        let total = all.len().to_string();
        stream.write_all(total.as_bytes()).await.unwrap();
    });
    let mut tunnel = upstream.upstream.open_tcp(&target).await.unwrap();
    tunnel.write_all(&vec![1; 300_000]).await.unwrap();
    tunnel.shutdown().await.unwrap();
    let mut answer = String::new();
    tunnel.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "300000");
}

async fn refuses(upstream: &Running) {
    let target = Target::from(SocketAddr::from((Ipv4Addr::LOCALHOST, server::free_port())));
    let refused = upstream.upstream.open_tcp(&target).await.unwrap_err();
    assert!(matches!(refused, OpenError::Refused { .. }), "{refused:?}");
    assert!(matches!(
        *upstream.upstream.state().borrow(),
        State::Connected { .. }
    ));
}

async fn wrong_password(proxy: &Proxy) {
    let upstream = Running::new(upstream(proxy, "wrong"));
    let mut state = upstream.upstream.state();
    let state = state.wait_for(|state| *state != State::Connecting).await;
    match &*state.unwrap() {
        State::Disconnected { reason } => assert!(
            reason.starts_with("proxy does not accept the credentials (status 40"),
            "{reason}"
        ),
        other => panic!("{other:?}"),
    }
    let target = Target::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 9)));
    let refused = upstream.upstream.open_tcp(&target).await.unwrap_err();
    assert!(
        matches!(refused, OpenError::Unauthorized { .. }),
        "{refused:?}"
    );
    upstream.stop().await;
}

async fn echo(origins: &mut JoinSet<()>) -> Target {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = Target::from(listener.local_addr().unwrap());
    origins.spawn(async move {
        let mut flows = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            flows.spawn(async move {
                let (mut read, mut write) = stream.into_split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    target
}

struct Running {
    upstream: Arc<Upstream>,
    stop: CancellationToken,
    task: JoinSet<()>,
}

impl Running {
    fn new(upstream: Upstream) -> Self {
        let upstream = Arc::new(upstream);
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        let (runs, token) = (upstream.clone(), stop.clone());
        task.spawn(async move { runs.run(token).await });
        Self {
            upstream,
            stop,
            task,
        }
    }

    async fn connected(&self, expected: &str) {
        let mut state = self.upstream.state();
        let state = state.wait_for(|state| *state != State::Connecting).await;
        match &*state.unwrap() {
            State::Connected { protocol, .. } => assert_eq!(*protocol, expected),
            other => panic!("{other:?}"),
        }
    }

    async fn stop(mut self) {
        self.stop.cancel();
        self.task.join_next().await.unwrap().unwrap();
    }
}

fn upstream(proxy: &Proxy, password: &str) -> Upstream {
    let server = Server {
        name: "proxy".into(),
        host: Host::Address(Ipv4Addr::LOCALHOST.into()),
        port: proxy.port,
        server_name: Some(DomainName::parse("proxy.test").unwrap()),
        trust: Trust::Anchors(proxy.authority.clone()),
        authorization: Some(Authorization::Password {
            user: "user".into(),
            password: Secret::new(password),
        }),
    };
    let servers = vec![server];
    let timeouts = Timeouts::default();
    Upstream::new(Config { servers, timeouts }).unwrap()
}
