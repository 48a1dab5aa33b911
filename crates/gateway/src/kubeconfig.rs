//! Writing kubeconfigs: for agents, for the demo, for one task.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// How the user of a kubeconfig proves who they are.
#[derive(Clone, Debug)]
pub(crate) enum UserAuth {
    /// By a token in a file, read again when it changes.
    TokenFile(PathBuf),
    /// By running a command: an exec credential plugin (`client.authentication.k8s.io/v1`).
    Exec {
        /// The command.
        command: String,
        /// Its arguments.
        args: Vec<String>,
    },
}

/// A kubeconfig with one cluster, one user, one context.
#[derive(Clone, Debug)]
pub(crate) struct KubeconfigSpec {
    /// The name of all three.
    pub(crate) name: String,
    /// The gateway's URL, with `/clusters/<name>` for other than the default cluster.
    pub(crate) server: String,
    /// The authority that signed its certificate, PEM; the system's if `None`.
    pub(crate) certificate_authority: Option<String>,
    /// The namespace commands work in without `-n`.
    pub(crate) namespace: Option<String>,
    /// How the user proves who they are.
    pub(crate) auth: UserAuth,
}

impl KubeconfigSpec {
    /// The file's content, YAML.
    pub(crate) fn render(&self) -> String {
        let mut cluster = json!({ "server": self.server });
        if let Some(pem) = &self.certificate_authority {
            cluster["certificate-authority-data"] = Value::String(STANDARD.encode(pem));
        }
        let user = match &self.auth {
            UserAuth::TokenFile(path) => json!({ "tokenFile": path }),
            UserAuth::Exec { command, args } => json!({ "exec": {
                "apiVersion": "client.authentication.k8s.io/v1",
                "command": command,
                "args": args,
                "interactiveMode": "Never",
                "provideClusterInfo": false,
            }}),
        };
        let mut context = json!({ "cluster": self.name, "user": self.name });
        if let Some(namespace) = &self.namespace {
            context["namespace"] = json!(namespace);
        }
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": self.name, "cluster": cluster }],
            "users": [{ "name": self.name, "user": user }],
            "contexts": [{ "name": self.name, "context": context }],
            "current-context": self.name,
        });
        // JSON is YAML; should the YAML writer ever fail, clients read this just as well.
        serde_yaml::to_string(&config).unwrap_or_else(|_| config.to_string())
    }

    /// Writes it, readable by the owner only.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> std::io::Result<()> {
        write_private(path, self.render().as_bytes())
    }
}

/// Writes a file that only its owner can read, from the moment it exists.
///
/// # Errors
///
/// When the file cannot be written.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let new = path.with_extension("new");
    let _ = std::fs::remove_file(&new);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn kube_reads_what_we_write_and_only_the_owner_can() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let spec = KubeconfigSpec {
            name: "agent".into(),
            server: "https://127.0.0.1:8443".into(),
            certificate_authority: Some("PEM".into()),
            namespace: Some("shop".into()),
            auth: UserAuth::Exec { command: "portcullis".into(), args: vec!["credential".into()] },
        };
        spec.write(&path).unwrap();
        let read = kube::config::Kubeconfig::read_from(&path).unwrap();
        assert_eq!(read.current_context.as_deref(), Some("agent"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
