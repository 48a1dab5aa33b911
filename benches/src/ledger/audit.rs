//! What the layers cost: a recorded read beside an unrecorded one, and recording terminals.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use portcullis_audit::{Audit, AuditLayer, AuditOptions, CommitLayer};
use portcullis_core::{
    Body, Channel, Classifier, Direction, ErrorFormat, Identity, Refusal, RequestInfo, StreamEnd,
    StreamFrame, StreamInfo, StreamPlan, StreamStage, StreamTransport, Trail,
};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

use super::{Figure, median, now};
use crate::AnyError;

/// The least that is measured of each.
const LEAST: usize = 2000;

/// Takes every request for a read of a pod, or for an exec into one.
struct Pods(&'static str);

impl Classifier for Pods {
    fn classify(&self, parts: &http::request::Parts) -> Result<RequestInfo, Refusal> {
        Ok(RequestInfo {
            is_resource_request: true,
            path: parts.uri.path().to_owned(),
            verb: "get".into(),
            api_prefix: "api".into(),
            api_version: "v1".into(),
            namespace: "shop".into(),
            resource: "pods".into(),
            subresource: self.0.into(),
            name: "web".into(),
            ..RequestInfo::default()
        })
    }

    fn error_format(&self, _: &http::Uri) -> ErrorFormat {
        ErrorFormat::Status
    }
}

fn authenticate(mut request: Request<Body>) -> Request<Body> {
    let who = Identity { user: "ci-1".into(), groups: vec!["bots".into()], ..Identity::default() };
    Trail::of(request.extensions()).note().identity = Some(who.clone());
    request.extensions_mut().insert(who);
    request
}

pub(super) async fn requests(dir: &Path, time: Duration) -> Result<Vec<Figure>, AnyError> {
    let (audit, _) = Audit::open(dir, AuditOptions::new("bench.example/audit"))?;
    let inner = service_fn(|_: Request<Body>| async {
        Ok::<_, Infallible>(Response::new(Body::from(Bytes::from_static(&[b'x'; 2048]))))
    });
    let mut recorded = ServiceBuilder::new()
        .layer(AuditLayer::new(audit.clone()).classifier(std::sync::Arc::new(Pods(""))))
        .map_request(authenticate)
        .layer(CommitLayer::new())
        .service(inner);
    let mut plain = ServiceBuilder::new().map_request(authenticate).service(inner);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let began = now();
    while began.elapsed() < time || with.len() < LEAST {
        without.push(one(&mut plain).await?);
        with.push(one(&mut recorded).await?);
    }
    audit.close().await;
    let (with, without) = (median(&mut with), median(&mut without));
    let words = format!("a read of 2 KB: {with:.1} µs recorded, {without:.1} µs not");
    Ok(vec![Figure::new("audit_added_p50_us", with - without, words).at_most(30.0)])
}

async fn one<S>(service: &mut S) -> Result<Duration, AnyError>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let request = Request::get("/api/v1/namespaces/shop/pods/web").body(Body::empty())?;
    let began = now();
    let response = service.ready().await?.call(request).await?;
    response.into_body().collect().await?;
    Ok(began.elapsed())
}

/// How many sessions are recorded at once, and how much each says a second.
const SESSIONS: usize = 200;
const BYTES_PER_SECOND: usize = 1_000_000;
/// What comes in one frame.
const FRAME: usize = 4096;
/// How much each session says here.
const SAID: usize = 2 * BYTES_PER_SECOND;

pub(super) async fn recordings(dir: &Path) -> Result<Vec<Figure>, AnyError> {
    let (audit, _) = Audit::open(dir, AuditOptions::new("bench.example/recordings"))?;
    let (send, mut opened) = mpsc::unbounded_channel::<Box<dyn StreamStage>>();
    let upgrade = service_fn(move |request: Request<Body>| {
        let send = send.clone();
        async move {
            let plan = request.extensions().get::<StreamPlan>().cloned().unwrap_or_default();
            let info = StreamInfo {
                request: RequestInfo::of(&request),
                audit_id: None,
                transport: StreamTransport::WebSocket,
                subprotocol: "v5.channel.k8s.io".into(),
                command: vec!["sh".into()],
                container: None,
                tty: true,
            };
            for stage in plan.open(&info).await.unwrap_or_default() {
                let _ = send.send(stage);
            }
            Ok::<_, Infallible>(Response::builder().status(101).body(Body::empty()).unwrap_or_default())
        }
    });
    let service = ServiceBuilder::new()
        .layer(AuditLayer::new(audit.clone()).classifier(std::sync::Arc::new(Pods("exec"))))
        .map_request(authenticate)
        .layer(CommitLayer::new())
        .service(upgrade);
    let mut stages = Vec::new();
    for _ in 0..SESSIONS {
        let request = Request::get("/api/v1/namespaces/shop/pods/web/exec").body(Body::empty())?;
        service.clone().oneshot(request).await?;
        stages.push(opened.recv().await.ok_or("the session was not opened")?);
    }
    let output = terminal_output();
    let began = processor_time();
    let mut out = Vec::new();
    for round in 0..SAID / FRAME {
        for stage in &mut stages {
            let at = round * FRAME % (output.len() - FRAME);
            let data = output.slice(at..at + FRAME);
            let frame =
                StreamFrame { direction: Direction::ToClient, channel: Channel::Stdout, data, fin: false };
            stage.frame(frame, &mut out).map_err(|abort| abort.to_string())?;
            out.clear();
        }
    }
    for stage in stages {
        stage.close(StreamEnd::Closed).await;
    }
    // Until all of them are compressed and in their store.
    while std::fs::read_dir(dir.join("recordings"))?.any(|file| file.is_ok_and(|file| is_live(&file.path())))
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let kept = keeping_time()?;
    audit.close().await;
    let used = processor_time() - began;
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let seconds = SAID as f64 / BYTES_PER_SECOND as f64;
    let cores = |used: Duration| used.as_secs_f64() / seconds;
    Ok(vec![
        Figure::new(
            "recordings_cores",
            cores(used - kept),
            "200 sessions at 1 MB/s each, in frames of 4 KB, until they are on the disk",
        )
        .at_most(1.0),
        Figure::new("recordings_kept_cores", cores(kept), "what compressing them takes besides, afterwards"),
    ])
}

/// Whether a recording is in the file in which it was written.
fn is_live(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "cast")
}

/// What builds and logs print: text, some of it coloured.
fn terminal_output() -> Bytes {
    let mut text = String::new();
    let mut line = 0;
    while text.len() < 256 * 1024 {
        line += 1;
        text.push_str(&format!("\u{1b}[32m2026-11-28T12:00:{:02}Z\u{1b}[0m INFO  step {line}: \"compiled\" package-{} in {} ms\r\n", line % 60, line % 97, line * 37 % 900));
    }
    text.into()
}

/// Of the thread that moves finished recordings into their store.
fn keeping_time() -> Result<Duration, AnyError> {
    for thread in std::fs::read_dir("/proc/self/task")? {
        let thread = thread?.path();
        if std::fs::read_to_string(thread.join("comm"))?.trim() == "recordings" {
            // proc(5): first the nanoseconds on a processor.
            let told = std::fs::read_to_string(thread.join("schedstat"))?;
            let time = told.split(' ').next().unwrap_or_default().parse()?;
            return Ok(Duration::from_nanos(time));
        }
    }
    Err("there is no thread that keeps recordings".into())
}

/// Of the whole process.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
