//! Which grants this process has in use, and which it knows to have ended though the store has not confirmed it.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use portcullis_core::{AuditId, Ended, Timestamp};
use tokio::{sync::watch, time::Instant};

use crate::store::{GrantRecord, Revocation};

/// A grant in use on this process.
pub(crate) struct Active {
    pub(crate) record: GrantRecord,
    ended: watch::Sender<Option<Ended>>,
    seen: Mutex<Seen>,
}

/// What the store last said of a grant, and when it was asked.
#[derive(Clone, Copy)]
struct Seen {
    lease_until: Option<Timestamp>,
    asked: Instant,
}

impl Active {
    fn new(record: GrantRecord, asked: Instant) -> Self {
        let seen = Mutex::new(Seen { lease_until: record.lease_until, asked });
        Self { record, ended: watch::Sender::new(None), seen }
    }

    /// Resolves when it ends.
    pub(crate) fn ended(&self) -> watch::Receiver<Option<Ended>> {
        self.ended.subscribe()
    }

    /// Whether it is good at `now`, as far as this process knows.
    pub(crate) fn is_good(&self, now: Timestamp) -> bool {
        !self.has_ended() && now < self.record.grant.expires_at && !self.has_lapsed(now)
    }

    /// Whether its heartbeat has stopped, as far as this process knows.
    pub(crate) fn has_lapsed(&self, now: Timestamp) -> bool {
        self.seen().lease_until.is_some_and(|until| until <= now)
    }

    /// When the store was last asked, and had it open.
    pub(crate) fn asked(&self) -> Instant {
        self.seen().asked
    }

    /// The store had it open when it was asked. A lease never moves back: the answer may be older than a heartbeat.
    pub(crate) fn confirm(&self, lease_until: Option<Timestamp>, asked: Instant) {
        let mut seen = self.seen();
        seen.lease_until = seen.lease_until.max(lease_until);
        seen.asked = seen.asked.max(asked);
    }

    fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    fn end(&self, how: Ended) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(how);
            }
            first
        });
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A revocation that the store has not confirmed: until it has, the grant is not believed here.
#[derive(Clone)]
pub(crate) struct Doomed {
    pub(crate) revocation: Revocation,
    pub(crate) how: Ended,
    pub(crate) audit_id: Option<AuditId>,
    /// The store has failed; the next sweep asks it again.
    failed: bool,
}

impl Doomed {
    pub(crate) fn new(revocation: Revocation, how: Ended, audit_id: Option<AuditId>) -> Self {
        Self { revocation, how, audit_id, failed: false }
    }
}

/// The grants of this process. One lock, never held across an await.
#[derive(Default)]
pub(crate) struct InUse(Mutex<Tables>);

#[derive(Default)]
struct Tables {
    /// Seen here, and not yet seen to end; by id.
    active: HashMap<String, Arc<Active>>,
    /// SHA-256 of tokens whose signature was right, to the grant they carry: the hot path costs a hash, not a signature.
    verified: HashMap<[u8; 32], Arc<Active>>,
    doomed: HashMap<String, Doomed>,
}

impl InUse {
    /// The grant of a token that was verified before.
    pub(crate) fn by_token(&self, sha256: &[u8; 32]) -> Option<Arc<Active>> {
        let tables = self.tables();
        let active = tables.verified.get(sha256)?;
        let believed = !active.has_ended() && !tables.doomed.contains_key(&active.record.grant.id);
        believed.then(|| active.clone())
    }

    pub(crate) fn by_id(&self, id: &str) -> Option<Arc<Active>> {
        self.tables().active.get(id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Active>> {
        self.tables().active.values().cloned().collect()
    }

    /// Puts a grant to use, unless it is doomed.
    pub(crate) fn enter(&self, record: GrantRecord, asked: Instant) -> Option<Arc<Active>> {
        let mut tables = self.tables();
        if tables.doomed.contains_key(&record.grant.id) {
            return None;
        }
        let active = tables.active.entry(record.grant.id.clone());
        Some(active.or_insert_with(|| Arc::new(Active::new(record, asked))).clone())
    }

    /// The token's signature need not be verified again, as long as the grant is in use.
    pub(crate) fn remember(&self, sha256: [u8; 32], active: &Arc<Active>) {
        let mut tables = self.tables();
        let current = tables.active.get(&active.record.grant.id);
        if current.is_some_and(|current| Arc::ptr_eq(current, active)) {
            tables.verified.insert(sha256, active.clone());
        }
    }

    /// Ends its streams, and asks the store again should its token come back.
    pub(crate) fn forget(&self, id: &str, how: Ended) {
        let mut tables = self.tables();
        if let Some(active) = tables.active.remove(id) {
            active.end(how);
            tables.verified.retain(|_, other| !Arc::ptr_eq(other, &active));
        }
    }

    pub(crate) fn is_doomed(&self, id: &str) -> bool {
        self.tables().doomed.contains_key(id)
    }

    /// From now on it is not believed here, whatever the store says.
    pub(crate) fn doom(&self, id: &str, doomed: Doomed) {
        if let Entry::Vacant(entry) = self.tables().doomed.entry(id.to_owned()) {
            entry.insert(doomed);
        }
    }

    /// The store failed.
    pub(crate) fn retry(&self, id: &str) {
        if let Some(doomed) = self.tables().doomed.get_mut(id) {
            doomed.failed = true;
        }
    }

    /// The store has ended it, so that there is nothing left to remember.
    pub(crate) fn settle(&self, id: &str) {
        self.tables().doomed.remove(id);
    }

    /// What the store has yet to be told.
    pub(crate) fn unsettled(&self) -> Vec<(String, Doomed)> {
        let tables = self.tables();
        let failed = tables.doomed.iter().filter(|(_, doomed)| doomed.failed);
        failed.map(|(id, doomed)| (id.clone(), doomed.clone())).collect()
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
