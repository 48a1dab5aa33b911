//! The WebSocket channel protocols of exec, attach and port-forward (`channel.k8s.io` and its versions).
//!
//! Every message begins with a byte that names its channel. For a command, 0 to 4 are standard input, output,
//! error, the outcome, and terminal sizes. For
//! port-forward, each port has two, data and error, and the server's first message on each is the port
//! number, little-endian.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes};

use crate::base64_stream::Base64Stream;
use crate::error::WireError;
use crate::negotiate::Subprotocol;
use crate::stream::{Direction, Event, Layer, Place, Stream, StreamKind, Unit};
use crate::websocket::{CloseReason, FrameEncoder, FramePart, Opcode, WebSocketDecoder, WebSocketLimits};

const CODEC: &str = "channel";
const CLOSE_SIGNAL: u8 = 255;

/// Which channels there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelLayout {
    /// exec and attach.
    RemoteCommand,
    /// port-forward of these ports, in the order of the request's `ports` parameters.
    PortForward(Vec<u16>),
}

impl ChannelLayout {
    /// The stream on channel `id`.
    #[must_use]
    pub fn stream(&self, id: u8) -> Option<Stream> {
        let kind = match self {
            Self::RemoteCommand => match id {
                0 => StreamKind::Stdin,
                1 => StreamKind::Stdout,
                2 => StreamKind::Stderr,
                3 => StreamKind::Error,
                4 => StreamKind::Resize,
                _ => return None,
            },
            Self::PortForward(ports) => {
                let port = *ports.get(usize::from(id / 2))?;
                if id.is_multiple_of(2) {
                    StreamKind::ForwardData { port }
                } else {
                    StreamKind::ForwardError { port }
                }
            }
        };
        Some(Stream { id: u32::from(id), kind, request_id: None })
    }
}

/// Decodes one direction of a channel protocol.
///
/// Two rules are stricter than the protocol's prose, since the API server's WebSocket library hands every
/// *frame* to its channel code as if it were a message:
/// a client must not fragment (the second fragment's first byte would be taken for a channel), and a channel
/// that is not defined, or not for this direction, is refused. No
/// client of Kubernetes does either.
///
/// ```
/// use bytes::Bytes;
/// use portcullis_wire::{ChannelDecoder, ChannelLayout, Direction, Event, StreamKind, Subprotocol, WebSocketLimits};
///
/// let mut decoder =
///     ChannelDecoder::new(Subprotocol::ChannelV5, ChannelLayout::RemoteCommand, Direction::ServerToClient, WebSocketLimits::default());
/// decoder.push(Bytes::from_static(b"\x82\x06\x01hello"));
/// let unit = decoder.next_unit()?.expect("a message");
/// let Event::Data { stream, data, .. } = unit.event() else { panic!("data") };
/// assert_eq!((stream.kind, &data[..]), (StreamKind::Stdout, &b"hello"[..]));
/// assert_eq!(&unit.original()[..], b"\x82\x06\x01hello");
/// # Ok::<(), portcullis_wire::WireError>(())
/// ```
#[derive(Debug)]
pub struct ChannelDecoder {
    frames: WebSocketDecoder,
    subprotocol: Subprotocol,
    layout: ChannelLayout,
    direction: Direction,
    /// The channel of the message that is under way.
    current: Option<Stream>,
    base64: Base64Stream,
    /// Port-forward, from the server: the channels whose port number has been read.
    announced: Vec<u8>,
    failed: Option<WireError>,
}

