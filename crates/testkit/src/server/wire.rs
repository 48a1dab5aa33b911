//! Objects as JSON text, in the order in which the API server writes them: `kind`, `apiVersion` and `metadata` first, the type
//! of a watch event before its object. Readers need not care; those that read as it streams by may.

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value};

/// What comes first, in this order.
const FIRST: [&str; 3] = ["kind", "apiVersion", "metadata"];

struct Ordered<'a>(&'a Value);

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(map) => ordered(map, serializer),
            Value::Array(list) => serializer.collect_seq(list.iter().map(Ordered)),
            plain => plain.serialize(serializer),
        }
    }
}

fn ordered<S: Serializer>(map: &Map<String, Value>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut out = serializer.serialize_map(Some(map.len()))?;
    for key in FIRST {
        if let Some(value) = map.get(key) {
            out.serialize_entry(key, &Ordered(value))?;
        }
    }
    for (key, value) in map.iter().filter(|(key, _)| !FIRST.contains(&key.as_str())) {
        out.serialize_entry(key, &Ordered(value))?;
    }
    out.end()
}

/// An object as JSON.
pub(crate) fn json(value: &Value) -> String {
    // A `Value` has text for keys and finite numbers, so there is nothing in it that JSON cannot say.
    serde_json::to_string(&Ordered(value)).unwrap_or_default()
}

/// A watch event, with its newline.
pub(crate) fn event(event: &str, object: &Value) -> String {
    format!("{{\"type\":\"{event}\",\"object\":{}}}\n", json(object))
}

#[cfg(test)]
mod tests {
    use serde_json::json as value;

    use super::*;

    #[test]
    fn kinds_come_first() {
        let list = value!({"items": [{"data": {"a": 1}, "metadata": {}}], "apiVersion": "v1", "kind": "SecretList", "metadata": {}});
        let text = r#"{"kind":"SecretList","apiVersion":"v1","metadata":{},"items":[{"metadata":{},"data":{"a":1}}]}"#;
        assert_eq!(json(&list), text);
        assert_eq!(
            event("ADDED", &value!({"z": 1, "kind": "x"})),
            "{\"type\":\"ADDED\",\"object\":{\"kind\":\"x\",\"z\":1}}\n"
        );
    }
}
