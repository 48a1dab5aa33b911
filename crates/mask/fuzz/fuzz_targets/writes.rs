//! What clients write: a mask is found in every content type, and nothing makes the guard fall over.

#![no_main]

use std::{convert::Infallible, sync::LazyLock};

use futures_executor::block_on;
use http::{Request, Response, header::CONTENT_TYPE};
use libfuzzer_sys::fuzz_target;
use portcullis_core::Body;
use portcullis_mask::{Rules, WriteGuardLayer};
use portcullis_mask_fuzz::{asking_for, rules};
use tower::{Layer, ServiceExt, service_fn};

static RULES: LazyLock<Rules> = LazyLock::new(rules);
const TOKEN: &[u8] = b"masked:secrets:0123456789abcdef";
const TYPES: [&str; 6] = [
    "application/json",
    "application/merge-patch+json",
    "application/json-patch+json",
    "application/apply-patch+yaml",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];

fn passes(content_type: &'static str, body: &[u8]) -> bool {
    let guard = WriteGuardLayer::new(&RULES).layer(service_fn(|_: Request<Body>| {
        std::future::ready(Ok::<_, Infallible>(Response::new(Body::empty())))
    }));
    let mut request = Request::patch("/x").body(Body::from(body.to_vec())).expect("a request");
    request.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    request.extensions_mut().insert(asking_for("patch", "secrets", ""));
    block_on(guard.oneshot(request)).expect("infallible").status() == 200
}

fuzz_target!(|input: &[u8]| {
    let Some((&kind, body)) = input.split_first() else { return };
    let content_type = TYPES[usize::from(kind) % TYPES.len()];
    let _ = passes(content_type, body);
    let (before, after) = body.split_at(body.len() / 2);
    assert!(!passes(content_type, &[before, TOKEN, after].concat()), "a mask went through");
});
