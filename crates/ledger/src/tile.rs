//! Tiles and entry bundles of C2SP [tlog-tiles](https://c2sp.org/tlog-tiles): their names and their bytes. Sans-I/O.

use std::fmt;
use std::str::FromStr;

use crate::Hash;

/// How many hashes a full tile has, and how many entries a full bundle.
pub(crate) const FULL: u16 = 256;
/// The highest level that a log of 2⁶⁴ entries can have.
pub(crate) const MAX_LEVEL: u8 = 7;
/// The bytes of one hash.
pub(crate) const HASH: usize = 32;

/// One tile or bundle, named by its path below the log's prefix: `tile/0/x001/x234/067`, `tile/entries/000.p/17`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Tile {
    /// What is in it.
    pub kind: TileKind,
    /// Its index among those of its kind, from zero.
    pub index: u64,
    /// How many hashes or entries it has: 1 to 256, where 256 is a full one.
    pub width: u16,
}

/// What a tile holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TileKind {
    /// Hashes of this level, 0 to 7: each is the root over 256^level leaves.
    Hashes(u8),
    /// Entries: each a length (two bytes, big-endian) and a record.
    Entries,
}

impl TileKind {
    /// How many bits an index is shifted by to become a leaf's: each hash covers 2^shift leaves.
    const fn shift(self) -> u32 {
        match self {
            Self::Hashes(level) => 8 * level as u32,
            Self::Entries => 0,
        }
    }

    /// How many hashes or entries of this kind a log of `size` entries has.
    pub(crate) const fn count(self, size: u64) -> u64 {
        // No log has hashes of a higher level than its size has bits for.
        match size.checked_shr(self.shift()) {
            Some(count) => count,
            None => 0,
        }
    }
}

impl Tile {
    pub(crate) const fn full(kind: TileKind, index: u64) -> Self {
        Self { kind, index, width: FULL }
    }

    /// The tile with this index in a log of `size` entries, as wide as it is then; `None` when it has none.
    #[must_use]
    pub fn of(kind: TileKind, index: u64, size: u64) -> Option<Self> {
        let begin = index.checked_mul(u64::from(FULL))?;
        let there = kind.count(size).checked_sub(begin).filter(|there| *there > 0)?;
        Some(Self { kind, index, width: u16::try_from(there).unwrap_or(FULL).min(FULL) })
    }

    /// Whether it has all the hashes or entries that it can have.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.width == FULL
    }

    /// The index of the first leaf it covers.
    #[must_use]
    pub fn start(&self) -> u64 {
        leaves(u128::from(self.index) * u128::from(FULL), self.kind)
    }

    /// How many entries a log has at least that has this tile: the index after the last leaf it covers.
    #[must_use]
    pub fn end(&self) -> u64 {
        leaves(u128::from(self.index) * u128::from(FULL) + u128::from(self.width), self.kind)
    }

    /// Its path below the log's prefix.
    #[must_use]
    pub fn path(&self) -> String {
        self.to_string()
    }
}

fn leaves(count: u128, kind: TileKind) -> u64 {
    let each = 1_u128.checked_shl(kind.shift());
    let leaves = each.and_then(|each| count.checked_mul(each));
    leaves.and_then(|leaves| u64::try_from(leaves).ok()).unwrap_or(u64::MAX)
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TileKind::Hashes(level) => write!(f, "tile/{level}/")?,
            TileKind::Entries => f.write_str("tile/entries/")?,
        }
        let mut groups = vec![self.index % 1000];
        let mut rest = self.index / 1000;
        while rest > 0 {
            groups.push(rest % 1000);
            rest /= 1000;
        }
        for group in groups[1..].iter().rev() {
            write!(f, "x{group:03}/")?;
        }
        write!(f, "{:03}", groups[0])?;
        if self.is_full() { Ok(()) } else { write!(f, ".p/{}", self.width) }
    }
}

/// The text is not the path of a tile or bundle, as tlog-tiles writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no path of a tile")]
pub struct ParseTileError;

