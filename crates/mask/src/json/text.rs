//! The inside of JSON strings: checked, unescaped, escaped.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::stops::Stops;
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

    /// Goes on from `at`; true when the closing quote has been passed.
    pub(super) fn run<C: Content>(
        &mut self,
        chunk: &[u8],
        at: &mut usize,
        stops: &mut Stops,
        content: &mut C,
    ) -> Result<bool, MaskErrorKind> {
        self.complete_partial(chunk, at, content)?;
        if !self.wanted && self.escape == Escape::None && self.high.is_none() {
            pass_over_escapes(chunk, at, stops);
        }
        while *at < chunk.len() {
            if self.escape != Escape::None {
                self.escaped(chunk[*at], content)?;
                *at += 1;
                continue;
            }
            let (end, ascii) = stops.next(chunk, *at);
            let run = &chunk[*at..end];
            if !ascii {
                self.check_utf8(run, end == chunk.len())?;
            }
            if !run.is_empty() {
                self.flush_high(content)?;
                self.take(run, content)?;
                *at = end;
            }
            match chunk.get(end) {
                None => return Ok(false),
                Some(b'"') => {
                    self.flush_high(content)?;
                    *at += 1;
                    return Ok(true);
                }
                Some(b'\\') => match chunk.get(end + 1).copied().and_then(plain_escape) {
                    Some(plain) => {
                        self.flush_high(content)?;
                        self.take(&[plain], content)?;
                        *at += 2;
                    }
                    None => {
                        self.escape = Escape::Started;
                        *at += 1;
                    }
                },
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
        if byte == b'u' {
            (self.escape, self.unit) = (Escape::Unicode(0), 0);
            return Ok(());
        }
        let plain = plain_escape(byte).ok_or(MaskErrorKind::Malformed("an unknown escape"))?;
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

/// Passes over the text of a string that nobody wants, as long as it is ASCII and its escapes are plain.
fn pass_over_escapes(chunk: &[u8], at: &mut usize, stops: &mut Stops) {
    while let (end, true) = stops.next(chunk, *at)
        && let Some([b'\\', b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't']) = chunk.get(end..end + 2)
    {
        *at = end + 2;
    }
}

/// What a backslash and this byte stand for, unless they only begin an escape (RFC 8259, section 7).
fn plain_escape(byte: u8) -> Option<u8> {
    Some(match byte {
        b'"' | b'\\' | b'/' => byte,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        _ => return None,
    })
}

/// Writes `text`, in base64, as a JSON string, quotes included.
pub(super) fn in_base64(text: &str) -> Vec<u8> {
    let length = text.len().div_ceil(3) * 4;
    let mut json = vec![b'"'; length + 2];
    // There is as much room as it takes.
    let _ = STANDARD.encode_slice(text, &mut json[1..=length]);
    json
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
        fn what_is_escaped_reads_back(text in prop_oneof![any::<String>(), "[a-z<&\"\\\\\n\u{2027}-\u{202a}\u{2080}]{0,12}"]) {
            let escaped = escape(&text);
            prop_assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), text);
            let raw = ['<', '>', '&', '\u{2028}', '\u{2029}'];
            prop_assert!(!escaped.contains(raw));
        }
    }
}
