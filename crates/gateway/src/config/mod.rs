//! The gateway's configuration: one YAML file, checked whole before anything starts.
//!
//! Unknown fields are refused. The JSON Schema under `docs/` is generated from these types
//! (`portcullis check --print-schema`).

mod audit;
mod diagnostic;
mod layers;

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use audit::{Audit, Export, Retention};
pub use diagnostic::{Diagnostics, FieldPath, Problem};

/// What a semaphore can count to.
const MAX_CONNECTIONS: usize = tokio::sync::Semaphore::MAX_PERMITS;
/// Rates are kept as the time between two, in whole nanoseconds.
const MAX_RATE: u32 = 1_000_000_000;

/// The configuration of one gateway.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// `portcullis.dev/v1alpha1`
    pub api_version: ApiVersion,
    /// `Gateway`
    pub kind: Kind,
    /// Where clients connect.
    pub listen: Listen,
    /// Where `/healthz`, `/readyz` and `/metrics` are.
    #[serde(default)]
    pub operations: Operations,
    /// The directory that holds the ledger, recordings, keys and state. Only the gateway's user may read it.
    pub state_dir: PathBuf,
    /// The clusters behind the gateway. The first one is the default, at `/`; each is at `/clusters/<name>/` too.
    pub clusters: Vec<Cluster>,
    /// Who is believed: the shape of Kubernetes' `AuthenticationConfiguration`.
    pub authentication: portcullis_oidc::OidcConfig,
    /// What may pass, what may not, and what waits for people.
    #[serde(default)]
    pub policy: portcullis_policy::PolicyConfig,
    /// What is masked.
    #[serde(default)]
    pub mask: portcullis_mask::MaskConfig,
    /// How requests wait.
    #[serde(default)]
    pub hold: Hold,
    /// Which grants there are to be had.
    #[serde(default)]
    pub grants: Grants,
    /// Who may look at and end other people's grants, and disable identities.
    #[serde(default)]
    #[schemars(with = "AdministratorsShape")]
    pub administrators: portcullis_core::Approvers,
    /// Who may search and read the record of what everybody did. Unless it is said, administrators may; whoever judges them
    /// should be somebody else (NIST AC-5, AU-9 (4)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<AdministratorsShape>")]
    pub auditors: Option<portcullis_core::Approvers>,
    /// What is recorded, and how.
    #[serde(default)]
    pub audit: Audit,
    /// What strangers, and one identity, may ask of the gateway.
    #[serde(default)]
    pub limits: Limits,
    /// Logs, traces, metrics.
    #[serde(default)]
    pub telemetry: Telemetry,
}

/// The version of this format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApiVersion {
    /// The only one so far.
    #[serde(rename = "portcullis.dev/v1alpha1")]
    V1Alpha1,
}

/// The kind of this document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Kind {
    /// A gateway's configuration.
    Gateway,
}

/// Where clients connect.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listen {
    /// Address and port; port 0 takes a free one.
    pub address: SocketAddr,
    /// The URL clients use, if it is not `https://<address>`: the issuer of grants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_url: Option<String>,
    /// The certificate.
    pub tls: ListenTls,
    /// How long open requests and streams may go on after SIGTERM; then they are cut.
    #[serde(default = "default_drain", with = "duration")]
    #[schemars(with = "String")]
    pub drain: std::time::Duration,
}

/// The listener's certificate. `certFile` and `keyFile` are read again when they change, `clientCaFile` only at start.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenTls {
    /// The chain, leaf first, PEM.
    pub cert_file: PathBuf,
    /// The private key, PEM.
    pub key_file: PathBuf,
    /// An authority whose client certificates are accepted, so that grants can be bound to them (RFC 8705).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca_file: Option<PathBuf>,
}

/// The operations listener: plain HTTP.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Operations {
    /// Address and port.
    pub address: SocketAddr,
}

/// A cluster behind the gateway. Without `kubeconfig`, the gateway runs inside the cluster and uses its service account.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cluster {
    /// Its name, as in `/clusters/<name>/`.
    pub name: String,
    /// How to reach it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<KubeconfigRef>,
    /// How short requests travel to it. Watches, logs and upgrades have an HTTP/1.1 connection each, in any case.
    #[serde(default)]
    pub protocol: UpstreamProtocol,
    /// Whether the grant, the approval and the request's id go to the API server as `Impersonate-Extra-portcullis.dev%2F…`, so
    /// that its own audit log tells the same story. The gateway's credential then needs `impersonate` on `userextras`.
    #[serde(default)]
    pub impersonate_extra: bool,
}

/// How short requests travel to a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum UpstreamProtocol {
    /// A pool of HTTP/1.1 connections, one per request under way: a client that reads slowly stalls nobody but itself.
    #[default]
    Http1,
    /// One HTTP/2 connection, where the server offers it: fewer connections, one flow control for all.
    Http2,
}

