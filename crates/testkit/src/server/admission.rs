//! What the API server itself adds to an object and demands of it: defaults, validation, immutability.
//!
//! Of the published rules this keeps those that people and clients meet; what it does not know it lets pass unchanged.

use serde_json::{Value, json};

use super::{
    kinds::Kind,
    object::{child, entries, items, meta, meta_mut, selects, text},
    status::ApiError,
};

type Causes = Vec<(String, String)>;

/// Fills in the published defaults.
pub(crate) fn default(kind: &Kind, object: &mut Value) {
    match kind.plural {
        "namespaces" => {
            let name = meta(object, "name").to_owned();
            let labels = meta_mut(object).entry("labels").or_insert_with(|| json!({}));
            labels["kubernetes.io/metadata.name"] = json!(name);
            set(&mut object["spec"], "finalizers", json!(["kubernetes"]));
            set(&mut object["status"], "phase", json!("Active"));
        }
        "secrets" => {
            set(object, "type", json!("Opaque"));
            let plain = object.as_object_mut().and_then(|object| object.remove("stringData"));
            for (key, value) in entries(&plain.unwrap_or_default()) {
                let encoded = super::token::base64_standard(text(value).as_bytes());
                child(object, "data").insert(key.clone(), json!(encoded));
            }
        }
        "pods" => default_pod_spec(&mut object["spec"]),
        "services" => default_service(&mut object["spec"]),
        "deployments" => {
            let spec = &mut object["spec"];
            set(spec, "replicas", json!(1));
            set(spec, "revisionHistoryLimit", json!(10));
            set(spec, "progressDeadlineSeconds", json!(600));
            set(&mut spec["strategy"], "type", json!("RollingUpdate"));
            if spec["strategy"]["type"] == "RollingUpdate" {
                set(&mut spec["strategy"]["rollingUpdate"], "maxSurge", json!("25%"));
                set(&mut spec["strategy"]["rollingUpdate"], "maxUnavailable", json!("25%"));
            }
            default_pod_spec(&mut spec["template"]["spec"]);
        }
        "replicasets" => {
            set(&mut object["spec"], "replicas", json!(1));
            default_pod_spec(&mut object["spec"]["template"]["spec"]);
        }
        "rolebindings" | "clusterrolebindings" => {
            set(&mut object["roleRef"], "apiGroup", json!(kind.group));
            for subject in object["subjects"].as_array_mut().into_iter().flatten() {
                if subject["kind"] != "ServiceAccount" {
                    set(subject, "apiGroup", json!(kind.group));
                }
            }
        }
        _ => {}
    }
}

/// Sets a field that is not there.
fn set(object: &mut Value, field: &str, value: Value) {
    if object[field].is_null() {
        object[field] = value;
    }
}

fn default_pod_spec(spec: &mut Value) {
    set(spec, "restartPolicy", json!("Always"));
    set(spec, "dnsPolicy", json!("ClusterFirst"));
    set(spec, "schedulerName", json!("default-scheduler"));
    set(spec, "terminationGracePeriodSeconds", json!(30));
    set(spec, "securityContext", json!({}));
    if let Some(account) = spec["serviceAccountName"].as_str().map(str::to_owned) {
        set(spec, "serviceAccount", json!(account));
    }
    for list in ["containers", "initContainers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            let image = text(&container["image"]);
            let tagged = image.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
            let pull = if tagged && !image.ends_with(":latest") { "IfNotPresent" } else { "Always" };
            set(container, "imagePullPolicy", json!(pull));
            set(container, "terminationMessagePath", json!("/dev/termination-log"));
            set(container, "terminationMessagePolicy", json!("File"));
            set(container, "resources", json!({}));
            for port in container["ports"].as_array_mut().into_iter().flatten() {
                set(port, "protocol", json!("TCP"));
            }
            for variable in container["env"].as_array_mut().into_iter().flatten() {
                if variable["valueFrom"]["fieldRef"].is_object() {
                    set(&mut variable["valueFrom"]["fieldRef"], "apiVersion", json!("v1"));
                }
            }
        }
    }
    for volume in spec["volumes"].as_array_mut().into_iter().flatten() {
        for source in ["secret", "configMap", "projected", "downwardAPI"] {
            if volume[source].is_object() {
                set(&mut volume[source], "defaultMode", json!(420));
            }
        }
    }
    // Indexing a field that is not there leaves a null behind, which is no part of the object.
    prune_nulls(spec);
}

