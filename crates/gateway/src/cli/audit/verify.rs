//! `portcullis audit verify`.

use std::path::{Path, PathBuf};

use anstream::println;
use clap::Args;
use portcullis_audit::AuditVerifier;
use portcullis_ledger::{NoteError, Proof, ProofError, ReadError, VerifyingKey, WitnessKey};

use super::{LogArgs, unreadable};
use crate::cli::{
    CliError, Failure,
    files::read_text,
    output::{BOLD, DIM, GREEN, PLAIN, RED, printable},
};

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 the log and all that it names is what it was, or the record is in it, 65 not, \
    74 the log, or a file that is named here, cannot be read, 77 the log is, but not everything that it names could be read: pass its keys."
)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    log: LogArgs,
    /// The log's public key, kept elsewhere; by default the one beside the log. Of several, one a line, the first: the newest
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// A checkpoint kept elsewhere, which the log must contain
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// The public key of a witness, as NAME+ID+KEY, which must have cosigned a checkpoint
    #[arg(long, value_name = "VKEY")]
    witness: Vec<WitnessKey>,
    /// Verify this proof instead of a log: of `portcullis audit prove`
    #[arg(long, value_name = "FILE", requires = "key", conflicts_with_all = ["ledger", "checkpoint", "witness"])]
    proof: Option<PathBuf>,
}

/// The most that is read of a key, a checkpoint or a proof, in bytes: none of them may be longer.
const MOST: usize = 1024 * 1024;

pub(super) fn verify(args: VerifyArgs) -> Result<u8, CliError> {
    if let (Some(proof), Some(key)) = (&args.proof, &args.key) {
        return verify_proof(proof, &keys(key)?[0]);
    }
    let (dir, keys_of_bodies) = args.log.dir_and_keys()?;
    let mut verifier = match &args.key {
        None => AuditVerifier::open(&dir).map_err(unreadable)?,
        // The newest stands first; the log says how it followed from the others.
        Some(file) => AuditVerifier::with_key(&dir, keys(file)?.swap_remove(0)),
    };
    verifier = verifier.body_keys(keys_of_bodies);
    verifier = args.witness.into_iter().fold(verifier, AuditVerifier::witness);
    for file in &args.checkpoint {
        let note = read_text(file, MOST)?;
        verifier =
            verifier.knowing(&note).map_err(|e| Failure::new(65, format!("{}: {e}", file.display())))?;
    }
    let report = match verifier.run() {
        Ok(report) => report,
        Err(ReadError::Fault(fault)) => {
            println!("{RED}✘ the log is not what it was{PLAIN}");
            println!(
                "  {BOLD}record {}{PLAIN} was {}: {}",
                fault.index,
                fault.kind.as_str(),
                printable(&fault.detail)
            );
            println!("  {DIM}{}, byte {}{PLAIN}", printable(&fault.file.to_string_lossy()), fault.offset);
            return Ok(65);
        }
        Err(error) => return Err(unreadable(error)),
    };
    for changed in &report.changed {
        println!(
            "{RED}✘{PLAIN} {} is not what {BOLD}record {}{PLAIN} says",
            printable(&changed.file.to_string_lossy()),
            changed.index
        );
    }
    let (mark, code) = match (report.is_ok(), report.is_complete()) {
        (true, true) => (format!("{GREEN}✔{PLAIN}"), 0),
        (true, false) => (format!("{GREEN}✔{PLAIN}"), 77),
        (false, _) => (format!("{RED}✘{PLAIN}"), 65),
    };
    println!("{mark} {} records, root {}", report.log.size, report.log.root);
    println!(
        "  checkpoint  {} signed by {}",
        report.log.checkpoint.size,
        printable(&report.log.checkpoint.origin)
    );
    println!(
        "  requests    {} forwarded, {} answered, {} open",
        report.intents,
        report.outcomes,
        report.open.len()
    );
    for cosignature in &report.log.cosignatures {
        println!("  witness     {} at {}", printable(&cosignature.witness), cosignature.timestamp);
    }
    println!("  bodies      {} as recorded, {} not there (any more)", report.stored, report.missing);
    if let Some(why) = &report.unreadable_why {
        println!("  {BOLD}unread      {}{PLAIN}: {}", report.unreadable, printable(why));
    }
    Ok(code)
}

/// The keys in a file like `key.pub`, the newest first: at least one.
fn keys(file: &Path) -> Result<Vec<VerifyingKey>, CliError> {
    let text = read_text(file, MOST)?;
    let keys: Result<Vec<VerifyingKey>, _> = text.lines().map(str::parse).collect();
    let keys = keys.map_err(|e| Failure::usage(format!("{}: {e}", file.display())))?;
    if keys.is_empty() {
        return Err(Failure::usage(format!("{}: there is no key in it", file.display())).into());
    }
    Ok(keys)
}

/// With the newest key only: nothing in a proof tells whether an older one had been replaced, and perhaps stolen, when it signed.
fn verify_proof(file: &Path, newest: &VerifyingKey) -> Result<u8, CliError> {
    let text = read_text(file, MOST)?;
    let proof: Proof = match text.parse() {
        Ok(proof) => proof,
        Err(error) => {
            println!("{RED}✘{PLAIN} {}: {error}", file.display());
            return Ok(65);
        }
    };
    match proof.verify(newest) {
        Ok(checkpoint) => {
            println!(
                "{GREEN}✔{PLAIN} record {} is in the log {}",
                proof.index,
                printable(&checkpoint.origin)
            );
            println!("  checkpoint  {}, root {}", checkpoint.size, checkpoint.root);
            println!("  record      {}", printable(&String::from_utf8_lossy(&proof.record)));
            Ok(0)
        }
        Err(why) => {
            println!("{RED}✘ nothing is proven{PLAIN}: {}", printable(&why.to_string()));
            if why == ProofError::Checkpoint(NoteError::Unsigned) {
                println!(
                    "  It was tried with the newest key only. If an earlier key of the log signed it, pass that one alone,"
                );
                println!("  and know from elsewhere that it had not been replaced when it did.");
            }
            Ok(65)
        }
    }
}
