//! What is recorded of requests, and which are refused.

use std::time::Duration;

use http::StatusCode;
use portcullis_core::{
    Approval, AuditId, CommitHooks, Connection, Decision, Grant, IntentLookup as _, Receipt, Refusal,
    RequestInfo, Verdict, refuse,
};
use portcullis_ledger::Hash;

use super::*;
use crate::End;

#[tokio::test]
async fn a_read_has_an_intent_and_an_outcome_under_one_id() {
    let gateway = Gateway::new();
    let service = gateway.around(authenticate, |request| async move {
        assert!(!request.extensions().get::<Committed>().unwrap().receipt().durable);
        let mut response = Response::new(Body::from("fine"));
        response.headers_mut().insert("audit-id", "of the upstream".parse().unwrap());
        response.headers_mut().insert("content-type", "text/plain".parse().unwrap());
        response
    });
    let peer = "192.0.2.7:4711".parse().unwrap();
    let mut request = get("/orders?page=2");
    request.extensions_mut().insert(Connection { peer, certificate_sha256: None });
    request.headers_mut().insert("user-agent", "curl/8".parse().unwrap());
    request.headers_mut().insert("audit-id", "of the client".parse().unwrap());
    let response = send(&service, request).await;
    let id: AuditId = response.headers()["audit-id"].to_str().unwrap().parse().unwrap();
    assert_eq!(text(response).await, "fine");

    let (intents, outcomes) = (gateway.intents(), gateway.outcomes(1));
    let (intent, outcome) = (&intents[0], &outcomes[0]);
    assert_eq!((intent.id, outcome.id), (id, id));
    assert_eq!(intent.identity, Some(ann()));
    assert_eq!(intent.command, "get --raw /orders");
    assert_eq!(
        (intent.request.uri.as_str(), intent.request.user_agent.as_deref()),
        ("/orders?page=2", Some("curl/8"))
    );
    assert_eq!(intent.request.source, Some(peer));
    assert!(intent.session.is_some() && intent.session == outcome.session);
    assert_eq!(
        (outcome.end, outcome.status, outcome.user.as_deref()),
        (End::Completed, Some(200), Some("ann"))
    );
    assert_eq!((outcome.request.as_ref(), outcome.identity.as_ref()), (None, None));
    let response = outcome.response.as_ref().unwrap();
    assert_eq!((response.bytes, response.sha256), (4, Hash::of(b"fine")));
    assert_eq!(response.content_type.as_deref(), Some("text/plain"));
    assert!(outcome.committed.is_some() && outcome.upstream.is_some());
    assert!(gateway.audit.has_intent(id).await.unwrap());
    assert!(!gateway.audit.has_intent(AuditId::generate()).await.unwrap());
}

#[tokio::test]
async fn a_write_and_a_held_read_are_on_the_disk_before_they_go_on() {
    let gateway = Gateway::new();
    let durable = |request: Request<Body>| async move {
        Response::new(Body::from(
            request.extensions().get::<Committed>().unwrap().receipt().durable.to_string(),
        ))
    };
    let service = gateway.around(authenticate, durable);
    assert_eq!(text(send(&service, get("/orders")).await).await, "false");
    assert_eq!(text(send(&service, post("/orders", "{}")).await).await, "true");
    let approval = Approval {
        ticket: "t1".into(),
        rule: "prod".into(),
        approvers: vec!["bob".into()],
        approved_at: Timestamp::UNIX_EPOCH,
        digest: "d".into(),
    };
    let approved = approval.clone();
    let held = gateway.around(move |parts| drop(parts.extensions.insert(approved.clone())), durable);
    assert_eq!(text(send(&held, get("/orders")).await).await, "true");
    assert_eq!(gateway.intents()[2].approval, Some(approval));
}

