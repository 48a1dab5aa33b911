//! One direction of a relayed stream: read, decode, show to the stages, encode, write, and only then read on.

use std::{collections::HashMap, io};

use bytes::{Buf, Bytes, BytesMut};
use portcullis_core::{Channel, Direction, StreamAbort, StreamFrame};
use portcullis_wire::{Event, Stream, StreamCodec, StreamKind, Unit, WireError};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::Mutex,
};

use super::pipeline::Pipeline;

/// How much is read at a time, and about how much is written at a time. With one unfinished frame of the codec, this is all
/// that a lane ever holds.
const CHUNK: usize = 32 * 1024;

/// The longest event of a watch that is relayed: as long as client-go takes them.
const EVENT: usize = 16 << 20;

/// Why a lane stopped before its source ended.
#[derive(Debug)]
#[expect(dead_code, reason = "I/O errors are there to be logged")]
pub(super) enum Fault {
    /// The source went away.
    Source(io::Error),
    /// The destination went away.
    Destination(io::Error),
    /// Something came that cannot be decoded, or cannot be sent.
    Undecodable(WireError),
    /// A stage refused to go on.
    Refused(StreamAbort),
}

impl From<WireError> for Fault {
    fn from(error: WireError) -> Self {
        Self::Undecodable(error)
    }
}

impl From<StreamAbort> for Fault {
    fn from(abort: StreamAbort) -> Self {
        Self::Refused(abort)
    }
}

