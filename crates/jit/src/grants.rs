//! The life of grants: issued, verified, renewed, revoked; and everybody told when they end.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_lc_rs::{digest, rand};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_core::{
    AuditId, BoxFuture, Ended, Event, EventKind, EventSink, Grant, Identity, Liveness, ResourceRule,
    SharedClock, Timestamp,
};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use tokio::sync::watch;

use crate::{
    key::SigningKey,
    profile::Profile,
    scope::covers,
    store::{GrantRecord, GrantStore, Revocation, StoreError},
};

/// The `type` of our `authorization_details` (RFC 9396 §2).
pub(crate) const DETAILS_TYPE: &str = "portcullis.dev/kubernetes";

/// How often grants that are in use are looked at: other replicas may have revoked them, heartbeats may have stopped.
const SWEEP: Duration = Duration::from_millis(500);

/// Issues, verifies, renews and revokes grants. Clones share everything.
#[derive(Clone)]
pub struct Grants(Arc<Inner>);

struct Inner {
    issuer: String,
    key: SigningKey,
    profiles: Vec<Profile>,
    store: Arc<dyn GrantStore>,
    events: Arc<dyn EventSink>,
    clock: SharedClock,
    /// Grants this process has seen and not yet seen end.
    active: Mutex<HashMap<String, Arc<Active>>>,
    /// SHA-256 of tokens whose signature was right, to the grant they carry: the hot path costs a hash, not a signature.
    verified: Mutex<HashMap<[u8; 32], Arc<Active>>>,
}

/// A grant in use on this process.
pub(crate) struct Active {
    pub(crate) record: GrantRecord,
    ended: watch::Sender<Option<Ended>>,
    lease_until: Mutex<Option<Timestamp>>,
}

impl Active {
    fn new(record: GrantRecord) -> Self {
        Self { ended: watch::Sender::new(None), lease_until: Mutex::new(record.lease_until), record }
    }

    fn end(&self, how: Ended) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(how);
            }
            first
        });
    }

    fn lease(&self) -> MutexGuard<'_, Option<Timestamp>> {
        self.lease_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    /// Longer than the profile allows.
    #[error("the profile allows at most {0:?}")]
    TooLong(Duration),
    /// The grant is not known, was revoked, has expired, or the secret is wrong. They look alike on purpose.
    #[error("the grant has ended, or the token is not one of ours")]
    NotActive,
    /// It could not be recorded or kept, so it was not done. The reason is for the operator.
    #[error("grants cannot be handled just now")]
    Unavailable(String),
}

impl From<StoreError> for GrantError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// What a grant's token says (RFC 9068, RFC 9396).
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: String,
    jti: String,
    client_id: String,
    iat: i64,
    nbf: i64,
    exp: i64,
    authorization_details: Vec<AuthorizationDetails>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    cnf: Option<Confirmation>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AuthorizationDetails {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) rules: Vec<ResourceRule>,
}

