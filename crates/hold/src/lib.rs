//! A Tower layer that parks a risky request until people decide.
//!
//! A request whose [`Verdict`] says *hold* waits on its open connection while people look at a redacted copy of it. Once
//! enough of them agree, it goes on, once; a client that is told to come back (`429` with `Retry-After`, on which many
//! clients resend by themselves) lands on the same ticket.
//!
//! ```
//! use std::sync::Arc;
//!
//! use axum::{Extension, Router, routing::post};
//! use http::{Request, StatusCode};
//! use portcullis_core::{Approvers, Decision, HoldTerms, Identity, MemorySink, Verdict};
//! use portcullis_hold::{HoldLayer, MemoryTicketStore, TicketQuery, Tickets};
//! use tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! # let person = |name: &str, groups: &[&str]| Identity {
//! #     issuer: "https://idp".into(), subject: name.into(), user: name.into(),
//! #     groups: groups.iter().map(|group| group.to_string()).collect(), ..Identity::default()
//! # };
//! let tickets = Tickets::new(Arc::new(MemoryTicketStore::new()), Arc::new(MemorySink::default()));
//!
//! // Left by a policy layer, and an authenticating one, in earnest.
//! let approvers = Approvers { groups: vec!["finance".into()], ..Approvers::default() };
//! let terms = HoldTerms { approvers, quorum: 1, hold_for: None, expires_after: None };
//! let held = Verdict { decision: Decision::Hold(terms), ..Verdict::default() };
//!
//! let shop = Router::new()
//!     .route("/refunds", post(|| async { "refunded" }))
//!     .layer(HoldLayer::new(tickets.clone()))
//!     .layer(Extension(held))
//!     .layer(Extension(person("bot", &[])));
//!
//! let answer = tokio::spawn(shop.oneshot(Request::post("/refunds").body("{}".to_owned()).unwrap()));
//!
//! // Somebody from finance looks at what waits, and approves it. The bot never could.
//! let mut changes = tickets.changes();
//! let finance = person("ann", &["finance"]);
//! changes.recv().await.unwrap();
//! let waiting = tickets.list(&finance, &TicketQuery::pending()).await.unwrap();
//! assert_eq!(waiting[0].request.command, "POST /refunds");
//! tickets.approve(&waiting[0].id, &finance, None).await.unwrap();
//!
//! assert_eq!(answer.await.unwrap().unwrap().status(), StatusCode::OK);
//! # }
//! ```
//!
//! # Invariants
//!
//! * An approval is good for one request: the one whose digest people saw, of the identity that asked, once.
//! * At most once: if nobody knows whether an approval was used, it was.
//! * Nothing is sent on without a client that waits for it, and nothing before the approval is on record.
//! * A ticket keeps redacted copies only.
//!
//! [`Verdict`]: portcullis_core::Verdict

mod answers;
mod claimed;
mod conformance;
mod copy;
mod diff;
mod digest;
mod error;
mod layer;
mod notify;
mod parked;
mod people;
mod store;
mod ticket;
mod tickets;

#[cfg(test)]
mod tests;

pub use conformance::conformance;
pub use copy::KeepNothing;
pub use diff::{Change, diff};
pub use error::{StoreError, TicketError};
pub use layer::{Hold, HoldLayer};
pub use notify::{LogNotifier, Notice, Notifier};
pub use store::{MemoryTicketStore, TicketQuery, TicketStore};
pub use ticket::{Claim, HeldBody, HeldRequest, PersonalApproval, Ticket, TicketPreview, TicketState};
pub use tickets::{Tickets, TicketsBuilder};
