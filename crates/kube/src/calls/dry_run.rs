//! How a request becomes one that changes nothing, and which requests cannot.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Uri, header::CONTENT_TYPE, uri::PathAndQuery};
use portcullis_core::{ProposedRequest, RequestInfo};
use portcullis_wire::{ProtobufEnvelope, ProtobufReader, ProtobufValue, encode_protobuf_field};
use serde_json::{Map, Value, json};

use crate::classify::Query;

/// API groups that the API server itself serves, all of whose writes honour a dry run. Aggregated APIs and custom resources
/// may be served, converted or defaulted by somebody who does not.
const GROUPS: [&str; 19] = [
    "",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "apps",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
];
/// Subresources that are plain writes of (a part of) the object. `token` is not: it ignores a dry run and mints a live token.
const SUBRESOURCES: [&str; 4] = ["", "ephemeralcontainers", "scale", "status"];

/// What to send instead of the request itself.
#[derive(Debug, PartialEq)]
pub(super) struct DryRun {
    pub(super) uri: Uri,
    pub(super) body: Bytes,
    pub(super) content_type: Option<String>,
    /// Whether nothing is left of the object afterwards.
    pub(super) deletes: bool,
}

/// Why there can be no dry run, in words for the people who would look at it.
type Unavailable = String;

impl DryRun {
    pub(super) fn of(request: &ProposedRequest) -> Result<Self, Unavailable> {
        check(&request.info)?;
        match request.info.verb.as_str() {
            "create" | "update" | "patch" => Ok(Self {
                uri: with_dry_run(&request.uri)?,
                body: request.body.clone(),
                content_type: content_type(&request.headers)?,
                deletes: false,
            }),
            "delete" | "deletecollection" => {
                let (body, content_type) = delete_options(request)?;
                Ok(Self { uri: request.uri.clone(), body, content_type: Some(content_type), deletes: true })
            }
            verb => Err(format!("a {verb} request cannot be tried without doing it")),
        }
    }
}

fn check(info: &RequestInfo) -> Result<(), Unavailable> {
    if !info.is_resource_request {
        return Err("the request is not about an object".into());
    }
    if info.is_connect() {
        return Err(format!(
            "{} opens a connection, which cannot be tried without doing it",
            info.resource_path()
        ));
    }
    if !SUBRESOURCES.contains(&info.subresource.as_str()) || info.resource == "bindings" {
        return Err(format!("{} is not known to honour a dry run", info.resource_path()));
    }
    if !GROUPS.contains(&info.api_group.as_str()) {
        return Err(format!("{} is not an API group whose dry runs can be relied on", info.api_group));
    }
    Ok(())
}

/// Whether the request is about something that can be read at its own path, of whatever group.
pub(super) fn has_before(info: &RequestInfo) -> bool {
    info.is_resource_request
        && SUBRESOURCES.contains(&info.subresource.as_str())
        && ["update", "patch", "delete", "deletecollection"].contains(&info.verb.as_str())
}

/// The target with `dryRun=All` and no other `dryRun`.
fn with_dry_run(uri: &Uri) -> Result<Uri, Unavailable> {
    let query = uri.query().unwrap_or_default();
    let kept = query.split('&').filter(|pair| {
        let parsed = Query::parse(pair, true).unwrap_or_default();
        !pair.is_empty() && parsed.first("dryRun").is_none()
    });
    let query: Vec<&str> = kept.chain(["dryRun=All"]).collect();
    let path_and_query: PathAndQuery = format!("{}?{}", uri.path(), query.join("&"))
        .parse()
        .map_err(|_| "its target is too long".to_owned())?;
    Ok(Uri::from(path_and_query))
}

fn content_type(headers: &HeaderMap) -> Result<Option<String>, Unavailable> {
    let value = headers.get(CONTENT_TYPE).map(|value| value.to_str().map(str::to_owned)).transpose();
    value.map_err(|_| "its content type cannot be read".to_owned())
}

