//! How one body is stored: zstd, then chunks, each encrypted when there is a key.
//!
//! ```text
//! header   "portcullis-body\n" | version u8 (1) | cipher u8 | key id [8] | salt [32]
//! chunk    head u32 | payload
//! ```
//!
//! Integers are little-endian. The upper bit of a chunk's head marks the last chunk, the rest is its payload's length: at most
//! 64 KiB, and 16 bytes more when it is encrypted. Only the last chunk may be empty. The payloads, one after the other, are one
//! zstd stream. Cipher 0 is none, with key id and salt zero. Cipher 1 is AES-256-GCM with a key of its own for each body, HKDF-SHA-256 of the configured key and the
//! salt; the nonce is seven zeros, the chunk's number (u32, big-endian) and whether it is the last, and the header is
//! authenticated with each chunk. This is the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár 2015): chunks that are
//! changed, left out, repeated, in another order, or cut off at the end are noticed before a byte of them is used.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::rand;
use zeroize::Zeroizing;

use crate::files::{self, private};
use crate::keys::others_may_read;

pub(crate) const MAGIC: &[u8; 16] = b"portcullis-body\n";
const VERSION: u8 = 1;
pub(crate) const HEADER: usize = MAGIC.len() + 2 + KEY_ID + SALT;
const KEY_ID: usize = 8;
const SALT: usize = 32;
/// The most of the compressed body that is in one chunk, in bytes.
pub(crate) const CHUNK: usize = 64 * 1024;
pub(crate) const LAST: u32 = 1 << 31;
/// What a reader's decoder may remember, as a power of two: 8 MiB. The writer's encoder asks for 2 MiB.
pub(crate) const WINDOW_LOG: u32 = 23;
/// zstd's own default: fast enough not to be noticed, and half of what the slowest levels save.
const LEVEL: i32 = 3;

/// The keys with which bodies are encrypted at rest: AES-256, the first for new bodies, the others for those that were written
/// when they were the first. Cheap to clone; `Debug` shows how many there are.
#[derive(Clone, Default)]
pub struct BodyKeys {
    keys: Arc<[Zeroizing<[u8; 32]>]>,
}

impl BodyKeys {
    /// These keys, the present one first.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = [u8; 32]>) -> Self {
        Self { keys: keys.into_iter().map(Zeroizing::new).collect() }
    }

    /// The keys in these files, the present one first: 32 bytes each, as `head -c 32 /dev/urandom` makes them, and readable
    /// by their owner only.
    ///
    /// # Errors
    /// When a file cannot be read, others may read it, or it is not 32 bytes long.
    pub fn from_files<P: AsRef<Path>>(files: impl IntoIterator<Item = P>) -> io::Result<Self> {
        let mut keys = Vec::new();
        for file in files {
            let file = file.as_ref();
            let refuse = |what: &str| {
                io::Error::new(io::ErrorKind::InvalidInput, format!("body key {}: {what}", file.display()))
            };
            let bytes = match files::read(file, 32) {
                Ok(bytes) => Zeroizing::new(bytes),
                Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                    return Err(refuse("it is not 32 bytes long"));
                }
                Err(error) => return Err(io::Error::new(error.kind(), refuse(&error.to_string()))),
            };
            if others_may_read(file)? {
                return Err(refuse("others than its owner may read it: chmod 600 it, or replace it"));
            }
            let key =
                <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| refuse("it is not 32 bytes long"))?;
            keys.push(Zeroizing::new(key));
        }
        Ok(Self { keys: keys.into() })
    }

    /// Makes a key and writes it to `file`, which must not be there yet and is readable by its owner only.
    ///
    /// # Errors
    /// When the file exists, or cannot be written.
    pub fn new_file(file: &Path) -> io::Result<()> {
        let mut key = Zeroizing::new([0; 32]);
        rand::fill(&mut *key).map_err(|_| crypto())?;
        let mut file = private(fs::File::options().write(true).create_new(true)).open(file)?;
        file.write_all(&*key)?;
        file.sync_all()
    }

    /// Whether there is none: then bodies are compressed, but not encrypted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn present(&self) -> Option<&[u8; 32]> {
        self.keys.first().map(|key| &**key)
    }

    fn with_id(&self, id: &[u8]) -> Option<&[u8; 32]> {
        self.keys.iter().map(|key| &**key).find(|key| key_id(key).is_ok_and(|found| found == id))
    }
}

impl fmt::Debug for BodyKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BodyKeys({})", self.keys.len())
    }
}

