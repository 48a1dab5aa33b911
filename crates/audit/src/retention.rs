//! How long bodies and recordings are kept (NIST SP 800-53 AU-11), and how much disk everything takes (AU-4).
//!
//! The age of a body is that of its file, which is set anew each time the body is stored again and, of a recording, each time a
//! record names it: so a body that several records share lives as long as the youngest needs it, and no list of who names what
//! has to be kept. A body is on the disk a little before the record that names it, and a clock may be set: hence the [`MARGIN`].

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use portcullis_core::{Event, EventKind, EventSink as _, RecordError, Timestamp};
use portcullis_ledger::{Bodies, StoredBody, private_dir};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::audit::Audit;
use crate::metrics;
use crate::reader::AuditReader;

/// How much longer than asked for everything is kept.
const MARGIN: Duration = Duration::from_secs(24 * 3600);

/// Where is noted down what was dropped by hand, in the log's directory.
const NOTES: &str = "pruned";
/// The suffix of a note that is whole.
const WHOLE: &str = "json";
/// The suffix of a note that is being put on record.
const RECORDING: &str = "recording";
/// The most that is read of a note, in bytes.
const MOST_NOTE: u64 = 4096;
/// The most notes that are looked at in one go.
const MOST_NOTES: usize = 10_000;

/// How long what records name is kept. The records themselves stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Bodies of requests and responses; `None` keeps them for ever.
    pub bodies: Option<Duration>,
    /// Recordings of sessions; `None` keeps them for ever.
    pub recordings: Option<Duration>,
}

/// What retention drops, or would.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dropped {
    /// How many bodies.
    pub bodies: u64,
    /// How much disk they took, in bytes.
    pub body_bytes: u64,
    /// How many parts of recordings.
    pub recordings: u64,
    /// How much disk they took, in bytes.
    pub recording_bytes: u64,
}

impl Dropped {
    /// Whether it is nothing.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.bodies == 0 && self.recordings == 0
    }

    /// What the log is told of it.
    #[must_use]
    pub fn event(&self) -> Event {
        Event::new(EventKind::RetentionApplied)
            .with("bodies", self.bodies)
            .with("bodyBytes", self.body_bytes)
            .with("recordings", self.recordings)
            .with("recordingBytes", self.recording_bytes)
    }
}

impl Retention {
    /// Whether everything is kept for ever.
    #[must_use]
    pub const fn is_for_ever(&self) -> bool {
        self.bodies.is_none() && self.recordings.is_none()
    }

    /// What is too old by now. Blocks: looks at every file.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn due(&self, reader: &AuditReader, now: Timestamp) -> io::Result<Dropped> {
        self.pass(reader, now, false)
    }

    /// Drops what is too old by now, also while the log is in use; tell the log **before** that ([`Dropped::event`]). Blocks.
    ///
    /// # Errors
    /// When a directory cannot be read, or a file not be removed.
    pub fn apply(&self, reader: &AuditReader, now: Timestamp) -> io::Result<Dropped> {
        self.pass(reader, now, true)
    }

    /// As [`apply`](Self::apply), by somebody who does not hold the log open. What is dropped is noted down first, in `pruned/`,
    /// and goes on record by whoever does, or will ([`Audit::record_pruned`]): where root drops it, the note is theirs. Blocks.
    ///
    /// # Errors
    /// When the note cannot be written, flushed or handed over, then nothing is dropped; or when something cannot be read or
    /// removed.
    pub fn apply_by_hand(&self, reader: &AuditReader, now: Timestamp) -> io::Result<Dropped> {
        let due = self.due(reader, now)?;
        if due.is_nothing() {
            return Ok(due);
        }
        note_down(reader.dir(), &due)?;
        self.apply(reader, now)
    }

    fn pass(&self, reader: &AuditReader, now: Timestamp, apply: bool) -> io::Result<Dropped> {
        let mut dropped = Dropped::default();
        let now = SystemTime::from(now);
        if let Some(before) = self.bodies.and_then(|age| now.checked_sub(age.saturating_add(MARGIN))) {
            (dropped.bodies, dropped.body_bytes) = older(&reader.bodies(), before, apply)?;
        }
        if let Some(before) = self.recordings.and_then(|age| now.checked_sub(age.saturating_add(MARGIN))) {
            let stored = older(&reader.recordings(), before, apply)?;
            let left = left_over(&reader.dir().join("recordings"), before, apply)?;
            (dropped.recordings, dropped.recording_bytes) = (stored.0 + left.0, stored.1 + left.1);
        }
        Ok(dropped)
    }
}

