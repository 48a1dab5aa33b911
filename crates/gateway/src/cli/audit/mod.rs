//! `portcullis audit`: reading and verifying the log on this machine. Needs no gateway, and no configuration but where the log is.

mod tail;
mod verify;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use portcullis_ledger::ReadError;

use super::{CliError, Failure};
use crate::{config::Config, gateway::ledger_dir};

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Print the newest records, and follow
    Tail(tail::TailArgs),
    /// Prove that the log is what it was: nothing edited, removed, reordered or cut off
    Verify(verify::VerifyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// The log's directory
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    ledger: Option<PathBuf>,
    /// The gateway's configuration, which says where the log is
    #[arg(long, short, env = "PORTCULLIS_CONFIG", value_name = "FILE", required_unless_present = "ledger")]
    config: Option<PathBuf>,
}

impl LogArgs {
    pub(crate) fn dir(&self) -> Result<PathBuf, CliError> {
        match (&self.ledger, &self.config) {
            (Some(dir), _) => Ok(dir.clone()),
            (None, Some(config)) => Ok(ledger_dir(&Config::load(config)?.state_dir)),
            (None, None) => Err(Failure::usage("pass --ledger DIR or --config FILE").into()),
        }
    }
}

pub(crate) fn audit(command: AuditCommand) -> Result<u8, CliError> {
    match command {
        AuditCommand::Tail(args) => tail::tail(args),
        AuditCommand::Verify(args) => verify::verify(args),
    }
}

pub(crate) fn unreadable(error: ReadError) -> CliError {
    CliError::Failure(Failure::new(65, error.to_string()))
}
