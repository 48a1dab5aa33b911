//! A grant: the right to do some things, for the length of one task.

use serde::{Deserialize, Serialize};

use crate::{RequestInfo, Timestamp};

/// A task-scoped credential, as the JIT layer found it on a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// The grant's id: the `jti` of its token (RFC 7519 §4.1.7).
    pub id: String,
    /// The profile it was cut from.
    pub profile: String,
    /// What the task is, in the requester's words.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub task: Option<String>,
    /// What it allows. Nothing else is allowed.
    pub rules: Vec<ResourceRule>,
    /// When it was granted.
    pub issued_at: Timestamp,
    /// When it ends if nobody ends it earlier.
    pub expires_at: Timestamp,
    /// Who approved it, if somebody had to.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub approvers: Vec<String>,
}

impl Grant {
    /// Whether any rule of the grant covers the request.
    pub fn permits(&self, info: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| rule.matches(info))
    }
}

/// A rule in the shape of an RBAC `PolicyRule`, narrowed by namespace.
///
/// `*` stands for everything in each list; an empty `namespaces` or `resource_names` does not narrow. Unlike in RBAC,
/// `resources: ["*"]` covers no connect subresource (exec, attach, port-forward, proxy): those are named or not granted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ResourceRule {
    /// `get`, `list`, `watch`, `create`, …; connect requests are `create`.
    pub verbs: Vec<String>,
    /// API groups; `""` is the core group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// `pods`, `pods/log`, `pods/*` (its subresources), `*/scale`, `*` (resources and subresources).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// The namespaces it holds in; empty means any, and cluster-scoped objects too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// The object names it holds for; empty means any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// Paths of non-resource requests; a trailing `*` matches any rest.
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

impl ResourceRule {
    /// Whether this rule covers the request.
    pub fn matches(&self, info: &RequestInfo) -> bool {
        if !holds(&self.verbs, info.effective_verb()) {
            return false;
        }
        if !info.is_resource_request {
            return self.non_resource_urls.iter().any(|pattern| path_matches(pattern, &info.path));
        }
        holds(&self.api_groups, &info.api_group)
            && self.resources.iter().any(|pattern| resource_matches(pattern, info))
            && (self.namespaces.is_empty() || holds(&self.namespaces, &info.namespace))
            && (self.resource_names.is_empty() || self.resource_names.contains(&info.name))
    }
}

fn holds(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

fn path_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

fn resource_matches(pattern: &str, info: &RequestInfo) -> bool {
    match pattern.split_once('/') {
        None if pattern == "*" => !info.is_connect(),
        None => info.subresource.is_empty() && pattern == info.resource,
        Some((resource, subresource)) => {
            (resource == "*" || resource == info.resource)
                && match subresource {
                    "*" => !info.subresource.is_empty() && !info.is_connect(),
                    named => named == info.subresource,
                }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(verb: &str, namespace: &str, resource: &str, subresource: &str, name: &str) -> RequestInfo {
        RequestInfo {
            is_resource_request: true,
            verb: verb.into(),
            namespace: namespace.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..RequestInfo::default()
        }
    }

    fn check(rule: &str, info: RequestInfo, expected: bool) {
        let rule: ResourceRule = serde_json::from_str(rule).unwrap();
        assert_eq!(rule.matches(&info), expected, "{rule:?} on {info:?}");
    }

    #[test]
    fn rules_match_as_rbac_does_but_never_connect_by_wildcard() {
        let pods =
            r#"{"verbs":["get","create"],"apiGroups":[""],"resources":["pods"],"namespaces":["shop"]}"#;
        check(pods, request("get", "shop", "pods", "", "web"), true);
        check(pods, request("get", "bank", "pods", "", "web"), false);
        check(pods, request("delete", "shop", "pods", "", "web"), false);
        check(pods, request("get", "shop", "pods", "exec", "web"), false);

        let all = r#"{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}"#;
        check(all, request("get", "shop", "pods", "log", "web"), true);
        check(all, request("get", "shop", "pods", "exec", "web"), false);
        let below = r#"{"verbs":["*"],"apiGroups":["*"],"resources":["pods/*"]}"#;
        check(below, request("get", "shop", "pods", "log", "web"), true);
        check(below, request("get", "shop", "pods", "", "web"), false);
        let exec = r#"{"verbs":["create"],"apiGroups":[""],"resources":["pods/exec"]}"#;
        check(exec, request("get", "shop", "pods", "exec", "web"), true);

        let named = r#"{"verbs":["get"],"apiGroups":[""],"resources":["secrets"],"resourceNames":["db"]}"#;
        check(named, request("get", "shop", "secrets", "", "db"), true);
        check(named, request("list", "shop", "secrets", "", ""), false);
    }

    #[test]
    fn non_resource_paths_match_by_prefix() {
        let info =
            |path: &str| RequestInfo { verb: "get".into(), path: path.into(), ..RequestInfo::default() };
        check(r#"{"verbs":["get"],"nonResourceURLs":["/openapi/*"]}"#, info("/openapi/v3"), true);
        check(r#"{"verbs":["get"],"nonResourceURLs":["/openapi/*"]}"#, info("/metrics"), false);
        check(r#"{"verbs":["get"],"resources":["*"],"apiGroups":["*"]}"#, info("/metrics"), false);
    }
}
