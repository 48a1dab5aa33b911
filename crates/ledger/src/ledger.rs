//! Opening a ledger: its files, its key, and what a crash left behind.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::bodies::Bodies;
use crate::files::{private, private_dir, replace, sync_dir};
use crate::keys::{self, Keys};
use crate::log::Log;
use crate::publish::{Publisher, TileWriter};
use crate::replay::{Fault, FaultKind, Next, ReadError, Replay};
use crate::rotation::KeyChain;
use crate::segment;
use crate::sync::Syncer;
use crate::tiles;
use crate::verify::{compare, missing, read_checkpoint, read_note, unacceptable};
use crate::write::WriterThread;
use crate::writer::{Shared, Writer};
use crate::{BodyKeys, Checkpoint, Frontier, Hash, NoteError, Reader, Rotation, SigningKey, VerifyingKey};

pub(crate) const PUBLIC_KEY: &str = "key.pub";
pub(crate) const CHECKPOINT: &str = "checkpoint";
pub(crate) const COSIGNED: &str = "checkpoint.cosigned";

/// An open ledger: the only writer of its directory. Dropping it writes everything out and signs a last checkpoint.
pub struct Ledger {
    shared: Arc<Shared>,
    reader: Reader,
    key: VerifyingKey,
    threads: Vec<JoinHandle<()>>,
    _lock: File,
}

/// How a ledger is to be kept.
pub struct Options {
    pub(crate) origin: String,
    pub(crate) segment_size: u64,
    pub(crate) capacity: usize,
    pub(crate) checkpoint_interval: Duration,
    pub(crate) retry_interval: Duration,
    pub(crate) entry_bundles: bool,
    pub(crate) body_keys: BodyKeys,
    pub(crate) recovery_record: RecoveryRecord,
    pub(crate) rotation_record: RotationRecord,
    pub(crate) on_checkpoint: Option<OnCheckpoint>,
    pub(crate) on_failure: Option<OnFailure>,
    #[cfg(test)]
    pub(crate) faults: Arc<crate::log::Faults>,
}

/// Makes the record that tells of a recovery.
pub(crate) type RecoveryRecord = Box<dyn Fn(&Recovery) -> Vec<u8> + Send>;
/// Makes the record that tells of a new key.
pub(crate) type RotationRecord = Box<dyn Fn(&Rotation) -> Vec<u8> + Send>;
/// Hears when writing begins to fail, and when it works again.
pub(crate) type OnFailure = Box<dyn Fn(Option<&str>) + Send + Sync>;
/// Hears each new checkpoint.
pub(crate) type OnCheckpoint = Box<dyn FnMut(&str) + Send>;

impl Options {
    /// The defaults for a log named `origin`: by convention a schema-less URL, such as `gateway.example.com/audit`.
    #[must_use]
    pub fn new(origin: impl Into<String>) -> Self {
        Self {
            origin: origin.into(),
            segment_size: 64 * 1024 * 1024,
            capacity: 65_536,
            checkpoint_interval: Duration::from_secs(1),
            retry_interval: Duration::from_millis(250),
            entry_bundles: true,
            body_keys: BodyKeys::default(),
            recovery_record: Box::new(Recovery::to_record),
            rotation_record: Box::new(Rotation::to_record),
            on_checkpoint: None,
            on_failure: None,
            #[cfg(test)]
            faults: Arc::default(),
        }
    }

    /// After how many bytes a new segment is begun (64 MiB).
    #[must_use]
    pub const fn segment_size(mut self, bytes: u64) -> Self {
        self.segment_size = bytes;
        self
    }

    /// How many records may be reserved or waiting at once (65,536). Beyond that, appending is refused.
    #[must_use]
    pub const fn capacity(mut self, records: usize) -> Self {
        self.capacity = records;
        self
    }

    /// How old a record may get before a checkpoint covers it (one second).
    #[must_use]
    pub const fn checkpoint_interval(mut self, interval: Duration) -> Self {
        self.checkpoint_interval = interval;
        self
    }

    /// How often a ledger that cannot write tries whether it can again (250 ms).
    #[must_use]
    pub const fn retry_interval(mut self, interval: Duration) -> Self {
        self.retry_interval = interval;
        self
    }

    /// Whether entry bundles are stored beside the tiles (they are), so that the directory can be served as it is. They
    /// hold every record a second time; without them they can still be had, read from the segments ([`Reader::tile`]), and
    /// verifiers must be told ([`Verifier::without_entry_bundles`](crate::Verifier::without_entry_bundles)).
    #[must_use]
    pub const fn entry_bundles(mut self, stored: bool) -> Self {
        self.entry_bundles = stored;
        self
    }

