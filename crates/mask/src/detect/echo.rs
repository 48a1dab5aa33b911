//! What a server's message echoes of a request: its body, or values of it. A whole message is looked at, never a stream.

use std::{ops::Range, sync::LazyLock};

use regex::Regex;

use crate::Detector;

/// Where, in a whole message, values of a request are echoed. Ranges are in order and do not overlap.
pub(crate) fn echoes(text: &str, detector: Detector) -> Vec<Range<usize>> {
    match detector {
        Detector::EchoedJson => echoed_json(text).into_iter().collect(),
        Detector::EchoedValue => echoed_values(text),
        _ => Vec::new(),
    }
}

/// From the first object that begins with a quoted key and a colon, or that Go has printed as it prints maps and pointers
/// (`map[data:map[a:b]]`, `&{[a b]}`, `&value.valueUnstructured{…}`), to the last closing bracket, or to the end. Go prints lists
/// of names as `["a" "b"]`, structs without quotes, and types as `map[string]string`: those are no echoes.
fn echoed_json(text: &str) -> Option<Range<usize>> {
    static START: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r#"(?:\[\s*)?\{\s*\\*"[^"]*"\s*(?::|$)|\bmap\[[^\]\s]*:|&\{|&value\.\w+\{"#).ok()
    });
    let start = match START.as_ref() {
        Some(start) => start.find(text)?.start(),
        None => text.find(['{', '['])?,
    };
    let end = text.rfind(['}', ']']).filter(|end| *end > start).map_or(text.len(), |end| end + 1);
    Some(start..end)
}

fn echoed_values(text: &str) -> Vec<Range<usize>> {
    static INVALID: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r#"(?:\b(?:data|stringData|env)\b[^:\s]*): (?:Invalid|Unsupported|Duplicate) value: (\\*"(?:[^"\\]|\\.)*"?)"#).ok()
    });
    static BASE64: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[A-Za-z0-9+/]{14,}={0,2}").ok());
    let (Some(invalid), Some(base64)) = (INVALID.as_ref(), BASE64.as_ref()) else {
        return std::iter::once(0..text.len()).collect();
    };
    let mut ranges: Vec<_> =
        invalid.captures_iter(text).filter_map(|found| Some(found.get(1)?.range())).collect();
    let encoded = base64.find_iter(text).filter(|found| looks_encoded(found.as_str()));
    ranges.extend(encoded.map(|found| found.range()));
    ranges.sort_by_key(|range| range.start);
    let mut last = 0;
    ranges.retain(|range| {
        let apart = range.start >= last;
        last = last.max(range.end);
        apart
    });
    ranges
}

/// base64 rather than a name in CamelCase, a path or a number: letters of both cases that no word would mix so.
fn looks_encoded(run: &str) -> bool {
    if run.ends_with('=') {
        return run.len().is_multiple_of(4);
    }
    let mut after_upper = false;
    let mut oddities = 0;
    for byte in run.bytes() {
        oddities += usize::from(byte.is_ascii_digit() || byte == b'+');
        oddities += usize::from(after_upper && byte.is_ascii_uppercase());
        after_upper = byte.is_ascii_uppercase();
    }
    run.len().is_multiple_of(4)
        && run.bytes().any(|byte| byte.is_ascii_uppercase())
        && run.bytes().any(|byte| byte.is_ascii_lowercase())
        && oddities * 8 >= run.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, detector: Detector, expected: &[&str]) {
        let found: Vec<_> = echoes(text, detector).into_iter().map(|range| &text[range]).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn echoed_bodies_are_found() {
        let json = Detector::EchoedJson;
        let rbac =
            r#"user "a" (groups=["agents" "b"]) is attempting to grant: {APIGroups:["*"], Verbs:["*"]}"#;
        check(rbac, json, &[]);
        check(
            r#"Object 'Kind' is missing in '{"apiVersion":"v1","data":{"p":"aHVudGVyMg=="}}'"#,
            json,
            &[r#"{"apiVersion":"v1","data":{"p":"aHVudGVyMg=="}}"#],
        );
        check(r#"bad body: [{"op":"add"}] sorry"#, json, &[r#"[{"op":"add"}]"#]);
        check(r#"cut off {\"data\":{\"p\":\"aHVu"#, json, &[r#"{\"data\":{\"p\":\"aHVu"#]);
        check(r#"secrets "db" is forbidden: User "x" cannot get [a b]"#, json, &[]);
        check(
            r#".data.password: expected string, got &value.valueUnstructured{Value:[]interface {}{"hunter2"}}"#,
            json,
            &[r#"&value.valueUnstructured{Value:[]interface {}{"hunter2"}}"#],
        );
        check(".data: expected map, got &{[hunter2]}", json, &["&{[hunter2]}"]);
        let printed = r#"patch: Invalid value: "map[stringData:[hunter2]]": cannot restore slice from map"#;
        check(printed, json, &["map[stringData:[hunter2]]"]);
        check(
            "cannot unmarshal string into Go struct field Secret.data of type map[string][]uint8",
            json,
            &[],
        );
    }

    #[test]
    fn echoed_values_are_found() {
        let value = Detector::EchoedValue;
        check(
            r#"Secret "db" is invalid: data[password]: Invalid value: "hunter2": too short"#,
            value,
            &[r#""hunter2""#],
        );
        check(r#"metadata.name: Invalid value: "Foo_Bar": must be lower case"#, value, &[]);
        check("illegal value aHVudGVyMmh1bnRlcjI= in body", value, &["aHVudGVyMmh1bnRlcjI="]);
        for harmless in [
            r#"secrets "db-password-very-long-name" not found"#,
            "certificatesigningrequests.certificates.k8s.io is forbidden",
            "ValidatingWebhookConfiguration and PersistentVolumeClaimTemplates",
            "no such path /apis/apps/v1/namespaces/default/deployments",
        ] {
            check(harmless, value, &[]);
        }
    }
}
