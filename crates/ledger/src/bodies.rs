//! Bodies, stored beside the log under the SHA-256 of their content: `bodies/ab/abcdef….body`.
//!
//! A record names a body by its digest, so the log vouches for the body without containing it, and retention can drop
//! a body without breaking the log. How one is stored, compressed and encrypted, is in `body.rs`; a file without the suffix is one
//! of an earlier version, and is the content itself.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};

use crate::body::{BodyKeys, Decoder, Encoder, decoder, is_whole};
use crate::files::{private, private_dir, sync_dir};
use crate::live::{LiveBody, LiveReader};
use crate::tiles::names;
use crate::{Durability, Hash};

/// The largest body that [`Bodies::read`] takes into memory, in bytes: 64 MiB. Larger ones are read through [`Bodies::open`].
pub const MAX_BODY_READ: u64 = 64 * 1024 * 1024;

/// A directory of bodies. Cheap to clone; may be used from many threads and processes at once.
#[derive(Debug, Clone)]
pub struct Bodies {
    dir: PathBuf,
    keys: BodyKeys,
}

/// A body that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredBody {
    /// The SHA-256 of its content.
    pub digest: Hash,
    /// When it was last put there.
    pub modified: SystemTime,
    /// How many bytes its file has: usually far fewer than its content.
    pub bytes: u64,
}

impl Bodies {
    pub(crate) const fn new(dir: PathBuf, keys: BodyKeys) -> Self {
        Self { dir, keys }
    }

    /// Stores `body` and answers its digest. Blocks on the disk. What is there already is read, and written anew if it is not
    /// this body.
    ///
    /// # Errors
    /// When it cannot be written; nothing half-written is left under its name.
    pub fn put(&self, body: &[u8], durability: Durability) -> io::Result<Hash> {
        let digest = Hash::of(body);
        if self.has(digest, durability)? {
            return Ok(digest);
        }
        let mut writer = self.writer()?;
        writer.write_all(body)?;
        writer.finish(durability)
    }

    /// Begins a body that is read while it grows, in a file of its own, encrypted if there is a key.
    ///
    /// # Errors
    /// When the file is there already, or cannot be made.
    pub fn begin_live(&self, file: &Path) -> io::Result<LiveBody> {
        LiveBody::create(file, &self.keys)
    }

    /// Reads a body that grows, or one that a crash cut short, as far as it has got.
    ///
    /// # Errors
    /// When the file is not there, or cannot be opened.
    pub fn open_live(&self, file: &Path) -> io::Result<LiveReader> {
        LiveReader::open(file, &self.keys)
    }

    /// Reads a body that has been written to its end, but not [stored](Self::adopt) yet, as [`Bodies::open`] reads one that is.
    ///
    /// # Errors
    /// When the file is not there, or cannot be opened.
    pub fn open_ended(&self, file: &Path, expected: Hash) -> io::Result<BodyReader> {
        Ok(BodyReader::new(Source::Ended(self.open_live(file)?), expected))
    }

