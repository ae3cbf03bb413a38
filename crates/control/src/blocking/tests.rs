use std::os::unix::net::UnixListener;
use std::thread::{JoinHandle, spawn};

use super::*;
use crate::Code;

fn request() -> RunRequest {
    RunRequest {
        profile: Some("work".into()),
        server: None,
        program: "/bin/true".into(),
    }
}

/// A server that reads one request and answers these bytes, then closes or holds.
fn serve(answer: Vec<u8>, hold: bool) -> (tempfile::TempDir, JoinHandle<Option<UnixStream>>) {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("s")).unwrap();
    let thread = spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = Vec::new();
        let mut piece = [0; 1024];
        while !bytes.ends_with(b"}") {
            let count = stream.read(&mut piece).unwrap();
            bytes.extend_from_slice(&piece[..count]);
        }
        stream.write_all(&answer).unwrap();
        hold.then_some(stream)
    });
    (folder, thread)
}

fn ask(answer: &[u8]) -> Result<RunAnswer, ClientError> {
    let (folder, thread) = serve(answer.to_vec(), false);
    let result = run(
        &folder.path().join("s"),
        &request(),
        Duration::from_secs(20),
    );
    thread.join().unwrap();
    result
}

#[test]
fn answers_with_and_without_length_are_read() {
    let body = r#"{"profile":"work","label":7}"#;
    for head in [
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()),
        format!("HTTP/1.1 200\r\ncontent-length:{}\r\n\r\n", body.len()),
        "HTTP/1.0 200 OK\r\n\r\n".to_owned(),
    ] {
        let answer = ask((head + body).as_bytes()).unwrap();
        assert_eq!((answer.profile.as_str(), answer.label), ("work", 7));
    }
}

#[test]
fn what_is_no_answer_is_garbled() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(2 * MAX_HEAD));
    for answer in [
        "",
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 503 Gone\r\ncontent-length: 0\r\n\r\n",
        &long,
    ] {
        match ask(answer.as_bytes()) {
            Err(ClientError::Garbled(_)) => {}
            other => panic!("{answer:?}: {other:?}"),
        }
    }
}

#[test]
fn a_refusal_is_told_with_its_code() {
    let body = r#"{"error":{"code":"not_permitted","message":"no"}}"#;
    let head = format!(
        "HTTP/1.1 403 Forbidden\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let error = ask((head + body).as_bytes()).unwrap_err();
    assert_eq!(error.code(), Some(Code::NotPermitted));
    assert!(!error.is_unavailable());
}

#[test]
fn an_answer_before_the_end_of_the_question_is_heard() {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("s")).unwrap();
    let thread = spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let body = r#"{"error":{"code":"limit_reached","message":"no"}}"#;
        let head = format!(
            "HTTP/1.1 429 Busy\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + body).as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Read).unwrap();
    });
    let mut request = request();
    request.program = "x".repeat(900_000);
    let result = run(&folder.path().join("s"), &request, Duration::from_secs(20));
    thread.join().unwrap();
    assert_eq!(result.unwrap_err().code(), Some(Code::LimitReached));
}

#[test]
fn silence_ends_at_the_time_limit() {
    let (folder, thread) = serve(Vec::new(), true);
    let result = run(
        &folder.path().join("s"),
        &request(),
        Duration::from_millis(300),
    );
    assert!(
        matches!(result, Err(ClientError::TimedOut { .. })),
        "{result:?}"
    );
    drop(thread.join().unwrap());
}

#[test]
fn a_full_backlog_ends_at_the_time_limit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = listener_without_backlog(&path);
    // With a backlog of 0 the kernel takes one connection and lets the next wait.
    let _first = UnixStream::connect(&path).unwrap();
    let result = run(&path, &request(), Duration::from_millis(300));
    assert!(
        matches!(result, Err(ClientError::TimedOut { .. })),
        "{result:?}"
    );
    drop(listener);
}

fn listener_without_backlog(path: &Path) -> std::os::fd::OwnedFd {
    use nix::sys::socket::{Backlog, bind, listen};

    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    bind(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    listen(&fd, Backlog::new(0).unwrap()).unwrap();
    fd
}

#[test]
fn nobody_there_is_unreachable() {
    let result = run(
        Path::new("/nonexistent/s"),
        &request(),
        Duration::from_secs(1),
    );
    assert!(
        matches!(result, Err(ClientError::Unreachable { .. })),
        "{result:?}"
    );
    let long = "x".repeat(200);
    let result = run(Path::new(&long), &request(), Duration::from_secs(1));
    assert!(
        matches!(result, Err(ClientError::Unreachable { .. })),
        "{result:?}"
    );
}
