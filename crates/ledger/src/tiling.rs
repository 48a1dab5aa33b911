//! From leaves to tiles: which hashes go into which tile, as a tree grows. Sans-I/O: the publisher writes what comes out, the
//! verifier compares it with what is stored.

use crate::tile::{FULL, HASH, MAX_LEVEL, Tile, TileKind, hashes, push_entry};
use crate::{Frontier, Hash};

/// The tiles at a tree's right edge, and those that have just become full.
#[derive(Debug, Clone)]
pub(crate) struct Tiling {
    /// From level 0 up. Memory: at most eight tiles of 8 KiB, and one bundle of 16 MiB.
    levels: Vec<Growing>,
    /// `None` when nobody wants bundles.
    entries: Option<Growing>,
    full: Vec<(Tile, Vec<u8>)>,
    /// Memory of tiles that nobody needs any more, for the next ones.
    spare: Vec<Vec<u8>>,
}

/// A tile that is not full yet.
#[derive(Debug, Clone, Default)]
struct Growing {
    index: u64,
    width: u16,
    bytes: Vec<u8>,
}

impl Growing {
    /// What it was, once it is full; then the next one begins.
    fn grown(
        &mut self,
        kind: TileKind,
        spare: &mut Vec<Vec<u8>>,
        add: impl FnOnce(&mut Vec<u8>),
    ) -> Option<(Tile, Vec<u8>)> {
        add(&mut self.bytes);
        self.width += 1;
        if self.width < FULL {
            return None;
        }
        let full = Tile::full(kind, self.index);
        let bytes = std::mem::replace(&mut self.bytes, spare.pop().unwrap_or_default());
        self.index += 1;
        self.width = 0;
        Some((full, bytes))
    }
}

