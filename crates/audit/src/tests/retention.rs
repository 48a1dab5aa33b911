//! Retention: what is old goes after the log has said so, what is named again stays, and the log is what it was.

use std::path::Path;
use std::time::{Duration, SystemTime};

use portcullis_core::EventKind;
use portcullis_ledger::Durability;

use super::*;
use crate::{AuditVerifier, DiskUse, Retention};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn age(file: &Path, age: Duration) {
    // The test clock stands in the past; files are as old as that says.
    let now = SystemTime::from("2026-11-03T12:00:00Z".parse::<portcullis_core::Timestamp>().unwrap());
    std::fs::File::options().write(true).open(file).unwrap().set_modified(now - age).unwrap();
}

#[tokio::test]
async fn old_bodies_go_and_the_log_stays() {
    let dir = tempfile::tempdir().unwrap();
    let now = "2026-11-03T12:00:00Z".parse::<portcullis_core::Timestamp>().unwrap();
    let options = AuditOptions::new(ORIGIN).clock(std::sync::Arc::new(move || now));
    let (audit, _) = Audit::open(dir.path(), options).unwrap();
    let reader = audit.reader();
    let put = |text: &str| reader.bodies().put(text.as_bytes(), Durability::Write).unwrap();
    let (old, shared, young) = (put("old"), put("shared"), put("young"));
    age(&reader.bodies().path(old), 32 * DAY);
    age(&reader.bodies().path(young), 30 * DAY);
    age(&reader.bodies().path(shared), 32 * DAY);
    let recording = reader.recordings().put(b"{}", Durability::Write).unwrap();
    age(&reader.recordings().path(recording), 32 * DAY);
    // Left by a crash, and of a session that goes on but has been silent.
    let left = reader.recording("left.cast");
    drop(reader.recordings().begin_live(&left).unwrap());
    age(&left, 32 * DAY);
    let silent = reader.recording("silent.cast");
    let live = reader.recordings().begin_live(&silent).unwrap();
    age(&silent, 32 * DAY);
    // Another record names it.
    put("shared");

    let retention = Retention { bodies: Some(30 * DAY), recordings: None };
    let due = retention.due(&reader, now).unwrap();
    assert_eq!((due.bodies, due.recordings), (1, 0));
    assert!(reader.bodies().verify(old).unwrap());
    assert_eq!(audit.apply_retention(retention).await.unwrap(), due);
    assert_eq!(
        [old, shared, young].map(|digest| reader.bodies().verify(digest).unwrap()),
        [false, true, true]
    );
    assert!(audit.apply_retention(retention).await.unwrap().is_nothing());

    let retention = Retention { bodies: None, recordings: Some(30 * DAY) };
    assert_eq!(audit.apply_retention(retention).await.unwrap().recordings, 2);
    assert!(!reader.recordings().verify(recording).unwrap());
    assert!(!left.exists() && silent.exists());
    drop(live);
    assert_eq!(audit.apply_retention(retention).await.unwrap().recordings, 1);

    let told: Vec<_> = records(dir.path())
        .into_iter()
        .filter_map(|record| match record {
            Record::Event(event) if event.kind == EventKind::RetentionApplied => Some(event.details),
            _ => None,
        })
        .collect();
    assert_eq!(told.len(), 3);
    assert_eq!((told[0]["bodies"].as_u64(), told[0]["bodyBytes"].as_u64()), (Some(1), Some(due.body_bytes)));
    assert_eq!(told[1]["recordings"].as_u64(), Some(2));
    let used = audit.measure_disk().await.unwrap();
    assert!(used.log > 0 && used.bodies > 0 && used.recordings == 0 && used.index == 0, "{used:?}");
    audit.close().await;
    assert!(AuditVerifier::open(dir.path()).unwrap().run().unwrap().is_ok());
    assert!(DiskUse::of(&reader).unwrap().log >= used.log);
}

#[tokio::test]
async fn nothing_is_dropped_that_the_log_does_not_take() {
    let dir = tempfile::tempdir().unwrap();
    let (audit, _) = Audit::open(dir.path(), AuditOptions::new(ORIGIN)).unwrap();
    let reader = audit.reader();
    let old = reader.bodies().put(b"old", Durability::Write).unwrap();
    age(&reader.bodies().path(old), 4000 * DAY);
    audit.close().await;
    let retention = Retention { bodies: Some(DAY), recordings: Some(DAY) };
    assert!(audit.apply_retention(retention).await.is_err());
    assert!(reader.bodies().verify(old).unwrap());
}

#[tokio::test]
async fn what_is_dropped_by_hand_goes_on_record_too() {
    let dir = tempfile::tempdir().unwrap();
    let (audit, _) = Audit::open(dir.path(), AuditOptions::new(ORIGIN)).unwrap();
    let reader = audit.reader();
    let old = reader.bodies().put(b"old", Durability::Write).unwrap();
    age(&reader.bodies().path(old), 4000 * DAY);
    let retention = Retention { bodies: Some(DAY), recordings: None };
    let now = portcullis_core::Clock::now(&portcullis_core::SystemClock);
    assert_eq!(retention.apply_by_hand(&AuditReader::new(dir.path()), now).unwrap().bodies, 1);
    assert!(!reader.bodies().verify(old).unwrap());
    assert_eq!((audit.record_pruned().await.unwrap(), audit.record_pruned().await.unwrap()), (1, 0));
    let by_hand = |record: &Record| matches!(record, Record::Event(event) if event.kind == EventKind::RetentionApplied && event.details["byHand"] == true);
    assert_eq!(records(dir.path()).iter().filter(|record| by_hand(record)).count(), 1);
}
