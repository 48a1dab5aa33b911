//! Whether a token's grant is good now, and how a stream learns that it no longer is.

use std::{sync::Arc, time::Duration};

use portcullis_core::{BoxFuture, Ended, Liveness};
use tokio::time::Instant;

use crate::{
    active::Active,
    grants::{GrantError, Grants},
    token::{Claims, sha256},
};

/// How long a grant is believed without news from the store. Sweeps bring news far more often.
const BELIEVED_FOR: Duration = Duration::from_secs(5);

impl Grants {
    /// Whether a bearer token says it is one of ours; then nobody else should judge it.
    pub(crate) fn claims(&self, token: &str) -> bool {
        self.key().claims_to_have_signed(token)
    }

    /// The grant a token carries, if it is good now.
    pub(crate) async fn verify(&self, token: &str) -> Result<Arc<Active>, GrantError> {
        let hash = sha256(token.as_bytes());
        let active = match self.0.in_use.by_token(&hash) {
            Some(active) => active,
            None => {
                let claims: Claims = self.key().verify(token).ok_or(GrantError::NotActive)?;
                if claims.iss != self.issuer() || claims.aud != self.issuer() {
                    return Err(GrantError::NotActive);
                }
                let active = self.activate(&claims.jti).await?;
                self.0.in_use.remember(hash, &active);
                active
            }
        };
        self.confirm(&active).await?;
        let good =
            active.is_good(self.0.clock.now()) && !self.0.standing.is_disabled(&active.record.identity);
        if good { Ok(active) } else { Err(GrantError::NotActive) }
    }

    /// Ends when the grant does, or when its owner is disabled.
    pub(crate) fn liveness(&self, active: &Arc<Active>) -> Liveness {
        let left = active.record.grant.expires_at.duration_since(self.0.clock.now());
        let expiry = Instant::now() + Duration::try_from(left).unwrap_or_default();
        let owner = self.0.standing.liveness(&active.record.identity);
        let active = active.clone();
        let grant = Liveness::new(move || -> BoxFuture<'static, Ended> {
            let mut ended = active.ended();
            Box::pin(async move {
                tokio::select! {
                    how = ended.wait_for(Option::is_some) => how.ok().and_then(|how| *how).unwrap_or(Ended::Revoked),
                    () = tokio::time::sleep_until(expiry) => Ended::Expired,
                }
            })
        });
        grant.and(owner)
    }

    /// Asks the store again when there has been no news for too long, or when the lease looks lost: another replica may have
    /// renewed it a moment ago. A store that does not answer is no reason to believe.
    async fn confirm(&self, active: &Active) -> Result<(), GrantError> {
        let (asked, now) = (Instant::now(), self.0.clock.now());
        if asked.duration_since(active.asked()) <= BELIEVED_FOR && !active.has_lapsed(now) {
            return Ok(());
        }
        let grant = &active.record.grant;
        match self.0.store.get(&grant.id).await? {
            Some(record) if record.is_active(now) => {
                active.confirm(record.lease_until, asked);
                return Ok(());
            }
            // Its lease is lost. The next sweep ends it for good, and puts that on record.
            Some(record) if record.revocation.is_none() && now < grant.expires_at => {}
            _ if now < grant.expires_at => self.0.in_use.forget(&grant.id, Ended::Revoked),
            _ => self.0.in_use.forget(&grant.id, Ended::Expired),
        }
        Err(GrantError::NotActive)
    }

    async fn activate(&self, id: &str) -> Result<Arc<Active>, GrantError> {
        if self.0.in_use.is_doomed(id) {
            return Err(GrantError::NotActive);
        }
        if let Some(active) = self.0.in_use.by_id(id) {
            return Ok(active);
        }
        let asked = Instant::now();
        let record = self.0.store.get(id).await?.ok_or(GrantError::NotActive)?;
        if !record.is_active(self.0.clock.now()) {
            return Err(GrantError::NotActive);
        }
        let active = self.0.in_use.enter(record, asked).ok_or(GrantError::NotActive)?;
        // It may have been revoked between the read and the entry; whoever revoked it then found no entry to end.
        let again = self.0.store.get(id).await;
        if let Ok(Some(record)) = &again
            && record.is_active(self.0.clock.now())
        {
            return Ok(active);
        }
        self.0.in_use.forget(id, Ended::Revoked);
        Err(again.err().map_or(GrantError::NotActive, GrantError::from))
    }
}
