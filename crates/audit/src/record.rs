//! What the log says: one JSON object per record, versioned.
//!
//! Field names are stable; fields may be added, and a reader passes over those it does not know (the stored bytes keep
//! them). Everything a client could have put a secret into has been redacted before it gets here.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use http::{Method, Uri};
use portcullis_core::{
    Approval, AuditId, Connection, Event, EventKind, Grant, Identity, Redactor, Refusal, RequestInfo,
    Timestamp, Verdict,
};
use portcullis_ledger::{Hash, Recovery, RecoveryCause, Rotation};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::policy::Level;

/// The version of the record schema, in each record's `v`.
pub const SCHEMA_VERSION: u32 = 1;

/// One record of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The schema's version.
    pub v: u32,
    /// When it was made, by the clock of whoever made it. The log's order, not this, says what came first.
    pub time: Timestamp,
    /// What it tells.
    #[serde(flatten)]
    pub record: Record,
}

/// What a record tells: its `type`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
#[non_exhaustive]
pub enum Record {
    /// A request is about to be forwarded.
    Intent(Box<Intent>),
    /// What became of a request.
    Outcome(Box<Outcome>),
    /// Something else that an auditor will ask about.
    Event(Box<Event>),
    /// The log was opened for appending.
    Started(Started),
    /// The log was closed in good order.
    Stopped(Stopped),
    /// The log's storage failed, or a crash cut a write short, and it was put right.
    Recovered(Recovered),
    /// The log's key is being replaced. That it was, and by which, the note in `rotations/` says.
    KeyRotated(KeyRotated),
    /// A record of a later version.
    #[serde(other)]
    Unknown,
}

/// A request is about to be forwarded: in the log before the upstream sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// The request's id, also sent upstream as `Audit-ID`.
    pub id: AuditId,
    /// The request on whose behalf the gateway itself sends this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<AuditId>,
    /// The session it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// When it arrived.
    pub received: Timestamp,
    /// What it asks for, as a command.
    pub command: String,
    /// The request.
    pub request: Request,
    /// Who sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Under which grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantSummary>,
    /// What policy said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Who agreed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// Its body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<BodyCopy>,
    /// Something was too long for one record and was cut.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shortened: bool,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The request's id.
    pub id: AuditId,
    /// The request on whose behalf the gateway itself sent this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<AuditId>,
    /// The session it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// How it ended.
    pub end: End,
    /// The status the client got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What it asked for, as a command.
    pub command: String,
    /// What it asked for.
    pub info: RequestInfo,
    /// The name of who sent it, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The index of its intent in the log; without one, nothing was forwarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<u64>,
    /// The request, where no intent tells of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
    /// Who sent it, where no intent tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Under which grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// What policy said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The ticket by which people agreed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<RefusalSummary>,
    /// Why the response broke off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it arrived.
    pub received: Timestamp,
    /// When its intent was in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<Timestamp>,
    /// When the upstream's response head arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Timestamp>,
    /// How many values each mask rule replaced in the response.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub masked: BTreeMap<String, u64>,
    /// How many bytes of request body were read.
    #[serde(default)]
    pub request_bytes: u64,
    /// The response body, as the client got it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<ResponseBody>,
    /// How much of it was kept, where a policy says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// The upgraded stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamSummary>,
    /// What layers noted besides.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<String, Value>,
    /// Something was too long for one record and was cut.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shortened: bool,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum End {
    /// The whole response was handed out; of a stream, both ends closed it.
    Completed,
    /// A layer refused it.
    Refused,
    /// It broke off: the client went away, or a stream was cut.
    Aborted,
    /// The service failed, or the response body did.
    Failed,
    /// Nobody knows: the process died before the end. Written at the next start.
    Unknown,
}

