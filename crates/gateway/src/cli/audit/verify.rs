//! `portcullis audit verify`.

use std::path::PathBuf;

use anstream::println;
use clap::Args;
use portcullis_audit::AuditVerifier;
use portcullis_ledger::ReadError;

use super::{LogArgs, unreadable};
use crate::cli::{
    CliError, Failure,
    output::{BOLD, DIM, GREEN, PLAIN, RED},
};

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

pub(super) fn verify(args: VerifyArgs) -> Result<u8, CliError> {
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
