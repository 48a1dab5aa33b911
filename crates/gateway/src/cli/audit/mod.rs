//! `portcullis audit`: searching, reading and verifying the record, on this machine or through a gateway.

mod cosign;
mod new_body_key;
mod prove;
mod prune;
mod reindex;
mod rotate_key;
mod search;
mod show;
mod source;
mod tail;
mod verify;

use std::path::{Path, PathBuf};

use anstream::eprintln;
use clap::{Args, Subcommand};
use portcullis_audit::AuditReader;
use portcullis_ledger::{BodyKeys, ReadError};
use portcullis_search::{FIELDS, IndexError, Query};

use super::{CliError, Failure};
use crate::{causes::causes, config::Config, gateway::ledger_dir};

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Find records: who did what, when, and what came of it
    Search(search::SearchArgs),
    /// Show one request, or one record, with all that is known of it
    Show(show::ShowArgs),
    /// Write a proof that a record is in the log, for somebody who has nothing but the log's public key
    Prove(prove::ProveArgs),
    /// Keep what a witness says of the log's checkpoint
    Cosign(cosign::CosignArgs),
    /// Drop bodies and recordings that are older than the configuration says
    Prune(prune::PruneArgs),
    /// Make a key for `audit.bodyKeyFiles`
    NewBodyKey(new_body_key::NewBodyKeyArgs),
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
    #[command(flatten)]
    keys: KeyArgs,
}

/// Keys that the configuration does not name.
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// A key of encrypted bodies and recordings, besides those that the configuration names
    #[arg(long, value_name = "FILE")]
    body_key: Vec<PathBuf>,
}

impl LogArgs {
    pub(crate) fn dir(&self) -> Result<PathBuf, CliError> {
        let config = self.config.as_deref().map(Config::load).transpose()?;
        log_dir(self.ledger.as_deref(), config.as_ref()).ok_or_else(unnamed)
    }

    /// The log, with the keys of its bodies.
    pub(crate) fn reader(&self) -> Result<AuditReader, CliError> {
        let (dir, keys) = self.dir_and_keys()?;
        Ok(AuditReader::new(dir).body_keys(keys))
    }

    fn dir_and_keys(&self) -> Result<(PathBuf, BodyKeys), CliError> {
        find_log(self.ledger.as_deref(), self.config.as_deref(), &self.keys)?.ok_or_else(unnamed)
    }
}

fn unnamed() -> CliError {
    Failure::usage("pass --ledger DIR or --config FILE").into()
}

fn log_dir(ledger: Option<&Path>, config: Option<&Config>) -> Option<PathBuf> {
    ledger.map(Path::to_owned).or_else(|| config.map(|config| ledger_dir(&config.state_dir)))
}

fn find_log(
    ledger: Option<&Path>,
    config: Option<&Path>,
    keys: &KeyArgs,
) -> Result<Option<(PathBuf, BodyKeys)>, CliError> {
    let config = config.map(Config::load).transpose()?;
    let Some(dir) = log_dir(ledger, config.as_ref()) else { return Ok(None) };
    Ok(Some((dir, body_keys(config.as_ref(), keys)?)))
}

/// Whoever reads the log need not have all its keys: what a configuration names and is not there is said, and the rest is read.
fn body_keys(config: Option<&Config>, args: &KeyArgs) -> Result<BodyKeys, CliError> {
    let named = config.map(|config| config.audit.body_key_files.as_slice()).unwrap_or_default();
    let mut files = args.body_key.clone();
    for file in named {
        match BodyKeys::from_files([file]) {
            Ok(_) => files.push(file.clone()),
            Err(error) => eprintln!("{error}: what is encrypted with it cannot be read"),
        }
    }
    BodyKeys::from_files(files).map_err(|error| Failure::usage(error.to_string()).into())
}

pub(crate) async fn audit(command: AuditCommand) -> Result<u8, CliError> {
    match command {
        AuditCommand::Search(args) => search::search(args).await,
        AuditCommand::Show(args) => show::show(args).await,
        AuditCommand::Tail(args) => tail::tail(args).await,
        AuditCommand::Prove(args) => prove::prove(args),
        AuditCommand::Cosign(args) => cosign::cosign(args),
        AuditCommand::Prune(args) => prune::prune(&args),
        AuditCommand::NewBodyKey(args) => new_body_key::new_body_key(&args),
        AuditCommand::RotateKey(args) => rotate_key::rotate_key(args),
        AuditCommand::Verify(args) => verify::verify(args),
        AuditCommand::Reindex(args) => reindex::reindex(args).await,
    }
}

pub(crate) fn unreadable(error: ReadError) -> CliError {
    let code = if matches!(error, ReadError::Fault(_)) { 65 } else { 74 };
    CliError::Failure(Failure::new(code, causes(&error)))
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

#[cfg(test)]
mod tests;
