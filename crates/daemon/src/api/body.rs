use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use offramp_control::FlowEvent;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::budget::Share;

/// The body of an answer: bytes at once, or a line per event.
pub(super) struct AnswerBody(Kind);

enum Kind {
    Whole(Option<Bytes>),
    Events {
        events: mpsc::Receiver<FlowEvent>,
        /// Given back with the stream.
        _share: Share,
        stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    },
}

impl AnswerBody {
    pub(super) fn whole(bytes: Vec<u8>) -> Self {
        Self(Kind::Whole(
            Some(bytes.into()).filter(|bytes: &Bytes| !bytes.is_empty()),
        ))
    }

    /// Ends with the last event, or when the daemon stops.
    pub(super) fn events(
        events: mpsc::Receiver<FlowEvent>,
        share: Share,
        stop: CancellationToken,
    ) -> Self {
        Self(Kind::Events {
            events,
            _share: share,
            stopped: Box::pin(stop.cancelled_owned()),
        })
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Kind::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Events {
                events, stopped, ..
            } => {
                if let Poll::Ready(event) = events.poll_recv(context) {
                    return Poll::Ready(event.map(|event| Ok(Frame::data(line(&event)))));
                }
                stopped.as_mut().poll(context).map(|()| None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Kind::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Kind::Events { .. } => SizeHint::default(),
        }
    }
}

fn line(event: &FlowEvent) -> Bytes {
    let mut line =
        serde_json::to_vec(event).expect("an event has string keys and no fallible parts");
    line.push(b'\n');
    line.into()
}
