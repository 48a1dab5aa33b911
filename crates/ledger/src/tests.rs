//! The ledger as a whole: what it promises about crashes, failing disks and tampering.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use crate::{
    AppendError, Durability, FaultKind, Hash, Ledger, OpenError, Options, ReadError, Reader, RecoveryCause,
    Verified, Verifier, consistency_proof, inclusion_proof, verify_consistency, verify_inclusion,
};

mod bodies;
mod failures;
mod keys;
mod proofs;
mod room;
mod tamper;
mod tiles;

const ORIGIN: &str = "test.example/audit";

fn open(dir: &Path) -> Ledger {
    Ledger::open(dir, Options::new(ORIGIN)).unwrap().0
}

/// Small segments, so that a test has several.
fn small() -> Options {
    Options::new(ORIGIN).segment_size(700)
}

fn record(i: u64) -> Vec<u8> {
    format!("record {i} {}", "x".repeat(usize::try_from(i % 40).unwrap())).into_bytes()
}

/// A closed ledger with so many records.
fn written(count: u64) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, recovery) = Ledger::open(dir.path(), small()).unwrap();
    assert_eq!(recovery, None);
    append(&ledger, 0..count);
    ledger.close();
    dir
}

fn append(ledger: &Ledger, range: std::ops::Range<u64>) {
    for i in range {
        let receipt = ledger.writer().append_blocking(record(i), Durability::Write).unwrap();
        assert_eq!(receipt.leaf, Hash::leaf(&record(i)));
    }
}

fn verify(dir: &Path) -> Result<Verified, ReadError> {
    Verifier::open(dir)?.run()
}

fn fault(dir: &Path) -> (FaultKind, u64) {
    match verify(dir) {
        Err(ReadError::Fault(fault)) => (fault.kind, fault.index),
        other => panic!("not found: {other:?}"),
    }
}

fn records(dir: &Path) -> Vec<Vec<u8>> {
    Reader::new(dir).entries(0).unwrap().map(|entry| entry.unwrap().record).collect()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    crate::segment::list(&dir.join("segments")).unwrap().into_iter().map(|(_, path)| path).collect()
}

/// Where each entry stands: its file and its range in it.
fn places(dir: &Path) -> Vec<(PathBuf, usize, usize)> {
    Reader::new(dir)
        .entries(0)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let begin = usize::try_from(entry.offset).unwrap();
            (entry.file.to_path_buf(), begin, begin + crate::segment::entry_size(entry.record.len()))
        })
        .collect()
}

#[test]
fn what_was_written_is_read_and_verified_across_restarts_and_segments() {
    let dir = written(30);
    let (ledger, recovery) = Ledger::open(dir.path(), small()).unwrap();
    assert_eq!(recovery, None);
    append(&ledger, 30..60);
    ledger.close();
    assert!(segments(dir.path()).len() > 5);
    assert_eq!(records(dir.path()), (0..60).map(record).collect::<Vec<_>>());
    let from: Vec<_> =
        Reader::new(dir.path()).entries(41).unwrap().map(|entry| entry.unwrap().index).collect();
    assert_eq!(from, (41..60).collect::<Vec<_>>());
    let verified = verify(dir.path()).unwrap();
    assert_eq!((verified.size, verified.checkpoint.size, verified.torn), (60, 60, false));
    assert_eq!(verified.root, verified.checkpoint.root);
}

#[test]
fn a_reader_follows_a_ledger_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(dir.path(), small()).unwrap();
    let mut entries = ledger.reader().entries(0).unwrap();
    for i in 0..40 {
        assert!(entries.next().is_none());
        append(&ledger, i..i + 1);
        assert_eq!(entries.next().unwrap().unwrap().record, record(i));
    }
    ledger.checkpoint().unwrap();
    assert_eq!(verify(dir.path()).unwrap().size, 40);
}

