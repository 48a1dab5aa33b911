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

/// Drops what is old enough and measures the rest, for ever.
pub(crate) async fn look_after_disk(audit: Audit, retention: Retention) {
    let mut due = Instant::now();
    loop {
        if let Err(error) = audit.record_pruned().await {
            tracing::warn!(%error, "what was pruned by hand could not be put on record");
        }
        free_space(audit.dir().to_owned()).await;
        let now = Instant::now();
        if now >= due {
            pass(&audit, retention).await;
            due = Instant::now() + PASS.max(now.elapsed() * SHARE);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn pass(audit: &Audit, retention: Retention) {
    match audit.apply_retention(retention).await {
        Ok(dropped) if dropped.is_nothing() => {}
        Ok(dropped) => tracing::info!(?dropped, "retention was applied"),
        Err(error) => tracing::error!(%error, "retention could not be applied"),
    }
    if let Err(error) = audit.measure_disk().await {
        tracing::warn!(%error, "the record's files could not be measured");
    }
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
