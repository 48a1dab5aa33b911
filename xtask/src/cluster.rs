//! A real Kubernetes control plane for tests: `tests/cluster`, built once and started detached.
//!
//! Everything is below `target/cluster`: `bin/` has the program, named by the digest of its
//! sources; `run/NAME/` the state of one cluster, `run/NAME.log` what it says, `run/NAME.pid` its
//! process. Names exist so that a test run need not disturb the cluster somebody works with.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde::Deserialize;

use crate::command::{self, heading, note};
use crate::{Failure, Result};

/// `cargo xtask cluster …`.
#[derive(Subcommand)]
pub(crate) enum Cluster {
    /// Build if needed, start, and wait until it is ready; does nothing if it already runs
    Up(Name),
    /// Stop it and wait for its end
    Down(Name),
    /// Show all clusters of this work tree
    Status,
    /// Print the path of a kubeconfig, as in `export KUBECONFIG=$(cargo xtask cluster kubeconfig)`
    Kubeconfig {
        #[command(flatten)]
        name: Name,
        /// Whose: `admin` may do everything, `gateway` may impersonate and nothing else
        #[arg(long = "as", value_enum, default_value_t = Identity::Admin)]
        identity: Identity,
    },
    /// Build only
    Build,
}

#[derive(Args)]
pub(crate) struct Name {
    /// Which cluster, when you want more than one
    #[arg(long, default_value = "default", value_parser = parse_name)]
    name: String,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Identity {
    Admin,
    Gateway,
}

/// What the program writes when it is ready.
#[derive(Deserialize)]
pub(crate) struct Ready {
    pub(crate) url: String,
    pub(crate) version: String,
}

impl Cluster {
    pub(crate) fn run(&self) -> Result {
        match self {
            Self::Up(name) => {
                let instance = Instance::named(&name.name);
                let ready = instance.up()?;
                note(&format!("{} at {}", ready.version, ready.url));
                note(&format!("export KUBECONFIG={}", instance.kubeconfig(Identity::Admin).display()));
                Ok(())
            }
            Self::Down(name) => Instance::named(&name.name).down(),
            Self::Status => status(),
            Self::Kubeconfig { name, identity } => {
                let instance = Instance::named(&name.name);
                if instance.ready().is_none() {
                    return Err(Failure::new(format!(
                        "cluster {} is not up; run `cargo xtask cluster up`",
                        name.name
                    )));
                }
                println!("{}", instance.kubeconfig(*identity).display());
                Ok(())
            }
            Self::Build => build().map(drop),
        }
    }
}

/// One named cluster of this work tree.
pub(crate) struct Instance {
    name: String,
    /// State: kubeconfigs, audit.log, certificates.
    pub(crate) dir: PathBuf,
}

impl Instance {
    pub(crate) fn named(name: &str) -> Self {
        Self { name: name.to_owned(), dir: command::target("cluster/run").join(name) }
    }

    fn beside(&self, ending: &str) -> PathBuf {
        self.dir.with_file_name(format!("{}.{ending}", self.name))
    }

    pub(crate) fn kubeconfig(&self, identity: Identity) -> PathBuf {
        self.dir.join(match identity {
            Identity::Admin => "admin.kubeconfig",
            Identity::Gateway => "gateway.kubeconfig",
        })
    }

