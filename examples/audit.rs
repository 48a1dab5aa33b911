//! An order service of which every request is on record, before and after it happens.
//!
//! `cargo run -p portcullis-examples --example audit`

use axum::{Router, extract::Path, routing::get};
use portcullis_audit::{Audit, AuditLayer, AuditOptions, AuditReader, AuditVerifier, CommitLayer};
use portcullis_examples::serve;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let (audit, _) = Audit::open(dir.path(), AuditOptions::new("orders.example/audit"))?;

    let orders = Router::new()
        .route("/orders/{id}", get(|Path(id): Path<u32>| async move { format!("order {id}\n") }))
        // Innermost: nothing reaches a handler whose intent is not in the log.
        .layer(CommitLayer::new())
        // Outermost: whatever happens further in, every request has an outcome in the log.
        .layer(AuditLayer::new(audit.clone()));
    serve(orders, &["curl -i {url}/orders/7", "curl -i {url}/nothing/here"]).await?;

    // The last record says that the log ends in good order. Then prove that it is what it was.
    audit.close().await;
    for stored in AuditReader::new(dir.path()).tail(20, |_| true)?.0 {
        println!("{}", stored.entry.line());
    }
    let report = AuditVerifier::open(dir.path())?.run()?;
    println!("{} records, all as they were written; root {}", report.log.size, report.log.root);
    Ok(())
}
