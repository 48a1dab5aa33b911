//! `portcullis audit tail`.

use anstream::println;
use clap::Args;
use portcullis_audit::Stored;

use super::{parse, query_help, source::SourceArgs};
use crate::cli::{
    CliError,
    output::{json_line, printable},
};

#[derive(Debug, Args)]
#[command(after_help = query_help())]
pub(crate) struct TailArgs {
    /// What to look for, as in `search`; everything, if nothing is said
    query: Vec<String>,
    /// How many records to begin with
    #[arg(long, short = 'n', default_value_t = 20)]
    lines: usize,
    /// Go on as records come
    #[arg(long, short)]
    follow: bool,
    /// Whole records as JSON, one a line
    #[arg(long)]
    json: bool,
    /// Intents too: requests as they begin. Otherwise a request is one line, its outcome
    #[arg(long)]
    intents: bool,
    #[command(flatten)]
    source: SourceArgs,
}

pub(super) async fn tail(args: TailArgs) -> Result<u8, CliError> {
    let print = |stored: &Stored| -> Result<(), CliError> {
        match args.json {
            false => println!("{}", printable(&stored.entry.line())),
            true => println!("{}", json_line(&stored.raw)),
        }
        Ok(())
    };
    let source = args.source.open().await?;
    source.tail(parse(&args.query)?, args.intents, args.lines, args.follow, print).await?;
    Ok(0)
}
