//! Records on their way from the log to whoever looks into them: in batches, each with what it names.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _};

use portcullis_audit::{AuditReader, BodyCopy, Intents, Outcome, Record, Stored};
use portcullis_core::Timestamp;
use sqlx::SqlitePool;

use crate::document::Document;
use crate::error::IndexError;
use crate::indexer::signed;

/// How much of records, and how much of the words in them, is in memory at once, in bytes: about, since one more is taken.
const MOST_RECORDS: usize = 8 * 1024 * 1024;
const MOST_WORDS: usize = 16 * 1024 * 1024;
/// How much of a recording is looked into, in bytes.
const MOST_RECORDING: u64 = 4 * 1024 * 1024;
/// The longest line of a recording that is looked into.
const MOST_LINE: u64 = 1024 * 1024;

/// Reads a log from some place on.
#[derive(Debug)]
pub(crate) struct Reading {
    reader: AuditReader,
    /// The index of the next record, and where it begins.
    pub(crate) next: u64,
    pub(crate) offset: u64,
    /// The newest time so far. A record counts as no older than what stands before it, whatever its clock said.
    pub(crate) time: Timestamp,
    intents: Intents,
    /// Whether intents are documents of their own.
    with_intents: bool,
}

/// A record, and what is to be found of it.
pub(crate) struct Found {
    pub(crate) stored: Stored,
    pub(crate) time: Timestamp,
    pub(crate) document: Option<Document>,
}

impl Reading {
    pub(crate) fn new(reader: AuditReader, next: u64, offset: u64, time: Timestamp) -> Self {
        Self { reader, next, offset, time, intents: Intents::default(), with_intents: false }
    }

    /// Shows intents, too: for whoever wants to see requests as they begin.
    pub(crate) fn with_intents(mut self, with_intents: bool) -> Self {
        self.with_intents = with_intents;
        self
    }

    /// The next `most` records at most, of those below `end`; none, when there are none now. `index` knows where older
    /// records stand.
    pub(crate) async fn batch(
        &mut self,
        most: usize,
        end: u64,
        index: Option<&SqlitePool>,
    ) -> Result<Vec<Found>, IndexError> {
        let (reader, next, offset) = (self.reader.clone(), self.next, self.offset);
        let (batch, offset) = blocking(move || {
            let mut records = reader.records_at(next, offset)?;
            let count = usize::try_from(end.saturating_sub(next)).unwrap_or(usize::MAX).min(most);
            let (mut batch, mut size) = (Vec::new(), 0);
            while batch.len() < count && size < MOST_RECORDS {
                let Some(stored) = records.next().transpose()? else { break };
                size += stored.raw.len();
                batch.push(stored);
            }
            // The iterator has perhaps read further, and what stands there may yet be taken back: it is not kept.
            Ok((batch, records.offset()))
        })
        .await?;
        self.offset = offset;
        self.next += batch.len() as u64;

        let mut places = HashMap::new();
        for stored in &batch {
            self.intents.see(stored);
            if let Record::Outcome(outcome) = &stored.entry.record
                && let Some(intent) = outcome.intent.filter(|intent| !self.intents.remembers(*intent))
                && let Some(index) = index
            {
                let place = sqlx::query_scalar::<_, i64>("SELECT place FROM record WHERE i = ?")
                    .bind(signed(intent))
                    .fetch_optional(index)
                    .await?;
                places.extend(place.map(|place| (intent, place.unsigned_abs())));
            }
        }

        let (reader, with_intents) = (self.reader.clone(), self.with_intents);
        let (mut intents, mut time) = (std::mem::take(&mut self.intents), self.time);
        let (found, rest, intents, time) = blocking(move || {
            let (mut found, mut words) = (Vec::with_capacity(batch.len()), 0);
            let mut batch = batch.into_iter().peekable();
            while let Some(stored) = batch.next_if(|_| words < MOST_WORDS) {
                time = time.max(stored.entry.time);
                let wanted = with_intents || !matches!(stored.entry.record, Record::Intent(_));
                let document = match wanted {
                    true => Some(Document { time, ..document(&reader, &stored, &mut intents, &places)? }),
                    false => None,
                };
                words += document.as_ref().map_or(0, |document| document.words.len());
                found.push(Found { stored, time, document });
            }
            // What is left is read again.
            let rest = batch.next().map(|stored| (stored.index, stored.offset));
            Ok((found, rest, intents, time))
        })
        .await?;
        (self.intents, self.time) = (intents, time);
        if let Some((next, offset)) = rest {
            (self.next, self.offset) = (next, offset);
        }
        Ok(found)
    }
}

/// What is to be found of a record, with the bodies and the recording it names, as far as they are still there.
fn document(
    reader: &AuditReader,
    stored: &Stored,
    intents: &mut Intents,
    places: &HashMap<u64, u64>,
) -> Result<Document, IndexError> {
    let Record::Outcome(outcome) = &stored.entry.record else { return Ok(Document::of(stored, None)) };
    let place = outcome.intent.and_then(|intent| places.get(&intent).copied());
    let intent = intents.take(outcome, place, reader)?;
    let mut document = Document::of(stored, intent.as_ref());
    let kept = intent.and_then(|intent| intent.body).and_then(|BodyCopy { stored, .. }| stored);
    let answer = outcome.response.as_ref().and_then(|response| response.stored);
    for digest in kept.into_iter().chain(answer) {
        // What retention has dropped, or somebody changed, cannot be looked into; the verifier tells which.
        if let Ok(Some(body)) = reader.bodies().read(digest) {
            document.body(&body);
        }
    }
    output(reader, outcome, &mut document);
    Ok(document)
}

/// Looks into what a recorded session showed, too.
fn output(reader: &AuditReader, outcome: &Outcome, document: &mut Document) {
    let Some(recording) = outcome.stream.as_ref().and_then(|stream| stream.recording.as_ref()) else {
        return;
    };
    let mut parts = recording.files();
    let Some(part) = parts.next() else { return };
    if parts.next().is_some() || part.bytes > MOST_RECORDING {
        document.cut();
    }
    let Ok(Some(file)) = reader.open_recording(&part) else { return };
    let (mut text, mut line) = (String::new(), Vec::new());
    let mut lines = BufReader::new(file.take(MOST_RECORDING));
    while matches!((&mut lines).take(MOST_LINE).read_until(b'\n', &mut line), Ok(read) if read > 0) {
        if let Ok((_, kind, data)) = serde_json::from_slice::<(f64, &str, String)>(&line)
            && kind == "o"
        {
            text.push_str(&data);
        }
        line.clear();
    }
    document.output(&text);
}

/// Runs what waits for the disk away from the asynchronous threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IndexError> + Send + 'static,
) -> Result<T, IndexError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(IndexError::Io(std::io::Error::other(error))),
    }
}
