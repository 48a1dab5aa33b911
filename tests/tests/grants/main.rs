//! Credentials that exist for the length of a task: given out, bounded, and gone when the task is, however it ends.
#![expect(clippy::expect_used, reason = "a test fails by panicking, and so do its helpers")]

use portcullis_audit::Outcome;
use portcullis_core::{Event, EventKind};
use portcullis_tests::{
    Answer, Cluster, Gateway, Kubeconfig, Kubectl, Records, Running, Transport, refusal_code, tool,
};
use serde_json::{Value, json};
use tokio::process::Command;

const TOKEN: &str = "/portcullis/oauth/token";
const RENEW: &str = "/portcullis/oauth/renew";
const REVOKE: &str = "/portcullis/oauth/revoke";
const INTROSPECT: &str = "/portcullis/oauth/introspect";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// A gateway with three profiles for agents: `deploy` needs a heartbeat, as `portcullis run` gives one; `task` does not; what is
/// cut from `moment` is soon over.
async fn gateway(cluster: &Cluster) -> Gateway {
    Gateway::configured(cluster, |config| {
        let rules = json!([
            { "apiGroups": ["", "apps"], "resources": ["*"], "verbs": ["*"], "namespaces": ["shop"] },
            { "apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"], "namespaces": ["shop"] },
        ]);
        let agents = json!({ "groups": ["agents"] });
        config["grants"]["profiles"] = json!([
            { "name": "deploy", "forWhom": agents, "heartbeat": "5s", "rules": rules },
            { "name": "task", "forWhom": agents, "maxTtl": "30m", "rules": rules },
            { "name": "moment", "forWhom": agents, "defaultTtl": "5s", "maxTtl": "5s", "rules": rules },
            { "name": "everything", "forWhom": { "users": ["agent-two"] },
              "rules": [
                  { "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] },
                  { "nonResourceURLs": ["*"], "verbs": ["*"] },
              ] },
        ]);
        config["administrators"] = json!({ "users": ["dev-dana"] });
    })
    .await
}

// -- portcullis run ---------------------------------------------------------------------------------

