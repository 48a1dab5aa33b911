//! The private key in its file, and putting another in its place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::files::{self, replace, sync_dir};
use crate::ledger::{CHECKPOINT, Ledger, Options, PUBLIC_KEY, cannot_use, key_error};
use crate::note::MAX_NOTE;
use crate::replay::ReadError;
use crate::rotation::{KeyChain, Rotation};
use crate::{AppendError, Durability, OpenError, SigningKey, tiles};

/// The keys of a log, as they were found. Nothing is changed before [`Keys::settle`].
pub(crate) struct Keys {
    dir: PathBuf,
    key: Option<SigningKey>,
    /// Of a rotation that a crash cut short.
    next: Option<SigningKey>,
    /// What `key.pub` and `rotations/` say; where there are neither, what the private key makes good.
    chain: Option<KeyChain>,
}

impl Keys {
    pub(crate) fn find(dir: &Path, origin: &str) -> Result<Self, OpenError> {
        let path = key_path(dir);
        let (key, next) = (load(&path, origin)?, load(&next_path(&path), origin)?);
        let chain = match KeyChain::read(dir) {
            Ok(chain) => Some(chain),
            Err(ReadError::Io { path, source }) if source.kind() == io::ErrorKind::NotFound => {
                let rotations = dir.join("rotations");
                if !tiles::names(&rotations).map_err(cannot_use(&rotations))?.is_empty() {
                    let what = "it is gone, but there are rotations/: restore it from a backup".to_owned();
                    return Err(OpenError::Key { path, what });
                }
                key.as_ref().map(|key| KeyChain::of(key.verifying_key().clone()))
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self { dir: dir.to_owned(), key, next, chain })
    }

    /// What a verifier would know; nothing where there is no key at all.
    pub(crate) const fn chain(&self) -> Option<&KeyChain> {
        self.chain.as_ref()
    }

    /// Makes the first key, if this log has never had one.
    pub(crate) fn make_first(&mut self, origin: &str) -> Result<(), OpenError> {
        if self.chain.is_none() {
            let key = make(&key_path(&self.dir), origin)?;
            self.chain = Some(KeyChain::of(key.verifying_key().clone()));
            self.key = Some(key);
        }
        Ok(())
    }

    /// The keys of the log: that which signs, and all.
    pub(crate) fn signing(&self) -> Result<(&SigningKey, &KeyChain), OpenError> {
        let error = |what: &str| OpenError::Key { path: key_path(&self.dir), what: what.to_owned() };
        let gone = || error("it is gone, but the log has been signed with it: restore it from a backup");
        let chain = self.chain.as_ref().ok_or_else(gone)?;
        let mut keys = self.key.iter().chain(&self.next);
        match keys.find(|key| key.verifying_key() == chain.newest()) {
            Some(key) => Ok((key, chain)),
            None if self.key.is_none() => Err(gone()),
            None => Err(error("it is not the key of this log (see key.pub), or the origin was changed")),
        }
    }

    /// Puts the files in order: `key.pub`, if it is gone, and the end of a rotation that a crash cut short: with the new key if
    /// the old one has handed over already, otherwise with the old one.
    pub(crate) fn settle(self) -> Result<(SigningKey, KeyChain), OpenError> {
        self.signing()?;
        let Self { dir, key, next, chain } = self;
        let path = key_path(&dir);
        let gone = || OpenError::Key { path: path.clone(), what: "it is gone".to_owned() };
        let chain = chain.ok_or_else(gone)?;
        match next {
            Some(next) if next.verifying_key() == chain.newest() => {
                install(&dir, &chain)?;
                return Ok((next, chain));
            }
            Some(_) => {
                let next = next_path(&path);
                fs::remove_file(&next).map_err(cannot_use(&next))?;
            }
            None => {}
        }
        write_public(&dir, &chain)?;
        Ok((key.ok_or_else(gone)?, chain))
    }
}

pub(crate) fn rotate(dir: &Path, mut options: Options) -> Result<Rotation, OpenError> {
    let (path, origin) = (key_path(dir), options.origin.clone());
    let record = std::mem::replace(&mut options.rotation_record, Box::new(Rotation::to_record));
    let (ledger, _) = Ledger::open(dir, options)?;
    let mut chain = KeyChain::read(dir)?;
    let gone = || OpenError::Key { path: path.clone(), what: "it is gone".to_owned() };
    let previous = load(&path, &origin)?.ok_or_else(gone)?;
    let next_path = next_path(&path);
    let next = make(&next_path, &origin)?;

    // The log is open, so nobody else appends: the checkpoint ends with this record.
    let cannot = |error: AppendError| cannot_use(dir)(io::Error::other(error));
    let rotation = Rotation {
        size: ledger.writer().health().size,
        previous: previous.verifying_key().clone(),
        next: next.verifying_key().clone(),
    };
    ledger.writer().append_blocking(record(&rotation), Durability::Fsync).map_err(cannot)?;
    let checkpoint = ledger.checkpoint().map_err(cannot)?;
    chain.hand_over(dir, &checkpoint, (&previous, &next)).map_err(cannot_use(dir))?;
    install(dir, &chain)?;
    let file = dir.join(CHECKPOINT);
    let note = checkpoint.sign(&next).map_err(key_error(&next_path))?;
    replace(&file, note.as_bytes()).map_err(cannot_use(&file))?;
    // Nothing has come since, so closing signs nothing more with the old key.
    ledger.close();
    Ok(rotation)
}

/// Puts the new private key in the old one's place.
fn install(dir: &Path, chain: &KeyChain) -> Result<(), OpenError> {
    write_public(dir, chain)?;
    let path = key_path(dir);
    fs::rename(next_path(&path), &path).and_then(|()| sync_dir(dir)).map_err(cannot_use(&path))
}

/// Has `key.pub` list these keys.
fn write_public(dir: &Path, chain: &KeyChain) -> Result<(), OpenError> {
    let (path, text) = (dir.join(PUBLIC_KEY), chain.to_text());
    match files::read(&path, MAX_NOTE) {
        Ok(listed) if listed == text.as_bytes() => Ok(()),
        _ => replace(&path, text.as_bytes()).map_err(cannot_use(&path)),
    }
}

fn key_path(dir: &Path) -> PathBuf {
    dir.join("key.pem")
}

fn next_path(path: &Path) -> PathBuf {
    path.with_extension("next.pem")
}

fn make(path: &Path, origin: &str) -> Result<SigningKey, OpenError> {
    let key = SigningKey::generate(origin).map_err(key_error(path))?;
    let pem = key.to_pem().map_err(key_error(path))?;
    replace(path, pem.as_bytes()).map_err(cannot_use(path))?;
    Ok(key)
}

/// The key in this file, if there is one.
fn load(path: &Path, origin: &str) -> Result<Option<SigningKey>, OpenError> {
    let error = |what: &str| OpenError::Key { path: path.to_owned(), what: what.to_owned() };
    let pem = match files::read(path, MAX_PEM) {
        Ok(pem) => Zeroizing::new(pem),
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(large) if large.kind() == io::ErrorKind::FileTooLarge => return Err(error(&large.to_string())),
        Err(other) => return Err(cannot_use(path)(other)),
    };
    if others_may_read(path).map_err(cannot_use(path))? {
        return Err(error("others than its owner may read it: chmod 600 it, or replace it"));
    }
    let pem = str::from_utf8(&pem).map_err(|_| error("it is not text"))?;
    SigningKey::from_pem(origin, pem).map(Some).map_err(key_error(path))
}

/// The longest file of a private key that is read, in bytes. One has 119.
const MAX_PEM: usize = 16 * 1024;

pub(crate) fn others_may_read(path: &Path) -> io::Result<bool> {
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path)?.permissions());
        Ok(mode & 0o077 != 0)
    }
    #[cfg(not(unix))]
    fs::metadata(path).map(|_| false)
}
