//! In which coding answers leave.

use std::{
    convert::Infallible,
    io::{Read as _, Write as _},
    sync::Mutex,
};

use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use http::{
    HeaderMap, Request, Response, StatusCode,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, VARY},
    response::Parts,
};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Collected, Full, StreamBody};
use portcullis_core::{Body, BoxError, RequestInfo};
use tower::{Layer, ServiceExt, service_fn};

use super::tests::{CANARY, json, layer, request, resource, secret, typed};

/// A request whose client accepts these codings.
fn accepting(info: RequestInfo, codings: &str) -> Request<Body> {
    let mut request = request(info).0;
    request.headers_mut().insert(ACCEPT_ENCODING, codings.parse().unwrap());
    request
}

/// The answer as far as its head.
async fn head(request: Request<Body>, response: Response<Body>) -> Response<Body> {
    let response = Mutex::new(Some(response));
    let service = layer("{}").layer(service_fn(move |request: Request<Body>| {
        assert_eq!(request.headers()[ACCEPT_ENCODING], "identity");
        std::future::ready(Ok::<_, Infallible>(response.lock().unwrap().take().unwrap()))
    }));
    service.oneshot(request).await.unwrap()
}

async fn whole(request: Request<Body>, response: Response<Body>) -> (Parts, Collected<Bytes>) {
    let (parts, body) = head(request, response).await.into_parts();
    (parts, body.collect().await.unwrap())
}

fn gunzip(bytes: &[u8]) -> String {
    let mut plain = String::new();
    GzDecoder::new(bytes).read_to_string(&mut plain).unwrap();
    plain
}

