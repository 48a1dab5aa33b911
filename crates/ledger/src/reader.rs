//! Reading records back, also while a writer appends.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::bodies::Bodies;
use crate::replay::{Fault, FaultKind, ReadError, UP_TO_THE_NEXT, open_segment};
use crate::rotation::KeyChain;
use crate::segment::{self, Entry, SegmentReader, Step};
use crate::tile::push_entry;
use crate::tiles::{self, Tiles};
use crate::verify::read_checkpoint;
use crate::{
    BodyKeys, Checkpoint, CosignError, Cosignature, Frontier, Hash, Proof, Subtrees, Tile, TileKind,
    VerifyingKey, WitnessKey, cosignature, inclusion_proof, ledger, verify_inclusion,
};

/// A stored log, opened for reading. Takes no lock: the log may be in use.
#[derive(Debug, Clone)]
pub struct Reader {
    dir: PathBuf,
    body_keys: BodyKeys,
}

impl Reader {
    /// Reads the ledger in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), body_keys: BodyKeys::default() }
    }

    /// Reads encrypted bodies with these keys.
    #[must_use]
    pub fn body_keys(mut self, keys: BodyKeys) -> Self {
        self.body_keys = keys;
        self
    }

    /// The entries from `index` on.
    ///
    /// # Errors
    /// When the segments cannot be listed or read, or the ledger has none.
    pub fn entries(&self, index: u64) -> Result<Entries, ReadError> {
        let segments = self.dir.join("segments");
        let list = segment::list(&segments).map_err(ReadError::io(&segments))?;
        let before = list.iter().rev().find(|(first, _)| *first <= index).or_else(|| list.first());
        let Some((first, path)) = before else {
            let missing = std::io::Error::new(std::io::ErrorKind::NotFound, "no segments: is this a ledger?");
            return Err(ReadError::io(&segments)(missing));
        };
        Ok(Entries { segment: open_segment(path, *first)?, segments, next: *first, from: index })
    }

    /// The entries from `index` on, which an earlier reading found to begin at `offset` of its segment
    /// ([`Entries::offset`]): what stands before it is not read again.
    ///
    /// # Errors
    /// When the segments cannot be listed or read, or the ledger has none.
    pub fn entries_at(&self, index: u64, offset: u64) -> Result<Entries, ReadError> {
        let mut entries = self.entries(index)?;
        if entries.next < index {
            entries.next = index;
            entries.segment.seek(offset).map_err(ReadError::io(&entries.segment.path))?;
        }
        Ok(entries)
    }

    /// The entry `index`, which an earlier reading found at `offset` of its segment: one read, whatever the log's size.
    /// `None` if another entry stands there, or none: whoever remembers places may have remembered a log that was since
    /// cut back.
    ///
    /// # Errors
    /// When the segments cannot be listed or read.
    pub fn entry_at(&self, index: u64, offset: u64) -> Result<Option<Entry>, ReadError> {
        let segments = self.dir.join("segments");
        let list = segment::list(&segments).map_err(ReadError::io(&segments))?;
        let Some((_, path)) = list.iter().rev().find(|(first, _)| *first <= index) else { return Ok(None) };
        let found = segment::read_at(path, offset).map_err(ReadError::io(path))?;
        Ok(found.filter(|entry| entry.index == index))
    }

    /// The index of each segment's first entry, in order: for whoever reads from the end.
    ///
    /// # Errors
    /// When the segments cannot be listed.
    pub fn segments(&self) -> Result<Vec<u64>, ReadError> {
        let segments = self.dir.join("segments");
        let list = segment::list(&segments).map_err(ReadError::io(&segments))?;
        Ok(list.into_iter().map(|(first, _)| first).collect())
    }

    /// The tiles of the log as it was with `size` entries, at most what its newest checkpoint covers: for proofs.
    #[must_use]
    pub fn tiles(&self, size: u64) -> Tiles {
        Tiles::new(self.dir.clone(), size)
    }

    /// A tile's or bundle's bytes, for a log of `size` entries, at most what its newest checkpoint covers. Any narrower
    /// partial tile is cut out of a wider one, and a bundle that is not stored is put together from the segments. `None` when
    /// the log has no such tile.
    ///
    /// # Errors
    /// When something that should be stored is gone, or cannot be read.
    pub fn tile(&self, tile: Tile, size: u64) -> Result<Option<Vec<u8>>, ReadError> {
        if tile.end() > size {
            return Ok(None);
        }
        match tiles::stored(&self.dir, tile)? {
            None if tile.kind == TileKind::Entries => self.bundle(tile).map(Some),
            None => Err(tiles::fault(&self.dir, tile, FaultKind::Removed, "the tile is gone").into()),
            bytes => Ok(bytes),
        }
    }

    fn bundle(&self, tile: Tile) -> Result<Vec<u8>, ReadError> {
        let mut bundle = Vec::new();
        let mut entries = self.entries(tile.start())?;
        for _ in 0..tile.width {
            let entry = entries.next().unwrap_or_else(|| Err(entries.ends_early()))?;
            push_entry(&mut bundle, &entry.record);
        }
        Ok(bundle)
    }

    /// The public keys that the log has had, the newest first: at least one.
    ///
    /// # Errors
    /// When they cannot be read, or one does not follow on another.
    pub fn keys(&self) -> Result<Vec<VerifyingKey>, ReadError> {
        Ok(KeyChain::read(&self.dir)?.newest_first())
    }

    /// The log's newest checkpoint, checked against the public key that lies beside it, and the signed note itself.
    ///
    /// # Errors
    /// When there is none, or it is not the log's.
    pub fn checkpoint(&self) -> Result<(Checkpoint, String), ReadError> {
        read_checkpoint(&self.dir, &KeyChain::read(&self.dir)?)
    }

    /// The proof that the record at `index` is in the log, under its newest checkpoint: read from the tiles.
    ///
    /// # Errors
    /// When the checkpoint does not cover that record (yet), or the log is not what it was.
    pub fn prove(&self, index: u64) -> Result<Proof, ReadError> {
        let (checkpoint, note) = self.checkpoint()?;
        if index >= checkpoint.size {
            let path = self.dir.join(ledger::CHECKPOINT);
            let what = format!("the checkpoint covers {} records, and not record {index}", checkpoint.size);
            return Err(ReadError::io(&path)(std::io::Error::new(std::io::ErrorKind::NotFound, what)));
        }
        let mut entries = self.entries(index)?;
        let entry = entries.next().unwrap_or_else(|| Err(entries.ends_early()))?;
        let hashes = inclusion_proof(&self.tiles(checkpoint.size), index, checkpoint.size)?;
        if verify_inclusion(entry.leaf(), index, checkpoint.size, &hashes, checkpoint.root) {
            return Ok(Proof { index, record: entry.record, hashes, checkpoint: note });
        }
        let detail = "record, tiles and checkpoint do not fit together: verify the log".to_owned();
        let file = entry.file.to_path_buf();
        Err(Fault { kind: FaultKind::Rewritten, index, file, offset: entry.offset, detail }.into())
    }

    /// The bodies stored beside the log.
    #[must_use]
    pub fn bodies(&self) -> Bodies {
        Bodies::new(self.dir.join("bodies"), self.body_keys.clone())
    }

    /// The bodies in another directory beside the log, read with the same keys.
    #[must_use]
    pub fn bodies_in(&self, name: &str) -> Bodies {
        Bodies::new(self.dir.join(name), self.body_keys.clone())
    }

    /// Keeps what witnesses say of a checkpoint of this log, in `checkpoint.cosigned`: the log's own signature and those of
    /// these witnesses, of the newest checkpoint that anybody has cosigned; of each the one with the latest time, beside
    /// what others have said of it before. Answers which were found on the note. Needs no open ledger, and disturbs none. Blocks.
    ///
    /// # Errors
    /// When the note is not one that this log signed, a cosignature is not the witness's that it names, or what is stored is
    /// damaged; then nothing was changed. Otherwise that it could not be stored.
    pub fn keep_cosignatures(
        &self,
        note: &str,
        witnesses: &[WitnessKey],
    ) -> Result<Vec<Cosignature>, CosignError> {
        cosignature::keep(&self.dir, note, witnesses)
    }

    /// The ledger's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Subtrees for Reader {
    type Error = ReadError;

    fn subtree(&self, leaves: Range<u64>) -> Result<Hash, ReadError> {
        let mut tree = Frontier::new();
        let mut entries = self.entries(leaves.start)?;
        while tree.size() < leaves.end - leaves.start {
            let entry = entries.next().unwrap_or_else(|| Err(entries.ends_early()))?;
            tree.push(entry.leaf());
        }
        Ok(tree.root())
    }
}

