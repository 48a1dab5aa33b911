//! Objects in protobuf whose JSON somebody changes: written anew with the changes, and as they came everywhere else.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use serde_json::{Map, Value, json};

use super::{
    DEEPEST, Field, MANAGED_FIELDS, ProtobufObject, ProtobufObjectError, SCHEMA, message, message_name,
    single,
};
use crate::{ProtobufEnvelope, ProtobufField, ProtobufReader, ProtobufValue, encode_protobuf_field};

/// Why an object cannot be written anew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RewriteError<E> {
    /// It cannot be read.
    #[error(transparent)]
    Object(#[from] ProtobufObjectError),
    /// Some of it cannot be read: a field that a later version has, or an object of any kind that is not JSON.
    #[error("it has fields that are not known")]
    NotWhole,
    /// Whoever judges what it holds failed.
    #[error("{0}")]
    Judge(E),
}

/// Shows an object to `judge`, as JSON with its `apiVersion` and `kind`, and writes it anew with what `judge` puts in its place;
/// `None` leaves it as it is.
///
/// Of a list each item is shown by itself, as a list of one, so that memory grows with the longest item and not with the list.
/// What is changed must stay of its type: a value that its field cannot hold (a null, a text for a number) leaves the field
/// out, as if it had never been set. Fields that did not change are copied, byte for byte.
///
/// # Errors
///
/// [`RewriteError`]: nothing of the object may then be passed on.
pub fn rewrite_protobuf_object<E>(
    body: &Bytes,
    judge: &mut dyn FnMut(&Value) -> Result<Option<Value>, E>,
) -> Result<Bytes, RewriteError<E>> {
    let envelope = ProtobufObject::envelope(body)?;
    let (api_version, kind) = (envelope.api_version.as_str(), envelope.kind.as_str());
    let Some(name) = message_name(api_version, kind) else {
        return Err(
            ProtobufObjectError::UnknownKind { api_version: api_version.into(), kind: kind.into() }.into()
        );
    };
    let mut show = |mut object: Map<String, Value>| {
        object.insert("apiVersion".into(), json!(api_version));
        object.insert("kind".into(), json!(kind));
        judge(&Value::Object(object)).map_err(RewriteError::Judge)
    };
    let read = |name: &str, bytes: &[u8]| {
        let mut whole = true;
        let object = message(name, bytes, DEEPEST, &mut whole).map_err(ProtobufObjectError::Malformed)?;
        if whole { Ok(object) } else { Err(RewriteError::NotWhole) }
    };
    let mut out = BytesMut::with_capacity(envelope.raw.len());
    match items(name) {
        None => {
            let object = read(name, &envelope.raw)?;
            match show(object)? {
                None => return Ok(body.clone()),
                Some(changed) => {
                    write_message(name, &envelope.raw, fields_of(&changed), &mut out)
                        .map_err(ProtobufObjectError::Malformed)?;
                }
            }
        }
        Some(items) => {
            for entry in ProtobufReader::new(&envelope.raw) {
                let entry = entry.map_err(|error| ProtobufObjectError::Malformed(error.to_string()))?;
                let ProtobufField { number, value: ProtobufValue::Bytes(bytes), original } = entry else {
                    return Err(ProtobufObjectError::Malformed("a list of something else".into()).into());
                };
                if number != items.number {
                    // The list's own metadata is shown as it is with the first item; nothing else is known of lists.
                    out.extend_from_slice(original);
                    continue;
                }
                let mut whole = true;
                let item = single(items.of, ProtobufValue::Bytes(bytes), DEEPEST, &mut whole)
                    .map_err(ProtobufObjectError::Malformed)?;
                if !whole {
                    return Err(RewriteError::NotWhole);
                }
                let list = Map::from_iter([(items.name.to_owned(), json!([item]))]);
                match show(list)? {
                    None => out.extend_from_slice(original),
                    Some(changed) => write_value(items, entry, &changed[items.name][0], &mut out)
                        .map_err(ProtobufObjectError::Malformed)?,
                }
            }
        }
    }
    Ok(ProtobufEnvelope { raw: out.freeze(), ..envelope }.encode())
}

/// The field that holds a list's items, if the kind is a list.
fn items(name: &str) -> Option<&'static Field> {
    let fields = SCHEMA.get(name)?;
    fields.iter().find(|field| field.name == "items" && field.repeated).filter(|_| name.ends_with("List"))
}

fn fields_of(value: &Value) -> &Map<String, Value> {
    static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    value.as_object().unwrap_or(&NONE)
}

/// Writes a message with the values of `changed`. What is not in `changed` was not set, or is not shown in JSON.
fn write_message(
    name: &str,
    bytes: &[u8],
    changed: &Map<String, Value>,
    out: &mut BytesMut,
) -> Result<(), String> {
    let fields = SCHEMA.get(name).ok_or("no such message")?;
    let mut counts: Vec<(u32, usize)> = Vec::new();
    for entry in ProtobufReader::new(bytes) {
        let entry = entry.map_err(|error| error.to_string())?;
        let Some(field) = fields.iter().find(|field| field.number == entry.number) else {
            if (name, entry.number) == MANAGED_FIELDS {
                out.extend_from_slice(entry.original);
            }
            continue;
        };
        if field.name == "-" {
            if let ProtobufValue::Bytes(inner) = entry.value {
                write_inner(field, inner, changed, out)?;
            }
            continue;
        }
        let Some(value) = changed.get(field.name) else {
            // Nothing was set: what Go writes all the same.
            out.extend_from_slice(entry.original);
            continue;
        };
        match value {
            Value::Object(map) if field.map => write_pair(field, entry, map, out)?,
            Value::Array(list) if field.repeated => {
                let at = match counts.iter_mut().find(|(number, _)| *number == entry.number) {
                    Some((_, at)) => at,
                    None => {
                        counts.push((entry.number, 0));
                        &mut counts.last_mut().ok_or("no count")?.1
                    }
                };
                match (entry.value, field.of) {
                    // Packed numbers: all or none.
                    (ProtobufValue::Bytes(packed), "int32" | "int64" | "bool") => {
                        let numbers = super::unpack(packed, field.of)?;
                        if list.get(*at..*at + numbers.len()) == Some(&numbers) {
                            out.extend_from_slice(entry.original);
                        }
                        *at += numbers.len();
                    }
                    _ => {
                        write_value(field, entry, list.get(*at).unwrap_or(&Value::Null), out)?;
                        *at += 1;
                    }
                }
            }
            _ if field.map || field.repeated => {}
            value => write_value(field, entry, value, out)?,
        }
    }
    Ok(())
}

