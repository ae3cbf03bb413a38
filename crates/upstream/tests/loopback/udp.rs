use bytes::{Bytes, BytesMut};
use offramp_relay::capsule::{Decoder, encode_datagram};
use offramp_upstream::{OpenError, State, UdpTunnel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fake::{self, Identity, Proxy, Running, builder, target};
use crate::limited;

const PATH: &str = "/.well-known/masque/udp/origin.test/443/";

async fn exchanges(tunnel: &mut UdpTunnel) {
    for length in [0, 1, 1200, 65_000] {
        let payload = vec![length as u8; length];
        tunnel.try_send(&payload);
        assert_eq!(tunnel.recv().await.unwrap(), payload);
    }
    for number in 0..100u8 {
        tunnel.try_send(&[number]);
    }
    for number in 0..100u8 {
        assert_eq!(tunnel.recv().await.unwrap(), [number].as_slice());
    }
    assert_eq!(tunnel.dropped(), 0);
}

#[tokio::test]
async fn over_http2() {
    limited(async {
        let proxy = Proxy::new(&Identity::new(&["h2"]), |stream, _| async {
            fake::http2(stream, &builder(), |request, respond| async {
                let protocol = request.extensions().get::<h2::ext::Protocol>().unwrap();
                assert_eq!(protocol.as_str(), "connect-udp");
                assert_eq!(request.uri().path(), PATH);
                assert_eq!(request.headers()["capsule-protocol"], "?1");
                fake::echo(request, respond).await;
            })
            .await;
        })
        .await;
        let running = Running::new(vec![proxy.server("one")]);
        let mut tunnel = running.upstream.open_udp(&target()).await.unwrap();
        exchanges(&mut tunnel).await;
    })
    .await;
}

#[tokio::test]
async fn over_http1() {
    limited(async {
        let proxy = Proxy::new(&Identity::new(&[]), |mut stream, _| async move {
            let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                Upgrade: connect-udp\r\nCapsule-Protocol: ?1\r\n\r\n";
            let Some(head) = fake::answer(&mut stream, answer).await else {
                return;
            };
            assert!(
                head.starts_with(&format!("GET {PATH} HTTP/1.1\r\n")),
                "{head}"
            );
            let (mut decoder, mut buffer) = (Decoder::new(), BytesMut::new());
            while stream
                .read_buf(&mut buffer)
                .await
                .is_ok_and(|count| count > 0)
            {
                decoder.push(buffer.split().freeze());
                while let Some(payload) = decoder.next().unwrap() {
                    let mut out = BytesMut::new();
                    encode_datagram(&payload, &mut out);
                    stream.write_all(&out).await.unwrap();
                }
                stream.flush().await.unwrap();
            }
        })
        .await;
        let running = Running::new(vec![proxy.server("one")]);
        let mut tunnel = running.upstream.open_udp(&target()).await.unwrap();
        exchanges(&mut tunnel).await;
    })
    .await;
}

/// The state once a server has shown that it does not carry UDP.
async fn unsupported(proxy: Proxy) {
    let running = Running::new(vec![proxy.server("one")]);
    let refused = running.upstream.open_udp(&target()).await.unwrap_err();
    assert!(
        matches!(refused, OpenError::UdpUnsupported { .. }),
        "{refused:?}"
    );
    running
        .until(|state| matches!(state, State::Connected { udp: false, .. }))
        .await;
    let refused = running.upstream.open_udp(&target()).await.unwrap_err();
    assert!(
        matches!(refused, OpenError::UdpUnsupported { .. }),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_server_without_the_setting_cannot() {
    limited(async {
        let proxy = Proxy::new(&Identity::new(&["h2"]), |stream, _| async {
            fake::http2(stream, &h2::server::Builder::new(), fake::echo).await;
        })
        .await;
        unsupported(proxy).await;
    })
    .await;
}

#[tokio::test]
async fn a_server_that_does_not_know_the_request_cannot() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"[..],
        b"HTTP/1.1 404 Not Found\r\n\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ] {
        limited(async {
            let proxy = Proxy::new(&Identity::new(&[]), move |mut stream, _| async move {
                fake::answer(&mut stream, answer).await;
            })
            .await;
            unsupported(proxy).await;
        })
        .await;
    }
}

#[tokio::test]
async fn the_oldest_give_way_where_nothing_is_taken() {
    limited(async {
        let proxy = Proxy::new(&Identity::new(&["h2"]), |stream, _| async {
            let mut builder = builder();
            builder.initial_window_size(10_000);
            fake::http2(stream, &builder, |request, respond| async {
                // Holds the window for as long as nothing is asked of it, then takes all.
                let (mut receive, mut send) = fake::accept(request, respond);
                let mut decoder = Decoder::new();
                let mut newest = 0;
                let mut count = 0u32;
                while let Some(Ok(data)) = receive.data().await {
                    if count == 0 {
                        let mut ready = BytesMut::new();
                        encode_datagram(b"first", &mut ready);
                        fake::write(&mut send, ready.freeze()).await;
                    }
                    receive.flow_control().release_capacity(data.len()).unwrap();
                    decoder.push(data);
                    while let Some(payload) = decoder.next().unwrap() {
                        count += 1;
                        newest = payload[0];
                        if newest == 255 {
                            let mut last = BytesMut::new();
                            encode_datagram(&count.to_be_bytes(), &mut last);
                            fake::write(&mut send, Bytes::from(last)).await;
                        }
                    }
                }
                assert_eq!(newest, 255);
            })
            .await;
        })
        .await;
        let running = Running::new(vec![proxy.server("one")]);
        let mut tunnel = running.upstream.open_udp(&target()).await.unwrap();
        // No await in between: the window stays as it is.
        for _ in 0..2000 {
            tunnel.try_send(&[1; 1000]);
        }
        tunnel.try_send(&[255; 1000]);
        assert!(tunnel.dropped() > 1000, "{}", tunnel.dropped());
        assert_eq!(tunnel.recv().await.unwrap(), "first");
        let arrived = tunnel.recv().await.unwrap();
        let arrived = u32::from_be_bytes(arrived[..].try_into().unwrap());
        assert_eq!(u64::from(arrived), 2001 - tunnel.dropped());
    })
    .await;
}
