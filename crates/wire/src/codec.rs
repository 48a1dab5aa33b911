//! What a relay holds for each direction of an upgraded connection, whatever protocol was negotiated.

use bytes::Bytes;

use crate::channel::{ChannelDecoder, ChannelEncoder, ChannelLayout};
use crate::error::WireError;
use crate::messages::{MessageDecoder, MessageEncoder, message_stream};
use crate::negotiate::Subprotocol;
use crate::stream::{Direction, Event, Place, Stream, StreamKind, Unit};
use crate::websocket::{FrameEncoder, MaskingKeys, Opcode, WebSocketLimits, encode_close};

const CODEC: &str = "stream";

/// What an upgraded connection speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamProtocol {
    /// WebSocket channels.
    Channels {
        /// What was negotiated.
        subprotocol: Subprotocol,
        /// Which channels there are.
        layout: ChannelLayout,
    },
    /// WebSocket messages of a watch or a log.
    Messages {
        /// Whether payloads are base64.
        base64: bool,
    },
}

/// What an upgrade is for; with the negotiated subprotocol it gives the [`StreamProtocol`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamPurpose {
    /// `pods/exec` and `pods/attach`.
    RemoteCommand,
    /// `pods/portforward`, with the ports of the request's `ports` parameters in order (needed for WebSocket
    /// channels only).
    PortForward(Vec<u16>),
    /// A watch or `pods/log`.
    Messages,
}

impl StreamProtocol {
    /// The protocol after a WebSocket handshake that chose `subprotocol` (`None`: the response had no
    /// `Sec-WebSocket-Protocol`).
    ///
    /// `None` if that combination does not exist or is not decoded here: such a connection must not be
    /// relayed.
    #[must_use]
    pub fn websocket(subprotocol: Option<&str>, purpose: StreamPurpose) -> Option<Self> {
        let named = match subprotocol {
            Some(name) => Some(Subprotocol::parse(name)?),
            None => None,
        };
        let channels = |layout| {
            let subprotocol = named.unwrap_or(Subprotocol::ChannelV1);
            subprotocol.has_channels().then_some(Self::Channels { subprotocol, layout })
        };
        match purpose {
            StreamPurpose::RemoteCommand => channels(ChannelLayout::RemoteCommand),
            StreamPurpose::PortForward(ports) => channels(ChannelLayout::PortForward(ports)),
            StreamPurpose::Messages => match named.unwrap_or(Subprotocol::Binary) {
                Subprotocol::Binary => Some(Self::Messages { base64: false }),
                Subprotocol::Base64Binary => Some(Self::Messages { base64: true }),
                _ => None,
            },
        }
    }
}

/// Whether units may be changed on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    /// Nobody changes anything: every byte is forwarded as it came.
    Observe,
    /// Units may be replaced. Complete frames that nobody changes are still forwarded as they came; large
    /// ones, of which only parts are seen at a time, are written anew
    /// part by part, because their length may no longer be true by the time the rest is known.
    Rewrite,
}

/// Limits of all codecs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamLimits {
    /// For everything over WebSocket.
    pub websocket: WebSocketLimits,
}

/// Decodes one direction of an upgraded connection, and encodes what is to be sent on.
///
/// The loop of a relay: read, [`push`](Self::push), then for each [`next_unit`](Self::next_unit) either
/// [`forward`](Self::forward) or
/// [`replace`](Self::replace) it, and write `out` before reading more. That is all there is to back-pressure:
/// nothing is kept but one unfinished frame.
///
/// ```
/// use bytes::Bytes;
/// use portcullis_wire::{Event, Handling, MaskingKeys, StreamCodec, StreamLimits, StreamProtocol, StreamPurpose};
///
/// let protocol = StreamProtocol::websocket(Some("v5.channel.k8s.io"), StreamPurpose::RemoteCommand).expect("decoded here");
/// let keys = MaskingKeys::new(|| [1, 2, 3, 4]); // from a random source, really
/// let (_to_server, mut to_client) = StreamCodec::pair(&protocol, Handling::Rewrite, StreamLimits::default(), keys);
///
/// let mut out = Vec::new();
/// to_client.push(Bytes::from_static(b"\x82\x03\x01ok\x82\x0a\x01token=abc"));
/// while let Some(unit) = to_client.next_unit()? {
///     match unit.event() {
///         Event::Data { data, .. } if data.starts_with(b"token") => to_client.replace(unit, Bytes::from_static(b"token=***!"), &mut out)?,
///         _ => to_client.forward(unit, &mut out)?,
///     }
/// }
/// assert_eq!(out.concat(), b"\x82\x03\x01ok\x82\x0b\x01token=***!");
/// # Ok::<(), portcullis_wire::WireError>(())
/// ```
#[derive(Debug)]
pub struct StreamCodec {
    side: Side,
    handling: Handling,
    /// A frame or message has been forwarded in part: nothing else can be sent before the rest.
    mid_frame: bool,
}

#[derive(Debug)]
enum Side {
    Channels(ChannelDecoder, ChannelEncoder),
    Messages(MessageDecoder, MessageEncoder),
}

impl StreamCodec {
    /// The codecs of both directions: towards the server, and towards the client.
    ///
    /// `keys` masks what is written anew towards the server over WebSocket.
    #[must_use]
    pub fn pair(
        protocol: &StreamProtocol,
        handling: Handling,
        limits: StreamLimits,
        keys: MaskingKeys,
    ) -> (Self, Self) {
        let to_server = FrameEncoder::new(Direction::ClientToServer, keys);
        let to_client = FrameEncoder::new(Direction::ServerToClient, MaskingKeys::new(|| [0; 4]));
        let codec = |direction, frames| {
            let side = match protocol {
                StreamProtocol::Channels { subprotocol, layout } => Side::Channels(
                    ChannelDecoder::new(*subprotocol, layout.clone(), direction, limits.websocket),
                    ChannelEncoder { frames, subprotocol: *subprotocol },
                ),
                StreamProtocol::Messages { base64 } => Side::Messages(
                    MessageDecoder::new(*base64, direction, limits.websocket),
                    MessageEncoder::new(frames, *base64),
                ),
            };
            Self { side, handling, mid_frame: false }
        };
        (codec(Direction::ClientToServer, to_server), codec(Direction::ServerToClient, to_client))
    }

