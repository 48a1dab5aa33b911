//! The frames of a watch: newline-delimited JSON, and length-delimited protobuf.
//!
//! Both come in two forms: in slices as the bytes arrive, which needs no memory however large an object is,
//! or whole within a bound.

use bytes::{BufMut as _, Bytes, BytesMut};
use memchr::memchr;

use crate::error::WireError;
use crate::input::Input;

const CODEC: &str = "watch";
const PREFIX: usize = 4;

/// A piece of a line.
#[derive(Clone, PartialEq, Eq)]
pub struct LineSlice {
    /// The first piece of its line.
    pub begins: bool,
    /// The last piece of its line.
    pub ends: bool,
    /// Its bytes as they came, with the newline that ends the line.
    pub original: Bytes,
}

impl LineSlice {
    /// The piece without the newline.
    #[must_use]
    pub fn data(&self) -> Bytes {
        self.original.slice(..self.original.len() - usize::from(self.ends))
    }
}

/// Shows how long the piece is, not what it says.
impl std::fmt::Debug for LineSlice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LineSlice(begins {}, ends {}, {} bytes)", self.begins, self.ends, self.original.len())
    }
}

/// Cuts a byte stream at newlines, keeping nothing.
///
/// ```
/// use bytes::Bytes;
/// use portcullis_wire::LineSlicer;
///
/// let mut lines = LineSlicer::default();
/// lines.push(Bytes::from_static(b"{\"type\":\"ADDED\"}\n{\"ty"));
/// let first = lines.next_slice().expect("a line");
/// assert!(first.begins && first.ends && first.data() == "{\"type\":\"ADDED\"}");
/// let second = lines.next_slice().expect("half a line");
/// assert!(second.begins && !second.ends);
/// ```
#[derive(Debug, Default)]
pub struct LineSlicer {
    input: Input,
    mid_line: bool,
}

impl LineSlicer {
    /// Adds bytes of the body.
    pub fn push(&mut self, bytes: Bytes) {
        self.input.push(bytes);
    }

    /// The next piece: up to and with the next newline, or all there is.
    pub fn next_slice(&mut self) -> Option<LineSlice> {
        if self.input.is_empty() {
            return None;
        }
        let newline = memchr(b'\n', self.input.peek());
        let begins = !self.mid_line;
        self.mid_line = newline.is_none();
        let original = self.input.take(newline.map_or(usize::MAX, |at| at + 1));
        Some(LineSlice { begins, ends: newline.is_some(), original })
    }

    /// Whether the stream stands in the middle of a line.
    #[must_use]
    pub const fn is_mid_line(&self) -> bool {
        self.mid_line
    }
}

/// Cuts a byte stream into whole lines of a bounded length.
#[derive(Debug)]
pub struct LineDecoder {
    input: Input,
    limit: usize,
    /// How much of the input is known to have no newline.
    scanned: usize,
}

impl LineDecoder {
    /// Lines of at most `limit` bytes, newline not counted.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { input: Input::default(), limit, scanned: 0 }
    }

    /// Adds bytes of the body.
    pub fn push(&mut self, bytes: Bytes) {
        self.input.push(bytes);
    }

    /// The next whole line, with its newline.
    ///
    /// # Errors
    /// If a line is longer than the limit. The same error is returned from then on.
    pub fn next_line(&mut self) -> Result<Option<Bytes>, WireError> {
        let found = self.input.peek().get(self.scanned..).and_then(|rest| memchr(b'\n', rest));
        let length = found.map_or(self.input.len(), |at| self.scanned + at);
        if length > self.limit {
            return Err(WireError::limit(CODEC, "a line beyond the limit of bytes").with(self.limit as u64));
        }
        self.scanned = if found.is_some() { 0 } else { length };
        Ok(found.map(|_| self.input.take(length + 1)))
    }

    /// What is left when the body ends: a last line without a newline, or nothing.
    #[must_use]
    pub fn finish(mut self) -> Bytes {
        self.input.take(usize::MAX)
    }
}

/// How much a [`LengthDelimitedDecoder`] accepts and keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LengthDelimitedLimits {
    /// A frame of at most this many bytes is handed out whole; a larger one in parts, as its bytes arrive.
    pub whole_frame: usize,
    /// The longest frame accepted.
    pub max_frame: usize,
}

