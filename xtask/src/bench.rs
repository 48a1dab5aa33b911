//! Figures, from a release build. The measuring itself is in `benches/`.

use clap::Args;

use crate::Result;
use crate::command::{self, heading};

#[derive(Args)]
pub(crate) struct Options {
    /// Which: `proxy`, …
    name: String,
    /// Print one JSON object of figures, last, on standard output; progress goes to standard error
    #[arg(long)]
    json: bool,
    /// Passed on to the benchmark
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result {
    heading(&format!("Benchmark {}", options.name));
    let mut bench = command::cargo();
    bench.args(["run", "--release", "--quiet", "--package=portcullis-benches", "--", &options.name]);
    if options.json {
        bench.arg("--json");
    }
    command::run(bench.args(&options.rest))
}
