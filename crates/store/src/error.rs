//! What can go wrong. Messages name the file and what to do; none carries what a record says.

use std::{error::Error, fmt, path::Path};

/// Why a store was not opened. Nothing was changed in a file that was refused.
#[derive(Debug)]
pub struct OpenError {
    path: String,
    kind: OpenErrorKind,
    problem: String,
    source: Option<sqlx::Error>,
}

/// What kind of reason it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenErrorKind {
    /// The directory is missing, or the file cannot be made, read or written.
    Inaccessible,
    /// It is no SQLite file, or one of another program.
    Foreign,
    /// It is damaged.
    Corrupt,
    /// A newer version of this program wrote it.
    Newer,
    /// SQLite failed in another way; see the source.
    Database,
}

impl OpenError {
    pub(crate) fn new(path: &Path, kind: OpenErrorKind, problem: impl Into<String>) -> Self {
        Self { path: path.display().to_string(), kind, problem: problem.into(), source: None }
    }

    /// What SQLite says, by its primary result code (<https://www.sqlite.org/rescode.html>).
    pub(crate) fn from_sqlite(path: &Path, error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code()?.parse::<i32>().ok());
        let (kind, problem) = match code.map(|code| code & 0xff) {
            Some(26) => (OpenErrorKind::Foreign, "it is no SQLite file; name another".to_owned()),
            Some(11) => (OpenErrorKind::Corrupt, damaged(&error.to_string())),
            Some(8 | 14 | 23) => {
                (OpenErrorKind::Inaccessible, format!("it cannot be opened for writing: {error}"))
            }
            Some(5) => (OpenErrorKind::Database, "another program keeps it locked".to_owned()),
            _ => (OpenErrorKind::Database, error.to_string()),
        };
        Self { source: Some(error), ..Self::new(path, kind, problem) }
    }

    /// What kind of reason it is.
    pub fn kind(&self) -> OpenErrorKind {
        self.kind
    }
}

/// The advice for a file that SQLite finds damaged.
pub(crate) fn damaged(finding: &str) -> String {
    format!(
        "it is damaged ({finding}); restore it from a backup, or move it away and start anew, which ends all grants and open tickets, and lets disabled identities in again"
    )
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store {}: {}", self.path, self.problem)
    }
}

impl Error for OpenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// Why a store cannot be relied on just now.
#[derive(Debug, thiserror::Error)]
#[error("the store cannot be relied on: {problem}")]
pub struct HealthError {
    problem: String,
    source: Option<sqlx::Error>,
}

impl HealthError {
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), source: None }
    }
}

impl From<sqlx::Error> for HealthError {
    fn from(error: sqlx::Error) -> Self {
        Self { problem: error.to_string(), source: Some(error) }
    }
}

/// Why something was not read or not written; becomes the error of the trait that was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// A record that cannot be written down or read back. Where, not what: `serde_json` quotes values.
    #[error("the record of {what} {id} is unreadable at line {line}, column {column}")]
    Record { what: &'static str, id: String, line: usize, column: usize },
    #[error("{0} is out of range")]
    Range(&'static str),
}

impl From<Failure> for portcullis_hold::StoreError {
    fn from(failure: Failure) -> Self {
        Self(failure.to_string())
    }
}

impl From<Failure> for portcullis_jit::StoreError {
    fn from(failure: Failure) -> Self {
        Self(failure.to_string())
    }
}
