//! Appending: many who wait for the disk, many who wait for the kernel, and one alone; beside the disk by itself.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use portcullis_ledger::{Durability, Ledger, Options};

use super::records::{Chance, request};
use super::{Figure, median, now};
use crate::AnyError;

/// How many callers append at once.
const CALLERS: usize = 256;
/// How often one alone appends.
const ALONE: usize = 400;

pub(super) fn run(dir: &Path, time: Duration) -> Result<Vec<Figure>, AnyError> {
    std::fs::create_dir_all(dir)?;
    let record = request(&mut Chance::new(1), 1).0;
    eprintln!("the disk by itself: {} bytes at a time", record.len());
    // The two take turns, since the disk is not the same from one second to the next.
    let (mut bare, mut ours, mut handed) = (Vec::new(), Vec::new(), Vec::new());
    let mut disk = Preallocated::new(&dir.join("bare"), record.len())?;
    let (ledger, _) = Ledger::open(dir.join("alone"), Options::new("bench.example/alone"))?;
    let writer = ledger.writer();
    for _ in 0..ALONE {
        bare.push(disk.append(&record)?);
        let began = now();
        writer.append_blocking(record.clone(), Durability::Fsync)?;
        ours.push(began.elapsed());
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        let began = now();
        writer.append(record.clone(), Durability::Fsync, Box::new(move |result| drop(send.send(result))));
        receive.recv()??;
        handed.push(began.elapsed());
    }
    ledger.close();
    let (bare, ours, handed) = (median(&mut bare), median(&mut ours), median(&mut handed));
    let rate = 1e6 / bare;

    let durable = concurrent(&dir.join("durable"), Durability::Fsync, time)?;
    let written = concurrent(&dir.join("written"), Durability::Write, time)?;
    let bar = (0.4 * 256.0 * rate).min(100_000.0);
    Ok(vec![
        Figure::new(
            "fdatasync_per_s",
            rate,
            format!("append to a preallocated file and fdatasync: {bare:.0} µs"),
        ),
        Figure::new("durable_records_per_s", durable, "256 callers, each on the disk before it goes on")
            .at_least(bar),
        Figure::new("write_mode_records_per_s", written, "256 callers, each in the kernel before it goes on")
            .at_least(100_000.0),
        Figure::new("lone_added_us", ours - bare, format!("one caller alone: {ours:.0} µs")).at_most(60.0),
        Figure::new(
            "lone_handed_over_us",
            handed - bare,
            format!("one alone who may not be blocked: {handed:.0} µs"),
        ),
    ])
}

/// A file whose blocks are there already.
struct Preallocated {
    file: File,
    at: u64,
}

impl Preallocated {
    fn new(path: &Path, record: usize) -> Result<Self, AnyError> {
        let mut file = File::create(path)?;
        file.write_all(&vec![0; (record + 64) * (ALONE + 1)])?;
        file.sync_all()?;
        Ok(Self { file, at: 0 })
    }

    fn append(&mut self, record: &[u8]) -> Result<Duration, AnyError> {
        let began = now();
        self.file.seek(SeekFrom::Start(self.at))?;
        self.file.write_all(record)?;
        self.file.sync_data()?;
        self.at += record.len() as u64;
        Ok(began.elapsed())
    }
}

/// Records a second, by callers that each wait for one before they append the next.
fn concurrent(dir: &Path, durability: Durability, time: Duration) -> Result<f64, AnyError> {
    let (ledger, _) = Ledger::open(dir, Options::new("bench.example/concurrent"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let record = request(&mut Chance::new(1), 1).0;
    let done = Arc::new(AtomicU64::new(0));
    let began = now();
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        let (writer, record, done) = (ledger.writer(), record.clone(), done.clone());
        callers.push(runtime.spawn(async move {
            while began.elapsed() < time {
                let (send, receive) = tokio::sync::oneshot::channel();
                writer.append(record.clone(), durability, Box::new(move |result| drop(send.send(result))));
                if !matches!(receive.await, Ok(Ok(_))) {
                    return;
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for caller in callers {
        runtime.block_on(caller)?;
    }
    let took = began.elapsed();
    ledger.close();
    std::fs::remove_dir_all(dir)?;
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    Ok(done.load(Ordering::Relaxed) as f64 / took.as_secs_f64())
}
