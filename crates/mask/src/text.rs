//! Plain text, masked as it streams by: logs, and what commands print.

use bytes::{Bytes, BytesMut};

use crate::{
    detect::{Format, LONGEST, PEM, next_prefix},
    piece::Piece,
    rules::TextPlan,
};

/// Replaces what the detectors of a [`TextPlan`] find, in a stream that is cut anywhere.
///
/// What cannot be part of a secret goes on at once; the end of a chunk that may be the beginning of one waits for more.
pub(crate) struct TextScan {
    plan: TextPlan,
    /// What waits: a suffix of what has been taken.
    held: Bytes,
    /// How much of `held` was handed on already, and is kept as the beginning of what may come.
    passed: usize,
    /// The byte before `held`.
    before: Option<u8>,
    inside: Inside,
    interactive: bool,
}

#[derive(Clone, Copy)]
enum Inside {
    Text,
    /// A private key, up to its last line.
    Key,
    /// A run that is too long to wait for: it goes on while its class does.
    Run(fn(u8) -> bool),
}

/// How long the line may be that ends a private key.
const FOOTER: usize = 96;

impl TextScan {
    pub(crate) fn new(plan: TextPlan) -> Self {
        Self { plan, held: Bytes::new(), passed: 0, before: None, inside: Inside::Text, interactive: false }
    }

    /// For terminals: a typed character is never held back because some secret begins with it. The constant with which a
    /// secret begins, which is no secret, may then have passed before the rest is replaced.
    pub(crate) fn interactive(mut self) -> Self {
        self.interactive = true;
        self
    }

    /// Takes a chunk and hands on what is safe.
    pub(crate) fn push(&mut self, chunk: Bytes, out: &mut Vec<Piece>) {
        self.scan(chunk, false, out);
    }

    /// Nothing more comes: hands on the rest.
    pub(crate) fn finish(&mut self, out: &mut Vec<Piece>) {
        self.scan(Bytes::new(), true, out);
    }

    /// How many values each rule replaced since it was last asked.
    pub(crate) fn take_counts(&mut self) -> Vec<(String, u64)> {
        self.plan.take_counts()
    }

    fn scan(&mut self, chunk: Bytes, last: bool, out: &mut Vec<Piece>) {
        let bytes = if self.held.is_empty() {
            chunk
        } else {
            let mut joined = BytesMut::with_capacity(self.held.len() + chunk.len());
            joined.extend_from_slice(&self.held);
            joined.extend_from_slice(&chunk);
            joined.freeze()
        };
        let mut cursor = Cursor { bytes: &bytes, at: 0, done: self.passed, out };
        let keep_from = loop {
            let wait = match self.inside {
                Inside::Text => self.in_text(&mut cursor, last),
                Inside::Key => self.in_key(&mut cursor, last),
                Inside::Run(class) => {
                    while bytes.get(cursor.at).is_some_and(|byte| class(*byte)) {
                        cursor.at += 1;
                    }
                    cursor.skip_to(cursor.at);
                    if cursor.at < bytes.len() {
                        self.inside = Inside::Text;
                        continue;
                    }
                    Some(bytes.len())
                }
            };
            if let Some(from) = wait {
                break from;
            }
        };
        cursor.pass_to(keep_from);
        // In a terminal what has begun passes, but is remembered.
        if self.interactive && matches!(self.inside, Inside::Text) && !last {
            let begun = Format::begun_at_end(&bytes[keep_from..]);
            if begun > 0 && keep_from + begun == bytes.len() {
                cursor.pass_to(bytes.len());
            }
        }
        self.passed = cursor.done.saturating_sub(keep_from);
        if let Some(before) = keep_from.checked_sub(1) {
            self.before = Some(bytes[before]);
        }
        self.held = bytes.slice(keep_from..);
    }

