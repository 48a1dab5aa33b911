//! A certified identity provider (`tests/idp/server.mjs`), over TLS on loopback.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use tokio::process::Command;

use crate::ca::TestCa;
use crate::cluster::{root, tools};
use crate::http_client::HttpClient;
use crate::process::Running;

/// A running identity provider. Its people: `agent-ci`, `agent-two` (group `agents`), `dev-dana`
/// (`developers`), `approver-amir`, `approver-bea` (`approvers`), and `mallory`, whose token claims
/// `system:masters`.
pub struct Idp {
    /// The issuer, `https://127.0.0.1:PORT`.
    pub issuer: String,
    ca: TestCa,
    http: HttpClient,
    _process: Running,
}

#[derive(Deserialize)]
struct Listening {
    issuer: String,
}

#[derive(Deserialize)]
struct Minted {
    token: String,
}

impl Idp {
    /// Starts one, with keys of its own.
    pub async fn start() -> Self {
        let ca = TestCa::new();
        let tls = ca.issue("idp");
        let packages = tools().join("node");
        assert!(packages.join("node_modules").exists(), "NO NODE PACKAGES: RUN `cargo xtask setup`");
        let mut node = Command::new("node");
        node.arg(root().join("tests/idp/server.mjs")).arg("--packages").arg(packages);
        node.arg("--cert").arg(&tls.cert).arg("--key").arg(&tls.key);
        // It plays its own client for ID tokens.
        node.env("NODE_EXTRA_CA_CERTS", ca.pem());
        let mut process = Running::start(node);
        let said = process.wait_for_output(|text| text.contains("\"issuer\"") && text.ends_with('\n')).await;
        let line = said.lines().find(|line| line.contains("\"issuer\"")).expect("just seen");
        let Listening { issuer } = serde_json::from_str(line).expect("one line of JSON");
        let http = HttpClient::new(&ca.pem());
        Self { issuer, ca, http, _process: process }
    }

    /// The certificate authority of its TLS certificate.
    pub fn ca(&self) -> PathBuf {
        self.ca.pem()
    }

    /// A JWT access token of a persona, audience `portcullis`, RS256, five minutes.
    pub async fn access_token(&self, persona: &str) -> String {
        self.token(persona).mint().await
    }

    /// An ID token of a persona, by the authorization code grant with PKCE; audience `portcullis`.
    pub async fn id_token(&self, persona: &str) -> String {
        self.token(persona).id().mint().await
    }

    /// A token with choices.
    pub fn token<'a>(&'a self, persona: &str) -> TokenRequest<'a> {
        TokenRequest { idp: self, query: format!("persona={persona}") }
    }

    /// Replaces the signing keys, as after a compromise: old tokens do not verify any more.
    pub async fn rotate_keys(&self) {
        self.post("/test/rotate-keys").await;
    }

    /// Answers 503 to everything but the test's own calls, until it is over.
    pub async fn outage(&self, on: bool) {
        self.post(if on { "/test/outage?on=1" } else { "/test/outage?on=0" }).await;
    }

    /// How often each path has been asked for.
    pub async fn requests(&self) -> BTreeMap<String, u64> {
        self.http.json("GET", &format!("{}/test/requests", self.issuer)).await
    }

    async fn post(&self, path: &str) {
        let _: serde_json::Value = self.http.json("POST", &format!("{}{path}", self.issuer)).await;
    }
}

/// A token to be made.
pub struct TokenRequest<'a> {
    idp: &'a Idp,
    query: String,
}

impl TokenRequest<'_> {
    /// An ID token instead of an access token. Its audience is the client: `portcullis`, or
    /// `portcullis-es256` and so on for other algorithms.
    #[must_use]
    pub fn id(self) -> Self {
        self.with("kind", "id")
    }

    /// For this audience (access tokens).
    #[must_use]
    pub fn audience(self, audience: &str) -> Self {
        self.with("audience", audience)
    }

    /// Signed with `RS256`, `PS256`, `ES256` or `EdDSA`.
    #[must_use]
    pub fn algorithm(self, algorithm: &str) -> Self {
        self.with("alg", algorithm)
    }

    /// Valid for so many seconds (access tokens).
    #[must_use]
    pub fn lifetime(self, seconds: u32) -> Self {
        self.with("ttl", &seconds.to_string())
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.query = format!("{}&{name}={value}", self.query);
        self
    }

    /// Asks for it.
    pub async fn mint(self) -> String {
        let url = format!("{}/test/token?{}", self.idp.issuer, self.query);
        let Minted { token } = self.idp.http.json("GET", &url).await;
        token
    }
}
