//! A push scanner for JSON, strict by RFC 8259: nothing is accepted that another reader might understand differently.
//!
//! It takes chunks that end anywhere, also inside an escape, a UTF-8 sequence or a number, keeps a byte per level of nesting,
//! and tells a [`Handler`] what it sees with positions in the current chunk. Bytes inside strings are looked at many at a
//! time ([`Stops`](super::stops::Stops)), and copied only if the handler wants them.

use super::{
    skim::{Bounds, Level, Member, Quiet, Skimmer, Stopped, Upcoming},
    text::{Content, StringScan},
};
use crate::{MaskError, MaskErrorKind, rules::StateId};

/// From where on in a document it is worthwhile to remember what is passed over, in bytes. The documents of tests are short.
const LONG: u64 = if cfg!(any(test, fuzzing)) { 1 } else { 64 * 1024 };

/// What a scanner tells. Positions are offsets into the chunk given to [`Scanner::push`].
pub(crate) trait Handler {
    /// A container opens at `at`.
    fn open(&mut self, at: usize, object: bool);
    /// The innermost container ended just before `end`. Says where in the chunk the member or element began whose value it was, if
    /// nothing needs to be told of it where the same comes again.
    fn close(&mut self, end: usize) -> Option<usize>;
    /// A member's key, unescaped; `at` says where in the chunk it lies, if it lies there as it is.
    fn key(&mut self, key: &[u8], at: Option<usize>);
    /// The same of a key that lies at `at` as it is, and leads to this state.
    fn known_key(&mut self, key: &[u8], at: usize, _: StateId) {
        self.key(key, Some(at));
    }
    /// A string value opens at `at` (its quote). Says what is wanted of it.
    fn open_string(&mut self, at: usize) -> Interest;
    /// Of a string that is at most to be glanced at: its content, which lies in the chunk as it is. Says whether that is all;
    /// otherwise [`look_at_string`](Self::look_at_string) follows.
    fn glance(&mut self, text: &[u8]) -> Result<bool, MaskErrorKind>;
    /// The string that opened at `at` is not seen at a glance. Says what is wanted of it.
    fn look_at_string(&mut self, at: usize) -> Interest;
    /// A run of the string's unescaped content; runs may split characters.
    fn text(&mut self, run: &[u8]) -> Result<(), MaskErrorKind>;
    /// The string ended just before `end`.
    fn close_string(&mut self, end: usize) -> Result<(), MaskErrorKind>;
    /// A number, boolean or null starts at `at`. Says what is wanted of it; there is no text.
    fn open_scalar(&mut self, at: usize, scalar: Scalar) -> Interest;
    /// It ended just before `end`.
    fn close_scalar(&mut self, end: usize) -> Result<(), MaskErrorKind>;
    /// Of which values in the innermost container nothing needs to be told, if of any.
    fn quiet(&self) -> Option<Quiet<'_>> {
        None
    }
    /// Such values have been passed over, and these containers are open now, the one that was innermost first.
    fn passed_over(&mut self, _: &[Level]) {}
}

/// What a handler wants to be told of a value that has opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Interest {
    /// Nothing more.
    Nothing,
    /// A glance at all of it, if it lies in the chunk as it is.
    Glance,
    /// Its end.
    End,
    /// Its text, and its end.
    Text,
}

/// What a value is that is neither string nor container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scalar {
    Number,
    Bool,
    Null,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A value must come.
    Value,
    /// A value or `]`.
    FirstElement,
    /// A key or `}`.
    FirstKey,
    /// A key must come.
    Key,
    /// `:` must come.
    Colon,
    /// `,` or the container's end.
    Next,
    /// Inside a string.
    String { key: bool },
    /// Inside a number.
    Number(Number),
    /// Inside `true`, `false` or `null`: how much of it has been seen.
    Literal(&'static [u8], u8),
    /// Between documents.
    Between,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    E,
    Sign,
    Exponent,
}

