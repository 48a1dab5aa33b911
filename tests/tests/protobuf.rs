//! Protobuf as Kubernetes itself publishes it: for each built-in kind there is a filled object in JSON and in protobuf, made by
//! the API's own code. What we read of the one must be the other, and what we write must read as what was meant.

use std::path::{Path, PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use portcullis_tests::source;
use portcullis_wire::{ProtobufObject, rewrite_protobuf_object};
use serde_json::Value;

/// Where the published objects are: in the module that the cluster is built from.
#[expect(clippy::expect_used, reason = "without it there is no test")]
fn published() -> PathBuf {
    // Which also fetches it where only the cluster's program has been kept.
    let go = std::process::Command::new("go")
        .args(["mod", "download", "-json", "k8s.io/api"])
        .current_dir(source("cluster"))
        .output()
        .expect("go runs");
    assert!(go.status.success(), "{}", String::from_utf8_lossy(&go.stderr));
    let module: Value = serde_json::from_slice(&go.stdout).expect("JSON");
    Path::new(module["Dir"].as_str().expect("a directory")).join("testdata/HEAD")
}

/// Each kind's name, JSON and protobuf.
#[expect(clippy::expect_used, reason = "without it there is no test")]
fn objects() -> Vec<(String, Value, Bytes)> {
    let mut objects = Vec::new();
    for file in std::fs::read_dir(published()).expect("the published objects") {
        let path = file.expect("a file").path();
        if path.extension().is_some_and(|extension| extension == "pb") {
            let json = std::fs::read(path.with_extension("json")).expect("its JSON");
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if NO_BODIES.contains(&&*name) {
                continue;
            }
            let protobuf = std::fs::read(&path).expect("its protobuf");
            objects.push((name, serde_json::from_slice(&json).expect("JSON"), protobuf.into()));
        }
    }
    assert!(objects.len() > 150, "{}", objects.len());
    objects
}

/// Kinds that are no bodies: options are queries, and an event of a watch comes without an envelope.
const NO_BODIES: [&str; 6] = [
    "core.v1.CreateOptions",
    "core.v1.GetOptions",
    "core.v1.ListOptions",
    "core.v1.PatchOptions",
    "core.v1.UpdateOptions",
    "core.v1.WatchEvent",
];

/// What is not read: the server's own bookkeeping.
fn without_managed_fields(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("managedFields");
            // A struct without fields is `{}` whether it is there or not.
            fields.retain(|name, value| name != "spec" || *value != serde_json::json!({}));
            fields.values_mut().for_each(without_managed_fields);
        }
        Value::Array(items) => items.iter_mut().for_each(without_managed_fields),
        _ => {}
    }
}

#[test]
fn every_kind_reads_as_its_json() {
    let mut wrong = Vec::new();
    for (name, mut json, protobuf) in objects() {
        without_managed_fields(&mut json);
        match ProtobufObject::read(&protobuf) {
            Ok(object) if object.is_whole && object.value == json => {}
            Ok(object) => wrong.push(format!(
                "{name}: whole {}, {}",
                object.is_whole,
                difference("", &object.value, &json)
            )),
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{} kinds:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_kind_can_be_written_anew() {
    let mut wrong = Vec::new();
    for (name, _, protobuf) in objects() {
        // Unchanged it is what it was.
        let same = rewrite_protobuf_object::<()>(&protobuf, &mut |object| Ok(Some(object.clone())));
        if same.as_ref() != Ok(&protobuf) {
            wrong.push(format!("{name}: not the same when nothing changed ({:?})", same.err()));
            continue;
        }
        // With all texts changed it reads as what was meant.
        let mut meant = Value::Null;
        let changed = rewrite_protobuf_object::<()>(&protobuf, &mut |object| {
            let mut object = object.clone();
            change(&mut object, true);
            meant = object.clone();
            Ok(Some(object))
        });
        let read = changed.map(|changed| ProtobufObject::read(&changed).map(|object| object.value));
        match read {
            Ok(Ok(read)) if read.to_string().contains(CHANGED) == meant.to_string().contains(CHANGED) => {
                let (mut read, mut meant) = (read, meant);
                only_changed(&mut read);
                only_changed(&mut meant);
                if read != meant {
                    wrong.push(format!("{name}: {}", difference("", &read, &meant)));
                }
            }
            other => wrong.push(format!("{name}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} kinds:\n{}", wrong.len(), wrong.join("\n"));
}

/// How a changed text begins: it is base64, so that fields of bytes can hold it, too.
const CHANGED: &str = "Y2hhbmdlZC";

/// Changes all texts but those that say what the object is, and those that are of a form: times, quantities, durations.
fn change(value: &mut Value, top: bool) {
    match value {
        Value::String(text) => {
            let formed = text.ends_with('Z') && text.starts_with("20")
                || text == "0"
                || text.ends_with("ns")
                || text.ends_with('s') && text[..text.len() - 1].parse::<f64>().is_ok();
            if !formed {
                *text = STANDARD.encode(format!("changed-{text}"));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| change(item, false)),
        Value::Object(fields) => fields
            .iter_mut()
            .filter(|(name, _)| !(top && ["apiVersion", "kind"].contains(&name.as_str())))
            .for_each(|(_, value)| change(value, false)),
        _ => {}
    }
}

/// Leaves nothing but changed texts.
fn only_changed(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| {
                only_changed(value);
                *value != Value::Null
            });
            if fields.is_empty() {
                *value = Value::Null;
            }
        }
        Value::Array(items) => {
            items.retain_mut(|value| {
                only_changed(value);
                *value != Value::Null
            });
            if items.is_empty() {
                *value = Value::Null;
            }
        }
        Value::String(text) if text.starts_with(CHANGED) => {}
        _ => *value = Value::Null,
    }
}

/// The first place where two values differ.
fn difference(path: &str, one: &Value, other: &Value) -> String {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let keys = one.keys().chain(other.keys()).find(|key| one.get(*key) != other.get(*key));
            keys.map_or(String::new(), |key| {
                difference(
                    &format!("{path}.{key}"),
                    one.get(key).unwrap_or(&Value::Null),
                    other.get(key).unwrap_or(&Value::Null),
                )
            })
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            let at = one.iter().zip(other).position(|(one, other)| one != other);
            at.map_or(String::new(), |at| difference(&format!("{path}[{at}]"), &one[at], &other[at]))
        }
        _ => format!("{path}: {one} is not {other}"),
    }
}
