//! Everything that decides whether a change is good, in one command.

use std::process::Command;
use std::time::Duration;

use clap::{Args, ValueEnum};
use owo_colors::OwoColorize;
use serde::Deserialize;

use crate::cluster::Instance;
use crate::command::{self, cargo, duration, heading};
use crate::{Failure, Result, lint, schema, setup};

#[derive(Args)]
pub(crate) struct Options {
    /// Leave out what takes minutes: docs, the demo and the real API server
    #[arg(long, conflicts_with = "only")]
    fast: bool,
    /// Run this step only; may be given more than once
    #[arg(long, value_enum, value_name = "NAME")]
    only: Vec<Step>,
}

/// In the order in which they run.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// Format, clippy, layers, licences
    Lint,
    /// Unit and property tests of every crate, and their documentation's examples
    Unit,
    /// Documentation, with every warning an error
    Docs,
    /// Is docs/config.schema.json what the binary says?
    Schema,
    /// The programs in `examples/`: they compile, and those that have tests do what they say
    Examples,
    /// `portcullis demo --check`: the whole story, played by itself
    Demo,
    /// End to end: a real API server and identity provider, through real clients
    E2e,
}

enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// Runs the steps, all of them even when one fails, and ends with a table.
pub(crate) fn run(options: &Options) -> Result {
    let steps =
        Step::value_variants().iter().copied().filter(|step| match (&options.only[..], options.fast) {
            ([], false) => true,
            ([], true) => matches!(step, Step::Lint | Step::Unit | Step::Examples),
            (only, _) => only.contains(step),
        });
    let started = command::stopwatch();
    let mut results: Vec<(Step, Outcome, Duration)> = Vec::new();
    for step in steps {
        anstream::eprintln!("\n{} {}", "══".cyan(), step.name().to_uppercase().bold());
        let begun = command::stopwatch();
        let outcome = step.run();
        if let Outcome::Failed(why) | Outcome::Skipped(why) = &outcome {
            anstream::eprintln!("{}", why.red());
        }
        results.push((step, outcome, begun.elapsed()));
    }

    anstream::eprintln!("\n{} {}", "══".cyan(), "SUMMARY".bold());
    for (step, outcome, time) in &results {
        let (mark, word) = match outcome {
            Outcome::Passed => ("✔".green().to_string(), "passed"),
            Outcome::Failed(_) => ("✘".red().to_string(), "FAILED"),
            Outcome::Skipped(_) => ("–".yellow().to_string(), "NOT RUN"),
        };
        anstream::eprintln!("{mark} {:<9} {word:<8} {:>14}", step.name(), duration(*time));
    }
    anstream::eprintln!("  {:<9} {:<8} {:>14}", "", "", duration(started.elapsed()));

    for (step, outcome, _) in &results {
        if let Outcome::Skipped(why) = outcome {
            anstream::eprintln!("{} {}: {why}", "NOT RUN:".yellow().bold(), step.name());
        }
    }
    let bad = results.iter().filter(|(_, outcome, _)| match outcome {
        Outcome::Passed => false,
        Outcome::Failed(_) => true,
        // Unattended, what could not be run has not been proven.
        Outcome::Skipped(_) => command::ci(),
    });
    let bad: Vec<&str> = bad.map(|(step, _, _)| step.name()).collect();
    if bad.is_empty() { Ok(()) } else { Err(Failure::new(format!("not good: {}", bad.join(", ")))) }
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Lint => "lint",
            Self::Unit => "unit",
            Self::Docs => "docs",
            Self::Schema => "schema",
            Self::Examples => "examples",
            Self::Demo => "demo",
            Self::E2e => "e2e",
        }
    }

    fn run(self) -> Outcome {
        let result = match self {
            Self::Lint => lint::run(),
            Self::Unit => unit(),
            Self::Docs => docs(),
            Self::Schema => schema::check(),
            Self::Examples => examples(),
            Self::Demo => demo(),
            Self::E2e => match missing(&[
                ("go", "version"),
                ("node", "--version"),
                ("npm", "--version"),
                ("python3", "--version"),
                ("cc", "--version"),
                ("script", "--version"),
                ("pkill", "--version"),
            ]) {
                Some(missing) => {
                    return Outcome::Skipped(format!(
                        "THE REAL API SERVER NEEDS {}, WHICH IS NOT INSTALLED. NO REQUEST HAS BEEN PROVEN AGAINST KUBERNETES",
                        missing.to_uppercase()
                    ));
                }
                None => end_to_end(),
            },
        };
        match result {
            Ok(()) => Outcome::Passed,
            Err(failure) => Outcome::Failed(failure.to_string()),
        }
    }
}

