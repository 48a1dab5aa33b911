//! What one identity may ask for at once.

use std::{
    collections::HashMap,
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use portcullis_core::{
    Body, BoxError, BoxFuture, Identity, Reason, Refusal, RequestInfo, StreamPlan, refuse,
};
use tower::{Layer, Service};

use crate::{server::ConnectionPlace, while_open::WhileOpen};

/// Refuses (429) what an identity asks for beyond its share; one agent cannot starve the others.
///
/// Short requests and long-running ones (watches, followed logs, connections) are counted apart. What counts goes on counting
/// until its answer has been read, and a connection that was upgraded (exec, attach, port-forward) until its stream is over.
#[derive(Clone, Debug)]
pub(crate) struct IdentityLimitLayer {
    shared: Arc<Counts>,
}

impl IdentityLimitLayer {
    /// At most so many requests, and so many streams, of one identity at once.
    pub(crate) fn new(requests: usize, streams: usize) -> Self {
        Self { shared: Arc::new(Counts { requests, streams, open: Mutex::default() }) }
    }
}

#[derive(Debug)]
struct Counts {
    requests: usize,
    streams: usize,
    /// By issuer, subject and whether long-running. Entries go when they fall to nothing, so strangers cannot grow it.
    open: Mutex<HashMap<(String, String, bool), usize>>,
}

impl Counts {
    fn enter(self: &Arc<Self>, identity: &Identity, long_running: bool) -> Option<Entered> {
        let limit = if long_running { self.streams } else { self.requests };
        let key = (identity.issuer.clone(), identity.subject.clone(), long_running);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(key.clone()).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Entered { counts: self.clone(), key })
    }
}

/// One request being counted, until it is dropped.
#[derive(Debug)]
struct Entered {
    counts: Arc<Counts>,
    key: (String, String, bool),
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut open = self.counts.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.key);
            }
        }
    }
}

impl<S> Layer<S> for IdentityLimitLayer {
    type Service = IdentityLimit<S>;

    fn layer(&self, inner: S) -> IdentityLimit<S> {
        IdentityLimit { inner, shared: self.shared.clone() }
    }
}

/// The service of [`IdentityLimitLayer`].
#[derive(Clone, Debug)]
pub(crate) struct IdentityLimit<S> {
    inner: S,
    shared: Arc<Counts>,
}

impl<S, B> Service<Request<B>> for IdentityLimit<S>
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
        let long_running =
            request.extensions().get::<RequestInfo>().is_some_and(RequestInfo::is_long_running);
        let entered = match request.extensions().get::<Identity>() {
            None => return Box::pin(self.inner.call(request)),
            Some(identity) => match self.shared.enter(identity, long_running) {
                Some(entered) => entered,
                None => {
                    let refusal = Refusal::new(
                        Reason::TooManyRequests,
                        "limits/identity",
                        format!("{} has too many requests open at once", identity.user),
                    )
                    .advice("wait for some to end")
                    .retry_after(Duration::from_secs(1));
                    let response = refuse(request.extensions(), refusal);
                    return Box::pin(std::future::ready(Ok(response)));
                }
            },
        };
        if !long_running {
            let answering = self.inner.call(request);
            return Box::pin(async move { Ok(counted(answering.await?, Some(entered))) });
        }
        // Should it become a stream of its own, then the body of its answer (101) is empty and gone at once, and so is the
        // HTTP connection. The stream takes what it counts as with it, and leaves nothing for the body.
        let place = request.extensions().get::<ConnectionPlace>().cloned();
        let entered = Arc::new(WhileOpen::new((entered, place)));
        StreamPlan::add(request.extensions_mut(), entered.clone());
        let answering = self.inner.call(request);
        Box::pin(async move {
            let response = answering.await?;
            Ok(counted(response, entered.take().map(|(entered, _)| entered)))
        })
    }
}

fn counted(response: Response<Body>, entered: Option<Entered>) -> Response<Body> {
    response.map(|inner| Body::new(CountedBody { inner, _entered: entered }))
}

