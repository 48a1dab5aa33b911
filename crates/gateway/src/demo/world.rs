//! What the demonstration takes place in.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use portcullis_testkit::{ApiServer, CertificateAuthority, IdentityProvider};
use serde_json::json;

use super::cluster::{Backdrop, Embedded, Existing};
use crate::{
    config::Config,
    gateway::Gateway,
    kubeconfig::{KubeconfigSpec, UserAuth, write_private},
};

/// How long the three people's tokens are good: longer than anybody plays.
const TOKENS_LIVE: Duration = Duration::from_secs(12 * 3600);

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// What can be chosen.
#[derive(Debug, Default)]
pub(crate) struct WorldOptions {
    /// The gateway's port; a free one if 0.
    pub(crate) port: u16,
    /// Where everything is kept; a directory that goes away with us if `None`.
    pub(crate) dir: Option<PathBuf>,
    /// A cluster to stand before, instead of the embedded one.
    pub(crate) kubeconfig: Option<PathBuf>,
}

/// Everything that runs.
pub(crate) struct World {
    dir: PathBuf,
    gateway: Gateway,
    backdrop: Backdrop,
    // Dropped last, in this order: the provider stops, then the directory goes.
    identity: IdentityProvider,
    _temporary: Option<tempfile::TempDir>,
}

/// Who plays: the file of their kubeconfig and their name at the identity provider.
const PEOPLE: [(&str, &str); 3] = [("agent", "ci-agent"), ("developer", "dana"), ("approver", "amir")];

impl World {
    /// Starts everything.
    pub(crate) async fn start(options: WorldOptions) -> Result<Self, AnyError> {
        let temporary = match &options.dir {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("portcullis-demo-").tempdir()?),
        };
        let dir = match (&options.dir, &temporary) {
            (Some(dir), _) => std::path::absolute(dir)?,
            (None, Some(temporary)) => temporary.path().to_owned(),
            (None, None) => std::env::temp_dir(),
        };
        std::fs::create_dir_all(&dir)?;

        let authority = CertificateAuthority::new("Portcullis demo")?;
        let identity = IdentityProvider::builder().authority(authority.clone()).start().await?;
        let backdrop = match &options.kubeconfig {
            None => {
                let server = ApiServer::builder().authority(authority.clone()).seed_demo().start().await?;
                Backdrop::Embedded(Embedded::new(server, &dir)?)
            }
            Some(path) => Backdrop::Existing(Existing::prepare(path).await?),
        };
        let certificate = authority.issue_server(&["localhost", "127.0.0.1"])?;
        write_private(&dir.join("tls.crt"), certificate.certificate_pem.as_bytes())?;
        write_private(&dir.join("tls.key"), certificate.key_pem.as_bytes())?;
        write_private(&dir.join("ca.crt"), authority.certificate_pem().as_bytes())?;

        let file = dir.join("portcullis.yaml");
        write_private(&file, configuration(options.port, &identity, &backdrop).as_bytes())?;
        let gateway = Gateway::start(Config::load(&file)?, String::new).await?;
        for (file, person) in PEOPLE {
            let token_file = dir.join(format!("{file}.token"));
            write_private(&token_file, identity.mint(person, "portcullis", TOKENS_LIVE)?.as_bytes())?;
            let spec = KubeconfigSpec {
                name: format!("portcullis-demo-{file}"),
                server: gateway.url().to_owned(),
                certificate_authority: Some(authority.certificate_pem().to_owned()),
                namespace: Some(backdrop.namespace().to_owned()),
                auth: UserAuth::TokenFile(token_file),
            };
            spec.write(&dir.join(format!("{file}.kubeconfig")))?;
        }
        Ok(Self { dir, gateway, backdrop, identity, _temporary: temporary })
    }

    /// Where everything is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The gateway.
    pub(crate) fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// The cluster.
    pub(crate) fn backdrop(&self) -> &Backdrop {
        &self.backdrop
    }

    /// The kubeconfig of `agent`, `developer` or `approver`.
    pub(crate) fn kubeconfig(&self, person: &str) -> PathBuf {
        self.dir.join(format!("{person}.kubeconfig"))
    }

    /// The identity provider's login page, as a client on this machine opens it. Whoever chooses a name there is sent to the
    /// address where kubectl's `oidc-login` waits.
    pub(crate) fn login_page(&self) -> String {
        let parameters = [
            ("client_id", "portcullis"),
            ("response_type", "code"),
            ("scope", "openid"),
            ("redirect_uri", "http://localhost:8000"),
            // Of nobody's secret (RFC 7636 appendix B): the page is to be looked at.
            ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
            ("code_challenge_method", "S256"),
        ];
        let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        format!("{}/authorize?{query}", self.identity.issuer())
    }

    /// Where the log is.
    pub(crate) fn ledger(&self) -> PathBuf {
        crate::gateway::ledger_dir(&self.dir.join("state"))
    }

    /// Ends everything, and takes away what was put into a cluster that is not ours.
    pub(crate) async fn stop(self) -> Result<(), AnyError> {
        self.gateway.stop().await;
        self.backdrop.clear().await
    }
}

/// A configuration one would write by hand; it stays in the demonstration's directory to be read.
fn configuration(port: u16, identity: &IdentityProvider, backdrop: &Backdrop) -> String {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let (prefix, namespace) = (backdrop.prefix(), backdrop.namespace());
    let group = |name: &str| format!("{prefix}{name}");
    let config = json!({
        "apiVersion": "portcullis.dev/v1alpha1",
        "kind": "Gateway",
        "listen": { "address": address, "tls": { "certFile": "tls.crt", "keyFile": "tls.key" }, "drain": "2s" },
        "operations": { "address": "127.0.0.1:0" },
        "stateDir": "state",
        "clusters": [{ "name": "demo", "kubeconfig": { "path": backdrop.gateway_kubeconfig() } }],
        "authentication": { "jwt": [{
            "issuer": {
                "url": identity.issuer(),
                "audiences": ["portcullis"],
                "certificateAuthority": identity.authority().certificate_pem(),
            },
            "claimMappings": {
                "username": { "claim": "sub", "prefix": prefix },
                "groups": { "claim": "groups", "prefix": prefix },
            },
        }] },
        "policy": {
            "approvers": { "groups": [group("approvers")] },
            "rules": [{
                "name": "deleting-a-deployment-is-asked-for",
                "match": { "verbs": ["delete", "deletecollection"], "resources": ["deployments"] },
                "action": "hold",
                "message": "deployments are not deleted unattended",
            }],
        },
        "administrators": { "groups": [group("approvers")] },
        "grants": { "profiles": [{
            "name": "deploy",
            "forWhom": { "groups": [group("agents")] },
            "defaultTtl": "15m",
            "maxTtl": "1h",
            "heartbeat": "30s",
            "rules": [
                { "verbs": ["get", "list", "watch"], "apiGroups": ["", "apps"],
                  "resources": ["pods", "pods/log", "configmaps", "deployments"], "namespaces": [namespace] },
                { "verbs": ["patch"], "apiGroups": ["apps"], "resources": ["deployments"], "namespaces": [namespace] },
            ],
        }] },
        "telemetry": { "log": "warn" },
    });
    // JSON is YAML; should the writer ever fail, the gateway reads this just as well.
    serde_yaml::to_string(&config).unwrap_or_else(|_| config.to_string())
}
