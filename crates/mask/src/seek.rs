//! Looks for mask tokens in what a client wants to write, in every disguise that a round trip gives them: plain, escaped,
//! inside JSON that is inside a string, and in base64, whatever stands before them.

use base64::{
    Engine as _,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use memchr::memmem;
use portcullis_wire::ProtobufObject;
use serde_json::Value;

use crate::{
    negotiate::{PROTOBUF, is_yaml},
    token::find_token,
};

/// How often what was decoded is decoded again: a Secret's value may be base64 of JSON that holds base64.
const DEEPEST: u8 = 4;

/// Where a token was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The field, as far as the body could be read.
    pub(crate) field: Option<String>,
}

/// The first mask token in a body.
pub(crate) fn seek(content_type: Option<&str>, body: &Bytes) -> Option<Found> {
    // Whatever the body is, what stands in it plainly is found; this also is all that is needed for protobuf.
    let plainly = carries_token(body, 0);
    match documents(content_type, body) {
        Some(documents) => documents
            .iter()
            .find_map(|document| in_value(document, &mut Vec::new()))
            .map(|field| Found { field: Some(field) })
            .or_else(|| plainly.then_some(Found { field: None })),
        None => plainly.then_some(Found { field: None }),
    }
}

/// The body as JSON values, if it is JSON, YAML, or protobuf of a known kind. A content type that is missing or odd is no excuse not to look.
pub(crate) fn documents(content_type: Option<&str>, body: &Bytes) -> Option<Vec<Value>> {
    // JSON is what clients send as YAML, too.
    if content_type.is_some_and(|content_type| essence(content_type) == PROTOBUF) {
        return ProtobufObject::read(body).ok().map(|object| vec![object.value]);
    }
    let documents = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
    if let Ok(read) = documents.collect::<Result<Vec<_>, _>>() {
        return Some(read);
    }
    match content_type {
        Some(content_type) if !is_yaml(&essence(content_type)) => None,
        _ => serde_saphyr::from_multiple(std::str::from_utf8(body).ok()?).ok(),
    }
}

/// A content type without its parameters.
pub(crate) fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The path of the first string, or key, that carries a token.
fn in_value(value: &Value, path: &mut Vec<String>) -> Option<String> {
    match value {
        Value::String(text) => carries_token(text.as_bytes(), 0).then(|| field(path)),
        Value::Array(elements) => elements.iter().enumerate().find_map(|(index, element)| {
            path.push(format!("[{index}]"));
            let found = in_value(element, path);
            path.pop();
            found
        }),
        Value::Object(members) => members.iter().find_map(|(key, member)| {
            if carries_token(key.as_bytes(), 0) {
                return Some(field(path));
            }
            path.push(key.clone());
            let found = in_value(member, path);
            path.pop();
            found
        }),
        _ => None,
    }
}

/// `data.password`, `items[0].metadata.annotations[a.b/c]`: as Kubernetes writes the field of a cause.
fn field(path: &[String]) -> String {
    let mut field = String::new();
    for step in path {
        if step.starts_with('[') {
            field.push_str(step);
        } else if step.contains(['.', '/']) {
            field.push_str(&format!("[{step}]"));
        } else {
            field.push_str(if field.is_empty() { "" } else { "." });
            field.push_str(step);
        }
    }
    field
}

/// Whether a token is in these bytes, or in what they encode.
pub(crate) fn carries_token(bytes: &[u8], depth: u8) -> bool {
    if find_token(bytes).is_some() {
        return true;
    }
    if depth >= DEEPEST {
        return false;
    }
    escaped(bytes).is_some_and(|unescaped| carries_token(&unescaped, depth + 1)) || in_base64(bytes, depth)
}

/// The bytes without JSON escapes, if there are any: `\u006dasked` is no less a mask.
fn escaped(bytes: &[u8]) -> Option<Vec<u8>> {
    memchr::memchr(b'\\', bytes)?;
    let mut unescaped = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        unescaped.extend_from_slice(&rest[..at]);
        let unicode = rest.get(at + 2..at + 6).filter(|_| rest.get(at + 1) == Some(&b'u'));
        let code = unicode
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u32::from_str_radix(digits, 16).ok());
        match code {
            Some(code) => {
                let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                unescaped.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                rest = &rest[at + 6..];
            }
            None => {
                // `\n` and the like end no word; what is left after one backslash may be another's escape.
                let skip = if matches!(rest.get(at + 1), Some(b'\\' | b'"' | b'/')) { 1 } else { 2 };
                rest = &rest[(at + skip).min(rest.len())..];
                if skip == 1 {
                    unescaped.extend_from_slice(&rest[..1]);
                    rest = &rest[1..];
                }
            }
        }
    }
    unescaped.extend_from_slice(rest);
    Some(unescaped)
}

/// What the middle of `masked:` becomes in base64, by how many bytes of a group come before it.
const HINTS: [&[u8]; 3] = [b"bWFza2Vk", b"c2tl", b"YXNr"];

