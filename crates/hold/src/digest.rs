//! What exactly people agree to: a digest that is the same for a resend, and for nothing else.

use std::fmt::Write;

use bytes::Bytes;
use http::{
    HeaderMap, Method, Uri,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use percent_encoding::percent_decode_str;
use portcullis_core::{Identity, RequestInfo};
use sha2::{Digest, Sha256};

/// The SHA-256 of everything an approval is bound to, in hexadecimal.
///
/// Each part stands behind its length, so that no two requests are written alike. An exec, attach or port-forward is the
/// same whether it comes as a WebSocket `GET` or a SPDY `POST`: clients fall back from one to the other. `salt` keeps
/// those who read tickets and logs from guessing short secrets in a body.
pub(crate) fn digest(
    salt: &[u8],
    identity: &Identity,
    info: &RequestInfo,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &Bytes,
) -> String {
    let is_stream = is_stream(info);
    let header = |name| headers.get(name).map(http::HeaderValue::as_bytes).unwrap_or_default();
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(b"portcullis-hold/1");
    part(salt);
    part(identity.issuer.as_bytes());
    part(identity.subject.as_bytes());
    part(info.cluster.as_bytes());
    part(if is_stream { b"connect" } else { method.as_str().as_bytes() });
    part(uri.path().as_bytes());
    let query = uri.query().unwrap_or_default();
    match canonical_query(query) {
        Some(pairs) => {
            part(&(pairs.len() as u64).to_be_bytes());
            for (name, value) in pairs {
                part(&name);
                part(&value);
            }
        }
        None => part(query.as_bytes()),
    }
    if !is_stream {
        part(header(CONTENT_TYPE));
        part(header(CONTENT_ENCODING));
        part(body);
    }
    hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether the request's body is a stream between the client and a pod, rather than something to agree to.
pub(crate) fn is_stream(info: &RequestInfo) -> bool {
    info.is_connect() && info.subresource != "proxy"
}

/// The query's pairs, decoded, sorted by name; several of one name keep their order, which means something (`command`).
/// `None` for a query that readers disagree on (Go drops pairs with a semicolon or a broken escape): that one is taken
/// as it is written.
fn canonical_query(query: &str) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let is_escape = |rest: &str| rest.len() >= 2 && rest.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit);
    if query.contains(';') || !query.split('%').skip(1).all(is_escape) {
        return None;
    }
    let decoded = |text: &str| percent_decode_str(&text.replace('+', " ")).collect::<Vec<u8>>();
    let mut pairs: Vec<_> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect();
    pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
    Some(pairs)
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;

    use super::*;

    fn of(
        method: &str,
        uri: &str,
        content_type: &str,
        body: &'static str,
        subresource: &str,
        subject: &str,
    ) -> String {
        let (parts, ()) = Request::builder()
            .method(method)
            .uri(uri)
            .header(CONTENT_TYPE, content_type)
            .body(())
            .unwrap()
            .into_parts();
        let info = RequestInfo {
            is_resource_request: true,
            subresource: subresource.into(),
            ..RequestInfo::default()
        };
        let identity = Identity { issuer: "idp".into(), subject: subject.into(), ..Identity::default() };
        digest(
            b"salt",
            &identity,
            &info,
            &parts.method,
            &parts.uri,
            &parts.headers,
            &Bytes::from_static(body.as_bytes()),
        )
    }

    #[test]
    fn a_resend_has_the_same_digest_and_nothing_else_has() {
        let base = of("POST", "/a?x=1&y=2", "application/json", "{}", "", "bot");
        assert_eq!(base, of("POST", "/a?y=%32&x=1", "application/json", "{}", "", "bot"));
        let ambiguous = |query: &str| of("POST", &format!("/a?{query}"), "", "", "", "bot");
        assert_ne!(ambiguous("x=1;2"), ambiguous("x=1%3B2"));
        assert_ne!(ambiguous("x=1&y=%zz"), ambiguous("x=1&y=%25zz"));
        for other in [
            of("PUT", "/a?x=1&y=2", "application/json", "{}", "", "bot"),
            of("POST", "/b?x=1&y=2", "application/json", "{}", "", "bot"),
            of("POST", "/a?x=1&y=3", "application/json", "{}", "", "bot"),
            of("POST", "/a?x=1y=2", "application/json", "{}", "", "bot"),
            of("POST", "/a?x=1&y=2", "application/yaml", "{}", "", "bot"),
            of("POST", "/a?x=1&y=2", "application/json", "{ }", "", "bot"),
            of("POST", "/a?x=1&y=2", "application/json", "{}", "", "other"),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn an_exec_is_the_same_over_websocket_and_spdy_but_a_proxied_request_is_not() {
        let exec = |method, query: &str| of(method, &format!("/exec?{query}"), "", "", "exec", "bot");
        assert_eq!(exec("GET", "command=ls&command=-l"), exec("POST", "command=ls&command=-l"));
        assert_ne!(exec("GET", "command=ls&command=-l"), exec("GET", "command=-l&command=ls"));
        let proxy = |method, body| of(method, "/proxy", "", body, "proxy", "bot");
        assert_ne!(proxy("GET", ""), proxy("POST", ""));
        assert_ne!(proxy("POST", "a"), proxy("POST", "b"));
    }

    proptest! {
        #[test]
        fn any_query_has_a_canonical_form_that_its_order_does_not_change(
            pairs in prop::collection::btree_map("[a-z]{1,4}", "[a-z %+]{0,4}", 0..5),
        ) {
            let forward: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let backward: Vec<String> = forward.iter().rev().cloned().collect();
            prop_assert_eq!(canonical_query(&forward.join("&")), canonical_query(&backward.join("&")));
        }
    }
}
