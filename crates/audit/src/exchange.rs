//! One request from its arrival to its outcome.
//!
//! **Invariant.** An [`Exchange`] writes exactly one outcome, into the place that was reserved before the request went
//! on: by [`Exchange::finish`], or, should it be dropped, from `Drop` as `aborted`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use http::{Method, StatusCode, Uri};
use portcullis_core::{
    AuditId, Connection, ErrorFormat, Grant, Identity, RecordError, RequestInfo, Timestamp, Trail, TrailState,
};
use portcullis_ledger::{AppendError, Durability, Hash, Slot};
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Span;

use crate::audit::{Audit, record_error};
use crate::metrics;
use crate::policy::Level;
use crate::record::{End, Outcome, Record, RefusalSummary, Request, ResponseBody, StreamSummary, bounded};

/// What is known of a request from its head on; shared by the layers through the request's extensions.
pub(crate) struct Context {
    pub(crate) audit: Audit,
    pub(crate) id: AuditId,
    pub(crate) parent: Option<AuditId>,
    pub(crate) received: Timestamp,
    pub(crate) info: RequestInfo,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) user_agent: Option<String>,
    pub(crate) connection: Option<Connection>,
    pub(crate) trail: Trail,
    pub(crate) error_format: ErrorFormat,
    pub(crate) request_bytes: AtomicU64,
    pub(crate) session: OnceLock<Option<String>>,
    level: OnceLock<Option<Level>>,
    command: OnceLock<String>,
    request: OnceLock<Request>,
}

impl Context {
    #[expect(clippy::too_many_arguments, reason = "they are the parts of one request, named once")]
    pub(crate) fn new(
        audit: Audit,
        id: AuditId,
        parent: Option<AuditId>,
        info: RequestInfo,
        (method, uri): (Method, Uri),
        user_agent: Option<String>,
        connection: Option<Connection>,
        trail: Trail,
        error_format: ErrorFormat,
    ) -> Self {
        Self {
            received: audit.now(),
            audit,
            id,
            parent,
            info,
            method,
            uri,
            user_agent,
            connection,
            trail,
            error_format,
            request_bytes: AtomicU64::new(0),
            session: OnceLock::new(),
            level: OnceLock::new(),
            command: OnceLock::new(),
            request: OnceLock::new(),
        }
    }

    /// The request as a command, redacted; without a redactor nothing the client wrote freely is in it.
    pub(crate) fn command(&self) -> &str {
        self.command.get_or_init(|| {
            let words = match self.audit.redactor() {
                Some(redactor) => self.request().info.in_words(self.uri.query(), |text| redactor.text(text)),
                None => self.info.in_words(self.uri.query(), |text| match text == self.info.path {
                    true => text.to_owned(),
                    false => "…".to_owned(),
                }),
            };
            bounded(&words, 2048)
        })
    }

    /// The request's head, as far as it may be kept.
    pub(crate) fn request(&self) -> &Request {
        self.request.get_or_init(|| {
            let head = (&self.method, &self.uri, self.user_agent.as_deref());
            Request::redacted(self.audit.redactor(), &self.info, head, self.connection.as_ref())
        })
    }

    /// How much of it is kept, if anybody says; judged once, as soon as it matters.
    pub(crate) fn level(&self, identity: Option<&Identity>) -> Option<Level> {
        let levels = self.audit.inner.options.levels.as_ref();
        *self.level.get_or_init(|| levels.map(|level| level(&self.info, identity)))
    }

    pub(crate) fn session(&self, identity: Option<&Identity>, grant: Option<&Grant>) -> Option<String> {
        let find = || {
            let address = self.connection.as_ref().map(|connection| connection.peer.ip());
            let sessions = &self.audit.inner.sessions;
            sessions.of(identity, grant, address, self.user_agent.as_deref(), self.received)
        };
        self.session.get_or_init(find).clone()
    }
}

/// A request that has no outcome yet.
pub(crate) struct Exchange {
    context: Arc<Context>,
    /// The outcome's place; gone when it has been used.
    slot: Option<Slot>,
    span: Span,
    began: Instant,
    status: Option<StatusCode>,
    response: Option<ResponseState>,
    stream: Option<StreamSummary>,
    error: Option<String>,
}

/// The response body so far.
struct ResponseState {
    content_type: Option<String>,
    bytes: u64,
    digest: Sha256,
    /// The beginning, if a copy is kept.
    copy: Option<Vec<u8>>,
    /// None is kept, since others would have been shown less.
    withheld: bool,
}