fn in_base64(bytes: &[u8], depth: u8) -> bool {
    // A second encoding hides the hints of the first: then what `masked:…` in base64 becomes in base64 is no hint either,
    // but any run that is base64 of base64 is short of everything but letters, and is decoded all the same.
    let hinted = HINTS.iter().any(|hint| memmem::find(bytes, hint).is_some());
    let in_alphabet = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(byte);
    let mut rest = bytes;
    while let Some(start) = rest.iter().position(in_alphabet) {
        let length = rest[start..].iter().position(|byte| !in_alphabet(byte)).unwrap_or(rest.len() - start);
        let run = &rest[start..start + length];
        rest = &rest[start + length..];
        if length < 24 {
            continue;
        }
        // Without a hint only a run that is whole base64 is worth a look: some value that was encoded twice.
        let offsets = if hinted { 4 } else { 1 };
        for offset in 0..offsets {
            for url_safe in [false, true] {
                if let Some(decoded) = decode(&run[offset..], url_safe)
                    && carries_token(&decoded, depth + 1)
                {
                    return true;
                }
            }
        }
    }
    false
}

/// Decodes as much as there is of whole groups.
fn decode(run: &[u8], url_safe: bool) -> Option<Vec<u8>> {
    if run.iter().any(|byte| if url_safe { b"+/".contains(byte) } else { b"-_".contains(byte) })
        || (url_safe && !run.iter().any(|byte| b"-_".contains(byte)))
    {
        return None;
    }
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let engine = GeneralPurpose::new(if url_safe { &URL_SAFE } else { &STANDARD }, config);
    // One character alone at the end stands for nothing.
    let whole = if run.len() % 4 == 1 { &run[..run.len() - 1] } else { run };
    engine.decode(whole).ok()
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use proptest::prelude::*;

    use super::*;

    const TOKEN: &str = "masked:secrets:0123456789abcdef";

    fn check(content_type: Option<&str>, body: &str, expected: Option<Option<&str>>) {
        let found = seek(content_type, &Bytes::copy_from_slice(body.as_bytes()));
        assert_eq!(found.as_ref().map(|found| found.field.as_deref()), expected, "{body}");
    }

    #[test]
    fn tokens_are_found_in_every_format() {
        let base64 = STANDARD.encode(TOKEN);
        let json = Some("application/json");
        check(json, &format!(r#"{{"data":{{"p":"{base64}"}}}}"#), Some(Some("data.p")));
        check(json, &format!(r#"{{"stringData":{{"a.b":"x {TOKEN} y"}}}}"#), Some(Some("stringData[a.b]")));
        check(json, r#"{"a":["\u006dasked:secrets:\u0030123456789abcdef"]}"#, Some(Some("a[0]")));
        check(
            Some("application/json-patch+json"),
            &format!(r#"[{{"op":"add","value":"{TOKEN}"}}]"#),
            Some(Some("[0].value")),
        );
        check(Some("application/apply-patch+yaml"), &format!("data:\n  p: {base64}\n"), Some(Some("data.p")));
        check(
            Some("application/yaml"),
            "a: 1\n---\nb: \"\\x6dasked:secrets:0123456789abcdef\"\n",
            Some(Some("b")),
        );
        check(None, &format!("a: {TOKEN}"), Some(Some("a")));
        check(Some("application/vnd.kubernetes.protobuf"), &format!("k8s\0\x01\x02{TOKEN}\x03"), Some(None));
        check(json, &format!("not json {TOKEN}"), Some(None));
        check(json, &format!(r#"{{"{TOKEN}":1}}"#), Some(Some("")));
        check(json, r#"{"data":{"p":"aHVudGVyMg=="},"note":"masked: yes"}"#, None);
        check(Some("application/yaml"), "a: [1, 2", None);
    }

    #[test]
    fn tokens_are_found_in_disguise() {
        let applied = format!(r#"{{"data":{{"p":"{}"}}}}"#, STANDARD.encode(TOKEN));
        let object =
            serde_json::json!({ "metadata": { "annotations": { "k.io/last": applied } } }).to_string();
        check(None, &object, Some(Some("metadata.annotations[k.io/last]")));
        let docker =
            format!(r#"{{"auths":{{"r":{{"auth":"{}"}}}}}}"#, STANDARD.encode(format!("user:{TOKEN}")));
        let object =
            serde_json::json!({ "data": { ".dockerconfigjson": STANDARD.encode(docker) } }).to_string();
        check(None, &object, Some(Some("data[.dockerconfigjson]")));
        let twice = STANDARD.encode(STANDARD.encode(TOKEN));
        check(None, &serde_json::json!({ "data": { "p": twice } }).to_string(), Some(Some("data.p")));
    }

    proptest! {
        #[test]
        fn whatever_stands_around_it(before in "[ -~]{0,9}", after in "[ -~]{0,9}", junk in "[A-Za-z0-9]{0,3}", url_safe: bool) {
            let text = format!("{before}{TOKEN}{after}");
            let encoded = if url_safe { URL_SAFE_NO_PAD.encode(&text) } else { STANDARD.encode(&text) };
            let body = serde_json::json!({ "data": { "p": format!("{junk}{encoded}") } }).to_string();
            prop_assert!(seek(None, &Bytes::from(body)).is_some());
        }

        #[test]
        fn never_panics_and_rarely_cries_wolf(body in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(seek(None, &Bytes::from(body)), None);
        }
    }
}
