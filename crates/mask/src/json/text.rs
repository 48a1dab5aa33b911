//! The inside of JSON strings: found eight bytes at a time, checked, unescaped, escaped.

use std::fmt::Write as _;

use crate::MaskErrorKind;

/// Takes the unescaped content of a string, in runs.
pub(super) trait Content {
    fn take(&mut self, run: &[u8]) -> Result<(), MaskErrorKind>;
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    /// After the backslash.
    Started,
    /// Inside `\uXXXX`, with so many digits seen.
    Unicode(u8),
}

/// Where a scanner is in a string. Survives the end of a chunk at any place.
#[derive(Default)]
pub(super) struct StringScan {
    wanted: bool,
    escape: Escape,
    unit: u16,
    /// The first half of a surrogate pair, waiting for the second.
    high: Option<u16>,
    /// A UTF-8 sequence whose end has not come yet.
    partial: [u8; 4],
    partial_len: usize,
}

impl StringScan {
    pub(super) fn open(&mut self, wanted: bool) {
        *self = Self { wanted, ..Self::default() };
    }

    /// The length of the string that starts here, if its end is in sight and it needs no unescaping.
    pub(super) fn whole(bytes: &[u8]) -> Option<usize> {
        let (length, ascii) = plain_run(bytes);
        let closed = bytes.get(length) == Some(&b'"');
        (closed && (ascii || std::str::from_utf8(&bytes[..length]).is_ok())).then_some(length)
    }

    /// Goes on from `at`; true when the closing quote has been passed.
    pub(super) fn run<C: Content>(
        &mut self,
        chunk: &[u8],
        at: &mut usize,
        content: &mut C,
    ) -> Result<bool, MaskErrorKind> {
        self.complete_partial(chunk, at, content)?;
        while *at < chunk.len() {
            if self.escape != Escape::None {
                self.escaped(chunk[*at], content)?;
                *at += 1;
                continue;
            }
            let rest = &chunk[*at..];
            let (length, ascii) = plain_run(rest);
            let run = &rest[..length];
            if !ascii {
                self.check_utf8(run, length == rest.len())?;
            }
            if length > 0 {
                self.flush_high(content)?;
                self.take(run, content)?;
                *at += length;
            }
            match rest.get(length) {
                None => return Ok(false),
                Some(b'"') => {
                    self.flush_high(content)?;
                    *at += 1;
                    return Ok(true);
                }
                Some(b'\\') => {
                    self.escape = Escape::Started;
                    *at += 1;
                }
                Some(_) => return Err(MaskErrorKind::Malformed("a control character in a string")),
            }
        }
        Ok(false)
    }

    fn take<C: Content>(&self, run: &[u8], content: &mut C) -> Result<(), MaskErrorKind> {
        if self.wanted { content.take(run) } else { Ok(()) }
    }

    fn complete_partial<C: Content>(
        &mut self,
        chunk: &[u8],
        at: &mut usize,
        content: &mut C,
    ) -> Result<(), MaskErrorKind> {
        while self.partial_len > 0 && *at < chunk.len() {
            self.partial[self.partial_len] = chunk[*at];
            self.partial_len += 1;
            match std::str::from_utf8(&self.partial[..self.partial_len]) {
                Ok(_) => self.partial_len = 0,
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(MaskErrorKind::Malformed("not UTF-8")),
            }
            self.take(&chunk[*at..=*at], content)?;
            *at += 1;
        }
        Ok(())
    }

    fn check_utf8(&mut self, run: &[u8], chunk_ends: bool) -> Result<(), MaskErrorKind> {
        let Err(error) = std::str::from_utf8(run) else { return Ok(()) };
        if error.error_len().is_some() || !chunk_ends {
            return Err(MaskErrorKind::Malformed("not UTF-8"));
        }
        let partial = &run[error.valid_up_to()..];
        self.partial[..partial.len()].copy_from_slice(partial);
        self.partial_len = partial.len();
        Ok(())
    }

