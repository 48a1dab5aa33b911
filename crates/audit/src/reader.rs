//! Reading the log: records in order, the newest, those that match, and as they come.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use portcullis_core::{Decision, Event, Timestamp, Verdict};
use portcullis_ledger::{Bodies, BodyKeys, BodyReader, Entries, Hash, LiveReader, ReadError, Reader};

use crate::record::{End, Entry, Intent, KeyRotated, Outcome, Record, RecordingPart, StreamProgress};

/// A record as it stands in the log.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its index.
    pub index: u64,
    /// Where it begins in its segment: what [`AuditReader::read`] finds it by again.
    pub offset: u64,
    /// What it says, as far as this version understands it.
    pub entry: Entry,
    /// Its bytes: JSON, with whatever fields a later version added.
    pub raw: Vec<u8>,
}

/// Reads a log, also while it is being written. Blocks.
#[derive(Clone, Debug)]
pub struct AuditReader {
    reader: Reader,
}

impl AuditReader {
    /// Reads the log in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { reader: Reader::new(dir) }
    }

    /// Reads encrypted bodies and recordings with these keys.
    #[must_use]
    pub fn body_keys(mut self, keys: BodyKeys) -> Self {
        self.reader = self.reader.body_keys(keys);
        self
    }

    /// The records from index `from` on. At the log's present end the iterator answers `None`; asked again later it goes
    /// on with what has come since.
    ///
    /// # Errors
    /// When there is no log, or it cannot be read.
    pub fn records(&self, from: u64) -> Result<Records, ReadError> {
        Ok(Records { entries: self.reader.entries(from)? })
    }

    /// The records from index `from` on, of which an earlier reading knows that it begins at `offset`
    /// ([`Records::offset`]).
    ///
    /// # Errors
    /// When there is no log, or it cannot be read.
    pub fn records_at(&self, from: u64, offset: u64) -> Result<Records, ReadError> {
        Ok(Records { entries: self.reader.entries_at(from, offset)? })
    }

    /// The index of each segment's first record, in order: for whoever reads from the end.
    ///
    /// # Errors
    /// When the log cannot be listed.
    pub fn segments(&self) -> Result<Vec<u64>, ReadError> {
        self.reader.segments()
    }

    /// The record `index`, which an earlier reading found at `offset`; `None` if something else stands there now.
    ///
    /// # Errors
    /// When there is no log, or it cannot be read.
    pub fn read(&self, index: u64, offset: u64) -> Result<Option<Stored>, ReadError> {
        Ok(self.reader.entry_at(index, offset)?.map(Stored::from))
    }

    /// The newest `count` records that match, oldest first, and the index after the last record read: where to follow on.
    ///
    /// # Errors
    /// When there is no log, or it cannot be read.
    pub fn tail(
        &self,
        count: usize,
        mut matches: impl FnMut(&Stored) -> bool,
    ) -> Result<(Vec<Stored>, u64), ReadError> {
        let segments = self.reader.segments()?;
        let (mut found, mut next, mut end) = (VecDeque::new(), None, u64::MAX);
        for first in segments.into_iter().rev() {
            let mut here = VecDeque::new();
            for stored in
                self.records(first)?.take_while(|stored| stored.as_ref().map_or(true, |s| s.index < end))
            {
                let stored = stored?;
                if next.is_none_or(|next| stored.index >= next) {
                    next = Some(stored.index + 1);
                }
                if matches(&stored) {
                    here.push_back(stored);
                    if here.len() > count.saturating_sub(found.len()) {
                        here.pop_front();
                    }
                }
            }
            here.append(&mut found);
            found = here;
            end = first;
            if found.len() >= count {
                break;
            }
        }
        Ok((found.into(), next.unwrap_or(0)))
    }

    /// The log's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.reader.dir()
    }

    /// The bodies that records name.
    #[must_use]
    pub fn bodies(&self) -> Bodies {
        self.reader.bodies()
    }

    /// The store of finished parts of recordings, each under its digest.
    #[must_use]
    pub fn recordings(&self) -> Bodies {
        self.reader.bodies_in("recordings")
    }

    /// The file in which a part of a recording is written, or in which a crash left it. A finished part moves into the
    /// [store](Self::recordings): read it by [`open_recording`](Self::open_recording).
    #[must_use]
    pub fn recording(&self, file: &str) -> PathBuf {
        // Only a name: what a record says must not lead out of the directory.
        let name = Path::new(file).file_name().unwrap_or_default();
        self.reader.dir().join("recordings").join(name)
    }

    /// A part of a recording, wherever it is by now; `None` when there is none (any more). Whether it is the right one is known at
    /// its end: believe nothing of it before `read` has answered 0.
    ///
    /// # Errors
    /// When it cannot be opened; `PermissionDenied` without the key that it is encrypted with.
    pub fn open_recording(&self, part: &RecordingPart) -> io::Result<Option<RecordingReader>> {
        // Between a look here and a look there it may move.
        for _ in 0..2 {
            if let Some(stored) = self.recordings().open(part.sha256)? {
                return Ok(Some(RecordingReader(Source::Named(stored))));
            }
            match self.recordings().open_ended(&self.recording(&part.file), part.sha256) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                opened => return opened.map(|ended| Some(RecordingReader(Source::Named(ended)))),
            }
        }
        Ok(None)
    }

    /// A part of a recording of which the log knows nothing yet, as far as it has got. At its present end `read` answers 0;
    /// asked again later it goes on.
    ///
    /// # Errors
    /// `NotFound` when it is not there: never, or not any more. Otherwise when it cannot be opened.
    pub fn open_live_recording(&self, file: &str) -> io::Result<RecordingReader> {
        let opened = self.recordings().open_live(&self.recording(file))?;
        Ok(RecordingReader(Source::Live(opened)))
    }

    /// Compares what is stored of a part with what its record says. Reads all of it.
    #[must_use]
    pub fn check_recording(&self, part: &RecordingPart) -> Kept {
        let compare = || {
            let Some(mut stored) = self.open_recording(part)? else { return Ok(Kept::Missing) };
            io::copy(&mut stored, &mut io::sink()).map(|_| Kept::Intact)
        };
        compare().unwrap_or_else(|error| Kept::of(&error))
    }

    /// Compares a stored body with its digest. Reads all of it.
    #[must_use]
    pub fn check_body(&self, digest: Hash) -> Kept {
        match self.bodies().verify(digest) {
            Ok(true) => Kept::Intact,
            Ok(false) => Kept::Missing,
            Err(error) => Kept::of(&error),
        }
    }

    /// Where a part of a recording is by now.
    #[must_use]
    pub fn recording_path(&self, part: &RecordingPart) -> PathBuf {
        let stored = self.recordings().path(part.sha256);
        if stored.exists() { stored } else { self.recording(&part.file) }
    }
}

