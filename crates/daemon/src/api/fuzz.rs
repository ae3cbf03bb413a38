//! Whatever a client writes to the control socket, to the server as it is.

use std::sync::Arc;

use offramp_fuzz::fuzz;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::serve_connection;
use super::tests::Echo;

#[test]
fn requests() {
    let seeds: &[&[u8]] = &[
        b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /v1/flows?follow=true HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"POST /v1/run HTTP/1.1\r\nhost: x\r\ncontent-length: 18\r\n\r\n{\"program\":\"/a/b\"}GET /v1/apps HTTP/1.1\r\n\r\n",
        b"POST /v1/profiles HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"DELETE /v1/profiles/a%2Fb HTTP/1.1\r\nhost: x\r\n\r\n", b"PUT /v1/user/policies HTTP/1.0\r\n\r\n",
    ];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    fuzz("control_requests", seeds, |input| {
        runtime.block_on(exchange(input));
    });
}

async fn exchange(input: &[u8]) {
    let (mut client, server) = UnixStream::pair().unwrap();
    let api = Arc::new(Echo {
        events: Vec::new(),
        hold_stream: false,
    });
    let served = serve_connection(server, api, CancellationToken::new());
    let asked = async {
        let (mut reader, mut writer) = client.split();
        let write = async {
            // The server may have ended before all was written.
            let _ = writer.write_all(input).await;
            let _ = writer.shutdown().await;
        };
        let mut answer = Vec::new();
        let read = reader.read_to_end(&mut answer);
        let _ = tokio::join!(write, read);
        answer
    };
    let (answer, ()) = tokio::join!(asked, served);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."));
}
