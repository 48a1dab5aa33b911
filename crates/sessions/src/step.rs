//! One request of a session, from its intent to its outcome.

use std::collections::BTreeMap;

use portcullis_audit::{ChannelSummary, End, Intent, Outcome, RecordingPart, RefusalSummary, StreamProgress};
use portcullis_core::{Approval, AuditId, Decision, RequestInfo, Timestamp, Verdict};
use serde::{Deserialize, Serialize};

use crate::summary::went_wrong;

/// A request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Its id, `Audit-ID` of its answer.
    pub id: AuditId,
    /// The request on whose behalf the gateway itself sent this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<AuditId>,
    /// When it arrived.
    pub received: Timestamp,
    /// When its outcome was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Timestamp>,
    /// From its arrival to its outcome, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// In words, as a command.
    pub command: String,
    /// The verb that policy judges by.
    pub verb: String,
    /// The resource and subresource; empty for a path.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource: String,
    /// The namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The object's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// How it stands.
    pub state: State,
    /// Whether it went wrong: refused, failed, broken off, or a command whose exit status is not 0.
    pub failed: bool,
    /// Whether the API server saw it.
    pub forwarded: bool,
    /// The status the client got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What policy said: `allow`, `deny` or `hold`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// By which rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Who agreed to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<RefusalSummary>,
    /// Why its answer broke off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How many values each mask rule replaced in the answer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub masked: BTreeMap<String, u64>,
    /// How long its body was, in bytes.
    #[serde(default)]
    pub request_bytes: u64,
    /// How long the answer was, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_bytes: Option<u64>,
    /// The stream it became.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<Stream>,
}

/// How a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum State {
    /// It has no outcome so far.
    Running,
    /// It was answered.
    Completed,
    /// The gateway refused it.
    Refused,
    /// It broke off.
    Aborted,
    /// The API server failed, or its answer did.
    Failed,
    /// The gateway's process died before its end.
    Unknown,
}

impl State {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Refused => "refused",
            Self::Aborted => "aborted",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

impl From<End> for State {
    fn from(end: End) -> Self {
        match end {
            End::Completed => Self::Completed,
            End::Refused => Self::Refused,
            End::Aborted => Self::Aborted,
            End::Failed => Self::Failed,
            _ => Self::Unknown,
        }
    }
}

/// A connection into the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stream {
    /// What it was for.
    pub kind: StreamKind,
    /// Whether there was a terminal.
    #[serde(default)]
    pub tty: bool,
    /// The container, if named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Why it ended; `None` while it is open, and after a crash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// The command's exit status, if it told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<i32>,
    /// What passed, by channel.
    pub channels: BTreeMap<String, ChannelSummary>,
    /// The parts of its recording whose digests are on record. Without a recording, none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recording: Vec<RecordingPart>,
}

/// What a connection was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum StreamKind {
    /// A command.
    Exec,
    /// The main process of a container.
    Attach,
    /// Files to or from a container: `kubectl cp`.
    Copy,
    /// Ports.
    PortForward,
    /// Something else: the events of a watch, a connection to a service.
    Other,
}

impl Step {
    /// A request that has just been forwarded.
    #[must_use]
    pub fn begun(intent: &Intent) -> Self {
        let mut step = Self::of(&intent.request.info, intent.id, intent.received, &intent.command);
        step.parent = intent.parent;
        step.forwarded = true;
        step.approval.clone_from(&intent.approval);
        step.judged(intent.verdict.as_ref());
        step
    }

    /// A request that was never forwarded.
    pub(crate) fn not_forwarded(time: Timestamp, outcome: &Outcome) -> Self {
        let mut step = Self::of(&outcome.info, outcome.id, outcome.received, &outcome.command);
        step.finish(time, outcome);
        step.forwarded = outcome.intent.is_some();
        step
    }

    pub(crate) fn finish(&mut self, time: Timestamp, outcome: &Outcome) {
        self.parent = outcome.parent;
        self.finished = Some(time);
        self.duration_ms = u64::try_from(time.duration_since(self.received).as_millis()).ok();
        self.state = outcome.end.into();
        self.failed = went_wrong(outcome);
        self.status = outcome.status;
        self.judged(outcome.verdict.as_ref());
        self.refusal.clone_from(&outcome.refusal);
        self.error.clone_from(&outcome.error);
        self.masked.clone_from(&outcome.masked);
        self.request_bytes = outcome.request_bytes;
        self.response_bytes = outcome.response.as_ref().map(|response| response.bytes);
        if let Some(stream) = &outcome.stream {
            self.stream = Some(Stream {
                kind: stream_kind(outcome, stream.recording.is_some()),
                tty: stream.tty,
                container: stream.container.clone(),
                ended: Some(stream.ended.clone()),
                exit: stream.exit,
                channels: stream.channels.clone(),
                recording: stream.recording.iter().flat_map(|recording| recording.files()).collect(),
            });
        }
    }

    /// Its stream is open, or was when a crash ended it: this is what is on record.
    pub(crate) fn progress(&mut self, progress: StreamProgress) {
        let kind = match self.resource.as_str() {
            "pods/exec" => StreamKind::Exec,
            "pods/attach" => StreamKind::Attach,
            "pods/portforward" => StreamKind::PortForward,
            _ => StreamKind::Other,
        };
        let channel = |bytes| ChannelSummary { bytes, sha256: None };
        self.stream = Some(Stream {
            kind,
            tty: false,
            container: None,
            ended: None,
            exit: None,
            channels: progress.channels.into_iter().map(|(name, bytes)| (name, channel(bytes))).collect(),
            recording: progress.parts,
        });
    }

    /// Whether its stream can be followed.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state == State::Running
    }

    /// Whether there may be a recording of it: there is one as soon as its stream opens, before anything is on record.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        let named = self.stream.as_ref().is_some_and(|stream| !stream.recording.is_empty());
        named || matches!(self.resource.as_str(), "pods/exec" | "pods/attach")
    }

    /// How many values were masked in its answer.
    #[must_use]
    pub fn masked_values(&self) -> u64 {
        self.masked.values().sum()
    }

    fn of(info: &RequestInfo, id: AuditId, received: Timestamp, command: &str) -> Self {
        Self {
            id,
            parent: None,
            received,
            finished: None,
            duration_ms: None,
            command: command.to_owned(),
            verb: info.effective_verb().to_owned(),
            resource: if info.is_resource_request { info.resource_path() } else { String::new() },
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            state: State::Running,
            failed: false,
            forwarded: false,
            status: None,
            decision: None,
            rule: None,
            approval: None,
            refusal: None,
            error: None,
            masked: BTreeMap::new(),
            request_bytes: 0,
            response_bytes: None,
            stream: None,
        }
    }

    fn judged(&mut self, verdict: Option<&Verdict>) {
        let Some(verdict) = verdict else { return };
        let decision = match verdict.decision {
            Decision::Allow => "allow",
            Decision::Deny => "deny",
            Decision::Hold(_) => "hold",
        };
        self.decision = Some(decision.to_owned());
        self.rule.clone_from(&verdict.rule);
    }
}

/// An exec of `tar` without a recording is `kubectl cp`: every other is recorded, or was cut.
fn stream_kind(outcome: &Outcome, recorded: bool) -> StreamKind {
    match outcome.info.subresource.as_str() {
        "exec" if !recorded && outcome.command.contains(" -- tar ") => StreamKind::Copy,
        "exec" => StreamKind::Exec,
        "attach" => StreamKind::Attach,
        "portforward" => StreamKind::PortForward,
        _ => StreamKind::Other,
    }
}
