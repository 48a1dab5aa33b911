//! A receiver of audit events, as the API server's webhook backend has one.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Takes lists of events, once it has answered 503 so many times.
pub struct Webhook {
    url: String,
    state: Arc<Mutex<State>>,
    serving: JoinHandle<()>,
}

struct State {
    refuse: usize,
    refused: usize,
    events: Vec<Value>,
}

impl Webhook {
    /// Starts one.
    pub async fn start(refuse: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url =
            format!("http://{}/k8s-audit", listener.local_addr().expect("a bound socket has an address"));
        let state = Arc::new(Mutex::new(State { refuse, refused: 0, events: Vec::new() }));
        let shared = Arc::clone(&state);
        let serving = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                let service = hyper::service::service_fn(move |request| take(request, Arc::clone(&state)));
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(tcp), service));
            }
        });
        Self { url, state, serving }
    }

    /// A kubeconfig that says where it is, as `--audit-webhook-config-file` takes it.
    pub fn kubeconfig(&self, dir: &Path) -> PathBuf {
        let path = dir.join("webhook.kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "webhook",
            "clusters": [{"name": "webhook", "cluster": {"server": self.url}}],
            "contexts": [{"name": "webhook", "context": {"cluster": "webhook", "user": "webhook"}}],
            "users": [{"name": "webhook", "user": {}}],
        });
        std::fs::write(&path, config.to_string()).expect("a file can be written");
        path
    }

    /// How often it has refused, and what it has taken.
    pub fn taken(&self) -> (usize, Vec<Value>) {
        let state = self.state.lock().unwrap();
        (state.refused, state.events.clone())
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn take(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/k8s-audit"));
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut state = state.lock().unwrap();
    let refuses = state.refused < state.refuse;
    if refuses {
        state.refused += 1;
    } else {
        let mut list: Value = serde_json::from_slice(&body).expect("an EventList");
        assert_eq!(
            (list["kind"].as_str(), list["apiVersion"].as_str()),
            (Some("EventList"), Some("audit.k8s.io/v1"))
        );
        let items = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
        assert!(!items.is_empty(), "nothing was worth a call");
        state.events.extend(items);
    }
    let status = if refuses { 503 } else { 200 };
    Ok(Response::builder().status(status).body(Full::default()).expect("a response"))
}
