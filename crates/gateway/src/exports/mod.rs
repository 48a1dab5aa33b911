//! Handing the record on: files and webhooks in the words of the API server's audit log, and OpenTelemetry.

mod otlp;
mod webhook;

use std::{path::Path, sync::Arc};

use portcullis_audit::{Audit, AuditPolicy};
use portcullis_export::{Exporter, FileSink, Item, Sink, kubernetes::EventWriter};
use tokio::task::JoinHandle;

pub(crate) use self::otlp::CheckpointSender;
use crate::config::Export;

/// Starts every exporter that the configuration names. Each goes on where it stopped, by a cursor in `dir`.
///
/// # Errors
///
/// What cannot be set up, in words. An exporter whose other end is away is set up, and waits for it.
pub(crate) async fn start(
    exports: &[Export],
    policy: Option<Arc<AuditPolicy>>,
    audit: &Audit,
    dir: &Path,
) -> Result<Vec<JoinHandle<()>>, String> {
    std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let mut events = EventWriter::new();
    if let Some(policy) = policy {
        events = events.policy(policy);
    }
    let mut tasks = Vec::new();
    for export in exports {
        let cursor = dir.join(format!("{}.cursor", export.name()));
        tasks.push(match export {
            Export::File { path, max_bytes, max_backups, .. } => {
                let lines = {
                    let events = events.clone();
                    move |item: &Item| {
                        events.event(item).iter().map(|event| event.to_string().into_bytes()).collect()
                    }
                };
                spawn(export.name(), audit, &cursor, FileSink::new(path, *max_bytes, *max_backups, lines))?
            }
            Export::Webhook { kubeconfig, .. } => {
                let sink = webhook::Webhook::new(kubeconfig, events.clone()).await?;
                spawn(export.name(), audit, &cursor, sink)?
            }
            Export::Otlp { endpoint, .. } => {
                spawn(export.name(), audit, &cursor, otlp::Otlp::new(endpoint)?)?
            }
        });
    }
    Ok(tasks)
}

fn spawn<S: Sink + Sync>(
    name: &str,
    audit: &Audit,
    cursor: &Path,
    sink: S,
) -> Result<JoinHandle<()>, String> {
    let exporter = Exporter::open(name, audit.reader(), cursor, sink).map_err(|error| error.to_string())?;
    let audit = audit.clone();
    Ok(tokio::spawn(exporter.run(move || audit.health().durable)))
}
