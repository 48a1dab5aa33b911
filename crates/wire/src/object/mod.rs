//! Objects in Kubernetes' protobuf, read as JSON, and written anew where their JSON has been changed.
//!
//! kubectl since 1.33 or so sends what it creates that way (`kubectl create clusterrolebinding`, `auth can-i`), and so do
//! controllers; whoever judges, redacts or records what clients write has to read it. Some clients accept nothing else.
//! `schema.txt` lists the messages of the built-in kinds of all groups and versions; `generate.py` makes it from the published
//! Go types.

mod rewrite;

use std::{collections::HashMap, sync::LazyLock};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

pub use rewrite::{RewriteError, rewrite_protobuf_object};

use crate::{ProtobufEnvelope, ProtobufReader, ProtobufValue, WireError};

/// Messages nest this deep at most: only the schemas of custom resources recurse, two levels for each of theirs.
const DEEPEST: usize = 128;

/// Who owns which fields is the server's own bookkeeping; it says nothing about the object.
const MANAGED_FIELDS: (&str, u32) = ("meta.ObjectMeta", 17);

static SCHEMA: LazyLock<HashMap<&'static str, Vec<Field>>> = LazyLock::new(|| {
    let messages = include_str!("schema.txt").lines().filter(|line| !line.starts_with('#'));
    let messages = messages.filter_map(|line| line.split_once(':'));
    messages.map(|(name, fields)| (name, fields.split(';').filter_map(Field::parse).collect())).collect()
});

#[derive(Debug)]
struct Field {
    number: u32,
    /// Its name in JSON; `-`: the fields of this message stand in the parent.
    name: &'static str,
    repeated: bool,
    map: bool,
    /// Absence differs from zero.
    pointer: bool,
    of: &'static str,
}

impl Field {
    fn parse(text: &'static str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let (number, name, of) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
        let (of, pointer) = of.strip_suffix('*').map_or((of, false), |of| (of, true));
        let (of, map) = of.strip_prefix("map:").map_or((of, false), |of| (of, true));
        // `[]byte` is one value.
        let list = of.strip_prefix("[]").filter(|_| of != "[]byte");
        let (of, repeated) = list.map_or((of, false), |of| (of, true));
        Some(Self { number, name, repeated, map, pointer, of })
    }
}

/// An object that was read from protobuf.
#[derive(Clone, Debug, PartialEq)]
pub struct ProtobufObject {
    /// The object, with `apiVersion` and `kind`, as its JSON would be.
    pub value: Value,
    /// Whether all of it was read. A newer API may have fields that are not known here; the server passes over what *it* does
    /// not know, which may be less. Who decides by what an object does not say must not rely on one that is not whole.
    pub is_whole: bool,
}

/// Why a body is no object that can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtobufObjectError {
    /// It is not Kubernetes' protobuf, or broken. Says nothing of its content.
    #[error("it is not Kubernetes protobuf: {0}")]
    Malformed(String),
    /// It is of a kind whose layout is not known here.
    #[error("no kind {kind:?} is known for version {api_version:?}")]
    UnknownKind {
        /// The version it says it is of.
        api_version: String,
        /// The kind it says it is.
        kind: String,
    },
}

impl ProtobufObject {
    /// Reads a whole body: the envelope, and the object in it. Memory is bounded by a small multiple of the body's length.
    ///
    /// # Errors
    ///
    /// [`ProtobufObjectError`]
    pub fn read(body: &Bytes) -> Result<Self, ProtobufObjectError> {
        let envelope = Self::envelope(body)?;
        let (api_version, kind) = (envelope.api_version, envelope.kind);
        let Some(name) = message_name(&api_version, &kind) else {
            return Err(ProtobufObjectError::UnknownKind { api_version, kind });
        };
        let mut is_whole = true;
        let mut object =
            message(name, &envelope.raw, DEEPEST, &mut is_whole).map_err(ProtobufObjectError::Malformed)?;
        object.insert("apiVersion".into(), json!(api_version));
        object.insert("kind".into(), json!(kind));
        Ok(Self { value: Value::Object(object), is_whole })
    }

