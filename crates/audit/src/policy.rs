//! How much of which request is kept: the levels and the matcher of Kubernetes' audit policy
//! (<https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/#audit-k8s-io-v1-Policy>), so that a policy file for
//! an API server can be used as it is.
//!
//! **Difference.** There is no level at which nothing is recorded: that a request was made is evidence, and no rule takes it
//! away. `None` keeps no body, and says that exporters are to pass the request over, as the API server would.

use portcullis_core::{Identity, RequestInfo};
use serde::{Deserialize, Serialize};

/// How much is kept of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Level {
    /// The record, which exporters pass over.
    None,
    /// The record, without bodies.
    Metadata,
    /// Also the request's body.
    Request,
    /// Also the response's body.
    RequestResponse,
}

/// A policy of `audit.k8s.io/v1`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuditPolicy {
    api_version: ApiVersion,
    kind: Kind,
    #[serde(default)]
    metadata: serde::de::IgnoredAny,
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    /// Read, and without effect: bodies are kept as they were sent.
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum ApiVersion {
    #[serde(rename = "audit.k8s.io/v1")]
    V1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Kind {
    Policy,
}

/// The moments of a request's life that the API server tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// It has arrived.
    RequestReceived,
    /// The response's head is out, and its body takes long.
    ResponseStarted,
    /// The response is out.
    ResponseComplete,
    /// The server failed.
    Panic,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// A policy that the API server would refuse, too.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rules[{rule}]: {what}")]
pub struct PolicyError {
    /// Which rule.
    pub rule: usize,
    what: &'static str,
}

impl AuditPolicy {
    /// Looks for what no rule may have.
    ///
    /// # Errors
    /// The first rule that the API server would refuse.
    pub fn validate(&self) -> Result<(), PolicyError> {
        let Self { api_version: ApiVersion::V1, kind: Kind::Policy, .. } = self;
        for (rule, found) in self.rules.iter().enumerate() {
            let wrong = |what| Err(PolicyError { rule, what });
            let of_resources = !found.resources.is_empty() || !found.namespaces.is_empty();
            if of_resources && !found.non_resource_urls.is_empty() {
                return wrong("rules cannot apply to both regular resources and non-resource URLs");
            }
            let names_without_resources =
                |group: &GroupResources| group.resources.is_empty() && !group.resource_names.is_empty();
            if found.resources.iter().any(names_without_resources) {
                return wrong("using resourceNames requires at least one resource");
            }
            let odd = |url: &String| {
                url != "*" && (!url.starts_with('/') || url.trim_end_matches('*').contains('*'))
            };
            if found.non_resource_urls.iter().any(odd) {
                return wrong("non-resource URLs begin with `/`, and `*` stands at their end only");
            }
        }
        Ok(())
    }

    /// The level of the first rule that matches, as the API server finds it; `None` where no rule does.
    #[must_use]
    pub fn level(&self, info: &RequestInfo, identity: Option<&Identity>) -> Level {
        self.rule(info, identity).map_or(Level::None, |rule| rule.level)
    }

    /// Whether the policy wants to hear of this moment of such a request.
    #[must_use]
    pub fn wants(&self, stage: Stage, info: &RequestInfo, identity: Option<&Identity>) -> bool {
        let rule = self.rule(info, identity);
        !self.omit_stages.contains(&stage) && !rule.is_some_and(|rule| rule.omit_stages.contains(&stage))
    }

    fn rule(&self, info: &RequestInfo, identity: Option<&Identity>) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.matches(info, identity))
    }
}

// As `ruleMatches` in k8s.io/apiserver/pkg/audit/policy/checker.go.
impl Rule {
    fn matches(&self, info: &RequestInfo, identity: Option<&Identity>) -> bool {
        let user = |identity: &Identity| self.users.contains(&identity.user);
        let group =
            |identity: &Identity| identity.groups.iter().any(|group| self.user_groups.contains(group));
        if !self.users.is_empty() && !identity.is_some_and(user)
            || !self.user_groups.is_empty() && !identity.is_some_and(group)
            || !self.verbs.is_empty() && !self.verbs.contains(&info.verb)
        {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return info.is_resource_request && self.matches_resource(info);
        }
        self.non_resource_urls.is_empty()
            || !info.is_resource_request
                && self.non_resource_urls.iter().any(|url| path_matches(url, &info.path))
    }

    fn matches_resource(&self, info: &RequestInfo) -> bool {
        // What belongs to no namespace has the empty one.
        if !self.namespaces.is_empty() && !self.namespaces.contains(&info.namespace) {
            return false;
        }
        let combined = info.resource_path();
        let named = |names: &[String]| names.is_empty() || names.contains(&info.name);
        self.resources.is_empty()
            || self.resources.iter().filter(|group| group.group == info.api_group).any(|group| {
                group.resources.is_empty()
                    || named(&group.resource_names)
                        && group.resources.iter().any(|resource| resource_matches(resource, &combined, info))
            })
    }
}

