//! Connections to one API server: TCP, TLS, and a limit on how long making one may take.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_rustls::{
    DefaultServerNameResolver, FixedServerNameResolver, HttpsConnector, MaybeHttpsStream, ResolveServerName,
};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use kube::{Config, client::ConfigExt};
use portcullis_core::{BoxError, BoxFuture};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::Instant};
use tower_service::Service;

use super::cluster::UpstreamConfigError;

/// Client certificates in files are read again when a connection is made and they were last read this long ago.
const RELOAD_AFTER: Duration = Duration::from_secs(60);
/// Finds out about a peer that is gone without a word, while a watch has nothing to say.
const KEEPALIVE: Duration = Duration::from_secs(30);

pub(super) type Io = MaybeHttpsStream<TokioIo<TcpStream>>;

/// No connection within the time it may take.
#[derive(Debug)]
pub(super) struct ConnectTimeout(Duration);

impl fmt::Display for ConnectTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no connection within {:?}", self.0)
    }
}

impl std::error::Error for ConnectTimeout {}

/// Makes connections with the TLS configuration of the moment.
#[derive(Clone)]
pub(super) struct Connector {
    tcp: HttpConnector,
    tls: Arc<Tls>,
    server_name: Arc<dyn ResolveServerName + Send + Sync>,
    http2: bool,
    timeout: Duration,
}

impl Connector {
    /// May run an exec plugin, and blocks while it does.
    pub(super) fn new(config: &Config, timeout: Duration) -> Result<Self, UpstreamConfigError> {
        let server_name: Arc<dyn ResolveServerName + Send + Sync> = match &config.tls_server_name {
            Some(name) => {
                let name = ServerName::try_from(name.clone())
                    .map_err(|error| UpstreamConfigError::because("tls-server-name", error))?;
                Arc::new(FixedServerNameResolver::new(name))
            }
            None => Arc::new(DefaultServerNameResolver::default()),
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        Ok(Self { tcp, tls: Arc::new(Tls::load(config)?), server_name, http2: false, timeout })
    }

    /// The same, but it offers HTTP/2 (ALPN).
    pub(super) fn offering_http2(mut self) -> Self {
        self.http2 = true;
        self
    }
}

impl Service<Uri> for Connector {
    type Response = Io;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Io, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { tcp, tls, server_name, http2, timeout } = self.clone();
        let connecting = async move {
            let config = tls.current(http2).await;
            HttpsConnector::new(tcp, config, false, server_name).call(uri).await
        };
        Box::pin(async move {
            tokio::time::timeout(timeout, connecting)
                .await
                .unwrap_or_else(|_| Err(ConnectTimeout(timeout).into()))
        })
    }
}

/// TLS with the client certificate of the moment, if there is one.
struct Tls {
    source: Config,
    rotates: bool,
    current: Mutex<(Offers, Instant)>,
}

/// One configuration per ALPN offer, so that each keeps its own session tickets.
#[derive(Clone)]
struct Offers {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

impl Tls {
    fn load(config: &Config) -> Result<Self, UpstreamConfigError> {
        let auth = &config.auth_info;
        // Certificate authorities in files are read again by kube's own verifier.
        let rotates = auth.client_certificate.is_some() || auth.client_key.is_some() || auth.exec.is_some();
        let offers = Offers::load(config)?;
        Ok(Self { source: config.clone(), rotates, current: Mutex::new((offers, Instant::now())) })
    }

    async fn current(self: &Arc<Self>, http2: bool) -> Arc<ClientConfig> {
        let (offers, age) = {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            let age = current.1.elapsed();
            if self.rotates && age >= RELOAD_AFTER {
                current.1 = Instant::now(); // Whoever comes meanwhile need not load it too.
            }
            (current.0.clone(), age)
        };
        let offers = match self.rotates && age >= RELOAD_AFTER {
            true => self.reload().await.unwrap_or(offers),
            false => offers,
        };
        if http2 { offers.http2 } else { offers.http1 }
    }

    async fn reload(self: &Arc<Self>) -> Option<Offers> {
        let tls = self.clone();
        let loaded = tokio::task::spawn_blocking(move || Offers::load(&tls.source)).await;
        match loaded {
            Ok(Ok(offers)) => {
                self.current.lock().unwrap_or_else(PoisonError::into_inner).0 = offers.clone();
                Some(offers)
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot load the client certificate again; keeping the last one");
                None
            }
            Err(_) => None,
        }
    }
}

impl Offers {
    fn load(config: &Config) -> Result<Self, UpstreamConfigError> {
        if config.accept_invalid_certs {
            tracing::warn!(server = %config.cluster_url, "the API server's certificate is not verified (insecure-skip-tls-verify)");
        }
        let http1 = config
            .rustls_client_config()
            .map_err(|error| UpstreamConfigError::because("TLS to the API server", error))?;
        let mut http2 = http1.clone();
        http2.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut http1 = http1;
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { http1: Arc::new(http1), http2: Arc::new(http2) })
    }
}
