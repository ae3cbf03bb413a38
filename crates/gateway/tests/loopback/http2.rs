use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::lab::{LIMIT, Lab, users};

/// After this long without a window the target counts as stalled.
const STALLED: Duration = Duration::from_secs(1);
/// More small frames than the default budget of h2 has for the gateway's windows.
const KEYSTROKES: usize = 300_000;

type Tunnel = (Response<()>, SendStream<Bytes>, RecvStream);

async fn connect(client: &mut SendRequest<Bytes>, target: impl std::fmt::Display) -> Tunnel {
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(target.to_string());
    send(client, request.body(()).unwrap()).await
}

async fn send(client: &mut SendRequest<Bytes>, request: Request<()>) -> Tunnel {
    let (response, send) = client.send_request(request, false).unwrap();
    let (head, body) = timeout(LIMIT, response)
        .await
        .unwrap()
        .unwrap()
        .into_parts();
    (Response::from_parts(head, ()), send, body)
}

pub(crate) async fn read_to_end(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut whole = Vec::new();
    while let Some(data) = timeout(LIMIT, body.data()).await.unwrap() {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        whole.extend_from_slice(&data);
    }
    Ok(whole)
}

/// Sends as the window allows.
pub(crate) async fn send_all(send: &mut SendStream<Bytes>, mut bytes: Bytes) {
    while !bytes.is_empty() {
        send.reserve_capacity(bytes.len());
        let granted = timeout(LIMIT, poll_fn(|cx| send.poll_capacity(cx)))
            .await
            .unwrap();
        let size = granted.unwrap().unwrap().min(bytes.len());
        send.send_data(bytes.split_to(size), false).unwrap();
    }
}

#[tokio::test]
async fn many_flows_share_a_connection_and_halves_close() {
    let mut lab = Lab::new().await;
    let echo = lab.echo().await;
    let mut client = lab.http2().await;
    let mut tunnels = Vec::new();
    for _ in 0..50 {
        tunnels.push(connect(&mut client, echo).await);
    }
    for (number, (response, send, body)) in tunnels.iter_mut().enumerate() {
        assert_eq!(response.status(), 200);
        let text = format!("flow {number:02}");
        send.send_data(text.clone().into(), false).unwrap();
        send.send_data(Bytes::new(), true).unwrap();
        let back = String::from_utf8(read_to_end(body).await.unwrap()).unwrap();
        assert_eq!(back, text + "total 7");
    }
}

#[tokio::test]
async fn the_target_may_end_first() {
    let mut lab = Lab::new().await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = lab.http2().await;
    let (_, mut send, mut body) = connect(&mut client, target.local_addr().unwrap()).await;
    let (mut accepted, _) = target.accept().await.unwrap();
    accepted.write_all(b"bye").await.unwrap();
    accepted.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut body).await.unwrap(), b"bye");
    send.send_data("last words".into(), true).unwrap();
    let mut text = String::new();
    accepted.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "last words");
}

