//! Where a cluster is, and how the gateway proves who it is there.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
};

use http::Uri;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use rustls_pki_types::{CertificateDer, pem::PemObject};

/// Where the kubelet mounts a pod's service account: `token`, `ca.crt` and `namespace`.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Why an upstream could not be set up. The message never holds a credential.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct UpstreamConfigError {
    message: String,
    #[source]
    source: Option<portcullis_core::BoxError>,
}

impl UpstreamConfigError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None }
    }

    pub(super) fn because(message: impl fmt::Display, source: impl Into<portcullis_core::BoxError>) -> Self {
        let source = source.into();
        Self { message: format!("{message}: {source}"), source: Some(source) }
    }
}

/// Where a cluster's API server and the gateway's own credential for it come from.
#[derive(Clone, Debug)]
pub enum ClusterSource {
    /// A kubeconfig: certificates, tokens, token files and exec plugins, as `kubectl` uses them.
    Kubeconfig {
        /// The file; `None` for `$KUBECONFIG` or `~/.kube/config`.
        path: Option<PathBuf>,
        /// The context; `None` for the file's current one.
        context: Option<String>,
    },
    /// The service account of the pod that the gateway runs in.
    InCluster,
    /// Everything named one by one.
    Explicit(Box<ExplicitCluster>),
}

/// A cluster, named by its parts. Files are read again when they rotate.
#[derive(Clone, Debug)]
pub struct ExplicitCluster {
    /// The API server's address. A path is kept as a prefix.
    pub server: Uri,
    /// The certificate authorities it is trusted by, in PEM; the system's if `None`.
    pub certificate_authority: Option<PathBuf>,
    /// The name its certificate must carry, if not the host of `server`.
    pub tls_server_name: Option<String>,
    /// A file with a bearer token.
    pub token_file: Option<PathBuf>,
    /// A client certificate in PEM, and its key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
}

impl ClusterSource {
    /// Reads the configuration. No connection is made.
    ///
    /// # Errors
    ///
    /// [`UpstreamConfigError`] when something is missing, cannot be read, or asks for what this upstream does not do.
    pub async fn load(&self) -> Result<Config, UpstreamConfigError> {
        let config = match self {
            Self::Kubeconfig { path, context } => from_kubeconfig(path.as_deref(), context.clone()).await?,
            Self::InCluster => in_cluster(Path::new(SERVICE_ACCOUNT), |name| std::env::var(name).ok())?,
            Self::Explicit(explicit) => explicit.config()?,
        };
        check(&config)?;
        Ok(config)
    }
}

async fn from_kubeconfig(
    path: Option<&Path>,
    context: Option<String>,
) -> Result<Config, UpstreamConfigError> {
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    let loaded = match path {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path).map_err(|error| {
                UpstreamConfigError::because(format!("kubeconfig {}", path.display()), error)
            })?;
            Config::from_custom_kubeconfig(kubeconfig, &options).await
        }
        None => Config::from_kubeconfig(&options).await,
    };
    loaded.map_err(|error| UpstreamConfigError::because("the kubeconfig cannot be used", error))
}

/// The cluster around the pod that this runs in, found as client-go finds it. Its token rotates, and so does the authority.
pub(super) fn in_cluster(
    service_account: &Path,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Config, UpstreamConfigError> {
    let set = |name: &str| {
        variable(name).filter(|value| !value.is_empty()).ok_or_else(|| {
            UpstreamConfigError::new(format!(
                "{name} is not set, so this is no pod of a cluster: name a kubeconfig instead"
            ))
        })
    };
    let (host, port) = (set("KUBERNETES_SERVICE_HOST")?, set("KUBERNETES_SERVICE_PORT")?);
    let host = match host.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => host,
    };
    let server = format!("https://{host}:{port}")
        .parse()
        .map_err(|error| UpstreamConfigError::because("KUBERNETES_SERVICE_HOST and _PORT", error))?;
    let explicit = ExplicitCluster {
        certificate_authority: Some(service_account.join("ca.crt")),
        token_file: Some(service_account.join("token")),
        ..ExplicitCluster::new(server)
    };
    let mut config = explicit.config()?;
    // Requests name their namespaces themselves, so one that is missing here is missed by nobody.
    if let Ok(namespace) = std::fs::read_to_string(service_account.join("namespace")) {
        config.default_namespace = namespace.trim().to_owned();
    }
    Ok(config)
}

impl ExplicitCluster {
    /// A cluster at `server`, trusted by the system's certificate authorities, with no credential yet.
    pub fn new(server: Uri) -> Self {
        Self {
            server,
            certificate_authority: None,
            tls_server_name: None,
            token_file: None,
            client_certificate: None,
        }
    }

    fn config(&self) -> Result<Config, UpstreamConfigError> {
        let mut config = Config::new(self.server.clone());
        if let Some(path) = &self.certificate_authority {
            config.root_cert = Some(certificates(path)?);
            config.root_cert_file = Some(path.clone());
        }
        config.tls_server_name = self.tls_server_name.clone();
        config.auth_info.token_file = self.token_file.as_ref().map(|path| path.display().to_string());
        if let Some((certificate, key)) = &self.client_certificate {
            config.auth_info.client_certificate = Some(certificate.display().to_string());
            config.auth_info.client_key = Some(key.display().to_string());
        }
        Ok(config)
    }
}

fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, UpstreamConfigError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(|found| found.map(|one| one.map(|der| der.to_vec())).collect::<Result<Vec<_>, _>>())
        .map_err(|error| {
            UpstreamConfigError::because(format!("certificate authority {}", path.display()), error)
        })?;
    match certificates.is_empty() {
        true => Err(UpstreamConfigError::new(format!("{} holds no certificate", path.display()))),
        false => Ok(certificates),
    }
}

