//! Real servers on loopback for this crate's tests.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{HeaderMap, Request, Response, Uri, Version};
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use kube::Config;
use portcullis_core::{
    AuditId, Body, BoxFuture, Classifier, Committed, ErrorFormat, Identity, Receipt, Refusal, Trail,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

use crate::{KubeClassifier, Upstream};

/// What a server was asked.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) uri: Uri,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Vec<String> {
        self.headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect()
    }
}

/// A TLS server, with what it saw.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) authority: Authority,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// Speaks HTTP/1.1 and HTTP/2.
    pub(crate) async fn start<F>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> BoxFuture<'static, Response<Body>> + Send + Sync + 'static,
    {
        Self::start_with(Authority::new(), false, answer).await
    }

    /// Asks for a client certificate of its own authority.
    pub(crate) async fn start_mutual<F>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> BoxFuture<'static, Response<Body>> + Send + Sync + 'static,
    {
        Self::start_with(Authority::new(), true, answer).await
    }

    async fn start_with<F>(authority: Authority, mutual: bool, answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> BoxFuture<'static, Response<Body>> + Send + Sync + 'static,
    {
        let acceptor = TlsAcceptor::from(Arc::new(authority.server_config(mutual)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            authority,
            seen: Arc::default(),
            connections: Arc::default(),
        };
        let (seen, connections, answer) = (server.seen.clone(), server.connections.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let (acceptor, seen, answer) = (acceptor.clone(), seen.clone(), answer.clone());
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let service = service_fn(move |request: Request<Incoming>| {
                        seen.lock().unwrap().push(Seen {
                            uri: request.uri().clone(),
                            version: request.version(),
                            headers: request.headers().clone(),
                        });
                        let answering = answer(request);
                        async move { Ok::<_, std::convert::Infallible>(answering.await) }
                    });
                    let _ = auto::Builder::new(TokioExecutor::new())
                        .serve_connection_with_upgrades(TokioIo::new(tls), service)
                        .await;
                });
            }
        });
        server
    }

    pub(crate) fn config(&self) -> Config {
        config(self.address, &self.authority)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn last(&self) -> Seen {
        self.seen().pop().unwrap()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A server that does with each connection what `serve` does.
pub(crate) async fn start_raw<F>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream) -> BoxFuture<'static, ()> + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(serve(tcp));
        }
    });
    address
}

/// A configuration for plain HTTP on loopback.
pub(crate) fn plain_config(address: SocketAddr) -> Config {
    Config::new(format!("http://{address}").parse().unwrap())
}

pub(crate) fn config(address: SocketAddr, authority: &Authority) -> Config {
    let mut config = Config::new(format!("https://{address}").parse().unwrap());
    config.root_cert = Some(vec![authority.certificate().to_vec()]);
    config.auth_info.token = Some("gateway-token".to_owned().into());
    config
}

/// A certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    pub(crate) fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    pub(crate) fn pem(&self) -> String {
        let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &self.certificate);
        format!("-----BEGIN CERTIFICATE-----\n{encoded}\n-----END CERTIFICATE-----\n")
    }

    /// A certificate for `name` and its key, in PEM.
    pub(crate) fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn server_config(&self, mutual: bool) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])
            .unwrap()
            .signed_by(&key, &self.issuer)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let builder = ServerConfig::builder();
        let builder = match mutual {
            true => builder
                .with_client_cert_verifier(WebPkiClientVerifier::builder(roots.into()).build().unwrap()),
            false => builder.with_no_client_auth(),
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }
}

/// A gateway of the upstream alone, over plain HTTP/1.1: requests are classified, and `decorate` stands for other layers.
pub(crate) async fn start_gateway<F>(upstream: Upstream, decorate: F) -> SocketAddr
where
    F: Fn(&mut http::Extensions) + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let decorate = Arc::new(decorate);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (upstream, decorate) = (upstream.clone(), decorate.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let (mut upstream, decorate) = (upstream.clone(), decorate.clone());
                async move {
                    let mut request = match try_prepare(request) {
                        Ok(request) => request,
                        Err(refusal) => return Ok(refusal.to_response(ErrorFormat::Status, None)),
                    };
                    decorate(request.extensions_mut());
                    upstream.call(request).await
                }
            });
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection_with_upgrades(TokioIo::new(tcp), service).await;
            });
        }
    });
    address
}

/// A request as the layers before the upstream leave it: classified, authenticated, on record.
pub(crate) fn ready(method: &str, target: &str) -> Request<Body> {
    prepare(Request::builder().method(method).uri(target).body(Body::empty()).unwrap())
}

pub(crate) fn prepare<B>(request: Request<B>) -> Request<B> {
    try_prepare(request).unwrap()
}

fn try_prepare<B>(request: Request<B>) -> Result<Request<B>, Refusal> {
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(KubeClassifier::new().classify(&parts)?);
    parts.extensions.insert(ErrorFormat::Status);
    parts.extensions.insert(AuditId::generate());
    parts.extensions.insert(Trail::default());
    parts.extensions.insert(identity());
    parts.extensions.insert(Committed::new(Receipt { origin: "test".into(), index: 0, durable: true }));
    Ok(Request::from_parts(parts, body))
}

pub(crate) fn identity() -> Identity {
    Identity { user: "bot".into(), groups: vec!["agents".into()], ..Identity::default() }
}

pub(crate) async fn text(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().into()).unwrap()
}

pub(crate) fn code(response: &Response<Body>) -> &'static str {
    response.extensions().get::<Refusal>().map_or("", Refusal::code)
}

pub(crate) fn answer_with(
    body: &'static str,
) -> impl Fn(Request<Incoming>) -> BoxFuture<'static, Response<Body>> {
    move |_| Box::pin(std::future::ready(Response::new(Body::from(body))))
}
