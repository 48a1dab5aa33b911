//! The bytes of one segment file, and reading them back.
//!
//! A segment is a header and then entries, nothing else:
//!
//! ```text
//! header   "portcullis-log2\n" | length u32 | crc u32 | JSON {origin, first, frontier}
//! entry    length u32 | crc u32 | index u64 | unflushed u32 | node [32] | record
//! ```
//!
//! Integers are little-endian. `crc` is CRC-32 over everything else of its header or entry: it tells a torn write from a
//! whole one; it is no protection, the tree is. `node` is the root of the largest perfect sub-tree that ends with this entry,
//! which whoever appends or verifies has at hand: with it the first altered record can be *named*, where the tree's root alone
//! only says that something was altered. The header repeats the tree's frontier at the segment's first entry, so that opening a
//! ledger reads its last segment only. Parsing is sans-I/O ([`parse_entry`]); reading is [`SegmentReader`].
//!
//! Zeros may follow the last entry: room that was made before it was needed, since what overwrites it is flushed sooner than
//! what lengthens a file. After a power cut any part of what was overwritten and not flushed may be there, in any order. So each
//! entry says how many of the bytes before it were perhaps not on the disk yet (`unflushed`): what is broken is torn, unless an
//! entry behind it vouches that it was on the disk.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Frontier, Hash};

/// The largest record, in bytes: what an entry bundle of tlog-tiles can hold.
pub const MAX_RECORD: usize = 65_535;

pub(crate) const MAGIC: &[u8; 16] = b"portcullis-log2\n";
const ENTRY_HEAD: usize = 4 + 4 + 8 + 4 + 32;
const MAX_HEADER: usize = 64 * 1024;
/// How much of a segment is in memory at once, in bytes: more than the largest header or entry.
const BUFFER: usize = 256 * 1024;

/// What stands at the head of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) origin: String,
    /// The index of the first entry; also the file's name.
    pub(crate) first: u64,
    /// The frontier's nodes at `first`.
    pub(crate) frontier: Vec<Hash>,
}

impl Header {
    pub(crate) fn encode(&self) -> io::Result<Vec<u8>> {
        let json = serde_json::to_vec(self)?;
        let length = u32::try_from(json.len()).map_err(io::Error::other)?.to_le_bytes();
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&length);
        bytes.extend_from_slice(&checksum(&[MAGIC, &length, &json]).to_le_bytes());
        bytes.extend_from_slice(&json);
        Ok(bytes)
    }

    /// The header and its length, or what is wrong with it.
    fn parse(bytes: &[u8]) -> Result<(Self, usize), &'static str> {
        const SHORT: &str = "the segment's header is cut short";
        let rest = bytes.strip_prefix(MAGIC).ok_or("this is no ledger segment")?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or(SHORT)?;
        let (crc, rest) = rest.split_first_chunk::<4>().ok_or(SHORT)?;
        let size = u32::from_le_bytes(*length) as usize;
        if size > MAX_HEADER {
            return Err("the segment's header was changed");
        }
        let json = rest.get(..size).ok_or(SHORT)?;
        if checksum(&[MAGIC, length, json]) != u32::from_le_bytes(*crc) {
            return Err("the segment's header was changed");
        }
        let header: Self =
            serde_json::from_slice(json).map_err(|_| "the segment's header is not readable")?;
        Ok((header, MAGIC.len() + 8 + size))
    }

    pub(crate) fn tree(&self) -> Option<Frontier> {
        Frontier::from_parts(self.first, self.frontier.clone())
    }
}

/// Appends one entry's bytes to `out`. The record's length has been checked by whoever accepted it.
pub(crate) fn encode_entry(out: &mut Vec<u8>, index: u64, unflushed: u64, node: Hash, record: &[u8]) {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most MAX_RECORD, checked when the record was accepted"
    )]
    let length = (record.len() as u32).to_le_bytes();
    let begin = out.len();
    out.extend_from_slice(&length);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&index.to_le_bytes());
    out.extend_from_slice(&u32::try_from(unflushed).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(node.as_bytes());
    out.extend_from_slice(record);
    let crc = checksum(&[&length, &out[begin + 8..]]);
    out[begin + 4..begin + 8].copy_from_slice(&crc.to_le_bytes());
}

/// How many bytes an entry with this record takes.
pub(crate) const fn entry_size(record: usize) -> usize {
    ENTRY_HEAD + record
}

