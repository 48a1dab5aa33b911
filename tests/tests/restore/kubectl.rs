//! kubectl: every way that it has of writing back what it read.

use portcullis_tests::{Cluster, Finished};
use serde_json::{Value, json};

use crate::{APPLIED, PASSWORD, Stage, essence};

#[tokio::test]
async fn every_way_of_writing_back_leaves_the_values_alone() {
    let cluster = Cluster::from_env();
    let stage = Stage::set(&cluster).await;
    let labelled = |secret: &Value| {
        let mut expected = secret.clone();
        expected["metadata"]["labels"]["tier"] = "db".into();
        expected
    };
    let edit = "sed -i 's/^  namespace:/  labels: {tier: db}\\n  namespace:/'";
    for (way, words) in [
        ("edit", &["edit", "secret", "NAME"][..]),
        ("label", &["label", "secret", "NAME", "tier=db"]),
        (
            "patch",
            &["patch", "secret", "NAME", "--type=merge", "-p", r#"{"metadata":{"labels":{"tier":"db"}}}"#],
        ),
        (
            "json-patch",
            &[
                "patch",
                "secret",
                "NAME",
                "--type=json",
                "-p",
                r#"[{"op":"add","path":"/metadata/labels","value":{"tier":"db"}}]"#,
            ],
        ),
    ] {
        let before = stage.secret(way).await;
        let words: Vec<&str> = words.iter().map(|word| if *word == "NAME" { way } else { word }).collect();
        stage.agent.clone().env("KUBE_EDITOR", edit).run(&words).await.ok();
        assert_eq!(essence(stage.live(way).await), essence(labelled(&before)), "{way}");
    }

    let annotated = stage.secret("annotate").await;
    stage.agent.run(&["annotate", "secret", "annotate", "note=a<b"]).await.ok();
    let mut expected = annotated;
    expected["metadata"]["annotations"]["note"] = "a<b".into();
    assert_eq!(essence(stage.live("annotate").await), essence(expected));

    // get -o yaml | sed | replace, apply, apply --server-side
    for (way, words) in [
        ("replace", &["replace", "-f", "-"][..]),
        ("apply", &["apply", "-f", "-"]),
        ("server-side", &["apply", "--server-side", "--force-conflicts", "-f", "-"]),
    ] {
        let before = stage.secret(way).await;
        let mut seen: Value = serde_json::from_str(&stage.seen(way, "json").await).unwrap();
        seen["metadata"]["labels"]["tier"] = "db".into();
        if way == "server-side" {
            seen["metadata"]["managedFields"] = Value::Null;
        }
        stage.agent.run_with_input(words, seen.to_string()).await.ok();
        let live = stage.live(way).await;
        assert_eq!(
            (&live["data"], &live["metadata"]["labels"]["tier"]),
            (&before["data"], &json!("db")),
            "{way}"
        );
        let applied = live.pointer(APPLIED).and_then(Value::as_str).unwrap_or_default();
        assert!(!applied.contains("masked") && !applied.contains("bWFza2Vk"), "{way}: {applied}");
        assert!(applied.contains(PASSWORD), "{way}: {applied}");
    }

    // A value that is changed is changed, and its neighbour is not.
    stage.secret("changed").await;
    let seen = stage.seen("changed", "json").await;
    let mut changed: Value = serde_json::from_str(&seen).unwrap();
    changed["data"]["user"] = "Z3JhY2U=".into();
    stage.agent.run_with_input(&["replace", "-f", "-"], changed.to_string()).await.ok();
    assert_eq!(stage.live("changed").await["data"], json!({"password": PASSWORD, "user": "Z3JhY2U="}));

    // All of it is on record, with the tokens that were sent, and the reads that it took.
    let records = stage.gateway.records().await;
    let restored = records.outcomes().filter(|outcome| outcome.notes.contains_key("restored")).count();
    let reads = records.outcomes().filter(|outcome| outcome.notes.get("purpose") == Some(&json!("restore")));
    assert!(restored >= 4 && reads.count() == restored, "{restored}");
    stage.gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn a_mask_is_worth_nothing_where_it_does_not_belong() {
    let cluster = Cluster::from_env();
    let stage = Stage::set(&cluster).await;
    stage.secret("db").await;
    let other = stage.secret("other").await;
    let seen: Value = serde_json::from_str(&stage.seen("db", "json").await).unwrap();
    let token = &seen["data"]["password"];
    let refused = |run: Finished| {
        let said = run.fails();
        assert!(
            said.contains("holds a mask") || said.contains("hold a mask") || said.contains("mask of a value"),
            "{said}"
        );
    };
    let patch = async |name: &str, patch: Value| {
        stage.agent.run(&["patch", "secret", name, "--type=merge", "-p", &patch.to_string()]).await
    };
    refused(patch("db", json!({"data": {"copy": token}})).await);
    refused(patch("other", json!({"data": {"password": token}})).await);
    refused(patch("db", json!({"metadata": {"annotations": {"shown": token}}})).await);
    let config =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"p": token}});
    refused(stage.agent.run_with_input(&["create", "-f", "-"], config.to_string()).await);
    assert_eq!(essence(stage.live("other").await), essence(other));

    // A dry run confirms no guess: the right one looks like a wrong one.
    let tried = async |guess: &str| {
        let patch = json!({"data": {"password": guess}}).to_string();
        let words = [
            "patch",
            "secret",
            "db",
            "--type=merge",
            "--dry-run=server",
            "-o",
            "jsonpath={.data.password}",
            "-p",
            &patch,
        ];
        stage.agent.run(&words).await.ok()
    };
    let (right, wrong) = (tried(PASSWORD).await, tried("Z3Vlc3M=").await);
    assert!(
        right != wrong && Some(right.as_str()) != token.as_str() && right.starts_with("bWFza2Vk"),
        "{right}"
    );
    let manifest = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}, "data": {"password": PASSWORD}});
    let apply = ["apply", "--server-side", "--dry-run=server", "--field-manager=guess", "-f", "-"];
    let said = stage.agent.run_with_input(&apply, manifest.to_string()).await.fails();
    assert!(said.contains("would confirm a guess"), "{said}");
    stage.gateway.agrees_with_the_server().await;
}
