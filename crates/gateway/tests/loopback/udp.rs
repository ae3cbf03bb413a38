use bytes::{Bytes, BytesMut};
use h2::ext::Protocol;
use http::{Method, Request};
use offramp_relay::capsule::{Decoder, encode_datagram};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::http2::read_to_end;
use crate::lab::{LIMIT, Lab};

fn sizes() -> Vec<usize> {
    vec![0, 1, 1200, 1500, 9000, 65_507]
}

fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|byte| (byte * 7) as u8).collect()
}

fn encoded(size: usize) -> BytesMut {
    let mut out = BytesMut::new();
    encode_datagram(&payload(size), &mut out);
    out
}

#[tokio::test]
async fn datagrams_pass_over_http2() {
    let mut lab = Lab::new().await;
    let echo = lab.udp_echo().await;
    let mut client = lab.http2().await;
    let path = format!(
        "https://gateway/.well-known/masque/udp/{}/{}/",
        echo.ip(),
        echo.port()
    );
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(path)
        .body(())
        .unwrap();
    request
        .extensions_mut()
        .insert(Protocol::from_static("connect-udp"));
    let (response, mut send) = client.send_request(request, false).unwrap();
    let response = timeout(LIMIT, response).await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["capsule-protocol"], "?1");
    let mut body = response.into_body();
    let mut decoder = Decoder::new();
    for size in sizes() {
        // An unknown capsule before each, and the datagram in two frames.
        send.send_data(Bytes::from_static(b"\x17\x03abc"), false)
            .unwrap();
        let mut rest = encoded(size).freeze();
        let first = rest.split_to(2);
        send.send_data(first, false).unwrap();
        send.send_data(rest, false).unwrap();
        let back = loop {
            if let Some(back) = decoder.next().unwrap() {
                break back;
            }
            let data = timeout(LIMIT, body.data()).await.unwrap().unwrap().unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            decoder.push(data);
        };
        assert_eq!(back, payload(size));
    }
    send.send_data(Bytes::new(), true).unwrap();
    assert_eq!(read_to_end(&mut body).await.unwrap(), b"");
}

#[tokio::test]
async fn datagrams_pass_over_http1() {
    let mut lab = Lab::new().await;
    let echo = lab.udp_echo().await;
    let head = format!(
        "GET /.well-known/masque/udp/{}/{}/ HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\n\
         Upgrade: connect-udp\r\nCapsule-Protocol: ?1\r\n\r\n",
        echo.ip(),
        echo.port()
    );
    let (mut stream, answer) = lab.http1(&head).await;
    let answer = answer.to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    assert!(answer.contains("upgrade: connect-udp\r\n"), "{answer}");
    assert!(answer.contains("capsule-protocol: ?1\r\n"), "{answer}");
    let mut decoder = Decoder::new();
    for size in sizes() {
        stream.write_all(&encoded(size)).await.unwrap();
        let back = loop {
            if let Some(back) = decoder.next().unwrap() {
                break back;
            }
            let mut piece = BytesMut::with_capacity(16 * 1024);
            assert_ne!(
                timeout(LIMIT, stream.read_buf(&mut piece))
                    .await
                    .unwrap()
                    .unwrap(),
                0
            );
            decoder.push(piece.freeze());
        };
        assert_eq!(back, payload(size));
    }
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0);
}

#[tokio::test]
async fn only_the_target_may_answer() {
    let lab = Lab::new().await;
    let target = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let head = format!(
        "GET /.well-known/masque/udp/127.0.0.1/{}/ HTTP/1.1\r\nHost: gateway\r\n\
         Connection: Upgrade\r\nUpgrade: connect-udp\r\n\r\n",
        target.local_addr().unwrap().port()
    );
    let (mut stream, _) = lab.http1(&head).await;
    stream.write_all(&encoded(3)).await.unwrap();
    let (_, gateway) = timeout(LIMIT, target.recv_from(&mut [0; 16]))
        .await
        .unwrap()
        .unwrap();
    let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    other.send_to(b"forged", gateway).await.unwrap();
    target.send_to(b"real", gateway).await.unwrap();
    let mut back = [0; 7];
    timeout(LIMIT, stream.read_exact(&mut back))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&back, b"\x00\x05\x00real");
}