/// What stands at the head of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed<'a> {
    Entry {
        index: u64,
        /// How many bytes before it were perhaps not on the disk when it was written: at least so many.
        unflushed: u32,
        node: Hash,
        record: &'a [u8],
    },
    /// It ends before its own length says; more bytes may complete it.
    Partial,
    /// It can be no entry, whatever follows.
    Bad(&'static str),
}

pub(crate) fn parse_entry(bytes: &[u8]) -> Parsed<'_> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Parsed::Partial };
    let size = u32::from_le_bytes(*length) as usize;
    if size == 0 || size > MAX_RECORD {
        return Parsed::Bad("its length is impossible");
    }
    let Some((crc, rest)) = rest.split_first_chunk::<4>() else { return Parsed::Partial };
    let Some((index, rest)) = rest.split_first_chunk::<8>() else { return Parsed::Partial };
    let Some((unflushed, rest)) = rest.split_first_chunk::<4>() else { return Parsed::Partial };
    let Some((node, rest)) = rest.split_first_chunk::<32>() else { return Parsed::Partial };
    let Some(record) = rest.get(..size) else { return Parsed::Partial };
    if checksum(&[length, &bytes[8..ENTRY_HEAD + size]]) != u32::from_le_bytes(*crc) {
        return Parsed::Bad("its bytes were changed");
    }
    let (index, unflushed) = (u64::from_le_bytes(*index), u32::from_le_bytes(*unflushed));
    Parsed::Entry { index, unflushed, node: Hash::new(*node), record }
}

fn checksum(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// One stored entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its index in the log, from zero.
    pub index: u64,
    /// The record's bytes, exactly as they were appended.
    pub record: Vec<u8>,
    /// The segment it was read from.
    pub file: Arc<Path>,
    /// Where it begins in that file.
    pub offset: u64,
}

impl Entry {
    /// The hash of its leaf in the tree.
    #[must_use]
    pub fn leaf(&self) -> Hash {
        Hash::leaf(&self.record)
    }
}

/// One stored entry, where it stands in the reader's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EntryRef<'a> {
    /// Its index in the log, from zero.
    pub index: u64,
    /// The record's bytes, exactly as they were appended.
    pub record: &'a [u8],
}

/// An entry that a [`SegmentReader`] has just read, until it reads on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) index: u64,
    pub(crate) node: Hash,
    /// Where it begins in the file.
    pub(crate) offset: u64,
    /// Where its record begins in the buffer, and how long it is.
    begin: usize,
    length: usize,
}

/// What comes next in a segment.
#[derive(Debug)]
pub(crate) enum Step {
    Entry(Found),
    /// Nothing follows, or nothing yet: the file ends here, or has zeros from here on.
    End,
    /// What stands here is no whole entry, and nothing says that it has ever been on the disk.
    Torn(Broken),
    /// What stands here is no entry, and once was.
    Bad(Broken),
}

/// Why what stands somewhere is no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The file ends within it.
    Short,
    /// It can be none.
    Changed(&'static str),
}

/// Reads one segment from front to back, and on as it grows.
#[derive(Debug)]
pub(crate) struct SegmentReader {
    file: File,
    pub(crate) path: Arc<Path>,
    pub(crate) header: Header,
    /// As long as it ever gets: [`BUFFER`].
    buffer: Vec<u8>,
    /// How much of `buffer` has been handed out, and how much has been read.
    used: usize,
    filled: usize,
    /// The offset in the file of `buffer[used]`.
    pub(crate) offset: u64,
    /// From where on there were zeros only when the rest of the file was last looked through.
    zeros_from: Option<u64>,
}

/// What follows something that is no entry.
enum Behind {
    /// Zeros, like what stands there itself.
    Nothing,
    Something,
    /// An entry that was written when what stands there was on the disk.
    Flushed,
}

/// Why a segment could not be opened.
#[derive(Debug)]
pub(crate) enum HeaderError {
    Io(io::Error),
    Damaged(&'static str),
}

impl SegmentReader {
    pub(crate) fn open(path: &Path) -> Result<Self, HeaderError> {
        let mut file = File::open(path).map_err(HeaderError::Io)?;
        let mut head = Vec::new();
        let most = MAGIC.len() + 8 + MAX_HEADER;
        (&mut file).take(most as u64).read_to_end(&mut head).map_err(HeaderError::Io)?;
        let (header, size) = Header::parse(&head).map_err(HeaderError::Damaged)?;
        if header.tree().is_none() || path.file_name() != Some(file_name(header.first).as_ref()) {
            return Err(HeaderError::Damaged("the segment's header does not belong to this file"));
        }
        let filled = head.len();
        head.resize(BUFFER, 0);
        let offset = size as u64;
        Ok(Self {
            file,
            path: path.into(),
            header,
            buffer: head,
            used: size,
            filled,
            offset,
            zeros_from: None,
        })
    }

