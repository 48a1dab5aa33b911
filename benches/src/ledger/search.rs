//! Searching: how fast an index is built, and how fast it answers what people ask.

use std::path::Path;
use std::time::Duration;

use portcullis_core::Timestamp;
use portcullis_search::{Indexer, Query, Searcher};

use super::{Figure, median, now};
use crate::AnyError;

/// What auditors ask, some often, some seldom found, some not at all.
const QUERIES: [&str; 16] = [
    "",
    "user:ci-17",
    "user:ci-1*",
    "verb:delete resource:secrets",
    "user:ci-* verb:delete resource:secrets",
    "status:403",
    "status:5xx verb:create",
    "namespace:team-7 -verb:get,list,watch",
    "resource:pods verb:watch status:404",
    "user:ci-99 namespace:team-99",
    "name:pods-0012*",
    "\"delete secrets\"",
    "code:policy* user:ci-2*",
    "end:refused resource:deployments",
    "session:session-4711",
    "user:nobody",
];

pub(super) async fn run(log: &Path, records: u64) -> Result<Vec<Figure>, AnyError> {
    let mut indexer = Indexer::open(log).await?;
    let began = now();
    let before = resident_kib();
    let mut told = 0;
    indexer
        .catch_up(records, |at| {
            if at - told >= records / 10 {
                told = at;
                eprintln!("indexed {at} records");
            }
        })
        .await?;
    let took = began.elapsed();
    let grown = resident_kib().saturating_sub(before);
    let searcher = Searcher::new(log);
    let mut all = Vec::new();
    for text in QUERIES {
        let query = Query::parse(text, Timestamp::UNIX_EPOCH)?;
        let mut times = Vec::new();
        let mut found = 0;
        for _ in 0..9 {
            let began = now();
            found = searcher.search(&query, None, 50, records).await?.hits.len();
            times.push(began.elapsed());
        }
        let typical = median(&mut times);
        eprintln!("{:>9.2} ms  {found:>3} found  {text}", typical / 1000.0);
        all.push(Duration::from_secs_f64(typical / 1e6));
    }
    #[expect(clippy::cast_precision_loss, reason = "rates")]
    let (rate, memory) = (records as f64 / took.as_secs_f64(), grown as f64 * 1024.0 / records as f64);
    Ok(vec![
        Figure::new("index_records_per_s", rate, format!("{records} records in {:.0} s", took.as_secs_f64()))
            .at_least(20_000.0),
        Figure::new("index_bytes_per_record", memory, "memory that indexing keeps, by record").at_most(48.0),
        Figure::new("search_p50_ms_5m", median(&mut all) / 1000.0, format!("{} queries", QUERIES.len()))
            .at_most(50.0),
        Figure::new(
            "search_worst_ms",
            all.iter().max().map_or(f64::NAN, |worst| worst.as_secs_f64() * 1000.0),
            "the slowest of them",
        ),
    ])
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}
