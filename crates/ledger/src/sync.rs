//! The thread that flushes: one `fdatasync` for everybody who waits for one. It also says when a checkpoint is due, and hands
//! what it has flushed to whoever publishes it (`publish.rs`).

use std::mem::take;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::log::{Dirty, Disk};
use crate::publish::Seal;
use crate::writer::{AppendError, Completion, Receipt, Shared, ThreadGuard, refuse};
use crate::{Checkpoint, Frontier};

pub(crate) struct Syncer {
    shared: Arc<Shared>,
    interval: Duration,
    disk: Disk,
    /// When a checkpoint was last begun.
    last: Instant,
    /// Whether the last one of all has been begun.
    ending: bool,
}

impl Syncer {
    pub(crate) fn new(shared: Arc<Shared>, interval: Duration, disk: Disk) -> Self {
        Self { shared, interval, disk, last: now(), ending: false }
    }

    pub(crate) fn run(mut self) {
        let shared = self.shared.clone();
        let _guard = ThreadGuard(shared.clone());
        let _flushed_out = FlushedOut(shared.clone());
        while let Some(Work { dirty, waiters, wanted, tree, sign }) = self.wait() {
            let flushed = dirty.iter().try_for_each(|dirty| dirty.segment.flush(&self.disk));

            let mut state = shared.lock();
            state.flushing = false;
            match flushed {
                Err(error) => {
                    put_back(&mut state.dirty, dirty);
                    state.wanted.extend(wanted);
                    // In one step: a segment begun in between would make this one, which has lost bytes, no longer the last.
                    shared.fail(state, &format!("flush: {error}"), Vec::new(), waiters, None);
                }
                Ok(()) => {
                    state.durable = state.durable.max(tree.size());
                    if sign {
                        self.last = now();
                        state.sealing = true;
                        state.seal = Some(Seal { tree, wanted });
                    }
                    drop(state);
                    shared.flush.notify_all();
                    waiters.into_iter().for_each(|(done, receipt)| done(Ok(receipt)));
                    shared.seal.notify_one();
                }
            }
        }
    }

    /// Waits until somebody waits for a flush, or a checkpoint is due; `None` at the end.
    fn wait(&mut self) -> Option<Work> {
        let mut state = self.shared.lock();
        loop {
            if state.dead {
                return None;
            }
            if let Some(why) = state.failure.clone().filter(|_| state.written_out) {
                // Whoever was writing when it failed may have come to wait after that.
                let (waiters, wanted) = (take(&mut state.waiters), take(&mut state.wanted));
                drop(state);
                refuse(waiters.into_iter().map(|(done, _)| done), wanted, &AppendError::Failed(why));
                return None;
            }
            if state.failure.is_some() || state.flushing {
                state = self.shared.flush.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let behind = state.unpublished || state.tree.size() > state.checkpointed;
            let left = self.interval.saturating_sub(now() - self.last);
            // At the end one last try, even if the one before failed; and only one.
            let due = (left.is_zero() || state.written_out) && !self.ending;
            let sign = !state.sealing && (!state.wanted.is_empty() || (behind && due));
            if sign || !state.waiters.is_empty() {
                self.ending |= sign && state.written_out;
                state.flushing = true;
                return Some(Work {
                    dirty: take(&mut state.dirty),
                    waiters: take(&mut state.waiters),
                    wanted: take(&mut state.wanted),
                    tree: state.tree.clone(),
                    sign,
                });
            }
            if state.written_out && !state.sealing {
                return None;
            }
            state = if behind && !state.sealing {
                self.shared
                    .flush
                    .wait_timeout(state, left)
                    .map_or_else(|poisoned| poisoned.into_inner().0, |got| got.0)
            } else {
                self.shared.flush.wait(state).unwrap_or_else(PoisonError::into_inner)
            };
        }
    }
}

/// Tells the publisher that nothing more will come, also when this thread panics.
struct FlushedOut(Arc<Shared>);

impl Drop for FlushedOut {
    fn drop(&mut self) {
        self.0.lock().flushed_out = true;
        self.0.seal.notify_all();
    }
}

/// What is to be flushed, and who hears of it.
struct Work {
    dirty: Vec<Dirty>,
    waiters: Vec<(Completion, Receipt)>,
    wanted: Vec<SyncSender<Result<Checkpoint, AppendError>>>,
    tree: Frontier,
    /// Also sign a checkpoint.
    sign: bool,
}

/// Marks `flushed` dirty again, in front of what has been written since.
fn put_back(dirty: &mut Vec<Dirty>, flushed: Vec<Dirty>) {
    let since = std::mem::replace(dirty, flushed);
    for more in since {
        match dirty.last_mut() {
            Some(last) if last.segment.path == more.segment.path => last.segment.end = more.segment.end,
            _ => dirty.push(more),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "only the pause between two checkpoints, never recorded; no tokio here"
)]
fn now() -> Instant {
    Instant::now()
}
