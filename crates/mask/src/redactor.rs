//! Copies of requests that others may keep: what audit, tickets and notifications show of a request holds no secret.
//!
//! Bodies go through the rules that mask responses, and then, like everything else, through all detectors. What cannot be
//! read is not kept. A copy errs on the side of too little: it is for people to look at, not to be sent.

use std::{borrow::Cow, sync::LazyLock};

use bytes::Bytes;
use http::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use portcullis_core::{RedactedCopy, Redactor, RequestInfo};
use regex::{Captures, Regex};
use serde_json::Value;

use crate::{
    Caller, MaskError, Masker, Rules, Scope,
    detect::{Format, finds},
    negotiate::{PROTOBUF, is_json, is_yaml},
    piece::join,
    seek::{documents, essence},
    text::TextScan,
};

/// The [`Redactor`] that goes by [`Rules`].
///
/// Readable are JSON, YAML (kept as JSON, which YAML reads), JSON patches, merge patches, protobuf of built-in kinds (kept as
/// JSON) and plain text; of all other bodies
/// a keyed digest is kept. Rules with exceptions for users apply to copies all the same: others will read them.
#[derive(Clone, Debug)]
pub struct RequestRedactor {
    rules: Rules,
}

impl RequestRedactor {
    /// Redacts by these rules.
    pub fn new(rules: Rules) -> Self {
        Self { rules }
    }

    fn copy(&self, info: &RequestInfo, content_type: Option<&str>, body: &Bytes) -> Result<Vec<u8>, String> {
        let scope = self.rules.scope(info, Caller::default());
        let essence = content_type.map(essence);
        let masked = match essence.as_deref() {
            Some("application/json-patch+json") => patch(&scope, body)?,
            // The copy is JSON; what is not known of an object is not copied.
            Some(PROTOBUF) => self.documents(&scope, content_type, body)?,
            Some(yaml) if is_yaml(yaml) => self.documents(&scope, content_type, body)?,
            Some(json) if is_json(json) => {
                document(&scope, body.clone()).map_err(|error| error.to_string())?
            }
            None => document(&scope, body.clone()).map_err(|error| error.to_string())?,
            Some("text/plain") => body.to_vec(),
            Some(other) => return Err(format!("{other} is not read")),
        };
        let masked = match essence.as_deref() {
            Some("application/json-patch+json" | "text/plain") => masked,
            _ => known_fields_only(&scope, info, masked),
        };
        Ok(search(&scope, masked))
    }

    /// YAML, written as JSON, document by document.
    fn documents(&self, scope: &Scope, content_type: Option<&str>, body: &Bytes) -> Result<Vec<u8>, String> {
        let documents = documents(content_type, body).ok_or("it cannot be read")?;
        let mut copy = Vec::new();
        for value in &documents {
            if !copy.is_empty() {
                copy.extend_from_slice(SEPARATOR.as_bytes());
            }
            let json = Bytes::from(value.to_string());
            copy.extend(document(scope, json).map_err(|error| error.to_string())?);
        }
        Ok(copy)
    }
}

impl Redactor for RequestRedactor {
    fn body(&self, info: &RequestInfo, content_type: Option<&str>, body: &Bytes) -> RedactedCopy {
        if body.is_empty() {
            return RedactedCopy::Redacted(Bytes::new());
        }
        match self.copy(info, content_type, body) {
            Ok(copy) => RedactedCopy::Redacted(copy.into()),
            Err(reason) => RedactedCopy::Withheld { digest: self.rules.key().body_digest(body), reason },
        }
    }

    fn uri(&self, info: &RequestInfo, uri: &Uri) -> String {
        let scope = self.rules.scope(info, Caller::default());
        let mut copy = redact(&scope, uri.path());
        let Some(query) = uri.query() else { return copy };
        let mut after_flag = false;
        for (index, pair) in query.split('&').enumerate() {
            copy.push(if index == 0 { '?' } else { '&' });
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let plain = percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().into_owned();
            let is_argument = key == "command";
            let redacted = match is_secret_name(key) || (is_argument && after_flag) {
                true if !plain.is_empty() => scope.copy_token(plain.as_bytes()),
                _ => redact(&scope, &plain),
            };
            after_flag =
                is_argument && plain.starts_with('-') && !plain.contains('=') && is_secret_name(&plain);
            if redacted == plain {
                copy.push_str(pair);
            } else {
                copy.push_str(&format!("{key}={}", utf8_percent_encode(&redacted, &QUERY)));
            }
        }
        copy
    }

