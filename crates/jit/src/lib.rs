//! Credentials that exist for exactly the length of a task.
//!
//! An OIDC token goes in, a **grant** comes out (OAuth 2.0 Token Exchange, RFC 8693): a signed token that allows some things, for
//! some minutes, and ends at once when it is revoked, when its heartbeat stops, or when it expires, taking open streams with
//! it. [`token_service`] gives grants out; [`JitLayer`] believes and enforces them.
//!
//! ```
//! use std::{convert::Infallible, sync::Arc};
//! use axum::http::{Request, Response, StatusCode};
//! use portcullis_core::{Body, Identity, MemorySink, ResourceRule, SystemClock};
//! use portcullis_jit::{ForWhom, GrantRequest, Grants, JitLayer, MemoryGrantStore, Profile, SigningKey};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! // Any HTTP service: a grant for reading reports, and nothing else.
//! let profile: Profile = serde_json::from_value(serde_json::json!({
//!     "name": "reports",
//!     "forWhom": { "users": ["nightly"] },
//!     "rules": [{ "verbs": ["get"], "nonResourceURLs": ["/reports/*"] }],
//! })).unwrap();
//! let grants = Grants::new(
//!     "https://shop.example/oauth",
//!     SigningKey::ephemeral().unwrap(),
//!     vec![profile],
//!     Arc::new(MemoryGrantStore::default()),
//!     Arc::new(MemorySink::default()),
//!     Arc::new(SystemClock),
//! );
//! let shop = ServiceBuilder::new()
//!     .layer(JitLayer::new(grants.clone()))
//!     .service(service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::from("ok"))) }));
//!
//! let nightly = Identity { user: "nightly".into(), ..Identity::default() };
//! let wanted = GrantRequest {
//!     profile: "reports".into(), task: None, ttl: None, rules: None, certificate_sha256: None, audit_id: None,
//! };
//! let issued = grants.issue(&nightly, wanted).await.unwrap();
//! let get = |path: &str| {
//!     let bearer = format!("Bearer {}", issued.token);
//!     Request::get(path).header("authorization", bearer).body(Body::empty()).unwrap()
//! };
//! assert_eq!(shop.clone().oneshot(get("/reports/7")).await.unwrap().status(), StatusCode::OK);
//! assert_eq!(shop.clone().oneshot(get("/orders/7")).await.unwrap().status(), StatusCode::FORBIDDEN);
//! grants.revoke(&issued.grant.id, &nightly, "done").await.unwrap();
//! assert_eq!(shop.oneshot(get("/reports/7")).await.unwrap().status(), StatusCode::UNAUTHORIZED);
//! # }
//! ```
//!
//! # Invariants
//!
//! * A grant is on record before anybody has it, and is never wider than its profile.
//! * A grant that has ended stays ended: no clock, restart or replica brings it back, and no store that fails while it ends.
//! * A grant is believed for five seconds at most without news from the store; then a store that does not answer means 503.
//! * What a grant does not allow does not pass, but for what [`JitLayer::always_allow`] was told.
//! * Nothing secret is kept: the renewal secret as its SHA-256, the token not at all.

mod active;
mod builder;
mod grants;
mod key;
mod layer;
mod profile;
mod scope;
mod service;
mod store;
mod sweep;
mod token;
mod verify;

pub use builder::GrantsBuilder;
pub use grants::{GrantError, GrantRequest, Grants, IssuedGrant};
pub use key::{KeyError, SigningKey};
pub use layer::{Jit, JitLayer};
pub use profile::{ForWhom, Profile, ProfileError};
pub use scope::{covers, kubernetes_discovery};
pub use service::{metadata, token_service};
pub use store::{GrantRecord, GrantStore, MemoryGrantStore, Revocation, StoreError};

#[cfg(test)]
mod tests;