#[tokio::test]
async fn what_was_decided_is_recorded() {
    let gateway = Gateway::new();
    let verdict = Verdict { decision: Decision::Allow, rule: Some("readers".into()), ..Verdict::default() };
    let grant = Grant {
        id: "g1".into(),
        profile: "deploy".into(),
        task: Some("release 7".into()),
        rules: vec![],
        issued_at: Timestamp::UNIX_EPOCH,
        expires_at: Timestamp::UNIX_EPOCH,
        approvers: vec![],
    };
    let service = gateway.around(
        move |parts| {
            authenticate(parts);
            let trail = Trail::of(&parts.extensions);
            (trail.note().verdict, trail.note().grant) = (Some(verdict.clone()), Some(grant.clone()));
            trail.note().notes.insert("cluster", "prod".into());
        },
        |request| async move {
            Trail::of(request.extensions()).masked("secrets", 3);
            Response::new(Body::from("***"))
        },
    );
    text(send(&service, get("/x")).await).await;
    let (intent, outcome) = (gateway.intents().remove(0), gateway.outcomes(1).remove(0));
    assert_eq!(intent.verdict.unwrap().rule.as_deref(), Some("readers"));
    assert_eq!(intent.grant.unwrap().task.as_deref(), Some("release 7"));
    assert_eq!((intent.session.as_deref(), outcome.session.as_deref()), (Some("g1"), Some("g1")));
    assert_eq!(outcome.masked["secrets"], 3);
    assert_eq!(outcome.notes["cluster"], "prod");
    assert_eq!(outcome.grant.as_deref(), Some("g1"));
}

#[tokio::test]
async fn what_cannot_be_classified_is_refused_and_recorded() {
    let gateway = Gateway::new();
    let service = gateway.answering("never");
    let response = send(&service, get("/odd")).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(gateway.seen(), 0);
    let outcome = gateway.outcomes(1).remove(0);
    assert_eq!((outcome.end, outcome.status), (End::Refused, Some(400)));
    assert_eq!(outcome.refusal.unwrap().code, "classify/ambiguous");
    assert_eq!(outcome.request.unwrap().uri, "/odd");
    assert!(outcome.intent.is_none() && gateway.intents().is_empty());
}

#[tokio::test]
async fn a_refusal_further_in_is_recorded_with_its_request() {
    let gateway = Gateway::new();
    let layer = AuditLayer::new(gateway.audit.clone());
    let refusing =
        ServiceBuilder::new().layer(layer).service(service_fn(|request: Request<Body>| async move {
            let refusal =
                Refusal::unauthorized("oidc/expired", "the token has expired").detail("exp was yesterday");
            Ok::<_, Infallible>(refuse(request.extensions(), refusal))
        }));
    let response = refusing.oneshot(get("/orders")).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let outcome = gateway.outcomes(1).remove(0);
    assert_eq!((outcome.end, outcome.user), (End::Refused, None));
    assert_eq!(outcome.refusal.unwrap().detail.as_deref(), Some("exp was yesterday"));
    assert_eq!(outcome.request.unwrap().method, "GET");
    assert_eq!(outcome.session, None);
}

