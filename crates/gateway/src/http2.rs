use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::server::{self, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Request, Response};
use offramp_relay::End;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout, timeout_at};
use tokio_rustls::server::TlsStream;

use crate::answer::Refusal;
use crate::connection::FIRST_REQUEST;
use crate::dns::MAX_MESSAGE;
use crate::flow::Flow;
use crate::service::{Far, Open, Service};
use tunnel::Tunnel;

mod tunnel;

/// A client's uploads are not to be capped by windows: 4 MiB a flow is 320 Mbit/s at 100 ms.
const STREAM_WINDOW: u32 = 4 << 20;
/// Several stream windows, or one target that does not read would stop all flows.
const CONNECTION_WINDOW: u32 = 128 << 20;
const MAX_FRAME: u32 = 256 << 10;
/// Bytes of one stream that wait for the connection.
const SEND_BUFFER: usize = 1 << 20;
const STREAMS: u32 = 1000;
/// What small frames may cost between two turns of the flows that take them, in the unit of
/// [`h2::server::Builder::data_frame_budget`]: each takes up to 256 of it.
const SMALL_FRAMES: usize = 64 << 20;
const MAX_HEAD: u32 = 32 << 10;
/// How often a client is asked whether it is there; it has as long to answer.
const PING: Duration = Duration::from_secs(30);
/// A connection without flows is ended after this many pings.
const IDLE_PINGS: u32 = 30;

/// Serves one HTTP/2 connection and all its flows.
///
/// By the h2 crate itself: hyper's upgraded stream makes END_STREAM of a drop and an end of stream
/// of the client's RST_STREAM(CANCEL), so that a flow that broke off would look whole.
pub(crate) async fn serve(io: TlsStream<TcpStream>, client: SocketAddr, service: Arc<Service>) {
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(MAX_HEAD)
        .data_frame_budget(SMALL_FRAMES)
        .enable_connect_protocol();
    let connection = match timeout(FIRST_REQUEST, builder.handshake(io)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(client.addr = %client, %error, "no HTTP/2 preface");
            return;
        }
        Err(_) => {
            tracing::debug!(client.addr = %client, "no HTTP/2 preface in time");
            return;
        }
    };
    Connection::new(connection, client, service).run().await;
}

struct Connection {
    connection: server::Connection<TlsStream<TcpStream>, Bytes>,
    client: SocketAddr,
    service: Arc<Service>,
    streams: JoinSet<()>,
    pings: Option<PingPong>,
    clock: Interval,
    unanswered: bool,
    idle: u32,
}

impl Connection {
    fn new(
        mut connection: server::Connection<TlsStream<TcpStream>, Bytes>,
        client: SocketAddr,
        service: Arc<Service>,
    ) -> Self {
        let mut clock = interval_at(Instant::now() + PING, PING);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            pings: connection.ping_pong(),
            connection,
            client,
            service,
            streams: JoinSet::new(),
            clock,
            unanswered: false,
            idle: 0,
        }
    }

    async fn run(mut self) {
        let reason = self.accept().await;
        tracing::debug!(client.addr = %self.client, reason, "connection ended");
        // Their streams are dead now, so they end by themselves and reset their targets.
        drop(self.connection);
        let end = Instant::now() + Duration::from_secs(5);
        while let Ok(Some(_)) = timeout_at(end, self.streams.join_next()).await {}
    }

    async fn accept(&mut self) -> &'static str {
        let first = Instant::now() + FIRST_REQUEST;
        let (mut asked, mut stopping) = (false, false);
        loop {
            tokio::select! {
                accepted = self.connection.accept() => match accepted {
                    Some(Ok((request, respond))) => {
                        asked = true;
                        let stream = stream(request, respond, self.client, self.service.clone());
                        self.streams.spawn(stream);
                    }
                    Some(Err(error)) => {
                        tracing::debug!(client.addr = %self.client, %error, "connection failed");
                        return "failed";
                    }
                    None => return "closed",
                },
                Some(ended) = self.streams.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        tracing::error!(%error, "a flow panicked");
                    }
                }
                () = self.service.stop.cancelled(), if !stopping => {
                    stopping = true;
                    self.connection.graceful_shutdown();
                }
                () = tokio::time::sleep_until(first), if !asked => return "no request",
                _ = self.clock.tick() => if !self.ping() {
                    return "client gone";
                },
                () = pong(&mut self.pings), if self.unanswered => self.unanswered = false,
            }
        }
    }

    /// Whether the client still answers.
    fn ping(&mut self) -> bool {
        if self.unanswered {
            return false;
        }
        self.idle = if self.streams.is_empty() {
            self.idle + 1
        } else {
            0
        };
        if self.idle >= IDLE_PINGS {
            self.connection.graceful_shutdown();
        }
        if let Some(pings) = &mut self.pings {
            self.unanswered = pings.send_ping(Ping::opaque()).is_ok();
        }
        true
    }
}

