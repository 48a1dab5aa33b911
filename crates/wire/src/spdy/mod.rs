//! SPDY/3.1 as Kubernetes uses it for exec, attach and port-forward (draft-mbelshe-httpbis-spdy-00 and the
//! SPDY/3.1 changes; the one
//! implementation that all Kubernetes peers share is `github.com/moby/spdystream`).

mod decode;
mod dictionary;
mod encode;
mod headers;
mod streams;

use bytes::Bytes;

pub use decode::{SpdyDecoder, SpdyPart};
pub use encode::SpdyEncoder;
pub(crate) use encode::{encode_data, encode_goaway};
pub use headers::HeaderBlock;
pub use streams::{SpdyLayout, SpdyStreamDecoder};

const CODEC: &str = "spdy";
const VERSION: u16 = 3;
const FLAG_FIN: u8 = 0x01;
const FLAG_UNIDIRECTIONAL: u8 = 0x02;
/// The longest payload a 24-bit length can say.
const MAX_LENGTH: usize = 0xFF_FFFF;

/// How much the SPDY codecs accept and keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpdyLimits {
    /// A DATA frame of at most this many bytes is handed out whole; a larger one (up to 16 MiB) in parts, as
    /// its bytes arrive.
    /// With `max_control` this bounds the memory of a decoder. Default: 64 KiB, twice what Kubernetes' own
    /// peers put into a frame.
    pub whole_frame: usize,
    /// The longest control frame. Default: 16 KiB.
    pub max_control: usize,
    /// The longest header block, decompressed. Default: 64 KiB.
    pub max_headers: usize,
    /// How many streams may be open at a time. Default: 4096; a forwarded connection has two.
    pub max_streams: usize,
}

impl Default for SpdyLimits {
    fn default() -> Self {
        Self { whole_frame: 64 * 1024, max_control: 16 * 1024, max_headers: 64 * 1024, max_streams: 4096 }
    }
}

/// One entry of a SETTINGS frame (section 2.6.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// FLAG_SETTINGS_PERSIST_VALUE (1), FLAG_SETTINGS_PERSISTED (2).
    pub flags: u8,
    /// Which setting; 24 bits.
    pub id: u32,
    /// Its value.
    pub value: u32,
}

/// A frame (section 2.2), or a part of a large DATA frame.
#[derive(Clone, PartialEq, Eq)]
pub enum SpdyFrame {
    /// Opens a stream (section 2.6.1).
    SynStream {
        /// The new stream; odd if a client opens it.
        stream_id: u32,
        /// The stream it belongs to, or 0.
        associated_to: u32,
        /// 0 (highest) to 7.
        priority: u8,
        /// The sender sends nothing on it.
        fin: bool,
        /// The receiver sends nothing on it.
        unidirectional: bool,
        /// Kubernetes: `streamtype`, and for port-forward `port` and `requestid`.
        headers: HeaderBlock,
    },
    /// Accepts a stream (section 2.6.2).
    SynReply {
        /// The stream.
        stream_id: u32,
        /// The sender sends nothing more on it.
        fin: bool,
        /// Kubernetes: empty.
        headers: HeaderBlock,
    },
    /// Ends a stream at once (section 2.6.3).
    RstStream {
        /// The stream.
        stream_id: u32,
        /// Why.
        status: u32,
    },
    /// Configuration (section 2.6.4).
    Settings {
        /// Forget persisted settings.
        clear: bool,
        /// The settings.
        entries: Vec<Setting>,
    },
    /// Asks for the same frame back (section 2.6.5).
    Ping {
        /// Odd if a client asks.
        id: u32,
    },
    /// No more streams (section 2.6.6).
    GoAway {
        /// The last stream the sender will answer.
        last_good_stream_id: u32,
        /// 0: OK, 1: protocol error, 2: internal error.
        status: u32,
    },
    /// More headers for a stream (section 2.6.7).
    Headers {
        /// The stream.
        stream_id: u32,
        /// The sender sends nothing more on it.
        fin: bool,
        /// The headers.
        headers: HeaderBlock,
    },
    /// Flow control (section 2.6.8).
    WindowUpdate {
        /// The stream, or 0 for the connection.
        stream_id: u32,
        /// How many more bytes.
        delta: u32,
    },
    /// Data (section 2.2.2).
    Data {
        /// The stream.
        stream_id: u32,
        /// With this frame, the sender is done with the stream.
        fin: bool,
        /// Where in the frame's payload this part begins.
        offset: u32,
        /// Length of the frame's payload.
        length: u32,
        /// This part of it.
        payload: Bytes,
    },
}

/// Shows how much data there is, not which.
impl std::fmt::Debug for SpdyFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::SynStream { stream_id, headers, .. } => write!(f, "SynStream({stream_id}, {headers:?})"),
            Self::SynReply { stream_id, headers, .. } => write!(f, "SynReply({stream_id}, {headers:?})"),
            Self::Headers { stream_id, headers, .. } => write!(f, "Headers({stream_id}, {headers:?})"),
            Self::RstStream { stream_id, status } => write!(f, "RstStream({stream_id}, status {status})"),
            Self::Settings { entries, .. } => write!(f, "Settings({entries:?})"),
            Self::Ping { id } => write!(f, "Ping({id})"),
            Self::GoAway { last_good_stream_id, status } => {
                write!(f, "GoAway({last_good_stream_id}, status {status})")
            }
            Self::WindowUpdate { stream_id, delta } => write!(f, "WindowUpdate({stream_id}, {delta})"),
            Self::Data { stream_id, fin, offset, length, payload } => {
                write!(f, "Data({stream_id}, fin {fin}, {offset}+{} of {length} bytes)", payload.len())
            }
        }
    }
}

/// The type field of a control frame.
mod frame_type {
    pub(super) const SYN_STREAM: u16 = 1;
    pub(super) const SYN_REPLY: u16 = 2;
    pub(super) const RST_STREAM: u16 = 3;
    pub(super) const SETTINGS: u16 = 4;
    pub(super) const PING: u16 = 6;
    pub(super) const GOAWAY: u16 = 7;
    pub(super) const HEADERS: u16 = 8;
    pub(super) const WINDOW_UPDATE: u16 = 9;
}
