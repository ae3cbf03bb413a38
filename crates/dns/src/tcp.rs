use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::message;
use crate::{Lookup, Responder, Transport};

/// How long an app may take for its next query when it waits for no answer, and for reading one.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// How many queries of one stream are under way at a time; others wait in the stream.
const PIPELINE: usize = 16;

/// Sends one query over a stream and reads its answer; the caller sets the time limit.
///
/// An answer to another query is an error of kind `InvalidData`.
pub async fn exchange_tcp<S>(stream: &mut S, query: &[u8]) -> io::Result<Bytes>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    write_message(stream, query).await?;
    let answer = read_message(stream)
        .await?
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    if answer.get(..2) == query.get(..2) && message::answers(query, &answer) {
        Ok(answer)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

impl Responder {
    /// Answers the queries of one stream until the app closes it, asks nothing for 30 s or `stop`
    /// is cancelled: then what was asked is still answered. Up to 16 are worked on at a time, and
    /// each is answered when it is ready.
    pub async fn serve_tcp<S, L>(
        &self,
        stream: &mut S,
        asked: SocketAddr,
        lookup: &L,
        stop: &CancellationToken,
    ) where
        S: AsyncRead + AsyncWrite + Unpin,
        L: Lookup,
    {
        if let Err(error) = self.serve(stream, asked, lookup, stop).await {
            tracing::debug!(error = %error, "a lookup stream failed");
        }
    }

    async fn serve<S, L>(
        &self,
        stream: &mut S,
        asked: SocketAddr,
        lookup: &L,
        stop: &CancellationToken,
    ) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        L: Lookup,
    {
        let mut received = BytesMut::new();
        let mut pending = FuturesUnordered::new();
        let mut open = true;
        let mut idle = Instant::now() + IDLE_LIMIT;
        loop {
            while pending.len() < PIPELINE
                && let Some(query) = take_message(&mut received)
            {
                pending.push(self.answer(query, asked, Transport::Tcp, lookup));
                idle = Instant::now() + IDLE_LIMIT;
            }
            if !open && pending.is_empty() {
                break;
            }
            tokio::select! {
                () = stop.cancelled(), if open => open = false,
                Some(answer) = pending.next() => {
                    // What is not a query has no answer, and the rest is not to be trusted.
                    let Some(answer) = answer else { break };
                    timeout(IDLE_LIMIT, write_message(stream, &answer)).await??;
                    idle = Instant::now() + IDLE_LIMIT;
                }
                read = timeout_at(idle, stream.read_buf(&mut received)),
                    if open && pending.len() < PIPELINE =>
                {
                    open = read.unwrap_or(Ok(0))? > 0;
                }
            }
        }
        stream.shutdown().await
    }
}

/// The first message of what was received, if all of it is there.
pub(crate) fn take_message(received: &mut BytesMut) -> Option<Bytes> {
    let length = usize::from(u16::from_be_bytes([*received.first()?, *received.get(1)?]));
    if received.len() < 2 + length {
        return None;
    }
    received.advance(2);
    Some(received.split_to(length).freeze())
}

/// The next message, or `None` at the end of the stream.
async fn read_message<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<Bytes>> {
    let mut length = [0; 2];
    if stream.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut length[1..]).await?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).await?;
    Ok(Some(message.into()))
}

async fn write_message<S: AsyncWrite + Unpin>(stream: &mut S, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // In one write: some servers do not wait for the rest of a message (RFC 7766 section 8).
    let mut framed = Vec::with_capacity(2 + message.len());
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests;
