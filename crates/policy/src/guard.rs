//! The layer that asks the policy about each request.
//!
//! # Invariants
//!
//! * A request without an identity is not judged: it is refused.
//! * The body is read at most once, and within a limit; what was read is what goes on.
//! * Only requests that were not denied reach the inner service; those to be held carry the verdict that says so.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, header::CONTENT_ENCODING, request::Parts};
use http_body_util::BodyExt;
use portcullis_core::{
    Body, BoxError, BoxFuture, BufferedBody, Decision, Grant, Identity, Reason, Refusal, RequestInfo, Trail,
    Verdict, refuse,
};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    facts::{BodyState, Facts},
    policy::{Policy, PolicyHandle, Unjudged},
};

/// What the API server itself accepts (`--max-resource-write-bytes`, `MaxRequestBodyBytes`).
const DEFAULT_MAX_BODY: usize = 3 << 20;

/// Asks a policy about each request, and lets those pass that it does not deny.
#[derive(Clone, Debug)]
pub struct GuardLayer {
    policy: PolicyHandle,
    settings: Settings,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    max_body: usize,
    always_buffer: bool,
    anonymous: bool,
}

impl GuardLayer {
    /// A layer that asks the policy that `policy` holds at the time.
    pub fn new(policy: impl Into<PolicyHandle>) -> Self {
        let settings = Settings { max_body: DEFAULT_MAX_BODY, always_buffer: true, anonymous: false };
        Self { policy: policy.into(), settings }
    }

    /// How many bytes of a request's body are read at most; 3 MiB by default, as at the API server.
    #[must_use]
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.settings.max_body = bytes;
        self
    }

    /// Reads a body only where a rule needs it or the request is to be held, and streams the others: for services with
    /// uploads. Inner layers then cannot rely on a [`BufferedBody`].
    #[must_use]
    pub fn stream_bodies(mut self) -> Self {
        self.settings.always_buffer = false;
        self
    }

    /// Judges requests without an [`Identity`] as those of `system:anonymous`, instead of refusing them.
    #[must_use]
    pub fn insecure_anonymous(mut self) -> Self {
        self.settings.anonymous = true;
        self
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner, policy: self.policy.clone(), settings: self.settings }
    }
}

/// The service of a [`GuardLayer`].
#[derive(Clone, Debug)]
pub struct Guard<S> {
    inner: S,
    policy: PolicyHandle,
    settings: Settings,
}

impl<S, B, R> Service<Request<B>> for Guard<S>
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

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let (policy, settings) = (self.policy.load(), self.settings);
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            match judge(&policy, settings, &mut parts, Body::new(body)).await {
                Ok(body) => Ok(inner.call(Request::from_parts(parts, body)).await?.map(Body::new)),
                Err(refusal) => Ok(refuse(&parts.extensions, refusal)),
            }
        })
    }
}

/// Reads what must be read, judges, and leaves the verdict in the extensions. Returns the body that goes on.
async fn judge(
    policy: &Arc<Policy>,
    settings: Settings,
    parts: &mut Parts,
    mut body: Body,
) -> Result<Body, Refusal> {
    refuse_impersonation(&parts.headers)?;
    let info = match parts.extensions.get::<RequestInfo>() {
        Some(info) => info.clone(),
        None => RequestInfo::non_resource(&parts.method, parts.uri.path()),
    };
    let identity = identity(parts, settings)?;
    let carries_object = info.is_mutating() && !info.is_connect();
    if carries_object {
        refuse_encoded(&parts.headers)?;
    }
    let mut buffered = parts.extensions.get::<BufferedBody>().cloned();
    if carries_object && settings.always_buffer && buffered.is_none() {
        (body, buffered) = buffer(body, settings.max_body, &mut parts.extensions).await?;
    }

    let verdict = loop {
        // Facts are not for other threads, so none of this lives across the await below.
        let judged = {
            let state = match (&buffered, carries_object) {
                (Some(bytes), _) => BodyState::Read(&bytes.0),
                (None, true) => BodyState::Unread,
                (None, false) => BodyState::Absent,
            };
            let grant = parts.extensions.get::<Grant>();
            policy.judge(&Facts::new(parts, &info, &identity, grant, state)?)
        };
        match judged {
            Ok(verdict) => break verdict,
            Err(Unjudged::NeedsBody) => {
                (body, buffered) = buffer(body, settings.max_body, &mut parts.extensions).await?;
            }
            Err(Unjudged::Refused(refusal)) => return Err(refusal),
        }
    };
    note(&verdict, parts);
    let is_held = matches!(verdict.decision, Decision::Hold(_));
    if is_held && carries_object && buffered.is_none() {
        (body, _) = buffer(body, settings.max_body, &mut parts.extensions).await?;
    }
    match verdict.decision {
        Decision::Deny => Err(denied(&verdict, &info, &identity)),
        Decision::Allow | Decision::Hold(_) => {
            parts.extensions.insert(verdict);
            Ok(body)
        }
    }
}

