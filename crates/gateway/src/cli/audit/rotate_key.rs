//! `portcullis audit rotate-key`.

use anstream::println;
use clap::Args;
use portcullis_core::{Clock, SystemClock};
use portcullis_ledger::{Ledger, OpenError, Options, Reader};

use super::{LogArgs, unreadable};
use crate::cli::{
    CliError, Failure,
    output::{BOLD, DIM, PLAIN},
};

#[derive(Debug, Args)]
#[command(after_help = "\
The gateway must not be running. The log gets a record of the new key, and the old key signs for it, so that whoever verifies with the
old public key can follow. The old private key is deleted.

Exit codes: 0 the key was replaced, 65 the log is not what it was, 75 the log is in use.")]
pub(crate) struct RotateKeyArgs {
    #[command(flatten)]
    log: LogArgs,
}

pub(super) fn rotate_key(args: RotateKeyArgs) -> Result<u8, CliError> {
    let dir = args.log.dir()?;
    let keys = Reader::new(&dir).keys().map_err(unreadable)?;
    let options = Options::new(keys[0].name()).rotation_record(|rotation| {
        serde_json::json!({
            "v": 1,
            "time": SystemClock.now(),
            "type": "keyRotated",
            "size": rotation.size,
            "previous": rotation.previous.to_string(),
            "next": rotation.next.to_string(),
        })
        .to_string()
        .into_bytes()
    });
    let rotation = Ledger::rotate_key(&dir, options).map_err(|error| match error {
        OpenError::Locked(_) => Failure::new(75, format!("{error}: stop the gateway first")),
        OpenError::Damaged(fault) => Failure::new(65, fault.to_string()),
        error => Failure::new(74, error.to_string()),
    })?;
    println!("the log has a new key, from record {} on:", rotation.size + 1);
    println!("  {BOLD}{}{PLAIN}", rotation.next);
    println!("  {DIM}after {}{PLAIN}", rotation.previous);
    println!("Keep it where you kept the old one; either verifies the whole log.");
    Ok(0)
}
