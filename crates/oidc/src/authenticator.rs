//! From a bearer token to an identity.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use futures_util::future::join_all;
use jiff::SignedDuration;
use portcullis_core::{
    Authenticated, AuthenticationError, Authenticator, BoxFuture, Ended, Liveness, LivenessSource,
    SharedClock, SystemClock, Timestamp,
};
use serde_json::Value;

use crate::{
    cache::{TokenCache, TokenDigest, Verified, digest_of},
    compile,
    config::{ConfigError, OidcConfig, SigningAlgorithm},
    disabled::DisabledIdentities,
    fetch::{DocumentFetcher, HttpFetcher},
    issuer::Issuer,
    jws::{Unverified, shown},
    provider::{KeyProvider, Schedule},
};

/// Verifies JWTs of the configured issuers.
///
/// Keys are fetched when the first token of an issuer comes (or by [`fetch_keys`](Self::fetch_keys), which a server calls
/// before it says it is ready) and renewed by tasks of its own while tokens come; nothing needs to be spawned.
pub struct OidcAuthenticator {
    issuers: HashMap<String, TrustedIssuer>,
    cache: TokenCache,
    disabled: DisabledIdentities,
    clock: SharedClock,
    leeway: Duration,
}

struct TrustedIssuer {
    rules: Issuer,
    keys: Arc<KeyProvider>,
}

/// Builds an [`OidcAuthenticator`].
pub struct OidcAuthenticatorBuilder {
    config: OidcConfig,
    clock: SharedClock,
    disabled: DisabledIdentities,
    fetcher: Option<Arc<dyn DocumentFetcher>>,
}

/// What is known of an issuer's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IssuerHealth {
    /// The issuer.
    pub issuer: String,
    /// How many keys it publishes that can be used.
    pub keys: usize,
    /// When they were last fetched.
    pub fetched_at: Option<Timestamp>,
    /// Why the last fetch failed, if it did.
    pub last_error: Option<String>,
    /// Whether its tokens can be judged now.
    pub is_usable: bool,
}

impl OidcAuthenticator {
    /// For the issuers of `config`, with the system's clock.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with `config`; [`OidcConfig::validate`] yields all.
    pub fn new(config: OidcConfig) -> Result<Self, ConfigError> {
        Self::builder(config).build()
    }

    /// To choose a clock, a list of disabled identities or a way to fetch documents.
    pub fn builder(config: OidcConfig) -> OidcAuthenticatorBuilder {
        OidcAuthenticatorBuilder {
            config,
            clock: Arc::new(SystemClock),
            disabled: DisabledIdentities::new(),
            fetcher: None,
        }
    }

    /// Who is disabled.
    pub fn disabled(&self) -> &DisabledIdentities {
        &self.disabled
    }

    /// Fetches every issuer's keys now, all at once, and says how that went.
    pub async fn fetch_keys(&self) -> Vec<IssuerHealth> {
        join_all(self.issuers.values().map(|issuer| issuer.keys.fetch())).await;
        self.health()
    }

    /// How each issuer is doing, by name.
    pub fn health(&self) -> Vec<IssuerHealth> {
        let mut health: Vec<IssuerHealth> = self
            .issuers
            .values()
            .map(|issuer| {
                let state = issuer.keys.state();
                IssuerHealth {
                    issuer: issuer.rules.url.clone(),
                    keys: state.keys.len(),
                    fetched_at: state.fetched_at,
                    last_error: state.last_error.clone(),
                    is_usable: issuer.keys.is_usable(),
                }
            })
            .collect();
        health.sort_by(|one, other| one.issuer.cmp(&other.issuer));
        health
    }

    /// Whether any issuer of this authenticator is called `issuer`.
    pub fn trusts(&self, issuer: &str) -> bool {
        self.issuers.contains_key(issuer)
    }

    async fn judge(&self, token: &str) -> Result<Authenticated, AuthenticationError> {
        let digest = digest_of(token);
        let authenticated = match self.remembered(&digest) {
            Some(authenticated) => authenticated,
            None => self.verify(token, digest).await?,
        };
        let who = &authenticated.identity;
        if self.disabled.is_disabled(&who.issuer, &who.subject) {
            return Err(AuthenticationError::invalid(
                "oidc/disabled",
                "this identity has been disabled",
                format!("{} at {}", shown(&who.subject), who.issuer),
            ));
        }
        Ok(authenticated)
    }

