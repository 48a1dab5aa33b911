//! `RequestInfo` as the API server computes it, and refusals for what could be read two ways.
//!
//! The rules are those of `k8s.io/apiserver`'s `RequestInfoFactory` (`pkg/endpoints/request/requestinfo.go`, 1.37): whatever the
//! API server's own authorizer will see is what our policy sees. Where the server is lenient (it takes the first of two
//! conflicting parameters, drops a parameter that it cannot decode, decodes `%2F` before it splits the path) and something
//! on the way to it could read the request differently, the request is refused instead.

mod headers;
mod labels;
mod path;
mod query;
mod selector;

use http::{Method, Uri, Version, header, request::Parts};
use portcullis_core::{Classifier, ErrorFormat, Refusal, RequestInfo};

use crate::upgrade::Offer;

pub use path::UpstreamTarget;
use path::{KubePath, SplitPath, is_gateway_path};
pub(crate) use query::Query;

/// Verbs that stand in the path (`/api/v1/watch/pods`).
const PATH_VERBS: [&str; 2] = ["proxy", "watch"];
/// Subresources of a namespace, as opposed to resources in it.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];
/// Verbs whose selectors the API server honours, and so authorizes by.
const VERBS_WITH_SELECTORS: [&str; 3] = ["list", "watch", "deletecollection"];

/// Classifies requests to a Kubernetes API server.
///
/// Also peels the cluster off `/clusters/<name>/…`, and has refusals written as `metav1.Status`, except below
/// `/portcullis/`, where the gateway's own API answers with problems (RFC 9457).
///
/// ```
/// use http::Request;
/// use portcullis_core::Classifier;
/// use portcullis_kube::KubeClassifier;
///
/// let (parts, ()) = Request::get("/clusters/eu/api/v1/namespaces/shop/pods?watch=1").body(()).unwrap().into_parts();
/// let info = KubeClassifier::new().classify(&parts).unwrap();
/// assert_eq!((info.cluster.as_str(), info.verb.as_str()), ("eu", "watch"));
/// assert_eq!((info.namespace.as_str(), info.resource.as_str()), ("shop", "pods"));
///
/// let (parts, ()) = Request::get("/api/v1/namespaces/shop%2Fpods").body(()).unwrap().into_parts();
/// assert_eq!(KubeClassifier::new().classify(&parts).unwrap_err().code(), "kube/ambiguous-path");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct KubeClassifier {
    cluster_prefix: bool,
}

impl KubeClassifier {
    /// The classifier of a gateway: `/clusters/<name>/…` names a cluster.
    pub fn new() -> Self {
        Self { cluster_prefix: true }
    }

    /// Leaves `/clusters/…` to the API server: for a service that stands before one cluster only.
    #[must_use]
    pub fn without_cluster_prefix(mut self) -> Self {
        self.cluster_prefix = false;
        self
    }
}

impl Default for KubeClassifier {
    fn default() -> Self {
        Self::new()
    }
}

impl Classifier for KubeClassifier {
    fn classify(&self, parts: &Parts) -> Result<RequestInfo, Refusal> {
        headers::check(parts)?;
        if parts.method == Method::CONNECT {
            return Err(Refusal::bad_request("kube/ambiguous-path", "CONNECT requests are not served"));
        }
        let split = SplitPath::new(parts.uri.path(), self.cluster_prefix)?;
        let path = KubePath::parse(split.rest)?;
        let proxied = path.proxy_suffix;
        let query = Query::parse(parts.uri.query().unwrap_or_default(), proxied)?;
        let mut info = read(&parts.method, &path, &query)?;
        // Here already, so that nobody is asked to approve what will then be refused.
        Offer::of(parts, &info)?;
        info.cluster = split.cluster.unwrap_or_default().to_owned();
        info.dry_run = query.all("dryRun").any(|value| value == "All")
            && (!info.verb.starts_with("delete") || body_is_absent(parts));
        Ok(info)
    }

    fn error_format(&self, uri: &Uri) -> ErrorFormat {
        match is_gateway_path(uri.path()) {
            true => ErrorFormat::Problem,
            false => ErrorFormat::Status,
        }
    }
}

/// A delete's options come from its body if it has one, and the query's are then ignored. What cannot be known here
/// (HTTP/2 without a length) counts as a body: better a dry run taken for a real one than the other way round.
fn body_is_absent(parts: &Parts) -> bool {
    match parts.headers.get(header::CONTENT_LENGTH) {
        Some(length) => length.as_bytes() == b"0",
        None => parts.version <= Version::HTTP_11 && !parts.headers.contains_key(header::TRANSFER_ENCODING),
    }
}

