//! Verifying: leaves a second, beside bare SHA-256 of the same records. What counts is processor time of the one thread that
//! does it.

use std::path::Path;

use portcullis_ledger::{Hash, Reader, Verifier};

use super::{Figure, thread_time};
use crate::AnyError;

/// How often; the best counts.
const ROUNDS: usize = 3;
/// How many records are hashed by themselves.
const SAMPLE: usize = 200_000;

pub(super) fn run(log: &Path) -> Result<Vec<Figure>, AnyError> {
    let mut best: f64 = 0.0;
    let mut size = 0;
    for _ in 0..ROUNDS {
        let began = thread_time();
        let verified = Verifier::open(log)?.run()?;
        size = verified.size;
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let rate = size as f64 / (thread_time() - began).as_secs_f64();
        best = best.max(rate);
    }
    let records: Vec<Vec<u8>> = Reader::new(log)
        .entries(0)?
        .take(SAMPLE)
        .map(|entry| entry.map(|entry| entry.record))
        .collect::<Result<_, _>>()?;
    let began = thread_time();
    for record in &records {
        std::hint::black_box(Hash::of(record));
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let hashes = records.len() as f64 / (thread_time() - began).as_secs_f64();
    let ratio = best / hashes;
    // One of the two will do: small records are bound by what is done for each, large ones by SHA-256.
    let leaves =
        Figure::new("verify_leaves_per_s", best, format!("{size} records, from the page cache, one core"));
    let leaves = if ratio >= 0.8 { leaves } else { leaves.at_least(1_000_000.0) };
    let against = Figure::new("verify_vs_sha256", ratio, format!("bare SHA-256 does {hashes:.0} records/s"));
    Ok(vec![leaves, if best >= 1_000_000.0 { against } else { against.at_least(0.8) }])
}