#[test]
fn reading_does_not_end_in_silence_where_a_segment_ends_too_early() {
    let dir = written(30);
    let (places, second) = (places(dir.path()), segments(dir.path()).remove(1));
    let last = places.iter().rposition(|place| place.0 == second).unwrap();
    let (_, begin, end) = places[last];
    for (cut, kind) in
        [(begin, FaultKind::Removed), (begin + 3, FaultKind::Truncated), (end - 1, FaultKind::Truncated)]
    {
        let copy = copy(dir.path());
        rewrite(&segments(copy.path())[1], |bytes| bytes.truncate(cut));
        let mut read: Vec<_> = Reader::new(copy.path()).entries(0).unwrap().take(last + 1).collect();
        let error = read.pop().unwrap().unwrap_err();
        assert!(
            matches!(error, ReadError::Fault(ref fault) if (fault.kind, fault.index) == (kind, last as u64)),
            "{error}"
        );
        assert_eq!(read.into_iter().map(Result::unwrap).count(), last);
    }
}

#[test]
fn an_entry_is_found_again_by_its_place() {
    let dir = written(40);
    let reader = Reader::new(dir.path());
    let mut entries = reader.entries(0).unwrap();
    loop {
        let offset = entries.offset();
        let Some(entry) = entries.next().transpose().unwrap() else { break };
        assert_eq!(reader.entry_at(entry.index, entry.offset).unwrap().as_ref(), Some(&entry));
        assert_eq!(reader.entry_at(entry.index + 1, entry.offset).unwrap(), None);
        assert_eq!(reader.entry_at(entry.index, entry.offset + 1).unwrap(), None);
        // From where the one before ended: the first of a segment stands behind another's end.
        let rest: Vec<_> = reader.entries_at(entry.index, offset).unwrap().map(Result::unwrap).collect();
        assert_eq!((rest.len() as u64, rest.first()), (40 - entry.index, Some(&entry)));
    }
}

#[test]
fn proofs_from_stored_records() {
    let dir = written(30);
    let reader = Reader::new(dir.path());
    let verified = verify(dir.path()).unwrap();
    let old: crate::Frontier = (0..13).map(|i| Hash::leaf(&record(i))).collect();
    for i in 0..30 {
        let proof = inclusion_proof(&reader, i, 30).unwrap();
        assert!(verify_inclusion(Hash::leaf(&record(i)), i, 30, &proof, verified.root));
    }
    let proof = consistency_proof(&reader, 13, 30).unwrap();
    assert!(verify_consistency(13, old.root(), 30, verified.root, &proof));
    assert!(inclusion_proof(&reader, 3, 31).is_err());
}

#[test]
fn many_appenders_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let writer = ledger.writer();
            scope.spawn(move || {
                for i in 0..50 {
                    let durability = if i % 5 == 0 { Durability::Fsync } else { Durability::Write };
                    writer.append_blocking(format!("{thread} {i}").into_bytes(), durability).unwrap();
                }
            });
        }
    });
    let health = ledger.writer().health();
    assert_eq!((health.size, health.waiting, health.reserved), (400, 0, 0));
    assert!(health.is_healthy());
    ledger.close();
    assert_eq!(verify(dir.path()).unwrap().size, 400);
    // Each appender's records are in its own order.
    let all = records(dir.path());
    for thread in 0..8 {
        let prefix = format!("{thread} ");
        let own =
            all.iter().filter(|record| record.starts_with(prefix.as_bytes())).cloned().collect::<Vec<_>>();
        assert_eq!(own, (0..50).map(|i| format!("{thread} {i}").into_bytes()).collect::<Vec<_>>());
    }
}

#[test]
fn checkpoints_are_signed_by_time_and_heard() {
    let dir = tempfile::tempdir().unwrap();
    let (send, receive) = channel();
    let options = Options::new(ORIGIN)
        .checkpoint_interval(Duration::from_millis(1))
        .on_checkpoint(move |note| drop(send.send(note.to_owned())));
    let (ledger, _) = Ledger::open(dir.path(), options).unwrap();
    append(&ledger, 0..1);
    let note = receive.recv().unwrap();
    let checkpoint = crate::Checkpoint::verify(&note, ledger.verifying_key()).unwrap();
    assert_eq!((checkpoint.origin.as_str(), checkpoint.size), (ORIGIN, 1));
    append(&ledger, 1..5);
    ledger.close();
    Verifier::open(dir.path()).unwrap().knowing(&note).unwrap().run().unwrap();
}

