//! The end of a grant: what it takes along.

use portcullis_core::EventKind;
use portcullis_tests::{Cluster, Gateway, Kubectl, Records, Running, Transport, refusal_code, tool};
use serde_json::json;

use super::{
    RENEW, REVOKE, cut_watch, exchange, form, gateway, grant_of, json_of, run, story_of, with_token,
};

#[tokio::test]
async fn a_revoked_grant_takes_its_watch_along() {
    let cluster = Cluster::from_env();
    let gateway = gateway(&cluster).await;
    let kubectl = tool("kubectl").display().to_string();
    let command = [&*kubectl, "get", "pods", "--watch"];
    let mut run = run(&gateway, "deploy", &["--namespace", "shop"], &command).await;
    run.wait_for_output(|said| said.contains("toolbox")).await;
    let grant = grant_of(&run.err());
    let revoke = ["grants", "revoke", &grant, "--reason", "that was the wrong cluster"];
    gateway.cli("dev-dana", &revoke).await.ok();
    // kubectl ends since its watch does; nobody has told it otherwise.
    let run = run.ended().await;
    assert!(run.err().contains(&format!("grant {grant}")), "{run}");

    let cut =
        gateway.wait_for_record("the watch's outcome", |records| cut_watch(records, &grant).cloned()).await;
    assert_eq!(cut.notes["cut"], "revoked", "{cut:?}");
    let records = gateway.records().await;
    let mut events = records.events().filter(|event| event.grant.as_deref() == Some(&grant));
    let revoked = events.find(|event| event.kind == EventKind::Revoked).expect("it is on record");
    assert_eq!(revoked.details["reason"], "that was the wrong cluster");
    assert_eq!(revoked.details["by"], "dev-dana");
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn a_grant_that_has_run_out_takes_its_watch_along_and_opens_nothing() {
    let cluster = Cluster::from_env();
    let gateway = gateway(&cluster).await;
    let grant = exchange(&gateway, "agent-ci", "moment").await;
    let agent = with_token(&gateway, &grant.token).namespace("shop");
    let mut watch = agent.start(&["get", "pods", "--watch"]);
    watch.wait_for_output(|said| said.contains("toolbox")).await;

    // Nobody revokes it and no request asks about it: time alone ends the open watch.
    let cut =
        gateway.wait_for_record("the watch's outcome", |records| cut_watch(records, &grant.id).cloned());
    let cut = cut.await;
    assert_eq!(cut.notes["cut"], "expired", "{cut:?}");
    watch.ended().await;
    assert_eq!(story_of(&gateway, &grant.id).await, [EventKind::Granted]);

    let probe = uuid::Uuid::new_v4().to_string();
    let path = format!("/api/v1/namespaces/shop/configmaps?labelSelector=probe%3D{probe}");
    let answer = gateway.get(&path, Some(&grant.token)).await;
    assert_eq!((answer.status().as_u16(), refusal_code(answer.body()).as_str()), (401, "jit/ended"));
    // Nor does its heartbeat bring it back.
    let renewed = form(&gateway, RENEW, &[("renewal_token", &grant.renewal)], None).await;
    assert_eq!((renewed.status().as_u16(), &json_of(&renewed)["error"]), (400, &json!("invalid_grant")));

    let records = gateway.records().await;
    let refused = records.outcome_of(&answer).expect("the refusal is on record");
    assert_eq!((refused.status, refused.intent), (Some(401), None), "{refused:?}");
    let seen = gateway.seen().await;
    assert!(seen.iter().all(|event| !event.request_uri.contains(&probe)), "it has arrived: {seen:?}");
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn a_revoked_grant_takes_its_execs_along() {
    let cluster = Cluster::from_env();
    let gateway = gateway(&cluster).await;
    for transport in Transport::BOTH {
        let grant = exchange(&gateway, "agent-ci", "task").await;
        let agent = with_token(&gateway, &grant.token).namespace("shop").transport(transport);
        let endless = "while :; do echo tick; sleep 0.1; done";
        let mut exec = agent.start(&["exec", "toolbox", "--", "sh", "-c", endless]);
        exec.wait_for_output(|said| said.contains("tick")).await;
        gateway.cli("agent-ci", &["grants", "revoke", &grant.id]).await.ok();
        let exec = exec.ended().await;
        assert!(exec.fails().contains("the grant was revoked"), "{transport:?}: {exec}");
        let ended = |records: &Records| {
            let mut outcomes =
                records.outcomes().filter(|outcome| outcome.grant.as_deref() == Some(&grant.id));
            outcomes.find_map(|outcome| outcome.stream.clone())
        };
        let stream = gateway.wait_for_record("the recording's end", ended).await;
        assert!(stream.ended.contains("revoked"), "{transport:?}: {stream:?}");
    }
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn after_the_end_nothing_reaches_the_server() {
    let cluster = Cluster::from_env();
    let mut gateway = gateway(&cluster).await;
    let (mark, probe) = (cluster.audit_log().mark(), uuid::Uuid::new_v4().to_string());
    let path = format!("/api/v1/namespaces/shop/configmaps?labelSelector=probe%3D{probe}");
    let ask = async |gateway: &Gateway, token: &str| {
        let answer = gateway.get(&path, Some(token)).await;
        (answer.status().as_u16(), refusal_code(answer.body()))
    };
    let (kept, ended) =
        (exchange(&gateway, "agent-ci", "task").await, exchange(&gateway, "agent-ci", "task").await);
    assert_eq!(ask(&gateway, &ended.token).await, (200, String::new()));
    // RFC 7009: also twice.
    for _ in 0..2 {
        assert_eq!(form(&gateway, REVOKE, &[("token", &ended.token)], None).await.status(), 200);
    }
    assert_eq!(ask(&gateway, &ended.token).await, (401, "jit/ended".into()));
    assert_eq!(ask(&gateway, &kept.token).await, (200, String::new()));

    // A crash gives nothing back, and takes nothing.
    gateway.kill().await;
    gateway.start_again().await;
    assert_eq!(ask(&gateway, &ended.token).await, (401, "jit/ended".into()));
    assert_eq!(ask(&gateway, &kept.token).await, (200, String::new()));
    // One by its renewal secret.
    assert_eq!(form(&gateway, REVOKE, &[("token", &kept.renewal)], None).await.status(), 200);
    assert_eq!(ask(&gateway, &kept.token).await, (401, "jit/ended".into()));

    let seen = cluster.events_since(mark).await;
    assert_eq!(seen.iter().filter(|event| event.request_uri.contains(&probe)).count(), 3);
    let records = gateway.records().await;
    let refused = records.outcomes().filter(|outcome| outcome.status == Some(401));
    assert_eq!(refused.filter(|outcome| outcome.intent.is_none()).count(), 3);
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn a_request_that_waits_for_people_ends_with_its_grant() {
    let cluster = Cluster::from_env();
    let gateway = gateway(&cluster).await;
    let grant = exchange(&gateway, "agent-two", "everything").await;
    let (mark, name) = (cluster.audit_log().mark(), format!("ended-{}", uuid::Uuid::new_v4().simple()));
    let create = ["create", "clusterrolebinding", &name, "--clusterrole=view", "--user=jo"];
    let create = with_token(&gateway, &grant.token).start(&create);
    let held = |records: &Records| {
        let mut events = records.events().filter(|event| event.kind == EventKind::Held);
        events.next().and_then(|event| event.ticket.clone())
    };
    let ticket = gateway.wait_for_record("the ticket", held).await;
    gateway.cli("agent-two", &["grants", "revoke", &grant.id]).await.ok();
    let said = create.finish().await.fails();
    assert!(said.contains("while the request waited, the grant was revoked"), "{said}");
    // What people say now comes too late.
    gateway.cli("approver-amir", &["approvals", "approve", &ticket]).await.ok();
    let seen = cluster.events_since(mark).await;
    let mut named =
        seen.iter().filter(|event| event.object_ref.as_ref().is_some_and(|object| object.name == name));
    assert!(named.all(|event| event.request_uri.contains("dryRun=All")), "{seen:?}");
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn kubectls_plugin_gets_a_grant_and_no_other_once_it_has_ended() {
    let cluster = Cluster::from_env();
    let gateway = gateway(&cluster).await;
    let (token, ca) = (gateway.token_file("agent-ci").await, gateway.ca());
    let file = gateway.dir().join("plugin.kubeconfig");
    let texts = [&token, &ca, &file].map(|path| path.display().to_string());
    let arguments =
        ["kubeconfig", "--gateway", &gateway.url, "--certificate-authority", &texts[1], "--grant", "task"];
    let out = ["--token-file", &texts[0], "--namespace", "shop", "--out", &texts[2]];
    Running::start(gateway.command(&[&arguments[..], &out].concat())).finish().await.ok();
    let agent = Kubectl::new(&file);
    assert!(agent.run(&["get", "pods"]).await.ok().contains("toolbox"));
    assert!(agent.run(&["get", "pods", "-n", "kube-system"]).await.fails().contains("does not allow"));

    // In a task, there is no second credential: what asked for the first one is not there any more.
    let script = format!("cat \"$KUBECONFIG\"; {} get pods", tool("kubectl").display());
    let run = run(&gateway, "deploy", &["--namespace", "shop"], &["sh", "-c", &script]).await.finish().await;
    let later = gateway.dir().join("later.kubeconfig");
    std::fs::write(&later, run.ok().split("NAME").next().unwrap()).unwrap();
    let later = Kubectl::new(&later).run(&["get", "pods"]).await.fails();
    assert!(later.contains("the task this credential belonged to has ended"), "{later}");
    gateway.agrees_with_the_server().await;
}
