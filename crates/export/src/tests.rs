//! Records on their way out, over a real log in a temporary directory.

use std::convert::Infallible;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, Uri, request::Parts};
use portcullis_audit::{Audit, AuditLayer, AuditOptions, CommitLayer, Level};
use portcullis_core::{
    Body, BoxFuture, BufferedBody, Classifier, ErrorFormat, Event, EventKind, EventSink as _, Identity,
    RedactedCopy, Redactor, Refusal, RequestInfo, Trail,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::{ServiceBuilder, ServiceExt as _, service_fn};

use crate::kubernetes::EventWriter;
use crate::{ExportError, Exporter, FileSink, Item, Sink, SinkError};

/// Takes what it is given, after having refused so many times.
#[derive(Clone, Default)]
struct Collector {
    taken: Arc<Mutex<Vec<u64>>>,
    refuse: Arc<AtomicUsize>,
}

impl Sink for Collector {
    fn send<'a>(&'a mut self, items: &'a [Item]) -> BoxFuture<'a, Result<(), SinkError>> {
        let refuses =
            self.refuse.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if !refuses {
            self.taken.lock().unwrap().extend(items.iter().map(|item| item.stored.index));
        }
        Box::pin(std::future::ready(if refuses { Err(SinkError("away".into())) } else { Ok(()) }))
    }
}

impl Collector {
    fn taken(&self) -> Vec<u64> {
        self.taken.lock().unwrap().clone()
    }
}

fn open(dir: &Path) -> Audit {
    Audit::open(dir.join("ledger"), AuditOptions::new("test.example/export")).unwrap().0
}

async fn record(audit: &Audit, count: usize) {
    for _ in 0..count {
        audit.record(Event::new(EventKind::Granted)).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_not_taken_is_handed_on_again_and_a_restart_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    record(&audit, 299).await;
    let sink = Collector::default();
    let exporter = || Exporter::open("test", audit.dir(), dir.path().join("cursor"), sink.clone()).unwrap();
    let mut first = exporter();
    sink.refuse.store(2, Ordering::SeqCst);
    for _ in 0..2 {
        assert!(matches!(first.catch_up(100).await, Err(ExportError::Sink(_))));
        assert_eq!((first.position(), sink.taken().len()), (0, 0));
    }
    // What does not stand fast yet is not handed on.
    first.catch_up(100).await.unwrap();
    assert_eq!(first.position(), 100);
    drop(first);
    let mut second = exporter();
    assert_eq!(second.position(), 100);
    second.catch_up(audit.health().size).await.unwrap();
    assert_eq!(sink.taken(), (0..300).collect::<Vec<_>>());
    // A cursor of another log is none.
    let other = tempfile::tempdir().unwrap();
    let another = open(other.path());
    record(&another, 4).await;
    let mut third = Exporter::open("test", another.dir(), dir.path().join("cursor"), sink.clone()).unwrap();
    third.catch_up(5).await.unwrap();
    assert_eq!((third.position(), sink.taken().len()), (5, 305));
    std::fs::write(dir.path().join("cursor"), "{").unwrap();
    assert!(Exporter::open("test", audit.dir(), dir.path().join("cursor"), sink.clone()).is_err());
}

#[tokio::test]
async fn what_was_taken_is_not_handed_on_again_while_only_the_cursor_cannot_be_kept() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    record(&audit, 9).await;
    let sink = Collector::default();
    // There is no such directory yet.
    let cursor = dir.path().join("cursors/test");
    let mut exporter = Exporter::open("test", audit.dir(), &cursor, sink.clone()).unwrap();
    for _ in 0..3 {
        assert!(matches!(exporter.catch_up(10).await, Err(ExportError::Cursor(_))));
        assert_eq!((exporter.position(), sink.taken().len()), (0, 10));
    }
    std::fs::create_dir(cursor.parent().unwrap()).unwrap();
    exporter.catch_up(10).await.unwrap();
    assert_eq!((exporter.position(), sink.taken()), (10, (0..10).collect()));
}

#[tokio::test(start_paused = true)]
async fn an_exporter_waits_for_a_sink_that_is_away_and_the_log_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    let sink = Collector::default();
    sink.refuse.store(20, Ordering::SeqCst);
    let exporter = Exporter::open("test", audit.dir(), dir.path().join("cursor"), sink.clone()).unwrap();
    let log = audit.clone();
    let running = tokio::spawn(exporter.run(move || log.health().size));
    record(&audit, 10).await;
    // The clock is paused: an hour is over as soon as nobody has anything to do.
    let all = async {
        while sink.taken().len() < 11 {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(3600), all).await.unwrap();
    running.abort();
    assert_eq!(sink.taken(), (0..11).collect::<Vec<_>>());
}

/// Takes little at a time, as collectors and webhooks do.
struct Narrow(Arc<AtomicUsize>);

impl Sink for Narrow {
    fn send<'a>(&'a mut self, items: &'a [Item]) -> BoxFuture<'a, Result<(), SinkError>> {
        let bytes: usize = items.iter().map(|item| item.stored.raw.len()).sum();
        let narrow = bytes > 2 * 1024 * 1024;
        self.0.fetch_add(if narrow { 0 } else { items.len() }, Ordering::SeqCst);
        Box::pin(std::future::ready(if narrow { Err(SinkError("too long".into())) } else { Ok(()) }))
    }
}

#[tokio::test]
async fn what_is_handed_on_at_once_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    for _ in 0..100 {
        audit.record(Event::new(EventKind::Granted).with("reason", "x".repeat(50_000))).await.unwrap();
    }
    let taken = Arc::new(AtomicUsize::new(0));
    let mut exporter =
        Exporter::open("narrow", audit.dir(), dir.path().join("cursor"), Narrow(taken.clone())).unwrap();
    exporter.catch_up(101).await.unwrap();
    assert_eq!(taken.load(Ordering::SeqCst), 101);
}

