//! Appending: handles, and the bounded queue behind them.
//!
//! Whoever holds the *pen* (`write.rs`) writes everything that is queued with one call. A caller that finds the pen free
//! and the disk idle takes it for itself: waking another thread would cost more than the write. Otherwise the *writer*
//! thread does it. The *syncer* (`sync.rs`) flushes with one call for everybody who waits for that, so that a record which only
//! has to reach the kernel never waits for another's flush. The *publisher* (`publish.rs`) writes tiles and signs checkpoints.
//!
//! **Invariants.** A completion is called exactly once. `Ok` means the record is in the log as durably as was asked and
//! stays there. After a failure every append is refused until the files have been repaired.

use std::fmt;
use std::mem::take;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::ledger::OnFailure;
use crate::log::{Dirty, Log};
use crate::publish::Seal;
use crate::segment::MAX_RECORD;
use crate::write::{Pen, Turn};
use crate::{Checkpoint, Frontier, Hash};

/// How durable a record has to be before its append completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Durability {
    /// In the kernel: survives the death of this process, not of the machine.
    Write,
    /// On the disk (`fdatasync`): survives the death of the machine.
    Fsync,
}

/// Where a record stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// Its index.
    pub index: u64,
    /// The hash of its leaf.
    pub leaf: Hash,
}

/// Why a record was not appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// As many records as allowed are reserved or waiting.
    #[error("ledger: too many records are waiting to be written")]
    Full,
    /// The record is empty, or larger than [`MAX_RECORD`].
    #[error("ledger: a record has 1 to {MAX_RECORD} bytes, not {0}")]
    Size(usize),
    /// Writing fails; the ledger tries again by itself.
    #[error("ledger: cannot write: {0}")]
    Failed(Arc<str>),
    /// The ledger has been closed.
    #[error("ledger: closed")]
    Closed,
}

/// What is called, once, when a record has been written or refused: before the append returns on the caller's own thread, or
/// later on one of the ledger's, or of another caller's who writes for both. It must not block, nor panic.
pub type Completion = Box<dyn FnOnce(Result<Receipt, AppendError>) + Send>;

/// A handle for appending to a ledger. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    shared: Arc<Shared>,
}

impl Writer {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Reserves the place of one later record, or says why there is none. Never blocks.
    ///
    /// # Errors
    /// When the queue is full, writing fails, or the ledger is closed.
    pub fn try_reserve(&self) -> Result<Slot, AppendError> {
        let mut state = self.shared.lock();
        state.admit()?;
        if state.taken >= self.shared.capacity {
            return Err(AppendError::Full);
        }
        state.taken += 1;
        Ok(Slot { shared: Some(self.shared.clone()) })
    }

    /// Appends a record, or refuses at once. Never waits for the disk: at most for the kernel to take a few records.
    pub fn append(&self, record: Vec<u8>, durability: Durability, done: Completion) {
        match self.try_reserve() {
            Ok(slot) => slot.submit(record, durability, done, false),
            Err(error) => done(Err(error)),
        }
    }

    /// Appends a record and blocks until that is done: for tools and tests, not for asynchronous code.
    ///
    /// # Errors
    /// When it was not appended.
    pub fn append_blocking(&self, record: Vec<u8>, durability: Durability) -> Result<Receipt, AppendError> {
        let (send, receive) = sync_channel(1);
        self.append(record, durability, Box::new(move |result| drop(send.send(result))));
        receive.recv().unwrap_or(Err(AppendError::Closed))
    }

    /// How the ledger is.
    #[must_use]
    pub fn health(&self) -> Health {
        let state = self.shared.lock();
        let checkpoint = state.checkpoint_failure.clone();
        Health {
            failure: state.failure.clone().or(checkpoint),
            closed: state.closing,
            size: state.tree.size(),
            durable: state.durable,
            checkpoint: state.checkpointed,
            waiting: state.queue.len(),
            reserved: state.taken,
            capacity: self.shared.capacity,
        }
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("health", &self.health()).finish()
    }
}

/// How a ledger is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// Why nothing can be appended, or no checkpoint be signed, at present.
    pub failure: Option<Arc<str>>,
    /// Whether it has been closed.
    pub closed: bool,
    /// How many records have been written.
    pub size: u64,
    /// How many of them are known to be on the disk.
    pub durable: u64,
    /// How many of them the newest checkpoint covers.
    pub checkpoint: u64,
    /// How many records wait to be written.
    pub waiting: usize,
    /// How many places are taken: waiting records and reserved ones.
    pub reserved: usize,
    /// How many places there are.
    pub capacity: usize,
}

