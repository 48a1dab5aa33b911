//! Upgraded streams: exec and attach sessions are recorded, of everything that passes the bytes are counted.
//!
//! **Invariants.** The recording is open before the first byte is relayed, and a frame is in the kernel before it goes on.
//! If it cannot be written, or outgrows its limit, or the log fails, the stream is cut. The digests of its parts are in the
//! request's outcome, which is written when the stream ends, and before that, once a part is on the disk, in
//! `streamProgress` events: what a crash leaves is proven as far as it was finished. No digest is on record before its part is
//! on the disk, or a power cut could make a true recording look changed.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::SignedDuration;
use portcullis_core::{
    BoxFuture, Channel, Direction, EventSink as _, StreamAbort, StreamEnd, StreamFrame, StreamInfo,
    StreamStage, StreamStageFactory, StreamTransport, Timestamp,
};
use portcullis_ledger::Hash;
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;

use crate::cast::Header;
use crate::exchange::{Context, Exchange};
use crate::metrics;
use crate::record::{End, StreamProgress, StreamSummary, bounded};
use crate::recording::{Limits, RecordingFile};

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
            let opened = self.context.audit.now();
            Ok(Box::new(Stage {
                context: self.context.clone(),
                slot: self.slot.clone(),
                opened,
                // A watch's events are on record at its end; thousands of them open for days are not worth a record each
                // five minutes.
                progress: (recording.is_some() || info.request.is_connect()).then(|| Progress::new(opened)),
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
        let options = &audit.inner.options;
        let limits = Limits {
            input: options.record_input,
            part: options.recording_part,
            total: options.recording_limit,
        };
        let (reader, id) = (audit.reader(), self.context.id.to_string());
        let made =
            tokio::task::spawn_blocking(move || RecordingFile::create(reader, id, header, limits)).await;
        made.map_err(std::io::Error::other).and_then(|made| made).map_err(|error| {
            tracing::error!(%error, audit_id = %self.context.id, "refused a stream, since it cannot be recorded");
            StreamAbort::Failed("the session cannot be recorded, so it is not opened".into())
        })
    }
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
    /// Of what people do, not of watches.
    progress: Option<Progress>,
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
        let mut full = None;
        if let Some(recording) = &mut self.recording {
            let lost = self.progress.as_ref().is_some_and(Progress::has_failed);
            let lost = lost.then(|| StreamAbort::Failed("a part of the recording could not be kept".into()));
            full = lost.map_or_else(|| recording.frame(seconds, &frame), Err).inspect_err(|abort| {
                tracing::error!(reason = %abort, audit_id = %self.context.id, "cut a stream, since it cannot be recorded");
            })?;
        }
        self.tell_progress(full);
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
            if let Some(progress) = &mut self.progress {
                progress.told().await;
            }
            let Some((mut summary, recording)) = self.summarize(ended) else { return };
            // A command that told its status has ended, whichever end closed the connection first.
            let outcome = if summary.exit.is_some() { End::Completed } else { outcome };
            if let Some(recording) = recording {
                let status = status(&summary);
                let finished = tokio::task::spawn_blocking(move || recording.finish(seconds, &status)).await;
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
        let flushed = self.progress.as_ref().map_or(0, |progress| progress.flushed.load(Ordering::Acquire));
        // This waits for the disk on whatever thread it is. It is rare, as when the process ends: what closes in good order
        // does so elsewhere.
        summary.recording = recording.and_then(|mut recording| {
            recording.flush_after(flushed);
            recording.finish(seconds, &status)
        });
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
        metrics::stream_closed(self.recording.as_ref().map_or(0, RecordingFile::bytes));
        let mut recording = self.recording.take();
        if let Some((recording, flushed)) =
            recording.as_mut().zip(self.progress.as_ref().and_then(Progress::lost_after))
        {
            recording.lose_after(flushed);
        }
        Some((summary, recording))
    }

    /// Puts on record how far the stream is: when a part of the recording is `full`, and every five minutes.
    fn tell_progress(&mut self, full: Option<File>) {
        let (Some(progress), Some(summary)) = (&mut self.progress, &self.summary) else { return };
        let now = self.context.audit.now();
        if full.is_none() && !progress.is_due(now) {
            return;
        }
        let told = StreamProgress {
            session: self.context.session.get().cloned().flatten(),
            channels: summary.channels.iter().map(|(name, channel)| (name.clone(), channel.bytes)).collect(),
            parts: self.recording.as_ref().map(|recording| recording.finished().to_vec()).unwrap_or_default(),
        };
        progress.tell(&self.context, now, full, &told);
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

/// Tells the log how far a stream is, in the background: the stream does not wait for the disk.
struct Progress {
    last: Timestamp,
    telling: Option<JoinHandle<()>>,
    /// A part could not be flushed, or the log did not take its digest.
    failed: Arc<AtomicBool>,
    /// How many parts are on the disk.
    flushed: Arc<AtomicUsize>,
}

/// How often, while data flows, an open stream is told of.
const PROGRESS_INTERVAL: SignedDuration = SignedDuration::from_mins(5);

impl Progress {
    fn new(opened: Timestamp) -> Self {
        Self { last: opened, telling: None, failed: Arc::default(), flushed: Arc::default() }
    }

    fn is_due(&self, now: Timestamp) -> bool {
        now.duration_since(self.last) >= PROGRESS_INTERVAL
    }

    fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// If something failed: how many parts of the recording are on the disk nevertheless. Nobody knows what the files of the
    /// others will have.
    fn lost_after(&self) -> Option<usize> {
        self.has_failed().then(|| self.flushed.load(Ordering::Acquire))
    }

    /// Flushes the part that is `full`, records the event, and has the part moved into the store; one after the other, so that
    /// each event's parts are on the disk.
    fn tell(&mut self, context: &Arc<Context>, now: Timestamp, full: Option<File>, told: &StreamProgress) {
        self.last = now;
        let (before, failed, flushed_parts) =
            (self.telling.take(), self.failed.clone(), self.flushed.clone());
        let (audit, id, event) = (context.audit.clone(), context.id, told.event(context.id));
        let part = told.parts.last().filter(|_| full.is_some()).cloned();
        self.telling = Some(tokio::spawn(async move {
            if let Some(before) = before {
                let _ = before.await;
            }
            // What was promised before and is not there must not be promised again.
            if failed.load(Ordering::Acquire) {
                return;
            }
            let flushed = match full {
                Some(file) => tokio::task::spawn_blocking(move || {
                    file.sync_all()?;
                    flushed_parts.fetch_add(1, Ordering::AcqRel);
                    Ok(())
                })
                .await
                .map_err(std::io::Error::other)
                .and_then(|flushed| flushed),
                None => Ok(()),
            };
            let recorded = match flushed {
                Ok(()) => audit.record(event).await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            match recorded {
                Ok(receipt) => audit.inner.keeper.hand_over().keep(receipt.index, part.into_iter().collect()),
                Err(error) => {
                    tracing::error!(%error, audit_id = %id, "a part of a recording could not be put on record");
                    failed.store(true, Ordering::Release);
                }
            }
        }));
    }

    /// Resolves when everything has been told.
    async fn told(&mut self) {
        if let Some(telling) = self.telling.take() {
            let _ = telling.await;
        }
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::fd::OwnedFd;

    use http::{Method, Uri};
    use portcullis_core::{AuditId, ErrorFormat, RequestInfo, Trail};

    use super::*;
    use crate::{Audit, AuditOptions};

    #[tokio::test]
    async fn a_part_that_could_not_be_flushed_is_not_named_and_none_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let (audit, _) = Audit::open(dir.path(), AuditOptions::new("test.example/audit")).unwrap();
        let info = RequestInfo::non_resource(&Method::GET, "/exec");
        let head = (Method::GET, Uri::from_static("/exec"));
        let (id, trail) = (AuditId::generate(), Trail::default());
        let context =
            Context::new(audit.clone(), id, None, info.clone(), head, None, None, trail, ErrorFormat::Status);
        let context = Arc::new(context);
        let header = Header { timestamp: 0, command: "sh".into(), title: "exec".into() };
        let limits = Limits { input: false, part: 1, total: 10_000 };
        let mut recording = RecordingFile::create(audit.reader(), id.to_string(), header, limits).unwrap();
        let mut progress = Progress::new(audit.now());
        for nth in 0..4 {
            let data = "x".repeat(100).into();
            let frame =
                StreamFrame { direction: Direction::ToClient, channel: Channel::Stdout, data, fin: false };
            let Some(full) = recording.frame(0.0, &frame).unwrap() else { continue };
            // What is no file cannot be flushed, as a file on a disk that is full or has died.
            let pipe = || File::from(OwnedFd::from(std::io::pipe().unwrap().0));
            let full = if nth == 2 { pipe() } else { full };
            let told = StreamProgress {
                session: None,
                channels: BTreeMap::new(),
                parts: recording.finished().to_vec(),
            };
            progress.tell(&context, audit.now(), Some(full), &told);
        }
        let slot = Arc::new(StreamSlot::default());
        let stage = Stage {
            context,
            slot: slot.clone(),
            opened: audit.now(),
            summary: Some(StreamSummary {
                transport: String::new(),
                subprotocol: String::new(),
                container: None,
                tty: false,
                ended: String::new(),
                exit: None,
                channels: BTreeMap::new(),
                recording: None,
            }),
            digests: BTreeMap::new(),
            status: Vec::new(),
            recording: Some(recording),
            progress: Some(progress),
        };
        Box::new(stage).close(StreamEnd::Closed).await;
        let closed = slot.0.lock().unwrap().closed.take().unwrap();
        let files: Vec<_> = closed.1.recording.unwrap().files().map(|part| part.file).collect();
        assert_eq!(files, [format!("{id}.cast")]);
        audit.close().await;
    }
}
