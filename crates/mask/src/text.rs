//! Plain text, masked as it streams by: logs, and what commands print.

use bytes::{Bytes, BytesMut};

use crate::{
    Detector,
    detect::{
        Class, Format, LABEL, LONGEST, Opening, PEM, Run, in_label, next_prefix, private_key_label,
        shape::{self, Place, Shape},
    },
    piece::Piece,
    rules::{Scope, TextPlan},
};

/// Masks plain text, chunk by chunk: what the detectors and patterns of the rules that look into text find in it is replaced.
pub struct TextMasker(TextScan);

impl TextMasker {
    /// For one text.
    pub fn new(scope: &Scope) -> Self {
        Self(TextScan::new(scope.text_plan(false)))
    }

    /// Takes a chunk, and appends what can be handed on to `out`. The end of a chunk that may begin a secret waits for more.
    pub fn push(&mut self, chunk: Bytes, out: &mut Vec<Piece>) {
        self.0.push(chunk, out);
    }

    /// The text has ended.
    pub fn finish(&mut self, out: &mut Vec<Piece>) {
        self.0.finish(out);
    }

    /// How many values each rule replaced since this was last asked.
    pub fn take_counts(&mut self) -> Vec<(String, u64)> {
        self.0.take_counts()
    }
}

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
    lines: Lines,
}

/// What patterns have not looked at yet.
#[derive(Default)]
struct Lines {
    /// The beginning of a line.
    held: BytesMut,
    /// Whether the rest of a line is left out that is too long.
    overlong: bool,
}

/// A line longer than this counts as a secret if there are patterns: nothing waits for more.
const LONGEST_LINE: usize = 16 << 10;

#[derive(Clone, Copy)]
enum Inside {
    Text,
    /// A private key, up to its last line.
    Key,
    /// A run that is too long to wait for: it goes on while its class does.
    Run(Class),
}

impl TextScan {
    pub(crate) fn new(plan: TextPlan) -> Self {
        Self {
            plan,
            held: Bytes::new(),
            passed: 0,
            before: None,
            inside: Inside::Text,
            interactive: false,
            lines: Lines::default(),
        }
    }

    /// For terminals: a typed character is never held back because some secret begins with it. The constant with which a
    /// secret begins, which is no secret, may then have passed before the rest is replaced.
    pub(crate) fn interactive(mut self) -> Self {
        self.interactive = true;
        self
    }

    /// Takes a chunk and hands on what is safe.
    pub(crate) fn push(&mut self, chunk: Bytes, out: &mut Vec<Piece>) {
        let chunk = if self.plan.has_patterns() { self.whole_lines(&chunk, false) } else { chunk };
        self.scan(chunk, false, out);
    }

    /// Takes a text that is whole.
    pub(crate) fn whole(&mut self, text: Bytes, out: &mut Vec<Piece>) {
        let text = match self.plan.has_patterns() {
            true => [self.whole_lines(&text, false), self.whole_lines(b"", true)].concat().into(),
            false => text,
        };
        self.scan(text, true, out);
    }

    /// Nothing more comes: hands on the rest.
    pub(crate) fn finish(&mut self, out: &mut Vec<Piece>) {
        let rest = if self.plan.has_patterns() { self.whole_lines(b"", true) } else { Bytes::new() };
        self.scan(rest, true, out);
    }

    /// How many values each rule replaced since it was last asked.
    pub(crate) fn take_counts(&mut self) -> Vec<(String, u64)> {
        self.plan.take_counts()
    }