    fn text(&self, text: &str) -> String {
        redact(&self.rules.scope(&RequestInfo::default(), Caller::default()), text)
    }

    fn name(&self, name: &str) -> String {
        // Each request has several, and hardly any is long enough to hold something.
        if name.len() < Format::SHORTEST { name.to_owned() } else { self.text(name) }
    }
}

/// What must be escaped in a query's value.
static QUERY: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b':')
    .remove(b'*')
    .remove(b'/');

fn document(scope: &Scope, json: Bytes) -> Result<Vec<u8>, MaskError> {
    let mut masker = Masker::suspicious(scope.clone());
    let mut pieces = Vec::new();
    masker.push(json, &mut pieces)?;
    masker.finish(&mut pieces)?;
    Ok(join(&pieces))
}

/// What stands between the documents of a copy.
const SEPARATOR: &str = "\n---\n";
const LAST_APPLIED: &str = "/annotations/kubectl.kubernetes.io~1last-applied-configuration";

/// What a Secret has. Anything else in one is a slip, such as `stringdata`, and what is in it was meant to be a secret.
const FIELDS_OF_SECRETS: [&str; 7] =
    ["apiVersion", "kind", "metadata", "type", "immutable", "data", "stringData"];

/// Masks whatever a Secret has in fields that Secrets do not have.
fn known_fields_only(scope: &Scope, info: &RequestInfo, copy: Vec<u8>) -> Vec<u8> {
    let secrets = info.resource == "secrets" && info.api_group.is_empty();
    let Ok(text) = std::str::from_utf8(&copy) else { return copy };
    if !secrets && !text.contains("Secret") {
        return copy;
    }
    let documents = text.split(SEPARATOR).map(|document| {
        let mut value = serde_json::from_str(document)?;
        mask_unknown_fields(scope, &mut value, secrets);
        Ok::<_, serde_json::Error>(value.to_string())
    });
    // It has been masked already: what cannot be read again is as good as it was.
    documents.collect::<Result<Vec<_>, _>>().map_or(copy.clone(), |read| read.join(SEPARATOR).into_bytes())
}

fn mask_unknown_fields(scope: &Scope, value: &mut Value, secrets: bool) {
    let Value::Object(object) = value else { return };
    let kind = object.get("kind").and_then(Value::as_str);
    let is_secret = kind == Some("Secret") || (secrets && kind.is_none());
    if let Some(Value::Array(items)) = object.get_mut("items") {
        items.iter_mut().for_each(|item| mask_unknown_fields(scope, item, secrets));
    }
    if !is_secret {
        return;
    }
    for (name, value) in object.iter_mut().filter(|(name, _)| !FIELDS_OF_SECRETS.contains(&name.as_str())) {
        *value = Value::String(scope.copy_token(format!("{name}={value}").as_bytes()));
    }
    let applied = object.get_mut("metadata").and_then(|metadata| metadata.pointer_mut(LAST_APPLIED));
    if let Some(Value::String(text)) = applied
        && let Ok(mut document) = serde_json::from_str(text)
    {
        mask_unknown_fields(scope, &mut document, secrets);
        *text = document.to_string();
    }
}

/// A JSON patch (RFC 6902): each value is masked as what it would be at the place it is meant for.
fn patch(scope: &Scope, body: &Bytes) -> Result<Vec<u8>, String> {
    let mut operations: Value = serde_json::from_slice(body).map_err(|_| "it is not valid JSON")?;
    let list = operations.as_array_mut().ok_or("a JSON patch is a list of operations")?;
    for operation in list {
        let path = operation.get("path").and_then(Value::as_str).unwrap_or_default().to_owned();
        let Some(value) = operation.get_mut("value") else { continue };
        *value = masked_at(scope, &path, value)?;
    }
    Ok(operations.to_string().into_bytes())
}

/// A step that is a number may be an index or a key: what is masked either way is masked.
fn masked_at(scope: &Scope, path: &str, value: &Value) -> Result<Value, String> {
    let steps: Vec<String> =
        path.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~")).collect();
    let mut masked = value.clone();
    for indexes in [true, false] {
        let is_index =
            |step: &str| indexes && (step == "-" || step.bytes().all(|byte| byte.is_ascii_digit()));
        let mut whole = masked.clone();
        for step in steps.iter().rev() {
            whole = match is_index(step) {
                true => Value::Array(vec![whole]),
                false => Value::Object(std::iter::once((step.clone(), whole)).collect()),
            };
        }
        let copy = document(scope, Bytes::from(whole.to_string())).map_err(|error| error.to_string())?;
        let mut found: Value = serde_json::from_slice(&copy).map_err(|error| error.to_string())?;
        for step in &steps {
            let inner = if is_index(step) { found.get_mut(0) } else { found.get_mut(step.as_str()) };
            found = inner.map(Value::take).unwrap_or_default();
        }
        if found != masked {
            return Ok(found);
        }
        masked = found;
    }
    Ok(masked)
}

