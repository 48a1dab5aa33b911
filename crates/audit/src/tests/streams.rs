//! Upgraded streams: sessions are recorded, the rest is counted.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;
use portcullis_core::{
    Channel, Direction, Ended, StreamEnd, StreamFrame, StreamInfo, StreamPlan, StreamStage, StreamTransport,
};
use portcullis_ledger::{BodyKeys, Hash};
use tokio::sync::mpsc;

use super::*;
use crate::{AuditVerifier, End, RecordingPart};

/// The layers around a service that upgrades, and hands the stages it opened to the test.
fn upgrading(
    gateway: &Gateway,
    command: &'static [&'static str],
) -> (Service, mpsc::UnboundedReceiver<Box<dyn StreamStage>>) {
    let (send, receive) = mpsc::unbounded_channel();
    let service = gateway.around(authenticate, move |request| -> Answer {
        let send = send.clone();
        Box::pin(async move {
            let plan = request.extensions().get::<StreamPlan>().unwrap().clone();
            let info = StreamInfo {
                request: portcullis_core::RequestInfo::of(&request),
                audit_id: None,
                transport: StreamTransport::WebSocket,
                subprotocol: "v5.channel.k8s.io".into(),
                command: command.iter().map(|word| (*word).to_owned()).collect(),
                container: Some("app".into()),
                tty: false,
            };
            for stage in plan.open(&info).await.unwrap() {
                send.send(stage).unwrap();
            }
            Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).body(Body::empty()).unwrap()
        })
    });
    (service, receive)
}

fn frame(channel: Channel, data: &'static str) -> StreamFrame {
    let direction = match channel {
        Channel::Stdin | Channel::Resize => Direction::ToServer,
        _ => Direction::ToClient,
    };
    StreamFrame { direction, channel, data: Bytes::from_static(data.as_bytes()), fin: false }
}

fn pass(stage: &mut dyn StreamStage, channel: Channel, data: &'static str) -> Result<(), String> {
    let mut out = Vec::new();
    stage.frame(frame(channel, data), &mut out).map_err(|abort| abort.to_string())?;
    assert_eq!(out, [frame(channel, data)]);
    Ok(())
}

