//! The kinds this server serves, each with its published schema.

use k8s_openapi::api::{apps::v1 as apps, core::v1 as core, rbac::v1 as rbac};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    object::{entries, is_of_type},
    status::ApiError,
    target::Query,
};

/// A kind of object.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) short: &'static [&'static str],
    pub(crate) namespaced: bool,
    /// Whether `kubectl get all` shows it.
    pub(crate) in_all: bool,
    pub(crate) subresources: &'static [Subresource],
    /// Reads the object by its published type, and writes it again: what is lost was not in the type.
    typed: fn(&Value) -> Result<Value, serde_json::Error>,
}

/// A subresource: its name, the kind it speaks, and what one may do.
#[derive(Debug)]
pub(crate) struct Subresource {
    pub(crate) name: &'static str,
    /// Group, version and kind of what it speaks.
    pub(crate) speaks: (&'static str, &'static str, &'static str),
    pub(crate) verbs: &'static [&'static str],
}

const fn sub(
    name: &'static str,
    speaks: (&'static str, &'static str, &'static str),
    verbs: &'static [&'static str],
) -> Subresource {
    Subresource { name, speaks, verbs }
}

const READ_WRITE: &[&str] = &["get", "patch", "update"];
const SCALE: Subresource = sub("scale", ("autoscaling", "v1", "Scale"), READ_WRITE);

macro_rules! kind {
    ($type:ty, $group:expr, $kind:expr, $plural:expr, $singular:expr, $short:expr, $namespaced:expr, $all:expr, $subs:expr) => {
        Kind {
            group: $group,
            version: "v1",
            kind: $kind,
            plural: $plural,
            singular: $singular,
            short: $short,
            namespaced: $namespaced,
            in_all: $all,
            subresources: $subs,
            typed: round_trip::<$type>,
        }
    };
}

const RBAC: &str = "rbac.authorization.k8s.io";

/// Every kind, grouped as discovery lists them.
#[rustfmt::skip]
pub(crate) static KINDS: &[Kind] = &[
    kind!(core::ConfigMap, "", "ConfigMap", "configmaps", "configmap", &["cm"], true, false, &[]),
    kind!(core::Event, "", "Event", "events", "event", &["ev"], true, false, &[]),
    kind!(core::Namespace, "", "Namespace", "namespaces", "namespace", &["ns"], false, false,
        &[sub("status", ("", "v1", "Namespace"), READ_WRITE)]),
    kind!(core::Node, "", "Node", "nodes", "node", &["no"], false, false,
        &[sub("status", ("", "v1", "Node"), READ_WRITE)]),
    kind!(core::Pod, "", "Pod", "pods", "pod", &["po"], true, true, &[
        sub("exec", ("", "v1", "PodExecOptions"), &["create", "get"]),
        sub("log", ("", "v1", "Pod"), &["get"]),
        sub("status", ("", "v1", "Pod"), READ_WRITE),
    ]),
    kind!(core::Secret, "", "Secret", "secrets", "secret", &[], true, false, &[]),
    kind!(core::ServiceAccount, "", "ServiceAccount", "serviceaccounts", "serviceaccount", &["sa"], true, false,
        &[sub("token", ("authentication.k8s.io", "v1", "TokenRequest"), &["create"])]),
    kind!(core::Service, "", "Service", "services", "service", &["svc"], true, true,
        &[sub("status", ("", "v1", "Service"), READ_WRITE)]),
    kind!(apps::Deployment, "apps", "Deployment", "deployments", "deployment", &["deploy"], true, true,
        &[SCALE, sub("status", ("apps", "v1", "Deployment"), READ_WRITE)]),
    kind!(apps::ReplicaSet, "apps", "ReplicaSet", "replicasets", "replicaset", &["rs"], true, true,
        &[SCALE, sub("status", ("apps", "v1", "ReplicaSet"), READ_WRITE)]),
    kind!(rbac::ClusterRoleBinding, RBAC, "ClusterRoleBinding", "clusterrolebindings", "clusterrolebinding", &[], false, false, &[]),
    kind!(rbac::ClusterRole, RBAC, "ClusterRole", "clusterroles", "clusterrole", &[], false, false, &[]),
    kind!(rbac::RoleBinding, RBAC, "RoleBinding", "rolebindings", "rolebinding", &[], true, false, &[]),
    kind!(rbac::Role, RBAC, "Role", "roles", "role", &[], true, false, &[]),
];

/// The verbs of every kind.
pub(crate) const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// The reviews, which are created and kept nowhere: group, kind, plural.
pub(crate) const REVIEWS: &[(&str, &str, &str)] = &[
    ("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews"),
    ("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "SelfSubjectRulesReview", "selfsubjectrulesreviews"),
];

/// The kind of that group and plural name.
pub(crate) fn find(group: &str, plural: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.group == group && kind.plural == plural)
}

/// The kind of that `apiVersion` and `kind`.
pub(crate) fn of_object(object: &Value) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| object["apiVersion"] == kind.api_version() && object["kind"] == kind.kind)
}