impl Health {
    /// Whether records can be appended and are covered by checkpoints.
    #[must_use]
    pub const fn is_healthy(&self) -> bool {
        self.failure.is_none() && !self.closed
    }
}

/// The reserved place of one record.
///
/// Appending through it cannot be refused for want of room. If writing fails just then, the completion hears so at once,
/// and the record is kept and written as soon as the ledger has recovered: what it tells *has* happened.
pub struct Slot {
    shared: Option<Arc<Shared>>,
}

impl Slot {
    /// Appends the record. Never waits for the disk, so it may be called from `Drop`.
    pub fn append(self, record: Vec<u8>, durability: Durability, done: Completion) {
        self.submit(record, durability, done, true);
    }

    fn submit(mut self, record: Vec<u8>, durability: Durability, done: Completion, keep: bool) {
        let Some(shared) = self.shared.take() else { return };
        let size = record.len();
        let mut state = shared.lock();
        let refused = match state.admit() {
            _ if size == 0 || size > MAX_RECORD => Some(AppendError::Size(size)),
            Err(AppendError::Failed(why)) if keep => {
                state.late.push(Job { record, durability, done: None, keep });
                drop(state);
                return done(Err(AppendError::Failed(why)));
            }
            Err(error) => Some(error),
            Ok(()) => None,
        };
        if let Some(error) = refused {
            state.taken -= 1;
            drop(state);
            return done(Err(error));
        }
        state.queue.push(Job { record, durability, done: Some(done), keep });
        if state.queue.len() > 1 {
            // The writer has been woken for the one before, or whoever has the pen will find it.
            return;
        }
        match Turn::take_here(&shared, &mut state) {
            Some(turn) => {
                drop(state);
                turn.write_a_few();
            }
            None => {
                let idle = state.pen.is_some();
                drop(state);
                if idle {
                    shared.work.notify_one();
                }
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.lock().taken -= 1;
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").finish_non_exhaustive()
    }
}

/// A record on its way.
pub(crate) struct Job {
    pub(crate) record: Vec<u8>,
    pub(crate) durability: Durability,
    /// `None` once it has been told of a failure.
    pub(crate) done: Option<Completion>,
    /// Tells what has happened already, so it is written after a failure even though nobody waits for it any more.
    keep: bool,
}

/// What the handles and the two threads share.
pub(crate) struct Shared {
    state: Mutex<State>,
    capacity: usize,
    /// Wakes the writer.
    pub(crate) work: Condvar,
    /// Wakes the syncer, and the writer when it waits for the syncer.
    pub(crate) flush: Condvar,
    /// Wakes the publisher.
    pub(crate) seal: Condvar,
    on_failure: Option<OnFailure>,
}

pub(crate) struct State {
    /// Not there while somebody writes.
    pub(crate) pen: Option<Box<Pen>>,
    pub(crate) queue: Vec<Job>,
    /// Records of things that happened, told while writing failed.
    pub(crate) late: Vec<Job>,
    /// Places that are taken.
    pub(crate) taken: usize,
    pub(crate) closing: bool,
    /// A thread of the ledger's, or a caller that was writing, has panicked.
    pub(crate) dead: bool,
    /// The writer has written everything it ever will.
    pub(crate) written_out: bool,
    pub(crate) failure: Option<Arc<str>>,
    pub(crate) checkpoint_failure: Option<Arc<str>>,
    /// Written, not flushed.
    pub(crate) dirty: Vec<Dirty>,
    /// Written, and to be told when flushed.
    pub(crate) waiters: Vec<(Completion, Receipt)>,
    /// The tree over what has been written.
    pub(crate) tree: Frontier,
    pub(crate) durable: u64,
    pub(crate) checkpointed: u64,
    /// Who asked for a checkpoint now.
    pub(crate) wanted: Vec<SyncSender<Result<Checkpoint, AppendError>>>,
    /// The syncer is flushing, or the writer begins a segment, outside the lock: one at a time.
    pub(crate) flushing: bool,
    /// The newest checkpoint's tiles are not all there.
    pub(crate) unpublished: bool,
    /// Flushed, and to be published.
    pub(crate) seal: Option<Seal>,
    /// There is a seal, or the publisher is at work on one.
    pub(crate) sealing: bool,
    /// The syncer has handed over everything it ever will.
    pub(crate) flushed_out: bool,
}

impl State {
    fn admit(&self) -> Result<(), AppendError> {
        match &self.failure {
            _ if self.closing => Err(AppendError::Closed),
            Some(why) => Err(AppendError::Failed(why.clone())),
            None => Ok(()),
        }
    }
}

impl Shared {
    pub(crate) fn new(capacity: usize, on_failure: Option<OnFailure>, log: Log, checkpointed: u64) -> Self {
        let state = State {
            queue: Vec::new(),
            late: Vec::new(),
            taken: 0,
            closing: false,
            dead: false,
            written_out: false,
            failure: None,
            checkpoint_failure: None,
            // What an earlier process wrote may be in the kernel only.
            dirty: vec![Dirty { segment: log.segment.clone(), from: log.segment.end }],
            waiters: Vec::new(),
            tree: log.tree.clone(),
            durable: checkpointed,
            checkpointed,
            wanted: Vec::new(),
            flushing: false,
            unpublished: false,
            seal: None,
            sealing: false,
            flushed_out: false,
            pen: Some(Box::new(Pen::new(log))),
        };
        Self {
            state: Mutex::new(state),
            capacity,
            work: Condvar::new(),
            flush: Condvar::new(),
            seal: Condvar::new(),
            on_failure,
        }
    }

    /// The state. A thread that panicked while holding it has poisoned nothing: every change under the lock is whole.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.work.notify_all();
        self.flush.notify_all();
    }

    /// Tells whoever listens that writing fails, or works again.
    pub(crate) fn tell(&self, failure: Option<&str>) {
        if let Some(hear) = &self.on_failure {
            hear(failure);
        }
    }

    /// Refuses everything from now on, and everybody who waits. What happened already is kept for later. A `pen` is put
    /// back in the same step: nobody writes after half a group.
    pub(crate) fn fail(
        &self,
        mut state: MutexGuard<'_, State>,
        why: &str,
        mut jobs: Vec<Job>,
        mut waiters: Vec<(Completion, Receipt)>,
        pen: Option<Box<Pen>>,
    ) {
        let why: Arc<str> = why.into();
        state.failure = Some(why.clone());
        state.pen = pen.or(state.pen.take());
        jobs.append(&mut state.queue);
        waiters.append(&mut state.waiters);
        let wanted = take(&mut state.wanted);
        let mut refused: Vec<Completion> = Vec::new();
        for mut job in jobs {
            refused.extend(job.done.take());
            if job.keep { state.late.push(job) } else { state.taken -= 1 }
        }
        drop(state);
        self.work.notify_all();
        self.flush.notify_all();
        self.tell(Some(&why));
        let waiters = waiters.into_iter().map(|(done, _)| done);
        refuse(refused.into_iter().chain(waiters), wanted, &AppendError::Failed(why));
    }

    /// Nothing is written any more. `dead`: whoever wrote has panicked, and nobody knows what was written.
    pub(crate) fn end(&self, dead: bool) {
        let mut state = self.lock();
        state.closing = true;
        state.written_out = true;
        let jobs = take(&mut state.queue);
        let (mut waiters, mut wanted, mut seal) = (Vec::new(), Vec::new(), None);
        if dead {
            state.dead = true;
            (waiters, wanted) = (take(&mut state.waiters), take(&mut state.wanted));
            seal = state.seal.take();
        }
        drop(state);
        self.work.notify_all();
        self.flush.notify_all();
        self.seal.notify_all();
        let completions = jobs.into_iter().filter_map(|job| job.done);
        completions
            .chain(waiters.into_iter().map(|(done, _)| done))
            .for_each(|done| done(Err(AppendError::Closed)));
        drop((wanted, seal));
        if dead {
            self.tell(Some("whoever wrote to the ledger ended unexpectedly"));
        }
    }

    pub(crate) fn checkpoint(&self) -> Result<Checkpoint, AppendError> {
        let (send, receive) = sync_channel(1);
        let mut state = self.lock();
        state.admit()?;
        state.wanted.push(send);
        drop(state);
        self.flush.notify_all();
        receive.recv().unwrap_or(Err(AppendError::Closed))
    }
}

/// Tells everybody who waits that it will not be.
pub(crate) fn refuse(
    completions: impl Iterator<Item = Completion>,
    wanted: Vec<SyncSender<Result<Checkpoint, AppendError>>>,
    error: &AppendError,
) {
    completions.for_each(|done| done(Err(error.clone())));
    wanted.into_iter().for_each(|wanted| drop(wanted.send(Err(error.clone()))));
}

/// Held by each thread: when one ends, for whatever reason, nobody is left waiting for it.
pub(crate) struct ThreadGuard(pub(crate) Arc<Shared>);

impl Drop for ThreadGuard {
    fn drop(&mut self) {
        self.0.end(std::thread::panicking());
    }
}
