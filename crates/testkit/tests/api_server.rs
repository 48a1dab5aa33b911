//! The API server through real HTTP and TLS.

mod support;

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use portcullis_testkit::ApiServer;
use portcullis_wire::{ProtobufEnvelope, ProtobufValue, encode_protobuf_field};
use serde_json::{Value, json};
use support::{Client, TestResult};

const CORE: &str = "/api/v1/namespaces/shop";

async fn demo() -> TestResult<(ApiServer, Client)> {
    let server = ApiServer::builder().seed_demo().start().await?;
    let client = Client::new(&server)?.token(server.admin_token().expose());
    Ok((server, client))
}

fn config_map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

#[tokio::test]
async fn objects_are_created_read_changed_and_deleted() -> TestResult {
    let (_server, client) = demo().await?;
    let path = format!("{CORE}/configmaps");
    let created = client.send(Method::POST, &path, config_map("a", json!({"x": "1"}))).await?.expect(201)?;
    assert!(created["metadata"]["uid"].is_string() && created["metadata"]["creationTimestamp"].is_string());
    client.send(Method::POST, &path, config_map("a", json!({}))).await?.status(409, "AlreadyExists")?;

    let mut stale = created.clone();
    stale["data"]["x"] = json!("2");
    client.send(Method::PUT, &format!("{path}/a"), stale.clone()).await?.expect(200)?;
    stale["data"]["x"] = json!("3");
    client.send(Method::PUT, &format!("{path}/a"), stale).await?.status(409, "Conflict")?;

    let patched =
        client.patch("merge", &format!("{path}/a"), json!({"data": {"y": "z"}})).await?.expect(200)?;
    assert_eq!(patched["data"], json!({"x": "2", "y": "z"}));
    let unchanged =
        client.patch("merge", &format!("{path}/a"), json!({"data": {"y": "z"}})).await?.expect(200)?;
    assert_eq!(unchanged["metadata"]["resourceVersion"], patched["metadata"]["resourceVersion"]);

    let deleted = client.send(Method::DELETE, &format!("{path}/a"), Value::Null).await?.expect(200)?;
    assert_eq!(deleted["status"], "Success");
    client.get(&format!("{path}/a")).await?.status(404, "NotFound")?;
    Ok(())
}

#[tokio::test]
async fn a_dry_run_changes_nothing() -> TestResult {
    let (_server, client) = demo().await?;
    let secret = format!("{CORE}/secrets/db-credentials");
    let before = client.get(&secret).await?.expect(200)?;
    let create = format!("{CORE}/configmaps?dryRun=All");
    let shown = client.send(Method::POST, &create, config_map("a", json!({}))).await?.expect(201)?;
    assert!(shown["metadata"]["uid"].is_string() && shown["metadata"].get("resourceVersion").is_none());
    client.get(&format!("{CORE}/configmaps/a")).await?.expect(404)?;
    client
        .patch("merge", &format!("{secret}?dryRun=All"), json!({"stringData": {"password": "x"}}))
        .await?
        .expect(200)?;
    client.send(Method::DELETE, &format!("{secret}?dryRun=All"), Value::Null).await?.expect(200)?;
    // With a body, only the body counts.
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"]});
    client.send(Method::DELETE, &secret, options).await?.expect(200)?;
    assert_eq!(client.get(&secret).await?.expect(200)?, before);
    let bad = format!("{CORE}/configmaps?dryRun=Some");
    client.send(Method::POST, &bad, config_map("a", json!({}))).await?.status(400, "BadRequest")?;
    Ok(())
}

#[tokio::test]
async fn what_it_cannot_do_it_refuses() -> TestResult {
    let (_server, client) = demo().await?;
    let map = format!("{CORE}/configmaps/web-config");
    let check =
        async |method: Method, path: &str, header: (&'static str, &'static str), code: u16| -> TestResult {
            let request = client.request(method, path).header(header.0, header.1);
            client.answer(request, "{}").await?.expect(code).map(drop)
        };
    check(Method::PATCH, &map, ("content-type", "application/apply-patch+yaml"), 415).await?;
    check(Method::PATCH, &map, ("content-type", "application/yaml"), 415).await?;
    check(Method::PUT, &map, ("content-type", "application/cbor"), 415).await?;
    check(Method::GET, &map, ("accept", "application/vnd.kubernetes.protobuf"), 406).await?;
    check(Method::GET, &map, ("accept", "application/cbor"), 406).await?;
    check(Method::PATCH, &format!("{CORE}/pods"), ("content-type", "application/merge-patch+json"), 405)
        .await?;
    check(Method::GET, &format!("{CORE}/pods/x/portforward"), ("x", "y"), 400).await?;
    check(Method::GET, "/apis/batch/v1/jobs", ("x", "y"), 404).await?;
    check(Method::GET, &format!("{CORE}/pods?continue=abc"), ("x", "y"), 410).await?;
    check(Method::GET, &format!("{CORE}/pods?fieldSelector=spec.hostname=x"), ("x", "y"), 400).await?;
    check(Method::GET, &format!("{CORE}/pods?resourceVersion=999999"), ("x", "y"), 504).await?;
    Ok(())
}

