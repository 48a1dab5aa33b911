//! A body that others read while it is being written: the recording of a session that is going on.
//!
//! Without a key its file is the content itself. With one it is a stored body (`body.rs`) from its first byte on, so that nothing
//! of it is ever on the disk in plain text: what is appended is sealed at once, in chunks of its own. Their zstd stream consists
//! of raw blocks (RFC 8878, 3.1.1.2.2), which cost neither time nor memory; what is finished is stored anew, compressed
//! ([`Bodies::adopt`](crate::Bodies::adopt)).

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

use crate::BodyKeys;
use crate::body::{CHUNK, Cipher, HEADER, LAST, MAGIC, Sealer, WINDOW_LOG, chunk_length, damaged};
use crate::files::private;

/// A zstd frame's magic number and header: no checksum, no size, a window of 64 KiB.
const FRAME: [u8; 6] = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x30];
/// The header of a block, in bytes.
const BLOCK: usize = 3;

/// The header of a raw block: 21 bits of size, two of type, one whether it is the last.
fn block(size: usize, last: bool) -> [u8; BLOCK] {
    let [a, b, c, ..] = ((size << 3) | usize::from(last)).to_le_bytes();
    [a, b, c]
}

/// Writes a body that grows. Its file is locked as long as this lives, so that other processes can tell that it is in use.
pub struct LiveBody {
    file: File,
    sealer: Option<Sealer<Vec<u8>>>,
    /// A write failed. Part of it may be in the file: whatever came after it would be read as something else.
    failed: bool,
}

impl LiveBody {
    pub(crate) fn create(path: &Path, keys: &BodyKeys) -> io::Result<Self> {
        let mut file = private(File::options().write(true).create_new(true)).open(path)?;
        file.lock()?;
        let mut sealer = None;
        if !keys.is_empty() {
            let sealed = sealer.insert(Sealer::new(Vec::new(), keys)?);
            sealed.write_all(&FRAME)?;
            sealed.seal(false)?;
            file.write_all(&std::mem::take(&mut sealed.out))?;
        }
        Ok(Self { file, sealer, failed: false })
    }

    /// Adds `bytes`: they are in the kernel when this returns, and every reader sees them.
    ///
    /// # Errors
    /// When they cannot be written; then nothing more is.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write(|file, sealer| {
            let Some(sealer) = sealer else { return file.write_all(bytes) };
            sealer.out.clear();
            for piece in bytes.chunks(CHUNK - BLOCK) {
                sealer.write_all(&block(piece.len(), false))?;
                sealer.write_all(piece)?;
                sealer.seal(false)?;
            }
            file.write_all(&sealer.out)
        })
    }

    /// Ends the body. Answers its file, for whoever flushes it to the disk.
    ///
    /// # Errors
    /// When that cannot be written, or something before it could not.
    pub fn finish(mut self) -> io::Result<File> {
        self.write(|file, sealer| {
            let Some(sealer) = sealer else { return Ok(()) };
            sealer.out.clear();
            sealer.write_all(&block(0, true))?;
            sealer.seal(true)?;
            file.write_all(&sealer.out)
        })?;
        Ok(self.file)
    }

    fn write(
        &mut self,
        write: impl FnOnce(&mut File, Option<&mut Sealer<Vec<u8>>>) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier write failed, so nothing follows it"));
        }
        let written = write(&mut self.file, self.sealer.as_mut());
        self.failed = written.is_err();
        written
    }
}

impl fmt::Debug for LiveBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveBody").field("encrypted", &self.sealer.is_some()).finish_non_exhaustive()
    }
}

/// Reads a body that grows, with a key or without. At its present end `read` answers 0; asked again later it goes on. Whether it
/// is the right one is for its digest to say: a chunk that was changed is noticed, but not that the last ones are missing.
pub struct LiveReader {
    file: File,
    keys: BodyKeys,
    state: State,
}

enum State {
    /// It is too short yet to tell.
    Begin(Vec<u8>),
    Plain(Vec<u8>),
    Sealed(Box<Sealed>),
}

struct Sealed {
    cipher: Option<Cipher>,
    decoder: Decoder<'static>,
    /// A chunk that is not whole yet, with its head.
    coming: Vec<u8>,
    chunk: Vec<u8>,
    used: usize,
    number: u32,
    last: bool,
    /// The decoder has perhaps more than there was room for.
    more: bool,
}

