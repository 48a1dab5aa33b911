//! Where grants are kept: a trait, and one implementation in memory.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use portcullis_core::{BoxFuture, Grant, Identity, Timestamp};
use serde::{Deserialize, Serialize};

/// A grant, with what only the token service needs to know of it. No secret: the renewal secret is kept as its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantRecord {
    /// The grant.
    pub grant: Grant,
    /// Whose it is.
    pub identity: Identity,
    /// SHA-256 of the renewal secret, hexadecimal.
    pub renewal_sha256: String,
    /// How long each heartbeat keeps it alive; `None` for a grant without heartbeat.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub heartbeat: Option<Duration>,
    /// When it ends without another heartbeat.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lease_until: Option<Timestamp>,
    /// The client certificate it is bound to (`x5t#S256`), hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub certificate_sha256: Option<String>,
    /// When, by whom and why it was ended early.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub revocation: Option<Revocation>,
}

/// How a grant was ended early.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// When.
    pub at: Timestamp,
    /// By whom: a user name, `holder`, or `gateway`.
    pub by: String,
    /// Why.
    pub reason: String,
}

impl GrantRecord {
    /// Whether the grant is good at `now`.
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.revocation.is_none()
            && now < self.grant.expires_at
            && self.lease_until.is_none_or(|until| now < until)
    }
}

/// The store could not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the grant store failed: {0}")]
pub struct StoreError(pub String);

/// Where grants are kept. Every method is atomic; dropping a future may leave it done or not done, never half done.
pub trait GrantStore: Send + Sync + 'static {
    /// Keeps a new grant. An id that is there already is an error: nobody brings an ended grant back by keeping it anew.
    fn insert(&self, record: GrantRecord) -> BoxFuture<'_, Result<(), StoreError>>;

    /// One grant, ended or not.
    fn get<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<GrantRecord>, StoreError>>;

    /// All that are not revoked and expire after `now`, newest first. Some may have lost their heartbeat.
    fn open(&self, now: Timestamp) -> BoxFuture<'_, Result<Vec<GrantRecord>, StoreError>>;

    /// How many of [`open`](Self::open) belong to the principal (issuer and subject).
    fn count_open<'a>(
        &'a self,
        principal: &'a Identity,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<usize, StoreError>> {
        Box::pin(async move {
            let open = self.open(now).await?;
            Ok(open.iter().filter(|record| record.identity.is_same_principal(principal)).count())
        })
    }

    /// The newest `limit` grants, ended or not, newest first.
    fn list(&self, limit: usize) -> BoxFuture<'_, Result<Vec<GrantRecord>, StoreError>>;

    /// Moves the end of a lease, if the grant is [active](GrantRecord::is_active) at `now`. Says whether it did.
    fn renew<'a>(
        &'a self,
        id: &'a str,
        now: Timestamp,
        until: Timestamp,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Ends a grant, unless it was ended before. Says whether it did.
    fn revoke<'a>(&'a self, id: &'a str, how: Revocation) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Ends a grant if it has a lease, which is lost at `now`, unless it was ended before. Says whether it did. Of this and a
    /// [`renew`](Self::renew) at the same moment, one wins.
    fn end_lapsed<'a>(
        &'a self,
        id: &'a str,
        now: Timestamp,
        how: Revocation,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Forgets grants that expired before `before`, however they ended. Says how many. A grant's token is refused when it has
    /// expired, whether anybody remembers it or not.
    fn forget(&self, before: Timestamp) -> BoxFuture<'_, Result<u64, StoreError>>;
}

/// Grants in memory: for tests, and for embedders with one process and short tasks. A restart ends them all.
#[derive(Debug, Default)]
pub struct MemoryGrantStore(Mutex<HashMap<String, GrantRecord>>);

impl MemoryGrantStore {
    fn records(&self) -> MutexGuard<'_, HashMap<String, GrantRecord>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn newest(&self, which: impl Fn(&GrantRecord) -> bool) -> Vec<GrantRecord> {
        let mut found: Vec<_> = self.records().values().filter(|record| which(record)).cloned().collect();
        found.sort_by_key(|record| std::cmp::Reverse(record.grant.issued_at));
        found
    }

    /// Changes one grant, if it is there and `which` holds. Says whether it did.
    fn change(
        &self,
        id: &str,
        which: impl FnOnce(&GrantRecord) -> bool,
        change: impl FnOnce(&mut GrantRecord),
    ) -> bool {
        match self.records().get_mut(id) {
            Some(record) if which(record) => {
                change(record);
                true
            }
            _ => false,
        }
    }
}

fn now_ready<T: Send + 'static>(value: T) -> BoxFuture<'static, Result<T, StoreError>> {
    Box::pin(std::future::ready(Ok(value)))
}

impl GrantStore for MemoryGrantStore {
    fn insert(&self, record: GrantRecord) -> BoxFuture<'_, Result<(), StoreError>> {
        match self.records().entry(record.grant.id.clone()) {
            Entry::Occupied(entry) => {
                let taken = StoreError(format!("there is a grant {} already", entry.key()));
                Box::pin(std::future::ready(Err(taken)))
            }
            Entry::Vacant(entry) => {
                entry.insert(record);
                now_ready(())
            }
        }
    }

    fn get<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<GrantRecord>, StoreError>> {
        now_ready(self.records().get(id).cloned())
    }

    fn open(&self, now: Timestamp) -> BoxFuture<'_, Result<Vec<GrantRecord>, StoreError>> {
        now_ready(self.newest(|record| record.revocation.is_none() && now < record.grant.expires_at))
    }

    fn list(&self, limit: usize) -> BoxFuture<'_, Result<Vec<GrantRecord>, StoreError>> {
        let mut found = self.newest(|_| true);
        found.truncate(limit);
        now_ready(found)
    }

    fn renew<'a>(
        &'a self,
        id: &'a str,
        now: Timestamp,
        until: Timestamp,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        now_ready(self.change(id, |record| record.is_active(now), |record| record.lease_until = Some(until)))
    }

    fn revoke<'a>(&'a self, id: &'a str, how: Revocation) -> BoxFuture<'a, Result<bool, StoreError>> {
        now_ready(self.change(
            id,
            |record| record.revocation.is_none(),
            |record| record.revocation = Some(how),
        ))
    }

    fn end_lapsed<'a>(
        &'a self,
        id: &'a str,
        now: Timestamp,
        how: Revocation,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        let is_lapsed = |record: &GrantRecord| {
            record.revocation.is_none() && record.lease_until.is_some_and(|until| until <= now)
        };
        now_ready(self.change(id, is_lapsed, |record| record.revocation = Some(how)))
    }

    fn forget(&self, before: Timestamp) -> BoxFuture<'_, Result<u64, StoreError>> {
        let mut records = self.records();
        let all = records.len();
        records.retain(|_, record| record.grant.expires_at >= before);
        now_ready((all - records.len()) as u64)
    }
}
