//! What fails while a ledger is written: the disk, whoever writes.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use tempfile::TempDir;

use super::{ORIGIN, append, open, record, records, segments, small, verify};
use crate::log::Faults;
use crate::{AppendError, Durability, Ledger, Options};

/// A ledger whose disk fails as the test says.
pub(super) fn failing() -> (TempDir, Ledger, Arc<Faults>, Receiver<bool>) {
    let dir = tempfile::tempdir().unwrap();
    let (tell, told) = channel();
    let options = small().retry_interval(Duration::from_millis(1)).on_failure(move |failure| {
        let _ = tell.send(failure.is_some());
    });
    let faults = options.faults.clone();
    let (ledger, _) = Ledger::open(dir.path(), options).unwrap();
    append(&ledger, 0..7);
    (dir, ledger, faults, told)
}

/// Appends until that works again: the ledger recovers by itself, in its own time.
fn append_when_possible(ledger: &Ledger, record: &[u8]) {
    while let Err(error) = ledger.writer().append_blocking(record.to_vec(), Durability::Fsync) {
        assert!(matches!(error, AppendError::Failed(_)), "{error}");
        std::thread::yield_now();
    }
}

#[test]
fn a_full_disk_refuses_everything_then_recovers_and_loses_nothing() {
    let (dir, ledger, faults, told) = failing();
    let slot = ledger.writer().try_reserve().unwrap();
    faults.write.store(true, SeqCst);
    for durability in [Durability::Write, Durability::Fsync] {
        let refused = ledger.writer().append_blocking(b"refused".to_vec(), durability);
        assert!(matches!(refused, Err(AppendError::Failed(_))), "{refused:?}");
    }
    assert!(!ledger.writer().health().is_healthy());
    assert!(ledger.writer().try_reserve().is_err());
    assert!(ledger.checkpoint().is_err());
    // What has happened is told although nothing can be written, and is not forgotten.
    let (send, receive) = channel();
    slot.append(
        b"an outcome".to_vec(),
        Durability::Write,
        Box::new(move |result| send.send(result).unwrap()),
    );
    assert!(matches!(receive.recv().unwrap(), Err(AppendError::Failed(_))));

    faults.write.store(false, SeqCst);
    append_when_possible(&ledger, b"afterwards");
    assert_eq!((told.recv(), told.recv()), (Ok(true), Ok(false)));
    assert!(ledger.writer().health().is_healthy());
    assert_eq!(ledger.writer().health().reserved, 0);
    ledger.close();
    assert_eq!(verify(dir.path()).unwrap().size, 10);
    let all = records(dir.path());
    assert_eq!(all[..7], (0..7).map(record).collect::<Vec<_>>());
    assert!(String::from_utf8_lossy(&all[7]).contains("write-failure"));
    assert!(all[8..].contains(&b"an outcome".to_vec()) && all[8..].contains(&b"afterwards".to_vec()));
}

#[test]
fn a_failing_flush_refuses_whoever_asked_for_it_and_loses_nothing() {
    let (dir, ledger, faults, told) = failing();
    faults.sync.store(true, SeqCst);
    let refused = ledger.writer().append_blocking(b"not durable".to_vec(), Durability::Fsync);
    assert!(matches!(refused, Err(AppendError::Failed(_))), "{refused:?}");
    faults.sync.store(false, SeqCst);
    append_when_possible(&ledger, b"afterwards");
    assert_eq!(told.recv(), Ok(true));
    append(&ledger, 20..40);
    ledger.close();
    let verified = verify(dir.path()).unwrap();
    let all = records(dir.path());
    assert_eq!(verified.size, all.len() as u64);
    assert_eq!(all[..7], (0..7).map(record).collect::<Vec<_>>());
    assert_eq!(all.last().unwrap(), &record(39));
}

