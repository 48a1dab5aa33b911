//! Credentials for this server, and kubeconfigs that carry them.

use super::{ApiServer, UserInfo, token::base64_standard};
use crate::{ClientCertificate, TestkitError};

/// What a client shows to be let in.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Credential {
    /// A bearer token.
    Token(Token),
    /// A client certificate and its key.
    Certificate(ClientCertificate),
}

/// A bearer token; `Debug` does not print it.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// The token itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl ApiServer {
    /// A new bearer token for that user. It is good for as long as the server lives.
    pub fn issue_token(&self, username: &str, groups: &[&str]) -> Token {
        let token = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        self.core.credentials.add_token(token.clone(), UserInfo::new(username, groups));
        Token(token)
    }

    /// A new client certificate for that user.
    ///
    /// # Errors
    ///
    /// [`TestkitError::Certificate`] if it cannot be made.
    pub fn issue_certificate(
        &self,
        username: &str,
        groups: &[&str],
    ) -> Result<ClientCertificate, TestkitError> {
        let (der, certificate) = self.authority.issue_client(username, groups)?;
        self.core.credentials.add_certificate(der, UserInfo::new(username, groups));
        Ok(certificate)
    }

    /// A credential that may do everything (`system:masters`).
    pub fn admin_token(&self) -> Token {
        self.issue_token("kubernetes-admin", &["system:masters"])
    }

    /// A client certificate for a gateway: it may impersonate anybody, and nothing else.
    ///
    /// # Errors
    ///
    /// [`TestkitError::Certificate`] if it cannot be made.
    pub fn gateway_certificate(&self) -> Result<ClientCertificate, TestkitError> {
        self.issue_certificate("portcullis-gateway", &["portcullis:gateways"])
    }

    /// A kubeconfig for this server, as YAML. `context` names cluster, user and context; `namespace` is the default one.
    pub fn kubeconfig(&self, context: &str, credential: &Credential, namespace: &str) -> String {
        let user = match credential {
            Credential::Token(token) => format!("token: {:?}", token.expose()),
            Credential::Certificate(certificate) => format!(
                "client-certificate-data: {}\n    client-key-data: {}",
                base64_standard(certificate.certificate_pem.as_bytes()),
                base64_standard(certificate.key_pem.as_bytes())
            ),
        };
        let ca = base64_standard(self.authority.certificate_pem().as_bytes());
        let server = self.url();
        format!(
            "apiVersion: v1
kind: Config
clusters:
- name: {context:?}
  cluster:
    server: {server:?}
    certificate-authority-data: {ca}
users:
- name: {context:?}
  user:
    {user}
contexts:
- name: {context:?}
  context:
    cluster: {context:?}
    user: {context:?}
    namespace: {namespace:?}
current-context: {context:?}
"
        )
    }
}
