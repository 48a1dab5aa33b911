//! A recording on the disk: a file, or several, one after the other.
//!
//! **Invariants.** What a frame adds is in the kernel when [`frame`](RecordingFile::frame) returns. Memory does not grow with
//! the session: a recording has at most [`MOST_PARTS`] parts, of which name, size and digest are kept. A part has a digest only if
//! its file has all that the digest is of, on the disk: after any error nothing more is written, and the part at which it happened has none.

use std::fs::{self, File};
use std::io;

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
    /// The newest of these, until somebody has taken it to flush it.
    unflushed: Option<File>,
    /// Something could not be written: of the present part's file nothing is known any more.
    broken: bool,
    lines: Vec<u8>,
}

impl RecordingFile {
    /// Begins a recording in the log's directory, encrypted if there is a key. Blocks.
    pub(crate) fn create(
        reader: AuditReader,
        id: String,
        header: Header,
        limits: Limits,
    ) -> io::Result<Self> {
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
            unflushed: None,
            broken: false,
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

    /// Only the first `count` of the finished parts are known to be on the disk: the others lose their digests.
    pub(crate) fn lose_after(&mut self, count: usize) {
        if count < self.finished.len() {
            self.finished.truncate(count);
            self.unflushed = None;
            self.broken = true;
        }
    }

    /// Flushes those of the finished parts that are behind the first `count`: for whoever cannot wait until others have. Blocks.
    pub(crate) fn flush_after(&mut self, count: usize) {
        let lost = |part: &RecordingPart| {
            match File::open(self.reader.recording(&part.file)).and_then(|file| file.sync_all()) {
                // It has been flushed and moved into the store since.
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                flushed => flushed.is_err(),
            }
        };
        if let Some(nth) = self.finished.iter().skip(count).position(lost) {
            self.lose_after(count + nth);
        }
    }

    /// Records a frame. Where it begins a new part, the file of the one before is returned: somebody must flush it to the
    /// disk before its digest goes on record. After an error [`finish`](Self::finish) does that.
    pub(crate) fn frame(&mut self, seconds: f64, frame: &StreamFrame) -> Result<Option<File>, StreamAbort> {
        let cannot = || StreamAbort::Failed("the session cannot be recorded any more".into());
        if self.broken {
            return Err(cannot());
        }
        if self.bytes >= self.limits.part {
            self.next_part().map_err(|error| self.break_off(&error)).map_err(|()| cannot())?;
        }
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
        self.write().map_err(|error| self.break_off(&error)).map_err(|()| cannot())?;
        Ok(self.unflushed.take())
    }

    fn break_off(&mut self, error: &io::Error) {
        tracing::error!(%error, file = self.name, "a recording cannot be written");
        self.broken = true;
    }

    /// Ends the present part, once there is a file for the next.
    fn next_part(&mut self) -> io::Result<()> {
        // The first is `ID.cast`.
        let name = format!("{}.{}.cast", self.id, self.finished.len() + 2);
        let next = create(&self.reader, &name)?;
        match std::mem::replace(&mut self.file, next).finish() {
            Ok(file) => self.unflushed = Some(file),
            Err(error) => {
                // Nothing will come into it.
                let _ = fs::remove_file(self.reader.recording(&name));
                return Err(error);
            }
        }
        let part = RecordingPart {
            file: std::mem::replace(&mut self.name, name),
            bytes: std::mem::take(&mut self.bytes),
            sha256: Hash::new(std::mem::take(&mut self.digest).finalize().into()),
        };
        self.finished_bytes += part.bytes;
        self.finished.push(part);
        // Its header now: a part has one, whatever becomes of the frame it was begun for.
        self.cast.next_part(&mut self.lines);
        self.write()
    }

    /// To the kernel, before the frame goes on: a few microseconds, as for a log line.
    fn write(&mut self) -> io::Result<()> {
        if !self.lines.is_empty() {
            self.file.append(&self.lines)?;
            self.digest.update(&self.lines);
            self.bytes += self.lines.len() as u64;
            self.lines.clear();
        }
        Ok(())
    }

    /// Ends the recording and flushes what nobody else has taken for that, of which an error leaves the parts that were finished before it. `None`: there is none, and the
    /// operator's log says why.
    pub(crate) fn finish(mut self, seconds: f64, status: &str) -> Option<Recording> {
        if let Some(Err(error)) = self.unflushed.take().map(|file| file.sync_all()) {
            self.break_off(&error);
            self.finished.pop();
        }
        if !self.broken {
            self.lines.clear();
            self.cast.end(seconds, status, &mut self.lines);
            if let Err(error) = self.write() {
                self.break_off(&error);
            }
        }
        let Self { broken, name, file, bytes, digest, mut finished, .. } = self;
        if !broken {
            let ended = file.finish().and_then(|file| file.sync_all());
            match ended {
                Ok(()) => {
                    let sha256 = Hash::new(digest.finalize().into());
                    finished.push(RecordingPart { file: name, bytes, sha256 });
                }
                Err(error) => tracing::error!(%error, file = name, "a recording could not be finished"),
            }
        }
        let mut parts = finished.into_iter();
        let RecordingPart { file, bytes, sha256 } = parts.next()?;
        Some(Recording { file, bytes, sha256, parts: parts.collect() })
    }
}

/// A new file that only its owner can read.
fn create(reader: &AuditReader, name: &str) -> io::Result<LiveBody> {
    reader.recordings().begin_live(&reader.recording(name))
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::process::Command;

    use bytes::Bytes;
    use portcullis_core::Direction;
    use portcullis_ledger::BodyKeys;

    use super::*;
    use crate::Kept;

    /// A recording in parts of so many bytes, at least 782 (a 128th of the whole).
    fn recording(reader: &AuditReader, part: u64) -> RecordingFile {
        let header = Header { timestamp: 0, command: "sh".into(), title: "exec".into() };
        let limits = Limits { input: false, part, total: 100_000 };
        fs::create_dir_all(reader.dir().join("recordings")).unwrap();
        RecordingFile::create(reader.clone(), "id".into(), header, limits).unwrap()
    }

    fn output(recording: &mut RecordingFile, bytes: usize) -> Result<Option<File>, StreamAbort> {
        let data = Bytes::from("x".repeat(bytes));
        let (direction, channel) = (Direction::ToClient, Channel::Stdout);
        recording.frame(0.0, &StreamFrame { direction, channel, data, fin: false })
    }

    /// The files that a recording names, each of which is what it says.
    fn named(reader: &AuditReader, recording: Option<&Recording>) -> Vec<String> {
        let parts: Vec<_> = recording.into_iter().flat_map(Recording::files).collect();
        for part in &parts {
            assert_eq!(reader.check_recording(part), Kept::Intact, "{part:?}");
        }
        parts.into_iter().map(|part| part.file).collect()
    }

    #[test]
    fn where_there_is_no_file_for_the_next_part_the_finished_ones_are_named_and_the_last_one_stays_as_it_is()
    {
        for (taken, finished) in [("id.2.cast", vec![]), ("id.3.cast", vec!["id.cast"])] {
            let dir = tempfile::tempdir().unwrap();
            let reader = AuditReader::new(dir.path());
            let mut recording = recording(&reader, 1);
            fs::write(reader.recording(taken), "somebody else's").unwrap();
            for _ in 0..=finished.len() {
                output(&mut recording, 900).unwrap();
            }
            let last = reader.recording(&recording.name);
            let before = fs::read_to_string(&last).unwrap();
            // Also when somebody tries again.
            for _ in 0..2 {
                assert!(output(&mut recording, 900).unwrap_err().to_string().contains("cannot be recorded"));
            }
            assert_eq!(named(&reader, recording.finish(1.0, "0").as_ref()), finished);
            assert_eq!(fs::read_to_string(&last).unwrap(), before);
            assert_eq!(before.matches("version").count(), 1);
        }
    }

    /// As when a stream is dropped before others have flushed its parts.
    #[test]
    fn a_finished_part_that_cannot_be_flushed_is_not_named_and_none_after_it() {
        for (flushed, lost, names) in [
            (0, "id.cast", &[][..]),
            (1, "id.cast", &["id.cast", "id.2.cast", "id.3.cast"]),
            (1, "id.2.cast", &["id.cast"]),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let reader = AuditReader::new(dir.path());
            let mut recording = recording(&reader, 1);
            for _ in 0..3 {
                output(&mut recording, 900).unwrap();
            }
            // What leads to itself cannot be opened.
            let (path, aside) = (reader.recording(lost), dir.path().join("aside"));
            fs::rename(&path, &aside).unwrap();
            std::os::unix::fs::symlink(&path, &path).unwrap();
            recording.flush_after(flushed);
            fs::rename(&aside, &path).unwrap();
            assert_eq!(named(&reader, recording.finish(1.0, "0").as_ref()), names);
        }
    }

    #[test]
    fn a_part_begins_with_its_header_even_where_nothing_else_fits() {
        let dir = tempfile::tempdir().unwrap();
        let reader = AuditReader::new(dir.path());
        let mut recording = recording(&reader, 1);
        output(&mut recording, 900).unwrap();
        assert!(output(&mut recording, 100_000).unwrap_err().to_string().contains("outgrown"));
        assert_eq!(named(&reader, recording.finish(1.0, "cut").as_ref()), ["id.cast", "id.2.cast"]);
        let last = fs::read_to_string(reader.recording("id.2.cast")).unwrap();
        let lines: Vec<_> = last.lines().collect();
        assert!(lines[0].contains(r#""version":2"#) && lines.len() == 2, "{last}");
    }

    /// Runs the test below in a process in which a file can have so many blocks of 512 bytes: what is beyond is refused, after
    /// what still fits has been written, as on a disk that is full.
    fn with_files_of_at_most(blocks: u32, case: &str) {
        let limit = format!(r#"trap "" XFSZ; ulimit -f {blocks}; exec "$0" "$@""#);
        let this = std::env::current_exe().unwrap();
        let child = Command::new("sh")
            .args(["-c", &limit])
            .arg(this)
            .args(["--exact", "recording::tests::what_a_full_disk_cuts_short_has_no_digest", "--nocapture"])
            .env(CASE, case)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&child.stdout);
        assert!(
            child.status.success() && told.contains("1 passed"),
            "{told}{}",
            String::from_utf8_lossy(&child.stderr)
        );
    }

    const CASE: &str = "PORTCULLIS_TEST_RECORDING";

    #[test]
    fn what_a_full_disk_cuts_short_has_no_digest() {
        let Ok(case) = std::env::var(CASE) else {
            let cases = ["frame", "part", "end", "sealed"];
            return cases.into_iter().for_each(|case| with_files_of_at_most(4, case));
        };
        if case == "sealed" {
            return sealed();
        }
        let dir = tempfile::tempdir().unwrap();
        let reader = AuditReader::new(dir.path());
        let size = |file: &str| fs::metadata(reader.recording(file)).unwrap().len();
        // Beyond 2048 bytes: a frame of the first part, a frame of the second, or nothing but the last line.
        let (part, names) = if case == "part" { (1000, vec!["id.cast"]) } else { (5000, vec![]) };
        let mut recording = recording(&reader, part);
        if case == "end" {
            output(&mut recording, 100).unwrap();
            let first = recording.bytes();
            output(&mut recording, 100).unwrap();
            let around = recording.bytes() - first - 100;
            let room = 2048 - recording.bytes() - around - 5;
            output(&mut recording, usize::try_from(room).unwrap()).unwrap();
        } else {
            output(&mut recording, 1000).unwrap();
            output(&mut recording, 500).unwrap();
            assert!(output(&mut recording, 1800).is_err());
            assert!(output(&mut recording, 1).is_err());
        }
        let last = recording.name.clone();
        assert_eq!(named(&reader, recording.finish(1.0, "0").as_ref()), names);
        assert_eq!(size(&last), 2048, "what still fitted was written");
    }

    /// With a key the end of a part is a chunk of its own: of some size a part is whole but for that, when a next one is to
    /// begin or the session ends.
    fn sealed() {
        let mut ends_that_did_not_fit = 0;
        for (size, goes_on) in (1400..1800).flat_map(|size| [(size, false), (size, true)]) {
            let dir = tempfile::tempdir().unwrap();
            let reader = AuditReader::new(dir.path()).body_keys(BodyKeys::new([[7; 32]]));
            let mut recording = recording(&reader, 1);
            output(&mut recording, 900).unwrap();
            let fitted = output(&mut recording, size).is_ok();
            let went_on = fitted && goes_on && output(&mut recording, 1).is_ok();
            ends_that_did_not_fit += u32::from(fitted && goes_on && !went_on);
            let named = named(&reader, recording.finish(1.0, "0").as_ref());
            let all = ["id.cast", "id.2.cast", "id.3.cast"];
            assert_eq!(named, all[..named.len()]);
            match (fitted, goes_on) {
                (true, false) => assert!([1, 2].contains(&named.len())),
                _ => assert_eq!(named.len(), if went_on { 3 } else { 1 }),
            }
            assert_eq!(reader.recording("id.3.cast").exists(), went_on);
        }
        assert!(ends_that_did_not_fit > 0);
    }
}