    /// Stores what has been written to `file` by [`Bodies::begin_live`] or as it is, and then removes the file: a crash in between
    /// leaves both. Takes a few MiB of memory.
    ///
    /// # Errors
    /// `InvalidData` when it is not what `expected` says, or another when it cannot be read or stored: then it stays.
    pub fn adopt(&self, file: &Path, expected: Hash) -> io::Result<()> {
        let mut writer = self.writer()?;
        io::copy(&mut BufReader::with_capacity(READ, self.open_live(file)?), &mut writer)?;
        if writer.digest() != expected {
            let what = format!("{} is not what its record says", file.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        writer.finish(Durability::Fsync)?;
        fs::remove_file(file)
    }

    /// Has retention count from now on again, as putting the body again does; whether there is one, written to its end. Its
    /// content is not looked at.
    ///
    /// # Errors
    /// When its file cannot be touched.
    pub fn refresh(&self, digest: Hash) -> io::Result<bool> {
        self.touch(digest, Durability::Write)
    }

    /// A body that is written little by little.
    ///
    /// # Errors
    /// When its file cannot be made.
    pub fn writer(&self) -> io::Result<BodyWriter> {
        static UNIQUE: AtomicU64 = AtomicU64::new(0);
        private_dir(&self.dir)?;
        let name = format!("{}-{}.tmp", std::process::id(), UNIQUE.fetch_add(1, Ordering::Relaxed));
        let temporary = self.dir.join(name);
        let file = private(File::options().write(true).create_new(true)).open(&temporary)?;
        let unfinished = Unfinished(temporary);
        let encoder = Encoder::new(BufWriter::new(file), &self.keys)?;
        Ok(BodyWriter { bodies: self.clone(), digest: Context::new(&SHA256), encoder, unfinished })
    }

    /// The body with this digest: `None` when there is none (any more), an error when what is stored is another.
    ///
    /// # Errors
    /// When it cannot be read, was changed, is encrypted with a key that is not there, or is larger than [`MAX_BODY_READ`].
    pub fn read(&self, digest: Hash) -> io::Result<Option<Vec<u8>>> {
        let Some(body) = self.open(digest)? else { return Ok(None) };
        let mut bytes = Vec::new();
        body.take(MAX_BODY_READ + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_BODY_READ {
            let what =
                format!("the body {digest} is larger than {MAX_BODY_READ} bytes: read it piece by piece");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
        }
        Ok(Some(bytes))
    }

    /// The body with this digest, to be read piece by piece in a few MiB of memory; `None` when there is none (any more).
    ///
    /// Whether it is the right one is known at its end: believe nothing of it before `read` has answered 0.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(&self, digest: Hash) -> io::Result<Option<BodyReader>> {
        for path in [self.file(digest), self.plain(digest)] {
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let source = if path.extension().is_some() {
                Source::Stored(Box::new(decoder(BufReader::new(file), &self.keys)?))
            } else {
                Source::Plain(file)
            };
            return Ok(Some(BodyReader::new(source, digest)));
        }
        Ok(None)
    }

    /// Whether the body with this digest is stored, read whole and found to be what it should. Takes a few MiB of memory.
    ///
    /// # Errors
    /// When it cannot be read, or was changed.
    pub fn verify(&self, digest: Hash) -> io::Result<bool> {
        match self.open(digest)? {
            None => Ok(false),
            Some(mut body) => io::copy(&mut body, &mut io::sink()).map(|_| true),
        }
    }

    /// Where the body with this digest is stored, if it is: the file that [`Bodies::open`] reads.
    #[must_use]
    pub fn path(&self, digest: Hash) -> PathBuf {
        let (stored, plain) = (self.file(digest), self.plain(digest));
        if !stored.exists() && plain.exists() { plain } else { stored }
    }

    /// Drops the body with this digest; whether there was one. The log stays provable: it has the digest.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, digest: Hash) -> io::Result<bool> {
        let mut removed = false;
        for path in [self.file(digest), self.plain(digest)] {
            removed |= remove_if_there(&path)?;
        }
        Ok(removed)
    }

    /// Shows each stored body, in no order, and drops those of which `keep` says no: retention. A body that is put again is
    /// as young as one that is put the first time. Answers how many were dropped, and how many bytes of disk they had.
    ///
    /// Others may put bodies meanwhile. A body's file is first given another name, and looked at again: whoever puts the body has
    /// either made it younger by then, so that it gets its name back, or finds it gone, and writes it anew.
    ///
    /// # Errors
    /// When the directory cannot be read, or a body not be removed.
    pub fn retain(&self, mut keep: impl FnMut(&StoredBody) -> bool) -> io::Result<(u64, u64)> {
        let (mut count, mut bytes) = (0, 0);
        for group in names(&self.dir)?.into_iter().filter(|name| name.len() == 2) {
            let group = self.dir.join(group);
            for found in names(&group)? {
                // What has the other name was on its way out when the process died.
                let name = found.strip_suffix(GOING).unwrap_or(&found);
                let Ok(digest) = name.strip_suffix(SUFFIX).unwrap_or(name).parse() else { continue };
                let (path, going) = (group.join(name), group.join(format!("{name}{GOING}")));
                let Ok(metadata) = fs::metadata(group.join(&found)) else { continue };
                let body = StoredBody { digest, modified: metadata.modified()?, bytes: metadata.len() };
                let kept = keep(&body);
                if found == name && !kept {
                    rename_if_there(&path, &going)?;
                }
                let Ok(metadata) = fs::metadata(&going) else { continue };
                if kept || metadata.modified()? != body.modified {
                    rename_if_there(&going, &path)?;
                } else if remove_if_there(&going)? {
                    count += 1;
                    bytes += body.bytes;
                }
            }
        }
        Ok((count, bytes))
    }

    /// Removes what a process that died left half-written. Only while nobody writes.
    ///
    /// # Errors
    /// When the directory cannot be read, or a file not be removed.
    pub fn sweep(&self) -> io::Result<()> {
        let left = names(&self.dir)?.into_iter().filter(|name| name.ends_with(".tmp"));
        left.map(|name| self.dir.join(name)).try_for_each(fs::remove_file)
    }

    /// Whether the body is there already, read whole and found right, and as durable as that. What a power cut left of an
    /// earlier, less durable write may have its length, and zeros in it.
    fn has(&self, digest: Hash, durability: Durability) -> io::Result<bool> {
        Ok(matches!(self.verify(digest), Ok(true)) && self.touch(digest, durability)?)
    }

    /// Has retention count from now on again; whether there is a body, written to its end.
    fn touch(&self, digest: Hash, durability: Durability) -> io::Result<bool> {
        let (stored, plain) = (self.file(digest), self.plain(digest));
        let path = match File::open(&stored) {
            Ok(file) if is_whole(&file)? => stored,
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => plain,
            Err(error) => return Err(error),
        };
        let file = match File::options().write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        // Unless retention was quicker: see `retain`.
        file.set_modified(now())?;
        if !path.exists() {
            return Ok(false);
        }
        if durability == Durability::Fsync {
            file.sync_all()?;
            self.sync_names(&path)?;
        }
        Ok(true)
    }

    /// Makes the name of a body's file durable.
    fn sync_names(&self, path: &Path) -> io::Result<()> {
        path.parent().map_or(Ok(()), sync_dir)?;
        sync_dir(&self.dir)
    }

    fn file(&self, digest: Hash) -> PathBuf {
        let name = digest.to_string();
        self.dir.join(&name[..2]).join(name + SUFFIX)
    }

    /// Where an earlier version stored it.
    fn plain(&self, digest: Hash) -> PathBuf {
        let name = digest.to_string();
        self.dir.join(&name[..2]).join(name)
    }
}

/// How much of a file is read at once where it is read to its end, in bytes.
const READ: usize = 128 * 1024;
const SUFFIX: &str = ".body";
/// What a body is called besides while retention drops it.
const GOING: &str = ".going";

/// Whether it was there.
fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        renamed => renamed,
    }
}

