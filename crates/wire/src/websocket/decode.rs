//! The frame decoder.

use bytes::Bytes;

use super::{FrameHeader, Opcode, apply_mask};
use crate::error::WireError;
use crate::input::Input;
use crate::stream::Direction;

const CODEC: &str = "websocket";
const MAX_CONTROL: u64 = 125;

/// How much a [`WebSocketDecoder`] accepts and keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebSocketLimits {
    /// A data frame of at most this many payload bytes is handed out whole; a larger one in parts, as its
    /// bytes arrive.
    /// This bounds the memory of a decoder. Default: 64 KiB, twice what Kubernetes' own peers put into a
    /// frame; at least 125.
    pub whole_frame: usize,
    /// The longest message accepted, over all its frames. Default: 32 MiB, the longest frame the API server
    /// accepts.
    pub max_message: u64,
}

impl Default for WebSocketLimits {
    fn default() -> Self {
        Self { whole_frame: 64 * 1024, max_message: 32 * 1024 * 1024 }
    }
}

/// A frame, or a part of a large one.
#[derive(Clone, PartialEq, Eq)]
pub struct FramePart {
    /// The header of the frame.
    pub header: FrameHeader,
    /// [`Opcode::Text`] or [`Opcode::Binary`] also for a continuation; else the header's opcode.
    pub message: Opcode,
    /// Where in the frame's payload this part begins.
    pub offset: u64,
    /// This part's payload, unmasked.
    pub payload: Bytes,
    /// The wire bytes: with the header if this is the first part, masked as they came.
    pub original: Bytes,
}

impl FramePart {
    /// The first part of its frame.
    #[must_use]
    pub const fn is_first(&self) -> bool {
        self.offset == 0
    }

    /// The last part of its frame.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.offset + self.payload.len() as u64 == self.header.length
    }

    /// The beginning of a message (or a control frame).
    #[must_use]
    pub fn begins_message(&self) -> bool {
        self.is_first() && self.header.opcode != Opcode::Continuation
    }

    /// The end of a message (or a control frame).
    #[must_use]
    pub fn ends_message(&self) -> bool {
        self.is_last() && self.header.fin
    }
}

