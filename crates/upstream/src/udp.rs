use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use tokio::io::AsyncWrite as _;

use offramp_relay::capsule::{Decoder, encode_datagram};
use offramp_relay::datagram::Queue;
use offramp_rules::{Host, Target};

use crate::error::OpenError;
use crate::reply::{Failure, judge};
use crate::slot::{Lease, Slot};
use crate::tunnel::{H1Tunnel, H2Tunnel, Tunnel};
use crate::{h1, h2, tls};

/// What may wait while the stream takes nothing; the oldest are dropped first.
const QUEUE_COUNT: usize = 256;
const QUEUE_BYTES: usize = 256 << 10;
/// How many bytes of datagrams are put together for one write.
const BATCH: usize = 16 << 10;

/// A conversation with one UDP target: datagrams in the order and size in which they were given.
///
/// For one task: [`recv`](Self::recv) moves what waits in both directions, so a task that selects
/// over `recv` and its own source calls [`try_send`](Self::try_send) in the other arm and comes
/// back to `recv`. Dropping it ends the conversation.
#[derive(Debug)]
pub struct UdpTunnel(Box<Inner>);

struct Inner {
    carrier: Tunnel,
    decoder: Decoder,
    queue: Queue,
    /// Encoded and not written yet.
    out: BytesMut,
}

impl UdpTunnel {
    fn new(carrier: Tunnel) -> Self {
        Self(Box::new(Inner {
            carrier,
            decoder: Decoder::new(),
            queue: Queue::new(QUEUE_COUNT, QUEUE_BYTES),
            out: BytesMut::new(),
        }))
    }

    /// Sends a payload of at most 65,507 bytes, or keeps it until the stream takes it; never
    /// waits. Where too much waits already, the oldest are dropped.
    pub fn try_send(&mut self, payload: &[u8]) {
        self.0.queue.push(Bytes::copy_from_slice(payload));
        // A failure is told by `recv`, which the task comes back to.
        let _ = self.0.poll_send(&mut Context::from_waker(Waker::noop()));
    }

    /// The next payload from the target; `None` when the conversation has ended. Safe to cancel.
    pub async fn recv(&mut self) -> Option<Bytes> {
        match poll_fn(|cx| self.0.poll_recv(cx)).await {
            Ok(payload) => payload,
            Err(error) => {
                tracing::debug!(server = self.server(), %error, "udp tunnel ended");
                None
            }
        }
    }

    /// The name of the server that carries it.
    pub fn server(&self) -> &str {
        self.0.carrier.server()
    }

    /// Payloads that were dropped because the stream took nothing.
    pub fn dropped(&self) -> u64 {
        self.0.queue.dropped()
    }
}

impl Inner {
    /// Writes what waits; pending when the stream takes no more of it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while self.out.len() < BATCH
                && let Some(payload) = self.queue.pop()
            {
                encode_datagram(&payload, &mut self.out);
            }
            if self.out.is_empty() {
                // An idle conversation holds no buffer.
                self.out = BytesMut::new();
                return Pin::new(&mut self.carrier).poll_flush(cx);
            }
            let written = ready!(Pin::new(&mut self.carrier).poll_write(cx, &self.out))?;
            self.out.advance(written);
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        loop {
            let next = self.decoder.next();
            let next = next.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if next.is_some() {
                return Poll::Ready(Ok(next));
            }
            match ready!(self.carrier.poll_chunk(cx))? {
                Some(chunk) => self.decoder.push(chunk),
                None => return Poll::Ready(Ok(None)),
            }
        }
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.carrier.fmt(f)
    }
}

/// Extended CONNECT (RFC 9298 section 3.4).
pub(crate) async fn connect_h2(
    slot: &Slot,
    lease: Lease,
    target: &Target,
) -> Result<UdpTunnel, Failure> {
    let Lease { send, seat } = lease;
    if !send.is_extended_connect_protocol_enabled() {
        return Err(unsupported(slot));
    }
    let uri = h2::own_uri(slot, &path(target));
    let mut request = h2::request(slot, Method::CONNECT, uri);
    let protocol = ::h2::ext::Protocol::from_static("connect-udp");
    request.extensions_mut().insert(protocol);
    request.headers_mut().insert(
        HeaderName::from_static("capsule-protocol"),
        HeaderValue::from_static("?1"),
    );
    let (head, receive, send) = h2::exchange(slot, send, &seat, request, None).await?;
    match head.0.is_success() {
        true => Ok(UdpTunnel::new(Tunnel::h2(H2Tunnel::new(
            send, receive, seat,
        )))),
        false => Err(refused(slot, head.0, &head.1)),
    }
}

/// Upgrade of a connection (RFC 9298 section 3.2); only 101 is a yes.
pub(crate) async fn connect_h1(
    slot: &Slot,
    mut stream: Box<tls::Stream>,
    warm: bool,
    target: &Target,
) -> Result<UdpTunnel, Failure> {
    let mut head = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: connect-udp\r\n\
         Capsule-Protocol: ?1\r\n",
        path(target),
        slot.endpoint.authority,
    );
    h1::authorize(slot, &mut head);
    let answer = h1::exchange(slot, &mut stream, warm, head, &[]).await?;
    if answer.status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refused(slot, answer.status, &answer.headers));
    }
    let server = slot.endpoint.name.clone();
    Ok(UdpTunnel::new(Tunnel::h1(H1Tunnel::new(
        stream,
        answer.rest,
        server,
    ))))
}

/// The server cannot do this: remembered until it has been away.
pub(crate) fn unsupported(slot: &Slot) -> Failure {
    Failure::Server(OpenError::UdpUnsupported {
        server: slot.endpoint.name.to_string(),
    })
}

fn refused(slot: &Slot, status: StatusCode, headers: &http::HeaderMap) -> Failure {
    // What servers say to a request that they do not know: HAProxy 400 or 500, Envoy 200.
    let unknown =
        status.is_success() || matches!(status.as_u16(), 400 | 404 | 405 | 426 | 500 | 501);
    if unknown && !headers.contains_key("proxy-status") {
        slot.refuse_udp();
        return unsupported(slot);
    }
    judge(&slot.endpoint, status, headers)
}

/// The default template of RFC 9298 section 2.
fn path(target: &Target) -> String {
    let host = match &target.host {
        Host::Name(name) => name.to_string(),
        Host::Address(address) => address.to_string().replace(':', "%3A"),
    };
    format!("/.well-known/masque/udp/{host}/{}/", target.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_the_colons_of_addresses() {
        let check = |host, expected: &str| assert_eq!(path(&Target { host, port: 53 }), expected);
        check(
            Host::Address("192.0.2.1".parse().unwrap()),
            "/.well-known/masque/udp/192.0.2.1/53/",
        );
        check(
            Host::Address("2001:db8::1".parse().unwrap()),
            "/.well-known/masque/udp/2001%3Adb8%3A%3A1/53/",
        );
        check(
            Host::Name(offramp_rules::DomainName::parse("Example.com").unwrap()),
            "/.well-known/masque/udp/example.com/53/",
        );
    }
}
