//! The layers as a whole, over a real log in a temporary directory.

mod evidence;
mod reading;
mod requests;
mod responses;
mod retention;
mod streams;

use std::convert::Infallible;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, Uri};
use http_body_util::BodyExt as _;
use portcullis_core::{
    Body, BoxFuture, BufferedBody, Classifier, Committed, ErrorFormat, Identity, RedactedCopy, Redactor,
    Refusal, RequestInfo, Timestamp, Trail,
};
use tempfile::TempDir;
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt as _, service_fn};

use crate::record::{Intent, Outcome, Record};
use crate::{Audit, AuditLayer, AuditOptions, AuditReader, CommitLayer};

pub(super) const ORIGIN: &str = "test.example/audit";
/// What must never be found in any file.
pub(super) const SECRET: &str = "hunter2";

/// A gateway of two layers around a service, which counts what it has seen.
pub(super) struct Gateway {
    pub(super) dir: TempDir,
    pub(super) audit: Audit,
    pub(super) seen: Arc<AtomicUsize>,
    time: Arc<Mutex<Timestamp>>,
}

pub(super) type Service = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

impl Gateway {
    pub(super) fn new() -> Self {
        Self::with(|options| options)
    }

    pub(super) fn with(change: impl FnOnce(AuditOptions) -> AuditOptions) -> Self {
        Self::in_dir(tempfile::tempdir().unwrap(), change)
    }

    pub(super) fn in_dir(dir: TempDir, change: impl FnOnce(AuditOptions) -> AuditOptions) -> Self {
        let time = Arc::new(Mutex::new("2026-11-03T12:00:00Z".parse::<Timestamp>().unwrap()));
        let clock = time.clone();
        let options = AuditOptions::new(ORIGIN)
            .clock(Arc::new(move || *clock.lock().unwrap()))
            .redactor(Arc::new(TestRedactor));
        let (audit, _) = Audit::open(dir.path(), change(options)).unwrap();
        Self { dir, audit, seen: Arc::default(), time }
    }

    pub(super) fn advance(&self, by: std::time::Duration) {
        *self.time.lock().unwrap() += by;
    }

    /// The two layers around `inner`, with `between` in their midst, as authentication and policy would be.
    pub(super) fn around<F, R>(
        &self,
        between: impl Fn(&mut Parts) + Clone + Send + Sync + 'static,
        inner: F,
    ) -> Service
    where
        F: Fn(Request<Body>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let seen = self.seen.clone();
        let inner = service_fn(move |request: Request<Body>| {
            assert!(request.extensions().get::<Committed>().is_some());
            seen.fetch_add(1, Ordering::SeqCst);
            let response = inner(request);
            async move { Ok::<_, Infallible>(response.await) }
        });
        let service = ServiceBuilder::new()
            .layer(AuditLayer::new(self.audit.clone()).classifier(Arc::new(TestClassifier)))
            .map_request(move |request: Request<Body>| {
                let (mut parts, body) = request.into_parts();
                between(&mut parts);
                Request::from_parts(parts, body)
            })
            .layer(CommitLayer::new())
            .service(inner);
        BoxCloneSyncService::new(service)
    }

    /// The layers around a service that always answers this.
    pub(super) fn answering(&self, body: impl Into<Bytes>) -> Service {
        let body = body.into();
        self.around(authenticate, move |_| {
            let body = body.clone();
            async move { Response::new(Body::from(body)) }
        })
    }

    pub(super) fn records(&self) -> Vec<Record> {
        records(self.dir.path())
    }

    pub(super) fn intents(&self) -> Vec<Intent> {
        intents(&self.records())
    }

    /// The outcomes, once there are so many: one that nobody waits for is written in its own time.
    pub(super) fn outcomes(&self, count: usize) -> Vec<Outcome> {
        loop {
            let outcomes = outcomes(&self.records());
            if outcomes.len() >= count {
                return outcomes;
            }
            std::thread::yield_now();
        }
    }

    pub(super) fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }
}

pub(super) fn records(dir: &Path) -> Vec<Record> {
    AuditReader::new(dir).records(0).unwrap().map(|stored| stored.unwrap().entry.record).collect()
}

pub(super) fn intents(records: &[Record]) -> Vec<Intent> {
    let intent =
        |record: &Record| if let Record::Intent(intent) = record { Some((**intent).clone()) } else { None };
    records.iter().filter_map(intent).collect()
}