    /// The envelope of an object in protobuf.
    fn envelope(body: &Bytes) -> Result<ProtobufEnvelope, ProtobufObjectError> {
        let envelope = ProtobufEnvelope::parse(body)
            .map_err(|error| ProtobufObjectError::Malformed(error.to_string()))?;
        if !envelope.content_encoding.is_empty()
            || !["", "application/vnd.kubernetes.protobuf"].contains(&envelope.content_type.as_str())
        {
            return Err(ProtobufObjectError::Malformed("an envelope around something else".into()));
        }
        Ok(envelope)
    }
}

/// The schema's name of a kind. Version `v1` of a group goes without saying; some kinds belong to every group version.
fn message_name(api_version: &str, kind: &str) -> Option<&'static str> {
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    let group = group.split('.').next().unwrap_or_default();
    let own = if version == "v1" { format!("{group}.{kind}") } else { format!("{group}.{version}.{kind}") };
    let name =
        SCHEMA.get_key_value(own.as_str()).or_else(|| SCHEMA.get_key_value(format!("meta.{kind}").as_str()));
    // Parts of objects are in the schema, too, but no body is one.
    name.map(|(name, _)| *name).filter(|name| *name != "meta.ObjectMeta")
}

fn wire(error: WireError) -> String {
    error.to_string()
}

fn message(name: &str, bytes: &[u8], depth: usize, whole: &mut bool) -> Result<Map<String, Value>, String> {
    if depth == 0 {
        return Err("nested too deeply".into());
    }
    let fields = SCHEMA.get(name).ok_or_else(|| format!("no message {name:?}"))?;
    let mut object = Map::new();
    let mut single_fields: Vec<u32> = Vec::new();
    for entry in ProtobufReader::new(bytes) {
        let entry = entry.map_err(wire)?;
        let Some(field) = fields.iter().find(|field| field.number == entry.number) else {
            *whole &= (name, entry.number) == MANAGED_FIELDS;
            continue;
        };
        if !(field.repeated || field.map) {
            // Of a value that comes twice decoders take the last, of a message they join both.
            *whole &= !single_fields.contains(&entry.number);
            single_fields.push(entry.number);
        }
        if field.of == "unread" {
            *whole = false;
            continue;
        }
        if ["RawExtension", "JSON"].contains(&field.of) {
            // In protobuf it would be of a kind that only it says.
            *whole &= !matches!(entry.value, ProtobufValue::Bytes(bytes) if embedded(bytes).is_none());
        }
        let wrong = || format!("{name}.{}: of another wire type", field.name);
        if field.map {
            let ProtobufValue::Bytes(pair) = entry.value else { return Err(wrong()) };
            let (key, value) = pair_of(field.of, pair, depth, whole)?;
            let map = object.entry(field.name).or_insert_with(|| json!({}));
            map[key] = value;
        } else if field.repeated {
            let list = object.entry(field.name).or_insert_with(|| json!([]));
            let values = match (entry.value, field.of) {
                // Numbers may come packed.
                (ProtobufValue::Bytes(packed), "int32" | "int64" | "bool") => unpack(packed, field.of)?,
                (value, of) => vec![single(of, value, depth, whole)?.ok_or_else(wrong)?],
            };
            if let Value::Array(list) = list {
                list.extend(values);
            }
        } else {
            let value = single(field.of, entry.value, depth, whole)?.ok_or_else(wrong)?;
            match value {
                Value::Object(inner) if field.name == "-" => object.extend(inner),
                Value::Null => {}
                value if !field.pointer && is_zero(&value) => drop(object.remove(field.name)),
                value => drop(object.insert(field.name.into(), value)),
            }
        }
    }
    Ok(object)
}

/// What Go writes even where nothing was set.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// A map's entry: key 1, value 2, both of which may be left out.
fn pair_of(of: &str, bytes: &[u8], depth: usize, whole: &mut bool) -> Result<(String, Value), String> {
    let mut key = String::new();
    let mut value = single(of, ProtobufValue::Bytes(&[]), depth, whole)?.unwrap_or(Value::Null);
    for entry in ProtobufReader::new(bytes) {
        let entry = entry.map_err(wire)?;
        match (entry.number, entry.value) {
            (1, ProtobufValue::Bytes(text)) => key = utf8(text)?,
            (2, given) => {
                value = single(of, given, depth, whole)?.ok_or("a map's value is of another wire type")?
            }
            _ => {}
        }
    }
    Ok((key, value))
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "text that is not UTF-8".into())
}

