//! A shop in which somebody from finance must agree to each refund, while the client waits.
//!
//! `cargo run -p portcullis-examples --example hold`

use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::Path,
    routing::{get, post},
};
use portcullis_core::{Approvers, Decision, HoldTerms, Identity, MemorySink, Verdict};
use portcullis_examples::{InsecureNames, serve};
use portcullis_hold::{HoldLayer, MemoryTicketStore, TicketQuery, Tickets};
use portcullis_oidc::OidcLayer;

type Me = Extension<Identity>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tickets = Tickets::new(Arc::new(MemoryTicketStore::new()), Arc::new(MemorySink::default()));

    // In earnest a policy layer leaves the verdict.
    let approvers = Approvers { groups: vec!["finance".into()], ..Approvers::default() };
    let terms = HoldTerms { approvers, quorum: 1, hold_for: None, expires_after: None };
    let decision = Decision::Hold(terms);
    let held = Verdict { decision, rule: Some("refunds".into()), ..Verdict::default() };
    let refunds = Router::new()
        .route("/refunds", post(|| async { "refunded\n" }))
        .layer(HoldLayer::new(tickets.clone()))
        .layer(Extension(held));

    let (list, approve) = (tickets.clone(), tickets);
    let decisions = Router::new()
        .route(
            "/waiting",
            get(|Extension(me): Me| async move {
                let found = list.list(&me, &TicketQuery::pending()).await.unwrap_or_default();
                found.iter().map(|t| format!("{}  {}\n", t.id, t.request.command)).collect::<String>()
            }),
        )
        .route(
            "/waiting/{id}/approve",
            post(|Extension(me): Me, Path(id): Path<String>| async move {
                let decided = approve.approve(&id, &me, None).await;
                decided.map_or_else(|e| e.to_string(), |t| t.state.name().into())
            }),
        );

    let app = refunds.merge(decisions).layer(OidcLayer::new(Arc::new(InsecureNames)));
    let commands = [
        "curl -i {url}/refunds -d '{\"order\": 7}' -H 'Authorization: Bearer bot' &",
        "curl {url}/waiting -H 'Authorization: Bearer ann.finance'",
        "curl -X POST {url}/waiting/TICKET/approve -H 'Authorization: Bearer bot'           # no approver",
        "curl -X POST {url}/waiting/TICKET/approve -H 'Authorization: Bearer ann.finance'",
    ];
    serve(app, &commands).await?;
    Ok(())
}
