//! Which stream is which: from SPDY frames to the vocabulary of [`crate::Event`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{CODEC, HeaderBlock, SpdyDecoder, SpdyFrame, SpdyLimits, SpdyPart};
use crate::error::WireError;
use crate::stream::{Direction, Event, Place, Stream, StreamKind, Unit};

/// The longest request id accepted; client-go counts up from 0.
const MAX_REQUEST_ID: usize = 64;

/// Which streams a client may open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpdyLayout {
    /// exec and attach: `streamtype` is `stdin`, `stdout`, `stderr`, `error` or `resize`.
    RemoteCommand,
    /// port-forward: `streamtype` is `data` or `error`, with a `port` and (but for very old clients) a
    /// `requestid`.
    PortForward,
}

impl SpdyLayout {
    fn stream(self, id: u32, headers: &HeaderBlock) -> Result<Stream, WireError> {
        let unknown = || WireError::protocol(CODEC, "a stream whose type is not defined").with(u64::from(id));
        let kind = match (self, headers.get("streamtype").ok_or_else(unknown)?) {
            (Self::RemoteCommand, b"stdin") => StreamKind::Stdin,
            (Self::RemoteCommand, b"stdout") => StreamKind::Stdout,
            (Self::RemoteCommand, b"stderr") => StreamKind::Stderr,
            (Self::RemoteCommand, b"error") => StreamKind::Error,
            (Self::RemoteCommand, b"resize") => StreamKind::Resize,
            (Self::PortForward, b"data") => StreamKind::ForwardData { port: port(headers)? },
            (Self::PortForward, b"error") => StreamKind::ForwardError { port: port(headers)? },
            _ => return Err(unknown()),
        };
        let request_id = match (self, headers.get("requestid")) {
            (Self::PortForward, Some(id)) => Some(request_id(id)?),
            _ => None,
        };
        Ok(Stream { id, kind, request_id })
    }
}

fn port(headers: &HeaderBlock) -> Result<u16, WireError> {
    let digits = headers.get("port").filter(|digits| digits.iter().all(u8::is_ascii_digit));
    let port = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u16>().ok());
    port.filter(|port| *port != 0)
        .ok_or_else(|| WireError::protocol(CODEC, "a forwarding stream without a valid port"))
}

fn request_id(id: &[u8]) -> Result<Arc<str>, WireError> {
    let id = std::str::from_utf8(id)
        .ok()
        .filter(|id| id.len() <= MAX_REQUEST_ID && id.bytes().all(|b| b.is_ascii_graphic()));
    id.map(Arc::from)
        .ok_or_else(|| WireError::protocol(CODEC, "a request id that is too long or not plain text"))
}

/// Decodes one direction of a Kubernetes stream connection over SPDY.
///
/// Only clients open streams; data on one that was never opened is refused. Data on a stream that has ended
/// is dropped, as the peer would drop it: it may have been under way when the other
/// side reset the stream, and some container runtimes still write after they closed their half.
///
/// ```
/// use bytes::BytesMut;
/// use portcullis_wire::{Event, HeaderBlock, SpdyEncoder, SpdyFrame, SpdyLayout, SpdyLimits, SpdyStreamDecoder, StreamKind};
///
/// let (mut to_server, mut to_client) = SpdyStreamDecoder::pair(SpdyLayout::RemoteCommand, SpdyLimits::default());
/// let headers = HeaderBlock::new([("streamtype", "stdout")])?;
/// let open = SpdyFrame::SynStream { stream_id: 1, associated_to: 0, priority: 0, fin: false, unidirectional: false, headers };
/// let mut wire = BytesMut::new();
/// SpdyEncoder::new()?.encode(&open, &mut wire)?;
/// to_server.push(wire.freeze());
/// assert!(matches!(to_server.next_unit()?.expect("a unit").event(), Event::Opened(_)));
///
/// to_client.push((&b"\0\0\0\x01\0\0\0\x02hi"[..]).into());
/// let unit = to_client.next_unit()?.expect("a unit");
/// assert!(matches!(unit.event(), Event::Data { stream, .. } if stream.kind == StreamKind::Stdout));
/// # Ok::<(), portcullis_wire::WireError>(())
/// ```
#[derive(Debug)]
pub struct SpdyStreamDecoder {
    frames: SpdyDecoder,
    direction: Direction,
    layout: SpdyLayout,
    table: Table,
    /// The stream of the DATA frame that is being handed out in parts, or `None` for one that is dropped.
    current: Option<Stream>,
    failed: Option<WireError>,
}

impl SpdyStreamDecoder {
    /// The decoders of both directions, towards the server and towards the client. They share the table of
    /// streams.
    #[must_use]
    pub fn pair(layout: SpdyLayout, limits: SpdyLimits) -> (Self, Self) {
        let table = Table { streams: Arc::default(), limit: limits.max_streams };
        let decoder = |direction, table| Self {
            frames: SpdyDecoder::new(limits),
            direction,
            layout,
            table,
            current: None,
            failed: None,
        };
        (decoder(Direction::ClientToServer, table.clone()), decoder(Direction::ServerToClient, table))
    }

    /// Adds bytes as they were read from the connection.
    pub fn push(&mut self, bytes: Bytes) {
        self.frames.push(bytes);
    }

    /// The next unit, if enough bytes are there.
    ///
    /// # Errors
    /// What [`SpdyDecoder::next_part`] refuses; streams that are not opened in order by the client, are too
    /// many, or are not of the layout; data on a stream that is not
    /// open, or not for this direction; a FIN on a frame that only carries headers. The same error is
    /// returned from then on.
    pub fn next_unit(&mut self) -> Result<Option<Unit>, WireError> {
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
        self.failed.map_or_else(|| self.frames.finish(), Err)
    }

