//! Off-boarding: who may no longer come in, whatever their tokens say, and how that is written down.
//!
//! Disabling is the safe side: what can be done of it is done, even if it can be neither kept nor recorded. Enabling is not:
//! nothing happens that is not on record.

use std::sync::Arc;

use portcullis_core::{AuditId, Clock, Event, EventKind, EventSink, Identity};
use portcullis_jit::Grants;
use portcullis_oidc::OidcAuthenticator;
use portcullis_store::{DisabledIdentity, IdentitiesError, SqliteStore};
use tokio::sync::{mpsc, oneshot};

/// How many changes may wait for their turn. Administrators are few.
const QUEUE: usize = 16;

/// An issuer's subject, and what an administrator wants with it.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) issuer: String,
    pub(crate) subject: String,
    /// Who wants it.
    pub(crate) by: Identity,
    /// Why.
    pub(crate) reason: String,
    /// The request that asks for it.
    pub(crate) audit_id: Option<AuditId>,
}

/// Why nothing, or not all, was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChangeError {
    /// Nobody with a token of that issuer comes in anyway: most likely it is misspelled.
    #[error("no issuer `{0}` is trusted here, so its name or that of the subject is misspelled")]
    UnknownIssuer(String),
    /// There would be nobody left to take it back.
    #[error("you cannot disable yourself")]
    Oneself,
    /// It is not disabled.
    #[error("this identity is not disabled")]
    NotDisabled,
    /// It is refused from now on, but a restart might forget it, a grant might linger elsewhere, or it is not on record.
    #[error("the identity is refused from now on, but not all of it could be written down")]
    HalfDone(String),
    /// Nothing was done.
    #[error("identities cannot be changed just now")]
    Unavailable(String),
}

/// The identities that are disabled. Clones share them.
///
/// Changes are carried out one after the other, by a task of their own: what is kept and what is in force cannot come apart
/// because two administrators disagree, and a client that hangs up leaves nothing half done.
#[derive(Clone)]
pub(crate) struct Identities {
    store: SqliteStore,
    changes: mpsc::Sender<Order>,
}

struct Order {
    change: Change,
    enable: bool,
    done: oneshot::Sender<Result<(), ChangeError>>,
}

/// What the task that carries out changes works with.
pub(crate) struct Parts {
    pub(crate) authenticator: Arc<OidcAuthenticator>,
    pub(crate) store: SqliteStore,
    pub(crate) grants: Grants,
    pub(crate) events: Arc<dyn EventSink>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Identities {
    /// Disables whoever was disabled when the gateway stopped, before anybody can come in, and takes changes from then on.
    ///
    /// # Errors
    ///
    /// [`IdentitiesError`]: nobody knows who is disabled, so nobody may come in.
    pub(crate) async fn open(parts: Parts) -> Result<Self, IdentitiesError> {
        for disabled in parts.store.disabled_identities().await? {
            parts.authenticator.disabled().disable(&disabled.issuer, &disabled.subject);
        }
        let (changes, mut orders) = mpsc::channel::<Order>(QUEUE);
        let store = parts.store.clone();
        // Ends with the last clone.
        tokio::spawn(async move {
            while let Some(Order { change, enable, done }) = orders.recv().await {
                let outcome = match enable {
                    false => parts.disable(change).await,
                    true => parts.enable(change).await,
                };
                // Whoever asked may have left.
                let _ = done.send(outcome);
            }
        });
        Ok(Self { store, changes })
    }

    /// Refuses an identity from now on: its requests get 401, its grants are revoked, its open streams are cut. One that is
    /// disabled already stays so, and what may have been left undone is done.
    pub(crate) async fn disable(&self, change: Change) -> Result<(), ChangeError> {
        self.order(change, false).await
    }

    /// Lets an identity in again. What ended stays ended.
    pub(crate) async fn enable(&self, change: Change) -> Result<(), ChangeError> {
        self.order(change, true).await
    }

    /// Everyone who is disabled.
    pub(crate) async fn list(&self) -> Result<Vec<DisabledIdentity>, ChangeError> {
        self.store.disabled_identities().await.map_err(|error| ChangeError::Unavailable(error.to_string()))
    }

    async fn order(&self, change: Change, enable: bool) -> Result<(), ChangeError> {
        let stopping = || ChangeError::Unavailable("the gateway is stopping".into());
        let (done, outcome) = oneshot::channel();
        self.changes.send(Order { change, enable, done }).await.map_err(|_| stopping())?;
        outcome.await.unwrap_or_else(|_| Err(stopping()))
    }
}

impl Parts {
    async fn disable(&self, change: Change) -> Result<(), ChangeError> {
        let (issuer, subject) = (change.issuer.as_str(), change.subject.as_str());
        if !self.authenticator.trusts(issuer) {
            return Err(ChangeError::UnknownIssuer(issuer.to_owned()));
        }
        if change.by.issuer == issuer && change.by.subject == subject {
            return Err(ChangeError::Oneself);
        }
        // At once, before anything that can fail. The open streams go with it.
        self.authenticator.disabled().disable(issuer, subject);
        let kept = DisabledIdentity {
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
            at: self.clock.now(),
            by: change.by.user.clone(),
            reason: change.reason.clone(),
        };
        let kept = self.store.disable_identity(&kept).await.map_err(|error| error.to_string());
        let revoked = self.grants.revoke_principal(issuer, subject).await.map_err(|error| error.to_string());
        let recorded =
            self.events.record(event(EventKind::IdentityDisabled, &change)).await.map_err(|e| e.to_string());
        kept.and(revoked.map(drop)).and(recorded.map(drop)).map_err(|error| {
            // Whoever asked may have left, and somebody must know.
            tracing::error!(
                issuer,
                subject,
                error,
                "an identity was disabled, and not all of it written down"
            );
            ChangeError::HalfDone(error)
        })
    }

