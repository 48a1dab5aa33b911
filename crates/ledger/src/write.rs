//! Writing: the pen, which one at a time holds, and the thread that takes it when no caller does.

use std::mem::take;
use std::sync::{Arc, Condvar, MutexGuard, PoisonError};
use std::time::Duration;

use crate::ledger::{Recovery, RecoveryCause, RecoveryRecord};
use crate::log::{Dirty, Log};
use crate::writer::{AppendError, Completion, Durability, Job, Receipt, Shared, State, ThreadGuard};

/// How much of the queue is written with one call, in bytes of records.
const GROUP_BYTES: usize = 1024 * 1024;
/// How many groups a caller writes before it leaves the rest to the writer thread.
const CALLER_GROUPS: usize = 4;

/// What it takes to write to the log.
pub(crate) struct Pen {
    log: Log,
    receipts: Vec<Receipt>,
}

impl Pen {
    pub(crate) const fn new(log: Log) -> Self {
        Self { log, receipts: Vec::new() }
    }

    /// Nothing more is written.
    pub(crate) fn finish(&mut self) {
        self.log.finish();
    }
}

/// Somebody writes, and nobody else. When it ends, the pen is put back, and the writer thread woken if there is more.
pub(crate) struct Turn<'s> {
    shared: &'s Shared,
    /// Gone when writing failed.
    pen: Option<Box<Pen>>,
    /// Whether this thread was unwinding already: somebody else's panic, within which a `Drop` appends.
    panicking: bool,
}

impl<'s> Turn<'s> {
    fn take(shared: &'s Shared, state: &mut State) -> Option<Self> {
        let panicking = std::thread::panicking();
        state.pen.take().map(|pen| Self { shared, pen: Some(pen), panicking })
    }

    /// For a caller that may be an asynchronous thread: only when the kernel takes records at once. It may not while it
    /// flushes, and a new segment is flushed first.
    pub(crate) fn take_here(shared: &'s Shared, state: &mut State) -> Option<Self> {
        let prompt = !state.flushing && state.pen.as_ref().is_some_and(|pen| !pen.log.is_full());
        if prompt { Self::take(shared, state) } else { None }
    }

    /// Writes what is queued, but not for long.
    pub(crate) fn write_a_few(mut self) {
        for _ in 0..CALLER_GROUPS {
            let mut state = self.shared.lock();
            let length = group_length(&state.queue);
            if length == 0 || state.flushing || self.pen.as_ref().is_none_or(|pen| pen.log.is_full()) {
                return;
            }
            let jobs = state.queue.drain(..length).collect();
            drop(state);
            self.write(jobs);
        }
    }

    fn write(&mut self, jobs: Vec<Job>) {
        let Some(pen) = &mut self.pen else { return };
        let log = &mut pen.log;
        pen.receipts.clear();
        if log.is_full() {
            // Only the writer thread comes here, and has said that it flushes.
            let rotated = log.rotate();
            let mut state = self.shared.lock();
            state.flushing = false;
            if let Err(error) = rotated {
                let pen = self.pen.take();
                return self.shared.fail(state, &error.to_string(), jobs, Vec::new(), pen);
            }
            drop(state);
            self.shared.flush.notify_all();
        }
        let began = log.segment.end;
        let records = jobs.iter().map(|job| job.record.as_slice());
        let awaited = jobs.iter().any(|job| job.durability == Durability::Fsync);
        if let Err(error) = log.append(records, awaited, &mut pen.receipts) {
            let pen = self.pen.take();
            return self.shared.fail(self.shared.lock(), &error.to_string(), jobs, Vec::new(), pen);
        }

        let mut written: Vec<(Completion, Receipt)> = Vec::with_capacity(jobs.len());
        let mut state = self.shared.lock();
        let was_covered = state.tree.size() == state.checkpointed;
        state.tree.clone_from(&log.tree);
        state.taken -= jobs.len();
        match state.dirty.last_mut() {
            Some(last) if Arc::ptr_eq(&last.segment.path, &log.segment.path) => {
                last.segment.end = log.segment.end
            }
            _ => state.dirty.push(Dirty { segment: log.segment.clone(), from: began }),
        }
        let mut flush = was_covered;
        let mut refused = Vec::new();
        for (job, receipt) in jobs.into_iter().zip(pen.receipts.drain(..)) {
            let Some(done) = job.done else { continue };
            match job.durability {
                Durability::Write => written.push((done, receipt)),
                Durability::Fsync if state.dead => refused.push(done),
                Durability::Fsync => {
                    state.waiters.push((done, receipt));
                    flush = true;
                }
            }
        }
        drop(state);
        if flush {
            self.shared.flush.notify_all();
        }
        written.into_iter().for_each(|(done, receipt)| done(Ok(receipt)));
        refused.into_iter().for_each(|done| done(Err(AppendError::Closed)));
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.panicking {
            // What the file holds is not known: nothing may be written after it.
            return self.shared.end(true);
        }
        let Some(pen) = self.pen.take() else { return };
        let mut state = self.shared.lock();
        state.pen = Some(pen);
        let awaited = !state.queue.is_empty() || state.closing || state.failure.is_some();
        drop(state);
        if awaited {
            self.shared.work.notify_one();
        }
    }
}