    /// Starts the cluster unless it runs. Two starts at once wait for each other.
    pub(crate) fn up(&self) -> Result<Ready> {
        std::fs::create_dir_all(&self.dir)?;
        let lock = File::create(self.beside("lock"))?;
        lock.lock()?;
        if let Some(ready) = self.ready() {
            heading(&format!("Cluster {} is up already", self.name));
            return Ok(ready);
        }
        let binary = build()?;
        heading(&format!("Start cluster {}", self.name));
        // One that was killed leaves its word behind; it is not this one's.
        remove(&self.dir.join("ready"))?;
        let log = File::create(self.beside("log"))?;
        let mut child = command::program(&binary)
            .arg("-dir")
            .arg(&self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A group of its own: Ctrl-C in this terminal is not for the cluster.
            .process_group(0)
            .spawn()?;
        std::fs::write(self.beside("pid"), child.id().to_string())?;

        let ready = command::wait("ready", Duration::from_secs(180), || {
            if let Some(status) = child.try_wait()? {
                return Err(Failure::new(format!("the cluster ended: {status}\n{}", self.last_words())));
            }
            Ok(self.ready())
        })?;
        ready.ok_or_else(|| {
            let hint = self.down().err().map(|failure| failure.to_string()).unwrap_or_default();
            Failure::new(format!(
                "the cluster is not ready after three minutes {hint}\n{}",
                self.last_words()
            ))
        })
    }

    /// Stops the cluster; its log and audit log stay.
    pub(crate) fn down(&self) -> Result {
        let Some(pid) = self.pid() else {
            note(&format!("cluster {} is not up", self.name));
            return Ok(());
        };
        heading(&format!("Stop cluster {}", self.name));
        signal(pid, Signal::TERM)?;
        let gone = || Ok((!alive(pid)).then_some(()));
        if command::wait("stopped", Duration::from_secs(40), gone)?.is_none() {
            note("it does not end by itself: killed");
            signal(pid, Signal::KILL)?;
            command::wait("stopped", Duration::from_secs(10), gone)?;
        }
        remove(&self.beside("pid"))?;
        remove(&self.dir.join("ready"))
    }

    /// What the running program said when it was ready; nothing if it is not, or not any more.
    pub(crate) fn ready(&self) -> Option<Ready> {
        self.pid()?;
        serde_json::from_slice(&std::fs::read(self.dir.join("ready")).ok()?).ok()
    }

    /// The process, if it is alive and ours: a number from before a reboot may be anybody's.
    fn pid(&self) -> Option<Pid> {
        let number: i32 = std::fs::read_to_string(self.beside("pid")).ok()?.trim().parse().ok()?;
        let pid = Pid::from_raw(number)?;
        let ours = match std::fs::read_link(format!("/proc/{number}/exe")) {
            Ok(executable) => executable.starts_with(binaries()),
            Err(_) => !Path::new("/proc/self").exists(),
        };
        (alive(pid) && ours).then_some(pid)
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.beside("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(15)..].join("\n");
        format!("{tail}\n(all of it: {})", self.beside("log").display())
    }
}

/// Removes a file that need not be there.
fn remove(file: &Path) -> Result {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// A zombie has ended: only its parent, which may be us, has not looked yet.
fn alive(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    let zombie = stat.is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")));
    !zombie && test_kill_process(pid).is_ok()
}

fn signal(pid: Pid, signal: Signal) -> Result {
    match kill_process(pid, signal) {
        Err(error) if error != rustix::io::Errno::SRCH => {
            Err(Failure::new(format!("cannot signal the cluster: {error}")))
        }
        _ => Ok(()),
    }
}

fn status() -> Result {
    let mut rows = Vec::new();
    let runs = command::target("cluster/run");
    if runs.exists() {
        for entry in std::fs::read_dir(&runs)? {
            let path = entry?.path();
            let (true, Some(name)) = (path.is_dir(), path.file_name()) else { continue };
            let instance = Instance::named(&name.to_string_lossy());
            let pid = instance.pid().map(|pid| pid.as_raw_nonzero().to_string());
            let state = match (&pid, instance.ready()) {
                (Some(_), Some(_)) => "ready",
                (Some(_), None) => "starting",
                (None, _) => "down",
            };
            let (version, url) =
                instance.ready().map_or_else(Default::default, |ready| (ready.version, ready.url));
            rows.push(vec![
                instance.name.clone(),
                state.to_owned(),
                pid.unwrap_or_default(),
                version,
                url,
                instance.dir.display().to_string(),
            ]);
        }
    }
    rows.sort();
    println!("{}", command::table(&["NAME", "STATE", "PID", "VERSION", "URL", "DIRECTORY"], &rows));
    Ok(())
}

fn binaries() -> PathBuf {
    command::target("cluster/bin")
}

/// Compiles the Go program unless the same sources have been compiled before.
pub(crate) fn build() -> Result<PathBuf> {
    let sources = command::root().join("tests/cluster");
    let version = kubernetes_version(&std::fs::read_to_string(sources.join("go.mod"))?)?;
    let (major, minor) = version
        .trim_start_matches('v')
        .split_once('.')
        .and_then(|(major, rest)| Some((major.to_owned(), rest.split('.').next()?.to_owned())))
        .ok_or_else(|| Failure::new(format!("tests/cluster/go.mod: {version} is no version")))?;
    // Without these the server would call itself v0.0.0-master.
    let stamp = "k8s.io/component-base/version";
    let linker = format!(
        "-s -w -X {stamp}.gitVersion={version} -X {stamp}.gitMajor={major} -X {stamp}.gitMinor={minor}"
    );

    let digest =
        command::digest(&command::files(&sources, &[".go", ".yaml", "go.mod", "go.sum"])?, &[&linker])?;
    let binary = binaries().join(format!("cluster-{digest}"));
    if binary.exists() {
        return Ok(binary);
    }
    if !command::exists("go", "version") {
        return Err(Failure::new(
            "the test cluster is a Go program, and there is no `go`; install Go 1.26 or newer: https://go.dev/dl/",
        ));
    }
    heading(&format!(
        "Build the test cluster, Kubernetes {version} (the first time: about 7 minutes on 2 cores)"
    ));
    std::fs::create_dir_all(binaries())?;
    let started = command::stopwatch();
    // Renamed when whole, so that an interrupted build is never mistaken for a finished one.
    let unfinished = binaries().join(format!(".unfinished-{}", std::process::id()));
    let mut go = command::program("go");
    go.current_dir(&sources).args(["build", "-trimpath", "-buildvcs=false", "-ldflags", &linker, "-o"]);
    command::run(go.arg(&unfinished).arg("."))?;
    for old in command::files(&binaries(), &[""])? {
        if old != unfinished
            && old.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cluster-"))
        {
            std::fs::remove_file(old)?;
        }
    }
    std::fs::rename(&unfinished, &binary)?;
    note(&format!("built in {}", command::duration(started.elapsed())));
    Ok(binary)
}

/// The version of Kubernetes that go.mod asks for.
fn kubernetes_version(go_mod: &str) -> Result<String> {
    go_mod
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes v"))
        .map(|version| format!("v{}", version.split_whitespace().next().unwrap_or_default()))
        .ok_or_else(|| Failure::new("tests/cluster/go.mod does not require k8s.io/kubernetes"))
}

/// A name becomes a file's name.
fn parse_name(name: &str) -> std::result::Result<String, String> {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.is_empty() && name.len() <= 40 && name.chars().all(fine) {
        Ok(name.to_owned())
    } else {
        Err("a name has 1 to 40 lower-case letters, digits and dashes".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_comes_from_go_mod() {
        let go_mod =
            "require (\n\tk8s.io/kubernetes v1.37.2\n)\nreplace (\n\tk8s.io/api => k8s.io/api v0.37.2\n)";
        assert_eq!(kubernetes_version(go_mod).unwrap(), "v1.37.2");
        assert!(kubernetes_version("module x").is_err());
    }

    #[test]
    fn names_stay_inside_the_directory() {
        for name in ["default", "e2e-2"] {
            assert!(parse_name(name).is_ok(), "{name}");
        }
        for name in ["", "..", "a/b", "Ä", "x.pid"] {
            assert!(parse_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_pid_file_that_names_a_stranger_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let instance = Instance { name: "x".into(), dir: dir.path().join("x") };
        std::fs::write(instance.beside("pid"), std::process::id().to_string()).unwrap();
        assert!(instance.pid().is_none());
    }
}
