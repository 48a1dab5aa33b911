//! Walking a ledger from a segment on while recomputing its tree: what opening and verifying have in common.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::Frontier;
use crate::segment::{self, Broken, EntryRef, Found, HeaderError, SegmentReader, Step};
use crate::tiling::Tiling;

/// What is wrong with a stored log, and where it first shows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// The kind of damage.
    pub kind: FaultKind,
    /// The first entry that cannot be trusted.
    pub index: u64,
    /// The file in which it shows.
    pub file: PathBuf,
    /// Where in that file, in bytes from its beginning.
    pub offset: u64,
    /// What exactly does not fit.
    pub detail: String,
}

/// The kinds of damage a verifier tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// Bytes were changed.
    Edited,
    /// One or more entries, or a whole segment, are gone from the middle.
    Removed,
    /// Entries stand in another order.
    Reordered,
    /// The log ends within an entry.
    Truncated,
    /// The log is shorter than a checkpoint says it was.
    RolledBack,
    /// Everything fits together, but it is not what the checkpoint signed: history was written anew.
    Rewritten,
    /// A checkpoint is missing, malformed, of another log, or not signed by the log's key.
    Checkpoint,
}

impl FaultKind {
    /// One lower-case word, for output and exit messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Edited => "edited",
            Self::Removed => "removed",
            Self::Reordered => "reordered",
            Self::Truncated => "truncated",
            Self::RolledBack => "rolled back",
            Self::Rewritten => "rewritten",
            Self::Checkpoint => "checkpoint not acceptable",
        }
    }
}

impl Broken {
    pub(crate) const fn kind(self) -> FaultKind {
        match self {
            Self::Short => FaultKind::Truncated,
            Self::Changed(_) => FaultKind::Edited,
        }
    }

    pub(crate) const fn why(self) -> &'static str {
        match self {
            Self::Short => "the file ends within this record",
            Self::Changed(why) => why,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, index, file, offset, detail } = self;
        write!(f, "record {index} at {}:{offset}: {}: {detail}", file.display(), kind.as_str())
    }
}

impl std::error::Error for Fault {}

/// A fault, or that the files could not be read at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The log is not what it was.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ReadError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// What comes next.
#[derive(Debug)]
pub(crate) enum Next {
    Entry(Found),
    /// The log's end, with what follows the last whole entry, if anything does: a write that was not, or is not, finished.
    Tail(Option<Fault>),
}

/// What is wrong where a segment that has a successor ends too early.
pub(crate) const UP_TO_THE_NEXT: &str = "the records up to the next segment are gone";

#[derive(Debug)]
pub(crate) struct Replay {
    segments: PathBuf,
    pub(crate) segment: SegmentReader,
    pub(crate) tree: Frontier,
    /// The tiles of what has been read; `None` when nobody compares them.
    pub(crate) tiling: Option<Tiling>,
}

impl Replay {
    /// Begins with the segment at `path`, taking its header's word for what came before.
    pub(crate) fn open(segments: &Path, path: &Path, first: u64) -> Result<Self, ReadError> {
        let segment = open_segment(path, first)?;
        let tree = segment.header.tree().unwrap_or_default();
        Ok(Self { segments: segments.to_owned(), segment, tree, tiling: None })
    }

    /// The entry that was read last.
    pub(crate) fn entry(&self, found: &Found) -> EntryRef<'_> {
        EntryRef { index: found.index, record: self.segment.record(found) }
    }

    pub(crate) fn next(&mut self) -> Result<Next, ReadError> {
        // Whether a later segment was there before the last look at this one: then this one has all that it ever will.
        let mut finished = false;
        loop {
            let step = self.segment.step().map_err(ReadError::io(&self.segment.path))?;
            let fault = match step {
                Step::Entry(found) => return self.accept(found).map(Next::Entry),
                Step::Bad(broken) => return Err(self.fault(broken.kind(), broken.why()).into()),
                Step::Torn(broken) => Some(self.fault(broken.kind(), broken.why())),
                Step::End => None,
            };
            let next = self.segments.join(segment::file_name(self.tree.size()));
            let goes_on = next != *self.segment.path && next.exists();
            match fault {
                None if goes_on => {
                    self.enter(&next)?;
                    finished = false;
                }
                // The last segment may have a torn tail; one with a successor was finished before that was begun.
                fault => {
                    let last = segment::is_last(&self.segments, &self.segment.header);
                    if last.map_err(ReadError::io(&self.segments))? {
                        return Ok(Next::Tail(fault));
                    }
                    // A log in use may have gone on, and begun that one, between the two looks.
                    if !std::mem::replace(&mut finished, true) {
                        continue;
                    }
                    let gone = || self.fault(FaultKind::Removed, UP_TO_THE_NEXT);
                    return Err(fault.unwrap_or_else(gone).into());
                }
            }
        }
    }

    pub(crate) fn fault(&self, kind: FaultKind, detail: impl Into<String>) -> Fault {
        Fault {
            kind,
            index: self.tree.size(),
            file: self.segment.path.to_path_buf(),
            offset: self.segment.offset,
            detail: detail.into(),
        }
    }

    fn accept(&mut self, found: Found) -> Result<Found, ReadError> {
        let expected = self.tree.size();
        if found.index != expected {
            let what = format!("record {} stands where record {expected} should", found.index);
            return Err(match found.index > expected && !self.occurs_later(expected)? {
                true => self.fault_at(&found, FaultKind::Removed, format!("{what}, which is gone")),
                false => self.fault_at(&found, FaultKind::Reordered, what),
            });
        }
        let leaf = self.segment.leaf(&found);
        let node = match &mut self.tiling {
            Some(tiling) => tiling.push(&mut self.tree, leaf, self.segment.record(&found)),
            None => self.tree.push(leaf),
        };
        if node == found.node {
            return Ok(found);
        }
        let detail = "it is not the record, or does not follow on those, whose hash stands beside it";
        let fault = self.fault(FaultKind::Edited, detail);
        Err(Fault { index: expected, offset: found.offset, ..fault }.into())
    }

    fn fault_at(&self, found: &Found, kind: FaultKind, detail: String) -> ReadError {
        Fault { offset: found.offset, ..self.fault(kind, detail) }.into()
    }

    fn occurs_later(&mut self, index: u64) -> Result<bool, ReadError> {
        while let Step::Entry(found) = self.segment.step().map_err(ReadError::io(&self.segment.path))? {
            if found.index == index {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn enter(&mut self, path: &Path) -> Result<(), ReadError> {
        let segment = open_segment(path, self.tree.size())?;
        if segment.header.tree().as_ref() != Some(&self.tree) {
            let detail = "the segment does not continue the one before it".to_owned();
            let (index, file) = (self.tree.size(), path.to_owned());
            return Err(Fault { kind: FaultKind::Edited, index, file, offset: 0, detail }.into());
        }
        self.segment = segment;
        Ok(())
    }
}

/// Opens the segment at `path`, whose first entry has index `first`.
pub(crate) fn open_segment(path: &Path, first: u64) -> Result<SegmentReader, ReadError> {
    SegmentReader::open(path).map_err(|error| match error {
        HeaderError::Io(source) => ReadError::io(path)(source),
        HeaderError::Damaged(detail) => {
            let (file, detail) = (path.to_owned(), detail.to_owned());
            Fault { kind: FaultKind::Edited, index: first, file, offset: 0, detail }.into()
        }
    })
}
