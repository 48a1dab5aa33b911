//! Looking at the cluster with somebody else's eyes: live objects and dry runs, as an identity.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method, Uri, request::Parts};
use serde_json::Value;

use crate::{AuditId, BoxFuture, Identity, RequestInfo};

/// A request that has not been sent, as it would be.
#[derive(Clone)]
pub struct ProposedRequest {
    /// Its id in the record; what is asked about it gets child ids.
    pub audit_id: Option<AuditId>,
    /// With whose rights.
    pub identity: Identity,
    /// What it asks for.
    pub info: RequestInfo,
    /// Its method.
    pub method: Method,
    /// Its target, as the client wrote it.
    pub uri: Uri,
    /// Its headers, as the client wrote them.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl ProposedRequest {
    /// The request with this head and body, as somebody's; outer layers have left in its extensions what else is known of it.
    pub fn new(parts: &Parts, identity: Identity, body: Bytes) -> Self {
        Self {
            audit_id: parts.extensions.get().copied(),
            identity,
            info: RequestInfo::of_parts(parts),
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            headers: parts.headers.clone(),
            body,
        }
    }
}

impl std::fmt::Debug for ProposedRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProposedRequest")
            .field("audit_id", &self.audit_id)
            .field("method", &self.method)
            .field("path", &self.info.path)
            .finish_non_exhaustive()
    }
}

/// What the server says a request would do. Already masked: people will look at it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preview {
    /// The object as it is; `None` if there is none, or it may not be read.
    pub before: Option<Value>,
    /// The object as it would be; `None` if it would be gone.
    pub after: Option<Value>,
    /// The live object's `resourceVersion`, to be checked again at release.
    pub resource_version: Option<String>,
    /// Why there is no preview, if there is none.
    pub unavailable: Option<String>,
}

/// Why the cluster gave no answer to look at.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LiveError {
    /// The server would refuse the request, with this status and message; nobody need be asked.
    #[error("the server would refuse it: {message}")]
    WouldRefuse {
        /// The HTTP status it answered.
        status: u16,
        /// What it said, masked.
        message: String,
        /// Its whole answer, masked: to be handed to the client as it is.
        body: Bytes,
    },
    /// The server could not be asked.
    #[error("the server could not be asked: {0}")]
    Unavailable(String),
}

/// Reads and dry-runs objects with an identity's own rights. Every call is recorded like any other request.
pub trait LiveObjects: Send + Sync + 'static {
    /// What would the request do? Never changes anything: a request that cannot be dry-run safely yields a [`Preview`]
    /// with `unavailable` set.
    ///
    /// # Errors
    ///
    /// [`LiveError::WouldRefuse`] when the server would not do it; [`LiveError::Unavailable`] when it gave no answer.
    fn dry_run<'a>(&'a self, request: &'a ProposedRequest) -> BoxFuture<'a, Result<Preview, LiveError>>;

    /// The `resourceVersion` of the object the request is about, or `None` if there is no such object.
    ///
    /// # Errors
    ///
    /// As [`dry_run`](Self::dry_run).
    fn resource_version<'a>(
        &'a self,
        request: &'a ProposedRequest,
    ) -> BoxFuture<'a, Result<Option<String>, LiveError>>;
}

/// Reads objects with an identity's own rights, and as they are: for putting back what a mask stands for.
pub trait UnmaskedObjects: Send + Sync + 'static {
    /// The object the request is about, as JSON; `None` if there is none, or it may not be read. What the record keeps of the
    /// call is masked.
    ///
    /// # Errors
    ///
    /// [`LiveError::Unavailable`] when the server gave no answer.
    fn read_unmasked<'a>(
        &'a self,
        request: &'a ProposedRequest,
    ) -> BoxFuture<'a, Result<Option<Bytes>, LiveError>>;
}

/// In the extensions of a call of the gateway's own: where the mask leaves the answer as it was before it was masked. Nothing on
/// the wire can put it there.
#[derive(Clone, Default)]
pub struct UnmaskedCopy(Arc<Mutex<Option<Bytes>>>);

impl UnmaskedCopy {
    /// Leaves the answer here.
    pub fn put(&self, answer: Bytes) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    }

    /// Takes what was left here.
    pub fn take(&self) -> Option<Bytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl std::fmt::Debug for UnmaskedCopy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnmaskedCopy").finish_non_exhaustive()
    }
}