#[tokio::test]
async fn without_a_log_nothing_passes() {
    let gateway = Gateway::new();
    let service = gateway.answering("never");
    gateway.audit.close().await;
    let response = send(&service, get("/orders")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(text(response).await.contains("audit/unavailable"));
    assert_eq!(gateway.seen(), 0);
}

#[tokio::test]
async fn when_the_intent_cannot_be_written_nothing_passes() {
    let gateway = Gateway::new();
    let audit = gateway.audit.clone();
    // The log fails between the request's arrival and its commit.
    let service = ServiceBuilder::new()
        .layer(AuditLayer::new(audit.clone()))
        .map_future_with_close(audit)
        .layer(CommitLayer::new())
        .service(service_fn(|_: Request<Body>| async {
            Ok::<_, Infallible>(Response::new(Body::from("never")))
        }));
    let response = service.oneshot(post("/orders", "{}")).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(gateway.seen(), 0);
    assert!(gateway.intents().is_empty());
}

/// A layer that closes the log before it calls on.
trait CloseExt<L> {
    fn map_future_with_close(self, audit: Audit) -> ServiceBuilder<tower::layer::util::Stack<CloseLayer, L>>;
}

impl<L> CloseExt<L> for ServiceBuilder<L> {
    fn map_future_with_close(self, audit: Audit) -> ServiceBuilder<tower::layer::util::Stack<CloseLayer, L>> {
        self.layer(CloseLayer(audit))
    }
}

#[derive(Clone)]
struct CloseLayer(Audit);

#[derive(Clone)]
struct CloseService<S>(Audit, S);

impl<S> tower::Layer<S> for CloseLayer {
    type Service = CloseService<S>;

    fn layer(&self, inner: S) -> CloseService<S> {
        CloseService(self.0.clone(), inner)
    }
}

impl<S> tower::Service<Request<Body>> for CloseService<S>
where
    S: tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        self.1.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (audit, mut inner) = (self.0.clone(), self.1.clone());
        Box::pin(async move {
            audit.close().await;
            inner.call(request).await
        })
    }
}

#[tokio::test]
async fn a_commit_without_an_open_request_passes_nothing() {
    let gateway = Gateway::new();
    let seen = gateway.seen.clone();
    let service =
        ServiceBuilder::new().layer(CommitLayer::new()).service(service_fn(move |_: Request<Body>| {
            seen.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, Infallible>(Response::new(Body::empty())) }
        }));
    let response = service.oneshot(get("/orders")).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(gateway.seen(), 0);
}

#[tokio::test]
async fn a_hook_that_refuses_stops_the_request_after_its_intent() {
    let gateway = Gateway::new();
    let told: Arc<Mutex<Option<Receipt>>> = Arc::default();
    let hear = told.clone();
    let service = gateway.around(
        move |parts| {
            let hear = hear.clone();
            let hook = Box::new(move |receipt| -> BoxFuture<'static, Result<(), Refusal>> {
                *hear.lock().unwrap() = Some(receipt);
                Box::pin(std::future::ready(Err(Refusal::forbidden("hold/spent", "used already"))))
            });
            CommitHooks::add(&mut parts.extensions, hook);
        },
        |_| async { Response::new(Body::from("never")) },
    );
    let response = send(&service, post("/orders", "{}")).await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!((gateway.seen(), gateway.intents().len()), (0, 1));
    let receipt = told.lock().unwrap().clone().unwrap();
    assert_eq!((receipt.origin.as_str(), receipt.durable), (ORIGIN, true));
    let outcome = gateway.outcomes(1).remove(0);
    assert_eq!((outcome.end, outcome.intent), (End::Refused, Some(receipt.index)));
}

#[tokio::test]
async fn only_redacted_bytes_are_kept() {
    let gateway = Gateway::new();
    let service = gateway.answering("ok");
    let mut request = post("/secrets?token=hunter2", r#"{"password":"hunter2"}"#);
    request.headers_mut().insert("user-agent", "agent hunter2".parse().unwrap());
    send(&service, request).await;
    send(&service, post("/pods/web/exec?command=login&command=hunter2", "{}")).await;
    send(&service, post("/plain", "password=hunter2")).await;

    let intents = gateway.intents();
    assert_eq!(intents[0].request.uri, "/secrets?token=***");
    assert_eq!(intents[0].request.user_agent.as_deref(), Some("agent ***"));
    let stored = intents[0].body.as_ref().unwrap().stored.unwrap();
    let bodies = AuditReader::new(gateway.dir.path()).bodies();
    assert_eq!(bodies.read(stored).unwrap().unwrap(), br#"{"password":"***"}"#);
    assert_eq!(intents[1].command, "exec web -n shop -- login '***'");
    let withheld = intents[2].body.as_ref().unwrap();
    assert_eq!(
        (withheld.stored, withheld.keyed_digest.as_deref(), withheld.bytes),
        (None, Some("keyed"), 16)
    );
    gateway.audit.close().await;
    let everything = everything(gateway.dir.path());
    assert!(!everything.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()));
}

#[tokio::test]
async fn without_a_redactor_nothing_that_clients_wrote_freely_is_kept() {
    let gateway = Gateway::new();
    let dir = tempfile::tempdir().unwrap();
    let (audit, _) = Audit::open(dir.path(), AuditOptions::new("plain.example")).unwrap();
    let service = ServiceBuilder::new()
        .layer(AuditLayer::new(audit).classifier(Arc::new(TestClassifier)))
        .layer(CommitLayer::new())
        .service(service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::empty())) }));
    let mut request = post("/pods/web/exec?command=hunter2", r#"{"password":"hunter2"}"#);
    request.headers_mut().insert("user-agent", "hunter2".parse().unwrap());
    service.oneshot(request).await.unwrap();
    let intent = intents(&records(dir.path())).remove(0);
    assert_eq!(
        (intent.request.uri.as_str(), intent.command.as_str()),
        ("/pods/web/exec", "exec web -n shop -- '…'")
    );
    assert_eq!(intent.body.unwrap().withheld.as_deref(), Some("no redactor"));
    assert!(!everything(dir.path()).windows(SECRET.len()).any(|window| window == SECRET.as_bytes()));
    drop(gateway);
}

