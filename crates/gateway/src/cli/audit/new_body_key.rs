//! `portcullis audit new-body-key`.

use std::path::PathBuf;

use anstream::println;
use clap::Args;
use portcullis_ledger::BodyKeys;

use crate::cli::{CliError, Failure};

#[derive(Debug, Args)]
#[command(after_help = "\
Name the file first in `audit.bodyKeyFiles`, and keep the others behind it: what was written with them is read with them. Keep a copy \
elsewhere. What is encrypted with a key that is lost is lost.

Exit codes: 0 made, 73 the file is there already, or cannot be made.")]
pub(crate) struct NewBodyKeyArgs {
    /// The file, which must not be there yet
    file: PathBuf,
}

pub(super) fn new_body_key(args: &NewBodyKeyArgs) -> Result<u8, CliError> {
    let made = BodyKeys::new_file(&args.file);
    made.map_err(|error| Failure::new(73, format!("{}: {error}", args.file.display())))?;
    println!(
        "{} is a new key; name it first in audit.bodyKeyFiles, and keep a copy elsewhere",
        args.file.display()
    );
    Ok(0)
}
