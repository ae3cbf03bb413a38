use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use crate::tls;

/// As much as rustls asks for at once.
const CHUNK: usize = 4 << 10;

/// A whole TLS connection.
pub(crate) struct H1Tunnel {
    stream: Box<tls::Stream>,
    /// Came with the head of the answer and is not read yet.
    pending: Bytes,
    /// The target has ended its direction.
    ended: bool,
    /// We have ended ours.
    shut: bool,
    server: Arc<str>,
}

impl H1Tunnel {
    pub(crate) fn new(stream: Box<tls::Stream>, pending: Bytes, server: Arc<str>) -> Self {
        Self {
            stream,
            pending,
            ended: false,
            shut: false,
            server,
        }
    }

    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.pending.is_empty() {
            let count = self.pending.len().min(buffer.remaining());
            buffer.put_slice(&self.pending[..count]);
            self.pending.advance(count);
            if self.pending.is_empty() {
                self.pending = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        match ready!(Pin::new(&mut *self.stream).poll_read(cx, buffer)) {
            Ok(()) => {
                self.ended |= buffer.filled().len() == before && buffer.remaining() > 0;
                Poll::Ready(Ok(()))
            }
            // Without close_notify the end may be a cut: the app must not take it for an end.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Err(
                io::Error::new(io::ErrorKind::ConnectionReset, error.to_string()),
            )),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    pub(crate) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let mut space = [std::mem::MaybeUninit::uninit(); CHUNK];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(self.poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(match buffer.filled() {
            [] => None,
            filled => Some(Bytes::copy_from_slice(filled)),
        }))
    }

    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(cx, bytes)
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut *self.stream).poll_shutdown(cx))?;
        self.shut = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for H1Tunnel {
    fn drop(&mut self) {
        if !(self.ended && self.shut) {
            // It fails only where there is nothing left to reset.
            let _ = self.stream.get_ref().0.set_zero_linger();
        }
    }
}

impl fmt::Debug for H1Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("H1Tunnel")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}
