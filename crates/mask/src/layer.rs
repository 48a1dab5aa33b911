//! The layer: decides how each answer is read, and sends nothing that it cannot read.

mod begin;
#[cfg(test)]
mod encoding_tests;
#[cfg(test)]
mod tests;

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderName, WARNING},
};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt, Limited};
use pin_project_lite::pin_project;
use portcullis_core::{
    AuditId, Body, BoxError, BoxFuture, BufferedBody, ErrorFormat, Reason, Refusal, RequestInfo, StreamPlan,
    Trail, UnmaskedCopy, refuse,
};
use tower_layer::Layer;
use tower_service::Service;

use begin::begin;

use crate::{
    Caller, Masker, Rules, Scope,
    body::{Engine, MaskBody},
    negotiate::{Coding, Media, Wanted, accepts_gzip, ask_for_readable, coding, media},
    oracle::sets_masked_values,
    protobuf::ProtobufMask,
    stage::MaskStages,
    text::TextScan,
    watch::WatchStages,
};

/// Masks what a service answers, by [`Rules`].
///
/// It reads the request's [`RequestInfo`] and its [`Caller`] from its extensions, where an outer layer left them;
/// without a `RequestInfo` a request is for its path. Counts go to the request's [`Trail`]. It belongs next to the service
/// that answers, so that every other layer sees only what is masked.
///
/// * The service is asked only for what can be read: uncompressed, and, for Kubernetes resources, as JSON, or as protobuf
///   where the client accepts no JSON. For a client that accepts only YAML the JSON is written as YAML, up to
///   [`Limits::held_bytes`](crate::Limits). A client that accepts none of these is refused: 406 `mask/not-acceptable`.
/// * Answers to GET and LIST of Kubernetes resources that are longer than 128 KiB are compressed with gzip, if the client accepts
///   that, as the API server itself does. Their heads wait for so much.
/// * JSON and protobuf are masked by paths, keys and kinds, plain text by detectors; watches and logs keep streaming.
/// * What must be masked and cannot be read is not sent: 502 `mask/unreadable`, or, where the head has been sent already, a
///   body that ends in an error.
/// * What passes through exec and attach, and the events of a watch over WebSocket, is masked by a stage in the request's
///   [`StreamPlan`].
#[derive(Clone, Debug)]
pub struct MaskLayer {
    rules: Rules,
}

impl MaskLayer {
    /// Masks by these rules.
    pub fn new(rules: Rules) -> Self {
        Self { rules }
    }
}

impl<S> Layer<S> for MaskLayer {
    type Service = MaskService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        MaskService { inner, rules: self.rules.clone() }
    }
}

/// What [`MaskLayer`] makes of a service.
#[derive(Clone, Debug)]
pub struct MaskService<S> {
    inner: S,
    rules: Rules,
}

impl<S, B, R> Service<Request<B>> for MaskService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: HttpBody<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = MaskFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let info = RequestInfo::of(&request);
        let extensions = request.extensions();
        let mut scope = self.rules.scope(&info, Caller::of(extensions));
        if scope.shows_more {
            Trail::of(extensions).note().unmasked = true;
        }
        if tries_a_guess(&request, &info, &scope) {
            match scope.with_key_of_its_own() {
                Ok(own) => scope = own,
                Err(_) => {
                    let refusal =
                        Refusal::unavailable("mask/no-randomness", "the system has no randomness to give");
                    return MaskFuture::Refused { response: Some(refuse(request.extensions(), refusal)) };
                }
            }
        }
        if scope.is_empty() {
            return MaskFuture::Inner { inner: self.inner.call(request), context: None };
        }
        let mut context = ResponseContext::new(&request, info, scope);
        if context.asks_for_readable() {
            match ask_for_readable(request.headers_mut(), &context.info) {
                Ok(wanted) => context.yaml = wanted == Wanted::Yaml,
                Err(refusal) => {
                    return MaskFuture::Refused { response: Some(context.refuse(refusal)) };
                }
            }
        }
        if ["exec", "attach"].contains(&context.info.subresource.as_str()) {
            let stages = MaskStages::new(context.scope.clone(), context.trail.clone());
            StreamPlan::add(request.extensions_mut(), Arc::new(stages));
        }
        if context.is_watch() && context.scope.is_structural() {
            let stages = WatchStages::new(context.scope.clone(), context.trail.clone());
            StreamPlan::add(request.extensions_mut(), Arc::new(stages));
        }
        MaskFuture::Inner { inner: self.inner.call(request), context: Some(Box::new(context)) }
    }
}

