//! The program itself: its lines, its errors, its signals.

use std::process::{Output, Stdio};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::lab::{LIMIT, Papers, read_head};

const PROGRAM: &str = env!("CARGO_BIN_EXE_offramp-gateway");

fn command(papers: &Papers) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args([
            "--listen",
            "127.0.0.1:0",
            "--allow",
            "127.0.0.0/8",
            "--certificate",
        ])
        .arg(papers.path("gateway.pem"))
        .arg("--key")
        .arg(papers.path("gateway.key"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn start(command: &mut Command) -> (Child, u16, Lines<BufReader<ChildStdout>>) {
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = timeout(LIMIT, lines.next_line())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let address = line
        .strip_prefix("listening on 127.0.0.1:")
        .unwrap()
        .to_owned();
    (child, address.parse().unwrap(), lines)
}

async fn tunnel(
    papers: &Papers,
    port: u16,
    target: &TcpListener,
) -> (tokio_rustls::client::TlsStream<TcpStream>, TcpStream) {
    let target_address = target.local_addr().unwrap();
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let mut stream = papers
        .client_tls("http/1.1", false)
        .connect(name, stream)
        .await
        .unwrap();
    let head = format!("CONNECT {target_address} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200"));
    (stream, target.accept().await.unwrap().0)
}

fn signal(child: &Child, name: &str) {
    let status = std::process::Command::new("kill")
        .args([&format!("-{name}"), &child.id().unwrap().to_string()])
        .status()
        .expect("the test needs kill");
    assert!(status.success());
}

async fn output(child: Child) -> (i32, String) {
    let Output { status, stderr, .. } = timeout(LIMIT, child.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

#[tokio::test]
async fn a_stop_lets_flows_end_and_every_flow_has_one_line() {
    let papers = Papers::new();
    let (child, port, _lines) = start(&mut command(&papers)).await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut stream, mut accepted) = tunnel(&papers, port, &target).await;
    signal(&child, "TERM");
    // The port is closed once the stop is seen, and the flow goes on.
    while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
        tokio::task::yield_now().await;
    }
    stream.write_all(b"still here").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut text = String::new();
    accepted.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "still here");
    drop(accepted);
    assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    let (code, log) = output(child).await;
    assert_eq!(code, 0, "{log}");
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("flow ended"))
        .collect();
    assert_eq!(lines.len(), 1, "{log}");
    for fact in [
        "status=200",
        "end=\"closed\"",
        "bytes.sent=10",
        "bytes.received=0",
    ] {
        assert!(lines[0].contains(fact), "{fact}: {log}");
    }
}

#[tokio::test]
async fn a_drain_has_an_end_and_resets_what_is_left() {
    let papers = Papers::new();
    let (child, port, _lines) = start(command(&papers).args(["--drain", "0"])).await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut stream, mut accepted) = tunnel(&papers, port, &target).await;
    signal(&child, "TERM");
    for error in [
        accepted.read_u8().await.unwrap_err(),
        stream.read_u8().await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    let (code, log) = output(child).await;
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("end=\"stopped\""), "{log}");
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let papers = Papers::new();
    let (child, port, _lines) = start(command(&papers).args(["--drain", "3600"])).await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _tunnel = tunnel(&papers, port, &target).await;
    signal(&child, "TERM");
    while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
        tokio::task::yield_now().await;
    }
    signal(&child, "INT");
    let (code, log) = output(child).await;
    assert_eq!(code, 1, "{log}");
    assert!(log.contains("second signal"), "{log}");
}

#[tokio::test]
async fn a_hangup_reads_the_certificate_again() {
    let papers = Papers::new();
    let (child, port, _lines) = start(&mut command(&papers)).await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = Papers::new();
    for file in ["gateway.pem", "gateway.key"] {
        std::fs::copy(other.path(file), papers.path(file)).unwrap();
    }
    signal(&child, "HUP");
    let connector = other.client_tls("http/1.1", false);
    let reloaded = async {
        loop {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            if connector
                .connect("localhost".try_into().unwrap(), stream)
                .await
                .is_ok()
            {
                return;
            }
        }
    };
    timeout(LIMIT, reloaded).await.unwrap();
    tunnel(&other, port, &target).await;
}

#[tokio::test]
async fn wrong_calls_say_what_and_where() {
    let papers = Papers::new();
    std::fs::write(papers.path("users"), "a:plain\n").unwrap();
    std::fs::write(papers.path("empty"), "").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .into_std()
        .unwrap();
    let taken = taken
        .local_addr()
        .map(|address| (taken, address.to_string()))
        .unwrap();
    let file = |name: &str| papers.path(name).to_str().unwrap().to_owned();
    for (flag, value, expected) in [
        ("--users", file("missing"), "cannot read the users file"),
        (
            "--users",
            file("users"),
            "is wrong in line 1: behind the name comes $argon2id$",
        ),
        ("--users", file("empty"), "names no user"),
        (
            "--certificate",
            file("missing"),
            "cannot read a certificate from",
        ),
        (
            "--certificate",
            file("gateway.key"),
            "cannot read a certificate from",
        ),
        ("--key", file("missing"), "cannot read a private key from"),
        ("--key", file("client.key"), "do not work together"),
        (
            "--client-ca",
            file("empty"),
            "cannot read CA certificates from",
        ),
        ("--listen", taken.1.clone(), "cannot listen on 127.0.0.1:"),
        ("--metrics", taken.1.clone(), "cannot listen on 127.0.0.1:"),
    ] {
        let mut flags = vec![
            ("--listen", "127.0.0.1:0".to_owned()),
            ("--certificate", file("gateway.pem")),
            ("--key", file("gateway.key")),
        ];
        flags.retain(|(name, _)| *name != flag);
        flags.push((flag, value));
        let child = Command::new(PROGRAM)
            .args(
                flags
                    .iter()
                    .flat_map(|(flag, value)| [flag.to_string(), value.clone()]),
            )
            .env("RUST_LOG", "error")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (code, log) = output(child).await;
        assert_eq!(code, 1, "{flag}: {log}");
        assert_eq!(log.lines().count(), 1, "{flag}: {log}");
        assert!(log.contains(expected), "{flag}: {log}");
    }
}

#[tokio::test]
async fn a_hash_fits_the_users_file() {
    let mut child = Command::new(PROGRAM)
        .arg("hash")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"secret\n")
        .await
        .unwrap();
    let output = timeout(LIMIT, child.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    let hash = String::from_utf8(output.stdout).unwrap();
    assert!(
        hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
        "{hash}"
    );
    let parsed = argon2::PasswordHash::new(hash.trim_end()).unwrap();
    use argon2::PasswordVerifier;
    assert!(
        argon2::Argon2::default()
            .verify_password(b"secret", &parsed)
            .is_ok()
    );
}
