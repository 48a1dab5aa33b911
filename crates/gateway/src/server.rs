//! The listener: TLS, limits on connections and heads, HTTP/1.1 and HTTP/2, and a drain that loses nothing.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use http::{Request, Response, StatusCode, Version, header::HOST};
use hyper::{body::Incoming, rt::Executor};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use portcullis_core::{Body, BoxFuture, Connection, Ended, Event, EventKind, EventSink, Liveness};
use rustls::ServerConfig;
use sha2::{Digest, Sha256};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{Service, ServiceExt, util::BoxCloneSyncService};

use crate::config::Limits;

/// The whole stack, boxed once.
pub(crate) type Stack = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// How long a client may take for its TLS handshake, and for each request head (slow-loris; not a limit on streams).
const HANDSHAKE: Duration = Duration::from_secs(15);
/// How long a client that is cut at the end of the drain may take to hear why.
const GOODBYE: Duration = Duration::from_secs(2);

/// Everything a listener needs.
pub(crate) struct Listener {
    /// Where connections come from.
    pub(crate) socket: TcpListener,
    /// How they are secured.
    pub(crate) tls: Arc<ServerConfig>,
    /// What answers requests.
    pub(crate) stack: Stack,
    /// Where refused connections are recorded.
    pub(crate) events: Arc<dyn EventSink>,
    /// What strangers may ask of us.
    pub(crate) limits: Limits,
    /// Fires when no new connections are to be taken and idle ones are to be closed.
    pub(crate) drain: CancellationToken,
    /// Fires when what is still open has had its time. It is the end of what every request relies on.
    pub(crate) cut: CancellationToken,
}

impl Listener {
    /// Serves until `drain` fires, then until every connection has ended, by itself or because of `cut`.
    pub(crate) async fn serve(self) {
        let tracker = TaskTracker::new();
        let requests = TaskTracker::new();
        let abort = CancellationToken::new();
        let shared = Arc::new(Shared::new(&self, requests.clone()));
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = self.drain.cancelled() => break,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: give others time to end.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Some(place) = shared.admit(peer) else { continue };
            let (shared, abort) = (shared.clone(), abort.clone());
            tracker.spawn(async move {
                tokio::select! {
                    () = shared.connection(stream, peer, place) => {}
                    () = abort.cancelled() => {}
                }
            });
        }
        drop(self.socket);
        tracker.close();
        let open = tracker.len();
        tracing::info!(connections = open, "draining");
        let unheard = async {
            self.cut.cancelled().await;
            tokio::time::sleep(GOODBYE).await;
        };
        tokio::select! {
            () = tracker.wait() => {}
            // Clients that do not read, and requests whose answer has not begun: dropping them is their outcome.
            () = unheard => {
                tracing::warn!(connections = tracker.len(), "closing connections that have not ended");
                abort.cancel();
                tracker.wait().await;
            }
        }
        // Their connections are gone, but what they leave behind has yet to be written down.
        requests.close();
        requests.wait().await;
    }
}

/// Runs the requests of HTTP/2: each is a task of its own, for which its connection does not wait.
#[derive(Clone)]
struct Requests(TaskTracker);

impl<F> Executor<F> for Requests
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, request: F) {
        self.0.spawn(request);
    }
}

/// A connection's place among `limits.connections`, in the extensions of its requests. It is free when the connection has
/// ended and every clone is gone: an upgraded stream goes on after its HTTP connection has, and keeps one.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionPlace {
    _permit: Arc<OwnedSemaphorePermit>,
}

impl ConnectionPlace {
    pub(crate) fn new(permit: OwnedSemaphorePermit) -> Self {
        Self { _permit: Arc::new(permit) }
    }
}

/// What connections share.
struct Shared {
    tls: TlsAcceptor,
    http: auto::Builder<Requests>,
    stack: Stack,
    events: Arc<dyn EventSink>,
    connections: Arc<Semaphore>,
    rate: DefaultKeyedRateLimiter<std::net::IpAddr>,
    drain: CancellationToken,
    /// What every request relies on: that we are there.
    here: Liveness,
}

