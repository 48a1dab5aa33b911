//! `portcullis audit cosign`.

use std::path::PathBuf;

use anstream::println;
use clap::Args;
use portcullis_ledger::{CosignError, Reader, WitnessKey};

use super::{LogArgs, unreadable};
use crate::{
    causes::causes,
    cli::{
        CliError, Failure,
        files::read_text,
        output::{GREEN, PLAIN, printable},
    },
};

#[derive(Debug, Args)]
#[command(after_help = "\
The note is one of this log's checkpoints with the lines of witnesses (C2SP tlog-cosignature). It is kept in the file \
checkpoint.cosigned, if it is not older than what is there. The gateway may be running.

Exit codes: 0 kept, 65 it is not this log's, no such witness has cosigned it, or what is kept of the log is not what it was, 74 something \
cannot be read or written.")]
pub(crate) struct CosignArgs {
    /// The cosigned checkpoint
    file: PathBuf,
    /// The public key of a witness, as NAME+ID+KEY
    #[arg(long, value_name = "VKEY", required = true)]
    witness_key: Vec<WitnessKey>,
    #[command(flatten)]
    log: LogArgs,
}

/// The most that is read of a note, in bytes.
const MOST_NOTE: usize = 1024 * 1024;

pub(super) fn cosign(args: CosignArgs) -> Result<u8, CliError> {
    let note = read_text(&args.file, MOST_NOTE)?;
    let kept = Reader::new(args.log.dir()?).keep_cosignatures(&note, &args.witness_key);
    let kept = kept.map_err(|error| match error {
        CosignError::Note(error) => Failure::new(65, format!("{}: {error}", args.file.display())).into(),
        CosignError::Log(error) => unreadable(error),
        error => Failure::new(74, causes(&error)).into(),
    })?;
    if kept.is_empty() {
        return Err(
            Failure::new(65, format!("{}: no such witness has cosigned it", args.file.display())).into()
        );
    }
    for cosignature in kept {
        println!("{GREEN}✔{PLAIN} {} at {}", printable(&cosignature.witness), cosignature.timestamp);
    }
    Ok(0)
}
