//! What the layers count, through the [`metrics`] facade. Labels have few values by construction: verbs Kubernetes knows,
//! status classes, the refusals' stable codes.

use metrics::{counter, gauge, histogram};

use crate::record::End;
use crate::retention::{DiskUse, Dropped};

/// The verbs that are counted by name; what else a client sends is `other`.
const VERBS: [&str; 14] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "post",
    "put",
    "head",
    "options",
    "connect",
    "trace",
];

pub(crate) fn opened() {
    gauge!("portcullis_requests_in_flight").increment(1.0);
}

pub(crate) fn finished(
    verb: &str,
    end: End,
    status: Option<u16>,
    refusal: Option<&'static str>,
    seconds: f64,
) {
    gauge!("portcullis_requests_in_flight").decrement(1.0);
    let verb = VERBS.iter().find(|known| **known == verb).copied().unwrap_or("other");
    let class = match status {
        Some(100..=199) => "1xx",
        Some(200..=299) => "2xx",
        Some(300..=399) => "3xx",
        Some(400..=499) => "4xx",
        Some(_) => "5xx",
        None => "none",
    };
    counter!("portcullis_requests_total", "verb" => verb, "status" => class, "end" => end.as_str())
        .increment(1);
    histogram!("portcullis_request_duration_seconds", "verb" => verb).record(seconds);
    if let Some(code) = refusal {
        counter!("portcullis_refusals_total", "code" => code).increment(1);
    }
}

pub(crate) fn appended(kind: &'static str, durable: bool, seconds: f64) {
    let durability = if durable { "fsync" } else { "write" };
    counter!("portcullis_audit_records_total", "type" => kind).increment(1);
    histogram!("portcullis_audit_append_seconds", "durability" => durability).record(seconds);
}

/// A record could not be written.
pub(crate) fn append_failed(kind: &'static str) {
    counter!("portcullis_audit_failures_total", "type" => kind).increment(1);
}

pub(crate) fn stream_opened() {
    gauge!("portcullis_streams_open").increment(1.0);
}

pub(crate) fn stream_closed(recorded: u64) {
    gauge!("portcullis_streams_open").decrement(1.0);
    counter!("portcullis_recorded_bytes_total").increment(recorded);
}

/// Whether the log can be written.
pub(crate) fn failing(failing: bool) {
    gauge!("portcullis_audit_failing").set(if failing { 1.0 } else { 0.0 });
}

/// What retention has dropped.
pub(crate) fn dropped(dropped: &Dropped) {
    for (kind, count, bytes) in [
        ("bodies", dropped.bodies, dropped.body_bytes),
        ("recordings", dropped.recordings, dropped.recording_bytes),
    ] {
        counter!("portcullis_audit_dropped_total", "kind" => kind).increment(count);
        counter!("portcullis_audit_dropped_bytes_total", "kind" => kind).increment(bytes);
    }
}

/// How much disk is taken.
pub(crate) fn disk(used: &DiskUse) {
    for (kind, bytes) in
        [("log", used.log), ("bodies", used.bodies), ("recordings", used.recordings), ("index", used.index)]
    {
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; nobody has 8 PiB")]
        gauge!("portcullis_audit_disk_bytes", "kind" => kind).set(bytes as f64);
    }
}
