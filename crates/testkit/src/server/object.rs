//! Reading objects: metadata, selectors, times.

use jiff::Timestamp;
use serde_json::{Map, Value};

/// A metadata field that is a string; empty if it is not there.
pub(crate) fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// Whether an object is of that type. One that does not say of which is: the path says it.
pub(crate) fn is_of_type(object: &mut Value, api_version: &str, kind: &str) -> bool {
    if !object.is_object() {
        return false;
    }
    for (field, expected) in [("apiVersion", api_version), ("kind", kind)] {
        if text(&object[field]).is_empty() {
            object[field] = Value::from(expected);
        }
    }
    object["apiVersion"] == api_version && object["kind"] == kind
}

/// The object's metadata, made if need be.
pub(crate) fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    child(object, "metadata")
}

/// A field that is a map, made if need be.
pub(crate) fn child<'a>(object: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    if !object[field].is_object() {
        object[field] = Value::Object(Map::new());
    }
    match &mut object[field] {
        Value::Object(map) => map,
        _ => unreachable!("it was just made a map"),
    }
}

/// The items of a list; none if it is not one.
pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The entries of a map; none if it is not one.
pub(crate) fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// A string, or nothing.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A time as Kubernetes writes it: RFC 3339 in UTC, whole seconds.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// When the object was created.
pub(crate) fn created(object: &Value) -> Option<Timestamp> {
    meta(object, "creationTimestamp").parse().ok()
}

/// The controlling owner's uid.
pub(crate) fn controller_of(object: &Value) -> Option<&str> {
    let owner =
        items(&object["metadata"]["ownerReferences"]).iter().find(|owner| owner["controller"] == true)?;
    owner["uid"].as_str()
}

/// Whether labels match a `LabelSelector` (`matchLabels` and `matchExpressions`).
pub(crate) fn selects(selector: &Value, labels: &Value) -> bool {
    let expressions = items(&selector["matchExpressions"]).iter().all(|expression| {
        let value = labels[text(&expression["key"])].as_str();
        let listed = || items(&expression["values"]).iter().any(|item| item.as_str() == value);
        match text(&expression["operator"]) {
            "In" => value.is_some() && listed(),
            "NotIn" => !listed(),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    });
    expressions && entries(&selector["matchLabels"]).all(|(key, value)| labels[key] == *value)
}
