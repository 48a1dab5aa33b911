//! Which headers pass, in both directions.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        ALT_SVC, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, SEC_WEBSOCKET_EXTENSIONS,
        SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
    },
};
use portcullis_core::BearerToken;

/// Meant for one connection only (RFC 9110 §7.6.1), whether or not `Connection` names them.
const HOP_BY_HOP: [HeaderName; 6] = [
    CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("http2-settings"),
];

/// Never passed on from a client: who they claim to be, where they claim to come from, and what frames the message (the
/// connection to the API server has a framing of its own).
const FROM_CLIENT: [HeaderName; 12] = [
    ALT_SVC,
    CONTENT_LENGTH,
    COOKIE,
    EXPECT,
    FORWARDED,
    HOST,
    SEC_WEBSOCKET_EXTENSIONS,
    TRAILER,
    VIA,
    HeaderName::from_static("audit-id"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-http-method-override"),
];
const FROM_CLIENT_PREFIXES: [&str; 7] =
    ["authorization", "impersonate-", "portcullis-", "proxy-", "x-forwarded-", "x-original-", "x-remote-"];

/// Never passed back: a proxied page must not set the gateway's own cookies, nor send its clients elsewhere.
const FROM_UPSTREAM: [HeaderName; 4] = [
    ALT_SVC,
    SET_COOKIE,
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("service-worker-allowed"),
];

/// Leaves only what a client may tell an API server.
pub(super) fn strip_request(headers: &mut HeaderMap) {
    let wants_trailers =
        headers.get_all(TE).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
    strip_hop_by_hop(headers);
    BearerToken::strip(headers);
    for name in &FROM_CLIENT {
        headers.remove(name);
    }
    let claims: Vec<HeaderName> = headers.keys().filter(|name| is_claim(name.as_str())).cloned().collect();
    for name in claims {
        headers.remove(name);
    }
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Some servers take `_` for `-`.
fn is_claim(name: &str) -> bool {
    let dashed;
    let name = match name.contains('_') {
        true => {
            dashed = name.replace('_', "-");
            dashed.as_str()
        }
        false => name,
    };
    FROM_CLIENT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || (name == "audit-id" || name == "x-real-ip")
}

/// Leaves only what an API server may tell a client.
pub(super) fn strip_response(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    for name in &FROM_UPSTREAM {
        headers.remove(name);
    }
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn what_a_client_claims_does_not_pass() {
        let mut headers = map(&[
            "Authorization: Bearer secret",
            "Impersonate-User: admin",
            "Impersonate-Group: system:masters",
            "Impersonate-Extra-Scopes: all",
            "impersonate_user: admin",
            "X-Remote-User: admin",
            "X-Remote-Extra-Anything: x",
            "X_Remote_Group: system:masters",
            "Audit-ID: mine",
            "Audit_Id: mine",
            "Cookie: session=1",
            "Connection: keep-alive, X-Custom , Impersonate-User",
            "Connection: Accept-Encoding",
            "X-Custom: 1",
            "Keep-Alive: timeout=5",
            "Proxy-Authorization: Basic x",
            "Proxy-Connection: keep-alive",
            "TE: trailers",
            "Trailer: x",
            "Transfer-Encoding: chunked",
            "Upgrade: h2c",
            "HTTP2-Settings: x",
            "Content-Length: 3",
            "Expect: 100-continue",
            "Host: elsewhere",
            "Forwarded: for=1.2.3.4",
            "X-Forwarded-For: 1.2.3.4",
            "X-Forwarded-Uri: /api/v1/secrets",
            "X-Real-IP: 1.2.3.4",
            "X-Original-URL: /api/v1/secrets",
            "Via: 1.1 x",
            "Sec-WebSocket-Extensions: permessage-deflate",
            "Sec-WebSocket-Protocol: v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.c2VjcmV0",
            "Portcullis-Hold: no-wait",
            "Accept-Encoding: gzip",
            "Accept: application/json",
            "Kubectl-Command: kubectl get",
            "User-Agent: kubectl",
            "Content-Type: application/json",
            "Traceparent: 00-1-2-3",
        ]);
        strip_request(&mut headers);
        let mut left: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        left.sort();
        assert_eq!(
            left,
            [
                "accept: application/json",
                "content-type: application/json",
                "kubectl-command: kubectl get",
                "sec-websocket-protocol: v5.channel.k8s.io",
                "te: trailers",
                "traceparent: 00-1-2-3",
                "user-agent: kubectl",
            ]
        );
    }

    #[test]
    fn what_an_upstream_may_say() {
        let mut headers = map(&[
            "Connection: close, X-Hop",
            "X-Hop: 1",
            "Transfer-Encoding: chunked",
            "Set-Cookie: portcullis_session=x",
            "Alt-Svc: h3=\":443\"",
            "Content-Length: 3",
            "Trailer: X-Checksum",
            "Warning: 299 - \"deprecated\"",
            "Audit-Id: 1",
        ]);
        strip_response(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["audit-id", "content-length", "trailer", "warning"]);
    }
}