#[tokio::test]
async fn the_gateway_s_own_requests_name_their_parent() {
    let gateway = Gateway::new();
    let service = gateway.around(|_| {}, |_| async { Response::new(Body::empty()) });
    let parent = AuditId::generate();
    let mut request = get("/odd");
    let info = RequestInfo { verb: "dry-run".into(), ..RequestInfo::default() };
    for _ in 0..1 {
        request.extensions_mut().insert(parent);
        request.extensions_mut().insert(info.clone());
        request.extensions_mut().insert(ann());
    }
    let trail = Trail::default();
    trail.note().notes.insert("purpose", "dryRun".into());
    request.extensions_mut().insert(trail);
    let response = send(&service, request).await;
    assert_eq!(response.status(), StatusCode::OK);
    let (intent, outcome) = (gateway.intents().remove(0), gateway.outcomes(1).remove(0));
    assert_ne!(intent.id, parent);
    assert_eq!((intent.parent, outcome.parent), (Some(parent), Some(parent)));
    assert_eq!((intent.request.info.verb.as_str(), intent.identity), ("dry-run", Some(ann())));
    assert_eq!(outcome.user.as_deref(), Some("ann"));
    assert_eq!(outcome.notes["purpose"], "dryRun");
}

#[tokio::test]
async fn sessions_last_until_a_client_pauses() {
    let gateway = Gateway::with(|options| options.session_idle(Duration::from_secs(60)));
    let service = gateway.answering("ok");
    for _ in 0..3 {
        send(&service, get("/a")).await;
        gateway.advance(Duration::from_secs(50));
    }
    gateway.advance(Duration::from_secs(100));
    send(&service, get("/a")).await;
    let sessions: Vec<_> = gateway.outcomes(4).into_iter().map(|outcome| outcome.session.unwrap()).collect();
    assert!(sessions[0] == sessions[1] && sessions[1] == sessions[2] && sessions[2] != sessions[3]);
}

#[tokio::test]
async fn request_bytes_are_counted_as_they_are_read() {
    let gateway = Gateway::new();
    let service = gateway.around(authenticate, |request| -> Answer {
        Box::pin(
            async move { Response::new(Body::from(request.into_body().collect().await.unwrap().to_bytes())) },
        )
    });
    let request = Request::put("/upload").header("content-length", "8").body(Body::from("8 bytes!")).unwrap();
    assert_eq!(text(send(&service, request).await).await, "8 bytes!");
    assert_eq!(gateway.outcomes(1)[0].request_bytes, 8);
    let body = gateway.intents().remove(0).body.unwrap();
    assert_eq!((body.bytes, body.withheld.as_deref()), (8, Some("streamed")));
}
