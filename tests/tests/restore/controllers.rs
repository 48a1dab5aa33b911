//! Controllers and scripts: client-go in JSON and in protobuf, from the server and from an informer's cache, and the official
//! Python client.

use portcullis_tests::{Cluster, Finished, Gateway, Running, go_program, python, source};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{PASSWORD, Stage, essence};

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

#[tokio::test]
async fn an_update_in_json_leaves_the_values_alone() {
    an_update_leaves_the_values_alone(JSON).await;
}

#[tokio::test]
async fn an_update_in_protobuf_leaves_the_values_alone() {
    an_update_leaves_the_values_alone(PROTOBUF).await;
}

async fn an_update_leaves_the_values_alone(content_type: &str) {
    let cluster = Cluster::from_env();
    let stage = Stage::set(&cluster).await;
    for (name, options) in [("fresh", &[][..]), ("cached", &["-cached"])] {
        let before = stage.secret(name).await;
        let options = [options, &["-label", "tier=back"]].concat();
        let said = update(&stage, content_type, &options, &[name]).await.ok();
        are_tokens(&said, &["password", "user"]);
        let mut expected = before;
        expected["metadata"]["labels"]["tier"] = "back".into();
        assert_eq!(essence(stage.live(name).await), essence(expected), "{name}");
    }

    // Many from one cache, whose tokens stand beside each other.
    let names = ["one", "two", "three"];
    let mut expected = Vec::new();
    for name in names {
        expected.push(stage.secret(name).await["data"].clone());
    }
    update(&stage, content_type, &["-cached", "-label", "tier=back"], &names).await.ok();
    for (name, data) in names.into_iter().zip(expected) {
        assert_eq!(stage.live(name).await["data"], data, "{name}");
    }

    // A value that is changed is changed, and its neighbour is not.
    stage.secret("changed").await;
    let said = update(&stage, content_type, &["-value", "user=grace"], &["changed"]).await.ok();
    are_tokens(&said, &["password", "user"]);
    assert_eq!(stage.live("changed").await["data"], json!({"password": PASSWORD, "user": "Z3JhY2U="}));

    let records = stage.gateway.records().await;
    let restored = records.outcomes().filter(|outcome| outcome.notes.contains_key("restored")).count();
    assert_eq!(restored, 6);
    // And it was sent as it was to be: a client may think better of it.
    let updates = records.intents().filter(|intent| intent.request.info.verb == "update");
    let sent: Vec<_> = updates.map(|intent| intent.body.as_ref()?.content_type.as_deref()).collect();
    assert_eq!(sent, [Some(content_type); 6]);
    stage.gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn an_update_does_not_store_a_token_that_is_not_restored() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::start(&cluster).await;
    let stage = Stage::with(&cluster, gateway).await;
    for content_type in [JSON, PROTOBUF] {
        let before = stage.secret("db").await;
        let said = update(&stage, content_type, &["-label", "tier=back"], &["db"]).await.fails();
        assert!(said.contains("holds the mask of a value"), "{content_type}: {said}");
        assert_eq!(stage.live("db").await, before, "{content_type}");
    }
    stage.gateway.agrees_with_the_server().await;
}

/// What a controller read of one Secret it writes into another: by mistake, or to find out.
#[tokio::test]
async fn an_update_does_not_move_a_value() {
    let cluster = Cluster::from_env();
    let stage = Stage::set(&cluster).await;
    stage.secret("db").await;
    for content_type in [JSON, PROTOBUF] {
        let read = update(&stage, content_type, &["-label", "tier=back"], &["db"]).await.ok();
        let token = lines(&read)[0]["data"]["password"].as_str().unwrap_or_default().to_owned();
        let before = stage.secret("other").await;
        for place in ["password", "user", "another"] {
            let value = format!("{place}={token}");
            let said = update(&stage, content_type, &["-value", &value], &["other"]).await.fails();
            assert!(said.contains("mask of a value"), "{content_type}: {said}");
        }
        assert_eq!(stage.live("other").await, before, "{content_type}");
    }
    stage.gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn python_writes_back_what_it_read() {
    let cluster = Cluster::from_env();
    let stage = Stage::set(&cluster).await;
    for way in ["replace", "patch-label", "patch-token", "patch-whole", "merge-whole"] {
        let before = stage.secret(way).await;
        let mut client = Command::new(python());
        client.arg(source("clients/python/update.py")).arg(stage.gateway.kubeconfig("agent-ci").await);
        client.args([&stage.namespace, way, way]);
        let said = Running::start(client).finish().await.ok();
        for line in lines(&said) {
            for key in ["password", "user"] {
                let shown = line["data"][key].as_str().unwrap_or_default();
                assert!(shown.starts_with("bWFza2Vk"), "{way}: {said}");
            }
        }
        let mut expected = before;
        expected["metadata"]["labels"]["tier"] = "back".into();
        assert_eq!(essence(stage.live(way).await), essence(expected), "{way}");
    }
    stage.gateway.agrees_with_the_server().await;
}

/// A controller that reads these Secrets, changes them and writes them back.
async fn update(stage: &Stage, content_type: &str, options: &[&str], names: &[&str]) -> Finished {
    let mut command = Command::new(go_program("informer/update").await);
    command.arg("-kubeconfig").arg(stage.gateway.kubeconfig("agent-ci").await);
    command.args(["-namespace", &stage.namespace, "-content-type", content_type]).args(options).args(names);
    Running::start(command).finish().await
}

/// All that the controller saw of these keys are tokens.
#[track_caller]
fn are_tokens(said: &str, keys: &[&str]) {
    let lines = lines(said);
    assert!(lines.len() >= 2, "{said}");
    for line in lines {
        for key in keys {
            let shown = line["data"][key].as_str().unwrap_or_default();
            assert!(shown.starts_with("masked:secrets:"), "{said}");
        }
    }
}

#[expect(clippy::expect_used, reason = "without it there is no test")]
fn lines(said: &str) -> Vec<Value> {
    said.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}
