//! A log as the gateway's layers write it, with what tests want to have happened.

mod exports;
mod recordings;
mod sessions;

use std::convert::Infallible;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::{Item, Scope, SessionList, Step, Summary, Timeline};
use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, StatusCode, Uri};
use portcullis_audit::{
    Audit, AuditLayer, AuditOptions, AuditReader, CommitLayer, RecordingPart, SESSION_IDLE,
};
use portcullis_core::{
    AuditId, Body, Channel, Classifier, Direction, ErrorFormat, Event, EventKind, EventSink, Grant, Identity,
    RedactedCopy, Redactor, Refusal, RequestInfo, StreamEnd, StreamFrame, StreamInfo, StreamPlan,
    StreamStage, StreamTransport, Timestamp, Trail,
};
use tempfile::TempDir;
use tower::{ServiceBuilder, ServiceExt as _, service_fn};

pub(super) struct Log {
    pub(super) dir: TempDir,
    pub(super) audit: Audit,
    time: Arc<Mutex<Timestamp>>,
}

/// What a request is sent with.
#[derive(Clone, Default)]
pub(super) struct With {
    pub(super) grant: Option<Grant>,
    pub(super) status: u16,
    pub(super) refused: bool,
    pub(super) command: Vec<String>,
    pub(super) tty: bool,
}

impl Log {
    pub(super) fn new() -> Self {
        Self::with(|options| options)
    }

    pub(super) fn with(change: impl FnOnce(AuditOptions) -> AuditOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let time = Arc::new(Mutex::new("2026-11-03T12:00:00Z".parse::<Timestamp>().unwrap()));
        let clock = time.clone();
        let options = AuditOptions::new("test.example/audit")
            .clock(Arc::new(move || *clock.lock().unwrap()))
            .redactor(Arc::new(Open));
        let (audit, _) = Audit::open(dir.path(), change(options)).unwrap();
        Self { dir, audit, time }
    }

    pub(super) fn now(&self) -> Timestamp {
        *self.time.lock().unwrap()
    }

    pub(super) fn advance(&self, by: Duration) {
        *self.time.lock().unwrap() += by;
    }

    pub(super) fn reader(&self) -> AuditReader {
        AuditReader::new(self.dir.path())
    }

    /// Ends the log, and lays a part of a recording open as an earlier version kept it: as a plain file.
    pub(super) async fn lay_open(&self, part: &RecordingPart) -> PathBuf {
        self.audit.close().await;
        let (reader, file) = (self.reader(), self.reader().recording(&part.file));
        if !file.exists() {
            let mut bytes = Vec::new();
            reader.open_recording(part).unwrap().unwrap().read_to_end(&mut bytes).unwrap();
            assert!(reader.recordings().remove(part.sha256).unwrap());
            std::fs::write(&file, bytes).unwrap();
        }
        file
    }

    /// Has the part in the store, and answers its file.
    pub(super) async fn store(&self, part: &RecordingPart) -> PathBuf {
        self.audit.close().await;
        let (reader, written) = (self.reader(), self.reader().recording(&part.file));
        if written.exists() {
            reader.recordings().adopt(&written, part.sha256).unwrap();
        }
        reader.recording_path(part)
    }

    pub(super) async fn event(&self, event: Event) {
        self.audit.record(event).await.unwrap();
    }

    /// Sends a request for `uri` (`/pods/NAME`, `/pods/NAME/exec?command=…`) as ann, and returns its id.
    pub(super) async fn request(&self, uri: &str, with: With) -> AuditId {
        self.send(uri, with).await.0
    }

    /// Opens a stream, and returns it with its request's id.
    pub(super) async fn stream(&self, uri: &str, with: With) -> (AuditId, Box<dyn StreamStage>) {
        let (id, stage) = self.send(uri, With { status: 101, ..with }).await;
        (id, stage.unwrap())
    }

