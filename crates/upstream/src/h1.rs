use std::fmt::Write as _;
use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use offramp_rules::Target;

use crate::error::{ConnectError, OpenError};
use crate::h2::DNS;
use crate::reply::{Failure, judge};
use crate::slot::Slot;
use crate::tls;
use crate::tunnel::{H1Tunnel, Tunnel};

/// The longest head of an answer, interim answers included.
const HEAD: usize = 16 << 10;
const HEADERS: usize = 64;
/// The longest DNS message, with room for chunk heads.
const BODY: usize = 96 << 10;

/// CONNECT (RFC 9110 section 9.3.6); `warm` streams may have been closed by the server meanwhile.
pub(crate) async fn connect(
    slot: &Slot,
    mut stream: Box<tls::Stream>,
    warm: bool,
    target: &Target,
) -> Result<Tunnel, Failure> {
    let mut head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    authorize(slot, &mut head);
    let answer = exchange(slot, &mut stream, warm, head, &[]).await?;
    if !answer.status.is_success() {
        return Err(judge(&slot.endpoint, answer.status, &answer.headers));
    }
    let server = slot.endpoint.name.clone();
    Ok(Tunnel::h1(H1Tunnel::new(stream, answer.rest, server)))
}

/// One lookup at the server itself (RFC 8484), on a connection of its own.
pub(crate) async fn query(
    slot: &Slot,
    mut stream: Box<tls::Stream>,
    warm: bool,
    query: Bytes,
) -> Result<Bytes, Failure> {
    let mut head = format!(
        "POST /dns-query HTTP/1.1\r\nHost: {}\r\nContent-Type: {DNS}\r\nAccept: {DNS}\r\n\
         Content-Length: {}\r\nConnection: close\r\n",
        slot.endpoint.authority,
        query.len()
    );
    authorize(slot, &mut head);
    let answer = exchange(slot, &mut stream, warm, head, &query).await?;
    if answer.status != StatusCode::OK {
        return Err(judge(&slot.endpoint, answer.status, &answer.headers));
    }
    match timeout(slot.endpoint.timeouts.answer, body(&mut stream, answer)).await {
        Ok(Ok(message)) => Ok(message),
        Ok(Err(error)) => Err(broken(slot, error.to_string())),
        Err(_) => Err(Failure::Target(OpenError::Timeout {
            server: slot.endpoint.name.to_string(),
        })),
    }
}

/// Appends the credentials to the head of a request.
pub(crate) fn authorize(slot: &Slot, head: &mut String) {
    if let Some(value) = &slot.endpoint.authorization
        && let Ok(value) = value.to_str()
    {
        write!(head, "Proxy-Authorization: {value}\r\n").expect("a string takes everything");
    }
}

/// The head of an answer and the bytes that came after it.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) rest: Bytes,
}

/// Sends a request, to whose head the blank line is added, and reads the head of the answer.
pub(crate) async fn exchange(
    slot: &Slot,
    stream: &mut tls::Stream,
    warm: bool,
    mut head: String,
    body: &[u8],
) -> Result<Answer, Failure> {
    head.push_str("\r\n");
    let mut request = head.into_bytes();
    request.extend_from_slice(body);
    let mut received = BytesMut::new();
    let exchanged = async {
        stream.write_all(&request).await?;
        stream.flush().await?;
        answer(stream, &mut received).await
    };
    match timeout(slot.endpoint.timeouts.answer, exchanged).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) if warm && received.is_empty() => Err(Failure::Stale(error.to_string())),
        Ok(Err(error)) => Err(broken(slot, error.to_string())),
        Err(_) => Err(Failure::Target(OpenError::Timeout {
            server: slot.endpoint.name.to_string(),
        })),
    }
}

fn broken(slot: &Slot, detail: String) -> Failure {
    let server = slot.endpoint.name.to_string();
    Failure::Server(OpenError::Unavailable {
        server: server.clone(),
        source: ConnectError::Protocol { server, detail }.into(),
    })
}

/// Reads heads until one is not interim; keeps what comes after it.
async fn answer(stream: &mut tls::Stream, received: &mut BytesMut) -> io::Result<Answer> {
    let mut interim = 0;
    loop {
        if let Some((length, status, headers)) = parse(received)? {
            received.advance(length);
            // 101 is the last word of HTTP/1.1 on this connection; other 1xx come before it.
            if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
                interim += length;
                continue;
            }
            return Ok(Answer {
                status,
                headers,
                rest: received.split().freeze(),
            });
        }
        if received.len() + interim >= HEAD {
            return Err(invalid("the head of its answer is too long"));
        }
        if stream.read_buf(received).await? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it closed the connection before it answered",
            ));
        }
    }
}

pub(crate) type Head = (usize, StatusCode, HeaderMap);

pub(crate) fn parse(bytes: &[u8]) -> io::Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(invalid(&format!("its answer is not HTTP: {error}"))),
    };
    let status = response
        .code
        .and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or_else(|| invalid("its answer has no status"))?;
    let mut map = HeaderMap::new();
    for header in response.headers {
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(header.name.as_bytes()),
            HeaderValue::from_bytes(header.value),
        ) {
            map.append(name, value);
        }
    }
    Ok(Some((length, status, map)))
}

/// The whole body: by its length, in chunks, or up to the end of the connection.
async fn body(stream: &mut tls::Stream, answer: Answer) -> io::Result<Bytes> {
    let text = |name| {
        answer
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let chunked = text(http::header::TRANSFER_ENCODING)
        .is_some_and(|value| value.to_ascii_lowercase().ends_with("chunked"));
    let length = text(http::header::CONTENT_LENGTH).and_then(|value| value.parse::<usize>().ok());
    let mut received = BytesMut::from(answer.rest);
    loop {
        if chunked {
            if let Some(body) = dechunk(&received)? {
                return Ok(body);
            }
        } else if let Some(length) = length
            && received.len() >= length
        {
            return Ok(received.split_to(length).freeze());
        }
        if received.len() > BODY {
            return Err(invalid("its answer is too long"));
        }
        if stream.read_buf(&mut received).await? == 0 {
            return match chunked || length.is_some() {
                true => Err(io::ErrorKind::UnexpectedEof.into()),
                false => Ok(received.freeze()),
            };
        }
    }
}

/// The content of a chunked body, once its last chunk is there.
pub(crate) fn dechunk(mut bytes: &[u8]) -> io::Result<Option<Bytes>> {
    let mut body = BytesMut::new();
    loop {
        let (start, size) = match httparse::parse_chunk_size(bytes) {
            Ok(httparse::Status::Complete((start, size))) => (start, size),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(invalid("its answer has a bad chunk")),
        };
        if size == 0 {
            return Ok(Some(body.freeze()));
        }
        let size = usize::try_from(size).map_err(|_| invalid("its answer has a huge chunk"))?;
        let Some(end) = start
            .checked_add(size)
            .filter(|end| *end <= bytes.len().saturating_sub(2))
        else {
            return Ok(None);
        };
        body.extend_from_slice(&bytes[start..end]);
        bytes = &bytes[end + 2..];
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
