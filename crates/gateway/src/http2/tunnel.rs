use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The two halves of one HTTP/2 stream as a byte stream.
pub(super) struct Tunnel {
    recv: RecvStream,
    send: SendStream<Bytes>,
    left: Bytes,
    sent_end: bool,
}

impl Tunnel {
    pub(super) fn new(recv: RecvStream, send: SendStream<Bytes>) -> Self {
        Self {
            recv,
            send,
            left: Bytes::new(),
            sent_end: false,
        }
    }

    /// Ends the stream's own half if it is still open.
    pub(super) fn close(&mut self) {
        if !self.sent_end {
            self.sent_end = true;
            let _ = self.send.send_data(Bytes::new(), true);
        }
    }

    pub(super) fn reset(mut self, reason: Reason) {
        self.send.send_reset(reason);
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.left.is_empty() {
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(data)) => self.left = data,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let size = self.left.len().min(buf.remaining());
        buf.put_slice(&self.left[..size]);
        self.left.advance(size);
        self.recv
            .flow_control()
            .release_capacity(size)
            .map_err(broken)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.send.reserve_capacity(buf.len());
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(granted) => drop(granted.map_err(broken)?),
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
        let size = buf.len().min(self.send.capacity());
        let data = Bytes::copy_from_slice(&buf[..size]);
        self.send.send_data(data, false).map_err(broken)?;
        // What stays reserved is kept from the other flows of the connection.
        self.send.reserve_capacity(0);
        Poll::Ready(Ok(size))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.sent_end {
            self.sent_end = true;
            self.send.send_data(Bytes::new(), true).map_err(broken)?;
        }
        Poll::Ready(Ok(()))
    }
}

/// The client's reset of a stream is its reset of the flow, whatever the code.
fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
