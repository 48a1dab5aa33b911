//! The layer in front of a service that answers what a test says.

use std::{
    convert::Infallible,
    io::Write as _,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{
    Request, Response, StatusCode,
    header::{ACCEPT, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, WARNING},
};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use portcullis_core::{Body, ErrorFormat, Refusal, RequestInfo, StreamPlan, Trail};
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::{MaskConfig, MaskKey};

pub(super) const CANARY: &str = "aHVudGVyMg==";

pub(super) fn layer(yaml: &str) -> MaskLayer {
    let config: MaskConfig = serde_yaml::from_str(yaml).unwrap();
    MaskLayer::new(Rules::new(&config, MaskKey::from_bytes(&[7; 32]).unwrap()).unwrap())
}

pub(super) fn resource(verb: &str, resource: &str, subresource: &str) -> RequestInfo {
    RequestInfo {
        is_resource_request: true,
        verb: verb.into(),
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: "shop".into(),
        ..RequestInfo::default()
    }
}

pub(super) fn request(info: RequestInfo) -> (Request<Body>, Trail) {
    let trail = Trail::default();
    let mut request = Request::new(Body::empty());
    request.extensions_mut().insert(ErrorFormat::Status);
    request.extensions_mut().insert(info);
    request.extensions_mut().insert(trail.clone());
    (request, trail)
}

struct Answered {
    response: Response<()>,
    /// `None` if the body ended in an error.
    body: Option<String>,
    trail: Trail,
    /// What the service was asked.
    asked: Option<HeaderMap>,
}

async fn answer(yaml: &str, request: (Request<Body>, Trail), response: Response<Body>) -> Answered {
    let asked = Arc::new(Mutex::new(None));
    let seen = asked.clone();
    let response = Mutex::new(Some(response));
    let service = layer(yaml).layer(service_fn(move |request: Request<Body>| {
        *seen.lock().unwrap() = Some(request.headers().clone());
        std::future::ready(Ok::<_, Infallible>(response.lock().unwrap().take().unwrap()))
    }));
    let (request, trail) = request;
    let (parts, body) = service.oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.ok().map(|body| String::from_utf8(body.to_bytes().into()).unwrap());
    let asked = asked.lock().unwrap().take();
    Answered { response: Response::from_parts(parts, ()), body, trail, asked }
}

pub(super) fn json(body: impl Into<Body>) -> Response<Body> {
    typed("application/json", body)
}

pub(super) fn typed(content_type: &str, body: impl Into<Body>) -> Response<Body> {
    Response::builder().header(CONTENT_TYPE, content_type).body(body.into()).unwrap()
}

pub(super) fn secret() -> String {
    format!(r#"{{"kind":"Secret","metadata":{{"uid":"1"}},"data":{{"p":"{CANARY}"}}}}"#)
}

#[tokio::test]
async fn a_secret_is_masked_counted_and_its_headers_fit() {
    let mut response = json(secret());
    response.headers_mut().insert(CONTENT_LENGTH, "70".parse().unwrap());
    response.headers_mut().insert(ETAG, "\"x\"".parse().unwrap());
    let answered = answer("{}", request(resource("get", "secrets", "")), response).await;
    let body = answered.body.unwrap();
    assert!(!body.contains(CANARY) && body.contains("bWFza2Vk"), "{body}");
    assert!(!answered.response.headers().contains_key(CONTENT_LENGTH));
    assert!(!answered.response.headers().contains_key(ETAG));
    assert_eq!(answered.trail.snapshot().masked["secrets"], 1);
    assert_eq!(answered.asked.unwrap()[ACCEPT], "application/json");
}

#[tokio::test]
async fn what_no_rule_covers_is_left_alone() {
    let mut response = json(secret());
    response.headers_mut().insert(ETAG, "\"x\"".parse().unwrap());
    let mut plain = request(RequestInfo::default());
    plain.0.headers_mut().insert(ACCEPT, "application/cbor".parse().unwrap());
    let answered = answer("{}", plain, response).await;
    assert_eq!(answered.body.unwrap(), secret());
    assert!(answered.response.headers().contains_key(ETAG));
    assert_eq!(answered.asked.unwrap()[ACCEPT], "application/cbor");
}

#[tokio::test]
async fn a_client_that_accepts_nothing_readable_is_refused_and_the_service_not_asked() {
    let mut asking = request(resource("list", "pods", ""));
    asking.0.headers_mut().insert(ACCEPT, "application/cbor".parse().unwrap());
    let answered = answer("{}", asking, json("{}")).await;
    assert_eq!(answered.response.status(), StatusCode::NOT_ACCEPTABLE);
    assert!(answered.asked.is_none());
    assert_eq!(answered.trail.snapshot().refusal.unwrap().code(), "mask/not-acceptable");
    assert!(answered.body.unwrap().contains("\"reason\":\"NotAcceptable\""));
}

#[tokio::test]
async fn what_cannot_be_read_is_not_sent() {
    let get = || request(resource("get", "secrets", ""));
    let mut brotli = json("x");
    brotli.headers_mut().insert(CONTENT_ENCODING, "br".parse().unwrap());
    let mut part = json(secret());
    *part.status_mut() = StatusCode::PARTIAL_CONTENT;
    let mut switched = json("");
    *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for response in [
        typed("application/vnd.kubernetes.protobuf", CANARY),
        json(CANARY),
        typed("application/yaml", CANARY),
        typed("application/octet-stream", CANARY),
        typed("text/plain", CANARY),
        typed("application/json; charset=utf-16", CANARY),
        Response::new(CANARY.into()),
        brotli,
        part,
        switched,
    ] {
        let shown = format!("{:?}", response.headers());
        let answered = answer("{}", get(), response).await;
        assert_eq!(answered.response.status(), StatusCode::BAD_GATEWAY, "{shown}");
        assert_eq!(answered.response.extensions().get::<Refusal>().unwrap().code(), "mask/unreadable");
        let body = answered.body.unwrap();
        assert!(body.contains("`secrets`") && !body.contains(CANARY), "{body}");
    }
}

#[tokio::test]
async fn what_turns_out_later_not_to_be_json_ends_in_an_error() {
    for pieces in [[r#"{"kind":"Secret","#, r#""data":{"p":"aHVud"#], [r#"{"data":{}}"#, "{}"]] {
        let frames = pieces.map(|piece| Ok::<_, BoxError>(Frame::data(Bytes::from_static(piece.as_bytes()))));
        let body = Body::new(StreamBody::new(stream::iter(frames)));
        let answered = answer("{}", request(resource("get", "secrets", "")), json(body)).await;
        assert_eq!(answered.response.status(), StatusCode::OK);
        assert_eq!(answered.body, None, "{pieces:?}");
        assert!(answered.trail.snapshot().notes.contains_key("maskError"));
    }
    let empty = answer("{}", request(resource("get", "secrets", "")), json("")).await;
    assert_eq!(empty.body.unwrap(), "");
}

#[tokio::test]
async fn a_watch_hands_on_each_event_as_it_comes() {
    let events = ["{\"type\":\"ADDED\",\"object\":{\"kind\":\"Secret\",\"metadata\":{},\"data\":{\"p\":\"YQ==\"}}}\n";
        3];
    let (sender, receiver) = futures_util_channel(events);
    let service = layer("{}").layer(service_fn(move |_: Request<Body>| {
        let body = receiver.lock().unwrap().take().unwrap();
        std::future::ready(Ok::<_, Infallible>(json(Body::new(body))))
    }));
    let (request, trail) = request(resource("watch", "secrets", ""));
    let mut body = service.oneshot(request).await.unwrap().into_body();
    for event in 1..=3 {
        sender(event);
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            line.extend_from_slice(&body.frame().await.unwrap().unwrap().into_data().unwrap());
        }
        assert!(String::from_utf8(line).unwrap().contains("bWFza2Vk"));
        assert_eq!(trail.snapshot().masked["secrets"], event as u64);
    }
}

/// A body whose next frame comes only when it is let.
fn futures_util_channel(
    events: [&'static str; 3],
) -> (impl Fn(usize), Mutex<Option<impl HttpBody<Data = Bytes, Error = BoxError> + Send>>) {
    let permits = Arc::new(Mutex::new(0));
    let seen = permits.clone();
    let frames = stream::iter(events.into_iter().enumerate()).map(move |(index, event)| {
        assert!(index < *seen.lock().unwrap(), "asked for more before the last event was handed on");
        Ok::<_, BoxError>(Frame::data(Bytes::from_static(event.as_bytes())))
    });
    (move |permit| *permits.lock().unwrap() = permit, Mutex::new(Some(StreamBody::new(frames))))
}

#[tokio::test]
async fn gzip_is_undone() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    let long = format!(r#"{{"data":{{"p":"{CANARY}"}},"metadata":{{"name":"{}"}}}}"#, "x".repeat(100_000));
    encoder.write_all(long.as_bytes()).unwrap();
    let compressed = encoder.finish().unwrap();
    let gzip = |bytes: Vec<u8>| {
        let mut response = json(Bytes::from(bytes));
        response.headers_mut().insert(CONTENT_ENCODING, "gzip".parse().unwrap());
        response
    };
    let answered = answer("{}", request(resource("get", "secrets", "")), gzip(compressed.clone())).await;
    let body = answered.body.unwrap();
    assert!(!answered.response.headers().contains_key(CONTENT_ENCODING));
    assert!(body.len() > 100_000 && !body.contains(CANARY) && body.contains("bWFza2Vk"));
    let cut = compressed[..compressed.len() / 2].to_vec();
    assert_eq!(answer("{}", request(resource("get", "secrets", "")), gzip(cut)).await.body, None);
}

#[tokio::test]
async fn logs_are_masked_line_by_line() {
    let log = "start\ntoken ghp_0123456789abcdefghijklmnopqrstuvwxyz\nend ghp_";
    let answered = answer("{}", request(resource("get", "pods", "log")), typed("text/plain", log)).await;
    let body = answered.body.unwrap();
    assert!(body.starts_with("start\ntoken masked:known-formats:") && body.ends_with("\nend ghp_"), "{body}");
    assert_eq!(answered.trail.snapshot().masked["known-formats"], 1);
}

#[tokio::test]
async fn errors_and_warnings_lose_what_they_echo() {
    let echo = format!(r#"{{\"data\":{{\"p\":\"{CANARY}\"}}}}"#);
    let status =
        format!(r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"message":"missing in '{echo}'"}}"#);
    let mut response = json(status);
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response.headers_mut().append(WARNING, "299 - \"harmless\"".parse().unwrap());
    response.headers_mut().append(WARNING, format!("299 - \"odd: {echo}\"").parse().unwrap());
    let answered = answer("{}", request(resource("create", "secrets", "")), response).await;
    let headers = format!("{:?}", answered.response.headers());
    assert!(
        headers.contains("harmless") && headers.contains("masked:messages:") && !headers.contains(CANARY)
    );
    let body = answered.body.unwrap();
    assert!(body.contains("masked:messages:") && !body.contains(CANARY), "{body}");
    // Whatever comes first.
    let mut response = json(format!(r#"{{"message":"missing in '{echo}'","kind":"Status"}}"#));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    let answered = answer("{}", request(resource("create", "pods", "")), response).await;
    assert!(!answered.body.unwrap().contains(CANARY));
    // Without JSON, too.
    let mut response = typed("text/plain", "bad token ghp_0123456789abcdefghijklmnopqrstuvwxyz");
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    let answered = answer("{}", request(resource("get", "pods", "")), response).await;
    assert!(answered.body.unwrap().starts_with("bad token masked:messages:"));
}

#[tokio::test]
async fn proxied_answers_pass_unless_they_are_objects_in_another_encoding() {
    let proxy = || request(resource("get", "services", "proxy"));
    let answered = answer("{}", proxy(), typed("text/html", "<p>hi</p>")).await;
    assert_eq!(answered.body.unwrap(), "<p>hi</p>");
    let answered = answer("{}", proxy(), json(secret())).await;
    assert!(!answered.body.unwrap().contains(CANARY));
    let answered = answer("{}", proxy(), typed("application/vnd.kubernetes.protobuf", CANARY)).await;
    assert_eq!(answered.response.status(), StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn rules_for_plain_http_leave_other_paths_and_listed_types_alone() {
    let yaml = "{rules: [{name: r, keys: [password], urls: ['/api/*']}], passContentTypes: ['image/*']}";
    let get = |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        (request, Trail::default())
    };
    let body = r#"{"password":"x"}"#;
    assert_eq!(answer(yaml, get("/other"), json(body)).await.body.unwrap(), body);
    assert!(answer(yaml, get("/api/x"), json(body)).await.body.unwrap().contains("masked:r:"));
    assert_eq!(answer(yaml, get("/api/x"), typed("image/png", "x")).await.body.unwrap(), "x");
    assert_eq!(answer(yaml, get("/other"), typed("application/grpc", "x")).await.body.unwrap(), "x");
    let refused = answer(yaml, get("/api/x"), typed("application/grpc", "x")).await;
    assert_eq!(refused.response.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(refused.response.headers()[CONTENT_TYPE], "application/problem+json");
}

#[tokio::test]
async fn trailers_are_kept() {
    let trailers = HeaderMap::from_iter([(ETAG, "\"t\"".parse().unwrap())]);
    let service = layer("{}").layer(service_fn(move |_: Request<Body>| {
        let trailers = std::future::ready(Some(Ok(trailers.clone())));
        let body = Body::new(Full::from(secret()).with_trailers(trailers));
        std::future::ready(Ok::<_, Infallible>(json(body)))
    }));
    let (request, _) = request(resource("get", "secrets", ""));
    let collected = service.oneshot(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()[ETAG], "\"t\"");
}

#[tokio::test]
async fn streams_get_a_stage() {
    let plan = Arc::new(Mutex::new(None));
    let seen = plan.clone();
    let service = layer("{}").layer(service_fn(move |request: Request<Body>| {
        *seen.lock().unwrap() = request.extensions().get::<StreamPlan>().cloned();
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        std::future::ready(Ok::<_, Infallible>(response))
    }));
    for (info, has_stage, status) in [
        (resource("create", "pods", "exec"), true, StatusCode::SWITCHING_PROTOCOLS),
        (resource("watch", "secrets", ""), true, StatusCode::SWITCHING_PROTOCOLS),
        (resource("get", "secrets", ""), false, StatusCode::BAD_GATEWAY),
        (resource("get", "pods", "log"), false, StatusCode::BAD_GATEWAY),
    ] {
        let what = format!("{} {}/{}", info.verb, info.resource, info.subresource);
        let answer = service.clone().oneshot(request(info).0).await.unwrap();
        assert_eq!(answer.status(), status, "{what}");
        assert_eq!(plan.lock().unwrap().is_some(), has_stage, "{what}");
    }
}
