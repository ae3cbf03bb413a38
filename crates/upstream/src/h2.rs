use std::pin::pin;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, Method, Request, StatusCode, Uri};
use tokio::time::timeout;

use offramp_rules::Target;

use crate::connection::Seat;
use crate::error::OpenError;
use crate::reply::{Failure, judge};
use crate::slot::{Lease, Slot};
use crate::tunnel::{H2Tunnel, Tunnel};

/// The longest DNS message.
const MESSAGE: usize = 65_535;

/// CONNECT (RFC 9113 section 8.5).
pub(crate) async fn connect(slot: &Slot, lease: Lease, target: &Target) -> Result<Tunnel, Failure> {
    let authority = target.to_string();
    let uri = Uri::builder().authority(authority.as_str()).build();
    let uri = uri.expect("a target is an authority");
    let request = request(slot, Method::CONNECT, uri);
    let Lease { send, seat } = lease;
    let (head, receive, send) = exchange(slot, send, &seat, request, None).await?;
    if !head.0.is_success() {
        return Err(judge(&slot.endpoint, head.0, &head.1));
    }
    Ok(Tunnel::h2(H2Tunnel::new(send, receive, seat)))
}

/// One lookup at the server itself (RFC 8484).
pub(crate) async fn query(slot: &Slot, lease: Lease, query: Bytes) -> Result<Bytes, Failure> {
    let mut request = request(slot, Method::POST, own_uri(slot, "/dns-query"));
    for (name, value) in [("content-type", DNS), ("accept", DNS)] {
        let value = http::HeaderValue::from_static(value);
        request
            .headers_mut()
            .insert(HeaderName::from_static(name), value);
    }
    let Lease { send, seat } = lease;
    let (head, mut receive, _send) = exchange(slot, send, &seat, request, Some(query)).await?;
    if head.0 != StatusCode::OK {
        return Err(judge(&slot.endpoint, head.0, &head.1));
    }
    let body = async {
        let mut message = BytesMut::new();
        while let Some(data) = receive.data().await {
            let data = data.map_err(|error| Failure::Stale(error.to_string()))?;
            if message.len() + data.len() > MESSAGE {
                let detail = "its answer to a lookup is too long".to_owned();
                return Err(Failure::Server(refused(slot, detail)));
            }
            message.extend_from_slice(&data);
            // Nothing to be done where the stream has ended meanwhile.
            let _ = receive.flow_control().release_capacity(data.len());
        }
        Ok(message.freeze())
    };
    match timeout(slot.endpoint.timeouts.answer, body).await {
        Ok(done) => done,
        Err(_) => Err(timed_out(slot, &seat)),
    }
}

pub(crate) const DNS: &str = "application/dns-message";

pub(crate) fn own_uri(slot: &Slot, path: &str) -> Uri {
    Uri::builder()
        .scheme("https")
        .authority(slot.endpoint.authority.as_str())
        .path_and_query(path)
        .build()
        .expect("a host, a port and a percent-encoded path are a URI")
}

pub(crate) fn request(slot: &Slot, method: Method, uri: Uri) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    if let Some(value) = &slot.endpoint.authorization {
        request
            .headers_mut()
            .insert(http::header::PROXY_AUTHORIZATION, value.clone());
    }
    request
}

type Exchanged = ((StatusCode, HeaderMap), RecvStream, SendStream<Bytes>);

/// Sends a request, with its whole body where it has one, and waits for the head of the answer.
pub(crate) async fn exchange(
    slot: &Slot,
    send: SendRequest<Bytes>,
    seat: &Seat,
    request: Request<()>,
    body: Option<Bytes>,
) -> Result<Exchanged, Failure> {
    let dead = |error: h2::Error| {
        seat.vitals.draining.store(true, Ordering::Release);
        seat.vitals.board.wake();
        Failure::Stale(error.to_string())
    };
    let mut doubted = pin!(seat.vitals.doubted.notified());
    doubted.as_mut().enable();
    let mut send = send.ready().await.map_err(dead)?;
    let (response, mut stream) = send.send_request(request, false).map_err(dead)?;
    drop(send);
    if let Some(body) = body {
        stream.send_data(body, true).map_err(dead)?;
    }
    let answer = async {
        tokio::select! {
            biased;
            response = response => Some(response),
            // Nothing of the flow has been sent yet, so it can begin again.
            () = doubted => None,
        }
    };
    let response = match timeout(slot.endpoint.timeouts.answer, answer).await {
        Ok(None) => return Err(Failure::Stale("the network has changed".to_owned())),
        Ok(Some(response)) => Ok(response),
        Err(late) => Err(late),
    };
    let response = match response {
        Ok(Ok(response)) => response,
        Ok(Err(error)) if error.is_reset() => return Err(reset(slot, &error)),
        Ok(Err(error)) => return Err(dead(error)),
        Err(_) => return Err(timed_out(slot, seat)),
    };
    let (head, receive) = response.into_parts();
    Ok(((head.status, head.headers), receive, stream))
}

fn reset(slot: &Slot, error: &h2::Error) -> Failure {
    match error.reason() {
        // RFC 9113 section 8.7: nothing was done with the request.
        Some(Reason::REFUSED_STREAM) => Failure::Stale(error.to_string()),
        Some(Reason::CONNECT_ERROR) => {
            Failure::Target(refused(slot, "the target ended the connection".into()))
        }
        _ => Failure::Target(refused(slot, error.to_string())),
    }
}

fn refused(slot: &Slot, detail: String) -> OpenError {
    OpenError::Refused {
        server: slot.endpoint.name.to_string(),
        detail,
    }
}

/// The target may be slow, or the server dead: a ping will tell.
fn timed_out(slot: &Slot, seat: &Seat) -> Failure {
    seat.vitals.ping.notify_one();
    Failure::Target(OpenError::Timeout {
        server: slot.endpoint.name.to_string(),
    })
}
