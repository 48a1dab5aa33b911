//! Proving a stored log to be what its checkpoints signed, or naming the first record that is not.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::cosignature::{Cosignature, WitnessKey, cosignatures};
use crate::files;
use crate::note::{MAX_NOTE, Signed};
use crate::replay::{Fault, FaultKind, Next, ReadError, Replay};
use crate::rotation::KeyChain;
use crate::segment::{self, EntryRef};
use crate::tiling::Tiling;
use crate::verify_tiles::StoredTiles;
use crate::{Checkpoint, Hash, NoteError, VerifyingKey, ledger};

/// Reads a whole log, recomputes its tree, and compares that with the log's checkpoint and with any the caller knows.
///
/// The ledger may be in use meanwhile. What was appended after the newest checkpoint is checked for whole bytes and an
/// unbroken hash chain, but nothing yet vouches that it has not been cut off.
#[derive(Debug)]
pub struct Verifier {
    dir: PathBuf,
    key: VerifyingKey,
    known: Vec<Checkpoint>,
    witnesses: Vec<WitnessKey>,
    bundles: bool,
}

/// A log that is what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// How many records there are.
    pub size: u64,
    /// The Merkle tree's root over them.
    pub root: Hash,
    /// The log's own newest checkpoint.
    pub checkpoint: Checkpoint,
    /// What the witnesses that were asked for say of it.
    pub cosignatures: Vec<Cosignature>,
    /// How many files of tiles and entry bundles were compared with the records.
    pub tiles: u64,
    /// Bytes after the last whole record: a write under way, or one that a crash cut short. Never part of the log.
    pub torn: bool,
}