/// Shows lengths, not payload.
impl std::fmt::Debug for FramePart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FramePart")
            .field("header", &self.header)
            .field("offset", &self.offset)
            .field("len", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// Cuts the bytes of one direction of a WebSocket into frames.
///
/// Push what was read, then call [`next_part`](Self::next_part) until it answers `None`. Memory stays within
/// [`WebSocketLimits::whole_frame`] plus one pushed chunk.
///
/// ```
/// use bytes::Bytes;
/// use portcullis_wire::{Direction, Opcode, WebSocketDecoder, WebSocketLimits};
///
/// let mut decoder = WebSocketDecoder::new(Direction::ServerToClient, WebSocketLimits::default());
/// decoder.push(Bytes::from_static(b"\x82\x03\x01hi\x88\x02\x03\xe8"));
/// let frame = decoder.next_part()?.expect("a whole frame");
/// assert_eq!((frame.message, &frame.payload[..]), (Opcode::Binary, &b"\x01hi"[..]));
/// let close = decoder.next_part()?.expect("a close frame");
/// assert_eq!(close.message, Opcode::Close);
/// assert!(decoder.next_part()?.is_none());
/// # Ok::<(), portcullis_wire::WireError>(())
/// ```
#[derive(Debug)]
pub struct WebSocketDecoder {
    input: Input,
    direction: Direction,
    limits: WebSocketLimits,
    /// The large frame that is being handed out, and how much of it has been.
    current: Option<(FrameHeader, u64)>,
    /// The fragmented message that is under way, and its length so far.
    message: Option<(Opcode, u64)>,
    closed: bool,
    failed: Option<WireError>,
}

impl WebSocketDecoder {
    /// A decoder for what travels in `direction`.
    #[must_use]
    pub fn new(direction: Direction, limits: WebSocketLimits) -> Self {
        Self {
            input: Input::default(),
            direction,
            limits,
            current: None,
            message: None,
            closed: false,
            failed: None,
        }
    }

    /// Adds bytes as they were read from the connection.
    pub fn push(&mut self, bytes: Bytes) {
        self.input.push(bytes);
    }

    /// The next frame, or part of a large frame, if enough bytes are there.
    ///
    /// # Errors
    /// What RFC 6455 forbids: wrong masking, reserved bits or opcodes, a fragmented or over-long control
    /// frame, a length in more bytes than needed, a continuation
    /// of nothing, a message within a message, anything after Close; and a message beyond the limit. The same
    /// error is returned from then on.
    pub fn next_part(&mut self) -> Result<Option<FramePart>, WireError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let next = self.advance();
        if let Err(error) = next {
            self.failed = Some(error);
        }
        next
    }

    /// Says that the connection has ended.
    ///
    /// # Errors
    /// If it ended in the middle of a frame or message.
    pub fn finish(&self) -> Result<(), WireError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.current.is_some() || !self.input.is_empty() || (self.message.is_some() && !self.closed) {
            return Err(WireError::truncated(CODEC, "the connection ended in the middle of a message"));
        }
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<FramePart>, WireError> {
        if let Some((header, done)) = self.current {
            return Ok(self.continue_frame(header, done));
        }
        let Some((header, head)) = parse_header(self.input.peek())? else { return Ok(None) };
        self.check(&header)?;
        // The cast below is exact: what is whole is at most a usize long. A control frame always is, by
        // `check`.
        let whole = header.length <= (self.limits.whole_frame as u64).max(MAX_CONTROL);
        let wanted = if whole { head + header.length as usize } else { head + 1 };
        if self.input.len() < wanted {
            return Ok(None);
        }
        let total = usize::try_from(header.length).unwrap_or(usize::MAX).saturating_add(head);
        let original = self.input.take(total);
        let payload = unmasked(original.slice(head..), &header, 0);
        let message = self.begin(&header);
        if (payload.len() as u64) < header.length {
            self.current = Some((header, payload.len() as u64));
        } else {
            self.end(&header);
        }
        Ok(Some(FramePart { header, message, offset: 0, payload, original }))
    }

    fn continue_frame(&mut self, header: FrameHeader, done: u64) -> Option<FramePart> {
        if self.input.is_empty() {
            return None;
        }
        let original = self.input.take(usize::try_from(header.length - done).unwrap_or(usize::MAX));
        let payload = unmasked(original.clone(), &header, done);
        let message = self.message.map_or(header.opcode, |(opcode, _)| opcode);
        let now = done + payload.len() as u64;
        self.current = (now < header.length).then_some((header, now));
        if self.current.is_none() {
            self.end(&header);
        }
        Some(FramePart { header, message, offset: done, payload, original })
    }

    fn check(&self, header: &FrameHeader) -> Result<(), WireError> {
        if self.closed {
            return Err(WireError::protocol(CODEC, "a frame after the close frame"));
        }
        match (self.direction, header.mask) {
            (Direction::ClientToServer, None) => {
                return Err(WireError::protocol(CODEC, "an unmasked frame from a client"));
            }
            (Direction::ServerToClient, Some(_)) => {
                return Err(WireError::protocol(CODEC, "a masked frame from a server"));
            }
            _ => {}
        }
        if header.opcode.is_control() {
            if !header.fin {
                return Err(WireError::protocol(CODEC, "a fragmented control frame"));
            }
            if header.length > MAX_CONTROL {
                return Err(WireError::protocol(CODEC, "a control frame of more than 125 bytes"));
            }
            return Ok(());
        }
        let so_far = match (header.opcode, self.message) {
            (Opcode::Continuation, None) => {
                return Err(WireError::protocol(CODEC, "a continuation without a message"));
            }
            (Opcode::Continuation, Some((_, so_far))) => so_far,
            (_, Some(_)) => return Err(WireError::protocol(CODEC, "a message inside of another")),
            (_, None) => 0,
        };
        if header.length > self.limits.max_message.saturating_sub(so_far) {
            return Err(
                WireError::limit(CODEC, "a message beyond the limit of bytes").with(self.limits.max_message)
            );
        }
        Ok(())
    }

    /// Notes that `header` has been consumed; answers with the message's opcode.
    fn begin(&mut self, header: &FrameHeader) -> Opcode {
        match header.opcode {
            Opcode::Continuation => {
                let (opcode, so_far) = self.message.unwrap_or((Opcode::Binary, 0));
                self.message = Some((opcode, so_far + header.length));
                opcode
            }
            Opcode::Text | Opcode::Binary => {
                self.message = Some((header.opcode, header.length));
                header.opcode
            }
            Opcode::Close => {
                self.closed = true;
                header.opcode
            }
            Opcode::Ping | Opcode::Pong => header.opcode,
        }
    }

    fn end(&mut self, header: &FrameHeader) {
        if header.fin && !header.opcode.is_control() {
            self.message = None;
        }
    }
}

