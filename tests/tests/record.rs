//! What is on record: the gateway's own calls too, under ids that are the gateway's own, and what was
//! broken off or cut short. (That every request of every client is on record, and read as the API
//! server read it, is what each test with `Twins` ends with.)

use std::collections::BTreeSet;

use portcullis_audit::{AuditReader, End, Outcome};
use portcullis_tests::{Cluster, Gateway, Records, Transport, wait_until};
use serde_json::{Value, json};

#[tokio::test]
async fn the_gateways_own_calls() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::start(&cluster).await;
    let agent = gateway.kubectl("agent-ci").await;
    let name = format!("own-calls-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
    let create = ["create", "clusterrolebinding", &name, "--clusterrole=view", "--group=friends"];
    decide(&gateway, "approve", agent.start(&create)).await.ok();
    decide(&gateway, "approve", agent.start(&["label", "clusterrolebinding", &name, "a=b"])).await.ok();
    let denied = decide(&gateway, "deny", agent.start(&["delete", "clusterrolebinding", &name])).await;
    assert!(denied.fails().contains("denied"));
    decide(&gateway, "approve", agent.start(&["delete", "clusterrolebinding", &name])).await.ok();

    let records = gateway.records().await;
    let own: Vec<_> = records.intents().filter(|intent| intent.parent.is_some()).collect();
    assert!(own.len() >= 4, "{own:?}");
    let seen = gateway.seen().await;
    for intent in &own {
        // On behalf of a request that is on record, as whoever sent it.
        let parent = records.outcome(intent.parent.unwrap()).expect("the request it was made for");
        assert_eq!(parent.user.as_deref(), Some("agent-ci"));
        assert_eq!(intent.identity.as_ref().unwrap().user, "agent-ci");
        let id = intent.id.to_string();
        assert!(seen.iter().any(|event| event.audit_id == id), "the server has not seen {intent:?}");
        let outcome = records.outcome(intent.id).unwrap();
        assert_eq!(outcome.end, End::Completed, "{outcome:?}");
        assert!(["dryRun", "before"].contains(&outcome.notes["purpose"].as_str().unwrap()), "{outcome:?}");
    }
    // What changes something has been approved; a dry run of it came first.
    let writes: Vec<_> = records
        .intents()
        .filter(|intent| {
            intent.request.info.resource == "clusterrolebindings" && intent.request.info.is_mutating()
        })
        .collect();
    let real: Vec<_> = writes.iter().filter(|intent| intent.parent.is_none()).collect();
    assert_eq!(
        real.iter().map(|intent| intent.request.info.verb.as_str()).collect::<Vec<_>>(),
        ["create", "patch", "delete"]
    );
    for intent in real {
        assert!(intent.approval.is_some(), "{intent:?}");
    }
    for intent in writes.iter().filter(|intent| intent.parent.is_some()) {
        assert!(intent.request.info.dry_run, "{intent:?}");
    }
    gateway.agrees_with_the_server().await;
}

/// Has an approver decide about what was started, and waits for its end.
#[expect(clippy::unwrap_used, reason = "without it there is no test")]
async fn decide(
    gateway: &Gateway,
    how: &str,
    running: portcullis_tests::Running,
) -> portcullis_tests::Finished {
    let ticket = wait_until("the ticket", || async {
        let list = gateway.cli("approver-amir", &["approvals", "list", "--output", "json"]).await.ok();
        let list: Value = serde_json::from_str(&list).unwrap();
        Some(list["items"][0]["id"].as_str()?.to_owned())
    })
    .await;
    gateway.cli("approver-amir", &["approvals", how, &ticket]).await.ok();
    running.ended().await
}