impl End {
    /// The word for it in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Refused => "refused",
            Self::Aborted => "aborted",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// The head of a request, as far as it may be kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// What it asks for, in Kubernetes' terms.
    pub info: RequestInfo,
    /// Its HTTP method.
    pub method: String,
    /// Its target, redacted.
    pub uri: String,
    /// Its `User-Agent`, redacted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Where it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SocketAddr>,
    /// SHA-256 of the client's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

/// The grant a request was sent under.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantSummary {
    /// Its id.
    pub id: String,
    /// The profile it was cut from.
    pub profile: String,
    /// What the task is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Who approved it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<String>,
}

impl From<&Grant> for GrantSummary {
    fn from(grant: &Grant) -> Self {
        let Grant { id, profile, task, approvers, .. } = grant.clone();
        Self { id, profile, task, approvers }
    }
}

/// What is kept of a request's body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BodyCopy {
    /// How long the body was.
    pub bytes: u64,
    /// Its `Content-Type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The digest under which its redacted copy is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<Hash>,
    /// The copy is a beginning only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// A keyed digest of a body that could not be redacted and was therefore not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyed_digest: Option<String>,
    /// Why nothing was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
}

/// What is kept of a response's body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResponseBody {
    /// How many bytes the client was sent.
    pub bytes: u64,
    /// SHA-256 of them all.
    pub sha256: Hash,
    /// Its `Content-Type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The digest under which a copy is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<Hash>,
    /// The copy is a beginning only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// Why no copy was kept that would have been: `unmasked`, a mask rule spared this caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusalSummary {
    /// The refusal's stable name, `layer/what`.
    pub code: String,
    /// What the client was told.
    pub message: String,
    /// What the operator should know besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl From<&Refusal> for RefusalSummary {
    fn from(refusal: &Refusal) -> Self {
        let detail = refusal.operator_detail().map(|detail| bounded(detail, 2048));
        Self { code: refusal.code().to_owned(), message: bounded(&refusal.message(), 2048), detail }
    }
}

/// What passed through an upgraded stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamSummary {
    /// How it was carried: `webSocket`, `spdy` or `spdyOverWebSocket`.
    pub transport: String,
    /// The subprotocol.
    pub subprotocol: String,
    /// The container, if named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Whether there was a terminal.
    pub tty: bool,
    /// Why it ended.
    pub ended: String,
    /// The command's exit status, if it told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<i32>,
    /// What passed, by channel: `stdin`, `stdout`, `stderr`, `port/8080/toServer`, ….
    pub channels: BTreeMap<String, ChannelSummary>,
    /// The recording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<Recording>,
}

/// What passed through one channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChannelSummary {
    /// How many bytes.
    pub bytes: u64,
    /// SHA-256 of them all; not for forwarded ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Hash>,
}

/// A recording, stored under `recordings/` of the ledger's directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recording {
    /// The file's name: of a recording in parts, the first.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: Hash,
    /// The parts that follow, in order, where the session was too long for one file. At most 127.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<RecordingPart>,
}

impl Recording {
    /// All its files, in order.
    pub fn files(&self) -> impl Iterator<Item = RecordingPart> + '_ {
        let first = RecordingPart { file: self.file.clone(), bytes: self.bytes, sha256: self.sha256 };
        std::iter::once(first).chain(self.parts.iter().cloned())
    }
}

/// One file of a recording: an asciicast of its own, whose times count from the session's beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordingPart {
    /// The file's name.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: Hash,
}

/// What a `streamProgress` event tells of an open stream, in its details. Should the process die, this is what is proven.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamProgress {
    /// The session of its request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// How many bytes have passed, by channel.
    #[serde(default)]
    pub channels: BTreeMap<String, u64>,
    /// The parts of the recording that are finished, all since the beginning. They are on the disk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<RecordingPart>,
}

impl StreamProgress {
    /// What the event tells; `None` of an event of another kind.
    #[must_use]
    pub fn of(event: &Event) -> Option<Self> {
        (event.kind == EventKind::StreamProgress)
            .then(|| serde_json::from_value(Value::Object(event.details.clone())).ok())?
    }