/// Why a peer closes (RFC 6455, section 5.5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseReason {
    /// RFC 6455, section 7.4.
    pub code: u16,
    /// For people; may be empty.
    pub reason: String,
}

impl CloseReason {
    /// Reads the payload of a close frame; an empty one gives no reason.
    ///
    /// # Errors
    /// If there is one byte only, or the text is not UTF-8.
    pub fn parse(payload: &[u8]) -> Result<Option<Self>, WireError> {
        match payload {
            [] => Ok(None),
            [_] => Err(WireError::protocol(CODEC, "a close frame with half a code")),
            [high, low, text @ ..] => {
                let reason = std::str::from_utf8(text)
                    .map_err(|_| WireError::protocol(CODEC, "a close reason that is not UTF-8"))?;
                Ok(Some(Self { code: u16::from_be_bytes([*high, *low]), reason: reason.to_owned() }))
            }
        }
    }
}

/// The header at the front of `bytes` and its length, if it is all there.
fn parse_header(bytes: &[u8]) -> Result<Option<(FrameHeader, usize)>, WireError> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err(WireError::protocol(CODEC, "reserved bits are set although no extension was negotiated"));
    }
    let opcode = Opcode::from_bits(first & 0x0F)
        .ok_or_else(|| WireError::protocol(CODEC, "a reserved opcode").with(u64::from(first & 0x0F)))?;
    let (length, rest) = match (second & 0x7F, rest) {
        (126, [a, b, rest @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), rest),
        (127, [a, b, c, d, e, f, g, h, rest @ ..]) => {
            (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), rest)
        }
        (126 | 127, _) => return Ok(None),
        (short, rest) => (u64::from(short), rest),
    };
    match second & 0x7F {
        126 if length < 126 => return Err(WireError::protocol(CODEC, "a length in more bytes than needed")),
        127 if length < 0x1_0000 => {
            return Err(WireError::protocol(CODEC, "a length in more bytes than needed"));
        }
        127 if length >> 63 != 0 => return Err(WireError::protocol(CODEC, "a length with the top bit set")),
        _ => {}
    }
    let (mask, rest) = match (second & 0x80 != 0, rest) {
        (false, rest) => (None, rest),
        (true, [a, b, c, d, rest @ ..]) => (Some([*a, *b, *c, *d]), rest),
        (true, _) => return Ok(None),
    };
    let header = FrameHeader { fin: first & 0x80 != 0, opcode, mask, length };
    Ok(Some((header, bytes.len() - rest.len())))
}