fn key_id(key: &[u8; 32]) -> io::Result<[u8; KEY_ID]> {
    struct Length;
    impl KeyType for Length {
        fn len(&self) -> usize {
            KEY_ID
        }
    }
    let mut id = [0; KEY_ID];
    let derived = Salt::new(HKDF_SHA256, &[]).extract(key);
    let filled = derived.expand(&[b"portcullis-body key id"], Length).and_then(|id_of| id_of.fill(&mut id));
    filled.map(|()| id).map_err(|_| crypto())
}

/// Encrypts or decrypts one body's chunks.
pub(crate) struct Cipher {
    key: LessSafeKey,
    header: [u8; HEADER],
}

impl Cipher {
    fn new(key: &[u8; 32], header: [u8; HEADER]) -> io::Result<Self> {
        let derived = Salt::new(HKDF_SHA256, &header[HEADER - SALT..]).extract(key);
        let key = derived.expand(&[b"portcullis-body v1"], &AES_256_GCM).map_err(|_| crypto())?;
        Ok(Self { key: LessSafeKey::new(UnboundKey::from(key)), header })
    }

    /// What a body with this header is decrypted with: nothing, where it is not encrypted.
    pub(crate) fn of(header: [u8; HEADER], keys: &BodyKeys) -> io::Result<Option<Self>> {
        if &header[..16] != MAGIC || header[16] != VERSION {
            return Err(damaged("it is no stored body"));
        }
        match header[17] {
            0 if header[18..].iter().all(|byte| *byte == 0) => Ok(None),
            1 => {
                let id = &header[18..18 + KEY_ID];
                let missing = || {
                    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
                    io::Error::new(
                        io::ErrorKind::PermissionDenied,
                        format!("the body is encrypted with the key {id}, which is not there"),
                    )
                };
                Self::new(keys.with_id(id).ok_or_else(missing)?, header).map(Some)
            }
            _ => Err(damaged("its header was changed")),
        }
    }

    /// Decrypts one chunk in place.
    pub(crate) fn open(&self, number: u32, last: bool, chunk: &mut Vec<u8>) -> io::Result<()> {
        let (nonce, header) = (Self::nonce(number, last), Aad::from(&self.header));
        let opened = self.key.open_in_place(nonce, header, chunk);
        let length = opened.map(|plain| plain.len()).map_err(|_| damaged("a chunk was changed"))?;
        chunk.truncate(length);
        Ok(())
    }

