//! Header blocks (section 2.6.10) and their compression.

use std::fmt;

use bytes::{Buf as _, BufMut as _, Bytes};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::CODEC;
use super::dictionary::DICTIONARY;
use crate::error::WireError;

/// More than Kubernetes ever sends (three), few enough to look for duplicates one by one.
const MAX_HEADERS: usize = 64;

/// Names and values, in order. Names are lower-case and unique; a value may hold several, separated by NUL.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HeaderBlock(Vec<(Bytes, Bytes)>);

impl HeaderBlock {
    /// The value of `name`, which is lower-case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| known == name.as_bytes()).map(|(_, value)| &value[..])
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (&name[..], &value[..]))
    }

    /// A block of these names and values.
    ///
    /// # Errors
    /// A name that is empty, has upper-case letters or comes twice, and more than 64 of them: `spdystream`
    /// treats such blocks in ways of its own.
    pub fn new<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, WireError> {
        let mut block = Self::default();
        for (name, value) in headers {
            block.add(Bytes::copy_from_slice(name.as_bytes()), Bytes::copy_from_slice(value.as_bytes()))?;
        }
        Ok(block)
    }

    /// Reads a decompressed block, all of it.
    pub(super) fn parse(mut plain: Bytes) -> Result<Self, WireError> {
        let truncated = || WireError::protocol(CODEC, "a header block that ends too early");
        let count = plain.try_get_u32().map_err(|_| truncated())?;
        let mut take = || {
            let length = plain.try_get_u32().map_err(|_| truncated())?;
            let length = usize::try_from(length).map_err(|_| truncated())?;
            if plain.len() < length { Err(truncated()) } else { Ok(plain.split_to(length)) }
        };
        let mut block = Self::default();
        for _ in 0..count {
            let (name, value) = (take()?, take()?);
            block.add(name, value)?;
        }
        if !plain.is_empty() {
            // spdystream would read the rest as the beginning of the next frame's block.
            return Err(WireError::ambiguous(CODEC, "bytes after the end of a header block"));
        }
        Ok(block)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut plain = Vec::new();
        let length = |bytes: &Bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        plain.put_u32(u32::try_from(self.0.len()).unwrap_or(u32::MAX));
        for (name, value) in &self.0 {
            plain.put_u32(length(name));
            plain.extend_from_slice(name);
            plain.put_u32(length(value));
            plain.extend_from_slice(value);
        }
        plain
    }

    fn add(&mut self, name: Bytes, value: Bytes) -> Result<(), WireError> {
        if name.is_empty() || name.iter().any(u8::is_ascii_uppercase) {
            return Err(WireError::protocol(CODEC, "a header name that is empty or not lower-case"));
        }
        if self.0.iter().any(|(known, _)| *known == name) {
            return Err(WireError::ambiguous(CODEC, "a header that comes twice"));
        }
        if self.0.len() == MAX_HEADERS {
            return Err(WireError::limit(CODEC, "more headers than the limit").with(MAX_HEADERS as u64));
        }
        self.0.push((name, value));
        Ok(())
    }
}

/// Shows names, not values.
impl fmt::Debug for HeaderBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| String::from_utf8_lossy(name))).finish()
    }
}

/// The decompressor of one direction of a connection, made when the first block comes.
#[derive(Debug, Default)]
pub(super) struct HeaderDecompressor(Option<Decompress>);

impl HeaderDecompressor {
    /// Decompresses the block of one frame, which must not yield more than `limit` bytes.
    pub(super) fn decompress(&mut self, mut compressed: &[u8], limit: usize) -> Result<Bytes, WireError> {
        let invalid = || WireError::protocol(CODEC, "a header block that cannot be decompressed");
        let zlib = self.0.get_or_insert_with(|| Decompress::new(true));
        let mut plain = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            let (read, written) = (zlib.total_in(), zlib.total_out());
            let status = zlib.decompress(compressed, &mut buffer, FlushDecompress::Sync);
            let read = progress(read, zlib.total_in());
            let written = progress(written, zlib.total_out());
            compressed = compressed.get(read..).ok_or_else(invalid)?;
            match status {
                Ok(Status::StreamEnd) => return Err(invalid()),
                Ok(Status::Ok | Status::BufError) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    zlib.set_dictionary(DICTIONARY).map_err(|_| invalid())?;
                    continue;
                }
                Err(_) => return Err(invalid()),
            }
            plain.extend_from_slice(buffer.get(..written).ok_or_else(invalid)?);
            if plain.len() > limit {
                return Err(
                    WireError::limit(CODEC, "a header block beyond the limit of bytes").with(limit as u64)
                );
            }
            if written < buffer.len() {
                // All that was compressed has been written; what is left of the input cannot be used.
                return if compressed.is_empty() { Ok(plain.into()) } else { Err(invalid()) };
            }
        }
    }
}

