//! The whole crate through its public calls: what a task sees, from exchange to end.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    http::{Request, Response, StatusCode, header::AUTHORIZATION},
};
use http_body_util::BodyExt;
use portcullis_core::{
    Authenticated, AuthenticationError, Authenticator, Body, BoxFuture, Ended, Event, EventKind, EventSink,
    Grant, Identity, Liveness, MemorySink, Receipt, RecordError, Refusal, RequestInfo, SharedClock,
    Timestamp,
};
use serde_json::{Value, json};
use tower::{ServiceBuilder, ServiceExt, service_fn};

use self::flaky::FlakyStore;
use crate::*;

mod failures;
mod flaky;
mod limits;
mod oauth;
mod owners;

/// The wall clock follows tokio's, which tests pause.
fn clock() -> impl Fn() -> Timestamp {
    let begin = tokio::time::Instant::now();
    move || Timestamp::from_second(1_800_000_000).unwrap() + begin.elapsed()
}

/// Believes a token that is a name.
struct ByName;

impl Authenticator for ByName {
    fn authenticate<'a>(
        &'a self,
        token: &'a str,
    ) -> BoxFuture<'a, Result<Authenticated, AuthenticationError>> {
        Box::pin(async move {
            if token == "stranger" {
                return Err(AuthenticationError::invalid(
                    "oidc/unknown-issuer",
                    "nobody knows you",
                    "stranger",
                ));
            }
            let identity = Identity {
                issuer: "https://idp".into(),
                subject: token.into(),
                user: token.into(),
                groups: vec!["ci".into()],
                ..Identity::default()
            };
            Ok(Authenticated { identity, expires_at: None, liveness: Liveness::forever() })
        })
    }
}

struct World {
    grants: Grants,
    store: Arc<FlakyStore>,
    events: Arc<MemorySink>,
    oauth: Router,
    clock: SharedClock,
    reached: Arc<AtomicUsize>,
}

impl World {
    fn new() -> Self {
        Self::with(|grants| grants)
    }

    fn with(options: impl FnOnce(GrantsBuilder) -> GrantsBuilder) -> Self {
        let events = Arc::new(MemorySink::default());
        Self::with_sink(events.clone(), events, options)
    }