/// The scanner. One error is final.
pub(crate) struct Scanner {
    state: State,
    /// One per open container: whether it is an object.
    stack: Vec<bool>,
    string: StringScan,
    skimmer: Skimmer,
    /// What the handler wants of the value that is open.
    interest: Interest,
    key: Vec<u8>,
    max_depth: usize,
    max_key: usize,
    sequence: bool,
    started: bool,
    /// How many bytes came before the current chunk.
    before: u64,
    failed: Option<MaskError>,
}

impl Scanner {
    /// `sequence` allows several documents, one after another.
    pub(crate) fn new(max_depth: usize, max_key: usize, sequence: bool) -> Self {
        Self {
            state: State::Value,
            stack: Vec::new(),
            string: StringScan::default(),
            skimmer: Skimmer::default(),
            interest: Interest::Nothing,
            key: Vec::new(),
            max_depth,
            max_key,
            sequence,
            started: false,
            before: 0,
            failed: None,
        }
    }

    pub(crate) fn push<H: Handler>(&mut self, chunk: &[u8], handler: &mut H) -> Result<(), MaskError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let mut at = 0;
        self.skimmer.forget_chunk();
        match self.run(chunk, &mut at, handler) {
            Ok(()) => {
                self.before += chunk.len() as u64;
                Ok(())
            }
            Err(kind) => Err(self.fail(kind, at as u64)),
        }
    }

    /// The stream has ended.
    pub(crate) fn finish<H: Handler>(&mut self, handler: &mut H) -> Result<(), MaskError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        if let State::Number(Number::Zero | Number::Integer | Number::Fraction | Number::Exponent) =
            self.state
            && self.stack.is_empty()
        {
            self.end_scalar(0, handler).map_err(|kind| self.fail(kind, 0))?;
        }
        match self.state {
            State::Between => Ok(()),
            State::Value if self.sequence && self.stack.is_empty() => Ok(()),
            _ => Err(self.fail(MaskErrorKind::Truncated, 0)),
        }
    }

    /// Whether anything but white space has been seen.
    pub(crate) fn started(&self) -> bool {
        self.started
    }

    /// Ends the scan for a reason of the handler's own.
    pub(crate) fn fail(&mut self, kind: MaskErrorKind, at: u64) -> MaskError {
        let error = MaskError::new(kind, self.before + at);
        self.failed = Some(error.clone());
        error
    }

    fn run<H: Handler>(
        &mut self,
        chunk: &[u8],
        at: &mut usize,
        handler: &mut H,
    ) -> Result<(), MaskErrorKind> {
        while *at < chunk.len() {
            match self.state {
                State::String { key } => self.in_string(chunk, at, key, handler)?,
                State::Number(number) => self.in_number(chunk, at, number, handler)?,
                State::Literal(word, seen) => self.in_literal(chunk, at, word, seen, handler)?,
                structural => {
                    let Some(byte) = skip_space(chunk, at) else { return Ok(()) };
                    self.structural(chunk, at, structural, byte, handler)?;
                }
            }
        }
        Ok(())
    }

    fn structural<H: Handler>(
        &mut self,
        chunk: &[u8],
        at: &mut usize,
        state: State,
        byte: u8,
        handler: &mut H,
    ) -> Result<(), MaskErrorKind> {
        match (state, byte) {
            (State::Next, b',') => {
                let object = self.in_object();
                self.state = if object { State::Key } else { State::Value };
                *at += 1;
                Ok(())
            }
            (State::Next | State::FirstKey, b'}') | (State::Next | State::FirstElement, b']') => {
                self.close(chunk, at, byte, handler)
            }
            (State::Colon, b':') => {
                self.state = State::Value;
                *at += 1;
                Ok(())
            }
            (State::Key | State::FirstKey, b'"') => self.values(chunk, at, true, handler),
            (State::Value | State::FirstElement, _) => self.values(chunk, at, false, handler),
            (State::Between, _) if self.sequence => self.values(chunk, at, false, handler),
            (State::Between, _) => Err(MaskErrorKind::Malformed("something follows the document")),
            (State::Colon, _) => Err(MaskErrorKind::Malformed("a colon is missing")),
            (State::Key | State::FirstKey, _) => Err(MaskErrorKind::Malformed("a key is missing")),
            _ => Err(MaskErrorKind::Malformed("a comma or a closing bracket is missing")),
        }
    }

    /// From a value on, or its key, token by token, as long as each is whole in the chunk: most are.
    fn values<H: Handler>(
        &mut self,
        chunk: &[u8],
        at: &mut usize,
        mut keyed: bool,
        handler: &mut H,
    ) -> Result<(), MaskErrorKind> {
        loop {
            let began = *at;
            let member = self.pass_over(chunk, at, handler);
            let passed = *at > began;
            if passed {
                keyed = self.in_object();
            }
            if !passed || member.is_some() || matches!(self.state, State::Key | State::Value) {
                if let Some(Member { key: (start, length), state }) = member {
                    handler.known_key(&chunk[start..start + length], start, state);
                    *at = start + length + 2;
                    self.state = State::Value;
                } else if keyed {
                    if skip_space(chunk, at) != Some(b'"') {
                        return Ok(());
                    }
                    self.open_key(chunk, at, handler)?;
                    if self.state != State::Colon || skip_space(chunk, at) != Some(b':') {
                        return Ok(());
                    }
                    *at += 1;
                    self.state = State::Value;
                }
                let Some(byte) = skip_space(chunk, at) else { return Ok(()) };
                self.open_value(chunk, at, byte, handler)?;
            }
            // What follows, up to the next value, or its key.
            keyed = loop {
                // White space inside a string that is not whole is no space.
                if !matches!(self.state, State::Next | State::FirstKey | State::FirstElement) {
                    return Ok(());
                }
                match (self.state, skip_space(chunk, at)) {
                    (State::Next, Some(b',')) => {
                        *at += 1;
                        let object = self.in_object();
                        self.state = if object { State::Key } else { State::Value };
                        break object;
                    }
                    (State::FirstKey, Some(b'"')) => break true,
                    (State::Next | State::FirstKey, Some(b'}'))
                    | (State::Next | State::FirstElement, Some(b']')) => {
                        self.close(chunk, at, chunk[*at], handler)?;
                    }
                    (State::FirstElement, Some(_)) => break false,
                    _ => return Ok(()),
                }
            };
        }
    }

    /// What may not be exceeded in the innermost container.
    fn bounds(&self) -> Bounds {
        Bounds { levels: self.max_depth.saturating_sub(self.stack.len()), key: self.max_key }
    }

    fn in_object(&self) -> bool {
        self.stack.last().copied().unwrap_or_default()
    }

    /// Passes over what the handler does not want to know of, if there is anything. Answers the member at which that stops.
    #[inline]
    fn pass_over<H: Handler>(&mut self, chunk: &[u8], at: &mut usize, handler: &mut H) -> Option<Member> {
        let quiet = handler.quiet()?;
        let object = self.in_object();
        let upcoming = match self.state {
            State::FirstKey | State::FirstElement => Upcoming::First,
            State::Key => Upcoming::Another,
            State::Value if !object => Upcoming::Another,
            _ => return None,
        };
        let began = *at;
        let bounds = self.bounds();
        let long = self.before >= LONG;
        let Stopped { upcoming, member } =
            self.skimmer.skim(chunk, at, (object, upcoming), &quiet, bounds, long);
        if *at == began {
            return member;
        }
        self.stack.extend(self.skimmer.levels.iter().skip(1).map(|level| level.object));
        self.state = match (upcoming, self.in_object()) {
            (Upcoming::First, true) => State::FirstKey,
            (Upcoming::First, false) => State::FirstElement,
            (Upcoming::Another, true) => State::Key,
            (Upcoming::Another, false) => State::Value,
            (Upcoming::Next, _) => State::Next,
        };
        handler.passed_over(&self.skimmer.levels);
        member
    }

    #[inline]
    fn close<H: Handler>(
        &mut self,
        chunk: &[u8],
        at: &mut usize,
        byte: u8,
        handler: &mut H,
    ) -> Result<(), MaskErrorKind> {
        if self.stack.pop() != Some(byte == b'}') {
            return Err(MaskErrorKind::Malformed("a bracket closes what another opened"));
        }
        *at += 1;
        self.after_value();
        if let Some(from) = handler.close(*at)
            && self.before >= LONG
            && let Some(quiet) = handler.quiet()
        {
            let bounds = self.bounds();
            self.skimmer.learn(&chunk[from..*at], &quiet, self.in_object(), bounds);
        }
        Ok(())
    }

    #[inline]
    fn open_value<H: Handler>(
        &mut self,
        chunk: &[u8],
        at: &mut usize,
        byte: u8,
        handler: &mut H,
    ) -> Result<(), MaskErrorKind> {
        self.started = true;
        match byte {
            b'"' => {
                self.interest = handler.open_string(*at);
                let start = *at + 1;
                if let Some(end) = self.skimmer.stops.whole(chunk, start) {
                    if self.interest == Interest::Glance {
                        self.interest = match handler.glance(&chunk[start..end])? {
                            true => Interest::Nothing,
                            false => handler.look_at_string(*at),
                        };
                    }
                    if self.interest == Interest::Text {
                        handler.text(&chunk[start..end])?;
                    }
                    *at = end + 1;
                    return self.end_string(*at, handler);
                }
                if self.interest == Interest::Glance {
                    self.interest = handler.look_at_string(*at);
                }
                self.string.open(self.interest == Interest::Text);
                self.state = State::String { key: false };
            }
            b'{' | b'[' => {
                if self.stack.len() >= self.max_depth {
                    return Err(MaskErrorKind::TooDeep);
                }
                let object = byte == b'{';
                self.stack.push(object);
                self.state = if object { State::FirstKey } else { State::FirstElement };
                handler.open(*at, object);
            }
            b'-' | b'0'..=b'9' => {
                self.interest = handler.open_scalar(*at, Scalar::Number);
                let number = match byte {
                    b'-' => Number::Minus,
                    b'0' => Number::Zero,
                    _ => Number::Integer,
                };
                *at += 1;
                return self.in_number(chunk, at, number, handler);
            }
            b't' | b'f' | b'n' => {
                let (word, scalar): (&[u8], _) = match byte {
                    b't' => (b"true", Scalar::Bool),
                    b'f' => (b"false", Scalar::Bool),
                    _ => (b"null", Scalar::Null),
                };
                self.interest = handler.open_scalar(*at, scalar);
                if chunk[*at..].starts_with(word) {
                    *at += word.len();
                    return self.end_scalar(*at, handler);
                }
                self.state = State::Literal(word, 1);
            }
            _ => return Err(MaskErrorKind::Malformed("a value is missing")),
        }
        *at += 1;
        Ok(())
    }

    fn end_string<H: Handler>(&mut self, end: usize, handler: &mut H) -> Result<(), MaskErrorKind> {
        self.after_value();
        match self.interest {
            Interest::Nothing => Ok(()),
            _ => handler.close_string(end),
        }
    }

    fn end_scalar<H: Handler>(&mut self, end: usize, handler: &mut H) -> Result<(), MaskErrorKind> {
        self.after_value();
        match self.interest {
            Interest::Nothing => Ok(()),
            _ => handler.close_scalar(end),
        }
    }

    fn after_value(&mut self) {
        self.state = if self.stack.is_empty() { State::Between } else { State::Next };
    }

    /// Most keys are short, plain, and whole in the chunk: those are handed on where they lie.
    #[inline(always)]
    fn open_key<H: Handler>(
        &mut self,
        chunk: &[u8],
        at: &mut usize,
        handler: &mut H,
    ) -> Result<(), MaskErrorKind> {
        let start = *at + 1;
        if let Some(end) = self.skimmer.stops.whole(chunk, start) {
            if end - start > self.max_key {
                return Err(MaskErrorKind::KeyTooLong);
            }
            *at = end + 1;
            self.state = State::Colon;
            handler.key(&chunk[start..end], Some(start));
            return Ok(());
        }
        *at = start;
        self.begin_key();
        Ok(())
    }

    #[cold]
    fn begin_key(&mut self) {
        self.key.clear();
        self.string.open(true);
        self.state = State::String { key: true };
    }

    fn in_string<H: Handler>(
        &mut self,
        chunk: &[u8],
        at: &mut usize,
        key: bool,
        handler: &mut H,
    ) -> Result<(), MaskErrorKind> {
        let closed = if key {
            let mut into_key = KeyBuffer { key: &mut self.key, max: self.max_key };
            self.string.run(chunk, at, &mut self.skimmer.stops, &mut into_key)?
        } else {
            self.string.run(chunk, at, &mut self.skimmer.stops, &mut IntoHandler(handler))?
        };
        if !closed {
            return Ok(());
        }
        if key {
            self.state = State::Colon;
            handler.key(&self.key, None);
            return Ok(());
        }
        self.end_string(*at, handler)
    }

    fn in_number<H: Handler>(
        &mut self,
        chunk: &[u8],
        at: &mut usize,
        mut number: Number,
        handler: &mut H,
    ) -> Result<(), MaskErrorKind> {
        while let Some(byte) = chunk.get(*at) {
            number = match (number, byte) {
                (Number::Minus, b'0') => Number::Zero,
                (Number::Minus | Number::Integer, b'0'..=b'9') => Number::Integer,
                (Number::Zero | Number::Integer, b'.') => Number::Point,
                (Number::Point | Number::Fraction, b'0'..=b'9') => Number::Fraction,
                (Number::Zero | Number::Integer | Number::Fraction, b'e' | b'E') => Number::E,
                (Number::E, b'+' | b'-') => Number::Sign,
                (Number::E | Number::Sign | Number::Exponent, b'0'..=b'9') => Number::Exponent,
                (Number::Minus | Number::Point | Number::E | Number::Sign, _) => {
                    return Err(MaskErrorKind::Malformed("a number lacks digits"));
                }
                (Number::Zero, b'0'..=b'9') => {
                    return Err(MaskErrorKind::Malformed("a number has a leading zero"));
                }
                _ => return self.end_scalar(*at, handler),
            };
            *at += 1;
        }
        self.state = State::Number(number);
        Ok(())
    }

    fn in_literal<H: Handler>(
        &mut self,
        chunk: &[u8],
        at: &mut usize,
        word: &'static [u8],
        seen: u8,
        handler: &mut H,
    ) -> Result<(), MaskErrorKind> {
        if chunk[*at] != word[seen as usize] {
            return Err(MaskErrorKind::Malformed("an unknown word"));
        }
        *at += 1;
        if seen as usize + 1 < word.len() {
            self.state = State::Literal(word, seen + 1);
            return Ok(());
        }
        self.end_scalar(*at, handler)
    }
}

fn skip_space(chunk: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        match chunk.get(*at)? {
            b' ' | b'\n' | b'\r' | b'\t' => *at += 1,
            byte => return Some(*byte),
        }
    }
}

struct KeyBuffer<'a> {
    key: &'a mut Vec<u8>,
    max: usize,
}

impl Content for KeyBuffer<'_> {
    fn take(&mut self, run: &[u8]) -> Result<(), MaskErrorKind> {
        if self.key.len() + run.len() > self.max {
            return Err(MaskErrorKind::KeyTooLong);
        }
        self.key.extend_from_slice(run);
        Ok(())
    }
}

struct IntoHandler<'a, H>(&'a mut H);

impl<H: Handler> Content for IntoHandler<'_, H> {
    fn take(&mut self, run: &[u8]) -> Result<(), MaskErrorKind> {
        self.0.text(run)
    }
}

#[cfg(test)]
mod tests;