/// What would be ignored silently is refused loudly.
pub(super) fn check(config: &Config) -> Result<(), UpstreamConfigError> {
    let auth = &config.auth_info;
    if auth.impersonate.is_some() || auth.impersonate_groups.is_some() || auth.impersonate_uid.is_some() {
        return Err(UpstreamConfigError::new(
            "the kubeconfig impersonates somebody (`as`), but the gateway impersonates its callers: remove it",
        ));
    }
    if config.proxy_url.is_some() {
        return Err(UpstreamConfigError::new(
            "a `proxy-url` is not supported: reach the API server directly",
        ));
    }
    if !config.headers.is_empty() {
        return Err(UpstreamConfigError::new("extra headers are not supported"));
    }
    let (Some(scheme), Some(host)) = (config.cluster_url.scheme_str(), config.cluster_url.host()) else {
        return Err(UpstreamConfigError::new(
            "the server's address must be a URL, such as https://host:6443",
        ));
    };
    match scheme {
        "https" => Ok(()),
        "http" if is_loopback(host) => Ok(()),
        "http" => Err(UpstreamConfigError::new(
            "the server's address is plain http, which would send credentials in the clear: use https",
        )),
        _ => Err(UpstreamConfigError::new(format!("the server's address has the unknown scheme {scheme}"))),
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testbed::Authority;

    async fn explicit(server: &str) -> Result<Config, UpstreamConfigError> {
        ClusterSource::Explicit(Box::new(ExplicitCluster::new(server.parse().unwrap()))).load().await
    }

    #[tokio::test]
    async fn credentials_never_travel_in_the_clear() {
        for server in [
            "https://api.example.com:6443",
            "http://127.0.0.1:8001",
            "http://[::1]:8001",
            "http://localhost:1",
        ] {
            assert!(explicit(server).await.is_ok(), "{server}");
        }
        for server in ["http://api.example.com", "http://10.0.0.1:6443", "ftp://localhost", "/only/a/path"] {
            assert!(explicit(server).await.is_err(), "{server}");
        }
    }

    #[tokio::test]
    async fn what_is_not_supported_is_refused() {
        let load = async |user: &str, cluster: &str| {
            let yaml = format!(
                "{{apiVersion: v1, kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: c, user: u}}}}], \
                 clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:1'{cluster}}}}}], users: [{{name: u, user: {{{user}}}}}]}}"
            );
            let kubeconfig = Kubeconfig::from_yaml(&yaml).unwrap();
            let config =
                Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
            check(&config).map_err(|error| error.to_string())
        };
        assert_eq!(load("token: hunter2", "").await, Ok(()));
        assert!(load("as: admin", "").await.unwrap_err().contains("impersonates"));
        assert!(
            load("token: hunter2", ", proxy-url: 'http://127.0.0.1:2'")
                .await
                .unwrap_err()
                .contains("proxy-url")
        );
    }

    /// What the kubelet mounts, and what it sets.
    fn pod(host: &str, port: &str) -> (tempfile::TempDir, Result<Config, UpstreamConfigError>) {
        let mounted = tempfile::tempdir().unwrap();
        std::fs::write(mounted.path().join("token"), "of-the-pod\n").unwrap();
        std::fs::write(mounted.path().join("ca.crt"), Authority::new().pem()).unwrap();
        std::fs::write(mounted.path().join("namespace"), "portcullis\n").unwrap();
        let config = in_cluster(mounted.path(), |name| match name {
            "KUBERNETES_SERVICE_HOST" => Some(host.to_owned()),
            "KUBERNETES_SERVICE_PORT" => (!port.is_empty()).then(|| port.to_owned()),
            _ => None,
        });
        (mounted, config)
    }

    #[test]
    fn a_pod_finds_its_cluster() {
        let check = |host: &str, port: &str, expected: &str| {
            let (mounted, config) = pod(host, port);
            let config = config.unwrap();
            assert_eq!(config.cluster_url.to_string(), expected);
            assert_eq!(config.default_namespace, "portcullis");
            let ca = mounted.path().join("ca.crt");
            assert_eq!((config.root_cert.map(|ca| ca.len()), config.root_cert_file), (Some(1), Some(ca)));
            let token = mounted.path().join("token").display().to_string();
            assert_eq!(config.auth_info.token_file, Some(token));
        };
        check("10.96.0.1", "443", "https://10.96.0.1:443/");
        check("fd00::1", "6443", "https://[fd00::1]:6443/");
        check("api.internal", "6443", "https://api.internal:6443/");

        let fails = |host: &str, port: &str| pod(host, port).1.unwrap_err().to_string();
        assert!(fails("", "443").contains("KUBERNETES_SERVICE_HOST is not set"));
        assert!(fails("10.96.0.1", "").contains("KUBERNETES_SERVICE_PORT is not set"));
        assert!(fails("10.96.0.1", "no port").contains("KUBERNETES_SERVICE_HOST and _PORT"));
        let nothing_mounted = in_cluster(Path::new("/nonexistent"), |_| Some("1".into())).unwrap_err();
        assert!(nothing_mounted.to_string().contains("/nonexistent/ca.crt"), "{nothing_mounted}");
    }

    #[tokio::test]
    async fn a_missing_file_is_named() {
        let mut explicit = ExplicitCluster::new("https://localhost".parse().unwrap());
        explicit.certificate_authority = Some("/nonexistent/ca.crt".into());
        let error = ClusterSource::Explicit(Box::new(explicit)).load().await.unwrap_err();
        assert!(error.to_string().contains("/nonexistent/ca.crt"), "{error}");
    }
}
