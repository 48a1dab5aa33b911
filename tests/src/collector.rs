//! An OpenTelemetry collector: OTLP over gRPC, as far as an exporter can tell.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, combinators::WithTrailers};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const LOGS: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
const METRICS: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";

/// Takes what is exported to it, and keeps every byte.
pub struct Collector {
    /// `http://127.0.0.1:PORT`, for `telemetry.otlpEndpoint`.
    pub endpoint: String,
    /// Path and message of each call.
    calls: Arc<Mutex<Vec<(String, Bytes)>>>,
    serving: JoinHandle<()>,
}

impl Collector {
    /// Starts one.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("a bound socket has an address"));
        let calls = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&calls);
        let serving = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let seen = Arc::clone(&seen);
                let service = hyper::service::service_fn(move |request| take(request, Arc::clone(&seen)));
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(http.serve_connection(TokioIo::new(tcp), service));
            }
        });
        Self { endpoint, calls, serving }
    }

    /// The spans that came.
    pub fn spans(&self) -> Vec<Span> {
        let requests = self.messages::<ExportTraceServiceRequest>(TRACES).into_iter();
        let resources = requests.flat_map(|request| request.resource_spans);
        resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }

    /// The metrics that came.
    pub fn metrics(&self) -> Vec<Metric> {
        let requests = self.messages::<ExportMetricsServiceRequest>(METRICS).into_iter();
        let resources = requests.flat_map(|request| request.resource_metrics);
        resources.flat_map(|resource| resource.scope_metrics).flat_map(|scope| scope.metrics).collect()
    }

    /// The log records that came.
    pub fn logs(&self) -> Vec<LogRecord> {
        let requests = self.messages::<ExportLogsServiceRequest>(LOGS).into_iter();
        let resources = requests.flat_map(|request| request.resource_logs);
        resources.flat_map(|resource| resource.scope_logs).flat_map(|scope| scope.log_records).collect()
    }

    /// Every byte that came, to search for what must not be there.
    pub fn bytes(&self) -> Vec<u8> {
        self.calls.lock().unwrap().iter().flat_map(|(_, message)| message.to_vec()).collect()
    }

    fn messages<M: Message + Default>(&self, path: &str) -> Vec<M> {
        let calls = self.calls.lock().unwrap();
        let of_path = calls.iter().filter(|(called, _)| called == path);
        of_path.map(|(_, message)| M::decode(message.clone()).expect("what OTLP says")).collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Answers a unary call with an empty message. What does not arrive whole is not kept.
async fn take(
    request: Request<Incoming>,
    calls: Arc<Mutex<Vec<(String, Bytes)>>>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, hyper::Error> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    // One message: whether it is compressed, its length, itself.
    assert_eq!(body.first(), Some(&0), "compressed, which nobody asked for");
    calls.lock().unwrap().push((path, body.slice(5..)));
    let answer: WithTrailers<Full<Bytes>, _> = Full::new(Bytes::from_static(&[0; 5])).with_trailers(async {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        Some(Ok(trailers))
    });
    Ok(Response::builder().header("content-type", "application/grpc").body(answer).expect("a response"))
}
