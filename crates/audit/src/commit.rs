//! The layer before the upstream: nothing goes on that has no intent in the log.

use std::fmt;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use futures_util::future::try_join;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{Request, Response};
use portcullis_core::{
    Approval, Body, BoxError, BoxFuture, BufferedBody, CommitHooks, Committed, Decision, Ended, Grant,
    Identity, Liveness, Reason, RecordError, RedactedCopy, Refusal, Verdict, refuse,
};
use portcullis_ledger::Hash;
use tower_layer::Layer;
use tower_service::Service;

use crate::exchange::Context;
use crate::policy::Level;
use crate::record::{BodyCopy, GrantSummary, Intent, Record};

/// Writes each request's intent before it goes on; stands right before the mask and the upstream, within an
/// [`AuditLayer`](crate::AuditLayer).
///
/// The intent of a mutating or held request is on the disk, that of a read in the kernel, before the inner service is
/// called ([`AuditOptions::reads`](crate::AuditOptions::reads), [`writes`](crate::AuditOptions::writes)). Then the
/// request's [`CommitHooks`] run, and [`Committed`] is put into its extensions. If any of that fails, the inner service
/// sees nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct CommitLayer(());

impl CommitLayer {
    /// Writes into the log of the [`AuditLayer`](crate::AuditLayer) that stands outside.
    pub fn new() -> Self {
        Self(())
    }
}

impl<S> Layer<S> for CommitLayer {
    type Service = CommitService<S>;

    fn layer(&self, inner: S) -> CommitService<S> {
        CommitService { inner }
    }
}

/// What [`CommitLayer`] makes of a service.
#[derive(Clone)]
pub struct CommitService<S> {
    inner: S,
}

impl<S> fmt::Debug for CommitService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommitService").finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for CommitService<S>
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let (mut parts, body) = request.into_parts();
        // Boxed before anything is awaited: the future holds one kind of body.
        let body = Body::new(body);
        Box::pin(async move {
            let context = match commit(&mut parts).await {
                Ok(context) => context,
                Err(refusal) => return Ok(refuse(&parts.extensions, refusal)),
            };
            let response = inner.call(Request::from_parts(parts, body)).await?;
            context.trail.note().upstream_at.get_or_insert_with(|| context.audit.now());
            Ok(response.map(Body::new))
        })
    }
}

/// Writes the intent and leaves the proof of it, or says why the request must not go on.
async fn commit(parts: &mut Parts) -> Result<Arc<Context>, Refusal> {
    let Some(context) = parts.extensions.get::<Arc<Context>>().cloned() else {
        let message = "the request did not come through the audit layer, so it is not forwarded";
        return Err(Refusal::new(Reason::InternalError, "audit/not-opened", message));
    };
    let held = parts.extensions.get::<Approval>().is_some()
        || parts
            .extensions
            .get::<Verdict>()
            .is_some_and(|verdict| matches!(verdict.decision, Decision::Hold(_)));
    let options = &context.audit.inner.options;
    let durability = if held || context.info.is_mutating() { options.writes } else { options.reads };

    let identity = parts.extensions.get::<Identity>().cloned().or_else(|| context.trail.snapshot().identity);
    let (body, copy) = match context.level(identity.as_ref()) {
        Some(Level::None | Level::Metadata) => (unkept(parts), None),
        _ => body_copy(&context, parts),
    };
    let stored = copy.as_deref().map(Hash::of);
    let intent = intent(&context, parts, body, stored);
    // The copy and the record that names it reach the disk side by side; the request waits for both.
    let store = async {
        match copy {
            Some(copy) => context.audit.store(copy, durability).await.map(drop),
            None => Ok(()),
        }
    };
    let append = context.audit.append(Record::Intent(Box::new(intent)), durability);
    let (receipt, ()) = try_join(append, store).await.map_err(RecordError::into_refusal)?;

    {
        let mut trail = context.trail.note();
        trail.intent = Some(receipt.clone());
        trail.committed_at = Some(context.audit.now());
    }
    if let Some(hooks) = parts.extensions.remove::<CommitHooks>() {
        hooks.run(&receipt).await?;
    }
    parts.extensions.insert(Committed::new(receipt));
    // A stream in which nothing passes has nobody else to tell it that the log has failed.
    let audit = context.audit.clone();
    let recorded = Liveness::new(move || -> BoxFuture<'static, Ended> {
        let failed = audit.failed();
        Box::pin(async move {
            failed.await;
            Ended::Unrecorded
        })
    });
    recorded.add_to(&mut parts.extensions);
    Ok(context)
}