    /// What was found out about the token before, if it still holds.
    fn remembered(&self, digest: &TokenDigest) -> Option<Authenticated> {
        let verified = self.cache.find(digest)?;
        let issuer = self.issuers.get(&verified.authenticated.identity.issuer)?;
        if self.clock.now() < verified.good_until
            && issuer.keys.usable().is_some_and(|state| state.generation == verified.generation)
        {
            return Some(verified.authenticated.clone());
        }
        self.cache.remove(digest);
        None
    }

    async fn verify(&self, token: &str, digest: TokenDigest) -> Result<Authenticated, AuthenticationError> {
        let unverified = Unverified::parse(token)?;
        let issuer = self.issuer_of(&unverified)?;
        let algorithm = issuer.algorithm(&unverified)?;
        // Nothing of this is verified yet, but it can only refuse.
        let expires_at = issuer.rules.check_envelope(&unverified.claims, self.clock.now(), self.leeway)?;

        let generation = issuer.check_signature(&unverified, algorithm).await?;

        let identity = issuer.rules.identity(&unverified.claims)?;
        let leeway = SignedDuration::try_from(self.leeway).unwrap_or_default();
        let good_until = expires_at.saturating_add(leeway).unwrap_or(Timestamp::MAX);
        let expiry = Expiry { clock: self.clock.clone(), at: good_until };
        let liveness = self.disabled.liveness(&identity.issuer, &identity.subject).and(Liveness::new(expiry));
        let authenticated = Authenticated { identity, expires_at: Some(expires_at), liveness };
        self.cache.insert(digest, Verified { authenticated: authenticated.clone(), generation, good_until });
        Ok(authenticated)
    }

    fn issuer_of(&self, unverified: &Unverified<'_>) -> Result<&TrustedIssuer, AuthenticationError> {
        let Some(Value::String(name)) = unverified.claims.get("iss") else {
            return Err(AuthenticationError::invalid(
                "oidc/unknown-issuer",
                "the token names no issuer (`iss`)",
                "no iss",
            ));
        };
        self.issuers.get(name).ok_or_else(|| {
            AuthenticationError::invalid(
                "oidc/unknown-issuer",
                format!("the token's issuer `{}` is not trusted by this gateway", shown(name)),
                shown(name),
            )
        })
    }
}

impl TrustedIssuer {
    /// Checks the signature by the issuer's keys, and yields their generation.
    async fn check_signature(
        &self,
        unverified: &Unverified<'_>,
        algorithm: SigningAlgorithm,
    ) -> Result<u64, AuthenticationError> {
        let id = unverified.key_id.as_deref();
        let invalid = |code, why| {
            let detail = format!("kid {}, algorithm {algorithm:?}", shown(id.unwrap_or("none")));
            Err(AuthenticationError::invalid(code, why, detail))
        };
        let mut state = self.keys.keys_for(id).await?;
        loop {
            let mut candidates = state.keys.candidates(id, algorithm).peekable();
            if candidates.peek().is_none() {
                return invalid(
                    "oidc/unknown-key",
                    "the token was signed by a key that its issuer does not publish",
                );
            }
            if candidates.any(|key| algorithm.verifies(unverified.signed, unverified.signature, key)) {
                return Ok(state.generation);
            }
            drop(candidates);
            // Some issuers make a new key and give it the old one's id.
            match self.keys.newer_than(state.generation).await {
                Some(newer) => state = newer,
                None => return invalid("oidc/bad-signature", "the token's signature is wrong"),
            }
        }
    }

    fn algorithm(&self, unverified: &Unverified<'_>) -> Result<SigningAlgorithm, AuthenticationError> {
        SigningAlgorithm::named(&unverified.algorithm)
            .filter(|algorithm| self.rules.algorithms.is_empty() || self.rules.algorithms.contains(algorithm))
            .ok_or_else(|| {
                let name = shown(&unverified.algorithm);
                AuthenticationError::invalid(
                    "oidc/algorithm",
                    format!("the token is signed with `{name}`, which is not accepted"),
                    name,
                )
            })
    }
}

