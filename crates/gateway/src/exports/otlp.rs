//! OpenTelemetry logs: each record a log record, its body the record as it stands in the log.

use std::time::SystemTime;

use opentelemetry::{
    InstrumentationScope,
    logs::{AnyValue, LogRecord, Logger, LoggerProvider, Severity},
};
use opentelemetry_otlp::{LogExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::logs::{LogBatch, LogExporter as _, SdkLogRecord, SdkLogger, SdkLoggerProvider};
use portcullis_audit::{End, Entry, Record};
use portcullis_core::{BoxFuture, Timestamp};
use portcullis_export::{Item, Sink, SinkError};

use crate::telemetry::{resource, tls};

/// The instrumentation scope of what is sent.
const SCOPE: &str = "portcullis.audit";

/// Sends records, and hears whether they were taken.
pub(super) struct Otlp {
    exporter: LogExporter,
    records: RecordMaker,
}

/// Makes log records; the SDK lets nobody else.
struct RecordMaker {
    logger: SdkLogger,
    scope: InstrumentationScope,
}

impl RecordMaker {
    fn new() -> Self {
        let scope = InstrumentationScope::builder(SCOPE).with_version(env!("CARGO_PKG_VERSION")).build();
        let logger = SdkLoggerProvider::builder().build().logger_with_scope(scope.clone());
        Self { logger, scope }
    }

    fn record(&self, time: Timestamp, severity: Severity, name: &'static str, body: String) -> SdkLogRecord {
        let mut record = self.logger.create_log_record();
        record.set_event_name(name);
        record.set_timestamp(SystemTime::from(time));
        record.set_observed_timestamp(SystemTime::from(time));
        record.set_severity_number(severity);
        record.set_severity_text(severity.name());
        record.set_body(AnyValue::from(body));
        record
    }
}

fn exporter(endpoint: &str) -> Result<LogExporter, String> {
    let builder = LogExporter::builder().with_tonic().with_endpoint(endpoint);
    let built = match endpoint.starts_with("https") {
        true => builder.with_tls_config(tls()).build(),
        false => builder.build(),
    };
    let mut exporter = built.map_err(|error| format!("{endpoint}: {error}"))?;
    exporter.set_resource(&resource());
    Ok(exporter)
}

impl Otlp {
    pub(super) fn new(endpoint: &str) -> Result<Self, String> {
        Ok(Self { exporter: exporter(endpoint)?, records: RecordMaker::new() })
    }
}

impl Sink for Otlp {
    fn send<'a>(&'a mut self, items: &'a [Item]) -> BoxFuture<'a, Result<(), SinkError>> {
        let records: Vec<SdkLogRecord> = items.iter().map(|item| self.log_record(item)).collect();
        Box::pin(async move {
            let batch: Vec<_> = records.iter().map(|record| (record, &self.records.scope)).collect();
            let sent = self.exporter.export(LogBatch::new(&batch)).await;
            sent.map_err(|error| SinkError(format!("the collector: {error}")))
        })
    }
}

impl Otlp {
    fn log_record(&self, item: &Item) -> SdkLogRecord {
        let Entry { time, record, .. } = &item.stored.entry;
        let body = String::from_utf8_lossy(&item.stored.raw).into_owned();
        let name = match record {
            Record::Intent(_) => "portcullis.intent",
            Record::Outcome(_) => "portcullis.outcome",
            Record::Event(_) => "portcullis.event",
            _ => "portcullis.log",
        };
        let mut log = self.records.record(*time, severity(record), name, body);
        log.add_attribute("portcullis.record", i64::try_from(item.stored.index).unwrap_or(i64::MAX));
        for (name, value) in attributes(record) {
            log.add_attribute(name, value);
        }
        log
    }
}

fn severity(record: &Record) -> Severity {
    match record {
        Record::Outcome(outcome) if outcome.end == End::Refused => Severity::Warn,
        Record::Outcome(outcome) if matches!(outcome.end, End::Failed | End::Unknown) => Severity::Error,
        Record::Recovered(_) => Severity::Error,
        _ => Severity::Info,
    }
}

/// What collectors sort by. Names of OpenTelemetry's semantic conventions where there is one.
fn attributes(record: &Record) -> Vec<(&'static str, AnyValue)> {
    let mut found: Vec<(&'static str, AnyValue)> = Vec::new();
    let mut say =
        |name, value: Option<String>| found.extend(value.map(|value| (name, AnyValue::from(value))));
    let (info, user) = match record {
        Record::Intent(intent) => {
            say("portcullis.audit_id", Some(intent.id.to_string()));
            say("session.id", intent.session.clone());
            (Some(&intent.request.info), intent.identity.as_ref().map(|identity| identity.user.clone()))
        }
        Record::Outcome(outcome) => {
            say("portcullis.audit_id", Some(outcome.id.to_string()));
            say("session.id", outcome.session.clone());
            say("portcullis.end", Some(outcome.end.as_str().to_owned()));
            say("portcullis.refusal", outcome.refusal.as_ref().map(|refusal| refusal.code.clone()));
            (Some(&outcome.info), outcome.user.clone())
        }
        Record::Event(event) => {
            say("portcullis.audit_id", event.audit_id.map(|id| id.to_string()));
            say("portcullis.ticket", event.ticket.clone());
            say("session.id", event.grant.clone());
            (None, event.identity.as_ref().map(|identity| identity.user.clone()))
        }
        _ => (None, None),
    };
    say("user.name", user);
    if let Some(info) = info {
        let present = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        say("portcullis.verb", present(info.effective_verb()));
        say("portcullis.resource", present(&info.resource_path()));
        say("k8s.namespace.name", present(&info.namespace));
        say("portcullis.name", present(&info.name));
        say("k8s.cluster.name", present(&info.cluster));
    }
    if let Record::Outcome(outcome) = record {
        found.extend(
            outcome.status.map(|status| ("http.response.status_code", AnyValue::from(i64::from(status)))),
        );
    }
    found
}

/// Sends checkpoints off the host: whoever has the host can write history anew, but not against these.
#[derive(Clone)]
pub(crate) struct CheckpointSender(tokio::sync::mpsc::Sender<(Timestamp, String)>);

/// How many checkpoints may wait to be sent. A newer one vouches for all that an older one did.
const WAITING: usize = 16;

impl CheckpointSender {
    /// Sends to the collector at `endpoint`. Must be called within a runtime.
    ///
    /// # Errors
    ///
    /// When the endpoint is none.
    pub(crate) fn start(endpoint: &str) -> Result<Self, String> {
        let (exporter, records) = (exporter(endpoint)?, RecordMaker::new());
        let (send, mut receive) = tokio::sync::mpsc::channel::<(Timestamp, String)>(WAITING);
        tokio::spawn(async move {
            while let Some((time, note)) = receive.recv().await {
                let record = records.record(time, Severity::Info, "portcullis.checkpoint", note);
                if let Err(error) = exporter.export(LogBatch::new(&[(&record, &records.scope)])).await {
                    tracing::warn!(%error, "a checkpoint could not be sent to the collector");
                }
            }
        });
        Ok(Self(send))
    }

    /// Hands over a checkpoint; it is dropped where too many wait, since a newer one comes.
    pub(crate) fn send(&self, time: Timestamp, note: &str) {
        let _ = self.0.try_send((time, note.to_owned()));
    }
}
