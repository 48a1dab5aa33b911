//! Sans-I/O codecs for what Kubernetes speaks on the wire.
//!
//! `exec`, `attach`, `port-forward`, and watches and logs over WebSocket leave HTTP behind and speak
//! protocols of their own. Something that sits in between and wants to know, or
//! change, what passes needs to decode them as the peers do. This crate does that, and nothing else: no
//! sockets, no runtime, no HTTP types. Bytes are pushed in, events
//! come out; memory is bounded, whatever the peer does.
//!
//! * [`StreamCodec`]: one direction of an upgraded connection, whatever it speaks, for a relay. Start here.
//! * [`ChannelDecoder`], [`MessageDecoder`], [`WebSocketDecoder`], [`SpdyStreamDecoder`], [`SpdyDecoder`]:
//!   the
//!   layers below it.
//! * [`LineSlicer`], [`LineDecoder`], [`LengthDelimitedDecoder`]: the frames of a watch over HTTP.
//! * [`ProtobufEnvelope`], [`ProtobufReader`]: Kubernetes' protobuf.
//! * [`OfferedSubprotocols`]: subprotocol negotiation, and the bearer token that may hide in it.
//!
//! A decoder refuses what two real peers would read differently ([`WireErrorKind::Ambiguous`]): what is
//! recorded and masked here must be what takes effect there.
//!
//! ```
//! use bytes::Bytes;
//! use portcullis_wire::{Event, Handling, MaskingKeys, StreamCodec, StreamLimits, StreamProtocol, StreamPurpose};
//!
//! // The handshake chose `v4.channel.k8s.io` for an exec.
//! let protocol = StreamProtocol::websocket(Some("v4.channel.k8s.io"), StreamPurpose::RemoteCommand).expect("decoded here");
//! let keys = MaskingKeys::new(|| [0; 4]); // from a random source, really
//! let (_to_server, mut to_client) = StreamCodec::pair(&protocol, Handling::Observe, StreamLimits::default(), keys);
//!
//! let mut out = Vec::new();
//! to_client.push(Bytes::from_static(b"\x82\x04\x01hi\n"));
//! while let Some(unit) = to_client.next_unit()? {
//!     if let Event::Data { stream, data, .. } = unit.event() {
//!         println!("{:?} {}", stream.kind, data.escape_ascii()); // Stdout hi\n
//!     }
//!     to_client.forward(unit, &mut out)?;
//! }
//! assert_eq!(out.concat(), b"\x82\x04\x01hi\n");
//! # Ok::<(), portcullis_wire::WireError>(())
//! ```
//!
//! A plain axum service that hands on a feed of JSON lines: they come in whatever pieces the network made, and leave one by
//! one, as soon as each is whole, without those that are nobody's business:
//!
//! ```
//! use axum::{Router, body::{Body, Bytes}, http::Request, routing::post};
//! use futures_util::{StreamExt as _, stream::try_unfold};
//! use portcullis_wire::LineDecoder;
//! use tower::ServiceExt as _;
//!
//! async fn feed(body: Body) -> Body {
//!     let begin = (body.into_data_stream(), LineDecoder::new(64 * 1024));
//!     Body::from_stream(try_unfold(begin, async |(mut pieces, mut lines)| {
//!         loop {
//!             while let Some(line) = lines.next_line()? {
//!                 if !line.starts_with(b"{\"card\"") {
//!                     return Ok::<_, axum::BoxError>(Some((line, (pieces, lines))));
//!                 }
//!             }
//!             let Some(piece) = pieces.next().await else { return Ok(None) };
//!             lines.push(piece?);
//!         }
//!     }))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), axum::BoxError> {
//! let pieces = ["{\"order\":7}\n{\"ca", "rd\":\"4111\"}\n{\"or", "der\":8}\n"].map(Ok::<_, axum::Error>);
//! let request = Request::post("/feed").body(Body::from_stream(futures_util::stream::iter(pieces)))?;
//! let response = Router::new().route("/feed", post(feed)).oneshot(request).await?;
//! let body: Bytes = axum::body::to_bytes(response.into_body(), 1024).await?;
//! assert_eq!(body, "{\"order\":7}\n{\"order\":8}\n");
//! # Ok(())
//! # }
//! ```

mod base64_stream;
mod channel;
mod codec;
mod error;
mod input;
mod messages;
mod negotiate;
mod object;
mod protobuf;
mod spdy;
mod stream;
mod tunnel;
mod watch;
mod websocket;

pub use channel::{ChannelDecoder, ChannelLayout};
pub use codec::{Handling, StreamCodec, StreamLimits, StreamProtocol, StreamPurpose};
pub use error::{WireError, WireErrorKind};
pub use messages::MessageDecoder;
pub use negotiate::{OfferedSubprotocols, SpdyVersion, Subprotocol, header_list};
pub use object::{ProtobufObject, ProtobufObjectError, RewriteError, rewrite_protobuf_object};
pub use protobuf::{
    PROTOBUF_MAGIC, ProtobufEnvelope, ProtobufField, ProtobufReader, ProtobufValue, encode_protobuf_field,
};
pub use spdy::{
    HeaderBlock, Setting, SpdyDecoder, SpdyEncoder, SpdyFrame, SpdyLayout, SpdyLimits, SpdyPart,
    SpdyStreamDecoder,
};
pub use stream::{Direction, Event, Stream, StreamKind, Unit};
pub use watch::{
    DelimitedPart, LengthDelimitedDecoder, LengthDelimitedLimits, LineDecoder, LineSlice, LineSlicer,
    encode_length_delimited,
};
pub use websocket::{
    CloseReason, FrameEncoder, FrameHeader, FramePart, MaskingKeys, Opcode, WebSocketDecoder,
    WebSocketLimits, encode_close, encode_frame,
};
