//! Four layers on one service: everything on record, everybody known, rules by group, secrets masked.
//!
//! `cargo run -p portcullis-examples --example stack`

use std::{sync::Arc, time::Duration};

use axum::{Json, Router, routing::get};
use portcullis_audit::{Audit, AuditLayer, AuditOptions, AuditReader, CommitLayer};
use portcullis_examples::serve;
use portcullis_mask::{MaskConfig, MaskKey, MaskLayer, Rule, Rules};
use portcullis_oidc::{OidcAuthenticator, OidcLayer};
use portcullis_policy::{GuardLayer, Policy};
use portcullis_testkit::IdentityProvider;
use serde_json::json;
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let provider = IdentityProvider::start().await?;
    let authenticator = OidcAuthenticator::new(serde_json::from_value(json!({ "jwt": [{
        "issuer": {
            "url": provider.issuer(), "audiences": ["accounts"],
            "certificateAuthority": provider.authority().certificate_pem(),
        },
        "claimMappings": {
            "username": { "claim": "sub", "prefix": "" }, "groups": { "claim": "groups", "prefix": "" },
        },
    }] }))?)?;
    let policy = Policy::from_yaml(
        "rules: [{ name: people-delete, match: { verbs: [delete], groups: [agents] }, action: deny }]",
    )?;
    let mask = MaskConfig { rules: vec![Rule::new("keys").key("*_key")], ..MaskConfig::default() };
    let dir = tempfile::tempdir()?;
    let (audit, _) = Audit::open(dir.path(), AuditOptions::new("accounts.example/audit"))?;

    let account = || async { Json(json!({ "owner": "ada", "api_key": "s3cr3t" })) };
    let app = Router::new().route("/accounts/{id}", get(account).delete(|| async { "gone\n" })).layer(
        ServiceBuilder::new()
            .layer(AuditLayer::new(audit.clone())) // outermost: refusals are evidence, too
            .layer(OidcLayer::new(Arc::new(authenticator)))
            .layer(GuardLayer::new(policy)) // knows who asks
            .layer(CommitLayer::new()) // what is refused was never forwarded
            .layer(MaskLayer::new(Rules::new(&mask, MaskKey::generate()?)?)),
    );
    let token = provider.mint("ci-agent", "accounts", Duration::from_secs(600))?;
    let bearer = format!("-H 'Authorization: Bearer {token}'");
    let commands = [
        format!("curl {{url}}/accounts/7 {bearer}"),
        format!("curl -i -X DELETE {{url}}/accounts/7 {bearer}"),
    ];
    serve(app, &commands.each_ref().map(String::as_str)).await?;
    audit.close().await;
    for stored in AuditReader::new(dir.path()).tail(20, |_| true)?.0 {
        println!("{}", stored.entry.line());
    }
    Ok(())
}
