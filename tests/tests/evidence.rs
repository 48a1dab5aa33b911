//! The record put to use: searched, shown, followed, and handed on to other systems.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use portcullis_tests::{AuditEvent, Cluster, Collector, Gateway, Webhook, wait_until};
use serde_json::{Value, json};

/// The value of a Secret that is written and read: in no index and no export.
const CANARY: &str = "canary-evidence-91c0";

fn lines(path: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// Reads, writes, errors, a refusal, a command in a pod, a secret, a watch.
async fn some_work(gateway: &Gateway) -> String {
    let agent = gateway.kubectl("agent-ci").await.namespace("shop");
    agent.run(&["get", "pods"]).await.ok();
    agent.run(&["get", "pod", "no-such-pod"]).await.fails();
    let name = format!("evidence-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
    let literal = format!("--from-literal=password={CANARY}");
    agent.run(&["create", "secret", "generic", &name, &literal]).await.ok();
    agent.run(&["get", "secret", &name, "-o", "yaml"]).await.ok();
    agent.run(&["delete", "secret", &name]).await.ok();
    let said = agent.run(&["exec", "toolbox", "--", "sh", "-c", "echo marmalade sandwiches; exit 7"]).await;
    assert_eq!(said.code(), Some(7), "{said}");
    agent.run(&["create", "configmap", &name, "--from-literal=fruit=quince-jelly"]).await.ok();
    agent.run(&["delete", "configmap", &name]).await.ok();
    assert_eq!(gateway.get("/api/v1/pods", Some("not.a.token")).await.status(), 401);
    name
}

#[tokio::test]
async fn exports_say_what_the_api_server_s_own_log_says() {
    let cluster = Cluster::from_env();
    let (webhook, collector) = (Webhook::start(2).await, Collector::start().await);
    let dir = tempfile::tempdir().unwrap();
    let (file, checkpoints) = (dir.path().join("audit.log"), dir.path().join("checkpoints"));
    let mut gateway = Gateway::configured(&cluster, |config| {
        config["audit"]["checkpointFile"] = json!(checkpoints);
        config["telemetry"]["otlpEndpoint"] = json!(collector.endpoint);
        config["audit"]["exports"] = json!([
            {"kind": "file", "name": "file", "path": file},
            {"kind": "webhook", "name": "falco", "kubeconfig": webhook.kubeconfig(dir.path())},
            {"kind": "otlp", "name": "collector", "endpoint": collector.endpoint},
        ]);
    })
    .await;
    some_work(&gateway).await;
    let seen = gateway.seen().await;
    let outcomes = gateway.records().await.outcomes().count();

    // At least once each: the webhook was away at first.
    wait_until("everything to be exported", || async {
        let posted = webhook.taken().1.len();
        let logs = collector.logs().iter().filter(|log| log.event_name == "portcullis.outcome").count();
        (lines(&file).len() >= outcomes && posted >= outcomes && logs >= outcomes).then_some(())
    })
    .await;
    let (refused, posted) = webhook.taken();
    assert_eq!(refused, 2);
    let written = lines(&file);
    let by_id = |events: &[Value]| -> BTreeMap<String, Value> {
        events.iter().map(|event| (event["auditID"].as_str().unwrap().to_owned(), event.clone())).collect()
    };
    assert_eq!(by_id(&written), by_id(&posted), "the file and the webhook tell the same");

    // What the API server says of the same requests, it says in the same words.
    let events = by_id(&written);
    let mut compared = 0;
    for theirs in seen.iter().filter(|event| event.stage == "ResponseComplete") {
        let ours = events.get(&theirs.audit_id).unwrap_or_else(|| panic!("not exported: {theirs:?}"));
        let event: AuditEvent = serde_json::from_value(ours.clone()).unwrap();
        assert_eq!((&event.verb, &event.stage), (&theirs.verb, &theirs.stage), "{theirs:?}");
        assert_eq!(event.object_ref.is_some(), theirs.object_ref.is_some(), "{theirs:?}");
        if let (Some(ours), Some(theirs)) = (&event.object_ref, &theirs.object_ref) {
            assert_eq!(
                (&ours.resource, &ours.subresource, &ours.namespace, &ours.api_group, &ours.api_version),
                (
                    &theirs.resource,
                    &theirs.subresource,
                    &theirs.namespace,
                    &theirs.api_group,
                    &theirs.api_version
                )
            );
        }
        let code = |event: &AuditEvent| event.response_status.as_ref().map(|status| status.code);
        assert_eq!(code(&event), code(theirs), "{theirs:?}");
        assert_eq!(event.user.username, theirs.impersonated_user.as_ref().unwrap().username);
        compared += 1;
    }
    assert!(compared >= 8, "{compared} events were compared");
    let refused = written.iter().find(|event| event["responseStatus"]["code"] == 401).expect("the refusal");
    assert_eq!(refused["annotations"]["authorization.k8s.io/decision"], "forbid");

    // Checkpoints have left: into the file, to the collector, to the log.
    wait_until("a checkpoint at the collector", || async {
        collector.logs().iter().any(|log| log.event_name == "portcullis.checkpoint").then_some(())
    })
    .await;
    let said = gateway.stop().await.err();
    assert!(said.contains("portcullis::checkpoint"), "{said}");
    // The newest of those that were kept elsewhere is one that the log is held to.
    let kept = std::fs::read_to_string(&checkpoints).unwrap();
    let lines: Vec<&str> = kept.trim_end().lines().collect();
    let begin = lines.iter().rposition(|line| line.is_empty()).expect("a note") - 3;
    let note = dir.path().join("checkpoint");
    std::fs::write(&note, format!("{}\n", lines[begin..].join("\n"))).unwrap();
    let config = gateway.config_file().display().to_string();
    let note = note.display().to_string();
    let verify = gateway.command(&["audit", "verify", "--config", &config, "--checkpoint", &note]);
    portcullis_tests::Running::start(verify).finish().await.ok();

    let secret = STANDARD.encode(CANARY);
    for (name, bytes) in [
        ("the file", std::fs::read(&file).unwrap()),
        ("the webhook", serde_json::to_vec(&posted).unwrap()),
        ("the collector", collector.bytes()),
    ] {
        for secret in [CANARY, &secret] {
            assert!(
                !bytes.windows(secret.len()).any(|found| found == secret.as_bytes()),
                "{secret} is in {name}"
            );
        }
    }
}

#[tokio::test]
async fn an_exporter_goes_on_after_a_crash_and_loses_nothing() {
    let cluster = Cluster::from_env();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.log");
    let mut gateway = Gateway::configured(&cluster, |config| {
        config["audit"]["exports"] = json!([{"kind": "file", "name": "file", "path": file}]);
    })
    .await;
    some_work(&gateway).await;
    gateway.kill().await;
    gateway.start_again().await;
    some_work(&gateway).await;
    let ids: Vec<String> = gateway.records().await.outcomes().map(|outcome| outcome.id.to_string()).collect();
    wait_until("everything to be exported", || async {
        let exported: Vec<_> =
            lines(&file).iter().map(|event| event["auditID"].as_str().unwrap().to_owned()).collect();
        ids.iter().all(|id| exported.contains(id)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_was_done_is_found() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::configured(&cluster, |config| {
        config["auditors"] = json!({"users": ["dev-dana"]});
    })
    .await;
    let name = some_work(&gateway).await;
    let find = async |query: &str| -> Vec<Value> {
        let printed = gateway.cli("dev-dana", &["audit", "search", query, "-o", "json"]).await.ok();
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
    };
    let commands = |found: &[Value]| -> Vec<String> {
        found.iter().map(|record| record["command"].as_str().unwrap_or_default().to_owned()).collect()
    };
    // By what it was, in the order of time, the newest first.
    let secrets = find(&format!("resource:secrets name:{name} user:agent-ci status:2xx")).await;
    assert_eq!(secrets.len(), 2, "{:?}", commands(&secrets));
    assert!(
        secrets[0]["command"].as_str().unwrap().starts_with("delete secrets"),
        "{:?}",
        commands(&secrets)
    );
    assert_eq!(commands(&find("verb:get status:404 no-such-pod").await), ["get pods no-such-pod -n shop"]);
    assert_eq!(find("status:401 code:oidc*").await.len(), 1);
    // By what a terminal showed, and by what a body said.
    let shown = find("\"marmalade sandwiches\" resource:pods/exec exit:7").await;
    assert_eq!(shown.len(), 1, "{:?}", commands(&shown));
    assert_eq!(find("\"quince jelly\" verb:create").await.len(), 1);
    // What was masked is in no index.
    for secret in [CANARY, &STANDARD.encode(CANARY)] {
        assert_eq!(find(&format!("\"{secret}\"")).await.len(), 0);
    }

    let id = shown[0]["id"].as_str().unwrap();
    let whole = gateway.cli("dev-dana", &["audit", "show", id]).await.ok();
    assert!(
        whole.contains("type: intent") && whole.contains("type: outcome") && whole.contains("exit: 7"),
        "{whole}"
    );
    let table = gateway.cli("dev-dana", &["audit", "search", &format!("id:{id}")]).await;
    assert!(table.ok().contains("exit 7") && table.err().contains("searched"), "{table}");
    let tail = gateway.cli("dev-dana", &["audit", "tail", "exit:7", "-n", "5"]).await.ok();
    assert!(tail.contains("exit=7"), "{tail}");

    // Only auditors; a query that cannot be read says why.
    for persona in ["agent-ci", "approver-amir"] {
        let refused = gateway.cli(persona, &["audit", "search", "verb:get"]).await.fails();
        assert!(refused.contains("only auditors"), "{refused}");
    }
    // Who was refused is on record, by the refusal's code.
    assert_eq!(find("code:audit/not-an-auditor user:agent-ci").await.len(), 1);
    let wrong = gateway.cli("dev-dana", &["audit", "search", "usr:ann"]).await.fails();
    assert!(wrong.contains("did you mean `user`"), "{wrong}");

    // The files, without the gateway: the same; and an index made anew while it runs.
    let config = gateway.config_file().display().to_string();
    let again = portcullis_tests::Running::start(gateway.command(&["audit", "reindex", "--config", &config]));
    assert!(again.finish().await.ok().contains("records are in the new index"));
    let by_files = ["audit", "search", "--config", &config, "exit:7", "-o", "json"];
    let found = portcullis_tests::Running::start(gateway.command(&by_files)).finish().await.ok();
    let found: Vec<Value> = serde_json::from_str(&found).unwrap();
    assert_eq!(found[0]["id"], shown[0]["id"]);
    assert_eq!(find("exit:7").await.len(), 1);
}

/// Keys are for those who read the log; the index lies beside it, and would give away what they keep.
#[tokio::test]
async fn what_is_encrypted_is_in_no_index() {
    let cluster = Cluster::from_env();
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("body.key").display().to_string();
    let plain = Gateway::start(&cluster).await;
    let made = plain.command(&["audit", "new-body-key", &key]);
    portcullis_tests::Running::start(made).finish().await.ok();
    let mut gateway = Gateway::configured(&cluster, |config| {
        config["auditors"] = json!({"users": ["dev-dana"]});
        config["audit"]["bodyKeyFiles"] = json!([key]);
        config["audit"]["exports"] = json!([]);
    })
    .await;
    some_work(&gateway).await;
    let find = async |query: &str| -> Vec<Value> {
        let printed = gateway.cli("dev-dana", &["audit", "search", query, "-o", "json"]).await.ok();
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
    };
    let exec = wait_until("the exec to be indexed", || async { find("exit:7").await.pop() }).await;
    let found = wait_until("the end of the work to be indexed", || async {
        let last = find("verb:delete resource:configmaps").await.pop()?;
        Some((last, find("\"quince jelly\"").await))
    });
    // While the index has not got there, who asks looks into the log with the gateway's keys; afterwards nobody does.
    found.await;
    let indexed = format!("{}/metrics", gateway.operations);
    wait_until("the index to be up to date", || async {
        let metrics = gateway.http().get(&indexed, None).await;
        let text = String::from_utf8_lossy(metrics.body()).into_owned();
        text.contains("portcullis_audit_index_lag_records 0").then_some(())
    })
    .await;
    assert_eq!(find("\"quince jelly\"").await.len(), 0);
    // Whoever has the key reads both.
    let id = exec["id"].as_str().unwrap();
    let config = gateway.config_file().display().to_string();
    let read = async |words: &[&str]| {
        let words = [words, &["--config", &config]].concat();
        portcullis_tests::Running::start(gateway.command(&words)).finish().await.ok()
    };
    assert!(read(&["sessions", "export", id, "-o", "asciicast"]).await.contains("marmalade sandwiches"));
    gateway.stop().await;
    for file in portcullis_tests::files_below(&gateway.state_dir()) {
        // As it lies there: in the record are the command's words, but not what it said.
        let bytes = std::fs::read(&file).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("quince-jelly"), "{}", file.display());
        let in_index = file.components().any(|part| part.as_os_str() == "index");
        assert!(!(in_index && text.contains("quince")), "{}", file.display());
    }
}

#[tokio::test]
async fn who_follows_sees_requests_as_they_come() {
    let cluster = Cluster::from_env();
    let mut gateway = Gateway::configured(&cluster, |config| {
        config["auditors"] = json!({"users": ["dev-dana"]});
    })
    .await;
    let follow = ["audit", "tail", "--follow", "--intents", "user:agent-ci marmalade"];
    let mut following = portcullis_tests::Running::start(gateway.cli_command("dev-dana", &follow).await);
    some_work(&gateway).await;
    following.wait_for_output(|said| said.contains("exit=7")).await;
    // It ends when the gateway does, and does not keep it from ending.
    gateway.stop().await;
    let said = following.ended().await;
    let exec: Vec<_> =
        said.out().lines().filter(|line| line.contains("exec toolbox")).map(str::to_owned).collect();
    assert_eq!(exec.len(), 2, "the intent and the outcome: {said}");
}

#[tokio::test]
async fn a_policy_of_the_api_server_says_which_bodies_are_kept() {
    let cluster = Cluster::from_env();
    let dir = tempfile::tempdir().unwrap();
    let (policy, file) = (dir.path().join("policy.yaml"), dir.path().join("audit.log"));
    let text = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
        - level: None\n  nonResourceURLs: ['/api*', '/version', '/openapi*']\n\
        - level: None\n  verbs: [list]\n\
        - level: RequestResponse\n  resources: [{group: '', resources: [configmaps]}]\n\
        - level: Metadata\n";
    std::fs::write(&policy, text).unwrap();
    let gateway = Gateway::configured(&cluster, |config| {
        config["audit"]["policyFile"] = json!(policy);
        config["audit"]["exports"] = json!([{"kind": "file", "name": "file", "path": file}]);
    })
    .await;
    let name = some_work(&gateway).await;
    let is_last = |event: &Value| event["verb"] == "delete" && event["objectRef"]["resource"] == "configmaps";
    wait_until("the last request that the policy wants to hear of", || async {
        lines(&file).iter().any(is_last).then_some(())
    })
    .await;
    let events = lines(&file);
    assert!(
        events.iter().all(|event| event["verb"] != "list" && event["requestURI"] != "/api"),
        "{events:?}"
    );
    // That they were made is on record all the same.
    assert!(gateway.records().await.outcomes().any(|outcome| outcome.info.verb == "list"));
    for event in &events {
        let of = |field: &str| event["objectRef"][field].as_str().unwrap_or_default().to_owned();
        let whole = of("resource") == "configmaps";
        assert_eq!(event["level"] == "RequestResponse", whole, "{event}");
        assert_eq!(event.get("responseObject").is_some(), whole, "{event}");
        if whole && event["verb"] == "create" {
            assert_eq!(event["requestObject"]["metadata"]["name"], name.as_str());
            assert_eq!(event["responseObject"]["data"]["fruit"], "quince-jelly");
        }
    }
}
