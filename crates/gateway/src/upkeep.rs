//! What the record takes of the disk: retention, and the metrics that tell when it will be full.

use std::{io::ErrorKind, path::PathBuf, time::Duration};

use metrics::gauge;
use portcullis_audit::{Audit, Retention};
use portcullis_core::BoxError;
use tokio::{task::JoinHandle, time::Instant};

/// How often free space is asked for, and what was dropped by hand looked for: both cost next to nothing.
const LOOK: Duration = Duration::from_secs(15);
/// How often files are looked at, one by one; less often where that takes long, so that it never takes more than a hundredth of a core.
const PASS: Duration = Duration::from_secs(15 * 60);
const SHARE: u32 = 100;

/// Drops what is old enough and measures the rest, for ever.
pub(crate) async fn look_after_disk(audit: Audit, retention: Retention) {
    let mut due = Instant::now();
    let mut index = StaleIndex::new(audit.clone());
    loop {
        let mut dropped = audit.record_pruned().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "what was pruned by hand could not be put on record");
            0
        }) > 0;
        free_space(audit.dir().to_owned()).await;
        let now = Instant::now();
        if now >= due {
            dropped |= pass(&audit, retention).await;
            due = Instant::now() + PASS.max(now.elapsed() * SHARE);
        }
        if dropped {
            index.has_too_much();
        }
        index.forget().await;
        tokio::time::sleep(LOOK).await;
    }
}

/// How often at most the search index is made anew: that reads the whole log.
const FORGET: Duration = Duration::from_secs(24 * 3600);

/// The search index, which has the words of what was dropped until it is made anew.
struct StaleIndex {
    audit: Audit,
    /// There as long as it has: also over a restart, and gone with the index.
    mark: PathBuf,
    /// The mark while it is being made anew: what is dropped meanwhile makes the other one again.
    begun: PathBuf,
    due: Instant,
    /// Whether it could be made anew. Beside everything else, since it may take hours.
    running: Option<JoinHandle<bool>>,
}

impl StaleIndex {
    fn new(audit: Audit) -> Self {
        let index = audit.dir().join("index");
        let (mark, begun) = (index.join("stale"), index.join("stale.begun"));
        Self { audit, mark, begun, due: Instant::now(), running: None }
    }

    /// Something that it has words of was dropped.
    fn has_too_much(&self) {
        match std::fs::write(&self.mark, "") {
            Ok(()) => {}
            // There is no index.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "the search index keeps the words of what was dropped"),
        }
    }

    /// Has it made anew, if that is due. Whoever keeps it up to date goes over to the new one.
    async fn forget(&mut self) {
        if let Some(running) = self.running.take_if(|running| running.is_finished()) {
            let made = running.await.unwrap_or(false);
            self.due = Instant::now() + if made { FORGET } else { PASS };
        }
        if self.running.is_some() || Instant::now() < self.due {
            return;
        }
        let stale = std::fs::rename(&self.mark, &self.begun).is_ok() || self.begun.exists();
        if !stale {
            return;
        }
        self.running = Some(tokio::spawn(make_anew(self.audit.clone(), self.begun.clone())));
    }
}

impl Drop for StaleIndex {
    fn drop(&mut self) {
        self.running.iter().for_each(JoinHandle::abort);
    }
}

async fn make_anew(audit: Audit, begun: PathBuf) -> bool {
    let made = portcullis_search::reindex(audit.dir(), audit.health().size, |_| {}).await;
    match made.map_err(BoxError::from).and_then(|records| {
        std::fs::remove_file(&begun)?;
        Ok(records)
    }) {
        Ok(records) => tracing::info!(records, "the search index has forgotten what was dropped"),
        Err(error) => {
            tracing::warn!(%error, "the search index could not be made anew, and keeps these words")
        }
    }
    !begun.exists()
}

/// Whether something was dropped.
async fn pass(audit: &Audit, retention: Retention) -> bool {
    let dropped = match audit.apply_retention(retention).await {
        Ok(dropped) if dropped.is_nothing() => false,
        Ok(dropped) => {
            tracing::info!(?dropped, "retention was applied");
            true
        }
        Err(error) => {
            tracing::error!(%error, "retention could not be applied");
            false
        }
    };
    if let Err(error) = audit.measure_disk().await {
        tracing::warn!(%error, "the record's files could not be measured");
    }
    dropped
}

/// `portcullis_audit_disk_free_bytes`: what the file system has left for us.
async fn free_space(dir: PathBuf) {
    let asked = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&dir)).await;
    if let Ok(Ok(found)) = asked {
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        gauge!("portcullis_audit_disk_free_bytes").set(free as f64);
    }
}

#[cfg(test)]
mod tests {
    use portcullis_audit::AuditOptions;

    use super::*;

    #[tokio::test]
    async fn an_index_with_too_much_is_made_anew_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (audit, _) = Audit::open(dir.path(), AuditOptions::new("test.example/audit")).unwrap();
        let mut index = StaleIndex::new(audit.clone());
        index.has_too_much();
        index.forget().await;
        assert!(index.running.is_none(), "there is none");

        std::fs::create_dir(dir.path().join("index")).unwrap();
        index.has_too_much();
        index.forget().await;
        assert!(index.running.is_some());
        // Before it has done anything.
        drop(index);

        let mut index = StaleIndex::new(audit.clone());
        index.forget().await;
        index.has_too_much();
        index.forget().await;
        assert!(index.running.take().unwrap().await.unwrap());
        assert!(
            !index.begun.exists() && index.mark.exists(),
            "what was dropped meanwhile is for the next time"
        );
        audit.close().await;
    }
}
