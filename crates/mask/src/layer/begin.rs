//! How an answer begins: its head waits until it is known what the head has to say.

use std::{
    collections::VecDeque,
    future::ready,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, header::CONTENT_TYPE};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use portcullis_core::{Body, BoxError};

use super::{ResponseContext, forget_bytes};
use crate::{
    MaskError,
    gzip::{GZIP_FROM, GzipBody, say_gzip},
    negotiate::YAML,
    yaml::{Unwritable, yaml_from_json},
};

/// Reads a document as far as its head depends on it: its first frame, since what cannot be read is an answer of its own while no
/// head has been sent; as much as tells whether it is long enough to be compressed; or all of it, if it is to be YAML.
///
/// # Cancellation
///
/// Dropping the future drops the answer.
pub(super) async fn begin(mut response: Response<Body>, context: Box<ResponseContext>) -> Response<Body> {
    if context.yaml {
        response = match written_as_yaml(response, &context).await {
            Ok(response) => response,
            Err(instead) => return instead,
        };
    }
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

/// The same answer in YAML, or what is answered instead.
async fn written_as_yaml(
    response: Response<Body>,
    context: &ResponseContext,
) -> Result<Response<Body>, Response<Body>> {
    let limit = context.scope.limits().held_bytes;
    let (mut parts, mut body) = response.into_parts();
    let (mut json, mut trailers) = (BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) if json.len() + data.len() > limit => return Err(context.too_long_for_yaml()),
            Ok(Ok(data)) => json.extend_from_slice(&data),
            Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
            Err(error) if error.is::<MaskError>() => return Err(context.unreadable(&error.to_string())),
            Err(error) => {
                let held = VecDeque::from([Err(error)]);
                return Err(Response::from_parts(parts, Body::new(Resumed { held, rest: Body::empty() })));
            }
        }
    }
    let yaml = match yaml_from_json(&json, limit) {
        // An answer without any content is none in YAML, too.
        _ if json.is_empty() => String::new(),
        Ok(yaml) => yaml,
        Err(Unwritable::TooLong) => return Err(context.too_long_for_yaml()),
        Err(Unwritable::Malformed) => {
            return Err(context.unreadable("it is not JSON that can be written as YAML"));
        }
    };
    forget_bytes(&mut parts.headers);
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static(YAML));
    let body = match trailers {
        None => Body::from(yaml),
        Some(trailers) => Body::new(Full::from(yaml).with_trailers(ready(Some(Ok(trailers))))),
    };
    Ok(Response::from_parts(parts, body))
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

    fn size_hint(&self) -> SizeHint {
        let data = |frame: &Result<Frame<Bytes>, BoxError>| frame.as_ref().ok()?.data_ref().map(Bytes::len);
        let held: Option<usize> = self.held.iter().map(data).sum();
        match held {
            // What is known to be all of it has a length that can be told.
            Some(held) if self.rest.is_end_stream() => SizeHint::with_exact(held as u64),
            _ => SizeHint::default(),
        }
    }
}