    fn with_sink(
        events: Arc<MemorySink>,
        sink: Arc<dyn EventSink>,
        options: impl FnOnce(GrantsBuilder) -> GrantsBuilder,
    ) -> Self {
        let pods = |namespace| json!({ "verbs": ["get", "watch"], "apiGroups": [""], "resources": ["pods"], "namespaces": [namespace] });
        let profiles = json!([
            { "name": "deploy", "forWhom": { "groups": ["ci"] }, "defaultTtl": "15m", "maxTtl": "1h",
              "heartbeat": "30s", "rules": [pods("shop")] },
            { "name": "plain", "forWhom": { "groups": ["ci"] }, "maxTtl": "24h", "rules": [pods("shop")] },
            { "name": "bound", "forWhom": { "groups": ["ci"] }, "bindCertificate": true, "rules": [pods("shop")] },
        ]);
        let store = Arc::new(FlakyStore::default());
        let clock: SharedClock = Arc::new(clock());
        let grants = Grants::builder(
            "https://gw/portcullis/oauth",
            SigningKey::ephemeral().unwrap(),
            serde_json::from_value(profiles).unwrap(),
            store.clone(),
            sink,
            clock.clone(),
        );
        let grants = options(grants).build();
        let oauth = token_service(grants.clone(), Arc::new(ByName));
        Self { grants, store, events, oauth, clock, reached: Arc::default() }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn form(&self, path: &str, fields: &[(&str, &str)]) -> (StatusCode, Value) {
        let pairs: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = Request::post(path).header("content-type", "application/x-www-form-urlencoded");
        self.send(request.body(pairs.join("&").into()).unwrap()).await
    }

    async fn send(&self, request: Request<axum::body::Body>) -> (StatusCode, Value) {
        let response = self.oauth.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn exchange(&self, subject: &str, more: &[(&str, &str)]) -> (StatusCode, Value) {
        let mut fields = vec![
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token", subject),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
            ("profile", "deploy"),
        ];
        fields.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
        fields.extend(more);
        self.form("/token", &fields).await
    }

    /// What a request with this token gets, and the liveness it carries inwards.
    async fn call(&self, token: &str, verb: &str, namespace: &str) -> (Response<Body>, Option<Liveness>) {
        let reached = self.reached.clone();
        let service = ServiceBuilder::new().layer(JitLayer::new(self.grants.clone())).service(service_fn(
            move |request: Request<Body>| {
                reached.fetch_add(1, Ordering::SeqCst);
                assert!(
                    request.headers().get(AUTHORIZATION).is_none()
                        || request.extensions().get::<Grant>().is_none()
                );
                let liveness = request.extensions().get::<Liveness>().cloned();
                let mut response = Response::new(Body::from("ok"));
                response.extensions_mut().insert(liveness);
                async move { Ok::<_, Infallible>(response) }
            },
        ));
        let mut request =
            Request::get("/").header(AUTHORIZATION, format!("Bearer {token}")).body(Body::empty()).unwrap();
        request.extensions_mut().insert(RequestInfo {
            is_resource_request: true,
            verb: verb.into(),
            resource: "pods".into(),
            namespace: namespace.into(),
            ..RequestInfo::default()
        });
        let response = service.oneshot(request).await.unwrap();
        let liveness = response.extensions().get::<Option<Liveness>>().cloned().flatten();
        (response, liveness)
    }

    /// The status, the refusal's code, and how often the inner service was reached.
    async fn check(&self, token: &str, verb: &str, namespace: &str, expected: (u16, Option<&str>, usize)) {
        let before = self.reached.load(Ordering::SeqCst);
        let (response, _) = self.call(token, verb, namespace).await;
        let code = response.extensions().get::<Refusal>().map(Refusal::code);
        let reached = self.reached.load(Ordering::SeqCst) - before;
        assert_eq!((response.status().as_u16(), code, reached), expected);
    }
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}"))
}

#[tokio::test(start_paused = true)]
async fn a_grant_allows_what_it_says_until_it_is_given_back() {
    let world = World::new();
    let (status, issued) = world.exchange("ci", &[("task", "deploy+web")]).await;
    assert_eq!(status, StatusCode::OK, "{issued}");
    assert_eq!((issued["expires_in"].as_u64(), issued["lease_seconds"].as_u64()), (Some(900), Some(30)));
    let token = text(&issued, "access_token");
    world.check(token, "get", "shop", (200, None, 1)).await;
    world.check(token, "delete", "shop", (403, Some("jit/outside-grant"), 0)).await;
    world.check(token, "get", "bank", (403, Some("jit/outside-grant"), 0)).await;

    let (_, liveness) = world.call(token, "watch", "shop").await;
    let watching = tokio::spawn(liveness.unwrap().ended());
    let (status, _) = world.form("/revoke", &[("token", token)]).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(watching.await.unwrap(), Ended::Revoked);
    world.check(token, "get", "shop", (401, Some("jit/ended"), 0)).await;
    assert_eq!(world.events.kinds(), [EventKind::Granted, EventKind::Revoked]);
    assert_eq!(world.events.events()[0].details["task"], "deploy web");
    // Again, and with nonsense: as good as revoked (RFC 7009).
    assert_eq!(world.form("/revoke", &[("token", token)]).await.0, StatusCode::OK);
    assert_eq!(world.form("/revoke", &[("token", "nonsense")]).await.0, StatusCode::OK);
    assert_eq!(world.events.kinds().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_task_without_heartbeat_ends() {
    let world = World::new();
    let (_, issued) = world.exchange("ci", &[]).await;
    let (token, renewal) = (text(&issued, "access_token"), text(&issued, "renewal_token"));
    let (_, liveness) = world.call(token, "watch", "shop").await;
    let watching = tokio::spawn(liveness.unwrap().ended());
    for _ in 0..3 {
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(world.form("/renew", &[("renewal_token", renewal)]).await.0, StatusCode::OK);
        world.grants.sweep().await.unwrap();
        world.check(token, "get", "shop", (200, None, 1)).await;
    }
    tokio::time::advance(Duration::from_secs(31)).await;
    // At once for requests, at the next sweep for streams; and no late heartbeat revives it.
    world.check(token, "get", "shop", (401, Some("jit/ended"), 0)).await;
    world.grants.sweep().await.unwrap();
    assert_eq!(watching.await.unwrap(), Ended::Revoked);
    let (status, error) = world.form("/renew", &[("renewal_token", renewal)]).await;
    assert_eq!((status, text(&error, "error")), (StatusCode::BAD_REQUEST, "invalid_grant"));
    assert_eq!(world.events.kinds(), [EventKind::Granted, EventKind::Revoked]);
}

#[tokio::test(start_paused = true)]
async fn a_grant_expires_whatever_its_heartbeat() {
    let world = World::new();
    let (_, issued) = world.exchange("ci", &[("ttl", "40")]).await;
    let (token, renewal) = (text(&issued, "access_token"), text(&issued, "renewal_token"));
    let (_, liveness) = world.call(token, "watch", "shop").await;
    tokio::time::advance(Duration::from_secs(20)).await;
    assert_eq!(world.form("/renew", &[("renewal_token", renewal)]).await.0, StatusCode::OK);
    assert_eq!(liveness.unwrap().ended().await, Ended::Expired);
    world.check(token, "get", "shop", (401, Some("jit/ended"), 0)).await;
}

#[tokio::test(start_paused = true)]
async fn a_disabled_principal_loses_its_grants() {
    let world = World::new();
    let (_, one) = world.exchange("ci", &[]).await;
    let (_, other) = world.exchange("cd", &[]).await;
    assert_eq!(world.grants.revoke_principal("https://idp", "ci").await, Ok(1));
    world.check(text(&one, "access_token"), "get", "shop", (401, Some("jit/ended"), 0)).await;
    world.check(text(&other, "access_token"), "get", "shop", (200, None, 1)).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_granted_is_refused_in_oauths_words() {
    let world = World::new();
    let wide = r#"[{"type":"portcullis.dev/kubernetes","rules":[{"verbs":["*"],"apiGroups":[""],"resources":["pods"]}]}]"#;
    let strange = r#"[{"type":"payment","rules":[]}]"#;
    let (_, issued) = world.exchange("ci", &[]).await;
    let grant = text(&issued, "access_token");
    for (subject, more, error) in [
        ("stranger", ("task", "x"), "invalid_request"),
        ("ci", ("grant_type", "password"), "unsupported_grant_type"),
        ("ci", ("subject_token_type", "saml"), "invalid_request"),
        ("ci", ("profile", "admin"), "unauthorized_client"),
        ("ci", ("ttl", "86400"), "invalid_request"),
        ("ci", ("authorization_details", wide), "invalid_authorization_details"),
        ("ci", ("authorization_details", strange), "invalid_authorization_details"),
        ("ci", ("authorization_details", "nonsense"), "invalid_authorization_details"),
        (grant, ("task", "x"), "invalid_grant"),
    ] {
        let (status, answer) = world.exchange(subject, &[more]).await;
        assert_eq!((status, text(&answer, "error")), (StatusCode::BAD_REQUEST, error), "{more:?}");
    }
    assert_eq!(world.events.kinds(), [EventKind::Granted]);
}

#[tokio::test(start_paused = true)]
async fn narrower_than_the_profile_can_be_had() {
    let world = World::new();
    let narrow = r#"[{"type":"portcullis.dev/kubernetes","rules":[{"verbs":["get"],"apiGroups":[""],"resources":["pods"],"namespaces":["shop"],"resourceNames":["web"]}]}]"#;
    let (status, issued) = world.exchange("ci", &[("authorization_details", narrow)]).await;
    assert_eq!(status, StatusCode::OK, "{issued}");
    world.check(text(&issued, "access_token"), "get", "shop", (403, Some("jit/outside-grant"), 0)).await;
}

#[tokio::test(start_paused = true)]
async fn other_peoples_tokens_pass_untouched() {
    let world = World::new();
    world.check("an.oidc.token", "delete", "bank", (200, None, 1)).await;
}

/// A log that is full.
struct Full;

impl EventSink for Full {
    fn record(&self, _: Event) -> BoxFuture<'_, Result<Receipt, RecordError>> {
        Box::pin(std::future::ready(Err(RecordError("no space left on device".into()))))
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_recorded_is_not_granted() {
    let world = World::with_sink(Arc::default(), Arc::new(Full), |grants| grants);
    let (status, answer) = world.exchange("ci", &[]).await;
    assert_eq!(
        (status, text(&answer, "error")),
        (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable")
    );
    assert!(!answer.to_string().contains("space"));
    assert_eq!(world.grants.list(10).await.unwrap(), []);
}

/// What a grant for pods lets pass of a plain service, whose requests nobody classified.
async fn check_plain(layer: impl FnOnce(JitLayer) -> JitLayer, path: &str, expected: (u16, usize)) {
    let world = World::new();
    let (_, issued) = world.exchange("ci", &[]).await;
    let reached = world.reached.clone();
    let inner = service_fn(move |_: Request<Body>| {
        reached.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, Infallible>(Response::new(Body::from("ok"))) }
    });
    let service = ServiceBuilder::new().layer(layer(JitLayer::new(world.grants.clone()))).service(inner);
    let bearer = format!("Bearer {}", text(&issued, "access_token"));
    let request = Request::get(path).header(AUTHORIZATION, bearer).body(Body::empty()).unwrap();
    let response = service.oneshot(request).await.unwrap();
    let reached = world.reached.load(Ordering::SeqCst);
    assert_eq!((response.status().as_u16(), reached), expected, "{path}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_allowed_beyond_the_grant_unless_the_layer_is_told() {
    for path in ["/api/orders", "/api", "/apis/x", "/version", "/healthz", "/openapi/v3"] {
        check_plain(|layer| layer, path, (403, 0)).await;
        check_plain(|layer| layer.always_allow(|info| info.path == "/other"), path, (403, 0)).await;
    }
    check_plain(|layer| layer.always_allow(kubernetes_discovery), "/api", (200, 1)).await;
    check_plain(|layer| layer.always_allow(kubernetes_discovery), "/api/v1/secrets", (403, 0)).await;
}

#[tokio::test(start_paused = true)]
async fn any_service_can_stand_behind_the_layer() {
    use http_body_util::Full;

    let world = World::new();
    // Other bodies than ours, and an error that is one.
    let inner = service_fn(|request: Request<Body>| async move {
        match request.uri().path() {
            "/broken" => Err(std::io::Error::other("broken")),
            _ => Ok(Response::new(Full::from("ok"))),
        }
    });
    let service = ServiceBuilder::new().layer(JitLayer::new(world.grants.clone())).service(inner);
    let request = |path: &str| Request::get(path).body(Full::from("x")).unwrap();
    assert_eq!(service.clone().oneshot(request("/broken")).await.unwrap_err().to_string(), "broken");
    let answer = service.oneshot(request("/")).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok");
}
