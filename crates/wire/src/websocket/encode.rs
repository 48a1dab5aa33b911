//! The frame encoder.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Opcode, apply_mask};
use crate::stream::Direction;

/// Where a client's masking keys come from: unpredictable ones (RFC 6455, section 5.3), so from the caller's
/// random source.
pub struct MaskingKeys(Box<dyn FnMut() -> [u8; 4] + Send>);

impl MaskingKeys {
    /// Keys from `source`, called once for each frame.
    pub fn new(source: impl FnMut() -> [u8; 4] + Send + 'static) -> Self {
        Self(Box::new(source))
    }

    fn next_key(&mut self) -> [u8; 4] {
        (self.0)()
    }
}

impl std::fmt::Debug for MaskingKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MaskingKeys")
    }
}

/// Writes one frame (RFC 6455, section 5.2).
pub fn encode_frame(fin: bool, opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>, out: &mut BytesMut) {
    out.reserve(14 + payload.len());
    encode_header(fin, opcode, payload.len(), mask, out);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = mask {
        apply_mask(&mut out[start..], key, 0);
    }
}

/// The payload of a close frame: the code and as much of the reason as fits a control frame (RFC 6455,
/// section 5.5.1).
#[must_use]
pub fn encode_close(code: u16, reason: &str) -> Bytes {
    let mut end = reason.len().min(123);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut payload = BytesMut::with_capacity(2 + end);
    payload.put_u16(code);
    payload.extend_from_slice(&reason.as_bytes()[..end]);
    payload.freeze()
}

/// Writes frames for one direction: masked towards a server, plain (and without copying the payload) towards
/// a client.
#[derive(Debug)]
pub struct FrameEncoder {
    keys: Option<MaskingKeys>,
}

impl FrameEncoder {
    /// An encoder for what travels in `direction`; towards a client the keys are not used.
    #[must_use]
    pub fn new(direction: Direction, keys: MaskingKeys) -> Self {
        match direction {
            Direction::ClientToServer => Self { keys: Some(keys) },
            Direction::ServerToClient => Self { keys: None },
        }
    }

    /// Appends the frame whose payload is `prefix` followed by `payload`.
    pub fn frame(&mut self, fin: bool, opcode: Opcode, prefix: &[u8], payload: Bytes, out: &mut Vec<Bytes>) {
        let length = prefix.len() + payload.len();
        let mut wire = BytesMut::with_capacity(14 + prefix.len());
        if let Some(keys) = &mut self.keys {
            let key = keys.next_key();
            wire.reserve(14 + length);
            encode_header(fin, opcode, length, Some(key), &mut wire);
            let start = wire.len();
            wire.extend_from_slice(prefix);
            wire.extend_from_slice(&payload);
            apply_mask(&mut wire[start..], key, 0);
            out.push(wire.freeze());
            return;
        }
        encode_header(fin, opcode, length, None, &mut wire);
        wire.extend_from_slice(prefix);
        out.push(wire.freeze());
        if !payload.is_empty() {
            out.push(payload);
        }
    }
}

fn encode_header(fin: bool, opcode: Opcode, length: usize, mask: Option<[u8; 4]>, out: &mut BytesMut) {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    out.put_u8(if fin { 0x80 } else { 0 } | opcode.bits());
    if let Ok(short) = u8::try_from(length)
        && short < 126
    {
        out.put_u8(masked | short);
    } else if let Ok(medium) = u16::try_from(length) {
        out.put_u8(masked | 126);
        out.put_u16(medium);
    } else {
        out.put_u8(masked | 127);
        out.put_u64(length as u64);
    }
    if let Some(key) = mask {
        out.extend_from_slice(&key);
    }
}
