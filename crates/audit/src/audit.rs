//! The open log, as the layers share it.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use portcullis_core::{
    AuditId, BoxFuture, Event, EventSink, IntentLookup, Receipt, RecordError, Redactor, SharedClock,
    Timestamp,
};
use portcullis_ledger::{
    AppendError, Bodies, Completion, Durability, Health, Ledger, OpenError, Options, ReadError, Reader,
    Rotation, Slot, Writer,
};
use serde::Deserialize;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::keeper::Keeper;
use crate::metrics;
use crate::options::AuditOptions;
use crate::reader::AuditReader;
use crate::record::{End, Entry, KeyRotated, Outcome, Record, Recovered, SCHEMA_VERSION, Started, Stopped};
use crate::session::Sessions;

/// An open log. Cheap to clone; make the layers from it, hand it to whoever needs an [`EventSink`] or an [`IntentLookup`],
/// and [close](Audit::close) it last.
#[derive(Clone)]
pub struct Audit {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    dir: PathBuf,
    writer: Writer,
    reader: AuditReader,
    bodies: Bodies,
    pub(crate) keeper: Keeper,
    ledger: Mutex<Option<Ledger>>,
    pub(crate) sessions: Sessions,
    pub(crate) options: Settings,
    /// How many requests have no outcome yet.
    pub(crate) open: AtomicU64,
    /// Whether the log cannot be written.
    failing: watch::Receiver<bool>,
}

/// What is needed of the options while running.
pub(crate) struct Settings {
    origin: String,
    pub(crate) clock: SharedClock,
    pub(crate) redactor: Option<Arc<dyn Redactor>>,
    pub(crate) reads: Durability,
    pub(crate) writes: Durability,
    pub(crate) body_limit: usize,
    pub(crate) keep_response: Option<crate::options::KeepResponse>,
    pub(crate) levels: Option<crate::options::Levels>,
    pub(crate) record_input: bool,
    pub(crate) recording_limit: u64,
    pub(crate) recording_part: u64,
}

/// What was found when the log was opened.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Opened {
    /// A crash had cut a write short; the log says so now.
    pub recovered: bool,
    /// The requests that were under way when the process died: each has an outcome now, which says `unknown`.
    pub unknown: Vec<AuditId>,
}

impl Audit {
    /// Opens the log in `dir`, recovers from a crash, and closes the requests of which nobody knows the outcome. Blocks.
    ///
    /// # Errors
    /// When the log cannot be opened, or is not what it was: then nothing must run.
    pub fn open(dir: impl Into<PathBuf>, options: AuditOptions) -> Result<(Self, Opened), OpenError> {
        let dir = dir.into();
        let AuditOptions { origin, ledger, clock, redactor, session_idle, reads, writes, .. } = options;
        let ledger = with_our_records(ledger, &clock);
        let (tell, failing) = watch::channel(false);
        let ledger = ledger.on_failure(move |failure| {
            metrics::failing(failure.is_some());
            match failure {
                Some(error) => {
                    tracing::error!(error, "the audit log cannot be written: nothing is let through")
                }
                None => tracing::info!("the audit log can be written again"),
            }
            tell.send_replace(failure.is_some());
        });
        let (ledger, recovery) = Ledger::open(&dir, ledger)?;
        let recordings = dir.join("recordings");
        let cannot = |source| OpenError::Io { path: recordings.clone(), source };
        let reader = AuditReader::from(ledger.reader().clone());
        let keeper = Keeper::start(reader.clone(), ledger.writer()).map_err(cannot)?;
        let settings = Settings {
            origin,
            clock,
            redactor,
            reads,
            writes,
            body_limit: options.body_limit,
            keep_response: options.keep_response,
            levels: options.levels,
            record_input: options.record_input,
            recording_limit: options.recording_limit,
            recording_part: options.recording_part,
        };
        let inner = Inner {
            dir,
            writer: ledger.writer(),
            bodies: ledger.bodies(),
            reader,
            keeper,
            sessions: Sessions::new(session_idle),
            options: settings,
            open: AtomicU64::new(0),
            failing,
            ledger: Mutex::new(Some(ledger)),
        };
        let unknown = inner.close_unknown()?;
        let opened = Opened { recovered: recovery.is_some(), unknown };
        Ok((Self { inner: Arc::new(inner) }, opened))
    }

