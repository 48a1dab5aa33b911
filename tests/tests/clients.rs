//! Clients that are not kubectl: the official Python client, and the informers of client-go that every
//! controller is built of. They see the same through the gateway as they do directly.

use std::path::PathBuf;

use portcullis_tests::{Cluster, Running, Twin, Twins, go_program, python, source};
use serde_json::{Value, json};
use tokio::process::Command;

#[tokio::test]
async fn python_sees_the_same() {
    let cluster = Cluster::from_env();
    let twins = Twins::start(&cluster, "python").await;
    let script = "echo one; echo two; trap exit TERM; while :; do sleep 1; done";
    for command in [
        &["create", "configmap", "settings", "--from-literal=colour=blue", "--from-literal=size=large"][..],
        &["create", "deployment", "web", "--image=none", "--replicas=0"],
        &["run", "box", "--image=none", "--restart=Never", "--command", "--", "sh", "-c", script],
        &["wait", "--for=condition=Ready", "pod/box", "--timeout=50s"],
    ] {
        twins.run(command).await.same().ok();
    }
    let run = async |twin: &Twin, kubeconfig: PathBuf| {
        let mut client = Command::new(python());
        client.arg(source("clients/python/client.py")).arg(kubeconfig).arg(&twin.namespace);
        Running::start(client).finish().await
    };
    let kubeconfig = twins.gateway.kubeconfig("agent-ci").await;
    let robot = cluster.robot(twins.gateway.dir(), &twins.direct.namespace).await;
    let (through, direct) = tokio::join!(run(&twins.through, kubeconfig), run(&twins.direct, robot));
    let said = twins.pair(through, direct).same().ok();
    assert!(said.contains(r#""what": "done""#), "{said}");

    // And it was what it should have been.
    let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let value = |what: &str| &lines.iter().find(|line| line["what"] == what).unwrap()["value"];
    assert_eq!(value("exec"), &json!(["out\n", "err\n", 3]));
    assert_eq!(value("exec with input"), &json!([["heard first", "heard second", "heard last"], 0]));
    assert_eq!(value("exec with much output"), &json!([2_000_000, "0123456789abcdef"]));
    assert_eq!(value("forbidden")["status"], 403);
    assert_eq!(value("watched").as_array().unwrap().len(), 6);
    twins.agree_with_the_server().await;
}

/// How clients speak that accept nothing else.
const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

#[tokio::test]
async fn informers_see_the_same() {
    informers_see_the_same_in(JSON).await;
}

#[tokio::test]
async fn informers_that_speak_protobuf_only_see_the_same() {
    informers_see_the_same_in(PROTOBUF).await;
}

async fn informers_see_the_same_in(content_type: &str) {
    let cluster = Cluster::from_env();
    let informer = go_program("informer").await;
    let twins = Twins::start(&cluster, "informer").await;
    let start = |twin: &Twin, kubeconfig: PathBuf| {
        let mut command = Command::new(&informer);
        command.arg("-kubeconfig").arg(kubeconfig).args(["-namespace", &twin.namespace]);
        command.args(["-content-type", content_type]);
        Running::start(command)
    };
    let kubeconfig = twins.gateway.kubeconfig("agent-ci").await;
    let robot = cluster.robot(twins.gateway.dir(), &twins.direct.namespace).await;
    for name in ["first", "second"] {
        let literal = format!("--from-literal=name={name}");
        twins.run(&["create", "configmap", name, &literal]).await.same().ok();
    }
    let mut informers = [start(&twins.through, kubeconfig), start(&twins.direct, robot)];
    for informer in &mut informers {
        informer.wait_for_output(|said| said.contains("SYNCED")).await;
    }

    // Each change is waited for, since an informer may merge what comes at once.
    let mut change = async |words: &[&str], event: &str| {
        twins.run(words).await.same().ok();
        for informer in &mut informers {
            informer.wait_for_output(|said| said.contains(event)).await;
        }
    };
    change(&["create", "configmap", "third", "--from-literal=n=0"], r#"{"n":"0"}"#).await;
    change(&["patch", "configmap", "third", "-p", r#"{"data":{"n":"1"}}"#], r#"{"n":"1"}"#).await;
    change(&["label", "configmap", "third", "a=b"], r#"{"a":"b"}"#).await;
    change(&["delete", "configmap", "first"], r#"{"type":"DELETED""#).await;
    change(&["create", "deployment", "web", "--image=none", "--replicas=0"], r#""wanted":0"#).await;
    let [through, direct] = informers;
    let (through, direct) = tokio::join!(through.finish(), direct.finish());
    let [through, direct] = [events(&through.ok()), events(&direct.ok())];
    assert_eq!(through, direct);
    assert_eq!(through.iter().filter(|line| line["type"] == "CACHED").count(), 4);
    twins.agree_with_the_server().await;
}

#[tokio::test]
async fn an_informer_goes_on_when_the_gateway_does() {
    an_informer_goes_on_in(JSON).await;
}

#[tokio::test]
async fn an_informer_that_speaks_protobuf_only_goes_on_when_the_gateway_does() {
    an_informer_goes_on_in(PROTOBUF).await;
}

/// A controller outlives its gateway, and it never gets a Secret's value.
#[expect(clippy::unwrap_used, reason = "without it there is no test")]
async fn an_informer_goes_on_in(content_type: &str) {
    let cluster = Cluster::from_env();
    let informer = go_program("informer").await;
    let mut twins = Twins::start(&cluster, "restart").await;
    let admin = cluster.admin().namespace(&twins.through.namespace);
    admin.run(&["create", "secret", "generic", "db", "--from-literal=password=hunter2"]).await.ok();
    let mut command = Command::new(&informer);
    command.arg("-kubeconfig").arg(twins.gateway.kubeconfig("agent-ci").await);
    command.args(["-namespace", &twins.through.namespace, "-content-type", content_type]);
    let mut informer = Running::start(command);
    informer.wait_for_output(|said| said.contains("SYNCED")).await;

    twins.gateway.stop().await;
    admin.run(&["create", "configmap", "meanwhile", "--from-literal=a=b"]).await.ok();
    twins.gateway.start_again().await;
    informer.wait_for_output(|said| said.contains("meanwhile")).await;
    twins.gateway.kill().await;
    twins.gateway.start_again().await;
    admin.run(&["create", "configmap", "afterwards", "--from-literal=a=b"]).await.ok();
    informer.wait_for_output(|said| said.contains("afterwards")).await;

    let said = informer.finish().await;
    let secret = events(&said.ok()).into_iter().find(|line| line["type"] == "CACHED" && line["name"] == "db");
    let value = secret.unwrap()["data"]["password"].as_str().unwrap().to_owned();
    assert!(value.starts_with("masked:secrets:"), "{value}");
    assert!(!said.out().contains("hunter2"));
    twins.agree_with_the_server().await;
}

/// What an informer was told of each object, in order, and what it kept. A list has no order that means anything, and
/// a Deployment's controller writes when it likes.
#[expect(clippy::expect_used, reason = "without it there is no test")]
fn events(said: &str) -> Vec<Value> {
    let lines = said.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    let chance = |line: &Value| line["kind"] == "Deployment" && line["type"] == "MODIFIED";
    let mut lines: Vec<Value> = lines.filter(|line| !chance(line)).collect();
    lines.sort_by_key(|line| (line["kind"].to_string(), line["name"].to_string()));
    lines
}
