//! How long bodies and recordings are kept (NIST SP 800-53 AU-11), and how much disk everything takes (AU-4).
//!
//! The age of a body is that of its file, which is set anew each time the body is stored again and, of a recording, each time a
//! record names it: so a body that several records share lives as long as the youngest needs it, and no list of who names what
//! has to be kept. A body is on the disk a little before the record that names it, and a clock may be set: hence the [`MARGIN`].

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use portcullis_core::{Event, EventKind, EventSink as _, RecordError, Timestamp};
use portcullis_ledger::{Bodies, StoredBody};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::audit::Audit;
use crate::metrics;
use crate::reader::AuditReader;

/// How much longer than asked for everything is kept.
const MARGIN: Duration = Duration::from_secs(24 * 3600);

/// Where is noted down what was dropped by hand, in the log's directory.
const NOTES: &str = "pruned";
/// The most that is read of a note, in bytes.
const MOST_NOTE: u64 = 4096;

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
    /// and goes on record by whoever does, or will ([`Audit::record_pruned`]). Blocks.
    ///
    /// # Errors
    /// When the note cannot be written, then nothing is dropped; or when something cannot be read or removed.
    pub fn apply_by_hand(&self, reader: &AuditReader, now: Timestamp) -> io::Result<Dropped> {
        let due = self.due(reader, now)?;
        if due.is_nothing() {
            return Ok(due);
        }
        let dir = reader.dir().join(NOTES);
        fs::create_dir_all(&dir)?;
        let (name, unfinished) = (Uuid::now_v7().to_string(), dir.join("unfinished"));
        let mut file = File::create(&unfinished)?;
        file.write_all(&serde_json::to_vec(&due)?)?;
        file.sync_all()?;
        fs::rename(&unfinished, dir.join(name + ".json"))?;
        self.apply(reader, now)
    }

    fn pass(&self, reader: &AuditReader, now: Timestamp, apply: bool) -> io::Result<Dropped> {
        let mut dropped = Dropped::default();
        let now = SystemTime::from(now);
        if let Some(before) = self.bodies.and_then(|age| now.checked_sub(age + MARGIN)) {
            (dropped.bodies, dropped.body_bytes) = older(&reader.bodies(), before, apply)?;
        }
        if let Some(before) = self.recordings.and_then(|age| now.checked_sub(age + MARGIN)) {
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

    /// Puts on record what was dropped by hand ([`Retention::apply_by_hand`]); how many times that was.
    ///
    /// # Errors
    /// When a note cannot be read or removed, or the log does not take the event: then it is tried again the next time.
    pub async fn record_pruned(&self) -> Result<u64, RecordError> {
        let dir = self.dir().join(NOTES);
        let notes = blocking(move || {
            let paths = files(&dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
            let whole = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
            paths
                .into_iter()
                .filter(whole)
                .map(|path| Ok((read_note(&path)?, path)))
                .collect::<io::Result<Vec<_>>>()
        });
        let mut count = 0;
        for (dropped, path) in notes.await? {
            self.record(dropped.event().with("byHand", true)).await?;
            blocking(move || fs::remove_file(path)).await?;
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

fn read_note(path: &Path) -> io::Result<Dropped> {
    let mut text = Vec::new();
    File::open(path)?.take(MOST_NOTE).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, RecordError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::other).and_then(|done| done);
    done.map_err(|error| RecordError(error.to_string()))
}
