//! Keeps what must survive a restart, in one SQLite file: the grants of `portcullis-jit`, the tickets of `portcullis-hold`,
//! and who is disabled.
//!
//! [`SqliteStore`] implements [`GrantStore`] and [`TicketStore`]. A grant that was revoked before a crash is revoked after it, and
//! one that was good is still good; an approval that was used stays used, and one that was given still waits for its request.
//!
//! ```
//! use std::{convert::Infallible, path::Path, sync::Arc};
//!
//! use http::{Request, Response, StatusCode};
//! use portcullis_core::{Body, Identity, MemorySink, SystemClock};
//! use portcullis_jit::{GrantRequest, Grants, JitLayer, Profile, SigningKey};
//! use portcullis_store::SqliteStore;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! // A shop that has nothing to do with Kubernetes, as it starts up.
//! async fn start(state: &Path) -> Result<Grants, Box<dyn std::error::Error>> {
//!     let profile: Profile = serde_json::from_value(serde_json::json!({
//!         "name": "reports",
//!         "forWhom": { "users": ["nightly"] },
//!         "rules": [{ "verbs": ["get"], "nonResourceURLs": ["/reports/*"] }],
//!     }))?;
//!     let key = SigningKey::open(&state.join("grants.pem"))?;
//!     let store = SqliteStore::open(state.join("state.db")).await?;
//!     let events = Arc::new(MemorySink::default());
//!     Ok(Grants::new("https://shop.example/oauth", key, vec![profile], Arc::new(store), events, Arc::new(SystemClock)))
//! }
//!
//! async fn report(grants: Grants, token: &str) -> StatusCode {
//!     let shop = ServiceBuilder::new()
//!         .layer(JitLayer::new(grants))
//!         .service(service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::from("ok"))) }));
//!     let bearer = format!("Bearer {token}");
//!     let request = Request::get("/reports/7").header("authorization", bearer).body(Body::empty()).unwrap();
//!     shop.oneshot(request).await.unwrap().status()
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let state = directory.path();
//! let nightly = Identity { user: "nightly".into(), ..Identity::default() };
//! let wanted = |task: &str| GrantRequest {
//!     profile: "reports".into(), task: Some(task.into()), ttl: None, rules: None, certificate_sha256: None, audit_id: None,
//! };
//!
//! let grants = start(state).await?;
//! let (kept, revoked) = (grants.issue(&nightly, wanted("a")).await?, grants.issue(&nightly, wanted("b")).await?);
//! grants.revoke(&revoked.grant.id, &nightly, "done").await?;
//! drop(grants);
//!
//! let grants = start(state).await?;
//! assert_eq!(report(grants.clone(), &kept.token).await, StatusCode::OK);
//! assert_eq!(report(grants, &revoked.token).await, StatusCode::UNAUTHORIZED);
//! # Ok(())
//! # }
//! ```
//!
//! # Invariants
//!
//! * What a method says it did is on disk (`synchronous=FULL`) when it says so.
//! * A change is one compare-and-set statement: of any number of rivals, in this process or another, one wins.
//! * A file that is not ours, damaged, or written by a newer version is refused, and left as it is.
//! * No secret is kept: digests of renewal secrets, and redacted copies, are all that comes in.
//!
//! [`GrantStore`]: portcullis_jit::GrantStore
//! [`TicketStore`]: portcullis_hold::TicketStore

mod error;
mod grants;
mod identities;
mod record;
mod schema;
mod sqlite;
mod tickets;

pub use error::{HealthError, OpenError, OpenErrorKind};
pub use identities::{DisabledIdentity, IdentitiesError};
pub use sqlite::SqliteStore;

#[cfg(test)]
mod tests;
