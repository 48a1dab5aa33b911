//! `portcullis audit reindex`.

use anstream::println;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use portcullis_audit::AuditReader;
use portcullis_search::Indexer;

use super::{LogArgs, unreadable, unsearchable};
use crate::cli::{
    CliError,
    output::{GREEN, PLAIN},
};

/// Fewer records are read before anybody notices.
const WORTH_SHOWING: u64 = 20_000;

#[derive(Debug, Args)]
pub(crate) struct ReindexArgs {
    #[command(flatten)]
    log: LogArgs,
}

pub(super) async fn reindex(args: ReindexArgs) -> Result<u8, CliError> {
    let reader = args.log.reader()?;
    let progress = bar(&reader, 0)?;
    let indexed = portcullis_search::reindex(reader.dir(), u64::MAX, |at| progress.set_position(at)).await;
    progress.finish_and_clear();
    println!("{GREEN}✔{PLAIN} {} records are in the new index", indexed.map_err(unsearchable)?);
    Ok(0)
}

/// Brings an index up to date, and shows how far it is where that takes long.
pub(super) async fn catch_up(indexer: &mut Indexer, log: &AuditReader) -> Result<(), CliError> {
    let progress = bar(log, indexer.indexed())?;
    let done = indexer.catch_up(u64::MAX, |at| progress.set_position(at)).await;
    progress.finish_and_clear();
    done.map_err(unsearchable)
}

fn bar(log: &AuditReader, from: u64) -> Result<ProgressBar, CliError> {
    // The last segment's records are not counted yet: about what the others have.
    let starts = log.segments().map_err(unreadable)?;
    let last = starts.last().copied().unwrap_or_default();
    let about = last + last / (starts.len().max(2) as u64 - 1);
    if about.saturating_sub(from) < WORTH_SHOWING {
        return Ok(ProgressBar::hidden());
    }
    let style =
        ProgressStyle::with_template("indexing  {wide_bar} {human_pos} of about {human_len}  {eta} left");
    let bar = ProgressBar::new(about).with_position(from);
    Ok(style.map_or(bar.clone(), |style| bar.with_style(style)))
}