#[test]
fn only_one_process_appends_and_only_with_its_own_key() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    assert!(matches!(Ledger::open(dir.path(), Options::new(ORIGIN)), Err(OpenError::Locked(_))));
    append(&ledger, 0..3);
    ledger.close();

    let error = Ledger::open(dir.path(), Options::new("other.example/audit")).unwrap_err();
    assert!(matches!(error, OpenError::Key { .. }), "{error}");
    let key = dir.path().join("key.pem");
    let pem = fs::read_to_string(&key).unwrap();
    fs::remove_file(&key).unwrap();
    let error = Ledger::open(dir.path(), Options::new(ORIGIN)).unwrap_err();
    assert!(error.to_string().contains("restore it"), "{error}");
    fs::write(&key, crate::SigningKey::generate(ORIGIN).unwrap().to_pem().unwrap()).unwrap();
    private(&key);
    let error = Ledger::open(dir.path(), Options::new(ORIGIN)).unwrap_err();
    assert!(error.to_string().contains("not the key of this log"), "{error}");
    fs::write(&key, pem).unwrap();
    open(dir.path());
}

#[cfg(unix)]
#[test]
fn a_key_that_others_may_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = written(1);
    let key = dir.path().join("key.pem");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let error = Ledger::open(dir.path(), Options::new(ORIGIN)).unwrap_err();
    assert!(error.to_string().contains("chmod 600"), "{error}");
}

fn private(path: &Path) {
    #[cfg(unix)]
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    #[cfg(not(unix))]
    let _ = path;
}

#[test]
fn records_of_impossible_size_and_records_after_closing_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let writer = ledger.writer();
    let refuse = |record: Vec<u8>| writer.append_blocking(record, Durability::Write).unwrap_err();
    assert_eq!(refuse(vec![]), AppendError::Size(0));
    assert_eq!(refuse(vec![0; 65_536]), AppendError::Size(65_536));
    writer.append_blocking(vec![0; 65_535], Durability::Write).unwrap();
    let slot = writer.try_reserve().unwrap();
    ledger.close();
    assert_eq!(refuse(b"late".to_vec()), AppendError::Closed);
    let (send, receive) = channel();
    slot.append(b"late".to_vec(), Durability::Write, Box::new(move |result| send.send(result).unwrap()));
    assert_eq!(receive.recv().unwrap(), Err(AppendError::Closed));
    assert_eq!(writer.health().reserved, 0);
    assert_eq!(verify(dir.path()).unwrap().size, 1);
}

#[test]
fn a_full_queue_refuses_but_what_is_reserved_has_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(dir.path(), Options::new(ORIGIN).capacity(2)).unwrap();
    let writer = ledger.writer();
    let (first, second) = (writer.try_reserve().unwrap(), writer.try_reserve().unwrap());
    assert_eq!(writer.try_reserve().unwrap_err(), AppendError::Full);
    assert_eq!(writer.append_blocking(record(0), Durability::Write), Err(AppendError::Full));
    drop(first);
    let (send, receive) = channel();
    second.append(record(1), Durability::Fsync, Box::new(move |result| send.send(result).unwrap()));
    assert_eq!(receive.recv().unwrap().unwrap().index, 0);
    writer.append_blocking(record(2), Durability::Write).unwrap();
}

