//! The credentials that the gateway itself is shown and hands out.

use std::collections::BTreeMap;

use base64::Engine;
use portcullis_tests::{Cluster, Gateway};
use serde_json::Value;

use crate::search::Canaries;

#[tokio::test]
async fn tokens_are_kept_nowhere() {
    let cluster = Cluster::from_env();
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.yaml");
    // As much as can be asked for.
    let everything = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: RequestResponse}]\n";
    std::fs::write(&policy, everything).unwrap();
    let gateway = Gateway::configured(&cluster, |config| {
        config["audit"]["policyFile"] = serde_json::json!(policy);
        config["telemetry"]["log"] = "trace,h2=info,hyper=info,rustls=info".into();
    })
    .await;
    let token = gateway.token("agent-ci").await;
    let form = format!(
        "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token={token}\
        &subject_token_type=urn:ietf:params:oauth:token-type:jwt&profile=deploy"
    );
    let request = http::Request::post(format!("{}/portcullis/oauth/token", gateway.url))
        .header("content-type", "application/x-www-form-urlencoded");
    let answer = gateway.http().send(request.body(form).unwrap()).await;
    let granted: Value = serde_json::from_slice(answer.body()).unwrap();
    let word = |name: &str| granted[name].as_str().unwrap_or_else(|| panic!("{granted}")).to_owned();
    let (grant, renewal) = (word("access_token"), word("renewal_token"));
    let pods = "/api/v1/namespaces/shop/pods";
    for bearer in [&token, &grant] {
        assert_eq!(gateway.get(pods, Some(bearer)).await.status(), 200);
        let protocol = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bearer);
        let upgrade = gateway
            .request("GET", pods, bearer)
            .header("sec-websocket-protocol", format!("base64url.bearer.authorization.k8s.io.{protocol}"));
        gateway.http().send(upgrade.body("").unwrap()).await;
        // Where no token belongs.
        gateway.get(&format!("{pods}?token={bearer}"), Some(bearer)).await;
        gateway.get(&format!("{pods}/{bearer}"), Some(bearer)).await;
        gateway.get(pods, Some(&format!("{bearer}x"))).await;
    }
    let upstream = std::fs::read_to_string(gateway.dir().join("upstream.kubeconfig")).unwrap();
    let upstream: Value = serde_json::from_str(&upstream).unwrap();
    let upstream = upstream["users"][0]["user"]["token"].as_str().unwrap();

    // Without its signature a token is worth nothing; without its claims, too, but those are no secret.
    let signature = |token: &str| token.rsplit('.').next().unwrap().to_owned();
    let values = BTreeMap::from([
        ("identity", signature(&token)),
        ("grant", signature(&grant)),
        // It begins with the grant's id, which is no secret.
        ("renewal", signature(&renewal)),
        ("upstream", signature(upstream)),
    ]);
    Canaries { values }.appear_nowhere(Vec::new(), gateway).await;
}
