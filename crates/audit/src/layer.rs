//! The outermost layer: gives each request its id, and sees to it that each has an outcome.

use std::fmt;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use portcullis_core::{
    AuditId, Body, BoxError, BoxFuture, Classifier, Connection, HttpClassifier, Identity, RecordError,
    Refusal, RequestInfo, StreamPlan, Trail, refuse,
};
use tower_layer::Layer;
use tower_service::Service;
use tracing::{Instrument as _, field};

use crate::audit::Audit;
use crate::body::{CountingBody, RecordingBody, WholeBody};
use crate::exchange::{Context, Exchange};
use crate::record::End;
use crate::stream::{Recorder, StreamSlot};

/// The response header that tells the client its request's id, as the API server does.
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// Records what became of each request; stands outside all other layers.
///
/// For each request it reserves the outcome's place in the log (or refuses with 503), classifies the request (or refuses
/// with 400), and puts an [`AuditId`], an `ErrorFormat`, a [`RequestInfo`], a [`Trail`] and a [`StreamPlan`] with the
/// recorder into the request's extensions. The response's last data frame, or its end, is withheld until the outcome is
/// in the log. Of an upgraded stream the outcome is written when it ends.
///
/// A request that arrives with an [`AuditId`] in its extensions is one the gateway sends itself on behalf of that other;
/// it keeps its [`RequestInfo`], [`Identity`] and [`Trail`], and its record names its parent.
#[derive(Clone)]
pub struct AuditLayer {
    audit: Audit,
    classifier: Arc<dyn Classifier>,
}

impl AuditLayer {
    /// Records into `audit`; every request is a non-resource request until a [`classifier`](Self::classifier) says more.
    pub fn new(audit: Audit) -> Self {
        Self { audit, classifier: Arc::new(HttpClassifier) }
    }

    /// Who says what a request is, and how refusals are written.
    #[must_use]
    pub fn classifier(mut self, classifier: Arc<dyn Classifier>) -> Self {
        self.classifier = classifier;
        self
    }
}

impl<S> Layer<S> for AuditLayer {
    type Service = AuditService<S>;

    fn layer(&self, inner: S) -> AuditService<S> {
        AuditService { inner, layer: self.clone() }
    }
}

impl fmt::Debug for AuditLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLayer").field("audit", &self.audit).finish_non_exhaustive()
    }
}

/// What [`AuditLayer`] makes of a service.
#[derive(Clone, Debug)]
pub struct AuditService<S> {
    inner: S,
    layer: AuditLayer,
}

impl<S, B, R> Service<Request<B>> for AuditService<S>
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let (mut parts, body) = request.into_parts();
        let (exchange, refusal) = match self.layer.open(&mut parts) {
            Ok(opened) => opened,
            Err(refusal) => {
                let response = refuse(&parts.extensions, refusal);
                return Box::pin(async move { Ok(response) });
            }
        };
        if let Some(refusal) = refusal {
            let response = refuse(&parts.extensions, refusal);
            return Box::pin(async move { Ok(answer(exchange, response).await) });
        }

        let context = exchange.context().clone();
        let stream = Arc::new(StreamSlot::default());
        StreamPlan::add(&mut parts.extensions, Arc::new(Recorder::new(context.clone(), stream.clone())));
        parts.extensions.insert(context.clone());
        let body = match body.is_end_stream() {
            true => Body::new(body),
            false => Body::new(CountingBody::new(Body::new(body), context)),
        };
        let span = exchange.span().clone();
        let response = inner.call(Request::from_parts(parts, body)).instrument(span);
        Box::pin(async move {
            let response = match response.await {
                Ok(response) => response,
                Err(error) => {
                    let mut exchange = exchange;
                    exchange.error("the service failed");
                    // There is no response to withhold; the error itself goes to the embedder.
                    exchange.finish_unattended(End::Failed);
                    return Err(error);
                }
            };
            Ok(match response.status() {
                StatusCode::SWITCHING_PROTOCOLS => upgrade(exchange, &stream, response),
                _ => answer(exchange, response).await,
            })
        })
    }
}

