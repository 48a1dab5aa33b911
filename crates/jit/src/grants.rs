//! The life of grants: issued, renewed, revoked.

use std::{fmt, sync::Arc, time::Duration};

use portcullis_core::{
    AuditId, Ended, Event, EventKind, EventSink, Grant, Identity, ResourceRule, SharedClock, Timestamp,
};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

use crate::{
    active::{Doomed, InUse},
    builder::{GrantsBuilder, Standing},
    key::SigningKey,
    profile::Profile,
    scope::within,
    store::{GrantRecord, GrantStore, Revocation, StoreError},
    sweep::Pruned,
    token::{Claims, random_secret, sha256_hex},
};

/// Issues, verifies, renews and revokes grants. Clones share everything.
#[derive(Clone)]
pub struct Grants(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) issuer: String,
    pub(crate) key: SigningKey,
    pub(crate) profiles: Vec<Profile>,
    pub(crate) store: Arc<dyn GrantStore>,
    pub(crate) events: Arc<dyn EventSink>,
    pub(crate) clock: SharedClock,
    pub(crate) standing: Standing,
    pub(crate) max_open: usize,
    pub(crate) in_use: InUse,
    pub(crate) pruned: Pruned,
}

/// What the token service asks for on behalf of a verified identity.
#[derive(Clone, Debug)]
pub struct GrantRequest {
    /// The profile to cut from.
    pub profile: String,
    /// What the task is, in the requester's words.
    pub task: Option<String>,
    /// How long; the profile's default if `None`.
    pub ttl: Option<Duration>,
    /// What is wanted; everything the profile allows if `None`.
    pub rules: Option<Vec<ResourceRule>>,
    /// The client certificate of the connection that asked, SHA-256, hexadecimal.
    pub certificate_sha256: Option<String>,
    /// The request that asked.
    pub audit_id: Option<AuditId>,
}

/// A grant that was just issued. Holds secrets: `Debug` prints none.
#[derive(Clone)]
pub struct IssuedGrant {
    /// The grant.
    pub grant: Grant,
    /// The bearer token.
    pub token: String,
    /// The secret that renews and revokes it: `<grant id>.<256 random bits>`.
    pub renewal_token: String,
    /// How often, at least, it must be renewed.
    pub heartbeat: Option<Duration>,
}

impl fmt::Debug for IssuedGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedGrant").field("grant", &self.grant).finish_non_exhaustive()
    }
}

/// Why there is no grant. The message may be shown to the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrantError {
    /// No profile of that name is open to this identity. The two cases look alike on purpose.
    #[error("no profile `{0}` is open to you")]
    NoProfile(String),
    /// More was asked for than the profile allows.
    #[error("the profile does not allow {0}")]
    TooWide(String),
    /// More was asked for than anybody would read, or could be compared with the profile in reasonable time.
    #[error("too much was asked for: {0}")]
    TooMuch(String),
    /// Longer than the profile allows.
    #[error("the profile allows at most {0:?}")]
    TooLong(Duration),
    /// The identity has as many open grants as one may have.
    #[error("you have {0} open grants, as many as one may have; end some, or wait until they expire")]
    TooMany(usize),
    /// The identity is disabled.
    #[error("this identity has been disabled")]
    Disabled,
    /// The grant is not known, was revoked, has expired, or the secret is wrong. They look alike on purpose.
    #[error("the grant has ended, or the token is not one of ours")]
    NotActive,
    /// It could not be recorded or kept, so it was not done. The reason is for the operator.
    #[error("grants cannot be handled just now")]
    Unavailable(String),
}

impl GrantError {
    /// What the operator should read of it.
    pub(crate) fn detail(&self) -> Option<&str> {
        match self {
            Self::Unavailable(detail) => Some(detail),
            _ => None,
        }
    }
}

