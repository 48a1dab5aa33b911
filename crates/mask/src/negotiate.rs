//! Content negotiation: the server is asked only for what can be masked, and what it answers is recognised.

use http::{
    HeaderMap, HeaderValue,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, IF_RANGE, RANGE},
};
use portcullis_core::{Reason, Refusal, RequestInfo};

/// Rewrites a request's headers so that the answer can be read.
///
/// For Kubernetes resources: `Accept` keeps JSON and its variants (`as=Table` and the like), and loses CBOR and YAML; protobuf
/// it keeps if the client accepts no JSON. For a client that accepts only YAML it asks for JSON: but not for a watch, which the
/// API server has in YAML as little as we do. What has a weight of 0 is not accepted.
///
/// # Errors
///
/// 406 if nothing is left: better no answer than one that cannot be masked.
pub(crate) fn ask_for_readable(headers: &mut HeaderMap, info: &RequestInfo) -> Result<Wanted, Refusal> {
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    // A range of a document is no document.
    headers.remove(RANGE);
    headers.remove(IF_RANGE);
    let proxied = info.subresource == "proxy";
    if !info.is_resource_request || info.subresource == "log" || (info.is_connect() && !proxied) {
        return Ok(Wanted::AsItComes);
    }
    if !headers.contains_key(ACCEPT) {
        if !proxied {
            headers.insert(ACCEPT, HeaderValue::from_static(JSON));
        }
        return Ok(Wanted::AsItComes);
    }
    let ranges: Vec<Range> =
        headers.get_all(ACCEPT).iter().flat_map(|value| list(value).map(Range::parse)).collect();
    let (mut kept, mut protobuf, mut yaml): (Vec<String>, Vec<String>, Vec<String>) = Default::default();
    let keep = |list: &mut Vec<String>, range: &Range, essence: &str| {
        let range = range.written_as(essence);
        if !list.contains(&range) {
            list.push(range);
        }
    };
    for range in ranges.iter().filter(|range| range.weight > 0.0) {
        let wildcard = ["*/*", "application/*"].contains(&range.essence.as_str());
        match range.essence.as_str() {
            essence if proxied && (is_kubernetes_binary(essence) || is_yaml(essence)) => {}
            essence if proxied => keep(&mut kept, range, essence),
            essence if is_json(essence) => keep(&mut kept, range, essence),
            PROTOBUF => keep(&mut protobuf, range, PROTOBUF),
            YAML => keep(&mut yaml, range, JSON),
            // A wildcard means whatever is not refused by a name that says more.
            _ if !wildcard || (range.essence == "*/*" && refuses(&ranges, "application/*")) => {}
            _ if !refuses(&ranges, JSON) => keep(&mut kept, range, JSON),
            _ if !refuses(&ranges, PROTOBUF) => keep(&mut protobuf, range, PROTOBUF),
            _ if !refuses(&ranges, YAML) => keep(&mut yaml, range, JSON),
            _ => {}
        }
    }
    if proxied && !kept.is_empty() {
        // What the client refuses, the service is told, too.
        for range in ranges.iter().filter(|range| range.weight <= 0.0) {
            keep(&mut kept, range, &range.essence);
        }
    }
    let watch = info.verb == "watch";
    let (accept, wanted) = match (kept.is_empty(), protobuf.is_empty(), yaml.is_empty() || watch) {
        (false, ..) => (kept, Wanted::AsItComes),
        (_, false, _) => (protobuf, Wanted::AsItComes),
        (.., false) => (yaml, Wanted::Yaml),
        _ => (Vec::new(), Wanted::AsItComes),
    };
    match HeaderValue::from_str(&accept.join(",")) {
        Ok(value) if !accept.is_empty() => {
            headers.insert(ACCEPT, value);
            Ok(wanted)
        }
        _ if watch => Err(not_acceptable("JSON and protobuf")),
        _ => Err(not_acceptable("JSON, protobuf and YAML")),
    }
}

fn not_acceptable(readable: &str) -> Refusal {
    let message = format!(
        "the answer may hold secrets, which are masked in {readable} only, and the client accepts none of these"
    );
    Refusal::new(Reason::NotAcceptable, "mask/not-acceptable", message)
        .advice("let the client accept application/json")
}

