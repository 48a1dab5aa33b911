//! A running gateway: everything a configuration says, put together and started.

use std::{
    io::Write,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use portcullis_audit::{Audit, AuditOptions, AuditPolicy, AuditReader, Level};
use portcullis_core::{BoxFuture, Clock, Event, EventKind, EventSink, SystemClock};
use portcullis_hold::{LogNotifier, Tickets};
use portcullis_jit::{Grants, SigningKey, metadata, token_service};
use portcullis_kube::{ClusterSource, Upstream, UpstreamOptions, UpstreamSet};
use portcullis_mask::{MaskKey, RequestRedactor, Rules};
use portcullis_oidc::OidcAuthenticator;
use portcullis_policy::{Policy, PolicyHandle};
use portcullis_search::Indexer;
use portcullis_store::SqliteStore;
use sha2::{Digest, Sha256};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api::{self, Api, audit::Evidence},
    config::{Cluster, Config},
    exports::{self, CheckpointSender},
    identities::{self, Identities},
    ops::{self, Check, Operations},
    server::Listener,
    stack::{self, METADATA_PATH, OAUTH_PREFIX, OWN_PREFIX, Parts},
    tls::{CertificateFiles, ReloadingCertificate, server_config},
    upkeep,
};

/// How often overdue tickets are ended.
const TICKET_SWEEP: Duration = Duration::from_secs(2);
/// How often to try whether the search index can be had.
const INDEX_RETRY: Duration = Duration::from_secs(10);
/// How long what is cut at the end of the drain may take to be written down. It takes what the disk takes.
const WRITING_DOWN: Duration = Duration::from_secs(10);

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct StartError {
    what: String,
    why: String,
}

impl StartError {
    fn new(what: impl Into<String>, why: impl ToString) -> Self {
        Self { what: what.into(), why: why.to_string() }
    }
}

/// A gateway that takes requests, until [`stop`](Self::stop).
pub struct Gateway {
    address: SocketAddr,
    operations_address: SocketAddr,
    url: String,
    audit: Audit,
    operations: Arc<Operations>,
    drain: CancellationToken,
    cut: CancellationToken,
    drain_for: Duration,
    serving: JoinHandle<()>,
    background: Vec<JoinHandle<()>>,
    streams: TaskTracker,
}

impl Gateway {
    /// Starts everything: opens the ledger, recovers what a crash left, listens. `render_metrics` is what `/metrics` shows.
    ///
    /// # Errors
    ///
    /// [`StartError`] names the part that cannot start. Then nothing runs.
    pub async fn start(
        config: Config,
        render_metrics: impl Fn() -> String + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        let state = StateDir::open(&config.state_dir)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);

        let socket = bind(config.listen.address).await?;
        let operations_socket = bind(config.operations.address).await?;
        let address = socket.local_addr().map_err(|e| StartError::new("listen", e))?;
        let operations_address =
            operations_socket.local_addr().map_err(|e| StartError::new("operations", e))?;
        let url = config.public_url(address);

        // What redacts stands before what records: nothing is ever written that has not passed it.
        let mask_key =
            MaskKey::load_or_create(state.key("mask.key")).map_err(|e| StartError::new("mask key", e))?;
        let rules = Rules::new(&config.mask, mask_key).map_err(|e| StartError::new("mask", e))?;
        let redactor = Arc::new(RequestRedactor::new(rules.clone()));
        let (audit, audit_policy) = open_audit(&config, &state, redactor.clone()).await?;

        let store =
            SqliteStore::open(state.path.join("state.db")).await.map_err(|e| StartError::new("state", e))?;
        let events: Arc<dyn EventSink> = Arc::new(audit.clone());
        let tickets = Tickets::builder(Arc::new(store.clone()), events.clone())
            .clock(clock.clone())
            .notifier(Arc::new(LogNotifier))
            .build();
        let settled =
            tickets.recover(audit.origin(), &audit).await.map_err(|e| StartError::new("tickets", e))?;
        if settled > 0 {
            tracing::warn!(settled, "tickets were in use when the gateway stopped");
        }