impl Verifier {
    /// Verifies the ledger in `dir` with the public key that lies there.
    ///
    /// That finds whatever happened to the files by accident or by someone without the private key. Against someone who
    /// has both, verify with a key ([`Verifier::with_key`]) and a checkpoint ([`Verifier::knowing`]) kept elsewhere.
    ///
    /// # Errors
    /// When there is no public key, or it is malformed.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, ReadError> {
        let dir = dir.into();
        let keys = KeyChain::read(&dir).map_err(|error| match dir.join("segments").exists() {
            true => key_is_gone(&dir, error),
            // No log is here: nothing has been tampered with.
            false => error,
        })?;
        Ok(Self::with_key(dir, keys.newest().clone()))
    }

    /// Verifies the ledger in `dir` with a public key from elsewhere: the log's present key, or one it had before, from which
    /// the log's own statements lead to the present one.
    #[must_use]
    pub fn with_key(dir: impl Into<PathBuf>, key: VerifyingKey) -> Self {
        Self { dir: dir.into(), key, known: Vec::new(), witnesses: Vec::new(), bundles: true }
    }

    /// Also demands that the log contain what this checkpoint, kept elsewhere, signed.
    ///
    /// # Errors
    /// When the note is not signed by the log's key.
    pub fn knowing(mut self, note: &str) -> Result<Self, NoteError> {
        let keys = KeyChain::read(&self.dir).ok().filter(|keys| keys.contains(&self.key));
        let keys = keys.unwrap_or_else(|| KeyChain::of(self.key.clone()));
        self.known.push(keys.verify(note)?);
        Ok(self)
    }

    /// Also demands that this witness have cosigned a checkpoint of the log (`checkpoint.cosigned`).
    #[must_use]
    pub fn witness(mut self, key: WitnessKey) -> Self {
        self.witnesses.push(key);
        self
    }

    /// Does not demand that there be entry bundles: for a ledger that was told to store none. Those that are there must be
    /// right all the same.
    #[must_use]
    pub const fn without_entry_bundles(mut self) -> Self {
        self.bundles = false;
        self
    }

    /// Verifies everything.
    ///
    /// # Errors
    /// The first fault, or that a file cannot be read.
    pub fn run(self) -> Result<Verified, ReadError> {
        self.run_with(|_| {})
    }

    /// Verifies everything, showing each record that has been accepted so far (for progress, or to check what is inside).
    ///
    /// # Errors
    /// The first fault, or that a file cannot be read.
    pub fn run_with(self, mut each: impl FnMut(&EntryRef<'_>)) -> Result<Verified, ReadError> {
        let keys = read_keys(&self.dir, &self.key)?;
        let mut known = self.known;
        known.extend_from_slice(keys.handed_over());
        // A log in use only grows: so first what is oldest, then the newest checkpoint, then tiles, and then the records.
        let (cosigned, cosignatures) = read_cosigned(&self.dir, &keys, &self.witnesses)?.unzip();
        known.extend(cosigned);
        let cosignatures = cosignatures.unwrap_or_default();
        let (checkpoint, _) = read_checkpoint(&self.dir, &keys)?;
        let stale = known.iter().find(|known| known.size > checkpoint.size).map(|newer| {
            let detail = format!("it is of {} records, but there was one of {}", checkpoint.size, newer.size);
            checkpoint_fault(&self.dir.join(ledger::CHECKPOINT), detail)
        });
        let mut tiles = StoredTiles::new(&self.dir, checkpoint.size, self.bundles)?;
        known.push(checkpoint.clone());
        known.sort_by_key(|checkpoint| checkpoint.size);

        let segments = self.dir.join("segments");
        let list = segment::list(&segments).map_err(ReadError::io(&segments))?;
        if list.first().is_none_or(|(first, _)| *first != 0) {
            let (file, detail) =
                (segments.join(segment::file_name(0)), "the first segment is gone".to_owned());
            return Err(Fault { kind: FaultKind::Removed, index: 0, file, offset: 0, detail }.into());
        }
        let mut replay = Replay::open(&segments, &list[0].1, 0)?;
        replay.tiling = Some(Tiling::new(true).bundles_from(tiles.bundles()));
        let mut due = known.iter().peekable();
        loop {
            while let Some(checkpoint) = due.next_if(|checkpoint| checkpoint.size == replay.tree.size()) {
                compare(&replay, checkpoint)?;
            }
            match replay.next()? {
                Next::Entry(found) => {
                    let entry = replay.entry(&found);
                    each(&entry);
                    tiles.entry(&entry)?;
                    if let Some(tiling) = replay.tiling.as_mut().filter(|tiling| tiling.has_full()) {
                        for (tile, bytes) in tiling.take_full() {
                            tiles.full(tile, &bytes)?;
                            tiling.recycle(bytes);
                        }
                    }
                }
                Next::Tail(damage) => {
                    if let Some(checkpoint) = due.next_back() {
                        return Err(missing(&replay, damage, checkpoint).into());
                    }
                    let torn = damage.is_some();
                    // Only now: where the records are gone too, that says more.
                    if let Some(stale) = stale {
                        return Err(stale.into());
                    }
                    let (size, root) = (replay.tree.size(), replay.tree.root());
                    let moved_on = || match read_checkpoint(&self.dir, &keys) {
                        Ok((now, _)) => now.size != checkpoint.size,
                        Err(_) => false,
                    };
                    let tiles = tiles.finish(replay.tiling.as_ref(), size, moved_on)?;
                    return Ok(Verified { size, root, checkpoint, cosignatures, tiles, torn });
                }
            }
        }
    }
}

/// All keys of the log, if the one that is known is among them.
fn read_keys(dir: &Path, known: &VerifyingKey) -> Result<KeyChain, ReadError> {
    let keys = KeyChain::read(dir).map_err(|error| key_is_gone(dir, error))?;
    if keys.contains(known) {
        return Ok(keys);
    }
    let path = dir.join(ledger::PUBLIC_KEY);
    Err(checkpoint_fault(&path, "the key that is known is none of this log's".into()).into())
}

