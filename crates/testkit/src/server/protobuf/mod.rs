//! Request bodies in Kubernetes' protobuf, read as JSON. kubectl since 1.33 or so sends what it creates that way
//! (`kubectl create clusterrolebinding`, `auth can-i`), so a server for kubectl has to read it. Answers stay JSON, which
//! every such client accepts too.
//!
//! `schema.txt` lists the messages of the kinds served here; `generate.py` makes it from the published Go types. A field that
//! the schema does not know is passed over, as the API server does.

use std::{collections::HashMap, sync::LazyLock};

use bytes::Bytes;
use jiff::Timestamp;
use portcullis_wire::{ProtobufEnvelope, ProtobufReader, ProtobufValue, WireError};
use serde_json::{Map, Value, json};

use super::{status::ApiError, token::base64_standard};

/// Messages nest this deep at most; the published types do not recurse.
const DEEPEST: usize = 32;

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

/// Reads a request body: the object as JSON, with `apiVersion` and `kind`.
pub(crate) fn read(body: &Bytes) -> Result<Value, ApiError> {
    let bad =
        |why: String| ApiError::bad_request(format!("the request body is not Kubernetes protobuf: {why}"));
    let envelope = ProtobufEnvelope::parse(body).map_err(|error| bad(error.to_string()))?;
    if !envelope.content_encoding.is_empty()
        || !["", "application/vnd.kubernetes.protobuf"].contains(&envelope.content_type.as_str())
    {
        return Err(bad("an envelope around something else".into()));
    }
    let group = match envelope.api_version.split_once('/') {
        None => "core",
        Some((group, _)) => group.split('.').next().unwrap_or_default(),
    };
    // DeleteOptions belong to every group version.
    let group = if envelope.kind == "DeleteOptions" { "meta" } else { group };
    let name = format!("{group}.{}", envelope.kind);
    let Some((name, _)) = SCHEMA.get_key_value(name.as_str()) else {
        let message =
            format!("no kind {:?} is registered for version {:?}", envelope.kind, envelope.api_version);
        return Err(ApiError::bad_request(message));
    };
    let mut object = message(name, &envelope.raw, DEEPEST).map_err(bad)?;
    object.insert("apiVersion".into(), json!(envelope.api_version));
    object.insert("kind".into(), json!(envelope.kind));
    Ok(Value::Object(object))
}

fn wire(error: WireError) -> String {
    error.to_string()
}

fn message(name: &str, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, String> {
    if depth == 0 {
        return Err("nested too deeply".into());
    }
    let fields = SCHEMA.get(name).ok_or_else(|| format!("no message {name:?}"))?;
    let mut object = Map::new();
    for entry in ProtobufReader::new(bytes) {
        let entry = entry.map_err(wire)?;
        let Some(field) = fields.iter().find(|field| field.number == entry.number) else { continue };
        let wrong = || format!("{name}.{}: of another wire type", field.name);
        if field.map {
            let ProtobufValue::Bytes(pair) = entry.value else { return Err(wrong()) };
            let (key, value) = pair_of(field.of, pair, depth)?;
            let map = object.entry(field.name).or_insert_with(|| json!({}));
            map[key] = value;
        } else if field.repeated {
            let list = object.entry(field.name).or_insert_with(|| json!([]));
            let values = match (entry.value, field.of) {
                // Numbers may come packed.
                (ProtobufValue::Bytes(packed), "int32" | "int64" | "bool") => unpack(packed, field.of)?,
                (value, of) => vec![single(of, value, depth)?.ok_or_else(wrong)?],
            };
            if let Value::Array(list) = list {
                list.extend(values);
            }
        } else {
            let value = single(field.of, entry.value, depth)?.ok_or_else(wrong)?;
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
fn pair_of(of: &str, bytes: &[u8], depth: usize) -> Result<(String, Value), String> {
    let mut key = String::new();
    let mut value = single(of, ProtobufValue::Bytes(&[]), depth)?.unwrap_or(Value::Null);
    for entry in ProtobufReader::new(bytes) {
        let entry = entry.map_err(wire)?;
        match (entry.number, entry.value) {
            (1, ProtobufValue::Bytes(text)) => key = utf8(text)?,
            (2, given) => value = single(of, given, depth)?.ok_or("a map's value is of another wire type")?,
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
fn single(of: &str, value: ProtobufValue<'_>, depth: usize) -> Result<Option<Value>, String> {
    Ok(match (of, value) {
        (of, ProtobufValue::Varint(number)) => number_of(of, number),
        ("float64", ProtobufValue::Fixed64(bits)) => Some(json!(f64::from_le_bytes(bits))),
        ("string", ProtobufValue::Bytes(bytes)) => Some(json!(utf8(bytes)?)),
        ("[]byte", ProtobufValue::Bytes(bytes)) => Some(json!(base64_standard(bytes))),
        ("Time" | "MicroTime", ProtobufValue::Bytes(bytes)) => Some(time(of, bytes)?),
        ("Quantity", ProtobufValue::Bytes(bytes)) => Some(json!(quantity(bytes)?)),
        ("IntOrString", ProtobufValue::Bytes(bytes)) => Some(int_or_string(bytes)?),
        ("ExtraValue", ProtobufValue::Bytes(bytes)) => Some(Value::Array(texts(bytes)?)),
        ("bool" | "int32" | "int64" | "float64", _) => None,
        (name, ProtobufValue::Bytes(bytes)) => Some(Value::Object(message(name, bytes, depth - 1)?)),
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
    use portcullis_wire::encode_protobuf_field;
    use proptest::prelude::*;

    use super::*;
    use crate::server::kinds::{KINDS, REVIEWS};

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
        assert_eq!(read(&envelope.encode()).unwrap(), expected);
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
        let group =
            |group: &'static str| group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
        let kinds = KINDS
            .iter()
            .map(|kind| (kind.group, kind.kind))
            .chain(REVIEWS.iter().map(|(of, kind, _)| (*of, *kind)));
        for (of, kind) in kinds {
            assert!(SCHEMA.contains_key(format!("{}.{kind}", group(of)).as_str()), "{kind}");
        }
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
            assert!(read(&Bytes::copy_from_slice(body)).is_err(), "{body:?}");
        }
        let wrong = ProtobufEnvelope {
            api_version: "v1".into(),
            kind: "Secret".into(),
            raw: numbers(&[(1, 1)]).into(),
            ..ProtobufEnvelope::default()
        };
        assert!(read(&wrong.encode()).is_err());
    }

    proptest! {
        #[test]
        fn no_body_panics(raw in prop::collection::vec(any::<u8>(), 0..200), kind in prop::sample::select(vec!["Pod", "Service", "Event"])) {
            let envelope = ProtobufEnvelope { api_version: "v1".into(), kind: kind.into(), raw: raw.into(), ..ProtobufEnvelope::default() };
            let _ = read(&envelope.encode());
        }
    }
}
