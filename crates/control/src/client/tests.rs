use std::convert::Infallible;

use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use super::*;
use crate::Code;

/// A server that answers `status` and `body` to everything, or nothing at all.
fn serve(answer: Option<(u16, String)>) -> (tempfile::TempDir, Client, JoinSet<()>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service_fn(|_: Request<Incoming>| {
            let answer = answer.clone();
            async move {
                let Some((status, body)) = answer else {
                    return std::future::pending().await;
                };
                let response = Response::builder()
                    .status(status)
                    .body(Full::<Bytes>::from(body));
                Ok::<_, Infallible>(response.unwrap())
            }
        });
        let _ = server::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
    });
    (folder, Client::new(path), tasks)
}

#[tokio::test]
async fn a_refusal_is_told_whole() {
    let body = r#"{"error":{"code":"invalid","message":"bad","hint":"fix","problems":[
        {"severity":"error","line":3,"column":4,"key":"Payload","message":"is missing"}]}}"#;
    let (_folder, client, _tasks) = serve(Some((422, body.into())));
    match client.install_profile("{}").await {
        Err(ClientError::Refused(refusal)) => {
            assert_eq!(
                (refusal.code, refusal.hint.as_deref()),
                (Code::Invalid, Some("fix"))
            );
            assert_eq!(refusal.problems[0].line, Some(3));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_refused_stream_is_a_refusal() {
    let body = r#"{"error":{"code":"limit_reached","message":"too many"}}"#;
    let (_folder, client, _tasks) = serve(Some((429, body.into())));
    let error = client.follow_flows().await.err().unwrap();
    assert_eq!(error.code(), Some(Code::LimitReached));
    assert!(error.is_unavailable());
}

#[tokio::test]
async fn fields_of_the_future_are_passed_over() {
    let body = r#"{"version":"9","instance":"x","lifecycle":"ready","uptime_ms":5,
        "profiles":[],"colour":"blue"}"#;
    let (_folder, client, _tasks) = serve(Some((200, body.into())));
    assert_eq!(client.status().await.unwrap().version, "9");
}

#[tokio::test]
async fn what_is_no_answer_is_garbled() {
    for (status, body) in [(200, "[]"), (200, "x"), (500, "oops"), (404, "{}")] {
        let (_folder, client, _tasks) = serve(Some((status, body.into())));
        let result = client.status().await;
        assert!(matches!(result, Err(ClientError::Garbled(_))), "{result:?}");
    }
}

#[tokio::test]
async fn too_large_an_answer_is_not_kept() {
    let (_folder, client, _tasks) = serve(Some((200, "x".repeat(MAX_ANSWER + 1))));
    assert!(matches!(client.metrics().await, Err(ClientError::Lost(_))));
}

#[tokio::test]
async fn silence_ends_at_the_time_limit() {
    let (_folder, client, _tasks) = serve(None);
    let client = client.with_limit(Duration::from_millis(200));
    assert!(matches!(
        client.status().await,
        Err(ClientError::TimedOut { .. })
    ));
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let client = Client::new("/nonexistent/s");
    assert!(matches!(
        client.status().await,
        Err(ClientError::Unreachable { .. })
    ));
}

#[tokio::test]
async fn a_crowd_before_the_door_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let socket = tokio::net::UnixSocket::new_stream().unwrap();
    socket.bind(&path).unwrap();
    let listener = socket.listen(1).unwrap();
    let mut crowd = Vec::new();
    let full = loop {
        match UnixStream::connect(&path).await {
            Ok(stream) => crowd.push(stream),
            Err(error) => break error,
        }
        assert!(crowd.len() < 100, "the backlog is short");
    };
    assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    let client = Client::new(&path);
    let let_in = async {
        // It has knocked once by now, in vain.
        tokio::task::yield_now().await;
        for _ in &crowd {
            listener.accept().await.unwrap();
        }
        listener.accept().await.map(drop)
    };
    let (asked, let_in) = tokio::join!(client.status(), let_in);
    let_in.unwrap();
    assert!(matches!(asked, Err(ClientError::Lost(_))), "{asked:?}");
}
