//! The gateway killed again and again, for longer than a test run can.

use clap::Args;

use crate::command::{self, heading, note};
use crate::{Result, test};

#[derive(Args)]
pub(crate) struct Options {
    /// How often it is killed
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Makes the same choices as the run that printed this number; what happens meanwhile, and when, is up to the machine
    #[arg(long)]
    seed: Option<u64>,
}

/// `tests/tests/crash.rs` against a cluster of its own.
pub(crate) fn run(options: &Options) -> Result {
    let begun = command::stopwatch();
    let (mut tests, cluster) = test::against_cluster("crash")?;
    heading(&format!("{} kills", options.rounds));
    tests.args(["--test=crash", "--", "--nocapture"]);
    tests.env("PORTCULLIS_CRASH_ROUNDS", options.rounds.to_string());
    if let Some(seed) = options.seed {
        tests.env("PORTCULLIS_CRASH_SEED", seed.to_string());
    }
    let result = command::run(&mut tests);
    cluster.down()?;
    note(&command::duration(begun.elapsed()));
    result
}
