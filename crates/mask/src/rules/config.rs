//! Rules as people write them, in YAML or in Rust.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::detect::Detector;

/// The whole configuration of masking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MaskConfig {
    /// Ready-made rules.
    pub packs: Vec<Pack>,
    /// What rules of packs do not apply to, by the name of the rule: `secrets: { types: [helm.sh/release.v1] }`.
    pub pack_exceptions: BTreeMap<String, Subjects>,
    /// Rules of your own. Where several match a value, the first decides; they come before those of packs.
    pub rules: Vec<Rule>,
    /// What happens to a write that carries mask tokens.
    pub on_write: OnWrite,
    /// What happens to archives that commands print, such as `kubectl cp` has them printed.
    pub archives: Archives,
    /// How much may be asked of memory.
    pub limits: Limits,
    /// Content types that pass although they cannot be read, such as `image/*`. Never those of the Kubernetes API.
    pub pass_content_types: Vec<String>,
}

impl Default for MaskConfig {
    fn default() -> Self {
        Self {
            packs: vec![Pack::KubernetesSecrets, Pack::LogsAndExec],
            pack_exceptions: BTreeMap::new(),
            rules: Vec::new(),
            on_write: OnWrite::default(),
            archives: Archives::default(),
            limits: Limits::default(),
            pass_content_types: Vec::new(),
        }
    }
}

/// What happens to a write that carries mask tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnWrite {
    /// It is refused.
    #[default]
    Refuse,
    /// Each token is replaced by the value that it stands for, if it stands where that value stands in the live object, which is
    /// read with the caller's own rights; any other token is refused. What people approve, and what is recorded, has the tokens.
    Restore,
}

/// What happens to an archive (`tar`) in the output of a command, where rules look into that output. Nothing can be replaced in
/// an archive without breaking it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Archives {
    /// The stream ends with an error that says so: `kubectl cp` from a pod does not work. Copying to a pod does.
    #[default]
    Refuse,
    /// It passes, whatever is in it.
    Pass,
}

/// A ready-made set of rules; its name is the name of its rule set, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Pack {
    /// What holds secrets in the Kubernetes API: Secrets, token requests, issued certificates, environment values.
    KubernetesSecrets,
    /// Keys, tokens and passwords in logs and in the output of commands. (Its name was `known-formats` once.)
    #[serde(alias = "known-formats")]
    LogsAndExec,
    /// E-mail addresses, IBANs and numbers of cards in logs, in the output of commands and in ConfigMaps. Not on by default.
    Pii,
}

impl Pack {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::KubernetesSecrets => "kubernetes-secrets",
            Self::LogsAndExec => "logs-and-exec",
            Self::Pii => "pii",
        }
    }

    /// The name of a rule set, where it may be one that a pack had before.
    pub(crate) fn current_set(name: &str) -> &str {
        if name == "known-formats" { Self::LogsAndExec.name() } else { name }
    }

    pub(crate) fn source(self) -> &'static str {
        match self {
            Self::KubernetesSecrets => include_str!("../../packs/kubernetes-secrets.yaml"),
            Self::LogsAndExec => include_str!("../../packs/logs-and-exec.yaml"),
            Self::Pii => include_str!("../../packs/pii.yaml"),
        }
    }
}

/// How much may be asked of memory. What would need more is not passed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Levels of nesting.
    pub depth: usize,
    /// Bytes of one key.
    pub key_bytes: usize,
    /// Bytes held back until it is known whether they may pass: an object whose kind comes late, a string that holds JSON.
    pub held_bytes: usize,
    /// Bytes of a request body that is read before it is passed on.
    pub write_bytes: usize,
    /// Bytes of an answer, or of one event of a watch, in protobuf: it has its length in front, so all of it is held back.
    pub protobuf_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            depth: 256,
            key_bytes: 8 << 10,
            held_bytes: 3 << 20,
            write_bytes: 3 << 20,
            protobuf_bytes: 64 << 20,
        }
    }
}

/// Which values are masked, for whom, and how.
///
/// A rule selects values by `paths`, by `keys` or `columns`, or, given none of these, by `detectors` and `patterns` in
/// plain text. It applies to the requests
/// that its `resources` or `urls` name (to all, if it names neither), and wherever an object of its `kinds` is found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Rule {
    /// Its name, as a DNS label: it shows in every token and in the record.
    pub name: String,
    /// The rule set it belongs to. Rules without one belong to the default set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// Kubernetes resources: `secrets`, `deployments.apps`, `pods/log`, `*/proxy`, `*`. A name without a subresource covers
    /// the subresources that show the object itself, not `log`, `exec`, `attach`, `portforward` or `proxy`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Kinds: objects that say they are of it are masked wherever they are found, whatever was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<String>,
    /// Paths of requests that are not for Kubernetes resources; a trailing `*` matches any rest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Paths of values, from the object (or, outside Kubernetes, from the document): `spec.**.env[*].value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Paths of values that are base64 and must stay so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub base64_paths: Vec<String>,
    /// Paths of strings that hold a JSON document, to be masked inside by all rules; at any depth.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub json_paths: Vec<String>,
    /// Names of keys whose values are masked at any depth; `*` matches any part, letter case does not matter.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// Names of columns, in answers that are a Table, whose cells are masked; `*` matches any part, and neither letter case nor
    /// spaces, `-` and `_` matter. Columns that are called what one of the rule's paths ends in, or what one of its keys is
    /// called, are masked without being named here: these are the others that show what the rule masks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// Only values beside a sibling that matches.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    pub clause: Option<Where>,
    /// What to look for in the strings that the rule selects: only what is found is replaced, not the whole value.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub detectors: Vec<Detector>,
    /// Regular expressions (of the `regex` crate) of your own, beside `detectors`. In strings they see the whole string; in plain
    /// text they see a line at a time, which is held until its end has come (outside terminals), and is replaced as a whole
    /// if it is longer than 16 KiB.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub patterns: Vec<String>,
    /// Only for these.
    #[serde(rename = "for", skip_serializing_if = "Subjects::is_empty")]
    pub only_for: Subjects,
    /// Not for these.
    #[serde(skip_serializing_if = "Subjects::is_empty")]
    pub except: Subjects,
    /// What is put in a value's place.
    pub action: Action,
    /// Where equal values have equal tokens.
    pub compare: Compare,
    /// What happens to a value of an object whose kind is not known yet when the value is reached.
    pub when_unknown: WhenUnknown,
}

