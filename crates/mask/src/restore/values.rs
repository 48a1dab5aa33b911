//! Which value a token stands for, and putting it in the token's place.

use bytes::Bytes;
use portcullis_wire::rewrite_protobuf_object;
use serde_json::{Map, Value, json};

use crate::{
    Masker, Scope,
    negotiate::PROTOBUF,
    piece::join,
    seek::{carries_token, documents, essence},
};

/// A token that cannot be replaced, and where it stands, as far as that is known.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) field: Option<String>,
}

/// A step of a path. An element of a list is told by its name, as in a strategic merge, or else by its index.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Member(String),
    Named(String),
    Index(usize),
}

/// A masked string of the live object.
#[derive(Clone)]
struct Masked {
    path: Vec<Step>,
    token: String,
    value: String,
    /// It stands in a document in a string of the object, such as what was last applied: an older state of it.
    nested: bool,
}

/// The body with values in the tokens' places, and how many there were.
pub(super) fn restore(
    content_type: Option<&str>,
    body: &Bytes,
    live: &[u8],
    scope: &Scope,
) -> Result<(Bytes, usize), Wrong> {
    let unreadable = || Wrong { field: None };
    let live: Value = serde_json::from_slice(live).map_err(|_| unreadable())?;
    let known = masked_values(&live, scope).ok_or_else(unreadable)?;
    let version = live["metadata"]["resourceVersion"].as_str().ok_or_else(unreadable)?;
    let mut restoring = Restoring { known, nested: false, restored: Vec::new() };
    let media = content_type.map(essence).unwrap_or_default();
    let body = match media.as_str() {
        "application/json-patch+json" => {
            let operations = serde_json::from_slice(body).map_err(|_| unreadable())?;
            restoring.patch(operations, &live, version, scope)?
        }
        PROTOBUF => rewrite_protobuf_object(body, &mut |object| {
            let mut object = object.clone();
            restoring.value(&mut object, &mut Vec::new(), &mut Vec::new())?;
            restoring.check_still_masked(&object, scope)?;
            // A field that is not there cannot be added in protobuf; who replaces an object has read it.
            match object["metadata"]["resourceVersion"].as_str() {
                Some(_) => Ok(Some(object)),
                None => Err(unreadable()),
            }
        })
        .map_err(|error| match error {
            portcullis_wire::RewriteError::Judge(wrong) => wrong,
            _ => unreadable(),
        })?,
        _ => {
            let documents = documents(content_type, body).ok_or_else(unreadable)?;
            let Ok([mut object]) = <[Value; 1]>::try_from(documents) else { return Err(unreadable()) };
            restoring.value(&mut object, &mut Vec::new(), &mut Vec::new())?;
            restoring.check_still_masked(&object, scope)?;
            // Should the object have changed since it was read, what is restored may be old: then the server refuses it.
            if !object["metadata"].is_object() {
                object["metadata"] = json!({});
            }
            let metadata = object["metadata"].as_object_mut().ok_or_else(unreadable)?;
            metadata.entry("resourceVersion").or_insert_with(|| version.into());
            Bytes::from(object.to_string())
        }
    };
    Ok((body, restoring.restored.len()))
}

/// The first field of the live object that was shown without a token (a null, a zero), and that replacing the object with `body`
/// would lose.
pub(crate) fn lost(
    content_type: Option<&str>,
    body: &Bytes,
    live: &[u8],
    scope: &Scope,
) -> Result<(), Wrong> {
    let unreadable = || Wrong { field: None };
    let live: Value = serde_json::from_slice(live).map_err(|_| unreadable())?;
    let masked = mask(Masker::new(scope.clone()), &live).ok_or_else(unreadable)?;
    let documents = documents(content_type, body).ok_or_else(unreadable)?;
    documents.iter().try_for_each(|body| would_lose(&live, &masked, Some(body), &mut Vec::new()))
}

fn would_lose(live: &Value, masked: &Value, body: Option<&Value>, path: &mut Vec<Step>) -> Result<(), Wrong> {
    match (live, masked) {
        (Value::Object(live), Value::Object(masked)) => live.iter().try_for_each(|(name, live)| {
            path.push(Step::Member(name.clone()));
            would_lose(
                live,
                masked.get(name).unwrap_or(&Value::Null),
                body.and_then(|body| body.get(name)),
                path,
            )?;
            path.pop();
            Ok(())
        }),
        (Value::Array(live), Value::Array(masked)) => {
            live.iter().zip(masked).enumerate().try_for_each(|(index, (live, masked))| {
                let step = element(index, live);
                let items = body.and_then(Value::as_array);
                let same = items.and_then(|items| {
                    items.iter().enumerate().find(|(index, item)| element(*index, item) == step)
                });
                // An element that is gone was taken out.
                let Some((_, body)) = same else { return Ok(()) };
                path.push(step);
                would_lose(live, masked, Some(body), path)?;
                path.pop();
                Ok(())
            })
        }
        (_, Value::String(_)) => Ok(()),
        (live, masked) if live != masked && body.is_none_or(|body| body == masked) => Err(wrong(path)),
        _ => Ok(()),
    }
}