/// The client's own options, as a dry run. They go into the body: with one, the API server ignores the query's.
fn delete_options(request: &ProposedRequest) -> Result<(Bytes, String), Unavailable> {
    let content_type = content_type(&request.headers)?;
    if request.body.is_empty() {
        return Ok((options_of_query(&request.uri)?, "application/json".into()));
    }
    let media_type = content_type.as_deref().unwrap_or("application/json");
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let body = match essence.as_str() {
        "application/json" => json_options(&request.body),
        "application/vnd.kubernetes.protobuf" => protobuf_options(&request.body),
        _ => None,
    };
    match body {
        Some(body) => Ok((body, media_type.to_owned())),
        None => Err(format!("its delete options cannot be read as {essence}")),
    }
}

fn options_of_query(uri: &Uri) -> Result<Bytes, Unavailable> {
    let query = Query::parse(uri.query().unwrap_or_default(), true).unwrap_or_default();
    let mut options = json!({ "kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"] });
    if let Some(seconds) = query.first("gracePeriodSeconds") {
        let seconds: i64 = seconds.parse().map_err(|_| "its grace period is not a number".to_owned())?;
        options["gracePeriodSeconds"] = json!(seconds);
    }
    if let Some(policy) = query.first("propagationPolicy") {
        options["propagationPolicy"] = json!(policy);
    }
    if query.first("orphanDependents").is_some() {
        options["orphanDependents"] = json!(query.flag("orphanDependents"));
    }
    Ok(options.to_string().into())
}

fn json_options(body: &[u8]) -> Option<Bytes> {
    let mut options: Map<String, Value> = serde_json::from_slice(body).ok()?;
    options.insert("dryRun".into(), json!(["All"]));
    Some(Value::Object(options).to_string().into())
}

/// `repeated string dryRun = 5` of `k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto`.
fn protobuf_options(body: &Bytes) -> Option<Bytes> {
    const DRY_RUN: u32 = 5;
    let mut envelope = ProtobufEnvelope::parse(body).ok()?;
    if !envelope.content_encoding.is_empty() || !envelope.content_type.is_empty() {
        return None;
    }
    let mut raw = BytesMut::with_capacity(envelope.raw.len() + 5);
    for field in ProtobufReader::new(&envelope.raw) {
        let field = field.ok()?;
        if field.number != DRY_RUN {
            raw.extend_from_slice(field.original);
        }
    }
    encode_protobuf_field(DRY_RUN, ProtobufValue::Bytes(b"All"), &mut raw);
    envelope.raw = raw.freeze();
    Some(envelope.encode())
}

#[cfg(test)]
mod tests {
    use http::{Method, Request};
    use portcullis_core::{Classifier, Identity};

    use super::*;
    use crate::KubeClassifier;

    pub(super) fn proposed(method: &str, target: &str, content_type: &str, body: &[u8]) -> ProposedRequest {
        let (parts, ()) = Request::builder().method(method).uri(target).body(()).unwrap().into_parts();
        let mut headers = HeaderMap::new();
        if !content_type.is_empty() {
            headers.insert(CONTENT_TYPE, content_type.parse().unwrap());
        }
        ProposedRequest {
            audit_id: None,
            identity: Identity::default(),
            info: KubeClassifier::new().classify(&parts).unwrap(),
            method: Method::from_bytes(method.as_bytes()).unwrap(),
            uri: parts.uri,
            headers,
            body: Bytes::copy_from_slice(body),
        }
    }

    #[test]
    fn writes_are_tried_by_the_query() {
        let check = |method: &str, target: &str, expected: &str| {
            let dry_run = DryRun::of(&proposed(method, target, "application/yaml", b"x")).unwrap();
            assert_eq!(
                (dry_run.uri.to_string().as_str(), &dry_run.body[..], dry_run.deletes),
                (expected, &b"x"[..], false)
            );
            assert_eq!(dry_run.content_type.as_deref(), Some("application/yaml"));
        };
        check("POST", "/api/v1/namespaces/shop/configmaps", "/api/v1/namespaces/shop/configmaps?dryRun=All");
        check(
            "PATCH",
            "/clusters/eu/apis/apps/v1/namespaces/shop/deployments/web?fieldManager=a%2Bb&force",
            "/clusters/eu/apis/apps/v1/namespaces/shop/deployments/web?fieldManager=a%2Bb&force&dryRun=All",
        );
        check(
            "PUT",
            "/api/v1/nodes/n/status?dryRun=All&d%72yRun=All&x=1",
            "/api/v1/nodes/n/status?x=1&dryRun=All",
        );
    }