    async fn enable(&self, change: Change) -> Result<(), ChangeError> {
        let (issuer, subject) = (change.issuer.as_str(), change.subject.as_str());
        let disabled = self.authenticator.disabled();
        if !disabled.is_disabled(issuer, subject) {
            return Err(ChangeError::NotDisabled);
        }
        let unavailable = |error: String| ChangeError::Unavailable(error);
        let recorded = self.events.record(event(EventKind::IdentityEnabled, &change)).await;
        recorded.map_err(|error| unavailable(error.to_string()))?;
        self.store.enable_identity(issuer, subject).await.map_err(|error| unavailable(error.to_string()))?;
        disabled.enable(issuer, subject);
        Ok(())
    }
}

fn event(kind: EventKind, change: &Change) -> Event {
    Event::new(kind)
        .request(change.audit_id)
        .by(&change.by)
        .with("issuer", change.issuer.as_str())
        .with("subject", change.subject.as_str())
        .with("by", change.by.user.as_str())
        .with("reason", change.reason.as_str())
}

#[cfg(test)]
mod tests {
    use portcullis_core::{BoxFuture, MemorySink, Receipt, RecordError, SystemClock};
    use portcullis_jit::{GrantRequest, MemoryGrantStore, Profile, SigningKey};
    use serde_json::json;

    use super::*;

    const ISSUER: &str = "https://issuer.example";

    struct World {
        _dir: tempfile::TempDir,
        store: SqliteStore,
        authenticator: Arc<OidcAuthenticator>,
        grants: Grants,
        events: Arc<MemorySink>,
        identities: Identities,
    }

    async fn world(store: SqliteStore) -> World {
        let events = Arc::new(MemorySink::default());
        world_with(store, events.clone(), events).await
    }

    async fn world_with(store: SqliteStore, sink: Arc<dyn EventSink>, events: Arc<MemorySink>) -> World {
        let dir = tempfile::tempdir().unwrap();
        let config = serde_json::from_value(json!({ "jwt": [{
            "issuer": { "url": ISSUER, "audiences": ["portcullis"] },
            "claimMappings": { "username": { "claim": "sub", "prefix": "" } },
        }] }));
        let authenticator = Arc::new(OidcAuthenticator::new(config.unwrap()).unwrap());
        let profile: Profile = serde_json::from_value(json!({
            "name": "task", "forWhom": { "users": ["ci"] }, "rules": [{ "verbs": ["get"], "nonResourceURLs": ["/*"] }],
        }))
        .unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let grants = Grants::new(
            "https://gateway.example",
            SigningKey::open(&dir.path().join("grants.pem")).unwrap(),
            vec![profile],
            Arc::new(MemoryGrantStore::default()),
            events.clone(),
            clock.clone(),
        );
        let identities = Identities::open(Parts {
            authenticator: authenticator.clone(),
            store: store.clone(),
            grants: grants.clone(),
            events: sink,
            clock,
        });
        let identities = identities.await.unwrap();
        World { _dir: dir, store, authenticator, grants, events, identities }
    }

