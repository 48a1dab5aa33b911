//! What a relay holds for each direction of an upgraded connection, whatever protocol was negotiated.

use bytes::Bytes;

use crate::channel::{ChannelDecoder, ChannelEncoder, ChannelLayout};
use crate::error::WireError;
use crate::messages::{MessageDecoder, MessageEncoder, message_stream};
use crate::negotiate::{SpdyVersion, Subprotocol};
use crate::spdy::{SpdyLayout, SpdyLimits, SpdyStreamDecoder, encode_data, encode_goaway};
use crate::stream::{Direction, Event, Layer, Place, Stream, StreamKind, Unit};
use crate::tunnel::Tunnel;
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
    /// SPDY/3.1; see [`SpdyDecoder`](crate::SpdyDecoder) for what that means for a relay.
    Spdy(SpdyLayout),
    /// SPDY/3.1 inside of WebSocket binary messages (`SPDY/3.1+portforward.k8s.io`).
    SpdyTunnel(SpdyLayout),
}

/// What an upgrade is for; with the negotiated subprotocol it gives the [`StreamProtocol`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamPurpose {
    /// `pods/exec` and `pods/attach`.
    RemoteCommand,
    /// `pods/portforward`, with the ports of the request's `ports` parameters in order (needed for WebSocket
    /// channels only).
    PortForward(Vec<u16>),
    /// `pods/log`.
    Messages,
    /// A watch. The API server answers with any one subprotocol that was offered, and whichever it is, with one text (JSON) or
    /// binary (protobuf) message for each event, never in base64.
    Watch,
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
            StreamPurpose::PortForward(_) if named == Some(Subprotocol::PortForwardTunnel) => {
                Some(Self::SpdyTunnel(SpdyLayout::PortForward))
            }
            StreamPurpose::PortForward(ports) => channels(ChannelLayout::PortForward(ports)),
            StreamPurpose::Messages => match named.unwrap_or(Subprotocol::Binary) {
                Subprotocol::Binary => Some(Self::Messages { base64: false }),
                Subprotocol::Base64Binary => Some(Self::Messages { base64: true }),
                _ => None,
            },
            StreamPurpose::Watch => match named.unwrap_or(Subprotocol::Binary) {
                Subprotocol::Binary | Subprotocol::Base64Binary => Some(Self::Messages { base64: false }),
                _ => None,
            },
        }
    }

    /// The protocol after an upgrade to SPDY/3.1 that chose `version` (`X-Stream-Protocol-Version` of the
    /// response; `None`: it had
    /// none, which means version 1).
    ///
    /// `None` if that combination does not exist: such a connection must not be relayed.
    #[must_use]
    pub fn spdy(version: Option<&str>, purpose: &StreamPurpose) -> Option<Self> {
        let version = version.map_or(Some(SpdyVersion::V1), SpdyVersion::parse)?;
        match (purpose, version) {
            (StreamPurpose::RemoteCommand, SpdyVersion::PortForward)
            | (StreamPurpose::Messages | StreamPurpose::Watch, _) => None,
            (StreamPurpose::RemoteCommand, _) => Some(Self::Spdy(SpdyLayout::RemoteCommand)),
            (StreamPurpose::PortForward(_), SpdyVersion::PortForward) => {
                Some(Self::Spdy(SpdyLayout::PortForward))
            }
            (StreamPurpose::PortForward(_), _) => None,
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
    /// For everything over SPDY.
    pub spdy: SpdyLimits,
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
    Spdy(SpdyStreamDecoder),
    Tunnel(Box<Tunnel>),
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
        let websocket = limits.websocket;
        let (to_server, to_client) = match protocol {
            StreamProtocol::Channels { subprotocol, layout } => {
                let side = |direction, frames| {
                    Side::Channels(
                        ChannelDecoder::new(*subprotocol, layout.clone(), direction, websocket),
                        ChannelEncoder { frames, subprotocol: *subprotocol },
                    )
                };
                (side(Direction::ClientToServer, to_server), side(Direction::ServerToClient, to_client))
            }
            StreamProtocol::Messages { base64 } => {
                let side = |direction, frames| {
                    Side::Messages(
                        MessageDecoder::new(*base64, direction, websocket),
                        MessageEncoder::new(frames, *base64),
                    )
                };
                (side(Direction::ClientToServer, to_server), side(Direction::ServerToClient, to_client))
            }
            StreamProtocol::Spdy(layout) => {
                let (server, client) = SpdyStreamDecoder::pair(*layout, limits.spdy);
                (Side::Spdy(server), Side::Spdy(client))
            }
            StreamProtocol::SpdyTunnel(layout) => {
                let (server, client) = SpdyStreamDecoder::pair(*layout, limits.spdy);
                let server = Tunnel::new(Direction::ClientToServer, websocket, server, to_server);
                let client = Tunnel::new(Direction::ServerToClient, websocket, client, to_client);
                (Side::Tunnel(Box::new(server)), Side::Tunnel(Box::new(client)))
            }
        };
        let codec = |side| Self { side, handling, mid_frame: false };
        (codec(to_server), codec(to_client))
    }

    /// Adds bytes as they were read from the connection.
    pub fn push(&mut self, bytes: Bytes) {
        match &mut self.side {
            Side::Channels(decoder, _) => decoder.push(bytes),
            Side::Messages(decoder, _) => decoder.push(bytes),
            Side::Spdy(decoder) => decoder.push(bytes),
            Side::Tunnel(tunnel) => tunnel.push(bytes),
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
            Side::Spdy(decoder) => decoder.next_unit(),
            Side::Tunnel(tunnel) => tunnel.next_unit(),
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
            Side::Spdy(decoder) => decoder.finish(),
            Side::Tunnel(tunnel) => tunnel.finish(),
        }
    }

    /// Appends to `out` what passes `unit` on unchanged.
    ///
    /// # Errors
    /// If it cannot be written in the current state, which does not happen to units that are passed on in the
    /// order they came.
    pub fn forward(&mut self, unit: Unit, out: &mut Vec<Bytes>) -> Result<(), WireError> {
        let (place, layer) = (unit.place(), unit.layer());
        if self.handling == Handling::Rewrite && place != Place::Standalone {
            return match unit.into_parts().0 {
                Event::Data { stream, data, end_of_message, fin } => {
                    self.write(&stream, data, layer, end_of_message, fin, out)
                }
                _ => Ok(()),
            };
        }
        if place != Place::Standalone {
            self.mid_frame = place == Place::Part;
        }
        let original = unit.into_parts().1;
        match &mut self.side {
            Side::Tunnel(tunnel) if layer != Layer::Outer => tunnel.wrap(original, out),
            _ => out.push(original),
        }
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
        let layer = unit.layer();
        match unit.into_parts().0 {
            Event::Data { stream, end_of_message, fin, .. } => {
                self.write(&stream, data, layer, end_of_message, fin, out)
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
        self.write(stream, data, Layer::Text, true, fin, out)?;
        if fin {
            self.end(stream);
        }
        Ok(())
    }

    /// Appends to `out` what ends the connection in this direction, for a reason people can read: a WebSocket
    /// Close with that `code` (RFC 6455, section 7.4), or SPDY's GOAWAY, which has no text.
    ///
    /// # Errors
    /// If a frame or message has been forwarded in part: then all that is left is to drop the connection.
    pub fn close(&mut self, code: u16, reason: &str, out: &mut Vec<Bytes>) -> Result<(), WireError> {
        self.at_boundary()?;
        let frames = match &mut self.side {
            Side::Channels(_, ChannelEncoder { frames, .. })
            | Side::Messages(_, MessageEncoder { frames, .. }) => frames,
            Side::Spdy(decoder) => {
                out.push(encode_goaway(decoder.last_stream_id(), goaway_status(code)));
                return Ok(());
            }
            Side::Tunnel(tunnel) => {
                let goaway = encode_goaway(tunnel.streams().last_stream_id(), goaway_status(code));
                tunnel.wrap(goaway, out);
                tunnel.frames_mut()
            }
        };
        frames.frame(true, Opcode::Close, &[], encode_close(code, reason), out);
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
            Side::Spdy(decoder) => decoder.stream(kind),
            Side::Tunnel(tunnel) => tunnel.streams().stream(kind),
        }
    }

    fn at_boundary(&self) -> Result<(), WireError> {
        let open = matches!(&self.side, Side::Messages(_, encoder) if encoder.is_open());
        if self.mid_frame || open {
            return Err(WireError::state(CODEC, "a frame or message has been forwarded in part"));
        }
        Ok(())
    }

    fn write(
        &mut self,
        stream: &Stream,
        data: Bytes,
        layer: Layer,
        end: bool,
        fin: bool,
        out: &mut Vec<Bytes>,
    ) -> Result<(), WireError> {
        match &mut self.side {
            Side::Channels(_, encoder) => encoder.data(stream, data, fin, out)?,
            Side::Messages(_, encoder) => encoder.data(data, layer == Layer::Text, end, out),
            Side::Spdy(_) => encode_data(stream.id, fin, data, out),
            Side::Tunnel(tunnel) => {
                let mut inner = Vec::new();
                encode_data(stream.id, fin, data, &mut inner);
                inner.into_iter().for_each(|bytes| tunnel.wrap(bytes, out));
            }
        }
        Ok(())
    }

    /// Notes that `stream` was ended from here.
    fn end(&self, stream: &Stream) {
        match &self.side {
            Side::Spdy(decoder) => decoder.end(stream.id),
            Side::Tunnel(tunnel) => tunnel.streams().end(stream.id),
            Side::Channels(..) | Side::Messages(..) => {}
        }
    }
}

/// The GOAWAY status (SPDY/3.1, section 2.6.6) that says roughly what a WebSocket close code says.
const fn goaway_status(code: u16) -> u32 {
    match code {
        1000 | 1001 => 0,
        1002 | 1003 | 1007 | 1009 => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests;
