//! Keeping the index up to date.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use metrics::{counter, gauge};
use portcullis_audit::AuditReader;
use portcullis_audit::ledger::{Hash, private_dir};
use portcullis_core::Timestamp;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection, SqlitePool};

use crate::error::IndexError;
use crate::fields;
use crate::file;
use crate::reading::{Found, Reading, blocking};

/// How many records are written at once, at most.
const BATCH: usize = 2048;
/// How many rows one statement writes: SQLite takes 32,766 parameters.
const ROWS: usize = 512;
/// How many values are remembered as written already.
const MOST_SEEN: usize = 64 * 1024;
/// How often the log is looked at for new records: the freshness of a search without a look at the log's end.
const PAUSE: Duration = Duration::from_millis(250);
/// How long to wait after something went wrong.
const RETRY: Duration = Duration::from_secs(5);

/// Keeps one log's index up to date; one process does so at a time.
///
/// The index is derived: it may lag, be thrown away and be made anew, while the log is written and searched. An index that
/// does not belong to the log (any more) is made anew by itself.
pub struct Indexer {
    dir: PathBuf,
    number: u64,
    pool: SqlitePool,
    reading: Reading,
    reader: AuditReader,
    /// Values that the index lists already.
    seen: HashSet<u64>,
    /// Gone with the indexer.
    _lock: File,
}

impl std::fmt::Debug for Indexer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Indexer")
            .field("dir", &self.dir)
            .field("next", &self.reading.next)
            .finish_non_exhaustive()
    }
}

impl Indexer {
    /// Goes on with the index of the log in `log`, or begins one. It is given no keys: what is encrypted at rest stays so, and its
    /// words are in no index.
    ///
    /// # Errors
    /// [`IndexError::Busy`] when another process does so already; otherwise that files cannot be had.
    pub async fn open(log: impl Into<PathBuf>) -> Result<Self, IndexError> {
        let reader = AuditReader::new(log.into());
        let dir = file::dir(reader.dir());
        private_dir(&dir)?;
        let lock = lock(&dir.join("lock"))?;
        let number = file::numbers(&dir)?.pop().unwrap_or_default();
        if number > 0 && file::is_current(&file::path(&dir, number)).await {
            match Self::resume(&dir, number, &reader).await {
                Ok(Some((pool, reading))) => {
                    let indexer =
                        Self { dir, number, pool, reading, reader, seen: HashSet::new(), _lock: lock };
                    indexer.remove_older()?;
                    return Ok(indexer);
                }
                Ok(None) => {}
                Err(error) if is_damaged(&error) => {
                    tracing::warn!(%error, "the search index is damaged: it is made anew");
                }
                Err(error) => return Err(error),
            }
        }
        let (number, pool, reading) = begin(&dir, number + 1, &reader).await?;
        let indexer = Self { dir, number, pool, reading, reader, seen: HashSet::new(), _lock: lock };
        indexer.remove_older()?;
        Ok(indexer)
    }

    /// The index and its place in the log; nothing, if it was made of another log.
    async fn resume(
        dir: &Path,
        number: u64,
        reader: &AuditReader,
    ) -> Result<Option<(SqlitePool, Reading)>, IndexError> {
        let pool = file::open_for_writing(&file::path(dir, number)).await?;
        let position = Position::read(&pool).await?;
        let last = match position.next.checked_sub(1) {
            None => None,
            Some(last) => {
                let place: i64 = sqlx::query_scalar("SELECT place FROM record WHERE i = ?")
                    .bind(signed(last))
                    .fetch_one(&pool)
                    .await?;
                let reader = reader.clone();
                blocking(move || Ok(reader.read(last, place.unsigned_abs())?)).await?
            }
        };
        let belongs = match &last {
            Some(stored) => leaf(&stored.raw) == position.last,
            None => position.next == 0,
        };
        if !belongs {
            tracing::warn!("the search index is not this log's: it is made anew");
            pool.close().await;
            return Ok(None);
        }
        let reading = Reading::new(reader.clone(), position.next, position.place, position.time);
        Ok(Some((pool, reading)))
    }

    /// How many records of the log are in the index.
    #[must_use]
    pub const fn indexed(&self) -> u64 {
        self.reading.next
    }