    async fn send(&self, uri: &str, with: With) -> (AuditId, Option<Box<dyn StreamStage>>) {
        let opened = Arc::new(Mutex::new(None));
        let (stages, terms) = (opened.clone(), with.clone());
        let inner = service_fn(move |request: Request<Body>| {
            let (stages, terms) = (stages.clone(), terms.clone());
            async move {
                if terms.status == 101 {
                    let plan = request.extensions().get::<StreamPlan>().unwrap().clone();
                    let info = StreamInfo {
                        request: RequestInfo::of(&request),
                        audit_id: None,
                        transport: StreamTransport::WebSocket,
                        subprotocol: "v5.channel.k8s.io".into(),
                        command: terms.command.clone(),
                        container: None,
                        tty: terms.tty,
                    };
                    *stages.lock().unwrap() = plan.open(&info).await.unwrap().pop();
                }
                let status = if terms.status == 0 { 200 } else { terms.status };
                Ok::<_, Infallible>(Response::builder().status(status).body(Body::empty()).unwrap())
            }
        });
        let refused = with.refused;
        let guard = tower::util::MapResponseLayer::new(|response: Response<Body>| response);
        let grant = with.grant.clone();
        let service = ServiceBuilder::new()
            .layer(AuditLayer::new(self.audit.clone()).classifier(Arc::new(Pods)))
            .layer(guard)
            .map_request(move |request: Request<Body>| {
                let (mut parts, body) = request.into_parts();
                parts.extensions.insert(ann());
                let trail = Trail::of(&parts.extensions);
                trail.note().identity = Some(ann());
                if let Some(grant) = grant.clone() {
                    trail.note().grant = Some(grant.clone());
                    parts.extensions.insert(grant);
                }
                Request::from_parts(parts, body)
            });
        let request = Request::get(uri).body(Body::empty()).unwrap();
        let response = if refused {
            let refusing = service_fn(|request: Request<Body>| async move {
                let refusal =
                    Refusal::new(portcullis_core::Reason::Forbidden, "guard/denied", "pods are not for you");
                Ok::<_, Infallible>(portcullis_core::refuse(request.extensions(), refusal))
            });
            service.service(refusing).oneshot(request).await.unwrap()
        } else {
            service.layer(CommitLayer::new()).service(inner).oneshot(request).await.unwrap()
        };
        let id = response.headers()["audit-id"].to_str().unwrap().parse().unwrap();
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
        }
        let stage = opened.lock().unwrap().take();
        (id, stage)
    }

    /// A request that is held and approved before it is forwarded.
    pub(super) async fn held(&self, uri: &str, ticket: &'static str) -> AuditId {
        let audit = self.audit.clone();
        let hold = tower::layer::layer_fn(move |inner| Hold { inner, audit: audit.clone(), ticket });
        let inner =
            service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::empty())) });
        let service = ServiceBuilder::new()
            .layer(AuditLayer::new(self.audit.clone()).classifier(Arc::new(Pods)))
            .map_request(|request: Request<Body>| {
                let (mut parts, body) = request.into_parts();
                parts.extensions.insert(ann());
                Trail::of(&parts.extensions).note().identity = Some(ann());
                Request::from_parts(parts, body)
            })
            .layer(hold)
            .layer(CommitLayer::new())
            .service(inner);
        let response = service.oneshot(Request::get(uri).body(Body::empty()).unwrap()).await.unwrap();
        let id = response.headers()["audit-id"].to_str().unwrap().parse().unwrap();
        http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
        id
    }

    pub(super) fn list(&self) -> Vec<Summary> {
        let mut list = SessionList::new(self.now(), SESSION_IDLE);
        for stored in self.reader().records(0).unwrap() {
            list.record(&stored.unwrap());
        }
        list.finish().0
    }

    pub(super) fn scope(&self, id: &str) -> Scope {
        Scope::find(id, self.reader().records(0).unwrap(), self.now(), SESSION_IDLE).unwrap().unwrap()
    }

    pub(super) fn items(&self, id: &str) -> Vec<Item> {
        let scope = self.scope(id);
        let records = self.reader().records(scope.first()).unwrap();
        Timeline::new(scope, records).map(Result::unwrap).collect()
    }

    pub(super) fn step(&self, id: AuditId) -> Step {
        let session = crate::session_of(id, self.reader().records(0).unwrap()).unwrap().unwrap();
        let of = |item| if let Item::Request(step) = item { Some(*step) } else { None };
        self.items(&session).into_iter().filter_map(of).find(|step| step.id == id).unwrap()
    }
}

