//! Flushing: one `fdatasync` for everybody who waits for one. A caller that blocks anyway flushes by itself what it has written,
//! and whatever others have; otherwise the *syncer* thread does. That one also says when a checkpoint is due, and hands what it has
//! flushed to whoever publishes it (`publish.rs`).

use std::mem::take;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::log::Dirty;
use crate::publish::Seal;
use crate::writer::{AppendError, Completion, Receipt, Shared, State, ThreadGuard};
use crate::{Checkpoint, Frontier};

pub(crate) struct Syncer {
    shared: Arc<Shared>,
    interval: Duration,
    /// When a checkpoint was last begun.
    last: Instant,
    /// Whether the last one of all has been begun.
    ending: bool,
}

impl Syncer {
    pub(crate) fn new(shared: Arc<Shared>, interval: Duration) -> Self {
        Self { shared, interval, last: now(), ending: false }
    }

    pub(crate) fn run(mut self) {
        let shared = self.shared.clone();
        let _guard = ThreadGuard(shared.clone());
        let _flushed_out = FlushedOut(shared.clone());
        while let Some((flush, wanted)) = self.wait() {
            let tree = flush.tree.clone();
            let flushed = flush.run(&shared, |state, flushed| match (wanted, flushed) {
                (Some(wanted), true) => {
                    state.sealing = true;
                    state.seal = Some(Seal { tree, wanted });
                    true
                }
                (wanted, _) => {
                    state.wanted.extend(wanted.into_iter().flatten());
                    false
                }
            });
            if flushed {
                self.last = now();
                shared.seal.notify_one();
            }
        }
    }

    /// Waits until somebody waits for a flush, or a checkpoint is due: then also for who asked for one. `None` at the end.
    fn wait(&mut self) -> Option<(Flush, Option<Vec<Wanted>>)> {
        let mut state = self.shared.lock();
        loop {
            if state.dead || (state.failure.is_some() && state.written_out) {
                return None;
            }
            if state.failure.is_some() || state.flushing {
                state.awaited = true;
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
                let wanted = sign.then(|| take(&mut state.wanted));
                return Flush::take(&mut state).map(|flush| (flush, wanted));
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

/// Who asked for a checkpoint now.
type Wanted = SyncSender<Result<Checkpoint, AppendError>>;

/// What is to be flushed, and who hears of it. There is one at a time.
pub(crate) struct Flush {
    dirty: Vec<Dirty>,
    waiters: Vec<(Completion, Receipt)>,
    tree: Frontier,
}

impl Flush {
    /// All that has been written so far, unless somebody is flushing.
    pub(crate) fn take(state: &mut State) -> Option<Self> {
        if std::mem::replace(&mut state.flushing, true) {
            return None;
        }
        let (dirty, waiters) = (take(&mut state.dirty), take(&mut state.waiters));
        Some(Self { dirty, waiters, tree: state.tree.clone() })
    }

    /// Flushes, and tells everybody. What `then` does to the state comes in the same step as that it has been flushed.
    pub(crate) fn run<T>(self, shared: &Shared, then: impl FnOnce(&mut State, bool) -> T) -> T {
        let Self { dirty, waiters, tree } = self;
        let flushed = dirty.iter().try_for_each(|dirty| shared.disk.sync(&dirty.segment.file));
        let mut state = shared.lock();
        state.flushing = false;
        let done = then(&mut state, flushed.is_ok());
        match flushed {
            Err(error) => {
                put_back(&mut state.dirty, dirty);
                drop(state);
                shared.fail(&format!("flush: {error}"), Vec::new(), waiters, None);
            }
            Ok(()) => {
                state.durable = state.durable.max(tree.size());
                let awaited = take(&mut state.awaited);
                drop(state);
                waiters.into_iter().for_each(|(done, receipt)| done(Ok(receipt)));
                if awaited {
                    shared.flush.notify_all();
                }
            }
        }
        done
    }
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
