//! `portcullis audit prune`.

use std::path::PathBuf;

use anstream::println;
use clap::Args;
use portcullis_audit::{AuditReader, Retention};
use portcullis_core::{Clock, SystemClock};

use crate::{
    cli::{
        CliError,
        output::{GREEN, PLAIN},
    },
    config::Config,
    gateway::ledger_dir,
};

#[derive(Debug, Args)]
#[command(after_help = "\
A gateway does this by itself, every quarter of an hour. By hand it may be done beside a running gateway and without one; it goes on \
record within seconds, or when the gateway starts. The log itself stays whole.")]
pub(crate) struct PruneArgs {
    /// The gateway's configuration, which says what is kept for how long
    #[arg(long, short, env = "PORTCULLIS_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// Only say what would be dropped
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn prune(args: &PruneArgs) -> Result<u8, CliError> {
    let config = Config::load(&args.config)?;
    let retention = Retention::from(config.audit.retention);
    if retention.is_for_ever() {
        println!("audit.retention says nothing: everything is kept");
        return Ok(0);
    }
    let (reader, now) = (AuditReader::new(ledger_dir(&config.state_dir)), SystemClock.now());
    let (dropped, done) = match args.dry_run {
        true => (retention.due(&reader, now)?, "would be dropped"),
        false => (retention.apply_by_hand(&reader, now)?, "are dropped"),
    };
    println!(
        "{GREEN}✔{PLAIN} {} bodies ({} bytes) and {} parts of recordings ({} bytes) {done}",
        dropped.bodies, dropped.body_bytes, dropped.recordings, dropped.recording_bytes
    );
    Ok(0)
}
