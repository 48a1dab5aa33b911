//! What can go wrong.

use std::io;

use portcullis_audit::ledger::ReadError;

/// Why an index cannot be built or asked. It is derived from the log: when in doubt, make it anew.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The log cannot be read.
    #[error("the log cannot be read: {0}")]
    Log(#[from] ReadError),
    /// The index's files cannot be had.
    #[error("the search index: {0}")]
    Io(#[from] io::Error),
    /// SQLite failed.
    #[error("the search index: {0}")]
    Sqlite(#[from] sqlx::Error),
    /// Another process keeps the index up to date.
    #[error("another process keeps this index up to date")]
    Busy,
    /// There is no index yet.
    #[error("the log has no search index yet; `portcullis audit reindex` makes one")]
    Missing,
}
