//! YAML and CEL rules that allow, deny or hold a request.
//!
//! A [`Policy`] is read from YAML and compiled once; a [`GuardLayer`] asks it about each request. What it denies is
//! answered with 403 and never reaches the inner service; what it holds goes on with a [`Verdict`] that a hold layer
//! acts on; anything else passes. It serves any HTTP service, and knows the ways around a Kubernetes gateway: the
//! `baseline` rules are in force unless the policy says otherwise.
//!
//! ```
//! use axum::{Extension, Router, body::Body, routing::post};
//! use http::{Request, StatusCode};
//! use portcullis_core::{Identity, Refusal};
//! use portcullis_policy::{GuardLayer, Policy};
//! use tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let policy = Policy::from_yaml(r#"
//!     rules:
//!       - name: small-refunds-only
//!         match: { verbs: [post], path: "^/orders/[0-9]+/refunds$" }
//!         when: object.amount > 100
//!         action: deny
//!         message: refunds over 100 are for people
//! "#).unwrap();
//!
//! let shop = Router::new()
//!     .route("/orders/{id}/refunds", post(|| async { "refunded" }))
//!     .layer(GuardLayer::new(policy))
//!     .layer(Extension(Identity { user: "bot".into(), ..Identity::default() })); // an OidcLayer, in earnest
//!
//! let refund = |amount: u32| {
//!     Request::post("/orders/7/refunds")
//!         .header("content-type", "application/json")
//!         .body(Body::from(format!(r#"{{"amount": {amount}}}"#)))
//!         .unwrap()
//! };
//! assert_eq!(shop.clone().oneshot(refund(20)).await.unwrap().status(), StatusCode::OK);
//!
//! let refused = shop.oneshot(refund(2000)).await.unwrap();
//! assert_eq!(refused.status(), StatusCode::FORBIDDEN);
//! assert_eq!(refused.extensions().get::<Refusal>().unwrap().code(), "policy/denied");
//! # }
//! ```
//!
//! # Invariants
//!
//! * What cannot be read or evaluated counts against a request: it meets the rules that deny and hold, and none that
//!   allows; a body that readers could disagree on is refused.
//! * Rules that deny or hold read wide, rules that allow read narrow (see [`MatchConfig`]).
//! * All that can be wrong with a policy is found when it is compiled.
//!
//! [`Verdict`]: portcullis_core::Verdict

mod body;
mod config;
mod error;
mod expression;
mod facts;
mod guard;
mod matching;
mod policy;
mod text;

pub use config::{
    ActionName, ApproversConfig, BaselineConfig, DefaultAction, HoldConfig, MatchConfig, PolicyConfig,
    RuleConfig,
};
pub use error::{PolicyError, did_you_mean};
pub use expression::Expression;
pub use facts::{BodyState, Facts};
pub use guard::{Guard, GuardLayer};
pub use policy::{Policy, PolicyHandle, Unjudged};
pub use text::{DurationText, FieldCondition, Glob, Pattern, Verb, closest};
