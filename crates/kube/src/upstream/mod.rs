//! The last service of the stack: sends a request to the API server, as its caller.
//!
//! Nothing is sent without a [`Committed`] (its intent is on record) and an [`Identity`]. What the client says about who it is
//! never passes; what the gateway knows is set instead.

mod cluster;
mod connect;
mod credential;
mod failure;
mod headers;
mod impersonation;
mod set;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod upgrade_tests;

use std::{
    convert::Infallible,
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri,
    header::AUTHORIZATION,
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::upgrade::OnUpgrade;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use kube::Config;
use portcullis_core::{
    AuditId, Body, BoxError, BoxFuture, Committed, Identity, Liveness, Reason, Refusal, RequestInfo,
    SharedClock, StreamPlan, SystemClock, Trail, refuse,
};
use tokio_util::task::TaskTracker;
use tower_service::Service;

pub use cluster::{ClusterSource, ExplicitCluster, UpstreamConfigError};
use connect::Connector;
use credential::Credential;
pub use set::UpstreamSet;

use crate::{
    UpstreamTarget,
    upgrade::{Offer, Relay, switching_headers},
};

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// Below the API server's own 90 seconds, so that we rarely send on a connection that it is just closing.
const IDLE: Duration = Duration::from_secs(60);

/// How short requests travel. Watches, logs and upgrades always have an HTTP/1.1 connection each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Pooled HTTP/1.1 connections, one per request in flight. A client that reads slowly stalls nobody but itself.
    #[default]
    Http1,
    /// HTTP/2, where the server offers it: one connection for all. Fewer connections, but requests share its flow control
    /// and the server's limit of concurrent streams.
    Http2,
}

/// How an [`Upstream`] behaves.
#[derive(Clone)]
pub struct UpstreamOptions {
    connect_timeout: Duration,
    protocol: Protocol,
    announce: bool,
    clock: SharedClock,
    streams: TaskTracker,
}

impl UpstreamOptions {
    /// Ten seconds to connect, pooled HTTP/1.1, no delegation chain, the system's clock.
    pub fn new() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            protocol: Protocol::default(),
            announce: false,
            clock: Arc::new(SystemClock),
            streams: TaskTracker::new(),
        }
    }

    /// How long a connection (TCP and TLS) may take. There is no limit on how long an answer takes: watches and holds
    /// last for hours.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How short requests travel.
    #[must_use]
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// Tells the API server's own audit log about the actors, the grant and the approval behind a request
    /// (`Impersonate-Extra-portcullis.dev%2Fgrant` and others). The gateway then needs the right to `impersonate`
    /// `userextras/portcullis.dev/grant` and so on.
    #[must_use]
    pub fn announce_delegation(mut self, announce: bool) -> Self {
        self.announce = announce;
        self
    }

    /// The clock that `Trail::upstream_at` is read from.
    #[must_use]
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// Tracks the tasks that relay upgraded streams, so that a gateway that drains can wait until each has been recorded.
    #[must_use]
    pub fn streams(mut self, streams: TaskTracker) -> Self {
        self.streams = streams;
        self
    }
}

impl Default for UpstreamOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for UpstreamOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamOptions")
            .field("connect_timeout", &self.connect_timeout)
            .field("protocol", &self.protocol)
            .field("announce", &self.announce)
            .finish_non_exhaustive()
    }
}

/// One cluster's API server, as a service. Clones share its connections.
///
/// Its errors are responses: 502 and 504 where the API server is at fault, 500 and 401 where the stack before it is.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    scheme: Scheme,
    authority: Authority,
    base_path: String,
    credential: Credential,
    short: Client<Connector, Body>,
    long: Client<Connector, Body>,
    announce: bool,
    clock: SharedClock,
    streams: TaskTracker,
}