/// The strings of the live object that are masked, with the tokens of each key.
fn masked_values(live: &Value, scope: &Scope) -> Option<Vec<Masked>> {
    let mut known = Vec::new();
    for scope in scope.with_each_key() {
        let masked = mask(Masker::new(scope), live)?;
        compare(live, &masked, &mut Vec::new(), false, &mut known);
    }
    Some(known)
}

fn mask(mut masker: Masker, value: &Value) -> Option<Value> {
    let mut pieces = Vec::new();
    masker.push(Bytes::from(value.to_string()), &mut pieces).ok()?;
    masker.finish(&mut pieces).ok()?;
    serde_json::from_slice(&join(&pieces)).ok()
}

fn compare(live: &Value, masked: &Value, path: &mut Vec<Step>, nested: bool, known: &mut Vec<Masked>) {
    match (live, masked) {
        (Value::String(value), Value::String(token)) if value != token => {
            // A document in a string is one of the same object: its values stand at its own paths.
            if let (Some(value), Some(token)) = (document(value), document(token)) {
                compare(&value, &token, &mut Vec::new(), true, known);
            }
            known.push(Masked { path: path.clone(), token: token.clone(), value: value.clone(), nested });
        }
        (Value::Object(live), Value::Object(masked)) => {
            for (name, value) in live {
                path.push(Step::Member(name.clone()));
                compare(value, masked.get(name).unwrap_or(&Value::Null), path, nested, known);
                path.pop();
            }
        }
        (Value::Array(live), Value::Array(masked)) => {
            for (index, (value, masked)) in live.iter().zip(masked).enumerate() {
                path.push(element(index, value));
                compare(value, masked, path, nested, known);
                path.pop();
            }
        }
        _ => {}
    }
}

fn element(index: usize, value: &Value) -> Step {
    value["name"].as_str().map_or(Step::Index(index), |name| Step::Named(name.to_owned()))
}

/// The JSON in a string.
fn document(text: &str) -> Option<Value> {
    text.trim_start().starts_with(['{', '[']).then(|| serde_json::from_str(text).ok()).flatten()
}

/// JSON as Go writes it, as `kubectl apply` keeps it in its annotation.
fn written_by_go(value: &Value) -> String {
    let mut text = value.to_string();
    for (character, escaped) in [
        ('<', "\\u003c"),
        ('>', "\\u003e"),
        ('&', "\\u0026"),
        ('\u{2028}', "\\u2028"),
        ('\u{2029}', "\\u2029"),
    ] {
        if text.contains(character) {
            text = text.replace(character, escaped);
        }
    }
    text
}

struct Restoring {
    known: Vec<Masked>,
    /// Whether this is about a document in a string: there, what the object holds now may stand as well as what it held then.
    nested: bool,
    /// Where something was restored, as JSON pointers (RFC 6901).
    restored: Vec<String>,
}

impl Restoring {
    /// Restores all tokens in a value. `path` says where it stands in the object, `place` where in the body.
    fn value(
        &mut self,
        value: &mut Value,
        path: &mut Vec<Step>,
        place: &mut Vec<String>,
    ) -> Result<(), Wrong> {
        match value {
            Value::String(text) => {
                if let Some(restored) = self.text(text, path)? {
                    *text = restored;
                    self.restored.push(pointer(place));
                }
                Ok(())
            }
            Value::Array(items) => items.iter_mut().enumerate().try_for_each(|(index, item)| {
                path.push(element(index, item));
                place.push(index.to_string());
                self.value(item, path, place)?;
                path.pop();
                place.pop();
                Ok(())
            }),
            Value::Object(members) => members.iter_mut().try_for_each(|(name, member)| {
                path.push(Step::Member(name.clone()));
                place.push(name.clone());
                if carries_token(name.as_bytes(), 0) {
                    return Err(wrong(path));
                }
                self.value(member, path, place)?;
                path.pop();
                place.pop();
                Ok(())
            }),
            _ => Ok(()),
        }
    }

