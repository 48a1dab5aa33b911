//! `portcullis audit`: reading and verifying the log on this machine. Needs no gateway, and no configuration but where the log is.

use std::{io::Write, path::PathBuf, time::Duration};

use anstream::println;
use clap::{Args, Subcommand};
use portcullis_audit::{AuditReader, AuditVerifier, Filter, Stored};
use portcullis_core::{AuditId, Clock, SystemClock, Timestamp};
use portcullis_ledger::ReadError;

use super::{
    CliError, Failure,
    output::{BOLD, DIM, GREEN, PLAIN, RED},
};
use crate::{config::Config, gateway::ledger_dir};

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Print the newest records, and follow
    Tail(TailArgs),
    /// Prove that the log is what it was: nothing edited, removed, reordered or cut off
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
struct LogArgs {
    /// The log's directory
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    ledger: Option<PathBuf>,
    /// The gateway's configuration, which says where the log is
    #[arg(long, short, env = "PORTCULLIS_CONFIG", value_name = "FILE", required_unless_present = "ledger")]
    config: Option<PathBuf>,
}

impl LogArgs {
    fn dir(&self) -> Result<PathBuf, CliError> {
        match (&self.ledger, &self.config) {
            (Some(dir), _) => Ok(dir.clone()),
            (None, Some(config)) => Ok(ledger_dir(&Config::load(config)?.state_dir)),
            (None, None) => Err(Failure::usage("pass --ledger DIR or --config FILE").into()),
        }
    }
}

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

#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 the log is what it was, 65 it is not.")]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    log: LogArgs,
    /// The log's public key, kept elsewhere; by default the one beside the log
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// A checkpoint kept elsewhere, which the log must contain
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
}

pub(crate) fn audit(command: AuditCommand) -> Result<u8, CliError> {
    match command {
        AuditCommand::Tail(args) => tail(args),
        AuditCommand::Verify(args) => verify(args),
    }
}

fn tail(args: TailArgs) -> Result<u8, CliError> {
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

fn verify(args: VerifyArgs) -> Result<u8, CliError> {
    let dir = args.log.dir()?;
    let mut verifier = match &args.key {
        None => AuditVerifier::open(&dir).map_err(unreadable)?,
        Some(file) => {
            let key = std::fs::read_to_string(file)?;
            let key = key.trim().parse().map_err(|e| Failure::usage(format!("{}: {e}", file.display())))?;
            AuditVerifier::with_key(&dir, key)
        }
    };
    for file in &args.checkpoint {
        let note = std::fs::read_to_string(file)?;
        verifier =
            verifier.knowing(&note).map_err(|e| Failure::new(65, format!("{}: {e}", file.display())))?;
    }
    let report = match verifier.run() {
        Ok(report) => report,
        Err(ReadError::Fault(fault)) => {
            println!("{RED}✘ the log is not what it was{PLAIN}");
            println!("  {BOLD}record {}{PLAIN} was {}: {}", fault.index, fault.kind.as_str(), fault.detail);
            println!("  {DIM}{}, byte {}{PLAIN}", fault.file.display(), fault.offset);
            return Ok(65);
        }
        Err(error) => return Err(unreadable(error)),
    };
    for changed in &report.changed {
        println!(
            "{RED}✘{PLAIN} {} is not what {BOLD}record {}{PLAIN} says",
            changed.file.display(),
            changed.index
        );
    }
    let (mark, code) =
        if report.is_ok() { (format!("{GREEN}✔{PLAIN}"), 0) } else { (format!("{RED}✘{PLAIN}"), 65) };
    println!("{mark} {} records, root {}", report.log.size, report.log.root);
    println!("  checkpoint  {} signed by {}", report.log.checkpoint.size, report.log.checkpoint.origin);
    println!(
        "  requests    {} forwarded, {} answered, {} open",
        report.intents,
        report.outcomes,
        report.open.len()
    );
    println!("  bodies      {} as recorded, {} dropped by retention", report.stored, report.missing);
    Ok(code)
}

fn unreadable(error: ReadError) -> CliError {
    CliError::Failure(Failure::new(65, error.to_string()))
}