fn resource_matches(pattern: &str, combined: &str, info: &RequestInfo) -> bool {
    pattern == combined
        || pattern == "*"
        || pattern
            .strip_prefix("*/")
            .is_some_and(|subresource| !info.subresource.is_empty() && subresource == info.subresource)
        || pattern.strip_suffix("/*").is_some_and(|resource| resource == info.resource)
}

fn path_matches(pattern: &str, path: &str) -> bool {
    pattern == "*"
        || pattern == path
        || pattern.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The policy of Kubernetes' documentation, shortened.
    fn policy() -> AuditPolicy {
        let policy: AuditPolicy = serde_json::from_value(serde_json::json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
            "rules": [
                {"level": "RequestResponse", "resources": [{"group": "", "resources": ["pods"]}]},
                {"level": "Metadata", "resources": [{"group": "", "resources": ["pods/log", "pods/status"]}]},
                {"level": "None", "resources": [{"group": "", "resources": ["configmaps"], "resourceNames": ["controller-leader"]}]},
                {"level": "None", "users": ["system:kube-proxy"], "verbs": ["watch"], "resources": [{"group": "", "resources": ["endpoints", "services"]}]},
                {"level": "None", "userGroups": ["system:authenticated"], "nonResourceURLs": ["/api*", "/version"]},
                {"level": "Request", "resources": [{"group": "", "resources": ["configmaps"]}], "namespaces": ["kube-system"], "omitStages": ["ResponseStarted"]},
                {"level": "Metadata", "resources": [{"group": "", "resources": ["secrets", "*/scale", "nodes/*"]}]},
                {"level": "Request", "resources": [{"group": ""}, {"group": "extensions"}]},
            ],
        }))
        .unwrap();
        policy.validate().unwrap();
        policy
    }

    fn info(verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> RequestInfo {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        RequestInfo {
            is_resource_request: true,
            verb: verb.into(),
            api_group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..RequestInfo::default()
        }
    }

    #[test]
    fn the_first_rule_that_matches_says_the_level() {
        let policy = policy();
        let proxy = Identity {
            user: "system:kube-proxy".into(),
            groups: vec!["system:authenticated".into()],
            ..Identity::default()
        };
        let check = |info: &RequestInfo, identity: Option<&Identity>, want| {
            assert_eq!(policy.level(info, identity), want, "{info:?}");
        };
        check(&info("create", "", "pods", "shop", ""), None, Level::RequestResponse);
        check(&info("get", "", "pods/log", "shop", "web"), None, Level::Metadata);
        check(&info("get", "", "pods/exec", "shop", "web"), None, Level::Request);
        check(&info("update", "", "configmaps", "x", "controller-leader"), None, Level::None);
        check(&info("update", "", "configmaps", "kube-system", "other"), None, Level::Request);
        check(&info("watch", "", "services", "", ""), Some(&proxy), Level::None);
        check(&info("watch", "", "services", "", ""), None, Level::Request);
        check(&info("get", "", "nodes/status", "", "n"), None, Level::Metadata);
        check(&info("get", "", "nodes", "", "n"), None, Level::Metadata);
        check(&info("get", "", "replicationcontrollers/scale", "a", "n"), None, Level::Metadata);
        check(&info("get", "apps", "deployments", "a", "n"), None, Level::None);
        let path = |path| RequestInfo::non_resource(&http::Method::GET, path);
        check(&path("/api/v1"), Some(&proxy), Level::None);
        check(&path("/metrics"), Some(&proxy), Level::None);
        check(&path("/version"), None, Level::None);
    }

    #[test]
    fn stages_are_left_out_for_all_or_by_rule() {
        let policy = policy();
        let (pods, maps) =
            (info("get", "", "pods", "a", "b"), info("get", "", "configmaps", "kube-system", "b"));
        assert!(!policy.wants(Stage::RequestReceived, &pods, None));
        assert!(policy.wants(Stage::ResponseStarted, &pods, None));
        assert!(!policy.wants(Stage::ResponseStarted, &maps, None));
        assert!(policy.wants(Stage::ResponseComplete, &maps, None));
    }

    #[test]
    fn what_the_api_server_refuses_is_refused() {
        let check = |rule: serde_json::Value, want: &str| {
            let policy =
                serde_json::json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [rule]});
            let policy: Result<AuditPolicy, _> = serde_json::from_value(policy);
            let error = match policy {
                Ok(policy) => policy.validate().unwrap_err().to_string(),
                Err(error) => error.to_string(),
            };
            assert!(error.contains(want), "{error}");
        };
        let both = serde_json::json!({"level": "None", "namespaces": ["a"], "nonResourceURLs": ["/x"]});
        check(both, "rules[0]: rules cannot apply to both");
        check(
            serde_json::json!({"level": "None", "resources": [{"resourceNames": ["a"]}]}),
            "requires at least one",
        );
        check(serde_json::json!({"level": "None", "nonResourceURLs": ["/a*b"]}), "at their end only");
        check(serde_json::json!({"level": "All"}), "unknown variant");
        check(serde_json::json!({"level": "None", "user": ["a"]}), "unknown field");
    }
}
