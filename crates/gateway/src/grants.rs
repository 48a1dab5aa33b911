//! Asking the gateway for a grant, keeping it alive, and giving it back: the client's half of the token service.

use std::time::Duration;

use clap::Args;
use portcullis_core::{Clock, SystemClock, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::client::{ClientError, Gateway, GatewayArgs, exposed, github_actions_token};

/// The token service, on the gateway.
const TOKEN: &str = "/portcullis/oauth/token";
const RENEW: &str = "/portcullis/oauth/renew";
const REVOKE: &str = "/portcullis/oauth/revoke";

/// Which grant to ask for.
#[derive(Clone, Debug, Args)]
pub(crate) struct GrantRequest {
    /// The profile to cut the grant from
    #[arg(long, value_name = "PROFILE")]
    pub(crate) grant: String,
    /// How long the task may take, such as 15m; the profile's default if absent
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) ttl: Option<Duration>,
    /// What the task is, in words an approver or auditor will read
    #[arg(long, value_name = "TEXT")]
    pub(crate) task: Option<String>,
    /// The environment variable that holds your OIDC token; it is removed from the command's environment
    #[arg(long, value_name = "NAME")]
    pub(crate) token_env: Option<String>,
    /// The audience to ask GitHub Actions' token for
    #[arg(long, value_name = "AUDIENCE", default_value = "portcullis")]
    pub(crate) audience: String,
}

/// A grant that was issued to us.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    /// Its id.
    pub(crate) grant_id: String,
    /// When it ends at the latest.
    pub(crate) expires_at: Timestamp,
    token: SecretString,
    renewal: SecretString,
    lease: Option<Duration>,
}

/// What the token endpoint answers (RFC 8693 §2.2.1, with our lease).
#[derive(Deserialize)]
struct TokenResponse {
    access_token: SecretString,
    expires_in: u64,
    grant_id: String,
    renewal_token: SecretString,
    #[serde(default)]
    lease_seconds: Option<u64>,
}

impl GrantRequest {
    /// Exchanges our OIDC token for a grant (RFC 8693).
    pub(crate) async fn exchange(
        &self,
        gateway: &Gateway,
        args: &GatewayArgs,
    ) -> Result<Issued, ClientError> {
        let subject = self.subject_token(args).await?;
        let ttl = self.ttl.map(|ttl| ttl.as_secs().to_string());
        let mut fields = vec![
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token", exposed(&subject)),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
            ("profile", self.grant.as_str()),
        ];
        fields.extend(self.task.as_deref().map(|task| ("task", task)));
        fields.extend(ttl.as_deref().map(|ttl| ("ttl", ttl)));
        let answer: TokenResponse = gateway.form(TOKEN, &fields).await?;
        let lives = Duration::from_secs(answer.expires_in);
        Ok(Issued {
            grant_id: answer.grant_id,
            expires_at: SystemClock.now() + lives,
            token: answer.access_token,
            renewal: answer.renewal_token,
            lease: answer.lease_seconds.map(Duration::from_secs),
        })
    }

    async fn subject_token(&self, args: &GatewayArgs) -> Result<SecretString, ClientError> {
        if let Some(name) = &self.token_env {
            return std::env::var(name)
                .map(SecretString::from)
                .map_err(|_| ClientError::Setup(format!("the environment variable {name} is not set")));
        }
        if let Some(token) = args.token()? {
            return Ok(token);
        }
        github_actions_token(&self.audience).await?.ok_or_else(|| {
            ClientError::Setup(
                "no OIDC token: pass --token-file, --token-env or set PORTCULLIS_TOKEN (in GitHub Actions, give the job `id-token: write`)"
                    .into(),
            )
        })
    }
}

impl Issued {
    /// The credential, as client-go's plugins print it.
    pub(crate) fn credential(&self) -> ExecCredential {
        ExecCredential {
            api_version: "client.authentication.k8s.io/v1",
            kind: "ExecCredential",
            status: ExecCredentialStatus {
                token: self.token.expose_secret().to_owned(),
                expiration_timestamp: self.expires_at,
            },
        }
    }

    /// The bearer token.
    pub(crate) fn token(&self) -> &SecretString {
        &self.token
    }

    /// How often to renew the lease: three times before it runs out.
    pub(crate) fn heartbeat(&self) -> Duration {
        self.lease.map_or(Duration::from_secs(20), |lease| (lease / 3).max(Duration::from_secs(1)))
    }
}

/// Renews the lease.
pub(crate) async fn renew(gateway: &Gateway, issued: &Issued) -> Result<(), ClientError> {
    let _: serde_json::Value = gateway
        .form(RENEW, &[("grant_id", &issued.grant_id), ("renewal_token", exposed(&issued.renewal))])
        .await?;
    Ok(())
}

/// Gives the grant back (RFC 7009).
pub(crate) async fn revoke(gateway: &Gateway, issued: &Issued) -> Result<(), ClientError> {
    let _: serde_json::Value = gateway.form(REVOKE, &[("token", exposed(&issued.token))]).await?;
    Ok(())
}

/// `client.authentication.k8s.io/v1`
/// (<https://kubernetes.io/docs/reference/config-api/client-authentication.v1/>). Printed for clients, never logged.
#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExecCredential {
    api_version: &'static str,
    kind: &'static str,
    status: ExecCredentialStatus,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct ExecCredentialStatus {
    token: String,
    expiration_timestamp: Timestamp,
}

/// `90s`, `15m`, `1h30m`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let signed: jiff::SignedDuration =
        text.parse().map_err(|_| format!("`{text}` is no duration; write it like 90s, 15m or 1h30m"))?;
    Duration::try_from(signed).map_err(|_| "a duration cannot be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        assert_eq!(parse_duration("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert!(parse_duration("soon").is_err());
        assert!(parse_duration("-5s").is_err());
    }
}
