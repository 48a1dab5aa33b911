//! What is refused never arrives: for each way to be refused, the client gets the right code and
//! reason, the record has an outcome and no intent, and the API server's own log has nothing.

use bytes::Bytes;
use http::Request;
use portcullis_audit::End;
use portcullis_tests::{Answer, Cluster, Gateway, HttpClient, Idp, files_below, wait_until};
use serde_json::{Value, json};

#[tokio::test]
async fn nobody_without_a_good_token() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::configured(&cluster, |config| {
        config["authentication"]["leeway"] = "0s".into();
    })
    .await;
    let refusals = Refusals::new(&gateway);
    let stranger = Idp::start().await;
    let good = gateway.token("agent-ci").await;
    let expired = gateway.idp.token("agent-ci").lifetime(1).mint().await;
    wait_until("the token to expire", || async {
        (gateway.get("/version", Some(&expired)).await.status() == 401).then_some(())
    })
    .await;

    let bearer = |token: &str| refusals.get().header("authorization", format!("Bearer {token}"));
    refusals.check(refusals.get(), "", 401, "oidc/missing").await;
    refusals.check(refusals.get().header("authorization", "Basic YTpi"), "", 401, "oidc/missing").await;
    refusals.check(bearer("nonsense"), "", 401, "oidc/malformed").await;
    refusals.check(bearer(&expired), "", 401, "oidc/expired").await;
    let strange = stranger.access_token("agent-ci").await;
    refusals.check(bearer(&strange), "", 401, "oidc/unknown-issuer").await;
    let other = gateway.idp.token("agent-ci").audience("other").mint().await;
    refusals.check(bearer(&other), "", 401, "oidc/wrong-audience").await;
    let tampered = format!("{}AAAA", &good[..good.len() - 4]);
    refusals.check(bearer(&tampered), "", 401, "oidc/bad-signature").await;
    let mallory = gateway.token("mallory").await;
    refusals.check(bearer(&mallory), "", 401, "oidc/reserved-name").await;
    // Two tokens are two answers.
    let two = bearer(&good).header("authorization", format!("Bearer {mallory}"));
    refusals.check(two, "", 400, "kube/ambiguous-headers").await;

    // What everybody may see directly, nobody may see here without a name.
    let answer = gateway.get("/version", None).await;
    assert_eq!(answer.status(), 401);
    // Signing keys that were replaced are gone; until then, the old ones are good.
    assert_eq!(gateway.get("/version", Some(&good)).await.status(), 200);
    refusals.never_arrived(gateway).await;
}

