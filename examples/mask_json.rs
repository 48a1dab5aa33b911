//! A user directory that never says a password: JSON is masked by key and path, text by what secrets look like. Answers in gRPC's
//! binary format are left alone, because the configuration says so.
//!
//! `cargo run -p portcullis-examples --example mask_json`

use axum::{
    Json, Router,
    http::header::CONTENT_TYPE,
    routing::{get, post},
};
use portcullis_examples::serve;
use portcullis_mask::{Action, Detector, MaskConfig, MaskKey, MaskLayer, Rule, Rules};
use serde_json::json;

/// What a gRPC service answers: one message, not compressed, 19 bytes long; in it, two strings in protobuf.
const MESSAGE: &[u8] = b"\0\0\0\0\x13\x0a\x08password\x12\x07hunter2";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let commands =
        ["curl {url}/users", "curl {url}/log", "curl -X POST {url}/rpc | xxd", "curl -i {url}/avatar"];
    serve(app()?, &commands).await?;
    Ok(())
}

fn app() -> Result<Router, Box<dyn std::error::Error>> {
    let config = MaskConfig {
        packs: Vec::new(),
        rules: vec![
            // At any depth; the token tells whether a value changed, not what it is.
            Rule::new("passwords").key("*password*"),
            Rule::new("cards").path("[*].card").action(Action::Partial),
            // Found in plain text, wherever in a line.
            Rule::new("tokens").url("/log").detector(Detector::Github).detector(Detector::Jwt),
        ],
        // `passwords` is for every URL, and what a rule is for and nobody can read is not sent, as `/avatar` shows. Only what is
        // named here passes, whatever is in it. (A rule with `url` leaves all other URLs alone, binary or not.)
        pass_content_types: vec!["application/grpc".into()],
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
        .route("/rpc", post(|| async { ([(CONTENT_TYPE, "application/grpc")], MESSAGE) }))
        .route("/avatar", get(|| async { ([(CONTENT_TYPE, "application/octet-stream")], MESSAGE) }))
        .layer(MaskLayer::new(rules));
    Ok(app)
}

#[cfg(test)]
mod tests {
    use axum::{
        body::{Body, Bytes, to_bytes},
        http::{Request, Response, StatusCode},
    };
    use tower::ServiceExt;

    use super::*;

    async fn send(method: &str, path: &str) -> (Response<()>, Bytes) {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let (parts, body) = app().unwrap().oneshot(request).await.unwrap().into_parts();
        (Response::from_parts(parts, ()), to_bytes(body, 1 << 20).await.unwrap())
    }

    #[tokio::test]
    async fn json_and_text_are_masked() {
        let users = send("GET", "/users").await.1;
        let users: serde_json::Value = serde_json::from_slice(&users).unwrap();
        assert!(users[0]["login"]["password"].as_str().unwrap().starts_with("masked:passwords:"));
        assert_eq!(users[1]["card"], "masked:cards:****0004");
        assert!(send("GET", "/log").await.1.starts_with(b"cloning with masked:tokens:"));
    }

    #[tokio::test]
    async fn the_binary_route_is_left_alone_and_no_other_is() {
        let (head, body) = send("POST", "/rpc").await;
        assert_eq!(
            (head.status(), head.headers()[CONTENT_TYPE].as_bytes()),
            (StatusCode::OK, &b"application/grpc"[..])
        );
        assert_eq!(body, MESSAGE);
        let (head, body) = send("GET", "/avatar").await;
        assert_eq!(head.status(), StatusCode::BAD_GATEWAY);
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem["type"], "urn:portcullis:problem:mask/unreadable");
    }
}
