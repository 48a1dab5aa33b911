//! The log as its one writer holds it: the open segment and the tree's frontier.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::files::{replace, sync_dir};
use crate::ledger::Options;
use crate::replay::Replay;
use crate::segment::{self, Header, Parsed, parse_entry};
use crate::{Frontier, Hash, Receipt};

pub(crate) struct Log {
    segments: PathBuf,
    origin: String,
    segment_size: u64,
    pub(crate) segment: Segment,
    pub(crate) tree: Frontier,
    /// Where the open segment's file ends: zeros stand from its end to here.
    room: u64,
    disk: Disk,
}

/// The segment that is being appended to.
#[derive(Clone)]
pub(crate) struct Segment {
    pub(crate) path: Arc<Path>,
    pub(crate) file: Arc<File>,
    /// Where the last whole group ends.
    pub(crate) end: u64,
    /// How much of it is known to be on the disk.
    flushed: Arc<AtomicU64>,
}

impl Segment {
    fn new(path: Arc<Path>, file: File, end: u64) -> Self {
        Self { path, file: Arc::new(file), end, flushed: Arc::default() }
    }

    /// Flushes what has been written up to `end`.
    pub(crate) fn flush(&self, disk: &Disk) -> io::Result<()> {
        disk.sync(&self.file)?;
        self.flushed.fetch_max(self.end, Ordering::Release);
        Ok(())
    }
}

/// How many bytes of zeros are written at once behind a group that the disk is waited for.
///
/// To flush what lengthens a file takes a commit of the file system's journal, to flush what overwrites zeros that are on the
/// disk does not: on ext4 that is 60 of 200 µs.
const ROOM: u64 = 256 * 1024;
/// The largest group for which room is made, in bytes: the callers of a larger one share the cost of a commit, and every byte
/// of room is written twice.
const SMALL: u64 = 16 * 1024;

/// A run of bytes that has been written but not flushed. It begins and ends between two entries.
#[derive(Clone)]
pub(crate) struct Dirty {
    pub(crate) segment: Segment,
    pub(crate) from: u64,
}

impl Log {
    /// Goes on where `replay` has arrived.
    pub(crate) fn new(segments: &Path, file: File, replay: Replay, options: &Options) -> Self {
        let Replay { segment, tree, .. } = replay;
        Self {
            segments: segments.to_owned(),
            origin: options.origin.clone(),
            segment_size: options.segment_size,
            room: segment.offset,
            segment: Segment::new(segment.path, file, segment.offset),
            tree,
            disk: Disk::new(options),
        }
    }

    /// Makes an empty segment, durable before it can be seen: a segment never has half a header.
    pub(crate) fn create(segments: &Path, origin: &str, tree: &Frontier) -> io::Result<PathBuf> {
        let path = segments.join(segment::file_name(tree.size()));
        let frontier = tree.nodes().to_vec();
        let header = Header { origin: origin.to_owned(), first: tree.size(), frontier };
        replace(&path, &header.encode()?)?;
        Ok(path)
    }

