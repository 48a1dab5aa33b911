//! Tiles and entry bundles as they are stored, and proofs from them.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::files;
use crate::replay::{Fault, FaultKind, ReadError};
use crate::tile::{FULL, HASH, MAX_LEVEL, Tile, TileKind, cut, hashes};
use crate::{Frontier, Hash, MAX_RECORD, Subtrees};

/// The tiles of a log of a given size, for proofs that do not read the log: an inclusion or consistency proof reads at
/// most two tiles of each level, and there is a level for every 256-fold of the size.
///
/// What comes out is as good as what is stored: check a proof against a signed checkpoint, as whoever gets it will.
#[derive(Debug)]
pub struct Tiles {
    dir: PathBuf,
    size: u64,
    /// Those read last. One proof asks for the same few again and again.
    read: RefCell<Vec<(Tile, Rc<[u8]>)>>,
}

/// How many tiles are remembered: two of each level.
const REMEMBERED: usize = 2 * (MAX_LEVEL as usize + 1);

impl Tiles {
    pub(crate) fn new(dir: PathBuf, size: u64) -> Self {
        Self { dir, size, read: RefCell::default() }
    }

    /// The root over the 2^height leaves from `first` on, which is a multiple of that.
    fn perfect(&self, first: u64, height: u32) -> Result<Hash, ReadError> {
        let level = height / 8;
        let kind = TileKind::Hashes(u8::try_from(level).unwrap_or(MAX_LEVEL));
        let nth = first >> (8 * level);
        let tile = self.tile(kind, nth / u64::from(FULL))?;
        let begin = usize::try_from(nth % u64::from(FULL)).unwrap_or_default();
        let wanted = hashes(&tile).skip(begin).take(1 << (height % 8));
        Ok(wanted.collect::<Frontier>().root())
    }

    #[cfg(test)]
    pub(crate) fn files_read(&self) -> usize {
        self.read.borrow().len()
    }

    fn tile(&self, kind: TileKind, index: u64) -> Result<Rc<[u8]>, ReadError> {
        let Some(tile) = Tile::of(kind, index, self.size) else {
            return Err(fault(
                &self.dir,
                Tile::full(kind, index),
                FaultKind::Truncated,
                "the log has not so many records",
            )
            .into());
        };
        let mut read = self.read.borrow_mut();
        if let Some((_, bytes)) = read.iter().find(|(known, _)| *known == tile) {
            return Ok(bytes.clone());
        }
        let bytes: Rc<[u8]> = match stored(&self.dir, tile)? {
            Some(bytes) => bytes.into(),
            None => return Err(fault(&self.dir, tile, FaultKind::Removed, "the tile is gone").into()),
        };
        if read.len() == REMEMBERED {
            read.remove(0);
        }
        read.push((tile, bytes.clone()));
        Ok(bytes)
    }
}

impl Subtrees for Tiles {
    type Error = ReadError;

    fn subtree(&self, leaves: Range<u64>) -> Result<Hash, ReadError> {
        // The perfect sub-trees that the range consists of, from the left: their sizes only fall.
        let mut nodes = Vec::new();
        let mut first = leaves.start;
        while first < leaves.end {
            let height = (leaves.end - first).ilog2();
            nodes.push(self.perfect(first, height)?);
            first += 1 << height;
        }
        let tree = Frontier::from_parts(leaves.end.saturating_sub(leaves.start), nodes).unwrap_or_default();
        Ok(tree.root())
    }
}

/// A stored tile's bytes, cut out of a wider one where need be; `None` when none is stored that is wide enough.
pub(crate) fn stored(dir: &Path, tile: Tile) -> Result<Option<Vec<u8>>, ReadError> {
    // Each of these may be superseded, and gone, by the time it is read; then a wider one is there.
    for _ in 0..ATTEMPTS {
        for candidate in [tile, Tile { width: FULL, ..tile }] {
            if let Some(bytes) = read_exactly(dir, candidate)? {
                return Ok(cut(tile.kind, bytes, tile.width));
            }
        }
        let wider = partials_of(dir, tile)?.into_iter().filter(|width| *width > tile.width).min();
        let Some(width) = wider else { break };
        if let Some(bytes) = read_exactly(dir, Tile { width, ..tile })? {
            return Ok(cut(tile.kind, bytes, tile.width));
        }
    }
    let bytes = read_exactly(dir, Tile { width: FULL, ..tile })?;
    Ok(bytes.and_then(|bytes| cut(tile.kind, bytes, tile.width)))
}

/// How often a tile is looked for while a ledger in use replaces it. Each time takes that ledger several flushes.
const ATTEMPTS: usize = 16;