/// RFC 8705 §3.1
#[derive(Debug, Serialize, Deserialize)]
struct Confirmation {
    #[serde(rename = "x5t#S256")]
    certificate: String,
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
        let issuer = issuer.into();
        let (active, verified) = Default::default();
        Self(Arc::new(Inner { issuer, key, profiles, store, events, clock, active, verified }))
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
        let profile = inner
            .profiles
            .iter()
            .find(|profile| profile.name == request.profile && profile.for_whom.includes(identity))
            .ok_or_else(|| GrantError::NoProfile(request.profile.clone()))?;
        let rules = match request.rules {
            None => profile.rules.clone(),
            Some(wanted) => match wanted.iter().find(|rule| !covers(&profile.rules, rule)) {
                None => wanted,
                Some(wide) => {
                    return Err(GrantError::TooWide(serde_json::to_string(wide).unwrap_or_default()));
                }
            },
        };
        let ttl = request.ttl.unwrap_or(profile.default_ttl);
        if ttl > profile.max_ttl {
            return Err(GrantError::TooLong(profile.max_ttl));
        }
        if profile.bind_certificate && request.certificate_sha256.is_none() {
            return Err(GrantError::TooWide("a connection without a client certificate".into()));
        }
        let now = inner.clock.now();
        let grant = Grant {
            id: uuid::Uuid::now_v7().to_string(),
            profile: profile.name.clone(),
            task: request.task,
            rules,
            issued_at: now,
            expires_at: after(now, ttl)?,
            approvers: Vec::new(),
        };
        let secret = random_secret()?;
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
        let renewal_token = format!("{}.{secret}", grant.id);
        Ok(IssuedGrant { grant, token, renewal_token, heartbeat: profile.heartbeat })
    }

    /// Moves the end of a grant's lease. Heartbeats are not put on record one by one; that they stopped is.
    ///
    /// # Errors
    ///
    /// [`GrantError::NotActive`]: the task should stop.
    pub async fn renew(&self, renewal_token: &str) -> Result<GrantRecord, GrantError> {
        let mut record = self.by_renewal_token(renewal_token).await?;
        let now = self.0.clock.now();
        if !record.is_active(now) {
            return Err(GrantError::NotActive);
        }
        let Some(heartbeat) = record.heartbeat else { return Ok(record) };
        let until = after(now, heartbeat)?;
        if !self.0.store.renew(&record.grant.id, until).await? {
            return Err(GrantError::NotActive);
        }
        if let Some(active) = self.active().get(&record.grant.id) {
            *active.lease() = Some(until);
        }
        record.lease_until = Some(until);
        Ok(record)
    }

    /// Ends the grant that this token, or renewal secret, belongs to. One that is no longer active, or never was, is ended already.
    ///
    /// # Errors
    ///
    /// [`GrantError::Unavailable`]: it may still be good; try again.
    pub async fn revoke_by_token(&self, token: &str, audit_id: Option<AuditId>) -> Result<(), GrantError> {
        let id = match self.0.key.verify::<Claims>(token) {
            Some(claims) => claims.jti,
            None => match self.by_renewal_token(token).await {
                Ok(record) => record.grant.id,
                Err(GrantError::NotActive) => return Ok(()),
                Err(error) => return Err(error),
            },
        };
        self.end(&id, "holder", "the task has ended", Ended::Revoked, audit_id).await.map(drop)
    }

    /// Ends a grant. Says whether there was one to end.
    ///
    /// # Errors
    ///
    /// [`GrantError::Unavailable`]: it may still be good; try again.
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
        for record in self.0.store.open(self.0.clock.now()).await? {
            if record.identity.issuer == issuer && record.identity.subject == subject {
                let reason = "the identity was disabled";
                ended +=
                    usize::from(self.end(&record.grant.id, "gateway", reason, Ended::Disabled, None).await?);
            }
        }
        Ok(ended)
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

    /// Ends grants whose heartbeat has stopped, and lets streams of grants go that ended elsewhere. Runs for ever.
    pub async fn sweep_forever(self) {
        let mut ticks = tokio::time::interval(SWEEP);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.sweep().await {
                tracing::error!(%error, "grants could not be swept");
            }
        }
    }

    /// One round of [`sweep_forever`](Self::sweep_forever).
    ///
    /// # Errors
    ///
    /// [`GrantError::Unavailable`]
    pub async fn sweep(&self) -> Result<(), GrantError> {
        let now = self.0.clock.now();
        let open: HashMap<String, GrantRecord> = self
            .0
            .store
            .open(now)
            .await?
            .into_iter()
            .map(|record| (record.grant.id.clone(), record))
            .collect();
        metrics::gauge!("portcullis_grants_open").set(open.len() as f64);
        let in_use: Vec<_> = self.active().values().cloned().collect();
        for active in in_use {
            match open.get(&active.record.grant.id) {
                Some(record) => *active.lease() = record.lease_until,
                // Revoked, perhaps by another replica; or expired.
                None if now < active.record.grant.expires_at => {
                    self.forget(&active.record.grant.id, Ended::Revoked)
                }
                None => self.forget(&active.record.grant.id, Ended::Expired),
            }
        }
        for record in open.values().filter(|record| !record.is_active(now)) {
            self.end(&record.grant.id, "gateway", "its heartbeat stopped", Ended::Revoked, None).await?;
        }
        Ok(())
    }

    /// Whether a bearer token says it is one of ours; then nobody else should judge it.
    pub(crate) fn claims(&self, token: &str) -> bool {
        self.0.key.claims_to_have_signed(token)
    }

    /// The grant a token carries, if it is good now.
    pub(crate) async fn verify(&self, token: &str) -> Result<Arc<Active>, GrantError> {
        let hash = sha256(token.as_bytes());
        let cached = self.verified().get(&hash).cloned();
        let active = match cached {
            Some(active) => active,
            None => {
                let claims: Claims = self.0.key.verify(token).ok_or(GrantError::NotActive)?;
                if claims.iss != self.0.issuer || claims.aud != self.0.issuer {
                    return Err(GrantError::NotActive);
                }
                let active = self.activate(&claims.jti).await?;
                self.verified().insert(hash, active.clone());
                active
            }
        };
        let (now, lease) = (self.0.clock.now(), *active.lease());
        let good = active.ended.borrow().is_none()
            && now < active.record.grant.expires_at
            && lease.is_none_or(|until| now < until);
        if good { Ok(active) } else { Err(GrantError::NotActive) }
    }

    /// Ends when the grant does.
    pub(crate) fn liveness(&self, active: &Arc<Active>) -> Liveness {
        let left = active.record.grant.expires_at.duration_since(self.0.clock.now());
        let expiry = tokio::time::Instant::now() + Duration::try_from(left).unwrap_or_default();
        let active = active.clone();
        Liveness::new(move || -> BoxFuture<'static, Ended> {
            let mut ended = active.ended.subscribe();
            Box::pin(async move {
                tokio::select! {
                    how = ended.wait_for(Option::is_some) => how.ok().and_then(|how| *how).unwrap_or(Ended::Revoked),
                    () = tokio::time::sleep_until(expiry) => Ended::Expired,
                }
            })
        })
    }

    async fn activate(&self, id: &str) -> Result<Arc<Active>, GrantError> {
        if let Some(active) = self.active().get(id) {
            return Ok(active.clone());
        }
        let record = self.0.store.get(id).await?.ok_or(GrantError::NotActive)?;
        if !record.is_active(self.0.clock.now()) {
            return Err(GrantError::NotActive);
        }
        let active =
            self.active().entry(id.to_owned()).or_insert_with(|| Arc::new(Active::new(record))).clone();
        // It may have been revoked between the read and the entry; whoever revoked it then found no entry to end.
        match self.0.store.get(id).await? {
            Some(record) if record.is_active(self.0.clock.now()) => Ok(active),
            _ => {
                self.forget(id, Ended::Revoked);
                Err(GrantError::NotActive)
            }
        }
    }

    /// In the store first, since that is what counts; then the streams; then the record. A grant whose end cannot be recorded
    /// ends all the same: that is the safe side.
    async fn end(
        &self,
        id: &str,
        by: &str,
        reason: &str,
        how: Ended,
        audit_id: Option<AuditId>,
    ) -> Result<bool, GrantError> {
        let revocation = Revocation { at: self.0.clock.now(), by: by.to_owned(), reason: reason.to_owned() };
        let ended = self.0.store.revoke(id, revocation).await;
        self.forget(id, how);
        if !ended? {
            return Ok(false);
        }
        metrics::counter!("portcullis_grants_revoked_total").increment(1);
        let event =
            Event::new(EventKind::Revoked).request(audit_id).grant(id).with("by", by).with("reason", reason);
        self.record(event).await?;
        Ok(true)
    }

    fn forget(&self, id: &str, how: Ended) {
        if let Some(active) = self.active().remove(id) {
            active.end(how);
            self.verified().retain(|_, other| !Arc::ptr_eq(other, &active));
        }
    }

    async fn by_renewal_token(&self, renewal_token: &str) -> Result<GrantRecord, GrantError> {
        let (id, secret) = renewal_token.split_once('.').ok_or(GrantError::NotActive)?;
        let record = self.0.store.get(id).await?.ok_or(GrantError::NotActive)?;
        let given = sha256_hex(secret.as_bytes());
        match bool::from(given.as_bytes().ct_eq(record.renewal_sha256.as_bytes())) {
            true => Ok(record),
            false => Err(GrantError::NotActive),
        }
    }

    fn token_of(&self, record: &GrantRecord) -> Result<String, GrantError> {
        let grant = &record.grant;
        let claims = Claims {
            iss: self.0.issuer.clone(),
            sub: record.identity.subject.clone(),
            aud: self.0.issuer.clone(),
            jti: grant.id.clone(),
            client_id: grant.profile.clone(),
            iat: grant.issued_at.as_second(),
            nbf: grant.issued_at.as_second(),
            exp: grant.expires_at.as_second(),
            authorization_details: vec![AuthorizationDetails {
                kind: DETAILS_TYPE.into(),
                rules: grant.rules.clone(),
            }],
            cnf: record.certificate_sha256.clone().map(|certificate| Confirmation { certificate }),
        };
        self.0.key.sign(&claims).map_err(|error| GrantError::Unavailable(error.to_string()))
    }

    async fn record(&self, event: Event) -> Result<(), GrantError> {
        let recorded = self.0.events.record(event).await;
        recorded.map(drop).map_err(|error| GrantError::Unavailable(error.to_string()))
    }

    fn active(&self) -> MutexGuard<'_, HashMap<String, Arc<Active>>> {
        self.0.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn verified(&self) -> MutexGuard<'_, HashMap<[u8; 32], Arc<Active>>> {
        self.0.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grants").field("issuer", &self.0.issuer).finish_non_exhaustive()
    }
}

fn after(now: Timestamp, duration: Duration) -> Result<Timestamp, GrantError> {
    now.checked_add(duration).map_err(|error| GrantError::Unavailable(error.to_string()))
}

fn random_secret() -> Result<String, GrantError> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| GrantError::Unavailable("the system has no randomness".into()))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn sha256(data: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, data).as_ref());
    hash
}

fn sha256_hex(data: &[u8]) -> String {
    sha256(data).iter().map(|byte| format!("{byte:02x}")).collect()
}
