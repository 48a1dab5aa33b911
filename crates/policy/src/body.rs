//! Reading a request's body for rules: as one value that every reader agrees on, or not at all.
//!
//! A JSON object with the same key twice is not read: Go merges the two, other readers take the last, so a rule could
//! be shown something else than what the server does.

use std::fmt;

use bytes::Bytes;
use portcullis_wire::ProtobufObject;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::text::FieldCondition;

/// What a body turned out to be.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// Readable.
    Object {
        /// What it says.
        value: Value,
        /// Whether it is a JSON Patch (RFC 6902): a list of operations, not an object.
        is_json_patch: bool,
    },
    /// In a format that rules cannot read, or cannot read whole; holds its media type.
    Opaque(String),
    /// In a format that rules can read, but wrong; says how, with nothing of its content.
    Malformed(String),
}

impl Parsed {
    /// Reads `bytes`. Without a content type they are JSON, as the API server has it.
    pub(crate) fn read(content_type: Option<&str>, bytes: &Bytes) -> Self {
        let media_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default();
        let media_type = media_type.trim().to_ascii_lowercase();
        let read: Result<Unambiguous, String> = match media_type.as_str() {
            "" | "application/json" => json(bytes),
            media_type if media_type.ends_with("+json") => json(bytes),
            // Server-side apply says YAML, and sends JSON just as well, of which YAML is a superset.
            "application/yaml" | "text/yaml" | "application/x-yaml" => yaml(bytes),
            media_type if media_type.ends_with("+yaml") => yaml(bytes),
            "application/vnd.kubernetes.protobuf" => match ProtobufObject::read(bytes) {
                Ok(object) if object.is_whole => Ok(Unambiguous(object.value)),
                // Not known, not whole, or broken: a rule that asks whether something is *not* there cannot be answered.
                Ok(_) | Err(_) => return Self::Opaque(media_type),
            },
            _ => return Self::Opaque(media_type),
        };
        match read {
            Ok(Unambiguous(value)) => {
                Self::Object { value, is_json_patch: media_type == "application/json-patch+json" }
            }
            Err(problem) => Self::Malformed(problem),
        }
    }
}

fn json(bytes: &[u8]) -> Result<Unambiguous, String> {
    serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => {
            format!("an object has a key twice (line {} column {})", error.line(), error.column())
        }
        _ => format!("not JSON at line {} column {}", error.line(), error.column()),
    })
}

fn yaml(bytes: &[u8]) -> Result<Unambiguous, String> {
    serde_saphyr::from_slice(bytes).map_err(|error| match error.location() {
        Some(at) => format!("not YAML, or a key twice, at line {} column {}", at.line(), at.column()),
        None => "not YAML, or more of it than is read".to_owned(),
    })
}

/// Whether any field of `value`, at any depth, meets any of `conditions`.
pub(crate) fn has_field(value: &Value, is_json_patch: bool, conditions: &[FieldCondition]) -> bool {
    let inside = |value: &Value| has_field(value, false, conditions);
    match value {
        Value::Array(operations) if is_json_patch => {
            operations.iter().any(|operation| patches_field(operation, conditions))
        }
        Value::Array(items) => items.iter().any(inside),
        Value::Object(fields) => fields.iter().any(|(name, value)| {
            conditions.iter().any(|condition| condition.name == *name && condition.is_met_by(value))
                || inside(value)
        }),
        _ => false,
    }
}

/// Whether one operation of a JSON Patch writes such a field: named by its path, or in its value. Of what `copy` and
/// `move` write only the name is known, and the name is enough.
fn patches_field(operation: &Value, conditions: &[FieldCondition]) -> bool {
    let text = |name: &str| operation.get(name).and_then(Value::as_str).unwrap_or_default();
    if ["remove", "test"].contains(&text("op")) {
        return false;
    }
    let value = operation.get("value").unwrap_or(&Value::Null);
    let path: Vec<String> =
        text("path").split('/').map(|part| part.replace("~1", "/").replace("~0", "~")).collect();
    let named = path.iter().enumerate().any(|(index, part)| {
        let is_last = index + 1 == path.len();
        conditions.iter().filter(|condition| condition.name == *part).any(|condition| {
            match (is_last, operation.get("value")) {
                (true, Some(value)) => condition.is_met_by(value),
                (true, None) => true,
                // Something inside the field is written: it is there, whatever its value.
                (false, _) => true,
            }
        })
    });
    named || has_field(value, false, conditions)
}

/// A [`Value`] in which no object had a key twice.
struct Unambiguous(Value);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnambiguousVisitor).map(Self)
    }
}

struct UnambiguousVisitor;

