//! How an answer begins: its head waits until it is known what the head has to say.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;
use portcullis_core::{Body, BoxError};

use super::ResponseContext;
use crate::{
    MaskError,
    gzip::{GZIP_FROM, GzipBody, say_gzip},
};

/// Reads a document as far as its head depends on it: its first frame, since what cannot be read is an answer of its own while no
/// head has been sent; or as much as tells whether it is long enough to be compressed.
///
/// # Cancellation
///
/// Dropping the future drops the answer.
pub(super) async fn begin(response: Response<Body>, context: Box<ResponseContext>) -> Response<Body> {
    let compress = context.gzip && response.status().is_success();
    let enough = if compress { GZIP_FROM } else { 0 };
    let (mut parts, mut rest) = response.into_parts();
    let (mut held, mut length) = (VecDeque::new(), 0);
    while length <= enough {
        let Some(frame) = rest.frame().await else { break };
        match &frame {
            Err(error) if error.is::<MaskError>() => return context.unreadable(&error.to_string()),
            Err(_) => {
                held.push_back(frame);
                break;
            }
            Ok(read) => length += read.data_ref().map_or(0, Bytes::len),
        }
        held.push_back(frame);
    }
    let body = Body::new(Resumed { held, rest });
    if !compress || length <= GZIP_FROM {
        return Response::from_parts(parts, body);
    }
    say_gzip(&mut parts.headers);
    Response::from_parts(parts, Body::new(GzipBody::new(body)))
}

/// A body of which some has come already.
struct Resumed {
    held: VecDeque<Result<Frame<Bytes>, BoxError>>,
    rest: Body,
}

impl HttpBody for Resumed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.held.pop_front() {
            Some(held) => Poll::Ready(Some(held)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.rest.is_end_stream()
    }
}
