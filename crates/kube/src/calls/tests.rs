use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use http::{Extensions, HeaderMap};
use portcullis_core::{Identity, Reason, RequestInfo, refuse};
use tower::service_fn;

use super::*;

#[derive(Clone)]
struct Asked {
    line: String,
    body: Bytes,
    extensions: Extensions,
}

type Log = Arc<Mutex<Vec<Asked>>>;

/// Calls into a pretend stack that answers with `answer(method, target)`.
fn calls(
    answer: impl Fn(&Method, &str) -> (u16, &'static str) + Clone + Send + Sync + 'static,
) -> (impl LiveObjects, Log) {
    let log = Log::default();
    let asked = log.clone();
    let service = service_fn(move |request: Request<Body>| {
        let (asked, answer) = (asked.clone(), answer.clone());
        async move {
            let (parts, body) = request.into_parts();
            let line = format!("{} {}", parts.method, parts.uri);
            let (status, text) = answer(&parts.method, &parts.uri.to_string());
            let body = body.collect().await.unwrap().to_bytes();
            asked.lock().unwrap().push(Asked { line, body, extensions: parts.extensions.clone() });
            if status == 0 {
                return Ok::<_, Infallible>(refuse(
                    &parts.extensions,
                    Refusal::new(Reason::BadGateway, "test/down", "no upstream"),
                ));
            }
            let mut response = Response::new(Body::from(text));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            Ok(response)
        }
    });
    (GatewayCalls::new(service), log)
}

fn proposed(method: &str, target: &str, body: &'static str) -> ProposedRequest {
    let (parts, ()) = Request::builder().method(method).uri(target).body(()).unwrap().into_parts();
    ProposedRequest {
        audit_id: Some(AuditId::generate()),
        identity: Identity { user: "bot".into(), ..Identity::default() },
        info: KubeClassifier::new().classify(&parts).unwrap(),
        method: parts.method,
        uri: parts.uri,
        headers: HeaderMap::new(),
        body: body.into(),
    }
}

fn lines(log: &Log) -> Vec<String> {
    log.lock().unwrap().iter().map(|asked| asked.line.clone()).collect()
}

const OBJECT: &str = r#"{"kind":"ConfigMap","metadata":{"resourceVersion":"7"},"data":{"a":"1"}}"#;
const POD: &str = "/clusters/eu/api/v1/namespaces/shop/pods/web";

#[tokio::test]
async fn a_patch_shows_before_and_after_with_the_callers_own_rights() {
    let (calls, log) = calls(|method, _| match *method {
        Method::GET => (200, OBJECT),
        _ => (200, r#"{"kind":"ConfigMap","data":{"a":"2"}}"#),
    });
    let target = "/clusters/eu/api/v1/namespaces/shop/configmaps/c?fieldManager=x";
    let request = proposed("PATCH", target, r#"{"data":{"a":"2"}}"#);
    let preview = calls.dry_run(&request).await.unwrap();
    assert_eq!(preview.before.unwrap()["data"]["a"], "1");
    assert_eq!(preview.after.unwrap()["data"]["a"], "2");
    assert_eq!((preview.resource_version.as_deref(), preview.unavailable), (Some("7"), None));
    assert_eq!(
        lines(&log),
        [
            "GET /clusters/eu/api/v1/namespaces/shop/configmaps/c",
            "PATCH /clusters/eu/api/v1/namespaces/shop/configmaps/c?fieldManager=x&dryRun=All"
        ]
    );
    let asked = log.lock().unwrap().clone();
    for asked in &asked {
        assert_eq!(asked.extensions.get::<Identity>(), Some(&request.identity));
        let noted = Trail::of(&asked.extensions).snapshot();
        assert_eq!(asked.extensions.get::<AuditId>().copied(), request.audit_id);
        assert_eq!(noted.identity, Some(request.identity.clone()));
    }
    let infos: Vec<_> = asked.iter().map(|asked| asked.extensions.get::<RequestInfo>().unwrap()).collect();
    assert_eq!(
        (infos[0].verb.as_str(), infos[1].verb.as_str(), infos[1].cluster.as_str()),
        ("get", "patch", "eu")
    );
    assert!(infos[1].dry_run);
    assert_eq!(calls.resource_version(&request).await.unwrap().as_deref(), Some("7"));
}

#[tokio::test]
async fn a_create_has_no_before_and_a_delete_no_after() {
    let (calls, log) = calls(|_, _| (200, OBJECT));
    let preview = calls.dry_run(&proposed("POST", "/api/v1/namespaces/shop/configmaps", "{}")).await.unwrap();
    assert!(preview.before.is_none() && preview.after.is_some());
    assert_eq!(calls.resource_version(&proposed("POST", "/api/v1/namespaces", "{}")).await.unwrap(), None);
    let preview = calls.dry_run(&proposed("DELETE", POD, "")).await.unwrap();
    assert!(preview.before.is_some() && preview.after.is_none());
    let last = log.lock().unwrap().last().unwrap().clone();
    assert_eq!(last.line, format!("DELETE {POD}"));
    assert_eq!(&last.body[..], br#"{"apiVersion":"v1","dryRun":["All"],"kind":"DeleteOptions"}"#);
    assert!(last.extensions.get::<RequestInfo>().unwrap().dry_run);
}

#[tokio::test]
async fn a_deleted_collection_is_shown_as_its_list() {
    let (calls, log) = calls(|_, _| (200, r#"{"metadata":{"resourceVersion":"9"},"items":[{}]}"#));
    let target = "/api/v1/namespaces/shop/pods?labelSelector=a%3Db&gracePeriodSeconds=0";
    let preview = calls.dry_run(&proposed("DELETE", target, "")).await.unwrap();
    assert_eq!(preview.before.unwrap()["items"].as_array().unwrap().len(), 1);
    assert_eq!(preview.resource_version, None);
    assert_eq!(lines(&log)[0], "GET /api/v1/namespaces/shop/pods?labelSelector=a%3Db");
}

#[tokio::test]
async fn what_the_answers_mean() {
    let check = async |before: (u16, &'static str), answer: (u16, &'static str), expected: &str| {
        let (calls, _) = calls(move |method, _| if method == Method::GET { before } else { answer });
        let outcome = match calls.dry_run(&proposed("PUT", POD, "{}")).await {
            Ok(Preview { unavailable: Some(why), .. }) => format!("unavailable: {why}"),
            Ok(preview) => format!("preview, before: {}", preview.before.is_some()),
            Err(LiveError::WouldRefuse { status, message, .. }) => format!("refused: {status} {message}"),
            Err(error) => format!("{error}"),
        };
        assert_eq!(outcome, expected);
    };
    let gone = (404, r#"{"message":"not found"}"#);
    check((200, OBJECT), (200, OBJECT), "preview, before: true").await;
    check(gone, (201, OBJECT), "preview, before: false").await;
    check((403, "{}"), (200, OBJECT), "preview, before: false").await;
    check((200, OBJECT), (403, r#"{"message":"no rights"}"#), "refused: 403 no rights").await;
    check(gone, gone, "refused: 404 not found").await;
    check((200, OBJECT), (409, "not json"), "refused: 409 the API server answered 409 Conflict").await;
    let webhook = r#"{"message":"admission webhook \"x\" does not support dry run"}"#;
    check((200, OBJECT), (400, webhook), "unavailable: admission webhook \"x\" does not support dry run")
        .await;
    check((200, OBJECT), (429, r#"{"message":"slow down"}"#), "the server could not be asked: slow down")
        .await;
    check((200, OBJECT), (500, r#"{"message":"etcd"}"#), "the server could not be asked: etcd").await;
    check(
        (200, OBJECT),
        (200, "k8s\0"),
        "the server could not be asked: the API server's answer is not JSON",
    )
    .await;
    check((200, OBJECT), (0, ""), "the server could not be asked: no upstream").await;
    check((0, ""), (200, OBJECT), "the server could not be asked: no upstream").await;
}

#[tokio::test]
async fn a_custom_resource_is_shown_as_it_is() {
    let (calls, log) = calls(|_, _| (200, OBJECT));
    let request = proposed("DELETE", "/apis/example.com/v1/widgets/w", "");
    let preview = calls.dry_run(&request).await.unwrap();
    assert!(preview.unavailable.is_some() && preview.before.is_some() && preview.after.is_none());
    assert_eq!(preview.resource_version, calls.resource_version(&request).await.unwrap());
    assert_eq!(lines(&log), ["GET /apis/example.com/v1/widgets/w"; 2]);
}

#[tokio::test]
async fn nothing_is_asked_about_what_cannot_be_tried() {
    let (calls, log) = calls(|_, _| (200, OBJECT));
    for (method, target) in [
        ("POST", "/api/v1/namespaces/shop/serviceaccounts/bot/token"),
        ("GET", "/api/v1/namespaces/shop/pods/web/exec?command=sh"),
        ("POST", "/apis/example.com/v1/widgets"),
        ("POST", "/portcullis/x"),
    ] {
        let request = proposed(method, target, "{}");
        assert!(calls.dry_run(&request).await.unwrap().unavailable.is_some());
        assert_eq!(calls.resource_version(&request).await.unwrap(), None);
    }
    assert!(lines(&log).is_empty());
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_not_shown() {
    let long: &'static str = Box::leak("x".repeat(LIMIT + 1).into_boxed_str());
    let (calls, _) = calls(move |_, _| (200, long));
    let error = calls.dry_run(&proposed("PUT", POD, "{}")).await.unwrap_err();
    assert!(matches!(error, LiveError::Unavailable(_)), "{error}");
}
