//! An OpenID provider with a login page and no passwords.

mod authorize;
mod client;
mod page;
mod params;
mod persona;
mod state;
mod token;

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State as Shared,
    routing::{get, post},
};
use http::Request;
use portcullis_core::{Body, SharedClock, SystemClock};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::ServiceExt;

use self::state::{Keys, State};
pub use self::{client::OidcClient, persona::Persona};
use crate::{CertificateAuthority, TestkitError, listen::Listening};

struct Core {
    issuer: String,
    clock: SharedClock,
    personas: Vec<Persona>,
    clients: Vec<OidcClient>,
    agent_secrets: HashMap<String, String>,
    audience: String,
    ttl: Duration,
    keys: Mutex<Keys>,
    state: Mutex<State>,
}

impl Core {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_enabled(&self, persona: &str) -> bool {
        !self.state().disabled.contains(persona)
    }

    fn client(&self, id: &str) -> Option<&OidcClient> {
        self.clients.iter().find(|client| client.id == id)
    }

    fn agent_secret(&self, id: &str) -> Option<&str> {
        self.agent_secrets.get(id).map(String::as_str)
    }

    /// A token about a persona; `more` adds claims and replaces the usual ones, and a null removes one.
    fn sign(
        &self,
        persona: &str,
        audience: &str,
        ttl: Duration,
        more: &Value,
    ) -> Result<String, TestkitError> {
        let claims = self.claims(persona, audience, ttl, more)?;
        self.keys().es256.sign(&claims)
    }

    fn claims(
        &self,
        persona: &str,
        audience: &str,
        ttl: Duration,
        more: &Value,
    ) -> Result<Value, TestkitError> {
        let known = self.personas.iter().find(|known| known.id == persona);
        let mut claims = known.ok_or_else(|| TestkitError::UnknownPersona(persona.into()))?.claims();
        let now = self.clock.now().as_second();
        claims["iss"] = json!(self.issuer);
        claims["aud"] = json!(audience);
        claims["iat"] = json!(now);
        claims["exp"] = json!(now.saturating_add_unsigned(ttl.as_secs()));
        claims["jti"] = json!(uuid::Uuid::new_v4().to_string());
        for (name, value) in more.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        if let Some(claims) = claims.as_object_mut() {
            claims.retain(|_, value| !value.is_null());
        }
        Ok(claims)
    }
}

/// An OpenID provider on loopback: discovery, JWKS, authorization code with PKCE behind a login page, refresh tokens, client
/// credentials for agents, userinfo. Clones share it; the last one closes its listener.
#[derive(Clone)]
pub struct IdentityProvider {
    core: Arc<Core>,
    authority: CertificateAuthority,
    listening: Arc<Listening>,
}

impl IdentityProvider {
    /// A provider yet to be configured.
    pub fn builder() -> IdentityProviderBuilder {
        IdentityProviderBuilder::default()
    }

    /// A provider on a free loopback port, with the demonstration's three personas and the client `portcullis`.
    ///
    /// # Errors
    ///
    /// As [`IdentityProviderBuilder::start`].
    pub async fn start() -> Result<Self, TestkitError> {
        Self::builder().start().await
    }

    /// Its issuer: `https://127.0.0.1:<port>`.
    pub fn issuer(&self) -> &str {
        &self.core.issuer
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.listening.address
    }

    /// Who signed its certificate.
    pub fn authority(&self) -> &CertificateAuthority {
        &self.authority
    }

    /// The people it knows.
    pub fn personas(&self) -> &[Persona] {
        &self.core.personas
    }

    /// The client secret of an agent, for the client credentials grant; its client id is its own.
    pub fn agent_secret(&self, persona: &str) -> Option<&str> {
        self.core.agent_secret(persona)
    }

    /// An ID token, as if the persona had just signed in. A disabled persona's tokens can be minted too: that is how a test
    /// gets one that was issued before.
    ///
    /// # Errors
    ///
    /// [`TestkitError::UnknownPersona`].
    pub fn mint(&self, persona: &str, audience: &str, ttl: Duration) -> Result<String, TestkitError> {
        self.core.sign(persona, audience, ttl, &Value::Null)
    }

    /// An ID token with claims of your choice added or replaced (a null removes one), signed with ES256, or RS256 if `rsa`.
    ///
    /// # Errors
    ///
    /// [`TestkitError::UnknownPersona`].
    pub fn mint_with(
        &self,
        persona: &str,
        audience: &str,
        ttl: Duration,
        claims: &Value,
        rsa: bool,
    ) -> Result<String, TestkitError> {
        let claims = self.core.claims(persona, audience, ttl, claims)?;
        let keys = self.core.keys();
        if rsa { keys.rs256.sign(&claims) } else { keys.es256.sign(&claims) }
    }

    /// Signs with new keys from now on. The old ones stay published.
    ///
    /// # Errors
    ///
    /// [`TestkitError::Certificate`] if keys cannot be made.
    pub fn rotate_keys(&self) -> Result<(), TestkitError> {
        self.core.keys().rotate()
    }

    /// Stops publishing keys that were rotated out.
    pub fn forget_old_keys(&self) {
        self.core.keys().retired.clear();
    }

