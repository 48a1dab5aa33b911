//! Lines in a file that is turned over when it is large.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use portcullis_core::BoxFuture;

use crate::exporter::{Item, Sink, SinkError};

/// Writes what `lines` makes of records to a file, flushed to the disk before the cursor moves on. A file that has grown past
/// `max_bytes` becomes `NAME.1`, the one before `NAME.2`, up to `max_backups`; older ones are removed.
pub struct FileSink<F> {
    path: PathBuf,
    file: Option<File>,
    max_bytes: u64,
    max_backups: u32,
    lines: F,
}

impl<F> FileSink<F> {
    /// Appends to `path`, a line (without its end) for each that `lines` makes of a record.
    pub fn new(path: impl Into<PathBuf>, max_bytes: u64, max_backups: u32, lines: F) -> Self {
        Self { path: path.into(), file: None, max_bytes, max_backups, lines }
    }
}

impl<F> std::fmt::Debug for FileSink<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileSink").field("path", &self.path).finish_non_exhaustive()
    }
}

impl<F: FnMut(&Item) -> Vec<Vec<u8>> + Send + 'static> Sink for FileSink<F> {
    fn send<'a>(&'a mut self, items: &'a [Item]) -> BoxFuture<'a, Result<(), SinkError>> {
        let mut bytes = Vec::new();
        for line in items.iter().flat_map(|item| (self.lines)(item)) {
            bytes.extend_from_slice(&line);
            bytes.push(b'\n');
        }
        let (path, file, max) = (self.path.clone(), self.file.take(), (self.max_bytes, self.max_backups));
        Box::pin(async move {
            let written = tokio::task::spawn_blocking(move || append(&path, file, &bytes, max)).await;
            let file = written.map_err(io::Error::other).and_then(|written| written);
            self.file = Some(file.map_err(|error| SinkError(format!("{}: {error}", self.path.display())))?);
            Ok(())
        })
    }
}

fn append(path: &Path, file: Option<File>, bytes: &[u8], max: (u64, u32)) -> io::Result<File> {
    let mut file = match file {
        Some(file) => file,
        None => open(path)?,
    };
    let size = file.metadata()?.len();
    if size > 0 && size + bytes.len() as u64 > max.0 {
        turn_over(path, max.1)?;
        file = open(path)?;
    }
    file.write_all(bytes)?;
    file.sync_data()?;
    Ok(file)
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn turn_over(path: &Path, backups: u32) -> io::Result<()> {
    let backup = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    for number in (0..backups).rev() {
        let from = if number == 0 { path.to_owned() } else { backup(number) };
        match fs::rename(from, backup(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    if backups == 0 { fs::remove_file(path) } else { Ok(()) }
}
