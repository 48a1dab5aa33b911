//! How responses are handed out: at once, but never whole without their outcome in the log.

use http::{HeaderMap, StatusCode};
use http_body::Body as _;

use super::*;
use crate::{AuditVerifier, End, Level};

/// The two layers around a service that answers with this body, once.
fn once(gateway: &Gateway, body: Body) -> Service {
    let body = Arc::new(Mutex::new(Some(body)));
    gateway.around(authenticate, move |_| {
        let body = body.lock().unwrap().take().unwrap();
        async move { Response::new(body) }
    })
}

#[tokio::test]
async fn a_watch_is_never_delayed_and_ends_when_its_outcome_is_written() {
    let gateway = Gateway::new();
    let (feed, body) = channel();
    let mut body = send(&once(&gateway, body), get("/watch")).await.into_body();
    for event in ["one", "two"] {
        feed.send(data(event)).unwrap();
        assert_eq!(next(&mut body).await, Some(Ok(event.into())));
        assert!(outcomes(&gateway.records()).is_empty());
    }
    drop(feed);
    assert!(!body.is_end_stream());
    assert_eq!(next(&mut body).await, None);
    let outcome = &outcomes(&gateway.records())[0];
    assert_eq!((outcome.end, outcome.response.as_ref().unwrap().bytes), (End::Completed, 6));
    assert!(body.is_end_stream());
}

#[tokio::test]
async fn a_stream_s_end_is_withheld_when_the_log_fails() {
    let gateway = Gateway::new();
    let (feed, body) = channel();
    let mut body = send(&once(&gateway, body), get("/watch")).await.into_body();
    gateway.audit.close().await;
    feed.send(data("still flowing")).unwrap();
    assert!(next(&mut body).await.unwrap().is_ok());
    drop(feed);
    let error = next(&mut body).await.unwrap().unwrap_err();
    assert!(error.contains("audit log"), "{error}");
    assert_eq!(next(&mut body).await, None);
}

/// A body of known length, in several frames.
fn long() -> (Body, usize) {
    let frames = vec!["x".repeat(20_000); 3];
    let length = frames.iter().map(String::len).sum();
    struct Exact(std::collections::VecDeque<String>);
    impl http_body::Body for Exact {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|frame| Ok(http_body::Frame::data(frame.into()))))
        }

        fn size_hint(&self) -> http_body::SizeHint {
            http_body::SizeHint::with_exact(self.0.iter().map(|frame| frame.len() as u64).sum())
        }
    }
    (Body::new(Exact(frames.into())), length)
}

#[tokio::test]
async fn of_a_known_length_the_last_frame_is_withheld() {
    let gateway = Gateway::new();
    let (body, length) = long();
    let mut body = send(&once(&gateway, body), get("/list")).await.into_body();
    assert_eq!(body.size_hint().exact(), Some(length as u64));
    for _ in 0..2 {
        assert_eq!(next(&mut body).await.unwrap().unwrap().len(), 20_000);
        assert!(outcomes(&gateway.records()).is_empty());
    }
    assert_eq!(next(&mut body).await.unwrap().unwrap().len(), 20_000);
    assert_eq!(outcomes(&gateway.records())[0].response.as_ref().unwrap().bytes, length as u64);
    assert_eq!(next(&mut body).await, None);

    // And when the log fails it never goes out.
    let (body, _) = long();
    let mut body = send(&once(&gateway, body), get("/list")).await.into_body();
    gateway.audit.close().await;
    assert!(next(&mut body).await.unwrap().is_ok());
    assert!(next(&mut body).await.unwrap().is_ok());
    assert!(next(&mut body).await.unwrap().is_err());
}

#[tokio::test]
async fn a_short_answer_whose_outcome_cannot_be_written_is_a_503() {
    let gateway = Gateway::new();
    let audit = gateway.audit.clone();
    let service = gateway.around(authenticate, move |_| -> Answer {
        let audit = audit.clone();
        Box::pin(async move {
            audit.close().await;
            Response::new(Body::from("it is done"))
        })
    });
    let response = send(&service, post("/orders", "{}")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key("audit-id") && !response.headers().contains_key("retry-after"));
    let text = text(response).await;
    assert!(text.contains("audit/outcome-unrecorded") && text.contains("was forwarded"), "{text}");
    assert!(!text.contains("it is done"));
}

#[tokio::test]
async fn trailers_pass_after_the_outcome() {
    let gateway = Gateway::new();
    let (feed, body) = channel();
    let mut body = send(&once(&gateway, body), get("/grpc")).await.into_body();
    feed.send(data("message")).unwrap();
    next(&mut body).await.unwrap().unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    feed.send(Ok(http_body::Frame::trailers(trailers))).unwrap();
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.trailers_ref().unwrap()["grpc-status"], "0");
    assert_eq!(outcomes(&gateway.records())[0].end, End::Completed);
    drop(feed);
    assert_eq!(next(&mut body).await, None);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_an_aborted_outcome() {
    let gateway = Gateway::new();
    let (feed, body) = channel();
    let mut body = send(&once(&gateway, body), get("/watch")).await.into_body();
    feed.send(data("one")).unwrap();
    next(&mut body).await.unwrap().unwrap();
    drop(body);
    let outcome = gateway.outcomes(1).remove(0);
    assert_eq!((outcome.end, outcome.status), (End::Aborted, Some(200)));
    assert_eq!(outcome.response.unwrap().bytes, 3);

    // And one that goes away before there was an answer.
    let service = gateway.around(authenticate, |_| std::future::pending::<Response<Body>>());
    let mut waiting = Box::pin(service.oneshot(get("/slow")));
    while gateway.seen() < 2 {
        assert!(poll_once(&mut waiting).await.is_pending());
        tokio::task::yield_now().await;
    }
    drop(waiting);
    let outcome = gateway.outcomes(2).remove(1);
    assert_eq!((outcome.end, outcome.status), (End::Aborted, None));
    assert!(outcome.intent.is_some());
}