impl ChannelDecoder {
    /// A decoder for what travels in `direction`. A subprotocol without channels is read like
    /// `channel.k8s.io`.
    #[must_use]
    pub fn new(
        subprotocol: Subprotocol,
        layout: ChannelLayout,
        direction: Direction,
        limits: WebSocketLimits,
    ) -> Self {
        Self {
            frames: WebSocketDecoder::new(direction, limits),
            subprotocol,
            layout,
            direction,
            current: None,
            base64: Base64Stream::default(),
            announced: Vec::new(),
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
    /// What [`WebSocketDecoder::next_part`] refuses, and what is said above. The same error is
    /// returned from then on.
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

    /// Which channels there are.
    #[must_use]
    pub const fn layout(&self) -> &ChannelLayout {
        &self.layout
    }

    fn unit(&mut self, part: FramePart) -> Result<Unit, WireError> {
        if part.message.is_control() {
            return control_unit(part);
        }
        if self.direction == Direction::ClientToServer
            && !(part.header.fin && part.header.opcode != Opcode::Continuation)
        {
            return Err(WireError::ambiguous(
                CODEC,
                "a fragmented message from a client, which the API server reads as several",
            ));
        }
        let (place, layer, end) = (place(&part), layer(&part), part.ends_message());
        let (mut payload, original) = (part.payload, part.original);
        let stream = match self.current.take() {
            Some(stream) => stream,
            None if payload.is_empty() => {
                return Ok(Unit::new(Event::Control, original, place).of(layer));
            }
            None => {
                let channel = payload.get_u8();
                if channel == CLOSE_SIGNAL
                    && self.direction == Direction::ClientToServer
                    && !self.subprotocol.is_base64()
                {
                    let event = self.close_signal(&payload, place)?;
                    return Ok(Unit::new(event, original, place).of(layer));
                }
                self.stream(channel)?
            }
        };
        if !payload.is_empty() && !stream.kind.flows(self.direction) {
            return Err(WireError::protocol(CODEC, "data on a channel of the other direction")
                .with(u64::from(stream.id)));
        }
        let data =
            if self.subprotocol.is_base64() { self.base64.decode(CODEC, &payload, end)? } else { payload };
        let event = if self.announces(&stream) {
            self.announce(&stream, &data, place)?
        } else {
            Event::Data { stream: stream.clone(), data, end_of_message: end, fin: false }
        };
        self.current = (!end).then_some(stream);
        Ok(Unit::new(event, original, place).of(layer))
    }

    fn stream(&self, channel: u8) -> Result<Stream, WireError> {
        let id = if self.subprotocol.is_base64() { channel.wrapping_sub(b'0') } else { channel };
        self.layout
            .stream(id)
            .ok_or_else(|| WireError::protocol(CODEC, "a channel that is not defined").with(u64::from(id)))
    }

    fn close_signal(&self, payload: &[u8], place: Place) -> Result<Event, WireError> {
        let ([channel], Place::Standalone) = (payload, place) else {
            return Err(WireError::protocol(CODEC, "a CLOSE signal that does not name one channel"));
        };
        let stream = self.stream(*channel)?;
        if !self.subprotocol.has_close_signal() {
            // Before version 5 a server ignores channel 255; client-go sends it nevertheless.
            return Ok(Event::Control);
        }
        Ok(Event::Data { stream, data: Bytes::new(), end_of_message: true, fin: true })
    }

    /// Whether the next message on `stream` is its port number.
    fn announces(&self, stream: &Stream) -> bool {
        self.direction == Direction::ServerToClient
            && matches!(self.layout, ChannelLayout::PortForward(_))
            && !self.announced.iter().any(|&id| u32::from(id) == stream.id)
    }

    fn announce(&mut self, stream: &Stream, data: &[u8], place: Place) -> Result<Event, WireError> {
        let (StreamKind::ForwardData { port } | StreamKind::ForwardError { port }) = stream.kind else {
            return Err(WireError::protocol(CODEC, "a port number on a channel that has none"));
        };
        if place != Place::Standalone || data != port.to_le_bytes() {
            return Err(WireError::protocol(
                CODEC,
                "a forwarding channel that does not begin with its port number",
            ));
        }
        self.announced.extend(u8::try_from(stream.id));
        Ok(Event::Opened(stream.clone()))
    }
}

/// Writes messages of a channel protocol.
#[derive(Debug)]
pub(crate) struct ChannelEncoder {
    pub(crate) frames: FrameEncoder,
    pub(crate) subprotocol: Subprotocol,
}

impl ChannelEncoder {
    /// Appends `data` as one message, and the CLOSE signal if `fin`.
    pub(crate) fn data(
        &mut self,
        stream: &Stream,
        data: Bytes,
        fin: bool,
        out: &mut Vec<Bytes>,
    ) -> Result<(), WireError> {
        let channel = u8::try_from(stream.id).map_err(|_| WireError::state(CODEC, "no such channel"))?;
        if fin && !self.subprotocol.has_close_signal() {
            return Err(WireError::state(CODEC, "this version cannot half-close a channel"));
        }
        if !data.is_empty() && self.subprotocol.is_base64() {
            let text = STANDARD.encode(&data).into();
            self.frames.frame(true, Opcode::Text, &[channel.wrapping_add(b'0')], text, out);
        } else if !data.is_empty() {
            self.frames.frame(true, Opcode::Binary, &[channel], data, out);
        }
        if fin {
            self.frames.frame(true, Opcode::Binary, &[CLOSE_SIGNAL, channel], Bytes::new(), out);
        }
        Ok(())
    }
}

/// The unit of a control frame.
pub(crate) fn control_unit(part: FramePart) -> Result<Unit, WireError> {
    let event = match part.message {
        Opcode::Close => {
            Event::Close { code: CloseReason::parse(&part.payload)?.map(|reason| u32::from(reason.code)) }
        }
        _ => Event::Control,
    };
    Ok(Unit::new(event, part.original, Place::Standalone))
}

pub(crate) fn place(part: &FramePart) -> Place {
    match (part.begins_message(), part.ends_message()) {
        (true, true) => Place::Standalone,
        (_, true) => Place::LastPart,
        (_, false) => Place::Part,
    }
}

pub(crate) fn layer(part: &FramePart) -> Layer {
    if part.message == Opcode::Text { Layer::Text } else { Layer::Binary }
}