fn write_inner(
    field: &Field,
    inner: &[u8],
    changed: &Map<String, Value>,
    out: &mut BytesMut,
) -> Result<(), String> {
    let mut message = BytesMut::with_capacity(inner.len());
    write_message(field.of, inner, changed, &mut message)?;
    encode_protobuf_field(field.number, ProtobufValue::Bytes(&message), out);
    Ok(())
}

/// Writes a map's entry, unless its value is gone.
fn write_pair(
    field: &Field,
    entry: ProtobufField<'_>,
    map: &Map<String, Value>,
    out: &mut BytesMut,
) -> Result<(), String> {
    let ProtobufValue::Bytes(pair) = entry.value else { return Ok(()) };
    let (key, original) = super::pair_of(field.of, pair, DEEPEST, &mut true)?;
    let value = map.get(&key).unwrap_or(&Value::Null);
    if *value == original {
        out.extend_from_slice(entry.original);
        return Ok(());
    }
    if value.is_null() {
        return Ok(());
    }
    let mut changed = BytesMut::with_capacity(pair.len());
    let single =
        Field { number: 2, name: field.name, repeated: false, map: false, pointer: false, of: field.of };
    for part in ProtobufReader::new(pair) {
        let part = part.map_err(|error| error.to_string())?;
        match part.number {
            2 => write_value(&single, part, value, &mut changed)?,
            _ => changed.extend_from_slice(part.original),
        }
    }
    encode_protobuf_field(field.number, ProtobufValue::Bytes(&changed), out);
    Ok(())
}

/// Writes one value: as it came if it is the same, changed if its field can hold that, or else not at all.
fn write_value(
    field: &Field,
    entry: ProtobufField<'_>,
    value: &Value,
    out: &mut BytesMut,
) -> Result<(), String> {
    let put = |bytes: &[u8], out: &mut BytesMut| {
        encode_protobuf_field(field.number, ProtobufValue::Bytes(bytes), out);
    };
    if let (ProtobufValue::Bytes(bytes), Value::Object(changed), true) =
        (entry.value, value, SCHEMA.contains_key(field.of))
    {
        let mut message = BytesMut::with_capacity(bytes.len());
        write_message(field.of, bytes, changed, &mut message)?;
        put(&message, out);
        return Ok(());
    }
    if single(field.of, entry.value, DEEPEST, &mut true)?.as_ref() == Some(value) {
        out.extend_from_slice(entry.original);
        return Ok(());
    }
    match (field.of, value) {
        ("string", Value::String(text)) => put(text.as_bytes(), out),
        ("[]byte", Value::String(text)) => {
            if let Ok(bytes) = STANDARD.decode(text) {
                put(&bytes, out);
            }
        }
        ("bool" | "int32" | "int64", Value::Bool(_) | Value::Number(_)) => {
            let number = value.as_i64().unwrap_or_default() | i64::from(value == &Value::Bool(true));
            encode_protobuf_field(field.number, ProtobufValue::Varint(number as u64), out);
        }
        ("float64", Value::Number(number)) => {
            let bits = number.as_f64().unwrap_or_default().to_le_bytes();
            encode_protobuf_field(field.number, ProtobufValue::Fixed64(bits), out);
        }
        ("RawExtension" | "JSON", value) if !value.is_null() => {
            let mut message = BytesMut::new();
            encode_protobuf_field(1, ProtobufValue::Bytes(value.to_string().as_bytes()), &mut message);
            put(&message, out);
        }
        ("IntOrString", Value::String(text)) => {
            let mut message = BytesMut::new();
            encode_protobuf_field(1, ProtobufValue::Varint(1), &mut message);
            encode_protobuf_field(2, ProtobufValue::Varint(0), &mut message);
            encode_protobuf_field(3, ProtobufValue::Bytes(text.as_bytes()), &mut message);
            put(&message, out);
        }
        ("IntOrString", Value::Number(number)) => {
            let number = number.as_i64().unwrap_or_default() as u64;
            let mut message = BytesMut::new();
            encode_protobuf_field(1, ProtobufValue::Varint(0), &mut message);
            encode_protobuf_field(2, ProtobufValue::Varint(number), &mut message);
            encode_protobuf_field(3, ProtobufValue::Bytes(b""), &mut message);
            put(&message, out);
        }
        ("ExtraValue", Value::Array(texts)) => {
            let mut message = BytesMut::new();
            for text in texts.iter().filter_map(Value::as_str) {
                encode_protobuf_field(1, ProtobufValue::Bytes(text.as_bytes()), &mut message);
            }
            put(&message, out);
        }
        _ => {}
    }
    Ok(())
}
