//! The load generator: keep-alive connections over TLS, each sending one request after the other, as wrk does.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::{net::TcpStream, task::JoinSet, time::Instant};
use tokio_rustls::TlsConnector;

use crate::AnyError;

/// Who is asked, and for what.
#[derive(Clone)]
pub(crate) struct Target {
    /// Its name in the report.
    pub(crate) name: &'static str,
    pub(crate) port: u16,
    pub(crate) token: Option<String>,
    connector: TlsConnector,
}

/// What a run of load asks for, again and again.
#[derive(Clone)]
pub(crate) enum Ask {
    /// GET of this path.
    Read(&'static str),
    /// POST of this JSON to this path.
    Write(&'static str, Bytes),
}

/// What a run of load saw.
pub(crate) struct Seen {
    pub(crate) requests: usize,
    pub(crate) elapsed: Duration,
    latencies: Vec<u32>,
}

impl Seen {
    pub(crate) fn per_second(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }

    /// In milliseconds. `part` is between 0 and 1.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let index = ((last as f64) * part).round() as usize;
        self.latencies.get(index).map_or(f64::NAN, |micros| f64::from(*micros) / 1000.0)
    }

    /// Both together.
    pub(crate) fn merge(mut self, other: Self) -> Self {
        self.latencies.extend(other.latencies);
        self.latencies.sort_unstable();
        Self { requests: self.requests + other.requests, elapsed: self.elapsed + other.elapsed, ..self }
    }
}

impl Target {
    pub(crate) fn new(
        name: &'static str,
        port: u16,
        authority: &CertificateDer<'static>,
        token: Option<String>,
    ) -> Result<Self, AnyError> {
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone())?;
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { name, port, token, connector: TlsConnector::from(Arc::new(config)) })
    }

    /// One connection, ready for requests.
    pub(crate) async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, AnyError> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        let stream = self.connector.connect(ServerName::try_from("localhost")?, stream).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    pub(crate) fn request(&self, ask: &Ask) -> Result<Request<Full<Bytes>>, AnyError> {
        let (request, body) = match ask {
            Ask::Read(path) => (Request::get(*path), Bytes::new()),
            Ask::Write(path, body) => {
                (Request::post(*path).header(header::CONTENT_TYPE, "application/json"), body.clone())
            }
        };
        let mut request =
            request.header(header::HOST, "localhost").header(header::ACCEPT, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        Ok(request.body(Full::new(body))?)
    }

    /// Asks over `connections` connections for `during`; every answer must be a success and whole.
    pub(crate) async fn load(
        &self,
        ask: &Ask,
        connections: usize,
        during: Duration,
    ) -> Result<Seen, AnyError> {
        let mut workers = JoinSet::new();
        let mut senders = Vec::new();
        for _ in 0..connections {
            senders.push(self.connect().await?);
        }
        let begin = Instant::now();
        let end = begin + during;
        for mut sender in senders {
            let (target, ask) = (self.clone(), ask.clone());
            workers.spawn(async move {
                let mut latencies = Vec::with_capacity(64 * 1024);
                while Instant::now() < end {
                    let request = target.request(&ask)?;
                    let sent = Instant::now();
                    sender.ready().await?;
                    let response = sender.send_request(request).await?;
                    let status = response.status();
                    let body = response.into_body().collect().await?.to_bytes();
                    if !status.is_success() || body.is_empty() {
                        let said = String::from_utf8_lossy(&body).into_owned();
                        return Err(format!("{} answered {status}: {said}", target.name).into());
                    }
                    latencies.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
                }
                Ok::<_, AnyError>(latencies)
            });
        }
        let mut latencies = Vec::new();
        while let Some(done) = workers.join_next().await {
            latencies.extend(done??);
        }
        let elapsed = begin.elapsed();
        latencies.sort_unstable();
        Ok(Seen { requests: latencies.len(), elapsed, latencies })
    }
}