fn unpack(packed: &[u8], of: &str) -> Result<Vec<Value>, String> {
    let mut values = Vec::new();
    let mut rest = packed;
    while !rest.is_empty() {
        let end = rest
            .iter()
            .position(|byte| byte & 0x80 == 0)
            .filter(|end| *end < 10)
            .ok_or("a number that does not end")?;
        let number =
            rest[..=end].iter().rev().fold(0u64, |number, byte| number << 7 | u64::from(byte & 0x7f));
        values.extend(number_of(of, number));
        rest = &rest[end + 1..];
    }
    Ok(values)
}

fn number_of(of: &str, number: u64) -> Option<Value> {
    match of {
        "bool" => Some(json!(number != 0)),
        // Negative numbers come sign-extended to 64 bits.
        "int32" => Some(json!(number as i64 as i32)),
        "int64" => Some(json!(number as i64)),
        _ => None,
    }
}

/// One value; `None` if it is of another wire type than the schema says, null for a time that is not set.
fn single(
    of: &str,
    value: ProtobufValue<'_>,
    depth: usize,
    whole: &mut bool,
) -> Result<Option<Value>, String> {
    Ok(match (of, value) {
        (of, ProtobufValue::Varint(number)) => number_of(of, number),
        ("float64", ProtobufValue::Fixed64(bits)) => Some(json!(f64::from_le_bytes(bits))),
        ("string", ProtobufValue::Bytes(bytes)) => Some(json!(utf8(bytes)?)),
        ("[]byte", ProtobufValue::Bytes(bytes)) => Some(json!(STANDARD.encode(bytes))),
        ("Time" | "MicroTime", ProtobufValue::Bytes(bytes)) => Some(time(of, bytes)?),
        ("Quantity", ProtobufValue::Bytes(bytes)) => Some(json!(quantity(bytes)?)),
        ("IntOrString", ProtobufValue::Bytes(bytes)) => Some(int_or_string(bytes)?),
        ("ExtraValue", ProtobufValue::Bytes(bytes)) => Some(Value::Array(texts(bytes)?)),
        ("Duration", ProtobufValue::Bytes(bytes)) => Some(json!(duration(bytes)?)),
        ("RawExtension" | "JSON", ProtobufValue::Bytes(bytes)) => {
            Some(embedded(bytes).unwrap_or(Value::Null))
        }
        ("bool" | "int32" | "int64" | "float64", _) => None,
        (name, ProtobufValue::Bytes(bytes)) => Some(Value::Object(message(name, bytes, depth - 1, whole)?)),
        _ => None,
    })
}

/// The numbers and texts of a small message, by field number.
type Parts = (HashMap<u32, i64>, HashMap<u32, String>);

fn parts(bytes: &[u8]) -> Result<Parts, String> {
    let (mut numbers, mut texts) = (HashMap::new(), HashMap::new());
    for entry in ProtobufReader::new(bytes) {
        let entry = entry.map_err(wire)?;
        match entry.value {
            ProtobufValue::Varint(number) => drop(numbers.insert(entry.number, number as i64)),
            ProtobufValue::Bytes(text) => drop(texts.insert(entry.number, utf8(text)?)),
            _ => {}
        }
    }
    Ok((numbers, texts))
}

fn time(of: &str, bytes: &[u8]) -> Result<Value, String> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (numbers, _) = parts(bytes)?;
    let number = |field: u32| numbers.get(&field).copied().unwrap_or(0);
    let nanos = i32::try_from(number(2)).map_err(|_| "nanoseconds beyond a second")?;
    let time = Timestamp::new(number(1), nanos).map_err(|error| error.to_string())?;
    let format = if of == "Time" { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S.%6fZ" };
    Ok(json!(time.strftime(format).to_string()))
}

fn quantity(bytes: &[u8]) -> Result<String, String> {
    let (_, mut texts) = parts(bytes)?;
    Ok(texts.remove(&1).filter(|text| !text.is_empty()).unwrap_or_else(|| "0".into()))
}

/// As Go writes it, in seconds.
fn duration(bytes: &[u8]) -> Result<String, String> {
    let (numbers, _) = parts(bytes)?;
    let nanos = numbers.get(&1).copied().unwrap_or(0);
    Ok(format!("{}s", nanos as f64 / 1e9))
}

