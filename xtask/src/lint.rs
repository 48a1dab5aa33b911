//! What can be judged without running anything.

use std::path::PathBuf;

use crate::command::{self, heading};
use crate::{Failure, Result, docs, layers};

/// Format, clippy, the fuzz targets, the layers, the documentation, the licences. The first that fails ends it.
pub(crate) fn run() -> Result {
    heading("Format");
    command::run(command::cargo().args(["fmt", "--all", "--check"])).map_err(|_| {
        Failure::new("the format differs from what `cargo fmt --all` writes; run it and look at the change")
    })?;
    gofmt()?;
    heading("Clippy");
    command::run(command::cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--quiet",
        "--",
        "-Dwarnings",
    ]))?;
    heading("Fuzz targets");
    fuzz_targets()?;
    heading("Layers");
    layers::check()?;
    heading("Documentation");
    docs::check()?;
    heading("Licences, bans and sources of dependencies");
    deny()
}

fn gofmt() -> Result {
    // Of nothing at all, which is what it reads here, the format is right.
    if !command::exists("gofmt", "-l") {
        return not_run("THE FORMAT OF GO FILES WAS NOT CHECKED: THERE IS NO GOFMT, WHICH COMES WITH GO");
    }
    let differs = command::output(command::program("gofmt").args(["-l", "tests/cluster", "tests/clients"]))?;
    if differs.is_empty() {
        return Ok(());
    }
    let files = String::from_utf8_lossy(&differs);
    Err(Failure::new(format!("run `gofmt -w tests/cluster tests/clients`; it would change\n{files}")))
}

/// They stand in workspaces of their own and run seldom, so that nobody would notice when what they call has changed. To be
/// compiled they need no nightly compiler, and a minute for libFuzzer the first time.
fn fuzz_targets() -> Result {
    let mut found: Vec<PathBuf> = std::fs::read_dir(command::root().join("crates"))?
        .map(|entry| Ok(entry?.path().join("fuzz/Cargo.toml")))
        .collect::<Result<_>>()?;
    found.retain(|manifest| manifest.is_file());
    found.sort();
    for manifest in found {
        let mut check = command::cargo();
        check.args(["check", "--locked", "--quiet", "--manifest-path"]).arg(manifest);
        command::run(check.arg("--target-dir").arg(command::target("fuzz")))?;
    }
    Ok(())
}

/// cargo-deny takes minutes to compile, so it is used where there is one: on the path, or from
/// `cargo xtask setup`. Advisories need the internet and are for a job of their own.
fn deny() -> Result {
    let Some(cargo_deny) = cargo_deny() else {
        return not_run(
            "LICENCES, BANS AND SOURCES WERE NOT CHECKED: THERE IS NO CARGO-DENY (`cargo xtask setup`)",
        );
    };
    let mut deny = command::program(cargo_deny);
    deny.arg("--config").arg(command::root().join(".deny.toml"));
    // Warnings, which are versions that stand twice, are for who asks: the same with
    // `--log-level=warn`.
    deny.args(["--workspace", "--all-features", "--locked", "--log-level=error"]);
    deny.args(["check", "bans", "licenses", "sources"]);
    command::run(&mut deny)
}

fn cargo_deny() -> Option<PathBuf> {
    let ours = command::target("tools/bin/cargo-deny");
    [ours, PathBuf::from("cargo-deny")]
        .into_iter()
        .find(|path| command::exists(&path.to_string_lossy(), "--version"))
}

/// A check that this machine cannot make. Unattended, what was not checked does not count as good;
/// a person is told, and may know why.
fn not_run(what: &str) -> Result {
    if command::ci() {
        return Err(Failure::new(what));
    }
    command::warn(what);
    Ok(())
}