/// In which form the client wants an answer in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    AsItComes,
    Yaml,
}

/// A media range of an `Accept` header (RFC 9110 §12.5.1).
struct Range {
    /// In lower case.
    essence: String,
    /// As they were written, the weight among them.
    parameters: String,
    weight: f32,
}

impl Range {
    fn parse(range: &str) -> Self {
        let (essence, parameters) = range.split_once(';').unwrap_or((range, ""));
        Self {
            essence: essence.trim().to_ascii_lowercase(),
            parameters: parameters.to_owned(),
            weight: weight(parameters),
        }
    }

    /// The same for another type.
    fn written_as(&self, essence: &str) -> String {
        let separator = if self.parameters.is_empty() { "" } else { ";" };
        format!("{essence}{separator}{}", self.parameters)
    }
}

/// Whether a type, with whatever parameters, is not accepted. (A variant that is not, such as `as=Table;q=0`, says nothing of the
/// type itself.)
fn refuses(ranges: &[Range], essence: &str) -> bool {
    let mut refused = ranges.iter().filter(|range| range.weight <= 0.0 && range.essence == essence);
    refused.any(|range| range.parameters.split(';').count() == 1)
}

/// The members of a list (RFC 9110 §5.6.1); none of what is not ASCII.
fn list(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value.to_str().unwrap_or_default().split(',').map(str::trim).filter(|member| !member.is_empty())
}

/// The weight among parameters (RFC 9110 §12.4.2): 1 if there is none that can be read.
fn weight(parameters: &str) -> f32 {
    let parameters = parameters.split(';').filter_map(|parameter| parameter.split_once('='));
    let mut weights = parameters.filter(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
    weights.next().and_then(|(_, weight)| weight.trim().parse().ok()).unwrap_or(1.0)
}

/// Whether a client likes gzip at least as well as no coding (RFC 9110 §12.5.3).
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let (mut gzip, mut any, mut identity) = (None, None, None);
    for member in headers.get_all(ACCEPT_ENCODING).iter().flat_map(list) {
        let (coding, parameters) = member.split_once(';').unwrap_or((member, ""));
        let weight = weight(parameters);
        match coding.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => gzip = Some(weight),
            "identity" => identity = Some(weight),
            "*" => any = Some(weight),
            _ => {}
        }
    }
    let gzip = gzip.or(any).unwrap_or(0.0);
    gzip > 0.0 && gzip >= identity.unwrap_or(0.0)
}

const JSON: &str = "application/json";

/// The media type of Kubernetes' YAML, the only one for it that the API server knows.
pub(crate) const YAML: &str = "application/yaml";

/// The media type of Kubernetes' protobuf.
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// How an answer's body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Identity,
    Gzip,
    Unknown,
}

pub(crate) fn coding(headers: &HeaderMap) -> Coding {
    let mut coding = Coding::Identity;
    for value in headers.get_all(CONTENT_ENCODING) {
        coding = match (coding, value.as_bytes().to_ascii_lowercase().as_slice()) {
            (coding, b"identity" | b"") => coding,
            (Coding::Identity, b"gzip" | b"x-gzip") => Coding::Gzip,
            _ => return Coding::Unknown,
        };
    }
    coding
}

/// An answer's content type, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Media {
    Json,
    /// JSON documents, one after another.
    JsonSequence,
    Text,
    /// One object in Kubernetes' protobuf.
    Protobuf,
    /// The events of a watch in Kubernetes' protobuf.
    ProtobufEvents,
    /// CBOR, YAML or other protobuf, which hold the same objects as JSON does.
    KubernetesBinary,
    Other,
    Missing,
}