impl Upstream {
    /// Sets up an upstream. No connection is made yet, but an exec plugin of the configuration is run.
    ///
    /// # Errors
    ///
    /// [`UpstreamConfigError`] when the configuration cannot be used.
    pub async fn new(config: Config, options: UpstreamOptions) -> Result<Self, UpstreamConfigError> {
        cluster::check(&config)?;
        let timeout = options.connect_timeout;
        let loading = tokio::task::spawn_blocking(move || {
            Ok::<_, UpstreamConfigError>((
                Connector::new(&config, timeout)?,
                Credential::load(&config)?,
                config.cluster_url,
            ))
        });
        let (connector, credential, url) =
            loading.await.map_err(|_| UpstreamConfigError::new("loading the configuration failed"))??;
        let parts = url.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
            return Err(UpstreamConfigError::new("the server's address must be a URL"));
        };
        let base_path =
            parts.path_and_query.as_ref().map_or("", PathAndQuery::path).trim_end_matches('/').to_owned();
        let short = match options.protocol {
            Protocol::Http1 => client(connector.clone()),
            Protocol::Http2 => client(connector.clone().offering_http2()),
        };
        let long = client(connector);
        Ok(Self(Arc::new(Inner {
            scheme,
            authority,
            base_path,
            credential,
            short,
            long,
            announce: options.announce,
            clock: options.clock,
            streams: options.streams,
        })))
    }

    /// Sets up an upstream from where its configuration is kept.
    ///
    /// # Errors
    ///
    /// [`UpstreamConfigError`] when the configuration cannot be read or used.
    pub async fn from_source(
        source: &ClusterSource,
        options: UpstreamOptions,
    ) -> Result<Self, UpstreamConfigError> {
        Self::new(source.load().await?, options).await
    }
}

fn client(connector: Connector) -> Client<Connector, Body> {
    // A request is sent again by itself only if its connection turned out closed before any byte of it was written.
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .http2_adaptive_window(true)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .build(connector)
}

impl<B> Service<Request<B>> for Upstream
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let upstream = self.0.clone();
        let (mut parts, body) = request.into_parts();
        let body = Body::new(body);
        Box::pin(async move {
            Ok(upstream.exchange(&mut parts, body).await.unwrap_or_else(|refusal| {
                if let Some(detail) = refusal.operator_detail() {
                    tracing::warn!(code = refusal.code(), detail, "the API server did not answer");
                }
                refuse(&parts.extensions, refusal)
            }))
        })
    }
}

impl Inner {
    async fn exchange(&self, parts: &mut Parts, body: Body) -> Result<Response<Body>, Refusal> {
        let info = parts.extensions.get::<RequestInfo>().cloned().unwrap_or_default();
        if let Some(offer) = Offer::of(parts, &info)? {
            if !http_body::Body::is_end_stream(&body) {
                let message = "a request that upgrades may not have a body";
                return Err(Refusal::bad_request("upstream/upgrade", message));
            }
            drop(body);
            return self.upgrade(parts, &info, &offer).await;
        }
        let request = self.prepare(parts, body, &info).await?;
        let client = if info.is_long_running() { &self.long } else { &self.short };
        let response = client.request(request).await.map_err(|error| failure::refusal(&error))?;
        self.receive(response.map(Body::new), &info, &parts.extensions)
    }