    /// What a string becomes; `None` if there is no token in it.
    fn text(&self, text: &str, path: &[Step]) -> Result<Option<String>, Wrong> {
        if !carries_token(text.as_bytes(), 0) {
            return Ok(None);
        }
        let fits = |masked: &&Masked| {
            masked.token == *text && masked.path == path && (self.nested || !masked.nested)
        };
        if let Some(masked) = self.known.iter().find(fits) {
            return Ok(Some(masked.value.clone()));
        }
        let Some(mut document) = document(text) else { return Err(wrong(path)) };
        let mut inner = Self { known: self.known.clone(), nested: true, restored: Vec::new() };
        inner.value(&mut document, &mut Vec::new(), &mut Vec::new()).map_err(|_| wrong(path))?;
        let end = if text.ends_with('\n') { "\n" } else { "" };
        Ok(Some(written_by_go(&document) + end))
    }

    /// Restores the values of a JSON Patch, which applies only to the version that was read.
    fn patch(
        &mut self,
        operations: Vec<Value>,
        live: &Value,
        version: &str,
        scope: &Scope,
    ) -> Result<Bytes, Wrong> {
        let mut patch = vec![json!({ "op": "test", "path": "/metadata/resourceVersion", "value": version })];
        for (index, mut operation) in operations.into_iter().enumerate() {
            let at = operation["path"].as_str().unwrap_or_default().to_owned();
            let before = self.restored.len();
            if let Some(value) = operation.get_mut("value") {
                let (mut path, mut place) = resolve(&at, live);
                self.value(value, &mut path, &mut place)?;
                if self.restored.len() > before {
                    self.check_still_masked(&placed(&place, value), scope)?;
                }
            }
            // A token in what is no value (a path, a name of somebody's own) would be stored as it stands.
            let stray = operation.as_object().is_none_or(|members| {
                members.iter().any(|(name, member)| {
                    let restorable = name == "value";
                    carries_token(name.as_bytes(), 0)
                        || (!restorable && carries_token(member.to_string().as_bytes(), 0))
                })
            });
            if stray {
                return Err(Wrong { field: Some(format!("[{index}]")) });
            }
            patch.push(operation);
        }
        Ok(Bytes::from(Value::Array(patch).to_string()))
    }

    /// Whatever was restored must be masked where it stands now: otherwise a rename would show it.
    fn check_still_masked(&self, object: &Value, scope: &Scope) -> Result<(), Wrong> {
        if self.restored.is_empty() {
            return Ok(());
        }
        let masked = mask(Masker::suspicious(scope.clone()), object).ok_or(Wrong { field: None })?;
        for place in &self.restored {
            match (object.pointer(place), masked.pointer(place)) {
                // What another operation restored stands in another document.
                (None, _) => {}
                (shown, hidden) if shown != hidden => {}
                _ => return Err(Wrong { field: Some(place.trim_start_matches('/').replace('/', ".")) }),
            }
        }
        Ok(())
    }
}

/// The path that a pointer leads along in the live object, and the pointer's parts.
fn resolve(pointer: &str, live: &Value) -> (Vec<Step>, Vec<String>) {
    let (mut path, mut place, mut at) = (Vec::new(), Vec::new(), live);
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        path.push(match (at, part.parse()) {
            (Value::Array(items), Ok(index)) => element(index, items.get(index).unwrap_or(&Value::Null)),
            _ => Step::Member(part.clone()),
        });
        at = match at {
            Value::Array(items) => part.parse::<usize>().ok().and_then(|index| items.get(index)),
            other => other.get(&part),
        }
        .unwrap_or(&Value::Null);
        place.push(part);
    }
    (path, place)
}

/// A document in which `value` stands at `place`, lists taken for objects: no rule for a list's elements tells them apart.
fn placed(place: &[String], value: &Value) -> Value {
    place.iter().rev().fold(value.clone(), |value, part| match part.parse::<usize>() {
        Ok(index) => {
            let mut items = vec![Value::Null; index.min(1024)];
            items.push(value);
            Value::Array(items)
        }
        Err(_) => Value::Object(Map::from_iter([(part.clone(), value)])),
    })
}

fn pointer(place: &[String]) -> String {
    place.iter().map(|part| format!("/{}", part.replace('~', "~0").replace('/', "~1"))).collect()
}

fn wrong(path: &[Step]) -> Wrong {
    let mut field = String::new();
    for step in path {
        match step {
            Step::Member(name) if name.contains(['.', '/']) => field.push_str(&format!("[{name}]")),
            Step::Member(name) => {
                field.push_str(if field.is_empty() { "" } else { "." });
                field.push_str(name);
            }
            Step::Named(name) => field.push_str(&format!("[{name}]")),
            Step::Index(index) => field.push_str(&format!("[{index}]")),
        }
    }
    Wrong { field: Some(field) }
}