impl From<StoreError> for GrantError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl Grants {
    /// `issuer` is the token service's URL (RFC 8414 §2). [`Profile::check`] should have found nothing wrong with the profiles.
    /// [`sweep_forever`](Self::sweep_forever) must run somewhere.
    pub fn new(
        issuer: impl Into<String>,
        key: SigningKey,
        profiles: Vec<Profile>,
        store: Arc<dyn GrantStore>,
        events: Arc<dyn EventSink>,
        clock: SharedClock,
    ) -> Self {
        Self::builder(issuer, key, profiles, store, events, clock).build()
    }

    /// As [`new`](Self::new), with options.
    pub fn builder(
        issuer: impl Into<String>,
        key: SigningKey,
        profiles: Vec<Profile>,
        store: Arc<dyn GrantStore>,
        events: Arc<dyn EventSink>,
        clock: SharedClock,
    ) -> GrantsBuilder {
        GrantsBuilder::new(issuer.into(), key, profiles, store, events, clock)
    }

    /// The token service's URL.
    pub fn issuer(&self) -> &str {
        &self.0.issuer
    }

    /// The key that signs grants.
    pub fn key(&self) -> &SigningKey {
        &self.0.key
    }

    /// Issues a grant. It is on record before anybody has it.
    ///
    /// # Errors
    ///
    /// [`GrantError`]: nothing was issued.
    pub async fn issue(&self, identity: &Identity, request: GrantRequest) -> Result<IssuedGrant, GrantError> {
        let inner = &self.0;
        if inner.standing.is_disabled(identity) {
            return Err(GrantError::Disabled);
        }
        let profile = inner
            .profiles
            .iter()
            .find(|profile| profile.name == request.profile && profile.for_whom.includes(identity))
            .ok_or_else(|| GrantError::NoProfile(request.profile.clone()))?;
        let rules = match request.rules {
            None => profile.rules.clone(),
            Some(wanted) => within(&profile.rules, &wanted).map(|()| wanted)?,
        };
        let ttl = request.ttl.unwrap_or(profile.default_ttl);
        if ttl > profile.max_ttl {
            return Err(GrantError::TooLong(profile.max_ttl));
        }
        if profile.bind_certificate && request.certificate_sha256.is_none() {
            return Err(GrantError::TooWide("a connection without a client certificate".into()));
        }
        let now = inner.clock.now();
        if inner.store.count_open(identity, now).await? >= inner.max_open {
            return Err(GrantError::TooMany(inner.max_open));
        }
        let grant = Grant {
            id: uuid::Uuid::now_v7().to_string(),
            profile: profile.name.clone(),
            task: request.task,
            rules,
            issued_at: now,
            expires_at: after(now, ttl)?,
            approvers: Vec::new(),
        };
        let secret =
            random_secret().ok_or_else(|| GrantError::Unavailable("the system has no randomness".into()))?;
        let record = GrantRecord {
            renewal_sha256: sha256_hex(secret.as_bytes()),
            heartbeat: profile.heartbeat,
            lease_until: profile.heartbeat.map(|heartbeat| after(now, heartbeat)).transpose()?,
            certificate_sha256: request.certificate_sha256.filter(|_| profile.bind_certificate),
            revocation: None,
            identity: identity.clone(),
            grant: grant.clone(),
        };
        let token = self.token_of(&record)?;
        let event = Event::new(EventKind::Granted)
            .request(request.audit_id)
            .by(identity)
            .grant(&grant.id)
            .with("profile", grant.profile.clone())
            .with("task", grant.task.clone())
            .with("rules", serde_json::to_value(&grant.rules).unwrap_or_default())
            .with("expiresAt", grant.expires_at.to_string());
        self.record(event).await?;
        inner.store.insert(record).await?;
        metrics::counter!("portcullis_grants_issued_total").increment(1);
        // Whoever disabled the identity in the meantime did not find this grant to end it.
        if inner.standing.is_disabled(identity) {
            self.end(&grant.id, "gateway", DISABLED, Ended::Disabled, request.audit_id).await?;
            return Err(GrantError::Disabled);
        }
        let renewal_token = format!("{}.{secret}", grant.id);
        Ok(IssuedGrant { grant, token, renewal_token, heartbeat: profile.heartbeat })
    }

