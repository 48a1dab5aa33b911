//! Tower layers that record every request durably, before and after it happens.
//!
//! [`AuditLayer`] stands outside all others: it gives each request an id, and sees to it that each has an *outcome* in the
//! log, refused and broken-off ones too. [`CommitLayer`] stands right before the service: nothing reaches that without its
//! *intent* in the log. The log is a [`portcullis_ledger`], so nobody can change it unnoticed afterwards. If it cannot be
//! written, nothing passes.
//!
//! A plain axum service, recorded and verified:
//!
//! ```
//! use axum::{Router, body::Body, http::Request, routing::get};
//! use portcullis_audit::{Audit, AuditLayer, AuditOptions, AuditReader, AuditVerifier, CommitLayer};
//! use tower::ServiceExt as _;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let (audit, _) = Audit::open(dir.path(), AuditOptions::new("orders.example/audit"))?;
//! let service = Router::new()
//!     .route("/orders/{id}", get(async || "an order"))
//!     // The last layer is the outermost; authentication and policy belong between the two.
//!     .layer(CommitLayer::new())
//!     .layer(AuditLayer::new(audit.clone()));
//!
//! let response = service.oneshot(Request::get("/orders/7").body(Body::empty())?).await?;
//! assert!(response.headers().contains_key("audit-id"));
//! audit.close().await;
//!
//! let report = AuditVerifier::open(dir.path())?.run()?;
//! assert_eq!((report.intents, report.outcomes), (1, 1));
//! let (newest, _) = AuditReader::new(dir.path()).tail(1, |stored| stored.entry.line().contains("/orders/7"))?;
//! assert!(newest[0].entry.line().ends_with("get --raw /orders/7  200"));
//! # Ok(())
//! # }
//! ```
//!
//! # What is withheld, and when
//!
//! * A request's *intent* is written before the service sees it: of a mutating or held request flushed to the disk
//!   (`fdatasync`, shared with others), of a read handed to the kernel.
//! * A response's frames pass at once, but what would end it (the frame that completes a known length, the trailers, the
//!   end of the stream) waits until the *outcome* is written. So a client never has a whole answer that is not on record,
//!   and a watch is never delayed.
//! * The outcome's place in the log is reserved when the request arrives, so it can be written from `Drop`: a client that
//!   hangs up leaves an outcome that says `aborted`.
//! * After `kill -9` no forwarded write lacks an intent; an intent without an outcome gets one that says `unknown` at the
//!   next start.
//!
//! # What is kept
//!
//! Of requests only what a [`Redactor`](portcullis_core::Redactor) has redacted; of responses what the client saw, and only
//! where asked for ([`AuditOptions::keep_responses`]). Sessions over upgraded streams are recorded as asciicast v2
//! (`recordings/ID.cast`, long ones in parts; what is finished moves into a store of bodies beside it), with two events of our own: `"s"` says from which output (`stdout`, `stderr`)
//! what follows is, and `"x"` is the exit status.
//!
//! # Metrics
//!
//! `portcullis_requests_total{verb,status,end}`, `portcullis_request_duration_seconds{verb}`,
//! `portcullis_requests_in_flight`, `portcullis_refusals_total{code}`, `portcullis_audit_records_total{type}`,
//! `portcullis_audit_append_seconds{durability}`, `portcullis_audit_failures_total{type}`, `portcullis_streams_open`,
//! `portcullis_recorded_bytes_total`, `portcullis_audit_failing`, `portcullis_audit_disk_bytes{kind}`,
//! `portcullis_audit_dropped_total{kind}`, `portcullis_audit_dropped_bytes_total{kind}`. Every label has few values by construction.

mod audit;
mod body;
mod cast;
mod commit;
mod exchange;
mod intents;
mod keeper;
mod layer;
mod metrics;
mod options;
mod policy;
mod reader;
mod record;
mod recording;
mod retention;
mod session;
mod stream;
mod verify;

pub use audit::{Audit, Opened, rotate_key};
pub use commit::{CommitLayer, CommitService};
pub use intents::Intents;
pub use layer::{AuditLayer, AuditService};
pub use options::{AuditOptions, SESSION_IDLE};
pub use policy::{AuditPolicy, Level, PolicyError, Stage};
pub use portcullis_ledger as ledger;
pub use reader::{AuditReader, Kept, RecordingReader, Records, Stored};
pub use record::{
    BodyCopy, ChannelSummary, End, Entry, GrantSummary, Intent, KeyRotated, Outcome, Record, Recording,
    RecordingPart, Recovered, RefusalSummary, Request, ResponseBody, SCHEMA_VERSION, Started, Stopped,
    StreamProgress, StreamSummary,
};
pub use retention::{DiskUse, Dropped, Retention};
pub use verify::{AuditVerifier, Changed, Report};

#[cfg(test)]
mod tests;
