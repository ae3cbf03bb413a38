use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

mod h1;
mod h2;

pub(crate) use h1::H1Tunnel;
pub(crate) use h2::H2Tunnel;

/// A byte stream to the target.
///
/// Shutting it down closes our direction only. Dropping it before both directions have ended
/// resets it. A reset by the other side is an error of kind `ConnectionReset`, never an end.
#[derive(Debug)]
pub struct Tunnel(Inner);

#[derive(Debug)]
enum Inner {
    H2(Box<H2Tunnel>),
    H1(Box<H1Tunnel>),
}

impl Tunnel {
    pub(crate) fn h2(tunnel: H2Tunnel) -> Self {
        Self(Inner::H2(Box::new(tunnel)))
    }

    pub(crate) fn h1(tunnel: H1Tunnel) -> Self {
        Self(Inner::H1(Box::new(tunnel)))
    }

    /// The name of the server that carries it.
    pub fn server(&self) -> &str {
        match &self.0 {
            Inner::H2(tunnel) => tunnel.server(),
            Inner::H1(tunnel) => tunnel.server(),
        }
    }
}

impl Tunnel {
    /// The next bytes in whatever pieces they came, `None` at the end.
    pub(crate) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        match &mut self.0 {
            Inner::H2(tunnel) => tunnel.poll_chunk(cx),
            Inner::H1(tunnel) => tunnel.poll_chunk(cx),
        }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Inner::H2(tunnel) => tunnel.poll_read(cx, buffer),
            Inner::H1(tunnel) => tunnel.poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Inner::H2(tunnel) => tunnel.poll_write(cx, bytes),
            Inner::H1(tunnel) => tunnel.poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            // The connection's driver sends what it was given as soon as it can.
            Inner::H2(_) => Poll::Ready(Ok(())),
            Inner::H1(tunnel) => tunnel.poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Inner::H2(tunnel) => Poll::Ready(tunnel.shutdown()),
            Inner::H1(tunnel) => tunnel.poll_shutdown(cx),
        }
    }
}