/// Callers write by themselves, the writer thread repairs: whoever does, what was acknowledged is there, once, in order.
#[test]
fn many_appenders_on_a_disk_that_fails_now_and_then() {
    let (dir, ledger, faults, told) = failing();
    drop(told);
    let acknowledged: Vec<Vec<String>> = std::thread::scope(|scope| {
        let appender = |thread: u32| {
            let (writer, faults) = (ledger.writer(), faults.clone());
            move || {
                let mut acknowledged = Vec::new();
                for i in 0..300 {
                    let durability = if i % 7 == 0 { Durability::Fsync } else { Durability::Write };
                    let record = format!("{thread} {i}");
                    if writer.append_blocking(record.clone().into_bytes(), durability).is_ok() {
                        acknowledged.push(record);
                    }
                    match (i + thread) % 50 {
                        10 => faults.write.store(true, SeqCst),
                        20 => faults.sync.store(true, SeqCst),
                        30 => {
                            faults.write.store(false, SeqCst);
                            faults.sync.store(false, SeqCst);
                        }
                        _ => {}
                    }
                }
                acknowledged
            }
        };
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(appender(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    faults.write.store(false, SeqCst);
    faults.sync.store(false, SeqCst);
    append_when_possible(&ledger, b"afterwards");
    ledger.close();
    verify(dir.path()).unwrap();
    let all: Vec<String> =
        records(dir.path()).into_iter().map(|record| String::from_utf8(record).unwrap()).collect();
    for (thread, acknowledged) in acknowledged.iter().enumerate() {
        let prefix = format!("{thread} ");
        let own: Vec<&String> = all.iter().filter(|record| record.starts_with(&prefix)).collect();
        assert!(own.windows(2).all(|pair| pair[0] != pair[1]), "written twice");
        let kept = own.into_iter().filter(|record| acknowledged.contains(record));
        assert!(kept.eq(acknowledged), "thread {thread}");
    }
}

#[test]
fn closing_while_the_disk_fails_ends() {
    let (dir, ledger, faults, told) = failing();
    drop(told);
    ledger.checkpoint().unwrap();
    faults.write.store(true, SeqCst);
    faults.sync.store(true, SeqCst);
    assert!(ledger.writer().append_blocking(b"refused".to_vec(), Durability::Write).is_err());
    ledger.close();
    open(dir.path()).close();
    assert_eq!(records(dir.path())[..7], (0..7).map(record).collect::<Vec<_>>());
    verify(dir.path()).unwrap();
}

/// As when there is no descriptor left for the file, or its directory cannot be flushed.
#[test]
fn a_segment_that_was_made_and_not_used_does_not_stay() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new(ORIGIN).retry_interval(Duration::from_millis(1));
    let faults = options.faults.clone();
    let (ledger, _) = Ledger::open(dir.path(), options).unwrap();
    append(&ledger, 0..7);
    faults.write.store(true, SeqCst);
    assert!(ledger.writer().append_blocking(record(7), Durability::Write).is_err());
    let made = dir.path().join("segments").join(crate::segment::file_name(7));
    fs::copy(&segments(dir.path())[0], &made).unwrap();
    faults.write.store(false, SeqCst);
    append_when_possible(&ledger, b"afterwards");
    ledger.close();
    assert!(!made.exists());
    assert_eq!(verify(dir.path()).unwrap().size, 9);
}

#[test]
fn who_comes_to_wait_after_the_failure_is_told_when_the_ledger_closes() {
    let dir = tempfile::tempdir().unwrap();
    let hour = Duration::from_secs(3600);
    let options = Options::new(ORIGIN).checkpoint_interval(hour).retry_interval(hour);
    let faults = options.faults.clone();
    let (ledger, _) = Ledger::open(dir.path(), options).unwrap();
    let writer = ledger.writer();
    let held_up = faults.gate.lock().unwrap();
    let appending =
        std::thread::spawn(move || writer.append_blocking(b"not durable".to_vec(), Durability::Fsync));
    let health = || ledger.writer().health();
    while (health().waiting, health().reserved) != (0, 1) {
        std::thread::yield_now();
    }
    // It is being written when flushing what was before it fails.
    faults.sync.store(true, SeqCst);
    assert!(ledger.checkpoint().is_err());
    drop(held_up);
    while health().size < 1 {
        std::thread::yield_now();
    }
    ledger.close();
    assert!(matches!(appending.join().unwrap(), Err(AppendError::Failed(_))));
}

/// Two flushes of one open file at once would share one report of lost bytes.
#[test]
fn a_full_segment_is_flushed_by_one_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let options = small();
    let faults = options.faults.clone();
    let (ledger, _) = Ledger::open(dir.path(), options).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let writer = ledger.writer();
            scope.spawn(move || {
                for i in 0..100 {
                    let durability =
                        if (i + thread) % 2 == 0 { Durability::Fsync } else { Durability::Write };
                    writer.append_blocking(record(i), durability).unwrap();
                }
            });
        }
    });
    ledger.close();
    assert!(segments(dir.path()).len() > 10);
    assert!(!faults.overlapped.load(SeqCst));
    assert_eq!(verify(dir.path()).unwrap().size, 400);
}

/// Appends as it is dropped, as whoever has to tell how something ended.
struct TellsItsEnd<'l>(&'l Ledger, u64);

impl Drop for TellsItsEnd<'_> {
    fn drop(&mut self) {
        append(self.0, self.1..self.1 + 1);
    }
}

#[test]
fn what_is_told_while_somebody_elses_panic_unwinds_is_written_and_the_ledger_lives() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    for i in 0..20 {
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _end = TellsItsEnd(&ledger, i);
            std::panic::resume_unwind(Box::new("not the ledger's"));
        }));
        assert!(panicked.is_err());
        assert!(ledger.writer().health().is_healthy());
    }
    append(&ledger, 20..21);
    ledger.close();
    assert_eq!(records(dir.path()), (0..21).map(record).collect::<Vec<_>>());
}