#[tokio::test]
async fn half_a_line_that_a_crash_left_swallows_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    record(&audit, 2).await;
    let path = dir.path().join("out.log");
    std::fs::write(&path, "whole\n{\"kind\":\"Ev").unwrap();
    let line = |item: &Item| vec![item.stored.index.to_string().into_bytes()];
    let sink = FileSink::new(&path, 1000, 2, line);
    let mut exporter = Exporter::open("file", audit.dir(), dir.path().join("cursor"), sink).unwrap();
    exporter.catch_up(3).await.unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole\n0\n1\n2\n");
}

#[tokio::test]
async fn a_file_is_turned_over_when_it_is_large() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    let path = dir.path().join("out.log");
    let line = |item: &Item| vec![format!("{:05}", item.stored.index).into_bytes()];
    let sink = FileSink::new(&path, 30, 2, line);
    let mut exporter = Exporter::open("file", audit.dir(), dir.path().join("cursor"), sink).unwrap();
    for end in 1..=19 {
        if end > 1 {
            record(&audit, 1).await;
        }
        exporter.catch_up(end).await.unwrap();
    }
    let lines =
        |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap_or_default().lines().count();
    assert_eq!(["out.log", "out.log.1", "out.log.2", "out.log.3"].map(lines), [4, 5, 5, 0]);
    assert!(std::fs::read_to_string(&path).unwrap().ends_with("00018\n"));
}

struct Plain;

impl Redactor for Plain {
    fn uri(&self, _: &RequestInfo, uri: &Uri) -> String {
        uri.to_string()
    }
    fn text(&self, text: &str) -> String {
        text.to_owned()
    }
    fn body(&self, _: &RequestInfo, _: Option<&str>, body: &Bytes) -> RedactedCopy {
        RedactedCopy::Redacted(body.clone())
    }
}

/// Takes every request for this one.
struct Always(RequestInfo);

impl Classifier for Always {
    fn classify(&self, _: &Parts) -> Result<RequestInfo, Refusal> {
        Ok(self.0.clone())
    }
    fn error_format(&self, _: &Uri) -> ErrorFormat {
        ErrorFormat::Status
    }
}

