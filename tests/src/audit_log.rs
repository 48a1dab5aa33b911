//! The API server's own audit log: what it saw, and as whom.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// One line of the log (`audit.k8s.io/v1` `Event`, level Metadata).
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEvent {
    /// The request's id: `Audit-ID` as the client sent it, else the server's own.
    #[serde(rename = "auditID")]
    pub audit_id: String,
    /// `ResponseStarted` (streams only) or `ResponseComplete`, or `Panic`.
    pub stage: String,
    /// Path and query as they arrived.
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    /// The verb of the server's RequestInfo.
    pub verb: String,
    /// Who authenticated.
    pub user: User,
    /// Who the request was made as, if that differs.
    pub impersonated_user: Option<User>,
    /// Addresses, the nearest last.
    #[serde(rename = "sourceIPs", default)]
    pub source_ips: Vec<String>,
    /// The `User-Agent` header.
    #[serde(default)]
    pub user_agent: String,
    /// What RequestInfo says the request is about; nothing for a non-resource request.
    pub object_ref: Option<ObjectRef>,
    /// What was answered.
    pub response_status: Option<ResponseStatus>,
    /// What authorization and admission noted.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// A user as authentication or impersonation left it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct User {
    /// Name.
    pub username: String,
    /// Unique id, often empty.
    #[serde(default)]
    pub uid: String,
    /// Groups, with those the server adds.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Everything else.
    #[serde(default)]
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The resource of a request. Absent parts are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectRef {
    /// API group; empty for core.
    pub api_group: String,
    /// API version.
    pub api_version: String,
    /// Namespace, if namespaced.
    pub namespace: String,
    /// Resource, in the plural.
    pub resource: String,
    /// Subresource.
    pub subresource: String,
    /// Name.
    pub name: String,
}

/// The part of an answer's `Status` that the log keeps.
#[derive(Debug, Clone, Deserialize)]
pub struct ResponseStatus {
    /// HTTP status.
    pub code: u16,
    /// Why not, in a sentence.
    #[serde(default)]
    pub message: String,
    /// Why not, in a word.
    #[serde(default)]
    pub reason: String,
}

/// A place in the log. What comes after it has happened after it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(u64);

/// The log's file. The server writes a line before it ends an answer.
#[derive(Debug, Clone)]
pub struct AuditLog {
    path: PathBuf,
}

impl AuditLog {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The end of the log, now.
    pub fn mark(&self) -> Mark {
        Mark(std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len()))
    }

    /// All whole lines after a mark. [`Cluster::events_since`](crate::Cluster::events_since) first
    /// makes sure that everything answered so far has been written.
    pub fn since(&self, mark: Mark) -> Vec<AuditEvent> {
        let mut file = std::fs::File::open(&self.path).expect("the API server writes an audit log");
        // A mark may have been taken in the middle of a line that was being written: that one came before it.
        let before = mark.0.saturating_sub(1);
        file.seek(SeekFrom::Start(before)).expect("a file can be searched");
        let mut text = String::new();
        file.read_to_string(&mut text).expect("the audit log is text");
        let rest = match before {
            0 => text.as_str(),
            _ => text.split_once('\n').map_or("", |(_, rest)| rest),
        };
        let whole = rest.rfind('\n').map_or("", |end| &rest[..end]);
        whole.lines().map(parse).collect()
    }
}

fn parse(line: &str) -> AuditEvent {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("not an audit event: {error}: {line}"))
}

impl AuditEvent {
    /// Who the request counted as in the end.
    pub fn effective_user(&self) -> &User {
        self.impersonated_user.as_ref().unwrap_or(&self.user)
    }

    /// The status code, once there is one.
    pub fn code(&self) -> Option<u16> {
        self.response_status.as_ref().map(|status| status.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_in_full() {
        let event = parse(
            r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"a1","stage":"ResponseComplete",
            "requestURI":"/api/v1/namespaces/shop/pods/p/exec?command=ls","verb":"get",
            "user":{"username":"portcullis-gateway","groups":["system:authenticated"]},
            "impersonatedUser":{"username":"agent-ci","groups":["agents"],"extra":{"portcullis.dev/task":["t"]}},
            "sourceIPs":["127.0.0.1"],"userAgent":"kubectl/v1.37.1",
            "objectRef":{"resource":"pods","namespace":"shop","name":"p","apiVersion":"v1","subresource":"exec"},
            "responseStatus":{"metadata":{},"code":101},"annotations":{"authorization.k8s.io/decision":"allow"}}"#,
        );
        assert_eq!(event.audit_id, "a1");
        assert_eq!(event.effective_user().username, "agent-ci");
        assert_eq!(event.effective_user().extra["portcullis.dev/task"], ["t"]);
        assert_eq!(event.object_ref.unwrap().subresource, "exec");
        assert_eq!(event.response_status.unwrap().code, 101);
    }

    #[test]
    fn half_a_line_waits_for_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let log = AuditLog::new(dir.path().join("audit.log"));
        let line = |id: &str| {
            format!(
                r#"{{"auditID":"{id}","stage":"s","requestURI":"/","verb":"get","user":{{"username":"u"}}}}"#
            )
        };
        std::fs::write(log.path(), format!("{}\n", line("old"))).unwrap();
        let mark = log.mark();
        std::fs::write(log.path(), format!("{}\n{}\n{}", line("old"), line("new"), &line("late")[..20]))
            .unwrap();
        let ids: Vec<String> = log.since(mark).into_iter().map(|event| event.audit_id).collect();
        assert_eq!(ids, ["new"]);
    }
}