    /// Moves the end of a grant's lease. Heartbeats are not put on record one by one; that they stopped is.
    ///
    /// # Errors
    ///
    /// [`GrantError::NotActive`]: the task should stop.
    pub async fn renew(&self, renewal_token: &str) -> Result<GrantRecord, GrantError> {
        let inner = &self.0;
        let mut record = self.by_renewal_token(renewal_token).await?;
        let (id, asked, now) = (&record.grant.id, Instant::now(), inner.clock.now());
        if !record.is_active(now)
            || inner.in_use.is_doomed(id)
            || inner.standing.is_disabled(&record.identity)
        {
            return Err(GrantError::NotActive);
        }
        let Some(heartbeat) = record.heartbeat else { return Ok(record) };
        let until = after(now, heartbeat)?;
        if !inner.store.renew(id, now, until).await? {
            return Err(GrantError::NotActive);
        }
        if let Some(active) = inner.in_use.by_id(id) {
            active.confirm(Some(until), asked);
        }
        record.lease_until = Some(until);
        Ok(record)
    }

    /// Ends the grant that this token, or renewal secret, belongs to. One that is no longer active, or never was, is ended already.
    ///
    /// # Errors
    ///
    /// [`GrantError::Unavailable`]: it may still be good elsewhere; try again.
    ///
    /// # Cancellation
    ///
    /// Once the token is known, the grant is ended and the end recorded even if the future is dropped.
    pub async fn revoke_by_token(&self, token: &str, audit_id: Option<AuditId>) -> Result<(), GrantError> {
        let id = match self.0.key.verify::<Claims>(token) {
            Some(claims) => claims.jti,
            None => match self.by_renewal_token(token).await {
                Ok(record) => record.grant.id,
                Err(GrantError::NotActive) => return Ok(()),
                Err(error) => self.in_use_by_renewal_token(token).ok_or(error)?,
            },
        };
        self.end(&id, "holder", "the task has ended", Ended::Revoked, audit_id).await.map(drop)
    }

    /// Ends a grant. Says whether there was one to end.
    ///
    /// # Errors
    ///
    /// [`GrantError::Unavailable`]: it may still be good elsewhere. Here it is not, and the store is told as soon as it answers.
    ///
    /// # Cancellation
    ///
    /// The grant is ended, and the end recorded, even if the future is dropped.
    pub async fn revoke(&self, id: &str, by: &Identity, reason: &str) -> Result<bool, GrantError> {
        self.end(id, &by.user, reason, Ended::Revoked, None).await
    }

    /// Ends every grant of a principal, because it was disabled. Says how many there were.
    ///
    /// # Errors
    ///
    /// [`GrantError::Unavailable`]: some may still be good; try again.
    pub async fn revoke_principal(&self, issuer: &str, subject: &str) -> Result<usize, GrantError> {
        let mut ended = 0;
        let mut failed = None;
        for record in self.0.store.open(self.0.clock.now()).await? {
            if record.identity.issuer == issuer && record.identity.subject == subject {
                match self.end(&record.grant.id, "gateway", DISABLED, Ended::Disabled, None).await {
                    Ok(done) => ended += usize::from(done),
                    Err(error) => failed = Some(error),
                }
            }
        }
        failed.map_or(Ok(ended), Err)
    }

    /// The newest `limit` grants, ended or not.
    ///
    /// # Errors
    ///
    /// [`GrantError::Unavailable`]
    pub async fn list(&self, limit: usize) -> Result<Vec<GrantRecord>, GrantError> {
        Ok(self.0.store.list(limit).await?)
    }

    /// One grant, ended or not.
    ///
    /// # Errors
    ///
    /// [`GrantError::Unavailable`]
    pub async fn find(&self, id: &str) -> Result<Option<GrantRecord>, GrantError> {
        Ok(self.0.store.get(id).await?)
    }

    /// Whether a grant is good now, by the clock grants are judged by.
    pub fn is_active(&self, record: &GrantRecord) -> bool {
        record.is_active(self.0.clock.now())
    }