fn intent(context: &Context, parts: &Parts, body: Option<BodyCopy>, stored: Option<Hash>) -> Intent {
    let extensions = &parts.extensions;
    let trail = context.trail.snapshot();
    let identity = extensions.get::<Identity>().cloned().or(trail.identity);
    let grant = extensions.get::<Grant>().cloned().or(trail.grant);
    Intent {
        id: context.id,
        parent: context.parent,
        session: context.session(identity.as_ref(), grant.as_ref()),
        received: context.received,
        command: context.command().to_owned(),
        request: context.request().clone(),
        grant: grant.as_ref().map(GrantSummary::from),
        identity,
        verdict: extensions.get::<Verdict>().cloned().or(trail.verdict),
        approval: extensions.get::<Approval>().cloned().or(trail.approval),
        body: body.map(|body| BodyCopy { stored, ..body }),
        shortened: false,
    }
}

/// What is told of a body that is not kept, by policy.
fn unkept(parts: &Parts) -> Option<BodyCopy> {
    let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let bytes = match parts.extensions.get::<BufferedBody>() {
        Some(BufferedBody(whole)) => whole.len() as u64,
        None => header(CONTENT_LENGTH).and_then(|length| length.parse().ok()).unwrap_or(0),
    };
    (bytes > 0).then(|| BodyCopy {
        bytes,
        content_type: header(CONTENT_TYPE).map(str::to_owned),
        stored: None,
        truncated: false,
        keyed_digest: None,
        withheld: Some("policy".into()),
    })
}

/// What is kept of the request's body, and the bytes to store.
fn body_copy(context: &Context, parts: &Parts) -> (Option<BodyCopy>, Option<Vec<u8>>) {
    let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let content_type = header(CONTENT_TYPE);
    let none = BodyCopy {
        bytes: 0,
        content_type: content_type.map(str::to_owned),
        stored: None,
        truncated: false,
        keyed_digest: None,
        withheld: None,
    };
    let Some(BufferedBody(whole)) = parts.extensions.get::<BufferedBody>() else {
        // Not read by anybody before it is forwarded: its length is in the outcome.
        let announced = header(CONTENT_LENGTH).and_then(|length| length.parse().ok()).unwrap_or(0);
        let has_body = announced > 0 || parts.headers.contains_key(http::header::TRANSFER_ENCODING);
        let streamed = BodyCopy { bytes: announced, withheld: Some("streamed".into()), ..none };
        return (has_body.then_some(streamed), None);
    };
    if whole.is_empty() {
        return (None, None);
    }
    let kept = BodyCopy { bytes: whole.len() as u64, ..none };
    let Some(redactor) = context.audit.redactor() else {
        return (Some(BodyCopy { withheld: Some("no redactor".into()), ..kept }), None);
    };
    match redactor.body(&context.info, content_type, whole) {
        RedactedCopy::Redacted(copy) => {
            let limit = context.audit.inner.options.body_limit;
            let truncated = copy.len() > limit;
            (Some(BodyCopy { truncated, ..kept }), Some(copy[..copy.len().min(limit)].to_vec()))
        }
        RedactedCopy::Withheld { digest, reason } => {
            (Some(BodyCopy { keyed_digest: Some(digest), withheld: Some(reason), ..kept }), None)
        }
    }
}