pub(crate) fn media(headers: &HeaderMap) -> (Media, String) {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let Some(value) = values.next() else { return (Media::Missing, "no content type".to_owned()) };
    let Ok(text) = value.to_str() else { return (Media::Other, "an unreadable content type".to_owned()) };
    let mut parts = text.split(';').map(|part| part.trim().to_ascii_lowercase());
    let essence = parts.next().unwrap_or_default();
    let parameters: Vec<String> = parts.collect();
    let utf8 = parameters
        .iter()
        .filter_map(|parameter| parameter.strip_prefix("charset="))
        .all(|charset| ["utf-8", "utf8", "us-ascii"].contains(&charset.trim_matches('"')));
    let media = match essence.as_str() {
        // Two answers to one question, or characters that are read otherwise than they look.
        _ if !utf8 || values.next().is_some() => Media::Other,
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonl" => {
            Media::JsonSequence
        }
        _ if is_json(&essence) && parameters.iter().any(|parameter| parameter == "stream=watch") => {
            Media::JsonSequence
        }
        _ if is_json(&essence) => Media::Json,
        "text/plain" => Media::Text,
        PROTOBUF if parameters.iter().any(|parameter| parameter == "stream=watch") => Media::ProtobufEvents,
        PROTOBUF => Media::Protobuf,
        _ if is_kubernetes_binary(&essence) || is_yaml(&essence) => Media::KubernetesBinary,
        _ => Media::Other,
    };
    (media, essence)
}

/// `application/json`, or a type built on it (RFC 6839).
pub(crate) fn is_json(essence: &str) -> bool {
    essence == "application/json" || essence == "text/json" || essence.ends_with("+json")
}

pub(crate) fn is_yaml(essence: &str) -> bool {
    ["application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"].contains(&essence)
        || essence.ends_with("+yaml")
}

