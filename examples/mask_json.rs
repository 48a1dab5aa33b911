//! A user directory that never says a password: JSON is masked by key and path, text by what secrets look like.
//!
//! `cargo run -p portcullis-examples --example mask_json`

use axum::{Json, Router, routing::get};
use portcullis_examples::serve;
use portcullis_mask::{Action, Detector, MaskConfig, MaskKey, MaskLayer, Rule, Rules};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = MaskConfig {
        packs: Vec::new(),
        rules: vec![
            // At any depth; the token tells whether a value changed, not what it is.
            Rule::new("passwords").key("*password*"),
            Rule::new("cards").path("[*].card").action(Action::Partial),
            // Found in plain text, wherever in a line.
            Rule::new("tokens").url("/log").detector(Detector::Github).detector(Detector::Jwt),
        ],
        ..MaskConfig::default()
    };
    let rules = Rules::new(&config, MaskKey::generate()?)?;

    let users = json!([
        { "name": "ada", "login": { "password": "hunter2" }, "card": "4111 1111 1111 1111" },
        { "name": "bob", "login": { "password": "hunter2" }, "card": "5500 0000 0000 0004" },
    ]);
    let app = Router::new()
        .route("/users", get(|| async { Json(users) }))
        .route("/log", get(|| async { format!("cloning with ghp_{} … done\n", "a1B2".repeat(9)) }))
        .layer(MaskLayer::new(rules));
    serve(app, &["curl {url}/users", "curl {url}/log"]).await?;
    Ok(())
}
