use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use h2::RecvStream;
use tokio::io::ReadBuf;

use super::broken;

/// Frames below this size are joined.
const SMALL: usize = 1024;

/// What a client has sent on a stream and the target has not taken yet, at most one window.
///
/// A frame that is left inside h2 costs a slot there, and a connection has a budget of those for
/// all its flows: one target that does not read what an app types would end them all. So frames
/// are taken out as they come and small ones are joined; the window is given back only for what
/// was read.
pub(in crate::http2) struct Inbox {
    recv: RecvStream,
    whole: VecDeque<Bytes>,
    joined: BytesMut,
    ended: bool,
}

impl Inbox {
    pub(super) fn new(recv: RecvStream) -> Self {
        Self {
            recv,
            whole: VecDeque::new(),
            joined: BytesMut::new(),
            ended: false,
        }
    }

    /// Takes what has come; an error is what the client or the connection broke off with.
    pub(in crate::http2) fn gather(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while !self.ended {
            match self.recv.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => self.add(data),
                Poll::Ready(Some(Err(error))) => return Err(broken(error)),
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.whole.is_empty() && self.joined.is_empty() {
            self.gather(cx)?;
        }
        let size = match self.whole.front_mut() {
            Some(front) => {
                let size = move_bytes(front, buf);
                if front.is_empty() {
                    self.whole.pop_front();
                }
                size
            }
            None if self.joined.is_empty() => {
                return if self.ended {
                    Poll::Ready(Ok(()))
                } else {
                    Poll::Pending
                };
            }
            None => {
                let size = move_bytes(&mut self.joined, buf);
                if self.joined.is_empty() {
                    // An idle flow keeps no buffer.
                    self.joined = BytesMut::new();
                }
                size
            }
        };
        self.recv
            .flow_control()
            .release_capacity(size)
            .map_err(broken)?;
        Poll::Ready(Ok(()))
    }

    fn add(&mut self, data: Bytes) {
        if data.len() < SMALL {
            self.joined.extend_from_slice(&data);
            return;
        }
        if !self.joined.is_empty() {
            self.whole.push_back(self.joined.split().freeze());
        }
        self.whole.push_back(data);
    }
}

fn move_bytes(from: &mut impl Buf, to: &mut ReadBuf<'_>) -> usize {
    let size = from.chunk().len().min(to.remaining());
    to.put_slice(&from.chunk()[..size]);
    from.advance(size);
    size
}
