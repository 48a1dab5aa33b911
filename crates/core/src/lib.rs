//! The vocabulary that Portcullis layers share.
//!
//! No layer crate depends on another; they meet here. A layer reads what outer layers left in the request's
//! [extensions](http::Extensions) (a [`RequestInfo`], an [`Identity`], a [`Grant`], a [`Verdict`], an [`Approval`]),
//! adds its own, or answers with a [`Refusal`]. Nothing here needs an async runtime or a Kubernetes client.
//!
//! ```
//! use http::{Request, StatusCode};
//! use portcullis_core::{Body, Reason, Refusal, RequestInfo, refuse};
//!
//! // A layer of your own, for any HTTP service: what is this request, and may it pass?
//! let request = Request::post("/orders/7/refund").body(Body::empty()).unwrap();
//! let info = RequestInfo::of(&request);
//! assert_eq!((info.verb.as_str(), info.path.as_str()), ("post", "/orders/7/refund"));
//!
//! let refusal = Refusal::new(Reason::Forbidden, "policy/refunds", "refunds need a second pair of eyes")
//!     .advice("ask on #payments");
//! let response = refuse(request.extensions(), refusal);
//! assert_eq!(response.status(), StatusCode::FORBIDDEN);
//! assert_eq!(response.headers()["content-type"], "application/problem+json");
//! ```
//!
//! The same in a plain axum service, where what outer layers left says who is asking:
//!
//! ```
//! use axum::{Router, extract::Request, middleware::{Next, from_fn}, response::Response, routing::post};
//! use portcullis_core::{Body, Identity, Reason, Refusal, refuse};
//! use tower::ServiceExt as _;
//!
//! async fn four_eyes(request: Request, next: Next) -> Response {
//!     match request.extensions().get::<Identity>() {
//!         Some(identity) if identity.groups.iter().any(|group| group == "cashiers") => next.run(request).await,
//!         _ => {
//!             let refusal = Refusal::new(Reason::Forbidden, "shop/refunds", "only cashiers refund");
//!             refuse(request.extensions(), refusal).map(axum::body::Body::new)
//!         }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let shop = Router::new().route("/orders/{id}/refund", post(async || "refunded")).layer(from_fn(four_eyes));
//! let request = http::Request::post("/orders/7/refund").body(Body::empty()).unwrap();
//! let response = shop.oneshot(request).await.unwrap();
//! assert_eq!(response.status(), 403);
//! assert_eq!(response.headers()["content-type"], "application/problem+json");
//! // Outer layers and metrics need not parse the body to know why.
//! assert_eq!(response.extensions().get::<Refusal>().unwrap().code(), "shop/refunds");
//! # }
//! ```
//!
//! # Invariants
//!
//! * A refusal is a *response*, never a service error, and leaves its typed reason in the response's extensions.
//! * Traits that cross crates are object safe and return boxed futures; only `Service`s are generic.
//! * Time comes from a [`Clock`]; nothing here reads the system's.

mod approval;
mod body;
mod classify;
mod clock;
mod commit;
mod connection;
mod credential;
mod event;
mod grant;
mod identity;
mod live;
mod redact;
mod refusal;
mod request_info;
mod stream;
mod trail;
mod verdict;
mod words;

pub use approval::Approval;
pub use body::{Body, BoxError, BufferedBody};
pub use classify::{Classifier, HttpClassifier};
pub use clock::{Clock, SharedClock, SystemClock, Timestamp};
pub use commit::{AuditId, CommitHook, CommitHooks, Committed, IntentLookup, Receipt};
pub use connection::Connection;
pub use credential::BearerToken;
pub use event::{Event, EventKind, EventSink, MemorySink, RecordError};
pub use grant::{Grant, ResourceRule};
pub use identity::{
    Actor, Authenticated, AuthenticationError, Authenticator, Ended, Identity, Liveness, LivenessSource,
};
pub use live::{LiveError, LiveObjects, Preview, ProposedRequest, UnmaskedCopy, UnmaskedObjects};
pub use redact::{RedactedCopy, Redactor};
pub use refusal::{Cause, ErrorFormat, Reason, Refusal, refuse};
pub use request_info::RequestInfo;
pub use stream::{
    Channel, Direction, StreamAbort, StreamEnd, StreamFrame, StreamInfo, StreamPlan, StreamStage,
    StreamStageFactory, StreamTransport,
};
pub use trail::{Trail, TrailState};
pub use verdict::{Approvers, Decision, HoldTerms, Verdict};

/// A boxed, sendable future: what the object-safe traits of this crate return.
pub type BoxFuture<'a, T> = futures_util::future::BoxFuture<'a, T>;
