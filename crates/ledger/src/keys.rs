//! The private key in its file, and putting another in its place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::bodies::sync_dir;
use crate::ledger::{CHECKPOINT, Ledger, Options, PUBLIC_KEY, cannot_use, key_error, replace};
use crate::replay::ReadError;
use crate::rotation::{KeyChain, Rotation};
use crate::{AppendError, Durability, OpenError, SigningKey};

/// The log's private key, made if the log is new, and all public keys it has had.
pub(crate) fn signing_key(
    dir: &Path,
    options: &Options,
    fresh: bool,
) -> Result<(SigningKey, KeyChain), OpenError> {
    let path = key_path(dir, options);
    let error = |what: &str| OpenError::Key { path: path.clone(), what: what.to_owned() };
    let key = match load(&path, &options.origin)? {
        Some(key) => key,
        None if fresh => make(&path, &options.origin)?,
        None => {
            return Err(error(
                "it is gone, but the log has records signed with it: restore it from a backup",
            ));
        }
    };
    let chain = match KeyChain::read(dir) {
        Ok(chain) if chain.newest() == key.verifying_key() => chain,
        Ok(_) if !fresh => {
            return Err(error("it is not the key of this log (see key.pub), or the origin was changed"));
        }
        Err(damaged @ ReadError::Fault(_)) if !fresh => return Err(damaged.into()),
        // A new log, or one whose public key is gone, which a private key makes good.
        _ => {
            let chain = KeyChain::of(key.verifying_key().clone());
            let public = dir.join(PUBLIC_KEY);
            replace(&public, chain.to_text().as_bytes()).map_err(cannot_use(&public))?;
            chain
        }
    };
    Ok((key, chain))
}

pub(crate) fn rotate(dir: &Path, mut options: Options) -> Result<Rotation, OpenError> {
    let (path, origin) = (key_path(dir, &options), options.origin.clone());
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
    install(dir, &path, &chain)?;
    let file = dir.join(CHECKPOINT);
    let note = checkpoint.sign(&next).map_err(key_error(&next_path))?;
    replace(&file, note.as_bytes()).map_err(cannot_use(&file))?;
    // Nothing has come since, so closing signs nothing more with the old key.
    ledger.close();
    Ok(rotation)
}

/// Ends a rotation that a crash cut short: with the new key if the old one has handed over already, otherwise with the old one.
pub(crate) fn finish_rotation(dir: &Path, options: &Options) -> Result<(), OpenError> {
    let path = key_path(dir, options);
    let next_path = next_path(&path);
    let Some(next) = load(&next_path, &options.origin)? else { return Ok(()) };
    let chain = KeyChain::read(dir)?;
    if chain.newest() == next.verifying_key() {
        install(dir, &path, &chain)
    } else {
        fs::remove_file(&next_path).map_err(cannot_use(&next_path))
    }
}

/// Puts the new private key in the old one's place.
fn install(dir: &Path, path: &Path, chain: &KeyChain) -> Result<(), OpenError> {
    let public = dir.join(PUBLIC_KEY);
    replace(&public, chain.to_text().as_bytes()).map_err(cannot_use(&public))?;
    fs::rename(next_path(path), path)
        .and_then(|()| path.parent().map_or(Ok(()), sync_dir))
        .map_err(cannot_use(path))
}

fn key_path(dir: &Path, options: &Options) -> PathBuf {
    options.key.clone().unwrap_or_else(|| dir.join("key.pem"))
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
    let pem = match fs::read_to_string(path) {
        Ok(pem) => pem,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(other) => return Err(cannot_use(path)(other)),
    };
    if others_may_read(path).map_err(cannot_use(path))? {
        let what = "others than its owner may read it: chmod 600 it, or replace it".to_owned();
        return Err(OpenError::Key { path: path.to_owned(), what });
    }
    SigningKey::from_pem(origin, &pem).map(Some).map_err(key_error(path))
}

pub(crate) fn others_may_read(path: &Path) -> io::Result<bool> {
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path)?.permissions());
        Ok(mode & 0o077 != 0)
    }
    #[cfg(not(unix))]
    fs::metadata(path).map(|_| false)
}