#[tokio::test]
async fn invalid_objects_are_refused_with_causes() -> TestResult {
    let (_server, client) = demo().await?;
    let check = async |path: &str, object: Value, code: u16| -> TestResult {
        client.send(Method::POST, &format!("{CORE}/{path}"), object).await?.expect(code).map(drop)
    };
    check("configmaps", config_map("UPPER", json!({})), 422).await?;
    check("configmaps", config_map("", json!({})), 422).await?;
    check("configmaps", config_map("a", json!({"bad key": "x"})), 422).await?;
    check("configmaps", config_map("a", json!({"k": 1})), 400).await?;
    check(
        "configmaps?fieldValidation=Strict",
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "dta": {}}),
        400,
    )
    .await?;
    check("configmaps", json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}), 400)
        .await?;
    check("secrets", json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "data": {"k": "not base64!"}}), 400).await?;
    check(
        "pods",
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": []}}),
        422,
    )
    .await?;
    check(
        "pods",
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {
        "serviceAccountName": "nobody", "containers": [{"name": "a", "image": "x"}]}}),
        403,
    )
    .await?;
    // An object that does not say what it is is what the path says.
    check("configmaps", json!({"metadata": {"name": "plain"}, "data": {"a": "b"}}), 201).await?;
    check("serviceaccounts/web/token", json!({"spec": "text"}), 400).await?;
    let root = json!([{"op": "replace", "path": "", "value": "text"}]);
    client.patch("json", &format!("{CORE}/configmaps/plain"), root).await?.expect(400)?;
    let elsewhere = client
        .send(Method::POST, "/api/v1/namespaces/nowhere/configmaps", config_map("a", json!({})))
        .await?;
    elsewhere.status(404, "NotFound")?;
    Ok(())
}

#[tokio::test]
async fn deployments_run_pods_that_go_with_them() -> TestResult {
    let (_server, client) = demo().await?;
    let deployment = "/apis/apps/v1/namespaces/shop/deployments/web";
    let pods = async || -> TestResult<usize> {
        let list = client.get(&format!("{CORE}/pods?labelSelector=app%3Dweb")).await?.expect(200)?;
        Ok(list["items"].as_array().map(Vec::len).unwrap_or_default())
    };
    assert_eq!(pods().await?, 2);
    client
        .patch("merge", &format!("{deployment}/scale"), json!({"spec": {"replicas": 5}}))
        .await?
        .expect(200)?;
    assert_eq!(pods().await?, 5);
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "web:2"}]}}}});
    let changed = client.patch("strategic-merge", deployment, image).await?.expect(200)?;
    assert_eq!(changed["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "2");
    assert_eq!(changed["status"]["updatedReplicas"], 5);
    let env = &changed["spec"]["template"]["spec"]["containers"][0]["env"];
    assert_eq!(env.as_array().map(Vec::len), Some(3), "a strategic merge keeps what it does not name");
    client.send(Method::DELETE, deployment, Value::Null).await?.expect(200)?;
    assert_eq!(pods().await?, 0);
    Ok(())
}

#[tokio::test]
async fn tables_and_metadata_on_request() -> TestResult {
    let (_server, client) = demo().await?;
    let get = async |accept: &str| {
        let request = client.request(Method::GET, &format!("{CORE}/secrets")).header("accept", accept);
        client.answer(request, "").await?.expect(200)
    };
    let table = get("application/json;as=Table;v=v1;g=meta.k8s.io,application/json").await?;
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["rows"][0]["cells"][0], "db-credentials");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert!(!table.to_string().contains("password"));
    let partial = get("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").await?;
    assert!(partial["items"][0].get("data").is_none());
    Ok(())
}

