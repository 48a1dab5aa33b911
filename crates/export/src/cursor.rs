//! How far an exporter is, on the disk.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where the next record to be exported begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) next: u64,
    pub(crate) offset: u64,
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

    pub(crate) fn advance(&mut self, position: Position) -> io::Result<()> {
        let temporary = self.path.with_extension("tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(&position)?)?;
        file.sync_data()?;
        fs::rename(&temporary, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        self.position = position;
        Ok(())
    }
}
