//! An issuer's keys: fetched when first needed, kept fresh in the background, good for a while without the issuer.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use bytes::Bytes;
use jiff::SignedDuration;
use portcullis_core::{AuthenticationError, SharedClock, Timestamp};
use serde::Deserialize;
use tokio::sync::{Mutex, OwnedMutexGuard};
use url::Url;

use crate::{compile::is_fetchable, fetch::DocumentFetcher, keys::KeySet};

/// The keys of one issuer, and the rules by which they are renewed.
///
/// Fetches run in tasks of their own, so that a caller who goes away takes nobody else's answer along, and one at a
/// time, at least [`retry`](Schedule::retry) apart, so that no stream of made-up key ids turns into a stream of fetches.
pub(crate) struct KeyProvider {
    issuer: String,
    discovery: Url,
    allow_loopback_http: bool,
    fetcher: Arc<dyn DocumentFetcher>,
    clock: SharedClock,
    schedule: Schedule,
    state: ArcSwap<State>,
    fetching: Arc<Mutex<()>>,
}

/// When keys are renewed, and for how long they are good.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// Older keys are renewed in the background.
    pub(crate) refresh: Duration,
    /// Older keys are not used.
    pub(crate) tolerance: Duration,
    /// The least time between two fetches.
    pub(crate) retry: Duration,
}

/// What is known of an issuer's keys.
#[derive(Clone, Default)]
pub(crate) struct State {
    pub(crate) keys: Arc<KeySet>,
    /// Counts changes of the keys, so that what was verified by earlier ones is verified again.
    pub(crate) generation: u64,
    pub(crate) fetched_at: Option<Timestamp>,
    pub(crate) attempted_at: Option<Timestamp>,
    pub(crate) last_error: Option<String>,
    digest: Option<digest::Digest>,
}

impl KeyProvider {
    pub(crate) fn new(
        issuer: String,
        discovery: Url,
        allow_loopback_http: bool,
        fetcher: Arc<dyn DocumentFetcher>,
        clock: SharedClock,
        schedule: Schedule,
    ) -> Self {
        Self {
            issuer,
            discovery,
            allow_loopback_http,
            fetcher,
            clock,
            schedule,
            state: ArcSwap::default(),
            fetching: Arc::default(),
        }
    }

    /// What is known now.
    pub(crate) fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Keys to judge a token by that names `id`. Waits for a fetch if there are none, or none of that id.
    ///
    /// # Errors
    ///
    /// Unavailable, when there are no keys that are fresh enough, or when the issuer could not be asked about `id`.
    pub(crate) async fn keys_for(
        self: &Arc<Self>,
        id: Option<&str>,
    ) -> Result<Arc<State>, AuthenticationError> {
        if let Some(state) = self.usable()
            && id.is_none_or(|id| state.keys.knows(id))
        {
            return Ok(state);
        }
        if self.may_fetch(&self.state.load()) {
            self.fetch().await;
        }
        let state = self.usable().ok_or_else(|| self.unavailable())?;
        match (id, &state.last_error) {
            // The issuer may have made a new key that we cannot learn of.
            (Some(id), Some(_)) if !state.keys.knows(id) => Err(self.unavailable()),
            _ => Ok(state),
        }
    }

    /// The keys, if they are fresh enough to be used; has them renewed if they are getting old.
    pub(crate) fn usable(self: &Arc<Self>) -> Option<Arc<State>> {
        let state = self.state.load_full();
        let age = self.age_within_tolerance(&state)?;
        if age > signed(self.schedule.refresh)
            && self.may_fetch(&state)
            && let Ok(turn) = self.fetching.clone().try_lock_owned()
        {
            tokio::spawn(self.clone().fetch_now(turn));
        }
        Some(state)
    }

    /// Whether the keys are fresh enough to be used. Fetches nothing.
    pub(crate) fn is_usable(&self) -> bool {
        self.age_within_tolerance(&self.state.load()).is_some()
    }

