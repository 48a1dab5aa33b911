//! What a ticket keeps of a request: redacted, bounded, and in words.

use bytes::Bytes;
use http::{
    HeaderMap, Method, Uri,
    header::{CONTENT_TYPE, USER_AGENT},
};
use portcullis_core::{AuditId, RedactedCopy, Redactor, RequestInfo};
use serde_json::Value;

use crate::{
    digest::is_stream,
    ticket::{HeldBody, HeldRequest},
};

/// The header in which a client may say why it wants what it asks for.
pub(crate) const REASON_HEADER: &str = "portcullis-reason";

/// How much of a body is kept; people read it.
const LARGEST_BODY: usize = 256 << 10;
/// How much of any other text is kept.
const LONGEST_TEXT: usize = 2048;

/// A redactor for services without one: it keeps no body, no query and no free text.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeepNothing;

impl Redactor for KeepNothing {
    fn body(&self, _: &RequestInfo, _: Option<&str>, _: &Bytes) -> RedactedCopy {
        RedactedCopy::Withheld { digest: String::new(), reason: "there is no redactor".into() }
    }

    fn uri(&self, _: &RequestInfo, uri: &Uri) -> String {
        uri.path().to_owned()
    }

    fn text(&self, _: &str) -> String {
        "(withheld)".into()
    }

    fn name(&self, name: &str) -> String {
        name.to_owned()
    }
}

/// A redacted copy of a request.
pub(crate) fn copy(
    redactor: &dyn Redactor,
    audit_id: Option<AuditId>,
    info: &RequestInfo,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &Bytes,
) -> HeldRequest {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let free_text = |name: &str| header(name).map(|text| bounded(redactor.text(text)));
    let content_type = header(CONTENT_TYPE.as_str());
    let body = match body.is_empty() || is_stream(info) {
        true => HeldBody::None,
        false => match redactor.body(info, content_type, body) {
            RedactedCopy::Redacted(bytes) if bytes.len() > LARGEST_BODY => {
                HeldBody::Withheld { digest: String::new(), reason: "it is too long to be shown".into() }
            }
            RedactedCopy::Redacted(bytes) => {
                HeldBody::Redacted { text: String::from_utf8_lossy(&bytes).into_owned() }
            }
            RedactedCopy::Withheld { digest, reason } => HeldBody::Withheld { digest, reason },
        },
    };
    HeldRequest {
        audit_id,
        info: info.redacted(redactor),
        method: method.to_string(),
        uri: bounded(redactor.uri(info, uri)),
        command: bounded(in_words(redactor, info, method, uri, &body)),
        content_type: content_type.map(str::to_owned),
        body,
        reason: free_text(REASON_HEADER),
        user_agent: free_text(USER_AGENT.as_str()),
    }
}

/// The request as one would type it: `delete pods web -n shop`, or `POST /orders/7/refunds`.
fn in_words(
    redactor: &dyn Redactor,
    info: &RequestInfo,
    method: &Method,
    uri: &Uri,
    body: &HeldBody,
) -> String {
    if !info.is_resource_request {
        return format!("{method} {}", redactor.uri(info, uri));
    }
    let mut info = info.redacted(redactor);
    if info.name.is_empty() && info.verb == "create" {
        info.name = name_in(body);
    }
    info.in_words(uri.query(), |text| redactor.text(text))
}

/// The name of a new object, which stands only in its (redacted) body.
fn name_in(body: &HeldBody) -> String {
    let HeldBody::Redacted { text } = body else { return String::new() };
    let object: Value = serde_json::from_str(text).unwrap_or_default();
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    match (text("/metadata/name"), text("/metadata/generateName")) {
        (Some(name), _) => name.to_owned(),
        (None, Some(prefix)) => format!("{prefix}*"),
        (None, None) => String::new(),
    }
}

/// The text, cut where it is too long, without control characters: it is printed on people's terminals.
fn bounded(text: String) -> String {
    let mut kept: String =
        text.chars().take(LONGEST_TEXT).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(LONGEST_TEXT).is_some() {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Keep;

    impl Redactor for Keep {
        fn body(&self, _: &RequestInfo, _: Option<&str>, body: &Bytes) -> RedactedCopy {
            RedactedCopy::Redacted(body.clone())
        }

        fn uri(&self, _: &RequestInfo, uri: &Uri) -> String {
            uri.to_string()
        }

        fn text(&self, text: &str) -> String {
            text.replace("hunter2", "***")
        }
    }

    fn info(verb: &str, group: &str, namespace: &str, resource: &str, name: &str) -> RequestInfo {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        RequestInfo {
            is_resource_request: true,
            verb: verb.into(),
            api_group: group.into(),
            namespace: namespace.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..RequestInfo::default()
        }
    }

    fn check(info: RequestInfo, uri: &str, body: &'static str, expected: &str) {
        let body = Bytes::from_static(body.as_bytes());
        let held = copy(&Keep, None, &info, &Method::POST, &uri.parse().unwrap(), &HeaderMap::new(), &body);
        assert_eq!(held.command, expected);
    }

    #[test]
    fn requests_are_put_in_words() {
        check(info("delete", "", "shop", "pods", "web"), "/", "", "delete pods web -n shop");
        check(
            info("create", "rbac.authorization.k8s.io", "", "clusterrolebindings", ""),
            "/",
            r#"{"metadata":{"name":"ops"}}"#,
            "create clusterrolebindings.rbac.authorization.k8s.io ops",
        );
        check(
            info("get", "", "shop", "pods/exec", "web"),
            "/x?command=mysql&command=-phunter2&command=a%20b&stdin=true",
            "",
            "exec web -n shop -i -- mysql '-p***' 'a b'",
        );
        check(
            info("update", "apps", "a", "deployments/scale", "x"),
            "/",
            "{}",
            "scale deployments.apps x -n a",
        );
        check(RequestInfo::non_resource(&Method::POST, "/pay"), "/pay?x=1", "", "POST /pay?x=1");
    }

    #[test]
    fn what_is_kept_is_bounded_and_printable() {
        assert_eq!(bounded("a\u{1b}[31mb".into()), "a\u{fffd}[31mb");
        assert_eq!(bounded("x".repeat(3000)).chars().count(), LONGEST_TEXT + 1);
    }

    #[test]
    fn without_a_redactor_nothing_a_client_wrote_is_kept() {
        let mut headers = HeaderMap::new();
        headers.insert(REASON_HEADER, http::HeaderValue::from_static("hunter2"));
        let info = info("get", "", "shop", "pods/exec", "web");
        let uri: Uri = "/x?command=hunter2".parse().unwrap();
        let held = copy(&KeepNothing, None, &info, &Method::GET, &uri, &headers, &Bytes::from("hunter2"));
        assert!(!serde_json::to_string(&held).unwrap().contains("hunter2"));
    }
}
