//! How far an exporter is, on the disk.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use portcullis_audit::AuditReader;
use portcullis_audit::ledger::{Hash, ReadError};
use serde::{Deserialize, Serialize};

/// Where the next record to be exported begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) next: u64,
    pub(crate) offset: u64,
    /// The record before it, by which a log is known again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last: Option<Last>,
}

/// A record that has been handed on: where it begins in its segment, and the hash of its leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Last {
    pub(crate) offset: u64,
    pub(crate) leaf: Hash,
}

impl Position {
    /// Whether this log is the one that the position was taken in.
    pub(crate) fn is_of(&self, reader: &AuditReader) -> Result<bool, ReadError> {
        let Some(index) = self.next.checked_sub(1) else { return Ok(true) };
        let Some(last) = self.last else { return Ok(false) };
        Ok(reader.read(index, last.offset)?.is_some_and(|found| Hash::leaf(&found.raw) == last.leaf))
    }
}

/// A position that outlives the process. It moves by renaming: after a crash it is the old one or the new one.
#[derive(Debug)]
pub(crate) struct Cursor {
    path: PathBuf,
    pub(crate) position: Position,
}

impl Cursor {
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        let position = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                let problem = format!("{} is no cursor: {error}", path.display());
                io::Error::new(io::ErrorKind::InvalidData, problem)
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Position::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { path, position })
    }

    /// Moves on, off the asynchronous threads.
    pub(crate) async fn advance(&mut self, position: Position) -> io::Result<()> {
        let path = self.path.clone();
        let moved = tokio::task::spawn_blocking(move || keep(&path, &position)).await;
        moved.map_err(io::Error::other).and_then(|moved| moved)?;
        self.position = position;
        Ok(())
    }
}

fn keep(path: &Path, position: &Position) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(position)?)?;
    file.sync_data()?;
    fs::rename(&temporary, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
