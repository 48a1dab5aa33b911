//! Following the log, and handing it on.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge};
use portcullis_audit::ledger::{Hash, ReadError};
use portcullis_audit::{AuditReader, Intent, Intents, Record, Stored};
use portcullis_core::BoxFuture;

use crate::cursor::{Cursor, Last, Position};

/// How many records are handed on at once, at most.
const BATCH: usize = 256;
/// How many bytes, about, since one more is taken: collectors and webhooks refuse what is long (gRPC usually 4 MiB).
const BATCH_BYTES: usize = 1024 * 1024;
/// How often the log is looked at for new records.
const PAUSE: Duration = Duration::from_millis(500);
/// How long to wait after the first failure; twice as long after each that follows.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// How long to wait at most.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// A record to be handed on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Item {
    /// The record.
    pub stored: Stored,
    /// The intent that an outcome names.
    pub intent: Option<Box<Intent>>,
    /// What is kept of the request's body: masked, and perhaps only its beginning.
    pub request_body: Option<Vec<u8>>,
    /// What is kept of the response's body.
    pub response_body: Option<Vec<u8>>,
}

/// Takes records. One that has no use for some of them passes over those.
pub trait Sink: Send + 'static {
    /// Takes all of them, or says why not: then it is given the same again, until it has. What it took may come once more after
    /// a restart, in other company, if the cursor had not been kept.
    ///
    /// # Cancellation
    /// Dropping the future may leave some of them taken.
    fn send<'a>(&'a mut self, items: &'a [Item]) -> BoxFuture<'a, Result<(), SinkError>>;
}

/// Why a sink took nothing.
#[derive(Clone, Debug)]
pub struct SinkError(pub String);

impl std::fmt::Display for SinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SinkError {}

/// Why something could not be exported just now. Nothing is lost.
#[derive(Debug)]
#[non_exhaustive]
pub enum ExportError {
    /// The log cannot be read.
    Log(ReadError),
    /// The cursor cannot be kept.
    Cursor(io::Error),
    /// The sink did not take it.
    Sink(SinkError),
}

impl std::fmt::Display for ExportError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Log(error) => write!(f, "the log cannot be read: {error}"),
            Self::Cursor(error) => write!(f, "the cursor cannot be kept: {error}"),
            Self::Sink(error) => write!(f, "it was not taken: {error}"),
        }
    }
}

impl std::error::Error for ExportError {}

/// Hands one log on to one sink.
#[derive(Debug)]
pub struct Exporter<S> {
    name: Arc<str>,
    reader: AuditReader,
    cursor: Cursor,
    intents: Intents,
    pending: Option<Pending>,
    sink: S,
}

/// What the sink has not taken yet, or whose end has not been kept.
#[derive(Debug)]
struct Pending {
    items: Vec<Item>,
    /// Where the log goes on behind it.
    position: Position,
    taken: bool,
}

impl<S: Sink> Exporter<S> {
    /// Goes on where `cursor` says: from the first record on if there is no such file, or if it is of another log. `name` is the
    /// metrics' label.
    ///
    /// # Errors
    /// When the cursor's file cannot be read, or is none.
    pub fn open(
        name: impl Into<Arc<str>>,
        log: impl Into<AuditReader>,
        cursor: impl Into<PathBuf>,
        sink: S,
    ) -> io::Result<Self> {
        let cursor = Cursor::open(cursor.into())?;
        let (name, reader) = (name.into(), log.into());
        Ok(Self { name, reader, cursor, intents: Intents::default(), pending: None, sink })
    }

