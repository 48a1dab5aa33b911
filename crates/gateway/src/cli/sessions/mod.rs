//! `portcullis sessions`: what sessions did, from the log on this machine. Needs no gateway, and works beside one.

mod export;
mod list;
mod play;
mod replay;
mod show;
mod terminal;
mod transport;

#[cfg(test)]
mod tests;

use std::io::ErrorKind;

use clap::Subcommand;
use portcullis_audit::{AuditReader, SESSION_IDLE};
use portcullis_core::{AuditId, Clock, SystemClock};
use portcullis_sessions::{Item, Scope, Timeline, session_of};

use super::{CliError, Failure, audit::LogArgs, audit::unreadable};

#[derive(Debug, Subcommand)]
pub(crate) enum SessionsCommand {
    /// List sessions, the newest first
    List(list::ListArgs),
    /// Show what happened in a session, in order
    Show(show::ShowArgs),
    /// Play what was seen in a session's terminals
    Replay(replay::ReplayArgs),
    /// Write a session to a file, for people or for programs
    Export(export::ExportArgs),
}

pub(crate) fn sessions(command: SessionsCommand) -> Result<u8, CliError> {
    let done = match command {
        SessionsCommand::List(args) => list::list(args),
        SessionsCommand::Show(args) => show::show(args),
        SessionsCommand::Replay(args) => replay::replay(args),
        SessionsCommand::Export(args) => export::export(args),
    };
    match done {
        // Whoever reads has seen enough: `… | head`.
        Err(CliError::Other(error))
            if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe) =>
        {
            Ok(0)
        }
        done => done.map(|()| 0),
    }
}

/// A session in the log.
struct Found {
    reader: AuditReader,
    scope: Scope,
    /// The one request that was asked for, if the id was a request's.
    request: Option<AuditId>,
}

impl Found {
    /// The session with this id, or of the request with it.
    fn find(log: &LogArgs, id: &str) -> Result<Self, CliError> {
        let reader = log.reader()?;
        let records = || reader.records(0).map_err(unreadable);
        let scope = |id: &str| -> Result<Option<Scope>, CliError> {
            Scope::find(id, records()?, SystemClock.now(), SESSION_IDLE).map_err(unreadable)
        };
        if let Some(scope) = scope(id)? {
            return Ok(Self { scope, reader, request: None });
        }
        let nothing = || {
            let id = portcullis_sessions::clean::line(id);
            Failure::new(
                66,
                format!(
                    "the log has no session and no request {id}: `portcullis sessions list` shows what it has"
                ),
            )
        };
        let request: AuditId = id.parse().map_err(|_| nothing())?;
        let session = session_of(request, records()?).map_err(unreadable)?.ok_or_else(nothing)?;
        let scope = scope(&session)?.ok_or_else(nothing)?;
        Ok(Self { scope, reader, request: Some(request) })
    }

    /// What happened in it.
    fn items(&self) -> Result<impl Iterator<Item = Result<Item, CliError>> + use<>, CliError> {
        let records = self.reader.records(self.scope.first()).map_err(unreadable)?;
        Ok(Timeline::new(self.scope.clone(), records).map(|item| item.map_err(unreadable)))
    }
}