impl Kind {
    /// `v1`, `apps/v1`.
    pub(crate) fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// `pods`, `deployments.apps`: how messages name it.
    pub(crate) fn qualified(&self) -> String {
        match self.group {
            "" => self.plural.to_owned(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// `Pod`, `Deployment.apps`.
    pub(crate) fn qualified_kind(&self) -> String {
        match self.group {
            "" => self.kind.to_owned(),
            group => format!("{}.{group}", self.kind),
        }
    }

    pub(crate) fn is(&self, plural: &str) -> bool {
        self.plural == plural
    }

    /// Reads an object by the published type of this kind. What the type does not know is dropped, and by the request's
    /// `fieldValidation` refused (`Strict`), warned of (`Warn`, the default) or passed over (`Ignore`).
    pub(crate) fn read(
        &self,
        mut object: Value,
        query: &Query,
        warnings: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        if !is_of_type(&mut object, &self.api_version(), self.kind) {
            let message = format!(
                "the object provided is unrecognized (must be of type {}): apiVersion {}, kind {}, expected {} {}",
                self.kind,
                object["apiVersion"],
                object["kind"],
                self.api_version(),
                self.kind
            );
            return Err(ApiError::bad_request(message));
        }
        quantities_as_text(&mut object, false);
        let typed = (self.typed)(&object).map_err(|error| {
            let version = self.version;
            ApiError::bad_request(format!(
                "{kind} in version {version:?} cannot be handled as a {kind}: {error}",
                kind = self.kind
            ))
        })?;
        let mut unknown = Vec::new();
        lost(&object, &typed, "", &mut unknown);
        let unknown: Vec<_> = unknown.iter().map(|field| format!("unknown field {field:?}")).collect();
        match query.get("fieldValidation").unwrap_or("Warn") {
            "Strict" if !unknown.is_empty() => {
                let version = self.version;
                let list = unknown.join(", ");
                return Err(ApiError::bad_request(format!(
                    "{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {list}",
                    kind = self.kind
                )));
            }
            "Strict" | "Ignore" => {}
            "Warn" => warnings.extend(unknown),
            other => {
                let supported = r#"supported values: "Ignore", "Warn", "Strict""#;
                return Err(ApiError::bad_request(format!(
                    "fieldValidation: Unsupported value: {other:?}: {supported}"
                )));
            }
        }
        Ok(typed)
    }
}

fn round_trip<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Value, serde_json::Error> {
    serde_json::to_value(serde_json::from_value::<T>(object.clone())?)
}

/// The paths of `before` that are not in `after`.
fn lost(before: &Value, after: &Value, path: &str, out: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), after) => {
            for (key, value) in before {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match after.get(key) {
                    Some(after) => lost(value, after, &path, out),
                    None if value.is_null() => {}
                    None => out.push(path),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            for (index, (before, after)) in before.iter().zip(after).enumerate() {
                lost(before, after, &format!("{path}[{index}]"), out);
            }
        }
        _ => {}
    }
}

/// A quantity may be written as a number (`cpu: 1`); the published type knows it as text.
fn quantities_as_text(value: &mut Value, in_quantities: bool) {
    match value {
        Value::Number(number) if in_quantities => *value = Value::String(number.to_string()),
        Value::Array(list) => list.iter_mut().for_each(|item| quantities_as_text(item, false)),
        Value::Object(map) => {
            for (key, value) in map {
                let named =
                    ["limits", "requests", "capacity", "allocatable", "overhead"].contains(&key.as_str());
                let single = in_quantities || ["sizeLimit", "divisor"].contains(&key.as_str());
                quantities_as_text(value, if value.is_object() { named } else { single });
            }
        }
        _ => {}
    }
}

/// Labels as `a=b,c=d`; `<none>` if there are none.
pub(crate) fn labels_text(labels: &Value) -> String {
    let list: Vec<_> =
        entries(labels).map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    if list.is_empty() { "<none>".into() } else { list.join(",") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(validation: &str, object: Value) -> (Result<Value, String>, Vec<String>) {
        let kind = of_object(&object).unwrap();
        let query = Query::of(&format!("/?fieldValidation={validation}").parse().unwrap());
        let mut warnings = Vec::new();
        (kind.read(object, &query, &mut warnings).map_err(|error| error.message().to_owned()), warnings)
    }

    fn deployment(replicas: Value) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
            "replicas": replicas, "selector": {}, "strategi": {}, "template": {"spec": {"containers": [
                {"name": "a", "resources": {"limits": {"cpu": 1}}, "imagee": "x"}]}}}})
    }

    #[test]
    fn unknown_fields_are_refused_warned_of_or_dropped() {
        let (strict, _) = read("Strict", deployment(json!(1)));
        assert!(strict.unwrap_err().contains(
            r#"unknown field "spec.strategi", unknown field "spec.template.spec.containers[0].imagee""#
        ));
        let (warned, warnings) = read("Warn", deployment(json!(1)));
        assert_eq!(warnings.len(), 2);
        assert_eq!(
            warned.unwrap()["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"],
            "1"
        );
        let (ignored, warnings) = read("Ignore", deployment(json!(1)));
        assert!(ignored.unwrap()["spec"].get("strategi").is_none() && warnings.is_empty());
        assert!(read("Sometimes", deployment(json!(1))).0.is_err());
    }

    #[test]
    fn wrong_types_are_refused() {
        let (wrong, _) = read("Warn", deployment(json!("three")));
        assert!(wrong.unwrap_err().contains("cannot be handled as a Deployment"));
    }
}