fn unmasked(payload: Bytes, header: &FrameHeader, offset: u64) -> Bytes {
    match header.mask {
        Some(key) if !payload.is_empty() => {
            let mut plain = payload.to_vec();
            apply_mask(&mut plain, key, offset);
            plain.into()
        }
        _ => payload,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FrameEncoder, MaskingKeys, encode_frame};
    use super::*;
    use crate::error::WireErrorKind;
    use bytes::BytesMut;
    use proptest::prelude::*;

    fn decode(
        direction: Direction,
        limits: WebSocketLimits,
        chunks: &[&[u8]],
    ) -> Result<Vec<FramePart>, WireError> {
        let mut decoder = WebSocketDecoder::new(direction, limits);
        let mut parts = Vec::new();
        for chunk in chunks {
            decoder.push(Bytes::copy_from_slice(chunk));
            while let Some(part) = decoder.next_part()? {
                parts.push(part);
            }
        }
        decoder.finish()?;
        Ok(parts)
    }

    #[track_caller]
    fn refuses(direction: Direction, wire: &[u8], kind: WireErrorKind, says: &str) {
        let error = decode(direction, WebSocketLimits::default(), &[wire]).expect_err("must be refused");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }

    #[test]
    fn examples_of_the_rfc() {
        // RFC 6455, section 5.7.
        let text = |wire: &[u8], direction| {
            let parts = decode(direction, WebSocketLimits::default(), &[wire]).expect("valid");
            parts
                .iter()
                .map(|part| String::from_utf8(part.payload.to_vec()).expect("text"))
                .collect::<Vec<_>>()
        };
        assert_eq!(text(b"\x81\x05Hello", Direction::ServerToClient), ["Hello"]);
        assert_eq!(
            text(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", Direction::ClientToServer),
            ["Hello"]
        );
        assert_eq!(text(b"\x01\x03Hel\x80\x02lo", Direction::ServerToClient), ["Hel", "lo"]);
        assert_eq!(text(b"\x01\x03Hel\x89\x00\x80\x02lo", Direction::ServerToClient), ["Hel", "", "lo"]);
        let long = [b"\x82\x7e\x01\x00".as_slice(), &[7; 256]].concat();
        assert_eq!(
            decode(Direction::ServerToClient, WebSocketLimits::default(), &[&long]).expect("valid").len(),
            1
        );
    }

    #[test]
    fn refuses_what_the_rfc_forbids() {
        use Direction::{ClientToServer, ServerToClient};
        use WireErrorKind::{Limit, Protocol, Truncated};
        refuses(ClientToServer, b"\x82\x01a", Protocol, "unmasked");
        refuses(ServerToClient, b"\x82\x81\x01\x02\x03\x04a", Protocol, "masked frame from a server");
        refuses(ServerToClient, b"\xC2\x01a", Protocol, "reserved bits");
        refuses(ServerToClient, b"\x83\x01a", Protocol, "reserved opcode");
        refuses(ServerToClient, b"\x8b\x01a", Protocol, "reserved opcode");
        refuses(ServerToClient, b"\x09\x00", Protocol, "fragmented control");
        refuses(ServerToClient, b"\x89\x7e\x00\x7e", Protocol, "more than 125");
        refuses(ServerToClient, b"\x82\x7e\x00\x01a", Protocol, "more bytes than needed");
        refuses(ServerToClient, b"\x82\x7f\0\0\0\0\0\0\xff\xff", Protocol, "more bytes than needed");
        refuses(ServerToClient, b"\x82\x7f\x80\0\0\0\0\0\0\x01", Protocol, "top bit");
        refuses(ServerToClient, b"\x80\x01a", Protocol, "without a message");
        refuses(ServerToClient, b"\x02\x01a\x82\x01b", Protocol, "inside of another");
        refuses(ServerToClient, b"\x88\x00\x82\x01b", Protocol, "after the close");
        refuses(ServerToClient, b"\x82\x7f\0\0\0\0\x02\0\0\x01", Limit, "beyond the limit");
        refuses(ServerToClient, b"\x82\x05abc", Truncated, "ended in the middle");
        refuses(ServerToClient, b"\x02\x01a", Truncated, "ended in the middle");
    }

    #[test]
    fn a_message_is_limited_over_all_its_frames() {
        let limits = WebSocketLimits { max_message: 3, ..WebSocketLimits::default() };
        assert!(decode(Direction::ServerToClient, limits, &[b"\x02\x02ab\x80\x01c"]).is_ok());
        let error =
            decode(Direction::ServerToClient, limits, &[b"\x02\x02ab\x80\x02cd"]).expect_err("too long");
        assert_eq!(error.kind(), WireErrorKind::Limit);
    }

    #[test]
    fn an_error_is_final() {
        let mut decoder = WebSocketDecoder::new(Direction::ServerToClient, WebSocketLimits::default());
        decoder.push(Bytes::from_static(b"\x83\x00"));
        let first = decoder.next_part().expect_err("refused");
        decoder.push(Bytes::from_static(b"\x82\x00"));
        assert_eq!(decoder.next_part(), Err(first));
        assert_eq!(decoder.finish(), Err(first));
    }

    #[test]
    fn close_reasons() {
        assert_eq!(CloseReason::parse(b"").expect("none"), None);
        let reason = CloseReason::parse(b"\x03\xe8bye").expect("valid").expect("some");
        assert_eq!((reason.code, reason.reason.as_str()), (1000, "bye"));
        assert!(CloseReason::parse(b"\x03").is_err());
        assert!(CloseReason::parse(b"\x03\xe8\xff").is_err());
    }

    /// Messages of up to three fragments, with a control frame here and there.
    fn traffic() -> impl Strategy<Value = Vec<(bool, Opcode, Vec<u8>)>> {
        let payload = || prop::collection::vec(any::<u8>(), 0..300);
        let message = prop::collection::vec(payload(), 1..4).prop_map(|fragments| {
            let last = fragments.len() - 1;
            let frame = |(at, bytes)| {
                (at == last, if at == 0 { Opcode::Binary } else { Opcode::Continuation }, bytes)
            };
            fragments.into_iter().enumerate().map(frame).collect::<Vec<_>>()
        });
        let ping =
            prop::collection::vec(any::<u8>(), 0..125).prop_map(|bytes| vec![(true, Opcode::Ping, bytes)]);
        prop::collection::vec(prop_oneof![3 => message, 1 => ping], 0..6).prop_map(|groups| groups.concat())
    }

    fn encode(frames: &[(bool, Opcode, Vec<u8>)], masked: bool) -> Vec<u8> {
        let mut wire = BytesMut::new();
        for (at, (fin, opcode, payload)) in frames.iter().enumerate() {
            let mask = masked.then_some([at as u8, 0x5A, 0xC3, 0x0F]);
            encode_frame(*fin, *opcode, payload, mask, &mut wire);
        }
        wire.to_vec()
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding_whatever_the_chunks(
            frames in traffic(), masked: bool, whole in 0usize..200, cuts in prop::collection::vec(1usize..97, 1..20)
        ) {
            let wire = encode(&frames, masked);
            let direction = if masked { Direction::ClientToServer } else { Direction::ServerToClient };
            let mut chunks = Vec::new();
            let mut rest = wire.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (chunk, tail) = rest.split_at((*cut).min(rest.len()));
                chunks.push(chunk);
                rest = tail;
            }
            let limits = WebSocketLimits { whole_frame: whole, ..WebSocketLimits::default() };
            let parts = decode(direction, limits, &chunks).expect("what we encode is valid");
            let mut seen: Vec<(bool, Opcode, Vec<u8>)> = Vec::new();
            let mut forwarded = Vec::new();
            for part in &parts {
                forwarded.extend_from_slice(&part.original);
                if part.is_first() { seen.push((part.header.fin, part.header.opcode, Vec::new())); }
                let (.., payload) = seen.last_mut().expect("a first part");
                prop_assert_eq!(part.offset, payload.len() as u64);
                payload.extend_from_slice(&part.payload);
                if part.header.length <= whole as u64 { prop_assert!(part.is_first() && part.is_last()); }
            }
            prop_assert_eq!(&seen, &frames);
            prop_assert_eq!(forwarded, wire, "the originals are the wire");
        }

        #[test]
        fn the_frame_encoder_agrees(payload in prop::collection::vec(any::<u8>(), 0..300), prefix in prop::collection::vec(any::<u8>(), 0..3), key: [u8; 4], masked: bool) {
            let direction = if masked { Direction::ClientToServer } else { Direction::ServerToClient };
            let mut encoder = FrameEncoder::new(direction, MaskingKeys::new(move || key));
            let mut out = Vec::new();
            encoder.frame(true, Opcode::Text, &prefix, Bytes::from(payload.clone()), &mut out);
            let parts = decode(direction, WebSocketLimits::default(), &[&out.concat()]).expect("valid");
            prop_assert_eq!(parts.len(), 1);
            prop_assert_eq!(&parts[0].payload[..], &[prefix, payload].concat()[..]);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), client: bool, whole in 0usize..100) {
            let direction = if client { Direction::ClientToServer } else { Direction::ServerToClient };
            let limits = WebSocketLimits { whole_frame: whole, max_message: 1000 };
            let _ = decode(direction, limits, &[&bytes]);
            let _ = decode(direction, limits, &bytes.chunks(1).collect::<Vec<_>>());
        }
    }
}