    /// No new tokens for this persona: no sign-in, no refresh, no userinfo. Tokens that are out stay what they are.
    pub fn disable(&self, persona: &str) {
        self.core.state().disabled.insert(persona.to_owned());
    }

    /// Undoes [`disable`](Self::disable).
    pub fn enable(&self, persona: &str) {
        self.core.state().disabled.remove(persona);
    }
}

impl std::fmt::Debug for IdentityProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdentityProvider").field("issuer", &self.core.issuer).finish_non_exhaustive()
    }
}

/// Configures an [`IdentityProvider`].
#[must_use]
pub struct IdentityProviderBuilder {
    authority: Option<CertificateAuthority>,
    clock: SharedClock,
    bind: SocketAddr,
    personas: Vec<Persona>,
    clients: Vec<OidcClient>,
    audience: String,
    ttl: Duration,
}

impl Default for IdentityProviderBuilder {
    fn default() -> Self {
        Self {
            authority: None,
            clock: Arc::new(SystemClock),
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            personas: Persona::demo(),
            clients: vec![OidcClient::native("portcullis")],
            audience: "portcullis".into(),
            ttl: Duration::from_secs(3600),
        }
    }
}

impl IdentityProviderBuilder {
    /// Who signs its certificate; by default an authority of its own.
    pub fn authority(mut self, authority: CertificateAuthority) -> Self {
        self.authority = Some(authority);
        self
    }

    /// What time it is; by default the system's.
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// Where to listen; by default a free port on loopback.
    pub fn bind(mut self, address: SocketAddr) -> Self {
        self.bind = address;
        self
    }

    /// Whom it knows; by default [`Persona::demo`].
    pub fn personas(mut self, personas: Vec<Persona>) -> Self {
        self.personas = personas;
        self
    }

    /// One more client, or another one in place of that of the same id. There is `portcullis`, a native one, by default.
    pub fn client(mut self, client: OidcClient) -> Self {
        self.clients.retain(|known| known.id != client.id);
        self.clients.push(client);
        self
    }

    /// For whom an agent's tokens are if it does not say; by default `portcullis`.
    pub fn audience(mut self, audience: &str) -> Self {
        self.audience = audience.into();
        self
    }

    /// How long ID tokens live; by default an hour.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// A provider that listens.
    ///
    /// # Errors
    ///
    /// [`TestkitError`] if the address is taken, or keys cannot be made.
    pub async fn start(self) -> Result<IdentityProvider, TestkitError> {
        let listener = TcpListener::bind(self.bind).await?;
        let authority = match self.authority {
            Some(authority) => authority,
            None => CertificateAuthority::new("portcullis-testkit")?,
        };
        let agents = self.personas.iter().filter(|persona| persona.is_agent);
        let core = Arc::new(Core {
            issuer: format!("https://{}", listener.local_addr()?),
            clock: self.clock,
            agent_secrets: agents.map(|agent| (agent.id.clone(), token::new_secret())).collect(),
            personas: self.personas,
            clients: self.clients,
            audience: self.audience,
            ttl: self.ttl,
            keys: Mutex::new(Keys::new()?),
            state: Mutex::default(),
        });
        let router = router(core.clone());
        let service = tower::service_fn(move |request: Request<Body>| {
            let answered = router.clone().oneshot(request.map(axum::body::Body::new));
            async { answered.await.map(|response| response.map(Body::new)) }
        });
        let listening = Listening::new(listener, authority.server_config()?, service)?;
        Ok(IdentityProvider { core, authority, listening: Arc::new(listening) })
    }
}

impl std::fmt::Debug for IdentityProviderBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdentityProviderBuilder").field("bind", &self.bind).finish_non_exhaustive()
    }
}

fn router(core: Arc<Core>) -> Router {
    Router::new()
        .route("/.well-known/openid-configuration", get(discovery))
        .route("/jwks", get(jwks))
        .route("/authorize", get(authorize::show).post(authorize::choose))
        .route("/token", post(token::issue))
        .route("/userinfo", get(token::userinfo).post(token::userinfo))
        .with_state(core)
}

/// OpenID Connect Discovery §4.
async fn discovery(Shared(core): Shared<Arc<Core>>) -> Json<Value> {
    let at = |path: &str| format!("{}/{path}", core.issuer);
    Json(json!({
        "issuer": core.issuer, "authorization_endpoint": at("authorize"), "token_endpoint": at("token"),
        "userinfo_endpoint": at("userinfo"), "jwks_uri": at("jwks"),
        "response_types_supported": ["code"], "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
        "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256", "RS256"],
        "token_endpoint_auth_methods_supported": ["none", "client_secret_basic", "client_secret_post"],
        "code_challenge_methods_supported": ["S256"], "scopes_supported": ["openid", "profile", "email", "groups", "offline_access"],
        "claims_supported": ["sub", "name", "preferred_username", "email", "email_verified", "groups"],
        "authorization_response_iss_parameter_supported": true,
    }))
}

async fn jwks(Shared(core): Shared<Arc<Core>>) -> Json<Value> {
    let keys: Vec<_> = core.keys().published().map(|key| key.jwk.clone()).collect();
    Json(json!({"keys": keys}))
}
