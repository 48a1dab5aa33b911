//! Plain HTTP requests, for what no client would send by itself.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::de::DeserializeOwned;

use crate::process::DEADLINE;

/// A whole answer.
pub type Answer = Response<Bytes>;

/// An HTTPS client that trusts one certificate authority.
#[derive(Clone)]
pub struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl HttpClient {
    /// Trusts the authority in this PEM file, and no other.
    pub fn new(ca: &Path) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(ca).expect("a certificate authority in PEM");
        roots.add(ca).expect("a certificate authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_all_versions()
            .build();
        // Node.js, which the identity provider runs on, closes what is idle for five seconds, whatever is on its way.
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(2))
            .build(connector);
        Self { client }
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(&self, request: Request<impl Into<Bytes>>) -> Answer {
        self.try_send(request).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`send`](Self::send), where an answer that breaks off is what one looks for.
    pub async fn try_send(&self, request: Request<impl Into<Bytes>>) -> Result<Answer, String> {
        let uri = request.uri().clone();
        let request = request.map(|body| Full::new(body.into()));
        let asking = async {
            let answer = self.client.request(request).await.map_err(|error| format!("{uri}: {error:?}"))?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await.map_err(|error| format!("{uri}: {error}"))?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        tokio::time::timeout(DEADLINE, asking).await.unwrap_or_else(|_| panic!("{uri} does not answer"))
    }

    /// GET, with a bearer token if there is one.
    pub async fn get(&self, url: &str, token: Option<&str>) -> Answer {
        let mut request = Request::get(url);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        self.send(request.body("").expect("a request")).await
    }

    /// JSON of a successful answer to GET or POST.
    pub(crate) async fn json<T: DeserializeOwned>(&self, method: &str, url: &str) -> T {
        let answer = self.send(Request::builder().method(method).uri(url).body("").expect("a request")).await;
        let text = String::from_utf8_lossy(answer.body());
        assert!(answer.status().is_success(), "{method} {url}: {}: {text}", answer.status());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{url}: {error}: {text}"))
    }
}