impl AuditLayer {
    /// Opens a request: its id, its place in the log, its class. `Err`: there is no place for it in the log, so it is
    /// refused without one. `Ok(_, Some(refusal))`: it cannot be classified, and that is its outcome.
    fn open(&self, parts: &mut Parts) -> Result<(Exchange, Option<Refusal>), Refusal> {
        let (id, parent) = (AuditId::generate(), parts.extensions.remove::<AuditId>());
        parts.extensions.insert(id);
        let error_format = self.classifier.error_format(&parts.uri);
        parts.extensions.insert(error_format);
        let slot = self.audit.reserve().map_err(|error| {
            tracing::error!(%error, audit_id = %id, "refused a request, since it cannot be recorded");
            error.into_refusal()
        })?;

        // What a layer of ours found out already stands; nothing on the wire can put it there.
        let classified = match parts.extensions.get::<RequestInfo>() {
            Some(info) if parent.is_some() => Ok(info.clone()),
            _ => self.classifier.classify(parts),
        };
        let (info, refusal) = match classified {
            Ok(info) => (info, None),
            Err(refusal) => (RequestInfo::non_resource(&parts.method, parts.uri.path()), Some(refusal)),
        };
        let trail = match parent {
            // Why we send it ourselves may be noted already.
            Some(_) => {
                let trail = parts.extensions.get::<Trail>().cloned().unwrap_or_default();
                trail.note().identity = parts.extensions.get::<Identity>().cloned();
                trail
            }
            None => Trail::default(),
        };
        parts.extensions.insert(info.clone());
        parts.extensions.insert(trail.clone());
        // A plan from outside would record into another request's place.
        parts.extensions.remove::<StreamPlan>();

        let span = tracing::info_span!(
            "request",
            audit_id = %id,
            verb = info.effective_verb(),
            resource = info.resource_path(),
            namespace = info.namespace,
            user = field::Empty,
            end = field::Empty,
            "http.response.status_code" = field::Empty,
        );
        let context = Context::new(
            self.audit.clone(),
            id,
            parent,
            info,
            (parts.method.clone(), parts.uri.clone()),
            text(&parts.headers, &USER_AGENT),
            parts.extensions.get::<Connection>().cloned(),
            trail,
            error_format,
        );
        Ok((Exchange::new(Arc::new(context), slot, span), refusal))
    }
}

/// Hands the response out while it is recorded.
async fn answer<R>(mut exchange: Exchange, response: Response<R>) -> Response<Body>
where
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let (mut head, body) = response.into_parts();
    exchange.head(head.status, text(&head.headers, &CONTENT_TYPE));
    insert_id(&mut head.headers, exchange.context().id);
    let mut body = Body::new(body);
    if body.size_hint().exact().is_none_or(|size| size > SMALL) && !body.is_end_stream() {
        return Response::from_parts(head, Body::new(RecordingBody::new(body, exchange)));
    }

    // A short body is read whole, so that head and body leave together, and a log that fails is a clean 503.
    let mut whole = WholeBody::default();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                if let Some(data) = frame.data_ref() {
                    exchange.data(data);
                }
                whole.push(frame);
            }
            Err(error) => {
                exchange.error(&error.to_string());
                let recorded = exchange.finish(End::Failed).await;
                whole.fail(recorded.err().map_or(error, Into::into));
                return Response::from_parts(head, Body::new(whole));
            }
        }
    }
    let context = exchange.context().clone();
    match exchange.finish(End::Completed).await {
        Ok(()) => Response::from_parts(head, whole.into_body()),
        Err(error) => {
            let refusal = unrecorded(&context, error);
            let mut response = refusal.to_response(context.error_format, Some(&context.info));
            insert_id(response.headers_mut(), context.id);
            response
        }
    }
}

/// How long a response may be to be read whole before its head is sent.
const SMALL: u64 = 16 * 1024;

/// The answer in place of one whose outcome is not in the log. No `Retry-After`: clients would send a write again.
fn unrecorded(context: &Context, error: RecordError) -> Refusal {
    let message = match context.trail.note().intent.is_some() {
        true => "the request was forwarded, but its outcome cannot be recorded, so the answer is withheld",
        false => "the outcome cannot be recorded, so the answer is withheld",
    };
    Refusal::unavailable("audit/outcome-unrecorded", message)
        .advice("look at what it did before sending it again")
        .detail(error.0)
}

/// The connection becomes a stream; its outcome is written when that ends.
fn upgrade<R>(mut exchange: Exchange, stream: &StreamSlot, response: Response<R>) -> Response<Body>
where
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let mut response = response.map(Body::new);
    exchange.status(response.status());
    insert_id(response.headers_mut(), exchange.context().id);
    stream.attach(exchange);
    response
}

fn insert_id(headers: &mut HeaderMap, id: AuditId) {
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        headers.insert(AUDIT_ID, value);
    }
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}
