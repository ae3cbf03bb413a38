use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::message;
use crate::{Lookup, Responder, Transport};

/// How long an app may be silent between two queries, or take for reading an answer.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

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
    /// Answers the queries of one stream, one after the other (those that follow wait in the
    /// stream), until the app closes it, is silent for 30 s or `stop` is cancelled.
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
        let served = stop.run_until_cancelled(self.serve(stream, asked, lookup));
        if let Some(Err(error)) = served.await {
            tracing::debug!(error = %error, "a lookup stream failed");
        }
    }

    async fn serve<S, L>(&self, stream: &mut S, asked: SocketAddr, lookup: &L) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        L: Lookup,
    {
        while let Some(query) = timeout(IDLE_LIMIT, read_message(stream)).await?? {
            // What is not a query has no answer, and what follows it is not to be trusted.
            let Some(answer) = self.answer(query, asked, Transport::Tcp, lookup).await else {
                break;
            };
            timeout(IDLE_LIMIT, write_message(stream, &answer)).await??;
        }
        stream.shutdown().await
    }
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