async fn pong(pings: &mut Option<PingPong>) {
    match pings {
        // An error means that the connection ends, which is seen elsewhere.
        Some(pings) => drop(poll_fn(|cx| pings.poll_pong(cx)).await),
        None => std::future::pending().await,
    }
}

async fn stream(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    client: SocketAddr,
    service: Arc<Service>,
) {
    let mut flow = service.flow(client, "2");
    let (head, body) = request.into_parts();
    let protocol = head
        .extensions
        .get::<Protocol>()
        .map(|protocol| protocol.as_str().to_owned());
    // Boxed, so that a flow does not keep the memory of its opening.
    let open = Box::pin(service.open(client, &head, protocol.as_deref(), &mut flow));
    let opened = tokio::select! {
        opened = open => opened,
        _ = poll_fn(|cx| respond.poll_reset(cx)) => {
            flow.ended("client reset");
            return;
        }
    };
    drop(head);
    match opened {
        Ok(Open::Flow(far)) => relay(far, body, respond, flow, &service).await,
        Ok(Open::Lookup(_permits)) => match lookup(body, &flow, &service).await {
            Ok(answer) => send_answer(respond, answer, flow),
            Err(refusal) => refuse(respond, &refusal, flow),
        },
        Err(refusal) => refuse(respond, &refusal, flow),
    }
}

async fn relay(
    far: Far,
    body: RecvStream,
    mut respond: SendResponse<Bytes>,
    mut flow: Flow,
    service: &Service,
) {
    let mut response = Response::new(());
    if far.is_udp() {
        let yes = HeaderValue::from_static("?1");
        response.headers_mut().insert("capsule-protocol", yes);
    }
    let Ok(send) = respond.send_response(response, false) else {
        flow.ended("client reset");
        return;
    };
    drop(respond);
    flow.answered(200);
    let mut tunnel = Tunnel::new(body, send);
    let inbox = tunnel.inbox();
    let end = {
        let mut relaying = pin!(far.relay(&mut tunnel, service, &flow.counters));
        poll_fn(|cx| {
            // A reset is acted on even while the target takes nothing and nobody reads.
            if let Err(error) = tunnel::lock(&inbox).gather(cx) {
                return Poll::Ready(End::AppReset(error));
            }
            relaying.as_mut().poll(cx)
        })
        .await
    };
    match end {
        End::Closed => {}
        // RFC 9113 section 8.5: what a TCP error becomes.
        End::FarReset(_) => tunnel.reset(Reason::CONNECT_ERROR),
        End::AppReset(_) | End::Idle | End::HalfClosedIdle | End::Stopped => {
            tunnel.reset(Reason::CANCEL);
        }
    }
    flow.relayed(&end);
}

async fn lookup(mut body: RecvStream, flow: &Flow, service: &Service) -> Result<Bytes, Refusal> {
    let read = async {
        let mut query = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece.map_err(|_| Refusal::Malformed("the query breaks off"))?;
            if query.len() + piece.len() > MAX_MESSAGE {
                return Err(Refusal::Malformed("the query is too long"));
            }
            let _ = body.flow_control().release_capacity(piece.len());
            query.extend_from_slice(&piece);
        }
        Ok(query)
    };
    let query = timeout(FIRST_REQUEST, read)
        .await
        .map_err(|_| Refusal::Malformed("the query does not arrive"))??;
    service.lookup(&query, &flow.counters).await
}

fn send_answer(mut respond: SendResponse<Bytes>, answer: Bytes, mut flow: Flow) {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/dns-message"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // At most one DNS message waits for the client's window.
    let sent = respond
        .send_response(response, false)
        .and_then(|mut send| send.send_data(answer, true));
    flow.answered(200);
    flow.ended(if sent.is_ok() {
        "closed"
    } else {
        "client reset"
    });
}

fn refuse(mut respond: SendResponse<Bytes>, refusal: &Refusal, mut flow: Flow) {
    flow.refused(refusal);
    if let Err(error) = respond.send_response(refusal.head(), true) {
        tracing::debug!(%error, "refusal not sent");
    }
}
