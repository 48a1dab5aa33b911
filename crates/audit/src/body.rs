//! Bodies that pass through the record: counted on the way in, withheld at their end on the way out.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use portcullis_core::{Body, BoxError, BoxFuture, RecordError};

use crate::exchange::{Context, Exchange};
use crate::record::End;

/// A request body whose bytes are counted.
pub(crate) struct CountingBody {
    inner: Body,
    context: Arc<Context>,
}

impl CountingBody {
    pub(crate) fn new(inner: Body, context: Arc<Context>) -> Self {
        Self { inner, context }
    }
}

impl http_body::Body for CountingBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.context.request_bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A response body that ends only when its outcome is in the log.
///
/// Frames pass at once, so a watch is never delayed. Withheld is what would end it: the frame that completes a known
/// length, the frame after which the body says that it has ended, the trailers, or else the end itself (over HTTP/1.1 the
/// last chunk, over HTTP/2 the END_STREAM flag). Dropped before its end, it leaves an outcome that says `aborted`. It is
/// broken off when the log cannot be written any more: nothing runs unrecorded.
pub(crate) struct RecordingBody {
    inner: Body,
    /// How much is still to come, if that is known.
    left: Option<u64>,
    /// Resolves when the log fails.
    failed: BoxFuture<'static, ()>,
    state: State,
}

enum State {
    /// Frames are passing. `None` only while the state changes.
    Open(Option<Box<Exchange>>),
    /// The outcome is being written; what is withheld goes out afterwards.
    Recording { written: BoxFuture<'static, Result<(), RecordError>>, withheld: Withheld },
    /// The outcome is in the log.
    Recorded,
    /// Nothing more comes: it has ended, or was broken off because its outcome is not in the log.
    Over,
}

enum Withheld {
    Frame(Option<Frame<Bytes>>),
    End,
    Error(Option<BoxError>),
}

impl RecordingBody {
    pub(crate) fn new(inner: Body, exchange: Exchange) -> Self {
        let left = inner.size_hint().exact();
        let failed = exchange.context().audit.failed();
        Self { inner, left, failed, state: State::Open(Some(Box::new(exchange))) }
    }

    /// Takes what came from the body: hands it out, or begins to record the end.
    fn take(
        &mut self,
        exchange: &mut Option<Box<Exchange>>,
        next: Option<Result<Frame<Bytes>, BoxError>>,
    ) -> Option<Frame<Bytes>> {
        let (end, withheld) = match next {
            None => (End::Completed, Withheld::End),
            Some(Err(error)) => {
                if let Some(exchange) = exchange {
                    exchange.error(&error.to_string());
                }
                (End::Failed, Withheld::Error(Some(error)))
            }
            Some(Ok(frame)) => {
                if let (Some(data), Some(exchange)) = (frame.data_ref(), exchange.as_mut()) {
                    exchange.data(data);
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                }
                if !frame.is_trailers() && self.left != Some(0) && !self.inner.is_end_stream() {
                    return Some(frame);
                }
                (End::Completed, Withheld::Frame(Some(frame)))
            }
        };
        if let Some(exchange) = exchange.take() {
            self.state = State::Recording { written: Box::pin(exchange.finish(end)), withheld };
        }
        None
    }
}

impl http_body::Body for RecordingBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::Open(exchange) => {
                    if this.failed.as_mut().poll(cx).is_ready() {
                        if let Some(mut exchange) = exchange.take() {
                            exchange.error("the audit log failed");
                        }
                        this.state = State::Over;
                        return Poll::Ready(Some(Err(RecordError("it has failed".into()).into())));
                    }
                    let next = ready!(Pin::new(&mut this.inner).poll_frame(cx));
                    let mut exchange = exchange.take();
                    if let Some(frame) = this.take(&mut exchange, next) {
                        this.state = State::Open(exchange);
                        return Poll::Ready(Some(Ok(frame)));
                    }
                }
                State::Recording { written, withheld } => {
                    let written = ready!(written.as_mut().poll(cx));
                    let withheld = std::mem::replace(withheld, Withheld::End);
                    this.state = State::Over;
                    return Poll::Ready(match (written, withheld) {
                        (_, Withheld::Error(error)) => error.map(Err),
                        (Err(error), _) => Some(Err(error.into())),
                        (Ok(()), Withheld::Frame(frame)) => {
                            this.state = State::Recorded;
                            frame.map(Ok)
                        }
                        (Ok(()), Withheld::End) => None,
                    });
                }
                // Trailers after a body of known length.
                State::Recorded => return Pin::new(&mut this.inner).poll_frame(cx),
                State::Over => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Open(_) | State::Recording { .. } => false,
            State::Recorded => self.inner.is_end_stream(),
            State::Over => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Recording { withheld: Withheld::Frame(Some(frame)), .. } => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                SizeHint::with_exact(length)
            }
            _ => self.inner.size_hint(),
        }
    }
}

/// A body that has been read already.
#[derive(Default)]
pub(crate) struct WholeBody {
    frames: VecDeque<Frame<Bytes>>,
    error: Option<BoxError>,
}

impl WholeBody {
    pub(crate) fn push(&mut self, frame: Frame<Bytes>) {
        self.frames.push_back(frame);
    }

    /// The body breaks off here.
    pub(crate) fn fail(&mut self, error: BoxError) {
        self.error = Some(error);
    }

    pub(crate) fn into_body(mut self) -> Body {
        match self.frames.pop_front() {
            None => Body::empty(),
            Some(frame) if self.frames.is_empty() && frame.is_data() => {
                Body::from(frame.into_data().unwrap_or_default())
            }
            Some(frame) => {
                self.frames.push_front(frame);
                Body::new(self)
            }
        }
    }
}

impl http_body::Body for WholeBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let next = self.frames.pop_front().map(Ok);
        Poll::Ready(next.or_else(|| self.error.take().map(Err)))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.error.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let length = self.frames.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        match self.error {
            None => SizeHint::with_exact(length),
            Some(_) => {
                let mut hint = SizeHint::new();
                hint.set_lower(length);
                hint
            }
        }
    }
}
