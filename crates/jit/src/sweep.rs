//! What is done about grants when nobody asks: ending, noticing what ended elsewhere, forgetting.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use portcullis_core::{Ended, Timestamp};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    active::Active,
    grants::{DISABLED, GrantError, Grants},
    store::{GrantRecord, Revocation},
};

/// How often grants that are in use are looked at: other replicas may have revoked them, heartbeats may have stopped.
const SWEEP: Duration = Duration::from_millis(500);
/// How often old grants are forgotten.
const PRUNE: Duration = Duration::from_secs(3600);
/// How long grants are remembered after they have expired: the audit log remembers them for good.
const REMEMBERED_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

/// When old grants were last forgotten.
pub(crate) type Pruned = Mutex<Option<Instant>>;

impl Grants {
    /// Ends grants whose heartbeat has stopped or whose owner is disabled, lets streams of grants go that ended elsewhere, and
    /// forgets grants that expired 30 days ago. Runs for ever.
    pub async fn sweep_forever(self) {
        let mut ticks = interval(SWEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.sweep().await {
                tracing::error!(%error, detail = error.detail(), "grants could not be swept");
            }
        }
    }

    /// One round of [`sweep_forever`](Self::sweep_forever).
    ///
    /// # Errors
    ///
    /// [`GrantError::Unavailable`]: something was left for the next round.
    pub async fn sweep(&self) -> Result<(), GrantError> {
        let mut failed = self.retry_revocations().await.err();
        // Listed before the store is read: whatever is on this list was in the store by then, so what the store does not
        // have open has ended, and is not merely new.
        let in_use = self.0.in_use.all();
        let (asked, now) = (Instant::now(), self.0.clock.now());
        let open = match self.0.store.open(now).await {
            Ok(open) => open,
            Err(error) => {
                self.end_unseen(&in_use, now);
                return Err(error.into());
            }
        };
        metrics::gauge!("portcullis_grants_open").set(open.len() as f64);
        self.compare(&in_use, &open, asked, now);
        for record in &open {
            let ended = if self.0.standing.is_disabled(&record.identity) {
                self.end(&record.grant.id, "gateway", DISABLED, Ended::Disabled, None).await.map(drop)
            } else if !record.is_active(now) {
                self.end_lapsed(&record.grant.id, now).await
            } else {
                Ok(())
            };
            failed = failed.or(ended.err());
        }
        self.prune(now).await;
        failed.map_or(Ok(()), Err)
    }

    /// Tells the store of revocations that it failed to take.
    async fn retry_revocations(&self) -> Result<(), GrantError> {
        for (id, doomed) in self.0.in_use.unsettled() {
            let store = &self.0.store;
            let mut ended = store.revoke(&id, doomed.revocation.clone()).await?;
            if !ended {
                // It may have been done the first time, and only the answer was lost. Then it has not been recorded.
                let record = store.get(&id).await?;
                ended = record.is_some_and(|record| record.revocation.as_ref() == Some(&doomed.revocation));
            }
            self.0.in_use.settle(&id);
            if ended {
                self.record_end(&id, &doomed.revocation, doomed.audit_id).await?;
            }
        }
        Ok(())
    }

    fn compare(&self, in_use: &[Arc<Active>], open: &[GrantRecord], asked: Instant, now: Timestamp) {
        let open: HashMap<&str, &GrantRecord> =
            open.iter().map(|record| (record.grant.id.as_str(), record)).collect();
        for active in in_use {
            let grant = &active.record.grant;
            match open.get(grant.id.as_str()) {
                Some(record) => active.confirm(record.lease_until, asked),
                // Revoked, perhaps by another replica.
                None if now < grant.expires_at => self.0.in_use.forget(&grant.id, Ended::Revoked),
                None => self.0.in_use.forget(&grant.id, Ended::Expired),
            }
        }
    }

    /// A heartbeat that cannot be seen is one that has stopped, as far as streams of this process go.
    fn end_unseen(&self, in_use: &[Arc<Active>], now: Timestamp) {
        for active in in_use.iter().filter(|active| active.has_lapsed(now)) {
            self.0.in_use.forget(&active.record.grant.id, Ended::Revoked);
        }
    }

    /// Its heartbeat had stopped when the store was read; the store ends it only if that is still so.
    async fn end_lapsed(&self, id: &str, now: Timestamp) -> Result<(), GrantError> {
        let revocation = Revocation { at: now, by: "gateway".into(), reason: "its heartbeat stopped".into() };
        if self.0.store.end_lapsed(id, now, revocation.clone()).await? {
            self.0.in_use.forget(id, Ended::Revoked);
            self.record_end(id, &revocation, None).await?;
        }
        Ok(())
    }

    /// At the first round, and every hour from then on. Old grants do no harm: that it failed is for the log.
    async fn prune(&self, now: Timestamp) {
        let started = Instant::now();
        {
            let mut pruned = self.0.pruned.lock().unwrap_or_else(PoisonError::into_inner);
            if pruned.is_some_and(|last| started.duration_since(last) < PRUNE) {
                return;
            }
            *pruned = Some(started);
        }
        let Ok(before) = now.checked_sub(REMEMBERED_FOR) else { return };
        match self.0.store.forget(before).await {
            Ok(0) => {}
            Ok(forgotten) => tracing::info!(forgotten, "grants that expired long ago were forgotten"),
            Err(error) => tracing::warn!(%error, "grants that expired long ago could not be forgotten"),
        }
    }
}