/// Replaces everything that looks like a secret.
fn search(scope: &Scope, text: Vec<u8>) -> Vec<u8> {
    let plan = scope.copy_plan();
    let text = scope.replace_patterns_in_copy(text.into());
    // Hardly any text has anything in it that is a secret, and every request has several.
    if !finds(&text, plan.detectors()) {
        return text.into();
    }
    let mut pieces = Vec::new();
    TextScan::new(plan).whole(text, &mut pieces);
    join(&pieces)
}

/// Replaces what looks like a secret in words: known formats, what is assigned to a name that says so, and passwords in URLs.
fn redact(scope: &Scope, text: &str) -> String {
    let mut text = String::from_utf8(search(scope, text.as_bytes().to_vec()))
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    let replace = |found: &Captures<'_>| match found.name("secret") {
        Some(secret) if !secret.as_str().starts_with("masked:") => {
            let whole = found.get_match();
            let from = secret.start() - whole.start();
            let to = secret.end() - whole.start();
            let token = scope.copy_token(secret.as_str().as_bytes());
            format!("{}{token}{}", &whole.as_str()[..from], &whole.as_str()[to..])
        }
        _ => found[0].to_owned(),
    };
    for pattern in [&ASSIGNED, &FLAG, &URL] {
        let replaced = match pattern.as_ref().map(|pattern| pattern.replace_all(&text, replace)) {
            Some(Cow::Borrowed(_)) => continue,
            Some(Cow::Owned(replaced)) => replaced,
            // Never, as the tests show; but if it were, nothing would be kept.
            None => scope.copy_token(text.as_bytes()),
        };
        text = replaced;
    }
    text
}

const SECRET_NAME: &str =
    "(?:password|passwd|passphrase|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|credential|pwd)";

type Pattern = LazyLock<Option<Regex>>;

