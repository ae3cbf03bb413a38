use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::lab::{Lab, users};

/// Serves `body` to every GET over plain HTTP, and the length of the body to every PUT.
async fn origin(lab: &mut Lab) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    lab.background(async move {
        let mut flows = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            flows.spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let answer =
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            });
        }
    });
    address
}

async fn curl(lab: &Lab, arguments: &[&str]) -> (String, String, i32) {
    let output = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--verbose",
            "--max-time",
            "30",
            "--proxytunnel",
        ])
        .arg("--proxy-cacert")
        .arg(lab.papers.path("ca.pem"))
        .arg("--proxy")
        .arg(format!("https://localhost:{}", lab.address.port()))
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .await
        .expect("the test needs curl");
    (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
        output.status.code().unwrap(),
    )
}

#[tokio::test]
async fn curl_passes() {
    let mut lab = Lab::new().await;
    let url = format!("http://{}/", origin(&mut lab).await);
    let (out, log, code) = curl(&lab, &[&url]).await;
    assert_eq!((out.as_str(), code), ("hello", 0), "{log}");
}

#[tokio::test]
async fn curl_passes_by_name() {
    let mut lab = Lab::with(|config, _| config.allow.push("::1/128".parse().unwrap())).await;
    let url = format!("http://localhost:{}/", origin(&mut lab).await.port());
    let (out, log, code) = curl(&lab, &[&url]).await;
    assert_eq!((out.as_str(), code), ("hello", 0), "{log}");
}

#[tokio::test]
async fn curl_needs_the_right_password() {
    let mut lab = Lab::with(|config, papers| {
        std::fs::write(papers.path("users"), users()).unwrap();
        config.users = Some(papers.path("users"));
    })
    .await;
    let url = format!("http://{}/", origin(&mut lab).await);
    let (out, log, code) = curl(&lab, &["--proxy-user", "a:secret", &url]).await;
    assert_eq!((out.as_str(), code), ("hello", 0), "{log}");
    let (out, log, code) = curl(&lab, &["--proxy-user", "a:wrong", &url]).await;
    assert_eq!((out.as_str(), code), ("", 56), "{log}");
    assert!(log.contains("HTTP/1.1 407"), "{log}");
    let bearer = "Proxy-Authorization: Bearer token-of-b";
    let (out, log, code) = curl(&lab, &["--proxy-header", bearer, &url]).await;
    assert_eq!((out.as_str(), code), ("hello", 0), "{log}");
}

#[tokio::test]
async fn curl_needs_a_certificate_where_one_is_wanted() {
    let mut lab = Lab::with(|config, papers| config.client_ca = Some(papers.path("ca.pem"))).await;
    let url = format!("http://{}/", origin(&mut lab).await);
    let (_, log, code) = curl(&lab, &[&url]).await;
    assert_ne!(code, 0, "{log}");
    let certificate = lab.papers.path("client.pem");
    let key = lab.papers.path("client.key");
    let (out, log, code) = curl(
        &lab,
        &[
            "--proxy-cert",
            certificate.to_str().unwrap(),
            "--proxy-key",
            key.to_str().unwrap(),
            &url,
        ],
    )
    .await;
    assert_eq!((out.as_str(), code), ("hello", 0), "{log}");
}

#[tokio::test]
async fn curl_is_told_why_a_private_target_is_refused() {
    let lab = Lab::new().await;
    let (_, log, code) = curl(&lab, &["http://192.168.1.1/"]).await;
    assert_ne!(code, 0);
    assert!(log.contains("HTTP/1.1 403"), "{log}");
    assert!(log.contains("error=destination_ip_prohibited"), "{log}");
}
