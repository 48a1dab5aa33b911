//! The thread that flushes and signs: one `fdatasync` for everybody who waits for one, and a checkpoint now and then.

use std::io;
use std::mem::take;
use std::path::PathBuf;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::ledger::{CHECKPOINT, OnCheckpoint, replace_name};
use crate::log::{Dirty, Disk};
use crate::writer::{AppendError, Completion, Receipt, Shared, ThreadGuard};
use crate::{Checkpoint, Frontier, SigningKey};

pub(crate) struct Syncer {
    shared: Arc<Shared>,
    dir: PathBuf,
    key: SigningKey,
    interval: Duration,
    on_checkpoint: Option<OnCheckpoint>,
    disk: Disk,
    /// When the last checkpoint was signed, or tried.
    last: Instant,
}

impl Syncer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        dir: PathBuf,
        key: SigningKey,
        interval: Duration,
        on_checkpoint: Option<OnCheckpoint>,
        disk: Disk,
    ) -> Self {
        Self { shared, dir, key, interval, on_checkpoint, disk, last: now() }
    }

    pub(crate) fn run(mut self) {
        let shared = self.shared.clone();
        let _guard = ThreadGuard(shared.clone());
        while let Some(Work { dirty, waiters, wanted, tree, sign }) = self.wait() {
            let flushed = dirty.iter().try_for_each(|dirty| self.disk.sync(&dirty.segment.file));

            let mut state = shared.lock();
            state.flushing = false;
            match flushed {
                Err(error) => {
                    put_back(&mut state.dirty, dirty);
                    state.wanted.extend(wanted);
                    drop(state);
                    shared.fail(&format!("flush: {error}"), Vec::new(), waiters, None);
                }
                Ok(()) => {
                    state.durable = state.durable.max(tree.size());
                    drop(state);
                    shared.flush.notify_all();
                    waiters.into_iter().for_each(|(done, receipt)| done(Ok(receipt)));
                    if sign {
                        let signed = self.sign(&tree);
                        wanted.into_iter().for_each(|wanted| drop(wanted.send(signed.clone())));
                    }
                }
            }
        }
    }

    /// Waits until somebody waits for a flush, or a checkpoint is due; `None` at the end.
    fn wait(&self) -> Option<Work> {
        let mut state = self.shared.lock();
        loop {
            if state.dead || (state.failure.is_some() && state.written_out) {
                return None;
            }
            if state.failure.is_some() {
                state = self.shared.flush.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let behind = state.tree.size() > state.checkpointed;
            let left = self.interval.saturating_sub(now() - self.last);
            // At the end one last try, even if the one before failed.
            let last_one = state.written_out && state.checkpoint_failure.is_none();
            let sign = !state.wanted.is_empty() || (behind && (left.is_zero() || last_one));
            if sign || !state.waiters.is_empty() {
                state.flushing = true;
                return Some(Work {
                    dirty: take(&mut state.dirty),
                    waiters: take(&mut state.waiters),
                    wanted: take(&mut state.wanted),
                    tree: state.tree.clone(),
                    sign,
                });
            }
            if state.written_out {
                return None;
            }
            state = if behind {
                self.shared
                    .flush
                    .wait_timeout(state, left)
                    .map_or_else(|poisoned| poisoned.into_inner().0, |got| got.0)
            } else {
                self.shared.flush.wait(state).unwrap_or_else(PoisonError::into_inner)
            };
        }
    }

    /// Signs and stores a checkpoint of what has just been flushed.
    fn sign(&mut self, tree: &Frontier) -> Result<Checkpoint, AppendError> {
        self.last = now();
        let name = self.key.verifying_key().name();
        let checkpoint = Checkpoint { origin: name.to_owned(), size: tree.size(), root: tree.root() };
        let stored = checkpoint.sign(&self.key).map_err(io::Error::other).and_then(|note| {
            replace_name(&self.dir.join(CHECKPOINT), note.as_bytes())?;
            Ok(note)
        });
        let mut state = self.shared.lock();
        match stored {
            Ok(note) => {
                state.checkpointed = checkpoint.size;
                state.checkpoint_failure = None;
                drop(state);
                if let Some(hear) = &mut self.on_checkpoint {
                    hear(&note);
                }
                Ok(checkpoint)
            }
            Err(error) => {
                let why: Arc<str> = format!("checkpoint: {error}").into();
                state.checkpoint_failure = Some(why.clone());
                Err(AppendError::Failed(why))
            }
        }
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
