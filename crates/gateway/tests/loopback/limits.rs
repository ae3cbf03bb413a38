use http::{Method, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::http2::{read_to_end, send_all};
use crate::lab::{LIMIT, Lab, read_head};

fn connect(target: impl std::fmt::Display) -> String {
    format!("CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n")
}

#[tokio::test]
async fn a_flow_over_the_limit_is_refused_and_the_others_go_on() {
    let mut lab = Lab::with(|config, _| config.flows = 1).await;
    let echo = lab.echo().await;
    let (mut first, answer) = lab.http1(&connect(echo)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (_, answer) = lab.http1(&connect(echo)).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    first.shutdown().await.unwrap();
    let mut back = String::new();
    first.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "total 0");
}

#[tokio::test]
async fn a_connection_over_the_limit_is_reset() {
    let lab = Lab::with(|config, _| config.connections = 1).await;
    let _first = lab.tls("http/1.1").await;
    let mut second = TcpStream::connect(lab.address).await.unwrap();
    let error = timeout(LIMIT, second.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn an_idle_flow_is_reset() {
    let lab = Lab::with(|config, _| config.limits.idle = std::time::Duration::ZERO).await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut stream, _) = lab.http1(&connect(target.local_addr().unwrap())).await;
    let (mut accepted, _) = target.accept().await.unwrap();
    for error in [
        accepted.read_u8().await.unwrap_err(),
        stream.read_u8().await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

/// Time runs as soon as there is nothing else to do, so what follows waits for no real second.
#[tokio::test]
async fn who_says_nothing_is_dropped() {
    let lab = Lab::new().await;
    let mut silent = TcpStream::connect(lab.address).await.unwrap();
    let mut http1 = lab.tls("http/1.1").await;
    let mut http2 = lab.tls("h2").await;
    tokio::time::pause();
    let dropped = async {
        assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
        let _ = http1.read_to_end(&mut Vec::new()).await;
        let _ = http2.read_to_end(&mut Vec::new()).await;
    };
    timeout(LIMIT, dropped).await.unwrap();
}

#[tokio::test]
async fn a_target_that_does_not_answer_is_given_up() {
    let lab = Lab::new().await;
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    let short = std::time::Duration::from_millis(200);
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, short) {
        waiting.push(stream);
        assert!(waiting.len() < 10, "the backlog is never full");
    }
    let mut stream = lab.tls("http/1.1").await;
    stream.write_all(connect(address).as_bytes()).await.unwrap();
    tokio::time::pause();
    let answer = timeout(LIMIT, read_head(&mut stream))
        .await
        .unwrap()
        .to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 504"), "{answer}");
    assert!(answer.contains("error=connection_timeout\r\n"), "{answer}");
}

#[tokio::test]
async fn an_idle_association_ends() {
    let lab = Lab::new().await;
    let target = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let head = format!(
        "GET /.well-known/masque/udp/127.0.0.1/{}/ HTTP/1.1\r\nHost: gateway\r\n\
         Connection: Upgrade\r\nUpgrade: connect-udp\r\n\r\n",
        target.local_addr().unwrap().port()
    );
    let (mut stream, _) = lab.http1(&head).await;
    tokio::time::pause();
    let ended = timeout(LIMIT * 10, stream.read_u8()).await.unwrap();
    assert_eq!(
        ended.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn a_stop_sends_goaway_and_drains() {
    let mut lab = Lab::new().await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = target.local_addr().unwrap().to_string();
    let mut client = lab.http2().await;
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(authority)
        .body(())
        .unwrap();
    let (response, mut send) = client.send_request(request.clone(), false).unwrap();
    let mut body = response.await.unwrap().into_body();
    let (mut accepted, _) = target.accept().await.unwrap();
    lab.stop.cancel();
    let refused = async {
        loop {
            // A connection that is going away takes no new flow.
            match client.clone().ready().await {
                Err(_) => return,
                Ok(_) => tokio::task::yield_now().await,
            }
        }
    };
    timeout(LIMIT, refused).await.unwrap();
    send.send_data("still here".into(), true).unwrap();
    let mut text = String::new();
    accepted.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "still here");
    drop(accepted);
    assert_eq!(read_to_end(&mut body).await.unwrap(), b"");
    let served = lab.stopped().await;
    assert_eq!(
        (served.accepted, served.panicked, served.aborted),
        (1, 0, 0)
    );
}

#[tokio::test]
async fn lookups_are_forwarded_over_both_versions() {
    let resolver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = resolver.local_addr().unwrap();
    let mut lab = Lab::with(|config, _| config.resolver = Some(address)).await;
    lab.background(async move {
        let mut message = [0; 512];
        while let Ok((size, client)) = resolver.recv_from(&mut message).await {
            message[2] |= 0x80;
            resolver.send_to(&message[..size], client).await.unwrap();
        }
    });
    let query = b"\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x0f\x00\x01";
    let mut expected = query.to_vec();
    expected[2] |= 0x80;

    let mut stream = lab.tls("http/1.1").await;
    let head = format!(
        "POST /dns-query HTTP/1.1\r\nHost: x\r\nContent-Type: application/dns-message\r\n\
         Content-Length: {}\r\n\r\n",
        query.len()
    );
    for _ in 0..2 {
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(query).await.unwrap();
        let answer = read_head(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let mut body = vec![0; expected.len()];
        stream.read_exact(&mut body).await.unwrap();
        assert_eq!(body, expected);
    }

    let mut client = lab.http2().await;
    let request = Request::post("https://gateway/dns-query")
        .header("content-type", "application/dns-message")
        .body(())
        .unwrap();
    let (response, mut send) = client.send_request(request, false).unwrap();
    send.send_data(query.as_slice().into(), true).unwrap();
    let response = timeout(LIMIT, response).await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(
        response.headers()["content-type"],
        "application/dns-message"
    );
    let body = timeout(LIMIT, response.into_body().data())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(body, expected);
}

#[tokio::test]
async fn metrics_are_served() {
    let mut lab =
        Lab::with(|config, _| config.metrics = Some("127.0.0.1:0".parse().unwrap())).await;
    let echo = lab.echo().await;
    let (mut stream, _) = lab.http1(&connect(echo)).await;
    stream.write_all(b"hello").await.unwrap();
    let mut metrics = TcpStream::connect(lab.metrics.unwrap()).await.unwrap();
    metrics
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut page = String::new();
    metrics.read_to_string(&mut page).await.unwrap();
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    assert!(
        page.contains("\nofframp_gateway_connections_total 1\n"),
        "{page}"
    );
    assert!(page.contains("\nofframp_gateway_flows_live 1\n"), "{page}");
    assert!(page.ends_with("# EOF\n"), "{page}");
    let (_, refused) = lab.http1(&connect(lab.metrics.unwrap())).await;
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
}

/// The checksum is FNV-1a: an order that is wrong or a byte that is lost changes it.
fn checksum(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

fn block(number: u64) -> Vec<u8> {
    (0..64 * 1024_u64)
        .map(|at| (at * 31 + number * 17 + (at >> 8)) as u8)
        .collect()
}

/// 100 MB in each direction at the same time.
const BLOCKS: u64 = 1600;

async fn both_ways<S>(stream: S, accepted: TcpStream)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + 'static,
{
    let expected = (0..BLOCKS).fold(0, |sum, number| checksum(sum, &block(number)));
    let mut tasks = tokio::task::JoinSet::new();
    let (near_read, near_write) = tokio::io::split(stream);
    let (far_read, far_write) = accepted.into_split();
    tasks.spawn(send(near_write));
    tasks.spawn(send(far_write));
    tasks.spawn(receive(near_read, expected));
    tasks.spawn(receive(far_read, expected));
    while let Some(ended) = timeout(LIMIT * 2, tasks.join_next()).await.unwrap() {
        ended.unwrap();
    }
}

async fn send(mut to: impl tokio::io::AsyncWrite + Unpin) {
    for number in 0..BLOCKS {
        to.write_all(&block(number)).await.unwrap();
    }
    to.shutdown().await.unwrap();
}

async fn receive(mut from: impl tokio::io::AsyncRead + Unpin, expected: u64) {
    let (mut sum, mut total) = (0, 0);
    let mut piece = vec![0; 64 * 1024];
    loop {
        match from.read(&mut piece).await.unwrap() {
            0 => break,
            size => {
                sum = checksum(sum, &piece[..size]);
                total += size as u64;
            }
        }
    }
    assert_eq!((total, sum), (BLOCKS * 64 * 1024, expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_megabytes_pass_each_way_over_http1() {
    let lab = Lab::new().await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (stream, _) = lab.http1(&connect(target.local_addr().unwrap())).await;
    let (accepted, _) = target.accept().await.unwrap();
    both_ways(stream, accepted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_megabytes_pass_each_way_over_http2() {
    let mut lab = Lab::new().await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = lab.http2().await;
    let authority = target.local_addr().unwrap().to_string();
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(authority)
        .body(())
        .unwrap();
    let (response, mut near_send) = client.send_request(request, false).unwrap();
    let mut body = response.await.unwrap().into_body();
    let (far_read, far_write) = target.accept().await.unwrap().0.into_split();
    let expected = (0..BLOCKS).fold(0, |sum, number| checksum(sum, &block(number)));
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(send(far_write));
    tasks.spawn(receive(far_read, expected));
    tasks.spawn(async move {
        for number in 0..BLOCKS {
            send_all(&mut near_send, block(number).into()).await;
        }
        near_send.send_data(Default::default(), true).unwrap();
    });
    tasks.spawn(async move {
        let (mut sum, mut total) = (0, 0);
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            sum = checksum(sum, &data);
            total += data.len() as u64;
        }
        assert_eq!((total, sum), (BLOCKS * 64 * 1024, expected));
    });
    while let Some(ended) = timeout(LIMIT * 2, tasks.join_next()).await.unwrap() {
        ended.unwrap();
    }
}
