//! Figures, from a release build. The measuring itself is in `benches/`.

use clap::Args;

use crate::command::{self, heading};
use crate::{Result, setup};

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
    if options.name == "proxy" {
        proxy()?;
    }
    heading(&format!("Benchmark {}", options.name));
    let mut bench = command::cargo();
    bench.args(["run", "--release", "--quiet", "--package=portcullis-benches", "--", &options.name]);
    if options.json {
        bench.arg("--json");
    }
    command::run(bench.args(&options.rest))
}

/// What `proxy` measures: the gateway as it is now, and Envoy beside it. Without Envoy the other figures are as good, so
/// a machine that cannot have it is told so and no more.
fn proxy() -> Result {
    heading("Gateway, release build");
    command::run(command::cargo().args(["build", "--release", "--quiet", "--package=portcullis"]))?;
    heading("Envoy");
    if let Err(failure) = setup::envoy() {
        command::warn(&format!("ENVOY IS NOT INSTALLED, SO IT WILL NOT BE MEASURED: {failure}"));
    }
    Ok(())
}
