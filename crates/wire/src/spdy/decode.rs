//! The frame decoder.

use bytes::{Buf as _, Bytes};

use super::headers::HeaderDecompressor;
use super::{
    CODEC, FLAG_FIN, FLAG_UNIDIRECTIONAL, HeaderBlock, Setting, SpdyFrame, SpdyLimits, VERSION, frame_type,
};
use crate::error::WireError;
use crate::input::Input;

const HEAD: usize = 8;

/// A frame, or a part of a large DATA frame, and the wire bytes it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpdyPart {
    /// What it says.
    pub frame: SpdyFrame,
    /// The wire bytes: with the frame's header if this is the first part.
    pub original: Bytes,
}

/// Cuts the bytes of one direction of a SPDY/3.1 connection into frames.
///
/// **Strict where peers are not.** The implementation they share, `github.com/moby/spdystream`, does not look
/// at the length of most control frames, at the version, or at unknown flags, and
/// lets what is left of one decompressed header block run into the next. A frame that lies about its length
/// would make it and us disagree on everything that follows, so such
/// frames are refused.
///
/// **Flow control.** spdystream neither sends WINDOW_UPDATE nor obeys it, so a relay may change the length of
/// DATA freely between Kubernetes peers. A peer that did keep windows
/// (SPDY/3.1, section 2.6.8) would credit what it received, not what was sent: WINDOW_UPDATE is forwarded
/// untouched, so with such peers lengths must be kept.
///
/// **Header compression** is one zlib stream for each direction over the whole connection. A relay must
/// forward every SYN_STREAM, SYN_REPLY and HEADERS frame as it came, or the peer can read
/// none of those that follow; [`StreamCodec`](crate::StreamCodec) changes DATA only.
///
/// ```
/// use bytes::Bytes;
/// use portcullis_wire::{SpdyDecoder, SpdyFrame, SpdyLimits};
///
/// let mut decoder = SpdyDecoder::new(SpdyLimits::default());
/// decoder.push(Bytes::from_static(b"\0\0\0\x05\x01\0\0\x02hi"));
/// let part = decoder.next_part()?.expect("a frame");
/// assert!(matches!(part.frame, SpdyFrame::Data { stream_id: 5, fin: true, payload, .. } if &payload[..] == b"hi"));
/// # Ok::<(), portcullis_wire::WireError>(())
/// ```
#[derive(Debug)]
pub struct SpdyDecoder {
    input: Input,
    limits: SpdyLimits,
    headers: HeaderDecompressor,
    /// The large DATA frame that is being handed out.
    current: Option<DataHead>,
    failed: Option<WireError>,
}

#[derive(Debug, Clone, Copy)]
struct DataHead {
    stream_id: u32,
    fin: bool,
    length: u32,
    done: u32,
}

impl SpdyDecoder {
    /// A decoder for one direction.
    #[must_use]
    pub fn new(limits: SpdyLimits) -> Self {
        let headers = HeaderDecompressor::default();
        Self { input: Input::default(), limits, headers, current: None, failed: None }
    }

    /// Adds bytes as they were read from the connection.
    pub fn push(&mut self, bytes: Bytes) {
        self.input.push(bytes);
    }

