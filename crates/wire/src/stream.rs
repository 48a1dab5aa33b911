//! The vocabulary that every streaming protocol of Kubernetes is decoded into.
//!
//! exec, attach and port-forward exist over WebSocket channels and over SPDY; a watch or a log exists as
//! WebSocket messages. A recorder or a
//! masker wants to know one thing only: *which bytes went which way on which stream*. So the codecs of this
//! crate all produce
//! [`Event`]s, and [`StreamCodec`](crate::StreamCodec) hands them out as [`Unit`]s, which remember the wire
//! bytes they came from.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// Which way bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the agent towards the API server.
    ClientToServer,
    /// From the API server towards the agent.
    ServerToClient,
}

impl Direction {
    /// The other way.
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::ClientToServer => Self::ServerToClient,
            Self::ServerToClient => Self::ClientToServer,
        }
    }
}

/// What a stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StreamKind {
    /// Standard input of a command.
    Stdin,
    /// Standard output of a command (with a terminal: everything it prints).
    Stdout,
    /// Standard error of a command.
    Stderr,
    /// The command's outcome: a JSON `metav1.Status` from protocol version 4 on, plain text before.
    Error,
    /// Terminal sizes as JSON, `{"Width":80,"Height":24}`, one object after the other.
    Resize,
    /// Bytes of a forwarded connection.
    ForwardData {
        /// The port of the pod.
        port: u16,
    },
    /// Plain text about why forwarding failed.
    ForwardError {
        /// The port of the pod.
        port: u16,
    },
    /// The messages of a watch or a log that is served over WebSocket.
    Messages,
}

impl StreamKind {
    /// Whether a peer may send data this way on such a stream. What is sent the other way is read by nobody;
    /// the codecs refuse it.
    #[must_use]
    pub const fn flows(self, direction: Direction) -> bool {
        match self {
            Self::Stdin | Self::Resize => matches!(direction, Direction::ClientToServer),
            Self::Stdout | Self::Stderr | Self::Error | Self::ForwardError { .. } => {
                matches!(direction, Direction::ServerToClient)
            }
            Self::ForwardData { .. } | Self::Messages => true,
        }
    }
}

/// One stream of an upgraded connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Stream {
    /// The channel number (WebSocket) or the stream id (SPDY). Unique among the open streams of a connection.
    pub id: u32,
    /// What it carries.
    pub kind: StreamKind,
    /// Pairs a forwarded connection's data stream with its error stream (SPDY's `requestid` header).
    pub request_id: Option<Arc<str>>,
}

/// Something that happened on a connection.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A stream came into being. WebSocket channels of a command exist from the start and are never
    /// announced.
    Opened(Stream),
    /// Bytes on a stream.
    Data {
        /// Where they belong.
        stream: Stream,
        /// The bytes, unmasked and decoded from base64. Never more than was pushed and not yet handed out.
        data: Bytes,
        /// These bytes end a message. Only [`StreamKind::Messages`] gives that a meaning (one watch event,
        /// say); all other kinds are byte streams.
        end_of_message: bool,
        /// The sender will send nothing more on this stream (half-close: version 5's CLOSE signal, SPDY's
        /// FLAG_FIN).
        fin: bool,
    },
    /// A stream ended at once, both ways (SPDY's RST_STREAM).
    Reset {
        /// The stream, when it was still known.
        stream: Option<Stream>,
        /// SPDY's status code.
        status: u32,
    },
    /// The sender ends the connection (WebSocket Close, SPDY GOAWAY).
    Close {
        /// WebSocket: the close code, if any was given. SPDY: the GOAWAY status.
        code: Option<u32>,
    },
    /// A frame of the protocol itself that carries nothing to record or mask: ping, pong, SYN_REPLY,
    /// SETTINGS, an empty message.
    Control,
}

impl Event {
    /// The bytes, if this is data.
    #[must_use]
    pub fn data(&self) -> Option<&Bytes> {
        match self {
            Self::Data { data, .. } => Some(data),
            _ => None,
        }
    }
}

/// Shows how much data there is, not which: streams carry secrets.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened(stream) => f.debug_tuple("Opened").field(stream).finish(),
            Self::Data { stream, data, end_of_message, fin } => f
                .debug_struct("Data")
                .field("stream", stream)
                .field("len", &data.len())
                .field("end_of_message", end_of_message)
                .field("fin", fin)
                .finish(),
            Self::Reset { stream, status } => {
                f.debug_struct("Reset").field("stream", stream).field("status", status).finish()
            }
            Self::Close { code } => f.debug_struct("Close").field("code", code).finish(),
            Self::Control => f.write_str("Control"),
        }
    }
}

/// An [`Event`] together with the wire bytes it was decoded from, so that what nobody changed is forwarded
/// byte for byte.
#[derive(Clone)]
pub struct Unit {
    event: Event,
    original: Bytes,
    place: Place,
    layer: Layer,
}

/// Where in a WebSocket a unit comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    /// Not from a WebSocket, or a binary message.
    Binary,
    /// A text message.
    Text,
    /// A control frame of a WebSocket that tunnels something else.
    Outer,
}

/// Where a unit's wire bytes stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// One complete frame (and message), good anywhere between two frames.
    Standalone,
    /// A part of a large frame or fragmented message, which is not over yet.
    Part,
    /// The last part of it.
    LastPart,
}

impl Unit {
    pub(crate) const fn new(event: Event, original: Bytes, place: Place) -> Self {
        Self { event, original, place, layer: Layer::Binary }
    }

    pub(crate) const fn of(mut self, layer: Layer) -> Self {
        self.layer = layer;
        self
    }

    /// What happened.
    #[must_use]
    pub const fn event(&self) -> &Event {
        &self.event
    }

    /// The wire bytes this was decoded from, header included. For a part of a large frame: that part.
    #[must_use]
    pub const fn original(&self) -> &Bytes {
        &self.original
    }

    /// Whether [`original`](Self::original) is one complete frame, and not a part of a large or fragmented
    /// one.
    #[must_use]
    pub const fn is_standalone(&self) -> bool {
        matches!(self.place, Place::Standalone)
    }

    pub(crate) const fn place(&self) -> Place {
        self.place
    }

    pub(crate) const fn layer(&self) -> Layer {
        self.layer
    }

    pub(crate) fn into_parts(self) -> (Event, Bytes) {
        (self.event, self.original)
    }
}

impl fmt::Debug for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unit")
            .field("event", &self.event)
            .field("original_len", &self.original.len())
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}
