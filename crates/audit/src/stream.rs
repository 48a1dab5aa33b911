//! Upgraded streams: exec and attach sessions are recorded, of everything that passes the bytes are counted.
//!
//! **Invariants.** The recording is open before the first byte is relayed, and a frame is in the kernel before it goes on.
//! If it cannot be written, or outgrows its limit, or the log fails, the stream is cut. The file's digest is in the request's outcome, which
//! is written when the stream ends.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use portcullis_core::{
    BoxFuture, Channel, Direction, StreamAbort, StreamEnd, StreamFrame, StreamInfo, StreamStage,
    StreamStageFactory, StreamTransport, Timestamp,
};
use portcullis_ledger::Hash;
use sha2::{Digest as _, Sha256};

use crate::cast::{Cast, Header, Output};
use crate::exchange::{Context, Exchange};
use crate::metrics;
use crate::record::{End, Recording, StreamSummary, bounded};

/// Where the end of a stream and the exchange whose outcome tells of it meet: either may be there first.
#[derive(Default)]
pub(crate) struct StreamSlot(Mutex<Meeting>);

#[derive(Default)]
struct Meeting {
    exchange: Option<Exchange>,
    opened: bool,
    closed: Option<(End, StreamSummary)>,
}

impl StreamSlot {
    /// The connection has become a stream.
    pub(crate) fn attach(&self, mut exchange: Exchange) {
        let mut meeting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match meeting.closed.take() {
            None => meeting.exchange = Some(exchange),
            Some((end, summary)) => {
                drop(meeting);
                exchange.stream(summary);
                exchange.finish_unattended(end);
            }
        }
    }

    fn opened(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).opened = true;
    }

    async fn close(&self, end: End, summary: StreamSummary) {
        let exchange = {
            let mut meeting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let exchange = meeting.exchange.take();
            if exchange.is_none() {
                meeting.closed = Some((end, summary));
                return;
            }
            exchange
        };
        if let Some(mut exchange) = exchange {
            exchange.stream(summary);
            // Should the log not take the outcome now, the ledger keeps it for later.
            let _ = exchange.finish(end).await;
        }
    }
}

impl StreamSlot {
    /// As [`close`](Self::close), where nobody can wait.
    fn close_unattended(&self, end: End, summary: StreamSummary) {
        let mut meeting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match meeting.exchange.take() {
            None => meeting.closed = Some((end, summary)),
            Some(mut exchange) => {
                drop(meeting);
                exchange.stream(summary);
                exchange.finish_unattended(end);
            }
        }
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let meeting = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(exchange) = meeting.exchange.take()
            && !meeting.opened
        {
            // A service that relays by itself: that the request was answered is all we know.
            exchange.finish_unattended(End::Completed);
        }
    }
}

/// Records the stream of one request, should it become one.
pub(crate) struct Recorder {
    context: Arc<Context>,
    slot: Arc<StreamSlot>,
}

impl Recorder {
    pub(crate) fn new(context: Arc<Context>, slot: Arc<StreamSlot>) -> Self {
        Self { context, slot }
    }
}

impl StreamStageFactory for Recorder {
    fn open<'a>(&'a self, info: &'a StreamInfo) -> BoxFuture<'a, Result<Box<dyn StreamStage>, StreamAbort>> {
        Box::pin(async move {
            if self.context.audit.is_failing() {
                return Err(StreamAbort::Failed(
                    "the audit log has failed, so the stream is not opened".into(),
                ));
            }
            let recording = match is_session(info) {
                true => Some(self.open_recording(info).await?),
                false => None,
            };
            self.slot.opened();
            metrics::stream_opened();
            Ok(Box::new(Stage {
                context: self.context.clone(),
                slot: self.slot.clone(),
                opened: self.context.audit.now(),
                summary: Some(StreamSummary {
                    transport: transport(info.transport).into(),
                    subprotocol: bounded(&info.subprotocol, 128),
                    container: info.container.as_deref().map(|name| bounded(name, 253)),
                    tty: info.tty,
                    ended: String::new(),
                    exit: None,
                    channels: BTreeMap::new(),
                    recording: None,
                }),
                digests: BTreeMap::new(),
                status: Vec::new(),
                recording,
            }) as Box<dyn StreamStage>)
        })
    }
}

