use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::service::Service;
use crate::users::Chain;
use crate::{http1, http2};

/// From a connection to the end of its TLS handshake.
const ACCEPT: Duration = Duration::from_secs(10);
/// From there to its first request.
pub(crate) const FIRST_REQUEST: Duration = Duration::from_secs(15);

/// What is read of a request that is not served.
const PLAIN_REQUEST: u64 = 64 * 1024;
const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\
    Content-Type: text/plain\r\nContent-Length: 39\r\n\r\n\
    This port speaks HTTPS, not plain HTTP.";

/// Serves one client connection to its end.
pub(crate) async fn serve(
    stream: TcpStream,
    client: SocketAddr,
    tls: Arc<rustls::ServerConfig>,
    service: Arc<Service>,
) {
    service.metrics.connections.fetch_add(1, Ordering::Relaxed);
    service
        .metrics
        .connections_live
        .fetch_add(1, Ordering::Relaxed);
    let _live = Live(&service);
    // Boxed, so that a connection does not keep the memory of its handshake.
    let accepted = tokio::select! {
        accepted = Box::pin(accept(stream, client, tls)) => accepted,
        () = service.stop.cancelled() => return,
    };
    let Some(io) = accepted else {
        service
            .metrics
            .handshakes_failed
            .fetch_add(1, Ordering::Relaxed);
        return;
    };
    if io.get_ref().1.alpn_protocol() == Some(b"h2") {
        Box::pin(http2::serve(io, client, service.clone())).await;
    } else {
        Box::pin(http1::serve(io, client, service.clone())).await;
    }
}

async fn accept(
    stream: TcpStream,
    client: SocketAddr,
    tls: Arc<rustls::ServerConfig>,
) -> Option<TlsStream<TcpStream>> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no-delay not set");
    }
    let handshake = async {
        let mut first = [0];
        // TLS begins with a record of type 22, every HTTP method with a letter.
        if stream.peek(&mut first).await.ok()? == 1 && first[0].is_ascii_uppercase() {
            tracing::info!(client.addr = %client, "plain http on the tls port, closed");
            answer_plainly(stream).await;
            return None;
        }
        match TlsAcceptor::from(tls).accept(stream).await {
            Ok(stream) => Some(stream),
            Err(error) => {
                tracing::debug!(client.addr = %client, error = %Chain(&error), "no tls");
                None
            }
        }
    };
    match timeout(ACCEPT, handshake).await {
        Ok(stream) => stream,
        Err(_) => {
            tracing::debug!(client.addr = %client, "no tls in time");
            None
        }
    }
}

/// Reads what the client still sends, or the close would be a reset that overtakes the answer.
async fn answer_plainly(mut stream: TcpStream) {
    if stream.write_all(PLAIN).await.is_err() || stream.shutdown().await.is_err() {
        return;
    }
    let (mut rest, mut nowhere) = (stream.take(PLAIN_REQUEST), tokio::io::sink());
    let read = tokio::io::copy(&mut rest, &mut nowhere);
    let _ = timeout(Duration::from_secs(1), read).await;
}

struct Live<'a>(&'a Service);

impl Drop for Live<'_> {
    fn drop(&mut self) {
        self.0
            .metrics
            .connections_live
            .fetch_sub(1, Ordering::Relaxed);
    }
}