/// The item of one request's outcome.
async fn outcome(dir: &TempDir, info: RequestInfo, level: Level) -> Item {
    let options =
        AuditOptions::new("test.example/export").redactor(Arc::new(Plain)).levels(move |_, _| level);
    let (audit, _) = Audit::open(dir.path().join("ledger"), options).unwrap();
    let service = ServiceBuilder::new()
        .layer(AuditLayer::new(audit.clone()).classifier(Arc::new(Always(info))))
        .map_request(|mut request: Request<Body>| {
            let ann = Identity { user: "ann".into(), groups: vec!["dev".into()], ..Identity::default() };
            Trail::of(request.extensions()).note().identity = Some(ann.clone());
            request.extensions_mut().insert(ann);
            request.extensions_mut().insert(BufferedBody(r#"{"kind":"Pod"}"#.into()));
            request
        })
        .layer(CommitLayer::new())
        .service(service_fn(|_: Request<Body>| async {
            Ok::<_, Infallible>(
                Response::builder().status(201).body(Body::from(r#"{"kind":"Pod","made":true}"#)).unwrap(),
            )
        }));
    let request = Request::post("/api/v1/namespaces/shop/pods?dryRun=All")
        .header("user-agent", "kubectl/v1")
        .header("content-type", "application/json");
    let response = service.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
    let items = Arc::new(Mutex::new(Vec::new()));
    struct Keep(Arc<Mutex<Vec<Item>>>);
    impl Sink for Keep {
        fn send<'a>(&'a mut self, items: &'a [Item]) -> BoxFuture<'a, Result<(), SinkError>> {
            self.0.lock().unwrap().extend_from_slice(items);
            Box::pin(std::future::ready(Ok(())))
        }
    }
    let mut exporter =
        Exporter::open("test", audit.dir(), dir.path().join("cursor"), Keep(items.clone())).unwrap();
    exporter.catch_up(u64::MAX).await.unwrap();
    items.lock().unwrap().last().cloned().unwrap()
}

fn pods() -> RequestInfo {
    RequestInfo {
        is_resource_request: true,
        verb: "create".into(),
        api_version: "v1".into(),
        resource: "pods".into(),
        namespace: "shop".into(),
        ..RequestInfo::default()
    }
}

#[tokio::test]
async fn a_request_in_the_words_of_the_api_server() {
    let dir = tempfile::tempdir().unwrap();
    let item = outcome(&dir, pods(), Level::RequestResponse).await;
    let mut event = EventWriter::new().event(&item).unwrap();
    let fields = event.as_object_mut().unwrap();
    for varying in ["auditID", "requestReceivedTimestamp", "stageTimestamp"] {
        assert!(fields.remove(varying).unwrap().is_string());
    }
    assert!(fields["annotations"].as_object_mut().unwrap().remove("portcullis.dev/session").is_some());
    assert_eq!(
        event,
        json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "RequestResponse", "stage": "ResponseComplete",
            "requestURI": "/api/v1/namespaces/shop/pods?dryRun=All", "verb": "create",
            "user": {"username": "ann", "groups": ["dev"]}, "userAgent": "kubectl/v1",
            "objectRef": {"resource": "pods", "namespace": "shop", "apiVersion": "v1"},
            "responseStatus": {"metadata": {}, "code": 201},
            "requestObject": {"kind": "Pod"}, "responseObject": {"kind": "Pod", "made": true},
            "annotations": {
                "authorization.k8s.io/decision": "allow", "portcullis.dev/record": "2",
                "portcullis.dev/command": event["annotations"]["portcullis.dev/command"],
            },
        })
    );
    let list = EventWriter::new().list(std::slice::from_ref(&item)).unwrap();
    assert_eq!((list["kind"].as_str(), list["items"].as_array().map(Vec::len)), (Some("EventList"), Some(1)));
}

#[tokio::test]
async fn what_the_policy_does_not_want_is_not_told() {
    let dir = tempfile::tempdir().unwrap();
    let item = outcome(&dir, pods(), Level::None).await;
    assert_eq!(EventWriter::new().event(&item), None);
    assert_eq!(EventWriter::new().list(&[item]), None);

    let dir = tempfile::tempdir().unwrap();
    let item = outcome(&dir, pods(), Level::Metadata).await;
    let policy = |omit: Value| {
        let policy = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "Metadata"}], "omitStages": omit});
        EventWriter::new().policy(Arc::new(serde_json::from_value(policy).unwrap()))
    };
    let event = policy(json!(["RequestReceived"])).event(&item).unwrap();
    assert!(event["level"] == "Metadata" && event.get("requestObject").is_none());
    assert_eq!(policy(json!(["ResponseComplete"])).event(&item), None);
}