impl From<UpstreamProtocol> for portcullis_kube::Protocol {
    fn from(protocol: UpstreamProtocol) -> Self {
        match protocol {
            UpstreamProtocol::Http1 => Self::Http1,
            UpstreamProtocol::Http2 => Self::Http2,
        }
    }
}

/// A kubeconfig and a context in it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubeconfigRef {
    /// The file.
    pub path: PathBuf,
    /// The context; the file's current one if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
}

/// People, by name or group, as mapped.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "the JSON schema of core's Approvers, which needs no schema crate")]
struct AdministratorsShape {
    /// User names.
    #[schemars(default)]
    users: Vec<String>,
    /// Group names.
    #[schemars(default)]
    groups: Vec<String>,
}

/// How requests wait for people.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Hold {
    /// How long a connection is kept open before the client is told to come back. Below the time-out of any load balancer in
    /// between.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub hold_for: std::time::Duration,
    /// How long a ticket waits for a decision before it counts as denied.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub expires_after: std::time::Duration,
    /// Whether a ticket is withdrawn when its client goes away.
    pub withdraw_on_disconnect: bool,
}

/// Which grants there are to be had.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Grants {
    /// The profiles that grants are cut from.
    pub profiles: Vec<portcullis_jit::Profile>,
}

/// What strangers, and one identity, may ask of the gateway.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// New connections per second from one address.
    pub connections_per_second: NonZeroU32,
    /// How many may come at once before that counts.
    pub connection_burst: NonZeroU32,
    /// HTTP/2 streams on one connection. A client's watches all share one.
    pub streams_per_connection: u32,
    /// Bytes of a request's head.
    pub header_bytes: usize,
    /// Bytes of a request's body, where a rule must read it: every write.
    pub body_bytes: usize,
    /// Requests of one identity at once, without long-running ones.
    pub requests_per_identity: usize,
    /// Watches, followed logs and connections of one identity at once.
    pub streams_per_identity: usize,
}

/// Logs, traces, metrics.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Telemetry {
    /// A log filter, as in `RUST_LOG` (which overrides it).
    pub log: String,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// The collector's OTLP/gRPC endpoint for traces and metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

impl LogFormat {
    /// Whether to write JSON, given whether a person is watching.
    pub fn is_json(self, terminal: bool) -> bool {
        match self {
            Self::Auto => !terminal,
            Self::Text => false,
            Self::Json => true,
        }
    }
}

impl Config {
    /// Reads and checks a file. Relative paths in it are taken from where the file is.
    ///
    /// # Errors
    ///
    /// [`Diagnostics`]: everything that is wrong, with file, line and column.
    pub fn load(path: &Path) -> Result<Self, Diagnostics> {
        let source = std::fs::read_to_string(path).map_err(|error| {
            Diagnostics::from_problems(path, "", vec![Problem::at("", format!("cannot be read: {error}"))])
        })?;
        Self::parse(path, &source)
    }