#[tokio::test]
async fn a_body_that_fails_is_recorded_as_failed_and_fails_for_the_client() {
    let gateway = Gateway::new();
    let (feed, body) = channel();
    let mut body = send(&once(&gateway, body), get("/watch")).await.into_body();
    feed.send(data("one")).unwrap();
    feed.send(Err("upstream reset")).unwrap();
    next(&mut body).await.unwrap().unwrap();
    assert!(next(&mut body).await.unwrap().unwrap_err().contains("upstream reset"));
    let outcome = gateway.outcomes(1).remove(0);
    assert_eq!((outcome.end, outcome.error.as_deref()), (End::Failed, Some("upstream reset")));
}

#[tokio::test]
async fn a_policy_says_how_much_is_kept_and_never_that_nothing_is_recorded() {
    let level = |info: &portcullis_core::RequestInfo, identity: Option<&portcullis_core::Identity>| {
        assert_eq!(identity.map(|identity| identity.user.as_str()), Some("ann"));
        match info.path.as_str() {
            "/none" => Level::None,
            "/metadata" => Level::Metadata,
            "/request" => Level::Request,
            _ => Level::RequestResponse,
        }
    };
    let gateway = Gateway::with(|options| options.keep_responses(|_, _| true).levels(level));
    let service = gateway.answering("answer");
    for path in ["/none", "/metadata", "/request", "/all"] {
        text(send(&service, post(path, "{}")).await).await;
    }
    let kept: Vec<_> = gateway
        .outcomes(4)
        .iter()
        .zip(gateway.intents())
        .map(|(outcome, intent)| {
            let request = intent.body.unwrap().stored.is_some();
            (outcome.level.unwrap(), request, outcome.response.as_ref().unwrap().stored.is_some())
        })
        .collect();
    let want = [
        (Level::None, false, false),
        (Level::Metadata, false, false),
        (Level::Request, true, false),
        (Level::RequestResponse, true, true),
    ];
    assert_eq!(kept, want);
}

#[tokio::test]
async fn what_a_mask_spared_one_caller_is_not_kept() {
    let gateway = Gateway::with(|options| options.keep_responses(|_, _| true));
    let service = gateway.around(authenticate, |request: Request<Body>| async move {
        Trail::of(request.extensions()).note().unmasked = request.uri().path() == "/secret";
        Response::new(Body::from("answer"))
    });
    for path in ["/secret", "/other"] {
        text(send(&service, get(path)).await).await;
    }
    let kept = gateway.outcomes(2).into_iter().map(|outcome| outcome.response.unwrap());
    let kept: Vec<_> = kept.map(|response| (response.stored.is_some(), response.withheld)).collect();
    assert_eq!(kept, [(false, Some("unmasked".to_owned())), (true, None)]);
}

#[tokio::test]
async fn copies_of_responses_are_kept_where_asked_for_and_bounded() {
    let keep = |info: &portcullis_core::RequestInfo, _| info.is_mutating();
    let gateway = Gateway::with(|options| options.keep_responses(keep).body_limit(8));
    let service = gateway.answering("0123456789");
    text(send(&service, get("/a")).await).await;
    text(send(&service, post("/a", "{}")).await).await;
    let outcomes = gateway.outcomes(2);
    assert_eq!(outcomes[0].response.as_ref().unwrap().stored, None);
    let kept = outcomes[1].response.as_ref().unwrap();
    assert_eq!((kept.truncated, kept.bytes), (true, 10));
    let bodies = AuditReader::new(gateway.dir.path()).bodies();
    assert_eq!(bodies.read(kept.stored.unwrap()).unwrap().unwrap(), b"01234567");

    gateway.audit.close().await;
    let report = AuditVerifier::open(gateway.dir.path()).unwrap().run().unwrap();
    assert!(report.is_ok());
    assert_eq!((report.intents, report.outcomes, report.open.len()), (2, 2, 0));
    assert_eq!(report.stored, 2);
    std::fs::write(bodies.path(kept.stored.unwrap()), "98765432").unwrap();
    let report = AuditVerifier::open(gateway.dir.path()).unwrap().run().unwrap();
    assert_eq!(report.changed.len(), 1);
    std::fs::remove_file(bodies.path(kept.stored.unwrap())).unwrap();
    let report = AuditVerifier::open(gateway.dir.path()).unwrap().run().unwrap();
    assert!(report.is_ok() && report.missing == 1);
}
