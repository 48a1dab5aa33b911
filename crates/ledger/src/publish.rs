//! The thread that publishes: tiles and bundles of what has been flushed, then the checkpoint that needs them, then the partial
//! tiles of the checkpoint before are removed.
//!
//! It reads the records back from the segments, so that it needs no memory of what was written while it was busy, and what it
//! signs is what a verifier will read. Nobody who appends or flushes waits for it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, PoisonError};

use crate::files::{private, private_dir, replace_name, sync_dir};
use crate::ledger::{CHECKPOINT, OnCheckpoint};
use crate::log::Disk;
use crate::reader::{Entries, Reader};
use crate::tile::{FULL, MAX_LEVEL, Tile, TileKind};
use crate::tiles;
use crate::tiling::Tiling;
use crate::writer::{AppendError, Shared, ThreadGuard};
use crate::{Checkpoint, Frontier, SigningKey};

/// How much is written before it is flushed, in bytes. A bundle may be larger.
const BATCH: usize = 4 * 1024 * 1024;

/// What is to be published, and who waits for it.
pub(crate) struct Seal {
    pub(crate) tree: Frontier,
    pub(crate) wanted: Vec<SyncSender<Result<Checkpoint, AppendError>>>,
}

pub(crate) struct Publisher {
    shared: Arc<Shared>,
    dir: PathBuf,
    key: SigningKey,
    on_checkpoint: Option<OnCheckpoint>,
    tiles: TileWriter,
}

impl Publisher {
    pub(crate) const fn new(
        shared: Arc<Shared>,
        dir: PathBuf,
        key: SigningKey,
        on_checkpoint: Option<OnCheckpoint>,
        tiles: TileWriter,
    ) -> Self {
        Self { shared, dir, key, on_checkpoint, tiles }
    }

    pub(crate) fn run(mut self) {
        let _guard = ThreadGuard(self.shared.clone());
        while let Some(Seal { tree, wanted }) = self.next() {
            let published = self.publish(&tree);
            let mut state = self.shared.lock();
            state.sealing = false;
            let answer = match &published {
                Ok((checkpoint, _)) => {
                    state.checkpointed = checkpoint.size;
                    state.unpublished = false;
                    state.checkpoint_failure = None;
                    Ok(checkpoint.clone())
                }
                Err(error) => {
                    let why: Arc<str> = format!("checkpoint: {}", causes(error)).into();
                    state.checkpoint_failure = Some(why.clone());
                    Err(AppendError::Failed(why))
                }
            };
            drop(state);
            self.shared.flush.notify_all();
            if let (Some(hear), Ok((_, note))) = (&mut self.on_checkpoint, &published) {
                hear(note);
            }
            wanted.into_iter().for_each(|wanted| drop(wanted.send(answer.clone())));
        }
    }

