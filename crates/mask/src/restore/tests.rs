use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use portcullis_core::RequestInfo;
use portcullis_wire::{ProtobufEnvelope, ProtobufValue, encode_protobuf_field};
use serde_json::{Value, json};

use super::values::{Wrong, lost, restore};
use crate::{Caller, MaskConfig, MaskKey, Masker, Rules, Scope, negotiate::PROTOBUF, piece::join};

const PUT: Option<&str> = Some("application/json");
const MERGE: Option<&str> = Some("application/merge-patch+json");
const STRATEGIC: Option<&str> = Some("application/strategic-merge-patch+json");
const JSON_PATCH: Option<&str> = Some("application/json-patch+json");
const APPLY: Option<&str> = Some("application/apply-patch+yaml");

fn key(byte: u8) -> MaskKey {
    MaskKey::from_bytes(&[byte; 32]).unwrap()
}

fn scope_with(key: MaskKey, resource: &str) -> Scope {
    let info = RequestInfo {
        is_resource_request: true,
        verb: "update".into(),
        api_version: "v1".into(),
        resource: resource.into(),
        namespace: "shop".into(),
        name: "db".into(),
        ..RequestInfo::default()
    };
    Rules::new(&MaskConfig::default(), key).unwrap().scope(&info, Caller::default())
}

fn scope(resource: &str) -> Scope {
    scope_with(key(7), resource)
}

/// What the caller was shown of it.
fn shown(scope: &Scope, live: &Value) -> Value {
    let (mut masker, mut pieces) = (Masker::new(scope.clone()), Vec::new());
    masker.push(Bytes::from(live.to_string()), &mut pieces).unwrap();
    masker.finish(&mut pieces).unwrap();
    serde_json::from_slice(&join(&pieces)).unwrap()
}

fn run(
    scope: &Scope,
    content_type: Option<&str>,
    body: &Value,
    live: &Value,
) -> Result<Value, Option<String>> {
    let restored = restore(content_type, &Bytes::from(body.to_string()), live.to_string().as_bytes(), scope);
    restored.map(|(body, _)| serde_json::from_slice(&body).unwrap()).map_err(|wrong| wrong.field)
}

fn secret() -> Value {
    let applied = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"},
        "data": {"password": "aHVudGVyMg=="}, "stringData": {"note": "a<b"}});
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": "db", "namespace": "shop", "uid": "1", "resourceVersion": "7",
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": format!("{applied}\n")}},
        "data": {"password": "aHVudGVyMg==", "user": "YWRh"},
    })
}

const APPLIED: &str = "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration";

#[test]
fn an_object_that_was_read_and_is_written_back_is_as_it_was() {
    let (secrets, live) = (scope("secrets"), secret());
    let mut edited = shown(&secrets, &live);
    assert!(!edited.to_string().contains("aHVudGVyMg"));
    edited["metadata"]["labels"] = json!({"tier": "db"});
    edited["data"]["new"] = "bmV3".into();
    let mut expected = live.clone();
    expected["metadata"]["labels"] = json!({"tier": "db"});
    expected["data"]["new"] = "bmV3".into();
    let restored = run(&secrets, PUT, &edited, &live).unwrap();
    let applied = |value: &Value| value.pointer(APPLIED).unwrap().as_str().unwrap().to_owned();
    assert_eq!(restored, expected);
    // What `kubectl apply` is about to keep as last applied is a document with tokens, restored inside, as Go writes it.
    let mut next: Value = serde_json::from_str(&applied(&edited)).unwrap();
    next["metadata"]["labels"] = json!({"tier": "<db>"});
    let patch = json!({"metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": format!("{next}\n")}}});
    let written = applied(&run(&secrets, MERGE, &patch, &live).unwrap());
    assert!(
        written.contains("aHVudGVyMg==") && written.contains("\\u003cdb\\u003e") && written.ends_with("}\n"),
        "{written}"
    );
    // Also as YAML, and only against the version that was read.
    let mut apply = shown(&secrets, &live);
    apply["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let yaml = serde_yaml::to_string(&apply).unwrap();
    let (restored, count) = restore(APPLY, &yaml.into(), live.to_string().as_bytes(), &secrets).unwrap();
    let restored: Value = serde_json::from_slice(&restored).unwrap();
    assert_eq!((&restored["metadata"]["resourceVersion"], count), (&json!("7"), 3));
    assert_eq!(restored["data"], live["data"]);
}

