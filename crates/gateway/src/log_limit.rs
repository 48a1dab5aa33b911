//! `limitBytes` of logs, after the mask instead of before it.
//!
//! The API server cuts a log off at any byte. A credential that is cut off has no known format any more, and the mask would let
//! nearly all of it pass, or all of it where what is missing is only what follows it. So the server is not told of the limit, the
//! mask sees credentials as they are, and what it leaves is cut off here. The limit then counts what the client receives.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header::CONTENT_LENGTH};
use http_body::{Frame, SizeHint};
use portcullis_core::{Body, BoxError, BoxFuture, RequestInfo};
use tower::{Layer, Service};
use url::form_urlencoded;

/// Takes `limitBytes` out of requests for logs, and ends their answers after as many bytes.
///
/// Stands outside the mask and inside the record, which has the request as it was sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogLimitLayer;

impl<S> Layer<S> for LogLimitLayer {
    type Service = LogLimit<S>;

    fn layer(&self, inner: S) -> LogLimit<S> {
        LogLimit { inner }
    }
}

/// The service of [`LogLimitLayer`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogLimit<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for LogLimit<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let info = request.extensions().get::<RequestInfo>();
        let is_log = info.is_some_and(|info| info.resource == "pods" && info.subresource == "log");
        let limit = is_log.then(|| without_limit(request.uri())).flatten();
        let limit = limit.map(|(uri, limit)| {
            *request.uri_mut() = uri;
            limit
        });
        let answering = self.inner.call(request);
        Box::pin(async move {
            let mut response = answering.await?;
            let Some(left) = limit.filter(|_| response.status() == StatusCode::OK) else {
                return Ok(response);
            };
            response.headers_mut().remove(CONTENT_LENGTH);
            Ok(response.map(|body| Body::new(Limited { inner: Some(body), left })))
        })
    }
}

/// The request without its limit, and the limit. Nothing, if it has none, or one that the API server refuses.
fn without_limit(uri: &Uri) -> Option<(Uri, u64)> {
    let query = uri.query()?;
    // As Go reads a query: by its first value, and never a pair that has a semicolon in it.
    let value = |pair: &str| {
        let (name, value) = form_urlencoded::parse(pair.as_bytes()).next()?;
        (name == "limitBytes" && !pair.contains(';')).then(|| value.into_owned())
    };
    let limit: i64 = query.split('&').find_map(value)?.parse().ok()?;
    let limit = u64::try_from(limit).ok().filter(|limit| *limit > 0)?;
    let rest: Vec<&str> = query.split('&').filter(|pair| value(pair).is_none()).collect();
    let path = match rest.as_slice() {
        [] => uri.path().to_owned(),
        rest => format!("{}?{}", uri.path(), rest.join("&")),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path.parse().ok()?);
    Some((Uri::from_parts(parts).ok()?, limit))
}

/// A body that ends after so many bytes.
struct Limited {
    /// Until it is over: what the server still has to say is nobody's business then.
    inner: Option<Body>,
    left: u64,
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let frame = match ready!(Pin::new(inner).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            end => return Poll::Ready(end),
        };
        let frame = frame.map_data(|mut data| {
            data.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= data.len() as u64;
            data
        });
        if self.left == 0 {
            self.inner = None;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(|inner| inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), |inner| inner.size_hint());
        let mut limited = SizeHint::new();
        limited.set_upper(hint.upper().map_or(self.left, |upper| upper.min(self.left)));
        limited.set_lower(hint.lower().min(self.left));
        limited
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body::Body as _;
    use http_body_util::{BodyExt, StreamBody};
    use tower::{ServiceExt, service_fn};

    use super::*;

    /// What a server is asked for, and what is left of its answer `one two three`, which comes in pieces.
    async fn check(subresource: &str, status: u16, uri: &str, asked: &str, left: &str) {
        let expected = asked.to_owned();
        let server = service_fn(move |request: Request<()>| {
            assert_eq!(request.uri().to_string(), expected);
            let pieces =
                ["one ", "", "two", " three"].map(|piece| Ok::<_, Infallible>(Frame::data(piece.into())));
            let body = Body::new(StreamBody::new(stream::iter(pieces)));
            let answer = Response::builder().status(status).header(CONTENT_LENGTH, 13).body(body).unwrap();
            async { Ok::<_, Infallible>(answer) }
        });
        let mut request = Request::get(uri).body(()).unwrap();
        let info = RequestInfo {
            resource: "pods".to_owned(),
            subresource: subresource.to_owned(),
            ..RequestInfo::default()
        };
        request.extensions_mut().insert(info);
        let answer = LogLimitLayer.layer(server).oneshot(request).await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, left, "{uri}");
    }

    #[tokio::test]
    async fn a_log_is_cut_off_here_and_not_by_the_server() {
        const ALL: &str = "one two three";
        for (uri, asked, left) in [
            ("/log", "/log", ALL),
            ("/log?limitBytes=5", "/log", "one t"),
            ("/log?limitBytes=4", "/log", "one "),
            ("/log?limitBytes=13", "/log", ALL),
            ("/log?limitBytes=1000", "/log", ALL),
            ("/log?a=b&limitBytes=7&c=d%20e", "/log?a=b&c=d%20e", "one two"),
            ("/log?limit%42ytes=3&follow=true", "/log?follow=true", "one"),
            ("https://host/log?limitBytes=3", "https://host/log", "one"),
            // The first counts, and none is left for the server.
            ("/log?limitBytes=3&limitBytes=9", "/log", "one"),
            ("/log?limitBytes=1;&limitBytes=3", "/log?limitBytes=1;", "one"),
        ] {
            check("log", 200, uri, asked, left).await;
        }
        // What the server refuses is for the server to refuse.
        for uri in
            ["/log?limitBytes=0", "/log?limitBytes=-1", "/log?limitBytes=x&limitBytes=3", "/log?limitBytes="]
        {
            check("log", 200, uri, uri, ALL).await;
        }
    }

    #[tokio::test]
    async fn nothing_else_is_cut_off() {
        check("exec", 200, "/exec?limitBytes=5", "/exec?limitBytes=5", "one two three").await;
        // An error is told to its end.
        check("log", 404, "/log?limitBytes=5", "/log", "one two three").await;
    }

    #[tokio::test]
    async fn a_log_that_goes_on_ends_where_it_is_cut_off() {
        let endless =
            stream::iter(std::iter::repeat_with(|| Ok::<_, Infallible>(Frame::data("tick ".into()))));
        let mut body = Limited { inner: Some(Body::new(StreamBody::new(endless))), left: 12 };
        assert!(!body.is_end_stream());
        assert_eq!(body.size_hint().upper(), Some(12));
        assert_eq!((&mut body).collect().await.unwrap().to_bytes(), "tick tick ti");
        assert!(body.is_end_stream() && body.inner.is_none());
    }
}
