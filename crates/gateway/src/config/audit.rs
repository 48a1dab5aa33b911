//! `audit`: what is recorded, how long it is kept, and where it goes.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Problem, is_http_url};
use crate::causes::causes;

/// What is recorded, and how.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Audit {
    /// The log's name in its checkpoints: unique to this replica, for ever.
    pub origin: String,
    /// How much of a request's and a response's body is kept, after masking, in bytes; the digest covers all of it.
    pub body_bytes: usize,
    /// Whether what people type into terminals is recorded. It may hold what they type at hidden prompts.
    pub record_input: bool,
    /// How large the recording of one session may get, in bytes; a session that outgrows it is cut.
    pub recording_bytes: u64,
    /// A policy of `audit.k8s.io/v1`, as for an API server: how much is kept of which request. That a request was made is on
    /// record at any level. Without one, request bodies are kept, and the answers to changes and of errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_file: Option<PathBuf>,
    /// A file that signed checkpoints are appended to: on another disk, or a mount that only takes additions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_file: Option<PathBuf>,
    /// Keys with which bodies and recordings are encrypted on the disk: the first those that come, the others those that were
    /// written when they were the first. `portcullis audit new-body-key FILE` makes one. Without any they are only compressed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub body_key_files: Vec<PathBuf>,
    /// How long bodies and recordings are kept. Records stay for ever.
    #[serde(skip_serializing_if = "Retention::is_for_ever")]
    pub retention: Retention,
    /// Where records are handed on to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exports: Vec<Export>,
    /// Whether an index for `portcullis audit search` is kept beside the log. Without it, searching builds one first.
    pub index: bool,
}

/// How long what records name is kept, by days (`90d`) or hours; a day at least. What is not said is kept for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Retention {
    /// What is kept of requests' and responses' bodies.
    #[serde(with = "age", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub bodies: Option<std::time::Duration>,
    /// Recordings of sessions.
    #[serde(with = "age", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub recordings: Option<std::time::Duration>,
}

impl Retention {
    fn is_for_ever(&self) -> bool {
        portcullis_audit::Retention::from(*self).is_for_ever()
    }
}

impl From<Retention> for portcullis_audit::Retention {
    fn from(Retention { bodies, recordings }: Retention) -> Self {
        Self { bodies, recordings }
    }
}

/// Another system that is given the record: at least once, in order; what it does not take waits for it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields, tag = "kind")]
pub enum Export {
    /// Lines of `audit.k8s.io/v1` events in a file, as the API server writes its own.
    File {
        /// The name its cursor is kept under.
        name: String,
        /// The file.
        path: PathBuf,
        /// How large it may get before it is turned over, in bytes.
        #[serde(default = "usual_export_bytes")]
        max_bytes: u64,
        /// How many older files are kept.
        #[serde(default = "usual_backups")]
        max_backups: u32,
    },
    /// Lists of `audit.k8s.io/v1` events, posted as the API server's webhook backend does; Falco takes them.
    Webhook {
        /// The name its cursor is kept under.
        name: String,
        /// A kubeconfig whose `server` is the URL, as `--audit-webhook-config-file` takes it.
        kubeconfig: PathBuf,
    },
    /// Every record as an OpenTelemetry log record.
    Otlp {
        /// The name its cursor is kept under.
        name: String,
        /// The collector's OTLP/gRPC endpoint.
        endpoint: String,
    },
}

impl Export {
    /// The name its cursor is kept under.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::File { name, .. } | Self::Webhook { name, .. } | Self::Otlp { name, .. } => name,
        }
    }
}

fn usual_export_bytes() -> u64 {
    100 * 1024 * 1024
}

fn usual_backups() -> u32 {
    10
}

impl Audit {
    /// Whether the files that it names can be had: what only reads the log needs none of them.
    pub(crate) fn check_files(&self) -> Result<(), String> {
        self.policy().map_err(|error| format!("audit.policyFile: {error}"))?;
        self.body_keys().map_err(|error| format!("audit.bodyKeyFiles: {error}"))?;
        for export in &self.exports {
            if let Export::Webhook { name, kubeconfig } = export {
                kube::config::Kubeconfig::read_from(kubeconfig).map_err(|error| {
                    format!("audit.exports: {name}: {}: {}", kubeconfig.display(), causes(&error))
                })?;
            }
        }
        Ok(())
    }

