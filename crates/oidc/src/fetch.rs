//! Fetching an issuer's documents: small, in time, from nowhere else.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, StatusCode,
    header::{ACCEPT, USER_AGENT},
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use portcullis_core::BoxFuture;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use url::Url;

/// Larger documents are not read. The largest real key sets are some tens of KiB.
const MAX_DOCUMENT: usize = 1 << 20;

/// Fetches discovery documents and key sets. Implement it to reach issuers through a proxy of your own.
pub trait DocumentFetcher: Send + Sync + 'static {
    /// The document at `url`.
    ///
    /// # Errors
    ///
    /// A sentence for the operator.
    fn fetch<'a>(&'a self, url: &'a Url) -> BoxFuture<'a, Result<Bytes, FetchError>>;
}

/// A document could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FetchError(pub String);

/// Over hyper and rustls. Follows no redirects: who is trusted is written in the configuration.
#[derive(Debug)]
pub(crate) struct HttpFetcher {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    timeout: Duration,
}

impl HttpFetcher {
    /// Trusts the certificates in `authority` (PEM), or else the system's.
    pub(crate) fn new(authority: Option<&str>, timeout: Duration) -> Result<Self, String> {
        let builder = HttpsConnectorBuilder::new();
        let provider = aws_lc_rs::default_provider();
        let builder = match authority {
            None => builder.with_provider_and_native_roots(provider).map_err(|error| error.to_string())?,
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                    let certificate = certificate.map_err(|error| error.to_string())?;
                    roots.add(certificate).map_err(|error| error.to_string())?;
                }
                let config = ClientConfig::builder_with_provider(provider.into())
                    .with_safe_default_protocol_versions()
                    .map_err(|error| error.to_string())?
                    .with_root_certificates(roots)
                    .with_no_client_auth();
                builder.with_tls_config(config)
            }
        };
        // Whether a URL may be plain HTTP is decided before it comes here.
        let connector = builder.https_or_http().enable_http1().enable_http2().build();
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), timeout })
    }

    async fn get(&self, url: &Url) -> Result<Bytes, String> {
        let request = Request::builder()
            .method(Method::GET)
            .uri(url.as_str())
            .header(ACCEPT, HeaderValue::from_static("application/json"))
            .header(USER_AGENT, HeaderValue::from_static("portcullis"))
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        let response = self.client.request(request).await.map_err(|error| with_causes(&error))?;
        match response.status() {
            StatusCode::OK => {}
            status if status.is_redirection() => {
                return Err(format!("answered {status}, and redirects are not followed"));
            }
            status => return Err(format!("answered {status}")),
        }
        let body = Limited::new(response.into_body(), MAX_DOCUMENT).collect().await;
        Ok(body.map_err(|error| with_causes(&*error))?.to_bytes())
    }
}

impl DocumentFetcher for HttpFetcher {
    fn fetch<'a>(&'a self, url: &'a Url) -> BoxFuture<'a, Result<Bytes, FetchError>> {
        Box::pin(async move {
            let fetched = match tokio::time::timeout(self.timeout, self.get(url)).await {
                Ok(fetched) => fetched,
                Err(_) => Err(format!("no answer within {} s", self.timeout.as_secs_f32())),
            };
            fetched.map_err(|why| FetchError(format!("{url}: {why}")))
        })
    }
}

fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
