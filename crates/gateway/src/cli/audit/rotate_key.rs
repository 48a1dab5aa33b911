//! `portcullis audit rotate-key`.

use std::sync::{Arc, mpsc::channel};

use anstream::println;
use clap::Args;
use portcullis_core::SystemClock;
use portcullis_ledger::OpenError;

use super::LogArgs;
use crate::{
    causes::causes,
    cli::{
        CliError, Failure,
        output::{BOLD, DIM, PLAIN},
    },
};

#[derive(Debug, Args)]
#[command(after_help = "\
The gateway must not be running. The log gets a record of the new key, and the old key signs for it, so that whoever verifies with the
old public key can follow. The old private key is deleted.

Exit codes: 0 the key was replaced, 65 the log is not what it was, 74 it cannot be read or written, or its key not be used, 75 it is in use.")]
pub(crate) struct RotateKeyArgs {
    #[command(flatten)]
    log: LogArgs,
}

pub(super) fn rotate_key(args: RotateKeyArgs) -> Result<u8, CliError> {
    let dir = args.log.dir()?;
    let (send, heard) = channel();
    let rotated = portcullis_audit::rotate_key(&dir, Arc::new(SystemClock), |ledger| {
        ledger.on_checkpoint(move |note| drop(send.send(note.to_owned())))
    });
    let last = heard.iter().last();
    let rotation = rotated.map_err(|error| match error {
        OpenError::Locked(_) => Failure::new(75, format!("{error}: stop the gateway first")),
        OpenError::Damaged(fault) => Failure::new(65, fault.to_string()),
        error => Failure::new(74, causes(&error)),
    })?;
    println!("the log has a new key, from record {} on:", rotation.size + 1);
    println!("  {BOLD}{}{PLAIN}", rotation.next);
    println!("  {DIM}after {}{PLAIN}", rotation.previous);
    println!(
        "Keep it where you kept the old one. Either verifies the whole log; what `portcullis audit prove` writes from now on only this one."
    );
    if let Some(last) = last {
        println!("The old key's last checkpoint, to be kept where you keep the others:\n\n{last}");
    }
    Ok(0)
}
