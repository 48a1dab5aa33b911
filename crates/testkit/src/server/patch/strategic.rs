//! Strategic merge patch: like a merge patch, but lists of named things merge by their published keys.
//! (<https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md>)

use serde_json::{Map, Value};

use crate::server::{kinds::Kind, object::items, status::ApiError};

/// How a list merges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Strategy {
    /// The patch's list replaces the whole.
    Replace,
    /// A set of plain values.
    Set,
    /// By the first key; where several items share it, by all keys the patch's item has.
    Keyed(&'static [&'static str]),
}

/// The published merge keys (`patchMergeKey` in `k8s.io/api`) of the kinds this server serves, by field path; `*` stands for
/// where a pod's spec stands.
const KEYS: &[(&str, Strategy)] = &[
    ("metadata.finalizers", Strategy::Set),
    ("metadata.ownerReferences", Strategy::Keyed(&["uid"])),
    ("*.containers", Strategy::Keyed(&["name"])),
    ("*.initContainers", Strategy::Keyed(&["name"])),
    ("*.ephemeralContainers", Strategy::Keyed(&["name"])),
    ("*.containers.env", Strategy::Keyed(&["name"])),
    ("*.containers.ports", Strategy::Keyed(&["containerPort", "protocol"])),
    ("*.containers.volumeMounts", Strategy::Keyed(&["mountPath"])),
    ("*.containers.volumeDevices", Strategy::Keyed(&["devicePath"])),
    ("*.volumes", Strategy::Keyed(&["name"])),
    ("*.imagePullSecrets", Strategy::Keyed(&["name"])),
    ("*.hostAliases", Strategy::Keyed(&["ip"])),
    ("*.topologySpreadConstraints", Strategy::Keyed(&["topologyKey", "whenUnsatisfiable"])),
    ("*.schedulingGates", Strategy::Keyed(&["name"])),
    ("*.resourceClaims", Strategy::Keyed(&["name"])),
    ("*.evictionResponders", Strategy::Keyed(&["name"])),
    ("services:spec.ports", Strategy::Keyed(&["port", "protocol"])),
    ("serviceaccounts:secrets", Strategy::Keyed(&["name"])),
    ("nodes:spec.podCIDRs", Strategy::Set),
    ("nodes:status.addresses", Strategy::Keyed(&["type"])),
    ("pods:status.podIPs", Strategy::Keyed(&["ip"])),
    ("pods:status.hostIPs", Strategy::Keyed(&["ip"])),
    ("status.conditions", Strategy::Keyed(&["type"])),
];

/// Where a path stands: the kind, and the field names down to here (list items add none).
#[derive(Clone)]
struct Place<'a> {
    kind: &'a Kind,
    path: String,
}

impl Place<'_> {
    fn at(&self, field: &str) -> Self {
        let path = if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) };
        Self { kind: self.kind, path }
    }

    fn strategy(&self) -> Strategy {
        let pod_spec = if self.kind.is("pods") { "spec" } else { "spec.template.spec" };
        let rest = self.path.strip_prefix(pod_spec).filter(|rest| rest.starts_with('.'));
        // Init and ephemeral containers merge inside as containers do.
        let within = rest.map(|rest| {
            rest.replace(".initContainers.", ".containers.").replace(".ephemeralContainers.", ".containers.")
        });
        let template = self.path.strip_prefix("spec.template.").unwrap_or(&self.path);
        let found = KEYS.iter().find(|(pattern, _)| match pattern.split_once(':') {
            Some((plural, path)) => self.kind.is(plural) && path == self.path,
            None => match (pattern.strip_prefix('*'), &within) {
                (Some(pattern), Some(within)) => pattern == within,
                (Some(_), None) => false,
                (None, _) => *pattern == self.path || *pattern == template,
            },
        });
        found.map(|(_, strategy)| *strategy).unwrap_or(Strategy::Replace)
    }
}

pub(super) fn apply(patch: &Value, kind: &Kind, object: &mut Value) -> Result<(), ApiError> {
    let Value::Object(patch) = patch else { return Err(ApiError::bad_request("a patch must be an object")) };
    merge(patch, object, &Place { kind, path: String::new() })
}

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

fn bad(place: &Place<'_>, why: &str) -> ApiError {
    ApiError::bad_request(format!("invalid strategic merge patch at {:?}: {why}", place.path))
}