#[test]
fn tampering_is_named() {
    let dir = written(30);
    let places = places(dir.path());
    let check = |name: &str, tamper: &dyn Fn(&Path), want: (FaultKind, u64)| {
        let copy = copy(dir.path());
        tamper(copy.path());
        assert_eq!(fault(copy.path()), want, "{name}");
        assert!(Ledger::open(copy.path(), small()).is_err() || want.1 < 20, "{name}: opened for appending");
    };
    let segment_of = |dir: &Path, i: usize| dir.join("segments").join(places[i].0.file_name().unwrap());
    let last = segments(dir.path()).len() - 1;
    let first_of_last = crate::segment::list(&dir.path().join("segments")).unwrap()[last].0;

    check(
        "edited",
        &|dir| rewrite(&segment_of(dir, 8), |bytes| bytes[places[8].2 - 1] ^= 1),
        (FaultKind::Edited, 8),
    );
    check(
        "removed",
        &|dir| rewrite(&segment_of(dir, 1), |bytes| drop(bytes.drain(places[1].1..places[1].2))),
        (FaultKind::Removed, 1),
    );
    check(
        "swapped",
        &|dir| {
            rewrite(&segment_of(dir, 1), |bytes| {
                bytes[places[1].1..places[2].2].rotate_left(places[1].2 - places[1].1)
            })
        },
        (FaultKind::Reordered, 1),
    );
    check(
        "segment gone",
        &|dir| fs::remove_file(&segments(dir)[1]).unwrap(),
        (FaultKind::Removed, starts(dir.path())[1]),
    );
    check("first segment gone", &|dir| fs::remove_file(&segments(dir)[0]).unwrap(), (FaultKind::Removed, 0));
    check(
        "last segment gone",
        &|dir| fs::remove_file(&segments(dir)[last]).unwrap(),
        (FaultKind::RolledBack, first_of_last),
    );
    check(
        "last record gone",
        &|dir| rewrite(&segment_of(dir, 29), |bytes| bytes.truncate(places[29].1)),
        (FaultKind::RolledBack, 29),
    );
    check(
        "cut within the last record",
        &|dir| rewrite(&segment_of(dir, 29), |bytes| bytes.truncate(places[29].2 - 1)),
        (FaultKind::Truncated, 29),
    );
    check(
        "checkpoint gone",
        &|dir| fs::remove_file(dir.join("checkpoint")).unwrap(),
        (FaultKind::Checkpoint, 0),
    );
    check(
        "checkpoint edited",
        &|dir| rewrite(&dir.join("checkpoint"), |bytes| bytes[ORIGIN.len() + 1] ^= 1),
        (FaultKind::Checkpoint, 0),
    );
}

fn starts(dir: &Path) -> Vec<u64> {
    crate::segment::list(&dir.join("segments")).unwrap().into_iter().map(|(first, _)| first).collect()
}

#[test]
fn history_written_anew_without_the_key_is_found() {
    // The forger makes a ledger of his own with other records, and puts the old checkpoint and key in place.
    let (dir, forged) = (written(20), tempfile::tempdir().unwrap());
    let (ledger, _) = Ledger::open(forged.path(), small()).unwrap();
    for i in 0..20 {
        let forged = if i == 7 { b"nothing happened".to_vec() } else { record(i) };
        ledger.writer().append_blocking(forged, Durability::Write).unwrap();
    }
    ledger.close();
    for file in ["checkpoint", "key.pub", "key.pem"] {
        fs::copy(dir.path().join(file), forged.path().join(file)).unwrap();
    }
    assert_eq!(fault(forged.path()), (FaultKind::Rewritten, 19));
    assert!(matches!(Ledger::open(forged.path(), small()), Err(OpenError::Damaged(_))));
}