/// Whether a write would only be tried that sets what is masked: a token that equals the live value's would confirm it.
fn tries_a_guess<B>(request: &Request<B>, info: &RequestInfo, scope: &Scope) -> bool {
    if !info.dry_run || !info.is_mutating() || scope.is_empty() {
        return false;
    }
    let body = request.extensions().get::<BufferedBody>().map(|body| body.0.clone()).unwrap_or_default();
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    sets_masked_values(content_type, &body, scope)
}

pin_project! {
    /// The future of a [`MaskService`]. Dropping it drops the inner call, or the answer as far as it has come.
    #[project = MaskFutureProjection]
    pub enum MaskFuture<F> {
        /// The service has been called.
        #[doc(hidden)]
        Inner { #[pin] inner: F, context: Option<Box<ResponseContext>> },
        /// It has answered, and the gateway itself wants that as it is.
        #[doc(hidden)]
        Copying { copying: BoxFuture<'static, Response<Body>>, context: Option<Box<ResponseContext>> },
        /// It has answered, but what its head has to say has to be seen.
        #[doc(hidden)]
        Beginning { beginning: BoxFuture<'static, Response<Body>> },
        /// The request was refused.
        #[doc(hidden)]
        Refused { response: Option<Response<Body>> },
    }
}

impl<F, R, E> Future for MaskFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: HttpBody<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match self.as_mut().project() {
                MaskFutureProjection::Refused { response } => {
                    return response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(response)));
                }
                MaskFutureProjection::Copying { copying, context } => {
                    let response = ready!(copying.as_mut().poll(cx));
                    let Some(mut context) = context.take() else { return Poll::Pending };
                    match context.mask(response) {
                        Masked::Whole(response) => return Poll::Ready(Ok(response)),
                        Masked::Begins(response) => {
                            self.set(Self::Beginning { beginning: Box::pin(begin(response, context)) })
                        }
                    }
                }
                MaskFutureProjection::Beginning { beginning } => return beginning.as_mut().poll(cx).map(Ok),
                MaskFutureProjection::Inner { inner, context } => {
                    let response = ready!(inner.poll(cx))?;
                    let Some(mut context) = context.take() else {
                        return Poll::Ready(Ok(response.map(Body::new)));
                    };
                    if let Some(copy) = context.unmasked.take() {
                        let limit = context.scope.limits().held_bytes;
                        let copying = Box::pin(leave_copy(response.map(Body::new), copy, limit));
                        self.set(Self::Copying { copying, context: Some(context) });
                        continue;
                    }
                    match context.mask(response) {
                        Masked::Whole(response) => return Poll::Ready(Ok(response)),
                        Masked::Begins(response) => {
                            self.set(Self::Beginning { beginning: Box::pin(begin(response, context)) })
                        }
                    }
                }
            }
        }
    }
}

/// Leaves an answer for the gateway itself, as it came. One that breaks off, or is longer than `limit`, is not left, and goes
/// on as an empty one.
async fn leave_copy(response: Response<Body>, copy: UnmaskedCopy, limit: usize) -> Response<Body> {
    let (parts, body) = response.into_parts();
    let read = Limited::new(body, limit).collect().await.map(|read| read.to_bytes());
    if let Ok(read) = &read {
        copy.put(read.clone());
    }
    Response::from_parts(parts, read.map_or_else(|_| Body::empty(), Body::from))
}

/// An answer that may be sent.
enum Masked {
    /// As it is.
    Whole(Response<Body>),
    /// Once enough of it could be read.
    Begins(Response<Body>),
}

/// What of a request must be known when its answer comes.
#[doc(hidden)]
pub struct ResponseContext {
    info: RequestInfo,
    scope: Scope,
    head: bool,
    /// The Kubernetes API beside its resources: discovery, version, health, metrics.
    beside: bool,
    /// Whether the client would have a long answer compressed, as the API server does.
    gzip: bool,
    /// Whether the client is to get YAML: at first what it wants, then what this answer can be.
    yaml: bool,
    trail: Trail,
    /// Where the gateway itself wants the answer as it is.
    unmasked: Option<UnmaskedCopy>,
    /// What a refusal is written by, beside these.
    format: Option<ErrorFormat>,
    audit_id: Option<AuditId>,
}

