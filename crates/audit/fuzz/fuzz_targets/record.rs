//! Records from strangers: whatever they say, their line moves no cursor, and reading what was read changes nothing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_audit::Entry;
use serde_json::{Map, Value, json};

const ID: &str = "0199c1d2-0000-7000-8000-000000000001";
const TIME: &str = "2026-01-02T03:04:05.678Z";

fuzz_target!(|input: &[u8]| {
    check(input);
    // Chance seldom finds a record's many required fields: here are records, one of whose fields is what chance found.
    let Some((&which, rest)) = input.split_first() else { return };
    let text = String::from_utf8_lossy(rest);
    let value = serde_json::from_slice(rest).unwrap_or_else(|_| Value::String(text.into_owned()));
    let records = [intent(), outcome(), event(), recovered()];
    let mut record = records[usize::from(which) % records.len()].clone();
    let names: Vec<String> = record.keys().cloned().collect();
    let name = &names[usize::from(which) / records.len() % names.len()];
    record[name] = value;
    check(Value::Object(record).to_string().as_bytes());
});

fn check(bytes: &[u8]) {
    let Ok(entry) = serde_json::from_slice::<Entry>(bytes) else { return };
    let line = entry.line();
    assert!(!line.chars().any(char::is_control), "{line:?}");
    let written = serde_json::to_vec(&entry).expect("what was read can be written");
    let again: Entry = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(again, entry);
    assert_eq!(serde_json::to_vec(&again).expect("again"), written);
}

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(object) = value else { unreachable!("they are written below") };
    object
}

fn info() -> Value {
    json!({ "isResourceRequest": true, "path": "/api/v1/pods", "verb": "list", "apiPrefix": "api", "apiVersion": "v1",
        "resource": "pods" })
}

fn intent() -> Map<String, Value> {
    object(json!({
        "v": 1, "time": TIME, "type": "intent", "id": ID, "received": TIME, "command": "get pods", "parent": null,
        "session": "s", "grant": null, "verdict": null, "approval": null, "body": null, "identity": null,
        "request": { "info": info(), "method": "GET", "uri": "/api/v1/pods" },
    }))
}

fn outcome() -> Map<String, Value> {
    object(json!({
        "v": 1, "time": TIME, "type": "outcome", "id": ID, "received": TIME, "command": "get pods", "info": info(),
        "end": "completed", "status": 200, "user": "jo", "verdict": null, "ticket": "t", "refusal": null, "error": null,
        "masked": { "a": 1, "b": 2 }, "requestBytes": 0, "response": null, "notes": {}, "level": null,
        "stream": { "transport": "spdy", "subprotocol": "v4.channel.k8s.io", "tty": true, "ended": "closed", "channels": {} },
    }))
}

fn event() -> Map<String, Value> {
    object(json!({
        "v": 1, "time": TIME, "type": "event", "kind": "streamProgress", "identity": null, "auditId": ID, "ticket": "t",
        "grant": "g", "details": { "channels": { "stdin": 1, "stdout": 2 }, "parts": [] },
    }))
}

fn recovered() -> Map<String, Value> {
    object(json!({
        "v": 1, "time": TIME, "type": "recovered", "size": 1, "cause": "writeFailure", "error": "disk", "bytes": 1,
        "sha256": null,
    }))
}