#[test]
fn history_written_anew_with_the_key_is_found_by_a_checkpoint_kept_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    append(&ledger, 0..9);
    ledger.checkpoint().unwrap();
    let kept = fs::read_to_string(dir.path().join("checkpoint")).unwrap();
    append(&ledger, 9..12);
    ledger.close();
    let key = fs::read(dir.path().join("key.pem")).unwrap();
    fs::remove_dir_all(dir.path()).unwrap();
    fs::create_dir(dir.path()).unwrap();
    fs::write(dir.path().join("key.pem"), key).unwrap();
    private(&dir.path().join("key.pem"));

    let ledger = open(dir.path());
    append(&ledger, 0..4);
    ledger.close();
    let error = Verifier::open(dir.path()).unwrap().knowing(&kept).unwrap().run().unwrap_err();
    assert!(matches!(error, ReadError::Fault(ref fault) if fault.kind == FaultKind::RolledBack), "{error}");
    let ledger = open(dir.path());
    append(&ledger, 14..30);
    ledger.close();
    verify(dir.path()).unwrap();
    let error = Verifier::open(dir.path()).unwrap().knowing(&kept).unwrap().run().unwrap_err();
    assert!(matches!(error, ReadError::Fault(ref fault) if fault.kind == FaultKind::Rewritten), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_flipped_byte_anywhere_is_found(file in any::<usize>(), at in any::<usize>(), bit in 0_u8..8) {
        let dir = written(12);
        let mut files = segments(dir.path());
        files.push(dir.path().join("checkpoint"));
        let file = &files[file % files.len()];
        rewrite(file, |bytes| { let at = at % bytes.len(); bytes[at] ^= 1_u8 << bit; });
        prop_assert!(matches!(verify(dir.path()), Err(ReadError::Fault(_))));
    }

    #[test]
    fn any_cut_is_found(file in any::<usize>(), at in any::<usize>()) {
        let dir = written(12);
        let files = segments(dir.path());
        let file = &files[file % files.len()];
        rewrite(file, |bytes| { let at = at % bytes.len(); bytes.truncate(at); });
        prop_assert!(matches!(verify(dir.path()), Err(ReadError::Fault(_))));
    }

    #[test]
    fn any_removed_or_swapped_record_is_found(a in 0_usize..12, b in 0_usize..12, remove in any::<bool>()) {
        prop_assume!(remove || a != b);
        let dir = written(12);
        // All in one file, so that any two can change places.
        let places = places(dir.path());
        let cut = |i: usize| fs::read(&places[i].0).unwrap()[places[i].1..places[i].2].to_vec();
        let (first, second) = (cut(a), cut(b));
        let put = |i: usize, with: &[u8]| rewrite(&places[i].0, |bytes| drop(bytes.splice(places[i].1..places[i].2, with.iter().copied())));
        if remove {
            put(a, &[]);
        } else {
            // The later place first: the earlier one may have another length.
            let (low, high, low_with, high_with) = if a < b { (a, b, &second, &first) } else { (b, a, &first, &second) };
            put(high, high_with);
            put(low, low_with);
        }
        prop_assert!(matches!(verify(dir.path()), Err(ReadError::Fault(_))));
    }

    /// The process or machine dies while records beyond the checkpoint are being written: whatever part of the unflushed
    /// tail is left, everything before it is there, and the ledger goes on.
    #[test]
    fn a_crash_at_any_byte_recovers_all_that_was_flushed(flushed in 0_u64..10, more in 1_u64..10, cut in any::<usize>(), left in 0..3_usize) {
        let dir = tempfile::tempdir().unwrap();
        let options = || Options::new(ORIGIN).checkpoint_interval(Duration::from_secs(3600));
        let (ledger, _) = Ledger::open(dir.path(), options()).unwrap();
        append(&ledger, 0..flushed);
        if flushed > 0 {
            ledger.checkpoint().unwrap();
        }
        let crashed = tempfile::tempdir().unwrap();
        append(&ledger, flushed..flushed + more);
        let places = places(dir.path());
        let begin = flushed.checked_sub(1).map_or(places[0].1, |last| places[usize::try_from(last).unwrap()].2);
        let end = places.last().unwrap().2;
        // As the files are at that moment; closing would sign them.
        let checkpoint = fs::read(dir.path().join("checkpoint")).unwrap();
        copy_into(dir.path(), crashed.path());
        fs::write(crashed.path().join("checkpoint"), checkpoint).unwrap();
        drop(ledger);
        let cut = begin + cut % (end - begin);
        rewrite(&segments(crashed.path())[0], |bytes| {
            bytes.truncate(cut);
            bytes.extend_from_slice([&[][..], &[0; 100], &[0xff; 100]][left]);
        });

        prop_assert!(verify(crashed.path()).unwrap().size >= flushed);
        let (ledger, recovery) = Ledger::open(crashed.path(), options()).unwrap();
        let whole = places.iter().filter(|place| place.2 <= cut).count();
        append(&ledger, 50..53);
        ledger.close();
        let found = records(crashed.path());
        let verified = verify(crashed.path()).unwrap();
        prop_assert_eq!(verified.size, found.len() as u64);
        prop_assert!(whole as u64 >= flushed);
        prop_assert_eq!(&found[..whole], &(0..whole as u64).map(record).collect::<Vec<_>>()[..]);
        let torn = recovery.is_some();
        prop_assert_eq!(torn, left == 2 || !places.iter().any(|place| place.1 == cut || place.2 == cut));
        prop_assert_eq!(found.len(), whole + usize::from(torn) + 3);
        if let Some(recovery) = recovery {
            let RecoveryCause::TornTail { bytes, sha256, kept } = recovery.cause else { panic!() };
            let kept = fs::read(kept).unwrap();
            prop_assert_eq!((kept.len() as u64, Hash::of(&kept)), (bytes, sha256));
        }
    }
}

fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn copy(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_into(dir, copy.path());
    copy
}

fn copy_into(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            fs::create_dir(&target).unwrap();
            copy_into(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}