/// How an answer is read.
enum Treatment {
    Pass,
    Json { sequence: bool },
    Protobuf { events: bool },
    Text { messages: bool },
    Unreadable(String),
}

impl ResponseContext {
    fn new<B>(request: &Request<B>, info: RequestInfo, scope: Scope) -> Self {
        let trail = Trail::of(request.extensions());
        let format = request.extensions().get::<ErrorFormat>().copied();
        let audit_id = request.extensions().get::<AuditId>().copied();
        let beside = !info.is_resource_request && format == Some(ErrorFormat::Status);
        let unmasked = request.extensions().get::<UnmaskedCopy>().cloned();
        let reads = info.is_resource_request && ["get", "list"].contains(&info.verb.as_str());
        let gzip = reads
            && !info.is_long_running()
            && request.method() == Method::GET
            && accepts_gzip(request.headers());
        let head = request.method() == Method::HEAD;
        Self { info, scope, head, beside, gzip, yaml: false, trail, unmasked, format, audit_id }
    }

    fn is_watch(&self) -> bool {
        self.info.is_resource_request && self.info.verb == "watch"
    }

    fn asks_for_readable(&self) -> bool {
        self.scope.is_structural() || self.scope.covers_text()
    }

    fn mask<R>(&mut self, response: Response<R>) -> Masked
    where
        R: HttpBody<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let (mut parts, body) = response.into_parts();
        mask_warnings(&mut parts.headers, &self.scope, &self.trail);
        if !parts.status.is_success() && self.scope.is_kubernetes() {
            self.scope.presume("Status");
        }
        let empty = self.head || body.is_end_stream();
        self.yaml = self.yaml && !empty && media(&parts.headers).0 == Media::Json;
        let engine = match self.treatment(parts.status, &parts.headers, empty) {
            Treatment::Pass => return self.unread(Response::from_parts(parts, Body::new(body))),
            Treatment::Unreadable(what) => return Masked::Whole(self.unreadable(&what)),
            Treatment::Json { sequence: true } => {
                Engine::JsonSequence(Box::new(Masker::sequence(self.scope.clone())))
            }
            Treatment::Json { sequence: false } => Engine::Json(Box::new(Masker::new(self.scope.clone()))),
            Treatment::Protobuf { events: true } => {
                Engine::ProtobufEvents(Box::new(ProtobufMask::events(self.scope.clone())))
            }
            Treatment::Protobuf { events: false } => {
                Engine::Protobuf(Box::new(ProtobufMask::object(self.scope.clone())))
            }
            Treatment::Text { messages } => {
                let plan = self.scope.text_plan(messages);
                if plan.is_empty() {
                    return self.unread(Response::from_parts(parts, Body::new(body)));
                }
                Engine::Text(Box::new(TextScan::new(plan)))
            }
        };
        let gzip = coding(&parts.headers) == Coding::Gzip;
        forget_bytes(&mut parts.headers);
        let is_document = engine.is_document() || self.yaml;
        let body = MaskBody::new(body, engine, gzip, self.scope.clone(), self.trail.clone());
        let response = Response::from_parts(parts, Body::new(body));
        // A stream's head goes out before anything happens.
        if is_document { Masked::Begins(response) } else { Masked::Whole(response) }
    }

    /// An answer that no rule has anything to do with.
    fn unread(&self, response: Response<Body>) -> Masked {
        match self.yaml && coding(response.headers()) == Coding::Identity {
            true => Masked::Begins(response),
            false => Masked::Whole(response),
        }
    }

    fn treatment(&self, status: StatusCode, headers: &HeaderMap, empty: bool) -> Treatment {
        let kubernetes = self.info.is_resource_request;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return match kubernetes && !self.info.is_connect() && !self.is_watch() {
                true => Treatment::Unreadable("it changes the protocol".to_owned()),
                false => Treatment::Pass,
            };
        }
        if empty || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status) {
            return Treatment::Pass;
        }
        let proxied = kubernetes && self.info.subresource == "proxy";
        let log = kubernetes && self.info.subresource == "log";
        let structural = self.scope.is_structural();
        let (media, content_type) = media(headers);
        let treatment = match media {
            Media::Json | Media::JsonSequence if structural && !(log && status.is_success()) => {
                let watch = self.is_watch() && status.is_success();
                Treatment::Json { sequence: watch || media == Media::JsonSequence }
            }
            _ if log => Treatment::Text { messages: !status.is_success() },
            Media::Text | Media::Json | Media::JsonSequence
                if !kubernetes || proxied || !status.is_success() =>
            {
                Treatment::Text { messages: !status.is_success() }
            }
            Media::Protobuf | Media::ProtobufEvents if kubernetes && structural && !proxied => {
                Treatment::Protobuf { events: media == Media::ProtobufEvents }
            }
            Media::Protobuf | Media::ProtobufEvents | Media::KubernetesBinary if proxied => {
                Treatment::Unreadable(content_type)
            }
            Media::Other | Media::Missing if proxied => Treatment::Pass,
            _ if self.beside || !structural => Treatment::Pass,
            Media::Other if !kubernetes && self.scope.passes_content_type(&content_type) => Treatment::Pass,
            _ => Treatment::Unreadable(content_type),
        };
        match treatment {
            Treatment::Pass | Treatment::Unreadable(_) => treatment,
            _ if status == StatusCode::PARTIAL_CONTENT => {
                Treatment::Unreadable("it is a part of a document".to_owned())
            }
            _ if coding(headers) == Coding::Unknown => {
                Treatment::Unreadable("it has an unknown content coding".to_owned())
            }
            treatment => treatment,
        }
    }

    fn unreadable(&self, what: &str) -> Response<Body> {
        let rules: Vec<_> = self.scope.rule_names().take(8).map(|name| format!("`{name}`")).collect();
        let message = format!(
            "the answer was to be masked by {}, but it cannot be read ({what}), so it was not sent",
            rules.join(", ")
        );
        tracing::warn!(path = %self.info.path, %what, "an answer was withheld, since it cannot be masked");
        self.refuse(Refusal::new(Reason::BadGateway, "mask/unreadable", message))
    }

    fn refuse(&self, refusal: Refusal) -> Response<Body> {
        let mut extensions = Extensions::new();
        if let Some(format) = self.format {
            extensions.insert(format);
        }
        if let Some(id) = self.audit_id {
            extensions.insert(id);
        }
        extensions.insert(self.info.clone());
        extensions.insert(self.trail.clone());
        refuse(&extensions, refusal)
    }

    fn too_long_for_yaml(&self) -> Response<Body> {
        let message =
            "the answer is longer than may be written as YAML (`mask.limits.heldBytes`), so it was not sent";
        let refusal = Refusal::new(Reason::BadGateway, "mask/unreadable", message)
            .advice("let the client accept application/json, or ask for less");
        self.refuse(refusal)
    }
}