    /// As [`load`](Self::load), from text that was read from `path`.
    ///
    /// # Errors
    ///
    /// [`Diagnostics`]
    pub fn parse(path: &Path, source: &str) -> Result<Self, Diagnostics> {
        let mut config: Self = serde_path_to_error::deserialize(serde_yaml::Deserializer::from_str(source))
            .map_err(|error| Diagnostics::from_yaml(path, source, &error))?;
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(Diagnostics::from_problems(path, source, problems));
        }
        config.resolve_paths(path.parent().unwrap_or(Path::new(".")));
        Ok(config)
    }

    /// The URL clients use, given the address that was bound.
    pub fn public_url(&self, bound: SocketAddr) -> String {
        match &self.listen.public_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("https://{bound}"),
        }
    }

    /// What is wrong with it that types cannot say.
    fn problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        if self.clusters.is_empty() {
            found.push(Problem::at("clusters", "there is no cluster").help("name at least one"));
        }
        for (n, cluster) in self.clusters.iter().enumerate() {
            let valid = !cluster.name.is_empty()
                && cluster.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            if !valid {
                let message = format!("`{}` is no name for a cluster", cluster.name);
                found.push(
                    Problem::at(&format!("clusters.{n}.name"), message)
                        .help("use lower-case letters, digits and dashes"),
                );
            }
            if self.clusters[..n].iter().any(|other| other.name == cluster.name) {
                let message = format!("there are two clusters named `{}`", cluster.name);
                found.push(Problem::at(&format!("clusters.{n}.name"), message));
            }
        }
        if let Some(url) = &self.listen.public_url
            && !url::Url::parse(url).is_ok_and(|url| url.scheme() == "https" && url.path() == "/")
        {
            let message = format!("`{url}` is no https origin");
            found.push(
                Problem::at("listen.publicUrl", message).help("write it like https://gateway.example:8443"),
            );
        }
        found.extend(self.audit.problems());
        if self.hold.expires_after.is_zero() {
            let problem = Problem::at("hold.expiresAfter", "must not be zero: nobody could decide in time");
            found.push(problem.help("what should never wait is denied by a policy rule"));
        }
        found.extend(self.limits.problems());
        if self.telemetry.log.parse::<tracing_subscriber::EnvFilter>().is_err() {
            let message = format!("`{}` is no log filter", self.telemetry.log);
            found.push(Problem::at("telemetry.log", message).help("write it like info,portcullis=debug"));
        }
        if let Some(endpoint) = &self.telemetry.otlp_endpoint
            && !is_http_url(endpoint)
        {
            let message = format!("`{endpoint}` is no http or https URL");
            found.push(
                Problem::at("telemetry.otlpEndpoint", message)
                    .help("write it like http://collector.example:4317"),
            );
        }
        found.extend(self.layer_problems());
        found
    }

    fn resolve_paths(&mut self, base: &Path) {
        let tls = &mut self.listen.tls;
        let mut paths = vec![&mut self.state_dir, &mut tls.cert_file, &mut tls.key_file];
        paths.extend(tls.client_ca_file.as_mut());
        paths.extend(self.audit.policy_file.as_mut());
        paths.extend(self.audit.checkpoint_file.as_mut());
        paths.extend(self.audit.body_key_files.iter_mut());
        paths.extend(self.audit.exports.iter_mut().filter_map(|export| match export {
            Export::File { path, .. } | Export::Webhook { kubeconfig: path, .. } => Some(path),
            Export::Otlp { .. } => None,
        }));
        paths.extend(
            self.clusters.iter_mut().filter_map(|cluster| cluster.kubeconfig.as_mut()).map(|k| &mut k.path),
        );
        for path in paths {
            *path = base.join(&path);
        }
    }
}

impl Limits {
    /// Limits under which nothing is served, or that nothing can count to.
    fn problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        for (field, is_zero, what) in [
            ("connections", self.connections == 0, "nobody could connect"),
            (
                "streamsPerConnection",
                self.streams_per_connection == 0,
                "no HTTP/2 client could ask for anything",
            ),
            ("bodyBytes", self.body_bytes == 0, "every write would be refused"),
            ("requestsPerIdentity", self.requests_per_identity == 0, "every request would be refused"),
            (
                "streamsPerIdentity",
                self.streams_per_identity == 0,
                "every watch and connection would be refused",
            ),
        ] {
            if is_zero {
                found.push(Problem::at(&format!("limits.{field}"), format!("must not be 0: {what}")));
            }
        }
        if self.connections > MAX_CONNECTIONS {
            found.push(Problem::at("limits.connections", format!("is above {MAX_CONNECTIONS}")));
        }
        if self.connections_per_second.get() > MAX_RATE {
            found.push(Problem::at("limits.connectionsPerSecond", format!("is above {MAX_RATE}")));
        }
        if self.header_bytes < 8 * 1024 {
            found.push(Problem::at("limits.headerBytes", "is below 8192, which real clients exceed"));
        }
        found
    }
}

impl Default for Operations {
    fn default() -> Self {
        Self { address: SocketAddr::from(([127, 0, 0, 1], 9180)) }
    }
}

impl Default for Hold {
    fn default() -> Self {
        Self {
            hold_for: std::time::Duration::from_secs(50),
            expires_after: std::time::Duration::from_secs(3600),
            withdraw_on_disconnect: false,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            connections_per_second: NonZeroU32::new(200).unwrap_or(NonZeroU32::MIN),
            connection_burst: NonZeroU32::new(1_000).unwrap_or(NonZeroU32::MIN),
            streams_per_connection: 1_000,
            header_bytes: 64 * 1024,
            body_bytes: 3 * 1024 * 1024,
            requests_per_identity: 400,
            streams_per_identity: 2_000,
        }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { log: "info".into(), log_format: LogFormat::Auto, otlp_endpoint: None }
    }
}

fn is_http_url(text: &str) -> bool {
    text.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    })
}

fn default_drain() -> std::time::Duration {
    std::time::Duration::from_secs(30)
}

/// Durations as people write them: `50s`, `15m`, `1h30m`.
mod duration {
    use std::time::Duration;

    use jiff::SignedDuration;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::config) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match SignedDuration::try_from(*duration) {
            Ok(signed) => serializer.collect_str(&format_args!("{signed:#}")),
            Err(error) => Err(serde::ser::Error::custom(error)),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        let signed: SignedDuration = text.parse().map_err(|_| {
            D::Error::custom(format!("`{text}` is no duration; write it like 50s, 15m or 1h30m"))
        })?;
        Duration::try_from(signed).map_err(|_| D::Error::custom("a duration cannot be negative"))
    }
}
