//! The processes that are measured: started, watched through `/proc`, ended.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::process::{Child, Command};

use crate::AnyError;

/// Clock ticks per second: 100 on every Linux that Rust runs on (`sysconf(_SC_CLK_TCK)`).
const TICKS_PER_SECOND: f64 = 100.0;

/// A process, and those it started.
pub(crate) struct Measured {
    child: Child,
}

impl Measured {
    /// Starts a program; what it prints goes to `log`.
    pub(crate) fn start(program: &Path, args: &[&str], log: &Path) -> Result<Self, AnyError> {
        let log = std::fs::File::create(log)?;
        let child = Command::new(program)
            .args(args)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| format!("{} cannot be started: {e}", program.display()))?;
        Ok(Self { child })
    }

    /// CPU seconds so far, user and system, of it and its children.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.pids().iter().filter_map(|pid| cpu_ticks(*pid)).sum::<f64>() / TICKS_PER_SECOND
    }

    /// Resident memory now, in KiB, of it and its children.
    pub(crate) fn resident_kib(&self) -> f64 {
        self.pids().iter().filter_map(|pid| resident_kib(*pid)).sum()
    }

    /// Asks it to end, and waits.
    pub(crate) async fn stop(mut self) {
        if let Some(pid) = self.child.id() {
            let _ = Command::new("kill").args(["-s", "TERM", &pid.to_string()]).status().await;
        }
        if tokio::time::timeout(Duration::from_secs(10), self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }

    fn pids(&self) -> Vec<u32> {
        let Some(own) = self.child.id() else { return Vec::new() };
        let children =
            std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        std::iter::once(own).chain(children.split_whitespace().filter_map(|pid| pid.parse().ok())).collect()
    }
}

fn cpu_ticks(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name, in parentheses, may hold anything; fields are counted after it (proc(5): utime is 14, stime 15).
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?)
}

fn resident_kib(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().split_once(' ')?.0.parse().ok()
}

/// Waits until somebody listens on `port`.
pub(crate) async fn listening(port: u16) -> Result<(), AnyError> {
    for _ in 0..300 {
        if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("nothing listens on port {port} after 15 s").into())
}

/// Waits until a file has content.
pub(crate) async fn written(path: &Path) -> Result<String, AnyError> {
    for _ in 0..300 {
        match std::fs::read_to_string(path) {
            Ok(text) if !text.is_empty() => return Ok(text),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    Err(format!("{} is not written after 15 s", path.display()).into())
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16, AnyError> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A program: where `variable` says, what `cargo xtask bench` has installed for us, or one on the PATH.
pub(crate) fn find(program: &str, variable: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let ours = Path::new("target/tools/bench/bin").join(program);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join(program));
    named.into_iter().chain([ours]).chain(on_path).find(|path| path.is_file())
}