    /// How the log is: whether it takes records, how many, how far its checkpoint is behind.
    #[must_use]
    pub fn health(&self) -> Health {
        self.inner.writer.health()
    }

    /// Where the log is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// The log, to be read, with the keys of its bodies.
    #[must_use]
    pub fn reader(&self) -> AuditReader {
        self.inner.reader.clone()
    }

    /// The log's name, the first line of its checkpoints.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.inner.options.origin
    }

    /// Says that the log ends in good order, signs a last checkpoint, and closes it. What is still open then gets an
    /// `unknown` outcome at the next start, so close it when everything else has ended.
    pub async fn close(&self) {
        let stopped = Record::Stopped(Stopped { open: self.inner.open.load(Ordering::Relaxed) });
        if let Err(error) = self.append(stopped, Durability::Fsync).await {
            tracing::warn!(%error, "the end of the audit log could not be recorded");
        }
        let ledger = self.inner.ledger.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ledger) = ledger {
            let this = self.clone();
            let close = move || {
                ledger.close();
                this.inner.keeper.stop();
            };
            let _ = tokio::task::spawn_blocking(close).await;
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.inner.options.clock.now()
    }

    pub(crate) fn redactor(&self) -> Option<&dyn Redactor> {
        self.inner.options.redactor.as_deref()
    }

    /// Whether the log cannot be written at present.
    pub(crate) fn is_failing(&self) -> bool {
        *self.inner.failing.borrow()
    }

    /// Resolves when the log cannot be written (any more). Never, once the log is closed.
    pub(crate) fn failed(&self) -> BoxFuture<'static, ()> {
        let mut failing = self.inner.failing.clone();
        Box::pin(async move {
            if failing.wait_for(|failing| *failing).await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }

    pub(crate) fn reserve(&self) -> Result<Slot, RecordError> {
        self.inner.writer.try_reserve().map_err(|error| {
            metrics::append_failed("outcome");
            record_error(&error)
        })
    }

    /// Appends a record and waits until it is as durable as that.
    pub(crate) async fn append(
        &self,
        record: Record,
        durability: Durability,
    ) -> Result<Receipt, RecordError> {
        let kind = kind(&record);
        let bytes = encode(self.now(), record).map_err(|error| RecordError(error.to_string()))?;
        let (done, wait) = completion(kind, durability);
        self.inner.writer.append(bytes, durability, done);
        let index = wait
            .await
            .map_err(|_| record_error(&AppendError::Closed))?
            .map_err(|error| record_error(&error))?;
        Ok(Receipt { origin: self.origin().to_owned(), index, durable: durability == Durability::Fsync })
    }

    /// Appends a record in its reserved place. Never blocks; the result arrives by the channel, for whoever waits.
    pub(crate) fn append_reserved(
        &self,
        slot: Slot,
        record: Record,
    ) -> oneshot::Receiver<Result<u64, AppendError>> {
        let (done, wait) = completion(kind(&record), Durability::Write);
        let done = match &record {
            Record::Outcome(outcome) => self.then_keep(outcome, done),
            _ => done,
        };
        match encode(self.now(), record) {
            Ok(bytes) => slot.append(bytes, Durability::Write, done),
            Err(error) => done(Err(AppendError::Failed(error.to_string().into()))),
        }
        wait
    }

    /// Has the recording that an outcome names moved into its store, when the outcome is in the log.
    fn then_keep(&self, outcome: &Outcome, done: Completion) -> Completion {
        let recording = outcome.stream.as_ref().and_then(|stream| stream.recording.as_ref());
        let Some(recording) = recording else { return done };
        let (parts, keeper) = (recording.files().collect(), self.inner.keeper.hand_over());
        Box::new(move |result| {
            if let Ok(receipt) = &result {
                keeper.keep(receipt.index, parts);
            }
            done(result);
        })
    }

    /// Stores a body, off the asynchronous threads.
    pub(crate) async fn store(
        &self,
        body: Vec<u8>,
        durability: Durability,
    ) -> Result<portcullis_ledger::Hash, RecordError> {
        let bodies = self.inner.bodies.clone();
        match tokio::task::spawn_blocking(move || bodies.put(&body, durability)).await {
            Ok(stored) => stored.map_err(|error| RecordError(format!("cannot store a body: {error}"))),
            Err(error) => Err(RecordError(error.to_string())),
        }
    }
}