#[tokio::test]
async fn watches_tell_what_happens_and_only_that() -> TestResult {
    let (_server, client) = demo().await?;
    let maps = format!("{CORE}/configmaps");
    let list = client.get(&maps).await?.expect(200)?;
    let version = list["metadata"]["resourceVersion"].as_str().ok_or("no version")?.to_owned();
    let watch = format!("{maps}?watch=true&resourceVersion={version}&labelSelector=on%3Dyes");
    let mut events = client.stream(&watch).await?;
    let on = |value: &str| json!({"metadata": {"labels": {"on": value}}});
    client.send(Method::POST, &maps, config_map("a", json!({}))).await?.expect(201)?;
    client.patch("merge", &format!("{maps}/a"), on("yes")).await?.expect(200)?;
    client.patch("merge", &format!("{maps}/a"), json!({"data": {"x": "1"}})).await?.expect(200)?;
    client.patch("merge", &format!("{maps}/a"), on("no")).await?.expect(200)?;
    for expected in ["ADDED", "MODIFIED", "DELETED"] {
        assert_eq!(events.line().await?["type"], expected);
    }
    // All that is there, then the mark that it was all.
    let initial = format!(
        "{maps}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut events = client.stream(&initial).await?;
    let mut seen = Vec::new();
    loop {
        let event = events.line().await?;
        if event["type"] == "BOOKMARK" {
            assert_eq!(event["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
            break;
        }
        seen.push(event["object"]["metadata"]["name"].clone());
    }
    assert_eq!(json!(seen), json!(["a", "web-config"]));
    Ok(())
}

#[tokio::test]
async fn a_watch_that_is_too_far_behind_is_told_so() -> TestResult {
    let server = ApiServer::builder().seed_demo().history(4).start().await?;
    let client = Client::new(&server)?.token(server.admin_token().expose());
    let mut events = client.stream("/api/v1/pods?watch=true&resourceVersion=101").await?;
    let event = events.line().await?;
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert!(events.line().await.is_err(), "the watch ends");
    Ok(())
}

#[tokio::test]
async fn rbac_decides_and_says_why() -> TestResult {
    let (server, admin) = demo().await?;
    let agent = admin.clone().token(server.issue_token("ci-agent", &["agents"]).expose());
    let approver = admin.clone().token(server.issue_token("amir", &["approvers"]).expose());
    agent.get(&format!("{CORE}/secrets/db-credentials")).await?.expect(200)?;
    let refused = approver.get(&format!("{CORE}/secrets")).await?.status(403, "Forbidden")?;
    let message = r#"secrets is forbidden: User "amir" cannot list resource "secrets" in API group "" in the namespace "shop""#;
    assert_eq!(refused["message"], message);
    agent.get("/api/v1/namespaces/kube-system/secrets").await?.expect(403)?;

    let binding = |name: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": name}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ci-agent"}]})
    };
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    agent.send(Method::POST, bindings, binding("escape")).await?.expect(201)?;
    agent.get("/api/v1/namespaces/kube-system/secrets").await?.expect(200)?;

    // Who may create bindings but not bind the role may hand out only what they have.
    let maker = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "maker"},
        "rules": [{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterrolebindings"], "verbs": ["create"]}]});
    server.create(maker)?;
    let mut bound = binding("makers");
    bound["roleRef"]["name"] = json!("maker");
    bound["subjects"][0]["name"] = json!("dana");
    server.create(bound.clone())?;
    let dana = admin.clone().token(server.issue_token("dana", &[]).expose());
    dana.send(Method::POST, bindings, binding("more")).await?.status(403, "Forbidden")?;
    bound["metadata"]["name"] = json!("same");
    dana.send(Method::POST, bindings, bound).await?.expect(201)?;
    Ok(())
}

#[tokio::test]
async fn impersonation_needs_the_right_and_is_seen() -> TestResult {
    let (server, admin) = demo().await?;
    let gateway = Client::with_certificate(&server, &server.gateway_certificate()?)?;
    let as_agent = |client: &Client| {
        let request =
            client.request(Method::GET, &format!("{CORE}/secrets/db-credentials")).header("audit-id", "1234");
        request
            .header("impersonate-user", "ci-agent")
            .header("impersonate-group", "agents")
            .header("impersonate-extra-task", "deploy")
    };
    let answer = gateway.answer(as_agent(&gateway), "").await?;
    assert_eq!(answer.headers["audit-id"], "1234");
    answer.expect(200)?;
    let seen = server.seen();
    let last = seen.last().ok_or("nothing was seen")?;
    let impersonated = last.impersonated.as_ref().ok_or("not impersonated")?;
    assert_eq!((impersonated.username.as_str(), last.audit_id.as_deref()), ("ci-agent", Some("1234")));
    assert_eq!(impersonated.extra["task"], ["deploy"]);
    assert_eq!(last.status, Some(StatusCode::OK));

    gateway.get(&format!("{CORE}/secrets/db-credentials")).await?.expect(403)?;
    let agent = admin.clone().token(server.issue_token("ci-agent", &["agents"]).expose());
    agent.answer(as_agent(&agent), "").await?.status(403, "Forbidden")?;
    let group_only = admin.request(Method::GET, "/api").header("impersonate-group", "agents");
    admin.answer(group_only, "").await?.expect(500)?;
    admin.clone().token("wrong").get("/api").await?.status(401, "Unauthorized")?;
    admin.clone().anonymous().get("/api").await?.expect(403)?;
    admin.clone().anonymous().get("/healthz").await?.expect(200)?;
    server.clear_seen();
    assert!(server.seen().is_empty());
    Ok(())
}

#[tokio::test]
async fn service_account_tokens_live_as_long_as_what_they_are_bound_to() -> TestResult {
    let (server, client) = demo().await?;
    let request = |seconds: i64| {
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {
        "expirationSeconds": seconds, "boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": "db-credentials"}}})
    };
    let path = format!("{CORE}/serviceaccounts/web/token");
    client.send(Method::POST, &path, request(60)).await?.expect(422)?;
    let granted = client.send(Method::POST, &path, request(600)).await?.expect(201)?;
    let token = granted["status"]["token"].as_str().ok_or("no token")?;
    let account = client.clone().token(token);
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let reviews = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let who = account.send(Method::POST, reviews, review.clone()).await?.expect(201)?;
    assert_eq!(who["status"]["userInfo"]["username"], "system:serviceaccount:shop:web");
    assert!(server.delete("secrets", "shop", "db-credentials"));
    account.send(Method::POST, reviews, review).await?.expect(401)?;
    Ok(())
}