/// The tile's own file, if there is one.
pub(crate) fn read_exactly(dir: &Path, tile: Tile) -> Result<Option<Vec<u8>>, ReadError> {
    let (most, path) = (most_bytes(tile), dir.join(tile.path()));
    match files::read(&path, most) {
        Ok(bytes) if matches!(tile.kind, TileKind::Hashes(_)) && bytes.len() != most => {
            Err(wrong_length(dir, tile).into())
        }
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Err(wrong_length(dir, tile).into()),
        Err(error) => Err(ReadError::io(&path)(error)),
    }
}

/// How long a tile's file can be, in bytes. That of hashes is as long.
fn most_bytes(tile: Tile) -> usize {
    let each = match tile.kind {
        TileKind::Hashes(_) => HASH,
        TileKind::Entries => 2 + MAX_RECORD,
    };
    usize::from(tile.width) * each
}

fn wrong_length(dir: &Path, tile: Tile) -> Fault {
    fault(dir, tile, FaultKind::Edited, "the tile's length is not its width's")
}

/// How wide the stored partial tiles with this one's index are.
pub(crate) fn partials_of(dir: &Path, tile: Tile) -> Result<Vec<u16>, ReadError> {
    let full = Tile { width: FULL, ..tile }.path();
    let partials = dir.join(format!("{full}.p"));
    let names = names(&partials).map_err(ReadError::io(&partials))?;
    let tiles = names.iter().filter_map(|name| format!("{full}.p/{name}").parse::<Tile>().ok());
    Ok(tiles.map(|tile| tile.width).collect())
}

pub(crate) fn fault(dir: &Path, tile: Tile, kind: FaultKind, detail: &str) -> Fault {
    let (index, file) = (tile.start(), dir.join(tile.path()));
    let detail = format!("{detail} (it is over the records {} to {})", tile.start(), tile.end() - 1);
    Fault { kind, index, file, offset: 0, detail }
}

/// How many tiles of this kind are stored from the first on with none missing.
pub(crate) fn complete(dir: &Path, kind: TileKind) -> io::Result<u64> {
    let mut index = 0;
    loop {
        // One directory holds a thousand.
        let path = dir.join(Tile::full(kind, index).path());
        let names = names(path.parent().unwrap_or(dir))?;
        let mut there = [false; 1000];
        for name in names {
            if let Some(place) = name.parse::<usize>().ok().and_then(|nth| there.get_mut(nth)) {
                *place = name.len() == 3;
            }
        }
        match there.iter().position(|there| !there) {
            Some(missing) => return Ok(index + missing as u64),
            None => index += 1000,
        }
    }
}

/// Everything below `tile/` that is no directory: the files that are tiles, and the paths of whatever else is there. No symbolic
/// link is followed, and no directory that lies deeper than tiles do.
pub(crate) fn walk(dir: &Path, see: &mut impl FnMut(Result<Tile, &Path>)) -> io::Result<()> {
    let mut below = vec![("tile".to_owned(), 0)];
    while let Some((parent, depth)) = below.pop() {
        let entries = match fs::read_dir(dir.join(&parent)) {
            Ok(entries) => entries,
            // A ledger in use removes directories of partial tiles.
            Err(error) if is_missing(&error) => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let path = name.to_str().map(|name| format!("{parent}/{name}"));
            match (entry.file_type(), path) {
                (Ok(kind), Some(path)) if kind.is_dir() && depth < DEEPEST => below.push((path, depth + 1)),
                (Ok(kind), Some(path)) if kind.is_file() => match path.parse::<Tile>() {
                    Ok(tile) => see(Ok(tile)),
                    Err(_) => see(Err(&entry.path())),
                },
                (Ok(_), _) => see(Err(&entry.path())),
                (Err(error), _) if is_missing(&error) => {}
                (Err(error), _) => return Err(error),
            }
        }
    }
    Ok(())
}

/// How many directories a tile's path has at most below `tile/`: its kind, six groups of digits, and `NNN.p`.
const DEEPEST: usize = 8;

/// How many records the log has had at least, if the tiles that are stored are its own: they are written only of what is on
/// the disk.
pub(crate) fn claimed(dir: &Path) -> io::Result<Option<Tile>> {
    let mut last: Option<Tile> = None;
    walk(dir, &mut |tile| {
        let tile = tile.ok().filter(|tile| last.is_none_or(|last| tile.end() > last.end()));
        last = tile.or(last);
    })?;
    Ok(last)
}

/// What is in a directory; nothing when it is not there (any more).
pub(crate) fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if is_missing(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

pub(crate) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