fn older(bodies: &Bodies, before: SystemTime, apply: bool) -> io::Result<(u64, u64)> {
    if apply {
        return bodies.retain(|body| body.modified >= before);
    }
    let mut due = (0, 0);
    bodies.retain(|body: &StoredBody| {
        if body.modified < before {
            due = (due.0 + 1, due.1 + body.bytes);
        }
        true
    })?;
    Ok(due)
}

/// The files that a crash left. One that is locked belongs to a session that goes on, however long it has been silent.
fn left_over(dir: &Path, before: SystemTime, apply: bool) -> io::Result<(u64, u64)> {
    let mut due = (0, 0);
    for entry in files(dir)? {
        let entry = entry?;
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "cast") {
            continue;
        }
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.modified()? >= before || File::open(&path).is_ok_and(|file| file.try_lock().is_err()) {
            continue;
        }
        if apply {
            match fs::remove_file(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                removed => removed?,
            }
        }
        due = (due.0 + 1, due.1 + metadata.len());
    }
    Ok(due)
}

/// How much disk what lies in a log's directory takes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// Segments and tiles.
    pub log: u64,
    /// Bodies of requests and responses.
    pub bodies: u64,
    /// Recordings.
    pub recordings: u64,
    /// The search index.
    pub index: u64,
}

impl DiskUse {
    /// Adds up the files' sizes. Blocks: looks at every file, but opens none.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn of(reader: &AuditReader) -> io::Result<Self> {
        let size = |name: &str| bytes(&reader.dir().join(name));
        Ok(Self {
            log: size("segments")? + size("tile")?,
            bodies: size("bodies")?,
            recordings: size("recordings")?,
            index: size("index")?,
        })
    }
}