        let authenticator = Arc::new(
            OidcAuthenticator::builder(config.authentication.clone())
                .clock(clock.clone())
                .build()
                .map_err(|e| StartError::new("authentication", e))?,
        );
        let key = SigningKey::open(&state.key("grants.pem")).map_err(|e| StartError::new("grants", e))?;
        let digest_salt = Sha256::digest(format!("portcullis/tickets/{}", key.id())).to_vec();
        let (disabled, watched) = (authenticator.disabled().clone(), authenticator.disabled().clone());
        let grants = Grants::builder(
            format!("{url}{OWN_PREFIX}"),
            key,
            config.grants.profiles.clone(),
            Arc::new(store.clone()),
            events.clone(),
            clock.clone(),
        )
        // Off-boarding ends what an identity's tasks hold, too.
        .disabled(
            move |who| disabled.is_disabled(&who.issuer, &who.subject),
            move |who| watched.liveness(&who.issuer, &who.subject),
        )
        .build();
        let identities = Identities::open(identities::Parts {
            authenticator: authenticator.clone(),
            store: store.clone(),
            grants: grants.clone(),
            events: events.clone(),
            clock: clock.clone(),
        })
        .await
        .map_err(|e| StartError::new("state", e))?;
        let policy = Policy::compile(config.policy.clone()).map_err(|e| StartError::new("policy", e))?;
        let streams = TaskTracker::new();
        let upstreams = upstreams(&config.clusters, &clock, &streams).await?;

        record_start(&config, &*events).await?;
        let exports =
            exports::start(&config.audit.exports, audit_policy, &audit, &state.path.join("exports"))
                .await
                .map_err(|e| StartError::new("export", e))?;

        let metadata = metadata(&grants, &format!("{url}{OAUTH_PREFIX}"));
        let oauth = axum::Router::new()
            .nest(OAUTH_PREFIX, token_service(grants.clone(), authenticator.clone()))
            .route(METADATA_PATH, axum::routing::get(move || async move { axum::Json(metadata) }));
        let (drain, cut) = (CancellationToken::new(), CancellationToken::new());
        let administrators = config.administrators.clone();
        let auditors = config.auditors.clone().unwrap_or_else(|| administrators.clone());
        let evidence = Evidence::new(audit.clone(), auditors, drain.clone());
        let api = api::router(Api {
            tickets: tickets.clone(),
            grants: grants.clone(),
            identities,
            administrators,
            evidence,
            clock: clock.clone(),
        });
        let (limits, listen, config_index) =
            (config.limits.clone(), config.listen.clone(), config.audit.index);
        let retention = config.audit.retention.into();
        let stack = stack::stack(Parts {
            config,
            audit: audit.clone(),
            authenticator: authenticator.clone(),
            grants: grants.clone(),
            tickets: tickets.clone(),
            policy: PolicyHandle::new(policy),
            rules,
            redactor,
            upstreams,
            digest_salt,
            oauth,
            api,
        });

        let certificate = ReloadingCertificate::open(CertificateFiles {
            certificate: listen.tls.cert_file.clone(),
            key: listen.tls.key_file.clone(),
        })
        .map_err(|e| StartError::new("TLS", e))?;
        let tls = server_config(certificate.clone(), listen.tls.client_ca_file.as_deref())
            .map_err(|e| StartError::new("TLS", e))?;