    fn nonce(number: u32, last: bool) -> Nonce {
        let mut nonce = [0; 12];
        nonce[7..11].copy_from_slice(&number.to_be_bytes());
        nonce[11] = last.into();
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Writes the chunks.
pub(crate) struct Sealer<W: Write> {
    pub(crate) out: W,
    cipher: Option<Cipher>,
    chunk: Vec<u8>,
    number: u32,
}

impl<W: Write> Sealer<W> {
    pub(crate) fn new(mut out: W, keys: &BodyKeys) -> io::Result<Self> {
        let mut header = [0; HEADER];
        header[..16].copy_from_slice(MAGIC);
        header[16] = VERSION;
        let cipher = match keys.present() {
            None => None,
            Some(key) => {
                header[17] = 1;
                header[18..18 + KEY_ID].copy_from_slice(&key_id(key)?);
                rand::fill(&mut header[HEADER - SALT..]).map_err(|_| crypto())?;
                Some(Cipher::new(key, header)?)
            }
        };
        out.write_all(&header)?;
        Ok(Self { out, cipher, chunk: Vec::with_capacity(CHUNK + MAX_TAG_LEN), number: 0 })
    }

    /// Ends a chunk, full or not.
    pub(crate) fn seal(&mut self, last: bool) -> io::Result<()> {
        if let Some(cipher) = &self.cipher {
            let (nonce, header) = (Cipher::nonce(self.number, last), Aad::from(&cipher.header));
            cipher.key.seal_in_place_append_tag(nonce, header, &mut self.chunk).map_err(|_| crypto())?;
        }
        let length = u32::try_from(self.chunk.len()).map_err(io::Error::other)?;
        self.out.write_all(&(length | if last { LAST } else { 0 }).to_le_bytes())?;
        self.out.write_all(&self.chunk)?;
        self.chunk.clear();
        // No nonce is ever used twice: 256 TiB fit.
        self.number = self.number.checked_add(1).ok_or_else(|| io::Error::other("the body is too large"))?;
        Ok(())
    }
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Only when more comes: the last chunk is marked, so it must be known to be the last.
        if self.chunk.len() == CHUNK && !bytes.is_empty() {
            self.seal(false)?;
        }
        let taken = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compresses and seals what is written to it.
pub(crate) struct Encoder<W: Write>(zstd::stream::write::Encoder<'static, Sealer<W>>);

impl<W: Write> Encoder<W> {
    pub(crate) fn new(out: W, keys: &BodyKeys) -> io::Result<Self> {
        Ok(Self(zstd::stream::write::Encoder::new(Sealer::new(out, keys)?, LEVEL)?))
    }

    /// Ends the body. Without this it is not whole, and nobody will read it.
    pub(crate) fn finish(self) -> io::Result<W> {
        let mut sealer = self.0.finish()?;
        sealer.seal(true)?;
        Ok(sealer.out)
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The length of a chunk's payload, from its head.
pub(crate) fn chunk_length(head: u32, encrypted: bool) -> io::Result<usize> {
    let length = (head & !LAST) as usize;
    let tag = if encrypted { MAX_TAG_LEN } else { 0 };
    // Zeros are what a power cut leaves where a chunk was to come.
    let empty = length <= tag && head & LAST == 0;
    if length > CHUNK + tag || empty {
        return Err(damaged("a chunk's length is impossible"));
    }
    Ok(length)
}

/// Reads the chunks. Memory: one.
pub(crate) struct Opener<R> {
    from: R,
    cipher: Option<Cipher>,
    chunk: Vec<u8>,
    used: usize,
    number: u32,
    last: bool,
}

impl<R: Read> Opener<R> {
    fn new(mut from: R, keys: &BodyKeys) -> io::Result<Self> {
        let mut header = [0; HEADER];
        from.read_exact(&mut header).map_err(|_| damaged("its header is cut short"))?;
        let cipher = Cipher::of(header, keys)?;
        Ok(Self { from, cipher, chunk: Vec::new(), used: 0, number: 0, last: false })
    }

    fn open(&mut self) -> io::Result<()> {
        let mut head = [0; 4];
        self.from.read_exact(&mut head).map_err(|_| damaged("it is cut short"))?;
        let head = u32::from_le_bytes(head);
        let length = chunk_length(head, self.cipher.is_some())?;
        self.last = head & LAST != 0;
        self.chunk.resize(length, 0);
        self.used = 0;
        self.from.read_exact(&mut self.chunk).map_err(|_| damaged("it is cut short"))?;
        if let Some(cipher) = &self.cipher {
            cipher.open(self.number, self.last, &mut self.chunk)?;
        }
        self.number = self.number.checked_add(1).ok_or_else(|| damaged("it has too many chunks"))?;
        if self.last && self.from.read(&mut [0])? > 0 {
            return Err(damaged("something follows its end"));
        }
        Ok(())
    }
}

impl<R: Read> Read for Opener<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.used == self.chunk.len() && !self.last {
            self.open()?;
        }
        let read = out.len().min(self.chunk.len() - self.used);
        out[..read].copy_from_slice(&self.chunk[self.used..self.used + read]);
        self.used += read;
        Ok(read)
    }
}

/// Opens and decompresses.
pub(crate) type Decoder<R> = zstd::stream::read::Decoder<'static, io::BufReader<Opener<R>>>;

pub(crate) fn decoder<R: Read>(from: R, keys: &BodyKeys) -> io::Result<Decoder<R>> {
    let mut decoder = zstd::stream::read::Decoder::new(Opener::new(from, keys)?)?;
    decoder.window_log_max(WINDOW_LOG)?;
    Ok(decoder)
}

/// Whether a stored body was written to its end: a power cut may have cut it short, or left zeros where chunks were to come. Says
/// nothing of its content.
pub(crate) fn is_whole(mut file: impl Read + io::Seek) -> io::Result<bool> {
    let end = file.seek(io::SeekFrom::End(0))?;
    file.rewind()?;
    let mut header = [0; HEADER];
    if file.read_exact(&mut header).is_err() {
        return Ok(false);
    }
    let encrypted = header[17] != 0;
    let mut at = HEADER as u64;
    loop {
        let mut head = [0; 4];
        file.seek(io::SeekFrom::Start(at))?;
        if file.read_exact(&mut head).is_err() {
            return Ok(false);
        }
        let head = u32::from_le_bytes(head);
        let Ok(length) = chunk_length(head, encrypted) else { return Ok(false) };
        at += 4 + length as u64;
        if head & LAST != 0 {
            return Ok(at == end);
        }
    }
}

pub(crate) fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the stored body was changed: {what}"))
}

fn crypto() -> io::Error {
    io::Error::other("the cryptographic library failed")
}