    /// Replaces what patterns match in the lines that have ended. A terminal does not wait for the end.
    fn whole_lines(&mut self, chunk: &[u8], last: bool) -> Bytes {
        let mut masked = BytesMut::with_capacity(self.lines.held.len() + chunk.len());
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            let (text, end) = part.split_at(part.len() - usize::from(part.ends_with(b"\n")));
            if !self.lines.overlong {
                self.lines.held.extend_from_slice(text);
            }
            if self.lines.held.len() > LONGEST_LINE {
                self.lines = Lines { held: BytesMut::new(), overlong: true };
                masked.extend_from_slice(self.plan.overlong().as_bytes());
            }
            if !end.is_empty() {
                self.end_line(&mut masked);
                masked.extend_from_slice(end);
            }
        }
        if last || (self.interactive && !self.lines.overlong) {
            self.end_line(&mut masked);
        }
        masked.freeze()
    }

    fn end_line(&mut self, masked: &mut BytesMut) {
        let mut line = std::mem::take(&mut self.lines).held;
        let text = line.split_to(line.len() - usize::from(line.ends_with(b"\r")));
        masked.extend_from_slice(&self.plan.replace_patterns(text.freeze()));
        masked.extend_from_slice(&line);
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
        let mut cursor =
            Cursor { bytes: &bytes, at: 0, consumed: 0, done: self.passed, next: Next::default(), out };
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
        let prefix = cursor.next_prefix();
        let shape = self.next_shape(cursor, last);
        match (prefix, shape) {
            (Some(found), shape) if shape.is_none_or(|(_, shape)| found <= shape.start) => {
                self.at_prefix(cursor, found, last)
            }
            (prefix, Some((detector, Shape { start, end, harmless }))) => match end {
                Some(end) => {
                    let token = self.plan.replacement(detector, &cursor.bytes[start..end]);
                    cursor.replace(start..end, token);
                    None
                }
                None => {
                    // What has begun to be of a known format is not harmless.
                    let constant =
                        |at: usize| Format::at(&cursor.bytes[at..]).map(|format| format.prefix.len());
                    let begun = prefix.map(|at| at + constant(at).min().unwrap_or_default());
                    let shown = begun.unwrap_or(usize::MAX).min(start + harmless);
                    if self.interactive {
                        cursor.pass_to(shown);
                    }
                    Some(start.min(cursor.begun(last)))
                }
            },
            (_, None) => Some(cursor.begun(last)),
        }
    }

    /// What has the earliest beginning of all that is known by its shape.
    fn next_shape(&self, cursor: &mut Cursor<'_>, last: bool) -> Option<(Detector, Shape)> {
        let mut first: Option<(Detector, Shape)> = None;
        let wanted = shape::DETECTORS.into_iter().enumerate();
        for (index, detector) in wanted.filter(|(_, detector)| self.plan.looks_for(*detector)) {
            let known = cursor.next.shapes[index];
            let place = Place { bytes: cursor.bytes, from: cursor.consumed, before: self.before, last };
            let next = match known {
                Some(next) if next.is_none_or(|shape| shape.start >= cursor.consumed) => next,
                _ => shape::next(detector, place),
            };
            cursor.next.shapes[index] = Some(next);
            if let Some(next) = next
                && first.is_none_or(|(_, first)| next.start < first.start)
            {
                first = Some((detector, next));
            }
        }
        first
    }

    /// A prefix has been found: what follows?
    fn at_prefix(&mut self, cursor: &mut Cursor<'_>, found: usize, last: bool) -> Option<usize> {
        let bytes = cursor.bytes;
        cursor.at = found + 1;
        let previous = found.checked_sub(1).map(|at| bytes[at]).or(self.before);
        for format in Format::at(&bytes[found..]) {
            if !self.plan.looks_for(format.detector) || !format.may_follow(previous) {
                continue;
            }
            let start = found + format.prefix.len();
            if format.prefix == PEM {
                return self.private_key(cursor, found, start, last);
            }
            let (skip, extent, bare) = match format.opening(&bytes[start..]) {
                Opening::Run { skip, extent, bare } => (skip, extent, bare),
                Opening::More if !last => {
                    // Whatever comes, this much is kept: a prompt shows at once.
                    if format.kept {
                        cursor.pass_to(bytes.len());
                    }
                    return Some(found);
                }
                _ => continue,
            };
            let start = start + skip;
            let (length, ended) = extent.measure(&bytes[start..]);
            let run = start..start + length;
            if length > LONGEST {
                let from = if format.kept { start } else { found };
                cursor.replace(from..run.end, self.plan.redacted(format.detector));
                self.inside = Inside::Run(extent.rest());
                return None;
            }
            if !ended && !last {
                if format.kept {
                    cursor.pass_to(start);
                }
                return Some(found);
            }
            let next = bytes.get(run.end).copied();
            if let Some(secret) = format.secret(&Run { bytes: &bytes[run], next, bare }) {
                let from = if format.kept { start + secret.start } else { found };
                let secret = from..start + secret.end;
                let token = self.plan.replacement(format.detector, &bytes[secret.clone()]);
                cursor.replace(secret, token);
                return None;
            }
        }
        // It may be the beginning of a longer prefix.
        (!last && Format::begins(&bytes[found..])).then_some(found)
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
        let label = rest.iter().take(LABEL).take_while(|byte| in_label(**byte)).count();
        let dashes = rest[label..].iter().take(5).take_while(|byte| **byte == b'-').count();
        if !last && label < LABEL && dashes < 5 && label + dashes == rest.len() {
            return Some(found);
        }
        if let Some(label) = private_key_label(rest) {
            cursor.replace(found..start + label, self.plan.redacted(Detector::PrivateKey));
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
            let line = &rest[label..rest.len().min(label + LABEL)];
            if let Some(dashes) = memchr::memmem::find(line, b"-----") {
                cursor.skip_to(cursor.at + label + dashes + 5);
                self.inside = Inside::Text;
                return None;
            }
            if line.len() == LABEL {
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
    /// Up to here bytes are part of what was found.
    consumed: usize,
    /// Up to here bytes were handed on, replaced or left out.
    done: usize,
    next: Next,
    out: &'a mut Vec<Piece>,
}

/// What comes next, as far as it has been looked for, so that nothing is searched twice.
#[derive(Default)]
struct Next {
    prefix: Option<Option<usize>>,
    shapes: [Option<Option<Shape>>; shape::DETECTORS.len()],
}

impl Cursor<'_> {
    fn next_prefix(&mut self) -> Option<usize> {
        match self.next.prefix {
            Some(next) if next.is_none_or(|at| at >= self.at) => next,
            _ => *self.next.prefix.insert(next_prefix(self.bytes, self.at)),
        }
    }

    /// From where on a prefix may have begun.
    fn begun(&self, last: bool) -> usize {
        let begun = if last { 0 } else { Format::begun_at_end(&self.bytes[self.at..]) };
        self.bytes.len() - begun
    }

    fn pass_to(&mut self, end: usize) {
        if end > self.done {
            self.out.push(Piece::Verbatim(self.bytes.slice(self.done..end)));
            self.done = end;
        }
    }

    fn skip_to(&mut self, end: usize) {
        self.at = end;
        self.consumed = end;
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

#[cfg(test)]
mod tests;
