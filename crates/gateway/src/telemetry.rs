//! Logs, traces and metrics: to the terminal, to Prometheus, and to an OpenTelemetry collector.
//!
//! Spans and metrics never carry a secret or a body; label values come from small, closed sets.

use std::io::IsTerminal;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_opentelemetry::{OpenTelemetryMetrics, OpenTelemetryRecorder};
use metrics_util::layers::FanoutBuilder;
use opentelemetry::{metrics::MeterProvider, trace::TracerProvider};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider, trace::SdkTracerProvider};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::config::Telemetry;

/// Upper bounds of latency histograms, in seconds.
const LATENCY_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Telemetry that is on. Keep it until the end: [`shutdown`](Self::shutdown) sends what is still buffered.
pub(crate) struct Running {
    prometheus: PrometheusHandle,
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
}

impl Running {
    /// All metrics, in the Prometheus text format.
    pub(crate) fn render(&self) -> String {
        self.prometheus.run_upkeep();
        self.prometheus.render()
    }

    /// Sends what is still buffered.
    pub(crate) fn shutdown(&self) {
        if let Some(traces) = &self.traces
            && let Err(error) = traces.shutdown()
        {
            eprintln!("some traces were not exported: {error}");
        }
        if let Some(metrics) = &self.metrics
            && let Err(error) = metrics.shutdown()
        {
            eprintln!("some metrics were not exported: {error}");
        }
    }
}

/// Turns telemetry on, once per process.
///
/// `RUST_LOG` overrides the configured log filter. Must run inside a tokio runtime if an OTLP endpoint is configured.
///
/// # Errors
///
/// When the filter or the endpoint is wrong, or telemetry is on already.
pub(crate) fn start(config: &Telemetry) -> Result<Running, Box<dyn std::error::Error + Send + Sync>> {
    let filter = EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new(&config.log))?;
    let log = match config.log_format.is_json(std::io::stderr().is_terminal()) {
        true => {
            tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed()
        }
        false => tracing_subscriber::fmt::layer().with_writer(std::io::stderr).boxed(),
    };
    let traces = config.otlp_endpoint.as_deref().map(tracer).transpose()?;
    let spans = traces.as_ref().map(|provider| {
        tracing_opentelemetry::layer().with_tracer(provider.tracer("portcullis")).with_filter(ours())
    });
    tracing_subscriber::registry().with(spans).with(log.with_filter(filter)).try_init()?;

    let prometheus = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &LATENCY_BUCKETS)?
        .build_recorder();
    let handle = prometheus.handle();
    let metrics = config.otlp_endpoint.as_deref().map(meter).transpose()?;
    match &metrics {
        None => metrics::set_global_recorder(prometheus)?,
        Some(provider) => {
            let bridge = OpenTelemetryRecorder::new(OpenTelemetryMetrics::new(provider.meter("portcullis")));
            let both = FanoutBuilder::default().add_recorder(prometheus).add_recorder(bridge).build();
            metrics::set_global_recorder(both).map_err(|e| e.to_string())?;
        }
    }
    Ok(Running { prometheus: handle, traces, metrics })
}

/// What is exported: spans and events of this workspace's crates. Those of the libraries below say things in names that are
/// not ours, and the exporter's own connection would export spans about exporting spans.
fn ours() -> Targets {
    Targets::new().with_target("portcullis", LevelFilter::INFO)
}

pub(crate) fn resource() -> Resource {
    Resource::builder()
        .with_service_name("portcullis")
        .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build()
}

fn tracer(endpoint: &str) -> Result<SdkTracerProvider, opentelemetry_otlp::ExporterBuildError> {
    let builder = SpanExporter::builder().with_tonic().with_endpoint(endpoint);
    let exporter = match endpoint.starts_with("https") {
        true => builder.with_tls_config(tls()).build()?,
        false => builder.build()?,
    };
    Ok(SdkTracerProvider::builder().with_resource(resource()).with_batch_exporter(exporter).build())
}

fn meter(endpoint: &str) -> Result<SdkMeterProvider, opentelemetry_otlp::ExporterBuildError> {
    let builder = MetricExporter::builder().with_tonic().with_endpoint(endpoint);
    let exporter = match endpoint.starts_with("https") {
        true => builder.with_tls_config(tls()).build()?,
        false => builder.build()?,
    };
    Ok(SdkMeterProvider::builder().with_resource(resource()).with_periodic_exporter(exporter).build())
}

pub(crate) fn tls() -> opentelemetry_otlp::tonic_types::transport::ClientTlsConfig {
    opentelemetry_otlp::tonic_types::transport::ClientTlsConfig::new().with_enabled_roots()
}
