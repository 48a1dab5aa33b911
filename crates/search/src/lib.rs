//! Finds records of an audit log again: a query language, and an index that can always be made anew.
//!
//! ```text
//! user:ci-* verb:delete resource:secrets since:24h -status:2xx "exit code 137"
//! ```
//!
//! The log ([`portcullis_audit`]) is the truth. Beside it stands an index (SQLite with FTS5, in `index/` of the log's
//! directory) which an [`Indexer`] keeps up to date while the log is written, and [`reindex`] makes anew while it is used. A
//! [`Searcher`] asks it, looks into what the index has not got to yet, and says how fresh its answer is. A request is found
//! once it has ended, by what its records say and by the words of its bodies and of what its terminal showed, as far as these
//! are not encrypted; what is found is read from the log, never from the index.
//!
//! ```
//! use portcullis_audit::{Audit, AuditOptions};
//! use portcullis_core::{Event, EventKind, EventSink as _, Timestamp};
//! use portcullis_search::{Indexer, Query, Searcher};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let (audit, _) = Audit::open(dir.path(), AuditOptions::new("shop.example/audit"))?;
//! audit.record(Event::new(EventKind::Granted).grant("g-7").with("task", "deploy the shop")).await?;
//!
//! let mut indexer = Indexer::open(dir.path()).await?;
//! indexer.catch_up(audit.health().size, |_| {}).await?;
//!
//! let query = Query::parse("event:granted task:deploy*", Timestamp::now())?;
//! let page = Searcher::new(dir.path()).search(&query, None, 10, audit.health().size).await?;
//! assert!(page.hits[0].entry.line().contains("grant=g-7"));
//! assert!(page.freshness.complete);
//! # Ok(())
//! # }
//! ```

mod document;
mod error;
mod fields;
mod file;
mod fts;
mod indexer;
mod query;
mod reading;
mod search;
mod text;

pub use error::IndexError;
pub use fields::{FIELDS, Field};
pub use indexer::{Indexer, reindex};
pub use query::{Query, QueryError};
pub use search::{Follower, Freshness, MOST_HITS, Page, Searcher};

#[cfg(test)]
mod tests;
