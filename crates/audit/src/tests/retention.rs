//! Retention: what is old goes after the log has said so, what is named again stays, and the log is what it was.

use std::path::Path;
use std::time::{Duration, SystemTime};

use portcullis_core::EventKind;
use portcullis_ledger::Durability;

use super::*;
use crate::retention::{Notes, note_down};
use crate::{AuditVerifier, DiskUse, Dropped, Retention};

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
    let (closed, records) = (DiskUse::of(&reader).unwrap().log, 2 * records(dir.path()).len() as u64);
    assert!(closed > 100 * records && closed < used.log, "without the room for more: {closed}");
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
    assert_eq!(by_hand(dir.path()), [1]);
    assert_eq!(std::fs::read_dir(dir.path().join("pruned")).unwrap().count(), 0);
}

/// How many bodies each event says were dropped by hand.
fn by_hand(log: &Path) -> Vec<u64> {
    let bodies = |record| match record {
        Record::Event(event)
            if event.kind == EventKind::RetentionApplied && event.details["byHand"] == true =>
        {
            event.details["bodies"].as_u64()
        }
        _ => None,
    };
    records(log).into_iter().filter_map(bodies).collect()
}

fn note(bodies: u64) -> String {
    format!(r#"{{"bodies":{bodies},"bodyBytes":10,"recordings":0,"recordingBytes":0}}"#)
}

#[tokio::test]
async fn a_note_that_cannot_be_taken_is_not_recorded_and_keeps_no_other_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let (audit, _) = Audit::open(dir.path(), AuditOptions::new(ORIGIN)).unwrap();
    let notes = dir.path().join("pruned");
    std::fs::write(notes.join("1.json"), "no JSON").unwrap();
    std::fs::write(notes.join("2.json"), note(2)).unwrap();
    // Its new name is taken, so it cannot be renamed: as in a directory that is somebody else's.
    std::fs::create_dir(notes.join("2.recording")).unwrap();
    std::fs::write(notes.join("3.json"), note(3)).unwrap();
    // Of a process that died while it recorded it, and of one that is still writing it.
    std::fs::write(notes.join("4.recording"), note(4)).unwrap();
    std::fs::write(notes.join("5.unfinished"), note(5)).unwrap();
    assert_eq!((audit.record_pruned().await.unwrap(), audit.record_pruned().await.unwrap()), (2, 0));
    assert_eq!(by_hand(dir.path()), [3, 4]);
    // Once nothing is in its way any more it goes on record.
    std::fs::remove_dir(notes.join("2.recording")).unwrap();
    assert_eq!((audit.record_pruned().await.unwrap(), audit.record_pruned().await.unwrap()), (1, 0));
    assert_eq!(by_hand(dir.path()), [3, 4, 2]);
    assert!(notes.join("1.json").exists() && notes.join("5.unfinished").exists());
}

#[tokio::test]
async fn a_note_that_the_log_did_not_take_stays_for_the_next_time() {
    let dir = tempfile::tempdir().unwrap();
    let (audit, _) = Audit::open(dir.path(), AuditOptions::new(ORIGIN)).unwrap();
    std::fs::write(dir.path().join("pruned/1.json"), note(1)).unwrap();
    audit.close().await;
    assert!(audit.record_pruned().await.is_err());
    assert!(dir.path().join("pruned/1.recording").exists());
    let (audit, _) = Audit::open(dir.path(), AuditOptions::new(ORIGIN)).unwrap();
    assert_eq!((audit.record_pruned().await.unwrap(), audit.record_pruned().await.unwrap()), (1, 0));
    assert_eq!(by_hand(dir.path()), [1]);
}

/// Counts what is said in the operator's log.
#[derive(Clone, Default)]
struct Said(std::sync::Arc<AtomicUsize>);

