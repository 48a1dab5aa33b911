//! Base64 that arrives in parts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::error::WireError;

/// Decodes one padded base64 text (RFC 4648, section 4) piece by piece, with the verdict it would get as a
/// whole.
#[derive(Debug, Default)]
pub(crate) struct Base64Stream {
    /// At most three characters that wait for the rest of their group of four.
    carry: Vec<u8>,
    padded: bool,
}

impl Base64Stream {
    /// Decodes what `text` completes; with `end`, the text is over and the next call begins a new one.
    pub(crate) fn decode(&mut self, codec: &'static str, text: &[u8], end: bool) -> Result<Bytes, WireError> {
        let invalid = || WireError::protocol(codec, "a payload that is not padded base64");
        if self.padded && !text.is_empty() {
            return Err(invalid());
        }
        let mut group = std::mem::take(&mut self.carry);
        group.extend_from_slice(text);
        let usable = if end { group.len() } else { group.len() - group.len() % 4 };
        let plain = STANDARD.decode(&group[..usable]).map_err(|_| invalid())?;
        self.padded = !end && group[..usable].ends_with(b"=");
        if self.padded && usable < group.len() {
            return Err(invalid());
        }
        self.carry = group.split_off(usable);
        Ok(plain.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn in_parts(text: &[u8], cut: usize) -> Result<Vec<u8>, WireError> {
        let mut stream = Base64Stream::default();
        let mut plain = Vec::new();
        for part in text.chunks(cut) {
            plain.extend_from_slice(&stream.decode("test", part, false)?);
        }
        plain.extend_from_slice(&stream.decode("test", b"", true)?);
        Ok(plain)
    }

    proptest! {
        #[test]
        fn parts_decode_like_the_whole(text in "[AQgwYz+/=]{0,24}|[A-Za-z0-9+/]{4,20}={0,2}", cut in 1usize..9) {
            let whole = Base64Stream::default().decode("test", text.as_bytes(), true).map(|plain| plain.to_vec());
            prop_assert_eq!(in_parts(text.as_bytes(), cut), whole);
        }

        #[test]
        fn decoding_undoes_encoding(plain in prop::collection::vec(any::<u8>(), 0..60), cut in 1usize..9) {
            prop_assert_eq!(in_parts(STANDARD.encode(&plain).as_bytes(), cut).expect("valid"), plain);
        }
    }
}
