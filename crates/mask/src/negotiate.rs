//! Content negotiation: the server is asked only for what can be masked, and what it answers is recognised.

use http::{
    HeaderMap, HeaderValue,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, IF_RANGE, RANGE},
};
use portcullis_core::{Reason, Refusal, RequestInfo};

/// Rewrites a request's headers so that the answer can be read.
///
/// For Kubernetes resources: `Accept` keeps JSON and its variants (`as=Table` and the like), and loses CBOR and YAML; protobuf
/// it keeps if the client accepts no JSON.
///
/// # Errors
///
/// 406 if nothing is left: better no answer than one that cannot be masked.
pub(crate) fn ask_for_readable(headers: &mut HeaderMap, info: &RequestInfo) -> Result<(), Refusal> {
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    // A range of a document is no document.
    headers.remove(RANGE);
    headers.remove(IF_RANGE);
    let proxied = info.subresource == "proxy";
    if !info.is_resource_request || info.subresource == "log" || (info.is_connect() && !proxied) {
        return Ok(());
    }
    if !headers.contains_key(ACCEPT) {
        if !proxied {
            headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        }
        return Ok(());
    }
    let (mut kept, mut protobuf): (Vec<String>, Vec<String>) = Default::default();
    for value in headers.get_all(ACCEPT) {
        for range in
            value.to_str().unwrap_or_default().split(',').map(str::trim).filter(|range| !range.is_empty())
        {
            let (essence, parameters) = range.split_once(';').unwrap_or((range, ""));
            let essence = essence.trim().to_ascii_lowercase();
            if essence == PROTOBUF && !proxied {
                protobuf.push(range.to_owned());
            }
            let keep = match essence.as_str() {
                _ if proxied => (!is_kubernetes_binary(&essence) && !is_yaml(&essence)).then_some(essence),
                "*/*" | "application/*" => Some("application/json".to_owned()),
                _ => is_json(&essence).then_some(essence),
            };
            if let Some(essence) = keep {
                let separator = if parameters.is_empty() { "" } else { ";" };
                let range = format!("{essence}{separator}{parameters}");
                if !kept.contains(&range) {
                    kept.push(range);
                }
            }
        }
    }
    let kept = if kept.is_empty() { protobuf } else { kept };
    match HeaderValue::from_str(&kept.join(",")) {
        Ok(accept) if !kept.is_empty() => {
            headers.insert(ACCEPT, accept);
            Ok(())
        }
        _ => Err(Refusal::new(
            Reason::NotAcceptable,
            "mask/not-acceptable",
            "the answer may hold secrets, which are masked in JSON and protobuf only, and the client accepts neither",
        )
        .advice("let the client accept application/json")),
    }
}

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
        let info = RequestInfo {
            is_resource_request: true,
            resource: "pods".into(),
            subresource: subresource.into(),
            ..RequestInfo::default()
        };
        let mut headers = HeaderMap::new();
        if !accept.is_empty() {
            headers.insert(ACCEPT, accept.parse().unwrap());
        }
        let refused = ask_for_readable(&mut headers, &info).err();
        let found = match &refused {
            Some(refusal) => Err(refusal.code()),
            None => Ok(headers.get(ACCEPT).map_or("", |value| value.to_str().unwrap())),
        };
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
        check("", "application/yaml", Err("mask/not-acceptable"));
        check("", "text/html,application/xhtml+xml,*/*;q=0.8", Ok("application/json;q=0.8"));
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