impl Default for LengthDelimitedLimits {
    /// Frames are whole up to 64 KiB, and at most 16 MiB, as much as client-go accepts.
    fn default() -> Self {
        Self { whole_frame: 64 * 1024, max_frame: 16 * 1024 * 1024 }
    }
}

/// A frame, or a part of a large one.
#[derive(Clone, PartialEq, Eq)]
pub struct DelimitedPart {
    /// Length of the frame's payload.
    pub length: usize,
    /// Where in the payload this part begins.
    pub offset: usize,
    /// This part of the payload.
    pub payload: Bytes,
    /// The wire bytes: with the length if this is the first part.
    pub original: Bytes,
}

impl DelimitedPart {
    /// The last part of its frame.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.offset + self.payload.len() == self.length
    }
}

/// Shows lengths, not payload.
impl std::fmt::Debug for DelimitedPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DelimitedPart({}+{} of {} bytes)", self.offset, self.payload.len(), self.length)
    }
}

/// Cuts `application/vnd.kubernetes.protobuf;stream=watch` into frames: each has its length before it, in
/// four bytes, big-endian.
///
/// ```
/// use bytes::Bytes;
/// use portcullis_wire::{LengthDelimitedDecoder, LengthDelimitedLimits};
///
/// let mut frames = LengthDelimitedDecoder::new(LengthDelimitedLimits::default());
/// frames.push(Bytes::from_static(b"\0\0\0\x02hi\0\0"));
/// let frame = frames.next_part()?.expect("a frame");
/// assert!(frame.is_last() && &frame.payload[..] == b"hi");
/// assert_eq!(frames.next_part()?, None);
/// assert!(frames.finish().is_err(), "the second frame is not whole");
/// # Ok::<(), portcullis_wire::WireError>(())
/// ```
#[derive(Debug)]
pub struct LengthDelimitedDecoder {
    input: Input,
    limits: LengthDelimitedLimits,
    /// The large frame that is being handed out: its length, and how much of it has been.
    current: Option<(usize, usize)>,
}

impl LengthDelimitedDecoder {
    /// A decoder for one body.
    #[must_use]
    pub fn new(limits: LengthDelimitedLimits) -> Self {
        Self { input: Input::default(), limits, current: None }
    }

    /// Adds bytes of the body.
    pub fn push(&mut self, bytes: Bytes) {
        self.input.push(bytes);
    }

    /// The next frame, or part of a large one, if enough bytes are there.
    ///
    /// # Errors
    /// If a frame is longer than the limit. The same error is returned from then on.
    pub fn next_part(&mut self) -> Result<Option<DelimitedPart>, WireError> {
        if let Some((length, done)) = self.current {
            return Ok(if self.input.is_empty() { None } else { Some(self.part(length, done, 0)) });
        }
        let Some(prefix) = self.input.peek().first_chunk::<PREFIX>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
        if length > self.limits.max_frame {
            return Err(WireError::limit(CODEC, "a frame beyond the limit of bytes").with(length as u64));
        }
        let wanted = if length <= self.limits.whole_frame { length } else { 1 };
        if self.input.len() - PREFIX < wanted {
            return Ok(None);
        }
        Ok(Some(self.part(length, 0, PREFIX)))
    }

    /// Says that the body has ended.
    ///
    /// # Errors
    /// If it ended in the middle of a frame.
    pub fn finish(&self) -> Result<(), WireError> {
        if self.current.is_some() || !self.input.is_empty() {
            return Err(WireError::truncated(CODEC, "the body ended in the middle of a frame"));
        }
        Ok(())
    }

    fn part(&mut self, length: usize, offset: usize, head: usize) -> DelimitedPart {
        let original = self.input.take(head.saturating_add(length - offset));
        let payload = original.slice(head..);
        let done = offset + payload.len();
        self.current = (done < length).then_some((length, done));
        DelimitedPart { length, offset, payload, original }
    }
}

