//! What the record takes of the disk: retention, and the metrics that tell when it will be full.

use std::{path::PathBuf, time::Duration};

use metrics::gauge;
use portcullis_audit::{Audit, Retention};
use tokio::time::Instant;

/// How often free space is asked for, and what was dropped by hand looked for: both cost next to nothing.
const LOOK: Duration = Duration::from_secs(15);
/// How often files are looked at, one by one; less often where that takes long, so that it never takes more than a hundredth of a core.
const PASS: Duration = Duration::from_secs(15 * 60);
const SHARE: u32 = 100;

/// How often at most the search index is made anew, so that it forgets the words of what was dropped.
const FORGET: Duration = Duration::from_secs(24 * 3600);

/// Drops what is old enough and measures the rest, for ever.
pub(crate) async fn look_after_disk(audit: Audit, retention: Retention, index: bool) {
    let mut due = Instant::now();
    let (mut to_forget, mut forgot) = (false, None::<Instant>);
    loop {
        if let Err(error) = audit.record_pruned().await {
            tracing::warn!(%error, "what was pruned by hand could not be put on record");
        }
        free_space(audit.dir().to_owned()).await;
        let now = Instant::now();
        if now >= due {
            to_forget |= pass(&audit, retention).await;
            due = Instant::now() + PASS.max(now.elapsed() * SHARE);
        }
        if index && to_forget && forgot.is_none_or(|last| last.elapsed() >= FORGET) {
            // Whoever keeps the index up to date goes over to the new one.
            match portcullis_search::reindex(audit.dir(), audit.health().size, |_| {}).await {
                Ok(records) => tracing::info!(records, "the search index has forgotten what was dropped"),
                Err(error) => tracing::warn!(%error, "the search index could not be made anew"),
            }
            (to_forget, forgot) = (false, Some(Instant::now()));
        }
        tokio::time::sleep(LOOK).await;
    }
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
