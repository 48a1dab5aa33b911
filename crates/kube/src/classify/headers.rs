//! Headers of which there may be one only, and pairs that must agree.

use http::{HeaderName, header, request::Parts};
use portcullis_core::Refusal;

/// Headers that decide who asks, whom, or what the body is. Two of one are two answers.
const SINGLE: [HeaderName; 7] = [
    header::AUTHORIZATION,
    header::HOST,
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::EXPECT,
    HeaderName::from_static("impersonate-user"),
    HeaderName::from_static("impersonate-uid"),
];

pub(super) fn check(parts: &Parts) -> Result<(), Refusal> {
    let headers = &parts.headers;
    for name in &SINGLE {
        if headers.get_all(name).iter().nth(1).is_some() {
            return Err(ambiguous(format!("there is more than one {name} header")));
        }
    }
    if headers.contains_key(header::CONTENT_LENGTH) && headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(ambiguous("the request has both a Content-Length and a Transfer-Encoding"));
    }
    if headers.get(header::AUTHORIZATION).is_some_and(|value| value.to_str().is_err()) {
        return Err(ambiguous("the Authorization header has characters that are not visible ASCII"));
    }
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = headers.get(header::HOST).map(|host| host.as_bytes());
    if let (Some(authority), Some(host)) = (authority, host)
        && !authority.eq_ignore_ascii_case(host)
    {
        return Err(ambiguous("the Host header differs from the request target's authority"));
    }
    Ok(())
}

fn ambiguous(message: impl Into<String>) -> Refusal {
    Refusal::bad_request("kube/ambiguous-headers", message)
}