/// Writes what no caller wrote, and repairs what failed.
pub(crate) struct WriterThread {
    shared: Arc<Shared>,
    retry_interval: Duration,
    recovery_record: RecoveryRecord,
}

impl WriterThread {
    pub(crate) fn new(
        shared: Arc<Shared>,
        retry_interval: Duration,
        recovery_record: RecoveryRecord,
    ) -> Self {
        Self { shared, retry_interval, recovery_record }
    }

    pub(crate) fn run(self) {
        let shared = &*self.shared;
        let _guard = ThreadGuard(self.shared.clone());
        while let Some((mut turn, jobs)) = self.next(shared) {
            turn.write(jobs);
        }
    }

    /// Waits for the pen and something to write with it; `None` when there will be nothing more.
    fn next<'s>(&self, shared: &'s Shared) -> Option<(Turn<'s>, Vec<Job>)> {
        let mut state = shared.lock();
        loop {
            if state.dead {
                return None;
            }
            state = match state.pen {
                None => wait(&shared.work, state),
                Some(_) if state.failure.is_some() => {
                    let last_try = state.closing;
                    if !last_try {
                        // Only closing wakes this early: while failing, nothing is queued.
                        let (woken, waited) = shared
                            .work
                            .wait_timeout(state, self.retry_interval)
                            .unwrap_or_else(PoisonError::into_inner);
                        state = woken;
                        if !waited.timed_out() {
                            continue;
                        }
                    }
                    let turn = Turn::take(shared, &mut state)?;
                    drop(state);
                    if !self.repair(turn) && last_try {
                        return None;
                    }
                    shared.lock()
                }
                // The kernel tells of bytes that it lost once for an open file: of two who flush it at once, one would
                // acknowledge them.
                Some(ref pen) if !state.queue.is_empty() && pen.log.is_full() && state.flushing => {
                    wait(&shared.flush, state)
                }
                Some(ref pen) if !state.queue.is_empty() => {
                    state.flushing |= pen.log.is_full();
                    let length = group_length(&state.queue);
                    let jobs = state.queue.drain(..length).collect();
                    return Turn::take(shared, &mut state).map(|turn| (turn, jobs));
                }
                Some(_) if state.closing => return None,
                Some(_) => wait(&shared.work, state),
            };
        }
    }

    /// Tries whether writing is possible again; if so the log says what happened and takes records again.
    fn repair(&self, mut turn: Turn<'_>) -> bool {
        let shared = turn.shared;
        let mut state = shared.lock();
        while state.flushing && !state.dead {
            state = wait(&shared.flush, state);
        }
        if state.dead {
            return false;
        }
        let dirty = state.dirty.clone();
        let why = state.failure.clone();
        drop(state);

        let Some(Pen { log, .. }) = turn.pen.as_deref_mut() else { return false };
        let cause = RecoveryCause::WriteFailure { error: why.as_deref().unwrap_or_default().to_owned() };
        let recovery = Recovery { size: log.tree.size(), cause };
        let repaired = log.repair(&dirty).and_then(|()| {
            let record = (self.recovery_record)(&recovery);
            log.append_one(&record)
        });

        let mut state = shared.lock();
        if let Err(error) = repaired {
            state.failure = Some(error.to_string().into());
            return false;
        }
        state.dirty.clear();
        state.tree.clone_from(&log.tree);
        state.durable = state.tree.size();
        state.failure = None;
        let mut late = take(&mut state.late);
        state.queue.append(&mut late);
        drop(state);
        shared.flush.notify_all();
        shared.tell(None);
        true
    }
}

/// A thread that panicked while holding the lock has poisoned nothing: every change under it is whole.
fn wait<'s>(condition: &Condvar, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
    condition.wait(state).unwrap_or_else(PoisonError::into_inner)
}

/// How many of `jobs` make up one write: at least one, if there is one.
fn group_length(jobs: &[Job]) -> usize {
    let mut bytes = 0;
    let fits = |job: &&Job| {
        bytes += job.record.len();
        bytes <= GROUP_BYTES
    };
    jobs.iter().take_while(fits).count().max(1).min(jobs.len())
}
