//! JSON written as YAML, for clients that read nothing else.
//!
//! What is written reads the same in YAML 1.1 (which Kubernetes' own clients and most of Python read) and in YAML 1.2: each
//! string that any of them might take for something else stands in quotation marks, and numbers are of a form that all know.
//! A general YAML library does not promise that (`12:30:00`, `yes` and `1e3` are strings in one version and not in the other),
//! and would put keys and numbers through its own types. Members keep their order, numbers their digits.

use std::collections::HashSet;

use serde::de::IgnoredAny;

/// Why a document cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unwritable {
    /// It would be longer than the limit.
    TooLong,
    /// It is not JSON, or has a member twice, which YAML does not allow.
    Malformed,
}

/// Writes one JSON document as a YAML document of at most `limit` bytes. Takes as much memory, and none of the stack's for
/// what is nested.
pub(crate) fn yaml_from_json(json: &[u8], limit: usize) -> Result<String, Unwritable> {
    let mut writer = Writer { out: String::new(), limit };
    let mut input = Input { rest: json };
    let mut levels: Vec<Level> = Vec::new();
    let mut place = Place::Root;
    loop {
        // A value stands next, and has its place.
        match input.next_token()? {
            Token::Open(shape) if input.closes(shape) => writer.scalar(place, shape.empty()),
            Token::Open(shape) => {
                let indent = writer.open(place, shape);
                levels.push(Level { shape, indent, keys: HashSet::new() });
                place =
                    levels.last_mut().ok_or(Unwritable::Malformed)?.entry(&mut input, &mut writer, true)?;
                continue;
            }
            Token::Text(text) => writer.text(place, &text),
            Token::Number(digits) => writer.scalar(place, &number(digits)),
            Token::Word(word) => writer.scalar(place, word),
        }
        // It is over, and whatever ends with it.
        loop {
            writer.check()?;
            let Some(level) = levels.last_mut() else { return input.ends().map(|()| writer.out) };
            if input.closes(level.shape) {
                levels.pop();
                continue;
            }
            input.expect(b',')?;
            place = level.entry(&mut input, &mut writer, false)?;
            break;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Mapping,
    Sequence,
}

impl Shape {
    const fn empty(self) -> &'static str {
        match self {
            Self::Mapping => "{}",
            Self::Sequence => "[]",
        }
    }
}

/// What a value stands behind: nothing, or a key or a dash at this indentation.
#[derive(Clone, Copy, Debug)]
enum Place {
    Root,
    Key(usize),
    Item(usize),
}

/// A container that is being written.
struct Level {
    shape: Shape,
    indent: usize,
    keys: HashSet<String>,
}

impl Level {
    /// Begins its next entry. The first one of what stands behind a dash stands on the same line.
    fn entry(
        &mut self,
        input: &mut Input<'_>,
        writer: &mut Writer,
        first: bool,
    ) -> Result<Place, Unwritable> {
        if !(first && writer.is_behind_dash()) {
            writer.indent(self.indent);
        }
        if self.shape == Shape::Sequence {
            writer.out.push_str("- ");
            return Ok(Place::Item(self.indent));
        }
        let Token::Text(key) = input.next_token()? else { return Err(Unwritable::Malformed) };
        input.expect(b':')?;
        writer.key(&key, self.indent);
        match self.keys.insert(key) {
            true => Ok(Place::Key(self.indent)),
            false => Err(Unwritable::Malformed),
        }
    }
}

struct Writer {
    out: String,
    limit: usize,
}

/// How long a key may be that is not marked as one (YAML 1.1 §10.2, in characters).
const SHORT_KEY: usize = 1000;

impl Writer {
    fn check(&self) -> Result<(), Unwritable> {
        if self.out.len() > self.limit { Err(Unwritable::TooLong) } else { Ok(()) }
    }

    fn indent(&mut self, by: usize) {
        self.out.extend(std::iter::repeat_n(' ', by));
    }

    fn is_behind_dash(&self) -> bool {
        self.out.ends_with("- ")
    }

    fn key(&mut self, key: &str, indent: usize) {
        let written = if is_plain(key) { key.to_owned() } else { quoted(key) };
        if written.len() > SHORT_KEY {
            self.out.push_str("? ");
            self.out.push_str(&written);
            self.out.push('\n');
            self.indent(indent);
        } else {
            self.out.push_str(&written);
        }
        self.out.push(':');
    }

    /// Begins a container that has something in it; its indentation.
    fn open(&mut self, place: Place, shape: Shape) -> usize {
        match (place, shape) {
            (Place::Root, _) => 0,
            (Place::Item(indent), _) => indent + 2,
            // A list stands where its key does, as Kubernetes writes it.
            (Place::Key(indent), shape) => {
                self.out.push('\n');
                if shape == Shape::Sequence { indent } else { indent + 2 }
            }
        }
    }

    fn scalar(&mut self, place: Place, text: &str) {
        if matches!(place, Place::Key(_)) {
            self.out.push(' ');
        }
        self.out.push_str(text);
        self.out.push('\n');
    }

    fn text(&mut self, place: Place, text: &str) {
        match place {
            Place::Key(indent) | Place::Item(indent) if is_lines(text) => {
                let (keep, lines) = match text.strip_suffix('\n') {
                    None => ("|-", text),
                    Some(lines) if lines.ends_with('\n') => ("|+", lines),
                    Some(lines) => ("|", lines),
                };
                self.scalar(place, keep);
                for line in lines.split('\n') {
                    if !line.is_empty() {
                        self.indent(indent + 2);
                    }
                    self.out.push_str(line);
                    self.out.push('\n');
                }
            }
            _ if is_plain(text) => self.scalar(place, text),
            _ => self.scalar(place, &quoted(text)),
        }
    }
}

/// What some reader of YAML 1.1 takes for a truth or for nothing (<https://yaml.org/type/bool.html>), in any letter case.
const WORDS: [&str; 9] = ["y", "yes", "n", "no", "true", "false", "on", "off", "null"];

/// Whether a string needs no quotation marks. Anything that begins with a digit, a sign, a dot or a mark could be something else.
fn is_plain(text: &str) -> bool {
    let bytes = text.as_bytes();
    let harmless = |at: usize, byte: u8| match byte {
        b'_' | b'-' | b'.' | b'/' | b'+' | b'=' | b'@' | b',' | b'(' | b')' => true,
        b' ' => at + 1 < bytes.len(),
        b':' => bytes.get(at + 1).is_some_and(|next| next.is_ascii_alphanumeric()),
        byte => byte.is_ascii_alphanumeric(),
    };
    bytes.first().is_some_and(|first| first.is_ascii_alphabetic() || *first == b'/')
        && bytes.iter().enumerate().all(|(at, byte)| harmless(at, *byte))
        && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// Whether a string is lines that can be shown as such: the first one gives the indentation, and no space at an end is lost.
fn is_lines(text: &str) -> bool {
    text.contains('\n')
        && !text.starts_with([' ', '\t', '\n'])
        && text.chars().all(|c| c == '\n' || c == '\t' || is_printable(c))
        && text.split('\n').all(|line| !line.ends_with([' ', '\t']))
}

/// Whether readers take a character as it is. (U+0085, U+2028 and U+2029 break lines in YAML 1.1, and U+FEFF is a mark.)
const fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
        && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_printable(c) => out.push(c),
            c if u32::from(c) <= 0xff => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// A number that is one in every version: YAML 1.1 wants a point and a sign where there is an exponent.
fn number(digits: &str) -> String {
    let Some((mantissa, exponent)) = digits.split_once(['e', 'E']) else { return digits.to_owned() };
    let point = if mantissa.contains('.') { "" } else { ".0" };
    let sign = if exponent.starts_with(['+', '-']) { "" } else { "+" };
    format!("{mantissa}{point}e{sign}{exponent}")
}

/// What of the JSON has not been read yet.
struct Input<'a> {
    rest: &'a [u8],
}

enum Token<'a> {
    Open(Shape),
    Text(String),
    Number(&'a str),
    Word(&'static str),
}

impl<'a> Input<'a> {
    fn skip_space(&mut self) -> Option<u8> {
        let space = self.rest.iter().take_while(|byte| b" \t\r\n".contains(byte)).count();
        self.rest = &self.rest[space..];
        self.rest.first().copied()
    }

    fn expect(&mut self, wanted: u8) -> Result<(), Unwritable> {
        match self.skip_space() == Some(wanted) {
            true => self.rest = &self.rest[1..],
            false => return Err(Unwritable::Malformed),
        }
        Ok(())
    }

    fn closes(&mut self, shape: Shape) -> bool {
        self.expect(if shape == Shape::Mapping { b'}' } else { b']' }).is_ok()
    }

    fn ends(&mut self) -> Result<(), Unwritable> {
        self.skip_space().map_or(Ok(()), |_| Err(Unwritable::Malformed))
    }

    fn next_token(&mut self) -> Result<Token<'a>, Unwritable> {
        let first = self.skip_space().ok_or(Unwritable::Malformed)?;
        match first {
            b'{' => self.take(1).map(|_| Token::Open(Shape::Mapping)),
            b'[' => self.take(1).map(|_| Token::Open(Shape::Sequence)),
            b'"' => {
                let mut escaped = false;
                let end = self.rest.iter().skip(1).position(|byte| {
                    let ends = *byte == b'"' && !escaped;
                    escaped = *byte == b'\\' && !escaped;
                    ends
                });
                let text = self.take(end.ok_or(Unwritable::Malformed)? + 2)?;
                serde_json::from_str(text).map(Token::Text).map_err(|_| Unwritable::Malformed)
            }
            b'-' | b'0'..=b'9' => {
                let length = self.rest.iter().take_while(|byte| b"+-.eE0123456789".contains(byte)).count();
                let number = self.take(length)?;
                let checked = serde_json::from_str::<IgnoredAny>(number);
                checked.map(|_| Token::Number(number)).map_err(|_| Unwritable::Malformed)
            }
            _ => {
                let word =
                    ["true", "false", "null"].into_iter().find(|word| self.rest.starts_with(word.as_bytes()));
                let word = word.ok_or(Unwritable::Malformed)?;
                self.take(word.len()).map(|_| Token::Word(word))
            }
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a str, Unwritable> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Unwritable::Malformed)?;
        self.rest = rest;
        std::str::from_utf8(taken).map_err(|_| Unwritable::Malformed)
    }
}

#[cfg(test)]
mod tests;