    /// Indexes all that is in the log below `end`, and says after each step how far it is.
    ///
    /// # Errors
    /// That the log cannot be read, or the index not be written; what was written before stays. The indexer must not be used
    /// any more: open another.
    ///
    /// # Cancellation
    /// Dropping the future leaves the index at an earlier record; the indexer must not be used any more.
    pub async fn catch_up(&mut self, end: u64, mut progress: impl FnMut(u64)) -> Result<(), IndexError> {
        loop {
            let batch = self.reading.batch(BATCH, end, Some(&self.pool)).await?;
            if batch.is_empty() {
                return Ok(());
            }
            self.write(&batch).await?;
            counter!("portcullis_audit_indexed_total").increment(batch.len() as u64);
            progress(self.reading.next);
        }
    }

    /// Keeps the index up to date for as long as it is polled. `size` says how many records of the log stand fast: what is
    /// behind them may yet be taken back.
    pub async fn run(mut self, size: impl Fn() -> u64 + Send) {
        loop {
            match self.tick(&size).await {
                Ok(()) => tokio::time::sleep(PAUSE).await,
                Err(error) => {
                    tracing::warn!(%error, "the search index is not up to date");
                    tokio::time::sleep(RETRY).await;
                    // What was read but not written is read again; until then nothing else is.
                    while let Err(error) = self.reopen(self.number).await {
                        tracing::warn!(%error, "the search index cannot be opened");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
            #[expect(clippy::cast_precision_loss, reason = "a gauge")]
            gauge!("portcullis_audit_index_lag_records").set(size().saturating_sub(self.indexed()) as f64);
        }
    }

    async fn tick(&mut self, size: &(impl Fn() -> u64 + Send)) -> Result<(), IndexError> {
        // Somebody has made the index anew beside this one.
        let newest = file::numbers(&self.dir)?.pop().unwrap_or_default();
        if newest > self.number && file::is_current(&file::path(&self.dir, newest)).await {
            self.reopen(newest).await?;
        }
        self.catch_up(size(), |_| {}).await
    }

    /// Goes on with this index where it is, or makes another if it is none of this log.
    async fn reopen(&mut self, number: u64) -> Result<(), IndexError> {
        let resumed = match Self::resume(&self.dir, number, &self.reader).await {
            Err(error) if is_damaged(&error) => {
                tracing::warn!(%error, "the search index is damaged: it is made anew");
                None
            }
            resumed => resumed?,
        };
        let (number, pool, reading) = match resumed {
            Some((pool, reading)) => (number, pool, reading),
            None => begin(&self.dir, number + 1, &self.reader).await?,
        };
        (self.number, self.pool, self.reading) = (number, pool, reading);
        self.seen.clear();
        self.remove_older()
    }

    fn remove_older(&self) -> Result<(), IndexError> {
        for number in file::numbers(&self.dir)?.into_iter().filter(|number| *number < self.number) {
            file::remove(&file::path(&self.dir, number))?;
        }
        Ok(())
    }

    async fn write(&mut self, batch: &[Found]) -> Result<(), IndexError> {
        let Some(newest) = batch.last() else { return Ok(()) };
        let mut transaction = self.pool.begin().await?;
        for found in batch.chunks(ROWS) {
            write_places(&mut transaction, found).await?;
            write_words(&mut transaction, found).await?;
        }
        let values = self.unseen(batch);
        for values in values.chunks(ROWS) {
            let mut insert = QueryBuilder::<Sqlite>::new("INSERT OR IGNORE INTO value (field, value) ");
            insert.push_values(values, |mut row, (field, value)| {
                row.push_bind(*field).push_bind(*value);
            });
            insert.build().persistent(false).execute(&mut *transaction).await?;
        }
        sqlx::query("UPDATE position SET next = ?, place = ?, time = ?, last = ?")
            .bind(signed(self.reading.next))
            .bind(signed(self.reading.offset))
            .bind(newest.time.as_microsecond())
            .bind(leaf(&newest.stored.raw))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// The values of fields that have few, which are not listed yet.
    fn unseen<'a>(&mut self, batch: &'a [Found]) -> Vec<(&'static str, &'a str)> {
        if self.seen.len() > MOST_SEEN {
            self.seen.clear();
        }
        let documents = batch.iter().filter_map(|found| found.document.as_ref());
        let fields = documents.flat_map(|document| &document.fields);
        let mut values = Vec::new();
        for (name, value) in fields.filter(|(name, _)| fields::named(name).is_some_and(|field| field.few)) {
            let mut hasher = DefaultHasher::new();
            (name, value).hash(&mut hasher);
            if self.seen.insert(hasher.finish()) {
                values.push((*name, value.as_str()));
            }
        }
        values
    }
}

async fn write_places(connection: &mut SqliteConnection, found: &[Found]) -> Result<(), IndexError> {
    let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO record (i, place, time) ");
    insert.push_values(found, |mut row, found| {
        row.push_bind(signed(found.stored.index))
            .push_bind(signed(found.stored.offset))
            .push_bind(found.time.as_microsecond());
    });
    insert.build().persistent(found.len() == ROWS).execute(connection).await?;
    Ok(())
}

async fn write_words(connection: &mut SqliteConnection, found: &[Found]) -> Result<(), IndexError> {
    let documents: Vec<_> =
        found.iter().filter_map(|found| Some((found.stored.index, found.document.as_ref()?))).collect();
    if documents.is_empty() {
        return Ok(());
    }
    let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO words (rowid, field, text) ");
    insert.push_values(&documents, |mut row, (index, document)| {
        let fields: String =
            document.fields.iter().flat_map(|(name, value)| [name, "=", value.as_str(), " "]).collect();
        row.push_bind(signed(*index)).push_bind(fields).push_bind(document.words.as_str());
    });
    insert.build().persistent(false).execute(connection).await?;
    Ok(())
}

/// Makes the index of the log in `log` anew (without the words of what is encrypted, and of what is gone), from its first record to `end` or its present end, also while another one is
/// in use: the new one takes its place once it is whole. Says after each step how far it is.
///
/// # Errors
/// [`IndexError::Busy`] when somebody else is at it; otherwise that files cannot be had. The old index stays then.
pub async fn reindex(
    log: impl Into<PathBuf>,
    end: u64,
    progress: impl FnMut(u64),
) -> Result<u64, IndexError> {
    let reader = AuditReader::new(log.into());
    let dir = file::dir(reader.dir());
    private_dir(&dir)?;
    let lock = lock(&dir.join("rebuild.lock"))?;
    let path = dir.join("rebuild");
    file::remove(&path)?;
    let pool = file::open_for_writing(&path).await?;
    let reading = Reading::new(reader.clone(), 0, 0, Timestamp::MIN);
    let mut indexer =
        Indexer { dir: dir.clone(), number: 0, pool, reading, reader, seen: HashSet::new(), _lock: lock };
    indexer.catch_up(end, progress).await?;
    // The last connection takes what SQLite keeps beside the file with it.
    indexer.pool.close().await;
    // Only now: whoever keeps the other index up to date may have begun one anew meanwhile.
    let number = file::numbers(&dir)?.pop().unwrap_or_default() + 1;
    std::fs::rename(&path, file::path(&dir, number))?;
    Ok(indexer.indexed())
}

/// An index of this number, without a record.
async fn begin(
    dir: &Path,
    number: u64,
    reader: &AuditReader,
) -> Result<(u64, SqlitePool, Reading), IndexError> {
    let path = file::path(dir, number);
    // What a moment of no space left of it, perhaps.
    file::remove(&path)?;
    let pool = file::open_for_writing(&path).await?;
    Ok((number, pool, Reading::new(reader.clone(), 0, 0, Timestamp::MIN)))
}

/// Whether SQLite says that the file is not what it should be (`SQLITE_CORRUPT`, `SQLITE_NOTADB`), rather than that it cannot be
/// had now.
fn is_damaged(error: &IndexError) -> bool {
    let IndexError::Sqlite(sqlx::Error::Database(error)) = error else { return false };
    let code: Option<i32> = error.code().and_then(|code| code.parse().ok());
    code.is_some_and(|code| [11, 26].contains(&(code & 0xff)))
}

fn lock(path: &Path) -> Result<File, IndexError> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(IndexError::Busy),
        Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
    }
}

/// How far an index is.
pub(crate) struct Position {
    pub(crate) next: u64,
    pub(crate) place: u64,
    pub(crate) time: Timestamp,
    last: Vec<u8>,
}

impl Position {
    pub(crate) async fn read(pool: &SqlitePool) -> Result<Self, IndexError> {
        let row: (i64, i64, i64, Vec<u8>) =
            sqlx::query_as("SELECT next, place, time, last FROM position").fetch_one(pool).await?;
        let time = Timestamp::from_microsecond(row.2).unwrap_or(Timestamp::MIN);
        Ok(Self { next: row.0.unsigned_abs(), place: row.1.unsigned_abs(), time, last: row.3 })
    }
}

fn leaf(record: &[u8]) -> Vec<u8> {
    Hash::leaf(record).as_bytes().to_vec()
}

/// SQLite's integers are signed; a log of 2⁶³ records is not to be feared.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
