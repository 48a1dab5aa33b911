//! An in-memory API server, identity provider and clock, for tests and demonstrations.
//!
//! Everything is on loopback and in memory; nothing is written anywhere. The API server is a *small honest double*: what it
//! does it does as the real one (RBAC, conflicts, patches, watches, tables), and what it cannot do (server-side apply,
//! protobuf answers, SPDY) it refuses with a `Status` that says so. What the control plane does over time happens at once.
//!
//! ```
//! use http::{Request, StatusCode};
//! use portcullis_core::Body;
//! use portcullis_testkit::ApiServer;
//! use tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // On a free loopback port over TLS, for any client: hand it `server.kubeconfig(…)` or `server.url()` and `server.authority()`.
//! let server = ApiServer::builder().seed_demo().start().await?;
//!
//! // Or without network, as a tower service.
//! let request = Request::get("/api/v1/namespaces/shop/pods")
//!     .header("authorization", format!("Bearer {}", server.admin_token().expose()))
//!     .body(Body::empty())?;
//! let response = server.service().oneshot(request).await?;
//! assert_eq!(response.status(), StatusCode::OK);
//!
//! // What reached it? Tests of a gateway ask this to prove that a refused request did not.
//! assert_eq!(server.seen()[0].path(), "/api/v1/namespaces/shop/pods");
//! # Ok(())
//! # }
//! ```

mod clock;
mod error;
mod idp;
mod jwt;
mod listen;
mod server;
mod tls;

pub use clock::TestClock;
pub use error::TestkitError;
pub use idp::{IdentityProvider, IdentityProviderBuilder, OidcClient, Persona};
pub use server::{ApiServer, ApiServerBuilder, ApiService, Credential, SeenRequest, Token, UserInfo};
pub use tls::{CertificateAuthority, ClientCertificate};