#[tokio::test]
async fn data_before_the_answer_reaches_the_target() {
    let mut lab = Lab::new().await;
    let echo = lab.echo().await;
    let mut client = lab.http2().await;
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(echo.to_string());
    let (response, mut send) = client
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    send.send_data("early".into(), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(read_to_end(&mut body).await.unwrap(), b"earlytotal 5");
}

#[tokio::test]
async fn resets_pass_both_ways() {
    let mut lab = Lab::new().await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = target.local_addr().unwrap();
    let mut client = lab.http2().await;
    let (_, _send, mut body) = connect(&mut client, address).await;
    let (mut accepted, _) = target.accept().await.unwrap();
    accepted.write_all(b"half of it").await.unwrap();
    timeout(LIMIT, body.data()).await.unwrap().unwrap().unwrap();
    offramp_relay::reset(accepted);
    let error = read_to_end(&mut body).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::CONNECT_ERROR));

    for reason in [Reason::CANCEL, Reason::NO_ERROR] {
        let (_, mut send, _body) = connect(&mut client, address).await;
        let (mut accepted, _) = target.accept().await.unwrap();
        send.send_reset(reason);
        let error = timeout(LIMIT, accepted.read_u8())
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn a_lost_connection_resets_all_its_targets() {
    let lab = Lab::new().await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = target.local_addr().unwrap();
    let stream = lab.tls("h2").await;
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let mut driver = tokio::task::JoinSet::new();
    driver.spawn(async move { drop(connection.await) });
    let mut client = client.ready().await.unwrap();
    let mut tunnels = Vec::new();
    let mut accepted = Vec::new();
    for _ in 0..3 {
        tunnels.push(connect(&mut client, address).await);
        accepted.push(target.accept().await.unwrap().0);
    }
    driver.shutdown().await;
    for mut accepted in accepted {
        let error = timeout(LIMIT, accepted.read_u8())
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn refusals_leave_the_connection_alone() {
    let mut lab = Lab::with(|config, papers| {
        std::fs::write(papers.path("users"), users()).unwrap();
        config.users = Some(papers.path("users"));
    })
    .await;
    let echo = lab.echo().await;
    let mut client = lab.http2().await;
    let (response, ..) = connect(&mut client, echo).await;
    assert_eq!(response.status(), 407);
    assert_eq!(
        response
            .headers()
            .get_all("proxy-authenticate")
            .iter()
            .count(),
        2
    );
    let mut ask = async |target: SocketAddr| {
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(target.to_string())
            .header("proxy-authorization", "Bearer token-of-b");
        send(&mut client, request.body(()).unwrap()).await.0
    };
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let refused = ask(closed).await;
    assert_eq!(refused.status(), 502);
    let proxy_status = &refused.headers()["proxy-status"];
    assert_eq!(proxy_status, "offramp-gateway; error=connection_refused");
    assert_eq!(ask("10.0.0.1:80".parse().unwrap()).await.status(), 403);
    assert_eq!(ask(echo).await.status(), 200);
}

#[tokio::test]
async fn a_stalled_target_stops_only_its_own_flow() {
    let mut lab = Lab::new().await;
    let echo = lab.echo().await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = lab.http2().await;
    let (_, mut stalled, _body) = connect(&mut client, target.local_addr().unwrap()).await;
    let (mut accepted, _) = target.accept().await.unwrap();
    fill(&mut stalled).await;
    // Let the window open again, but not so far that the gateway has read all.
    let mut some = vec![0; 3 << 20];
    timeout(LIMIT, accepted.read_exact(&mut some))
        .await
        .unwrap()
        .unwrap();
    for _ in 0..KEYSTROKES {
        send_all(&mut stalled, Bytes::from_static(b"x")).await;
    }
    let (response, mut send, mut body) = connect(&mut client, echo).await;
    assert_eq!(response.status(), 200);
    send.send_data("alive".into(), true).unwrap();
    assert_eq!(read_to_end(&mut body).await.unwrap(), b"alivetotal 5");
    stalled.send_data("end".into(), true).unwrap();
    let mut rest = Vec::new();
    timeout(LIMIT, accepted.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    assert!(rest.ends_with(b"xxend"));
}

#[tokio::test]
async fn a_reset_passes_a_target_that_takes_nothing() {
    let mut lab = Lab::new().await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = lab.http2().await;
    let (_, mut stalled, _body) = connect(&mut client, target.local_addr().unwrap()).await;
    let (mut accepted, _) = target.accept().await.unwrap();
    fill(&mut stalled).await;
    stalled.send_reset(Reason::CANCEL);
    let mut rest = Vec::new();
    let read = timeout(LIMIT, accepted.read_to_end(&mut rest))
        .await
        .unwrap();
    assert_eq!(
        read.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
}

/// Fills all that the kernel and the window hold for a target that does not read.
async fn fill(stalled: &mut SendStream<Bytes>) {
    let block = Bytes::from(vec![0; 16 * 1024]);
    for _ in 0..4096 {
        stalled.reserve_capacity(block.len());
        let granted = poll_fn(|cx| stalled.poll_capacity(cx));
        let Ok(granted) = timeout(STALLED, granted).await else {
            return;
        };
        let size = granted.unwrap().unwrap().min(block.len());
        stalled.send_data(block.slice(..size), false).unwrap();
    }
    panic!("the target never stalls");
}
