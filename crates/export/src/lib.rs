//! Hands an audit log on to other systems: at least once, in order, without ever holding the log up.
//!
//! An [`Exporter`] follows the log's files with a cursor of its own, which it keeps on the disk, and gives what is new to a
//! [`Sink`]. What a sink has not taken it is given again, until it has; the cursor moves on only then. So a sink that is away
//! for a day gets the day's records when it is back, and after a crash perhaps a few twice (they carry the request's id). The
//! log itself waits for nobody.
//!
//! [`kubernetes`] says records in the words of the API server's own audit log (`audit.k8s.io/v1`), which is what Falco and
//! many others read; [`FileSink`] writes lines. A sink is a small trait: other systems have theirs elsewhere.
//!
//! ```
//! use portcullis_audit::{Audit, AuditOptions};
//! use portcullis_core::{BoxFuture, Event, EventKind, EventSink as _};
//! use portcullis_export::{Exporter, Item, Sink, SinkError};
//!
//! /// Prints what it is given.
//! struct Printer;
//!
//! impl Sink for Printer {
//!     fn send<'a>(&'a mut self, items: &'a [Item]) -> BoxFuture<'a, Result<(), SinkError>> {
//!         for item in items {
//!             println!("{} {}", item.stored.index, item.stored.entry.line());
//!         }
//!         Box::pin(std::future::ready(Ok(())))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let (audit, _) = Audit::open(dir.path().join("ledger"), AuditOptions::new("shop.example/audit"))?;
//! audit.record(Event::new(EventKind::Granted).grant("g-7")).await?;
//!
//! let mut exporter = Exporter::open("printer", audit.dir(), dir.path().join("printer.cursor"), Printer)?;
//! exporter.catch_up(audit.health().size).await?;
//! assert_eq!(exporter.position(), 2);
//! # Ok(())
//! # }
//! ```

mod cursor;
mod exporter;
mod file;
pub mod kubernetes;

pub use exporter::{ExportError, Exporter, Item, Sink, SinkError};
pub use file::FileSink;

#[cfg(test)]
mod tests;
