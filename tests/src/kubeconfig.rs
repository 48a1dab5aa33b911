//! A kubeconfig for a client of the gateway.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Writes a kubeconfig with one cluster and one user. JSON is YAML, so kubectl reads it.
#[derive(Debug, Clone)]
pub struct Kubeconfig {
    server: String,
    ca: PathBuf,
    user: Value,
}

impl Kubeconfig {
    /// A client of this server, trusting this certificate authority, without a credential.
    pub fn new(server: impl Into<String>, ca: impl Into<PathBuf>) -> Self {
        Self { server: server.into(), ca: ca.into(), user: json!({}) }
    }

    /// With a bearer token.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        self.user = json!({ "token": token });
        self
    }

    /// With an exec credential plugin, as `portcullis credential` is.
    #[must_use]
    pub fn exec(mut self, command: &Path, arguments: &[&str]) -> Self {
        self.user = json!({ "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": command,
            "args": arguments,
            "interactiveMode": "Never",
        }});
        self
    }

    /// Writes it.
    pub fn write(&self, path: impl Into<PathBuf>) -> PathBuf {
        let path = path.into();
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "c", "cluster": { "server": self.server, "certificate-authority": self.ca } }],
            "users": [{ "name": "u", "user": self.user }],
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
            "current-context": "c",
        });
        std::fs::write(&path, config.to_string()).expect("the test's directory is writable");
        path
    }
}