/// Of a log, that its public key is not there is a fault.
fn key_is_gone(dir: &Path, error: ReadError) -> ReadError {
    match error {
        ReadError::Io { source, .. } if source.kind() == ErrorKind::NotFound => {
            checkpoint_fault(&dir.join(ledger::PUBLIC_KEY), "the public key is gone".into()).into()
        }
        error => error,
    }
}

/// The log's own checkpoint, signature checked.
pub(crate) fn read_checkpoint(dir: &Path, keys: &KeyChain) -> Result<(Checkpoint, String), ReadError> {
    let path = dir.join(ledger::CHECKPOINT);
    let note =
        read_note(&path)?.ok_or_else(|| checkpoint_fault(&path, "the checkpoint is gone".to_owned()))?;
    let checkpoint = keys.verify(&note).map_err(|error| unacceptable(&path, &error))?;
    if checkpoint.origin != keys.newest().name() {
        return Err(checkpoint_fault(&path, format!("it is of the log {}", checkpoint.origin)).into());
    }
    Ok((checkpoint, note))
}

/// The newest checkpoint that somebody has cosigned, and what these witnesses say of it: each of them must.
fn read_cosigned(
    dir: &Path,
    keys: &KeyChain,
    witnesses: &[WitnessKey],
) -> Result<Option<(Checkpoint, Vec<Cosignature>)>, ReadError> {
    let path = dir.join(ledger::COSIGNED);
    let Some(note) = read_note(&path)? else {
        return match witnesses.is_empty() {
            true => Ok(None),
            false => Err(checkpoint_fault(&path, "no witness has cosigned a checkpoint".into()).into()),
        };
    };
    let read = || {
        let (checkpoint, signed) = (keys.verify(&note)?, Signed::parse(&note)?);
        let found = cosignatures(&signed, witnesses)?;
        // By name and key: two witnesses may go by the same name.
        let silent = witnesses.iter().find(|key| !signed.signatures.iter().any(|line| key.made(line)));
        Ok((checkpoint, found, silent))
    };
    match read().map_err(|error| unacceptable(&path, &error))? {
        (checkpoint, found, None) => Ok(Some((checkpoint, found))),
        (_, _, Some(witness)) => {
            Err(checkpoint_fault(&path, format!("{} has not cosigned it", witness.name())).into())
        }
    }
}

/// A note of the log, or its list of keys; `None` when it is not there.
pub(crate) fn read_note(path: &Path) -> Result<Option<String>, ReadError> {
    let bytes = match files::read(path, MAX_NOTE) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == ErrorKind::FileTooLarge => {
            return Err(checkpoint_fault(path, error.to_string()).into());
        }
        Err(error) => return Err(ReadError::io(path)(error)),
    };
    let text = String::from_utf8(bytes).map_err(|_| checkpoint_fault(path, "it is not text".to_owned()))?;
    Ok(Some(text))
}

/// Whether what has been read so far is what `checkpoint`, of the same size, signed.
pub(crate) fn compare(replay: &Replay, checkpoint: &Checkpoint) -> Result<(), Fault> {
    if replay.tree.root() == checkpoint.root {
        return Ok(());
    }
    let detail = format!("the first {} records are not those that the checkpoint signed", checkpoint.size);
    Err(Fault { index: checkpoint.size.saturating_sub(1), ..replay.fault(FaultKind::Rewritten, detail) })
}

/// The log ends before `checkpoint`.
pub(crate) fn missing(replay: &Replay, damage: Option<Fault>, checkpoint: &Checkpoint) -> Fault {
    damage.unwrap_or_else(|| {
        let (found, size) = (replay.tree.size(), checkpoint.size);
        replay.fault(
            FaultKind::RolledBack,
            format!("the log ends here, but had {size} records; it has {found}"),
        )
    })
}

pub(crate) fn unacceptable(path: &Path, error: &NoteError) -> Fault {
    checkpoint_fault(path, error.to_string())
}

pub(crate) fn checkpoint_fault(path: &Path, detail: String) -> Fault {
    Fault { kind: FaultKind::Checkpoint, index: 0, file: path.to_owned(), offset: 0, detail }
}