impl EventSink for Audit {
    fn record(&self, event: Event) -> BoxFuture<'_, Result<Receipt, RecordError>> {
        Box::pin(self.append(Record::Event(Box::new(event)), Durability::Fsync))
    }
}

impl IntentLookup for Audit {
    fn has_intent(&self, id: AuditId) -> BoxFuture<'_, Result<bool, RecordError>> {
        let reader = Reader::new(&self.inner.dir);
        Box::pin(async move {
            let found = tokio::task::spawn_blocking(move || has_intent(&reader, id)).await;
            found
                .map_err(|error| RecordError(error.to_string()))?
                .map_err(|error| RecordError(error.to_string()))
        })
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit")
            .field("dir", &self.inner.dir)
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// Gives each request of the last run that has none an outcome, and says that a new run begins.
    fn close_unknown(&self) -> Result<Vec<AuditId>, OpenError> {
        let reader = Reader::new(&self.dir);
        let mut unknown = Vec::new();
        for index in open_intents(&reader)? {
            let Some(entry) = reader.entries(index)?.next() else { continue };
            let Ok(Entry { record: Record::Intent(intent), .. }) = serde_json::from_slice(&entry?.record)
            else {
                continue;
            };
            unknown.push(intent.id);
            let outcome = Outcome {
                id: intent.id,
                parent: intent.parent,
                session: intent.session,
                end: End::Unknown,
                status: None,
                command: intent.command,
                info: intent.request.info,
                user: intent.identity.map(|identity| identity.user),
                intent: Some(index),
                request: None,
                identity: None,
                grant: intent.grant.map(|grant| grant.id),
                verdict: None,
                ticket: intent.approval.map(|approval| approval.ticket),
                refusal: None,
                error: None,
                received: intent.received,
                committed: None,
                upstream: None,
                masked: Default::default(),
                request_bytes: 0,
                response: None,
                level: None,
                stream: None,
                notes: Default::default(),
                shortened: false,
            };
            self.append_at_start(Record::Outcome(Box::new(outcome)), Durability::Write)?;
        }
        let started = Started { version: env!("CARGO_PKG_VERSION").into(), unknown: unknown.len() as u64 };
        self.append_at_start(Record::Started(started), Durability::Fsync)?;
        Ok(unknown)
    }

    fn append_at_start(&self, record: Record, durability: Durability) -> Result<(), OpenError> {
        let cannot = |source| OpenError::Io { path: self.dir.clone(), source };
        let bytes = encode(self.options.clock.now(), record).map_err(|error| cannot(error.into()))?;
        let appended = self.writer.append_blocking(bytes, durability);
        appended.map(drop).map_err(|error| cannot(std::io::Error::other(error)))
    }
}

/// As much of a record as tells which request it is about.
#[derive(Deserialize)]
struct Glance {
    #[serde(rename = "type")]
    kind: String,
    id: Option<AuditId>,
    open: Option<u64>,
    time: Option<Timestamp>,
}

fn glance(record: &[u8]) -> Option<Glance> {
    serde_json::from_slice(record).ok()
}

/// The indices of the intents of the last run that have no outcome.
fn open_intents(reader: &Reader) -> Result<Vec<u64>, ReadError> {
    let segments = reader.segments()?;
    // The last run begins after the newest `started`. A run that ended in good order need not be read.
    let mut begin = 0;
    'found: for (nth, first) in segments.iter().enumerate().rev() {
        let end = segments.get(nth + 1).copied().unwrap_or(u64::MAX);
        let mut last = None;
        for entry in
            reader.entries(*first)?.take_while(|entry| entry.as_ref().map_or(true, |entry| entry.index < end))
        {
            let entry = entry?;
            let glance = glance(&entry.record);
            if glance.as_ref().is_some_and(|glance| glance.kind == "started") {
                begin = entry.index + 1;
            }
            last = glance;
        }
        if nth + 1 == segments.len()
            && last.is_some_and(|glance| glance.kind == "stopped" && glance.open == Some(0))
        {
            return Ok(Vec::new());
        }
        if begin > *first {
            break 'found;
        }
    }
    let mut open = HashMap::new();
    for entry in reader.entries(begin)? {
        let entry = entry?;
        match glance(&entry.record) {
            Some(Glance { kind, id: Some(id), .. }) if kind == "intent" => drop(open.insert(id, entry.index)),
            Some(Glance { kind, id: Some(id), .. }) if kind == "outcome" => drop(open.remove(&id)),
            _ => {}
        }
    }
    let mut open: Vec<u64> = open.into_values().collect();
    open.sort_unstable();
    Ok(open)
}