impl Recorder {
    async fn open_recording(&self, info: &StreamInfo) -> Result<RecordingFile, StreamAbort> {
        let audit = &self.context.audit;
        let command = match audit.redactor() {
            Some(redactor) => {
                info.command.iter().map(|word| redactor.text(word)).collect::<Vec<_>>().join(" ")
            }
            None => String::new(),
        };
        let header = Header {
            timestamp: audit.now().as_second(),
            command: bounded(&command, 4096),
            title: bounded(self.context.command(), 512),
        };
        let name = format!("{}.cast", self.context.id);
        let path = audit.dir().join("recordings").join(&name);
        let made = tokio::task::spawn_blocking(move || create(path)).await;
        let made = made.map_err(std::io::Error::other).and_then(|made| made);
        let file = made.map_err(|error| {
            tracing::error!(%error, audit_id = %self.context.id, "refused a stream, since it cannot be recorded");
            StreamAbort::Failed("the session cannot be recorded, so it is not opened".into())
        })?;
        Ok(RecordingFile {
            name,
            file,
            cast: Cast::new(header),
            input: audit.inner.options.record_input,
            limit: audit.inner.options.recording_limit,
            bytes: 0,
            digest: Sha256::new(),
            lines: Vec::new(),
        })
    }
}

fn create(path: PathBuf) -> std::io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Whether this is a session to be recorded: exec or attach, unless it carries an archive.
///
/// `kubectl cp` is an exec of `tar`; hours of an archive's bytes as text would be evidence of nothing, so of exactly the
/// forms that `kubectl cp` uses only lengths and digests are kept. Any other use of `tar` is a session.
fn is_session(info: &StreamInfo) -> bool {
    match info.request.subresource.as_str() {
        "exec" => info.tty || !is_copy(&info.command),
        "attach" => true,
        _ => !info.request.is_resource_request,
    }
}

fn is_copy(command: &[String]) -> bool {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["tar", "cf", "-", path] => !path.starts_with('-'),
        ["tar", "-xmf", "-", rest @ ..]
        | ["tar", "--no-same-permissions", "--no-same-owner", "-xmf", "-", rest @ ..] => match rest {
            [] => true,
            ["-C", path] => !path.starts_with('-'),
            _ => false,
        },
        _ => false,
    }
}

fn transport(transport: StreamTransport) -> &'static str {
    match transport {
        StreamTransport::WebSocket => "webSocket",
        StreamTransport::Spdy => "spdy",
        StreamTransport::SpdyOverWebSocket => "spdyOverWebSocket",
    }
}

struct Stage {
    context: Arc<Context>,
    slot: Arc<StreamSlot>,
    opened: Timestamp,
    /// Gone when the stream has ended.
    summary: Option<StreamSummary>,
    digests: BTreeMap<String, Sha256>,
    /// The beginning of the error channel's data, which tells the exit status.
    status: Vec<u8>,
    recording: Option<RecordingFile>,
}

/// The most that is kept of an error channel: a `Status` is far shorter.
const STATUS_LIMIT: usize = 16 * 1024;

/// How many channels of a stream are told apart.
const MOST_CHANNELS: usize = 64;

impl StreamStage for Stage {
    fn frame(&mut self, frame: StreamFrame, out: &mut Vec<StreamFrame>) -> Result<(), StreamAbort> {
        if self.context.audit.is_failing() {
            return Err(StreamAbort::Failed("the audit log has failed, so the stream is cut".into()));
        }
        self.count(&frame);
        if frame.channel == Channel::Error {
            let room = STATUS_LIMIT.saturating_sub(self.status.len());
            self.status.extend_from_slice(&frame.data[..frame.data.len().min(room)]);
        }
        let seconds = self.seconds();
        if let Some(recording) = &mut self.recording {
            recording.frame(seconds, &frame).map_err(|abort| {
                tracing::error!(reason = %abort, audit_id = %self.context.id, "cut a stream, since it cannot be recorded");
                abort
            })?;
        }
        out.push(frame);
        Ok(())
    }

    fn close(mut self: Box<Self>, end: StreamEnd) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let (outcome, ended) = match end {
                StreamEnd::Closed => (End::Completed, "closed".to_owned()),
                StreamEnd::Disconnected(Direction::ToServer) => {
                    (End::Aborted, "the client went away".to_owned())
                }
                StreamEnd::Disconnected(Direction::ToClient) => {
                    (End::Aborted, "the server went away".to_owned())
                }
                StreamEnd::Cut(why) => (End::Aborted, format!("cut: {why}")),
                StreamEnd::Aborted(why) => {
                    (End::Aborted, format!("aborted: {}", bounded(&why.to_string(), 512)))
                }
            };
            let seconds = self.seconds();
            let Some((mut summary, recording)) = self.summarize(ended) else { return };
            // A command that told its status has ended, whichever end closed the connection first.
            let outcome = if summary.exit.is_some() { End::Completed } else { outcome };
            if let Some(recording) = recording {
                let status = status(&summary);
                let finished =
                    tokio::task::spawn_blocking(move || recording.finish(seconds, &status, true)).await;
                summary.recording = finished.ok().flatten();
            }
            self.slot.close(outcome, summary).await;
        })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let seconds = self.seconds();
        let Some((mut summary, recording)) = self.summarize("dropped".into()) else { return };
        let status = status(&summary);
        summary.recording = recording.and_then(|recording| recording.finish(seconds, &status, false));
        self.slot.close_unattended(End::Aborted, summary);
    }
}

