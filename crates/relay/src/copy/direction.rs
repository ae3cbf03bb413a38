use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::pool::Buffer;

/// Reads in one poll, so that a fast flow lets others run: 1 MiB with large buffers.
const ROUNDS: usize = 16;

/// One half of a flow: from a reader to a writer.
pub(super) struct Direction {
    state: State,
    in_hand: Option<InHand>,
    unflushed: bool,
    moved: u64,
}

enum State {
    Moving,
    Ending,
    Over,
    Failed(Fault),
}

/// Which end of a direction broke.
pub(super) enum Fault {
    Reader(io::Error),
    Writer(io::Error),
}

struct InHand {
    buffer: Buffer,
    start: usize,
    end: usize,
}

impl Direction {
    pub(super) fn new() -> Self {
        Self {
            state: State::Moving,
            in_hand: None,
            unflushed: false,
            moved: 0,
        }
    }

    /// Ready once nothing more will move. `pass_end`: whether an end of stream is to be believed
    /// and passed on.
    pub(super) fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        pass_end: bool,
    ) -> Poll<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if let State::Moving = self.state {
            match ready!(self.poll_move(cx, reader, writer)) {
                Ok(()) => self.state = State::Ending,
                Err(fault) => {
                    self.in_hand = None;
                    self.state = State::Failed(fault);
                }
            }
        }
        if let State::Ending = self.state {
            let mut writer = Pin::new(writer);
            let ended = if pass_end {
                ready!(writer.as_mut().poll_shutdown(cx))
            } else {
                ready!(writer.as_mut().poll_flush(cx))
            };
            self.state = match ended {
                Ok(()) => State::Over,
                Err(error) => State::Failed(Fault::Writer(error)),
            };
        }
        Poll::Ready(())
    }

    fn poll_move<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Poll<Result<(), Fault>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..ROUNDS {
            ready!(self.poll_write_out(cx, writer)).map_err(Fault::Writer)?;
            let mut buffer = Buffer::take();
            let mut read = ReadBuf::new(&mut buffer);
            match Pin::new(&mut *reader).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) => match read.filled().len() {
                    0 => return Poll::Ready(Ok(())),
                    end => {
                        self.in_hand = Some(InHand {
                            buffer,
                            start: 0,
                            end,
                        });
                    }
                },
                Poll::Ready(Err(error)) => {
                    // What came before the break is not to stay in the writer's own buffer.
                    let _ = Pin::new(&mut *writer).poll_flush(cx);
                    return Poll::Ready(Err(Fault::Reader(error)));
                }
                Poll::Pending => {
                    drop(buffer);
                    if self.unflushed {
                        ready!(Pin::new(&mut *writer).poll_flush(cx)).map_err(Fault::Writer)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_write_out<W>(&mut self, cx: &mut Context<'_>, writer: &mut W) -> Poll<io::Result<()>>
    where
        W: AsyncWrite + Unpin,
    {
        if let Some(in_hand) = &mut self.in_hand {
            while in_hand.start < in_hand.end {
                let bytes = &in_hand.buffer[in_hand.start..in_hand.end];
                let written = ready!(Pin::new(&mut *writer).poll_write(cx, bytes))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                in_hand.start += written;
                self.moved += written as u64;
                self.unflushed = true;
            }
            self.in_hand = None;
        }
        Poll::Ready(Ok(()))
    }

    /// Bytes that the writer has taken since the last call.
    pub(super) fn take_moved(&mut self) -> u64 {
        std::mem::take(&mut self.moved)
    }

    /// Whether the reader has ended or an end has broken.
    pub(super) fn is_over(&self) -> bool {
        !matches!(self.state, State::Moving)
    }

    pub(super) fn cannot_read(&self) -> bool {
        matches!(self.state, State::Failed(Fault::Reader(_)))
    }

    pub(super) fn cannot_write(&self) -> bool {
        matches!(self.state, State::Failed(Fault::Writer(_)))
    }

    pub(super) fn take_fault(&mut self) -> Option<Fault> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Failed(fault) => Some(fault),
            _ => None,
        }
    }
}