    fn identity(user: &str) -> Identity {
        Identity { issuer: ISSUER.into(), subject: user.into(), user: user.into(), ..Identity::default() }
    }

    fn change(issuer: &str, subject: &str) -> Change {
        Change {
            issuer: issuer.into(),
            subject: subject.into(),
            by: identity("ann"),
            reason: "left".into(),
            audit_id: None,
        }
    }

    #[tokio::test]
    async fn disabling_ends_grants_is_recorded_and_outlives_a_restart() {
        let first = world(SqliteStore::in_memory().await.unwrap()).await;
        let wanted = GrantRequest {
            profile: "task".into(),
            task: None,
            ttl: None,
            rules: None,
            certificate_sha256: None,
            audit_id: None,
        };
        let grant = first.grants.issue(&identity("ci"), wanted).await.unwrap().grant;
        // Twice is as good as once.
        for _ in 0..2 {
            first.identities.disable(change(ISSUER, "ci")).await.unwrap();
        }
        let ended = first.grants.find(&grant.id).await.unwrap().unwrap();
        assert_eq!(ended.revocation.unwrap().reason, "the identity was disabled");
        let listed = first.identities.list().await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].by.as_str(), listed[0].reason.as_str()), ("ann", "left"));
        assert_eq!(
            first.events.kinds(),
            [
                EventKind::Granted,
                EventKind::Revoked,
                EventKind::IdentityDisabled,
                EventKind::IdentityDisabled
            ]
        );

        let second = world(first.store.clone()).await;
        assert!(second.authenticator.disabled().is_disabled(ISSUER, "ci"));
        second.identities.enable(change(ISSUER, "ci")).await.unwrap();
        assert!(!second.authenticator.disabled().is_disabled(ISSUER, "ci"));
        assert_eq!(second.events.kinds(), [EventKind::IdentityEnabled]);
        let third = world(second.store.clone()).await;
        assert!(!third.authenticator.disabled().is_disabled(ISSUER, "ci"));
    }

    #[tokio::test]
    async fn what_makes_no_sense_changes_nothing() {
        let world = world(SqliteStore::in_memory().await.unwrap()).await;
        let unknown = world.identities.disable(change("https://isuer.example", "ci")).await;
        assert_eq!(unknown, Err(ChangeError::UnknownIssuer("https://isuer.example".into())));
        assert_eq!(world.identities.disable(change(ISSUER, "ann")).await, Err(ChangeError::Oneself));
        assert_eq!(world.identities.enable(change(ISSUER, "ci")).await, Err(ChangeError::NotDisabled));
        assert!(world.identities.list().await.unwrap().is_empty() && world.events.kinds().is_empty());
    }

    /// A log that takes nothing.
    struct Full;

    impl EventSink for Full {
        fn record(&self, _: Event) -> BoxFuture<'_, Result<Receipt, RecordError>> {
            Box::pin(std::future::ready(Err(RecordError("no space left on device".into()))))
        }
    }

    #[tokio::test]
    async fn what_cannot_be_recorded_ends_on_the_safe_side() {
        let world = world_with(SqliteStore::in_memory().await.unwrap(), Arc::new(Full), Arc::default()).await;
        let outcome = world.identities.disable(change(ISSUER, "ci")).await;
        assert!(matches!(outcome, Err(ChangeError::HalfDone(_))), "{outcome:?}");
        assert!(world.authenticator.disabled().is_disabled(ISSUER, "ci"));
        assert_eq!(world.identities.list().await.unwrap().len(), 1);
        let outcome = world.identities.enable(change(ISSUER, "ci")).await;
        assert!(matches!(outcome, Err(ChangeError::Unavailable(_))), "{outcome:?}");
        assert!(world.authenticator.disabled().is_disabled(ISSUER, "ci"));

        // Nor does a store that fails keep anybody in.
        world.store.close().await;
        let outcome = world.identities.disable(change(ISSUER, "bot")).await;
        assert!(matches!(outcome, Err(ChangeError::HalfDone(_))), "{outcome:?}");
        assert!(world.authenticator.disabled().is_disabled(ISSUER, "bot"));
    }
}
