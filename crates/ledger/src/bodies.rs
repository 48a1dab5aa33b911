//! Bodies, stored beside the log under the SHA-256 of their content: `bodies/ab/abcdef…`.
//!
//! A record names a body by its digest, so the log vouches for the body without containing it, and retention can drop
//! a body without breaking the log.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Durability, Hash};

/// A directory of bodies. Cheap to clone; may be used from many threads and processes at once.
#[derive(Debug, Clone)]
pub struct Bodies {
    dir: PathBuf,
}

impl Bodies {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Stores `body` and answers its digest. Blocks on the disk. Storing the same body again costs one look.
    ///
    /// # Errors
    /// When it cannot be written; nothing half-written is left under its name.
    pub fn put(&self, body: &[u8], durability: Durability) -> io::Result<Hash> {
        static UNIQUE: AtomicU64 = AtomicU64::new(0);
        let digest = Hash::of(body);
        let path = self.path(digest);
        // A file of another length is what a power cut left of an earlier, less durable write: it is replaced.
        if fs::metadata(&path).is_ok_and(|found| found.len() == body.len() as u64) {
            if durability == Durability::Fsync {
                File::open(&path)?.sync_data()?;
            }
            return Ok(digest);
        }
        let parent = path.parent().unwrap_or(&self.dir);
        fs::create_dir_all(parent)?;
        let name = format!("{digest}.{}-{}.tmp", std::process::id(), UNIQUE.fetch_add(1, Ordering::Relaxed));
        let temporary = parent.join(name);
        let written = write_new(&temporary, body, durability).and_then(|()| fs::rename(&temporary, &path));
        if let Err(error) = written {
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        if durability == Durability::Fsync {
            sync_dir(parent)?;
        }
        Ok(digest)
    }

    /// The body with this digest: `None` when there is none (any more), an error when what is stored is another.
    ///
    /// # Errors
    /// When it cannot be read, or was changed.
    pub fn read(&self, digest: Hash) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path(digest)) {
            Ok(body) if Hash::of(&body) == digest => Ok(Some(body)),
            Ok(_) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, format!("the body {digest} was changed")))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where the body with this digest is stored, if it is.
    #[must_use]
    pub fn path(&self, digest: Hash) -> PathBuf {
        let name = digest.to_string();
        self.dir.join(&name[..2]).join(name)
    }
}

fn write_new(path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    let mut file = private(File::options().write(true).create_new(true)).open(path)?;
    file.write_all(bytes)?;
    if durability == Durability::Fsync { file.sync_data() } else { Ok(()) }
}

/// Makes files that only their owner may read: what agents did is nobody else's business.
pub(crate) fn private(options: &mut fs::OpenOptions) -> &mut fs::OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_found_by_its_digest_and_a_changed_one_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let bodies = Bodies::new(dir.path().join("bodies"));
        let digest = bodies.put(b"hello", Durability::Fsync).unwrap();
        assert_eq!(bodies.put(b"hello", Durability::Write).unwrap(), digest);
        assert_eq!(bodies.read(digest).unwrap().as_deref(), Some(b"hello".as_slice()));
        assert_eq!(bodies.read(Hash::of(b"other")).unwrap(), None);
        fs::write(bodies.path(digest), b"hellp").unwrap();
        assert_eq!(bodies.read(digest).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