    /// Once begun it is done, whoever goes away: a client that hangs up must not leave a grant half ended.
    pub(crate) async fn end(
        &self,
        id: &str,
        by: &str,
        reason: &str,
        how: Ended,
        audit_id: Option<AuditId>,
    ) -> Result<bool, GrantError> {
        let revocation = Revocation { at: self.0.clock.now(), by: by.to_owned(), reason: reason.to_owned() };
        let doomed = Doomed::new(revocation, how, audit_id);
        // Until the store has ended it, nothing that the store says makes it good again on this process.
        self.0.in_use.doom(id, doomed.clone());
        let (grants, owned) = (self.clone(), id.to_owned());
        let ending = tokio::spawn(async move { grants.end_in_order(&owned, &doomed).await });
        match ending.await {
            Ok(ended) => ended,
            Err(error) => {
                self.0.in_use.retry(id);
                Err(GrantError::Unavailable(error.to_string()))
            }
        }
    }

    /// In the store first, since that is what counts; then the streams; then the record. A grant whose end cannot be recorded
    /// ends all the same: that is the safe side.
    async fn end_in_order(&self, id: &str, doomed: &Doomed) -> Result<bool, GrantError> {
        let ended = self.0.store.revoke(id, doomed.revocation.clone()).await;
        self.0.in_use.forget(id, doomed.how);
        match ended {
            Ok(ended) => {
                self.0.in_use.settle(id);
                if ended {
                    self.record_end(id, &doomed.revocation, doomed.audit_id).await?;
                }
                Ok(ended)
            }
            Err(error) => {
                self.0.in_use.retry(id);
                Err(error.into())
            }
        }
    }

    pub(crate) async fn record_end(
        &self,
        id: &str,
        revocation: &Revocation,
        audit_id: Option<AuditId>,
    ) -> Result<(), GrantError> {
        metrics::counter!("portcullis_grants_revoked_total").increment(1);
        let event = Event::new(EventKind::Revoked)
            .request(audit_id)
            .grant(id)
            .with("by", revocation.by.as_str())
            .with("reason", revocation.reason.as_str());
        self.record(event).await
    }

    async fn by_renewal_token(&self, renewal_token: &str) -> Result<GrantRecord, GrantError> {
        let (id, secret) = renewal_token.split_once('.').ok_or(GrantError::NotActive)?;
        let record = self.0.store.get(id).await?.ok_or(GrantError::NotActive)?;
        if is_secret_of(&record, secret) { Ok(record) } else { Err(GrantError::NotActive) }
    }

    /// The id of a grant that is in use here, which can be ended here while the store does not answer.
    fn in_use_by_renewal_token(&self, renewal_token: &str) -> Option<String> {
        let (id, secret) = renewal_token.split_once('.')?;
        let active = self.0.in_use.by_id(id)?;
        is_secret_of(&active.record, secret).then(|| id.to_owned())
    }

    fn token_of(&self, record: &GrantRecord) -> Result<String, GrantError> {
        let claims = Claims::of(&self.0.issuer, record).ok_or_else(|| {
            GrantError::Unavailable("the digest of the client certificate is no SHA-256".into())
        })?;
        self.0.key.sign(&claims).map_err(|error| GrantError::Unavailable(error.to_string()))
    }

    async fn record(&self, event: Event) -> Result<(), GrantError> {
        let recorded = self.0.events.record(event).await;
        recorded.map(drop).map_err(|error| GrantError::Unavailable(error.to_string()))
    }
}

impl fmt::Debug for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grants").field("issuer", &self.0.issuer).finish_non_exhaustive()
    }
}

/// Why the grants of somebody who was disabled have ended.
pub(crate) const DISABLED: &str = "the identity was disabled";

fn after(now: Timestamp, duration: Duration) -> Result<Timestamp, GrantError> {
    now.checked_add(duration).map_err(|error| GrantError::Unavailable(error.to_string()))
}

fn is_secret_of(record: &GrantRecord, secret: &str) -> bool {
    sha256_hex(secret.as_bytes()).as_bytes().ct_eq(record.renewal_sha256.as_bytes()).into()
}
