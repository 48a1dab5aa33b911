//! A small HTTP client over TLS: what a test needs to talk to the doubles as a stranger would.
#![allow(dead_code, reason = "each test uses its own part")]

use std::{error::Error, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, request};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use portcullis_testkit::{ApiServer, ClientCertificate};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub(crate) type TestError = Box<dyn Error + Send + Sync>;
pub(crate) type TestResult<T = ()> = Result<T, TestError>;

#[derive(Clone)]
pub(crate) struct Client {
    url: String,
    tls: Arc<ClientConfig>,
    token: Option<String>,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Client {
    pub(crate) fn new(server: &ApiServer) -> TestResult<Self> {
        Self::connecting(server.url(), server.authority().certificate_der().clone(), None)
    }

    pub(crate) fn with_certificate(server: &ApiServer, certificate: &ClientCertificate) -> TestResult<Self> {
        Self::connecting(server.url(), server.authority().certificate_der().clone(), Some(certificate))
    }

    pub(crate) fn connecting(
        url: &str,
        ca: rustls_pki_types::CertificateDer<'static>,
        certificate: Option<&ClientCertificate>,
    ) -> TestResult<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(ca)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let tls = match certificate {
            None => builder.with_no_client_auth(),
            Some(certificate) => {
                let (chain, key) = certificate.to_der()?;
                builder.with_client_auth_cert(chain, key)?
            }
        };
        Ok(Self { url: url.to_owned(), tls: Arc::new(tls), token: None })
    }

    pub(crate) fn token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    pub(crate) fn anonymous(mut self) -> Self {
        self.token = None;
        self
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> request::Builder {
        let authority = self.url.trim_start_matches("https://");
        let request = Request::builder().method(method).uri(path).header("host", authority);
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    async fn open(&self) -> TestResult<http1::SendRequest<Full<Bytes>>> {
        let authority = self.url.trim_start_matches("https://");
        let stream = TcpStream::connect(authority).await?;
        let stream =
            TlsConnector::from(self.tls.clone()).connect(ServerName::try_from("127.0.0.1")?, stream).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    pub(crate) async fn raw(
        &self,
        request: request::Builder,
        body: &str,
    ) -> TestResult<http::Response<Incoming>> {
        self.raw_bytes(request, Bytes::from(body.to_owned())).await
    }

    async fn raw_bytes(
        &self,
        request: request::Builder,
        body: Bytes,
    ) -> TestResult<http::Response<Incoming>> {
        let mut sender = self.open().await?;
        Ok(sender.send_request(request.body(Full::new(body))?).await?)
    }

    pub(crate) async fn answer(&self, request: request::Builder, body: &str) -> TestResult<Answer> {
        self.answer_bytes(request, Bytes::from(body.to_owned())).await
    }

    pub(crate) async fn answer_bytes(&self, request: request::Builder, body: Bytes) -> TestResult<Answer> {
        let (parts, body) = self.raw_bytes(request, body).await?.into_parts();
        Ok(Answer { status: parts.status, headers: parts.headers, body: body.collect().await?.to_bytes() })
    }

    pub(crate) async fn get(&self, path: &str) -> TestResult<Answer> {
        self.answer(self.request(Method::GET, path), "").await
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: Value) -> TestResult<Answer> {
        let request = self.request(method, path).header("content-type", "application/json");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.answer(request, &body).await
    }

    pub(crate) async fn patch(&self, kind: &str, path: &str, body: Value) -> TestResult<Answer> {
        let request = self
            .request(Method::PATCH, path)
            .header("content-type", format!("application/{kind}-patch+json"));
        self.answer(request, &body.to_string()).await
    }

    pub(crate) async fn stream(&self, path: &str) -> TestResult<Lines> {
        let response = self.raw(self.request(Method::GET, path), "").await?;
        match response.status() {
            StatusCode::OK => Ok(Lines { body: response.into_body(), buffer: Vec::new() }),
            status => Err(format!("{path}: {status}").into()),
        }
    }
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> TestResult<Value> {
        Ok(serde_json::from_slice(&self.body)?)
    }

    #[track_caller]
    pub(crate) fn expect(&self, code: u16) -> TestResult<Value> {
        assert_eq!(self.status.as_u16(), code, "{}", self.text());
        Ok(self.json().unwrap_or_default())
    }

    #[track_caller]
    pub(crate) fn status(&self, code: u16, reason: &str) -> TestResult<Value> {
        let status = self.expect(code)?;
        assert_eq!(
            (status["kind"].as_str(), status["reason"].as_str()),
            (Some("Status"), Some(reason)),
            "{status}"
        );
        Ok(status)
    }
}

pub(crate) struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    pub(crate) async fn text(&mut self) -> TestResult<String> {
        loop {
            if let Some(at) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=at).collect();
                return Ok(String::from_utf8(line)?);
            }
            let frame = self.body.frame().await.ok_or("the stream ended")??;
            self.buffer.extend_from_slice(frame.data_ref().map(|data| data.as_ref()).unwrap_or_default());
        }
    }

    pub(crate) async fn line(&mut self) -> TestResult<Value> {
        Ok(serde_json::from_str(&self.text().await?)?)
    }
}
