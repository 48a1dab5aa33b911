//! Restarts, crashes, and events.

use portcullis_core::{Event, EventKind, EventSink as _};

use super::*;
use crate::{AuditVerifier, End};

/// The files as a crash at this moment would leave them.
pub(super) fn crash(gateway: &Gateway) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let target = to.join(path.file_name().unwrap());
            if path.is_dir() {
                std::fs::create_dir(&target).unwrap();
                copy(&path, &target);
            } else if path.extension().is_none_or(|extension| extension != "tmp") {
                std::fs::copy(&path, &target).unwrap();
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    // No checkpoint may be written while the files are copied.
    copy(gateway.dir.path(), dir.path());
    dir
}

fn rarely(options: AuditOptions) -> AuditOptions {
    options.ledger(|ledger| ledger.checkpoint_interval(std::time::Duration::from_secs(3600)))
}

#[tokio::test]
async fn an_intent_without_an_outcome_is_closed_as_unknown_at_the_next_start() {
    let gateway = Gateway::with(rarely);
    text(send(&gateway.answering("done"), get("/done")).await).await;
    let service = gateway.around(authenticate, |_| std::future::pending::<Response<Body>>());
    let mut waiting = Box::pin(service.oneshot(post("/orders", "{}")));
    while gateway.seen() < 2 {
        assert!(poll_once(&mut waiting).await.is_pending());
        tokio::task::yield_now().await;
    }
    let crashed = crash(&gateway);
    let open = gateway.intents()[1].id;

    let (audit, opened) = Audit::open(crashed.path(), rarely(AuditOptions::new(ORIGIN))).unwrap();
    assert_eq!(opened.unknown, [open]);
    let outcome = outcomes(&records(crashed.path())).pop().unwrap();
    assert_eq!((outcome.id, outcome.end, outcome.user.as_deref()), (open, End::Unknown, Some("ann")));
    assert_eq!(outcome.command, "create --raw /orders");
    audit.close().await;
    let report = AuditVerifier::open(crashed.path()).unwrap().run().unwrap();
    assert!(report.is_ok() && report.open.is_empty());

    // Once closed, it stays closed; after a stop in good order nothing is looked for.
    for _ in 0..2 {
        let (audit, opened) = Audit::open(crashed.path(), AuditOptions::new(ORIGIN)).unwrap();
        assert!(opened.unknown.is_empty() && !opened.recovered);
        audit.close().await;
    }
    drop(waiting);
    assert_eq!(gateway.outcomes(2)[1].end, End::Aborted);
}

/// The same, where the last record had not been written to its end.
fn crash_while_writing(gateway: &Gateway) -> TempDir {
    let crashed = crash(gateway);
    let segment = std::fs::read_dir(crashed.path().join("segments")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&segment).unwrap();
    // Behind its last entry a log in use has room for the next ones.
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes.truncate(end - 4);
    std::fs::write(&segment, bytes).unwrap();
    crashed
}

#[tokio::test]
async fn a_torn_tail_is_told_of_in_the_log_s_own_words() {
    let gateway = Gateway::with(rarely);
    text(send(&gateway.answering("done"), get("/done")).await).await;
    let crashed = crash_while_writing(&gateway);
    let (audit, opened) = Audit::open(crashed.path(), AuditOptions::new(ORIGIN)).unwrap();
    assert!(opened.recovered);
    assert_eq!(opened.unknown.len(), 1, "the outcome was cut off, its intent was not");
    audit.close().await;
    let lines: Vec<_> = AuditReader::new(crashed.path())
        .records(0)
        .unwrap()
        .map(|stored| stored.unwrap().entry.line())
        .collect();
    assert!(lines.iter().any(|line| line.contains("storage repaired (tornTail")), "{lines:#?}");
    assert!(AuditVerifier::open(crashed.path()).unwrap().run().unwrap().is_ok());
}

