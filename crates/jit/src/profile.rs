//! Profiles: what grants may be cut from, and by whom.

use std::time::Duration;

use portcullis_core::{Identity, ResourceRule};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A profile: the most that a grant cut from it may allow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Profile {
    /// Its name, as in `portcullis run --grant NAME`.
    pub name: String,
    /// Who may cut grants from it.
    pub for_whom: ForWhom,
    /// The most that a grant may allow, in the shape of RBAC rules, narrowed by namespace.
    #[schemars(with = "Vec<RuleShape>")]
    pub rules: Vec<ResourceRule>,
    /// How long a grant lives if its task does not say.
    #[serde(default = "default_ttl", with = "duration")]
    #[schemars(with = "String")]
    pub default_ttl: Duration,
    /// The longest a grant may live.
    #[serde(default = "default_max_ttl", with = "duration")]
    #[schemars(with = "String")]
    pub max_ttl: Duration,
    /// How long a grant lives without a heartbeat. Tasks without one, such as the credential plugin's, need it absent.
    #[serde(default, with = "optional_duration", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub heartbeat: Option<Duration>,
    /// Whether a grant works only over connections with the client certificate that asked for it (RFC 8705).
    #[serde(default)]
    pub bind_certificate: bool,
}

/// Who may cut grants from a profile: anyone named, or in any of the groups, whose issuer is one of `issuers` (if any are named).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ForWhom {
    /// User names, as mapped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
    /// Group names, as mapped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Issuers; empty means any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<String>,
}

impl ForWhom {
    /// Whether `identity` is among them.
    pub fn includes(&self, identity: &Identity) -> bool {
        let issuer = self.issuers.is_empty() || self.issuers.contains(&identity.issuer);
        let named = self.users.contains(&identity.user);
        issuer && (named || identity.groups.iter().any(|group| self.groups.contains(group)))
    }
}

/// What is wrong with a set of profiles.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ProfileError {
    /// Which profile, by its place in the list.
    pub profile: usize,
    /// Which field of it.
    pub field: &'static str,
    /// What is wrong.
    pub message: String,
}

impl Profile {
    /// What is wrong with these profiles that types cannot say.
    pub fn check(profiles: &[Self]) -> Vec<ProfileError> {
        let mut found = Vec::new();
        for (place, profile) in profiles.iter().enumerate() {
            let mut wrong = |field, message: String| {
                found.push(ProfileError { profile: place, field, message });
            };
            if profile.name.is_empty() {
                wrong("name", "a profile needs a name".into());
            }
            if profiles[..place].iter().any(|other| other.name == profile.name) {
                wrong("name", format!("there are two profiles named `{}`", profile.name));
            }
            if profile.for_whom.users.is_empty() && profile.for_whom.groups.is_empty() {
                wrong("forWhom", "nobody may use it: name users or groups".into());
            }
            if profile.rules.is_empty() {
                wrong("rules", "it allows nothing".into());
            }
            if profile.default_ttl > profile.max_ttl {
                wrong("defaultTtl", "is longer than maxTtl".into());
            }
            if profile.max_ttl > Duration::from_secs(24 * 3600) {
                wrong("maxTtl", "is longer than a day; a grant is for one task".into());
            }
            if profile.heartbeat.is_some_and(|heartbeat| heartbeat < Duration::from_secs(5)) {
                wrong("heartbeat", "is below 5s, which a busy machine misses".into());
            }
        }
        found
    }
}

/// A rule in the shape of an RBAC `PolicyRule`, narrowed by namespace.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "the JSON schema of core's ResourceRule, which needs no schema crate")]
struct RuleShape {
    /// `get`, `list`, `watch`, `create`, …, `*`; exec, attach, port-forward and proxy are `create`.
    verbs: Vec<String>,
    /// API groups; `""` is the core group.
    #[schemars(default)]
    api_groups: Vec<String>,
    /// `pods`, `pods/log`, `pods/*`, `*/scale`, `*`. No wildcard covers exec, attach, port-forward and proxy.
    #[schemars(default)]
    resources: Vec<String>,
    /// The namespaces it holds in; empty means any.
    #[schemars(default)]
    namespaces: Vec<String>,
    /// The object names it holds for; empty means any.
    #[schemars(default)]
    resource_names: Vec<String>,
    /// Paths of non-resource requests; a trailing `*` matches any rest.
    #[schemars(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
}

fn default_ttl() -> Duration {
    Duration::from_secs(15 * 60)
}

fn default_max_ttl() -> Duration {
    Duration::from_secs(3600)
}

/// `50s`, `15m`, `1h30m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let signed: jiff::SignedDuration =
        text.parse().map_err(|_| format!("`{text}` is no duration; write it like 50s, 15m or 1h30m"))?;
    Duration::try_from(signed).map_err(|_| "a duration cannot be negative".to_owned())
}

mod duration {
    use super::*;

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        let signed = jiff::SignedDuration::try_from(*duration).map_err(serde::ser::Error::custom)?;
        serializer.collect_str(&format_args!("{signed:#}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        parse_duration(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

mod optional_duration {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => duration::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| parse_duration(&text).map_err(D::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(json: &str) -> Profile {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_profile_reads_as_people_write_it() {
        let read = profile(
            r#"{"name":"deploy","forWhom":{"groups":["ci"]},"maxTtl":"1h30m","heartbeat":"30s",
                "rules":[{"verbs":["get"],"apiGroups":["apps"],"resources":["deployments"]}]}"#,
        );
        assert_eq!(read.max_ttl, Duration::from_secs(5400));
        assert_eq!(read.heartbeat, Some(Duration::from_secs(30)));
        assert_eq!(Profile::check(std::slice::from_ref(&read)), []);
        assert_eq!(serde_json::from_value::<Profile>(serde_json::to_value(&read).unwrap()).unwrap(), read);
    }

    #[test]
    fn what_types_cannot_say_is_checked() {
        let broken = profile(r#"{"name":"x","forWhom":{},"rules":[],"defaultTtl":"2h","maxTtl":"1h"}"#);
        let fields: Vec<_> = Profile::check(&[broken]).into_iter().map(|error| error.field).collect();
        assert_eq!(fields, ["forWhom", "rules", "defaultTtl"]);
    }

    #[test]
    fn issuers_narrow_and_names_widen() {
        let of = |issuer: &str, user: &str, group: &str| Identity {
            issuer: issuer.into(),
            user: user.into(),
            groups: vec![group.into()],
            ..Identity::default()
        };
        let whom =
            ForWhom { users: vec!["dana".into()], groups: vec!["ci".into()], issuers: vec!["i".into()] };
        assert!(whom.includes(&of("i", "dana", "x")) && whom.includes(&of("i", "y", "ci")));
        assert!(!whom.includes(&of("other", "dana", "ci")) && !whom.includes(&of("i", "y", "x")));
    }
}
