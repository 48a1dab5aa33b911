//! A recording on the disk: a file, or several, one after the other.
//!
//! **Invariants.** What a frame adds is in the kernel when [`frame`](RecordingFile::frame) returns. Memory does not grow with
//! the session: a recording has at most [`MOST_PARTS`] parts, of which name, size and digest are kept.

use std::fs::File;

use portcullis_core::{Channel, StreamAbort, StreamFrame};
use portcullis_ledger::{Hash, LiveBody};
use sha2::{Digest as _, Sha256};

use crate::cast::{Cast, Header, Output};
use crate::reader::AuditReader;
use crate::record::{Recording, RecordingPart};

/// In how many parts a recording is kept: their digests must fit one record.
const MOST_PARTS: u64 = 128;

/// What is recorded, and how much of it.
pub(crate) struct Limits {
    /// Whether what is typed is recorded.
    pub(crate) input: bool,
    /// Bytes after which the next part begins.
    pub(crate) part: u64,
    /// Bytes of all parts together.
    pub(crate) total: u64,
}

/// A recording that is being written.
pub(crate) struct RecordingFile {
    reader: AuditReader,
    id: String,
    limits: Limits,
    cast: Cast,
    /// The part being written.
    name: String,
    file: LiveBody,
    bytes: u64,
    digest: Sha256,
    /// The parts before it, and their size together.
    finished: Vec<RecordingPart>,
    finished_bytes: u64,
    lines: Vec<u8>,
}

impl RecordingFile {
    /// Begins a recording in the log's directory, encrypted if there is a key. Blocks.
    pub(crate) fn create(
        reader: AuditReader,
        id: String,
        header: Header,
        limits: Limits,
    ) -> std::io::Result<Self> {
        let name = format!("{id}.cast");
        Ok(Self {
            file: create(&reader, &name)?,
            limits: Limits { part: limits.part.max(limits.total.div_ceil(MOST_PARTS)), ..limits },
            cast: Cast::new(header),
            reader,
            id,
            name,
            bytes: 0,
            digest: Sha256::new(),
            finished: Vec::new(),
            finished_bytes: 0,
            lines: Vec::new(),
        })
    }

    /// The size of all parts so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.finished_bytes + self.bytes
    }

    /// The parts that are finished.
    pub(crate) fn finished(&self) -> &[RecordingPart] {
        &self.finished
    }

    /// Records a frame. Where it begins a new part, the file of the one before is returned: somebody must flush it to the
    /// disk before its digest goes on record.
    pub(crate) fn frame(&mut self, seconds: f64, frame: &StreamFrame) -> Result<Option<File>, StreamAbort> {
        let failed = |error: std::io::Error| {
            tracing::error!(%error, "a recording cannot be written");
            StreamAbort::Failed("the session cannot be recorded any more".into())
        };
        let full =
            if self.bytes >= self.limits.part { Some(self.next_part().map_err(failed)?) } else { None };
        match frame.channel {
            Channel::Stdout => self.cast.output(seconds, Output::Stdout, &frame.data, &mut self.lines),
            Channel::Stderr => self.cast.output(seconds, Output::Stderr, &frame.data, &mut self.lines),
            Channel::Stdin if self.limits.input => self.cast.input(seconds, &frame.data, &mut self.lines),
            Channel::Resize => self.cast.resize(seconds, &frame.data, &mut self.lines),
            _ => {}
        }
        if self.bytes() + self.lines.len() as u64 > self.limits.total {
            return Err(StreamAbort::Failed("the session has outgrown its recording's limit".into()));
        }
        self.write().map_err(failed)?;
        Ok(full)
    }

    fn next_part(&mut self) -> std::io::Result<File> {
        let name = format!("{}.{}.cast", self.id, self.cast.next_part());
        let file = std::mem::replace(&mut self.file, create(&self.reader, &name)?).finish()?;
        let part = RecordingPart {
            file: std::mem::replace(&mut self.name, name),
            bytes: std::mem::take(&mut self.bytes),
            sha256: Hash::new(std::mem::take(&mut self.digest).finalize().into()),
        };
        self.finished_bytes += part.bytes;
        self.finished.push(part);
        Ok(file)
    }

    /// To the kernel, before the frame goes on: a few microseconds, as for a log line.
    fn write(&mut self) -> std::io::Result<()> {
        if !self.lines.is_empty() {
            self.file.append(&self.lines)?;
            self.digest.update(&self.lines);
            self.bytes += self.lines.len() as u64;
            self.lines.clear();
        }
        Ok(())
    }

    /// Ends the recording. `None`: what is there is not what was to be recorded, and the operator's log says why.
    pub(crate) fn finish(mut self, seconds: f64, status: &str, flush: bool) -> Option<Recording> {
        self.lines.clear();
        self.cast.end(seconds, status, &mut self.lines);
        let written = self.write().and_then(|()| self.file.finish());
        let flushed = written.and_then(|file| if flush { file.sync_all() } else { Ok(()) });
        if let Err(error) = flushed {
            tracing::error!(%error, file = self.name, "a recording could not be finished");
            return None;
        }
        let sha256 = Hash::new(self.digest.finalize().into());
        self.finished.push(RecordingPart { file: self.name, bytes: self.bytes, sha256 });
        let mut parts = self.finished.into_iter();
        let RecordingPart { file, bytes, sha256 } = parts.next()?;
        Some(Recording { file, bytes, sha256, parts: parts.collect() })
    }
}

/// A new file that only its owner can read.
fn create(reader: &AuditReader, name: &str) -> std::io::Result<LiveBody> {
    reader.recordings().begin_live(&reader.recording(name))
}