impl<'de> Visitor<'de> for UnambiguousVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Unambiguous(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((key, Unambiguous(value))) = entries.next_entry::<String, _>()? {
            if map.insert(key, value).is_some() {
                return Err(A::Error::custom("a key twice"));
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn check(content_type: &str, body: &str, expected: &str) {
        let parsed = Parsed::read(
            Some(content_type).filter(|text| !text.is_empty()),
            &Bytes::copy_from_slice(body.as_bytes()),
        );
        let found = match parsed {
            Parsed::Object { value, .. } => value.to_string(),
            Parsed::Opaque(media_type) => format!("opaque: {media_type}"),
            Parsed::Malformed(problem) => format!("malformed: {problem}"),
        };
        assert_eq!(found, expected, "{content_type}: {body}");
    }

    #[test]
    fn bodies_are_read_by_their_content_type() {
        check("", r#"{"a":1}"#, r#"{"a":1}"#);
        check(
            "application/json; charset=utf-8",
            r#"{"a":[1,null,"x",1.5,true]}"#,
            r#"{"a":[1,null,"x",1.5,true]}"#,
        );
        check("application/strategic-merge-patch+json", r#"{"a":-1}"#, r#"{"a":-1}"#);
        check("application/apply-patch+yaml", "a:\n- b: yes\n", r#"{"a":[{"b":true}]}"#);
        check("application/apply-patch+yaml", r#"{"a":1}"#, r#"{"a":1}"#);
        check("application/vnd.kubernetes.protobuf", "k8s\0", "opaque: application/vnd.kubernetes.protobuf");
        check("Application/CBOR", "", "opaque: application/cbor");
    }

    #[test]
    fn what_readers_disagree_on_is_not_read() {
        check(
            "",
            r#"{"spec":{"hostNetwork":true},"spec":{}}"#,
            "malformed: an object has a key twice (line 1 column 39)",
        );
        check("", "{", "malformed: not JSON at line 1 column 1");
        check("", "{} {}", "malformed: not JSON at line 1 column 4");
        let parsed = Parsed::read(Some("application/yaml"), &Bytes::from_static(b"a: 1\na: 2\n"));
        assert!(matches!(parsed, Parsed::Malformed(_)), "{parsed:?}");
        let parsed = Parsed::read(Some("application/yaml"), &Bytes::from_static(b"a: 1\n---\nb: 2\n"));
        assert!(matches!(parsed, Parsed::Malformed(_)), "{parsed:?}");
    }

    fn check_fields(value: Value, is_json_patch: bool, condition: &str, expected: bool) {
        let conditions = [FieldCondition::parse(condition).unwrap()];
        assert_eq!(has_field(&value, is_json_patch, &conditions), expected, "{condition} in {value}");
    }

    #[test]
    fn fields_are_found_at_any_depth() {
        let pod = json!({"spec": {"volumes": [{"hostPath": {"path": "/"}}], "hostNetwork": false}});
        check_fields(pod.clone(), false, "hostPath", true);
        check_fields(pod.clone(), false, "hostNetwork=true", false);
        check_fields(pod, false, "secretKeyRef", false);
    }

    #[test]
    fn fields_are_found_in_the_operations_of_a_json_patch() {
        let patch = |operation: Value| json!([operation]);
        let add = patch(json!({"op": "add", "path": "/spec/hostNetwork", "value": true}));
        check_fields(add.clone(), true, "hostNetwork=true", true);
        check_fields(add, true, "hostNetwork=false", false);
        let inside = patch(json!({"op": "replace", "path": "/spec/volumes/0/hostPath/path", "value": "/"}));
        check_fields(inside, true, "hostPath", true);
        let value = patch(json!({"op": "add", "path": "/spec/volumes/-", "value": {"hostPath": {}}}));
        check_fields(value, true, "hostPath", true);
        let copied = patch(json!({"op": "copy", "from": "/metadata/x", "path": "/spec/hostNetwork"}));
        check_fields(copied, true, "hostNetwork=true", true);
        let removed = patch(json!({"op": "remove", "path": "/spec/hostNetwork"}));
        check_fields(removed, true, "hostNetwork", false);
        let escaped = patch(json!({"op": "add", "path": "/metadata/annotations/a~1b", "value": "x"}));
        check_fields(escaped, true, "a/b", true);
    }

    proptest! {
        #[test]
        fn a_body_without_doubled_keys_is_read_as_it_is(keys in prop::collection::btree_set("[a-z]{1,4}", 0..6), depth in 0usize..4) {
            let mut value = json!(keys.iter().map(|key| (key.clone(), json!(key))).collect::<Map<_, _>>());
            for _ in 0..depth {
                value = json!({ "list": [value] });
            }
            let Parsed::Object { value: read, .. } = Parsed::read(None, &Bytes::from(value.to_string())) else {
                return Err(TestCaseError::fail("not read"));
            };
            prop_assert_eq!(read, value);
        }

        #[test]
        fn nothing_makes_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), yaml in ".{0,80}") {
            let _ = Parsed::read(None, &Bytes::from(bytes.clone()));
            let _ = Parsed::read(Some("application/yaml"), &Bytes::copy_from_slice(yaml.as_bytes()));
        }
    }
}
