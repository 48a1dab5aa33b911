//! A shop in which small refunds pass and large ones do not, by a policy in YAML and CEL.
//!
//! `cargo run -p portcullis-examples --example policy`

use axum::{Router, routing::post};
use portcullis_examples::serve;
use portcullis_policy::{GuardLayer, Policy};

const POLICY: &str = r#"
rules:
  - name: no-large-refunds
    match: { verbs: [post], path: "^/orders/[0-9]+/refunds$" }
    when: object.amount > 100
    action: deny
    message: "refunds over 100 are for people; ask on #payments"
"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let policy = Policy::from_yaml(POLICY)?;
    let shop = Router::new()
        .route("/orders/{id}/refunds", post(|| async { "refunded\n" }))
        // Nobody signs in here; in earnest an OidcLayer stands outside, and rules may name users and groups.
        .layer(GuardLayer::new(policy).insecure_anonymous());

    let refund = "curl -i {url}/orders/7/refunds -H 'Content-Type: application/json' -d";
    let commands = [
        format!("{refund} '{{\"amount\": 20}}'"),
        format!("{refund} '{{\"amount\": 2000}}'"),
        // Two readers would read this differently, so nobody does.
        format!("{refund} '{{\"amount\": 20, \"amount\": 2000}}'"),
    ];
    serve(shop, &commands.each_ref().map(String::as_str)).await?;
    Ok(())
}
