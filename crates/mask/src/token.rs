//! What stands in the place of a masked value, and the key it is made with.
//!
//! A token is `masked:<rule>:<16 hex>`: 64 bits of HMAC-SHA-256 over the object, the path and the value. Equal tokens at one
//! place of one object mean equal values, so a change can be seen; across objects and paths they say nothing, so nobody can
//! confirm a guess by writing it somewhere else and comparing.

use std::{
    fmt, fs,
    io::{self, Read as _, Write as _},
    path::Path,
    sync::{Arc, LazyLock},
};

use aws_lc_rs::hmac;
use regex::bytes::Regex;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// The key that mask tokens are made with, and older ones that still recognise theirs. Whoever has one can confirm guesses;
/// `Debug` prints none.
#[derive(Clone)]
pub struct MaskKey {
    current: hmac::Key,
    older: Arc<[hmac::Key]>,
}

impl MaskKey {
    /// A key from bytes that are as good as random, at least 16 of them.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for fewer.
    pub fn from_bytes(bytes: &[u8]) -> io::Result<Self> {
        if bytes.len() < 16 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a mask key needs at least 16 random bytes",
            ));
        }
        Ok(Self { current: hmac::Key::new(hmac::HMAC_SHA256, bytes), older: [].into() })
    }

    /// Also recognises the tokens of these, which made tokens before.
    #[must_use]
    pub fn with_older(mut self, older: impl IntoIterator<Item = Self>) -> Self {
        let all = self.older.iter().cloned();
        let keys = older.into_iter().flat_map(|key| std::iter::once(key.current).chain(key.older.to_vec()));
        self.older = all.chain(keys).collect();
        self
    }

    /// A new random key, gone when the process ends: tokens then differ from one start to the next.
    ///
    /// # Errors
    ///
    /// When the system has no randomness to give.
    pub fn generate() -> io::Result<Self> {
        Self::from_bytes(&*random()?)
    }

    /// The key in a file of 64 hexadecimal digits; made, for its owner only (mode 0600), if there is none.
    ///
    /// Replicas share the file, so that their tokens are equal. To rotate, put a new line of digits in front: the first line
    /// makes tokens, the others (at most 15) still recognise theirs.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or made, holds something else, or may be read by others than its owner and group.
    pub fn load_or_create(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        match options.open(path) {
            Ok(mut file) => {
                let bytes = random()?;
                let text = Zeroizing::new(format!("{}\n", hex(&*bytes)));
                file.write_all(text.as_bytes())?;
                file.sync_all()?;
                Self::from_bytes(&*bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::load(path),
            Err(error) => Err(error),
        }
    }

    fn load(path: &Path) -> io::Result<Self> {
        let file = fs::File::open(path)?;
        #[cfg(unix)]
        if std::os::unix::fs::MetadataExt::mode(&file.metadata()?) & 0o007 != 0 {
            let message = "the mask key file may be read by everybody: `chmod 600` it";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        let mut text = Zeroizing::new(String::new());
        file.take(4096).read_to_string(&mut text)?;
        let wrong = || {
            io::Error::new(io::ErrorKind::InvalidData, "a mask key file holds lines of 64 hexadecimal digits")
        };
        let key = |line: &str| Self::from_bytes(&unhex(line.trim()).map(Zeroizing::new).ok_or_else(wrong)?);
        let mut keys = text.trim().lines().map(key).collect::<io::Result<Vec<_>>>()?.into_iter();
        let current = keys.next().ok_or_else(wrong)?;
        Ok(current.with_older(keys))
    }

    /// The digits of a token: 64 bits over all parts, each with its length in front.
    pub(crate) fn digits(&self, parts: &[&[u8]]) -> Digits {
        let tag = tag(&self.current, parts);
        let mut digits = [0; 16];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(tag) {
            pair.copy_from_slice(&hex_digits(byte));
        }
        Digits(digits)
    }

    /// This key and the older ones, each by itself.
    pub(crate) fn each(&self) -> impl Iterator<Item = Self> {
        let one = |key: &hmac::Key| Self { current: key.clone(), older: [].into() };
        std::iter::once(one(&self.current)).chain(self.older.iter().map(one))
    }

    /// A keyed digest of a whole body.
    pub(crate) fn body_digest(&self, body: &[u8]) -> String {
        hex(&tag(&self.current, &[b"body", body]))
    }
}

/// 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digits([u8; 16]);

impl Digits {
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

fn tag(key: &hmac::Key, parts: &[&[u8]]) -> [u8; 32] {
    // Put together first: for texts as short as these, each call into the library costs more than the copy.
    let mut message = Message::default();
    for part in parts {
        // The length as a varint (LEB128): then the message of most tokens is two blocks of SHA-256, and not three.
        let mut length = part.len() as u64;
        while length > 0x7f {
            message.push(&[length as u8 | 0x80]);
            length >>= 7;
        }
        message.push(&[length as u8]);
        message.push(part);
    }
    let mut tag = [0; 32];
    tag.copy_from_slice(hmac::sign(key, message.bytes()).as_ref());
    tag
}

/// Bytes that are put together, and that hardly ever need memory of their own.
struct Message {
    few: [u8; 128],
    length: usize,
    many: Vec<u8>,
}

impl Default for Message {
    fn default() -> Self {
        Self { few: [0; 128], length: 0, many: Vec::new() }
    }
}

impl Message {
    #[inline(always)]
    fn push(&mut self, bytes: &[u8]) {
        match self.few.get_mut(self.length..self.length + bytes.len()) {
            Some(room) if self.many.is_empty() => {
                room.copy_from_slice(bytes);
                self.length += bytes.len();
            }
            _ => {
                if self.many.is_empty() {
                    self.many.extend_from_slice(&self.few[..self.length]);
                }
                self.many.extend_from_slice(bytes);
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        if self.many.is_empty() { &self.few[..self.length] } else { &self.many }
    }
}

impl fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MaskKey(…)")
    }
}

fn random() -> io::Result<Zeroizing<[u8; 32]>> {
    let mut bytes = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(&mut *bytes).map_err(|_| io::Error::other("no randomness to be had"))?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.extend(hex_digits(*byte).map(char::from));
    }
    text
}

fn hex_digits(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

/// `masked:<rule>:<what>`.
pub(crate) fn token(rule: &str, what: &str) -> String {
    let mut token = String::new();
    write_token(&mut token, rule, what);
    token
}

/// Writes that instead of what was there before.
pub(crate) fn write_token(token: &mut String, rule: &str, what: &str) {
    token.clear();
    token.reserve("masked::".len() + rule.len() + what.len());
    token.push_str("masked:");
    token.push_str(rule);
    token.push(':');
    token.push_str(what);
}

/// How every token looks, whichever rule and key made it: rules are renamed and keys rotated, masks stay masks.
static TOKEN: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"masked:[a-z0-9][a-z0-9-]{0,62}:(?:[0-9a-f]{16}|redacted|\*{4})").ok());
/// The first token in `bytes`.
pub(crate) fn find_token(bytes: &[u8]) -> Option<&[u8]> {
    // The pattern is a constant that a test compiles; without it everything counts as a token, which refuses.
    match TOKEN.as_ref() {
        Some(pattern) => pattern.find(bytes).map(|found| found.as_bytes()),
        None => Some(bytes),
    }
}

/// What a token says of a value: its text, if that is shorter than its SHA-256, or else that. Of base64 it is that text, not what it
/// stands for: API servers write one value in one way, and decoding costs more than the digest does.
#[derive(Clone, Copy)]
pub(crate) struct Fingerprint {
    bytes: [u8; 32],
    length: u8,
}

impl Fingerprint {
    pub(crate) fn of(text: &[u8]) -> Self {
        let mut reader = ValueReader::default();
        reader.read(text);
        reader.finish()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// The [`Fingerprint`] of a value that arrives in runs.
#[derive(Default)]
pub(crate) struct ValueReader {
    /// As long as that is all, which is always less than `few` has room for.
    few: [u8; 32],
    length: u8,
    all: Option<Sha256>,
}

impl ValueReader {
    pub(crate) fn read(&mut self, run: &[u8]) {
        let length = usize::from(self.length);
        match &mut self.all {
            Some(all) => all.update(run),
            None if length + run.len() < self.few.len() => {
                self.few[length..length + run.len()].copy_from_slice(run);
                self.length += run.len() as u8;
            }
            None => self.all = Some(Sha256::new().chain_update(&self.few[..length]).chain_update(run)),
        }
    }

    pub(crate) fn finish(self) -> Fingerprint {
        match self.all {
            Some(all) => Fingerprint { bytes: all.finalize().into(), length: 32 },
            None => Fingerprint { bytes: self.few, length: self.length },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_where_they_are() {
        assert_eq!(
            find_token(b"x masked:secrets:0123456789abcdef y"),
            Some(&b"masked:secrets:0123456789abcdef"[..])
        );
        assert!(find_token(b"masked:a-b:redacted").is_some());
        assert!(find_token(b"masked:a:****1234").is_some());
        assert!(find_token(b"masked:secrets:0123456789abcde").is_none());
        assert!(find_token(b"masked: yes").is_none());
    }

    #[test]
    fn parts_cannot_be_shifted_into_each_other() {
        let key = MaskKey::from_bytes(&[7; 32]).unwrap();
        assert_ne!(key.digits(&[b"ab", b"c"]), key.digits(&[b"a", b"bc"]));
        assert_eq!(key.digits(&[b"ab", b"c"]).as_str().len(), 16);
        assert!(MaskKey::from_bytes(&[7; 15]).is_err());
        assert_eq!(format!("{key:?}"), "MaskKey(…)");
    }

    #[test]
    fn messages_of_any_length_are_put_together() {
        for lengths in [vec![0, 0], vec![128], vec![129], vec![100, 28, 1], vec![100, 100, 1, 0, 300]] {
            let parts: Vec<Vec<u8>> = lengths.iter().map(|length| vec![*length as u8; *length]).collect();
            let mut message = Message::default();
            parts.iter().for_each(|part| message.push(part));
            assert_eq!(message.bytes(), parts.concat());
        }
    }

    #[test]
    fn a_key_file_is_made_once_and_kept_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mask.key");
        let made = MaskKey::load_or_create(&path).unwrap();
        let loaded = MaskKey::load_or_create(&path).unwrap();
        assert_eq!(made.digits(&[b"x"]), loaded.digits(&[b"x"]));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            assert!(MaskKey::load_or_create(&path).is_err());
        }
        // Rotated: a new line in front.
        #[cfg(unix)]
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let old = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{}\n{old}", "ab".repeat(32))).unwrap();
        let rotated = MaskKey::load_or_create(&path).unwrap();
        assert_ne!(rotated.digits(&[b"x"]), made.digits(&[b"x"]));
        let each: Vec<_> = rotated.each().map(|key| key.digits(&[b"x"])).collect();
        assert_eq!(each, [rotated.digits(&[b"x"]), made.digits(&[b"x"])]);
        let bad = folder.path().join("bad.key");
        fs::write(&bad, "hello").unwrap();
        #[cfg(unix)]
        fs::set_permissions(&bad, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(MaskKey::load_or_create(&bad).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