    /// Writes `records` with one call to the kernel; `awaited`, if somebody waits for the disk. When that fails, the log is as it
    /// was before.
    pub(crate) fn append<'a>(
        &mut self,
        records: impl Iterator<Item = &'a [u8]>,
        awaited: bool,
        receipts: &mut Vec<Receipt>,
    ) -> io::Result<()> {
        let (mut tree, mut bytes) = (self.tree.clone(), Vec::new());
        let unflushed = self.segment.end.saturating_sub(self.segment.flushed.load(Ordering::Acquire));
        for record in records {
            let (index, leaf) = (tree.size(), Hash::leaf(record));
            let node = tree.push(leaf);
            let unflushed = unflushed + bytes.len() as u64;
            segment::encode_entry(&mut bytes, index, unflushed, node, record);
            receipts.push(Receipt { index, leaf });
        }
        if let Err(error) = self.write(&mut bytes, awaited) {
            receipts.clear();
            return Err(error);
        }
        self.segment.end += bytes.len() as u64;
        self.tree = tree;
        Ok(())
    }

    /// Writes a group, and zeros behind it where that will be of use.
    fn write(&mut self, group: &mut Vec<u8>, awaited: bool) -> io::Result<()> {
        let Segment { file, end, .. } = &self.segment;
        let length = group.len();
        let past = end + length as u64;
        if awaited && past > self.room && length as u64 <= SMALL && past + ROOM <= self.segment_size {
            group.resize(length + ROOM as usize, 0);
        }
        let mut written = self.disk.write(file, *end, group);
        if written.is_err() && group.len() > length {
            // There is no place for so much; perhaps for what matters.
            written = file.set_len(*end).and_then(|()| self.disk.write(file, *end, &group[..length]));
            group.truncate(length);
        }
        self.room = self.room.max(end + group.len() as u64);
        group.truncate(length);
        if written.is_err() {
            // Half a group may be there. If it cannot be cut off now, repairing does it before anything else is written.
            let _ = self.cut();
        }
        written
    }

    /// Has the open segment's file end where its last group does.
    fn cut(&mut self) -> io::Result<()> {
        self.room = self.segment.end;
        self.segment.file.set_len(self.segment.end)
    }

    /// Leaves no zeros behind, now that nothing more is written.
    pub(crate) fn finish(&mut self) {
        if self.room > self.segment.end {
            // Whoever opens the log passes over them.
            let _ = self.cut();
        }
    }

    /// Appends one record and flushes it: for the ledger's own records while nothing else is going on.
    pub(crate) fn append_one(&mut self, record: &[u8]) -> io::Result<()> {
        self.append([record].into_iter(), false, &mut Vec::new())?;
        self.segment.flush(&self.disk)
    }

    /// Whether the next record goes to a new segment.
    pub(crate) const fn is_full(&self) -> bool {
        self.segment.end >= self.segment_size
    }

    /// Begins a new segment. Nobody else may flush the present one meanwhile.
    pub(crate) fn rotate(&mut self) -> io::Result<()> {
        // Flushed first, so that only the last segment can ever have a torn tail.
        self.cut()?;
        self.segment.flush(&self.disk)?;
        let path = Self::create(&self.segments, &self.origin, &self.tree)?;
        let file = File::options().write(true).read(true).open(&path)?;
        self.room = file.metadata()?.len();
        self.segment = Segment::new(path.into(), file, self.room);
        Ok(())
    }

    /// A segment may have been made, but not gone over to. The present one goes on, so that one would not follow it any more.
    fn remove_unused(&self) -> io::Result<()> {
        let path = self.segments.join(segment::file_name(self.tree.size()));
        if path == *self.segment.path {
            return Ok(());
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| sync_dir(&self.segments)),
        }
    }

    /// What flushes it.
    pub(crate) fn disk(&self) -> Disk {
        self.disk.clone()
    }

    /// After a failure: makes the files hold exactly what was written, durably.
    ///
    /// A failed flush may have marked pages clean that never reached the disk, and a second flush would then succeed
    /// without writing them. So what is dirty is read back, checked, written again, and only then flushed.
    pub(crate) fn repair(&mut self, dirty: &[Dirty]) -> io::Result<()> {
        self.remove_unused()?;
        for Dirty { segment, from } in dirty {
            let mut bytes = Vec::new();
            let mut file = File::options().read(true).write(true).open(&segment.path)?;
            file.seek(SeekFrom::Start(*from))?;
            (&mut file).take(segment.end - from).read_to_end(&mut bytes)?;
            if !whole_entries(&bytes) || bytes.len() as u64 != segment.end - from {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "records that were written are gone from the disk",
                ));
            }
            self.disk.write(&file, *from, &bytes)?;
            file.set_len(segment.end)?;
            self.disk.sync(&file)?;
        }
        self.cut()?;
        self.segment.flush(&self.disk)
    }
}

fn whole_entries(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let Parsed::Entry { record, .. } = parse_entry(bytes) else { return false };
        bytes = &bytes[segment::entry_size(record.len())..];
    }
    true
}

/// The two calls that can fail while running, in one place so that tests can make them fail.
#[derive(Clone)]
pub(crate) struct Disk {
    #[cfg(test)]
    faults: Arc<Faults>,
}

impl Disk {
    #[cfg_attr(not(test), expect(unused_variables, reason = "only tests inject faults"))]
    fn new(options: &Options) -> Self {
        Self {
            #[cfg(test)]
            faults: options.faults.clone(),
        }
    }

    pub(crate) fn write(&self, mut file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
        file.seek(SeekFrom::Start(at))?;
        #[cfg(test)]
        drop(self.faults.gate.lock());
        #[cfg(test)]
        if self.faults.write.load(std::sync::atomic::Ordering::SeqCst) {
            // As a full disk does: some of it is written, then no more.
            file.write_all(&bytes[..bytes.len() / 2])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.write_all(bytes)
    }

    /// What writing a tile does while the disk has no room for one.
    #[cfg(test)]
    pub(crate) fn refuse_tiles(&self) -> io::Result<()> {
        match self.faults.tiles.load(std::sync::atomic::Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    pub(crate) fn sync(&self, file: &File) -> io::Result<()> {
        #[cfg(test)]
        if self.faults.sync.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(io::Error::other("input/output error"));
        }
        #[cfg(test)]
        let before = self.faults.syncing.swap(true, std::sync::atomic::Ordering::SeqCst);
        let synced = file.sync_data();
        #[cfg(test)]
        {
            self.faults.overlapped.fetch_or(before, std::sync::atomic::Ordering::SeqCst);
            self.faults.syncing.store(false, std::sync::atomic::Ordering::SeqCst);
        }
        synced
    }
}

#[cfg(test)]
#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) write: std::sync::atomic::AtomicBool,
    pub(crate) sync: std::sync::atomic::AtomicBool,
    pub(crate) tiles: std::sync::atomic::AtomicBool,
    /// Whoever holds it holds up writing.
    pub(crate) gate: std::sync::Mutex<()>,
    syncing: std::sync::atomic::AtomicBool,
    /// Two have flushed at once.
    pub(crate) overlapped: std::sync::atomic::AtomicBool,
}
