//! Moves finished parts of recordings into their store (`recordings/ab/abcdef….body`): compressed, encrypted if there is a key,
//! named by the digest that the log has of them.
//!
//! **Invariants.** A part's file goes when the part is durable in the store and the record that names it is durable in the log:
//! a crash leaves the one, the other or both. One thread does it, so that no stream waits for it and little of the machine is
//! taken from them. What is left when the process ends, the next one finishes.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use portcullis_core::{AuditId, Timestamp};
use portcullis_ledger::{ReadError, Writer, private_dir};

use crate::audit::arrived;
use crate::reader::AuditReader;
use crate::record::{Record, RecordingPart, StreamProgress};
use crate::retention::Notes;

/// How often it is looked whether a record is durable.
const PAUSE: Duration = Duration::from_millis(50);
/// How many files of an earlier process are looked after at once; the rest at the next start.
const MOST_LEFTOVERS: usize = 100_000;

enum Job {
    /// These parts, once the record with this index is durable.
    Keep(u64, Vec<RecordingPart>),
    Stop,
}

/// The thread, and the way to it.
pub(crate) struct Keeper {
    jobs: mpsc::Sender<Job>,
    stopping: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
    notes: Notes,
}

/// Hands parts over, from wherever a record is known to be written.
#[derive(Clone)]
pub(crate) struct KeepParts(mpsc::Sender<Job>);

impl KeepParts {
    /// Never blocks. What waits is as much as there are files.
    pub(crate) fn keep(&self, index: u64, parts: Vec<RecordingPart>) {
        // Without the thread the next process does it.
        let _ = self.0.send(Job::Keep(index, parts));
    }
}

impl Keeper {
    /// Begins with what an earlier process left in the log's directory: those of its files that a record names.
    pub(crate) fn start(reader: AuditReader, writer: Writer) -> io::Result<Self> {
        let notes = prepare(&reader)?;
        reader.recordings().sweep()?;
        // Listed now, since later there are files of this process among them.
        let left = leftovers(&reader)?;
        let (jobs, todo) = mpsc::channel();
        let stopping = Arc::new(AtomicBool::new(false));
        let work = Work { reader, writer, stopping: stopping.clone() };
        let thread = std::thread::Builder::new().name("recordings".into()).spawn(move || {
            if let Err(error) = work.finish(left) {
                tracing::warn!(%error, "recordings that an earlier process left could not be looked after");
            }
            while let Ok(Job::Keep(index, parts)) = todo.recv() {
                work.keep(index, &parts);
            }
        })?;
        Ok(Self { jobs, stopping, thread: Mutex::new(Some(thread)), notes })
    }

    pub(crate) fn hand_over(&self) -> KeepParts {
        KeepParts(self.jobs.clone())
    }

    /// The notes of what was dropped by hand.
    pub(crate) fn notes(&self) -> Notes {
        self.notes.clone()
    }

    /// Ends the thread after the part it is at. Blocks.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let _ = self.jobs.send(Job::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// Makes the directories that lie beside the log, while that is done by the user who writes it, and keeps all others out of them.
fn prepare(reader: &AuditReader) -> io::Result<Notes> {
    let (recordings, notes) = (reader.dir().join("recordings"), Notes::new(reader.dir()));
    private_dir(&recordings)?;
    // No request needs it; `audit prune` says why it cannot be made.
    if let Err(error) = private_dir(notes.dir()) {
        tracing::warn!(%error, dir = %notes.dir().display(), "the directory for what is pruned by hand cannot be made");
    }
    for dir in [&recordings, notes.dir()] {
        if let Err(error) = keep_others_out(dir) {
            // The files in it are their owner's alone in any case.
            tracing::warn!(%error, dir = %dir.display(), "others can list this directory, and that cannot be changed");
        }
    }
    Ok(notes)
}

/// An earlier version made such directories as the umask had it.
#[cfg(unix)]
fn keep_others_out(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::metadata(dir)?.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(mode & !0o077))
}