impl tracing::Subscriber for Said {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn the_operator_is_told_once_of_each_note_that_is_of_no_use() {
    let dir = tempfile::tempdir().unwrap();
    let notes = Notes::new(dir.path());
    std::fs::create_dir(notes.dir()).unwrap();
    let said = Said::default();
    let pass = || notes.list().unwrap().iter().filter(|note| notes.take(note).is_some()).count();
    tracing::subscriber::with_default(said.clone(), || {
        for (bad, told) in [("1.json", 1), ("2.json", 2), ("3.recording", 3)] {
            std::fs::write(notes.dir().join(bad), "no JSON").unwrap();
            assert_eq!((pass(), pass()), (0, 0));
            assert_eq!(said.0.load(Ordering::SeqCst), told);
        }
        // One that is on record and is there still does not go on record a second time.
        let kept = notes.dir().join("4.recording");
        std::fs::create_dir(&kept).unwrap();
        notes.remove(kept.clone());
        std::fs::remove_dir(&kept).unwrap();
        std::fs::write(&kept, note(4)).unwrap();
        assert_eq!(said.0.load(Ordering::SeqCst), 4);
        assert_eq!((pass(), kept.exists()), (0, false));
        assert_eq!(said.0.load(Ordering::SeqCst), 4);
    });
}

#[test]
fn whoever_prunes_at_the_same_time_has_a_note_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for bodies in 1..=16 {
            let (log, dropped) = (dir.path(), Dropped { bodies, ..Dropped::default() });
            scope.spawn(move || note_down(log, &dropped).unwrap());
        }
    });
    let notes = Notes::new(dir.path());
    let mut told: Vec<_> =
        notes.list().unwrap().iter().map(|note| notes.take(note).unwrap().1.bodies).collect();
    told.sort_unstable();
    assert_eq!(told, Vec::from_iter(1..=16));
    // Nothing unfinished is left.
    assert_eq!(std::fs::read_dir(notes.dir()).unwrap().count(), 16);
}

#[test]
fn an_age_without_end_is_one_that_nothing_has() {
    let dir = tempfile::tempdir().unwrap();
    let reader = AuditReader::new(dir.path());
    let old = reader.bodies().put(b"old", Durability::Write).unwrap();
    age(&reader.bodies().path(old), 4000 * DAY);
    let now = "2026-11-03T12:00:00Z".parse().unwrap();
    let retention = Retention { bodies: Some(Duration::MAX), recordings: Some(Duration::MAX) };
    assert!(retention.due(&reader, now).unwrap().is_nothing());
}

#[cfg(unix)]
mod unix {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn what_lies_beside_the_log_is_its_owner_s_alone() {
        let dir = tempfile::tempdir().unwrap();
        let beside = ["recordings", "pruned"].map(|name| dir.path().join(name));
        for made_by_an_earlier_version in [true, false] {
            for path in &beside {
                if made_by_an_earlier_version {
                    std::fs::create_dir(path).unwrap();
                    std::fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
                } else {
                    std::fs::remove_dir(path).unwrap();
                }
            }
            let (audit, _) = Audit::open(dir.path(), AuditOptions::new(ORIGIN)).unwrap();
            assert_eq!(beside.each_ref().map(|path| mode(path)), [0o700, 0o700]);
            let file = audit.reader().recording("a.cast");
            drop(audit.reader().recordings().begin_live(&file).unwrap());
            assert_eq!(mode(&file), 0o600);
            std::fs::remove_file(file).unwrap();
            audit.close().await;
        }
    }

    /// What somebody drops by hand who may give files away, of a log that is another user's. `None`: this user may not.
    fn pruned_by_root(log: &Path) -> Option<()> {
        let bodies = AuditReader::new(log).bodies();
        let old = bodies.put(b"old", Durability::Write).unwrap();
        age(&bodies.path(old), 4000 * DAY);
        chown(log, Some(12_345), Some(12_345)).ok()
    }

    #[test]
    fn what_root_notes_down_is_the_log_s_owner_s() {
        let dir = tempfile::tempdir().unwrap();
        let Some(()) = pruned_by_root(dir.path()) else { return };
        let now = "2026-11-03T12:00:00Z".parse().unwrap();
        let retention = Retention { bodies: Some(DAY), recordings: None };
        assert_eq!(retention.apply_by_hand(&AuditReader::new(dir.path()), now).unwrap().bodies, 1);
        let notes = Notes::new(dir.path());
        let files = notes.list().unwrap();
        assert_eq!(files.len(), 1);
        for path in [notes.dir(), &files[0]] {
            let found = std::fs::metadata(path).unwrap();
            assert_eq!((found.uid(), found.gid()), (12_345, 12_345), "{}", path.display());
        }
        assert_eq!((mode(notes.dir()), mode(&files[0])), (0o700, 0o600));
    }

    #[test]
    fn root_gives_away_nothing_that_a_link_leads_to_and_then_drops_nothing() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let before = std::fs::metadata(elsewhere.path()).unwrap().uid();
        symlink(elsewhere.path(), dir.path().join("pruned")).unwrap();
        let Some(()) = pruned_by_root(dir.path()) else { return };
        let now = "2026-11-03T12:00:00Z".parse().unwrap();
        let retention = Retention { bodies: Some(DAY), recordings: None };
        let reader = AuditReader::new(dir.path());
        assert!(retention.apply_by_hand(&reader, now).unwrap_err().to_string().contains("pruned"));
        assert_eq!(retention.due(&reader, now).unwrap().bodies, 1);
        assert_eq!(std::fs::metadata(elsewhere.path()).unwrap().uid(), before);
        assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }
}