    /// The next frame, or part of a large DATA frame, if enough bytes are there.
    ///
    /// # Errors
    /// A version other than 3, an unknown frame type or flag, a length that does not fit the frame, stream 0
    /// where there must be a stream, a header block that is not sound, and whatever is
    /// beyond the limits. The same error is returned from then on.
    pub fn next_part(&mut self) -> Result<Option<SpdyPart>, WireError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.advance().inspect_err(|error| self.failed = Some(*error))
    }

    /// Says that the connection has ended.
    ///
    /// # Errors
    /// If it ended in the middle of a frame.
    pub fn finish(&self) -> Result<(), WireError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.current.is_some() || !self.input.is_empty() {
            return Err(WireError::truncated(CODEC, "the connection ended in the middle of a frame"));
        }
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<SpdyPart>, WireError> {
        if let Some(head) = self.current {
            return Ok(if self.input.is_empty() { None } else { Some(self.data(head, 0)) });
        }
        let Some(&[a, b, c, d, flags, x, y, z]) = self.input.peek().first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let (word, length) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([0, x, y, z]));
        let size = length as usize;
        if word >> 31 == 0 {
            if word == 0 {
                return Err(WireError::protocol(CODEC, "data on stream 0"));
            }
            only(flags, FLAG_FIN)?;
            let wanted = if size <= self.limits.whole_frame { HEAD + size } else { HEAD + 1 };
            if self.input.len() < wanted {
                return Ok(None);
            }
            let head = DataHead { stream_id: word, fin: flags & FLAG_FIN != 0, length, done: 0 };
            return Ok(Some(self.data(head, HEAD)));
        }
        let (version, kind) = (u16::from_be_bytes([a & 0x7F, b]), u16::from_be_bytes([c, d]));
        if version != VERSION {
            return Err(WireError::protocol(CODEC, "a version other than 3").with(u64::from(version)));
        }
        if size > self.limits.max_control {
            return Err(
                WireError::limit(CODEC, "a control frame beyond the limit of bytes").with(u64::from(length))
            );
        }
        if self.input.len() < HEAD + size {
            return Ok(None);
        }
        let original = self.input.take(HEAD + size);
        let frame = self.control(kind, flags, original.slice(HEAD..))?;
        Ok(Some(SpdyPart { frame, original }))
    }

    /// The next part of a DATA frame, of which `head` bytes of header are still to be taken.
    fn data(&mut self, frame: DataHead, head: usize) -> SpdyPart {
        let DataHead { stream_id, fin, length, done: offset } = frame;
        let original = self.input.take(head + (length - offset) as usize);
        let payload = original.slice(head..);
        // Exact: the payload is part of a frame whose length is a u32.
        let done = offset + payload.len() as u32;
        self.current = (done < length).then_some(DataHead { done, ..frame });
        SpdyPart { frame: SpdyFrame::Data { stream_id, fin, offset, length, payload }, original }
    }

    fn control(&mut self, kind: u16, flags: u8, mut body: Bytes) -> Result<SpdyFrame, WireError> {
        let fin = flags & FLAG_FIN != 0;
        match kind {
            frame_type::SYN_STREAM => {
                only(flags, FLAG_FIN | FLAG_UNIDIRECTIONAL)?;
                let stream_id = stream_id(&mut body)?;
                let associated_to = word(&mut body)?;
                let priority = body.try_get_u8().map_err(|_| wrong_length())? >> 5;
                let _slot = body.try_get_u8().map_err(|_| wrong_length())?;
                let unidirectional = flags & FLAG_UNIDIRECTIONAL != 0;
                let headers = self.header_block(&body)?;
                Ok(SpdyFrame::SynStream { stream_id, associated_to, priority, fin, unidirectional, headers })
            }
            frame_type::SYN_REPLY => {
                only(flags, FLAG_FIN)?;
                let stream_id = stream_id(&mut body)?;
                Ok(SpdyFrame::SynReply { stream_id, fin, headers: self.header_block(&body)? })
            }
            frame_type::HEADERS => {
                only(flags, FLAG_FIN)?;
                let stream_id = stream_id(&mut body)?;
                Ok(SpdyFrame::Headers { stream_id, fin, headers: self.header_block(&body)? })
            }
            frame_type::RST_STREAM => {
                only(flags, 0)?;
                let (stream_id, status) = (stream_id(&mut body)?, word(&mut body)?);
                if status == 0 {
                    return Err(WireError::protocol(CODEC, "RST_STREAM with status 0"));
                }
                ended(&body).map(|()| SpdyFrame::RstStream { stream_id, status })
            }
            frame_type::SETTINGS => {
                only(flags, FLAG_FIN)?;
                let count = word(&mut body)?;
                if body.len() as u64 != u64::from(count) * 8 {
                    return Err(wrong_length());
                }
                let mut entries = Vec::with_capacity(body.len() / 8);
                while !body.is_empty() {
                    let (id, value) = (word(&mut body)?, word(&mut body)?);
                    entries.push(Setting { flags: (id >> 24) as u8, id: id & 0xFF_FFFF, value });
                }
                Ok(SpdyFrame::Settings { clear: fin, entries })
            }
            frame_type::PING => {
                only(flags, 0)?;
                let id = word(&mut body)?;
                if id == 0 {
                    return Err(WireError::protocol(CODEC, "PING with id 0"));
                }
                ended(&body).map(|()| SpdyFrame::Ping { id })
            }
            frame_type::GOAWAY => {
                only(flags, 0)?;
                let (last_good_stream_id, status) = (word(&mut body)?, word(&mut body)?);
                ended(&body).map(|()| SpdyFrame::GoAway { last_good_stream_id, status })
            }
            frame_type::WINDOW_UPDATE => {
                only(flags, 0)?;
                let (stream_id, delta) = (word(&mut body)?, word(&mut body)?);
                ended(&body).map(|()| SpdyFrame::WindowUpdate { stream_id, delta })
            }
            _ => Err(WireError::protocol(CODEC, "an unknown control frame").with(u64::from(kind))),
        }
    }

    fn header_block(&mut self, compressed: &[u8]) -> Result<HeaderBlock, WireError> {
        HeaderBlock::parse(self.headers.decompress(compressed, self.limits.max_headers)?)
    }
}

fn only(flags: u8, allowed: u8) -> Result<(), WireError> {
    if flags & !allowed == 0 {
        return Ok(());
    }
    Err(WireError::protocol(CODEC, "flags the frame does not have").with(u64::from(flags)))
}

fn word(body: &mut Bytes) -> Result<u32, WireError> {
    body.try_get_u32().map_err(|_| wrong_length())
}

fn stream_id(body: &mut Bytes) -> Result<u32, WireError> {
    match word(body)? {
        id @ 1..=0x7FFF_FFFF => Ok(id),
        _ => Err(WireError::protocol(CODEC, "a stream id that is 0 or has the reserved bit set")),
    }
}

fn ended(body: &[u8]) -> Result<(), WireError> {
    if body.is_empty() { Ok(()) } else { Err(wrong_length()) }
}

const fn wrong_length() -> WireError {
    WireError::ambiguous(CODEC, "a control frame whose length does not fit its type")
}

#[cfg(test)]
mod tests;
