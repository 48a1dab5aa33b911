//! Kubernetes for Portcullis: what a request asks for, and the way to the API server.
//!
//! [`KubeClassifier`] computes [`RequestInfo`](portcullis_core::RequestInfo) as the API server itself does, and refuses what could be
//! read two ways. [`Upstream`] sends a request on, as its caller: it strips what clients may not say, impersonates the
//! [`Identity`](portcullis_core::Identity) that the layers before it found, sends nothing that is not on record, and relays exec,
//! attach and port-forward through the stages of the request's [`StreamPlan`](portcullis_core::StreamPlan). [`GatewayCalls`] asks
//! the API server what a request would do.
//!
//! Nothing in the upstream is particular to Kubernetes but the headers. Here it stands behind a plain axum router, as the
//! reverse proxy of an internal service that trusts its `Impersonate-*` headers:
//!
//! ```
//! use axum::{Router, extract::Request, middleware::{self, Next}};
//! use portcullis_core::{Committed, Identity, Receipt};
//! use portcullis_kube::{ClusterSource, ExplicitCluster, Upstream, UpstreamOptions};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let orders = ExplicitCluster::new("https://orders.internal:8443/v2".parse()?);
//! let orders = Upstream::from_source(&ClusterSource::Explicit(Box::new(orders)), UpstreamOptions::new()).await?;
//!
//! let app: Router = Router::new().fallback_service(orders).layer(middleware::from_fn(|mut request: Request, next: Next| async {
//!     // In earnest: an authenticator, and a log whose receipt says that the request is on record.
//!     request.extensions_mut().insert(Identity { user: "shop-frontend".into(), ..Identity::default() });
//!     request.extensions_mut().insert(Committed::new(Receipt { origin: "orders".into(), index: 0, durable: true }));
//!     next.run(request).await
//! }));
//! # drop(app);
//! # Ok(())
//! # }
//! ```

mod calls;
mod classify;
#[cfg(test)]
mod testbed;
mod upgrade;
mod upstream;

pub use calls::GatewayCalls;
pub use classify::{KubeClassifier, UpstreamTarget};
pub use upstream::{
    ClusterSource, ExplicitCluster, Protocol, Upstream, UpstreamConfigError, UpstreamOptions, UpstreamSet,
};
