//! A store that fails when it is told to, and that stops where it is told to.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use portcullis_core::{BoxFuture, Identity, Timestamp};
use tokio::sync::Semaphore;

use crate::*;

/// [`MemoryGrantStore`], with faults.
pub(super) struct FlakyStore {
    inner: MemoryGrantStore,
    /// Reads fail.
    pub(super) reads_fail: AtomicBool,
    /// Changes fail.
    pub(super) changes_fail: AtomicBool,
    /// Changes are made, and the answer that they were is lost.
    pub(super) answers_are_lost: AtomicBool,
    /// `open` has read when it takes a permit of it, and answers when it has it.
    pub(super) open_gate: Semaphore,
    /// `revoke` begins when it has a permit of it.
    pub(super) revoke_gate: Semaphore,
    /// How often `open` has read.
    pub(super) opened: AtomicU64,
    /// How often a grant was looked up.
    pub(super) lookups: AtomicU64,
    /// What `forget` was called with.
    pub(super) forgotten: Mutex<Vec<Timestamp>>,
}

impl Default for FlakyStore {
    fn default() -> Self {
        Self {
            inner: MemoryGrantStore::default(),
            reads_fail: AtomicBool::default(),
            changes_fail: AtomicBool::default(),
            answers_are_lost: AtomicBool::default(),
            open_gate: Semaphore::new(Semaphore::MAX_PERMITS),
            revoke_gate: Semaphore::new(Semaphore::MAX_PERMITS),
            opened: AtomicU64::default(),
            lookups: AtomicU64::default(),
            forgotten: Mutex::default(),
        }
    }
}

impl FlakyStore {
    pub(super) fn fail(&self, fails: bool) {
        self.reads_fail.store(fails, Ordering::SeqCst);
        self.changes_fail.store(fails, Ordering::SeqCst);
    }

    /// From now on each pass needs a permit that the test adds.
    pub(super) fn close(gate: &Semaphore) {
        gate.forget_permits(usize::MAX);
    }

    async fn pass(gate: &Semaphore) {
        gate.acquire().await.unwrap().forget();
    }

    fn may_read(&self) -> Result<(), StoreError> {
        failing(&self.reads_fail)
    }

    fn may_change(&self) -> Result<(), StoreError> {
        failing(&self.changes_fail)
    }

    fn answer<T>(&self, answer: T) -> Result<T, StoreError> {
        failing(&self.answers_are_lost)?;
        Ok(answer)
    }
}

fn failing(flag: &AtomicBool) -> Result<(), StoreError> {
    match flag.load(Ordering::SeqCst) {
        true => Err(StoreError("out of reach".into())),
        false => Ok(()),
    }
}

impl GrantStore for FlakyStore {
    fn insert(&self, record: GrantRecord) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.may_change()?;
            self.answer(self.inner.insert(record).await?)
        })
    }

    fn get<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<GrantRecord>, StoreError>> {
        Box::pin(async move {
            self.lookups.fetch_add(1, Ordering::SeqCst);
            self.may_read()?;
            self.inner.get(id).await
        })
    }

    fn open(&self, now: Timestamp) -> BoxFuture<'_, Result<Vec<GrantRecord>, StoreError>> {
        Box::pin(async move {
            self.may_read()?;
            let read = self.inner.open(now).await;
            self.opened.fetch_add(1, Ordering::SeqCst);
            Self::pass(&self.open_gate).await;
            read
        })
    }

    fn list(&self, limit: usize) -> BoxFuture<'_, Result<Vec<GrantRecord>, StoreError>> {
        Box::pin(async move {
            self.may_read()?;
            self.inner.list(limit).await
        })
    }

    fn count_open<'a>(
        &'a self,
        principal: &'a Identity,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<usize, StoreError>> {
        Box::pin(async move {
            self.may_read()?;
            self.inner.count_open(principal, now).await
        })
    }

    fn renew<'a>(
        &'a self,
        id: &'a str,
        now: Timestamp,
        until: Timestamp,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            self.may_change()?;
            self.answer(self.inner.renew(id, now, until).await?)
        })
    }

    fn revoke<'a>(&'a self, id: &'a str, how: Revocation) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            Self::pass(&self.revoke_gate).await;
            self.may_change()?;
            self.answer(self.inner.revoke(id, how).await?)
        })
    }

    fn end_lapsed<'a>(
        &'a self,
        id: &'a str,
        now: Timestamp,
        how: Revocation,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            self.may_change()?;
            self.answer(self.inner.end_lapsed(id, now, how).await?)
        })
    }

    fn forget(&self, before: Timestamp) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            self.forgotten.lock().unwrap().push(before);
            self.may_change()?;
            self.inner.forget(before).await
        })
    }
}
