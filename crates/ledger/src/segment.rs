//! The bytes of one segment file, and reading them back.
//!
//! A segment is a header and then entries, nothing else:
//!
//! ```text
//! header   "portcullis-log1\n" | length u32 | crc u32 | JSON {origin, first, frontier, link}
//! entry    length u32 | crc u32 | index u64 | link [32] | record
//! ```
//!
//! Integers are little-endian. `crc` is CRC-32 over everything else of its header or entry: it tells a torn write from a
//! whole one; it is no protection, the tree is. The header repeats the tree's frontier at the segment's first entry, so
//! that opening a ledger reads its last segment only. Parsing is sans-I/O ([`parse_entry`]); reading is [`SegmentReader`].

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Frontier, Hash};

/// The largest record, in bytes: what an entry bundle of tlog-tiles can hold.
pub const MAX_RECORD: usize = 65_535;

pub(crate) const MAGIC: &[u8; 16] = b"portcullis-log1\n";
const ENTRY_HEAD: usize = 4 + 4 + 8 + 32;
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
    /// The hash chain's value before `first`.
    pub(crate) link: Hash,
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
pub(crate) fn encode_entry(out: &mut Vec<u8>, index: u64, link: Hash, record: &[u8]) {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most MAX_RECORD, checked when the record was accepted"
    )]
    let length = (record.len() as u32).to_le_bytes();
    let index = index.to_le_bytes();
    let crc = checksum(&[&length, &index, link.as_bytes(), record]);
    out.extend_from_slice(&length);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&index);
    out.extend_from_slice(link.as_bytes());
    out.extend_from_slice(record);
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
        link: Hash,
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
    let Some((link, rest)) = rest.split_first_chunk::<32>() else { return Parsed::Partial };
    let Some(record) = rest.get(..size) else { return Parsed::Partial };
    if checksum(&[length, &bytes[8..ENTRY_HEAD + size]]) != u32::from_le_bytes(*crc) {
        return Parsed::Bad("its bytes were changed");
    }
    Parsed::Entry { index: u64::from_le_bytes(*index), link: Hash::new(*link), record }
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
    pub(crate) link: Hash,
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
    pub(crate) link: Hash,
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
    /// The file ends here, between two entries.
    End,
    /// The file ends here, within an entry.
    Partial,
    /// What stands here is no entry.
    Bad(&'static str),
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
        Ok(Self { file, path: path.into(), header, buffer: head, used: size, filled, offset: size as u64 })
    }

    /// Goes on at `offset`, where an entry begins.
    pub(crate) fn seek(&mut self, offset: u64) -> io::Result<()> {
        (self.used, self.filled) = (0, 0);
        self.offset = self.file.seek(SeekFrom::Start(offset))?;
        Ok(())
    }

    pub(crate) fn step(&mut self) -> io::Result<Step> {
        loop {
            match parse_entry(&self.buffer[self.used..self.filled]) {
                Parsed::Entry { index, link, record } => {
                    let (size, length) = (entry_size(record.len()), record.len());
                    let begin = self.used + ENTRY_HEAD;
                    let found = Found { index, link, offset: self.offset, begin, length };
                    self.used += size;
                    self.offset += size as u64;
                    return Ok(Step::Entry(found));
                }
                Parsed::Bad(why) => return Ok(Step::Bad(why)),
                Parsed::Partial => {
                    if !self.fill()? {
                        let clean = self.used == self.filled;
                        // A writer that failed may cut the file back and write something else here: read it anew.
                        (self.used, self.filled) = (0, 0);
                        self.file.seek(SeekFrom::Start(self.offset))?;
                        return Ok(if clean { Step::End } else { Step::Partial });
                    }
                }
            }
        }
    }

    /// The record of the entry that was read last.
    pub(crate) fn record(&self, found: &Found) -> &[u8] {
        &self.buffer[found.begin..found.begin + found.length]
    }

    /// The hash of its leaf, without moving a byte of it: in front of the record stands the last byte of the link, which has
    /// been read, and there the zero goes that RFC 6962 puts before a leaf.
    pub(crate) fn leaf(&mut self, found: &Found) -> Hash {
        self.buffer[found.begin - 1] = Hash::LEAF;
        Hash::of(&self.buffer[found.begin - 1..found.begin + found.length])
    }

    pub(crate) fn entry(&self, found: &Found) -> Entry {
        let Found { index, link, offset, .. } = *found;
        Entry { index, record: self.record(found).to_vec(), file: self.path.clone(), offset, link }
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
            Parsed::Entry { index, link, record } => {
                let (record, file) = (record.to_vec(), path.into());
                return Ok(Some(Entry { index, record, file, offset, link }));
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
        encode_entry(&mut bytes, index, Hash::of(record), record);
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
                Parsed::Entry { index, link: Hash::of(&record), record: &record }
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
            let header = Header { origin: "log.example".into(), first: 3, frontier: vec![Hash::NO_LINK; 2], link: Hash::of(b"l") };
            let mut bytes = header.encode().unwrap();
            let size = bytes.len();
            prop_assert_eq!(Header::parse(&bytes).unwrap(), (header, size));
            let at = at % size;
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(Header::parse(&bytes).is_err());
        }
    }
}
