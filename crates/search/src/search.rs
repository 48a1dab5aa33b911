//! Asking: the newest records first, a page at a time, with how fresh the answer is.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Mutex;

use portcullis_audit::{AuditReader, Stored};
use portcullis_core::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::{QueryBuilder, Sqlite, SqlitePool};

use crate::error::IndexError;
use crate::file;
use crate::fts::Expression;
use crate::indexer::{Position, signed};
use crate::query::Query;
use crate::reading::{Reading, blocking};

/// How many of the records that the index has not got to yet are looked into one by one: the first behind it.
const TAIL: u64 = 20_000;
/// The most hits of one page.
pub const MOST_HITS: usize = 1000;

/// Answers queries about one log.
#[derive(Debug)]
pub struct Searcher {
    dir: PathBuf,
    reader: AuditReader,
    /// The index that was asked last. A newer one may have taken its place since.
    open: Mutex<Option<(u64, SqlitePool)>>,
}

/// Some of what was found, the newest first.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Page {
    /// The records.
    pub hits: Vec<Stored>,
    /// Where to go on (`before`), if there may be more.
    pub next: Option<u64>,
    /// What was searched.
    pub freshness: Freshness,
}

/// How much of the log an answer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Freshness {
    /// How many records have been searched, from the first on.
    pub searched: u64,
    /// Of these, how many are in the index; the rest were looked into one by one.
    pub indexed: u64,
    /// Whether that was all that the log had.
    pub complete: bool,
    /// The time of the newest record searched.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub newest: Option<Timestamp>,
}

impl Searcher {
    /// Asks about the log in `log`. Nothing is opened yet.
    #[must_use]
    pub fn new(log: impl Into<AuditReader>) -> Self {
        // Without keys, as the index is made: or what is behind it would be found until the index gets there.
        let reader = AuditReader::new(log.into().dir());
        Self { dir: file::dir(reader.dir()), reader, open: Mutex::new(None) }
    }

    /// The newest `most` records (1,000 at most) that match, older than record `before` if that is given. `end` is how many
    /// records of the log stand fast; `u64::MAX`, where nobody knows.
    ///
    /// # Errors
    /// [`IndexError`]: there is no index, or it or the log cannot be read.
    pub async fn search(
        &self,
        query: &Query,
        before: Option<u64>,
        most: usize,
        end: u64,
    ) -> Result<Page, IndexError> {
        let pool = self.index().await?;
        let most = most.clamp(1, MOST_HITS);
        let before = before.unwrap_or(u64::MAX);
        let position = Position::read(&pool).await?;
        let newest = (position.next > 0).then_some(position.time);
        // Whatever the index gets to meanwhile has been looked into as the log's end already.
        let indexed = before.min(position.next);
        let complete = end == u64::MAX || position.next >= end;
        let mut freshness = Freshness { searched: position.next, indexed: position.next, complete, newest };
        let mut hits = Vec::new();
        if before > position.next {
            hits = self.tail(query, before, end, most + 1, &pool, position, &mut freshness).await?;
        }
        if hits.len() <= most {
            let rest = most + 1 - hits.len();
            hits.extend(self.indexed(query, indexed, rest, &pool).await?);
        }
        let more = hits.len() > most;
        hits.truncate(most);
        let next = hits.last().filter(|_| more).map(|last| last.index);
        Ok(Page { hits, next, freshness })
    }

    /// The newest `most` that match behind the index, the newest first.
    #[expect(clippy::too_many_arguments, reason = "one caller")]
    async fn tail(
        &self,
        query: &Query,
        before: u64,
        end: u64,
        most: usize,
        pool: &SqlitePool,
        position: Position,
        freshness: &mut Freshness,
    ) -> Result<Vec<Stored>, IndexError> {
        let Position { next, place, time, .. } = position;
        let mut reading = Reading::new(self.reader.clone(), next, place, time);
        let mut hits = VecDeque::new();
        let last = end.min(next + TAIL);
        while reading.next < last {
            let batch = reading.batch(1024, last, Some(pool)).await?;
            let Some(newest) = batch.last() else { break };
            freshness.newest = Some(newest.time);
            let matching = batch.into_iter().filter(|found| {
                found.stored.index < before
                    && found.document.as_ref().is_some_and(|document| query.matches(document))
            });
            hits.extend(matching.map(|found| found.stored));
            // No more is held than is asked for, and a batch.
            hits.drain(..hits.len().saturating_sub(most));
        }
        freshness.searched = reading.next;
        // Where nobody knows the log's size, having stopped short of the limit says that it was all.
        freshness.complete = reading.next < next + TAIL || reading.next >= end;
        Ok(hits.into_iter().rev().collect())
    }