/// The compressor of one direction of a connection.
#[derive(Debug)]
pub(super) struct HeaderCompressor(Compress);

impl HeaderCompressor {
    pub(super) fn new() -> Result<Self, WireError> {
        let mut zlib = Compress::new(Compression::best(), true);
        zlib.set_dictionary(DICTIONARY)
            .map_err(|_| WireError::state(CODEC, "the compressor does not take the dictionary"))?;
        Ok(Self(zlib))
    }

    pub(super) fn compress(&mut self, mut plain: &[u8]) -> Result<Vec<u8>, WireError> {
        let failed = || WireError::state(CODEC, "headers cannot be compressed");
        let mut compressed = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            let (read, written) = (self.0.total_in(), self.0.total_out());
            self.0.compress(plain, &mut buffer, FlushCompress::Sync).map_err(|_| failed())?;
            plain = plain.get(progress(read, self.0.total_in())..).ok_or_else(failed)?;
            let written = progress(written, self.0.total_out());
            compressed.extend_from_slice(buffer.get(..written).ok_or_else(failed)?);
            if plain.is_empty() && written < buffer.len() {
                return Ok(compressed);
            }
        }
    }
}

fn progress(before: u64, after: u64) -> usize {
    usize::try_from(after - before).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::WireErrorKind;
    use proptest::prelude::*;

    fn round_trip(blocks: &[Vec<u8>]) {
        let mut compressor = HeaderCompressor::new().expect("a compressor");
        let mut decompressor = HeaderDecompressor::default();
        for block in blocks {
            let compressed = compressor.compress(block).expect("compressed");
            let plain = decompressor.decompress(&compressed, 1 << 20).expect("decompressed");
            assert_eq!(&plain[..], &block[..]);
        }
    }

    #[test]
    fn a_bomb_is_stopped() {
        let mut compressor = HeaderCompressor::new().expect("a compressor");
        let bomb = compressor.compress(&vec![0; 1 << 20]).expect("compressed");
        assert!(bomb.len() < 16 * 1024, "it fits a control frame");
        let error = HeaderDecompressor::default().decompress(&bomb, 64 * 1024).expect_err("too much");
        assert_eq!(error.kind(), WireErrorKind::Limit);
    }

    #[test]
    fn blocks_that_are_refused() {
        let refused = |plain: &[u8], says: &str| {
            let error = HeaderBlock::parse(Bytes::copy_from_slice(plain)).expect_err(says);
            assert!(error.to_string().contains(says), "{error}");
        };
        refused(b"", "too early");
        refused(b"\0\0\0\x01\0\0\0\x05a", "too early");
        refused(b"\xff\xff\xff\xff\xff\xff\xff\xff", "too early");
        refused(b"\0\0\0\0a", "after the end");
        refused(b"\0\0\0\x01\0\0\0\x01A\0\0\0\0", "lower-case");
        refused(b"\0\0\0\x01\0\0\0\0\0\0\0\0", "lower-case");
        refused(b"\0\0\0\x02\0\0\0\x01a\0\0\0\x01b\0\0\0\x01a\0\0\0\x01c", "twice");
    }

    proptest! {
        #[test]
        fn decompressing_undoes_compressing(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5000), 0..5)) {
            round_trip(&blocks);
        }

        #[test]
        fn no_bytes_make_it_panic(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..5)) {
            let mut decompressor = HeaderDecompressor::default();
            for block in blocks {
                let _ = decompressor.decompress(&[b"\x78\xbb\xe3\xc6\xa7\xc2".as_slice(), &block].concat(), 1000);
                let _ = HeaderBlock::parse(block.into());
            }
        }
    }
}