    /// The event that tells this of the stream of request `id`.
    pub(crate) fn event(&self, id: AuditId) -> Event {
        let mut event = Event::new(EventKind::StreamProgress).request(Some(id));
        if let Ok(Value::Object(details)) = serde_json::to_value(self) {
            event.details = details;
        }
        event
    }
}

/// The log was opened for appending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Started {
    /// The version of this crate.
    pub version: String,
    /// How many requests of the run before had no outcome; each has got one now.
    pub unknown: u64,
}

/// The log was closed in good order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stopped {
    /// How many requests were still open. If none, the next start need not look for them.
    pub open: u64,
}

/// The log's storage was put right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recovered {
    /// How many records there were.
    pub size: u64,
    /// `tornTail` or `writeFailure`.
    pub cause: String,
    /// The operating system's error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How many bytes of an unfinished write were moved aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Their SHA-256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Hash>,
}

impl From<&Recovery> for Recovered {
    fn from(recovery: &Recovery) -> Self {
        let mut recovered =
            Self { size: recovery.size, cause: "other".into(), error: None, bytes: None, sha256: None };
        match &recovery.cause {
            RecoveryCause::TornTail { bytes, sha256, .. } => {
                recovered.cause = "tornTail".into();
                (recovered.bytes, recovered.sha256) = (Some(*bytes), Some(*sha256));
            }
            RecoveryCause::WriteFailure { error } => {
                recovered.cause = "writeFailure".into();
                recovered.error = Some(error.clone());
            }
            _ => {}
        }
        recovered
    }
}

/// The log's key is being replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyRotated {
    /// How many records there were.
    pub size: u64,
    /// The public key until now, as a vkey.
    pub previous: String,
    /// That from now on.
    pub next: String,
}

impl From<&Rotation> for KeyRotated {
    fn from(rotation: &Rotation) -> Self {
        Self { size: rotation.size, previous: rotation.previous.to_string(), next: rotation.next.to_string() }
    }
}

impl Request {
    /// What may be kept of a request's head. Without a redactor that is its path, but neither query nor user agent.
    pub(crate) fn redacted(
        redactor: Option<&dyn Redactor>,
        info: &RequestInfo,
        (method, uri, user_agent): (&Method, &Uri, Option<&str>),
        connection: Option<&Connection>,
    ) -> Self {
        let target = redactor.map_or_else(|| uri.path().to_owned(), |redactor| redactor.uri(info, uri));
        Self {
            info: redacted_info(redactor, info, uri, &target),
            method: method.to_string(),
            uri: bounded(&target, 8192),
            user_agent: redactor.zip(user_agent).map(|(redactor, agent)| bounded(&redactor.text(agent), 512)),
            source: connection.map(|connection| connection.peer),
            certificate: connection.and_then(|connection| connection.certificate_sha256.clone()),
        }
    }
}

/// A copy without secrets in the path or the selectors; `target` is the redacted `uri`.
fn redacted_info(
    redactor: Option<&dyn Redactor>,
    info: &RequestInfo,
    uri: &Uri,
    target: &str,
) -> RequestInfo {
    let mut copy = match redactor {
        Some(redactor) => info.redacted(redactor),
        None => info.clone(),
    };
    let path = target.split('?').next().unwrap_or_default();
    if path != uri.path() {
        copy.path = path.to_owned();
    }
    for field in [&mut copy.path, &mut copy.name, &mut copy.field_selector, &mut copy.label_selector] {
        if field.len() > 4096 {
            *field = bounded(field, 4096);
        }
    }
    copy
}

/// The beginning of `text`, at most `most` bytes, with `…` where it was cut.
pub(crate) fn bounded(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &text[..end])
}

impl Entry {
    /// The record's bytes: JSON, small enough for a leaf.
    ///
    /// What makes a record too long is who it is about: hundreds of groups. Then groups and extra attributes are cut, and
    /// the record says so.
    pub(crate) fn encode(mut self) -> Result<Vec<u8>, serde_json::Error> {
        let bytes = serde_json::to_vec(&self)?;
        if bytes.len() <= LEAF_LIMIT {
            return Ok(bytes);
        }
        self.record.shorten();
        serde_json::to_vec(&self)
    }
}