    /// With which keys bodies are encrypted at rest: none, so they are only compressed.
    #[must_use]
    pub fn body_keys(mut self, keys: BodyKeys) -> Self {
        self.body_keys = keys;
        self
    }

    /// What the log says of a recovery: by default [`Recovery::to_record`]; embedders put it in their own schema.
    #[must_use]
    pub fn recovery_record(mut self, make: impl Fn(&Recovery) -> Vec<u8> + Send + 'static) -> Self {
        self.recovery_record = Box::new(make);
        self
    }

    /// What the log says of a new key: by default [`Rotation::to_record`]; embedders put it in their own schema.
    #[must_use]
    pub fn rotation_record(mut self, make: impl Fn(&Rotation) -> Vec<u8> + Send + 'static) -> Self {
        self.rotation_record = Box::new(make);
        self
    }

    /// Hears each signed checkpoint, so that it can leave the host: whoever has the host can write history anew, but not
    /// against a checkpoint that is kept elsewhere. Called on a thread of the ledger's own.
    #[must_use]
    pub fn on_checkpoint(mut self, hear: impl FnMut(&str) + Send + 'static) -> Self {
        self.on_checkpoint = Some(Box::new(hear));
        self
    }

    /// Hears why writing fails, each time that begins, and `None` when it works again: for whoever has to stop what runs.
    /// Called on the ledger's threads: it must not block.
    #[must_use]
    pub fn on_failure(mut self, hear: impl Fn(Option<&str>) + Send + Sync + 'static) -> Self {
        self.on_failure = Some(Box::new(hear));
        self
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// Something that went wrong with the storage and has been put right.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// How many records the log had afterwards: all that were ever acknowledged.
    pub size: u64,
    /// What had happened.
    pub cause: RecoveryCause,
}

/// What a ledger can recover from by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecoveryCause {
    /// The process or the machine stopped in the middle of a write. What it had begun is not part of the log; its bytes
    /// were moved to `kept`.
    TornTail {
        /// How many bytes.
        bytes: u64,
        /// Their SHA-256.
        sha256: Hash,
        /// Where they are now.
        kept: PathBuf,
    },
    /// Writing or flushing failed for a while (no space, a failing disk); everything was refused meanwhile.
    WriteFailure {
        /// The operating system's error.
        error: String,
    },
}

impl Recovery {
    /// The default record: a JSON object of type `ledger.recovered`.
    #[must_use]
    pub fn to_record(&self) -> Vec<u8> {
        let cause = match &self.cause {
            RecoveryCause::TornTail { bytes, sha256, .. } => {
                serde_json::json!({"kind": "torn-tail", "bytes": bytes, "sha256": sha256})
            }
            RecoveryCause::WriteFailure { error } => {
                serde_json::json!({"kind": "write-failure", "error": error})
            }
        };
        serde_json::json!({"v": 1, "type": "ledger.recovered", "size": self.size, "cause": cause})
            .to_string()
            .into_bytes()
    }
}

/// Why a ledger could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A file or directory could not be made, read or written.
    #[error("ledger: cannot use {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("ledger: {} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// The stored log is not what its checkpoint signed. Nothing was changed, neither of the log nor of its keys: look at it
    /// with a verifier, then decide.
    #[error("ledger: the stored log cannot be trusted, so nothing is appended to it")]
    Damaged(#[source] Fault),
    /// The private key is missing, unusable, or readable by others.
    #[error("ledger: key {}: {what}", path.display())]
    Key {
        /// Where it is expected.
        path: PathBuf,
        /// What is the matter.
        what: String,
    },
}

impl From<ReadError> for OpenError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Fault(fault) => Self::Damaged(fault),
            ReadError::Io { path, source } => Self::Io { path, source },
        }
    }
}

