//! The tiles and bundles that are stored, compared with what the segments say they must be.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::files::Comparison;
use crate::replay::{Fault, FaultKind, ReadError};
use crate::segment::EntryRef;
use crate::tile::{FULL, MAX_LEVEL, Tile, TileKind, cut, entry_length};
use crate::tiles::{claimed, fault, is_missing, read_exactly, stored, walk};
use crate::tiling::Tiling;

pub(crate) struct StoredTiles {
    dir: PathBuf,
    /// How many records the checkpoint covers: what must be there.
    size: u64,
    bundles: bool,
    /// What tells of the most records.
    claimed: Option<Tile>,
    /// The tiles that are full by now and were not when the checkpoint was signed: one of each kind at most.
    edge: HashMap<TileKind, (Tile, Vec<u8>)>,
    checked: u64,
    /// The bundle that is being compared, record by record.
    bundle: Option<Tile>,
    comparison: Comparison,
}

impl StoredTiles {
    pub(crate) fn new(dir: &Path, size: u64, bundles: bool) -> Result<Self, ReadError> {
        // Before the segments are read: in a log in use, tiles are written of what stands there already.
        let claimed = claimed(dir).map_err(ReadError::io(dir))?;
        Ok(Self {
            dir: dir.to_owned(),
            size,
            bundles,
            claimed,
            edge: HashMap::new(),
            checked: 0,
            bundle: None,
            comparison: Comparison::new(BUFFER),
        })
    }

    fn kinds(&self) -> impl Iterator<Item = TileKind> + use<> {
        (0..=MAX_LEVEL).map(TileKind::Hashes).chain(self.bundles.then_some(TileKind::Entries))
    }

    /// How many bundles were full when the checkpoint was signed. Their records are compared one by one ([`Self::entry`]), and need
    /// not be gathered first.
    pub(crate) const fn bundles(&self) -> u64 {
        TileKind::Entries.count(self.size) / FULL as u64
    }

    /// Compares a record with its bundle, if that is one of those.
    pub(crate) fn entry(&mut self, entry: &EntryRef<'_>) -> Result<(), ReadError> {
        let tile = Tile::full(TileKind::Entries, entry.index / u64::from(FULL));
        if tile.index >= self.bundles() {
            return Ok(());
        }
        if entry.index == tile.start() {
            self.bundle = self.begin(tile)?.then_some(tile);
        }
        if self.bundle.is_none() {
            return Ok(());
        }
        let last = entry.index + 1 == tile.end();
        let mut compare = || {
            Ok(self.comparison.goes_on(&entry_length(entry.record))?
                && self.comparison.goes_on(entry.record)?
                && (!last || self.comparison.ends()?))
        };
        let same = compare().map_err(|error| ReadError::io(&self.dir.join(tile.path()))(error))?;
        if last || !same {
            self.bundle = None;
            self.same(tile, (!same).then_some(self.comparison.same))?;
        }
        Ok(())
    }

    /// Compares a full tile with its file.
    pub(crate) fn full(&mut self, tile: Tile, bytes: &[u8]) -> Result<(), ReadError> {
        if self.begin(tile)? {
            let mut compare = || Ok(self.comparison.goes_on(bytes)? && self.comparison.ends()?);
            let same = compare().map_err(|error| ReadError::io(&self.dir.join(tile.path()))(error))?;
            self.same(tile, (!same).then_some(self.comparison.same))?;
        }
        if tile.start() < self.size && tile.end() > self.size {
            self.edge.insert(tile.kind, (tile, bytes.to_vec()));
        }
        Ok(())
    }

    /// Opens a full tile's file; whether it is there, as it must be if the checkpoint covers it.
    fn begin(&mut self, tile: Tile) -> Result<bool, ReadError> {
        let path = self.dir.join(tile.path());
        match self.comparison.open(&path) {
            Ok(()) => Ok(true),
            Err(error) if !is_missing(&error) => Err(ReadError::io(&path)(error)),
            Err(_) if tile.end() <= self.size && self.demanded(tile.kind) => Err(self.gone(tile).into()),
            Err(_) => Ok(false),
        }
    }