/// The programs that are not there, in words.
fn missing(programs: &[(&str, &str)]) -> Option<String> {
    let gone: Vec<&str> =
        programs.iter().filter(|(name, flag)| !command::exists(name, flag)).map(|(name, _)| *name).collect();
    (!gone.is_empty()).then(|| gone.join(" AND "))
}

fn unit() -> Result {
    heading("Unit, property and documentation tests");
    command::run(cargo().args(["test", "--workspace", "--exclude=portcullis-tests", "--locked", "--quiet"]))
}

fn docs() -> Result {
    heading("Documentation");
    let mut doc = cargo();
    doc.args(["doc", "--workspace", "--no-deps", "--locked", "--quiet"]).env("RUSTDOCFLAGS", "-Dwarnings");
    command::run(&mut doc)
}

fn examples() -> Result {
    heading("Examples");
    command::run(cargo().args([
        "test",
        "--package=portcullis-examples",
        "--all-targets",
        "--locked",
        "--quiet",
    ]))
}

fn demo() -> Result {
    heading("Demo");
    command::run(cargo().args([
        "run",
        "--locked",
        "--quiet",
        "--package=portcullis",
        "--",
        "demo",
        "--check",
    ]))
}

fn end_to_end() -> Result {
    let (mut tests, cluster) = against_cluster("e2e")?;
    // One that fails says nothing of the others.
    tests.arg("--no-fail-fast");
    let small_disk = may_mount();
    if !small_disk {
        command::warn(
            "NO DISK WILL BE FILLED: THAT TAKES `unshare` (util-linux), AND USER NAMESPACES OR ROOT",
        );
        tests.args(["--", "--skip", "a_disk_that_fills"]);
    }
    heading("End-to-end tests");
    let result = command::run(&mut tests).and_then(|()| match small_disk || !command::ci() {
        true => Ok(()),
        false => Err(Failure::new("no disk was filled, and unattended that counts as not proven")),
    });
    cluster.down()?;
    result
}

/// Whether a test may have a small disk of its own.
fn may_mount() -> bool {
    let works = |flags: &str| {
        let mut unshare = Command::new("unshare");
        unshare.args([flags, "sh", "-c", "mount -t tmpfs none /mnt"]);
        unshare.output().is_ok_and(|output| output.status.success())
    };
    works("-Urm") || works("-m")
}

/// The end-to-end tests, to be run, and the cluster they run against: one of their own, so that its audit log has this
/// run's requests and no others.
pub(crate) fn against_cluster(name: &str) -> Result<(Command, Instance)> {
    let tools = setup::run()?;
    heading("Gateway");
    let gateway = gateway()?;
    let cluster = Instance::named(name);
    cluster.down()?;
    cluster.up()?;
    let mut tests = cargo();
    tests
        .args(["test", "--package=portcullis-tests", "--locked"])
        .env("PORTCULLIS_TEST_CLUSTER", &cluster.dir)
        .env("PORTCULLIS_TEST_TOOLS", command::target("tools"))
        .env("PORTCULLIS_TEST_GATEWAY", gateway)
        .env("PATH", first_on_path(&tools)?);
    Ok((tests, cluster))
}

fn first_on_path(dir: &std::path::Path) -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(dir.to_path_buf()).chain(std::env::split_paths(&path));
    std::env::join_paths(dirs).map_err(|error| Failure::new(error.to_string()))
}

/// Builds the binary under test, and asks cargo where it is.
fn gateway() -> Result<String> {
    #[derive(Deserialize)]
    struct Message {
        executable: Option<String>,
    }
    let mut build: Command = cargo();
    build.args(["build", "--package=portcullis", "--bin=portcullis", "--locked", "--quiet"]);
    let messages = command::output(build.arg("--message-format=json-render-diagnostics"))?;
    String::from_utf8_lossy(&messages)
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok()?.executable)
        .next_back()
        .ok_or_else(|| Failure::new("cargo did not say where it put the binary"))
}