    /// Goes on at `offset`, where an entry begins.
    pub(crate) fn seek(&mut self, offset: u64) -> io::Result<()> {
        (self.used, self.filled) = (0, 0);
        self.offset = self.file.seek(SeekFrom::Start(offset))?;
        Ok(())
    }

    pub(crate) fn step(&mut self) -> io::Result<Step> {
        if let Ok(found) = self.parse()? {
            return Ok(Step::Entry(found));
        }
        if self.zeros_from == Some(self.offset) && self.is_zero()? {
            return Ok(Step::End);
        }
        // What is in the buffer may have been read before the writer wrote more, or something else: read it anew.
        let broken = match self.parse_again()? {
            Ok(found) => return Ok(Step::Entry(found)),
            Err(None) => return Ok(Step::End),
            Err(Some(broken)) => broken,
        };
        let behind = self.look_behind()?;
        let now = self.parse_again()?;
        self.zeros_from = matches!(behind, Behind::Nothing).then_some(self.offset);
        Ok(match (behind, now) {
            // In a log in use it has become whole since.
            (_, Ok(found)) => Step::Entry(found),
            (Behind::Nothing, _) | (_, Err(None)) => Step::End,
            (Behind::Something, Err(Some(_))) => Step::Torn(broken),
            (Behind::Flushed, Err(Some(_))) => Step::Bad(broken),
        })
    }

    /// Whether the writer has still written nothing where it writes next: a length is never zero.
    fn is_zero(&mut self) -> io::Result<bool> {
        self.seek(self.offset)?;
        let mut length = [0; 4];
        let read = self.file.read(&mut length)?;
        self.seek(self.offset)?;
        Ok(length[..read].iter().all(|byte| *byte == 0))
    }

    fn parse_again(&mut self) -> io::Result<Result<Found, Option<Broken>>> {
        self.seek(self.offset)?;
        self.parse()
    }

    /// The next entry, or what stands there instead: `None` at the file's end.
    fn parse(&mut self) -> io::Result<Result<Found, Option<Broken>>> {
        loop {
            match parse_entry(&self.buffer[self.used..self.filled]) {
                Parsed::Entry { index, node, record, .. } => {
                    let (size, length) = (entry_size(record.len()), record.len());
                    let begin = self.used + ENTRY_HEAD;
                    let found = Found { index, node, offset: self.offset, begin, length };
                    self.used += size;
                    self.offset += size as u64;
                    return Ok(Ok(found));
                }
                Parsed::Bad(why) => return Ok(Err(Some(Broken::Changed(why)))),
                Parsed::Partial => {
                    if !self.fill()? {
                        return Ok(Err((self.used < self.filled).then_some(Broken::Short)));
                    }
                }
            }
        }
    }

    /// Looks through the rest of the file for an entry which says that what stands here was on the disk before it. Spoils the buffer.
    ///
    /// Only such places count as an entry's beginning whose index is one of this segment's: of other bytes hardly any are, and
    /// so this takes no longer than reading.
    fn look_behind(&mut self) -> io::Result<Behind> {
        let mut base = self.file.seek(SeekFrom::Start(self.offset))?;
        let (mut at, mut filled, mut behind) = (1, 0, Behind::Nothing);
        loop {
            let more = self.file.read(&mut self.buffer[filled..])?;
            filled += more;
            if self.buffer[..filled].iter().all(|byte| *byte == 0) {
                // But for what may be the zero that a length begins with.
                at = at.max(filled.saturating_sub(1));
            } else {
                behind = Behind::Something;
            }
            while let Some(head) = self.buffer[..filled].get(at..).and_then(|rest| rest.first_chunk::<16>()) {
                let [.., a, b, c, d, e, f, g, h] = *head;
                let nth = u64::from_le_bytes([a, b, c, d, e, f, g, h]).checked_sub(self.header.first);
                if nth.is_some_and(|nth| nth <= u64::from(u32::MAX)) {
                    match parse_entry(&self.buffer[at..filled]) {
                        Parsed::Entry { unflushed, .. }
                            if (base + at as u64).saturating_sub(unflushed.into()) > self.offset =>
                        {
                            return Ok(Behind::Flushed);
                        }
                        Parsed::Partial if more > 0 => break,
                        _ => {}
                    }
                }
                at += 1;
            }
            if more == 0 {
                return Ok(behind);
            }
            at = at.min(filled);
            self.buffer.copy_within(at..filled, 0);
            (base, filled, at) = (base + at as u64, filled - at, 0);
        }
    }

