//! The index's files: `index/<number>.db` in the log's directory, of which the highest number counts.
//!
//! A number is never written twice, so that a new index can be built beside one that is in use, and take its place by being
//! there. Old ones are removed by whoever keeps the index up to date.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, SqlitePool};

use crate::error::IndexError;

/// The schema, and what is in the index. One of another version is not read, but made anew: 1 had the words of encrypted bodies
/// where its log was opened with their keys, and no `cut`.
const VERSION: i32 = 2;

/// The directory of a log's index.
pub(crate) fn dir(log: &Path) -> PathBuf {
    log.join("index")
}

/// The numbers of the indexes in `dir`, in order.
pub(crate) fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let files = match fs::read_dir(dir) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut numbers = Vec::new();
    for file in files {
        let name = file?.file_name();
        let number: Option<u64> =
            name.to_str().and_then(|name| name.strip_suffix(".db")).and_then(|name| name.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

pub(crate) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number}.db"))
}

/// Removes an index, with the files that SQLite keeps beside it.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match fs::remove_file(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Opens an index for the one who writes it, making it if there is none.
pub(crate) async fn open_for_writing(path: &Path) -> Result<SqlitePool, IndexError> {
    // It is derived: after a power cut some of it may be missing, but it is never half of something.
    let options = options(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal);
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
    if version(&pool).await? != VERSION {
        sqlx::raw_sql(AssertSqlSafe(schema())).execute(&pool).await?;
    }
    Ok(pool)
}

/// Opens an index to be asked; nothing, if it is of another version.
pub(crate) async fn open_for_reading(path: &Path) -> Result<Option<SqlitePool>, IndexError> {
    let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options(path)).await?;
    Ok((version(&pool).await? == VERSION).then_some(pool))
}

/// Whether the index at `path` is one of this version.
pub(crate) async fn is_current(path: &Path) -> bool {
    matches!(open_for_reading(path).await, Ok(Some(_)))
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new().filename(path).pragma("trusted_schema", "OFF")
}

async fn version(pool: &SqlitePool) -> Result<i32, IndexError> {
    Ok(sqlx::query_scalar("PRAGMA user_version").fetch_one(pool).await?)
}

/// `record` says where each record stands, `words` what is in it, `value` what there is to choose from, `position` how far
/// the index is.
fn schema() -> String {
    // What is given to the tokenizer has been taken apart already: it splits at spaces, and nowhere else.
    let punctuation: String = ('!'..='~').filter(|c| !c.is_ascii_alphanumeric()).collect();
    let punctuation = punctuation.replace('\'', "''").replace('"', "\"\"");
    format!(
        "BEGIN;
        CREATE TABLE record (i INTEGER PRIMARY KEY, place INTEGER NOT NULL, time INTEGER NOT NULL);
        CREATE VIRTUAL TABLE words USING fts5(
            field, text, content='', columnsize=0, tokenize=\"ascii tokenchars '{punctuation}'\");
        INSERT INTO words(words, rank) VALUES('hashsize', 8388608);
        CREATE TABLE value (field TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (field, value)) WITHOUT ROWID;
        CREATE TABLE position (
            next INTEGER NOT NULL, place INTEGER NOT NULL, time INTEGER NOT NULL, last BLOB NOT NULL);
        INSERT INTO position VALUES (0, 0, 0, x'');
        PRAGMA user_version = {VERSION};
        COMMIT;"
    )
}