    /// The open stream of that kind on which this direction has not ended.
    pub(crate) fn stream(&self, kind: StreamKind) -> Option<Stream> {
        let streams = self.table.lock();
        let open = |entry: &&Entry| entry.stream.kind == kind && !entry.fin[side(self.direction)];
        streams.open.values().filter(open).map(|entry| entry.stream.clone()).min_by_key(|stream| stream.id)
    }

    /// Notes that something other than the peer ended this direction of a stream.
    pub(crate) fn end(&self, id: u32) {
        self.table.lock().end(id, self.direction);
    }

    /// The last stream the client opened.
    pub(crate) fn last_stream_id(&self) -> u32 {
        self.table.lock().last
    }

    fn advance(&mut self) -> Result<Option<Unit>, WireError> {
        while let Some(SpdyPart { frame, original }) = self.frames.next_part()? {
            let event = match frame {
                SpdyFrame::Data { stream_id, fin, offset, length, payload } => {
                    let last = offset as usize + payload.len() == length as usize;
                    let place = match (offset == 0, last) {
                        (true, true) => Place::Standalone,
                        (_, true) => Place::LastPart,
                        (_, false) => Place::Part,
                    };
                    let Some(event) = self.data(stream_id, fin && last, offset == 0, last, payload)? else {
                        continue;
                    };
                    return Ok(Some(Unit::new(event, original, place)));
                }
                SpdyFrame::SynStream { stream_id, fin, unidirectional, headers, .. } => {
                    self.open(stream_id, fin, unidirectional, &headers)?
                }
                SpdyFrame::SynReply { fin: true, .. } | SpdyFrame::Headers { fin: true, .. } => {
                    return Err(WireError::ambiguous(
                        CODEC,
                        "a half-close on a frame that only carries headers",
                    ));
                }
                SpdyFrame::SynReply { .. } if self.direction == Direction::ClientToServer => {
                    return Err(WireError::protocol(
                        CODEC,
                        "SYN_REPLY from a client, to which no stream was opened",
                    ));
                }
                SpdyFrame::RstStream { stream_id, status } => {
                    let stream = self.table.lock().open.remove(&stream_id).map(|entry| entry.stream);
                    Event::Reset { stream, status }
                }
                SpdyFrame::GoAway { status, .. } => Event::Close { code: Some(status) },
                SpdyFrame::SynReply { .. }
                | SpdyFrame::Headers { .. }
                | SpdyFrame::Settings { .. }
                | SpdyFrame::Ping { .. }
                | SpdyFrame::WindowUpdate { .. } => Event::Control,
            };
            return Ok(Some(Unit::new(event, original, Place::Standalone)));
        }
        Ok(None)
    }

    fn open(
        &self,
        id: u32,
        fin: bool,
        unidirectional: bool,
        headers: &HeaderBlock,
    ) -> Result<Event, WireError> {
        let refused = |what| Err(WireError::protocol(CODEC, what).with(u64::from(id)));
        if self.direction == Direction::ServerToClient {
            return refused("a stream opened by the server");
        }
        let mut streams = self.table.lock();
        if id.is_multiple_of(2) || id <= streams.last {
            return refused("a stream id that is even or not higher than the one before");
        }
        if streams.open.len() >= self.table.limit {
            return Err(
                WireError::limit(CODEC, "more open streams than the limit").with(self.table.limit as u64)
            );
        }
        let stream = self.layout.stream(id, headers)?;
        streams.last = id;
        if !(fin && unidirectional) {
            streams.open.insert(id, Entry { stream: stream.clone(), fin: [fin, unidirectional] });
        }
        Ok(Event::Opened(stream))
    }

    /// `None`: dropped.
    fn data(
        &mut self,
        id: u32,
        fin: bool,
        first: bool,
        last: bool,
        data: Bytes,
    ) -> Result<Option<Event>, WireError> {
        let refused = |what| Err(WireError::protocol(CODEC, what).with(u64::from(id)));
        if first {
            let streams = self.table.lock();
            let known = streams.open.get(&id);
            if known.is_none() && (id.is_multiple_of(2) || id > streams.last) {
                return refused("data on a stream that was never opened");
            }
            let open = known.filter(|entry| !entry.fin[side(self.direction)]);
            let stream = open.map(|entry| entry.stream.clone());
            drop(streams);
            self.current = stream;
        }
        let Some(stream) = self.current.clone() else { return Ok(None) };
        if last {
            self.current = None;
        }
        if !data.is_empty() && !stream.kind.flows(self.direction) {
            return refused("data on a stream of the other direction");
        }
        if fin {
            self.table.lock().end(id, self.direction);
        }
        Ok(Some(Event::Data { stream, data, end_of_message: last, fin }))
    }
}

/// The streams of a connection, shared by its two directions.
#[derive(Debug, Clone)]
struct Table {
    streams: Arc<Mutex<Streams>>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Streams {
    open: HashMap<u32, Entry>,
    /// The highest id so far.
    last: u32,
}

#[derive(Debug)]
struct Entry {
    stream: Stream,
    /// Which directions have ended: towards the server, towards the client.
    fin: [bool; 2],
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Streams> {
        // Nothing panics while it is held, and every change is a single step.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Streams {
    fn end(&mut self, id: u32, direction: Direction) {
        let Some(entry) = self.open.get_mut(&id) else { return };
        entry.fin[side(direction)] = true;
        if entry.fin == [true, true] {
            self.open.remove(&id);
        }
    }
}

const fn side(direction: Direction) -> usize {
    match direction {
        Direction::ClientToServer => 0,
        Direction::ServerToClient => 1,
    }
}

#[cfg(test)]
mod tests;