    /// The record of the entry that was read last.
    pub(crate) fn record(&self, found: &Found) -> &[u8] {
        &self.buffer[found.begin..found.begin + found.length]
    }

    /// The hash of its leaf, without moving a byte of it: in front of the record stands the last byte of the node, which has
    /// been read, and there the zero goes that RFC 6962 puts before a leaf.
    pub(crate) fn leaf(&mut self, found: &Found) -> Hash {
        self.buffer[found.begin - 1] = Hash::LEAF;
        Hash::of(&self.buffer[found.begin - 1..found.begin + found.length])
    }

    pub(crate) fn entry(&self, found: &Found) -> Entry {
        let Found { index, offset, .. } = *found;
        Entry { index, record: self.record(found).to_vec(), file: self.path.clone(), offset }
    }

    /// Reads more of the file; whether there was more.
    fn fill(&mut self) -> io::Result<bool> {
        self.buffer.copy_within(self.used..self.filled, 0);
        self.filled -= self.used;
        self.used = 0;
        // There is room: an entry is far smaller than the buffer, and what is left is less than an entry.
        let more = self.file.read(&mut self.buffer[self.filled..])?;
        self.filled += more;
        Ok(more > 0)
    }
}

/// The entry that begins at `offset` of a segment, if a whole one does.
pub(crate) fn read_at(path: &Path, offset: u64) -> io::Result<Option<Entry>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = vec![0; 4096];
    let mut filled = 0;
    loop {
        match file.read(&mut bytes[filled..])? {
            0 => return Ok(None),
            read => filled += read,
        }
        match parse_entry(&bytes[..filled]) {
            Parsed::Entry { index, record, .. } => {
                let (record, file) = (record.to_vec(), path.into());
                return Ok(Some(Entry { index, record, file, offset }));
            }
            Parsed::Bad(_) => return Ok(None),
            Parsed::Partial if filled == bytes.len() => bytes.resize(entry_size(MAX_RECORD), 0),
            Parsed::Partial => {}
        }
    }
}

/// `segments/` of a ledger, in order of their first entry.
pub(crate) fn list(segments: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(segments)? {
        let path = file?.path();
        let stem = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".log"));
        if let Some(first) = stem.filter(|stem| stem.len() == 20).and_then(|stem| stem.parse().ok()) {
            found.push((first, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Whether no later segment is there.
pub(crate) fn is_last(segments: &Path, header: &Header) -> io::Result<bool> {
    Ok(list(segments)?.last().is_none_or(|(first, _)| *first <= header.first))
}

/// The name of the segment that begins with entry `first`.
pub(crate) fn file_name(first: u64) -> String {
    format!("{first:020}.log")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(index: u64, record: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_entry(&mut bytes, index, 7, Hash::of(record), record);
        bytes
    }

    proptest! {
        #[test]
        fn an_entry_round_trips_and_any_change_shows(
            index in any::<u64>(), record in proptest::collection::vec(any::<u8>(), 1..300), at in any::<usize>(), bit in 0_u8..8,
        ) {
            let mut bytes = entry(index, &record);
            prop_assert_eq!(
                parse_entry(&bytes),
                Parsed::Entry { index, unflushed: 7, node: Hash::of(&record), record: &record }
            );
            for end in 0..bytes.len() {
                prop_assert_eq!(parse_entry(&bytes[..end]), Parsed::Partial);
            }
            let at = at % bytes.len();
            bytes[at] ^= 1_u8 << bit;
            let whole = matches!(parse_entry(&bytes), Parsed::Entry { .. });
            prop_assert!(!whole);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_entry(&bytes);
            let _ = Header::parse(&bytes);
            let _ = Header::parse(&[MAGIC.as_slice(), &bytes].concat());
        }

        #[test]
        fn a_header_round_trips_and_any_change_shows(at in any::<usize>(), bit in 0_u8..8) {
            let header = Header { origin: "log.example".into(), first: 3, frontier: vec![Hash::of(b"l"); 2] };
            let mut bytes = header.encode().unwrap();
            let size = bytes.len();
            prop_assert_eq!(Header::parse(&bytes).unwrap(), (header, size));
            let at = at % size;
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(Header::parse(&bytes).is_err());
        }
    }
}
