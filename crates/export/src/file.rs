//! Lines in a file that is turned over when it is large.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
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
    let mut size = file.metadata()?.len();
    if size > 0 && size + bytes.len() as u64 > max.0 {
        turn_over(path, max.1)?;
        (file, size) = (open(path)?, 0);
    }
    let written = file.write_all(bytes).and_then(|()| file.sync_data());
    if written.is_err() {
        // Half a line would swallow the next one. Should this fail, too, opening does it.
        let _ = file.set_len(size);
    }
    written.map(|()| file)
}

/// Opens the file for appending, without the line that a crash may have cut short.
fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).read(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    let whole = end_of_lines(&file)?;
    if file.metadata()?.len() > whole {
        file.set_len(whole)?;
    }
    sync_dir(path)?;
    Ok(file)
}

/// Where the last whole line ends.
fn end_of_lines(mut file: &File) -> io::Result<u64> {
    const STEP: u64 = 64 * 1024;
    let mut end = file.metadata()?.len();
    while end > 0 {
        let begin = end.saturating_sub(STEP);
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(begin))?;
        file.take(end - begin).read_to_end(&mut bytes)?;
        if let Some(last) = bytes.iter().rposition(|byte| *byte == b'\n') {
            return Ok(begin + last as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
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
    if backups == 0 {
        fs::remove_file(path)?;
    }
    sync_dir(path)
}

/// Makes a file's name durable.
fn sync_dir(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}