#[tokio::test]
async fn a_command_has_a_credential_for_as_long_as_it_runs() {
    let cluster = Cluster::from_env();
    let gateway = gateway(&cluster).await;
    let kubectl = tool("kubectl").display().to_string();
    let task = ["--ttl", "10m", "--task", "ship 1.2.3", "--namespace", "shop"];
    let run = run(&gateway, "deploy", &task, &[&kubectl, "get", "pods"]).await.finish().await;
    assert!(run.ok().contains("toolbox"), "{run}");

    let grant = grant_of(&run.err());
    assert!(run.err().contains(&format!("grant {grant} revoked")), "{run}");
    assert_eq!(story_of(&gateway, &grant).await, [EventKind::Granted, EventKind::Revoked]);
    let records = gateway.records().await;
    let get = records.intents().find(|intent| intent.request.info.resource == "pods").expect("the request");
    let under = get.grant.as_ref().expect("the grant it was sent under");
    assert_eq!((under.id.as_str(), under.task.as_deref()), (grant.as_str(), Some("ship 1.2.3")));
    assert_eq!(get.identity.as_ref().map(|identity| identity.user.as_str()), Some("agent-ci"));
    // One task, one session.
    assert_eq!(get.session.as_deref(), Some(grant.as_str()));
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn the_command_gets_nothing_that_outlives_the_task() {
    let cluster = Cluster::from_env();
    let gateway = gateway(&cluster).await;
    let token = gateway.token("agent-ci").await;
    let mut command = gateway.command(&[
        "run",
        "--grant",
        "deploy",
        "--token-env",
        "MY_CI_TOKEN",
        "--",
        "sh",
        "-c",
        "env; cat \"$KUBECONFIG\"; echo $$",
    ]);
    command
        .env("PORTCULLIS_GATEWAY", &gateway.url)
        .env("PORTCULLIS_CERTIFICATE_AUTHORITY", gateway.ca())
        .env("MY_CI_TOKEN", &token)
        .env("PORTCULLIS_TOKEN", &token)
        .env("PORTCULLIS_TOKEN_FILE", "/nowhere")
        .env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", &token)
        .env("ACTIONS_ID_TOKEN_REQUEST_URL", "https://127.0.0.1:1/")
        .env("CI_JOB_JWT", &token)
        .env("CI_JOB_JWT_V2", &token)
        .env("AND_WHAT_IS_NOT_OURS", "stays");
    let run = Running::start(command).finish().await;
    let said = run.ok();
    assert!(said.contains("AND_WHAT_IS_NOT_OURS=stays") && said.contains("current-context"), "{said}");
    for gone in [&token, "PORTCULLIS_TOKEN", "ACTIONS_ID_TOKEN", "CI_JOB_JWT", "MY_CI_TOKEN"] {
        assert!(!said.contains(gone), "{gone}: {said}");
    }
    // Neither the grant's token nor the secret that renews it: the kubeconfig only says whom to ask.
    assert!(!said.contains("eyJ"), "{said}");
    let kubeconfig = said.lines().find_map(|line| line.strip_prefix("KUBECONFIG=")).expect("a kubeconfig");
    assert!(!std::path::Path::new(kubeconfig).exists(), "{kubeconfig} outlives its task");
    gateway.asked_the_server_nothing().await;
}

#[tokio::test]
async fn the_exit_code_is_the_commands_and_the_grant_ends_however_it_does() {
    let cluster = Cluster::from_env();
    let gateway = gateway(&cluster).await;
    for (command, code) in [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137), ("kill -TERM $$", 143)] {
        let run = run(&gateway, "deploy", &[], &["sh", "-c", command]).await.finish().await;
        assert_eq!(run.code(), Some(code), "{run}");
        let story = story_of(&gateway, &grant_of(&run.err())).await;
        assert_eq!(story, [EventKind::Granted, EventKind::Revoked], "{command}");
    }
    // A signal that is meant for the task reaches it, and still the grant ends.
    let mut run = run(
        &gateway,
        "deploy",
        &[],
        &["sh", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done"],
    )
    .await;
    run.wait_for_output(|said| said.contains("up")).await;
    run.terminate().await;
    let run = run.ended().await;
    assert_eq!(run.code(), Some(9), "{run}");
    assert_eq!(story_of(&gateway, &grant_of(&run.err())).await, [EventKind::Granted, EventKind::Revoked]);

    let missing = self::run(&gateway, "deploy", &[], &["/no/such/command"]).await.finish().await;
    assert_eq!(missing.code(), Some(127), "{missing}");
    assert_eq!(story_of(&gateway, &grant_of(&missing.err())).await, [EventKind::Granted, EventKind::Revoked]);
    let refused = self::run(&gateway, "everything", &[], &["true"]).await.finish().await;
    assert_eq!(refused.code(), Some(77), "{refused}");
    assert!(refused.err().contains("no profile `everything` is open to you"), "{refused}");
    gateway.asked_the_server_nothing().await;
}

#[tokio::test]
async fn a_task_whose_supervisor_is_killed_loses_its_credential() {
    let cluster = Cluster::from_env();
    let gateway = gateway(&cluster).await;
    let kubectl = tool("kubectl").display().to_string();
    let watch = ["--namespace", "shop"];
    let mut run = run(&gateway, "deploy", &watch, &[&kubectl, "get", "pods", "--watch"]).await;
    run.wait_for_output(|said| said.contains("toolbox")).await;
    let grant = grant_of(&run.err());
    run.kill().await;

    // Nobody renews the lease: the gateway ends the grant by itself, and the orphan's open watch with it.
    let by_gateway = |records: &Records| {
        let mut events = records.events().filter(|event| event.grant.as_deref() == Some(&grant));
        events.find(|event| event.kind == EventKind::Revoked).map(|event| event.details["reason"].clone())
    };
    let reason = gateway.wait_for_record("the end of the grant", by_gateway).await;
    assert_eq!(reason, "its heartbeat stopped");
    let cut = |records: &Records| cut_watch(records, &grant).map(|_| ());
    gateway.wait_for_record("the end of the orphan's watch", cut).await;
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn a_heartbeat_keeps_a_long_task_alive() {
    let cluster = Cluster::from_env();
    let gateway = gateway(&cluster).await;
    let kubectl = tool("kubectl").display().to_string();
    // Longer than the lease of five seconds.
    let script = format!("sleep 7; {kubectl} -n shop get pods");
    let run = run(&gateway, "deploy", &[], &["sh", "-c", &script]).await.finish().await;
    assert!(run.ok().contains("toolbox"), "{run}");
    gateway.agrees_with_the_server().await;
}

// -- The end of a grant -----------------------------------------------------------------------------

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

// -- What a grant is good for -----------------------------------------------------------------------

#[tokio::test]
async fn a_grant_is_good_for_what_it_says_and_the_server_sees_nothing_else() {
    let cluster = Cluster::from_env();
    let gateway = gateway(&cluster).await;
    let grant = exchange(&gateway, "agent-ci", "task").await;
    let mark = cluster.audit_log().mark();
    let probe = uuid::Uuid::new_v4().simple().to_string();
    let check = async |method: &str, path: &str, expected: (u16, &str)| {
        let joint = if path.contains('?') { '&' } else { '?' };
        let request = gateway.request(method, &format!("{path}{joint}probe={probe}"), &grant.token);
        let answer = gateway.http().send(request.body("").unwrap()).await;
        let got = (answer.status().as_u16(), refusal_code(answer.body()));
        assert_eq!((got.0, got.1.as_str()), expected, "{method} {path}: {answer:?}");
        let records = gateway.records().await;
        let outcome = records.outcome_of(&answer).unwrap_or_else(|| panic!("no record of {method} {path}"));
        assert_eq!(outcome.intent.is_some(), expected.0 == 200, "{outcome:?}");
    };
    let outside = (403, "jit/outside-grant");
    check("GET", "/api/v1/namespaces/shop/pods", (200, "")).await;
    check("GET", "/apis/apps/v1/namespaces/shop/deployments/web", (200, "")).await;
    check("GET", "/version", (200, "")).await;
    check("GET", "/api/v1/namespaces/kube-system/pods", outside).await;
    check("GET", "/api/v1/pods", outside).await;
    check("GET", "/api/v1/nodes", outside).await;
    check("GET", "/apis/rbac.authorization.k8s.io/v1/namespaces/shop/roles", outside).await;
    check("DELETE", "/api/v1/namespaces/default/pods", outside).await;
    check("GET", "/metrics", outside).await;
    // Connections must be named; attach is not.
    check("POST", "/api/v1/namespaces/shop/pods/toolbox/attach?stdout=true", outside).await;
    check("GET", "/api/v1/namespaces/shop/pods/toolbox/proxy/", outside).await;

    let seen = cluster.events_since(mark).await;
    assert_eq!(seen.iter().filter(|event| event.request_uri.contains(&probe)).count(), 3);
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn no_task_decides_or_looks_at_others() {
    let cluster = Cluster::from_env();
    let gateway = gateway(&cluster).await;
    // Even one that may ask for every path.
    let wide = exchange(&gateway, "agent-two", "everything").await;
    let narrow = exchange(&gateway, "agent-ci", "task").await;
    for (grant, code) in [(&wide, "api/needs-identity"), (&narrow, "jit/outside-grant")] {
        for (method, path) in [
            ("GET", "/portcullis/api/v1/whoami".to_owned()),
            ("GET", "/portcullis/api/v1/approvals".to_owned()),
            ("POST", format!("/portcullis/api/v1/approvals/{}/approve", uuid::Uuid::now_v7())),
            ("GET", "/portcullis/api/v1/grants".to_owned()),
            ("POST", format!("/portcullis/api/v1/grants/{}/revoke", grant.id)),
        ] {
            let request =
                gateway.request(method, &path, &grant.token).header("content-type", "application/json");
            let answer = gateway.http().send(request.body("{}").unwrap()).await;
            assert_eq!(
                (answer.status().as_u16(), refusal_code(answer.body()).as_str()),
                (403, code),
                "{path}"
            );
            assert!(gateway.records().await.outcome_of(&answer).is_some(), "{path}");
        }
    }
    // A grant cannot beget another one.
    let fields = [
        ("grant_type", EXCHANGE),
        ("subject_token", &*wide.token),
        ("subject_token_type", JWT),
        ("profile", "task"),
    ];
    let answer = form(&gateway, TOKEN, &fields, None).await;
    assert_eq!((answer.status().as_u16(), &json_of(&answer)["error"]), (400, &json!("invalid_grant")));
    gateway.asked_the_server_nothing().await;
}

#[tokio::test]
async fn grants_are_seen_and_ended_by_their_owner_and_by_administrators() {
    let cluster = Cluster::from_env();
    let gateway = gateway(&cluster).await;
    let first = exchange(&gateway, "agent-ci", "task").await;
    let second = exchange(&gateway, "agent-ci", "task").await;
    let of_two = exchange(&gateway, "agent-two", "task").await;
    let seen_by = async |persona: &str| {
        let listed = gateway.cli(persona, &["grants", "list"]).await.ok();
        [&first, &second, &of_two].map(|grant| listed.contains(&grant.id))
    };
    assert_eq!(seen_by("agent-ci").await, [true, true, false]);
    assert_eq!(seen_by("agent-two").await, [false, false, true]);
    assert_eq!(seen_by("approver-amir").await, [false, false, false]);
    assert_eq!(seen_by("dev-dana").await, [true, true, true]);

    for stranger in ["agent-two", "approver-amir"] {
        let refused = gateway.cli(stranger, &["grants", "revoke", &first.id]).await;
        assert_eq!(refused.code(), Some(77), "{refused}");
        // Whether there is such a grant is nothing a stranger finds out.
        let unknown = uuid::Uuid::now_v7().to_string();
        let missing = gateway.cli(stranger, &["grants", "revoke", &unknown]).await;
        assert_eq!(missing.err().replace(&unknown, &first.id), refused.err());
    }
    assert_eq!(gateway.get("/version", Some(&first.token)).await.status(), 200);

    gateway.cli("agent-ci", &["grants", "revoke", &first.id]).await.ok();
    gateway.cli("dev-dana", &["grants", "revoke", &second.id, "--reason", "stale"]).await.ok();
    for grant in [&first, &second] {
        assert_eq!(gateway.get("/version", Some(&grant.token)).await.status(), 401);
    }
    let again = gateway.cli("dev-dana", &["grants", "revoke", &second.id]).await;
    assert!(again.fails().contains("has ended already"), "{again}");
    assert_eq!(seen_by("agent-ci").await, [false, false, false]);
    let all = gateway.cli("agent-ci", &["grants", "list", "--all"]).await.ok();
    assert!(all.contains("revoked by agent-ci") && all.contains("revoked by dev-dana"), "{all}");
    gateway.agrees_with_the_server().await;
}

// -- Off-boarding -----------------------------------------------------------------------------------

#[tokio::test]
async fn whoever_is_disabled_is_out_at_once_and_stays_out() {
    let cluster = Cluster::from_env();
    let mut gateway = gateway(&cluster).await;
    let issuer = gateway.idp.issuer.clone();
    let who = ["--issuer", &*issuer, "--subject", "agent-ci"];
    let identities = |what: &'static str| [&["identities", what], &who[..]].concat();
    let (mark, probe) = (cluster.audit_log().mark(), uuid::Uuid::new_v4().to_string());
    let path = format!("/api/v1/namespaces/shop/configmaps?labelSelector=probe%3D{probe}");
    let ask = async |gateway: &Gateway, token: &str| {
        let answer = gateway.get(&path, Some(token)).await;
        (answer.status().as_u16(), refusal_code(answer.body()))
    };
    let token = gateway.token("agent-ci").await;
    let grant = exchange(&gateway, "agent-ci", "task").await;
    let other = exchange(&gateway, "agent-two", "task").await;
    for token in [&token, &grant.token, &other.token] {
        assert_eq!(ask(&gateway, token).await, (200, String::new()));
    }
    let endless = "while :; do echo tick; sleep 0.1; done";
    let mut open = Vec::new();
    for transport in Transport::BOTH {
        let own = gateway.kubectl("agent-ci").await.namespace("shop");
        for agent in [own, with_token(&gateway, &grant.token).namespace("shop")] {
            let agent = agent.transport(transport);
            let mut exec = agent.start(&["exec", "toolbox", "--", "sh", "-c", endless]);
            exec.wait_for_output(|said| said.contains("tick")).await;
            open.push(exec);
        }
    }
    let mut watch = gateway.kubectl("agent-ci").await.namespace("shop").start(&["get", "pods", "--watch"]);
    watch.wait_for_output(|said| said.contains("toolbox")).await;

    // Not everybody may, nor see who is, and a misspelled issuer would disable nobody.
    for stranger in ["agent-two", "approver-amir"] {
        for what in [&identities("disable")[..], &["identities", "list"]] {
            let refused = gateway.cli(stranger, what).await;
            assert_eq!(refused.code(), Some(77), "{refused}");
            assert!(refused.err().contains("only administrators"), "{refused}");
        }
    }
    let misspelled = ["identities", "disable", "--issuer", "https://idp.example", "--subject", "agent-ci"];
    assert!(gateway.cli("dev-dana", &misspelled).await.fails().contains("is trusted here"));
    let oneself = ["identities", "disable", "--issuer", &issuer, "--subject", "dev-dana"];
    assert!(gateway.cli("dev-dana", &oneself).await.fails().contains("yourself"));
    assert_eq!(ask(&gateway, &token).await.0, 200);

    let disable = [&identities("disable")[..], &["--reason", "left the team"]].concat();
    gateway.cli("dev-dana", &disable).await.ok();
    assert_eq!(ask(&gateway, &token).await, (401, "oidc/disabled".into()));
    assert_eq!(ask(&gateway, &grant.token).await, (401, "jit/ended".into()));
    assert_eq!(ask(&gateway, &other.token).await.0, 200);
    for exec in open {
        let exec = exec.ended().await;
        assert!(exec.fails().contains("the identity was disabled"), "{exec}");
    }
    watch.ended().await;
    let fields = [
        ("grant_type", EXCHANGE),
        ("subject_token", &*token),
        ("subject_token_type", JWT),
        ("profile", "task"),
    ];
    assert_eq!(form(&gateway, TOKEN, &fields, None).await.status(), 400);
    let listed = gateway.cli("dev-dana", &["identities", "list"]).await.ok();
    assert!(["agent-ci", "dev-dana", "left the team"].iter().all(|word| listed.contains(word)), "{listed}");

    // A crash lets nobody in again.
    gateway.kill().await;
    gateway.start_again().await;
    assert_eq!(ask(&gateway, &token).await, (401, "oidc/disabled".into()));
    assert_eq!(ask(&gateway, &grant.token).await, (401, "jit/ended".into()));

    gateway.cli("dev-dana", &identities("enable")).await.ok();
    assert_eq!(ask(&gateway, &token).await.0, 200);
    assert_eq!(ask(&gateway, &grant.token).await, (401, "jit/ended".into()));
    assert!(gateway.cli("dev-dana", &identities("enable")).await.fails().contains("not disabled"));

    let seen = cluster.events_since(mark).await;
    assert_eq!(seen.iter().filter(|event| event.request_uri.contains(&probe)).count(), 6);
    let records = gateway.records().await;
    let changes: Vec<_> = records
        .events()
        .filter(|event| matches!(event.kind, EventKind::IdentityDisabled | EventKind::IdentityEnabled))
        .collect();
    let kinds: Vec<_> = changes.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::IdentityDisabled, EventKind::IdentityEnabled]);
    let details = &changes[0].details;
    assert_eq!((&details["issuer"], &details["subject"]), (&json!(issuer), &json!("agent-ci")));
    assert_eq!((&details["by"], &details["reason"]), (&json!("dev-dana"), &json!("left the team")));
    assert!(changes.iter().all(|event| event.audit_id.is_some()), "{changes:?}");
    assert_eq!(story_of(&gateway, &grant.id).await, [EventKind::Granted, EventKind::Revoked]);
}

// -- The token service ------------------------------------------------------------------------------

#[tokio::test]
async fn the_token_service_says_what_is_wrong() {
    let cluster = Cluster::from_env();
    let gateway = gateway(&cluster).await;
    let token = gateway.token("agent-ci").await;
    let stranger = gateway.idp.token("agent-ci").audience("somebody-else").mint().await;
    let base = [
        ("grant_type", EXCHANGE),
        ("subject_token", &*token),
        ("subject_token_type", JWT),
        ("profile", "task"),
    ];
    let check = async |change: &[(&str, &str)], expected: (u16, &str)| {
        let kept = base.iter().filter(|(name, _)| change.iter().all(|(changed, _)| changed != name));
        let fields: Vec<_> =
            kept.chain(change.iter().filter(|(_, value)| !value.is_empty())).copied().collect();
        let answer = form(&gateway, TOKEN, &fields, None).await;
        let said = json_of(&answer);
        let error = said["error"].as_str().unwrap_or_default().to_owned();
        assert_eq!((answer.status().as_u16(), error.as_str()), expected, "{change:?}: {said}");
        if expected.0 != 200 {
            assert!(
                said["error_description"].as_str().is_some_and(|words| words.len() > 5),
                "{change:?}: {said}"
            );
            assert!(!said.to_string().contains(&token), "the token is repeated: {said}");
        }
        assert_eq!(answer.headers()["cache-control"], "no-store", "{change:?}");
        let records = gateway.records().await;
        assert!(records.outcome_of(&answer).is_some(), "{change:?} is not on record: {:?}", answer.headers());
    };
    check(&[], (200, "")).await;
    check(&[("grant_type", "client_credentials")], (400, "unsupported_grant_type")).await;
    check(&[("grant_type", "")], (400, "invalid_request")).await;
    check(&[("subject_token", "")], (400, "invalid_request")).await;
    check(&[("subject_token", "not.a.token")], (400, "invalid_request")).await;
    check(&[("subject_token", &stranger)], (400, "invalid_request")).await;
    check(&[("subject_token_type", "urn:ietf:params:oauth:token-type:saml2")], (400, "invalid_request"))
        .await;
    check(&[("profile", "")], (400, "invalid_request")).await;
    check(&[("profile", "everything")], (400, "unauthorized_client")).await;
    check(&[("profile", "no-such")], (400, "unauthorized_client")).await;
    check(&[("ttl", "86400")], (400, "invalid_request")).await;
    check(&[("ttl", "soon")], (400, "invalid_request")).await;
    check(&[("task", &"x".repeat(2000))], (400, "invalid_request")).await;
    let details = |rules: Value| json!([{ "type": "portcullis.dev/kubernetes", "rules": rules }]).to_string();
    let narrow = details(
        json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get"], "namespaces": ["shop"] }]),
    );
    check(&[("authorization_details", &narrow)], (200, "")).await;
    let wide = details(json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] }]));
    check(&[("authorization_details", &wide)], (400, "invalid_authorization_details")).await;
    check(&[("authorization_details", "[{")], (400, "invalid_authorization_details")).await;
    check(&[("authorization_details", r#"[{"type":"payment"}]"#)], (400, "invalid_authorization_details"))
        .await;
    gateway.asked_the_server_nothing().await;
}

#[tokio::test]
async fn the_token_service_is_described_and_introspects() {
    let cluster = Cluster::from_env();
    let gateway = gateway(&cluster).await;
    let metadata = json_of(&gateway.get("/.well-known/oauth-authorization-server/portcullis", None).await);
    assert_eq!(metadata["issuer"], format!("{}/portcullis", gateway.url));
    assert_eq!(metadata["token_endpoint"], format!("{}{TOKEN}", gateway.url));
    let keys = gateway.http().get(metadata["jwks_uri"].as_str().unwrap(), None).await;
    assert_eq!(json_of(&keys)["keys"].as_array().map(Vec::len), Some(1));

    let grant = exchange(&gateway, "agent-ci", "task").await;
    let asker = gateway.token("dev-dana").await;
    let ask = async |token: &str, bearer: Option<&str>| {
        let answer = form(&gateway, INTROSPECT, &[("token", token)], bearer).await;
        (answer.status().as_u16(), json_of(&answer))
    };
    let (status, active) = ask(&grant.token, Some(&asker)).await;
    assert_eq!(
        (status, &active["active"], &active["jti"]),
        (200, &json!(true), &json!(grant.id)),
        "{active}"
    );
    assert_eq!((&active["username"], &active["client_id"]), (&json!("agent-ci"), &json!("task")));
    assert_eq!(active["authorization_details"][0]["rules"][0]["namespaces"], json!(["shop"]));
    for nobody in [None, Some("not.a.token"), Some(&*grant.token)] {
        let (status, said) = ask(&grant.token, nobody).await;
        assert_eq!((status, &said["error"]), (401, &json!("invalid_client")), "{said}");
    }
    for unknown in ["", "x", &*asker] {
        assert_eq!(ask(unknown, Some(&asker)).await, (200, json!({ "active": false })));
    }
    form(&gateway, REVOKE, &[("token", &grant.token)], None).await;
    assert_eq!(ask(&grant.token, Some(&asker)).await, (200, json!({ "active": false })));
    gateway.asked_the_server_nothing().await;
}

// -- Helpers ----------------------------------------------------------------------------------------

/// Starts `portcullis run` as `agent-ci`.
async fn run(gateway: &Gateway, profile: &str, options: &[&str], command: &[&str]) -> Running {
    let arguments = [&["run", "--grant", profile], options, &["--"], command].concat();
    let mut command: Command = gateway.cli_command("agent-ci", &arguments).await;
    command.env("KUBECACHEDIR", gateway.dir().join("run.cache"));
    Running::start(command)
}

/// The id of the grant that `portcullis run` says it has.
#[track_caller]
fn grant_of(said: &str) -> String {
    let found = said.lines().find_map(|line| line.strip_prefix("portcullis: grant ")?.split(' ').next());
    found.unwrap_or_else(|| panic!("no grant: {said}")).to_owned()
}

struct Grant {
    id: String,
    token: String,
    renewal: String,
}

/// Gets a grant at the token endpoint, as any OAuth client could.
async fn exchange(gateway: &Gateway, persona: &str, profile: &str) -> Grant {
    let subject = gateway.token(persona).await;
    let fields = [
        ("grant_type", EXCHANGE),
        ("subject_token", &*subject),
        ("subject_token_type", JWT),
        ("profile", profile),
    ];
    let answer = form(gateway, TOKEN, &fields, None).await;
    let said = json_of(&answer);
    let word = |name: &str| said[name].as_str().unwrap_or_else(|| panic!("no {name}: {said}")).to_owned();
    Grant { id: word("grant_id"), token: word("access_token"), renewal: word("renewal_token") }
}

async fn form(gateway: &Gateway, path: &str, fields: &[(&str, &str)], bearer: Option<&str>) -> Answer {
    let encoded = |text: &str| -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let letter =
            |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
        text.bytes().map(letter).collect()
    };
    let body: Vec<String> =
        fields.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
    let mut request = http::Request::post(format!("{}{path}", gateway.url))
        .header("content-type", "application/x-www-form-urlencoded");
    if let Some(bearer) = bearer {
        request = request.header("authorization", format!("Bearer {bearer}"));
    }
    gateway.http().send(request.body(body.join("&")).expect("a request")).await
}

#[track_caller]
fn json_of(answer: &Answer) -> Value {
    serde_json::from_slice(answer.body()).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

/// kubectl with this token and nothing else.
fn with_token(gateway: &Gateway, token: &str) -> Kubectl {
    let path = gateway.dir().join(format!("{}.kubeconfig", uuid::Uuid::new_v4()));
    Kubectl::new(Kubeconfig::new(&gateway.url, gateway.ca()).token(token).write(path))
}

/// What the ledger says happened to a grant.
async fn story_of(gateway: &Gateway, grant: &str) -> Vec<EventKind> {
    let records = gateway.records().await;
    let of_grant = |event: &&Event| event.grant.as_deref() == Some(grant);
    records.events().filter(of_grant).map(|event| event.kind).collect()
}

/// The outcome of a watch under this grant that was cut.
fn cut_watch<'r>(records: &'r Records, grant: &str) -> Option<&'r Outcome> {
    let mut watches = records.outcomes().filter(|outcome| outcome.grant.as_deref() == Some(grant));
    watches.find(|outcome| outcome.info.verb == "watch" && outcome.notes.contains_key("cut"))
}