    /// An exchange that is to end in a stream of its own.
    async fn upgrade(
        &self,
        parts: &mut Parts,
        info: &RequestInfo,
        offer: &Offer,
    ) -> Result<Response<Body>, Refusal> {
        let Some(client) = parts.extensions.remove::<OnUpgrade>() else {
            return Err(Refusal::bad_request(
                "upstream/upgrade",
                "this connection cannot be upgraded: use HTTP/1.1",
            ));
        };
        let mut request = self.prepare(parts, Body::empty(), info).await?;
        offer.apply(request.headers_mut())?;
        let mut response = self.long.request(request).await.map_err(|error| failure::refusal(&error))?;
        let extensions = &parts.extensions;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return self.receive(response.map(Body::new), info, extensions);
        }
        let audit_id = extensions.get::<AuditId>().copied();
        let plan = extensions.get::<StreamPlan>().cloned().unwrap_or_default();
        let liveness = extensions.get::<Liveness>().cloned().unwrap_or_default();
        Trail::of(extensions).note().upstream_at = Some(self.clock.now());
        let agreed = offer.agreed(&response, info, &parts.uri, audit_id)?;
        let relay = Relay::open(agreed, plan, liveness).await?;
        let headers = switching_headers(response.headers());
        self.streams.spawn(relay.run(client, hyper::upgrade::on(&mut response)));

        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = headers;
        set_audit_id(response.headers_mut(), audit_id);
        Ok(response)
    }

    /// The request as the API server gets it.
    async fn prepare(
        &self,
        parts: &mut Parts,
        body: Body,
        info: &RequestInfo,
    ) -> Result<Request<Body>, Refusal> {
        if parts.extensions.get::<Committed>().is_none() {
            return Err(Refusal::new(
                Reason::InternalError,
                "upstream/uncommitted",
                "the request is not on record, so it was not sent",
            )
            .detail("no Committed in the request's extensions: the layer that commits must stand before the upstream"));
        }
        let Some(identity) = parts.extensions.get::<Identity>() else {
            return Err(Refusal::unauthorized(
                "upstream/no-identity",
                "nobody is known to have sent this request, so it was not sent on",
            ));
        };
        let mut headers = std::mem::take(&mut parts.headers);
        headers::strip_request(&mut headers);
        impersonation::impersonate(&mut headers, identity)?;
        if self.announce {
            impersonation::announce(&mut headers, &parts.extensions)?;
        }
        set_audit_id(&mut headers, parts.extensions.get::<AuditId>().copied());
        let credential = self.credential.header().await.map_err(|error| {
            Refusal::new(
                Reason::BadGateway,
                "upstream/credential",
                "the gateway has no valid credential for the API server",
            )
            .detail(error.to_string())
        })?;
        if let Some(value) = credential {
            headers.insert(AUTHORIZATION, value);
        }

        let mut request = Request::new(body);
        *request.uri_mut() = self.uri(&parts.uri, info)?;
        *request.method_mut() = parts.method.clone();
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// The client's target, byte for byte, but for the prefixes: the cluster's goes, this server's own comes.
    fn uri(&self, uri: &Uri, info: &RequestInfo) -> Result<Uri, Refusal> {
        let unusable =
            || Refusal::bad_request("kube/ambiguous-path", "the request's target cannot be forwarded");
        let target = match info.cluster.as_str() {
            "" => uri.path_and_query().cloned().ok_or_else(unusable)?,
            cluster => {
                let target = UpstreamTarget::of(uri)?;
                (target.cluster.as_deref() == Some(cluster))
                    .then_some(target.path_and_query)
                    .ok_or_else(unusable)?
            }
        };
        let path_and_query = match self.base_path.is_empty() {
            true => target,
            false => format!("{}{target}", self.base_path).parse().map_err(|_| unusable())?,
        };
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path_and_query)
            .build()
            .map_err(|_| unusable())
    }

    /// The response as the client gets it (once it has passed the mask).
    fn receive(
        &self,
        mut response: Response<Body>,
        info: &RequestInfo,
        extensions: &Extensions,
    ) -> Result<Response<Body>, Refusal> {
        Trail::of(extensions).note().upstream_at = Some(self.clock.now());
        match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => {
                return Err(Refusal::new(
                    Reason::BadGateway,
                    "upstream/unreachable",
                    "the API server cannot be reached, or does not answer as one",
                )
                .detail("it switched protocols (101) without being asked to"));
            }
            // The caller was authenticated here. If the API server knows nobody, it is us that it does not know; a client
            // that was told 401 would throw its own good credential away. (Proxied services may well ask for theirs.)
            StatusCode::UNAUTHORIZED if info.subresource != "proxy" => {
                return Err(Refusal::new(
                    Reason::BadGateway,
                    "upstream/credential",
                    "the API server does not accept the gateway's own credential",
                )
                .detail("the API server answered 401 to the gateway"));
            }
            _ => {}
        }
        headers::strip_response(response.headers_mut());
        set_audit_id(response.headers_mut(), extensions.get::<AuditId>().copied());
        Ok(response)
    }
}

fn set_audit_id(headers: &mut HeaderMap, id: Option<AuditId>) {
    if let Some(id) = id
        && let Ok(value) = HeaderValue::try_from(id.to_string())
    {
        headers.insert(AUDIT_ID, value);
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("authority", &self.0.authority).finish_non_exhaustive()
    }
}