pin_project! {
    /// Counts until the answer has been read, not only until it began.
    struct CountedBody {
        #[pin]
        inner: Body,
        _entered: Option<Entered>,
    }
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use portcullis_core::{StreamEnd, StreamInfo, StreamStage, StreamTransport};
    use tokio::sync::{Semaphore, mpsc};
    use tower::{ServiceBuilder, ServiceExt, service_fn};

    use super::*;

    fn request(subject: &str) -> Request<Body> {
        let mut request = Request::new(Body::empty());
        request.extensions_mut().insert(Identity { subject: subject.into(), ..Identity::default() });
        request
    }

    /// A request for an exec, over a connection that has a place among so many.
    fn exec(connections: &Arc<Semaphore>) -> Request<Body> {
        let mut request = request("ci");
        let info = RequestInfo {
            is_resource_request: true,
            verb: "create".into(),
            resource: "pods".into(),
            subresource: "exec".into(),
            ..RequestInfo::default()
        };
        assert!(info.is_long_running());
        let place = connections.clone().try_acquire_owned().unwrap();
        request.extensions_mut().insert(info);
        request.extensions_mut().insert(ConnectionPlace::new(place));
        request
    }

    #[tokio::test]
    async fn a_request_counts_until_its_answer_has_been_read() {
        let service = ServiceBuilder::new()
            .layer(IdentityLimitLayer::new(1, 1))
            .service(service_fn(|_: Request<Body>| async { Ok(Response::new(Body::from("answer"))) }));
        let first = service.clone().oneshot(request("ci")).await.unwrap();
        assert_eq!(first.status(), StatusCode::OK);
        let second = service.clone().oneshot(request("ci")).await.unwrap();
        assert_eq!(second.status(), StatusCode::TOO_MANY_REQUESTS);
        let other = service.clone().oneshot(request("dana")).await.unwrap();
        assert_eq!(other.status(), StatusCode::OK);
        drop(first);
        let third = service.oneshot(request("ci")).await.unwrap();
        assert_eq!(third.status(), StatusCode::OK);
    }
    #[tokio::test]
    async fn a_connection_counts_until_its_stream_is_over() {
        let (opened, mut streams) = mpsc::unbounded_channel();
        let service = ServiceBuilder::new().layer(IdentityLimitLayer::new(1, 1)).service(service_fn(
            move |request: Request<Body>| {
                let opened = opened.clone();
                async move {
                    let plan = request.extensions().get::<StreamPlan>().unwrap().clone();
                    let info = StreamInfo {
                        request: RequestInfo::default(),
                        audit_id: None,
                        transport: StreamTransport::WebSocket,
                        subprotocol: String::new(),
                        command: Vec::new(),
                        container: None,
                        tty: false,
                    };
                    opened.send(plan.open(&info).await.unwrap()).unwrap();
                    let mut response = Response::new(Body::empty());
                    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                    Ok(response)
                }
            },
        ));
        let connections = Arc::new(Semaphore::new(2));
        let ask = async || service.clone().oneshot(exec(&connections)).await.unwrap().status();

        // The answer, the request and its connection are gone; the stream is not.
        assert_eq!(ask().await, StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(connections.available_permits(), 1);
        assert_eq!(ask().await, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(connections.available_permits(), 1);

        let stages: Vec<Box<dyn StreamStage>> = streams.recv().await.unwrap();
        for stage in stages {
            stage.close(StreamEnd::Closed).await;
        }
        assert_eq!(connections.available_permits(), 2);
        assert_eq!(ask().await, StatusCode::SWITCHING_PROTOCOLS);
    }

    #[tokio::test]
    async fn what_was_not_upgraded_counts_as_any_answer_does() {
        let service = ServiceBuilder::new()
            .layer(IdentityLimitLayer::new(1, 1))
            .service(service_fn(|_: Request<Body>| async { Ok(Response::new(Body::from("no such pod"))) }));
        let connections = Arc::new(Semaphore::new(3));
        let first = service.clone().oneshot(exec(&connections)).await.unwrap();
        let second = service.clone().oneshot(exec(&connections)).await.unwrap();
        assert_eq!(second.status(), StatusCode::TOO_MANY_REQUESTS);
        drop(first);
        assert_eq!(service.oneshot(exec(&connections)).await.unwrap().status(), StatusCode::OK);
        assert_eq!(connections.available_permits(), 3);
    }
}
