//! `bench ledger`: how fast a log is verified, beside the SHA-256 that it cannot do without.
//!
//! What counts is processor time of the one thread that verifies. The records are of one length; the baselines hash the same bytes
//! in memory: as one piece, and leaf by leaf with the tree's nodes and the hash chain, which is all the hashing that a verifier has
//! to do.

use std::{hint::black_box, path::Path, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use clap::Args;
use portcullis_ledger::{Durability, Ledger, Options, Verifier};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

use crate::AnyError;

#[derive(Args)]
pub(crate) struct LedgerArgs {
    /// Print one JSON object of figures last on standard output
    #[arg(long)]
    json: bool,
    /// How many records
    #[arg(long, default_value_t = 500_000)]
    records: u64,
    /// How long each is, in bytes
    #[arg(long, default_value_t = 400)]
    bytes: usize,
    /// How many rounds; each figure is its best round's
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

pub(crate) fn run(args: &LedgerArgs) -> Result<(), AnyError> {
    let (with, without) = (tempfile::tempdir()?, tempfile::tempdir()?);
    eprintln!("writing two logs of {} records of {} bytes", args.records, args.bytes);
    write(with.path(), true, args)?;
    write(without.path(), false, args)?;
    let records: Vec<u8> = (0..args.records).flat_map(|i| record(i, args.bytes)).collect();

    let [mut plain, mut hashing, mut all, mut segments] = [Duration::MAX; 4];
    for round in 1..=args.rounds {
        eprintln!("round {round} of {}", args.rounds);
        plain = plain.min(time(|| {
            black_box(digest(&SHA256, &records));
            Ok(())
        })?);
        hashing = hashing.min(time(|| {
            black_box(tree(&records, args.bytes));
            Ok(())
        })?);
        all = all.min(time(|| Ok(Verifier::open(with.path())?.run().map(drop)?))?);
        let only_hashes = || Ok(Verifier::open(without.path())?.without_entry_bundles().run().map(drop)?);
        segments = segments.min(time(only_hashes)?);
    }
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let (count, length) = (args.records as f64, records.len() as f64);
    let per_second = |time: Duration| count / time.as_secs_f64();
    println!("{:<46} {:>6.2} GB/s", "SHA-256, one piece", length / plain.as_secs_f64() / 1e9);
    for (what, time) in [
        ("SHA-256 of leaves, nodes and chain, in memory", hashing),
        ("verifying segments and tiles", segments),
        ("verifying segments, tiles and entry bundles", all),
    ] {
        println!(
            "{what:<46} {:>6.2} million leaves/s, {:.2} of the hashing alone",
            per_second(time) / 1e6,
            hashing.as_secs_f64() / time.as_secs_f64()
        );
    }
    if args.json {
        println!(
            "{}",
            json!({
                "leaves_per_s": per_second(all),
                "leaves_per_s_without_bundles": per_second(segments),
                "vs_hashing": hashing.as_secs_f64() / all.as_secs_f64(),
                "vs_hashing_without_bundles": hashing.as_secs_f64() / segments.as_secs_f64(),
                "sha256_gb_per_s": length / plain.as_secs_f64() / 1e9,
            })
        );
    }
    Ok(())
}

fn write(dir: &Path, bundles: bool, args: &LedgerArgs) -> Result<(), AnyError> {
    let (ledger, _) = Ledger::open(dir, Options::new("bench.example/log").entry_bundles(bundles))?;
    let writer = ledger.writer();
    for i in 0..args.records {
        writer.append_blocking(record(i, args.bytes), Durability::Write)?;
    }
    ledger.close();
    Ok(())
}

/// Text, as records are.
fn record(i: u64, length: usize) -> Vec<u8> {
    let mut record = format!(r#"{{"v":1,"type":"outcome","id":"{i:032x}","text":""#).into_bytes();
    record.resize(length, b'x');
    record
}

/// The tree's root and the chain's end, hashed from records of one length.
fn tree(records: &[u8], length: usize) -> ([u8; 32], [u8; 32]) {
    let mut leaf = vec![0; 1 + length];
    let (mut nodes, mut link) = (Vec::<[u8; 32]>::new(), [0; 32]);
    for (i, record) in records.chunks_exact(length).enumerate() {
        leaf[1..].copy_from_slice(record);
        let mut node = hash(&leaf);
        link = pair(2, link, node);
        for _ in 0..i.trailing_ones() {
            node = pair(1, nodes.pop().unwrap_or_default(), node);
        }
        nodes.push(node);
    }
    (nodes.into_iter().rev().reduce(|right, left| pair(1, left, right)).unwrap_or_default(), link)
}

fn pair(tag: u8, left: [u8; 32], right: [u8; 32]) -> [u8; 32] {
    let mut bytes = [tag; 65];
    bytes[1..33].copy_from_slice(&left);
    bytes[33..].copy_from_slice(&right);
    hash(&bytes)
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// How much processor time of this thread it takes.
fn time(run: impl FnOnce() -> Result<(), AnyError>) -> Result<Duration, AnyError> {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
    };
    let begun = now();
    run()?;
    Ok(now() - begun)
}
