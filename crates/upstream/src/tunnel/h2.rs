use std::fmt;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::ReadBuf;

use crate::connection::Seat;

/// The most that one write copies and hands over.
const WRITE: usize = 64 << 10;

/// A stream of a shared HTTP/2 connection.
pub(crate) struct H2Tunnel {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// Received and not read yet.
    pending: Bytes,
    /// We have ended our direction.
    shut: bool,
    seat: Seat,
}

impl H2Tunnel {
    pub(crate) fn new(send: SendStream<Bytes>, receive: RecvStream, seat: Seat) -> Self {
        Self {
            send,
            receive,
            pending: Bytes::new(),
            shut: false,
            seat,
        }
    }

    pub(crate) fn server(&self) -> &str {
        &self.seat.server
    }

    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !ready!(self.poll_pending(cx))? {
            return Poll::Ready(Ok(()));
        }
        let count = self.pending.len().min(buffer.remaining());
        buffer.put_slice(&self.pending[..count]);
        self.pending.advance(count);
        if self.pending.is_empty() {
            // Gives the frame's memory back although the flow may stay idle.
            self.pending = Bytes::new();
        }
        self.release(count);
        Poll::Ready(Ok(()))
    }

    pub(crate) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !ready!(self.poll_pending(cx))? {
            return Poll::Ready(Ok(None));
        }
        let chunk = std::mem::take(&mut self.pending);
        self.release(chunk.len());
        Poll::Ready(Ok(Some(chunk)))
    }

    /// Waits until bytes are pending; false at the end.
    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        // Empty frames are neither data nor the end.
        while self.pending.is_empty() {
            match ready!(self.receive.poll_data(cx)) {
                Some(Ok(data)) => self.pending = data,
                Some(Err(error)) if is_end(&error) => return Poll::Ready(Ok(false)),
                Some(Err(error)) => return Poll::Ready(Err(lost(&error))),
                None => return Poll::Ready(Ok(false)),
            }
        }
        Poll::Ready(Ok(true))
    }

    /// The window opens for what the reader has, so a slow reader slows the sender.
    fn release(&mut self, count: usize) {
        // It fails only where the stream has ended, and then there is no window.
        let _ = self.receive.flow_control().release_capacity(count);
    }

    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let wanted = bytes.len().min(WRITE);
        self.send.reserve_capacity(wanted);
        let mut granted = self.send.capacity();
        while granted == 0 {
            granted = match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(granted)) => granted,
                Some(Err(error)) => return Poll::Ready(Err(lost(&error))),
                None => return Poll::Ready(Err(self.ended(cx))),
            };
        }
        let count = granted.min(wanted);
        let data = Bytes::copy_from_slice(&bytes[..count]);
        match self.send.send_data(data, false) {
            Ok(()) => Poll::Ready(Ok(count)),
            Err(_) => Poll::Ready(Err(self.ended(cx))),
        }
    }

    pub(crate) fn shutdown(&mut self) -> io::Result<()> {
        if !self.shut {
            self.shut = true;
            // It fails only where the stream has ended already.
            let _ = self.send.send_data(Bytes::new(), true);
        }
        Ok(())
    }

    /// Why nothing can be written any more.
    fn ended(&mut self, cx: &mut Context<'_>) -> io::Error {
        match self.send.poll_reset(cx) {
            Poll::Ready(Ok(Reason::NO_ERROR)) => io::ErrorKind::BrokenPipe.into(),
            Poll::Ready(Ok(reason)) => reset(reason.to_string()),
            Poll::Ready(Err(error)) => lost(&error),
            Poll::Pending => io::ErrorKind::BrokenPipe.into(),
        }
    }
}

impl fmt::Debug for H2Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("H2Tunnel")
            .field("server", &self.seat.server)
            .field("stream", &self.send.stream_id())
            .finish_non_exhaustive()
    }
}

/// nghttpx ends a finished tunnel with RST_STREAM(NO_ERROR), after all its data.
fn is_end(error: &h2::Error) -> bool {
    error.is_reset() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR)
}

fn lost(error: &h2::Error) -> io::Error {
    reset(error.to_string())
}

fn reset(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, why)
}
