//! The frame encoder.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::headers::HeaderCompressor;
use super::{CODEC, FLAG_FIN, FLAG_UNIDIRECTIONAL, HeaderBlock, MAX_LENGTH, SpdyFrame, VERSION, frame_type};
use crate::error::WireError;

/// Writes the frames of one direction, as an endpoint does. A relay has no use for it: it forwards header
/// blocks as they came.
///
/// ```
/// use bytes::BytesMut;
/// use portcullis_wire::{HeaderBlock, SpdyDecoder, SpdyEncoder, SpdyFrame, SpdyLimits};
///
/// let headers = HeaderBlock::new([("streamtype", "stdin")])?;
/// let open = SpdyFrame::SynStream { stream_id: 1, associated_to: 0, priority: 0, fin: false, unidirectional: false, headers };
/// let mut wire = BytesMut::new();
/// SpdyEncoder::new()?.encode(&open, &mut wire)?;
///
/// let mut decoder = SpdyDecoder::new(SpdyLimits::default());
/// decoder.push(wire.freeze());
/// assert_eq!(decoder.next_part()?.expect("a frame").frame, open);
/// # Ok::<(), portcullis_wire::WireError>(())
/// ```
#[derive(Debug)]
pub struct SpdyEncoder {
    headers: HeaderCompressor,
}

impl SpdyEncoder {
    /// An encoder for one direction of a new connection.
    ///
    /// # Errors
    /// If the compressor cannot be set up.
    pub fn new() -> Result<Self, WireError> {
        Ok(Self { headers: HeaderCompressor::new()? })
    }

    /// Appends `frame`; of DATA, the payload that is there as a frame of its own.
    ///
    /// # Errors
    /// If the frame is longer than 24 bits can say.
    pub fn encode(&mut self, frame: &SpdyFrame, out: &mut BytesMut) -> Result<(), WireError> {
        match frame {
            SpdyFrame::SynStream { stream_id, associated_to, priority, fin, unidirectional, headers } => {
                let flags = flag(*fin, FLAG_FIN) | flag(*unidirectional, FLAG_UNIDIRECTIONAL);
                let mut body = BytesMut::new();
                body.put_u32(*stream_id);
                body.put_u32(*associated_to);
                body.put_u8(*priority << 5);
                body.put_u8(0);
                self.with_headers(frame_type::SYN_STREAM, flags, body, headers, out)
            }
            SpdyFrame::SynReply { stream_id, fin, headers } => {
                let body = BytesMut::from(&stream_id.to_be_bytes()[..]);
                self.with_headers(frame_type::SYN_REPLY, flag(*fin, FLAG_FIN), body, headers, out)
            }
            SpdyFrame::Headers { stream_id, fin, headers } => {
                let body = BytesMut::from(&stream_id.to_be_bytes()[..]);
                self.with_headers(frame_type::HEADERS, flag(*fin, FLAG_FIN), body, headers, out)
            }
            SpdyFrame::RstStream { stream_id, status } => {
                words(frame_type::RST_STREAM, &[*stream_id, *status], out)
            }
            SpdyFrame::Ping { id } => words(frame_type::PING, &[*id], out),
            SpdyFrame::GoAway { last_good_stream_id, status } => {
                words(frame_type::GOAWAY, &[*last_good_stream_id, *status], out)
            }
            SpdyFrame::WindowUpdate { stream_id, delta } => {
                words(frame_type::WINDOW_UPDATE, &[*stream_id, *delta], out)
            }
            SpdyFrame::Settings { clear, entries } => {
                let mut body = BytesMut::new();
                body.put_u32(u32::try_from(entries.len()).map_err(|_| too_long())?);
                for entry in entries {
                    body.put_u32(u32::from(entry.flags) << 24 | entry.id & 0xFF_FFFF);
                    body.put_u32(entry.value);
                }
                control(frame_type::SETTINGS, flag(*clear, FLAG_FIN), &body, out)
            }
            SpdyFrame::Data { stream_id, fin, payload, .. } => {
                if payload.len() > MAX_LENGTH {
                    return Err(too_long());
                }
                data_header(*stream_id, *fin, payload.len(), out);
                out.extend_from_slice(payload);
                Ok(())
            }
        }
    }

    fn with_headers(
        &mut self,
        kind: u16,
        flags: u8,
        mut body: BytesMut,
        headers: &HeaderBlock,
        out: &mut BytesMut,
    ) -> Result<(), WireError> {
        body.extend_from_slice(&self.headers.compress(&headers.encode())?);
        control(kind, flags, &body, out)
    }
}

/// Appends `data` as DATA frames without copying it; nothing if there is neither data nor a FIN.
pub(crate) fn encode_data(stream_id: u32, fin: bool, mut data: Bytes, out: &mut Vec<Bytes>) {
    while !data.is_empty() || fin {
        let payload = data.split_to(data.len().min(MAX_LENGTH));
        let last = data.is_empty();
        let mut head = BytesMut::with_capacity(8);
        data_header(stream_id, fin && last, payload.len(), &mut head);
        out.push(head.freeze());
        if !payload.is_empty() {
            out.push(payload);
        }
        if last {
            return;
        }
    }
}

/// A GOAWAY frame.
pub(crate) fn encode_goaway(last_good_stream_id: u32, status: u32) -> Bytes {
    let mut out = BytesMut::with_capacity(16);
    control_header(frame_type::GOAWAY, 0, 8, &mut out);
    out.put_u32(last_good_stream_id);
    out.put_u32(status);
    out.freeze()
}

fn words(kind: u16, words: &[u32], out: &mut BytesMut) -> Result<(), WireError> {
    let body: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    control(kind, 0, &body, out)
}

fn control(kind: u16, flags: u8, body: &[u8], out: &mut BytesMut) -> Result<(), WireError> {
    if body.len() > MAX_LENGTH {
        return Err(too_long());
    }
    control_header(kind, flags, body.len(), out);
    out.extend_from_slice(body);
    Ok(())
}

fn control_header(kind: u16, flags: u8, length: usize, out: &mut BytesMut) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    put_length(flags, length, out);
}

fn data_header(stream_id: u32, fin: bool, length: usize, out: &mut BytesMut) {
    out.put_u32(stream_id & 0x7FFF_FFFF);
    put_length(flag(fin, FLAG_FIN), length, out);
}

/// `length` is at most [`MAX_LENGTH`].
fn put_length(flags: u8, length: usize, out: &mut BytesMut) {
    out.put_u8(flags);
    out.put_uint(length as u64, 3);
}

const fn flag(set: bool, flag: u8) -> u8 {
    if set { flag } else { 0 }
}

const fn too_long() -> WireError {
    WireError::limit(CODEC, "a frame longer than 24 bits can say")
}