/// The last line of a recording: the exit status, or why there is none.
fn status(summary: &StreamSummary) -> String {
    summary.exit.map_or_else(|| summary.ended.clone(), |exit| exit.to_string())
}

impl Stage {
    /// What is to be said of the stream, and the recording to be finished; `None` when that has been said already.
    fn summarize(&mut self, ended: String) -> Option<(StreamSummary, Option<RecordingFile>)> {
        let mut summary = self.summary.take()?;
        summary.ended = ended;
        summary.exit = exit_status(&self.status);
        for (name, digest) in std::mem::take(&mut self.digests) {
            if let Some(channel) = summary.channels.get_mut(&name) {
                channel.sha256 = Some(Hash::new(digest.finalize().into()));
            }
        }
        metrics::stream_closed(self.recording.as_ref().map_or(0, |recording| recording.bytes));
        Some((summary, self.recording.take()))
    }

    fn seconds(&self) -> f64 {
        self.context.audit.now().duration_since(self.opened).as_secs_f64().max(0.0)
    }

    fn count(&mut self, frame: &StreamFrame) {
        let (name, digested) = match frame.channel {
            Channel::Stdin => ("stdin".to_owned(), true),
            Channel::Stdout => ("stdout".to_owned(), true),
            Channel::Stderr => ("stderr".to_owned(), true),
            Channel::Event => ("events".to_owned(), true),
            Channel::Error | Channel::Resize => return,
            Channel::PortData { port, .. } => {
                let way = if frame.direction == Direction::ToServer { "toServer" } else { "toClient" };
                (format!("port/{port}/{way}"), false)
            }
            Channel::PortError { port, .. } => (format!("port/{port}/error"), false),
        };
        if digested {
            self.digests.entry(name.clone()).or_default().update(&frame.data);
        }
        let Some(summary) = &mut self.summary else { return };
        // Somebody may forward thousands of ports; the record has its limits.
        let full = summary.channels.len() >= MOST_CHANNELS && !summary.channels.contains_key(&name);
        let name = if full { "others".to_owned() } else { name };
        summary.channels.entry(name).or_default().bytes += frame.data.len() as u64;
    }
}

/// The exit status that the error channel tells: 0 of a `Success`, else the cause `ExitCode` of the `Status`.
fn exit_status(status: &[u8]) -> Option<i32> {
    let status: serde_json::Value = serde_json::from_slice(status).ok()?;
    if status["status"] == "Success" {
        return Some(0);
    }
    let causes = status["details"]["causes"].as_array()?;
    let code = causes.iter().find(|cause| cause["reason"] == "ExitCode")?;
    code["message"].as_str()?.parse().ok()
}

/// A recording on the disk.
struct RecordingFile {
    name: String,
    file: File,
    cast: Cast,
    input: bool,
    limit: u64,
    bytes: u64,
    digest: Sha256,
    lines: Vec<u8>,
}

impl RecordingFile {
    fn frame(&mut self, seconds: f64, frame: &StreamFrame) -> Result<(), StreamAbort> {
        match frame.channel {
            Channel::Stdout => self.cast.output(seconds, Output::Stdout, &frame.data, &mut self.lines),
            Channel::Stderr => self.cast.output(seconds, Output::Stderr, &frame.data, &mut self.lines),
            Channel::Stdin if self.input => self.cast.input(seconds, &frame.data, &mut self.lines),
            Channel::Resize => self.cast.resize(seconds, &frame.data, &mut self.lines),
            _ => {}
        }
        if self.bytes + self.lines.len() as u64 > self.limit {
            return Err(StreamAbort::Failed("the session has outgrown its recording's limit".into()));
        }
        self.write().map_err(|error| {
            tracing::error!(%error, "a recording cannot be written");
            StreamAbort::Failed("the session cannot be recorded any more".into())
        })
    }

    /// To the kernel, before the frame goes on: a few microseconds, as for a log line.
    fn write(&mut self) -> std::io::Result<()> {
        if !self.lines.is_empty() {
            self.file.write_all(&self.lines)?;
            self.digest.update(&self.lines);
            self.bytes += self.lines.len() as u64;
            self.lines.clear();
        }
        Ok(())
    }

    /// Ends the recording. `None`: what is there is not what was to be recorded, and the operator's log says why.
    fn finish(mut self, seconds: f64, status: &str, flush: bool) -> Option<Recording> {
        self.lines.clear();
        self.cast.end(seconds, status, &mut self.lines);
        let flushed = self.write().and_then(|()| if flush { self.file.sync_all() } else { Ok(()) });
        if let Err(error) = flushed {
            tracing::error!(%error, file = self.name, "a recording could not be finished");
            return None;
        }
        let sha256 = Hash::new(self.digest.finalize().into());
        Some(Recording { file: self.name, bytes: self.bytes, sha256 })
    }
}