/// The entries of a log, in order.
///
/// At the log's present end `next` answers `None`; called again later it goes on with what has been appended since,
/// which is how a log is followed. Entries are checked for whole bytes and order, not against the tree: that is
/// [`Verifier`](crate::Verifier)'s work. After an error it stays where it is.
#[derive(Debug)]
pub struct Entries {
    segments: PathBuf,
    segment: SegmentReader,
    next: u64,
    from: u64,
}

impl Iterator for Entries {
    type Item = Result<Entry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        // Whether a later segment was there before the last look at this one: then this one has all that it ever will.
        let mut finished = false;
        loop {
            let ends_early = match self.segment.step() {
                Err(source) => return Some(Err(ReadError::io(&self.segment.path)(source))),
                Ok(Step::Bad(broken)) => return Some(Err(self.fault(broken.kind(), broken.why()).into())),
                Ok(Step::Entry(found)) if found.index != self.next => {
                    let detail = format!("record {} stands where record {} should", found.index, self.next);
                    return Some(Err(self.fault(FaultKind::Removed, &detail).into()));
                }
                Ok(Step::Entry(found)) => {
                    self.next += 1;
                    if found.index >= self.from {
                        return Some(Ok(self.segment.entry(&found)));
                    }
                    continue;
                }
                Ok(Step::Torn(broken)) => self.fault(broken.kind(), broken.why()),
                Ok(Step::End) => {
                    // A segment is complete once its successor, named by the next entry, exists.
                    let path = self.segments.join(segment::file_name(self.next));
                    if path != *self.segment.path && path.exists() {
                        match open_segment(&path, self.next) {
                            Ok(segment) => self.segment = segment,
                            Err(error) => return Some(Err(error)),
                        }
                        finished = false;
                        continue;
                    }
                    self.fault(FaultKind::Removed, UP_TO_THE_NEXT)
                }
            };
            match segment::is_last(&self.segments, &self.segment.header) {
                Err(source) => return Some(Err(ReadError::io(&self.segments)(source))),
                Ok(true) => return None,
                Ok(false) if finished => return Some(Err(ends_early.into())),
                Ok(false) => finished = true,
            }
        }
    }
}

impl Entries {
    /// Where in its segment the next entry begins.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.segment.offset
    }

    pub(crate) fn ends_early(&self) -> ReadError {
        self.fault(FaultKind::Truncated, "the log ends before this record").into()
    }

    fn fault(&self, kind: FaultKind, detail: &str) -> Fault {
        let (file, offset) = (self.segment.path.to_path_buf(), self.segment.offset);
        Fault { kind, index: self.next, file, offset, detail: detail.to_owned() }
    }
}
