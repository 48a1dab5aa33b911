//! What a grant is good for, and who may see and end it.

use portcullis_tests::{Cluster, refusal_code};
use serde_json::json;

use super::{EXCHANGE, JWT, TOKEN, exchange, form, gateway, json_of};

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