#[tokio::test]
async fn logs_can_be_read_and_followed() -> TestResult {
    let (_server, client) = demo().await?;
    let pods = client.get(&format!("{CORE}/pods")).await?.expect(200)?;
    let pod = pods["items"][0]["metadata"]["name"].as_str().ok_or("no pod")?;
    let log = client.get(&format!("{CORE}/pods/{pod}/log?tailLines=2")).await?;
    assert!(log.text().starts_with("connecting to postgres://"), "{}", log.text());
    client.get(&format!("{CORE}/pods/{pod}/log?container=nope")).await?.expect(400)?;
    client.get(&format!("{CORE}/pods/{pod}/log?previous=true")).await?.expect(400)?;
    let mut followed = client.stream(&format!("{CORE}/pods/{pod}/log?follow=true&tailLines=1")).await?;
    assert!(followed.text().await?.contains("listening"));
    Ok(())
}

#[tokio::test]
async fn finalizers_and_namespaces_hold_what_they_should() -> TestResult {
    let (_server, client) = demo().await?;
    let mut held = config_map("held", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    client.send(Method::POST, &format!("{CORE}/configmaps"), held).await?.expect(201)?;
    client.send(Method::DELETE, "/api/v1/namespaces/default", Value::Null).await?.expect(403)?;
    let ending = client.send(Method::DELETE, "/api/v1/namespaces/shop", Value::Null).await?.expect(200)?;
    assert_eq!(ending["status"]["phase"], "Terminating");
    client.get(&format!("{CORE}/secrets/db-credentials")).await?.expect(404)?;
    client
        .send(Method::POST, &format!("{CORE}/configmaps"), config_map("late", json!({})))
        .await?
        .status(403, "Forbidden")?;
    let free = json!({"metadata": {"finalizers": null}});
    client.patch("merge", &format!("{CORE}/configmaps/held"), free).await?.expect(200)?;
    client.get("/api/v1/namespaces/shop").await?.expect(404)?;
    Ok(())
}

#[tokio::test]
async fn what_kubectl_sends_in_protobuf_is_read() -> TestResult {
    let (_server, client) = demo().await?;
    let body = b"k8s\0 and then something else";
    let broken = client.request(Method::POST, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings");
    let broken = broken.header("content-type", "application/vnd.kubernetes.protobuf");
    client.answer_bytes(broken, Bytes::from_static(body)).await?.status(400, "BadRequest")?;

    // As `kubectl create clusterrolebinding x --clusterrole=view --user=bob` sends it.
    let field = |number: u32, bytes: &[u8]| {
        let mut out = BytesMut::new();
        encode_protobuf_field(number, ProtobufValue::Bytes(bytes), &mut out);
        out.to_vec()
    };
    let group = b"rbac.authorization.k8s.io".as_slice();
    let subject = [field(1, b"User"), field(2, group), field(3, b"bob"), field(4, b"")].concat();
    let role = [field(1, group), field(2, b"ClusterRole"), field(3, b"view")].concat();
    let raw = [field(1, &field(1, b"x")), field(2, &subject), field(3, &role)].concat();
    let envelope = ProtobufEnvelope {
        api_version: "rbac.authorization.k8s.io/v1".into(),
        kind: "ClusterRoleBinding".into(),
        raw: raw.into(),
        ..ProtobufEnvelope::default()
    };
    let request = client.request(Method::POST, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings");
    let request = request.header("content-type", "application/vnd.kubernetes.protobuf");
    let request = request.header("accept", "application/vnd.kubernetes.protobuf,application/json");
    let created = client.answer_bytes(request, envelope.encode()).await?.expect(201)?;
    assert_eq!(
        created["subjects"],
        json!([{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "bob"}])
    );
    Ok(())
}