        let operations = operations(&audit, &store, render_metrics);
        let indexed = config_index.then(|| tokio::spawn(keep_index(audit.clone())));
        let mut background = vec![
            tokio::spawn(certificate.watch()),
            tokio::spawn(grants.sweep_forever()),
            tokio::spawn(sweep_tickets(tickets)),
            tokio::spawn(upkeep::look_after_disk(audit.clone(), retention)),
            tokio::spawn(async move { log_issuers(&authenticator).await }),
            tokio::spawn(serve_operations(operations_socket, operations.clone())),
        ];
        background.extend(exports);
        background.extend(indexed);
        let listener = Listener {
            socket,
            tls: Arc::new(tls),
            stack,
            events,
            limits,
            drain: drain.clone(),
            cut: cut.clone(),
        };
        let serving = tokio::spawn(listener.serve());
        tracing::info!(%url, operations = %operations_address, "the gateway is ready");
        Ok(Self {
            address,
            operations_address,
            url,
            audit,
            operations,
            drain,
            cut,
            drain_for: listen.drain,
            serving,
            background,
            streams,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where `/healthz`, `/readyz` and `/metrics` are.
    pub fn operations_address(&self) -> SocketAddr {
        self.operations_address
    }

    /// The URL clients use.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The log, to be read.
    pub fn reader(&self) -> AuditReader {
        self.audit.reader()
    }

    /// Ends it in good order: takes nothing new, lets what is open end within the drain time, cuts what has not, and closes
    /// the log when all of it is written down.
    pub async fn stop(self) {
        self.operations.drain();
        self.drain.cancel();
        // Only connections open streams, so once they have ended there are no new ones.
        let ended = async {
            let _ = self.serving.await;
            self.streams.close();
            self.streams.wait().await;
        };
        tokio::pin!(ended);
        if tokio::time::timeout(self.drain_for, &mut ended).await.is_err() {
            tracing::warn!(streams = self.streams.len(), "drain time is over; cutting what is still open");
            self.cut.cancel();
            if tokio::time::timeout(WRITING_DOWN, &mut ended).await.is_err() {
                tracing::error!(
                    streams = self.streams.len(),
                    "what was cut could not be written down in time; its outcome will be `unknown`"
                );
            }
        }
        for task in self.background {
            task.abort();
        }
        self.audit.close().await;
    }
}

/// The directory that holds everything that outlives the process.
struct StateDir {
    path: PathBuf,
}

impl StateDir {
    fn open(path: &Path) -> Result<Self, StartError> {
        let wrong = |e: std::io::Error| StartError::new(format!("state directory {}", path.display()), e);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(wrong)?;
        // Others may have made it. Keys and evidence lie in it, so only its owner may look.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(wrong)?;
        std::fs::create_dir_all(path.join("keys")).map_err(wrong)?;
        Ok(Self { path: path.to_owned() })
    }

    fn key(&self, name: &str) -> PathBuf {
        self.path.join("keys").join(name)
    }

    fn ledger(&self) -> PathBuf {
        self.path.join("ledger")
    }
}

/// The ledger's directory of a gateway whose state is in `state_dir`.
pub fn ledger_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("ledger")
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|e| StartError::new(format!("cannot listen on {address}"), e))
}

async fn open_audit(
    config: &Config,
    state: &StateDir,
    redactor: Arc<RequestRedactor>,
) -> Result<(Audit, Option<Arc<AuditPolicy>>), StartError> {
    let policy = config.audit.policy().map_err(|e| StartError::new("audit policy", e))?.map(Arc::new);
    let keys = config.audit.body_keys().map_err(|e| StartError::new("audit.bodyKeyFiles", e))?;
    let checkpoints = Checkpoints::open(config).map_err(|e| StartError::new("checkpoints", e))?;
    let mut options = AuditOptions::new(&config.audit.origin)
        .redactor(redactor)
        .body_limit(config.audit.body_bytes)
        .record_input(config.audit.record_input)
        .recording_limit(config.audit.recording_bytes)
        // What changes the cluster is worth having word for word; what only reads it would fill the disk. The gateway's own
        // endpoints hand out tokens, which nobody keeps.
        .keep_responses(|info, status| {
            info.is_resource_request
                && (info.is_mutating() || status.is_client_error() || status.is_server_error())
        })
        .ledger(|ledger| ledger.body_keys(keys).on_checkpoint(move |note| checkpoints.leave(note)));
    if let Some(policy) = &policy {
        let policy = policy.clone();
        options = options.levels(move |info, identity| {
            let level = policy.level(info, identity);
            // Whatever it says: what our own endpoints are asked and answer are tokens, or the record itself.
            if info.cluster.is_empty() && stack::is_own(&info.path) {
                level.min(Level::Metadata)
            } else {
                level
            }
        });
    }
    let dir = state.ledger();
    let opened = tokio::task::spawn_blocking(move || Audit::open(dir, options)).await;
    let (audit, opened) =
        opened.map_err(|e| StartError::new("audit log", e))?.map_err(|e| StartError::new("audit log", e))?;
    if !opened.unknown.is_empty() {
        tracing::warn!(requests = opened.unknown.len(), "requests were under way when the gateway stopped");
    }
    Ok((audit, policy))
}

/// Where signed checkpoints go: root on this host could sign another history, but a checkpoint that has left it cannot be
/// taken back.
struct Checkpoints {
    file: Option<std::fs::File>,
    collector: Option<CheckpointSender>,
}