impl FromStr for Tile {
    type Err = ParseTileError;

    fn from_str(path: &str) -> Result<Self, ParseTileError> {
        let parse = || {
            let (kind, rest) = path.strip_prefix("tile/")?.split_once('/')?;
            let kind = match kind {
                "entries" => TileKind::Entries,
                level => TileKind::Hashes(level.parse().ok().filter(|level: &u8| *level <= MAX_LEVEL)?),
            };
            let (index, width) = match rest.split_once(".p/") {
                None => (rest, FULL),
                Some((index, width)) => {
                    (index, width.parse().ok().filter(|width| (1..FULL).contains(width))?)
                }
            };
            let index = index.split('/').try_fold(0_u64, |index, group| {
                let digits = group.strip_prefix('x').unwrap_or(group);
                let group = digits.parse::<u64>().ok().filter(|group| *group < 1000)?;
                index.checked_mul(1000)?.checked_add(group)
            })?;
            Some(Self { kind, index, width })
        };
        // There is one way to write each; whatever else could be read as one is none.
        parse().filter(|tile| tile.to_string() == path).ok_or(ParseTileError)
    }
}

/// Appends one entry to a bundle.
pub(crate) fn push_entry(bundle: &mut Vec<u8>, record: &[u8]) {
    bundle.extend_from_slice(&entry_length(record));
    bundle.extend_from_slice(record);
}

/// What stands before a record in a bundle. Its length has been checked by whoever accepted it.
#[expect(clippy::cast_possible_truncation, reason = "at most MAX_RECORD, checked when it was accepted")]
pub(crate) const fn entry_length(record: &[u8]) -> [u8; 2] {
    (record.len() as u16).to_be_bytes()
}

/// Why some bytes are not a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// They end within an entry.
    #[error("the bundle ends within an entry")]
    Truncated,
    /// There are more entries than a bundle has.
    #[error("the bundle has more than 256 entries")]
    TooMany,
}

/// The records in an entry bundle, in order: at most 256.
///
/// # Errors
/// When it is none.
pub fn bundle_records(mut bundle: &[u8]) -> Result<Vec<&[u8]>, BundleError> {
    let mut records = Vec::new();
    while !bundle.is_empty() {
        if records.len() == usize::from(FULL) {
            return Err(BundleError::TooMany);
        }
        let (length, rest) = bundle.split_first_chunk::<2>().ok_or(BundleError::Truncated)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (record, rest) = rest.split_at_checked(length).ok_or(BundleError::Truncated)?;
        records.push(record);
        bundle = rest;
    }
    Ok(records)
}

/// The first `width` hashes or entries of a tile's bytes: a narrower partial tile. `None` when it has not that many.
pub(crate) fn cut(kind: TileKind, mut bytes: Vec<u8>, width: u16) -> Option<Vec<u8>> {
    let end = match kind {
        TileKind::Hashes(_) => usize::from(width) * HASH,
        TileKind::Entries => {
            let mut end = 0;
            for _ in 0..width {
                let length = bytes.get(end..)?.first_chunk::<2>()?;
                end += 2 + usize::from(u16::from_be_bytes(*length));
            }
            end
        }
    };
    (end <= bytes.len()).then(|| {
        bytes.truncate(end);
        bytes
    })
}

