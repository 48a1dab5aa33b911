//! Watches and logs over WebSocket: one stream, whose messages are watch events (text or binary) or pieces of
//! a log
//! (`binary.k8s.io`, `base64.binary.k8s.io`, or no subprotocol).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::base64_stream::Base64Stream;
use crate::channel::{control_unit, layer, place};
use crate::error::WireError;
use crate::stream::{Direction, Event, Stream, StreamKind, Unit};
use crate::websocket::{FrameEncoder, FramePart, Opcode, WebSocketDecoder, WebSocketLimits};

const CODEC: &str = "messages";

/// Decodes one direction of a WebSocket that carries plain messages.
///
/// ```
/// use bytes::Bytes;
/// use portcullis_wire::{Direction, Event, MessageDecoder, WebSocketLimits};
///
/// let mut decoder = MessageDecoder::new(false, Direction::ServerToClient, WebSocketLimits::default());
/// decoder.push(Bytes::from_static(b"\x81\x16{\"type\":\"BOOKMARK\",...}"));
/// let unit = decoder.next_unit()?.expect("a message");
/// assert!(matches!(unit.event(), Event::Data { data, end_of_message: true, .. } if data.starts_with(b"{\"type\"")));
/// # Ok::<(), portcullis_wire::WireError>(())
/// ```
#[derive(Debug)]
pub struct MessageDecoder {
    frames: WebSocketDecoder,
    base64: Option<Base64Stream>,
    failed: Option<WireError>,
}

impl MessageDecoder {
    /// A decoder for what travels in `direction`, where messages are base64 if `base64`.
    #[must_use]
    pub fn new(base64: bool, direction: Direction, limits: WebSocketLimits) -> Self {
        Self {
            frames: WebSocketDecoder::new(direction, limits),
            base64: base64.then(Base64Stream::default),
            failed: None,
        }
    }

    /// Adds bytes as they were read from the connection.
    pub fn push(&mut self, bytes: Bytes) {
        self.frames.push(bytes);
    }

    /// The next unit, if enough bytes are there.
    ///
    /// # Errors
    /// What [`WebSocketDecoder::next_part`] refuses, and invalid base64. The same error is returned from then
    /// on.
    pub fn next_unit(&mut self) -> Result<Option<Unit>, WireError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let unit = match self.frames.next_part() {
            Ok(None) => return Ok(None),
            Ok(Some(part)) => self.unit(part),
            Err(error) => Err(error),
        };
        unit.map(Some).inspect_err(|error| self.failed = Some(*error))
    }

    /// Says that the connection has ended.
    ///
    /// # Errors
    /// If it ended in the middle of a message.
    pub fn finish(&self) -> Result<(), WireError> {
        self.failed.map_or_else(|| self.frames.finish(), Err)
    }

    fn unit(&mut self, part: FramePart) -> Result<Unit, WireError> {
        if part.message.is_control() {
            return control_unit(part);
        }
        let (place, layer, end) = (place(&part), layer(&part), part.ends_message());
        let data = match &mut self.base64 {
            Some(base64) => base64.decode(CODEC, &part.payload, end)?,
            None => part.payload,
        };
        let event = Event::Data { stream: message_stream(), data, end_of_message: end, fin: false };
        Ok(Unit::new(event, part.original, place).of(layer))
    }
}

/// The one stream there is.
pub(crate) const fn message_stream() -> Stream {
    Stream { id: 0, kind: StreamKind::Messages, request_id: None }
}

/// Writes messages, keeping their boundaries: a message that is passed on in parts becomes a fragmented one.
#[derive(Debug)]
pub(crate) struct MessageEncoder {
    pub(crate) frames: FrameEncoder,
    pub(crate) base64: bool,
    /// A message has been begun and not ended.
    open: bool,
}

impl MessageEncoder {
    pub(crate) const fn new(frames: FrameEncoder, base64: bool) -> Self {
        Self { frames, base64, open: false }
    }

    /// Whether a message has been begun and not ended.
    pub(crate) const fn is_open(&self) -> bool {
        self.open
    }

    /// Appends `data`, which with `end` completes its message. Nothing at all becomes of a message whose
    /// every part is empty.
    pub(crate) fn data(&mut self, data: Bytes, text: bool, end: bool, out: &mut Vec<Bytes>) {
        if self.base64 {
            // A log's message boundaries mean nothing, but its base64 must be padded: each part is a message.
            if !data.is_empty() {
                self.frames.frame(true, Opcode::Text, &[], STANDARD.encode(&data).into(), out);
            }
            return;
        }
        if data.is_empty() && !(end && self.open) {
            return;
        }
        let opcode = match (self.open, text) {
            (true, _) => Opcode::Continuation,
            (false, true) => Opcode::Text,
            (false, false) => Opcode::Binary,
        };
        self.frames.frame(end, opcode, &[], data, out);
        self.open = !end;
    }
}