fn is_kubernetes_binary(essence: &str) -> bool {
    essence == PROTOBUF
        || essence == "application/cbor"
        || essence == "application/cbor-seq"
        || essence.ends_with("+protobuf")
        || essence.ends_with("+cbor")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(subresource: &str, accept: &str, expected: Result<&str, &str>) {
        let verb = if subresource == "watch" { "watch" } else { "get" };
        let subresource = subresource.trim_start_matches("watch");
        let info = RequestInfo {
            is_resource_request: true,
            verb: verb.into(),
            resource: "pods".into(),
            subresource: subresource.into(),
            ..RequestInfo::default()
        };
        let mut headers = HeaderMap::new();
        if !accept.is_empty() {
            headers.insert(ACCEPT, accept.parse().unwrap());
        }
        let asked = ask_for_readable(&mut headers, &info);
        let sent = headers.get(ACCEPT).map_or("", |value| value.to_str().unwrap());
        let written = match &asked {
            Ok(Wanted::Yaml) => format!("{sent} as YAML"),
            _ => sent.to_owned(),
        };
        let found = asked.as_ref().map(|_| written.as_str()).map_err(Refusal::code);
        assert_eq!(found, expected, "{accept}");
        assert_eq!(headers[ACCEPT_ENCODING], "identity");
    }

    #[test]
    fn the_server_is_asked_for_what_can_be_masked() {
        check("", "", Ok("application/json"));
        check("", "application/json", Ok("application/json"));
        check("", "*/*", Ok("application/json"));
        check("", "application/json, */*", Ok("application/json"));
        check("", "application/vnd.kubernetes.protobuf,application/json;q=0.9", Ok("application/json;q=0.9"));
        check(
            "",
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            Ok(
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            ),
        );
        let protobuf = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        check("", protobuf, Ok(protobuf));
        check("", &format!("application/cbor, {protobuf}"), Ok(protobuf));
        check("", "application/cbor", Err("mask/not-acceptable"));
        check("", "application/x-yaml", Err("mask/not-acceptable"));
        check("", "text/html,application/xhtml+xml,*/*;q=0.8", Ok("application/json;q=0.8"));
    }

    #[test]
    fn yaml_is_asked_for_as_json() {
        let protobuf = "application/vnd.kubernetes.protobuf";
        check("", "application/yaml", Ok("application/json as YAML"));
        check("", "Application/YAML ; q=0.5", Ok("application/json; q=0.5 as YAML"));
        let table = ";as=Table;v=v1;g=meta.k8s.io";
        check("", &format!("application/yaml{table}"), Ok(&format!("application/json{table} as YAML")));
        // What streams goes first.
        check("", "application/yaml, application/json;q=0.1", Ok("application/json;q=0.1"));
        check("", &format!("application/yaml, {protobuf}"), Ok(protobuf));
        check("", "application/yaml, application/cbor", Ok("application/json as YAML"));
        let neither = format!("*/*, application/json;q=0, {protobuf};q=0");
        check("", &neither, Ok("application/json as YAML"));
        check("watch", &neither, Err("mask/not-acceptable"));
        check("watch", "application/yaml", Err("mask/not-acceptable"));
        check("watch", "application/yaml, application/json", Ok("application/json"));
        check("proxy", "application/yaml", Err("mask/not-acceptable"));
    }

    #[test]
    fn what_has_no_weight_is_not_accepted() {
        let protobuf = "application/vnd.kubernetes.protobuf";
        check("", "application/json;q=0", Err("mask/not-acceptable"));
        check("", "application/json; q=0.000, application/cbor", Err("mask/not-acceptable"));
        check("", "*/*;q=0", Err("mask/not-acceptable"));
        check("", "*/*;q=0, application/json;Q=1", Ok("application/json;Q=1"));
        check("", "application/json;q=0.001", Ok("application/json;q=0.001"));
        check("", &format!("application/json;q=0, {protobuf}"), Ok(protobuf));
        check("", &format!("application/json, {protobuf};q=0"), Ok("application/json"));
        // What says more decides.
        check("", "*/*, application/json;q=0", Ok(protobuf));
        check("", "application/*, application/json;q=0", Ok(protobuf));
        check("", "*/*, application/*;q=0", Err("mask/not-acceptable"));
        check("", "application/yaml;q=0", Err("mask/not-acceptable"));
        let none = format!("*/*, application/json;q=0, {protobuf};q=0, application/yaml;q=0");
        check("", &none, Err("mask/not-acceptable"));
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        check("", &format!("{table};q=0, */*"), Ok("application/json"));
        check("", &format!("{table}, application/json;q=0"), Ok(table));
        // A weight that is none does not make a type unwelcome.
        check("", "application/json;q=high", Ok("application/json;q=high"));
        check("proxy", "text/html, image/png;q=0", Ok("text/html,image/png;q=0"));
        check("proxy", "application/yaml, image/png;q=0", Err("mask/not-acceptable"));
    }

    #[test]
    fn gzip_is_for_those_who_want_it() {
        for (accepts, expected) in [
            ("", false),
            ("gzip", true),
            ("deflate, X-GZIP ; q=0.5", true),
            ("*", true),
            ("gzip;q=0", false),
            ("gzip;q=0, *", false),
            ("*;q=0", false),
            ("br", false),
            ("identity;q=1, gzip;q=0.5", false),
            ("identity;q=0.5, gzip", true),
            ("identity, *;q=0.1", false),
            ("gzip;q=x", true),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, accepts.parse().unwrap())]);
            assert_eq!(accepts_gzip(&headers), expected, "{accepts}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn logs_and_connections_negotiate_by_themselves() {
        check("log", "application/vnd.kubernetes.protobuf", Ok("application/vnd.kubernetes.protobuf"));
        check("exec", "*/*", Ok("*/*"));
        check("proxy", "text/html, application/vnd.kubernetes.protobuf", Ok("text/html"));
        check("proxy", "", Ok(""));
        check("proxy", "application/vnd.kubernetes.protobuf", Err("mask/not-acceptable"));
    }

    #[test]
    fn answers_are_recognised() {
        for (content_type, expected) in [
            ("application/json", Media::Json),
            ("Application/JSON; charset=UTF-8", Media::Json),
            ("application/json;as=Table;v=v1;g=meta.k8s.io", Media::Json),
            ("application/json;stream=watch", Media::JsonSequence),
            ("application/json; charset=utf-16", Media::Other),
            ("application/problem+json", Media::Json),
            ("application/x-ndjson", Media::JsonSequence),
            ("text/plain; charset=utf-8", Media::Text),
            ("application/vnd.kubernetes.protobuf", Media::Protobuf),
            ("application/vnd.kubernetes.protobuf;stream=watch", Media::ProtobufEvents),
            ("application/com.github.proto-openapi.spec.v2@v1.0+protobuf", Media::KubernetesBinary),
            ("application/yaml", Media::KubernetesBinary),
            ("application/octet-stream", Media::Other),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, content_type.parse().unwrap())]);
            assert_eq!(media(&headers).0, expected, "{content_type}");
        }
        assert_eq!(media(&HeaderMap::new()).0, Media::Missing);
    }
}
