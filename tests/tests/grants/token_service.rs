//! The token service, as any OAuth client sees it.

use portcullis_tests::Cluster;
use serde_json::{Value, json};

use super::{EXCHANGE, INTROSPECT, JWT, REVOKE, TOKEN, exchange, form, gateway, json_of};

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