impl From<Reader> for AuditReader {
    fn from(reader: Reader) -> Self {
        Self { reader }
    }
}

impl From<&Path> for AuditReader {
    fn from(dir: &Path) -> Self {
        Self::new(dir)
    }
}

impl From<PathBuf> for AuditReader {
    fn from(dir: PathBuf) -> Self {
        Self::new(dir)
    }
}

impl From<&PathBuf> for AuditReader {
    fn from(dir: &PathBuf) -> Self {
        Self::new(dir)
    }
}

/// How something that a record names is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is what the record says.
    Intact,
    /// It is not there: retention has dropped it, or somebody.
    Missing,
    /// It is not what the record says, or cannot be read: what cannot be read cannot be vouched for.
    Changed,
    /// It cannot be read without a key, or by this user; why.
    Locked(String),
}

impl Kept {
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::PermissionDenied => Self::Locked(error.to_string()),
            _ => Self::Changed,
        }
    }
}

/// The content of a part of a recording: an asciicast.
#[derive(Debug)]
pub struct RecordingReader(Source);

#[derive(Debug)]
enum Source {
    /// One that a record names, and vouches for.
    Named(BodyReader),
    Live(LiveReader),
}

impl RecordingReader {
    /// Passes over the first `bytes`; nothing may have been read yet.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn skip(&mut self, bytes: u64) -> io::Result<()> {
        match &mut self.0 {
            Source::Live(live) => live.skip(bytes),
            Source::Named(named) => io::copy(&mut named.take(bytes), &mut io::sink()).map(drop),
        }
    }
}

impl Read for RecordingReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Source::Named(named) => named.read(out),
            Source::Live(live) => live.read(out),
        }
    }
}

/// The records of a log, in order.
#[derive(Debug)]
pub struct Records {
    entries: Entries,
}

impl Records {
    /// Where in its segment the next record begins.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.entries.offset()
    }
}

impl Stored {
    /// A record that was had by other means than reading the log: what this version does not understand is
    /// [`Record::Unknown`].
    #[must_use]
    pub fn new(index: u64, offset: u64, raw: Vec<u8>) -> Self {
        let unknown = || Entry { v: 0, time: Timestamp::UNIX_EPOCH, record: Record::Unknown };
        let entry = serde_json::from_slice(&raw).unwrap_or_else(|_| unknown());
        Self { index, offset, entry, raw }
    }
}

