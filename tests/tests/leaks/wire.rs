//! What is on the wire besides what kubectl shows: protobuf for those who want nothing else, and errors that echo what was sent,
//! or what was there.

use base64::{Engine, engine::general_purpose::STANDARD};
use portcullis_tests::{Answer, Cluster, Gateway, HttpClient, Kubectl};
use portcullis_wire::ProtobufObject;
use serde_json::{Value, json};

use crate::search::{Canaries, find};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// How client-go asks for a list and what follows, in one.
const WATCH_LIST: &str = "watch=true&timeoutSeconds=1&sendInitialEvents=true&allowWatchBookmarks=true\
    &resourceVersionMatch=NotOlderThan";

/// A namespace with a Secret and a Deployment, and canaries in both.
struct Stage {
    gateway: Gateway,
    namespace: String,
    agent: Kubectl,
    admin: Kubectl,
    canaries: Canaries,
    evidence: Vec<(String, Vec<u8>)>,
}

impl Stage {
    async fn set(cluster: &Cluster) -> Self {
        let gateway = Gateway::start(cluster).await;
        let namespace = cluster.namespace_of_agents("wire").await;
        let agent = gateway.kubectl("agent-ci").await.namespace(&namespace);
        let admin = cluster.admin().namespace(&namespace);
        let canaries = Canaries::new(&["secret", "environment", "sent"]);
        let data = STANDARD.encode(&canaries.values["secret"]);
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}, "data": {"password": data}},
            deployment("web", &json!(canaries.values["environment"])),
        ]});
        admin.run_with_input(&["apply", "-f", "-"], list.to_string()).await.ok();
        Self { gateway, namespace, agent, admin, canaries, evidence: Vec::new() }
    }

    async fn end(self) {
        self.canaries.appear_nowhere(self.evidence, self.gateway).await;
    }
}

#[tokio::test]
async fn protobuf_has_tokens_where_the_values_are() {
    let cluster = Cluster::from_env();
    let mut stage = Stage::set(&cluster).await;
    let robot = cluster.robot(stage.gateway.dir(), &stage.namespace).await;
    let robot: Value = serde_json::from_slice(&std::fs::read(robot).unwrap()).unwrap();
    let robot = robot["users"][0]["user"]["token"].as_str().unwrap();
    let agent = stage.gateway.token("agent-ci").await;
    let ask = async |http: HttpClient, url: &str, path: &str, token: &str| -> Answer {
        let request = http::Request::get(format!("{url}{path}"))
            .header("authorization", format!("Bearer {token}"))
            .header("accept", PROTOBUF);
        http.send(request.body("").unwrap()).await
    };
    let core = format!("/api/v1/namespaces/{}", stage.namespace);
    let apps = format!("/apis/apps/v1/namespaces/{}", stage.namespace);
    for (path, place, rule) in [
        (format!("{core}/secrets/db"), "secret", "masked:secrets:"),
        (format!("{core}/secrets"), "secret", "masked:secrets:"),
        (format!("{core}/secrets?limit=1"), "secret", "masked:secrets:"),
        (format!("{core}/secrets?watch=true&timeoutSeconds=1"), "secret", "masked:secrets:"),
        (format!("{core}/secrets?{WATCH_LIST}"), "secret", "masked:secrets:"),
        (format!("{apps}/deployments/web"), "environment", "masked:env:"),
        (format!("{apps}/deployments"), "environment", "masked:env:"),
        (format!("{apps}/replicasets"), "environment", "masked:env:"),
        (format!("{apps}/deployments?watch=true&timeoutSeconds=1"), "environment", "masked:env:"),
    ] {
        let (through, direct) = tokio::join!(
            ask(stage.gateway.http(), &stage.gateway.url, &path, &agent),
            ask(HttpClient::new(&cluster.ca()), &cluster.url, &path, robot),
        );
        for answer in [&through, &direct] {
            let kind = answer.headers()["content-type"].to_str().unwrap();
            assert!(answer.status() == 200 && kind.starts_with(PROTOBUF), "{path}: {answer:?}");
        }
        let value = &stage.canaries.values[place];
        assert!(find(value.as_bytes(), direct.body()), "{path}: it is not even there directly");
        assert!(find(rule.as_bytes(), through.body()), "{path}: no token");
        // And it is what it was but for the values.
        if !path.contains("watch=true") {
            let read = |answer: &Answer| ProtobufObject::read(answer.body()).unwrap().value;
            let (mut through, mut direct) = (read(&through), read(&direct));
            without_values(&mut through, &stage.canaries);
            without_values(&mut direct, &stage.canaries);
            assert_eq!(through, direct, "{path}");
        }
        stage.evidence.push((path, through.body().to_vec()));
    }
    stage.end().await;
}

