//! What inner layers learn about a request, for the outermost to record.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;

use crate::{Approval, Grant, Identity, Receipt, Refusal, Timestamp, Verdict};

/// A slot that the audit layer opens and inner layers fill. Clones share it.
///
/// The audit layer stands outside all others, so that refusals are evidence too; what inner layers put into the request's
/// extensions never comes back to it. They note it here as well.
#[derive(Clone, Default)]
pub struct Trail(Arc<Mutex<TrailState>>);

/// What is known about a request so far.
#[derive(Clone, Debug, Default)]
pub struct TrailState {
    /// Who sent it.
    pub identity: Option<Identity>,
    /// Under which grant.
    pub grant: Option<Grant>,
    /// What policy said.
    pub verdict: Option<Verdict>,
    /// Who agreed.
    pub approval: Option<Approval>,
    /// Which layer refused it, and why.
    pub refusal: Option<Refusal>,
    /// The intent's place in the log.
    pub intent: Option<Receipt>,
    /// When the intent was in the log.
    pub committed_at: Option<Timestamp>,
    /// When the upstream's response head arrived.
    pub upstream_at: Option<Timestamp>,
    /// How many values each mask rule replaced in the response.
    pub masked: BTreeMap<String, u64>,
    /// A mask rule does not apply to this caller which does to others: of their answers no copy is kept. Terminals are
    /// recorded all the same, as they were shown.
    pub unmasked: bool,
    /// Anything else worth keeping, by field name. Never a secret.
    pub notes: BTreeMap<&'static str, Value>,
}

impl Trail {
    /// The trail of the request these extensions belong to; one that nobody reads, where no audit layer stands outside.
    pub fn of(extensions: &http::Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_default()
    }

    /// Notes something. Hold the guard for an assignment only, and never across an `.await`.
    pub fn note(&self) -> MutexGuard<'_, TrailState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts `values` replaced by `rule`.
    pub fn masked(&self, rule: &str, values: u64) {
        let mut state = self.note();
        match state.masked.get_mut(rule) {
            Some(count) => *count += values,
            None => drop(state.masked.insert(rule.to_owned(), values)),
        }
    }

    /// A copy of what is known now.
    pub fn snapshot(&self) -> TrailState {
        self.note().clone()
    }
}

impl fmt::Debug for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trail").field(&*self.note()).finish()
    }
}