impl Shared {
    fn new(listener: &Listener, requests: TaskTracker) -> Self {
        let limits = &listener.limits;
        let mut http = auto::Builder::new(Requests(requests));
        // A client that ends its half counts as gone (no half-closing of requests; upgraded streams do their own): one
        // that waits for people must be known to have left, for nothing is carried out that nobody waits for.
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HANDSHAKE)
            .max_buf_size(limits.header_bytes.max(8 * 1024))
            .half_close(false);
        http.http2()
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
            .max_concurrent_streams(limits.streams_per_connection)
            .keep_alive_interval(Some(Duration::from_secs(30)))
            .keep_alive_timeout(Duration::from_secs(30));
        Self {
            tls: TlsAcceptor::from(listener.tls.clone()),
            http,
            stack: listener.stack.clone(),
            events: listener.events.clone(),
            connections: Arc::new(Semaphore::new(limits.connections)),
            rate: RateLimiter::keyed(
                Quota::per_second(limits.connections_per_second).allow_burst(limits.connection_burst),
            ),
            drain: listener.drain.clone(),
            here: until(listener.cut.clone()),
        }
    }

    /// Whether a connection from there may begin. One that may not is closed without a word: a stranger who
    /// floods us gets neither an answer nor a log record each.
    fn admit(&self, peer: SocketAddr) -> Option<ConnectionPlace> {
        if self.rate.check_key(&peer.ip()).is_err() {
            metrics::counter!("portcullis_connections_refused_total", "reason" => "rate").increment(1);
            return None;
        }
        if self.rate.len() > 100_000 {
            self.rate.retain_recent();
        }
        let permit = self.connections.clone().try_acquire_owned().ok();
        if permit.is_none() {
            metrics::counter!("portcullis_connections_refused_total", "reason" => "limit").increment(1);
        }
        permit.map(ConnectionPlace::new)
    }

    async fn connection(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, place: ConnectionPlace) {
        let _ = stream.set_nodelay(true);
        let tls = match tokio::time::timeout(HANDSHAKE, self.tls.accept(stream)).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => return self.refused(peer, "tls", error.to_string()).await,
            Err(_) => return self.refused(peer, "tls", "the handshake took too long".into()).await,
        };
        let certificate_sha256 = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(hex);
        let connection = Connection { peer, certificate_sha256 };
        let shared = self.clone();
        let service = tower::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(connection.clone());
            request.extensions_mut().insert(place.clone());
            request.extensions_mut().insert(shared.here.clone());
            let shared = shared.clone();
            async move {
                if lacks_host(&request) {
                    shared.refused(peer, "http", "a request without a Host header".into()).await;
                    return Ok(bad_request("a request must have a Host header (RFC 9112 section 3.2)\n"));
                }
                shared.stack.clone().ready().await?.call(request.map(Body::new)).await
            }
        });
        let serving =
            self.http.serve_connection_with_upgrades(TokioIo::new(tls), TowerToHyperService::new(service));
        tokio::pin!(serving);
        let ended = tokio::select! {
            ended = serving.as_mut() => ended,
            () = self.drain.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        // Recorded if the client sent what is no HTTP; not if it just went away.
        if let Some(problem) = ended.err().and_then(|error| parse_problem(error.as_ref())) {
            self.refused(peer, "http", problem).await;
        }
    }

    async fn refused(&self, peer: SocketAddr, layer: &'static str, problem: String) {
        metrics::counter!("portcullis_connections_refused_total", "reason" => layer).increment(1);
        tracing::debug!(%peer, layer, problem, "connection refused");
        let event = Event::new(EventKind::ConnectionRefused)
            .with("peer", peer.to_string())
            .with("layer", layer)
            .with("problem", problem);
        if let Err(error) = self.events.record(event).await {
            tracing::error!(%error, "a refused connection could not be recorded");
        }
    }
}

/// Ends when the gateway cuts what is still open.
fn until(cut: CancellationToken) -> Liveness {
    Liveness::new(move || -> BoxFuture<'static, Ended> {
        let cut = cut.clone();
        Box::pin(async move {
            cut.cancelled_owned().await;
            Ended::Draining
        })
    })
}

/// RFC 9112 §3.2. The parser lets it pass, and what stands before us may have read a host elsewhere.
fn lacks_host<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_11 && !request.headers().contains_key(HOST)
}

/// For what is not even a request.
fn bad_request(why: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(why));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response
}

fn parse_problem(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let error = error.downcast_ref::<hyper::Error>()?;
    error.is_parse().then(|| error.to_string())
}

fn hex(certificate: &rustls_pki_types::CertificateDer<'_>) -> String {
    Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect()
}