impl Exchange {
    pub(crate) fn new(context: Arc<Context>, slot: Slot, span: Span) -> Self {
        context.audit.inner.open.fetch_add(1, Ordering::Relaxed);
        metrics::opened();
        Self {
            context,
            slot: Some(slot),
            span,
            began: Instant::now(),
            status: None,
            response: None,
            stream: None,
            error: None,
        }
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    /// The status the client gets.
    pub(crate) fn status(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// The response's head has come.
    pub(crate) fn head(&mut self, status: StatusCode, content_type: Option<String>) {
        let TrailState { identity, unmasked, .. } = self.context.trail.snapshot();
        let wanted = match self.context.level(identity.as_ref()) {
            Some(level) => level >= Level::RequestResponse,
            None => {
                let keep = self.context.audit.inner.options.keep_response.as_ref();
                keep.is_some_and(|keep| keep(&self.context.info, status))
            }
        };
        let withheld = wanted && unmasked;
        let copy = (wanted && !unmasked).then(Vec::new);
        self.status = Some(status);
        self.response = Some(ResponseState { content_type, bytes: 0, digest: Sha256::new(), copy, withheld });
    }

    /// Some of the response's body has come.
    pub(crate) fn data(&mut self, data: &[u8]) {
        if let Some(response) = &mut self.response {
            response.bytes += data.len() as u64;
            response.digest.update(data);
            if let Some(copy) = &mut response.copy {
                let room = self.context.audit.inner.options.body_limit.saturating_sub(copy.len());
                copy.extend_from_slice(&data[..data.len().min(room)]);
            }
        }
    }

    pub(crate) fn stream(&mut self, summary: StreamSummary) {
        self.stream = Some(summary);
    }

    pub(crate) fn error(&mut self, error: &str) {
        self.error = Some(bounded(error, 1024));
    }

    /// Writes the outcome where nobody can wait for it.
    pub(crate) fn finish_unattended(mut self, end: End) {
        drop(self.submit(end, None));
    }

    /// Writes the outcome, and first the copy of the response that it names.
    ///
    /// # Cancellation
    /// Dropping the future before the copy is stored writes the outcome as `aborted`.
    pub(crate) async fn finish(mut self, end: End) -> Result<(), RecordError> {
        let copy =
            self.response.as_mut().and_then(|response| response.copy.take()).filter(|copy| !copy.is_empty());
        let (mut stored, mut failure) = (None, None);
        if let Some(copy) = copy {
            let length = copy.len() as u64;
            match self.context.audit.store(copy, Durability::Write).await {
                Ok(digest) => stored = Some((digest, length)),
                Err(error) => failure = Some(error),
            }
        }
        let written = self.submit(end, stored);
        if let Some(failure) = failure {
            return Err(failure);
        }
        let Some(written) = written else { return Ok(()) };
        let written = written.await.unwrap_or(Err(AppendError::Closed));
        written.map(drop).map_err(|error| record_error(&error))
    }

    /// Hands the outcome to the log; `None` if that has happened already.
    fn submit(
        &mut self,
        end: End,
        stored: Option<(Hash, u64)>,
    ) -> Option<oneshot::Receiver<Result<u64, AppendError>>> {
        let slot = self.slot.take()?;
        let trail = self.context.trail.snapshot();
        let refused = trail.refusal.as_ref().filter(|refusal| self.status == Some(refusal.status()));
        let end = if end == End::Completed && refused.is_some() { End::Refused } else { end };
        let code = trail.refusal.as_ref().map(portcullis_core::Refusal::code);
        let seconds = self.began.elapsed().as_secs_f64();
        let status = self.status.map(|status| status.as_u16());
        metrics::finished(self.context.info.effective_verb(), end, status, code, seconds);
        self.span.record("http.response.status_code", status);
        self.span.record("end", end.as_str());
        if let Some(identity) = &trail.identity {
            self.span.record("user", identity.user.as_str());
        }
        self.context.audit.inner.open.fetch_sub(1, Ordering::Relaxed);
        let outcome = self.outcome(end, trail, stored);
        Some(self.context.audit.append_reserved(slot, Record::Outcome(Box::new(outcome))))
    }

    fn outcome(&mut self, end: End, trail: TrailState, stored: Option<(Hash, u64)>) -> Outcome {
        let context = &self.context;
        let intent = trail.intent.as_ref().map(|receipt| receipt.index);
        let told = intent.is_some();
        let response = self.response.take().map(|response| ResponseBody {
            bytes: response.bytes,
            sha256: Hash::new(response.digest.finalize().into()),
            content_type: response.content_type,
            stored: stored.map(|(digest, _)| digest),
            truncated: stored.is_some_and(|(_, length)| length < response.bytes),
            withheld: response.withheld.then(|| "unmasked".into()),
        });
        Outcome {
            id: context.id,
            parent: context.parent,
            session: context.session(trail.identity.as_ref(), trail.grant.as_ref()),
            end,
            status: self.status.map(|status| status.as_u16()),
            command: context.command().to_owned(),
            info: context.request().info.clone(),
            user: trail.identity.as_ref().map(|identity| identity.user.clone()),
            intent,
            request: (!told).then(|| context.request().clone()),
            identity: trail.identity.filter(|_| !told),
            grant: trail.grant.map(|grant| grant.id),
            verdict: trail.verdict,
            ticket: trail.approval.map(|approval| approval.ticket),
            refusal: trail.refusal.as_ref().map(RefusalSummary::from),
            error: self.error.take(),
            received: context.received,
            committed: trail.committed_at,
            upstream: trail.upstream_at,
            masked: trail.masked,
            request_bytes: context.request_bytes.load(Ordering::Relaxed),
            response,
            level: context.level(None),
            stream: self.stream.take(),
            notes: trail.notes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            shortened: false,
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // Nobody waits for it; should it fail, the ledger keeps it and writes it later.
        drop(self.submit(End::Aborted, None));
    }
}