#[tokio::test]
async fn a_session_is_recorded_and_its_digest_is_in_the_outcome() {
    let gateway = Gateway::new();
    let (service, mut stages) = upgrading(&gateway, &["sh", "-c", "login hunter2"]);
    let response = send(&service, get("/pods/web/exec?command=sh")).await;
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert!(response.headers().contains_key("audit-id"));
    let mut stage = stages.recv().await.unwrap();
    pass(&mut *stage, Channel::Resize, r#"{"Width":100,"Height":30}"#).unwrap();
    pass(&mut *stage, Channel::Stdin, "ls\n").unwrap();
    gateway.advance(Duration::from_millis(1500));
    pass(&mut *stage, Channel::Stdout, "file\n").unwrap();
    // In the file before it has gone on.
    let path = gateway.dir.path().join("recordings").join(format!("{}.cast", gateway.intents()[0].id));
    assert!(std::fs::read_to_string(&path).unwrap().ends_with("[1.5,\"o\",\"file\\n\"]\n"));
    pass(&mut *stage, Channel::Stderr, "oops\n").unwrap();
    let status = r#"{"status":"Failure","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
    pass(&mut *stage, Channel::Error, status).unwrap();
    assert!(outcomes(&gateway.records()).is_empty());
    stage.close(StreamEnd::Closed).await;

    let outcome = gateway.outcomes(1).remove(0);
    assert_eq!((outcome.end, outcome.status), (End::Completed, Some(101)));
    let stream = outcome.stream.unwrap();
    assert_eq!(
        (stream.exit, stream.subprotocol.as_str(), stream.container.as_deref()),
        (Some(3), "v5.channel.k8s.io", Some("app"))
    );
    assert_eq!((stream.channels["stdin"].bytes, stream.channels["stdout"].bytes), (3, 5));
    assert_eq!(stream.channels["stdout"].sha256, Some(Hash::of(b"file\n")));
    let recording = stream.recording.unwrap();
    let cast = content(&gateway, &recording.files().next().unwrap());
    assert_eq!((recording.sha256, recording.bytes), (Hash::of(&cast), cast.len() as u64));
    let cast = String::from_utf8(cast).unwrap();
    assert!(
        cast.contains(r#""width":100"#)
            && cast.contains("login ***")
            && cast.ends_with("[1.5,\"x\",\"3\"]\n"),
        "{cast}"
    );
    assert!(!cast.contains("\"i\""), "what is typed is not recorded by default");

    gateway.audit.close().await;
    assert!(AuditVerifier::open(gateway.dir.path()).unwrap().run().unwrap().is_ok());
    lay_open(gateway.dir.path(), &recording.files().next().unwrap());
    std::fs::write(&path, cast.replace("oops", "fine")).unwrap();
    assert_eq!(AuditVerifier::open(gateway.dir.path()).unwrap().run().unwrap().changed[0].file, path);
}

/// What is recorded, wherever it is by now.
fn content(gateway: &Gateway, part: &RecordingPart) -> Vec<u8> {
    let mut bytes = Vec::new();
    gateway.audit.reader().open_recording(part).unwrap().unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Lays a part of a log that nobody has open as an earlier version kept it: as a plain file.
fn lay_open(log: &Path, part: &RecordingPart) -> PathBuf {
    let reader = AuditReader::new(log);
    let file = reader.recording(&part.file);
    if !file.exists() {
        let mut bytes = Vec::new();
        reader.open_recording(part).unwrap().unwrap().read_to_end(&mut bytes).unwrap();
        assert!(reader.recordings().remove(part.sha256).unwrap());
        std::fs::write(&file, bytes).unwrap();
    }
    file
}

#[tokio::test]
async fn a_recording_ends_in_the_store_and_is_never_there_in_plain_text() {
    let keys = BodyKeys::new([[7; 32]]);
    let given = keys.clone();
    let gateway = Gateway::with(move |options| {
        options.recording_part(150).recording_limit(15_000).ledger(|ledger| ledger.body_keys(given))
    });
    let (service, mut stages) = upgrading(&gateway, &["sh"]);
    send(&service, get("/pods/web/exec")).await;
    let mut stage = stages.recv().await.unwrap();
    let nothing_plain = || {
        let files = std::fs::read_dir(gateway.dir.path().join("recordings")).unwrap();
        for file in files.map(|file| file.unwrap().path()).filter(|path| path.is_file()) {
            // It may have moved since it was listed.
            let bytes = std::fs::read(file).unwrap_or_default();
            assert!(!bytes.windows(6).any(|bytes| bytes == b"secret"));
        }
    };
    for _ in 0..8 {
        pass(&mut *stage, Channel::Stdout, "the secret\n").unwrap();
        nothing_plain();
    }
    stage.close(StreamEnd::Closed).await;
    nothing_plain();
    let parts: Vec<_> = gateway.outcomes(1).remove(0).stream.unwrap().recording.unwrap().files().collect();
    assert!(parts.len() > 2);
    let reader = gateway.audit.reader();
    for part in &parts {
        assert!(String::from_utf8(content(&gateway, part)).unwrap().starts_with("{\"command"));
        while reader.recording(&part.file).exists() {
            tokio::task::yield_now().await;
        }
        assert!(reader.recordings().verify(part.sha256).unwrap());
    }
    gateway.audit.close().await;
    let verify = || AuditVerifier::open(gateway.dir.path()).unwrap();
    let report = verify().body_keys(keys).run().unwrap();
    assert!(report.is_ok() && report.is_complete(), "{report:?}");
    assert_eq!(report.stored, parts.len() as u64);
    // Without the key, or with another, the log is proven all the same, and nothing is called changed.
    for wrong in [BodyKeys::default(), BodyKeys::new([[8; 32]])] {
        let report = verify().body_keys(wrong).run().unwrap();
        assert!(report.is_ok() && !report.is_complete());
        assert_eq!((report.stored, report.unreadable), (0, parts.len() as u64));
        assert!(report.unreadable_why.unwrap().contains("which is not there"));
    }
}

#[tokio::test]
async fn what_a_crash_left_is_moved_if_a_record_names_it_and_stays_if_not() {
    let options = || AuditOptions::new(ORIGIN).recording_part(100).recording_limit(10_000);
    let gateway = Gateway::with(|options| options.recording_part(100).recording_limit(10_000));
    let (service, mut stages) = upgrading(&gateway, &["sh"]);
    send(&service, get("/pods/web/exec")).await;
    let mut stage = stages.recv().await.unwrap();
    (0..2).for_each(|_| pass(&mut *stage, Channel::Stdout, "hello\n").unwrap());
    let part = loop {
        match gateway.records().iter().find_map(progress) {
            Some(mut told) => break told.parts.remove(0),
            None => tokio::task::yield_now().await,
        }
    };
    while gateway.audit.reader().recording(&part.file).exists() {
        tokio::task::yield_now().await;
    }
    // The process died between storing the one part and removing its file; of the other no record tells.
    let crashed = evidence::crash(&gateway);
    let reader = AuditReader::new(crashed.path());
    let unnamed = reader.recording(&format!("{}.2.cast", gateway.intents()[0].id));
    for both in [true, false] {
        let mut bytes = Vec::new();
        reader.open_recording(&part).unwrap().unwrap().read_to_end(&mut bytes).unwrap();
        std::fs::write(reader.recording(&part.file), bytes).unwrap();
        if !both {
            assert!(reader.recordings().remove(part.sha256).unwrap());
        }
        assert_eq!(reader.check_recording(&part), crate::Kept::Intact);
        let (audit, _) = Audit::open(crashed.path(), options()).unwrap();
        while reader.recording(&part.file).exists() {
            tokio::task::yield_now().await;
        }
        audit.close().await;
        assert!(reader.recordings().verify(part.sha256).unwrap() && unnamed.exists());
    }
}

#[tokio::test]
async fn input_is_recorded_where_asked_for() {
    let gateway = Gateway::with(|options| options.record_input(true));
    let (service, mut stages) = upgrading(&gateway, &["sh"]);
    send(&service, get("/pods/web/attach")).await;
    let mut stage = stages.recv().await.unwrap();
    pass(&mut *stage, Channel::Stdin, "whoami\n").unwrap();
    stage.close(StreamEnd::Cut(Ended::Revoked)).await;
    let outcome = gateway.outcomes(1).remove(0);
    let stream = outcome.stream.unwrap();
    assert_eq!((outcome.end, stream.ended.as_str()), (End::Aborted, "cut: the grant was revoked"));
    let part = stream.recording.unwrap().files().next().unwrap();
    let cast = String::from_utf8(content(&gateway, &part)).unwrap();
    assert!(
        cast.contains(r#""i","whoami\n""#) && cast.contains(r#""x","cut: the grant was revoked""#),
        "{cast}"
    );
}

#[tokio::test]
async fn a_session_that_cannot_be_recorded_is_cut() {
    let gateway = Gateway::with(|options| options.recording_limit(300));
    let (service, mut stages) = upgrading(&gateway, &["yes"]);
    send(&service, get("/pods/web/exec")).await;
    let mut stage = stages.recv().await.unwrap();
    pass(&mut *stage, Channel::Stdout, "y\n").unwrap();
    let mut out = Vec::new();
    let long = StreamFrame { data: "y\n".repeat(200).into(), ..frame(Channel::Stdout, "") };
    let abort = stage.frame(long, &mut out).unwrap_err();
    assert!(abort.to_string().contains("limit") && out.is_empty());
    stage.close(StreamEnd::Aborted(abort)).await;
    let outcome = gateway.outcomes(1).remove(0);
    assert_eq!(outcome.end, End::Aborted);
    assert!(outcome.stream.unwrap().recording.is_some());

    // And one whose file cannot be made is not opened.
    std::fs::remove_dir_all(gateway.dir.path().join("recordings")).unwrap();
    let service = gateway.around(authenticate, |request| -> Answer {
        Box::pin(async move {
            let info = StreamInfo {
                request: portcullis_core::RequestInfo::of(&request),
                audit_id: None,
                transport: StreamTransport::Spdy,
                subprotocol: "v4.channel.k8s.io".into(),
                command: vec![],
                container: None,
                tty: true,
            };
            let plan = request.extensions().get::<StreamPlan>().unwrap().clone();
            let refused = plan.open(&info).await.err().unwrap();
            Response::new(Body::from(refused.to_string()))
        })
    });
    let told = text(send(&service, get("/pods/web/exec")).await).await;
    assert!(told.contains("cannot be recorded"), "{told}");
}

#[tokio::test]
async fn of_a_recording_that_breaks_off_only_what_was_finished_is_on_record() {
    let gateway = Gateway::with(|options| options.recording_part(100).recording_limit(10_000));
    let (service, mut stages) = upgrading(&gateway, &["sh"]);
    send(&service, get("/pods/web/exec")).await;
    let mut stage = stages.recv().await.unwrap();
    let id = gateway.intents()[0].id;
    let third = gateway.audit.reader().recording(&format!("{id}.3.cast"));
    std::fs::write(third, "it cannot be made").unwrap();
    (0..2).for_each(|_| pass(&mut *stage, Channel::Stdout, "hello\n").unwrap());
    for _ in 0..2 {
        let refused = pass(&mut *stage, Channel::Stdout, "lost\n").unwrap_err();
        assert!(refused.contains("cannot be recorded"), "{refused}");
    }
    let second = std::fs::read(gateway.audit.reader().recording(&format!("{id}.2.cast"))).unwrap();
    stage.close(StreamEnd::Aborted(portcullis_core::StreamAbort::Failed("not recorded".into()))).await;

    let outcome = gateway.outcomes(1).remove(0);
    let named: Vec<_> = outcome.stream.unwrap().recording.unwrap().files().map(|part| part.file).collect();
    assert_eq!((outcome.end, named), (End::Aborted, vec![format!("{id}.cast")]));
    gateway.audit.close().await;
    let after = std::fs::read(gateway.audit.reader().recording(&format!("{id}.2.cast"))).unwrap();
    assert!(after == second, "nothing is written after the error");
    let report = AuditVerifier::open(gateway.dir.path()).unwrap().run().unwrap();
    assert!(report.is_ok() && report.stored == 1, "{report:?}");
}

#[tokio::test]
async fn copies_and_forwarded_ports_are_counted_not_recorded() {
    let gateway = Gateway::new();
    let (service, mut stages) = upgrading(&gateway, &["tar", "cf", "-", "/data"]);
    send(&service, get("/pods/web/exec")).await;
    let mut stage = stages.recv().await.unwrap();
    pass(&mut *stage, Channel::Stdout, "archive").unwrap();
    stage.close(StreamEnd::Closed).await;
    send(&service, get("/pods/web/portforward")).await;
    let mut stage = stages.recv().await.unwrap();
    pass(&mut *stage, Channel::PortData { port: 8080, id: 1 }, "hello").unwrap();
    stage.close(StreamEnd::Disconnected(Direction::ToServer)).await;

    let streams: Vec<_> = gateway.outcomes(2).into_iter().map(|outcome| outcome.stream.unwrap()).collect();
    assert_eq!(
        (&streams[0].recording, streams[0].channels["stdout"].sha256),
        (&None, Some(Hash::of(b"archive")))
    );
    assert_eq!((&streams[1].recording, streams[1].channels["port/8080/toClient"].bytes), (&None, 5));
    assert_eq!(std::fs::read_dir(gateway.dir.path().join("recordings")).unwrap().count(), 0);
}

#[tokio::test]
async fn only_what_kubectl_cp_sends_counts_as_a_copy() {
    for (command, recorded) in [
        (&["tar", "-xmf", "-", "-C", "/tmp"] as &[_], false),
        (&["tar", "--no-same-permissions", "--no-same-owner", "-xmf", "-"], false),
        (&["tar", "cf", "-", "--to-command=sh"], true),
        (&["tar", "-xmf", "-", "--to-command=sh"], true),
        (&["tar", "cf", "-", "a", "b"], true),
        (&["sh", "-c", "tar cf - /"], true),
    ] {
        let gateway = Gateway::new();
        let (service, mut stages) = upgrading(&gateway, command);
        send(&service, get("/pods/web/exec")).await;
        stages.recv().await.unwrap().close(StreamEnd::Closed).await;
        assert_eq!(
            gateway.outcomes(1)[0].stream.as_ref().unwrap().recording.is_some(),
            recorded,
            "{command:?}"
        );
    }
}

#[tokio::test]
async fn a_stream_that_is_dropped_or_ends_too_early_has_an_outcome_too() {
    let gateway = Gateway::new();
    let (service, mut stages) = upgrading(&gateway, &["sh"]);
    send(&service, get("/pods/web/exec")).await;
    let mut stage = stages.recv().await.unwrap();
    pass(&mut *stage, Channel::Stdout, "hello").unwrap();
    drop(stage);
    let outcome = gateway.outcomes(1).remove(0);
    let stream = outcome.stream.unwrap();
    assert_eq!((outcome.end, stream.ended.as_str()), (End::Aborted, "dropped"));
    assert!(stream.recording.is_some());

    // Over before the answer to the upgrade has passed the audit layer.
    let early = gateway.around(authenticate, |request| -> Answer {
        Box::pin(async move {
            let info = StreamInfo {
                request: portcullis_core::RequestInfo::of(&request),
                audit_id: None,
                transport: StreamTransport::WebSocket,
                subprotocol: String::new(),
                command: vec!["true".into()],
                container: None,
                tty: false,
            };
            let plan = request.extensions().get::<StreamPlan>().unwrap().clone();
            for stage in plan.open(&info).await.unwrap() {
                stage.close(StreamEnd::Closed).await;
            }
            Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).body(Body::empty()).unwrap()
        })
    });
    send(&early, get("/pods/web/exec")).await;
    let outcome = gateway.outcomes(2).remove(1);
    assert_eq!(outcome.end, End::Completed);
    assert!(outcome.stream.unwrap().recording.is_some());

    // A service that relays by itself.
    let alone = gateway.around(authenticate, |_| async {
        Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).body(Body::empty()).unwrap()
    });
    send(&alone, get("/socket")).await;
    let outcome = gateway.outcomes(3).remove(2);
    assert_eq!((outcome.end, outcome.status, outcome.stream), (End::Completed, Some(101), None));
}

#[tokio::test]
async fn a_long_session_is_recorded_in_parts_each_on_record_once_it_is_finished() {
    let gateway = Gateway::with(|options| options.recording_limit(100_000).recording_part(1500));
    let (service, mut stages) = upgrading(&gateway, &["top"]);
    send(&service, get("/pods/web/exec")).await;
    let mut stage = stages.recv().await.unwrap();
    pass(&mut *stage, Channel::Resize, r#"{"Width":100,"Height":30}"#).unwrap();
    let mut out = Vec::new();
    for _ in 0..7 {
        gateway.advance(Duration::from_secs(1));
        let screen = StreamFrame { data: "x".repeat(600).into(), ..frame(Channel::Stdout, "") };
        stage.frame(screen, &mut out).unwrap();
    }
    // What is promised in the log is there, while the session goes on: as a crash would leave it.
    let progress = loop {
        let told: Vec<_> = gateway.records().iter().filter_map(progress).collect();
        if told.len() == 2 {
            break told;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((progress[0].parts.len(), progress[1].parts.len()), (1, 2));
    assert_eq!(progress[1].channels["stdout"], 4200);
    assert_eq!(progress[1].session, gateway.intents()[0].session);
    stage.close(StreamEnd::Closed).await;

    let recording = gateway.outcomes(1).remove(0).stream.unwrap().recording.unwrap();
    let files: Vec<_> = recording.files().collect();
    assert_eq!(files[..2], progress[1].parts);
    assert_eq!(files.len(), 3);
    let id = gateway.intents()[0].id;
    for (nth, part) in files.iter().enumerate() {
        let name = if nth == 0 { format!("{id}.cast") } else { format!("{id}.{}.cast", nth + 1) };
        assert_eq!(part.file, name);
        let cast = content(&gateway, part);
        assert_eq!((part.sha256, part.bytes), (Hash::of(&cast), cast.len() as u64));
        let header: serde_json::Value =
            serde_json::from_slice(cast.split(|b| *b == b'\n').next().unwrap()).unwrap();
        assert_eq!((header["version"].as_u64(), header["width"].as_u64()), (Some(2), Some(100)));
    }
    gateway.audit.close().await;
    let report = AuditVerifier::open(gateway.dir.path()).unwrap().run().unwrap();
    assert!(report.is_ok() && report.stored == 3, "{report:?}");
    let second = lay_open(gateway.dir.path(), &files[1]);
    std::fs::write(&second, "nothing happened").unwrap();
    assert_eq!(AuditVerifier::open(gateway.dir.path()).unwrap().run().unwrap().changed[0].file, second);
}

fn progress(record: &Record) -> Option<crate::StreamProgress> {
    if let Record::Event(event) = record { crate::StreamProgress::of(event) } else { None }
}

#[tokio::test]
async fn what_was_finished_before_a_crash_is_proven_after_it() {
    let rarely = |options: AuditOptions| {
        options
            .recording_part(100)
            .recording_limit(10_000)
            .ledger(|l| l.checkpoint_interval(Duration::from_secs(3600)))
    };
    let gateway = Gateway::with(rarely);
    let (service, mut stages) = upgrading(&gateway, &["sh"]);
    send(&service, get("/pods/web/exec")).await;
    let mut stage = stages.recv().await.unwrap();
    pass(&mut *stage, Channel::Stdout, "one\n").unwrap();
    pass(&mut *stage, Channel::Stdout, "two\n").unwrap();
    while gateway.records().iter().filter_map(progress).count() < 1 {
        tokio::task::yield_now().await;
    }
    let crashed = evidence::crash(&gateway);
    let (audit, opened) = Audit::open(crashed.path(), rarely(AuditOptions::new(ORIGIN))).unwrap();
    assert_eq!(opened.unknown, [gateway.intents()[0].id]);
    audit.close().await;
    let verify = || AuditVerifier::open(crashed.path()).unwrap().run().unwrap();
    assert!(verify().is_ok() && verify().stored == 1);
    let part = gateway.records().iter().find_map(progress).unwrap().parts.remove(0);
    let first = lay_open(crashed.path(), &part);
    let text = std::fs::read_to_string(&first).unwrap();
    std::fs::write(&first, text.replace("one", "1ne")).unwrap();
    assert_eq!(verify().changed[0].file, first);
}

#[tokio::test]
async fn an_open_stream_is_told_of_every_five_minutes_in_which_something_passes() {
    let gateway = Gateway::new();
    let (service, mut stages) = upgrading(&gateway, &["sh"]);
    send(&service, get("/pods/web/portforward")).await;
    let mut stage = stages.recv().await.unwrap();
    for minutes in [1, 5, 1, 20] {
        gateway.advance(Duration::from_secs(60 * minutes));
        pass(&mut *stage, Channel::PortData { port: 8080, id: 1 }, "hello").unwrap();
    }
    stage.close(StreamEnd::Closed).await;
    let told: Vec<_> = gateway.records().iter().filter_map(progress).collect();
    assert_eq!(told.iter().map(|told| told.channels["port/8080/toClient"]).collect::<Vec<_>>(), [10, 20]);
    assert!(matches!(gateway.records().last(), Some(Record::Outcome(_))), "the outcome comes last");
}
