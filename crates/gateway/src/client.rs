//! A client of the gateway's own API: what the command line speaks.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use futures_util::TryStreamExt;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Collected, Limited};
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::io::AsyncBufRead;
use tokio_util::io::StreamReader;

use crate::causes::causes;

/// The most of an answer that is read.
const ANSWER_LIMIT: usize = 16 * 1024 * 1024;

/// Why the gateway could not be asked, or what it said instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ClientError {
    /// What was given does not say where the gateway is, or who we are.
    #[error("{0}")]
    Setup(String),
    /// The gateway cannot be reached.
    #[error("the gateway at {url} cannot be reached: {problem}")]
    Unreachable {
        /// Where we looked.
        url: String,
        /// What happened.
        problem: String,
    },
    /// The gateway said no.
    #[error("{message}")]
    Refused {
        /// With which status.
        status: StatusCode,
        /// In its own words.
        message: String,
    },
}

/// How to find the gateway and prove who we are: flags, environment, or a kubeconfig.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct GatewayArgs {
    /// The gateway's URL. Without it, the current context of the kubeconfig is used
    #[arg(long, env = "PORTCULLIS_GATEWAY", value_name = "URL")]
    pub(crate) gateway: Option<String>,
    /// A PEM file with the authority that signed the gateway's certificate
    #[arg(long, env = "PORTCULLIS_CERTIFICATE_AUTHORITY", value_name = "FILE")]
    pub(crate) certificate_authority: Option<PathBuf>,
    /// A file that holds your OIDC token (or set PORTCULLIS_TOKEN to the token itself)
    #[arg(long, env = "PORTCULLIS_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The kubeconfig to use (default: $KUBECONFIG, ~/.kube/config)
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context to use (default: the current one)
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
}

impl GatewayArgs {
    /// Where the gateway is and who we are, for its API.
    pub(crate) async fn connect(&self) -> Result<Gateway, ClientError> {
        let mut config = self.config().await?;
        if let Some(token) = self.token()? {
            config.auth_info = Default::default();
            config.auth_info.token = Some(token);
        }
        Gateway::new(config)
    }

    /// Where the gateway is, without saying who we are: for the token endpoint, where the token *is* the request.
    pub(crate) async fn connect_anonymously(&self) -> Result<Gateway, ClientError> {
        let mut config = self.config().await?;
        config.auth_info = Default::default();
        Gateway::new(config)
    }

    /// The OIDC token that was given by flag or environment, if any.
    pub(crate) fn token(&self) -> Result<Option<SecretString>, ClientError> {
        if let Some(path) = &self.token_file {
            let token = std::fs::read_to_string(path).map_err(|e| {
                ClientError::Setup(format!("cannot read the token file {}: {e}", path.display()))
            })?;
            return Ok(Some(token.trim().to_owned().into()));
        }
        Ok(std::env::var("PORTCULLIS_TOKEN").ok().filter(|token| !token.is_empty()).map(SecretString::from))
    }

    async fn config(&self) -> Result<Config, ClientError> {
        let Some(url) = &self.gateway else { return self.config_from_kubeconfig().await };
        let uri = url
            .parse::<http::Uri>()
            .ok()
            .filter(|uri| uri.scheme_str() == Some("https") && uri.host().is_some())
            .ok_or_else(|| ClientError::Setup(format!("`{url}` is no https URL of a gateway")))?;
        let mut config = Config::new(uri);
        if let Some(path) = &self.certificate_authority {
            let found: Result<Vec<_>, _> =
                CertificateDer::pem_file_iter(path).and_then(|iter| iter.collect::<Result<Vec<_>, _>>());
            let found = found.map_err(|e| ClientError::Setup(format!("{}: {e}", path.display())))?;
            config.root_cert = Some(found.into_iter().map(|der| der.as_ref().to_vec()).collect());
        }
        Ok(config)
    }

    async fn config_from_kubeconfig(&self) -> Result<Config, ClientError> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let setup = |e: &dyn std::fmt::Display| {
            ClientError::Setup(format!("no gateway: {e}; pass --gateway URL or a kubeconfig that names one"))
        };
        let config = match &self.kubeconfig {
            Some(path) => {
                let kubeconfig = Kubeconfig::read_from(path).map_err(|e| setup(&e))?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await
            }
            None => Config::from_kubeconfig(&options).await,
        };
        config.map_err(|e| setup(&e))
    }
}

/// A connection to one gateway.
#[derive(Clone)]
pub(crate) struct Gateway {
    client: Client,
    url: String,
}

impl Gateway {
    fn new(mut config: Config) -> Result<Self, ClientError> {
        // A cluster's prefix in the kubeconfig's server is no part of the gateway's own API.
        let origin = origin(&config.cluster_url)?;
        config.cluster_url = origin.clone();
        config.connect_timeout = Some(Duration::from_secs(10));
        let client = Client::try_from(config).map_err(|e| ClientError::Setup(e.to_string()))?;
        Ok(Self { client, url: origin.to_string().trim_end_matches('/').to_owned() })
    }