    /// The audit policy, if there is a file of one.
    pub(crate) fn policy(&self) -> Result<Option<portcullis_audit::AuditPolicy>, String> {
        let Some(path) = &self.policy_file else { return Ok(None) };
        let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
        let policy: portcullis_audit::AuditPolicy =
            serde_yaml::from_str(&text).map_err(|error| wrong(&error))?;
        policy.validate().map_err(|error| wrong(&error))?;
        Ok(Some(policy))
    }

    /// The keys of bodies and recordings.
    pub(crate) fn body_keys(&self) -> Result<portcullis_ledger::BodyKeys, String> {
        portcullis_ledger::BodyKeys::from_files(&self.body_key_files).map_err(|error| {
            format!(
                "{error}; `portcullis audit new-body-key FILE` makes a key, for a gateway that has none yet"
            )
        })
    }

    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        // As the name of its key in signed notes (https://c2sp.org/signed-note).
        if self.origin.is_empty()
            || self.origin.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+')
        {
            let what = "must not be empty, nor contain spaces, control characters or plus signs";
            found.push(Problem::at("audit.origin", what));
        }
        for (name, age) in [("bodies", self.retention.bodies), ("recordings", self.retention.recordings)] {
            if age.is_some_and(|age| age < LEAST_RETENTION) {
                let problem = Problem::at(&format!("audit.retention.{name}"), "it is less than a day");
                found.push(problem.help("leave it out to keep everything"));
            }
        }
        for (n, export) in self.exports.iter().enumerate() {
            let name = export.name();
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            let place = format!("audit.exports.{n}.name");
            if name.is_empty() || !name.bytes().all(plain) {
                let problem = Problem::at(&place, format!("`{name}` is no name for an export"));
                found.push(problem.help("use lower-case letters, digits and dashes"));
            }
            if self.exports[..n].iter().any(|other| other.name() == name) {
                found.push(Problem::at(&place, format!("there are two exports named `{name}`")));
            }
            if let Export::Otlp { endpoint, .. } = export
                && !is_http_url(endpoint)
            {
                let message = format!("`{endpoint}` is no http or https URL");
                found.push(Problem::at(&format!("audit.exports.{n}.endpoint"), message));
            }
        }
        found
    }
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            origin: "portcullis.local/gateway".into(),
            body_bytes: 64 * 1024,
            record_input: false,
            recording_bytes: 8 << 30,
            policy_file: None,
            checkpoint_file: None,
            body_key_files: Vec::new(),
            retention: Retention::default(),
            exports: Vec::new(),
            index: true,
        }
    }
}

/// What is younger than this is perhaps still being written.
const LEAST_RETENTION: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// Ages as people write them: `90d`, or hours as other durations.
mod age {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    const DAY: u64 = 24 * 3600;

    #[expect(clippy::ref_option, reason = "serde wants it so")]
    pub(super) fn serialize<S: Serializer>(age: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match age {
            None => serializer.serialize_none(),
            Some(age) if age.as_secs() % DAY == 0 => {
                serializer.collect_str(&format_args!("{}d", age.as_secs() / DAY))
            }
            Some(age) => super::super::duration::serialize(age, serializer),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || D::Error::custom(format!("`{text}` is no age; write it like 90d or 36h"));
        let days = text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok());
        if let Some(days) = days {
            return days.checked_mul(DAY).map(|seconds| Some(Duration::from_secs(seconds))).ok_or_else(wrong);
        }
        let signed: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
        Duration::try_from(signed).map(Some).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_that_no_signed_note_takes_is_a_problem() {
        for origin in ["", "gw eu", "gw+eu", "gw\u{7}"] {
            let audit = Audit { origin: origin.into(), ..Audit::default() };
            assert_eq!(audit.problems().len(), 1, "{origin:?}");
        }
        assert!(Audit::default().problems().is_empty());
    }

    #[test]
    fn the_kubeconfigs_of_webhooks_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let kubeconfig = dir.path().join("webhook");
        let export = Export::Webhook { name: "falco".into(), kubeconfig: kubeconfig.clone() };
        let audit = Audit { exports: vec![export], ..Audit::default() };
        assert!(audit.check_files().unwrap_err().starts_with("audit.exports: falco: "));
        std::fs::write(&kubeconfig, "clusters: []").unwrap();
        assert_eq!(audit.check_files(), Ok(()));
    }
}
