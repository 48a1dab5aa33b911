//! The thread that writes: takes all that is queued, writes it with one call, tells who waited only for that.

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use crate::ledger::{Recovery, RecoveryCause, RecoveryRecord};
use crate::log::{Dirty, Log};
use crate::writer::{AppendError, Completion, Durability, Job, Receipt, Shared, ThreadGuard};

/// How much of the queue is written with one call, in bytes of records.
const GROUP_BYTES: usize = 1024 * 1024;

pub(crate) struct WriterThread {
    shared: Arc<Shared>,
    log: Log,
    retry_interval: Duration,
    recovery_record: RecoveryRecord,
    receipts: Vec<Receipt>,
}

impl WriterThread {
    pub(crate) fn new(
        shared: Arc<Shared>,
        log: Log,
        retry_interval: Duration,
        recovery_record: RecoveryRecord,
    ) -> Self {
        Self { shared, log, retry_interval, recovery_record, receipts: Vec::new() }
    }

    pub(crate) fn run(mut self) {
        let _guard = ThreadGuard(self.shared.clone());
        while let Some(mut jobs) = self.next_jobs() {
            while !jobs.is_empty() {
                let rest = jobs.split_off(group_length(&jobs));
                self.write(std::mem::replace(&mut jobs, rest));
            }
        }
    }

    /// Waits for something to write; `None` when there will be nothing more.
    fn next_jobs(&mut self) -> Option<Vec<Job>> {
        let shared = self.shared.clone();
        loop {
            let mut state = shared.lock();
            if state.dead {
                return None;
            }
            if state.failure.is_some() {
                let last_try = state.closing;
                // Only closing wakes this early: while failing, nothing is queued.
                let again = if last_try {
                    drop(state);
                    true
                } else {
                    let waited = shared.work.wait_timeout(state, self.retry_interval);
                    waited.is_ok_and(|(_, waited)| waited.timed_out())
                };
                if again && !self.repair() && last_try {
                    return None;
                }
                continue;
            }
            if !state.queue.is_empty() {
                return Some(take(&mut state.queue));
            }
            if state.closing {
                return None;
            }
            drop(shared.work.wait(state));
        }
    }

    fn write(&mut self, jobs: Vec<Job>) {
        let began = match self.log.rotate_if_full() {
            Ok(_) => self.log.segment.end,
            Err(error) => return self.shared.fail(&error.to_string(), jobs, Vec::new()),
        };
        self.receipts.clear();
        let records = jobs.iter().map(|job| job.record.as_slice());
        if let Err(error) = self.log.append(records, &mut self.receipts) {
            return self.shared.fail(&error.to_string(), jobs, Vec::new());
        }

        let mut written: Vec<(Completion, Receipt)> = Vec::with_capacity(jobs.len());
        let mut state = self.shared.lock();
        let was_covered = state.tree.size() == state.checkpointed;
        state.tree = self.log.tree.clone();
        state.taken -= jobs.len();
        match state.dirty.last_mut() {
            Some(last) if last.segment.path == self.log.segment.path => {
                last.segment.end = self.log.segment.end
            }
            _ => state.dirty.push(Dirty { segment: self.log.segment.clone(), from: began }),
        }
        let mut flush = was_covered;
        let mut refused = Vec::new();
        for (job, receipt) in jobs.into_iter().zip(self.receipts.drain(..)) {
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

    /// Tries whether writing is possible again; if so the log says what happened and takes records again.
    fn repair(&mut self) -> bool {
        let mut state = self.shared.lock();
        while state.flushing {
            let Ok(again) = self.shared.flush.wait(state) else { return false };
            state = again;
        }
        let dirty = state.dirty.clone();
        let why = state.failure.clone();
        drop(state);

        let cause = RecoveryCause::WriteFailure { error: why.as_deref().unwrap_or_default().to_owned() };
        let recovery = Recovery { size: self.log.tree.size(), cause };
        let repaired = self.log.repair(&dirty).and_then(|()| {
            let record = (self.recovery_record)(&recovery);
            self.log.append_one(&record)
        });

        let mut state = self.shared.lock();
        if let Err(error) = repaired {
            state.failure = Some(error.to_string().into());
            return false;
        }
        state.dirty.clear();
        state.tree = self.log.tree.clone();
        state.durable = state.tree.size();
        state.failure = None;
        let mut late = take(&mut state.late);
        state.queue.append(&mut late);
        drop(state);
        self.shared.flush.notify_all();
        self.shared.tell(None);
        true
    }
}

/// How many of `jobs` make up one write: at least one.
fn group_length(jobs: &[Job]) -> usize {
    let mut bytes = 0;
    let fits = |job: &&Job| {
        bytes += job.record.len();
        bytes <= GROUP_BYTES
    };
    jobs.iter().take_while(fits).count().max(1)
}
