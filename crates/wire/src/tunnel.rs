//! SPDY inside of WebSocket binary messages, as port-forward is tunnelled (`SPDY/3.1+portforward.k8s.io`).
//!
//! The messages are nothing but a byte stream: a SPDY frame may span several, and one may hold several
//! frames. So what passes is wrapped anew, frame by frame. Here a client may
//! fragment, because both ends read messages and not frames (`github.com/gorilla/websocket`).

use bytes::Bytes;

use crate::channel::control_unit;
use crate::error::WireError;
use crate::spdy::SpdyStreamDecoder;
use crate::stream::{Direction, Layer, Unit};
use crate::websocket::{FrameEncoder, Opcode, WebSocketDecoder, WebSocketLimits};

const CODEC: &str = "tunnel";

#[derive(Debug)]
pub(crate) struct Tunnel {
    outer: WebSocketDecoder,
    inner: SpdyStreamDecoder,
    frames: FrameEncoder,
    failed: Option<WireError>,
}

impl Tunnel {
    pub(crate) fn new(
        direction: Direction,
        limits: WebSocketLimits,
        inner: SpdyStreamDecoder,
        frames: FrameEncoder,
    ) -> Self {
        // There is no need to gather messages: the SPDY decoder gathers its frames.
        let limits = WebSocketLimits { whole_frame: 0, ..limits };
        Self { outer: WebSocketDecoder::new(direction, limits), inner, frames, failed: None }
    }

    pub(crate) fn push(&mut self, bytes: Bytes) {
        self.outer.push(bytes);
    }

    pub(crate) fn next_unit(&mut self) -> Result<Option<Unit>, WireError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.advance().inspect_err(|error| self.failed = Some(*error))
    }

    fn advance(&mut self) -> Result<Option<Unit>, WireError> {
        loop {
            if let Some(unit) = self.inner.next_unit()? {
                return Ok(Some(unit));
            }
            let Some(part) = self.outer.next_part()? else { return Ok(None) };
            match part.message {
                Opcode::Binary => self.inner.push(part.payload),
                Opcode::Text => return Err(WireError::protocol(CODEC, "a text message in a tunnel")),
                _ => return Ok(Some(control_unit(part)?.of(Layer::Outer))),
            }
        }
    }

    pub(crate) fn finish(&self) -> Result<(), WireError> {
        self.failed.map_or_else(|| self.outer.finish().and_then(|()| self.inner.finish()), Err)
    }

    /// Appends `bytes` of SPDY as a binary message.
    pub(crate) fn wrap(&mut self, bytes: Bytes, out: &mut Vec<Bytes>) {
        self.frames.frame(true, Opcode::Binary, &[], bytes, out);
    }

    pub(crate) const fn streams(&self) -> &SpdyStreamDecoder {
        &self.inner
    }

    pub(crate) const fn frames_mut(&mut self) -> &mut FrameEncoder {
        &mut self.frames
    }
}
