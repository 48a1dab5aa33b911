//! The real client against a real socket: trust, size and time.

use std::{sync::Arc, time::Duration};

use super::support::{Key, TestIssuer};
use crate::{IssuerHealth, OidcAuthenticator, OidcConfig};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio_rustls::{TlsAcceptor, rustls};

fn config(url: &str, issuer: &str, more: &str) -> OidcConfig {
    serde_yaml::from_str(&format!(
        "jwt: [{{issuer: {{url: '{url}', audiences: [a], {issuer}}}, claimMappings: {{username: {{claim: sub, prefix: ''}}}} }}]\n{more}"
    ))
    .unwrap()
}

async fn health(config: OidcConfig) -> IssuerHealth {
    OidcAuthenticator::new(config).unwrap().fetch_keys().await.remove(0)
}

/// An issuer over plain HTTP on loopback.
async fn plain() -> (TestIssuer, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let issuer = TestIssuer::new(&url);
    issuer.publish(&[Key::es256().public("k1")]);
    let router = issuer.router();
    tokio::spawn(async move { axum::serve(listener, router).await });
    (issuer, url)
}

const INSECURE: &str = "insecureAllowLoopbackHttp: true";

#[tokio::test]
async fn loopback_http_is_for_those_who_ask_for_it() {
    let (_, url) = plain().await;
    assert_eq!(config(&url, "", "").validate()[0].field, "jwt.0.issuer.url");
    let health = health(config(&url, INSECURE, "")).await;
    assert_eq!((health.keys, health.last_error, health.is_usable), (1, None, true));
}

#[tokio::test]
async fn a_document_without_end_is_not_read_to_its_end() {
    let (issuer, url) = plain().await;
    issuer.pad(2 << 20);
    let health = health(config(&url, INSECURE, "")).await;
    assert!(health.last_error.unwrap().contains("length limit"));
}

#[tokio::test]
async fn an_issuer_that_never_answers_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let health = health(config(&url, INSECURE, "fetchTimeout: 50ms")).await;
    assert!(health.last_error.unwrap().contains("no answer within"));
    drop(listener);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new()
        .fallback(|| async { axum::response::Redirect::temporary("https://elsewhere.example") });
    tokio::spawn(async move { axum::serve(listener, router).await });
    let health = health(config(&url, INSECURE, "")).await;
    assert!(health.last_error.unwrap().contains("redirects are not followed"));
}

#[tokio::test]
async fn tls_trusts_the_named_authority_and_no_other() {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let issuer = TestIssuer::new(&url);
    issuer.publish(&[Key::ed25519().public("k1")]);
    let (acceptor, router) = (TlsAcceptor::from(Arc::new(tls)), issuer.router());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, router) = (acceptor.clone(), router.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper_util::service::TowerToHyperService::new(router);
                let io = hyper_util::rt::TokioIo::new(stream);
                let server =
                    hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                let _ = server.serve_connection(io, service).await;
            });
        }
    });

    let mut trusting = config(&url, "", "");
    trusting.jwt[0].issuer.certificate_authority = Some(cert.pem());
    let trusted = health(trusting).await;
    assert_eq!((trusted.keys, trusted.last_error), (1, None));
    let mut other = config(&url, "", "");
    other.fetch_timeout = Duration::from_secs(30);
    let stranger = generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    other.jwt[0].issuer.certificate_authority = Some(stranger.cert.pem());
    let distrusted = health(other).await;
    assert!(!distrusted.is_usable && distrusted.last_error.unwrap().contains("certificate"));
}
