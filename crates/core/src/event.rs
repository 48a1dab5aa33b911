//! Evidence that is not a request: what layers write into the log besides intents and outcomes.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{AuditId, BoxFuture, Identity, Receipt, Refusal};

/// Something happened that an auditor will ask about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The request it happened to, if it happened to one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub audit_id: Option<AuditId>,
    /// Who did it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub identity: Option<Identity>,
    /// The ticket it concerns.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ticket: Option<String>,
    /// The grant it concerns.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub grant: Option<String>,
    /// The rest, by field name. Never a secret: callers redact before they record.
    #[serde(skip_serializing_if = "Map::is_empty", default)]
    pub details: Map<String, Value>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum EventKind {
    /// A request was parked.
    Held,
    /// A person approved it.
    Approved,
    /// A person denied it.
    Denied,
    /// Nobody decided in time.
    Expired,
    /// Its client went away, and the ticket with it.
    Withdrawn,
    /// An approval was taken up by a request.
    Claimed,
    /// A claim went back, since nothing had been forwarded.
    Released,
    /// An approval was used.
    Spent,
    /// A grant was issued.
    Granted,
    /// A grant's lease was renewed.
    Renewed,
    /// A grant was revoked, or lost its heartbeat.
    Revoked,
    /// An identity was disabled.
    IdentityDisabled,
    /// An identity that was disabled is good again.
    IdentityEnabled,
    /// A configuration was loaded.
    ConfigLoaded,
    /// Somebody used the gateway's own API.
    AdminAction,
    /// A stream is still open: what has passed through it so far, and which parts of its recording are finished.
    StreamProgress,
    /// A connection was refused before there was a request.
    ConnectionRefused,
    /// Bodies and recordings that are old enough are dropped: how many, and how many bytes.
    RetentionApplied,
    /// The gateway started, or stopped.
    Lifecycle,
}

impl Event {
    /// An event of this kind, with nothing else known.
    pub fn new(kind: EventKind) -> Self {
        Self { kind, audit_id: None, identity: None, ticket: None, grant: None, details: Map::new() }
    }

    /// The request it happened to.
    #[must_use]
    pub fn request(mut self, id: Option<AuditId>) -> Self {
        self.audit_id = id;
        self
    }

    /// Who did it.
    #[must_use]
    pub fn by(mut self, identity: &Identity) -> Self {
        self.identity = Some(identity.clone());
        self
    }

    /// The ticket it concerns.
    #[must_use]
    pub fn ticket(mut self, ticket: impl Into<String>) -> Self {
        self.ticket = Some(ticket.into());
        self
    }

    /// The grant it concerns.
    #[must_use]
    pub fn grant(mut self, grant: impl Into<String>) -> Self {
        self.grant = Some(grant.into());
        self
    }

    /// One more detail.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }
}

/// Where evidence goes. Who holds, grants or administers records through one, and does nothing it could not record.
pub trait EventSink: Send + Sync + 'static {
    /// Records the event durably (`fdatasync`), then returns.
    ///
    /// # Errors
    ///
    /// [`RecordError`] when it is not on disk. The caller then must not do what it wanted to record.
    ///
    /// # Cancellation
    ///
    /// Dropping the future may leave the event recorded.
    fn record(&self, event: Event) -> BoxFuture<'_, Result<Receipt, RecordError>>;
}

/// The log did not take a record.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the audit log cannot take a record: {0}")]
pub struct RecordError(pub String);

impl RecordError {
    /// The refusal that says so. The reason itself is for the operator's log.
    pub fn into_refusal(self) -> Refusal {
        Refusal::unavailable(
            "audit/unavailable",
            "the audit log cannot take a record, so nothing is let through",
        )
        .advice("try again shortly; if it persists, the gateway's operator must look at its disk and log")
        .detail(self.0)
    }
}

/// A sink that keeps events in memory: for tests, and for embedders who have no log.
#[derive(Debug, Default)]
pub struct MemorySink(Mutex<Vec<Event>>);

impl MemorySink {
    /// What has been recorded so far, oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The kinds of what has been recorded so far, oldest first.
    pub fn kinds(&self) -> Vec<EventKind> {
        self.events().iter().map(|event| event.kind).collect()
    }
}

impl EventSink for MemorySink {
    fn record(&self, event: Event) -> BoxFuture<'_, Result<Receipt, RecordError>> {
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.push(event);
        let index = events.len() as u64 - 1;
        Box::pin(std::future::ready(Ok(Receipt { origin: "memory".into(), index, durable: false })))
    }
}