    /// Adds bytes as they were read from the connection.
    pub fn push(&mut self, bytes: Bytes) {
        match &mut self.side {
            Side::Channels(decoder, _) => decoder.push(bytes),
            Side::Messages(decoder, _) => decoder.push(bytes),
        }
    }

    /// The next unit, if enough bytes are there.
    ///
    /// # Errors
    /// What cannot be read, or not in one way only. The connection must then be ended, since nothing after it
    /// can be seen; the same error is returned from then on.
    pub fn next_unit(&mut self) -> Result<Option<Unit>, WireError> {
        match &mut self.side {
            Side::Channels(decoder, _) => decoder.next_unit(),
            Side::Messages(decoder, _) => decoder.next_unit(),
        }
    }

    /// Says that this direction of the connection has ended.
    ///
    /// # Errors
    /// If it ended in the middle of a frame or message.
    pub fn finish(&self) -> Result<(), WireError> {
        match &self.side {
            Side::Channels(decoder, _) => decoder.finish(),
            Side::Messages(decoder, _) => decoder.finish(),
        }
    }

    /// Appends to `out` what passes `unit` on unchanged.
    ///
    /// # Errors
    /// If it cannot be written in the current state, which does not happen to units that are passed on in the
    /// order they came.
    pub fn forward(&mut self, unit: Unit, out: &mut Vec<Bytes>) -> Result<(), WireError> {
        let (place, text) = (unit.place(), unit.is_text());
        if self.handling == Handling::Rewrite && place != Place::Standalone {
            return match unit.into_parts().0 {
                Event::Data { stream, data, end_of_message, fin } => {
                    self.write(&stream, data, text, end_of_message, fin, out)
                }
                _ => Ok(()),
            };
        }
        if place != Place::Standalone {
            self.mid_frame = place == Place::Part;
        }
        out.push(unit.into_parts().1);
        Ok(())
    }

    /// Appends to `out` what passes `unit` on with other data. Without any data nothing is left of it but its
    /// half-close, if it had one, and the end of a message of
    /// which something was passed on.
    ///
    /// # Errors
    /// If this codec only observes, or the unit is not [`Event::Data`].
    pub fn replace(&mut self, unit: Unit, data: Bytes, out: &mut Vec<Bytes>) -> Result<(), WireError> {
        if self.handling == Handling::Observe {
            return Err(WireError::state(CODEC, "a codec that only observes cannot replace data"));
        }
        let text = unit.is_text();
        match unit.into_parts().0 {
            Event::Data { stream, end_of_message, fin, .. } => {
                self.write(&stream, data, text, end_of_message, fin, out)
            }
            _ => Err(WireError::state(CODEC, "only data can be replaced")),
        }
    }

    /// Appends to `out` data that did not come from the peer: what a masker held back, or a message to
    /// whoever sits at the other end (a `Status` on the
    /// error stream, say), and ends the stream this way if `fin`.
    ///
    /// # Errors
    /// If a frame or message has been forwarded in part, or the protocol cannot half-close.
    pub fn inject(
        &mut self,
        stream: &Stream,
        data: Bytes,
        fin: bool,
        out: &mut Vec<Bytes>,
    ) -> Result<(), WireError> {
        self.at_boundary()?;
        self.write(stream, data, true, true, fin, out)
    }

    /// Appends to `out` what ends the connection in this direction, for a reason people can read: a WebSocket
    /// Close (RFC 6455, section 5.5.1).
    ///
    /// # Errors
    /// If a frame or message has been forwarded in part: then all that is left is to drop the connection.
    pub fn close(&mut self, code: u16, reason: &str, out: &mut Vec<Bytes>) -> Result<(), WireError> {
        self.at_boundary()?;
        match &mut self.side {
            Side::Channels(_, ChannelEncoder { frames, .. })
            | Side::Messages(_, MessageEncoder { frames, .. }) => {
                frames.frame(true, Opcode::Close, &[], encode_close(code, reason), out);
            }
        }
        Ok(())
    }

    /// The open stream of that kind, for [`inject`](Self::inject).
    #[must_use]
    pub fn stream(&self, kind: StreamKind) -> Option<Stream> {
        match &self.side {
            Side::Channels(decoder, _) => {
                (0..=u8::MAX).map_while(|id| decoder.layout().stream(id)).find(|stream| stream.kind == kind)
            }
            Side::Messages(..) => Some(message_stream()).filter(|stream| stream.kind == kind),
        }
    }

    fn at_boundary(&self) -> Result<(), WireError> {
        let open = match &self.side {
            Side::Messages(_, encoder) => encoder.is_open(),
            Side::Channels(..) => false,
        };
        if self.mid_frame || open {
            return Err(WireError::state(CODEC, "a frame or message has been forwarded in part"));
        }
        Ok(())
    }

    fn write(
        &mut self,
        stream: &Stream,
        data: Bytes,
        text: bool,
        end: bool,
        fin: bool,
        out: &mut Vec<Bytes>,
    ) -> Result<(), WireError> {
        match &mut self.side {
            Side::Channels(_, encoder) => encoder.data(stream, data, fin, out),
            Side::Messages(_, encoder) => {
                encoder.data(data, text, end, out);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests;
