//! Strategic merge patches, and Deployments with literal secrets in their environments: whoever changes an image keeps the values.

use portcullis_tests::{Cluster, Finished};
use serde_json::{Value, json};

use crate::{PASSWORD, Stage, essence};

#[tokio::test]
async fn a_strategic_patch_with_a_token_leaves_the_value_alone() {
    let cluster = Cluster::from_env();
    let stage = Stage::set(&cluster).await;
    let before = stage.secret("db").await;
    let seen: Value = serde_json::from_str(&stage.seen("db", "json").await).unwrap();
    let token = &seen["data"]["password"];
    let patch = async |patch: Value| {
        let patch = patch.to_string();
        stage.agent.run(&["patch", "secret", "db", "--type=strategic", "-o", "yaml", "-p", &patch]).await
    };
    let labelled = json!({"data": {"password": token}, "metadata": {"labels": {"tier": "back"}}});
    let said = patch(labelled).await.ok();
    assert!(!said.contains(PASSWORD) && said.contains("tier: back"), "{said}");
    let mut expected = before;
    expected["metadata"]["labels"]["tier"] = "back".into();
    assert_eq!(essence(stage.live("db").await), essence(expected.clone()));

    // A token is one of a place and a value; elsewhere it is refused, and nothing has changed.
    for wrong in [
        json!({"data": {"user": token}}),
        json!({"data": {"another": token}}),
        json!({"stringData": {"password": "masked:secrets:0000000000000000"}}),
        json!({"metadata": {"labels": {"tier": "front"}, "annotations": {"shown": token}}}),
    ] {
        let said = patch(wrong.clone()).await.fails();
        assert!(said.contains("mask/would-store-mask"), "{wrong}: {said}");
    }
    assert_eq!(essence(stage.live("db").await), essence(expected));

    // With what only strategic patches have: the other key goes, this one stays.
    patch(json!({"data": {"$retainKeys": ["password"], "password": token}})).await.ok();
    assert_eq!(stage.live("db").await["data"], json!({"password": PASSWORD}));
    stage.gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn every_way_of_changing_an_image_leaves_the_environment_alone() {
    let cluster = Cluster::from_env();
    let stage = Stage::set(&cluster).await;
    for way in [
        "edit",
        "set-image",
        "strategic",
        "strategic-reversed",
        "strategic-one",
        "merge",
        "merge-reversed",
        "json",
        "apply",
        "server-side",
        "replace",
    ] {
        let before = deploy(&stage, way).await;
        let mut seen = seen(&stage, way).await;
        seen["spec"]["template"]["spec"]["containers"][0]["image"] = "web:2.0".into();
        let read = containers(&seen);
        let reversed = json!([read[1], read[0]]);
        let patch = async |kind: &str, containers: Value| {
            let patch = json!({"spec": {"template": {"spec": {"containers": containers}}}}).to_string();
            stage.agent.run(&["patch", "deployment", way, kind, "-p", &patch]).await
        };
        let feed = async |words: &[&str], object: &Value| {
            stage.agent.run_with_input(words, object.to_string()).await
        };
        let done: Finished = match way {
            "edit" => {
                let agent = stage.agent.clone().env("KUBE_EDITOR", "sed -i s/web:1.0/web:2.0/");
                agent.run(&["edit", "deployment", way]).await
            }
            "set-image" => stage.agent.run(&["set", "image", "deployment", way, "web=web:2.0"]).await,
            "strategic" => patch("--type=strategic", read).await,
            "strategic-reversed" => patch("--type=strategic", reversed).await,
            "strategic-one" => patch("--type=strategic", json!([read[0]])).await,
            "merge" => patch("--type=merge", read).await,
            "merge-reversed" => patch("--type=merge", reversed).await,
            "json" => {
                let web = json!([
                    {"op": "replace", "path": "/spec/template/spec/containers/0", "value": read[0]},
                ]);
                stage.agent.run(&["patch", "deployment", way, "--type=json", "-p", &web.to_string()]).await
            }
            "apply" => feed(&["apply", "-f", "-"], &seen).await,
            "server-side" => {
                // Which is how kubectl wants it, and what lets it apply twice.
                for own in ["managedFields", "resourceVersion"] {
                    seen["metadata"][own] = Value::Null;
                }
                feed(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &seen).await
            }
            "replace" => feed(&["replace", "-f", "-"], &seen).await,
            other => panic!("no such way: {other}"),
        };
        assert!(!done.ok().contains("hunter"), "{done}");
        let mut expected = containers(&before);
        expected[0]["image"] = "web:2.0".into();
        if way.ends_with("reversed") {
            expected = json!([expected[1], expected[0]]);
        }
        assert_eq!(containers(&live(&stage, way).await), expected, "{way}");
    }
    stage.gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn a_variable_that_is_changed_is_changed_and_its_neighbours_are_not() {
    let cluster = Cluster::from_env();
    let stage = Stage::set(&cluster).await;
    let before = deploy(&stage, "web").await;
    for (variable, index) in [("PASSWORD=changed", 0), ("COLOUR=changed", 1)] {
        let set = ["set", "env", "deployment/web", "--containers=web", variable];
        stage.agent.run(&set).await.ok();
        let mut expected = containers(&before);
        for changed in 0..=index {
            expected[0]["env"][changed]["value"] = "changed".into();
        }
        assert_eq!(containers(&live(&stage, "web").await), expected, "{variable}");
    }
    stage.gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn a_value_does_not_move_to_another_container_or_out_of_another_object() {
    let cluster = Cluster::from_env();
    let stage = Stage::set(&cluster).await;
    deploy(&stage, "web").await;
    let seen = containers(&seen(&stage, "web").await);
    let before = live(&stage, "web").await;
    let token = &seen[0]["env"][0]["value"];
    for (container, variable) in
        [("proxy", "PASSWORD"), ("web", "COLOUR"), ("web", "API_TOKEN"), ("web", "NEW")]
    {
        let patch = json!({"spec": {"template": {"spec": {"containers": [
            {"name": container, "env": [{"name": variable, "value": token}]},
        ]}}}});
        let said = stage.agent.run(&["patch", "deployment", "web", "-p", &patch.to_string()]).await.fails();
        assert!(
            said.contains("mask of a value") || said.contains("holds a mask"),
            "{container}, {variable}: {said}"
        );
    }
    assert_eq!(live(&stage, "web").await, before);

    // kubectl takes the template from a ReplicaSet, which is another object.
    stage.admin.run(&["set", "image", "deployment/web", "web=web:2.0"]).await.ok();
    stage.admin.run(&["rollout", "status", "deployment/web", "--timeout=50s"]).await.ok();
    let before = live(&stage, "web").await;
    let said = stage.agent.run(&["rollout", "undo", "deployment/web"]).await.fails();
    assert!(said.contains("containers[web].env[PASSWORD].value holds the mask of a value"), "{said}");
    assert_eq!(live(&stage, "web").await, before);
    stage.gateway.agrees_with_the_server().await;
}

/// Applies a Deployment of two containers, whose environments have variables of the same names, and returns it.
async fn deploy(stage: &Stage, name: &str) -> Value {
    let container = |name: &str, password: &str| {
        json!({"name": name, "image": format!("{name}:1.0"), "env": [
            {"name": "PASSWORD", "value": password},
            {"name": "COLOUR", "value": "red"},
            {"name": "API_TOKEN", "value": format!("token-{password}")},
        ]})
    };
    let manifest = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": 0,
        "selector": {"matchLabels": {"app": name}},
        "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [container("web", "hunter2"), container("proxy", "hunter3")]},
        },
    }});
    stage.admin.run_with_input(&["apply", "-f", "-"], manifest.to_string()).await.ok();
    // Which is when nothing changes by itself any more.
    let rolled_out = ["rollout", "status", &format!("deployment/{name}"), "--timeout=50s"];
    stage.admin.run(&rolled_out).await.ok();
    live(stage, name).await
}

/// The Deployment as it is.
#[expect(clippy::expect_used, reason = "without it there is no test")]
async fn live(stage: &Stage, name: &str) -> Value {
    let said = stage.admin.run(&["get", "deployment", name, "-o", "json"]).await.ok();
    serde_json::from_str(&said).expect("JSON")
}

/// The Deployment as the agent sees it.
#[expect(clippy::expect_used, reason = "without it there is no test")]
async fn seen(stage: &Stage, name: &str) -> Value {
    let said = stage.agent.run(&["get", "deployment", name, "-o", "json"]).await.ok();
    assert!(!said.contains("hunter") && said.contains("masked:env:"), "{said}");
    serde_json::from_str(&said).expect("JSON")
}

fn containers(deployment: &Value) -> Value {
    deployment["spec"]["template"]["spec"]["containers"].clone()
}