impl Ledger {
    /// Opens the ledger in `dir`, making it if there is none, and recovers from a crash: what stands after the last
    /// whole record is moved aside, and a record says so. Every record that was acknowledged is there.
    ///
    /// # Errors
    /// When it is in use, its files cannot be used, or it is not what its own checkpoint signed.
    pub fn open(dir: impl Into<PathBuf>, options: Options) -> Result<(Self, Option<Recovery>), OpenError> {
        let dir = dir.into();
        let segments = dir.join("segments");
        for dir in [&dir, &segments, &dir.join("bodies")] {
            private_dir(dir).map_err(cannot_use(dir))?;
        }
        let lock = lock(&dir.join("lock"))?;
        let reader = Reader::new(&dir).body_keys(options.body_keys.clone());
        let mut keys = Keys::find(&dir, &options.origin)?;
        if segment::list(&segments).map_err(cannot_use(&segments))?.is_empty() {
            is_new(&dir, &segments, keys.chain())?;
            keys.make_first(&options.origin)?;
            found(&dir, &segments, keys.signing()?.0)?;
        }
        let (checkpoint, _) = read_checkpoint(&dir, keys.signing()?.1)?;
        let (replay, damage) = find_end(&segments, &checkpoint, &options.origin)?;
        not_beyond(&dir, replay.tree.size())?;
        // All is as it should be: from here on files are changed.
        let (key, _) = keys.settle()?;
        reader.bodies().sweep().map_err(cannot_use(&dir))?;
        let (mut log, recovery) = resume(&segments, replay, damage, &options)?;
        if let Some(recovery) = &recovery {
            log.append_one(&(options.recovery_record)(recovery)).map_err(cannot_use(&segments))?;
        }

        let disk = log.disk();
        let shared = Arc::new(Shared::new(options.capacity, options.on_failure, log, checkpoint.size));
        let public = key.verifying_key().clone();
        let interval = options.checkpoint_interval;
        let tiles = TileWriter::new(dir.clone(), options.entry_bundles, disk.clone());
        shared.lock().unpublished = !tiles.has_all(checkpoint.size).map_err(cannot_use(&dir))?;
        let syncer = Syncer::new(shared.clone(), interval, disk);
        let publisher = Publisher::new(shared.clone(), dir.clone(), key, options.on_checkpoint, tiles);
        let writer = WriterThread::new(shared.clone(), options.retry_interval, options.recovery_record);
        let mut ledger = Self { shared, reader, key: public, threads: Vec::new(), _lock: lock };
        for (name, run) in [
            ("ledger-write", Box::new(move || writer.run()) as Box<dyn FnOnce() + Send>),
            ("ledger-sync", Box::new(move || syncer.run())),
            ("ledger-publish", Box::new(move || publisher.run())),
        ] {
            let thread =
                std::thread::Builder::new().name(name.into()).spawn(run).map_err(cannot_use(&dir))?;
            ledger.threads.push(thread);
        }
        Ok((ledger, recovery))
    }

    /// A handle for appending.
    #[must_use]
    pub fn writer(&self) -> Writer {
        Writer::new(self.shared.clone())
    }

    /// A handle for reading, also while it is being written.
    #[must_use]
    pub const fn reader(&self) -> &Reader {
        &self.reader
    }

    /// The bodies stored beside the log.
    #[must_use]
    pub fn bodies(&self) -> Bodies {
        self.reader.bodies()
    }

    /// The public key that checkpoints are signed with.
    #[must_use]
    pub const fn verifying_key(&self) -> &VerifyingKey {
        &self.key
    }

    /// Makes everything written so far durable, and signs and stores a checkpoint of it. Blocks.
    ///
    /// # Errors
    /// When that cannot be done now.
    pub fn checkpoint(&self) -> Result<Checkpoint, crate::AppendError> {
        self.shared.checkpoint()
    }

    /// Gives the ledger in `dir`, which nobody may have open, a new private key. The log gets a record that says so, and both
    /// keys sign a checkpoint that covers it, so that whoever knows the old key can follow. The old private key is deleted.
    ///
    /// A crash at any point leaves the one key or the other, and opening the ledger finishes what was begun.
    ///
    /// # Errors
    /// When the ledger cannot be opened, or something cannot be written.
    pub fn rotate_key(dir: impl Into<PathBuf>, options: Options) -> Result<Rotation, OpenError> {
        keys::rotate(&dir.into(), options)
    }