impl Rule {
    /// A rule of this name, which selects nothing yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Masks the values at this path.
    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.paths.push(path.into());
        self
    }

    /// Masks the values of keys with this name, at any depth.
    #[must_use]
    pub fn key(mut self, name: impl Into<String>) -> Self {
        self.keys.push(name.into());
        self
    }

    /// Masks the cells of Tables in columns of this name.
    #[must_use]
    pub fn column(mut self, name: impl Into<String>) -> Self {
        self.columns.push(name.into());
        self
    }

    /// Looks for this in what the rule selects.
    #[must_use]
    pub fn detector(mut self, detector: Detector) -> Self {
        self.detectors.push(detector);
        self
    }

    /// Looks for what matches this regular expression in what the rule selects.
    #[must_use]
    pub fn pattern(mut self, pattern: impl Into<String>) -> Self {
        self.patterns.push(pattern.into());
        self
    }

    /// Applies to requests for this path; a trailing `*` matches any rest.
    #[must_use]
    pub fn url(mut self, path: impl Into<String>) -> Self {
        self.urls.push(path.into());
        self
    }

    /// Puts this in a value's place.
    #[must_use]
    pub fn action(mut self, action: Action) -> Self {
        self.action = action;
        self
    }

    /// Does not apply to these.
    #[must_use]
    pub fn except(mut self, subjects: Subjects) -> Self {
        self.except = subjects;
        self
    }

    /// Whether the rule selects values of JSON documents, rather than pieces of text.
    pub(crate) fn is_structural(&self) -> bool {
        !(self.paths.is_empty()
            && self.base64_paths.is_empty()
            && self.json_paths.is_empty()
            && self.keys.is_empty()
            && self.columns.is_empty())
    }
}

/// A condition on a value's neighbour in the same object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Where {
    /// The neighbour's key.
    pub sibling: String,
    /// What its value must look like; `*` matches any part, letter case does not matter.
    pub matches: Vec<String>,
}

/// Whom, or what, a rule is restricted to. An empty list does not restrict; all lists that are not empty must hold, but of
/// `users`, `groups` and `grants` one is enough.
///
/// `namespaces`, `names`, `labels` and `types` speak of the object that holds a value. Where the request does not name it, as
/// in a list, each item is looked at by itself; its values wait until it has said what is asked, within
/// [`Limits::held_bytes`]. In text, such as a log, labels and types are not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Subjects {
    /// User names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
    /// Groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Profiles of grants.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<String>,
    /// Namespaces; `*` matches any part.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Names of objects; `*` matches any part.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Labels that the object has, all of them; `*` matches any part of a value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Types of Secrets, such as `helm.sh/release.v1`; `*` matches any part.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
}

impl Subjects {
    /// What is asked for, in the order of the fields, each with what satisfies it: `("groups", ["security"])`,
    /// `("labels", ["tier=prod*"])`. What does not restrict is left out.
    pub fn asked(&self) -> impl Iterator<Item = (&'static str, Vec<String>)> {
        let labels = self.labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
        [
            ("users", self.users.clone()),
            ("groups", self.groups.clone()),
            ("grants", self.grants.clone()),
            ("namespaces", self.namespaces.clone()),
            ("names", self.names.clone()),
            ("labels", labels),
            ("types", self.types.clone()),
        ]
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}

/// What is put in a value's place. Strings stay strings, numbers become 0, booleans false; base64 stays base64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// `masked:<rule>:<16 hex>`, an HMAC over object, path and value: one can see that a value changed, not what it is.
    #[default]
    Hash,
    /// `masked:<rule>:redacted`: nothing can be seen.
    Redact,
    /// `masked:<rule>:****` and the last four characters of values of twelve or more.
    Partial,
    /// `null`.
    Drop,
}

/// Where equal values have equal tokens (`hash` only).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compare {
    /// At one path of one object: one sees that the value changed.
    #[default]
    Object,
    /// Wherever this rule masks it: one sees where the same value is used. Whoever may write such objects can confirm guesses
    /// by writing them and comparing the tokens, so only for values that nobody could guess.
    Everywhere,
}

/// What happens to a value that a rule for a kind may cover, in an object that has not said its kind yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WhenUnknown {
    /// It is held back, up to the limit, until the kind is known or the object ends.
    #[default]
    Hold,
    /// It passes. Only for what is no secret in itself, such as messages.
    Pass,
}
