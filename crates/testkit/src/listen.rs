//! Serving a service on loopback over TLS, with upgrades, until the handle is dropped.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use portcullis_core::Body;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower_service::Service;

/// The client certificate of the connection a request came on, verified; in the request's extensions.
#[derive(Clone, Debug)]
pub(crate) struct PeerCertificate(pub(crate) CertificateDer<'static>);

/// Resolves when the listener stops; in the request's extensions, for connections that outlive HTTP.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionEnd(pub(crate) CancellationToken);

/// A listener at work. Dropping it closes the port and every connection.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) address: SocketAddr,
    _stop: DropGuard,
}

impl Listening {
    /// Serves `service` on `listener`.
    pub(crate) fn new<S>(listener: TcpListener, tls: Arc<ServerConfig>, service: S) -> std::io::Result<Self>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send + 'static,
    {
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(tls);
            while let Some(accepted) = stopped.run_until_cancelled(listener.accept()).await {
                let Ok((stream, _)) = accepted else {
                    // Out of file descriptors, most likely: let those that are open finish first.
                    tokio::task::yield_now().await;
                    continue;
                };
                let end = ConnectionEnd(stopped.clone());
                let connection = serve(stream, acceptor.clone(), service.clone(), end);
                let stopped = stopped.clone();
                tokio::spawn(async move { stopped.run_until_cancelled(connection).await });
            }
        });
        Ok(Self { address, _stop: stop.drop_guard() })
    }
}

async fn serve<S>(stream: TcpStream, acceptor: TlsAcceptor, service: S, end: ConnectionEnd)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let _ = stream.set_nodelay(true);
    let stream = match acceptor.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!(%error, "TLS handshake failed"),
    };
    let peer = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
    let peer = peer.map(|certificate| PeerCertificate(certificate.into_owned()));
    let service = tower::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(end.clone());
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        service.clone().call(request.map(Body::new))
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(1000);
    let connection =
        builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service)).await;
    if let Err(error) = connection {
        tracing::debug!(%error, "connection ended");
    }
}
