//! Reports that can be read for as long as a task lasts: a token in, a scoped and revocable grant out (RFC 8693).
//!
//! `cargo run -p portcullis-examples --example jit`

use std::sync::Arc;

use axum::{Router, routing::get};
use portcullis_core::{MemorySink, SystemClock};
use portcullis_examples::{InsecureNames, serve};
use portcullis_jit::{Grants, JitLayer, MemoryGrantStore, SigningKey, token_service};
use portcullis_oidc::OidcLayer;
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let profile = serde_json::from_value(serde_json::json!({
        "name": "reports",
        "forWhom": { "users": ["nightly"] },
        "rules": [{ "verbs": ["get"], "nonResourceURLs": ["/reports/*"] }],
        "defaultTtl": "5m",
    }))?;
    let grants = Grants::new(
        "http://reports.example/oauth",
        SigningKey::ephemeral()?,
        vec![profile],
        Arc::new(MemoryGrantStore::default()),
        Arc::new(MemorySink::default()),
        Arc::new(SystemClock),
    );
    tokio::spawn(grants.clone().sweep_forever());

    let layers = ServiceBuilder::new()
        .layer(JitLayer::new(grants.clone()))
        // Whoever brings no grant must be known otherwise; whoever has one is.
        .layer(OidcLayer::new(Arc::new(InsecureNames)));
    let app = Router::new()
        .route("/reports/{id}", get(|| async { "a report\n" }))
        .route("/orders/{id}", get(|| async { "an order\n" }))
        .layer(layers)
        .nest("/oauth", token_service(grants, Arc::new(InsecureNames)));

    let commands = [
        "GRANT=$(curl -s {url}/oauth/token -d grant_type=urn:ietf:params:oauth:grant-type:token-exchange \\",
        "    -d subject_token_type=urn:ietf:params:oauth:token-type:jwt -d subject_token=nightly -d profile=reports |",
        "    sed 's/.*\"access_token\":\"\\([^\"]*\\)\".*/\\1/')",
        "curl -i {url}/reports/7 -H \"Authorization: Bearer $GRANT\"",
        "curl -i {url}/orders/7 -H \"Authorization: Bearer $GRANT\"     # outside the grant",
        "curl -i {url}/oauth/revoke -d \"token=$GRANT\"",
        "curl -i {url}/reports/7 -H \"Authorization: Bearer $GRANT\"    # over",
    ];
    serve(app, &commands).await?;
    Ok(())
}
