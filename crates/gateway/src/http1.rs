use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use crate::answer::Refusal;
use crate::connection::FIRST_REQUEST;
use crate::dns::MAX_MESSAGE;
use crate::flow::Flow;
use crate::service::{Far, Open, Service};

/// The head of a request, larger than any that a proxy client sends.
const MAX_HEAD: usize = 32 * 1024;

/// What a connection becomes after its last response.
struct Tunnel {
    upgrade: OnUpgrade,
    far: Far,
    flow: Flow,
}

type Slot = Arc<Mutex<Option<Tunnel>>>;

/// Serves one HTTP/1.1 connection, and the tunnel that it may become.
pub(crate) async fn serve(io: TlsStream<TcpStream>, client: SocketAddr, service: Arc<Service>) {
    let slot = Slot::default();
    // Boxed, so that a tunnel does not keep the parser's memory.
    Box::pin(requests(io, client, &service, &slot)).await;
    let tunnel = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(tunnel) = tunnel {
        tunnel.run(&service).await;
    }
}

async fn requests(
    io: TlsStream<TcpStream>,
    client: SocketAddr,
    service: &Arc<Service>,
    slot: &Slot,
) {
    let answer = service_fn(|request| {
        let (service, slot) = (service.clone(), slot.clone());
        async move { Ok::<_, Infallible>(answer(request, client, &service, &slot).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(FIRST_REQUEST)
        .max_buf_size(MAX_HEAD)
        .half_close(true)
        .serve_connection(TokioIo::new(io), answer)
        .with_upgrades();
    let mut connection = pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = service.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(client.addr = %client, %error, "connection ended");
    }
}

async fn answer(
    request: Request<Incoming>,
    client: SocketAddr,
    service: &Service,
    slot: &Slot,
) -> Response<Full<Bytes>> {
    let mut flow = service.flow(client, "1.1");
    match try_answer(request, client, service, &mut flow).await {
        Ok(Answer::Tunnel(response, upgrade, far)) => {
            flow.answered(response.status().as_u16());
            *slot.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(Tunnel { upgrade, far, flow });
            response
        }
        Ok(Answer::Message(response)) => {
            flow.answered(response.status().as_u16());
            flow.ended("closed");
            response
        }
        Err(refusal) => {
            flow.refused(&refusal);
            let mut response = refusal.head().map(|()| Full::default());
            // What a client sent behind a refused CONNECT was meant for the target; on a
            // connection that stays it would be taken for its next request.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
            response
        }
    }
}

enum Answer {
    Tunnel(Response<Full<Bytes>>, OnUpgrade, Far),
    Message(Response<Full<Bytes>>),
}

async fn try_answer(
    mut request: Request<Incoming>,
    client: SocketAddr,
    service: &Service,
    flow: &mut Flow,
) -> Result<Answer, Refusal> {
    let upgrade = hyper::upgrade::on(&mut request);
    let (head, body) = request.into_parts();
    if head.version != Version::HTTP_11 || !head.headers.contains_key(HOST) {
        return Err(Refusal::Malformed("HTTP/1.1 with a Host field is wanted"));
    }
    if head.method != Method::POST && !body.is_end_stream() {
        return Err(Refusal::Malformed("content is wanted with POST only"));
    }
    match service.open(client, &head, None, flow).await? {
        Open::Flow(far) => {
            let mut response = Response::new(Full::default());
            if far.is_udp() {
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                let headers = response.headers_mut();
                headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
                headers.insert(UPGRADE, HeaderValue::from_static("connect-udp"));
                headers.insert("capsule-protocol", HeaderValue::from_static("?1"));
            }
            Ok(Answer::Tunnel(response, upgrade, far))
        }
        Open::Lookup(_permits) => {
            let query = read_body(body).await?;
            let answer = service.lookup(&query, &flow.counters).await?;
            let mut response = Response::new(Full::new(answer));
            let headers = response.headers_mut();
            let kind = HeaderValue::from_static("application/dns-message");
            headers.insert(CONTENT_TYPE, kind);
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            Ok(Answer::Message(response))
        }
    }
}

async fn read_body(body: Incoming) -> Result<Bytes, Refusal> {
    let malformed = |_| Refusal::Malformed("the query is too long");
    timeout(FIRST_REQUEST, Limited::new(body, MAX_MESSAGE).collect())
        .await
        .map_err(|_| Refusal::Malformed("the query does not arrive"))?
        .map(|body| body.to_bytes())
        .map_err(malformed)
}

impl Tunnel {
    async fn run(mut self, service: &Service) {
        let upgraded = match timeout(Duration::from_secs(10), self.upgrade).await {
            Ok(Ok(upgraded)) => upgraded,
            Ok(Err(_)) | Err(_) => {
                self.flow.ended("client reset");
                return;
            }
        };
        let mut client = TokioIo::new(upgraded);
        let end = self
            .far
            .relay(&mut client, service, &self.flow.counters)
            .await;
        if !end.is_clean() {
            reset(client.into_inner());
        }
        self.flow.relayed(&end);
    }
}

fn reset(upgraded: Upgraded) {
    if let Ok(parts) = upgraded.downcast::<TokioIo<TlsStream<TcpStream>>>() {
        let (stream, _) = parts.io.into_inner().into_inner();
        offramp_relay::reset(stream);
    }
}