impl From<portcullis_ledger::Entry> for Stored {
    fn from(stored: portcullis_ledger::Entry) -> Self {
        Self::new(stored.index, stored.offset, stored.record)
    }
}

impl Iterator for Records {
    type Item = Result<Stored, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.entries.next()?.map(Stored::from))
    }
}

impl Entry {
    /// The record in one line: when, who, what, what came of it. Nothing in it can move a terminal's cursor.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = format!("{:.3}  ", self.time);
        // Writing to a string cannot fail.
        let _ = match &self.record {
            Record::Intent(intent) => intent_line(&mut line, intent),
            Record::Outcome(outcome) => outcome_line(&mut line, outcome),
            Record::Event(event) => event_line(&mut line, event),
            Record::Started(started) if started.unknown > 0 => {
                write!(line, "-  log opened; the outcome of {} requests is unknown", started.unknown)
            }
            Record::Started(_) => line.write_str("-  log opened"),
            Record::Stopped(_) => line.write_str("-  log closed"),
            Record::Recovered(recovered) => {
                let why = recovered.error.as_deref().unwrap_or("a write had been cut short");
                write!(line, "-  storage repaired ({}: {why})", recovered.cause)
            }
            Record::KeyRotated(KeyRotated { previous, next, .. }) => {
                write!(line, "-  new key {next}, after {previous}")
            }
            Record::Unknown => line.write_str("-  a record of another version"),
        };
        line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
    }
}

fn intent_line(line: &mut String, intent: &Intent) -> std::fmt::Result {
    let user = intent.identity.as_ref().map_or("-", |identity| identity.user.as_str());
    write!(line, "{user}  {}  …", intent.command)?;
    verdict(line, intent.verdict.as_ref())?;
    if let Some(approval) = &intent.approval {
        write!(line, "  approved by {}", approval.approvers.join(", "))?;
    }
    Ok(())
}

fn outcome_line(line: &mut String, outcome: &Outcome) -> std::fmt::Result {
    let user = outcome.user.as_deref().unwrap_or("-");
    write!(line, "{user}  {}  ", outcome.command)?;
    match outcome.status {
        Some(status) => write!(line, "{status}")?,
        None => line.push('-'),
    }
    if outcome.end != End::Completed {
        write!(line, " {}", outcome.end.as_str())?;
    }
    verdict(line, outcome.verdict.as_ref())?;
    if let Some(ticket) = &outcome.ticket {
        write!(line, "  ticket={ticket}")?;
    }
    if let Some(refusal) = &outcome.refusal {
        write!(line, "  {}", refusal.code)?;
    }
    // Whoever wrote the record may have been anybody.
    let masked = outcome.masked.values().fold(0_u64, |sum, count| sum.saturating_add(*count));
    if masked > 0 {
        write!(line, "  masked={masked}")?;
    }
    if let Some(stream) = &outcome.stream {
        match stream.exit {
            Some(exit) => write!(line, "  exit={exit}")?,
            None => write!(line, "  {}", stream.ended)?,
        }
        if stream.recording.is_some() {
            line.push_str("  recorded");
        }
    }
    Ok(())
}

fn event_line(line: &mut String, event: &Event) -> std::fmt::Result {
    let user = event.identity.as_ref().map_or("-", |identity| identity.user.as_str());
    let kind = serde_json::to_value(event.kind).unwrap_or_default();
    write!(line, "{user}  {}", kind.as_str().unwrap_or("event"))?;
    for (name, value) in [("ticket", &event.ticket), ("grant", &event.grant)] {
        if let Some(value) = value {
            write!(line, "  {name}={value}")?;
        }
    }
    if let Some(progress) = StreamProgress::of(event) {
        let bytes = progress.channels.values().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
        let parts = progress.parts.len();
        return write!(line, "  bytes={bytes}  parts={parts}");
    }
    event.details.iter().try_for_each(|(name, value)| match value.as_str() {
        Some(text) => write!(line, "  {name}={text}"),
        None => write!(line, "  {name}={value}"),
    })
}

fn verdict(line: &mut String, verdict: Option<&Verdict>) -> std::fmt::Result {
    let Some(verdict) = verdict else { return Ok(()) };
    line.push_str(match verdict.decision {
        Decision::Allow => "  allow",
        Decision::Deny => "  deny",
        Decision::Hold(_) => "  hold",
    });
    match &verdict.rule {
        Some(rule) => write!(line, "({rule})"),
        None => Ok(()),
    }
}