/// The JSON that a message around an object of any kind holds.
fn embedded(bytes: &[u8]) -> Option<Value> {
    let mut raw: &[u8] = b"null";
    for entry in ProtobufReader::new(bytes) {
        match entry.ok()? {
            crate::ProtobufField { number: 1, value: ProtobufValue::Bytes(found), .. }
                if !found.is_empty() =>
            {
                raw = found
            }
            _ => {}
        }
    }
    serde_json::from_slice(raw).ok()
}

fn int_or_string(bytes: &[u8]) -> Result<Value, String> {
    let (numbers, mut texts) = parts(bytes)?;
    Ok(match numbers.get(&1) {
        Some(1) => json!(texts.remove(&3).unwrap_or_default()),
        _ => json!(numbers.get(&2).copied().unwrap_or(0) as i32),
    })
}

fn texts(bytes: &[u8]) -> Result<Vec<Value>, String> {
    ProtobufReader::new(bytes)
        .filter_map(|entry| match entry {
            Ok(entry) if entry.number == 1 => match entry.value {
                ProtobufValue::Bytes(text) => Some(utf8(text).map(Value::String)),
                _ => Some(Err("text of another wire type".into())),
            },
            Ok(_) => None,
            Err(error) => Some(Err(wire(error))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::encode_protobuf_field;

    /// A message of length-delimited fields.
    fn fields(list: &[(u32, &[u8])]) -> Vec<u8> {
        let mut out = BytesMut::new();
        for (number, bytes) in list {
            encode_protobuf_field(*number, ProtobufValue::Bytes(bytes), &mut out);
        }
        out.to_vec()
    }

    fn numbers(list: &[(u32, u64)]) -> Vec<u8> {
        let mut out = BytesMut::new();
        for (number, value) in list {
            encode_protobuf_field(*number, ProtobufValue::Varint(*value), &mut out);
        }
        out.to_vec()
    }

    fn check(api_version: &str, kind: &str, raw: Vec<u8>, expected: Value) {
        let envelope = ProtobufEnvelope {
            api_version: api_version.into(),
            kind: kind.into(),
            raw: raw.into(),
            ..ProtobufEnvelope::default()
        };
        let mut expected = expected;
        expected["apiVersion"] = json!(api_version);
        expected["kind"] = json!(kind);
        assert_eq!(
            ProtobufObject::read(&envelope.encode()),
            Ok(ProtobufObject { value: expected, is_whole: true })
        );
    }

    #[test]
    fn the_schema_is_whole() {
        let known = |of: &str| SCHEMA.contains_key(of) || !of.contains('.');
        for (name, fields) in SCHEMA.iter() {
            assert!(fields.iter().all(|field| known(field.of)), "{name}");
        }
        let listed = include_str!("schema.txt").lines().filter(|line| !line.starts_with('#'));
        let listed = listed
            .flat_map(|line| line.split(&[':', ';'][..]).skip(1))
            .filter(|field| field.contains(char::is_alphabetic));
        assert_eq!(
            SCHEMA.values().map(Vec::len).sum::<usize>(),
            listed.filter(|field| field.trim().contains(' ')).count()
        );
        assert!(message_name("v1", "Pod").is_some() && message_name("apps/v1", "Deployment").is_some());
        for (version, kind) in [
            ("v1", "Status"),
            ("v1", "List"),
            ("v1", "SecretList"),
            ("autoscaling/v2", "HorizontalPodAutoscalerList"),
            ("flowcontrol.apiserver.k8s.io/v1", "FlowSchema"),
            ("internal.apiserver.k8s.io/v1alpha1", "StorageVersion"),
            ("meta.k8s.io/v1", "PartialObjectMetadataList"),
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
            ("apiregistration.k8s.io/v1", "APIService"),
        ] {
            assert!(message_name(version, kind).is_some(), "{version} {kind}");
        }
        assert!(!include_str!("schema.txt").contains("unread"), "a type that nobody knows");
        assert!(message_name("apps/v9", "Deployment").is_none() && message_name("v1", "Nobody").is_none());
    }

    #[test]
    fn objects_read_as_their_json() {
        let metadata = fields(&[(1, b"db"), (2, b""), (8, b""), (11, &fields(&[(1, b"app"), (2, b"web")]))]);
        let secret = fields(&[
            (1, &metadata),
            (2, &fields(&[(1, b"password"), (2, b"hunter2")])),
            (2, &fields(&[(1, b"empty")])),
            (3, b"Opaque"),
        ]);
        check(
            "v1",
            "Secret",
            secret,
            json!({
            "metadata": {"name": "db", "labels": {"app": "web"}}, "type": "Opaque",
            "data": {"password": "aHVudGVyMg==", "empty": ""}}),
        );

        // An explicit zero behind a pointer stays, one that Go merely writes goes; a negative number is one.
        let spec = [numbers(&[(1, 0), (5, 0)]), numbers(&[(6, -1i64 as u64)]), fields(&[(4, b"")])].concat();
        check(
            "apps/v1",
            "Deployment",
            fields(&[(1, b""), (2, &spec)]),
            json!({"spec": {"replicas": 0, "revisionHistoryLimit": -1}}),
        );

        // Inlined structs, quantities, int-or-string, times.
        let volume = fields(&[(1, b"v"), (2, &fields(&[(2, b"")]))]);
        let limits = fields(&[(1, b"cpu"), (2, &fields(&[(1, b"1")]))]);
        let reference = fields(&[(1, &fields(&[(1, b"db")])), (2, b"url")]);
        let env = fields(&[(1, b"URL"), (3, &fields(&[(4, &reference)]))]);
        let container = fields(&[(1, b"a"), (7, &env), (8, &fields(&[(1, &limits)]))]);
        let started = numbers(&[(1, 1_767_225_600), (2, 0)]);
        let pod = fields(&[(2, &fields(&[(1, &volume), (2, &container)])), (3, &fields(&[(7, &started)]))]);
        check(
            "v1",
            "Pod",
            pod,
            json!({"spec": {
            "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{"name": "a", "resources": {"limits": {"cpu": "1"}},
                            "env": [{"name": "URL", "valueFrom": {"secretKeyRef": {"name": "db", "key": "url"}}}]}]},
            "status": {"startTime": "2026-01-01T00:00:00Z"}}),
        );
        let port =
            [numbers(&[(3, 80)]), fields(&[(4, &[numbers(&[(1, 1)]), fields(&[(3, b"http")])].concat())])]
                .concat();
        check(
            "v1",
            "Service",
            fields(&[(2, &fields(&[(1, &port)]))]),
            json!({"spec": {"ports": [{"port": 80, "targetPort": "http"}]}}),
        );
    }

    #[test]
    fn what_is_not_an_object_is_refused() {
        for body in [&b""[..], b"{}", b"k8s\0\xff", b"k8s\0\x0a\x0c\x0a\x02v1\x12\x06Nobody"] {
            assert!(ProtobufObject::read(&Bytes::copy_from_slice(body)).is_err(), "{body:?}");
        }
        let wrong = ProtobufEnvelope {
            api_version: "v1".into(),
            kind: "Secret".into(),
            raw: numbers(&[(1, 1)]).into(),
            ..ProtobufEnvelope::default()
        };
        assert!(ProtobufObject::read(&wrong.encode()).is_err());
    }

    #[test]
    fn what_is_not_known_is_said_to_be_missing() {
        let of = |raw: Vec<u8>| {
            let envelope = ProtobufEnvelope {
                api_version: "v1".into(),
                kind: "Pod".into(),
                raw: raw.into(),
                ..ProtobufEnvelope::default()
            };
            ProtobufObject::read(&envelope.encode()).unwrap().is_whole
        };
        assert!(of(fields(&[(2, &fields(&[(10, b"node")]))])));
        assert!(!of(fields(&[(2, &fields(&[(999, b"new")]))])));
        assert!(of(fields(&[(1, &fields(&[(17, b"managed")]))])));
    }

    proptest! {
        #[test]
        fn no_body_panics(raw in prop::collection::vec(any::<u8>(), 0..200), kind in prop::sample::select(vec!["Pod", "Service", "Event"])) {
            let envelope = ProtobufEnvelope { api_version: "v1".into(), kind: kind.into(), raw: raw.into(), ..ProtobufEnvelope::default() };
            let _ = ProtobufObject::read(&envelope.encode());
        }
    }
}