    async fn indexed(
        &self,
        query: &Query,
        before: u64,
        most: usize,
        pool: &SqlitePool,
    ) -> Result<Vec<Stored>, IndexError> {
        let from = match query.since {
            Some(since) => first_at(pool, since).await?,
            None => 0,
        };
        let to = match query.until {
            Some(until) => first_at(pool, until).await?.min(signed(before)),
            None => signed(before),
        };
        let Some(expression) = Expression::of(query, pool).await? else { return Ok(Vec::new()) };
        let mut select = QueryBuilder::<Sqlite>::new(
            "SELECT rowid, (SELECT place FROM record WHERE i = words.rowid) FROM words WHERE words MATCH ",
        );
        select.push_bind(expression.0).push(" AND rowid >= ").push_bind(from);
        select.push(" AND rowid < ").push_bind(to).push(" ORDER BY rowid DESC LIMIT ");
        select.push_bind(signed(most as u64));
        let places: Vec<(i64, i64)> = select.build_query_as().fetch_all(pool).await?;
        let reader = self.reader.clone();
        blocking(move || {
            let mut hits = Vec::with_capacity(places.len());
            for (index, place) in places {
                hits.extend(reader.read(index.unsigned_abs(), place.unsigned_abs())?);
            }
            Ok(hits)
        })
        .await
    }

    /// The newest index that this version understands.
    async fn index(&self) -> Result<SqlitePool, IndexError> {
        let numbers = file::numbers(&self.dir)?;
        let open = self.open.lock().map(|open| open.clone()).unwrap_or_default();
        for number in numbers.into_iter().rev() {
            if let Some((open, pool)) = &open
                && *open == number
            {
                return Ok(pool.clone());
            }
            if let Some(pool) = file::open_for_reading(&file::path(&self.dir, number)).await? {
                if let Ok(mut open) = self.open.lock() {
                    *open = Some((number, pool.clone()));
                }
                return Ok(pool);
            }
        }
        Err(IndexError::Missing)
    }
}

/// The first record that is not older than `time`: times never fall from one record to the next, so that halving finds it.
async fn first_at(pool: &SqlitePool, time: Timestamp) -> Result<i64, IndexError> {
    let (mut low, mut high): (i64, i64) =
        (0, sqlx::query_scalar("SELECT next FROM position").fetch_one(pool).await?);
    while low < high {
        let middle = low + (high - low) / 2;
        let at: i64 =
            sqlx::query_scalar("SELECT time FROM record WHERE i = ?").bind(middle).fetch_one(pool).await?;
        if at < time.as_microsecond() {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// Follows a log: what matches, as it comes. Needs no index.
#[derive(Debug)]
pub struct Follower {
    query: Query,
    reading: Reading,
}

impl Follower {
    /// Follows the log in `log` from its first record on, `with_intents` to see requests already as they begin.
    #[must_use]
    pub fn new(log: impl Into<AuditReader>, query: Query, with_intents: bool) -> Self {
        Self::at_segment(log.into(), query, with_intents, 0)
    }

    /// From the record on with which a segment begins.
    fn at_segment(reader: AuditReader, query: Query, with_intents: bool, first: u64) -> Self {
        let reading = Reading::new(reader, first, 0, Timestamp::MIN).with_intents(with_intents);
        Self { query, reading }
    }

    /// The newest `most` records of those that the log has now below `end`, oldest first; then follows on from there. No more
    /// segments are looked into than have the newest `back` records: what is asked for may be far back, or nowhere.
    ///
    /// # Errors
    /// That the log cannot be read.
    pub async fn newest(
        log: impl Into<AuditReader>,
        query: Query,
        with_intents: bool,
        most: usize,
        end: u64,
        back: u64,
    ) -> Result<(Vec<Stored>, Self), IndexError> {
        let log = log.into();
        let segments: Vec<u64> = log.segments()?.into_iter().filter(|first| *first <= end).collect();
        let (mut newest, mut follow, mut until) = (VecDeque::new(), None, end);
        for first in segments.into_iter().rev() {
            // Each segment by itself, so that a long log is read from its end.
            let mut reader = Self::at_segment(log.clone(), query.clone(), with_intents, first);
            let mut here = VecDeque::new();
            loop {
                let before = reader.reading.next;
                here.extend(reader.more(until).await?);
                let surplus = here.len().saturating_sub(most - newest.len());
                here.drain(..surplus);
                if reader.reading.next == before {
                    break;
                }
            }
            let last = follow.get_or_insert(reader).reading.next;
            here.append(&mut newest);
            (newest, until) = (here, first);
            if newest.len() >= most || last.saturating_sub(first) >= back {
                break;
            }
        }
        let follow = follow.unwrap_or_else(|| Self::new(log, query, with_intents));
        Ok((newest.into(), follow))
    }

    /// What has come since, of the records below `end`; nothing, when nothing that matches has.
    ///
    /// # Errors
    /// That the log cannot be read.
    pub async fn more(&mut self, end: u64) -> Result<Vec<Stored>, IndexError> {
        let batch = self.reading.batch(1024, end, None).await?;
        let matching = batch
            .into_iter()
            .filter(|found| found.document.as_ref().is_some_and(|document| self.query.matches(document)));
        Ok(matching.map(|found| found.stored).collect())
    }
}