#[test]
fn patches_of_every_kind() {
    let (secrets, live) = (scope("secrets"), secret());
    let token = shown(&secrets, &live)["data"]["password"].clone();
    for content_type in [MERGE, STRATEGIC] {
        let patch = json!({"data": {"password": token, "user": null}});
        let expected =
            json!({"data": {"password": "aHVudGVyMg==", "user": null}, "metadata": {"resourceVersion": "7"}});
        assert_eq!(run(&secrets, content_type, &patch, &live), Ok(expected));
    }
    let test = json!({"op": "test", "path": "/metadata/resourceVersion", "value": "7"});
    for (path, value, restored) in [
        ("/data/password", token.clone(), json!("aHVudGVyMg==")),
        ("/data", json!({"password": token}), json!({"password": "aHVudGVyMg=="})),
    ] {
        let patch = json!([{"op": "replace", "path": path, "value": value}]);
        let expected = json!([test, {"op": "replace", "path": path, "value": restored}]);
        assert_eq!(run(&secrets, JSON_PATCH, &patch, &live), Ok(expected), "{path}");
    }
}

/// A Secret in protobuf, as a controller sends it.
fn protobuf_secret(password: &[u8], version: &str) -> Bytes {
    let field = |number, bytes: &[u8], out: &mut BytesMut| {
        encode_protobuf_field(number, ProtobufValue::Bytes(bytes), out);
    };
    let (mut metadata, mut entry, mut secret) = (BytesMut::new(), BytesMut::new(), BytesMut::new());
    for (number, text) in [(1, "db"), (3, "shop"), (5, "1"), (6, version)] {
        field(number, text.as_bytes(), &mut metadata);
    }
    field(1, b"password", &mut entry);
    field(2, password, &mut entry);
    field(1, &metadata, &mut secret);
    field(2, &entry, &mut secret);
    field(3, b"Opaque", &mut secret);
    let envelope = ProtobufEnvelope {
        api_version: "v1".into(),
        kind: "Secret".into(),
        raw: secret.freeze(),
        ..ProtobufEnvelope::default()
    };
    envelope.encode()
}

#[test]
fn protobuf_is_restored_as_json_is() {
    let (secrets, live) = (scope("secrets"), secret());
    let token = shown(&secrets, &live)["data"]["password"].as_str().unwrap().to_owned();
    let raw = STANDARD.decode(&token).unwrap();
    let run = |body: &Bytes| restore(Some(PROTOBUF), body, live.to_string().as_bytes(), &secrets);
    let (restored, count) = run(&protobuf_secret(&raw, "7")).unwrap();
    assert_eq!((restored, count), (protobuf_secret(b"hunter2", "7"), 1));
    // What has not been read is not written, and what is no token of this value gets nothing.
    let field = |body: &Bytes| run(body).unwrap_err().field;
    let fresh = protobuf_secret(&raw, "");
    assert_eq!(run(&fresh).unwrap_err(), Wrong { field: None });
    let mut guessed = raw.clone();
    *guessed.last_mut().unwrap() ^= 1;
    assert_eq!(field(&protobuf_secret(&guessed, "7")).as_deref(), Some("data.password"));
}

#[test]
fn a_token_is_worth_nothing_anywhere_else() {
    let (secrets, live) = (scope("secrets"), secret());
    let seen = shown(&secrets, &live);
    let token = seen["data"]["password"].clone();
    let raw = String::from_utf8(STANDARD.decode(token.as_str().unwrap()).unwrap()).unwrap();
    let mut other = live.clone();
    other["metadata"]["uid"] = "2".into();
    let mut changed = live.clone();
    changed["data"]["password"] = "b3RoZXI=".into();
    let merge = |patch: Value, live: &Value| run(&secrets, MERGE, &patch, live).unwrap_err();
    for (patch, live, field) in [
        (json!({"data": {"copy": token}}), &live, "data.copy"),
        (json!({"metadata": {"labels": {"a": token}}}), &live, "metadata.labels.a"),
        (json!({"stringData": {"password": raw}}), &live, "stringData.password"),
        (json!({"data": {"password": STANDARD.encode(format!("x{raw}"))}}), &live, "data.password"),
        (json!({"data": {"password": token}}), &other, "data.password"),
        (json!({"data": {"password": token}}), &changed, "data.password"),
        (
            json!({"metadata": {"annotations": {"note": format!("{{\"data\":{{\"copy\":\"{raw}\"}}}}")}}}),
            &live,
            "metadata.annotations.note",
        ),
    ] {
        assert_eq!(merge(patch.clone(), live).as_deref(), Some(field), "{patch}");
    }
    assert!(run(&secrets, PUT, &json!({raw.clone(): 1}), &live).is_err());
    let copy = json!([{"op": "add", "path": "/data/copy", "value": token}]);
    assert!(run(&secrets, JSON_PATCH, &copy, &live).is_err());
    let odd = json!([{"op": "add", "path": format!("/data/{raw}"), "value": "x"}]);
    assert!(run(&secrets, JSON_PATCH, &odd, &live).is_err());
    // Nor beside a value that is restored.
    for (name, member) in [("from", json!(format!("/data/{raw}"))), ("note", token.clone())] {
        let stray = json!([{"op": "add", "path": "/data/password", "value": token, name: member}]);
        assert_eq!(run(&secrets, JSON_PATCH, &stray, &live), Err(Some("[0]".into())), "{name}");
    }
    let named = json!([{"op": "replace", "path": format!("/data/{raw}"), "value": {"password": token}}]);
    assert!(run(&secrets, JSON_PATCH, &named, &live).is_err());
    // What is no object is not written anew.
    assert!(
        restore(PUT, &Bytes::from(format!("not json {raw}")), live.to_string().as_bytes(), &secrets).is_err()
    );
    // A document in an annotation that no rule masks would show the value.
    let shows =
        json!({"metadata": {"annotations": {"note": format!("{{\"data\":{{\"password\":{token}}}}}")}}});
    assert!(merge(shows, &live).is_some());
}

