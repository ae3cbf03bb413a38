use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(super) use inbox::Inbox;

mod inbox;

/// The two halves of one HTTP/2 stream as a byte stream.
pub(super) struct Tunnel {
    // Only the flow's own task locks it: the reader here, and `gather` just before.
    inbox: Arc<Mutex<Inbox>>,
    send: SendStream<Bytes>,
    sent_end: bool,
}

impl Tunnel {
    pub(super) fn new(recv: RecvStream, send: SendStream<Bytes>) -> Self {
        Self {
            inbox: Arc::new(Mutex::new(Inbox::new(recv))),
            send,
            sent_end: false,
        }
    }

    /// What has come from the client, to be gathered while nobody reads.
    pub(super) fn inbox(&self) -> Arc<Mutex<Inbox>> {
        self.inbox.clone()
    }

    pub(super) fn reset(mut self, reason: Reason) {
        self.send.send_reset(reason);
    }
}

/// Takes the lock; nothing panics while it is held.
pub(super) fn lock(inbox: &Mutex<Inbox>) -> MutexGuard<'_, Inbox> {
    inbox.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsyncRead for Tunnel {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        lock(&self.inbox).poll_read(cx, buf)
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