/// Appends `payload` as a frame of `stream=watch`.
///
/// # Errors
/// If it is longer than four bytes can say.
pub fn encode_length_delimited(payload: &[u8], out: &mut BytesMut) -> Result<(), WireError> {
    let length = u32::try_from(payload.len()).map_err(|_| WireError::limit(CODEC, "a frame beyond 4 GiB"))?;
    out.reserve(PREFIX + payload.len());
    out.put_u32(length);
    out.extend_from_slice(payload);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::WireErrorKind;
    use proptest::prelude::*;

    fn chunks<'a>(wire: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
        let (mut chunks, mut rest) = (Vec::new(), wire);
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, tail) = rest.split_at((*cut).min(rest.len()));
            chunks.push(chunk);
            rest = tail;
        }
        chunks
    }

    #[test]
    fn long_lines_and_frames_are_refused() {
        let mut lines = LineDecoder::new(3);
        lines.push(Bytes::from_static(b"abc\nabcd"));
        assert_eq!(lines.next_line().expect("fits"), Some(Bytes::from_static(b"abc\n")));
        assert_eq!(lines.next_line().expect_err("too long").kind(), WireErrorKind::Limit);
        lines.push(Bytes::from_static(b"\n"));
        assert_eq!(lines.next_line().expect_err("still").kind(), WireErrorKind::Limit);

        let limits = LengthDelimitedLimits { max_frame: 3, ..LengthDelimitedLimits::default() };
        let mut frames = LengthDelimitedDecoder::new(limits);
        frames.push(Bytes::from_static(b"\0\0\0\x04"));
        assert_eq!(frames.next_part().expect_err("too long").kind(), WireErrorKind::Limit);
    }

    proptest! {
        #[test]
        fn lines_are_the_same_whatever_the_chunks(text in "[ab\n]{0,60}", cuts in prop::collection::vec(1usize..9, 1..9)) {
            let mut whole = LineDecoder::new(100);
            let mut slicer = LineSlicer::default();
            let (mut lines, mut sliced): (Vec<Vec<u8>>, Vec<Vec<u8>>) = Default::default();
            for chunk in chunks(text.as_bytes(), &cuts) {
                whole.push(Bytes::copy_from_slice(chunk));
                slicer.push(Bytes::copy_from_slice(chunk));
                while let Some(line) = whole.next_line().expect("within the limit") { lines.push(line.to_vec()); }
                while let Some(slice) = slicer.next_slice() {
                    prop_assert_eq!(slice.ends, slice.original.ends_with(b"\n"));
                    prop_assert!(!slice.data().contains(&b'\n'));
                    if slice.begins { sliced.push(Vec::new()); }
                    sliced.last_mut().expect("begun").extend_from_slice(&slice.original);
                }
            }
            prop_assert_eq!(slicer.is_mid_line(), !text.is_empty() && !text.ends_with('\n'));
            lines.extend(Some(whole.finish().to_vec()).filter(|rest| !rest.is_empty()));
            let expected: Vec<Vec<u8>> = text.split_inclusive('\n').map(|line| line.as_bytes().to_vec()).collect();
            prop_assert_eq!(&lines, &expected);
            prop_assert_eq!(&sliced, &expected);
        }

        #[test]
        fn frames_are_the_same_whatever_the_chunks(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..90), 0..6),
            cuts in prop::collection::vec(1usize..40, 1..9), whole_frame in 0usize..60,
        ) {
            let mut wire = BytesMut::new();
            for frame in &frames { encode_length_delimited(frame, &mut wire).expect("encoded"); }
            let mut decoder = LengthDelimitedDecoder::new(LengthDelimitedLimits { whole_frame, max_frame: 90 });
            let (mut seen, mut originals): (Vec<Vec<u8>>, Vec<u8>) = Default::default();
            for chunk in chunks(&wire, &cuts) {
                decoder.push(Bytes::copy_from_slice(chunk));
                while let Some(part) = decoder.next_part().expect("valid") {
                    if part.offset == 0 { seen.push(Vec::new()); }
                    if part.length <= whole_frame { prop_assert!(part.is_last()); }
                    seen.last_mut().expect("begun").extend_from_slice(&part.payload);
                    originals.extend_from_slice(&part.original);
                }
            }
            decoder.finish().expect("whole");
            prop_assert_eq!(seen, frames);
            prop_assert_eq!(&originals[..], &wire[..]);
        }
    }
}