pub(super) fn outcomes(records: &[Record]) -> Vec<Outcome> {
    let outcome = |record: &Record| {
        if let Record::Outcome(outcome) = record { Some((**outcome).clone()) } else { None }
    };
    records.iter().filter_map(outcome).collect()
}

pub(super) fn ann() -> Identity {
    Identity {
        issuer: "https://id.example".into(),
        subject: "ann".into(),
        user: "ann".into(),
        ..Identity::default()
    }
}

pub(super) fn authenticate(parts: &mut Parts) {
    parts.extensions.insert(ann());
    Trail::of(&parts.extensions).note().identity = Some(ann());
}

pub(super) fn get(uri: &str) -> Request<Body> {
    Request::get(uri).body(Body::empty()).unwrap()
}

/// A request whose body has been read by the guard.
pub(super) fn post(uri: &str, body: &'static str) -> Request<Body> {
    let request = Request::post(uri).header("content-type", "application/json");
    let request = request.extension(BufferedBody(Bytes::from_static(body.as_bytes())));
    request.body(Body::from(body)).unwrap()
}

pub(super) async fn send(service: &Service, request: Request<Body>) -> Response<Body> {
    service.clone().oneshot(request).await.unwrap()
}

pub(super) async fn text(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

pub(super) async fn next(body: &mut Body) -> Option<Result<Bytes, String>> {
    let frame = body.frame().await?;
    Some(frame.map(|frame| frame.into_data().unwrap_or_default()).map_err(|error| error.to_string()))
}

/// Lets everything that can go on, go on.
pub(super) async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::future::poll_fn(|cx| Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx))).await
}

/// Every byte of every file below `dir`.
pub(super) fn everything(dir: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            bytes.extend(everything(&path));
        } else {
            bytes.extend(path.to_string_lossy().as_bytes());
            bytes.extend(std::fs::read(&path).unwrap());
        }
    }
    bytes
}

/// Refuses `/odd`; reads `/pods/NAME/exec` as an exec; everything else is a non-resource request.
struct TestClassifier;

impl Classifier for TestClassifier {
    fn classify(&self, parts: &Parts) -> Result<RequestInfo, Refusal> {
        let path = parts.uri.path();
        if path == "/odd" {
            return Err(Refusal::bad_request("classify/ambiguous", "the path can be read two ways"));
        }
        let mut segments = path.strip_prefix("/pods/").unwrap_or_default().split('/');
        match (segments.next(), segments.next()) {
            (Some(name), Some(subresource)) => Ok(RequestInfo {
                is_resource_request: true,
                verb: "create".into(),
                path: path.into(),
                api_version: "v1".into(),
                namespace: "shop".into(),
                resource: "pods".into(),
                subresource: subresource.into(),
                name: name.into(),
                ..RequestInfo::default()
            }),
            _ => Ok(RequestInfo::non_resource(&parts.method, path)),
        }
    }

    fn error_format(&self, _: &Uri) -> ErrorFormat {
        ErrorFormat::Status
    }
}

struct TestRedactor;

impl Redactor for TestRedactor {
    fn body(&self, _: &RequestInfo, _: Option<&str>, body: &Bytes) -> RedactedCopy {
        match std::str::from_utf8(body) {
            Ok(text) if text.starts_with('{') => RedactedCopy::Redacted(text.replace(SECRET, "***").into()),
            _ => RedactedCopy::Withheld { digest: "keyed".into(), reason: "not readable".into() },
        }
    }

    fn uri(&self, _: &RequestInfo, uri: &Uri) -> String {
        uri.to_string().replace(SECRET, "***")
    }

    fn text(&self, text: &str) -> String {
        text.replace(SECRET, "***")
    }
}

/// A body that is fed by the test.
pub(super) fn channel()
-> (tokio::sync::mpsc::UnboundedSender<Result<http_body::Frame<Bytes>, &'static str>>, Body) {
    let (send, mut receive) =
        tokio::sync::mpsc::unbounded_channel::<Result<http_body::Frame<Bytes>, &'static str>>();
    let frames = futures_util::stream::poll_fn(move |cx| receive.poll_recv(cx));
    (send, Body::new(http_body_util::StreamBody::new(frames)))
}

pub(super) fn data(bytes: &'static str) -> Result<http_body::Frame<Bytes>, &'static str> {
    Ok(http_body::Frame::data(Bytes::from_static(bytes.as_bytes())))
}

/// A boxed response, for services that differ in what they await.
pub(super) type Answer = BoxFuture<'static, Response<Body>>;