fn default_service(spec: &mut Value) {
    set(spec, "type", json!("ClusterIP"));
    set(spec, "sessionAffinity", json!("None"));
    if spec["type"] != "ExternalName" {
        let random = uuid::Uuid::new_v4();
        let address = format!("10.96.{}.{}", random.as_bytes()[0], random.as_bytes()[1].max(10));
        set(spec, "clusterIP", json!(address));
        let address = spec["clusterIP"].clone();
        set(spec, "clusterIPs", json!([address]));
        set(spec, "ipFamilies", json!(["IPv4"]));
        set(spec, "ipFamilyPolicy", json!("SingleStack"));
        set(spec, "internalTrafficPolicy", json!("Cluster"));
    }
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        set(port, "protocol", json!("TCP"));
        let number = port["port"].clone();
        set(port, "targetPort", number);
    }
}

/// Removes fields that are null: in a stored object, absence is absence.
pub(crate) fn prune_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(prune_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(prune_nulls),
        _ => {}
    }
}

/// Checks a new object, defaults filled in.
pub(crate) fn validate(kind: &Kind, object: &Value) -> Result<(), ApiError> {
    let mut causes = Causes::new();
    let name = meta(object, "name");
    if let Some(why) = bad_name(kind, name) {
        causes.push(("metadata.name".into(), format!("Invalid value: {name:?}: {why}")));
    }
    for (key, value) in entries(&object["metadata"]["labels"]) {
        let ok = |text: &str| {
            text.len() <= 63 && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        if !ok(text(value)) {
            causes.push((
                "metadata.labels".into(),
                format!("Invalid value: {value}: not a label value (key {key:?})"),
            ));
        }
    }
    match kind.plural {
        "pods" => pod_spec(&object["spec"], "spec", &mut causes),
        "deployments" | "replicasets" => workload(&object["spec"], &mut causes),
        "configmaps" | "secrets" => {
            for (key, _) in entries(&object["data"]).chain(entries(&object["binaryData"])) {
                let ok =
                    !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
                if !ok {
                    let why = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
                    causes.push((format!("data[{key}]"), format!("Invalid value: {key:?}: {why}")));
                }
            }
        }
        "services"
            if object["spec"]["type"] != "ExternalName" && items(&object["spec"]["ports"]).is_empty() =>
        {
            causes.push(("spec.ports".into(), "Required value".into()));
        }
        "roles" | "clusterroles" => {
            for (index, rule) in items(&object["rules"]).iter().enumerate() {
                if items(&rule["verbs"]).is_empty() {
                    causes.push((
                        format!("rules[{index}].verbs"),
                        "Required value: verbs must contain at least one value".into(),
                    ));
                }
            }
            if !object["aggregationRule"].is_null() {
                let why = "Forbidden: this in-memory API server does not aggregate roles: list the rules";
                causes.push(("aggregationRule".into(), why.into()));
            }
        }
        "rolebindings" | "clusterrolebindings" => binding(kind, object, &mut causes),
        _ => {}
    }
    if causes.is_empty() { Ok(()) } else { Err(ApiError::invalid(kind, name, &causes)) }
}

fn bad_name(kind: &Kind, name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("Required value: name or generateName is required");
    }
    if kind.group.starts_with("rbac") {
        let ok = name != "." && name != ".." && !name.contains(['/', '%']);
        return (!ok).then_some("may not be '.' or '..', nor contain '/' or '%'");
    }
    let label = ["namespaces", "services"].contains(&kind.plural);
    let ok = |part: &str| {
        let inner = part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        inner && !part.is_empty() && !part.starts_with('-') && !part.ends_with('-')
    };
    match label {
        true if name.len() > 63 || !ok(name) => Some(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
        ),
        false if name.len() > 253 || !name.split('.').all(ok) => Some(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
        ),
        _ => None,
    }
}

fn pod_spec(spec: &Value, path: &str, causes: &mut Causes) {
    let containers = items(&spec["containers"]);
    if containers.is_empty() {
        causes.push((format!("{path}.containers"), "Required value".into()));
    }
    let mut seen = Vec::new();
    for (index, container) in containers.iter().enumerate() {
        let name = text(&container["name"]);
        if name.is_empty() {
            causes.push((format!("{path}.containers[{index}].name"), "Required value".into()));
        } else if seen.contains(&name) {
            causes.push((format!("{path}.containers[{index}].name"), format!("Duplicate value: {name:?}")));
        }
        seen.push(name);
        if text(&container["image"]).is_empty() {
            causes.push((format!("{path}.containers[{index}].image"), "Required value".into()));
        }
    }
    let policy = text(&spec["restartPolicy"]);
    if !["Always", "OnFailure", "Never"].contains(&policy) {
        let supported = r#"supported values: "Always", "OnFailure", "Never""#;
        causes.push((format!("{path}.restartPolicy"), format!("Unsupported value: {policy:?}: {supported}")));
    }
}