impl Tiling {
    pub(crate) fn new(bundles: bool) -> Self {
        Self {
            levels: Vec::new(),
            entries: bundles.then(Growing::default),
            full: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Leaves out the bundles before this one.
    pub(crate) fn bundles_from(mut self, bundle: u64) -> Self {
        if let Some(entries) = &mut self.entries {
            entries.index = bundle;
        }
        self
    }

    /// The tiling of a tree of `size` leaves, a multiple of 256, and that tree, from its full tiles.
    pub(crate) fn resume<E>(
        size: u64,
        bundles: bool,
        mut read: impl FnMut(Tile) -> Result<Vec<u8>, E>,
    ) -> Result<(Self, Frontier), E> {
        let mut tiling = Self::new(bundles).bundles_from(size / u64::from(FULL));
        let mut nodes = Vec::new();
        for level in 0..=MAX_LEVEL {
            let count = TileKind::Hashes(level).count(size);
            if count == 0 {
                break;
            }
            let mut growing = Growing { index: count / u64::from(FULL), ..Growing::default() };
            for below in growing.index * u64::from(FULL)..count {
                // At level 0 there is nothing to read: the size is a whole number of tiles.
                let tile = read(Tile::full(TileKind::Hashes(level - 1), below))?;
                let root = hashes(&tile).collect::<Frontier>().root();
                growing.bytes.extend_from_slice(root.as_bytes());
                growing.width += 1;
            }
            let right: Frontier = hashes(&growing.bytes).collect();
            nodes.splice(0..0, right.nodes().iter().copied());
            tiling.levels.push(growing);
        }
        let tree = Frontier::from_parts(size, nodes).unwrap_or_default();
        Ok((tiling, tree))
    }

    /// Appends a leaf to `tree` and to the tiles. Answers what [`Frontier::push`] does.
    pub(crate) fn push(&mut self, tree: &mut Frontier, leaf: Hash, record: &[u8]) -> Hash {
        if let Some(entries) = &mut self.entries
            && tree.size() >= entries.index * u64::from(FULL)
        {
            self.full
                .extend(entries.grown(TileKind::Entries, &mut self.spare, |bytes| push_entry(bytes, record)));
        }
        // The nodes that stand in tiles are those whose height is a multiple of eight: none is hashed a second time.
        tree.push_showing(leaf, |height, node| {
            if height % 8 == 0 {
                self.node(height / 8, node);
            }
        })
    }

    fn node(&mut self, level: u8, node: Hash) {
        let at = usize::from(level);
        if self.levels.len() == at {
            let bytes = Vec::with_capacity(usize::from(FULL) * HASH);
            self.levels.push(Growing { bytes, ..Growing::default() });
        }
        if let Some(growing) = self.levels.get_mut(at) {
            let full = growing.grown(TileKind::Hashes(level), &mut self.spare, |bytes| {
                bytes.extend_from_slice(node.as_bytes())
            });
            self.full.extend(full);
        }
    }

    /// The tiles and bundles that have become full since it was last asked.
    pub(crate) fn take_full(&mut self) -> Vec<(Tile, Vec<u8>)> {
        std::mem::take(&mut self.full)
    }

    /// Takes back what a full tile was in: large pieces of memory cost more to get than to fill.
    pub(crate) fn recycle(&mut self, mut bytes: Vec<u8>) {
        if self.spare.len() < 2 {
            bytes.clear();
            self.spare.push(bytes);
        }
    }

    /// Whether any has become full since then.
    pub(crate) const fn has_full(&self) -> bool {
        !self.full.is_empty()
    }

    /// The partial tiles and the partial bundle of the tree as it is.
    pub(crate) fn partials(&self) -> impl Iterator<Item = (Tile, &[u8])> {
        let levels = (0..=MAX_LEVEL).map(TileKind::Hashes).zip(&self.levels);
        let entries = self.entries.iter().map(|entries| (TileKind::Entries, entries));
        levels.chain(entries).filter(|(_, growing)| growing.width > 0).map(|(kind, growing)| {
            (Tile { kind, index: growing.index, width: growing.width }, growing.bytes.as_slice())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use super::*;

    /// By the specification's definition, from all leaves at once.
    fn defined(leaves: &[Hash], tile: Tile) -> Vec<u8> {
        let TileKind::Hashes(level) = tile.kind else { panic!("{tile}") };
        let each = 1_usize << (8 * level);
        let begin = usize::try_from(tile.start()).unwrap();
        let roots = leaves[begin..]
            .chunks_exact(each)
            .take(tile.width.into())
            .map(|leaves| leaves.iter().copied().collect::<Frontier>().root());
        roots.flat_map(|root| *root.as_bytes()).collect()
    }

    #[test]
    fn tiles_hold_what_the_specification_defines() {
        let record = |i: u64| format!("record {i}").into_bytes();
        let leaves: Vec<Hash> = (0..66_000).map(|i| Hash::leaf(&record(i))).collect();
        let (mut tree, mut tiling) = (Frontier::new(), Tiling::new(true));
        let mut stored = BTreeMap::new();
        for (i, leaf) in leaves.iter().enumerate() {
            tiling.push(&mut tree, *leaf, &record(i as u64));
            stored.extend(tiling.take_full());
            let size = i as u64 + 1;
            if [255, 256, 257, 600, 65_535, 65_536, 66_000].contains(&size) {
                for (tile, bytes) in tiling.partials().filter(|(tile, _)| tile.kind != TileKind::Entries) {
                    assert_eq!(bytes, defined(&leaves, tile), "{tile} at {size}");
                    assert_eq!(Tile::of(tile.kind, tile.index, size), Some(tile));
                }
            }
            if size.is_multiple_of(13_056) || size == 65_536 {
                let read = |tile| Ok::<_, Infallible>(Vec::clone(&stored[&tile]));
                let (resumed, again) = Tiling::resume(size, true, read).unwrap();
                assert_eq!(again, tree);
                assert!(resumed.partials().eq(tiling.partials()), "at {size}");
            }
        }
        for (tile, bytes) in &stored {
            match tile.kind {
                TileKind::Hashes(_) => assert_eq!(bytes, &defined(&leaves, *tile), "{tile}"),
                TileKind::Entries => {
                    let records: Vec<_> = (tile.start()..tile.end()).map(record).collect();
                    assert_eq!(crate::bundle_records(bytes).unwrap(), records);
                }
            }
        }
        assert_eq!(stored.len(), 257 + 1 + 257);
    }
}
