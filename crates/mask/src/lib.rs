//! A Tower layer that masks secret values in what a service answers, while it streams.
//!
//! ```
//! use axum::{Json, Router, routing::get};
//! use http::Request;
//! use http_body_util::BodyExt;
//! use portcullis_mask::{MaskConfig, MaskKey, MaskLayer, Rule, Rules};
//! use serde_json::json;
//! use tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Any service: whatever is called something with `password`, at any depth, leaves it as a token.
//! let rules = Rules::new(
//!     &MaskConfig { rules: vec![Rule::new("passwords").key("*password*")], ..MaskConfig::default() },
//!     MaskKey::generate()?,
//! )?;
//! let users = get(|| async { Json(json!([{ "name": "ada", "login": { "password": "hunter2" } }])) });
//! let app = Router::new().route("/users", users).layer(MaskLayer::new(rules));
//!
//! let response = app.oneshot(Request::get("/users").body(axum::body::Body::empty())?).await?;
//! let body = response.into_body().collect().await?.to_bytes();
//! let users: serde_json::Value = serde_json::from_slice(&body)?;
//! assert_eq!(users[0]["name"], "ada");
//! assert!(users[0]["login"]["password"].as_str().unwrap().starts_with("masked:passwords:"));
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//!
//! * [`MaskLayer`] masks answers: JSON by path, key and kind, plain text by [`Detector`], in constant memory.
//! * [`WriteGuardLayer`] refuses requests that would store a mask in the place of what it masks.
//! * [`RequestRedactor`] makes the copies of requests that others may keep, by the same rules.
//! * [`Masker`] is the JSON part by itself, [`TextMasker`] the part for text, without I/O: push chunks, get pieces.
//! * [`testing`] tests rules, a line each.
//!
//! The pack [`KubernetesSecrets`](Pack::KubernetesSecrets), on by default, knows what holds secrets in the Kubernetes API. Its
//! rules apply to requests that a classifier found to be for Kubernetes resources, and to nothing else.
//!
//! # Invariants
//!
//! * What must be masked and cannot be read is not sent: an answer is refused, or its body ends in an error.
//! * Nothing of a masked value is sent before the whole value is known to be masked, or not to be.
//! * Cutting a stream into other chunks never changes what comes out.
//! * What is not masked is handed on as it came: same bytes, same order, not copied by the [`Masker`].
//! * No error, log line or `Debug` output holds a byte of a body.
//!
//! # How objects are told apart
//!
//! A rule for a kind (`kinds: [Secret]`) covers an object if any of these says so: the requested resource, if the rule names
//! it; the object's own `kind`; the `kind` of the list it is an item of. The request decides at once. Otherwise a value that
//! such a rule may cover, in an object that has not said its kind yet, is held back with all that follows, until the kind is
//! known or the object ends; more than [`Limits::held_bytes`] ends the stream. Objects of the groups that the API server
//! serves itself are not waited for (their encoders write the kind first, or leave it to the list), except where they are
//! embedded in others. An object that takes back what was relied on ends the stream.
//!
//! # Tables
//!
//! Cells of a `Table` of `meta.k8s.io` have no paths. They are masked under columns that are called what a rule's paths end in, what its
//! `keys` match, or what it lists in [`columns`](Rule::columns); a column of another name that shows a masked path is not. A
//! cell is masked whatever object its row shows, and its token tells nothing but the rule, unless the rule compares everywhere.
//! At most 256 columns are remembered, those of a watch from one event to the next; a cell of any other counts as one of every
//! column that rules speak of.
//!
//! # What it cannot do
//!
//! Detectors know formats: they stop accidents, not somebody who encodes on purpose. What reaches a client through `exec`,
//! `portforward` or `proxy` is for policy to allow.

mod body;
mod detect;
mod error;
mod guard;
mod gzip;
mod json;
mod layer;
mod negotiate;
mod oracle;
mod piece;
mod protobuf;
mod redactor;
mod restore;
mod rules;
mod seek;
mod stage;
pub mod testing;
mod text;
mod token;
mod watch;
mod yaml;

pub use detect::Detector;
pub use error::{ConfigError, MaskError, MaskErrorKind};
pub use guard::{WriteGuardFuture, WriteGuardLayer, WriteGuardService};
pub use json::Masker;
pub use layer::{MaskFuture, MaskLayer, MaskService};
pub use piece::Piece;
pub use redactor::RequestRedactor;
pub use restore::{RestoreLayer, RestoreService};
pub use rules::{
    Action, Archives, Caller, Compare, Explanation, Limits, MaskConfig, OnWrite, Pack, Rule, Rules, Scope,
    Subjects, WhenUnknown, Where,
};
pub use text::TextMasker;
pub use token::MaskKey;
