//! The one cut point: an answer that is still streaming ends when what its request relies on ends.
//!
//! Upgraded streams are cut by the relay, which watches the same [`Liveness`].

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, header::CONTENT_TYPE};
use http_body::{Body as _, Frame, SizeHint};
use portcullis_core::{Body, BoxError, BoxFuture, Ended, Liveness, RequestInfo, Trail};
use serde_json::json;
use tower::{Layer, Service};

/// Ends streaming answers with the [`Liveness`] that inner layers' requests carry.
///
/// Stands inside the layers that authenticate, since they say how long an identity stays good.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CutLayer;

impl<S> Layer<S> for CutLayer {
    type Service = Cut<S>;

    fn layer(&self, inner: S) -> Cut<S> {
        Cut { inner }
    }
}

/// The service of [`CutLayer`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for Cut<S>
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

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let liveness = request.extensions().get::<Liveness>().cloned();
        let is_watch = request.extensions().get::<RequestInfo>().is_some_and(|info| info.verb == "watch");
        let trail = Trail::of(request.extensions());
        let answering = self.inner.call(request);
        Box::pin(async move {
            let response = answering.await?;
            // An answer whose length is known is short; only what may go on for long is worth watching.
            let (Some(liveness), None) = (liveness, response.body().size_hint().exact()) else {
                return Ok(response);
            };
            let says_why = is_watch
                && response
                    .headers()
                    .get(CONTENT_TYPE)
                    .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
            Ok(response.map(|body| {
                Body::new(CutBody {
                    inner: body,
                    ended: liveness.ended(),
                    says_why,
                    at_boundary: true,
                    done: false,
                    trail,
                })
            }))
        })
    }
}

struct CutBody {
    inner: Body,
    ended: BoxFuture<'static, Ended>,
    /// Whether the client understands an `ERROR` watch event.
    says_why: bool,
    /// Whether what was sent so far ends at an event's border.
    at_boundary: bool,
    done: bool,
    trail: Trail,
}

impl CutBody {
    fn cut(&mut self, why: Ended) -> Option<Result<Frame<Bytes>, BoxError>> {
        self.done = true;
        self.trail.note().notes.insert("cut", json!(why));
        if !(self.says_why && self.at_boundary) {
            return Some(Err(why.to_string().into()));
        }
        // Who is signed in still is, when it is only we who go.
        let (reason, code) = match why {
            Ended::Draining | Ended::Unrecorded => ("ServiceUnavailable", 503),
            _ => ("Unauthorized", 401),
        };
        let event = json!({
            "type": "ERROR",
            "object": {
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "reason": reason, "code": code,
                "message": format!("the gateway ended this watch: {why}"),
            },
        });
        Some(Ok(Frame::data(format!("{event}\n").into())))
    }
}

impl http_body::Body for CutBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.done {
            return Poll::Ready(None);
        }
        if let Poll::Ready(why) = self.ended.as_mut().poll(cx) {
            return Poll::Ready(self.cut(why));
        }
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(last) = frame.data_ref().and_then(|data| data.last())
        {
            self.at_boundary = *last == b'\n';
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.done || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::{BodyExt, StreamBody};
    use tokio::sync::watch;
    use tower::{ServiceBuilder, ServiceExt, service_fn};

    use super::*;

    /// Sends `first`, then nothing for ever; the grant behind it is revoked after that. What does the client see?
    async fn check(verb: &str, content_type: &'static str, first: &'static str) -> (String, bool) {
        check_end(Ended::Revoked, verb, content_type, first).await
    }

    async fn check_end(
        why: Ended,
        verb: &str,
        content_type: &'static str,
        first: &'static str,
    ) -> (String, bool) {
        let (revoke, revoked) = watch::channel(false);
        let revoked = Arc::new(revoked);
        let liveness = Liveness::new(move || -> BoxFuture<'static, Ended> {
            let mut revoked = (*revoked).clone();
            Box::pin(async move {
                let _ = revoked.wait_for(|gone| *gone).await;
                why
            })
        });
        let service =
            ServiceBuilder::new().layer(CutLayer).service(service_fn(move |_: Request<Body>| async move {
                let stream = futures_util::StreamExt::chain(
                    futures_util::stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(
                        first.as_bytes(),
                    )))]),
                    futures_util::stream::pending(),
                );
                let mut response = Response::new(Body::new(StreamBody::new(stream)));
                response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
                Ok::<_, Infallible>(response)
            }));
        let mut request = Request::new(Body::empty());
        request.extensions_mut().insert(RequestInfo { verb: verb.into(), ..RequestInfo::default() });
        liveness.add_to(request.extensions_mut());
        let mut body = service.oneshot(request).await.unwrap().into_body();
        let mut seen = body.frame().await.unwrap().unwrap().into_data().unwrap().to_vec();
        revoke.send(true).unwrap();
        let mut broken = false;
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => seen.extend_from_slice(&frame.into_data().unwrap()),
                Err(_) => broken = true,
            }
        }
        (String::from_utf8(seen).unwrap(), broken)
    }

    #[tokio::test]
    async fn a_watch_is_told_why_it_ends() {
        let (seen, broken) = check("watch", "application/json", "{\"type\":\"ADDED\"}\n").await;
        assert!(
            seen.contains("the grant was revoked") && seen.contains("401") && seen.ends_with("}\n"),
            "{seen}"
        );
        assert!(!broken);
        let (seen, _) =
            check_end(Ended::Draining, "watch", "application/json", "{\"type\":\"ADDED\"}\n").await;
        assert!(seen.contains("the gateway is shutting down") && seen.contains("503"), "{seen}");
    }

    #[tokio::test]
    async fn what_cannot_be_told_is_broken_off_and_never_looks_complete() {
        assert!(check("get", "text/plain", "a log line\n").await.1);
        assert!(check("watch", "application/json", "{\"type\":").await.1);
        assert!(check("watch", "application/vnd.kubernetes.protobuf;stream=watch", "\n").await.1);
    }
}