    /// The index of the next record to be handed on.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.cursor.position.next
    }

    /// Hands on all that the log has below `end`: how many of its records are durable, or a power cut could have others in
    /// their places later.
    ///
    /// # Errors
    /// The first failure; what was taken before it stays taken, what was not is handed on again.
    ///
    /// # Cancellation
    /// Dropping the future may leave a batch taken that will be handed on again.
    pub async fn catch_up(&mut self, end: u64) -> Result<(), ExportError> {
        loop {
            if self.pending.is_none() {
                let (items, position) = self.batch(end).await?;
                if items.is_empty() {
                    return Ok(());
                }
                self.pending = Some(Pending { items, position, taken: false });
            }
            let Some(Pending { items, position, taken }) = &mut self.pending else { return Ok(()) };
            if !*taken {
                self.sink.send(items).await.map_err(ExportError::Sink)?;
                *taken = true;
                let count = items.len() as u64;
                counter!("portcullis_export_records_total", "exporter" => self.name.clone()).increment(count);
            }
            // Where only this fails, the sink is not given the same again and again.
            self.cursor.advance(*position).await.map_err(ExportError::Cursor)?;
            self.pending = None;
        }
    }

    /// Hands on what comes, for as long as it is polled. `durable` says how many records of the log are on the disk.
    pub async fn run(mut self, durable: impl Fn() -> u64 + Send) {
        let mut retry = FIRST_RETRY;
        loop {
            let pause = match self.catch_up(durable()).await {
                Ok(()) => {
                    retry = FIRST_RETRY;
                    PAUSE
                }
                Err(error) => {
                    counter!("portcullis_export_failures_total", "exporter" => self.name.clone())
                        .increment(1);
                    tracing::warn!(exporter = &*self.name, %error, retry_in = ?retry, "records wait to be exported");
                    let pause = retry;
                    retry = (retry * 2).min(LAST_RETRY);
                    pause
                }
            };
            #[expect(clippy::cast_precision_loss, reason = "a gauge")]
            gauge!("portcullis_export_lag_records", "exporter" => self.name.clone())
                .set(durable().saturating_sub(self.position()) as f64);
            tokio::time::sleep(pause).await;
        }
    }

    async fn batch(&mut self, end: u64) -> Result<(Vec<Item>, Position), ExportError> {
        let (reader, position) = (self.reader.clone(), self.cursor.position);
        let mut intents = std::mem::take(&mut self.intents);
        let read = tokio::task::spawn_blocking(move || {
            let read = resume(&reader, position).and_then(|from| read(&reader, from, end, &mut intents));
            (read, intents)
        });
        let (read, intents) = read.await.map_err(|error| ExportError::Sink(SinkError(error.to_string())))?;
        self.intents = intents;
        read.map_err(ExportError::Log)
    }
}

/// Where to go on in this log.
fn resume(reader: &AuditReader, position: Position) -> Result<Position, ReadError> {
    if position.is_of(reader)? {
        return Ok(position);
    }
    tracing::warn!(next = position.next, "the cursor is not this log's: all of it is exported");
    Ok(Position::default())
}

fn read(
    reader: &AuditReader,
    position: Position,
    end: u64,
    intents: &mut Intents,
) -> Result<(Vec<Item>, Position), ReadError> {
    let mut records = reader.records_at(position.next, position.offset)?;
    let count = usize::try_from(end.saturating_sub(position.next)).unwrap_or(BATCH).min(BATCH);
    let (mut items, mut bytes) = (Vec::<Item>::new(), 0);
    while items.len() < count && bytes < BATCH_BYTES {
        let Some(stored) = records.next().transpose()? else { break };
        let item = item(reader, stored, intents)?;
        let bodies = item.request_body.iter().chain(&item.response_body).map(Vec::len).sum::<usize>();
        bytes += item.stored.raw.len() + bodies;
        items.push(item);
    }
    let next = position.next + items.len() as u64;
    let last =
        items.last().map(|item| Last { offset: item.stored.offset, leaf: Hash::leaf(&item.stored.raw) });
    Ok((items, Position { next, offset: records.offset(), last }))
}

fn item(reader: &AuditReader, stored: Stored, intents: &mut Intents) -> Result<Item, ReadError> {
    intents.see(&stored);
    let mut item = Item { stored, intent: None, request_body: None, response_body: None };
    let Record::Outcome(outcome) = &item.stored.entry.record else { return Ok(item) };
    // What retention has dropped, or somebody changed, is not handed on; the verifier tells which.
    let body = |digest| reader.bodies().read(digest).ok().flatten();
    item.response_body = outcome.response.as_ref().and_then(|response| response.stored).and_then(body);
    item.intent = intents.take(outcome, None, reader)?.map(Box::new);
    let kept = item.intent.as_ref().and_then(|intent| intent.body.as_ref()).and_then(|body| body.stored);
    item.request_body = kept.and_then(body);
    Ok(item)
}
