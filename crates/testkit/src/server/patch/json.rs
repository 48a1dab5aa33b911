//! JSON Patch (RFC 6902) over JSON Pointer (RFC 6901).

use serde::Deserialize;
use serde_json::Value;

use crate::server::status::ApiError;

/// As many operations as the API server takes in one patch.
const MOST_OPERATIONS: usize = 10_000;

#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(crate) enum Operation {
    Add { path: String, value: Value },
    Remove { path: String },
    Replace { path: String, value: Value },
    Move { from: String, path: String },
    Copy { from: String, path: String },
    Test { path: String, value: Value },
}

pub(super) fn parse(body: &[u8]) -> Result<Vec<Operation>, ApiError> {
    let operations: Vec<Operation> = serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("the JSON patch cannot be read: {error}")))?;
    if operations.len() > MOST_OPERATIONS {
        let message = format!(
            "the allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {}",
            operations.len()
        );
        return Err(ApiError::entity_too_large(message));
    }
    Ok(operations)
}

/// Applies all operations, or fails with the first that cannot be.
pub(super) fn apply(operations: &[Operation], document: &mut Value) -> Result<(), ApiError> {
    for operation in operations {
        let applied = match operation {
            Operation::Add { path, value } => add(document, path, value.clone()),
            Operation::Remove { path } => remove(document, path).map(drop),
            Operation::Replace { path, value } => find(document, path).map(|place| *place = value.clone()),
            Operation::Move { from, path }
                if path.strip_prefix(from.as_str()).is_some_and(|rest| rest.starts_with('/')) =>
            {
                Err(format!("cannot move {from:?} into itself"))
            }
            Operation::Move { from, path } => {
                remove(document, from).and_then(|value| add(document, path, value))
            }
            Operation::Copy { from, path } => {
                find(document, from).map(|value| value.clone()).and_then(|value| add(document, path, value))
            }
            Operation::Test { path, value } => match find(document, path) {
                Ok(found) if found == value => Ok(()),
                Ok(_) => Err(format!("testing path {path} failed")),
                Err(error) => Err(error),
            },
        };
        applied.map_err(|why| {
            ApiError::unprocessable(format!(
                "the server rejected our request due to an error in our request: {why}"
            ))
        })?;
    }
    Ok(())
}

fn find<'a>(document: &'a mut Value, path: &str) -> Result<&'a mut Value, String> {
    if path.is_empty() {
        return Ok(document);
    }
    // `-` and leading zeros name no existing element; `pointer_mut` refuses them.
    document.pointer_mut(path).ok_or_else(|| format!("there is nothing at {path:?}"))
}

/// The parent of a path and its last token.
fn parent<'a>(document: &'a mut Value, path: &str) -> Result<(&'a mut Value, String), String> {
    let (parent, token) = path.rsplit_once('/').ok_or_else(|| format!("{path:?} is not a JSON pointer"))?;
    Ok((find(document, parent)?, token.replace("~1", "/").replace("~0", "~")))
}

fn add(document: &mut Value, path: &str, value: Value) -> Result<(), String> {
    if path.is_empty() {
        *document = value;
        return Ok(());
    }
    match parent(document, path)? {
        (Value::Object(map), token) => drop(map.insert(token, value)),
        (Value::Array(list), token) => {
            let at = if token == "-" {
                list.len()
            } else {
                index(&token).ok_or_else(|| format!("{path:?}: no index"))?
            };
            if at > list.len() {
                return Err(format!("{path:?} is beyond the end of the list"));
            }
            list.insert(at, value);
        }
        _ => return Err(format!("the parent of {path:?} is neither an object nor a list")),
    }
    Ok(())
}

fn remove(document: &mut Value, path: &str) -> Result<Value, String> {
    let missing = || format!("there is nothing at {path:?}");
    match parent(document, path)? {
        (Value::Object(map), token) => map.remove(&token).ok_or_else(missing),
        (Value::Array(list), token) => match index(&token) {
            Some(at) if at < list.len() => Ok(list.remove(at)),
            _ => Err(missing()),
        },
        _ => Err(missing()),
    }
}

/// RFC 6901 §4: digits, without leading zeros.
fn index(token: &str) -> Option<usize> {
    let canonical = token == "0" || !token.starts_with(['0', '+']);
    canonical.then(|| token.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(document: &str, patch: &str, expected: Option<&str>) {
        let mut document: Value = serde_json::from_str(document).unwrap();
        let applied = parse(patch.as_bytes()).and_then(|operations| apply(&operations, &mut document));
        match expected {
            Some(expected) => {
                applied.unwrap();
                assert_eq!(document, serde_json::from_str::<Value>(expected).unwrap(), "{patch}");
            }
            None => assert!(applied.is_err(), "{patch} gave {document}"),
        }
    }

    #[test]
    fn the_examples_of_the_rfc() {
        check(
            r#"{"foo":"bar"}"#,
            r#"[{"op":"add","path":"/baz","value":"qux"}]"#,
            Some(r#"{"baz":"qux","foo":"bar"}"#),
        );
        check(
            r#"{"foo":["bar","baz"]}"#,
            r#"[{"op":"add","path":"/foo/1","value":"qux"}]"#,
            Some(r#"{"foo":["bar","qux","baz"]}"#),
        );
        check(
            r#"{"foo":["bar","qux","baz"]}"#,
            r#"[{"op":"remove","path":"/foo/1"}]"#,
            Some(r#"{"foo":["bar","baz"]}"#),
        );
        check(r#"{"a":1}"#, r#"[{"op":"replace","path":"/a","value":2}]"#, Some(r#"{"a":2}"#));
        check(
            r#"{"a":{"b":1},"c":{}}"#,
            r#"[{"op":"move","from":"/a/b","path":"/c/d"}]"#,
            Some(r#"{"a":{},"c":{"d":1}}"#),
        );
        check(r#"{"a":[1]}"#, r#"[{"op":"copy","from":"/a/0","path":"/a/-"}]"#, Some(r#"{"a":[1,1]}"#));
        check(r#"{"a~b/c":1}"#, r#"[{"op":"test","path":"/a~0b~1c","value":1}]"#, Some(r#"{"a~b/c":1}"#));
        check(r#"{"a":1}"#, r#"[{"op":"test","path":"/a","value":2}]"#, None);
        check(r#"{"a":1}"#, r#"[{"op":"replace","path":"/b","value":2}]"#, None);
        check(r#"{"a":1}"#, r#"[{"op":"add","path":"/b/c","value":2}]"#, None);
        check(r#"{"a":[]}"#, r#"[{"op":"add","path":"/a/1","value":2}]"#, None);
        check(r#"{"a":[1,2]}"#, r#"[{"op":"remove","path":"/a/01"}]"#, None);
        check(r#"{"a":{}}"#, r#"[{"op":"move","from":"/a","path":"/a/b"}]"#, None);
        check(r#"{}"#, r#"[{"op":"frobnicate","path":"/a"}]"#, None);
        check(r#"{}"#, r#"{"op":"add"}"#, None);
    }

    proptest! {
        #[test]
        fn no_patch_panics(path in "[/~a01-]{0,8}", from in "[/~a01-]{0,8}") {
            for op in ["add", "remove", "replace", "move", "copy", "test"] {
                let patch = serde_json::json!([{"op": op, "path": path, "from": from, "value": 1}]).to_string();
                let mut document = serde_json::json!({"a": [0, {"a": 1}], "": 1});
                let _ = parse(patch.as_bytes()).and_then(|operations| apply(&operations, &mut document));
            }
        }
    }
}