#[tokio::test]
async fn a_new_key_is_told_of_and_what_a_crash_left_before_it() {
    let gateway = Gateway::with(rarely);
    text(send(&gateway.answering("done"), get("/done")).await).await;
    let crashed = crash_while_writing(&gateway);

    let time: Timestamp = "2026-11-28T12:00:00Z".parse().unwrap();
    let (send, heard) = std::sync::mpsc::channel();
    let hear = |ledger: portcullis_ledger::Options| {
        ledger.on_checkpoint(move |note| drop(send.send(note.to_owned())))
    };
    let rotation = crate::rotate_key(crashed.path(), Arc::new(move || time), hear).unwrap();
    let last = heard.iter().last().expect("the old key's last checkpoint");
    let last = portcullis_ledger::Checkpoint::verify(&last, &rotation.previous).unwrap();
    assert_eq!(last.size, rotation.size + 1);
    let (newest, _) = AuditReader::new(crashed.path()).tail(2, |_| true).unwrap();
    let [recovered, rotated] = newest.as_slice() else { panic!("{newest:?}") };
    assert!(recovered.entry.line().contains("storage repaired (tornTail"), "{}", recovered.entry.line());
    let expected =
        format!("2026-11-28T12:00:00.000Z  -  new key {}, after {}", rotation.next, rotation.previous);
    assert_eq!((rotated.entry.line(), rotated.index), (expected, rotation.size));

    let (audit, opened) = Audit::open(crashed.path(), AuditOptions::new(ORIGIN)).unwrap();
    assert_eq!(opened.unknown.len(), 1, "it is looked for behind the new key's record");
    audit.close().await;
    assert!(AuditVerifier::open(crashed.path()).unwrap().run().unwrap().is_ok());
}

#[tokio::test]
async fn events_are_on_the_disk_when_they_are_recorded() {
    let gateway = Gateway::new();
    let event = Event::new(EventKind::Granted).by(&ann()).grant("g1").with("profile", "deploy");
    let receipt = gateway.audit.record(event.clone()).await.unwrap();
    assert!(receipt.durable);
    assert_eq!(
        gateway.records()[usize::try_from(receipt.index).unwrap()],
        Record::Event(Box::new(event.clone()))
    );
    gateway.audit.close().await;
    let error = gateway.audit.record(event).await.unwrap_err();
    assert!(error.to_string().contains("closed"), "{error}");
    assert!(!gateway.audit.health().is_healthy());
}

#[tokio::test]
async fn a_log_that_fails_ends_streams_and_refuses_requests_until_it_works_again() {
    // Each record begins a new segment, so that moving their directory away is a disk that fails.
    let gateway = Gateway::with(|options| {
        options.ledger(|ledger| ledger.segment_size(1).retry_interval(std::time::Duration::from_millis(1)))
    });
    let service = gateway.answering("fine");
    let (_feed, body) = channel();
    let body = Arc::new(Mutex::new(Some(body)));
    let watching = gateway.around(authenticate, move |_| {
        let body = body.lock().unwrap().take().unwrap();
        async move { Response::new(body) }
    });
    let mut watch = send(&watching, get("/watch")).await.into_body();
    let (segments, away) = (gateway.dir.path().join("segments"), gateway.dir.path().join("away"));
    std::fs::rename(&segments, &away).unwrap();

    let refused = send(&service, get("/refused")).await;
    assert_eq!(refused.status(), http::StatusCode::SERVICE_UNAVAILABLE);
    let cut = next(&mut watch).await.unwrap().unwrap_err();
    assert!(cut.contains("audit log"), "{cut}");
    assert_eq!(next(&mut watch).await, None);
    assert!(!gateway.audit.health().is_healthy());
    assert_eq!(gateway.seen(), 1, "only the watch has passed");

    std::fs::rename(&away, &segments).unwrap();
    let mut response = send(&service, get("/again")).await;
    while response.status() != http::StatusCode::OK {
        tokio::task::yield_now().await;
        response = send(&service, get("/again")).await;
    }
    assert_eq!(text(response).await, "fine");
    // What had happened meanwhile was kept, and is on record now.
    let outcomes = gateway.outcomes(3);
    let of = |command: &str| outcomes.iter().find(|outcome| outcome.command.ends_with(command)).unwrap();
    assert_eq!(
        (of("/watch").end, of("/watch").error.as_deref()),
        (End::Aborted, Some("the audit log failed"))
    );
    assert_eq!((of("/refused").end, of("/refused").intent), (End::Refused, None));
    drop(watch);
    gateway.audit.close().await;
    assert!(AuditVerifier::open(gateway.dir.path()).unwrap().run().unwrap().is_ok());
}
