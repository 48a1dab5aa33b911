//! A service that knows who calls it: bearer JWTs of an OpenID Connect issuer, here one that runs beside it on loopback.
//!
//! `cargo run -p portcullis-examples --example oidc`

use std::{sync::Arc, time::Duration};

use axum::{Extension, Router, routing::get};
use portcullis_core::Identity;
use portcullis_examples::serve;
use portcullis_oidc::{OidcAuthenticator, OidcLayer};
use portcullis_testkit::IdentityProvider;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let provider = IdentityProvider::start().await?;

    // In earnest this is a file, in the shape of Kubernetes' AuthenticationConfiguration.
    let config = serde_json::from_value(serde_json::json!({
        "jwt": [{
            "issuer": {
                "url": provider.issuer(),
                "audiences": ["orders"],
                "certificateAuthority": provider.authority().certificate_pem(),
            },
            "claimMappings": {
                "username": { "claim": "sub", "prefix": "example:" },
                "groups": { "claim": "groups", "prefix": "" },
            },
        }],
    }))?;
    let authenticator = Arc::new(OidcAuthenticator::new(config)?);

    let app = Router::new()
        .route(
            "/whoami",
            get(|Extension(who): Extension<Identity>| async move {
                format!("{} in {:?}\n", who.user, who.groups)
            }),
        )
        .layer(OidcLayer::new(authenticator));

    let minutes = Duration::from_secs(600);
    let good = provider.mint("dana", "orders", minutes)?;
    let for_others = provider.mint("dana", "another-service", minutes)?;
    let commands = [
        "curl -i {url}/whoami".to_owned(),
        format!("curl -i {{url}}/whoami -H 'Authorization: Bearer {good}'"),
        format!("curl -i {{url}}/whoami -H 'Authorization: Bearer {for_others}'"),
    ];
    serve(app, &commands.each_ref().map(String::as_str)).await?;
    Ok(())
}