fn workload(spec: &Value, causes: &mut Causes) {
    let selector = &spec["selector"];
    let labels = &spec["template"]["metadata"]["labels"];
    if entries(&selector["matchLabels"]).next().is_none() && items(&selector["matchExpressions"]).is_empty() {
        causes.push(("spec.selector".into(), "Required value".into()));
    } else if !selects(selector, labels) {
        let why = "`selector` does not match template `labels`";
        causes.push(("spec.template.metadata.labels".into(), format!("Invalid value: {labels}: {why}")));
    }
    if spec["replicas"].as_i64().is_some_and(|replicas| replicas < 0) {
        let why = format!("Invalid value: {}: must be greater than or equal to 0", spec["replicas"]);
        causes.push(("spec.replicas".into(), why));
    }
    if spec["replicas"].as_i64().is_some_and(|replicas| replicas > 500) {
        let why = format!(
            "Invalid value: {}: this in-memory API server runs at most 500 pretend pods",
            spec["replicas"]
        );
        causes.push(("spec.replicas".into(), why));
    }
    pod_spec(&spec["template"]["spec"], "spec.template.spec", causes);
}

fn binding(kind: &Kind, object: &Value, causes: &mut Causes) {
    let role = &object["roleRef"];
    let allowed: &[&str] = if kind.namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !allowed.contains(&text(&role["kind"])) {
        causes.push((
            "roleRef.kind".into(),
            format!("Unsupported value: {}: supported values: {allowed:?}", role["kind"]),
        ));
    }
    if text(&role["name"]).is_empty() {
        causes.push(("roleRef.name".into(), "Required value".into()));
    }
    for (index, subject) in items(&object["subjects"]).iter().enumerate() {
        let of = text(&subject["kind"]);
        if !["User", "Group", "ServiceAccount"].contains(&of) {
            let supported = r#"supported values: "ServiceAccount", "User", "Group""#;
            causes
                .push((format!("subjects[{index}].kind"), format!("Unsupported value: {of:?}: {supported}")));
        }
        if text(&subject["name"]).is_empty() {
            causes.push((format!("subjects[{index}].name"), "Required value".into()));
        }
        if of == "ServiceAccount" && text(&subject["namespace"]).is_empty() {
            causes.push((format!("subjects[{index}].namespace"), "Required value".into()));
        }
    }
}

/// Checks that an update changes nothing that must stay.
pub(crate) fn validate_update(kind: &Kind, old: &Value, new: &Value) -> Result<(), ApiError> {
    let mut causes = Causes::new();
    let mut keep = |path: &str, old: &Value, new: &Value| {
        if old != new {
            causes.push((path.into(), format!("Invalid value: {new}: field is immutable")));
        }
    };
    match kind.plural {
        "secrets" => keep("type", &old["type"], &new["type"]),
        "deployments" | "replicasets" => {
            keep("spec.selector", &old["spec"]["selector"], &new["spec"]["selector"])
        }
        "rolebindings" | "clusterrolebindings" => keep("roleRef", &old["roleRef"], &new["roleRef"]),
        "services" => keep("spec.clusterIP", &old["spec"]["clusterIP"], &new["spec"]["clusterIP"]),
        "pods" if without_images(old) != without_images(new) => {
            let why = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
                       `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds`";
            causes.push(("spec".into(), why.into()));
        }
        _ => {}
    }
    if ["secrets", "configmaps"].contains(&kind.plural) && old["immutable"] == true {
        let fields = ["data", "binaryData", "immutable"];
        if let Some(field) = fields.iter().find(|field| old[**field] != new[**field]) {
            causes.push(((*field).into(), "Forbidden: field is immutable when `immutable` is set".into()));
        }
    }
    if causes.is_empty() { Ok(()) } else { Err(ApiError::invalid(kind, meta(new, "name"), &causes)) }
}

fn without_images(pod: &Value) -> Value {
    let mut spec = pod["spec"].clone();
    for list in ["containers", "initContainers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            container["image"] = Value::Null;
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"] {
        spec[field] = Value::Null;
    }
    prune_nulls(&mut spec);
    spec
}