/// What the files in `dir` and below have together. What goes meanwhile does not count.
fn bytes(dir: &Path) -> io::Result<u64> {
    let (mut sum, mut dirs) = (0, vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in files(&dir)? {
            let entry = entry?;
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => dirs.push(entry.path()),
                Ok(metadata) => sum += metadata.len(),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(sum)
}

fn files(dir: &Path) -> io::Result<impl Iterator<Item = io::Result<fs::DirEntry>> + use<>> {
    match fs::read_dir(dir) {
        Ok(entries) => Ok(Some(entries).into_iter().flatten()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None.into_iter().flatten()),
        Err(error) => Err(error),
    }
}

impl Audit {
    /// Drops what is older than that, after saying so in the log: nothing is dropped that is not on record.
    ///
    /// # Errors
    /// When the log does not take the event, then nothing is dropped; or when something cannot be read or removed.
    pub async fn apply_retention(&self, retention: Retention) -> Result<Dropped, RecordError> {
        let (reader, now) = (self.reader(), self.now());
        let due = blocking({
            let reader = reader.clone();
            move || retention.due(&reader, now)
        });
        let due = due.await?;
        if due.is_nothing() {
            return Ok(due);
        }
        self.record(due.event()).await?;
        let dropped = blocking(move || retention.apply(&reader, now)).await?;
        metrics::dropped(&dropped);
        Ok(dropped)
    }

    /// Puts on record what was dropped by hand ([`Retention::apply_by_hand`]); how many times that was. For one caller at a time.
    ///
    /// A note that cannot be read, or not be renamed and so not be removed, is not recorded and stays: it keeps no other from
    /// being recorded, and the operator's log tells of it once.
    ///
    /// # Errors
    /// When the notes cannot be listed, or the log does not take the event: then it is tried again the next time.
    pub async fn record_pruned(&self) -> Result<u64, RecordError> {
        let notes = self.inner.keeper.notes();
        let list = blocking({
            let notes = notes.clone();
            move || notes.list()
        });
        let mut count = 0;
        for note in list.await? {
            let take = blocking({
                let notes = notes.clone();
                move || Ok(notes.take(&note))
            });
            let Some((taken, dropped)) = take.await? else { continue };
            self.record(dropped.event().with("byHand", true)).await?;
            blocking({
                let notes = notes.clone();
                move || {
                    notes.remove(taken);
                    Ok(())
                }
            })
            .await?;
            count += 1;
        }
        Ok(count)
    }

    /// Measures how much disk the log's directory takes, and counts it: `portcullis_audit_disk_bytes`.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub async fn measure_disk(&self) -> Result<DiskUse, RecordError> {
        let reader = self.reader();
        let used = blocking(move || DiskUse::of(&reader)).await?;
        metrics::disk(&used);
        Ok(used)
    }
}

/// The notes of what was dropped by hand, as who holds the log open sees them.
///
/// Memory is bounded: of at most [`MOST_NOTES`] it is remembered that there is something wrong with them.
#[derive(Clone)]
pub(crate) struct Notes {
    dir: PathBuf,
    /// Of those that are there.
    troubles: Arc<Mutex<BTreeMap<PathBuf, Trouble>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// It cannot be read, or not be taken.
    Left,
    /// It is on record, but cannot be removed: it must not go on record again.
    Recorded,
}

impl Notes {
    pub(crate) fn new(log: &Path) -> Self {
        Self { dir: log.join(NOTES), troubles: Arc::default() }
    }

    /// Where they lie.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The notes that are there, the oldest first: their names are UUIDs of version 7.
    pub(crate) fn list(&self) -> io::Result<Vec<PathBuf>> {
        let mut notes = Vec::new();
        for entry in files(&self.dir)? {
            let entry = entry?;
            let path = entry.path();
            let named = path.extension().is_some_and(|suffix| suffix == WHOLE || suffix == RECORDING);
            if named && entry.file_type()?.is_file() {
                notes.push(path);
            }
            if notes.len() == MOST_NOTES {
                break;
            }
        }
        notes.sort_unstable();
        self.troubles().retain(|note, _| notes.binary_search(note).is_ok());
        Ok(notes)
    }

    /// Reads a note, and gives it the name under which it is put on record. Whoever cannot do that cannot remove it afterwards
    /// either, and would put it on record again and again: then it is not recorded at all.
    pub(crate) fn take(&self, note: &Path) -> Option<(PathBuf, Dropped)> {
        if self.troubles().get(note) == Some(&Trouble::Recorded) {
            self.remove(note.to_owned());
            return None;
        }
        let taken = note.with_extension(RECORDING);
        match read_note(note).and_then(|dropped| fs::rename(note, &taken).map(|()| dropped)) {
            Ok(dropped) => Some((taken, dropped)),
            Err(error) => {
                if self.is_new(note.to_owned(), Trouble::Left) {
                    let note = note.display();
                    tracing::warn!(%error, %note, "what was pruned by hand is not put on record, since its note cannot be used");
                }
                None
            }
        }
    }

    /// Removes a note that is on record.
    pub(crate) fn remove(&self, taken: PathBuf) {
        match fs::remove_file(&taken) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                let note = taken.display().to_string();
                if self.is_new(taken, Trouble::Recorded) {
                    tracing::warn!(%error, note, "the note of what was pruned by hand is on record, but cannot be removed");
                }
            }
            _ => {}
        }
    }

    /// Whether it is the first time that this is wrong with this note.
    fn is_new(&self, note: PathBuf, trouble: Trouble) -> bool {
        self.troubles().insert(note, trouble) != Some(trouble)
    }

    fn troubles(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Trouble>> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_note(path: &Path) -> io::Result<Dropped> {
    let mut text = Vec::new();
    File::open(path)?.take(MOST_NOTE).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Leaves a note for whoever holds the log in `log` open, or will. It is on the disk when this returns.
pub(crate) fn note_down(log: &Path, dropped: &Dropped) -> io::Result<()> {
    let dir = log.join(NOTES);
    private_dir(&dir)?;
    give_dir(&dir, log)?;
    // Others may do the same at this moment.
    let note = dir.join(Uuid::now_v7().to_string());
    let unfinished = note.with_extension("unfinished");
    let written = write_note(&unfinished, &dir, dropped);
    if let Err(error) = written.and_then(|()| fs::rename(&unfinished, note.with_extension(WHOLE))) {
        let _ = fs::remove_file(&unfinished);
        return Err(error);
    }
    sync_dir(&dir)?;
    sync_dir(log)
}

fn write_note(path: &Path, dir: &Path, dropped: &Dropped) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(&serde_json::to_vec(dropped)?)?;
    give(&file, dir)?;
    file.sync_all()
}

/// Gives what root has made to the owner of the directory that it lies in.
#[cfg(unix)]
fn give(made: &File, dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, fchown};
    let owner = fs::metadata(dir)?;
    if made.metadata()?.uid() == owner.uid() {
        return Ok(());
    }
    fchown(made, Some(owner.uid()), Some(owner.gid()))
}

/// As [`give`], for a directory. Not for what a link leads to, which whoever owns the log could have put there: root must not be
/// made to give away anything else.
#[cfg(unix)]
fn give_dir(path: &Path, log: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let (made, named) = (File::open(path)?, fs::symlink_metadata(path)?);
    let found = made.metadata()?;
    if !named.is_dir() || (named.dev(), named.ino()) != (found.dev(), found.ino()) {
        let what = format!("{} is not a directory itself, but leads to one", path.display());
        return Err(io::Error::new(ErrorKind::NotADirectory, what));
    }
    give(&made, log)
}

#[cfg(not(unix))]
fn give(_: &File, _: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(not(unix))]
fn give_dir(_: &Path, _: &Path) -> io::Result<()> {
    Ok(())
}

/// Makes the names in a directory durable.
fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, RecordError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::other).and_then(|done| done);
    done.map_err(|error| RecordError(error.to_string()))
}