fn merge(patch: &Map<String, Value>, target: &mut Value, place: &Place<'_>) -> Result<(), ApiError> {
    match patch.get(DIRECTIVE).map(|directive| directive.as_str()) {
        None | Some(Some("merge")) => {}
        Some(Some("delete")) => {
            *target = Value::Null;
            return Ok(());
        }
        Some(Some("replace")) => {
            let mut whole = patch.clone();
            whole.remove(DIRECTIVE);
            *target = Value::Object(whole);
            return Ok(());
        }
        Some(_) => return Err(bad(place, "$patch must be replace, merge or delete")),
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(object) = target else { return Ok(()) };
    if let Some(retained) = patch.get(RETAIN) {
        let retained = retained.as_array().ok_or_else(|| bad(place, "$retainKeys must be a list"))?;
        object.retain(|key, _| retained.iter().any(|name| name == key.as_str()));
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(DELETE_FROM) {
            let gone = value.as_array().ok_or_else(|| bad(place, "a deletion must be a list"))?;
            if let Some(Value::Array(list)) = object.get_mut(field) {
                list.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if key.starts_with('$') {
            match key.starts_with(ORDER) || key == RETAIN || key == DIRECTIVE {
                true => continue,
                false => return Err(bad(place, &format!("unknown directive {key:?}"))),
            }
        }
        let place = place.at(key);
        match value {
            Value::Null => drop(object.remove(key)),
            Value::Object(patch) => {
                let target = object.entry(key).or_insert(Value::Null);
                merge(patch, target, &place)?;
                if target.is_null() {
                    object.remove(key);
                }
            }
            Value::Array(patch) => {
                let target = object.entry(key).or_insert_with(|| Value::Array(Vec::new()));
                merge_list(patch, target, &place)?;
            }
            plain => drop(object.insert(key.clone(), plain.clone())),
        }
    }
    for (key, order) in patch {
        if let Some(field) = key.strip_prefix(ORDER)
            && let Some(Value::Array(list)) = object.get_mut(field)
        {
            reorder(list, items(order), place.at(field).strategy());
        }
    }
    Ok(())
}

fn merge_list(patch: &[Value], target: &mut Value, place: &Place<'_>) -> Result<(), ApiError> {
    let directive = |item: &Value| item.get(DIRECTIVE).and_then(Value::as_str).map(str::to_owned);
    let strategy = place.strategy();
    let replaces = patch.iter().any(|item| directive(item).as_deref() == Some("replace"));
    if !target.is_array() {
        *target = Value::Array(Vec::new());
    }
    let Value::Array(list) = target else { return Ok(()) };
    if strategy == Strategy::Replace || replaces {
        *list = patch.iter().filter(|item| directive(item).is_none()).cloned().collect();
        return Ok(());
    }
    for item in patch {
        let keys = match strategy {
            Strategy::Keyed(keys) => keys,
            _ => {
                if !list.contains(item) {
                    list.push(item.clone());
                }
                continue;
            }
        };
        let Value::Object(fields) = item else { return Err(bad(place, "the list holds objects")) };
        if !fields.contains_key(keys[0]) {
            return Err(bad(place, &format!("does not contain declared merge key: {}", keys[0])));
        }
        let found = position(list, item, keys);
        match directive(item).as_deref() {
            Some("delete") => {
                if let Some(at) = found {
                    list.remove(at);
                }
            }
            _ => match found {
                Some(at) => merge(fields, &mut list[at], place)?,
                None => {
                    let mut new = Value::Null;
                    merge(fields, &mut new, place)?;
                    list.push(new);
                }
            },
        }
    }
    Ok(())
}

/// Which item of the list the patch's item means: the one with the same first key; among several, the one that agrees in
/// the other keys too (two ports of one number, TCP and UDP).
fn position(list: &[Value], item: &Value, keys: &[&str]) -> Option<usize> {
    let same = |candidate: &Value, keys: &[&str]| {
        keys.iter().all(|key| item.get(key).is_none_or(|wanted| candidate.get(key) == Some(wanted)))
    };
    let exact = list.iter().position(|candidate| same(candidate, keys));
    let others = keys.iter().skip(1).any(|key| item.get(key).is_some());
    exact
        .or_else(|| if others { None } else { list.iter().position(|candidate| same(candidate, &keys[..1])) })
}

/// Puts the list in the order the patch wants; what it does not name stays behind what it stood behind, as far as possible.
fn reorder(list: &mut [Value], order: &[Value], strategy: Strategy) {
    let rank = |item: &Value| match strategy {
        Strategy::Keyed(keys) => {
            order.iter().position(|wanted| position(std::slice::from_ref(item), wanted, keys).is_some())
        }
        _ => order.iter().position(|wanted| wanted == item),
    };
    let mut last = 0;
    let mut ranked: Vec<(usize, Value)> = Vec::with_capacity(list.len());
    for item in list.iter() {
        last = rank(item).unwrap_or(last);
        ranked.push((last, item.clone()));
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    for (place, (_, item)) in list.iter_mut().zip(ranked) {
        *place = item;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::server::kinds;

    fn check(group: &str, plural: &str, object: Value, patch: Value, expected: Value) {
        let mut patched = object;
        apply(&patch, kinds::find(group, plural).unwrap(), &mut patched).unwrap();
        assert_eq!(patched, expected, "{patch}");
    }

    fn deployment(containers: Value) -> Value {
        json!({"spec": {"template": {"spec": {"containers": containers}}}})
    }

    #[test]
    fn lists_merge_by_their_published_keys() {
        let two = || json!([{"name": "a", "image": "1", "env": [{"name": "X", "value": "x"}]}, {"name": "b", "image": "1"}]);
        let check = |patch: Value, expected: Value| {
            check("apps", "deployments", deployment(two()), deployment(patch), deployment(expected))
        };
        check(
            json!([{"name": "b", "image": "2"}]),
            json!([{"name": "a", "image": "1", "env": [{"name": "X", "value": "x"}]}, {"name": "b", "image": "2"}]),
        );
        check(json!([{"name": "a", "$patch": "delete"}]), json!([{"name": "b", "image": "1"}]));
        check(
            json!([{"name": "a", "env": [{"name": "Y", "value": "y"}, {"name": "X", "$patch": "delete"}]}]),
            json!([{"name": "a", "image": "1", "env": [{"name": "Y", "value": "y"}]}, {"name": "b", "image": "1"}]),
        );
        check(json!([{"$patch": "replace"}, {"name": "c"}]), json!([{"name": "c"}]));
        check(
            json!([{"name": "a", "command": ["x"]}]),
            json!([{"name": "a", "image": "1", "command": ["x"], "env": [{"name": "X", "value": "x"}]}, {"name": "b", "image": "1"}]),
        );
    }

    #[test]
    fn a_new_order_is_kept() {
        let order = json!({"spec": {"template": {"spec": {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "b"}, {"name": "a"}]}}}});
        let before = deployment(json!([{"name": "a"}, {"name": "behind a"}, {"name": "b"}]));
        check(
            "apps",
            "deployments",
            before,
            order,
            deployment(json!([{"name": "b"}, {"name": "a"}, {"name": "behind a"}])),
        );
    }

    #[test]
    fn ports_of_one_number_are_told_apart_by_protocol() {
        let ports = |list: Value| deployment(json!([{"name": "a", "ports": list}]));
        let both = ports(
            json!([{"containerPort": 53, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}]),
        );
        let patch = ports(json!([{"containerPort": 53, "protocol": "UDP", "name": "dns"}]));
        let expected = ports(
            json!([{"containerPort": 53, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP", "name": "dns"}]),
        );
        check("apps", "deployments", both, patch, expected);
    }

    #[test]
    fn directives_and_atomic_lists() {
        check(
            "",
            "configmaps",
            json!({"data": {"a": "1", "b": "2"}}),
            json!({"data": {"a": null, "$patch": "merge"}}),
            json!({"data": {"b": "2"}}),
        );
        check(
            "",
            "configmaps",
            json!({"data": {"a": "1"}}),
            json!({"data": {"$patch": "replace", "c": "3"}}),
            json!({"data": {"c": "3"}}),
        );
        check(
            "",
            "configmaps",
            json!({"data": {"a": "1"}}),
            json!({"data": {"$retainKeys": ["b"], "b": "2"}}),
            json!({"data": {"b": "2"}}),
        );
        let finalizers = |list: Value| json!({"metadata": {"finalizers": list}});
        check(
            "",
            "pods",
            finalizers(json!(["a", "b"])),
            finalizers(json!(["b", "c"])),
            finalizers(json!(["a", "b", "c"])),
        );
        let gone = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}});
        check("", "pods", finalizers(json!(["a", "b"])), gone, finalizers(json!(["b"])));
        let rbac = "rbac.authorization.k8s.io";
        check(rbac, "roles", json!({"rules": [1, 2]}), json!({"rules": [3]}), json!({"rules": [3]}));
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        let kind = kinds::find("apps", "deployments").unwrap();
        for patch in [
            json!({"spec": {"$patch": "explode"}}),
            json!({"spec": {"$surprise": 1}}),
            deployment(json!([{"image": "no name"}])),
            deployment(json!(["text"])),
        ] {
            assert!(apply(&patch, kind, &mut deployment(json!([]))).is_err(), "{patch}");
        }
    }
}