    /// Writes out what has been accepted, signs a last checkpoint and stops. Later appends are refused.
    pub fn close(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        self.shared.close();
        for thread in self.threads.drain(..) {
            // A thread that panicked has already made the ledger refuse everything.
            let _ = thread.join();
        }
        if let Some(pen) = &mut self.shared.lock().pen {
            pen.finish();
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger")
            .field("dir", &self.reader.dir())
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// That there have never been records where there are none now: nothing was signed, handed over or published of any.
fn is_new(dir: &Path, segments: &Path, chain: Option<&KeyChain>) -> Result<(), OpenError> {
    let mut had = chain.map_or(0, |chain| chain.handed_over().last().map_or(0, |last| last.size));
    for name in [CHECKPOINT, COSIGNED] {
        let path = dir.join(name);
        let Some(note) = read_note(&path)? else { continue };
        let signed = chain.map_or(Err(NoteError::Unsigned), |chain| chain.verify(&note));
        had = had.max(signed.map_err(|error| OpenError::Damaged(unacceptable(&path, &error)))?.size);
    }
    if had > 0 {
        let (file, detail) = (segments.to_owned(), format!("the log is gone, but had {had} records"));
        let kind = FaultKind::RolledBack;
        return Err(OpenError::Damaged(Fault { kind, index: 0, file, offset: 0, detail }));
    }
    not_beyond(dir, 0)
}

/// The first segment and the checkpoint of an empty log.
fn found(dir: &Path, segments: &Path, key: &SigningKey) -> Result<(), OpenError> {
    let (origin, path) = (key.verifying_key().name(), dir.join(CHECKPOINT));
    let root = Frontier::new().root();
    let note = Checkpoint { origin: origin.to_owned(), size: 0, root }.sign(key).map_err(key_error(&path))?;
    replace(&path, note.as_bytes()).map_err(cannot_use(&path))?;
    Log::create(segments, origin, &Frontier::new()).map_err(cannot_use(segments))?;
    Ok(())
}

/// Reads the log to its end, and checks it against the checkpoint. Answers what stands behind the last whole record, too.
fn find_end(
    segments: &Path,
    checkpoint: &Checkpoint,
    origin: &str,
) -> Result<(Replay, Option<Fault>), OpenError> {
    let list = segment::list(segments).map_err(cannot_use(segments))?;
    let start = list.iter().rev().find(|(first, _)| *first <= checkpoint.size);
    let Some((first, path)) = start else {
        let (file, detail) = (segments.to_owned(), "the first segment is gone".to_owned());
        return Err(OpenError::Damaged(Fault {
            kind: FaultKind::Removed,
            index: 0,
            file,
            offset: 0,
            detail,
        }));
    };
    let mut replay = Replay::open(segments, path, *first)?;
    if replay.segment.header.origin != origin {
        let detail = format!("it belongs to the log {}, not {origin}", replay.segment.header.origin);
        return Err(OpenError::Damaged(replay.fault(FaultKind::Edited, detail)));
    }
    let damage = loop {
        if replay.tree.size() == checkpoint.size {
            compare(&replay, checkpoint).map_err(OpenError::Damaged)?;
        }
        match replay.next()? {
            Next::Entry(_) => {}
            Next::Tail(damage) => break damage,
        }
    };
    if replay.tree.size() < checkpoint.size {
        return Err(OpenError::Damaged(missing(&replay, damage, checkpoint)));
    }
    Ok((replay, damage))
}

/// Makes the log ready to be appended to, where reading it has arrived.
fn resume(
    segments: &Path,
    replay: Replay,
    damage: Option<Fault>,
    options: &Options,
) -> Result<(Log, Option<Recovery>), OpenError> {
    let path = replay.segment.path.clone();
    let file = File::options().write(true).read(true).open(&path).map_err(cannot_use(&path))?;
    let mut torn = None;
    if damage.is_some() {
        torn = Some(set_aside(&path, replay.segment.offset)?);
    }
    // Zeros, too: nothing was ever there.
    if file.metadata().map_err(cannot_use(&path))?.len() > replay.segment.offset {
        file.set_len(replay.segment.offset).and_then(|()| file.sync_all()).map_err(cannot_use(&path))?;
    }
    sync_dir(segments).map_err(cannot_use(segments))?;
    let recovery = torn.map(|cause| Recovery { size: replay.tree.size(), cause });
    Ok((Log::new(segments, file, replay, options), recovery))
}

/// Tiles are written of what is on the disk only: where there are some of more records, the log has been put back.
fn not_beyond(dir: &Path, size: u64) -> Result<(), OpenError> {
    match tiles::claimed(dir).map_err(cannot_use(dir))? {
        Some(tile) if tile.end() > size => {
            let detail = format!("the log has {size} records, but once had more");
            Err(OpenError::Damaged(tiles::fault(dir, tile, FaultKind::RolledBack, &detail)))
        }
        _ => Ok(()),
    }
}

/// Copies what stands in `path` from `offset` on to a file beside it: recovery never destroys evidence.
fn set_aside(path: &Path, offset: u64) -> Result<RecoveryCause, OpenError> {
    let mut tail =
        fs::read(path).map_err(cannot_use(path))?.split_off(usize::try_from(offset).unwrap_or(usize::MAX));
    // Without the room behind it.
    tail.truncate(tail.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    let (bytes, sha256) = (tail.len() as u64, Hash::of(&tail));
    let kept = path.with_extension(format!("torn-{offset}-{}", &sha256.to_string()[..8]));
    replace(&kept, &tail).map_err(cannot_use(&kept))?;
    Ok(RecoveryCause::TornTail { bytes, sha256, kept })
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let file = private(File::options().create(true).truncate(false).write(true))
        .open(path)
        .map_err(cannot_use(path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(cannot_use(path)(error)),
    }
}

pub(crate) fn cannot_use(path: &Path) -> impl Fn(io::Error) -> OpenError {
    move |source| OpenError::Io { path: path.to_owned(), source }
}

pub(crate) fn key_error(path: &Path) -> impl Fn(NoteError) -> OpenError {
    move |error| OpenError::Key { path: path.to_owned(), what: error.to_string() }
}