    fn age_within_tolerance(&self, state: &State) -> Option<SignedDuration> {
        let age = self.clock.now().duration_since(state.fetched_at?);
        (age <= signed(self.schedule.tolerance)).then_some(age)
    }

    /// Keys that are newer than those of `generation`, if the issuer has any. Asks it no more often than for unknown ids.
    pub(crate) async fn newer_than(self: &Arc<Self>, generation: u64) -> Option<Arc<State>> {
        if self.may_fetch(&self.state.load()) {
            self.fetch().await;
        }
        self.usable().filter(|state| state.generation != generation)
    }

    /// Fetches now, or waits for whoever is fetching.
    pub(crate) async fn fetch(self: &Arc<Self>) {
        let seen = self.state.load().attempted_at;
        let provider = self.clone();
        let task = tokio::spawn(async move {
            let turn = provider.fetching.clone().lock_owned().await;
            if provider.state.load().attempted_at == seen {
                provider.fetch_now(turn).await;
            }
        });
        if let Err(error) = task.await {
            tracing::error!(%error, "fetching an issuer's keys was broken off");
        }
    }

    fn may_fetch(&self, state: &State) -> bool {
        state
            .attempted_at
            .is_none_or(|last| self.clock.now().duration_since(last) >= signed(self.schedule.retry))
    }

    async fn fetch_now(self: Arc<Self>, _turn: OwnedMutexGuard<()>) {
        let fetched = match self.documents().await {
            Ok(document) => {
                KeySet::parse(&document).map(|keys| (keys, digest::digest(&digest::SHA256, &document)))
            }
            Err(why) => Err(why),
        };
        let now = self.clock.now();
        let mut state = State::clone(&self.state.load());
        state.attempted_at = Some(now);
        match fetched {
            Ok((keys, digest)) => {
                if state.digest.as_ref().map(AsRef::as_ref) != Some(digest.as_ref()) {
                    tracing::info!(issuer = %self.issuer, keys = keys.len(), "the issuer's keys are new");
                    state.generation += 1;
                    state.keys = Arc::new(keys);
                    state.digest = Some(digest);
                }
                state.fetched_at = Some(now);
                state.last_error = None;
            }
            Err(why) => {
                tracing::warn!(issuer = %self.issuer, error = %why, "the issuer's keys could not be fetched");
                state.last_error = Some(why);
            }
        }
        let outcome = if state.last_error.is_none() { "ok" } else { "error" };
        metrics::counter!("portcullis_oidc_key_fetches_total", "issuer" => self.issuer.clone(), "outcome" => outcome)
            .increment(1);
        self.state.store(Arc::new(state));
    }

    /// OpenID Connect Discovery 1.0 §4: the document, which must be this very issuer's, then the keys it points at.
    async fn documents(&self) -> Result<Bytes, String> {
        #[derive(Deserialize)]
        struct Discovery {
            issuer: String,
            jwks_uri: String,
        }
        let fetch = async |url: &Url| self.fetcher.fetch(url).await.map_err(|error| error.to_string());
        let document = fetch(&self.discovery).await?;
        let discovery: Discovery = serde_json::from_slice(&document)
            .map_err(|error| format!("{}: not a discovery document: {error}", self.discovery))?;
        if discovery.issuer != self.issuer {
            return Err(format!(
                "{}: it is for the issuer `{}`, not `{}`",
                self.discovery, discovery.issuer, self.issuer
            ));
        }
        let url = Url::parse(&discovery.jwks_uri)
            .map_err(|error| format!("{}: bad jwks_uri: {error}", self.discovery))?;
        if !is_fetchable(&url, self.allow_loopback_http) {
            return Err(format!("{}: the jwks_uri must be https", self.discovery));
        }
        fetch(&url).await
    }

    fn unavailable(&self) -> AuthenticationError {
        let state = self.state.load();
        AuthenticationError::unavailable(
            "oidc/issuer-unavailable",
            format!("the token's issuer `{}` cannot be reached, so the token cannot be judged", self.issuer),
            state.last_error.clone().unwrap_or_else(|| "no fetch yet".into()),
        )
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}