    fn escaped<C: Content>(&mut self, byte: u8, content: &mut C) -> Result<(), MaskErrorKind> {
        if let Escape::Unicode(digits) = self.escape {
            let digit = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                b'A'..=b'F' => byte - b'A' + 10,
                _ => return Err(MaskErrorKind::Malformed("an escape lacks hexadecimal digits")),
            };
            self.unit = (self.unit << 4) | u16::from(digit);
            if digits < 3 {
                self.escape = Escape::Unicode(digits + 1);
                return Ok(());
            }
            self.escape = Escape::None;
            return self.utf16(self.unit, content);
        }
        let plain = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                (self.escape, self.unit) = (Escape::Unicode(0), 0);
                return Ok(());
            }
            _ => return Err(MaskErrorKind::Malformed("an unknown escape")),
        };
        self.escape = Escape::None;
        self.flush_high(content)?;
        self.take(&[plain], content)
    }

    fn utf16<C: Content>(&mut self, unit: u16, content: &mut C) -> Result<(), MaskErrorKind> {
        let decoded = match (self.high, unit) {
            (Some(high), 0xdc00..=0xdfff) => {
                self.high = None;
                let pair = (u32::from(high & 0x3ff) << 10) + u32::from(unit & 0x3ff) + 0x1_0000;
                char::from_u32(pair)
            }
            (_, 0xd800..=0xdbff) => {
                self.flush_high(content)?;
                self.high = Some(unit);
                return Ok(());
            }
            _ => {
                self.flush_high(content)?;
                char::from_u32(u32::from(unit))
            }
        };
        let decoded = decoded.unwrap_or(char::REPLACEMENT_CHARACTER);
        self.take(decoded.encode_utf8(&mut [0; 4]).as_bytes(), content)
    }

    /// A surrogate without its other half stands for U+FFFD, as in Go's and most other readers.
    fn flush_high<C: Content>(&mut self, content: &mut C) -> Result<(), MaskErrorKind> {
        match self.high.take() {
            Some(_) => self.take("\u{fffd}".as_bytes(), content),
            None => Ok(()),
        }
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// How many bytes from the start are neither quote, backslash nor control character, and whether all of those are ASCII.
///
/// memchr could find the first two, but not the third; eight bytes in a register find all of them in one pass, and where
/// a string is long, the compiler makes vector instructions of the loop over a block.
#[inline]
fn plain_run(bytes: &[u8]) -> (usize, bool) {
    let (mut at, mut high) = (0, 0);
    while let Some(block) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*block);
        let stop = stops(word);
        if stop != 0 {
            let bits = stop.trailing_zeros() & !7;
            high |= word & HIGH & ((1u64 << bits) - 1);
            return (at + bits as usize / 8, high == 0);
        }
        high |= word & HIGH;
        at += 8;
        if at == 32 {
            while let Some(block) = bytes.get(at..).and_then(|rest| rest.first_chunk::<BLOCK>()) {
                let (plain, beyond) = judge_block(block);
                if !plain {
                    break;
                }
                high |= u64::from(beyond & 0x80) << 56;
                at += BLOCK;
            }
        }
    }
    let mut ascii = high == 0;
    while let Some(&byte) = bytes.get(at) {
        if byte == b'"' || byte == b'\\' || byte < 0x20 {
            break;
        }
        ascii &= byte < 0x80;
        at += 1;
    }
    (at, ascii)
}

const BLOCK: usize = 64;

/// Whether a block holds nothing that ends a run, and all its bytes joined by `or`.
#[inline]
fn judge_block(block: &[u8; BLOCK]) -> (bool, u8) {
    let (mut stop, mut joined) = (false, 0);
    for &byte in block {
        stop |= (byte == b'"') | (byte == b'\\') | (byte < 0x20);
        joined |= byte;
    }
    (!stop, joined)
}

/// Flags bytes that end a run. The lowest flagged byte is exact (a borrow only spoils bytes above a hit), and only that one
/// may be used.
#[inline]
const fn stops(word: u64) -> u64 {
    let quote = word ^ (ONES * 0x22);
    let backslash = word ^ (ONES * 0x5c);
    ((quote.wrapping_sub(ONES) & !quote)
        | (backslash.wrapping_sub(ONES) & !backslash)
        | (word.wrapping_sub(ONES * 0x20) & !word))
        & HIGH
}

/// Writes `text` as a JSON string, quotes included. Escapes what RFC 8259 demands, and `<`, `>`, `&` as Go does.
pub(crate) fn escape(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    // Tokens are letters and digits: the compiler makes vector instructions of this.
    let odd = |byte: u8| (byte < 0x20) | matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&' | 0xe2);
    if !text.bytes().fold(false, |any, byte| any | odd(byte)) {
        json.push_str(text);
        json.push('"');
        return json;
    }
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        // U+2028 and U+2029 are the only characters beyond ASCII, and begin with 0xe2.
        let length = match byte {
            b'"' | b'\\' | b'<' | b'>' | b'&' | 0..=0x1f => 1,
            0xe2 if matches!(text.as_bytes().get(at + 1..at + 3), Some([0x80, 0xa8 | 0xa9])) => 3,
            _ => continue,
        };
        json.push_str(&text[plain..at]);
        plain = at + length;
        match byte {
            b'"' => json.push_str("\\\""),
            b'\\' => json.push_str("\\\\"),
            b'\n' => json.push_str("\\n"),
            b'\r' => json.push_str("\\r"),
            b'\t' => json.push_str("\\t"),
            _ => {
                let code = text[at..plain].chars().next().map_or(0, u32::from);
                let _ = write!(json, "\\u{code:04x}");
            }
        }
    }
    json.push_str(&text[plain..]);
    json.push('"');
    json
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_plain_run_ends_where_a_byte_by_byte_search_says(bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..40), prop::collection::vec(prop_oneof![60 => 0x23u8..0x5c, 1 => any::<u8>()], 0..300)]) {
            let expected = bytes.iter().position(|byte| b"\"\\".contains(byte) || *byte < 0x20).unwrap_or(bytes.len());
            prop_assert_eq!(plain_run(&bytes), (expected, bytes[..expected].is_ascii()));
        }

        #[test]
        fn what_is_escaped_reads_back(text in prop_oneof![any::<String>(), "[a-z<&\"\\\\\n\u{2027}-\u{202a}\u{2080}]{0,12}"]) {
            let escaped = escape(&text);
            prop_assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), text);
            let raw = ['<', '>', '&', '\u{2028}', '\u{2029}'];
            prop_assert!(!escaped.contains(raw));
        }
    }
}