/// Replaces texts that hold a value or a token, and what the server says of the moment.
fn without_values(value: &mut Value, canaries: &Canaries) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(|value| without_values(value, canaries)),
        Value::Array(items) => items.iter_mut().for_each(|value| without_values(value, canaries)),
        Value::String(text) => {
            let encoded = STANDARD.decode(&*text).unwrap_or_default();
            // In plain, in base64, or in base64 somewhere in a longer text, where only its beginning is certain.
            let holds = |needle: &str| {
                text.contains(needle)
                    || find(needle.as_bytes(), &encoded)
                    || text.contains(&STANDARD.encode(needle)[..8])
            };
            if holds("masked:") || canaries.values.values().any(|value| holds(value)) {
                "a value".clone_into(text);
            }
        }
        _ => {}
    }
}

/// An error about a patch may have the whole object in it, as it would be: with what was sent, and with what was there.
#[tokio::test]
async fn errors_echo_nothing() {
    let cluster = Cluster::from_env();
    let mut stage = Stage::set(&cluster).await;
    let sent = stage.canaries.values["sent"].clone();
    let invalid = format!("{sent}!");
    let encoded = format!("{}!", STANDARD.encode(&sent));
    let secret =
        |data: Value| json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "x"}, "data": data});
    let strings = |value: Value| json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "x"}, "stringData": value});
    let other = |value: Value| json!({"data": {"other": value}});
    let added = |value: Value| json!([{"op": "add", "path": "/data/other", "value": value}]);
    let create = &["create", "--validate=false", "-f", "-"][..];
    let apply = &["apply", "--server-side", "--validate=false", "-f", "-"][..];
    let patch = &["patch", "secret", "db", "--patch-file=/dev/stdin"][..];
    let merge = &["patch", "secret", "db", "--type=merge", "--patch-file=/dev/stdin"][..];
    let json = &["patch", "secret", "db", "--type=json", "--patch-file=/dev/stdin"][..];
    let (not_base64, no_string) = ("illegal base64 data", "cannot unmarshal string");
    for (words, input, echoed, left) in [
        (create, secret(json!({"password": invalid})), None, not_base64),
        (create, secret(json!({"password": [sent]})), None, no_string),
        // Nothing of these is a Secret's, and yet they are kept as if they were.
        (create, secret(json!([sent])), None, "cannot unmarshal array"),
        (create, secret(json!([{"a": [sent]}])), None, "cannot unmarshal array"),
        (create, secret(json!({"password": {"a": {"b": sent}}})), None, "cannot unmarshal"),
        (create, strings(json!([sent])), None, "cannot unmarshal array"),
        (create, strings(json!({"a": [sent]})), None, "cannot unmarshal array"),
        (patch, other(json!(encoded)), Some("sent"), not_base64),
        // As Go prints them, not as JSON.
        (patch, other(json!(invalid)), Some("sent"), not_base64),
        (patch, json!({"stringData": [sent]}), Some("sent"), "Invalid value"),
        (apply, secret(json!({"password": [sent]})), Some("sent"), "expected string"),
        (apply, strings(json!({"password": [sent]})), Some("sent"), "expected string"),
        (apply, secret(json!([sent])), Some("sent"), "expected map"),
        (patch, json!({"data": {"password": {"a": sent}}}), Some("sent"), "cannot restore slice from map"),
        (merge, other(json!(invalid)), Some("sent"), not_base64),
        (merge, other(json!([sent])), Some("sent"), no_string),
        (merge, other(json!("no!")), Some("secret"), not_base64),
        (merge, other(json!(["no"])), Some("secret"), no_string),
        (json, added(json!(invalid)), Some("sent"), not_base64),
        (json, added(json!("no!")), Some("secret"), not_base64),
        (json, added(json!(["no"])), Some("secret"), no_string),
    ] {
        let what = format!("{} {input}", words.join(" "));
        let direct = stage.admin.run_with_input(words, input.to_string()).await;
        let through = stage.agent.run_with_input(words, input.to_string()).await;
        direct.fails();
        let said = through.fails();
        // Why it failed is still to be read.
        assert!(said.contains(left), "{what}: {said}");
        match echoed {
            Some(place) => {
                let value = &stage.canaries.values[place];
                let echo = [value.clone(), STANDARD.encode(value)];
                assert!(echo.iter().any(|echo| direct.err().contains(echo)), "{what}, directly: {direct}");
            }
            None => assert_eq!(said, direct.err(), "{what}"),
        }
        stage.evidence.push((what.replace(&sent, "SENT"), through.all()));
    }
    stage.end().await;
}

fn deployment(name: &str, password: &Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": 0,
        "selector": {"matchLabels": {"app": name}},
        "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "web", "image": "none", "env": [
                {"name": "PASSWORD", "value": password},
                {"name": "COLOUR", "value": "red"},
            ]}]},
        },
    }})
}
