use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::lab::{Lab, users};

async fn status(lab: &Lab, head: &str) -> (u16, String) {
    let (_, answer) = lab.http1(head).await;
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.to_ascii_lowercase())
}

fn connect(target: impl std::fmt::Display) -> String {
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")
}

#[tokio::test]
async fn bytes_pass_and_halves_close() {
    let mut lab = Lab::new().await;
    let echo = lab.echo().await;
    let (mut stream, answer) = lab.http1(&connect(echo)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "hellototal 5");
}

#[tokio::test]
async fn the_target_may_end_first() {
    let lab = Lab::new().await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut stream, _) = lab.http1(&connect(target.local_addr().unwrap())).await;
    let (mut accepted, _) = target.accept().await.unwrap();
    accepted.write_all(b"bye").await.unwrap();
    accepted.shutdown().await.unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "bye");
    stream.write_all(b"last words").await.unwrap();
    stream.shutdown().await.unwrap();
    accepted.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "byelast words");
}

#[tokio::test]
async fn bytes_behind_the_head_reach_the_target() {
    let mut lab = Lab::new().await;
    let echo = lab.echo().await;
    let (mut stream, _) = lab.http1(&(connect(echo) + "early")).await;
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "earlytotal 5");
}

#[tokio::test]
async fn bytes_behind_a_refused_connect_are_no_request() {
    let mut lab = Lab::new().await;
    let echo = lab.echo().await;
    for refused in [
        connect("10.0.0.1:80"),
        connect("nonsense"),
        udp_upgrade("10.0.0.1", 53),
    ] {
        let smuggled = connect(echo);
        let mut stream = lab.tls("http/1.1").await;
        stream
            .write_all(format!("{refused}{smuggled}").as_bytes())
            .await
            .unwrap();
        let mut answers = Vec::new();
        let _ = stream.read_to_end(&mut answers).await;
        let answers = String::from_utf8(answers).unwrap();
        assert_eq!(answers.matches("HTTP/1.1").count(), 1, "{answers}");
        assert!(
            answers.to_ascii_lowercase().contains("connection: close"),
            "{answers}"
        );
    }
}

fn udp_upgrade(host: &str, port: u16) -> String {
    format!(
        "GET /.well-known/masque/udp/{host}/{port}/ HTTP/1.1\r\nHost: gateway\r\n\
         Connection: Upgrade\r\nUpgrade: connect-udp\r\nCapsule-Protocol: ?1\r\n\r\n"
    )
}

#[tokio::test]
async fn refusals_say_why() {
    let lab = Lab::new().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for (head, code, error) in [
        (connect("10.0.0.1:80"), 403, "destination_ip_prohibited"),
        (
            connect("169.254.169.254:80"),
            403,
            "destination_ip_prohibited",
        ),
        (
            connect("[::ffff:10.0.0.1]:80"),
            403,
            "destination_ip_prohibited",
        ),
        (connect("[::1]:80"), 403, "destination_ip_prohibited"),
        (connect(lab.address), 403, "destination_ip_prohibited"),
        (connect("127.0.0.1:25"), 403, "http_request_denied"),
        (connect(closed), 502, "connection_refused"),
        (
            udp_upgrade("10.0.0.1", 53),
            403,
            "destination_ip_prohibited",
        ),
    ] {
        let (status, answer) = status(&lab, &head).await;
        assert_eq!(status, code, "{answer}");
        let expected = format!("proxy-status: offramp-gateway; error={error}\r\n");
        assert!(answer.contains(&expected), "{answer}");
    }
    let (status, answer) = status(&lab, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(status, 404, "{answer}");
}

#[tokio::test]
async fn users_are_told_apart_and_the_file_is_followed() {
    let mut lab = Lab::with(|config, papers| {
        std::fs::write(papers.path("users"), users()).unwrap();
        config.users = Some(papers.path("users"));
    })
    .await;
    let echo = lab.echo().await;
    let with = |credentials: &str| {
        format!("CONNECT {echo} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {credentials}\r\n\r\n")
    };
    let (code, answer) = status(&lab, &connect(echo)).await;
    assert_eq!(code, 407);
    assert!(
        answer.contains("proxy-authenticate: basic realm="),
        "{answer}"
    );
    assert!(
        answer.contains("proxy-authenticate: bearer realm="),
        "{answer}"
    );
    // a:secret, twice because the second is answered from memory
    assert_eq!(status(&lab, &with("Basic YTpzZWNyZXQ=")).await.0, 200);
    assert_eq!(status(&lab, &with("basic YTpzZWNyZXQ=")).await.0, 200);
    assert_eq!(status(&lab, &with("Basic YTpzZWNyZXQ=")).await.0, 200);
    assert_eq!(status(&lab, &with("Bearer token-of-b")).await.0, 200);
    // a:wrong, c:secret, and what is no credential
    for wrong in [
        "Basic YTp3cm9uZw==",
        "Basic YzpzZWNyZXQ=",
        "Bearer x",
        "Basic ?",
        "Digest x",
    ] {
        assert_eq!(status(&lab, &with(wrong)).await.0, 407, "{wrong}");
    }
    let only_b = users().lines().nth(1).unwrap().to_owned();
    std::fs::write(lab.papers.path("users"), only_b).unwrap();
    assert_eq!(status(&lab, &with("Basic YTpzZWNyZXQ=")).await.0, 407);
    std::fs::write(lab.papers.path("users"), "broken").unwrap();
    assert_eq!(status(&lab, &with("Bearer token-of-b")).await.0, 200);
    for _ in 0..4 {
        assert_eq!(status(&lab, &with("Bearer x")).await.0, 407);
    }
    assert_eq!(status(&lab, &with("Bearer x")).await.0, 429);
    assert_eq!(status(&lab, &with("Bearer token-of-b")).await.0, 200);
}

#[tokio::test]
async fn a_reset_of_the_target_is_no_end_of_stream() {
    let lab = Lab::new().await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut stream, _) = lab.http1(&connect(target.local_addr().unwrap())).await;
    let (mut accepted, _) = target.accept().await.unwrap();
    accepted.write_all(b"half of it").await.unwrap();
    let mut some = [0; 10];
    stream.read_exact(&mut some).await.unwrap();
    offramp_relay::reset(accepted);
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_client_that_goes_without_a_word_resets_the_target() {
    let lab = Lab::new().await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for tcp_reset in [false, true] {
        let (stream, _) = lab.http1(&connect(target.local_addr().unwrap())).await;
        let (mut accepted, _) = target.accept().await.unwrap();
        let (tcp, _) = stream.into_inner();
        if tcp_reset {
            offramp_relay::reset(tcp);
        } else {
            drop(tcp);
        }
        let error = accepted.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn plain_http_is_told_so() {
    let lab = Lab::new().await;
    let mut stream = tokio::net::TcpStream::connect(lab.address).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.ends_with("HTTPS, not plain HTTP."), "{answer}");
}