/// Records that a request is held, and approved.
#[derive(Clone)]
struct Hold<S> {
    inner: S,
    audit: Audit,
    ticket: &'static str,
}

impl<S> tower::Service<Request<Body>> for Hold<S>
where
    S: tower::Service<Request<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = portcullis_core::BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { mut inner, audit, ticket } = self.clone();
        Box::pin(async move {
            let id = request.extensions().get::<AuditId>().copied();
            for kind in [EventKind::Held, EventKind::Approved] {
                let event = Event::new(kind).ticket(ticket).request(id.filter(|_| kind == EventKind::Held));
                audit.record(event).await.unwrap();
            }
            inner.call(request).await
        })
    }
}

pub(super) fn ann() -> Identity {
    Identity {
        issuer: "https://id.example".into(),
        subject: "ann".into(),
        user: "ann".into(),
        ..Identity::default()
    }
}

pub(super) fn grant(log: &Log) -> Grant {
    Grant {
        id: "g-1".into(),
        profile: "deploy".into(),
        task: Some("roll out <b>web</b>".into()),
        rules: vec![],
        issued_at: log.now(),
        expires_at: log.now() + Duration::from_secs(900),
        approvers: vec!["amir".into()],
    }
}

pub(super) fn frame(channel: Channel, data: impl Into<Bytes>) -> StreamFrame {
    let direction = match channel {
        Channel::Stdin | Channel::Resize => Direction::ToServer,
        _ => Direction::ToClient,
    };
    StreamFrame { direction, channel, data: data.into(), fin: false }
}

pub(super) fn pass(stage: &mut dyn StreamStage, channel: Channel, data: impl Into<Bytes>) {
    stage.frame(frame(channel, data), &mut Vec::new()).unwrap();
}

pub(super) async fn exit(mut stage: Box<dyn StreamStage>, status: i32) {
    let message = format!(
        r#"{{"status":"Failure","details":{{"causes":[{{"reason":"ExitCode","message":"{status}"}}]}}}}"#
    );
    let message = if status == 0 { r#"{"status":"Success"}"#.to_owned() } else { message };
    pass(&mut *stage, Channel::Error, message);
    stage.close(StreamEnd::Closed).await;
}

/// `/pods/NAME` and `/pods/NAME/SUBRESOURCE`
struct Pods;

impl Classifier for Pods {
    fn classify(&self, parts: &Parts) -> Result<RequestInfo, Refusal> {
        let mut segments = parts.uri.path().trim_start_matches("/pods/").split('/');
        Ok(RequestInfo {
            is_resource_request: true,
            verb: "get".into(),
            path: parts.uri.path().into(),
            api_version: "v1".into(),
            namespace: "shop".into(),
            resource: "pods".into(),
            name: segments.next().unwrap_or_default().into(),
            subresource: segments.next().unwrap_or_default().into(),
            ..RequestInfo::default()
        })
    }

    fn error_format(&self, _: &Uri) -> ErrorFormat {
        ErrorFormat::Status
    }
}

/// Keeps everything.
struct Open;

impl Redactor for Open {
    fn body(&self, _: &RequestInfo, _: Option<&str>, body: &Bytes) -> RedactedCopy {
        RedactedCopy::Redacted(body.clone())
    }

    fn uri(&self, _: &RequestInfo, uri: &Uri) -> String {
        uri.to_string()
    }

    fn text(&self, text: &str) -> String {
        text.to_owned()
    }
}
