//! The layer: a bearer token that is one of our grants becomes an identity, and what the grant does not cover does not pass.

use std::{
    fmt, mem,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use portcullis_core::{
    BearerToken, Body, BoxError, BoxFuture, Connection, Refusal, RequestInfo, Trail, refuse,
};
use tower_layer::Layer;
use tower_service::Service;

use crate::grants::{GrantError, Grants};

type Allowed = Arc<dyn Fn(&RequestInfo) -> bool + Send + Sync>;

/// Turns grants into identities, and enforces what they allow.
///
/// A request whose bearer token is not one of ours passes untouched: a layer further in will judge it.
///
/// ```
/// use std::sync::Arc;
/// use axum::{Extension, Router, body::Body, http::{Request, StatusCode}, routing::get};
/// use portcullis_core::{Identity, MemorySink, SystemClock};
/// use portcullis_jit::{GrantRequest, Grants, JitLayer, MemoryGrantStore, Profile, SigningKey};
/// use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # let profile: Profile = serde_json::from_value(serde_json::json!({
/// #     "name": "reports",
/// #     "forWhom": { "users": ["nightly"] },
/// #     "rules": [{ "verbs": ["get"], "nonResourceURLs": ["/reports/*"] }],
/// # })).unwrap();
/// # let (key, profiles) = (SigningKey::ephemeral().unwrap(), vec![profile]);
/// # let (store, events) = (Arc::new(MemoryGrantStore::default()), Arc::new(MemorySink::default()));
/// let grants = Grants::new("https://shop.example/oauth", key, profiles, store, events, Arc::new(SystemClock));
/// let shop: Router = Router::new()
///     .route("/reports/{id}", get(|Extension(who): Extension<Identity>| async move { who.user }))
///     .route("/orders/{id}", get(|| async { "an order" }))
///     .route("/prices", get(|| async { "everybody may know" }))
///     .layer(JitLayer::new(grants.clone()).always_allow(|info| info.verb == "get" && info.path == "/prices"));
///
/// # let nightly = Identity { user: "nightly".into(), ..Identity::default() };
/// # let wanted = GrantRequest {
/// #     profile: "reports".into(), task: None, ttl: None, rules: None, certificate_sha256: None, audit_id: None,
/// # };
/// let token = grants.issue(&nightly, wanted).await.unwrap().token; // for `GET /reports/*`
/// let status = async |path: &str| {
///     let bearer = format!("Bearer {token}");
///     let request = Request::get(path).header("authorization", bearer).body(Body::empty()).unwrap();
///     shop.clone().oneshot(request).await.unwrap().status()
/// };
/// assert_eq!(status("/reports/7").await, StatusCode::OK);
/// assert_eq!(status("/prices").await, StatusCode::OK);
/// assert_eq!(status("/orders/7").await, StatusCode::FORBIDDEN);
/// # }
/// ```
#[derive(Clone)]
pub struct JitLayer {
    grants: Grants,
    allowed: Option<Allowed>,
}

impl JitLayer {
    /// Believes the grants that `grants` issued. What a grant does not allow does not pass.
    pub fn new(grants: Grants) -> Self {
        Self { grants, allowed: None }
    }

    /// Also lets pass what `allowed` says every grant allows, such as
    /// [`kubernetes_discovery`](crate::kubernetes_discovery) in front of an API server. A second call replaces the first.
    #[must_use]
    pub fn always_allow(mut self, allowed: impl Fn(&RequestInfo) -> bool + Send + Sync + 'static) -> Self {
        self.allowed = Some(Arc::new(allowed));
        self
    }
}

impl fmt::Debug for JitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JitLayer").field("grants", &self.grants).finish_non_exhaustive()
    }
}

impl<S> Layer<S> for JitLayer {
    type Service = Jit<S>;

    fn layer(&self, inner: S) -> Jit<S> {
        Jit { inner, layer: self.clone() }
    }
}

/// The service of [`JitLayer`].
#[derive(Clone, Debug)]
pub struct Jit<S> {
    inner: S,
    layer: JitLayer,
}

impl<S, B, R> Service<Request<B>> for Jit<S>
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
        // The instance that was polled ready answers this request; the fresh clone waits for the next.
        let fresh = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, fresh);
        let mut request = request.map(Body::new);
        let layer = self.layer.clone();
        Box::pin(async move {
            match layer.judge(&mut request).await {
                Ok(()) => inner.call(request).await.map(|response| response.map(Body::new)),
                Err(refusal) => Ok(refuse(request.extensions(), refusal)),
            }
        })
    }
}

impl JitLayer {
    async fn judge(&self, request: &mut Request<Body>) -> Result<(), Refusal> {
        match BearerToken::find(request.headers())? {
            Some(token) if self.grants.claims(token.reveal()) => self.admit(&token, request).await,
            // None, or somebody else's: not ours to judge.
            _ => Ok(()),
        }
    }

    async fn admit(&self, token: &BearerToken, request: &mut Request<Body>) -> Result<(), Refusal> {
        let active = self.grants.verify(token.reveal()).await.map_err(refusal)?;
        let record = &active.record;
        let trail = Trail::of(request.extensions());
        {
            let mut note = trail.note();
            note.identity = Some(record.identity.clone());
            note.grant = Some(record.grant.clone());
        }
        if let Some(bound) = &record.certificate_sha256 {
            let shown = request.extensions().get::<Connection>().and_then(|c| c.certificate_sha256.as_ref());
            if shown != Some(bound) {
                return Err(Refusal::unauthorized(
                    "jit/other-certificate",
                    "the grant is bound to a client certificate, which this connection does not show",
                ));
            }
        }
        let info = RequestInfo::of(request);
        let always = self.allowed.as_ref().is_some_and(|allowed| allowed(&info));
        if !always && !record.grant.permits(&info) {
            return Err(outside(&record.grant, &info));
        }
        BearerToken::strip(request.headers_mut());
        let liveness = self.grants.liveness(&active);
        let extensions = request.extensions_mut();
        extensions.insert(record.identity.clone());
        extensions.insert(record.grant.clone());
        liveness.add_to(extensions);
        Ok(())
    }
}

fn refusal(error: GrantError) -> Refusal {
    match error {
        GrantError::Unavailable(detail) => {
            Refusal::unavailable("jit/unavailable", "grants cannot be verified just now").detail(detail)
        }
        _ => Refusal::unauthorized("jit/ended", "the grant has ended, or was never issued")
            .advice("start the task again with `portcullis run` to get a new one"),
    }
}

fn outside(grant: &portcullis_core::Grant, info: &RequestInfo) -> Refusal {
    let what = match info.is_resource_request {
        true => {
            let place = match info.namespace.is_empty() {
                true => String::new(),
                false => format!(" in namespace {}", info.namespace),
            };
            format!("{} {}{place}", info.effective_verb(), info.resource_path())
        }
        false => format!("{} {}", info.verb, info.path),
    };
    let message = format!("the grant ({}) does not allow to {what}", grant.profile);
    let allowed = serde_json::to_string(&grant.rules).unwrap_or_default();
    Refusal::forbidden("jit/outside-grant", message)
        .advice("ask for a grant from a profile that allows it")
        .cause("GrantRules", allowed, None)
}
