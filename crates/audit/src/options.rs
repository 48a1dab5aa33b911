//! How evidence is to be kept.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use portcullis_core::{Identity, Redactor, RequestInfo, SharedClock, SystemClock};
use portcullis_ledger::{Durability, Options as LedgerOptions};
use tokio::time::Instant;

use crate::policy::Level;

/// Decides whether a copy of a response's body is kept.
pub(crate) type KeepResponse = Arc<dyn Fn(&RequestInfo, StatusCode) -> bool + Send + Sync>;

/// Says how much is kept of a request.
pub(crate) type Levels = Arc<dyn Fn(&RequestInfo, Option<&Identity>) -> Level + Send + Sync>;

/// After how long a pause a client's session without a grant is over, unless [`AuditOptions::session_idle`] says otherwise.
pub const SESSION_IDLE: Duration = Duration::from_secs(30 * 60);

/// How evidence is to be kept. The defaults are those of the gateway, except that without a redactor no copy of anything
/// a client wrote freely is kept, and that copies of responses have to be asked for.
pub struct AuditOptions {
    pub(crate) origin: String,
    pub(crate) ledger: LedgerOptions,
    pub(crate) clock: SharedClock,
    pub(crate) redactor: Option<Arc<dyn Redactor>>,
    pub(crate) session_idle: Duration,
    pub(crate) reads: Durability,
    pub(crate) writes: Durability,
    pub(crate) body_limit: usize,
    pub(crate) keep_response: Option<KeepResponse>,
    pub(crate) levels: Option<Levels>,
    pub(crate) record_input: bool,
    pub(crate) recording_limit: u64,
    pub(crate) recording_part: u64,
}

impl AuditOptions {
    /// The defaults, for a log named `origin`: by convention a schema-less URL, such as `gateway.example.com/audit`.
    pub fn new(origin: impl Into<String>) -> Self {
        let origin = origin.into();
        Self {
            ledger: LedgerOptions::new(origin.clone()).on_checkpoint(log_checkpoints()),
            origin,
            clock: Arc::new(SystemClock),
            redactor: None,
            session_idle: SESSION_IDLE,
            reads: Durability::Write,
            writes: Durability::Fsync,
            body_limit: 64 * 1024,
            keep_response: None,
            levels: None,
            record_input: false,
            recording_limit: 8 * 1024 * 1024 * 1024,
            recording_part: 64 * 1024 * 1024,
        }
    }

    /// Changes how the ledger is kept: its segment size, capacity, who hears its checkpoints (by default the
    /// operator's log, once a minute, so that they leave the host where logs do). Who hears of failures is the layers'
    /// own business.
    #[must_use]
    pub fn ledger(mut self, change: impl FnOnce(LedgerOptions) -> LedgerOptions) -> Self {
        self.ledger = change(self.ledger);
        self
    }

    /// Where the time comes from; by default the operating system.
    #[must_use]
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// Redacts what is kept of requests. Without one, only the path is kept of a target, and nothing of a user agent, a
    /// command or a body.
    #[must_use]
    pub fn redactor(mut self, redactor: Arc<dyn Redactor>) -> Self {
        self.redactor = Some(redactor);
        self
    }

    /// After how long a pause a client's next request begins a new session (30 minutes).
    #[must_use]
    pub fn session_idle(mut self, idle: Duration) -> Self {
        self.session_idle = idle;
        self
    }

    /// How durable the intent of a read must be before it is forwarded (written to the kernel).
    #[must_use]
    pub fn reads(mut self, durability: Durability) -> Self {
        self.reads = durability;
        self
    }

    /// How durable the intent of a mutating or held request must be before it is forwarded (flushed to the disk).
    #[must_use]
    pub fn writes(mut self, durability: Durability) -> Self {
        self.writes = durability;
        self
    }

    /// How much of a body is kept (64 KiB).
    #[must_use]
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// Keeps copies of the response bodies that `keep` picks. Only where a mask stands further in: what is kept is what
    /// the client saw.
    #[must_use]
    pub fn keep_responses(
        mut self,
        keep: impl Fn(&RequestInfo, StatusCode) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.keep_response = Some(Arc::new(keep));
        self
    }

    /// Says of each request how much of it is kept: an [`AuditPolicy`](crate::AuditPolicy)'s
    /// [`level`](crate::AuditPolicy::level), for instance. Without it, request bodies are kept, and of responses what
    /// [`keep_responses`](Self::keep_responses) picks; with it, that has no say any more. What is kept of a request has been
    /// redacted in any case, and its record is made at any level.
    #[must_use]
    pub fn levels(
        mut self,
        level: impl Fn(&RequestInfo, Option<&Identity>) -> Level + Send + Sync + 'static,
    ) -> Self {
        self.levels = Some(Arc::new(level));
        self
    }

    /// Records what is typed into exec and attach sessions, too. Off by default: people type passwords.
    #[must_use]
    pub fn record_input(mut self, record: bool) -> Self {
        self.record_input = record;
        self
    }

    /// How large one recording may get, all its parts together (8 GiB); a session that outgrows it is cut, since nothing
    /// runs unrecorded.
    #[must_use]
    pub fn recording_limit(mut self, bytes: u64) -> Self {
        self.recording_limit = bytes;
        self
    }

    /// How large a part of a recording gets (64 MiB): the first frame after that begins the next. A recording has at most
    /// 128 parts, so they are larger where its limit is more than 128 times as much.
    #[must_use]
    pub fn recording_part(mut self, bytes: u64) -> Self {
        self.recording_part = bytes;
        self
    }
}

/// Whoever has the host can write history anew, but not against a checkpoint that has left it.
fn log_checkpoints() -> impl FnMut(&str) + Send {
    const PAUSE: Duration = Duration::from_secs(60);
    let mut last: Option<Instant> = None;
    move |note| {
        if last.is_none_or(|last| last.elapsed() >= PAUSE) {
            last = Some(Instant::now());
            tracing::info!(target: "portcullis::checkpoint", note, "the audit log's checkpoint");
        }
    }
}

impl fmt::Debug for AuditOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditOptions").field("origin", &self.origin).finish_non_exhaustive()
    }
}