/// A body on its way to the disk. Dropped before [`BodyWriter::finish`], it leaves nothing behind.
pub struct BodyWriter {
    bodies: Bodies,
    digest: Context,
    encoder: Encoder<BufWriter<File>>,
    unfinished: Unfinished,
}

impl BodyWriter {
    /// The digest of what has been written so far.
    #[must_use]
    pub fn digest(&self) -> Hash {
        Hash::from_digest(self.digest.clone().finish().as_ref())
    }

    /// Ends the body, and answers its digest: from now on it can be read.
    ///
    /// # Errors
    /// When it cannot be written; nothing half-written is left under its name.
    pub fn finish(self, durability: Durability) -> io::Result<Hash> {
        let Self { bodies, digest, encoder, unfinished } = self;
        let digest = Hash::from_digest(digest.finish().as_ref());
        let file = encoder.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        if bodies.has(digest, durability)? {
            return Ok(digest);
        }
        if durability == Durability::Fsync {
            file.sync_all()?;
        }
        let path = bodies.file(digest);
        let parent = path.parent().unwrap_or(&bodies.dir);
        private_dir(parent)?;
        fs::rename(&unfinished.0, &path)?;
        if durability == Durability::Fsync {
            bodies.sync_names(&path)?;
        }
        Ok(digest)
    }
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.encoder.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.encoder.flush()
    }
}

impl fmt::Debug for BodyWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyWriter").field("file", &self.unfinished.0).finish_non_exhaustive()
    }
}

/// A file that goes when this does, unless it has another name by then.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A stored body's content. Reading its end is what proves it: see [`Bodies::open`].
pub struct BodyReader {
    source: Source,
    expected: Hash,
    /// Gone once the end has been read and found right.
    digest: Option<Context>,
}

enum Source {
    Plain(File),
    Stored(Box<Decoder<BufReader<File>>>),
    Ended(LiveReader),
}

impl BodyReader {
    fn new(source: Source, expected: Hash) -> Self {
        Self { source, expected, digest: Some(Context::new(&SHA256)) }
    }
}

impl Read for BodyReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.source {
            Source::Plain(file) => file.read(out)?,
            Source::Stored(decoder) => decoder.read(out)?,
            Source::Ended(live) => live.read(out)?,
        };
        if let Some(digest) = &mut self.digest {
            digest.update(&out[..read]);
        }
        if read == 0
            && !out.is_empty()
            && let Some(digest) = self.digest.take()
            && Hash::from_digest(digest.finish().as_ref()) != self.expected
        {
            let what = format!("the body {} was changed", self.expected);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(read)
    }
}

impl fmt::Debug for BodyReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyReader").field("digest", &self.expected).finish_non_exhaustive()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the age of a file, which the operating system sets from the same clock"
)]
fn now() -> SystemTime {
    SystemTime::now()
}