/// A list of so many secrets, of about 100 bytes each.
fn secrets(count: usize) -> String {
    let items: Vec<_> =
        (0..count).map(|n| secret().replace("\"uid\":\"1\"", &format!("\"uid\":\"{n}\""))).collect();
    format!(r#"{{"kind":"SecretList","items":[{}]}}"#, items.join(","))
}

#[tokio::test]
async fn long_answers_are_compressed_for_those_who_accept_it() {
    let list = || resource("list", "secrets", "");
    let (parts, plain) = whole(accepting(list(), "identity"), json(secrets(3000))).await;
    let plain = String::from_utf8(plain.to_bytes().into()).unwrap();
    assert!(!parts.headers.contains_key(CONTENT_ENCODING) && !parts.headers.contains_key(VARY));
    assert!(plain.len() > 200_000 && !plain.contains(CANARY));

    // Whether the service compressed it, although it was asked not to, or not.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(secrets(3000).as_bytes()).unwrap();
    let mut compressed = json(encoder.finish().unwrap());
    compressed.headers_mut().insert(CONTENT_ENCODING, "gzip".parse().unwrap());
    let mut described = json(secrets(3000));
    described.headers_mut().insert(CONTENT_LENGTH, "300000".parse().unwrap());
    described.headers_mut().insert(ETAG, "\"x\"".parse().unwrap());
    for answer in [compressed, described] {
        let (parts, body) = whole(accepting(list(), "br, gzip;q=0.5"), answer).await;
        assert_eq!(parts.headers[CONTENT_ENCODING], "gzip");
        assert_eq!(parts.headers[VARY], "Accept-Encoding");
        assert!(!parts.headers.contains_key(CONTENT_LENGTH) && !parts.headers.contains_key(ETAG));
        let bytes = body.to_bytes();
        assert!(bytes.len() < plain.len() / 4, "{}", bytes.len());
        assert_eq!(gunzip(&bytes), plain);
    }
}

#[tokio::test]
async fn others_are_not() {
    let short = || json(secrets(500));
    let long = || json(secrets(3000));
    let mut failed = long();
    *failed.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    for (what, info, codings, answer) in [
        ("short", resource("list", "secrets", ""), "gzip", short()),
        ("refused", resource("list", "secrets", ""), "gzip;q=0", long()),
        ("refused among others", resource("list", "secrets", ""), "gzip;q=0, *", long()),
        ("an error", resource("list", "secrets", ""), "gzip", failed),
        ("a write", resource("update", "secrets", ""), "gzip", long()),
        ("proxied", resource("get", "services", "proxy"), "gzip", long()),
        ("a log", resource("get", "pods", "log"), "gzip", typed("text/plain", "x\n".repeat(1 << 20))),
        ("a watch", resource("watch", "secrets", ""), "gzip", json(secret().repeat(3000))),
    ] {
        let (parts, body) = whole(accepting(info, codings), answer).await;
        assert!(!parts.headers.contains_key(CONTENT_ENCODING), "{what}");
        assert!(std::str::from_utf8(&body.to_bytes()).is_ok(), "{what}");
    }
    // A token is as long as it is, so without one: the threshold is the API server's.
    for (length, compressed) in [(128 << 10, false), ((128 << 10) + 1, true)] {
        let map = format!(r#"{{"kind":"Pod","x":"{}"}}"#, "x".repeat(length - 21));
        assert_eq!(map.len(), length);
        let (parts, _) = whole(accepting(resource("get", "pods", ""), "gzip"), json(map)).await;
        assert_eq!(parts.headers.contains_key(CONTENT_ENCODING), compressed, "{length}");
    }
}

#[tokio::test]
async fn trailers_are_kept_behind_what_is_compressed() {
    let trailers = HeaderMap::from_iter([(ETAG, "\"t\"".parse().unwrap())]);
    let trailing = std::future::ready(Some(Ok(trailers.clone())));
    let answer = json(Body::new(Full::from(secrets(3000)).with_trailers(trailing)));
    let (parts, body) = whole(accepting(resource("list", "secrets", ""), "gzip"), answer).await;
    assert_eq!(parts.headers[CONTENT_ENCODING], "gzip");
    assert_eq!(body.trailers(), Some(&trailers));
}

#[tokio::test]
async fn an_error_before_the_head_is_an_answer_and_a_later_one_breaks_the_body_off() {
    let answer = |pieces: Vec<String>| {
        let frames = pieces.into_iter().map(|piece| Ok::<_, BoxError>(Frame::data(Bytes::from(piece))));
        json(Body::new(StreamBody::new(stream::iter(frames))))
    };
    let list = || accepting(resource("list", "secrets", ""), "gzip");
    let early = head(list(), answer(vec![secrets(500), "]".into()])).await;
    assert_eq!(early.status(), StatusCode::BAD_GATEWAY);

    let late = head(list(), answer(vec![secrets(3000), "]".into()])).await;
    assert_eq!(late.status(), StatusCode::OK);
    assert_eq!(late.headers()[CONTENT_ENCODING], "gzip");
    assert!(late.into_body().collect().await.is_err());
}

#[tokio::test]
async fn no_more_is_read_than_is_asked_for() {
    let taken = std::sync::Arc::new(Mutex::new(0));
    let counting = taken.clone();
    // Noise, so that about as much comes out as went in.
    let noise = (0..4_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761) ^ (n >> 3).wrapping_mul(97));
    let piece: Vec<String> = noise.take(3000).map(|n| format!("\"{n:08x}\"")).collect();
    let first = format!(r#"{{"kind":"SecretList","x":[{}"#, piece.join(","));
    let frames = (0..100).map(move |n| if n == 0 { first.clone() } else { format!(",{}", piece.join(",")) });
    let frames = stream::iter(frames).map(move |piece| {
        *counting.lock().unwrap() += piece.len();
        Ok::<_, BoxError>(Frame::data(Bytes::from(piece)))
    });
    let answer = json(Body::new(StreamBody::new(frames)));
    let mut body = head(accepting(resource("list", "secrets", ""), "gzip"), answer).await.into_body();
    let before = *taken.lock().unwrap();
    assert!((128 << 10..256 << 10).contains(&before), "{before}");
    let mut sent = 0;
    while sent < 200 << 10 {
        sent += body.frame().now_or_never().unwrap().unwrap().unwrap().into_data().unwrap().len();
    }
    let after = *taken.lock().unwrap();
    assert!(after < 1 << 20, "{after} bytes were read to send {sent}");
}

/// A request of a client that accepts YAML and nothing else.
fn for_yaml(info: RequestInfo) -> Request<Body> {
    let mut request = accepting(info, "identity");
    request.headers_mut().insert(ACCEPT, "application/yaml".parse().unwrap());
    request
}

async fn yaml(info: RequestInfo, response: Response<Body>) -> (Parts, String) {
    let (parts, body) = whole(for_yaml(info), response).await;
    (parts, String::from_utf8(body.to_bytes().into()).unwrap())
}

#[tokio::test]
async fn yaml_is_the_masked_json_in_its_order() {
    let get = || resource("get", "secrets", "");
    let (_, body) = whole(accepting(get(), "identity"), json(secret())).await;
    let masked: serde_json::Value = serde_json::from_slice(&body.to_bytes()).unwrap();
    let mut answer = json(secret());
    answer.headers_mut().insert(CONTENT_LENGTH, "70".parse().unwrap());
    answer.headers_mut().insert(ETAG, "\"x\"".parse().unwrap());
    let response = head(for_yaml(get()), answer).await;
    assert_eq!(response.headers()[CONTENT_TYPE], "application/yaml");
    assert!(!response.headers().contains_key(CONTENT_LENGTH) && !response.headers().contains_key(ETAG));
    let length = response.body().size_hint().exact().unwrap();
    let text = String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().into()).unwrap();
    assert_eq!(text.len() as u64, length);
    let token = masked["data"]["p"].as_str().unwrap();
    assert_eq!(text, format!("kind: Secret\nmetadata:\n  uid: \"1\"\ndata:\n  p: {token}\n"));
}

#[tokio::test]
async fn errors_are_yaml_too() {
    let mut missing = json(r#"{"kind":"Status","message":"secrets \"no\" not found","code":404}"#);
    *missing.status_mut() = StatusCode::NOT_FOUND;
    let (parts, text) = yaml(resource("get", "secrets", ""), missing).await;
    assert_eq!(
        (parts.status, text.as_str()),
        (StatusCode::NOT_FOUND, "kind: Status\nmessage: \"secrets \\\"no\\\" not found\"\ncode: 404\n")
    );
    // What is no JSON stays what it is.
    let mut plain = typed("text/plain", "no");
    *plain.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    let (parts, text) = yaml(resource("get", "secrets", ""), plain).await;
    assert_eq!((parts.headers[CONTENT_TYPE].to_str().unwrap(), text.as_str()), ("text/plain", "no"));
}

#[tokio::test]
async fn what_no_rule_masks_is_yaml_all_the_same() {
    let rules = "{packs: [], rules: [{name: r, resources: ['*'], detectors: [jwt]}]}";
    let service = layer(rules).layer(service_fn(|_: Request<Body>| {
        std::future::ready(Ok::<_, Infallible>(json(r#"{"kind":"Pod"}"#)))
    }));
    let response = service.oneshot(for_yaml(resource("get", "pods", ""))).await.unwrap();
    assert_eq!(response.headers()[CONTENT_TYPE], "application/yaml");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "kind: Pod\n");
}

#[tokio::test]
async fn what_cannot_be_yaml_is_not_sent() {
    let get = || resource("get", "secrets", "");
    let long = format!(r#"{{"kind":"Secret","x":"{}"}}"#, "x".repeat(3 << 20));
    let deep = format!("{}{}{}", "[".repeat(200), vec!["1"; 100_000].join(","), "]".repeat(200));
    for (answer, why) in [
        (json(long), "mask.limits.heldBytes"),
        (json(format!(r#"{{"kind":"Secret","x":{deep}}}"#)), "mask.limits.heldBytes"),
        (json(r#"{"kind":"Secret","x":1,"x":2}"#), "cannot be read"),
        (json(r#"{"kind":"Secret","data":{"p":"#), "cannot be read"),
    ] {
        let (parts, text) = yaml(get(), answer).await;
        assert_eq!(parts.status, StatusCode::BAD_GATEWAY, "{why}");
        assert!(text.contains("mask/unreadable") && text.contains(why), "{text}");
    }
    let frames = [Ok(Frame::data(Bytes::from("{\"kind\":"))), Err(BoxError::from("gone"))];
    let response = head(for_yaml(get()), json(Body::new(StreamBody::new(stream::iter(frames))))).await;
    assert!(response.into_body().collect().await.is_err());
}

#[tokio::test]
async fn yaml_is_compressed_like_anything_else_and_keeps_trailers() {
    let trailers = HeaderMap::from_iter([(ETAG, "\"t\"".parse().unwrap())]);
    let answer = || {
        let trailing = std::future::ready(Some(Ok(trailers.clone())));
        json(Body::new(Full::from(secrets(3000)).with_trailers(trailing)))
    };
    let list = || for_yaml(resource("list", "secrets", ""));
    let (_, plain) = whole(list(), answer()).await;
    assert_eq!(plain.trailers(), Some(&trailers));
    let mut asking = list();
    asking.headers_mut().insert(ACCEPT_ENCODING, "gzip".parse().unwrap());
    let (parts, compressed) = whole(asking, answer()).await;
    assert_eq!(parts.headers[CONTENT_ENCODING], "gzip");
    assert_eq!(compressed.trailers(), Some(&trailers));
    let bytes = compressed.to_bytes();
    assert!(gunzip(&bytes).starts_with("kind: SecretList\nitems:\n- kind: Secret\n"));
    assert_eq!(gunzip(&bytes), std::str::from_utf8(&plain.to_bytes()).unwrap());
}