#[tokio::test]
async fn nothing_that_policy_refuses() {
    let cluster = Cluster::from_env();
    let namespace = cluster.namespace_of_agents("deny").await;
    let gateway = Gateway::configured(&cluster, |config| {
        config["limits"]["bodyBytes"] = 65536.into();
        config["policy"]["rules"] = json!([{
            "name": "no-settings",
            "match": { "verbs": ["create", "delete"], "resources": ["configmaps"], "names": ["settings*"] },
            "action": "deny",
            "message": "settings are for people",
        }]);
    })
    .await;
    let refusals = Refusals::new(&gateway);
    let token = gateway.token("agent-ci").await;
    let path = |what: &str| format!("/api/v1/namespaces/{namespace}/{what}");
    let request = |method: &str, path: &str| {
        gateway.request(method, path, &token).header("content-type", "application/json")
    };
    let named = |name: &str| json!({ "metadata": { "name": name }, "data": {} }).to_string();

    let settings = request("DELETE", &path("configmaps/settings-1"));
    refusals.check(settings, "", 403, "policy/denied").await;
    refusals.check(request("POST", &path("configmaps")), &named("settings-2"), 403, "policy/denied").await;
    // All of them are those, too.
    refusals.check(request("DELETE", &path("configmaps")), "", 403, "policy/denied").await;
    let twice = r#"{"metadata":{"name":"innocent","name":"settings-3"}}"#;
    refusals.check(request("POST", &path("configmaps")), twice, 400, "policy/unreadable-body").await;
    let large = json!({ "metadata": { "name": "large" }, "data": { "x": "x".repeat(70_000) } }).to_string();
    refusals.check(request("POST", &path("configmaps")), &large, 413, "policy/too-large").await;
    let packed = request("POST", &path("configmaps")).header("content-encoding", "gzip");
    refusals.check(packed, &named("packed"), 415, "policy/content-encoding").await;

    let as_other = || gateway.request("GET", &path("configmaps"), &token);
    let admin = as_other().header("impersonate-user", "admin");
    refusals.check(admin, "", 403, "policy/impersonation").await;
    let masters = as_other().header("impersonate-group", "system:masters");
    refusals.check(masters, "", 403, "policy/impersonation").await;
    let extra = as_other().header("impersonate-extra-scopes", "all");
    refusals.check(extra, "", 403, "policy/impersonation").await;

    let node = gateway.request("GET", "/api/v1/nodes/local/proxy/metrics", &token);
    refusals.check(node, "", 403, "policy/denied").await;
    // What cannot come masked does not come.
    let cbor = gateway.request("GET", &path("secrets"), &token).header("accept", "application/cbor");
    refusals.check(cbor, "", 406, "mask/not-acceptable").await;

    // A mask is not a value: whoever read one cannot write it back.
    let admin = cluster.admin().namespace(&namespace);
    admin.run(&["create", "secret", "generic", "db", "--from-literal=password=hunter2"]).await.ok();
    let masked = gateway.get(&path("secrets/db"), Some(&token)).await;
    let back = String::from_utf8_lossy(masked.body()).into_owned();
    assert!(!back.contains("aHVudGVyMg"), "{back}");
    refusals.check(request("PUT", &path("secrets/db")), &back, 422, "mask/would-store-mask").await;
    refusals.never_arrived(gateway).await;
}

#[tokio::test]
async fn nothing_that_people_refuse_or_do_not_decide() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::configured(&cluster, |config| {
        config["hold"]["holdFor"] = "1s".into();
        config["hold"]["expiresAfter"] = "1h".into();
    })
    .await;
    let refusals = Refusals::new(&gateway);
    let token = gateway.token("agent-ci").await;
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    let binding = |name: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view" },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "friends" }],
        })
        .to_string()
    };
    let create = || gateway.request("POST", bindings, &token).header("content-type", "application/json");
    let no_wait = || create().header("portcullis-hold", "no-wait");

    // Undecided, whether one waits or not.
    let undecided = format!("undecided-{}", refusals.unique);
    refusals.check(no_wait(), &binding(&undecided), 429, "hold/pending").await;
    refusals.check(create(), &binding(&undecided), 429, "hold/pending").await;
    // Denied, now and when it is sent again.
    let denied = format!("denied-{}", refusals.unique);
    let answer = refusals.check(no_wait(), &binding(&denied), 429, "hold/pending").await;
    let ticket = ticket_of(&gateway, &denied).await;
    assert!(String::from_utf8_lossy(answer.body()).contains(&ticket), "{answer:?}");
    // An agent decides nothing, its own requests least of all.
    let own = gateway.cli("agent-ci", &["approvals", "approve", &ticket]).await;
    assert_eq!(own.code(), Some(77), "{own}");
    gateway.cli("approver-amir", &["approvals", "deny", &ticket, "--reason", "not today"]).await.ok();
    let answer = refusals.check(create(), &binding(&denied), 403, "hold/denied").await;
    assert!(String::from_utf8_lossy(answer.body()).contains("not today"));
    // Approved for one body, refused for another.
    let approved = format!("approved-{}", refusals.unique);
    refusals.check(no_wait(), &binding(&approved), 429, "hold/pending").await;
    let ticket = ticket_of(&gateway, &approved).await;
    gateway.cli("approver-amir", &["approvals", "approve", &ticket]).await.ok();
    let other = binding(&approved).replace("friends", "strangers");
    refusals.check(no_wait(), &other, 429, "hold/pending").await;

    // Of all these the API server has seen dry runs, the gateway's own, as the agent: nothing else.
    let records = gateway.records().await;
    for event in gateway.seen().await {
        let intent = records.intents().find(|intent| intent.id.to_string() == event.audit_id).unwrap();
        let about_bindings = event.request_uri.starts_with(bindings);
        assert!(!about_bindings || intent.parent.is_some(), "{event:?}");
        assert!(!about_bindings || event.verb != "create" || event.request_uri.contains("dryRun=All"));
        assert_eq!(event.effective_user().username, "agent-ci");
    }
    for name in [&undecided, &denied, &approved] {
        let found = cluster.admin().run(&["get", "clusterrolebinding", name]).await.fails();
        assert!(found.contains("NotFound"), "{found}");
    }
    refusals.never_arrived(gateway).await;
}