#[test]
fn elements_of_lists_are_told_by_their_names() {
    let pods = scope("pods");
    let container = |name: &str, image: &str, env: Value| json!({"name": name, "image": image, "env": env});
    let variable = |name: &str, value: &str| json!({"name": name, "value": value});
    let pod = |containers: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"uid": "1", "resourceVersion": "7"}, "spec": {"containers": containers}});
    let live = pod(json!([container("app", "a", json!([variable("X", "1"), variable("TOKEN", "s3cret")]))]));
    let token = shown(&pods, &live)["spec"]["containers"][0]["env"][1]["value"].as_str().unwrap().to_owned();
    let put = |containers: Value| run(&pods, PUT, &pod(containers), &live);
    // An element before it has gone.
    let restored = put(json!([container("app", "b", json!([variable("TOKEN", &token)]))])).unwrap();
    assert_eq!(restored["spec"]["containers"][0]["env"][0]["value"], "s3cret");
    // Somebody else's container, and a variable that shows its value, get nothing.
    let env = json!([variable("TOKEN", &token)]);
    let stolen = put(json!([container("app", "a", json!([])), container("evil", "evil", env)])).unwrap_err();
    assert_eq!(stolen.as_deref(), Some("spec.containers[evil].env[TOKEN].value"));
    assert!(put(json!([container("app", "a", json!([variable("SHOWN", &token)]))])).is_err());
}

#[test]
fn tokens_of_older_keys_are_restored() {
    let live = secret();
    let old = shown(&scope_with(key(3), "secrets"), &live)["data"]["password"].clone();
    let patch = json!({"data": {"password": old}});
    assert!(run(&scope("secrets"), MERGE, &patch, &live).is_err());
    let rotated = scope_with(key(7).with_older([key(3)]), "secrets");
    assert_eq!(run(&rotated, MERGE, &patch, &live).unwrap()["data"]["password"], "aHVudGVyMg==");
}

#[test]
fn what_was_shown_without_a_token_is_not_lost() {
    let rules = "{packs: [], rules: [{name: r, resources: [widgets], paths: [spec.pin, 'spec.users[*].code', spec.note], action: drop}, {name: n, resources: [widgets], paths: [spec.limit]}]}";
    let config: MaskConfig = serde_yaml::from_str(rules).unwrap();
    let info = RequestInfo {
        is_resource_request: true,
        verb: "update".into(),
        api_group: "example.com".into(),
        resource: "widgets".into(),
        name: "w".into(),
        ..RequestInfo::default()
    };
    let scope = Rules::new(&config, key(7)).unwrap().scope(&info, Caller::default());
    assert!(scope.may_leave_no_token() && !self::scope("secrets").may_leave_no_token());
    let live = json!({"spec": {"pin": "1234", "limit": 5, "users": [{"name": "ada", "code": 1}, {"name": "eve", "code": 2}], "size": 1}});
    let seen = shown(&scope, &live);
    let check = |change: &dyn Fn(&mut Value), field: Option<&str>| {
        let mut body = seen.clone();
        change(&mut body);
        let judged = lost(PUT, &Bytes::from(body.to_string()), live.to_string().as_bytes(), &scope);
        assert_eq!(judged.err().and_then(|wrong| wrong.field).as_deref(), field, "{body}");
    };
    check(&|_| {}, Some("spec.limit"));
    check(&|body| body["spec"]["limit"] = 7.into(), Some("spec.pin"));
    let known = |body: &mut Value| {
        body["spec"]["limit"] = 7.into();
        body["spec"]["pin"] = "9999".into();
    };
    check(&known, Some("spec.users[ada].code"));
    // Whoever is taken out of a list is meant to go.
    check(
        &|body| {
            known(body);
            body["spec"]["users"] = json!([{"name": "new", "code": 1}]);
        },
        None,
    );
}