impl LiveReader {
    pub(crate) fn open(path: &Path, keys: &BodyKeys) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, keys: keys.clone(), state: State::Begin(Vec::new()) })
    }

    /// Passes over the first `bytes`; nothing may have been read yet.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.begin()?;
        match &mut self.state {
            State::Plain(read) => {
                read.clear();
                self.file.seek(SeekFrom::Start(bytes)).map(drop)
            }
            _ => io::copy(&mut self.by_ref().take(bytes), &mut io::sink()).map(drop),
        }
    }

    /// Finds out what it is: a stored body begins with its magic, and a plain one with something else.
    fn begin(&mut self) -> io::Result<()> {
        let State::Begin(read) = &mut self.state else { return Ok(()) };
        fill(&mut self.file, read, HEADER)?;
        let alike = read.len().min(MAGIC.len());
        if read[..alike] != MAGIC[..alike] {
            self.state = State::Plain(std::mem::take(read));
        } else if let Ok(header) = <[u8; HEADER]>::try_from(read.as_slice()) {
            let mut decoder = Decoder::new()?;
            decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
            self.state = State::Sealed(Box::new(Sealed {
                cipher: Cipher::of(header, &self.keys)?,
                decoder,
                coming: Vec::new(),
                chunk: Vec::new(),
                used: 0,
                number: 0,
                last: false,
                more: false,
            }));
        }
        Ok(())
    }
}

impl Read for LiveReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.begin()?;
        match &mut self.state {
            State::Begin(_) => Ok(0),
            State::Plain(read) if read.is_empty() => self.file.read(out),
            State::Plain(read) => {
                let taken = read.len().min(out.len());
                out[..taken].copy_from_slice(&read[..taken]);
                read.drain(..taken);
                Ok(taken)
            }
            State::Sealed(sealed) => sealed.read(&mut self.file, out),
        }
    }
}

impl Sealed {
    fn read(&mut self, file: &mut File, out: &mut [u8]) -> io::Result<usize> {
        while !out.is_empty() {
            if self.used < self.chunk.len() || self.more {
                let mut input = InBuffer::around(&self.chunk[self.used..]);
                let mut output = OutBuffer::around(&mut *out);
                let decoded = self.decoder.run(&mut input, &mut output);
                decoded.map_err(|_| damaged("its compression is wrong"))?;
                self.used += input.pos();
                let written = output.pos();
                self.more = written == out.len();
                if written > 0 {
                    return Ok(written);
                }
            } else if !self.next_chunk(file)? {
                break;
            }
        }
        Ok(0)
    }

    /// Opens the next chunk, if it is there whole.
    fn next_chunk(&mut self, file: &mut File) -> io::Result<bool> {
        if self.last {
            return match file.read(&mut [0])? {
                0 => Ok(false),
                _ => Err(damaged("something follows its end")),
            };
        }
        fill(file, &mut self.coming, 4)?;
        let Some(head) = self.coming.first_chunk::<4>() else { return Ok(false) };
        let head = u32::from_le_bytes(*head);
        let length = 4 + chunk_length(head, self.cipher.is_some())?;
        fill(file, &mut self.coming, length)?;
        if self.coming.len() < length {
            return Ok(false);
        }
        self.last = head & LAST != 0;
        self.chunk.clear();
        self.chunk.extend_from_slice(&self.coming[4..]);
        self.coming.clear();
        self.used = 0;
        if let Some(cipher) = &self.cipher {
            cipher.open(self.number, self.last, &mut self.chunk)?;
        }
        self.number = self.number.checked_add(1).ok_or_else(|| damaged("it has too many chunks"))?;
        Ok(true)
    }
}

impl fmt::Debug for LiveReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveReader").finish_non_exhaustive()
    }
}

/// Reads on until `bytes` has so many, or the file has no more.
fn fill(file: &mut File, bytes: &mut Vec<u8>, length: usize) -> io::Result<()> {
    let missing = length.saturating_sub(bytes.len()) as u64;
    file.take(missing).read_to_end(bytes).map(drop)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn after_a_failed_write_nothing_more_is_written() {
        for keys in [BodyKeys::default(), BodyKeys::new([[7; 32]])] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("live");
            let mut live = LiveBody::create(&path, &keys).unwrap();
            live.append(b"before").unwrap();
            let before = std::fs::read(&path).unwrap();
            // The disk is full for a while.
            let full = File::options().write(true).open("/dev/full").unwrap();
            let file = std::mem::replace(&mut live.file, full);
            assert_eq!(live.append(b"lost").unwrap_err().kind(), io::ErrorKind::StorageFull);
            live.file = file;
            assert!(live.append(b"after").is_err());
            assert!(live.finish().is_err());
            assert_eq!(std::fs::read(&path).unwrap(), before);
        }
    }
}
