//! Proving the evidence: the log against its checkpoints, and what it names against what is stored.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use portcullis_core::AuditId;
use portcullis_ledger::{BodyKeys, Hash, NoteError, ReadError, Verified, Verifier, VerifyingKey, WitnessKey};

use crate::reader::{AuditReader, Kept};
use crate::record::{Entry, Record, RecordingPart, StreamProgress};

/// Verifies a log with everything it names. Blocks; the log may be in use.
#[derive(Debug)]
pub struct AuditVerifier {
    reader: AuditReader,
    verifier: Verifier,
}

/// What was found in a log that is what it was.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The log itself.
    pub log: Verified,
    /// How many intents it has.
    pub intents: u64,
    /// How many outcomes.
    pub outcomes: u64,
    /// Requests that have an intent but no outcome: under way, or of a process that died and was not started again.
    pub open: Vec<AuditId>,
    /// How many stored bodies and recordings are what their records say.
    pub stored: u64,
    /// How many are not there any more: retention drops bodies, the log stays.
    pub missing: u64,
    /// Those that are not what their records say.
    pub changed: Vec<Changed>,
    /// How many could not be read, so that nothing is known of them: their key is not there, or this user may not.
    pub unreadable: u64,
    /// Why the first of those could not be.
    pub unreadable_why: Option<String>,
}

/// A stored body or recording that is not what its record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The record's index.
    pub index: u64,
    /// The file.
    pub file: PathBuf,
}

impl Report {
    /// Whether everything that is there is what it was, as far as it could be read.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.changed.is_empty()
    }

    /// Whether everything that is there could be read.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.unreadable == 0
    }
}

impl AuditVerifier {
    /// Verifies the log in `dir` with the public key that lies there.
    ///
    /// # Errors
    /// When there is no such key.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, ReadError> {
        let dir = dir.into();
        Ok(Self { reader: AuditReader::new(&dir), verifier: Verifier::open(&dir)? })
    }

    /// Verifies the log in `dir` with a public key kept elsewhere.
    #[must_use]
    pub fn with_key(dir: impl Into<PathBuf>, key: VerifyingKey) -> Self {
        let dir = dir.into();
        Self { reader: AuditReader::new(&dir), verifier: Verifier::with_key(&dir, key) }
    }

    /// Reads encrypted bodies and recordings with these keys. Without theirs they are [`Report::unreadable`].
    #[must_use]
    pub fn body_keys(mut self, keys: BodyKeys) -> Self {
        self.reader = self.reader.body_keys(keys);
        self
    }

    /// Also demands that this witness have cosigned a checkpoint of the log.
    #[must_use]
    pub fn witness(mut self, key: WitnessKey) -> Self {
        self.verifier = self.verifier.witness(key);
        self
    }

    /// Also demands that the log contain what this checkpoint, kept elsewhere, signed.
    ///
    /// # Errors
    /// When it is not signed by the log's key.
    pub fn knowing(mut self, checkpoint: &str) -> Result<Self, NoteError> {
        self.verifier = self.verifier.knowing(checkpoint)?;
        Ok(self)
    }

    /// Verifies everything.
    ///
    /// # Errors
    /// The first record that is not what it was, or that a file cannot be read.
    pub fn run(self) -> Result<Report, ReadError> {
        let mut seen = Seen::new(self.reader);
        let log = self.verifier.run_with(|entry| seen.record(entry.index, entry.record))?;
        seen.unfinished();
        let mut open: Vec<AuditId> = seen.open.into_iter().collect();
        open.sort_unstable();
        let Seen { intents, outcomes, stored, missing, changed, unreadable, unreadable_why, .. } = seen;
        Ok(Report { log, intents, outcomes, open, stored, missing, changed, unreadable, unreadable_why })
    }
}

struct Seen {
    reader: AuditReader,
    intents: u64,
    outcomes: u64,
    open: HashSet<AuditId>,
    /// The finished parts of the recordings of streams that have no outcome yet, and the record that names them.
    progress: HashMap<AuditId, (u64, Vec<RecordingPart>)>,
    /// Bodies that many records name are read once.
    checked: HashSet<Hash>,
    stored: u64,
    missing: u64,
    changed: Vec<Changed>,
    unreadable: u64,
    unreadable_why: Option<String>,
}

impl Seen {
    fn new(reader: AuditReader) -> Self {
        Self {
            reader,
            intents: 0,
            outcomes: 0,
            open: HashSet::new(),
            progress: HashMap::new(),
            checked: HashSet::new(),
            stored: 0,
            missing: 0,
            changed: Vec::new(),
            unreadable: 0,
            unreadable_why: None,
        }
    }

    fn record(&mut self, index: u64, bytes: &[u8]) {
        match serde_json::from_slice::<Entry>(bytes).map(|entry| entry.record) {
            Ok(Record::Intent(intent)) => {
                self.intents += 1;
                self.open.insert(intent.id);
                self.body(index, intent.body.and_then(|body| body.stored));
            }
            Ok(Record::Outcome(outcome)) => {
                self.outcomes += 1;
                self.open.remove(&outcome.id);
                self.body(index, outcome.response.and_then(|response| response.stored));
                let mut promised = self.progress.remove(&outcome.id);
                for part in outcome.stream.and_then(|stream| stream.recording).iter().flat_map(|r| r.files())
                {
                    if let Some((_, parts)) = &mut promised {
                        parts.retain(|earlier| *earlier != part);
                    }
                    self.part(index, &part);
                }
                // Of a stream that a crash ended, the outcome knows nothing; the parts finished before are proven all the same.
                if let Some((index, parts)) = promised {
                    self.parts(index, &parts);
                }
            }
            Ok(Record::Event(event)) => {
                if let Some((id, progress)) = event.audit_id.zip(StreamProgress::of(&event)) {
                    self.progress.insert(id, (index, progress.parts));
                }
            }
            _ => {}
        }
    }

    /// The streams that are open at the log's end.
    fn unfinished(&mut self) {
        for (index, parts) in std::mem::take(&mut self.progress).into_values() {
            self.parts(index, &parts);
        }
    }

    fn parts(&mut self, index: u64, parts: &[RecordingPart]) {
        for part in parts {
            self.part(index, part);
        }
    }

    fn body(&mut self, index: u64, digest: Option<Hash>) {
        if let Some(digest) = digest.filter(|digest| self.checked.insert(*digest)) {
            let kept = self.reader.check_body(digest);
            self.found(index, kept, |reader| reader.bodies().path(digest));
        }
    }

    fn part(&mut self, index: u64, part: &RecordingPart) {
        let kept = self.reader.check_recording(part);
        self.found(index, kept, |reader| reader.recording_path(part));
    }

    fn found(&mut self, index: u64, kept: Kept, file: impl FnOnce(&AuditReader) -> PathBuf) {
        match kept {
            Kept::Intact => self.stored += 1,
            Kept::Missing => self.missing += 1,
            Kept::Changed => self.changed.push(Changed { index, file: file(&self.reader) }),
            Kept::Locked(why) => {
                self.unreadable += 1;
                self.unreadable_why.get_or_insert(why);
            }
        }
    }
}
