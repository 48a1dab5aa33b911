//! One body type for every layer: boxed once, streamed always.

use std::{
    any::Any,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};

/// Any error, boxed: what a [`Body`] fails with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A streaming body behind one box.
///
/// Layers accept any body and hand on this one; wrapping a `Body` again costs nothing. Size hint, end-of-stream and
/// trailers of what it wraps are kept.
pub struct Body(UnsyncBoxBody<Bytes, BoxError>);

impl Body {
    /// Boxes `body`, unless it already is a [`Body`].
    pub fn new<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut body = Some(body);
        if let Some(same) = (&mut body as &mut dyn Any).downcast_mut::<Option<Body>>()
            && let Some(same) = same.take()
        {
            return same;
        }
        match body {
            Some(body) => Self(body.map_err(Into::into).boxed_unsync()),
            None => Self::empty(),
        }
    }

    /// A body of no bytes.
    pub fn empty() -> Self {
        Self(Empty::new().map_err(|never| match never {}).boxed_unsync())
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            return Self::empty();
        }
        Self(Full::new(bytes).map_err(|never| match never {}).boxed_unsync())
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").finish_non_exhaustive()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// The whole request body, read once by the guard because a rule (or the write guard) must see it.
///
/// Whoever needs the body of a request looks here first; the request's own [`Body`] then yields the same bytes.
/// `Debug` prints the length only: a body may hold secrets.
#[derive(Clone)]
pub struct BufferedBody(pub Bytes);

impl fmt::Debug for BufferedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferedBody({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use super::*;

    #[test]
    fn boxing_a_body_again_keeps_its_size_and_end() {
        let body = Body::new(Body::new(Full::new(Bytes::from_static(b"four"))));
        assert_eq!(body.size_hint().exact(), Some(4));
        assert!(!body.is_end_stream());
        assert!(Body::new(Body::empty()).is_end_stream());
    }

    #[test]
    fn a_buffered_body_never_prints_its_bytes() {
        let printed = format!("{:?}", BufferedBody(Bytes::from_static(b"hunter2")));
        assert_eq!(printed, "BufferedBody(7 bytes)");
    }
}
