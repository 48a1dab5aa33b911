//! `docs/config.schema.json`, as the binary's configuration types say it.

use clap::Args;

use crate::command::{self, heading, note};
use crate::{Failure, Result};

#[derive(Args)]
pub(crate) struct Options {
    /// Change nothing; fail if the committed file is not what the binary prints
    #[arg(long)]
    check: bool,
}

const FILE: &str = "docs/config.schema.json";

/// Fails if the committed file is out of date.
pub(crate) fn check() -> Result {
    run(&Options { check: true })
}

pub(crate) fn run(options: &Options) -> Result {
    heading("Configuration schema");
    let path = command::root().join(FILE);
    let now = command::output(command::cargo().args([
        "run",
        "--quiet",
        "--package=portcullis",
        "--",
        "check",
        "--print-schema",
    ]))?;
    let committed = std::fs::read(&path).unwrap_or_default();
    match (committed == now, options.check) {
        (true, _) => note(&format!("{FILE} is up to date")),
        (false, true) => {
            return Err(Failure::new(format!(
                "{FILE} is out of date; run `cargo xtask schema` and commit it"
            )));
        }
        (false, false) => {
            std::fs::write(&path, now)?;
            note(&format!("{FILE} written"));
        }
    }
    Ok(())
}
