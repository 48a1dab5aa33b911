//! `portcullis run`: a credential for as long as a command runs.

use portcullis_core::EventKind;
use portcullis_tests::{Cluster, Records, Running, tool};

use super::{cut_watch, gateway, grant_of, run, story_of};

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