/// The hashes in a tile's bytes.
pub(crate) fn hashes(bytes: &[u8]) -> impl DoubleEndedIterator<Item = Hash> + ExactSizeIterator + '_ {
    bytes.chunks_exact(HASH).map(|hash| {
        let mut bytes = [0; HASH];
        bytes.copy_from_slice(hash);
        Hash::new(bytes)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tile(kind: TileKind, index: u64, width: u16) -> Tile {
        Tile { kind, index, width }
    }

    #[test]
    fn paths_are_those_of_the_specification() {
        let check = |tile: Tile, path: &str| {
            assert_eq!(tile.path(), path);
            assert_eq!(path.parse(), Ok(tile));
        };
        check(tile(TileKind::Hashes(0), 1_234_067, 256), "tile/0/x001/x234/067");
        check(tile(TileKind::Hashes(1), 0, 17), "tile/1/000.p/17");
        check(tile(TileKind::Entries, 999, 256), "tile/entries/999");
        check(tile(TileKind::Entries, 1000, 112), "tile/entries/x001/000.p/112");
        for wrong in [
            "tile/8/000",
            "tile/0/0",
            "tile/0/x000/001",
            "tile/0/001/002",
            "tile/00/001",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/07",
            "tile/0/000.p/+7",
            "tile/0/+00",
            "tile/0/",
            "tile/0/../checkpoint",
            "checkpoint",
            "tile/entries/x1/000",
            "",
        ] {
            assert_eq!(wrong.parse::<Tile>(), Err(ParseTileError), "{wrong}");
        }
    }

    #[test]
    fn the_tiles_of_a_tree_are_those_of_the_specification() {
        // Its examples: trees of 70,000 and of 256 leaves.
        let check = |kind, index, size, width: Option<u16>| {
            assert_eq!(Tile::of(kind, index, size).map(|tile| tile.width), width, "{kind:?} {index} {size}");
        };
        check(TileKind::Hashes(0), 272, 70_000, Some(256));
        check(TileKind::Hashes(0), 273, 70_000, Some(112));
        check(TileKind::Hashes(0), 274, 70_000, None);
        check(TileKind::Hashes(1), 0, 70_000, Some(256));
        check(TileKind::Hashes(1), 1, 70_000, Some(17));
        check(TileKind::Hashes(2), 0, 70_000, Some(1));
        check(TileKind::Hashes(3), 0, 70_000, None);
        check(TileKind::Hashes(7), 0, u64::MAX, Some(255));
        check(TileKind::Hashes(8), 0, u64::MAX, None);
        check(TileKind::Hashes(u8::MAX), 0, u64::MAX, None);
        check(TileKind::Hashes(0), 0, 256, Some(256));
        check(TileKind::Hashes(1), 0, 256, Some(1));
        let last = tile(TileKind::Hashes(2), 0, 1);
        assert_eq!((last.start(), last.end()), (0, 65_536));
        assert_eq!(tile(TileKind::Hashes(7), u64::MAX, 256).end(), u64::MAX);
    }

    proptest! {
        #[test]
        fn any_tile_has_one_path(level in 0_u8..=8, index in any::<u64>(), small in any::<bool>(), width in 1_u16..=256) {
            let kind = if level == 8 { TileKind::Entries } else { TileKind::Hashes(level) };
            let tile = tile(kind, if small { index % 5000 } else { index }, width);
            prop_assert_eq!(tile.path().parse(), Ok(tile));
        }

        #[test]
        fn bundles_round_trip_and_are_cut(records in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 1..40), width in any::<u16>()) {
            let mut bundle = Vec::new();
            records.iter().for_each(|record| push_entry(&mut bundle, record));
            prop_assert_eq!(bundle_records(&bundle).unwrap(), records.iter().map(Vec::as_slice).collect::<Vec<_>>());
            prop_assert!(bundle_records(&bundle[..bundle.len() - 1]).is_err());
            let width = 1 + width % u16::try_from(records.len()).unwrap();
            let short = cut(TileKind::Entries, bundle.clone(), width).unwrap();
            prop_assert_eq!(bundle_records(&short).unwrap().len(), usize::from(width));
            prop_assert!(bundle.starts_with(&short));
            prop_assert_eq!(cut(TileKind::Entries, short, width + 1), None);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), path in "(tile/)?[0-9a-z]{0,9}(/x?[0-9]{0,4}){0,3}(\\.p/[0-9]{0,4})?") {
            let _ = bundle_records(&bytes);
            let _ = cut(TileKind::Entries, bytes, 3);
            if let Ok(tile) = path.parse::<Tile>() {
                prop_assert_eq!(tile.path(), path);
            }
        }
    }
}