    /// Waits for something to publish; `None` when there will be nothing more.
    fn next(&self) -> Option<Seal> {
        let mut state = self.shared.lock();
        loop {
            if state.dead {
                return None;
            }
            if let Some(seal) = state.seal.take() {
                return Some(seal);
            }
            if state.flushed_out {
                return None;
            }
            state = self.shared.seal.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn publish(&mut self, tree: &Frontier) -> io::Result<(Checkpoint, String)> {
        self.tiles.advance(tree)?;
        let name = self.key.verifying_key().name();
        let checkpoint = Checkpoint { origin: name.to_owned(), size: tree.size(), root: tree.root() };
        let note = checkpoint.sign(&self.key).map_err(io::Error::other)?;
        replace_name(&self.dir.join(CHECKPOINT), note.as_bytes())?;
        self.tiles.sweep();
        Ok((checkpoint, note))
    }
}

/// An error with what caused it, in one line.
fn causes(error: &io::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Writes the tiles of a log, and goes on where an earlier process, or a full disk, had stopped.
pub(crate) struct TileWriter {
    dir: PathBuf,
    bundles: bool,
    disk: Disk,
    /// How many leaves' full tiles are known to be on the disk; `None` before anybody has looked.
    sound: Option<u64>,
    growing: Option<Growth>,
    /// The partial tiles of the newest checkpoint.
    partials: BTreeSet<Tile>,
    /// Those of the one before.
    superseded: BTreeSet<Tile>,
}

/// How far it has come.
struct Growth {
    entries: Entries,
    tiling: Tiling,
    tree: Frontier,
}

impl TileWriter {
    pub(crate) const fn new(dir: PathBuf, bundles: bool, disk: Disk) -> Self {
        Self {
            dir,
            bundles,
            disk,
            sound: None,
            growing: None,
            partials: BTreeSet::new(),
            superseded: BTreeSet::new(),
        }
    }

    /// Whether all tiles of a log of this size are there.
    pub(crate) fn has_all(&self, size: u64) -> io::Result<bool> {
        let mut right_edge =
            self.kinds().filter_map(|kind| Tile::of(kind, kind.count(size) / u64::from(FULL), size));
        let partials = right_edge.all(|tile| self.dir.join(tile.path()).exists());
        Ok(partials && self.complete(size)? == size / u64::from(FULL) * u64::from(FULL))
    }

    fn kinds(&self) -> impl Iterator<Item = TileKind> + use<> {
        (0..=MAX_LEVEL).map(TileKind::Hashes).chain(self.bundles.then_some(TileKind::Entries))
    }

    /// Writes whatever tiles the log has as `tree`, which has been flushed.
    fn advance(&mut self, tree: &Frontier) -> io::Result<()> {
        let mut growth = match self.growing.take() {
            Some(growth) => growth,
            None => self.resume(tree.size())?,
        };
        let mut bytes = 0;
        while growth.tree.size() < tree.size() {
            let entry = growth.entries.next().unwrap_or_else(|| Err(growth.entries.ends_early()));
            let entry = entry.map_err(io::Error::other)?;
            growth.tiling.push(&mut growth.tree, entry.leaf(), &entry.record);
            bytes += entry.record.len();
            if bytes >= BATCH && growth.tiling.has_full() {
                self.store_full(&mut growth)?;
                bytes = 0;
            }
        }
        self.store_full(&mut growth)?;
        if growth.tree != *tree {
            return Err(io::Error::other("the segments do not hold what was written: verify the log"));
        }
        let partials: Vec<(Tile, Vec<u8>)> = growth
            .tiling
            .partials()
            .filter(|(tile, _)| !self.partials.contains(tile))
            .map(|(tile, bytes)| (tile, bytes.to_vec()))
            .collect();
        let now = growth.tiling.partials().map(|(tile, _)| tile).collect();
        self.store(&partials)?;
        let before = std::mem::replace(&mut self.partials, now);
        self.superseded.extend(before.difference(&self.partials));
        self.growing = Some(growth);
        Ok(())
    }

    /// Goes on behind the last full tile with none missing before it.
    fn resume(&mut self, size: u64) -> io::Result<Growth> {
        let sound = match self.sound {
            Some(sound) => sound,
            None => {
                self.superseded = self.partial_files()?;
                self.complete(size)?
            }
        };
        // Anything partial is written anew: nobody knows whether it was whole.
        self.partials.clear();
        let (tiling, tree) = Tiling::resume(sound, self.bundles, |tile| {
            let bytes = tiles::read_exactly(&self.dir, tile).map_err(io::Error::other)?;
            bytes.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{tile} is gone")))
        })?;
        let entries = Reader::new(&self.dir).entries(sound).map_err(io::Error::other)?;
        self.sound = Some(sound);
        Ok(Growth { entries, tiling, tree })
    }

    /// How many leaves, a multiple of 256, have all their full tiles and bundles.
    fn complete(&self, size: u64) -> io::Result<u64> {
        let mut sound = size / u64::from(FULL) * u64::from(FULL);
        for kind in self.kinds() {
            let first_missing = Tile::full(kind, tiles::complete(&self.dir, kind)?);
            sound = sound.min(if first_missing.end() > size { sound } else { first_missing.start() });
        }
        Ok(sound)
    }

    fn partial_files(&self) -> io::Result<BTreeSet<Tile>> {
        let mut found = BTreeSet::new();
        tiles::walk(&self.dir, &mut |tile| found.extend(tile.ok().filter(|tile| !tile.is_full())))?;
        Ok(found)
    }

    fn store_full(&mut self, growth: &mut Growth) -> io::Result<()> {
        self.store(&growth.tiling.take_full())?;
        self.sound = Some(growth.tree.size() / u64::from(FULL) * u64::from(FULL));
        Ok(())
    }

    /// Writes files so that each is there whole or not at all, durably, also across a power cut.
    fn store(&mut self, tiles: &[(Tile, Vec<u8>)]) -> io::Result<()> {
        let mut written: Vec<(PathBuf, PathBuf, File)> = Vec::new();
        let mut dirs = BTreeSet::new();
        for (tile, bytes) in tiles {
            let path = self.dir.join(tile.path());
            if tile.is_full() && self.is_there(*tile, bytes)? {
                continue;
            }
            let parent = path.parent().unwrap_or(&self.dir);
            if !parent.is_dir() {
                private_dir(parent)?;
                let above = parent.ancestors().skip(1).take_while(|above| above.starts_with(&self.dir));
                dirs.extend(above.map(Path::to_path_buf));
            }
            dirs.insert(parent.to_path_buf());
            let temporary = path.with_extension("tmp");
            let file = self.disk.put(&temporary, bytes)?;
            written.push((temporary, path, file));
        }
        // All are written before the first is flushed, which then flushes most of the others too.
        for (_, _, file) in &written {
            file.sync_all()?;
        }
        for (temporary, path, _) in &written {
            fs::rename(temporary, path)?;
        }
        dirs.iter().try_for_each(|dir| sync_dir(dir))
    }

    /// Whether this full tile is stored already. One with other content is nothing to write over: it is evidence.
    fn is_there(&self, tile: Tile, bytes: &[u8]) -> io::Result<bool> {
        match tiles::read_exactly(&self.dir, tile) {
            Ok(None) => Ok(false),
            Ok(Some(stored)) if stored == bytes => Ok(true),
            Ok(Some(_)) => {
                let path = self.dir.join(tile.path());
                Err(io::Error::other(format!("{} is not of this log: verify it", path.display())))
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Removes the partial tiles that no checkpoint needs any more. What cannot be removed now is harmless, and is
    /// removed by the next process.
    fn sweep(&mut self) {
        for tile in std::mem::take(&mut self.superseded).difference(&self.partials) {
            let path = self.dir.join(tile.path());
            let _ = fs::remove_file(&path);
            // Only when nothing is left in it.
            let _ = path.parent().map(fs::remove_dir);
        }
    }
}

impl Disk {
    /// Writes a new file, or over what a failed attempt left of it.
    fn put(&self, path: &Path, bytes: &[u8]) -> io::Result<File> {
        #[cfg(test)]
        self.refuse_tiles()?;
        let mut file = private(File::options().write(true).create(true).truncate(true)).open(path)?;
        file.write_all(bytes)?;
        Ok(file)
    }
}