impl Authenticator for OidcAuthenticator {
    fn authenticate<'a>(
        &'a self,
        token: &'a str,
    ) -> BoxFuture<'a, Result<Authenticated, AuthenticationError>> {
        Box::pin(async move {
            let judged = self.judge(token).await;
            let outcome = judged.as_ref().map_or_else(|error| error.code, |_| "ok");
            metrics::counter!("portcullis_oidc_tokens_total", "outcome" => outcome).increment(1);
            judged
        })
    }
}

impl fmt::Debug for OidcAuthenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OidcAuthenticator").field("issuers", &self.issuers.keys()).finish_non_exhaustive()
    }
}

impl OidcAuthenticatorBuilder {
    /// Where the time is read.
    #[must_use]
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// Who is disabled, if somebody else keeps that list too.
    #[must_use]
    pub fn disabled(mut self, disabled: DisabledIdentities) -> Self {
        self.disabled = disabled;
        self
    }

    /// How documents are fetched; `certificateAuthority` and `fetchTimeout` are then its own business.
    #[must_use]
    pub fn fetcher(mut self, fetcher: Arc<dyn DocumentFetcher>) -> Self {
        self.fetcher = Some(fetcher);
        self
    }

    /// The authenticator.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with the configuration, or the system's trusted certificates cannot be read.
    pub fn build(self) -> Result<OidcAuthenticator, ConfigError> {
        let config = self.config;
        if let Some(error) = config.validate().into_iter().next() {
            return Err(error);
        }
        let schedule = Schedule {
            refresh: config.key_refresh,
            tolerance: config.outage_tolerance,
            retry: config.key_retry,
        };
        let mut issuers = HashMap::new();
        for (n, jwt) in config.jwt.iter().enumerate() {
            let wrong = |what: &str, message: String| ConfigError::at(format!("jwt.{n}{what}"), message);
            let mut errors = Vec::new();
            let Some(rules) = compile::issuer(jwt, &format!("jwt.{n}"), &mut errors) else {
                return Err(errors.pop().unwrap_or_else(|| wrong("", "cannot be used".into())));
            };
            let fetcher: Arc<dyn DocumentFetcher> = match &self.fetcher {
                Some(fetcher) => fetcher.clone(),
                None => {
                    let authority = jwt.issuer.certificate_authority.as_deref();
                    let fetcher = HttpFetcher::new(authority, config.fetch_timeout);
                    Arc::new(fetcher.map_err(|why| wrong(".issuer.certificateAuthority", why))?)
                }
            };
            let discovery = compile::discovery_url(jwt, &rules)
                .ok_or_else(|| wrong(".issuer.discoveryURL", "not a URL".into()))?;
            let keys = KeyProvider::new(
                rules.url.clone(),
                discovery,
                jwt.issuer.insecure_allow_loopback_http,
                fetcher,
                self.clock.clone(),
                schedule,
            );
            issuers.insert(rules.url.clone(), TrustedIssuer { rules, keys: Arc::new(keys) });
        }
        Ok(OidcAuthenticator {
            issuers,
            cache: TokenCache::new(config.token_cache),
            disabled: self.disabled,
            clock: self.clock,
            leeway: config.leeway,
        })
    }
}

/// Ends when a token runs out.
struct Expiry {
    clock: SharedClock,
    at: Timestamp,
}

/// The timer runs on a clock that stands still while the machine sleeps, so the wall clock is looked at this often.
const LOOK: Duration = Duration::from_secs(60);

impl LivenessSource for Expiry {
    fn ended(&self) -> BoxFuture<'static, Ended> {
        let (clock, at) = (self.clock.clone(), self.at);
        Box::pin(async move {
            loop {
                let left = at.duration_since(clock.now());
                match Duration::try_from(left) {
                    Ok(left) if !left.is_zero() => tokio::time::sleep(left.min(LOOK)).await,
                    _ => return Ended::Expired,
                }
            }
        })
    }
}
