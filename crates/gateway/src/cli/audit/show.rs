//! `portcullis audit show`.

use anstream::println;
use clap::Args;
use portcullis_audit::{BodyCopy, Intent, Record, Stored};
use portcullis_core::AuditId;

use super::{
    parse,
    source::{Source, SourceArgs, stored},
};
use crate::cli::{
    CliError, Failure,
    output::{BOLD, DIM, OutputArgs, PLAIN, printable},
};

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// A request's id (its Audit-ID), or a record's number
    what: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    source: SourceArgs,
}

pub(super) async fn show(args: ShowArgs) -> Result<u8, CliError> {
    let source = args.source.open().await?;
    let found = match args.what.parse::<u64>() {
        Ok(index) => source.record(index).await?.into_iter().collect(),
        Err(_) => request(&source, &args.what).await?,
    };
    if found.is_empty() {
        let message = format!("nothing is on record of `{}`", args.what);
        return Err(Failure::new(66, message).into());
    }
    let records: Vec<serde_json::Value> =
        found.iter().map(|stored| serde_json::from_slice(&stored.raw)).collect::<Result<_, _>>()?;
    args.output.print(&records, |_| {
        for stored in &found {
            for_people(stored, &source);
        }
    })?;
    Ok(0)
}

/// All records of a request, oldest first: its intent, decisions about it, its outcome.
async fn request(source: &Source, id: &str) -> Result<Vec<Stored>, CliError> {
    let id: AuditId = id
        .parse()
        .map_err(|_| Failure::usage(format!("`{id}` is neither a request's id nor a record's number")))?;
    let found = source.search(&parse(&[format!("id:{id}")])?, None, 100).await?;
    let mut records = Vec::new();
    for view in found.items {
        let stored = stored(view);
        if let Record::Outcome(outcome) = &stored.entry.record
            && let Some(intent) = outcome.intent
        {
            records.extend(source.record(intent).await?);
        }
        records.push(stored);
    }
    records.sort_by_key(|stored| stored.index);
    Ok(records)
}

fn for_people(stored: &Stored, source: &Source) {
    println!("{BOLD}record {}{PLAIN}  {}", stored.index, printable(&stored.entry.line()));
    let mut record: serde_json::Value = serde_json::from_slice(&stored.raw).unwrap_or_default();
    if let Some(fields) = record.as_object_mut() {
        // The line says these already.
        for said in ["v", "command"] {
            fields.remove(said);
        }
    }
    for line in serde_yaml::to_string(&record).unwrap_or_default().lines() {
        println!("  {}", printable(line));
    }
    match &stored.entry.record {
        Record::Intent(intent) => body(source, "request body", kept(intent)),
        Record::Outcome(outcome) => {
            let response = outcome.response.as_ref();
            body(source, "response body", response.and_then(|response| response.stored));
            if outcome.stream.as_ref().is_some_and(|stream| stream.recording.is_some()) {
                println!("  {DIM}watch it: portcullis sessions replay {}{PLAIN}", outcome.id);
            }
        }
        _ => {}
    }
    println!();
}

fn kept(intent: &Intent) -> Option<portcullis_ledger::Hash> {
    intent.body.as_ref().and_then(|BodyCopy { stored, .. }| *stored)
}

fn body(source: &Source, name: &str, digest: Option<portcullis_ledger::Hash>) {
    let (Some(digest), Source::Files(reader)) = (digest, source) else { return };
    match reader.bodies().read(digest) {
        Ok(Some(body)) => {
            println!("  {BOLD}{name}{PLAIN}");
            for line in String::from_utf8_lossy(&body).lines() {
                println!("    {}", printable(line));
            }
        }
        Ok(None) => println!("  {DIM}{name}: not there (any more){PLAIN}"),
        Err(error) => println!("  {name}: {error}"),
    }
}