#[cfg(not(unix))]
fn keep_others_out(_: &Path) -> io::Result<()> {
    Ok(())
}

struct Work {
    reader: AuditReader,
    writer: Writer,
    stopping: Arc<AtomicBool>,
}

impl Work {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn keep(&self, index: u64, parts: &[RecordingPart]) {
        while self.writer.health().durable <= index {
            if self.is_stopping() || self.writer.health().closed {
                return;
            }
            // Until then, or until `stop` says so.
            std::thread::park_timeout(PAUSE);
        }
        parts.iter().take_while(|_| !self.is_stopping()).for_each(|part| self.keep_part(part));
    }

    fn keep_part(&self, part: &RecordingPart) {
        let (file, store) = (self.reader.recording(&part.file), self.reader.recordings());
        let kept = match store.adopt(&file, part.sha256) {
            // It is there already: retention counts from its newest record on.
            Err(error) if error.kind() == ErrorKind::NotFound => store.refresh(part.sha256).map(drop),
            kept => kept,
        };
        if let Err(error) = kept {
            tracing::warn!(%error, file = part.file, "a part of a recording stays where it was written");
        }
    }

    /// Keeps those of these files that a record names, and says which none does.
    fn finish(&self, mut left: BTreeMap<AuditId, HashSet<String>>) -> Result<(), ReadError> {
        if left.is_empty() {
            return Ok(());
        }
        let mut starts = Vec::new();
        for first in self.reader.segments()? {
            let record = self.reader.records(first)?.next().transpose()?;
            starts.push((first, record.map_or(Timestamp::MAX, |stored| stored.entry.time)));
        }
        for (nth, (first, _)) in starts.iter().enumerate() {
            let (end, until) = starts.get(nth + 1).copied().unwrap_or((u64::MAX, Timestamp::MAX));
            // Nothing of a request stands before it arrived, and the rest follows soon: most segments need not be read.
            if !left.keys().any(|id| arrived(*id).is_none_or(|arrived| arrived <= until)) {
                continue;
            }
            for stored in self.reader.records(*first)? {
                let stored = stored?;
                if stored.index >= end || left.is_empty() || self.is_stopping() {
                    break;
                }
                self.finish_named(&stored.entry.record, &mut left);
            }
        }
        if !self.is_stopping() {
            left.values().flatten().for_each(|file| unnamed(file));
        }
        Ok(())
    }

    fn finish_named(&self, record: &Record, left: &mut BTreeMap<AuditId, HashSet<String>>) {
        let (id, parts, over) = match record {
            Record::Outcome(outcome) => {
                let recording = outcome.stream.as_ref().and_then(|stream| stream.recording.as_ref());
                (Some(outcome.id), recording.map(|it| it.files().collect()).unwrap_or_default(), true)
            }
            Record::Event(event) => {
                (event.audit_id, StreamProgress::of(event).map(|told| told.parts).unwrap_or_default(), false)
            }
            _ => return,
        };
        let Some((id, files)) = id.and_then(|id| Some((id, left.get_mut(&id)?))) else { return };
        for part in parts.into_iter().filter(|part| files.remove(&part.file)) {
            self.keep_part(&part);
        }
        if over && let Some(files) = left.remove(&id) {
            files.iter().for_each(|file| unnamed(file));
        }
    }
}

fn unnamed(file: &str) {
    tracing::warn!(file, "no record names this part of a recording, which a crash left: it stays");
}

/// The files in which an earlier process was writing, by their requests.
fn leftovers(reader: &AuditReader) -> io::Result<BTreeMap<AuditId, HashSet<String>>> {
    let mut left = BTreeMap::<AuditId, HashSet<String>>::new();
    for file in fs::read_dir(reader.dir().join("recordings"))?.take(MOST_LEFTOVERS) {
        let name = file?.file_name().to_string_lossy().into_owned();
        let id = name.split('.').next().and_then(|id| id.parse().ok());
        if let Some(id) = id.filter(|_| name.ends_with(".cast")) {
            left.entry(id).or_default().insert(name);
        }
    }
    Ok(left)
}