fn read(method: &Method, path: &KubePath, query: &Query<'_>) -> Result<RequestInfo, Refusal> {
    let mut info = RequestInfo::non_resource(method, &path.decoded);
    let Some(resource) = ResourcePath::find(&path.segments) else { return Ok(info) };

    info.is_resource_request = true;
    info.api_prefix = resource.prefix.to_owned();
    info.api_group = resource.group.to_owned();
    info.api_version = resource.version.to_owned();

    let mut rest = resource.rest;
    let verb_in_path = PATH_VERBS.contains(&rest[0].as_str());
    if verb_in_path {
        if rest.len() < 2 {
            return Err(Refusal::bad_request(
                "kube/ambiguous-path",
                format!("the path names no resource to {}", rest[0]),
            ));
        }
        info.verb = rest[0].clone();
        rest = &rest[1..];
    } else {
        info.verb = verb_of(method).to_owned();
    }

    let (namespace, parts) = split_namespace(rest);
    info.namespace = namespace.to_owned();
    info.resource = parts[0].clone();
    info.name = parts.get(1).cloned().unwrap_or_default();
    if info.verb != "proxy" {
        info.subresource = parts.get(2).cloned().unwrap_or_default();
    }

    if info.name.is_empty() && info.verb == "get" {
        info.verb = if query.flag("watch") { "watch" } else { "list" }.to_owned();
        if let Some(name) = name_by_selector(query) {
            info.name = name;
        }
    }
    if info.name.is_empty() && info.verb == "delete" {
        info.verb = "deletecollection".to_owned();
    }
    if !verb_in_path && VERBS_WITH_SELECTORS.contains(&info.verb.as_str()) {
        info.field_selector = query.first("fieldSelector").unwrap_or_default().to_owned();
        info.label_selector = query.first("labelSelector").unwrap_or_default().to_owned();
    }
    Ok(info)
}

fn verb_of(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// `namespaces/shop/pods/web` → (`shop`, `pods/web`); `namespaces/shop` and `namespaces/shop/status` are about the
/// namespace itself, and in it.
fn split_namespace(rest: &[String]) -> (&str, &[String]) {
    match rest {
        [first, namespace, third, ..]
            if first == "namespaces" && !NAMESPACE_SUBRESOURCES.contains(&third.as_str()) =>
        {
            (namespace, &rest[2..])
        }
        [first, namespace, ..] if first == "namespaces" => (namespace, rest),
        _ => ("", rest),
    }
}

/// A list or watch of one object by name is authorized as if it were for that name, if all of its options can be decoded.
fn name_by_selector(query: &Query<'_>) -> Option<String> {
    let numbers = ["timeoutSeconds", "limit"];
    let decodable =
        numbers.iter().filter_map(|key| query.first(key)).all(|number| number.parse::<i64>().is_ok())
            && labels::is_valid(query.first("labelSelector").unwrap_or_default());
    if !decodable {
        return None;
    }
    let name = selector::required_value(query.first("fieldSelector")?, "metadata.name")?;
    (name != "." && name != ".." && !name.contains(['/', '%'])).then_some(name)
}

/// `/api/v1/…` or `/apis/apps/v1/…`, with at least one segment behind the version.
struct ResourcePath<'a> {
    prefix: &'a str,
    group: &'a str,
    version: &'a str,
    rest: &'a [String],
}

impl<'a> ResourcePath<'a> {
    fn find(segments: &'a [String]) -> Option<Self> {
        match segments {
            [prefix, version, rest @ ..] if prefix == "api" && !rest.is_empty() => {
                Some(Self { prefix, group: "", version, rest })
            }
            [prefix, group, version, rest @ ..] if prefix == "apis" && !rest.is_empty() => {
                Some(Self { prefix, group, version, rest })
            }
            _ => None,
        }
    }

    /// Whether the last segment is a `proxy` subresource, so that what follows belongs to somebody else.
    fn ends_in_proxy(segments: &[String]) -> bool {
        let Some(resource) = ResourcePath::find(segments) else { return false };
        if PATH_VERBS.contains(&resource.rest[0].as_str()) {
            return false;
        }
        let (_, parts) = split_namespace(resource.rest);
        parts.len() == 3 && parts[2] == "proxy"
    }
}

#[cfg(test)]
mod tests;
