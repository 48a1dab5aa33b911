//! WebSocket frames (RFC 6455, section 5), in either direction, without a socket.
//!
//! Strict where peers disagree. The API server reads WebSockets with `golang.org/x/net/websocket`, which
//! accepts reserved opcodes as data, ignores
//! reserved bits, drops the top bit of a 64-bit length and takes every *frame* for a message; its clients use
//! libraries that do none of that.
//! Whatever could be read two ways is refused here, because a relay that reads it one way records and masks
//! only that one.

mod decode;
mod encode;

pub use decode::{CloseReason, FramePart, WebSocketDecoder, WebSocketLimits};
pub use encode::{FrameEncoder, MaskingKeys, encode_close, encode_frame};

/// What a frame is (RFC 6455, section 11.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Opcode {
    /// The next fragment of a message.
    Continuation,
    /// A text message, or its first fragment.
    Text,
    /// A binary message, or its first fragment.
    Binary,
    /// The sender is done.
    Close,
    /// Asks for a pong.
    Ping,
    /// Answers a ping.
    Pong,
}

impl Opcode {
    /// Whether this is a control frame, which is never fragmented and at most 125 bytes long (RFC 6455,
    /// section 5.5).
    #[must_use]
    pub const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }

    const fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }
}

/// A frame's header (RFC 6455, section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// The last frame of its message.
    pub fin: bool,
    /// What the frame is.
    pub opcode: Opcode,
    /// The masking key; from a client always, from a server never (RFC 6455, section 5.1).
    pub mask: Option<[u8; 4]>,
    /// Length of the payload in bytes.
    pub length: u64,
}

/// Masks or unmasks `payload`, whose first byte stands at `offset` in its frame (RFC 6455, section 5.3).
fn apply_mask(payload: &mut [u8], key: [u8; 4], offset: u64) {
    let mut rotated = key;
    rotated.rotate_left((offset % 4) as usize);
    let [a, b, c, d] = rotated;
    let wide = [a, b, c, d, a, b, c, d];
    let mut words = payload.chunks_exact_mut(8);
    for word in &mut words {
        for (byte, mask) in word.iter_mut().zip(wide) {
            *byte ^= mask;
        }
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(wide) {
        *byte ^= mask;
    }
}
