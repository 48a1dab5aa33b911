//! Proof that a request was recorded before it was forwarded.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{BoxFuture, RecordError, Refusal};

/// The id of one request in our record, and in the API server's (`Audit-ID`). A UUIDv7, always ours, never the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AuditId(Uuid);

impl AuditId {
    /// A new id, ordered by time (RFC 9562 §5.7).
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for AuditId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for AuditId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// What a log gives back for a record it has taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// The log's origin: the first line of its checkpoints (C2SP tlog-checkpoint).
    pub origin: String,
    /// The leaf's index.
    pub index: u64,
    /// Whether it is on disk (`fdatasync`), or only in the kernel.
    pub durable: bool,
}

/// The request's intent is in the log. The upstream answers 500 to a request that does not carry one.
///
/// Made from the [`Receipt`] of a log only; there is no other way to have one.
#[derive(Clone, Debug)]
pub struct Committed(Receipt);

impl Committed {
    /// The intent was taken by a log, which gave this receipt.
    pub fn new(receipt: Receipt) -> Self {
        Self(receipt)
    }

    /// What the log gave back.
    pub fn receipt(&self) -> &Receipt {
        &self.0
    }
}

/// Something to be done after the intent is in the log, and before the upstream sees the request.
///
/// Hold uses one to mark its ticket spent: an approval that is used is on record as used before anything happens.
pub type CommitHook = Box<dyn FnOnce(Receipt) -> BoxFuture<'static, Result<(), Refusal>> + Send>;

/// The hooks of one request, in its extensions. Clones share the list.
#[derive(Clone, Default)]
pub struct CommitHooks(Arc<Mutex<Vec<CommitHook>>>);

impl CommitHooks {
    /// Adds a hook to the request these extensions belong to.
    pub fn add(extensions: &mut http::Extensions, hook: CommitHook) {
        let hooks = extensions.get_or_insert_default::<Self>();
        hooks.0.lock().unwrap_or_else(PoisonError::into_inner).push(hook);
    }

    /// Runs every hook once, in the order they were added.
    ///
    /// # Errors
    ///
    /// The first hook's refusal; the request must then not be forwarded.
    pub async fn run(&self, receipt: &Receipt) -> Result<(), Refusal> {
        let hooks = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for hook in hooks {
            hook(receipt.clone()).await?;
        }
        Ok(())
    }
}

impl fmt::Debug for CommitHooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommitHooks").finish_non_exhaustive()
    }
}

/// Answers whether a log holds the intent of a request; what decides after a crash if a claimed approval was used.
pub trait IntentLookup: Send + Sync + 'static {
    /// Whether the intent of `id` is in the log.
    ///
    /// # Errors
    ///
    /// When the log cannot be read: then nobody may assume it is not.
    fn has_intent(&self, id: AuditId) -> BoxFuture<'_, Result<bool, RecordError>>;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn hooks_run_once_however_many_clones_there_are() {
        let ran = Arc::new(AtomicUsize::new(0));
        let mut extensions = http::Extensions::new();
        let counter = ran.clone();
        CommitHooks::add(
            &mut extensions,
            Box::new(move |_| {
                Box::pin(async move {
                    counter.fetch_add(1, Ordering::SeqCst);
                    Ok(())
                })
            }),
        );
        let receipt = Receipt { origin: "test".into(), index: 7, durable: true };
        let hooks = extensions.get::<CommitHooks>().cloned().unwrap();
        hooks.run(&receipt).await.unwrap();
        extensions.get::<CommitHooks>().unwrap().run(&receipt).await.unwrap();
        assert_eq!(ran.load(Ordering::SeqCst), 1);
    }
}