#[tokio::test]
async fn ids_that_no_client_chooses() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::start(&cluster).await;
    let token = gateway.token("agent-ci").await;
    let forged = uuid::Uuid::now_v7().to_string();
    let mut ids = BTreeSet::new();
    for _ in 0..3 {
        let request = gateway
            .request("GET", "/api/v1/namespaces/shop/pods", &token)
            .header("audit-id", &forged)
            .header("x-request-id", &forged)
            .header("x-remote-user", "admin")
            .header("x-forwarded-for", "192.0.2.1")
            .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let answer = gateway.http().send(request.body("").unwrap()).await;
        assert_eq!(answer.status(), 200);
        ids.insert(answer.headers()["audit-id"].to_str().unwrap().to_owned());
    }
    assert!(ids.len() == 3 && !ids.contains(&forged), "{ids:?}");
    let seen: BTreeSet<String> = gateway.seen().await.into_iter().map(|event| event.audit_id).collect();
    assert_eq!(seen, ids);
    let recorded: BTreeSet<String> =
        gateway.records().await.outcomes().map(|outcome| outcome.id.to_string()).collect();
    assert_eq!(recorded, ids);
    for event in gateway.seen().await {
        assert_eq!(event.effective_user().username, "agent-ci");
        assert!(!event.source_ips.contains(&"192.0.2.1".to_owned()), "{event:?}");
    }
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn what_its_client_broke_off() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::start(&cluster).await;
    let agent = gateway.kubectl("agent-ci").await.namespace("shop");

    // What kubectl shows of a `--watch` may still be its list; this is the watch's own.
    let mut watch = agent.start(&["get", "--raw", "/api/v1/namespaces/shop/pods?watch=true"]);
    watch.wait_for_output(|text| text.contains("ADDED")).await;
    watch.kill().await;
    let mut logs = agent.start(&["logs", "-f", "toolbox", "--tail=1"]);
    logs.wait_for_output(|text| text.contains("tick")).await;
    logs.kill().await;
    let aborted = |what: fn(&Outcome) -> bool| {
        move |records: &Records| {
            records.outcomes().find(|outcome| what(outcome) && outcome.end == End::Aborted).map(|_| ())
        }
    };
    gateway.wait_for_record("the watch's end", aborted(|outcome| outcome.info.verb == "watch")).await;
    gateway.wait_for_record("the log's end", aborted(|outcome| outcome.info.subresource == "log")).await;

    for (count, transport) in (1..).zip(Transport::BOTH) {
        let kubectl = agent.clone().transport(transport);
        let mut exec = kubectl.start(&["exec", "-i", "toolbox", "--", "sh", "-c", "echo ready; cat"]);
        exec.wait_for_output(|text| text.contains("ready")).await;
        exec.kill().await;
        gateway
            .wait_for_record("the exec's end", |records| {
                let execs = records.outcomes().filter(|outcome| outcome.info.subresource == "exec");
                (execs.filter(|outcome| outcome.end == End::Aborted).count() == count).then_some(())
            })
            .await;
    }
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn sessions_with_what_was_said_in_them() {
    let cluster = Cluster::from_env();
    let mut gateway = Gateway::start(&cluster).await;
    let agent = gateway.kubectl("agent-ci").await.namespace("shop");
    for transport in Transport::BOTH {
        let kubectl = agent.clone().transport(transport);
        let said = kubectl.run(&["exec", "toolbox", "--", "sh", "-c", "echo spoken; exit 3"]).await;
        assert_eq!(said.code(), Some(3));
    }
    gateway.stop().await;
    let records = gateway.records().await;
    let sessions: Vec<_> = records.outcomes().filter_map(|outcome| outcome.stream.as_ref()).collect();
    let transports: Vec<&str> = sessions.iter().map(|session| session.transport.as_str()).collect();
    assert_eq!(transports, ["webSocket", "spdy"]);
    for session in sessions {
        assert_eq!(session.exit, Some(3), "{session:?}");
        assert_eq!(session.channels["stdout"].bytes, 7, "{session:?}");
        let recording = session.recording.as_ref().unwrap();
        let reader = AuditReader::new(gateway.state_dir().join("ledger"));
        let part = recording.files().next().unwrap();
        let stored = reader.open_recording(&part).unwrap().expect("it is kept");
        let cast = std::io::read_to_string(stored).unwrap();
        let mut lines = cast.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        assert_eq!(lines.next().unwrap()["version"], 2, "{cast}");
        let output: String = lines
            .filter(|event| event[1] == "o")
            .map(|event| event[2].as_str().unwrap().to_owned())
            .collect();
        assert!(output.contains("spoken"), "{cast}");

        // One bit of it changed, and the log says so.
        let file = reader.recording_path(&part);
        let sound = std::fs::read(&file).unwrap();
        let mut changed = sound.clone();
        changed[sound.len() / 2] ^= 1;
        std::fs::write(&file, changed).unwrap();
        let config = gateway.config_file();
        let verify = ["audit", "verify", "--config", config.to_str().unwrap()];
        let found = gateway.cli("approver-amir", &verify).await;
        assert_eq!(found.code(), Some(65), "{found}");
        assert!(found.out().contains(&file.file_name().unwrap().display().to_string()), "{found}");
        std::fs::write(&file, sound).unwrap();
        gateway.cli("approver-amir", &verify).await.ok();
    }
    gateway.start_again().await;
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn what_was_under_way_when_the_gateway_died() {
    let cluster = Cluster::from_env();
    let mut gateway = Gateway::start(&cluster).await;
    let agent = gateway.kubectl("agent-ci").await.namespace("shop");
    let watch = agent.start(&["get", "pods", "--watch"]);
    let under_way =
        |records: &Records| records.intents().any(|intent| intent.request.info.verb == "watch").then_some(());
    gateway.wait_for_record("the watch", under_way).await;
    gateway.kill().await;
    watch.kill().await;

    gateway.start_again().await;
    let records = gateway.records().await;
    let watched = records.outcomes().find(|outcome| outcome.info.verb == "watch").unwrap();
    assert_eq!(watched.end, End::Unknown, "{watched:?}");
    let open = records.intents().filter(|intent| records.outcome(intent.id).is_none()).count();
    assert_eq!(open, 0);
    agent.run(&["get", "pods"]).await.ok();
    gateway.agrees_with_the_server().await;
}

/// Many at once, some of which the server refuses, on one connection and on many.
#[tokio::test]
async fn each_of_many_at_once() {
    let cluster = Cluster::from_env();
    let namespace = cluster.namespace_of_agents("many").await;
    let gateway = Gateway::start(&cluster).await;
    let token = gateway.token("agent-ci").await;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let (http, others) = (gateway.http(), [gateway.http(), gateway.http()]);
    let ask = async |n: usize| {
        let body = json!({ "metadata": { "name": format!("n{}", n / 2) } }).to_string();
        let request = gateway.request("POST", &path, &token).header("content-type", "application/json");
        let client = others.get(n % 5).unwrap_or(&http);
        client.send(request.body(body).unwrap()).await.status().as_u16()
    };
    let answers = futures_util::future::join_all((0..200).map(ask)).await;
    let count = |status: u16| answers.iter().filter(|answer| **answer == status).count();
    assert_eq!((count(201), count(409)), (100, 100), "{answers:?}");
    let comparison = gateway.agrees_with_the_server().await;
    assert_eq!(comparison.requests, 200);
}
