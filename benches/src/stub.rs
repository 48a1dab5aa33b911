//! An upstream that does next to nothing: a small ConfigMap for every read, an echo of success for every write, a watch that stays open.
//!
//! A process of its own, so that its CPU time is not mistaken for a proxy's.

use std::{convert::Infallible, path::PathBuf, sync::Arc};

use bytes::Bytes;
use clap::Args;
use futures_util::StreamExt;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::AnyError;

/// 1 kB of ConfigMap, as an API server would send it.
pub(crate) fn config_map() -> String {
    let text = "x".repeat(720);
    format!(
        r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"settings","namespace":"shop","uid":"8a1f6c1e-0d54-4f6f-9a52-2f3f4c9b2a10","resourceVersion":"4711","creationTimestamp":"2026-01-02T03:04:05Z"}},"data":{{"text":"{text}"}}}}"#
    )
}

#[derive(Args)]
pub(crate) struct StubArgs {
    #[arg(long)]
    cert: PathBuf,
    #[arg(long)]
    key: PathBuf,
    /// Where the bound port is written
    #[arg(long)]
    port_file: PathBuf,
}

pub(crate) async fn run(args: StubArgs) -> Result<(), AnyError> {
    let chain = CertificateDer::pem_file_iter(&args.cert)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&args.key)?;
    let mut tls = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let tls = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    std::fs::write(&args.port_file, listener.local_addr()?.port().to_string())?;
    let object = Bytes::from(config_map());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (tls, object) = (tls.clone(), object.clone());
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(move |request| answer(request, object.clone()));
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    object: Bytes,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let is_write = request.method() != Method::GET;
    let is_watch = request.uri().query().is_some_and(|query| query.contains("watch="));
    let _ = request.into_body().collect().await;
    let body = match is_watch {
        true => {
            let event = format!("{{\"type\":\"ADDED\",\"object\":{}}}\n", String::from_utf8_lossy(&object));
            let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from(event)))]);
            BodyExt::boxed(StreamBody::new(first.chain(futures_util::stream::pending())))
        }
        false => BodyExt::boxed(Full::new(object)),
    };
    let mut response = Response::new(body);
    if is_write {
        *response.status_mut() = StatusCode::CREATED;
    }
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Ok(response)
}
