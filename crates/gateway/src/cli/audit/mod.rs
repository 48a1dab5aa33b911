//! `portcullis audit`: searching, reading and verifying the record, on this machine or through a gateway.

mod prove;
mod reindex;
mod rotate_key;
mod search;
mod show;
mod source;
mod tail;
mod verify;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use portcullis_ledger::ReadError;
use portcullis_search::{FIELDS, IndexError, Query};

use super::{CliError, Failure};
use crate::{config::Config, gateway::ledger_dir};

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Find records: who did what, when, and what came of it
    Search(search::SearchArgs),
    /// Show one request, or one record, with all that is known of it
    Show(show::ShowArgs),
    /// Write a proof that a record is in the log, for somebody who has nothing but the log's public key
    Prove(prove::ProveArgs),
    /// Give the log a new key
    RotateKey(rotate_key::RotateKeyArgs),
    /// Print the newest records, and follow
    Tail(tail::TailArgs),
    /// Prove that the log is what it was: nothing edited, removed, reordered or cut off
    Verify(verify::VerifyArgs),
    /// Make the search index anew, also while the gateway runs
    Reindex(reindex::ReindexArgs),
}

/// Where the log is, on this machine.
#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// The log's directory
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    ledger: Option<PathBuf>,
    /// The gateway's configuration, which says where the log is
    #[arg(long, short, env = "PORTCULLIS_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl LogArgs {
    pub(crate) fn dir(&self) -> Result<PathBuf, CliError> {
        let (ledger, config) = (self.ledger.as_deref(), self.config.as_deref());
        log_dir(ledger, config)?.ok_or_else(|| Failure::usage("pass --ledger DIR or --config FILE").into())
    }
}

fn log_dir(
    ledger: Option<&std::path::Path>,
    config: Option<&std::path::Path>,
) -> Result<Option<PathBuf>, CliError> {
    match (ledger, config) {
        (Some(dir), _) => Ok(Some(dir.to_owned())),
        (None, Some(config)) => Ok(Some(ledger_dir(&Config::load(config)?.state_dir))),
        (None, None) => Ok(None),
    }
}

pub(crate) async fn audit(command: AuditCommand) -> Result<u8, CliError> {
    match command {
        AuditCommand::Search(args) => search::search(args).await,
        AuditCommand::Show(args) => show::show(args).await,
        AuditCommand::Tail(args) => tail::tail(args).await,
        AuditCommand::Prove(args) => prove::prove(args),
        AuditCommand::RotateKey(args) => rotate_key::rotate_key(args),
        AuditCommand::Verify(args) => verify::verify(args),
        AuditCommand::Reindex(args) => reindex::reindex(args).await,
    }
}

pub(crate) fn unreadable(error: ReadError) -> CliError {
    CliError::Failure(Failure::new(65, error.to_string()))
}

fn unsearchable(error: IndexError) -> CliError {
    match error {
        IndexError::Log(error) => unreadable(error),
        error => CliError::Other(error.into()),
    }
}

fn parse(words: &[String]) -> Result<Query, CliError> {
    use portcullis_core::Clock as _;
    Query::parse(&words.join(" "), portcullis_core::SystemClock.now())
        .map_err(|error| Failure::usage(format!("{error}\n\nFields:\n{}", fields())).into())
}

/// The query language, for `--help`.
fn query_help() -> String {
    format!(
        "A query is a list of terms, all of which must hold:\n\n  \
         user:ci-* verb:delete,patch resource:secrets since:24h -status:2xx \"exit code 137\"\n\n\
         FIELD:VALUE compares a whole value; `,` means or, `*` at the end any ending, `-` in front not (after `--`, or in one\n\
         quoted argument, if the query begins with it). Words without a field are looked for in commands, messages, bodies and\n\
         terminal output; quotes keep words together.\n\nFields:\n{}",
        fields()
    )
}

fn fields() -> String {
    let times = [("since", "not older than: 90s, 24h, 7d, 2026-11-28, RFC 3339"), ("until", "older than")];
    let fields = FIELDS.iter().map(|field| (field.name, field.help)).chain(times);
    fields.map(|(name, help)| format!("  {name:<10} {help}\n")).collect()
}