#[expect(clippy::unwrap_used, reason = "without it there is no test")]
async fn ticket_of(gateway: &Gateway, name: &str) -> String {
    let list = gateway.cli("approver-amir", &["approvals", "list", "--output", "json"]).await.ok();
    let list: Value = serde_json::from_str(&list).unwrap();
    let about = |ticket: &&Value| ticket.to_string().contains(name);
    let ticket = list["items"].as_array().unwrap().iter().find(about).unwrap();
    ticket["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn nothing_beyond_or_after_a_grant() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::configured(&cluster, |config| {
        config["grants"]["profiles"] = json!([{
            "name": "look",
            "forWhom": { "groups": ["agents"] },
            "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"], "namespaces": ["shop"] }],
        }]);
    })
    .await;
    let refusals = Refusals::new(&gateway);
    let exchange = async || -> String {
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token", &gateway.token("agent-ci").await),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
            ("profile", "look"),
        ]
        .map(|(name, value)| format!("{name}={value}"))
        .join("&");
        let answer = post_form(&gateway, "/portcullis/oauth/token", form).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        let answer: Value = serde_json::from_slice(answer.body()).unwrap();
        answer["access_token"].as_str().unwrap().to_owned()
    };
    let grant = exchange().await;
    let pods = "/api/v1/namespaces/shop/pods";
    assert_eq!(gateway.get(pods, Some(&grant)).await.status(), 200);

    for (method, path) in [
        ("GET", "/api/v1/namespaces/shop/configmaps"),
        ("GET", "/api/v1/namespaces/default/pods"),
        ("GET", "/api/v1/pods"),
        ("GET", "/api/v1/namespaces/shop/pods?watch=true"),
        ("GET", "/api/v1/namespaces/shop/pods/toolbox/log"),
        ("GET", "/api/v1/namespaces/shop/pods/toolbox/exec?command=ls"),
        ("DELETE", "/api/v1/namespaces/shop/pods/nobody"),
        ("GET", "/metrics"),
    ] {
        refusals.check(gateway.request(method, path, &grant), "", 403, "jit/outside-grant").await;
    }
    let answer = post_form(&gateway, "/portcullis/oauth/revoke", format!("token={grant}")).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    refusals.check(gateway.request("GET", pods, &grant), "", 401, "jit/ended").await;
    refusals.check(gateway.request("GET", "/version", &grant), "", 401, "jit/ended").await;
    refusals.never_arrived(gateway).await;
}

#[expect(clippy::unwrap_used, reason = "without it there is no test")]
async fn post_form(gateway: &Gateway, path: &str, form: String) -> Answer {
    let request = Request::post(format!("{}{path}", gateway.url))
        .header("content-type", "application/x-www-form-urlencoded");
    gateway.http().send(request.body(form).unwrap()).await
}

