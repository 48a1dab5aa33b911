//! `portcullis audit tail`.

use std::{io::Write, time::Duration};

use anstream::println;
use clap::Args;
use portcullis_audit::{AuditReader, Filter, Stored};
use portcullis_core::{AuditId, Clock, SystemClock, Timestamp};

use super::{LogArgs, unreadable};
use crate::cli::{CliError, Failure};

#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    #[command(flatten)]
    log: LogArgs,
    /// How many records to begin with
    #[arg(long, short = 'n', default_value_t = 20)]
    lines: usize,
    /// Go on as records come
    #[arg(long, short)]
    follow: bool,
    /// Whole records as JSON, one a line
    #[arg(long)]
    json: bool,
    /// Intents too; otherwise a request is one line, its outcome
    #[arg(long)]
    intents: bool,
    /// Of this user
    #[arg(long)]
    user: Option<String>,
    /// With this verb
    #[arg(long)]
    verb: Option<String>,
    /// For this resource, such as secrets or pods/exec
    #[arg(long)]
    resource: Option<String>,
    /// In this namespace
    #[arg(long, short = 'N')]
    namespace: Option<String>,
    /// Of this session or grant
    #[arg(long)]
    session: Option<String>,
    /// Of this request
    #[arg(long, value_name = "ID")]
    id: Option<AuditId>,
    /// With this status, or its first digit: 403, 4
    #[arg(long)]
    status: Option<u16>,
    /// Not older than this, such as 10m or 24h
    #[arg(long, value_name = "DURATION")]
    since: Option<jiff::SignedDuration>,
    /// With this text in the command
    #[arg(long)]
    text: Option<String>,
}

pub(super) fn tail(args: TailArgs) -> Result<u8, CliError> {
    let reader = AuditReader::new(args.log.dir()?);
    let now = SystemClock.now();
    let since = args.since.map(|ago| now.checked_sub(ago)).transpose();
    let filter = Filter {
        since: since.map_err(|error| Failure::usage(error.to_string()))?,
        user: args.user,
        verb: args.verb,
        resource: args.resource,
        namespace: args.namespace,
        session: args.session,
        id: args.id,
        status: args.status,
        text: args.text,
        until: None::<Timestamp>,
        intents: args.intents,
    };
    let print = |stored: &Stored| -> Result<(), CliError> {
        match args.json {
            false => println!("{}", stored.entry.line()),
            true => {
                let mut out = std::io::stdout().lock();
                out.write_all(&stored.raw)?;
                out.write_all(b"\n")?;
            }
        }
        Ok(())
    };
    let (found, next) = reader.tail(args.lines, &filter).map_err(unreadable)?;
    for stored in &found {
        print(stored)?;
    }
    if !args.follow {
        return Ok(0);
    }
    let mut records = reader.records(next).map_err(unreadable)?;
    let (_never, pause) = std::sync::mpsc::channel::<()>();
    loop {
        match records.next() {
            Some(stored) => {
                let stored = stored.map_err(unreadable)?;
                if filter.matches(&stored.entry) {
                    print(&stored)?;
                }
            }
            // The log has no way to call us: it is a file, perhaps on another machine's disk.
            None => drop(pause.recv_timeout(Duration::from_millis(200))),
        }
    }
}
