//! What differs between two objects, field by field, for people to look at.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Fields the server keeps for itself, which nobody approves or denies a request for.
const BOOKKEEPING: [&str; 5] = [
    "/metadata/creationTimestamp",
    "/metadata/generation",
    "/metadata/managedFields",
    "/metadata/resourceVersion",
    "/metadata/uid",
];

/// One field that differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Where: a JSON Pointer (RFC 6901).
    pub path: String,
    /// What was there; `None` if nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub before: Option<Value>,
    /// What would be there; `None` if nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub after: Option<Value>,
}

/// What differs, the server's bookkeeping aside.
pub fn diff(before: Option<&Value>, after: Option<&Value>) -> Vec<Change> {
    let mut changes = Vec::new();
    compare(String::new(), before, after, &mut changes);
    changes
}

fn compare(path: String, before: Option<&Value>, after: Option<&Value>, changes: &mut Vec<Change>) {
    if before == after || BOOKKEEPING.contains(&path.as_str()) {
        return;
    }
    match (before, after) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => fields(&path, old, new, changes),
        // What comes or goes as a whole is read a field at a time, too.
        (None, Some(Value::Object(new))) if !new.is_empty() => fields(&path, &Map::new(), new, changes),
        (Some(Value::Object(old)), None) if !old.is_empty() => fields(&path, old, &Map::new(), changes),
        (Some(Value::Array(old)), Some(Value::Array(new))) => {
            for index in 0..old.len().max(new.len()) {
                compare(format!("{path}/{index}"), old.get(index), new.get(index), changes);
            }
        }
        (before, after) => changes.push(Change { path, before: before.cloned(), after: after.cloned() }),
    }
}

fn fields(path: &str, old: &Map<String, Value>, new: &Map<String, Value>, changes: &mut Vec<Change>) {
    let added = new.keys().filter(|key| !old.contains_key(*key));
    for key in old.keys().chain(added) {
        let step = key.replace('~', "~0").replace('/', "~1");
        compare(format!("{path}/{step}"), old.get(key), new.get(key), changes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn check(before: Value, after: Value, expected: &[&str]) {
        let paths: Vec<String> =
            diff(Some(&before), Some(&after)).into_iter().map(|change| change.path).collect();
        assert_eq!(paths, expected);
    }

    #[test]
    fn changes_are_named_by_their_path() {
        check(
            json!({"a": 1, "b": {"c": [1, 2]}}),
            json!({"a": 1, "b": {"c": [1, 3, 4]}}),
            &["/b/c/1", "/b/c/2"],
        );
        check(json!({"x/y": 1}), json!({"x/y": 2, "new": {}}), &["/x~1y", "/new"]);
        check(
            json!({"metadata": {"resourceVersion": "1"}}),
            json!({"metadata": {"resourceVersion": "2"}}),
            &[],
        );
    }

    #[test]
    fn an_object_that_comes_or_goes_is_told_field_by_field() {
        let object =
            json!({"kind": "Job", "metadata": {"name": "j", "uid": "u"}, "spec": {"hosts": ["a"], "x": {}}});
        let paths = |changes: Vec<Change>| changes.into_iter().map(|change| change.path).collect::<Vec<_>>();
        let expected = ["/kind", "/metadata/name", "/spec/hosts", "/spec/x"];
        assert_eq!(paths(diff(None, Some(&object))), expected);
        assert_eq!(paths(diff(Some(&object), None)), expected);
    }

    proptest! {
        #[test]
        fn the_same_never_differs_and_a_change_always_shows(a in any::<i64>(), b in any::<i64>(), key in "[a-z~/]{1,6}") {
            let (old, new) = (json!({key.clone(): [a]}), json!({key: [b]}));
            prop_assert!(diff(Some(&old), Some(&old)).is_empty());
            prop_assert_eq!(diff(Some(&old), Some(&new)).len(), usize::from(a != b));
        }
    }
}