/// A full disk: what cannot be recorded does not happen, and the gateway says so.
#[tokio::test]
async fn nothing_that_cannot_be_recorded() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::start(&cluster).await;
    let namespace = cluster.namespace_of_agents("full").await;
    let token = gateway.token("agent-ci").await;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let create = async |n: usize| {
        let body = json!({ "metadata": { "name": format!("n{n}") } }).to_string();
        let request = gateway.request("POST", &path, &token).header("content-type", "application/json");
        gateway.http().try_send(request.body(body).unwrap()).await
    };
    assert_eq!(create(0).await.unwrap().status(), 201);
    let mut largest = 0;
    for file in files_below(&gateway.state_dir()) {
        largest = largest.max(std::fs::metadata(file).unwrap().len());
    }
    gateway.limit_file_size(largest + 20_000).await;
    let mut created = 1;
    loop {
        match create(created).await {
            Ok(answer) if answer.status() == 201 => created += 1,
            Ok(answer) => {
                assert_eq!(answer.status(), 503, "{answer:?}");
                break;
            }
            // It was done, and its outcome could not be recorded: then its end is not told.
            Err(_) => break,
        }
        assert!(created < 1000, "the disk never fills");
    }
    for n in 0..5 {
        let answer = create(1000 + n).await.unwrap();
        let body = String::from_utf8_lossy(answer.body());
        assert_eq!(answer.status(), 503, "{body}");
        assert!(body.contains("audit/unavailable"), "{body}");
        assert_eq!(gateway.get(&path, Some(&token)).await.status(), 503);
    }
    let ready = gateway.http().get(&format!("{}/readyz", gateway.operations), None).await;
    assert_eq!(ready.status(), 503, "{}", String::from_utf8_lossy(ready.body()));

    let seen = gateway.seen().await;
    let arrived: Vec<_> = seen.iter().filter(|event| event.verb == "create").collect();
    assert!(
        (created..=created + 1).contains(&arrived.len()),
        "{created} were created, {} seen",
        arrived.len()
    );
    let records = gateway.records().await;
    for event in &seen {
        assert!(
            records.intents().any(|intent| intent.id.to_string() == event.audit_id),
            "no intent: {event:?}"
        );
    }
}

/// Requests that shall be refused, and a name that only they have.
struct Refusals {
    http: HttpClient,
    url: String,
    unique: String,
    ids: std::cell::RefCell<Vec<String>>,
}

impl Refusals {
    fn new(gateway: &Gateway) -> Self {
        let unique = uuid::Uuid::new_v4().simple().to_string()[..8].to_owned();
        Self { http: gateway.http(), url: gateway.url.clone(), unique, ids: Default::default() }
    }

    /// A harmless request that anybody with a name may make.
    fn get(&self) -> http::request::Builder {
        Request::get(format!("{}/api/v1/namespaces/shop/configmaps/refused-{}", self.url, self.unique))
    }

    /// It is refused with this status, for this reason.
    #[expect(clippy::unwrap_used, reason = "without it there is no test")]
    async fn check(&self, request: http::request::Builder, body: &str, status: u16, code: &str) -> Answer {
        let request = request.body(Bytes::copy_from_slice(body.as_bytes())).unwrap();
        let what = format!("{} {}", request.method(), request.uri());
        let answer = self.http.send(request).await;
        let said = String::from_utf8_lossy(answer.body()).into_owned();
        assert_eq!(answer.status(), status, "{what}: {said}");
        let said: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{what}: {said}"));
        assert_eq!(said["kind"], "Status", "{what}: {said}");
        assert_eq!(said["code"], status, "{what}: {said}");
        assert_eq!(said["details"]["causes"][0]["message"], code, "{what}: {said}");
        let id = answer.headers()["audit-id"].to_str().unwrap().to_owned();
        self.ids.borrow_mut().push(id);
        answer
    }

    /// None of them has an intent, each has an outcome, and the API server has seen none.
    #[expect(clippy::unwrap_used, reason = "without it there is no test")]
    async fn never_arrived(self, gateway: Gateway) {
        let records = gateway.records().await;
        let seen = gateway.seen().await;
        for id in self.ids.into_inner() {
            let outcome = records.outcomes().find(|outcome| outcome.id.to_string() == id).unwrap();
            assert_eq!(outcome.end, End::Refused, "{outcome:?}");
            // The mask refuses behind the commit, since only there it is known what it must read.
            if outcome.refusal.as_ref().unwrap().code != "mask/not-acceptable" {
                assert_eq!(outcome.intent, None, "{outcome:?}");
                assert!(outcome.request.is_some(), "nobody knows what was refused: {outcome:?}");
                assert!(records.intents().all(|intent| intent.id.to_string() != id), "{outcome:?}");
            }
            assert!(seen.iter().all(|event| event.audit_id != id), "it has arrived: {outcome:?}");
        }
        let marked = format!("refused-{}", self.unique);
        assert!(seen.iter().all(|event| !event.request_uri.contains(&marked)), "it has arrived");
        gateway.agrees_with_the_server().await;
    }
}
