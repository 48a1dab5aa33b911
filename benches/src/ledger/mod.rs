//! `bench ledger`: what evidence costs. Appending beside the bare disk, verifying beside bare SHA-256, searching millions of
//! records, a recorded request beside an unrecorded one, recording terminals.

mod audit;
mod records;
mod search;
mod verify;
mod write;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Map, Value, json};

use crate::AnyError;

#[derive(Args)]
pub(crate) struct LedgerArgs {
    /// Print one JSON object of figures last on standard output
    #[arg(long)]
    json: bool,
    /// How many records are searched
    #[arg(long, default_value_t = 5_000_000)]
    records: u64,
    /// How long each way of appending is measured, in seconds
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// A directory on the disk that is to be measured
    #[arg(long, default_value = "target")]
    dir: PathBuf,
    /// Only these parts
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Write,
    Verify,
    Search,
    Audit,
    Recordings,
}

/// One line of the result: what, how much, what it should be.
struct Figure {
    key: &'static str,
    value: f64,
    words: String,
    bar: Option<Bar>,
}

enum Bar {
    AtLeast(f64),
    AtMost(f64),
}

impl Figure {
    fn new(key: &'static str, value: f64, words: impl Into<String>) -> Self {
        Self { key, value, words: words.into(), bar: None }
    }

    fn at_least(mut self, bar: f64) -> Self {
        self.bar = Some(Bar::AtLeast(bar));
        self
    }

    fn at_most(mut self, bar: f64) -> Self {
        self.bar = Some(Bar::AtMost(bar));
        self
    }

    fn line(&self) -> String {
        let value = if self.value.abs() >= 1000.0 {
            format!("{:.0}", self.value)
        } else {
            format!("{:.2}", self.value)
        };
        let (met, bar) = match self.bar {
            Some(Bar::AtLeast(bar)) => (self.value >= bar, format!("≥ {bar:.2}")),
            Some(Bar::AtMost(bar)) => (self.value <= bar, format!("≤ {bar:.2}")),
            None => (true, String::new()),
        };
        let mark = if self.bar.is_none() {
            " "
        } else if met {
            "✔"
        } else {
            "✘"
        };
        format!("{mark} {:<26} {value:>12}  {bar:<14} {}", self.key, self.words)
    }
}

pub(crate) async fn run(args: LedgerArgs) -> Result<(), AnyError> {
    std::fs::create_dir_all(&args.dir)?;
    let dir = tempfile::Builder::new().prefix("bench-ledger-").tempdir_in(&args.dir)?;
    let wants = |part| args.only.is_empty() || args.only.contains(&part);
    let time = Duration::from_secs(args.seconds);
    let mut figures = Vec::new();
    if wants(Part::Write) {
        // It has a runtime of its own.
        let dir = dir.path().join("write");
        let written = tokio::task::spawn_blocking(move || write::run(&dir, time).map_err(|e| e.to_string()));
        figures.extend(written.await??);
    }
    if wants(Part::Audit) {
        figures.extend(audit::requests(&dir.path().join("audit"), time).await?);
    }
    if wants(Part::Recordings) {
        figures.extend(audit::recordings(&dir.path().join("recordings")).await?);
    }
    if wants(Part::Verify) || wants(Part::Search) {
        let log = dir.path().join("log");
        eprintln!("writing {} records", args.records);
        records::generate(&log, args.records)?;
        if wants(Part::Verify) {
            figures.extend(verify::run(&log)?);
        }
        if wants(Part::Search) {
            figures.extend(search::run(&log, args.records).await?);
        }
    }
    for figure in &figures {
        eprintln!("{}", figure.line());
    }
    if args.json {
        let figures: Map<String, Value> =
            figures.iter().map(|figure| (figure.key.to_owned(), json!(figure.value))).collect();
        println!("{}", Value::Object(figures));
    }
    Ok(())
}

/// The median of some times, in microseconds.
fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}

/// Processor time of this thread.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
    Instant::now()
}