/// `PGPASSWORD=…`, `--token=…`, `"secret": "…"`.
static ASSIGNED: Pattern = LazyLock::new(|| {
    let value = r#"(?P<secret>"(?:[^"\\]|\\.)*"|'[^']*'|[^\s&"',;]+)"#;
    Regex::new(&format!(r#"(?i)[\w.-]*{SECRET_NAME}[\w.-]*["']?\s*(?:=|:\s)\s*{value}"#)).ok()
});

/// `--password …`.
static FLAG: Pattern = LazyLock::new(|| {
    Regex::new(&format!(r"(?i)(?:^|\s)--?[\w-]*{SECRET_NAME}[\w-]*\s+(?P<secret>[^\s-][^\s]*)")).ok()
});

/// `https://user:…@host`.
static URL: Pattern = LazyLock::new(|| Regex::new(r"://[^/\s:@]*:(?P<secret>[^/\s@]+)@").ok());

fn is_secret_name(name: &str) -> bool {
    static NAME: Pattern = LazyLock::new(|| Regex::new(&format!("(?i){SECRET_NAME}")).ok());
    NAME.as_ref().is_none_or(|pattern| pattern.is_match(name))
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;
    use crate::{MaskConfig, MaskKey};

    const CANARY: &str = "canary-4711";

    fn redactor() -> RequestRedactor {
        let key = MaskKey::from_bytes(&[7; 32]).unwrap();
        RequestRedactor::new(Rules::new(&MaskConfig::default(), key).unwrap())
    }

    fn resource(group: &str, resource: &str) -> RequestInfo {
        RequestInfo {
            is_resource_request: true,
            api_group: group.into(),
            resource: resource.into(),
            namespace: "shop".into(),
            ..RequestInfo::default()
        }
    }

    /// The copy keeps `kept`, and nothing of the canary.
    fn check(info: &RequestInfo, content_type: &str, body: &str, kept: &str) {
        let content_type = (!content_type.is_empty()).then_some(content_type);
        match redactor().body(info, content_type, &Bytes::copy_from_slice(body.as_bytes())) {
            RedactedCopy::Redacted(copy) => {
                let copy = String::from_utf8(copy.into()).unwrap();
                assert!(!copy.contains(CANARY) && !copy.contains(&STANDARD.encode(CANARY)), "{copy}");
                assert!(copy.contains(kept), "{copy}");
            }
            RedactedCopy::Withheld { reason, digest } => {
                assert_eq!(kept, reason);
                assert_eq!(digest.len(), 64);
            }
        }
    }

    #[test]
    fn a_slip_of_the_pen_is_no_way_past_the_rules() {
        let secret =
            format!(r#"{{"kind":"Secret","metadata":{{"name":"db"}},"stringdata":{{"p":"{CANARY}"}}}}"#);
        check(&resource("", "secrets"), "application/json", &secret, r#""name":"db""#);
        check(&resource("", "widgets"), "application/json", &secret, r#""name":"db""#);
        let patch = format!(r#"{{"strigData":{{"p":"{CANARY}"}},"metadata":{{"labels":{{"a":"b"}}}}}}"#);
        check(&resource("", "secrets"), "application/merge-patch+json", &patch, r#""a":"b""#);
        let list = format!(r#"{{"kind":"List","items":[{secret}]}}"#);
        check(&resource("", "secrets"), "application/json", &list, r#""name":"db""#);
        let applied = serde_json::json!({
            "kind": "Secret",
            "metadata": { "annotations": { "kubectl.kubernetes.io/last-applied-configuration": secret } },
        });
        check(&resource("", "secrets"), "application/json", &applied.to_string(), "db");
        check(&resource("", "secrets"), "application/yaml", &format!("{secret}\n---\n{secret}\n"), "\n---\n");
    }

    #[test]
    fn an_applied_secret_leaves_no_value_behind() {
        let base64 = STANDARD.encode(CANARY);
        let applied = format!(
            r#"{{"apiVersion":"v1","data":{{"p":"{base64}"}},"kind":"Secret","metadata":{{"name":"db"}},"stringData":{{"q":"{CANARY}"}}}}"#
        );
        let object = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": "db",
                "annotations": { "kubectl.kubernetes.io/last-applied-configuration": applied },
            },
            "data": { "p": base64 },
            "stringData": { "q": CANARY },
        });
        let secrets = resource("", "secrets");
        for content_type in
            ["application/json", "", "application/merge-patch+json", "application/strategic-merge-patch+json"]
        {
            check(&secrets, content_type, &object.to_string(), r#""name":"db""#);
        }
        check(&secrets, "application/apply-patch+yaml", &object.to_string(), r#""name":"db""#);
        let yaml = format!(
            "apiVersion: v1\ndata: {{p: {base64}}}\nkind: Secret\n---\nkind: Secret\nstringData:\n  q: |\n    {CANARY}\n"
        );
        check(&secrets, "application/yaml", &yaml, "\n---\n");
        // Wherever it is sent, and whatever it leaves out.
        check(&resource("example.com", "widgets"), "application/json", &object.to_string(), r#""name":"db""#);
        check(
            &secrets,
            "application/merge-patch+json",
            &format!(r#"{{"data":{{"p":"{base64}"}}}}"#),
            "bWFza2Vk",
        );
        let vague = format!(r#"{{"stringData":{{"p":"{CANARY}"}}}}"#);
        check(&resource("example.com", "widgets"), "application/merge-patch+json", &vague, "masked:secrets:");
    }

    #[test]
    fn patches_are_masked_by_the_place_of_each_value() {
        let secrets = resource("", "secrets");
        let json_patch = "application/json-patch+json";
        for path in ["/data/p", "/data/0", "/stringData/a~1b"] {
            let patch = format!(
                r#"[{{"op":"replace","path":"{path}","value":"{CANARY}"}},{{"op":"remove","path":"/x"}}]"#
            );
            check(&secrets, json_patch, &patch, path);
        }
        let whole = format!(r#"[{{"op":"add","path":"/data","value":{{"p":"{CANARY}"}}}}]"#);
        check(&secrets, json_patch, &whole, r#""p":"#);
        let labels = r#"[{"op":"add","path":"/metadata/labels/a","value":"b"}]"#;
        check(&secrets, json_patch, labels, r#""value":"b""#);
        let env = "/spec/template/spec/containers/0/env";
        let deployments = resource("apps", "deployments");
        for (path, value) in [
            (format!("{env}/1/value"), format!("\"{CANARY}\"")),
            (format!("{env}/-"), format!(r#"{{"name":"DB_PASSWORD","value":"{CANARY}"}}"#)),
            (env.to_owned(), format!(r#"[{{"value":"{CANARY}","name":"API_TOKEN"}}]"#)),
        ] {
            let patch = format!(r#"[{{"op":"add","path":"{path}","value":{value}}}]"#);
            check(&deployments, json_patch, &patch, "masked:env:");
        }
        let image = r#"[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"web:2"}]"#;
        check(&deployments, json_patch, image, "web:2");
    }

    #[test]
    fn protobuf_is_read_and_kept_as_json() {
        let envelope = portcullis_wire::ProtobufEnvelope {
            api_version: "v1".into(),
            kind: "Secret".into(),
            // metadata { name: "db" }, data { "password": CANARY }
            raw: [
                &b"\x0a\x04\x0a\x02db\x12"[..],
                &[12 + CANARY.len() as u8],
                b"\x0a\x08password\x12",
                &[CANARY.len() as u8],
                CANARY.as_bytes(),
            ]
            .concat()
            .into(),
            ..portcullis_wire::ProtobufEnvelope::default()
        };
        let secrets = resource("", "secrets");
        let copy = redactor().body(&secrets, Some("application/vnd.kubernetes.protobuf"), &envelope.encode());
        let RedactedCopy::Redacted(copy) = copy else { panic!("{copy:?}") };
        let copy = String::from_utf8(copy.to_vec()).unwrap();
        assert!(copy.contains(r#""name":"db""#) && copy.contains("password"), "{copy}");
        assert!(!copy.contains(CANARY), "{copy}");
    }

    #[test]
    fn what_cannot_be_read_is_withheld() {
        let secrets = resource("", "secrets");
        let protobuf = "application/vnd.kubernetes.protobuf";
        check(&secrets, protobuf, CANARY, "it cannot be read");
        check(
            &secrets,
            "application/json",
            &format!("{{\"{CANARY}"),
            "the stream ended inside a value at byte 13",
        );
        check(&secrets, "application/yaml", &format!("[{CANARY}"), "it cannot be read");
        check(
            &secrets,
            "application/x-www-form-urlencoded",
            CANARY,
            "application/x-www-form-urlencoded is not read",
        );
    }

    #[test]
    fn known_formats_are_masked_anywhere() {
        let token = "ghp_0123456789abcdefghijklmnopqrstuvwxyz";
        let config = format!(r#"{{"kind":"ConfigMap","data":{{"a":"{token}"}}}}"#);
        let copy = redactor().body(&resource("", "configmaps"), None, &config.into());
        let RedactedCopy::Redacted(copy) = copy else { panic!("withheld") };
        assert!(!String::from_utf8_lossy(&copy).contains(token));
    }

    #[test]
    fn addresses_lose_their_secrets() {
        let uri = |text: &str| redactor().uri(&resource("", "pods"), &text.parse().unwrap());
        for harmless in [
            "/api/v1/namespaces/shop/pods?limit=500&labelSelector=app%3Dweb",
            "/api/v1/namespaces/shop/secrets/db-token",
            "/exec?command=sh&command=-c&command=ls+-l&stdin=true",
        ] {
            assert_eq!(uri(harmless), harmless);
        }
        for (text, kept) in [
            (format!("/x?access_token={CANARY}&a=b"), "&a=b"),
            (format!("/x?command=psql&command=--password&command={CANARY}&tty=true"), "&tty=true"),
            (
                format!("/x?command=env&command=PGPASSWORD%3D{CANARY}"),
                "command=env&command=PGPASSWORD%3Dmasked:request:",
            ),
            (format!("/x?command=curl&command=https://u:{CANARY}@h/"), "https://u:masked:request:"),
        ] {
            let copy = uri(&text);
            assert!(!copy.contains(CANARY) && copy.contains(kept), "{copy}");
        }
    }

    #[test]
    fn words_lose_their_secrets() {
        let redactor = redactor();
        for harmless in
            ["kubectl/v1.34 (linux/amd64)", "rotate the db password", "secrets \"db\" not found", ""]
        {
            assert_eq!(redactor.text(harmless), harmless);
        }
        for text in [
            format!("mysql --password={CANARY} -h db"),
            format!("login --token {CANARY}"),
            format!(r#"{{"client_secret": "{CANARY}"}}"#),
            format!("API_KEY='{CANARY}' make"),
            format!("Authorization: Bearer {CANARY}-{CANARY}"),
        ] {
            let copy = redactor.text(&text);
            assert!(!copy.contains(CANARY) && copy.contains("masked:request:"), "{copy}");
        }
    }
}
