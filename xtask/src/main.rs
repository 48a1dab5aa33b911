//! The one entry for chores. CI calls the same commands a person does.
//!
//! ```text
//! cargo xtask test              everything, as CI does it
//! cargo xtask lint              format, clippy, who depends on whom, licences
//! cargo xtask cluster up        a real kube-apiserver on loopback, without containers
//! cargo xtask setup             the clients that tests use, below target/tools
//! cargo xtask schema --check    is docs/config.schema.json what the binary says?
//! cargo xtask bench proxy       figures
//! cargo xtask crash             the gateway killed 200 times under load: is anything lost?
//! ```

mod bench;
mod cluster;
mod command;
mod crash;
mod docs;
mod layers;
mod lint;
mod schema;
mod setup;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Chores of the Portcullis workspace.
///
/// `cargo xtask test` is what CI runs; everything it does can be run alone with one of the other
/// commands, or with `cargo xtask test --only NAME`.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask test --fast                 what to run before every commit
  cargo xtask test --only unit --only e2e
  cargo xtask cluster up                  a real API server, in four seconds
  export KUBECONFIG=$(cargo xtask cluster kubeconfig)
  export PATH=$PWD/target/tools/bin:$PATH kubectl of the version that tests use, after `setup`
  cargo xtask cluster down";

#[derive(Subcommand)]
enum Chore {
    /// Run all tests, in the order in which they are most likely to tell you something soon
    Test(test::Options),
    /// Check format, clippy, which crate depends on which, and licences
    Lint,
    /// Start and stop a real Kubernetes control plane for tests
    ///
    /// etcd, kube-apiserver, the controllers that matter and a kubelet that runs commands as local
    /// processes, in one Go program on loopback. The first build compiles Kubernetes, about seven
    /// minutes on two cores; later starts take four seconds. With KUBEBUILDER_ASSETS set, etcd and
    /// kube-apiserver from that directory are started instead of the embedded ones.
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    /// Install the clients and the identity provider that tests use, below target/tools
    Setup,
    /// Write docs/config.schema.json from the binary's own configuration types
    Schema(schema::Options),
    /// Measure, in a release build
    Bench(bench::Options),
    /// Kill the gateway under load, again and again, and see whether anything is lost
    ///
    /// What `cargo xtask test` does 20 times, for longer: after each kill the log is verified, against every checkpoint so
    /// far, and compared with what the API server saw and with what clients were told.
    Crash(crash::Options),
}

/// What a chore ends with. The text has been chosen for the person who ran it.
type Result<T = ()> = std::result::Result<T, Failure>;

/// Why a chore failed, in a sentence or a few lines.
#[derive(Debug)]
struct Failure(String);

impl Failure {
    fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string())
    }
}

fn main() -> ExitCode {
    let result = match Arguments::parse().chore {
        Chore::Test(options) => test::run(&options),
        Chore::Lint => lint::run(),
        Chore::Cluster(cluster) => cluster.run(),
        Chore::Setup => setup::run().map(drop),
        Chore::Schema(options) => schema::run(&options),
        Chore::Bench(options) => bench::run(&options),
        Chore::Crash(options) => crash::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            use owo_colors::OwoColorize;
            anstream::eprintln!("{} {failure}", "error:".red().bold());
            ExitCode::FAILURE
        }
    }
}