/// Impersonation is the gateway's business: upstream, these headers would change who the request comes from.
fn refuse_impersonation(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers.keys().find(|name| name.as_str().starts_with("impersonate-")) {
        None => Ok(()),
        Some(name) => Err(Refusal::forbidden(
            "policy/impersonation",
            format!("impersonation ({name}) is not allowed through this gateway"),
        )
        .advice("send the request as yourself, without --as, --as-group and --as-uid")),
    }
}

fn identity(parts: &Parts, settings: Settings) -> Result<Identity, Refusal> {
    match parts.extensions.get::<Identity>() {
        Some(identity) => Ok(identity.clone()),
        None if settings.anonymous => Ok(Identity {
            user: "system:anonymous".to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
            ..Identity::default()
        }),
        None => Err(Refusal::unauthorized("policy/no-identity", "nobody is known to have sent this request")
            .detail("no outer layer left an identity; is an authenticating layer missing from the stack?")),
    }
}

/// A compressed body cannot be judged by what it says, and the API server takes none.
fn refuse_encoded(headers: &HeaderMap) -> Result<(), Refusal> {
    let is_identity = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    match headers.get_all(CONTENT_ENCODING).iter().all(is_identity) {
        true => Ok(()),
        false => Err(Refusal::new(
            Reason::UnsupportedMediaType,
            "policy/content-encoding",
            "a request body with a Content-Encoding is not accepted",
        )
        .advice("send it uncompressed")),
    }
}

/// Reads the whole body, leaves it in the extensions, and returns one that yields the same, trailers included.
async fn buffer(
    mut body: Body,
    max: usize,
    extensions: &mut http::Extensions,
) -> Result<(Body, Option<BufferedBody>), Refusal> {
    let too_large = || {
        Refusal::new(
            Reason::RequestEntityTooLarge,
            "policy/too-large",
            format!("a request body may have {max} bytes here, and this one has more"),
        )
    };
    if http_body::Body::size_hint(&body).lower() > max as u64 {
        return Err(too_large());
    }
    let mut bytes = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Refusal::bad_request("policy/body-incomplete", "the request body broke off")
                .detail(error.to_string())
        })?;
        match frame.into_data() {
            Ok(data) if data.len() > max - bytes.len() => return Err(too_large()),
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok().or(trailers),
        }
    }
    let bytes = bytes.freeze();
    let again = match trailers {
        None => Body::from(bytes.clone()),
        Some(trailers) => {
            Body::new(Body::from(bytes.clone()).with_trailers(std::future::ready(Some(Ok(trailers)))))
        }
    };
    let buffered = BufferedBody(bytes);
    extensions.insert(buffered.clone());
    Ok((again, Some(buffered)))
}

fn note(verdict: &Verdict, parts: &Parts) {
    Trail::of(&parts.extensions).note().verdict = Some(verdict.clone());
    let action = match verdict.decision {
        Decision::Allow => "allow",
        Decision::Deny => "deny",
        Decision::Hold(_) => "hold",
    };
    let rule = verdict.rule.clone().unwrap_or_else(|| "default".to_owned());
    metrics::counter!("portcullis_policy_verdicts_total", "action" => action, "rule" => rule).increment(1);
}