impl Checkpoints {
    fn open(config: &Config) -> Result<Self, String> {
        let open = |path: &PathBuf| {
            let opened = std::fs::File::options().create(true).append(true).open(path);
            opened.map_err(|error| format!("{}: {error}", path.display()))
        };
        let file = config.audit.checkpoint_file.as_ref().map(open).transpose()?;
        let collector = config.telemetry.otlp_endpoint.as_deref().map(CheckpointSender::start).transpose()?;
        Ok(Self { file, collector })
    }

    fn leave(&self, note: &str) {
        tracing::info!(target: "portcullis::checkpoint", note);
        if let Some(mut file) = self.file.as_ref()
            && let Err(error) = file.write_all(format!("{note}\n").as_bytes())
        {
            tracing::warn!(%error, "a checkpoint could not be written to its file");
        }
        if let Some(collector) = &self.collector {
            collector.send(SystemClock.now(), note);
        }
    }
}

async fn upstreams(
    clusters: &[Cluster],
    clock: &Arc<dyn Clock>,
    streams: &TaskTracker,
) -> Result<UpstreamSet, StartError> {
    let mut found = Vec::new();
    for cluster in clusters {
        let source = match &cluster.kubeconfig {
            None => ClusterSource::InCluster,
            Some(file) => {
                ClusterSource::Kubeconfig { path: Some(file.path.clone()), context: file.context.clone() }
            }
        };
        let options = UpstreamOptions::new()
            .protocol(cluster.protocol.into())
            .announce_delegation(cluster.impersonate_extra)
            .clock(clock.clone())
            .streams(streams.clone());
        let upstream = Upstream::from_source(&source, options)
            .await
            .map_err(|e| StartError::new(format!("cluster {}", cluster.name), e))?;
        if found.is_empty() {
            found.push((String::new(), upstream.clone()));
        }
        found.push((cluster.name.clone(), upstream));
    }
    Ok(UpstreamSet::new(found))
}

/// Keeps the search index up to date. The log does not wait for it, and nothing else does.
async fn keep_index(audit: Audit) {
    loop {
        match Indexer::open(audit.dir()).await {
            Ok(indexer) => return indexer.run(move || audit.health().size).await,
            Err(error) => tracing::warn!(%error, "the search index is not kept up to date"),
        }
        tokio::time::sleep(INDEX_RETRY).await;
    }
}

/// Which configuration was in force is part of the evidence.
async fn record_start(config: &Config, events: &dyn EventSink) -> Result<(), StartError> {
    let text = serde_json::to_vec(config).map_err(|e| StartError::new("configuration", e))?;
    let digest: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    let clusters: Vec<_> = config.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    let event = Event::new(EventKind::ConfigLoaded)
        .with("sha256", digest)
        .with("version", env!("CARGO_PKG_VERSION"))
        .with("clusters", clusters);
    events.record(event).await.map(drop).map_err(|e| StartError::new("audit log", e))
}

fn operations(
    audit: &Audit,
    store: &SqliteStore,
    render_metrics: impl Fn() -> String + Send + Sync + 'static,
) -> Arc<Operations> {
    let (audit, store) = (audit.clone(), store.clone());
    let ledger = move || {
        let health = audit.health();
        let wrong = match health.failure {
            Some(failure) => Err(failure.to_string()),
            None if health.closed => Err("it is closed".to_owned()),
            None => Ok(()),
        };
        Box::pin(std::future::ready(wrong)) as BoxFuture<'static, _>
    };
    let state = move || {
        let store = store.clone();
        Box::pin(async move { store.health().await.map_err(|e| e.to_string()) }) as BoxFuture<'static, _>
    };
    let checks = vec![
        Check { name: "ledger", check: Box::new(ledger) },
        Check { name: "state", check: Box::new(state) },
    ];
    Operations::new(checks, render_metrics)
}

async fn serve_operations(socket: TcpListener, operations: Arc<Operations>) {
    if let Err(error) = axum::serve(socket, ops::router(operations)).await {
        tracing::error!(%error, "the operations listener has ended");
    }
}

async fn sweep_tickets(tickets: Tickets) {
    let mut ticks = tokio::time::interval(TICKET_SWEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = tickets.sweep().await {
            tracing::error!(%error, "overdue tickets could not be ended");
        }
    }
}

/// Fetches keys ahead of the first request, and says which issuers cannot be reached.
async fn log_issuers(authenticator: &OidcAuthenticator) {
    for issuer in authenticator.fetch_keys().await {
        tracing::info!(?issuer, "issuer");
    }
}
