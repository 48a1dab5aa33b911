//! What a request asks for, in the terms of the Kubernetes authorizer.

use http::{Extensions, Method, Request, Uri, request::Parts};
use serde::{Deserialize, Serialize};

use crate::Redactor;

/// What a request asks for: the fields Kubernetes calls *request attributes*.
///
/// For a Kubernetes API server these are computed exactly as `k8s.io/apiserver`'s `RequestInfoFactory` does
/// (<https://kubernetes.io/docs/reference/access-authn-authz/authorization/#determine-the-request-verb>); for any other HTTP
/// service a request is a *non-resource request*: `verb` is the lower-cased method and `path` says the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestInfo {
    /// Whether the request is for a Kubernetes resource, rather than for a path.
    pub is_resource_request: bool,
    /// The path, decoded once, without any cluster prefix.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; or the lower-cased method.
    pub verb: String,
    /// `api` or `apis`; empty for a non-resource request.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_prefix: String,
    /// The API group; empty for the core group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_group: String,
    /// The API version, such as `v1`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    /// The namespace; empty for cluster-scoped requests.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The resource, in its plural form.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    /// The subresource, such as `exec` or `status`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subresource: String,
    /// The object's name; empty for a list or a create.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The `fieldSelector` of the query, if it could be parsed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field_selector: String,
    /// The `labelSelector` of the query, if it could be parsed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub label_selector: String,
    /// Which cluster the request is for; empty for the default cluster, or where there is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cluster: String,
    /// Whether the client asked for a dry run (`dryRun=All`). Nothing is exempt for it: `TokenRequest` ignores it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// Subresources that open a connection into the cluster (`rest.Connecter` in `k8s.io/apiserver`).
const CONNECT_SUBRESOURCES: [&str; 4] = ["exec", "attach", "portforward", "proxy"];

impl RequestInfo {
    /// A non-resource request, as Kubernetes defines it: the lower-cased method and the path.
    pub fn non_resource(method: &Method, path: &str) -> Self {
        Self { verb: method.as_str().to_ascii_lowercase(), path: path.to_owned(), ..Self::default() }
    }

    /// What an outer layer found this request to be, or else the non-resource reading of it.
    pub fn of<B>(request: &Request<B>) -> Self {
        Self::known(request.extensions(), request.method(), request.uri())
    }

    /// The same of a request whose body has been taken off.
    pub fn of_parts(parts: &Parts) -> Self {
        Self::known(&parts.extensions, &parts.method, &parts.uri)
    }

    fn known(extensions: &Extensions, method: &Method, uri: &Uri) -> Self {
        let known = extensions.get::<Self>().cloned();
        known.unwrap_or_else(|| Self::non_resource(method, uri.path()))
    }

    /// Whether the request opens a connection into the cluster: exec, attach, port-forward or proxy.
    pub fn is_connect(&self) -> bool {
        self.is_resource_request && CONNECT_SUBRESOURCES.contains(&self.subresource.as_str())
    }

    /// Whether the request may change something. Connect requests always may, whatever HTTP method they came with
    /// (exec over WebSocket is a `GET`).
    pub fn is_mutating(&self) -> bool {
        let reads = match self.is_resource_request {
            true => ["get", "list", "watch"].contains(&self.verb.as_str()),
            false => ["get", "head", "options", "trace"].contains(&self.verb.as_str()),
        };
        !reads || self.is_connect()
    }

    /// Whether the answer may stay open for hours: watches, followed logs and connections.
    pub fn is_long_running(&self) -> bool {
        self.verb == "watch" || self.is_connect() || (self.is_resource_request && self.subresource == "log")
    }

    /// The verb that policy, grants and durability judge by: `create` for connect requests, else [`verb`](Self::verb).
    pub fn effective_verb(&self) -> &str {
        if self.is_connect() { "create" } else { &self.verb }
    }

    /// A copy for others to keep. A client may have put a secret where a name belongs.
    #[must_use]
    pub fn redacted(&self, redactor: &dyn Redactor) -> Self {
        let mut copy = self.clone();
        for name in
            [&mut copy.path, &mut copy.namespace, &mut copy.resource, &mut copy.subresource, &mut copy.name]
        {
            *name = redactor.name(name);
        }
        for selector in [&mut copy.field_selector, &mut copy.label_selector] {
            if !selector.is_empty() {
                *selector = redactor.text(selector);
            }
        }
        copy
    }

    /// `pods` or `pods/log`: how RBAC rules name it.
    pub fn resource_path(&self) -> String {
        match self.subresource.is_empty() {
            true => self.resource.clone(),
            false => format!("{}/{}", self.resource, self.subresource),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_requests_count_as_create_whatever_the_method() {
        let exec = RequestInfo {
            is_resource_request: true,
            verb: "get".into(),
            resource: "pods".into(),
            subresource: "exec".into(),
            ..RequestInfo::default()
        };
        assert!(exec.is_mutating() && exec.is_long_running());
        assert_eq!(exec.effective_verb(), "create");
        assert_eq!(exec.resource_path(), "pods/exec");
    }

    #[test]
    fn a_plain_http_request_is_judged_by_its_method() {
        let mutating = |method| RequestInfo::non_resource(&method, "/orders").is_mutating();
        assert!(!mutating(Method::GET) && !mutating(Method::HEAD));
        assert!(mutating(Method::POST) && mutating(Method::DELETE));
    }
}