const LEAF_LIMIT: usize = 60 * 1024;

impl Record {
    fn shorten(&mut self) {
        let shorten_identity = |identity: &mut Option<Identity>| {
            if let Some(identity) = identity {
                identity.extra.clear();
                identity.groups.truncate(64);
                identity.delegation.truncate(8);
                for group in &mut identity.groups {
                    *group = bounded(group, 128);
                }
            }
        };
        match self {
            Self::Intent(intent) => {
                shorten_identity(&mut intent.identity);
                intent.command = bounded(&intent.command, 1024);
                intent.shortened = true;
            }
            Self::Outcome(outcome) => {
                shorten_identity(&mut outcome.identity);
                outcome.command = bounded(&outcome.command, 1024);
                outcome.notes.clear();
                outcome.masked = std::mem::take(&mut outcome.masked).into_iter().take(64).collect();
                outcome.shortened = true;
            }
            Self::Event(event) => {
                shorten_identity(&mut event.identity);
                event.details = [("shortened".to_owned(), Value::Bool(true))].into_iter().collect();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(record: Record) -> Entry {
        Entry { v: SCHEMA_VERSION, time: "2026-11-03T12:00:00Z".parse().unwrap(), record }
    }

    #[test]
    fn records_round_trip() {
        let check = |record: Record, json: &str| {
            let bytes = entry(record.clone()).encode().unwrap();
            assert_eq!(String::from_utf8(bytes.clone()).unwrap(), json);
            assert_eq!(serde_json::from_slice::<Entry>(&bytes).unwrap().record, record);
        };
        check(
            Record::Started(Started { version: "0.1.0".into(), unknown: 2 }),
            r#"{"v":1,"time":"2026-11-03T12:00:00Z","type":"started","version":"0.1.0","unknown":2}"#,
        );
        check(
            Record::KeyRotated(KeyRotated { size: 10, previous: "log+1+A".into(), next: "log+2+B".into() }),
            r#"{"v":1,"time":"2026-11-03T12:00:00Z","type":"keyRotated","size":10,"previous":"log+1+A","next":"log+2+B"}"#,
        );
        check(
            Record::Event(Box::new(Event::new(portcullis_core::EventKind::Held).ticket("t1"))),
            r#"{"v":1,"time":"2026-11-03T12:00:00Z","type":"event","kind":"held","ticket":"t1"}"#,
        );
    }

    #[test]
    fn records_of_a_later_version_are_read_past() {
        let later = r#"{"v":2,"time":"2026-11-03T12:00:00Z","type":"moonPhase","phase":"full"}"#;
        assert_eq!(serde_json::from_str::<Entry>(later).unwrap().record, Record::Unknown);
        let more = r#"{"v":2,"time":"2026-11-03T12:00:00Z","type":"stopped","open":0,"mood":"good"}"#;
        assert_eq!(serde_json::from_str::<Entry>(more).unwrap().record, Record::Stopped(Stopped { open: 0 }));
    }

    #[test]
    fn a_record_always_fits_a_leaf() {
        let identity = Identity {
            user: "ann".into(),
            groups: (0..3000).map(|i| format!("{i}-{}", "g".repeat(60))).collect(),
            ..Identity::default()
        };
        let event = Event::new(portcullis_core::EventKind::Granted).by(&identity);
        let bytes = entry(Record::Event(Box::new(event))).encode().unwrap();
        assert!(bytes.len() < LEAF_LIMIT, "{}", bytes.len());
        let Record::Event(event) = serde_json::from_slice::<Entry>(&bytes).unwrap().record else { panic!() };
        assert_eq!(event.identity.unwrap().user, "ann");
        assert_eq!(event.details["shortened"], true);
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(bounded("grüße", 3), "gr…");
        assert_eq!(bounded("grüße", 4), "grü…");
        assert_eq!(bounded("grüße", 7), "grüße");
    }
}