    /// The gateway's origin, without a trailing slash.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Asks for `path`.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send(self.request(Method::GET, path, "", Vec::new())?).await
    }

    /// Asks for `path`, whose answer is lines that come as they come.
    pub(crate) async fn lines(&self, path: &str) -> Result<impl AsyncBufRead + use<>, ClientError> {
        let response = self.answer(self.request(Method::GET, path, "", Vec::new())?).await?;
        let body = response.into_data_stream().map_err(std::io::Error::other);
        Ok(StreamReader::new(body))
    }

    /// Posts JSON to `path`.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|e| ClientError::Setup(e.to_string()))?;
        self.send(self.request(Method::POST, path, "application/json", body)?).await
    }

    /// Posts a form to `path` (OAuth's way).
    pub(crate) async fn form<T: DeserializeOwned>(
        &self,
        path: &str,
        fields: &[(&str, &str)],
    ) -> Result<T, ClientError> {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.send(self.request(Method::POST, path, "application/x-www-form-urlencoded", body.into_bytes())?)
            .await
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Request<Body>, ClientError> {
        let mut request =
            Request::builder().method(method).uri(path).header(header::ACCEPT, "application/json");
        if !content_type.is_empty() {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        request.body(Body::from(body)).map_err(|e| ClientError::Setup(e.to_string()))
    }

    async fn send<T: DeserializeOwned>(&self, request: Request<Body>) -> Result<T, ClientError> {
        let body = self.whole(self.answer(request).await?).await?;
        let body: &[u8] = if body.is_empty() { b"null" } else { &body };
        serde_json::from_slice(body)
            .map_err(|e| self.unreachable(format!("an answer that is not understood: {e}")))
    }

    /// The body of an answer that is no refusal.
    async fn answer(&self, request: Request<Body>) -> Result<Body, ClientError> {
        let response = self.client.send(request).await.map_err(|e| self.unreachable(causes(&e)))?;
        let (status, body) = (response.status(), response.into_body());
        if status.is_success() {
            return Ok(body);
        }
        let body = self.whole(body).await?;
        Err(ClientError::Refused { status, message: refusal_message(status, &body) })
    }

    async fn whole(&self, body: Body) -> Result<Bytes, ClientError> {
        let read = Limited::new(body, ANSWER_LIMIT).collect().await;
        read.map(Collected::to_bytes).map_err(|e| self.unreachable(e.to_string()))
    }

    fn unreachable(&self, problem: String) -> ClientError {
        ClientError::Unreachable { url: self.url.clone(), problem }
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("url", &self.url).finish_non_exhaustive()
    }
}

/// The OIDC token a continuous-integration job has without asking: GitHub Actions' (`id-token: write`), for `audience`.
///
/// GitLab and others put theirs into a variable of one's choice; that is `PORTCULLIS_TOKEN`.
pub(crate) async fn github_actions_token(audience: &str) -> Result<Option<SecretString>, ClientError> {
    let (Ok(url), Ok(request_token)) =
        (std::env::var("ACTIONS_ID_TOKEN_REQUEST_URL"), std::env::var("ACTIONS_ID_TOKEN_REQUEST_TOKEN"))
    else {
        return Ok(None);
    };
    let setup = |e: String| ClientError::Setup(format!("the GitHub Actions OIDC token cannot be had: {e}"));
    let mut parsed = url::Url::parse(&url).map_err(|e| setup(e.to_string()))?;
    parsed.query_pairs_mut().append_pair("audience", audience);
    let target = match parsed.query() {
        Some(query) => format!("{}?{query}", parsed.path()),
        None => parsed.path().to_owned(),
    };
    let origin: http::Uri = parsed
        .origin()
        .ascii_serialization()
        .parse()
        .map_err(|e: http::uri::InvalidUri| setup(e.to_string()))?;
    let mut config = Config::new(origin);
    config.auth_info.token = Some(request_token.into());
    let answer: Value = Gateway::new(config)?.get(&target).await.map_err(|e| setup(e.to_string()))?;
    Ok(answer["value"].as_str().map(|token| SecretString::from(token.to_owned())))
}

/// A token in the form the token endpoint takes it.
pub(crate) fn exposed(token: &SecretString) -> &str {
    token.expose_secret()
}

fn origin(uri: &http::Uri) -> Result<http::Uri, ClientError> {
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(ClientError::Setup(format!("`{uri}` does not say where the gateway is")));
    };
    format!("{scheme}://{authority}/")
        .parse()
        .map_err(|e: http::uri::InvalidUri| ClientError::Setup(e.to_string()))
}

/// What the gateway said: the message of a problem, a `Status` or an OAuth error.
fn refusal_message(status: StatusCode, body: &[u8]) -> String {
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    let words = ["detail", "message", "error_description", "error"]
        .iter()
        .find_map(|field| said[*field].as_str().map(str::to_owned));
    words.unwrap_or_else(|| format!("the gateway answered {status}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_gateway_said_is_found_in_every_format() {
        let check = |body: &str, expected: &str| {
            assert_eq!(refusal_message(StatusCode::FORBIDDEN, body.as_bytes()), expected);
        };
        check(r#"{"type":"x","detail":"no such ticket"}"#, "no such ticket");
        check(r#"{"kind":"Status","message":"forbidden: rule x"}"#, "forbidden: rule x");
        check(r#"{"error":"invalid_grant","error_description":"expired"}"#, "expired");
        check("<html>", "the gateway answered 403 Forbidden");
    }

    #[test]
    fn a_clusters_prefix_is_no_part_of_the_gateways_origin() {
        let uri = "https://gw.example:8443/clusters/prod".parse().unwrap();
        assert_eq!(origin(&uri).unwrap().to_string(), "https://gw.example:8443/");
    }
}
