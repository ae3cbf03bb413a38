use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use offramp_control::{FlowEvent, LookupEvent};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::budget::Share;

/// The body of an answer: bytes at once, or a line per event.
pub(super) struct AnswerBody(Kind);

enum Kind {
    Whole(Option<Bytes>),
    Events {
        events: Events,
        /// Given back with the stream.
        _share: Share,
        stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    },
}

/// What is followed.
pub(super) enum Events {
    Flows(mpsc::Receiver<FlowEvent>),
    Lookups(mpsc::Receiver<LookupEvent>),
}

impl From<mpsc::Receiver<FlowEvent>> for Events {
    fn from(events: mpsc::Receiver<FlowEvent>) -> Self {
        Self::Flows(events)
    }
}

impl From<mpsc::Receiver<LookupEvent>> for Events {
    fn from(events: mpsc::Receiver<LookupEvent>) -> Self {
        Self::Lookups(events)
    }
}

impl Events {
    /// The next one as a line; none at the end.
    fn poll_line(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match self {
            Self::Flows(events) => events
                .poll_recv(context)
                .map(|event| event.map(|event| line(&event))),
            Self::Lookups(events) => events
                .poll_recv(context)
                .map(|event| event.map(|event| line(&event))),
        }
    }
}

impl AnswerBody {
    pub(super) fn whole(bytes: Vec<u8>) -> Self {
        Self(Kind::Whole(
            Some(bytes.into()).filter(|bytes: &Bytes| !bytes.is_empty()),
        ))
    }

    /// Ends with the last event, or when the daemon stops.
    pub(super) fn events(events: Events, share: Share, stop: CancellationToken) -> Self {
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
                if let Poll::Ready(line) = events.poll_line(context) {
                    return Poll::Ready(line.map(|line| Ok(Frame::data(line))));
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

fn line(event: &impl Serialize) -> Bytes {
    let mut line =
        serde_json::to_vec(event).expect("an event has string keys and no fallible parts");
    line.push(b'\n');
    line.into()
}