/// How much earlier than its id's time an intent may stand in the log: clocks are set back sometimes.
const CLOCK_SLACK: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);

/// The earliest that something of a request can stand in the log. Its id tells when it arrived (UUIDv7).
pub(crate) fn arrived(id: AuditId) -> Option<Timestamp> {
    let arrived = id.to_string().parse::<uuid::Uuid>().ok()?.get_timestamp()?;
    Timestamp::from_second(i64::try_from(arrived.to_unix().0).ok()?).ok()?.checked_sub(CLOCK_SLACK).ok()
}

fn has_intent(reader: &Reader, id: AuditId) -> Result<bool, ReadError> {
    let earliest = arrived(id);
    let mut begin = 0;
    for first in reader.segments()?.into_iter().rev() {
        begin = first;
        let time = match reader.entries(first)?.next() {
            Some(entry) => glance(&entry?.record).and_then(|glance| glance.time),
            None => None,
        };
        if time.zip(earliest).is_some_and(|(time, earliest)| time < earliest) {
            break;
        }
    }
    for entry in reader.entries(begin)? {
        if glance(&entry?.record).is_some_and(|glance| glance.kind == "intent" && glance.id == Some(id)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Gives the log in `dir`, which nobody may have open, a new key: [`Ledger::rotate_key`], with a record as readers of this log
/// know it. `change` says how else the ledger is kept, as [`AuditOptions::ledger`] does: who hears the old key's last checkpoint,
/// above all, which nobody has to sign with any more afterwards. Blocks.
///
/// # Errors
/// When the log cannot be opened, is not what it was, or something cannot be written.
pub fn rotate_key(
    dir: impl Into<PathBuf>,
    clock: SharedClock,
    change: impl FnOnce(Options) -> Options,
) -> Result<Rotation, OpenError> {
    let dir = dir.into();
    let keys = Reader::new(&dir).keys()?;
    let options = with_our_records(change(Options::new(keys[0].name())), &clock);
    Ledger::rotate_key(dir, options)
}

/// Has the ledger tell of itself in our schema.
fn with_our_records(ledger: Options, clock: &SharedClock) -> Options {
    let (recovered, rotated) = (clock.clone(), clock.clone());
    ledger
        .recovery_record(move |recovery| {
            tracing::warn!(?recovery, "the audit log was repaired");
            let record = Record::Recovered(Recovered::from(recovery));
            encode(recovered.now(), record).unwrap_or_else(|_| recovery.to_record())
        })
        .rotation_record(move |rotation| {
            let record = Record::KeyRotated(KeyRotated::from(rotation));
            encode(rotated.now(), record).unwrap_or_else(|_| rotation.to_record())
        })
}

fn encode(time: Timestamp, record: Record) -> Result<Vec<u8>, serde_json::Error> {
    Entry { v: SCHEMA_VERSION, time, record }.encode()
}

const fn kind(record: &Record) -> &'static str {
    match record {
        Record::Intent(_) => "intent",
        Record::Outcome(_) => "outcome",
        Record::Event(_) => "event",
        Record::Started(_) => "started",
        Record::Stopped(_) => "stopped",
        Record::Recovered(_) => "recovered",
        Record::KeyRotated(_) => "keyRotated",
        Record::Unknown => "unknown",
    }
}

type Done = oneshot::Receiver<Result<u64, AppendError>>;

fn completion(kind: &'static str, durability: Durability) -> (Completion, Done) {
    let (send, wait) = oneshot::channel();
    let began = Instant::now();
    let done = move |result: Result<portcullis_ledger::Receipt, AppendError>| {
        match &result {
            Ok(_) => metrics::appended(kind, durability == Durability::Fsync, began.elapsed().as_secs_f64()),
            Err(error) => {
                metrics::append_failed(kind);
                tracing::error!(%error, kind, "the audit log did not take a record");
            }
        }
        // Whoever was to hear of it may be gone: a client that hung up.
        let _ = send.send(result.map(|receipt| receipt.index));
    };
    (Box::new(done), wait)
}

pub(crate) fn record_error(error: &AppendError) -> RecordError {
    RecordError(error.to_string())
}
