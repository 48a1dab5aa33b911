//! A Tower layer that turns a bearer JWT into a verified identity.
//!
//! Any number of OpenID Connect issuers, configured as Kubernetes' `AuthenticationConfiguration` is, with presets for
//! GitHub Actions, GitLab, Kubernetes service accounts, Google, Entra ID, Okta, Keycloak and Dex. A request without a
//! token that holds up is refused with 401 and a reason; there is no "try without".
//!
//! ```
//! use std::sync::Arc;
//!
//! use axum::{Extension, Router, body::Body, http::{Request, StatusCode}, routing::get};
//! use portcullis_core::Identity;
//! use portcullis_oidc::{OidcAuthenticator, OidcConfig, OidcLayer};
//! use tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Which issuers, and what their claims mean; `OidcConfig` deserialises from YAML or JSON.
//! let config: OidcConfig = serde_yaml::from_str(r#"
//! jwt:
//!   - preset: github-actions
//!     issuer: { audiences: [orders] }
//!     claimValidationRules:
//!       - { claim: repository_owner, requiredValue: octo-org }
//! "#)?;
//! let authenticator = Arc::new(OidcAuthenticator::new(config)?);
//!
//! let app = Router::new()
//!     .route("/orders", get(|Extension(who): Extension<Identity>| async move { who.user }))
//!     .layer(OidcLayer::new(authenticator));
//!
//! let response = app.oneshot(Request::get("/orders").body(Body::empty())?).await?;
//! assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
//! assert!(response.headers()["www-authenticate"].to_str()?.contains("no bearer token"));
//! # Ok(())
//! # }
//! ```
//!
//! # Invariants
//!
//! * A token is judged by the issuer it names, by keys that issuer publishes, with algorithms the key's type allows. There
//!   is no `none` and no HMAC. What could be read two ways (duplicate members, two credentials) is refused.
//! * The token is taken off the request, is never logged, and is kept nowhere: what is remembered is its digest.
//! * What cannot be judged (an issuer that is down for longer than tolerated) is refused with 503, never let through.
//! * Disabling an identity ends its open streams at once, and so does a token's expiry.

mod authenticator;
mod cache;
mod cel;
mod compile;
mod config;
mod disabled;
mod fetch;
mod issuer;
mod jws;
mod keys;
mod layer;
mod preset;
mod provider;
#[cfg(test)]
mod tests;

pub use authenticator::{IssuerHealth, OidcAuthenticator, OidcAuthenticatorBuilder};
pub use config::{
    AudienceMatchPolicy, ClaimMappings, ClaimValidationRule, ConfigError, ExtraMapping, IssuerConfig,
    JwtConfig, Mapping, OidcConfig, PrefixedMapping, SigningAlgorithm, UserValidationRule,
};
pub use disabled::DisabledIdentities;
pub use fetch::{DocumentFetcher, FetchError};
pub use layer::{OidcLayer, OidcService};
pub use preset::Preset;
