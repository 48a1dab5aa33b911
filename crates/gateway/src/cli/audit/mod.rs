//! `portcullis audit`: reading, proving and verifying the log on this machine. Needs no gateway, and no configuration but where the log is.

mod prove;
mod rotate_key;
mod tail;
mod verify;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use portcullis_ledger::ReadError;

use super::{CliError, Failure};
use crate::{config::Config, gateway::ledger_dir};

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Write a proof that a record is in the log, for somebody who has nothing but the log's public key
    Prove(prove::ProveArgs),
    /// Give the log a new key
    RotateKey(rotate_key::RotateKeyArgs),
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
    #[arg(long, short, env = "PORTCULLIS_CONFIG", value_name = "FILE")]
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
        AuditCommand::Prove(args) => prove::prove(args),
        AuditCommand::RotateKey(args) => rotate_key::rotate_key(args),
        AuditCommand::Tail(args) => tail::tail(args),
        AuditCommand::Verify(args) => verify::verify(args),
    }
}

pub(crate) fn unreadable(error: ReadError) -> CliError {
    CliError::Failure(Failure::new(65, error.to_string()))
}
