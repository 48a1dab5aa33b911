//! The operations listener: `/healthz`, `/readyz`, `/metrics`. Plain HTTP, meant for the node and the cluster, not for clients.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use portcullis_core::BoxFuture;

/// One thing that must be in order for the gateway to take requests.
pub(crate) struct Check {
    /// Its name, as `/readyz` prints it.
    pub(crate) name: &'static str,
    /// What is wrong, if anything is.
    pub(crate) check: Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>,
}

/// What the operations listener knows.
pub(crate) struct Operations {
    checks: Vec<Check>,
    metrics: Box<dyn Fn() -> String + Send + Sync>,
    draining: AtomicBool,
}

impl Operations {
    /// Readiness by `checks`, metrics from `metrics`.
    pub(crate) fn new(checks: Vec<Check>, metrics: impl Fn() -> String + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { checks, metrics: Box::new(metrics), draining: AtomicBool::new(false) })
    }

    /// From now on not ready, so that load balancers send nothing new.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    async fn readiness(&self) -> (StatusCode, String) {
        let mut report = String::new();
        let mut ready = true;
        let mut say = |name: &str, result: Result<(), String>| match result {
            Ok(()) => report.push_str(&format!("[+]{name} ok\n")),
            Err(problem) => {
                ready = false;
                report.push_str(&format!("[-]{name} failed: {problem}\n"));
            }
        };
        for Check { name, check } in &self.checks {
            say(name, check().await);
        }
        let draining = self.draining.load(Ordering::SeqCst);
        say("shutdown", if draining { Err("the gateway is shutting down".into()) } else { Ok(()) });
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        report.push_str(if ready { "readyz check passed\n" } else { "readyz check failed\n" });
        (status, report)
    }
}

/// The operations listener's routes.
pub(crate) fn router(operations: Arc<Operations>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(operations)
}

async fn readyz(State(operations): State<Arc<Operations>>) -> Response {
    operations.readiness().await.into_response()
}

async fn metrics(State(operations): State<Arc<Operations>>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (operations.metrics)()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn not_ready_says_what_is_wrong() {
        let broken = Arc::new(AtomicBool::new(false));
        let flag = broken.clone();
        let check = Check {
            name: "ledger",
            check: Box::new(move || {
                let broken = flag.load(Ordering::SeqCst);
                let result = if broken { Err("no space left on device".to_owned()) } else { Ok(()) };
                Box::pin(std::future::ready(result))
            }),
        };
        let operations = Operations::new(vec![check], String::new);
        assert_eq!(operations.readiness().await.0, StatusCode::OK);
        broken.store(true, Ordering::SeqCst);
        let (status, report) = operations.readiness().await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(report.contains("[-]ledger failed: no space left on device"), "{report}");
        broken.store(false, Ordering::SeqCst);
        operations.drain();
        assert_eq!(operations.readiness().await.0, StatusCode::SERVICE_UNAVAILABLE);
    }
}