fn denied(verdict: &Verdict, info: &RequestInfo, identity: &Identity) -> Refusal {
    let what = match info.is_resource_request {
        true => format!("{} {}", info.effective_verb(), info.resource_path()),
        false => format!("{} {}", info.verb, info.path),
    };
    let by = match &verdict.rule {
        Some(rule) => format!("policy rule {rule:?}"),
        None => "the policy".to_owned(),
    };
    let refusal =
        Refusal::forbidden("policy/denied", format!("{by} does not let {:?} {what}", identity.user));
    let refusal = match &verdict.rule {
        Some(rule) => refusal.cause("PolicyRule", rule.clone(), None),
        None => refusal,
    };
    match &verdict.message {
        Some(message) => refusal.advice(message.clone()),
        None => refusal,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{Mutex, PoisonError},
    };

    use http::StatusCode;
    use portcullis_core::HoldTerms;
    use tower::{ServiceExt, service_fn};

    use super::*;

    const POLICY: &str = r#"
        approvers: { groups: [sre] }
        rules:
          - { name: no-prod, match: { namespaces: [prod], verbs: [delete] }, action: deny, message: ask the owners }
          - { name: big, match: { path: ^/upload }, when: object.big, action: deny }
          - { name: ask, match: { path: ^/ask }, action: hold }
    "#;

    /// What the inner service saw of a request: its body, its verdict, and what was buffered.
    #[derive(Debug, Default)]
    struct Seen {
        body: Bytes,
        verdict: Option<Verdict>,
        buffered: Option<Bytes>,
    }

    async fn send(layer: GuardLayer, request: Request<Body>) -> (Response<Body>, Option<Seen>) {
        let seen = Arc::new(Mutex::new(None));
        let witness = seen.clone();
        let inner = service_fn(move |request: Request<Body>| {
            let witness = witness.clone();
            async move {
                let verdict = request.extensions().get::<Verdict>().cloned();
                let buffered = request.extensions().get::<BufferedBody>().map(|body| body.0.clone());
                let body = request.into_body().collect().await.unwrap().to_bytes();
                *witness.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(Seen { body, verdict, buffered });
                Ok::<_, Infallible>(Response::new(Body::empty()))
            }
        });
        let response = layer.layer(inner).oneshot(request).await.unwrap();
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
        (response, seen)
    }

    fn layer() -> GuardLayer {
        GuardLayer::new(Policy::from_yaml(POLICY).unwrap())
    }

    fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &'static str) -> Request<Body> {
        let mut builder = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let mut request = builder.body(Body::from(body)).unwrap();
        request.extensions_mut().insert(Identity { user: "bot".into(), ..Identity::default() });
        request
    }

    async fn check_refused(
        layer: GuardLayer,
        request: Request<Body>,
        status: StatusCode,
        code: &str,
    ) -> Refusal {
        let (response, seen) = send(layer, request).await;
        assert!(seen.is_none(), "{code}: the inner service saw {seen:?}");
        assert_eq!(response.status(), status);
        let refusal = response.extensions().get::<Refusal>().unwrap().clone();
        assert_eq!(refusal.code(), code, "{}", refusal.message());
        refusal
    }

    #[tokio::test]
    async fn what_is_refused_never_gets_in() {
        let json = ("content-type", "application/json");
        let as_root = request("GET", "/", &[("Impersonate-User", "root")], "");
        check_refused(layer(), as_root, StatusCode::FORBIDDEN, "policy/impersonation").await;
        let as_extra = request("GET", "/", &[("impersonate-extra-x", "y")], "");
        check_refused(layer(), as_extra, StatusCode::FORBIDDEN, "policy/impersonation").await;
        let gzip = request("POST", "/", &[("content-encoding", "gzip")], "x");
        check_refused(layer(), gzip, StatusCode::UNSUPPORTED_MEDIA_TYPE, "policy/content-encoding").await;
        let long = request("POST", "/", &[], "12345");
        check_refused(layer().max_body(4), long, StatusCode::PAYLOAD_TOO_LARGE, "policy/too-large").await;
        let broken = request("POST", "/upload", &[json], "{");
        check_refused(layer(), broken, StatusCode::BAD_REQUEST, "policy/unreadable-body").await;
        let big = request("POST", "/upload", &[json], r#"{"big": true}"#);
        check_refused(layer(), big, StatusCode::FORBIDDEN, "policy/denied").await;
        let protobuf =
            request("POST", "/upload", &[("content-type", "application/vnd.kubernetes.protobuf")], "k8s");
        let refusal = check_refused(layer(), protobuf, StatusCode::FORBIDDEN, "policy/denied").await;
        assert!(refusal.message().contains("send JSON"), "{}", refusal.message());
        let mut nobody = request("GET", "/", &[], "");
        nobody.extensions_mut().clear();
        check_refused(layer(), nobody, StatusCode::UNAUTHORIZED, "policy/no-identity").await;
    }

    #[tokio::test]
    async fn a_denial_names_the_rule_the_request_and_what_to_do() {
        let mut delete = request("DELETE", "/api/v1/namespaces/prod/pods/x", &[], "");
        delete.extensions_mut().insert(RequestInfo {
            is_resource_request: true,
            verb: "delete".into(),
            namespace: "prod".into(),
            resource: "pods".into(),
            name: "x".into(),
            ..RequestInfo::default()
        });
        let refusal = check_refused(layer(), delete, StatusCode::FORBIDDEN, "policy/denied").await;
        assert_eq!(
            refusal.message(),
            r#"policy rule "no-prod" does not let "bot" delete pods: ask the owners"#
        );
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_is_not_read_past_the_limit() {
        let endless = futures_util::stream::repeat_with(|| {
            Ok::<_, Infallible>(http_body::Frame::data(Bytes::from_static(&[b'x'; 1024])))
        });
        let body = Body::new(http_body_util::StreamBody::new(endless));
        let request = request("POST", "/", &[], "").map(|_| body);
        check_refused(layer(), request, StatusCode::PAYLOAD_TOO_LARGE, "policy/too-large").await;
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_refused() {
        let broken = futures_util::stream::iter([Err::<http_body::Frame<Bytes>, _>("reset")]);
        let body = Body::new(http_body_util::StreamBody::new(broken));
        let request = request("POST", "/", &[], "").map(|_| body);
        check_refused(layer(), request, StatusCode::BAD_REQUEST, "policy/body-incomplete").await;
    }

    #[tokio::test]
    async fn what_is_read_goes_on_unchanged() {
        let (response, seen) = send(layer(), request("POST", "/notes", &[], "hello")).await;
        let seen = seen.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!((seen.body, seen.buffered), (Bytes::from("hello"), Some(Bytes::from("hello"))));
        assert_eq!(seen.verdict, Some(Verdict::default()));
    }

    #[tokio::test]
    async fn trailers_survive_being_read() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", http::HeaderValue::from_static("7"));
        let body =
            Body::new(Body::from("hello").with_trailers(std::future::ready(Some(Ok(trailers.clone())))));
        let (again, _) = buffer(body, 100, &mut http::Extensions::new()).await.unwrap();
        let collected = again.collect().await.unwrap();
        assert_eq!(collected.trailers(), Some(&trailers));
        assert_eq!(collected.to_bytes(), "hello");
    }

    #[tokio::test]
    async fn reads_and_connections_are_streamed() {
        let (_, seen) = send(layer(), request("GET", "/notes", &[], "ignored")).await;
        assert_eq!(seen.unwrap().buffered, None);
        let mut proxied = request("POST", "/", &[("content-encoding", "gzip")], "stream");
        proxied.extensions_mut().insert(RequestInfo {
            is_resource_request: true,
            verb: "create".into(),
            api_group: "example.com".into(),
            resource: "things".into(),
            subresource: "proxy".into(),
            ..RequestInfo::default()
        });
        let (_, seen) = send(layer(), proxied).await;
        let seen = seen.unwrap();
        assert_eq!((seen.body, seen.buffered), (Bytes::from("stream"), None));
    }

    #[tokio::test]
    async fn where_bodies_are_streamed_only_what_a_rule_needs_is_read() {
        let layer = || layer().stream_bodies();
        let (_, seen) = send(layer(), request("POST", "/notes", &[], "hello")).await;
        assert_eq!(seen.unwrap().buffered, None);
        let (_, seen) = send(layer(), request("POST", "/upload", &[], r#"{"big":false}"#)).await;
        assert!(seen.unwrap().buffered.is_some());
        let (_, seen) = send(layer(), request("POST", "/ask", &[], "held")).await;
        let seen = seen.unwrap();
        assert_eq!(seen.buffered, Some(Bytes::from("held")));
        assert!(matches!(seen.verdict.unwrap().decision, Decision::Hold(HoldTerms { quorum: 1, .. })));
    }

    #[tokio::test]
    async fn a_policy_is_exchanged_while_requests_pass() {
        let handle = PolicyHandle::new(Policy::from_yaml("{}").unwrap());
        let layer = GuardLayer::new(handle.clone());
        assert!(send(layer.clone(), request("GET", "/", &[], "")).await.1.is_some());
        handle.swap(Policy::from_yaml("default: deny").unwrap());
        let refusal =
            check_refused(layer, request("GET", "/", &[], ""), StatusCode::FORBIDDEN, "policy/denied").await;
        assert_eq!(
            refusal.message(),
            r#"the policy does not let "bot" get /: no rule of the policy allows it"#
        );
    }

    #[tokio::test]
    async fn the_trail_knows_the_verdict_of_a_refused_request_too() {
        let trail = Trail::default();
        let mut request = request("POST", "/upload", &[], r#"{"big":true}"#);
        request.extensions_mut().insert(trail.clone());
        send(layer(), request).await;
        let state = trail.snapshot();
        assert_eq!(state.verdict.unwrap().rule.as_deref(), Some("big"));
        assert_eq!(state.refusal.unwrap().code(), "policy/denied");
    }
}
