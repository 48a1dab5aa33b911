//! Off-boarding: who is disabled.

use portcullis_core::EventKind;
use portcullis_tests::{Cluster, Gateway, Transport, refusal_code};
use serde_json::json;

use super::{EXCHANGE, JWT, TOKEN, exchange, form, gateway, story_of, with_token};

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