pub(super) struct Lane<R, W> {
    direction: Direction,
    source: R,
    destination: W,
    codec: StreamCodec,
    /// Channels come in pairs (WebSocket port-forward), rather than with request ids (SPDY).
    paired: bool,
    streams: HashMap<Channel, Stream>,
    /// How the event of a watch begins that has not come whole yet.
    event: BytesMut,
    /// Encoded, but not written yet. Kept across a cancelled [`run`](Self::run), so that a goodbye never lands inside a frame.
    pending: BytesMut,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Lane<R, W> {
    pub(super) fn new(
        direction: Direction,
        source: R,
        destination: W,
        codec: StreamCodec,
        paired: bool,
    ) -> Self {
        let (streams, event, pending) = (HashMap::new(), BytesMut::new(), BytesMut::new());
        Self { direction, source, destination, codec, paired, streams, event, pending }
    }

    /// Relays until the source ends, then tells the destination so.
    ///
    /// # Cancellation
    ///
    /// What was read and not yet passed on is lost, but nothing was written in part that [`pending`](Self::pending) does not
    /// complete.
    pub(super) async fn run(&mut self, pipeline: &Mutex<Pipeline>) -> Result<(), Fault> {
        let mut buffer = BytesMut::new();
        loop {
            self.write().await?;
            buffer.reserve(CHUNK);
            let read =
                (&mut self.source).take(CHUNK as u64).read_buf(&mut buffer).await.map_err(Fault::Source)?;
            if read == 0 {
                break;
            }
            self.codec.push(buffer.split().freeze());
            while let Some(unit) = self.codec.next_unit()? {
                self.relay(unit, pipeline).await?;
                if self.pending.len() >= CHUNK {
                    self.write().await?;
                }
            }
        }
        if self.codec.finish().is_err() {
            return Err(Fault::Source(io::ErrorKind::UnexpectedEof.into()));
        }
        self.flush(pipeline).await?;
        self.write().await?;
        self.destination.shutdown().await.map_err(Fault::Destination)
    }

    async fn relay(&mut self, unit: Unit, pipeline: &Mutex<Pipeline>) -> Result<(), Fault> {
        let mut out = Vec::new();
        match unit.event() {
            Event::Data { stream, data, end_of_message, .. } if stream.kind == StreamKind::Messages => {
                let (data, ends) = (data.clone(), *end_of_message);
                self.event(unit, data, ends, pipeline, &mut out).await?;
            }
            Event::Data { stream, data, fin, .. } => {
                let channel = self.channel(stream)?;
                let frame = StreamFrame { direction: self.direction, channel, data: data.clone(), fin: *fin };
                let ended = *fin;
                self.streams.entry(channel).or_insert_with(|| stream.clone());
                let frames = pipeline.lock().await.pass(frame.clone()).await?;
                self.send(unit, &frame, frames, &mut out)?;
                if ended {
                    self.streams.remove(&channel);
                }
            }
            Event::Reset { stream: Some(stream), .. } => {
                let channel = self.channel(stream)?;
                self.streams.remove(&channel);
                self.codec.forward(unit, &mut out)?;
            }
            Event::Close { .. } => {
                self.flush(pipeline).await?;
                self.codec.forward(unit, &mut out)?;
            }
            _ => self.codec.forward(unit, &mut out)?,
        }
        self.queue(out);
        Ok(())
    }

    /// Relays the events of a watch: stages see each as a whole, and as a whole it goes on.
    async fn event(
        &mut self,
        unit: Unit,
        data: Bytes,
        ends: bool,
        pipeline: &Mutex<Pipeline>,
        out: &mut Vec<Bytes>,
    ) -> Result<(), Fault> {
        if self.direction == Direction::ToServer {
            // The API server throws away what is said to a watch. What nobody hears need not be sent, nor be on record.
            return Ok(());
        }
        if self.event.len() + data.len() > EVENT {
            let why = format!("an event of the watch is longer than {} MiB", EVENT >> 20);
            return Err(StreamAbort::Refused(why).into());
        }
        if !(ends && self.event.is_empty()) {
            self.event.extend_from_slice(&data);
        }
        if !ends {
            return Ok(());
        }
        let data = if self.event.is_empty() { data } else { self.event.split().freeze() };
        let frame = StreamFrame { direction: self.direction, channel: Channel::Event, data, fin: false };
        let frames = pipeline.lock().await.pass(frame.clone()).await?;
        match frames.as_slice() {
            [same] if unit.is_standalone() && is_untouched(same, &frame) => {
                Ok(self.codec.forward(unit, out)?)
            }
            _ => self.rewrite(unit, frame.channel, frames, out),
        }
    }

    /// Encodes what the stages made of a unit: its own bytes, if they left it alone.
    fn send(
        &mut self,
        unit: Unit,
        original: &StreamFrame,
        frames: Vec<StreamFrame>,
        out: &mut Vec<Bytes>,
    ) -> Result<(), Fault> {
        if let [same] = frames.as_slice()
            && is_untouched(same, original)
        {
            return Ok(self.codec.forward(unit, out)?);
        }
        self.rewrite(unit, original.channel, frames, out)
    }

    /// Encodes frames in the place of a unit of this channel.
    fn rewrite(
        &mut self,
        unit: Unit,
        channel: Channel,
        frames: Vec<StreamFrame>,
        out: &mut Vec<Bytes>,
    ) -> Result<(), Fault> {
        // The last piece for the unit's own channel takes its place; all else is put around it.
        let own = frames.iter().rposition(|frame| frame.channel == channel);
        let mut unit = Some(unit);
        for (at, frame) in frames.into_iter().enumerate() {
            match unit.take_if(|_| Some(at) == own) {
                Some(unit) => self.codec.replace(unit, frame.data, out)?,
                None => self.inject(frame, out)?,
            }
        }
        match unit {
            Some(unit) => Ok(self.codec.replace(unit, Bytes::new(), out)?),
            None => Ok(()),
        }
    }

    fn inject(&mut self, frame: StreamFrame, out: &mut Vec<Bytes>) -> Result<(), Fault> {
        if frame.direction != self.direction {
            return Err(StreamAbort::Failed("a stage sent a frame against its direction".into()).into());
        }
        let stream =
            self.streams.get(&frame.channel).cloned().or_else(|| self.codec.stream(kind(frame.channel)));
        match stream {
            Some(stream) => Ok(self.codec.inject(&stream, frame.data, frame.fin, out)?),
            None => {
                Err(StreamAbort::Failed("a stage sent a frame on a channel that is not open".into()).into())
            }
        }
    }

    /// Once the cluster has nothing more to say, nothing need be held back any longer. (The client's end says nothing of the
    /// kind: the cluster may still be answering.)
    async fn flush(&mut self, pipeline: &Mutex<Pipeline>) -> Result<(), Fault> {
        if self.direction == Direction::ToServer {
            return Ok(());
        }
        let mut frames = pipeline.lock().await.flush().await?;
        frames.retain(|frame| frame.direction == self.direction);
        let mut out = Vec::new();
        for frame in frames {
            self.inject(frame, &mut out)?;
        }
        self.queue(out);
        Ok(())
    }

    /// Queues words of ours: on the error stream, if there is one, or as the last event; and as the protocol's own goodbye.
    pub(super) fn say_goodbye(&mut self, outcome: Option<Bytes>, code: u16, reason: &str) {
        let mut out = Vec::new();
        let stream = self.codec.stream(StreamKind::Error).or_else(|| self.codec.stream(StreamKind::Messages));
        if let (Some(outcome), Some(stream)) = (outcome, stream) {
            let _ = self.codec.inject(&stream, outcome, false, &mut out);
        }
        // If a frame is under way, dropping the connection has to say it all.
        let _ = self.codec.close(code, reason, &mut out);
        self.queue(out);
    }

    /// Writes what is queued, and ends the destination.
    pub(super) async fn finish(&mut self) {
        if self.write().await.is_ok() {
            let _ = self.destination.shutdown().await;
        }
    }

    /// Reads the source to its end, and drops what comes.
    pub(super) async fn drain(&mut self) {
        let _ = tokio::io::copy(&mut self.source, &mut tokio::io::sink()).await;
    }

    async fn write(&mut self) -> Result<(), Fault> {
        while self.pending.has_remaining() {
            let written = self.destination.write_buf(&mut self.pending).await.map_err(Fault::Destination)?;
            if written == 0 {
                return Err(Fault::Destination(io::ErrorKind::WriteZero.into()));
            }
        }
        self.destination.flush().await.map_err(Fault::Destination)
    }

    fn queue(&mut self, pieces: Vec<Bytes>) {
        for piece in pieces {
            self.pending.extend_from_slice(&piece);
        }
    }

    fn channel(&self, stream: &Stream) -> Result<Channel, StreamAbort> {
        let id = match (&stream.request_id, self.paired) {
            (Some(request_id), _) => request_id.parse().unwrap_or(stream.id),
            (None, true) => stream.id / 2,
            (None, false) => stream.id,
        };
        Ok(match stream.kind {
            StreamKind::Stdin => Channel::Stdin,
            StreamKind::Stdout => Channel::Stdout,
            StreamKind::Stderr => Channel::Stderr,
            StreamKind::Resize => Channel::Resize,
            StreamKind::ForwardData { port } => Channel::PortData { port, id },
            StreamKind::ForwardError { port } => Channel::PortError { port, id },
            StreamKind::Error => Channel::Error,
            StreamKind::Messages => Channel::Event,
            _ => return Err(StreamAbort::Failed("a kind of stream that is not relayed".into())),
        })
    }
}

fn is_untouched(frame: &StreamFrame, original: &StreamFrame) -> bool {
    frame.channel == original.channel
        && frame.direction == original.direction
        && frame.fin == original.fin
        && frame.data.len() == original.data.len()
        && frame.data.as_ptr() == original.data.as_ptr()
}

fn kind(channel: Channel) -> StreamKind {
    match channel {
        Channel::Stdin => StreamKind::Stdin,
        Channel::Stdout => StreamKind::Stdout,
        Channel::Stderr => StreamKind::Stderr,
        Channel::Error => StreamKind::Error,
        Channel::Resize => StreamKind::Resize,
        Channel::PortData { port, .. } => StreamKind::ForwardData { port },
        Channel::PortError { port, .. } => StreamKind::ForwardError { port },
        Channel::Event => StreamKind::Messages,
    }
}