    /// Everything else, once the whole log of `size` records has been read: how many files were compared.
    pub(crate) fn finish(
        mut self,
        tiling: Option<&Tiling>,
        size: u64,
        moved_on: impl FnOnce() -> bool,
    ) -> Result<u64, ReadError> {
        if let Some(tile) = self.claimed.filter(|tile| tile.end() > size) {
            let detail = format!("the log has {size} records, but once had more");
            return Err(fault(&self.dir, tile, FaultKind::RolledBack, &detail).into());
        }
        let mut right_edge =
            self.kinds().filter_map(|kind| Tile::of(kind, kind.count(self.size) / 256, self.size));
        let missing = right_edge.find(|tile| !self.dir.join(tile.path()).exists());
        // A log in use removes partial tiles once a newer checkpoint needs others.
        if let Some(missing) = missing
            && !moved_on()
        {
            return Err(self.gone(missing).into());
        }
        let (mut partials, mut strangers) = (Vec::new(), Vec::new());
        walk(&self.dir, &mut |found| match found {
            Ok(tile) if tile.is_full() || tile.end() > size => {}
            Ok(tile) if partials.len() < MOST => partials.push(tile),
            Ok(tile) if strangers.is_empty() => strangers.push(self.dir.join(tile.path())),
            Err(path) if strangers.is_empty() && path.extension().is_none_or(|kind| kind != "tmp") => {
                strangers.push(path.to_owned());
            }
            _ => {}
        })
        .map_err(ReadError::io(&self.dir.join("tile")))?;
        partials.sort_unstable();
        for tile in partials {
            self.partial(tile, tiling)?;
        }
        match strangers.pop() {
            None => Ok(self.checked),
            Some(file) => {
                let detail = "it is no tile and no bundle of this log".to_owned();
                Err(Fault { kind: FaultKind::Edited, index: 0, file, offset: 0, detail }.into())
            }
        }
    }

    /// Compares a partial tile with the beginning of the same tile as it grew.
    fn partial(&mut self, tile: Tile, tiling: Option<&Tiling>) -> Result<(), ReadError> {
        let Some(found) = read_exactly(&self.dir, tile)? else { return Ok(()) };
        let growing = tiling.into_iter().flat_map(Tiling::partials);
        let edge = self.edge.values().map(|(tile, bytes)| (*tile, bytes.as_slice()));
        let known =
            edge.chain(growing).find(|(known, _)| (known.kind, known.index) == (tile.kind, tile.index));
        let expected = match known {
            Some((_, bytes)) => cut(tile.kind, bytes.to_vec(), tile.width),
            // Of a log in use that has gone on: no checkpoint that was read needs it, and the full one may not be there yet.
            None if tile.end() > self.size => return Ok(()),
            // It became full long ago; the full one has been compared.
            None => stored(&self.dir, Tile { width: 256, ..tile })?
                .and_then(|bytes| cut(tile.kind, bytes, tile.width)),
        };
        match expected {
            Some(expected) if expected == found => Ok(self.same(tile, None)?),
            Some(expected) => {
                let alike = found.iter().zip(&expected).take_while(|(found, expected)| found == expected);
                Ok(self.same(tile, Some(alike.count() as u64))?)
            }
            None => Err(self.gone(Tile { width: 256, ..tile }).into()),
        }
    }

    /// A file has been compared with what it should be.
    fn same(&mut self, tile: Tile, difference: Option<u64>) -> Result<(), Fault> {
        self.checked += 1;
        let Some(offset) = difference else { return Ok(()) };
        Err(Fault { offset, ..fault(&self.dir, tile, FaultKind::Edited, "it is not what the records say") })
    }

    fn demanded(&self, kind: TileKind) -> bool {
        self.bundles || kind != TileKind::Entries
    }

    fn gone(&self, tile: Tile) -> Fault {
        fault(&self.dir, tile, FaultKind::Removed, "the file is gone")
    }
}

/// How many partial tiles there may be: a ledger leaves nine, and a few more after a crash.
const MOST: usize = 100_000;

/// How much of a file is compared at once, in bytes. Small, so that it stays in the processor's cache.
const BUFFER: usize = 64 * 1024;
