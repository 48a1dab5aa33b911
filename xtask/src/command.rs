//! Running other programs, and telling the person in front of the terminal what runs and for how
//! long.

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use owo_colors::OwoColorize;
use sha2::{Digest, Sha256};

use crate::{Failure, Result};

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// `target/` of this work tree, for what is not cargo's: the cluster, tools, reports. It stays
/// here when `CARGO_TARGET_DIR` points elsewhere, so that two work trees never share a cluster.
pub(crate) fn target(path: &str) -> PathBuf {
    root().join("target").join(path)
}

/// Announces a step. What the step itself prints follows below.
pub(crate) fn heading(text: &str) {
    anstream::eprintln!("{} {}", "──".cyan(), text.bold());
}

/// Says one thing in passing.
pub(crate) fn note(text: &str) {
    anstream::eprintln!("{} {text}", "  ".cyan());
}

/// Says what was not done, so that nobody takes it for done.
pub(crate) fn warn(text: &str) {
    anstream::eprintln!("{}", text.yellow().bold());
}

/// Whether this run is unattended: what cannot be run is then a failure, not a note.
pub(crate) fn ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

/// Starts a stopwatch.
#[expect(clippy::disallowed_methods, reason = "a chore is timed by the real clock")]
pub(crate) fn stopwatch() -> Instant {
    Instant::now()
}

/// `8.3 s`, `2 min 05 s`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 {
        format!("{:.1} s", time.as_secs_f32())
    } else {
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    }
}

/// A program with arguments, run in the workspace's root with its output passed through.
pub(crate) fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.current_dir(root());
    command
}

/// The cargo that runs us, so that a toolchain override holds for what we start too.
pub(crate) fn cargo() -> Command {
    program(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs to the end; anything but success is a failure that names the command.
pub(crate) fn run(command: &mut Command) -> Result {
    let status = command.status().map_err(|error| cannot_start(command, &error))?;
    if status.success() { Ok(()) } else { Err(Failure::new(format!("`{}` failed: {status}", line(command)))) }
}

/// Runs to the end and returns what it printed on standard output.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| cannot_start(command, &error))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(Failure::new(format!("`{}` failed: {}", line(command), output.status)))
    }
}

fn cannot_start(command: &Command, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot start `{}`: {error}", line(command)))
}

/// The command as one would type it.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Whether a program can be found and started.
pub(crate) fn exists(name: &str, version_flag: &str) -> bool {
    let mut probe = Command::new(name);
    probe.arg(version_flag).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

/// Waits until `ready` says so, showing how long it has taken; `None` when the time is up.
pub(crate) fn wait<T>(
    what: &str,
    limit: Duration,
    mut ready: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let started = stopwatch();
    let terminal = std::io::stderr().is_terminal();
    loop {
        let done = ready()?;
        if terminal {
            anstream::eprint!("\r   {what}: {:<12}", duration(started.elapsed()));
            if done.is_some() {
                anstream::eprintln!();
            }
        } else if done.is_some() {
            note(&format!("{what}: {}", duration(started.elapsed())));
        }
        if done.is_some() {
            return Ok(done);
        }
        if started.elapsed() > limit {
            return Ok(None);
        }
        pause(Duration::from_millis(100));
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that polls another process, with a deadline")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// A digest of files' names and contents: the same digest, the same build.
pub(crate) fn digest(files: &[PathBuf], also: &[&str]) -> Result<String> {
    let mut hash = Sha256::new();
    for text in also {
        hash.update(text.as_bytes());
        hash.update([0]);
    }
    for file in files {
        let content = std::fs::read(file)
            .map_err(|error| Failure::new(format!("cannot read {}: {error}", file.display())))?;
        hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        hash.update([0]);
        hash.update(content.len().to_le_bytes());
        hash.update(content);
    }
    Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

/// The files of one directory whose name ends as given, sorted.
pub(crate) fn files(dir: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)
        .map_err(|error| Failure::new(format!("cannot list {}: {error}", dir.display())))?
    {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_file() && endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Left-aligned columns as wide as their widest cell.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..header.len())
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([header[column].chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let format = |cells: Vec<&str>| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![format(header.to_vec())];
    lines.extend(rows.iter().map(|row| format(row.iter().map(String::as_str).collect())));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_has_no_trailing_blanks() {
        let rows = vec![vec!["default".into(), "ready".into()], vec!["e2e".into(), String::new()]];
        assert_eq!(table(&["NAME", "STATE"], &rows), "NAME     STATE\ndefault  ready\ne2e");
    }

    #[test]
    fn a_digest_changes_with_content_and_with_name() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, "1").unwrap();
        std::fs::write(&b, "1").unwrap();
        let first = digest(std::slice::from_ref(&a), &[]).unwrap();
        assert_eq!(first, digest(std::slice::from_ref(&a), &[]).unwrap());
        assert_ne!(first, digest(&[b], &[]).unwrap());
        assert_ne!(first, digest(std::slice::from_ref(&a), &["flag"]).unwrap());
        std::fs::write(&a, "2").unwrap();
        assert_ne!(first, digest(&[a], &[]).unwrap());
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(duration(Duration::from_millis(8340)), "8.3 s");
        assert_eq!(duration(Duration::from_secs(125)), "2 min 05 s");
    }
}