/// Removes what speaks of a body's bytes as they were.
fn forget_bytes(headers: &mut HeaderMap) {
    let is_of_bytes = |name: &&HeaderName| {
        matches!(
            name.as_str(),
            "content-length"
                | "etag"
                | "accept-ranges"
                | "content-encoding"
                | "content-md5"
                | "digest"
                | "content-digest"
                | "repr-digest"
        )
    };
    let found: Vec<HeaderName> = headers.keys().filter(is_of_bytes).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// Masks what servers warn of (RFC 9111 §5.5), in headers and trailers.
pub(crate) fn mask_warnings(headers: &mut HeaderMap, scope: &Scope, trail: &Trail) {
    if !headers.contains_key(WARNING) {
        return;
    }
    let warnings: Vec<HeaderValue> = headers.get_all(WARNING).iter().cloned().collect();
    headers.remove(WARNING);
    for warning in warnings {
        let text = String::from_utf8_lossy(warning.as_bytes());
        let (masked, counts) = scope.redact_message(&text);
        for (rule, count) in &counts {
            trail.masked(rule, *count);
        }
        match counts.is_empty() {
            true => drop(headers.append(WARNING, warning)),
            // What cannot be written as a header is left out.
            false => drop(HeaderValue::from_str(&masked).map(|value| headers.append(WARNING, value))),
        }
    }
}