    #[test]
    fn deletes_are_tried_by_their_body() {
        let check = |target: &str, content_type: &str, body: &[u8], expected: Value| {
            let dry_run = DryRun::of(&proposed("DELETE", target, content_type, body)).unwrap();
            assert_eq!(dry_run.uri, target);
            assert_eq!(serde_json::from_slice::<Value>(&dry_run.body).unwrap(), expected);
            assert!(dry_run.deletes);
        };
        let pod = "/api/v1/namespaces/shop/pods/web";
        let plain = json!({ "kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"] });
        check(pod, "", b"", plain.clone());
        check("/api/v1/namespaces/shop/pods?labelSelector=a%3Db", "", b"", plain);
        check(
            "/api/v1/namespaces/shop/pods/web?gracePeriodSeconds=0&propagationPolicy=Foreground&orphanDependents=0",
            "",
            b"",
            json!({ "kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"], "gracePeriodSeconds": 0, "propagationPolicy": "Foreground", "orphanDependents": false }),
        );
        check(
            pod,
            "application/json; charset=utf-8",
            br#"{"propagationPolicy":"Background","dryRun":[],"dryRun":null}"#,
            json!({ "propagationPolicy": "Background", "dryRun": ["All"] }),
        );
        check(
            pod,
            "",
            br#"{"preconditions":{"uid":"1"}}"#,
            json!({ "preconditions": { "uid": "1" }, "dryRun": ["All"] }),
        );
    }

    #[test]
    fn protobuf_options_keep_what_they_say() {
        let mut raw = BytesMut::new();
        encode_protobuf_field(5, ProtobufValue::Bytes(b"Never"), &mut raw);
        encode_protobuf_field(1, ProtobufValue::Varint(30), &mut raw);
        let envelope = ProtobufEnvelope {
            kind: "DeleteOptions".into(),
            raw: raw.freeze(),
            ..ProtobufEnvelope::default()
        };
        let request = proposed(
            "DELETE",
            "/api/v1/namespaces/shop/pods/web",
            "application/vnd.kubernetes.protobuf",
            &envelope.encode(),
        );
        let dry_run = DryRun::of(&request).unwrap();
        let sent = ProtobufEnvelope::parse(&dry_run.body).unwrap();
        let fields: Vec<_> = ProtobufReader::new(&sent.raw)
            .map(|field| field.unwrap())
            .map(|field| (field.number, field.value))
            .collect();
        assert_eq!(fields, [(1, ProtobufValue::Varint(30)), (5, ProtobufValue::Bytes(b"All"))]);
    }

    #[test]
    fn what_cannot_be_tried_is_not_sent() {
        let check = |method: &str, target: &str, content_type: &str, body: &[u8], why: &str| {
            let unavailable = DryRun::of(&proposed(method, target, content_type, body)).unwrap_err();
            assert!(unavailable.contains(why), "{target}: {unavailable}");
        };
        let pod = "/api/v1/namespaces/shop/pods/web";
        check("POST", "/api/v1/namespaces/shop/serviceaccounts/bot/token", "", b"{}", "not known to honour");
        check("POST", &format!("{pod}/exec?command=sh"), "", b"", "opens a connection");
        check("POST", &format!("{pod}/eviction"), "", b"{}", "not known to honour");
        check("POST", "/api/v1/namespaces/shop/bindings", "", b"{}", "not known to honour");
        check("POST", "/apis/example.com/v1/widgets", "", b"{}", "relied on");
        check("POST", "/apis/authentication.k8s.io/v1/tokenreviews", "", b"{}", "relied on");
        check("GET", pod, "", b"", "a get request");
        check("POST", "/portcullis/approvals", "", b"", "not about an object");
        check("DELETE", pod, "application/yaml", b"dryRun: []", "cannot be read");
        check("DELETE", pod, "application/json", b"[]", "cannot be read");
        check("DELETE", pod, "application/vnd.kubernetes.protobuf", b"junk", "cannot be read");
        check("DELETE", &format!("{pod}?gracePeriodSeconds=x"), "", b"", "not a number");
    }
}