    /// Goes on to the next place where something changes (`None`), or says from where on bytes must wait.
    fn in_text(&mut self, cursor: &mut Cursor<'_>, last: bool) -> Option<usize> {
        let bytes = cursor.bytes;
        let Some(found) = next_prefix(bytes, cursor.at) else {
            let begun = if last { 0 } else { Format::begun_at_end(&bytes[cursor.at..]) };
            return Some(bytes.len() - begun);
        };
        cursor.at = found + 1;
        let format = Format::at(&bytes[found..])?;
        let previous = found.checked_sub(1).map(|at| bytes[at]).or(self.before);
        let inside_word = previous.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !self.plan.looks_for(format.detector)
            || (inside_word && format.prefix.as_bytes()[0].is_ascii_alphanumeric())
        {
            return None;
        }
        let start = found + format.prefix.len();
        if format.prefix == PEM {
            return self.private_key(cursor, found, start, last);
        }
        let length =
            bytes[start..].iter().take(LONGEST + 1).take_while(|byte| (format.class)(**byte)).count();
        if length > LONGEST {
            cursor.replace(found + format.kept..start + length, self.plan.redacted(format.detector));
            self.inside = Inside::Run(format.class);
        } else if start + length == bytes.len() && !last {
            return Some(found);
        } else if let Some(length) = format.length(&bytes[start..start + length]) {
            let secret = found + format.kept..start + length;
            let token = self.plan.replacement(format.detector, &bytes[secret.clone()]);
            cursor.replace(secret, token);
        }
        None
    }

    /// `-----BEGIN ` has been found: is it a private key?
    fn private_key(
        &mut self,
        cursor: &mut Cursor<'_>,
        found: usize,
        start: usize,
        last: bool,
    ) -> Option<usize> {
        let rest = &cursor.bytes[start..];
        let label = rest
            .iter()
            .take(FOOTER)
            .take_while(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || **byte == b' ')
            .count();
        let dashes = rest[label..].iter().take(5).take_while(|byte| **byte == b'-').count();
        if !last && label < FOOTER && dashes < 5 && label + dashes == rest.len() {
            return Some(found);
        }
        let is_key = memchr::memmem::find(&rest[..label], b"PRIVATE KEY").is_some();
        if is_key && dashes == 5 {
            cursor.replace(found..start + label + 5, self.plan.redacted(crate::Detector::PrivateKey));
            self.inside = Inside::Key;
        }
        None
    }

    fn in_key(&mut self, cursor: &mut Cursor<'_>, last: bool) -> Option<usize> {
        const END: &[u8] = b"-----END ";
        let bytes = cursor.bytes;
        let rest = &bytes[cursor.at..];
        if let Some(end) = memchr::memmem::find(rest, END) {
            let label = end + END.len();
            let line = &rest[label..rest.len().min(label + FOOTER)];
            if let Some(dashes) = memchr::memmem::find(line, b"-----") {
                cursor.skip_to(cursor.at + label + dashes + 5);
                self.inside = Inside::Text;
                return None;
            }
            if line.len() == FOOTER {
                cursor.skip_to(cursor.at + label);
                return None;
            }
            if !last {
                let keep = cursor.at + end;
                cursor.skip_to(bytes.len());
                return Some(keep);
            }
        }
        let begun =
            if last { 0 } else { (1..END.len()).rev().find(|n| rest.ends_with(&END[..*n])).unwrap_or(0) };
        cursor.skip_to(bytes.len());
        Some(bytes.len() - begun)
    }
}

/// A place in a buffer, and how much of it has been dealt with.
struct Cursor<'a> {
    bytes: &'a Bytes,
    at: usize,
    /// Up to here bytes were handed on, replaced or left out.
    done: usize,
    out: &'a mut Vec<Piece>,
}

impl Cursor<'_> {
    fn pass_to(&mut self, end: usize) {
        if end > self.done {
            self.out.push(Piece::Verbatim(self.bytes.slice(self.done..end)));
            self.done = end;
        }
    }

    fn skip_to(&mut self, end: usize) {
        self.at = end;
        self.done = self.done.max(end);
    }

    fn replace(&mut self, range: std::ops::Range<usize>, token: String) {
        self.pass_to(range.start);
        if !token.is_empty() {
            self.out.push(Piece::Replacement(token.into()));
        }
        self.skip_to(range.end);
    }
}
