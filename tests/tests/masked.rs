//! Each way in which kubectl shows a Secret, or a literal secret in an environment, shows what it shows directly, with tokens
//! where the values are: nothing else is missing, and nothing else has changed.

use base64::{Engine, engine::general_purpose::STANDARD};
use portcullis_tests::{Cluster, Gateway, Kubectl, without_chance};
use regex::Regex;
use serde_json::{Value, json};

/// What of a value is in a view, without a mask.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shown {
    Plain,
    Base64,
    Nothing,
}
use Shown::{Base64, Nothing, Plain};

/// Every output format of kubectl, and every other way to look at a Secret.
const SECRETS: &[(&str, Shown)] = &[
    ("get secret db", Nothing),
    ("get secret db -o name", Nothing),
    ("get secret db -o wide", Nothing),
    ("get secret db -o wide --show-labels", Nothing),
    ("get secret db --show-labels", Nothing),
    ("get secret db -L tier", Nothing),
    ("get secret db -o json", Base64),
    ("get secret db -o yaml", Base64),
    ("get secret db -o kyaml", Base64),
    ("get secret db -o yaml --show-managed-fields", Base64),
    ("get secret db -o jsonpath={.data.password}", Base64),
    ("get secret db -o jsonpath={.data}", Base64),
    ("get secret db -o jsonpath={.metadata.annotations}", Base64),
    ("get secret db -o jsonpath={.metadata.labels.tier}", Nothing),
    ("get secret db -o jsonpath-as-json={.data}", Base64),
    ("get secret db -o jsonpath-as-json={..password}", Base64),
    ("get secret db -o go-template={{.data.password}}", Base64),
    ("get secret db -o go-template={{range.data}}{{.|base64decode}}{{end}}", Plain),
    ("get secret db -o template --template={{.data.password|base64decode}}", Plain),
    ("get secret db -o custom-columns=NAME:.metadata.name,DATA:.data,WORD:.data.password", Base64),
    ("describe secret db", Nothing),
    ("apply view-last-applied secret/db", Base64),
    ("get secrets", Nothing),
    ("get secrets -o wide --show-labels", Nothing),
    ("get secrets -o name", Nothing),
    ("get secrets -o json", Base64),
    ("get secrets -o yaml --sort-by=.metadata.name", Base64),
    ("get secrets -o json --chunk-size=1", Base64),
    ("get secrets -l tier=back -o jsonpath={.items[*].data}", Base64),
    ("get secrets --field-selector=metadata.name=db -o json", Base64),
    ("get secrets -o go-template={{range.items}}{{range.data}}{{.|base64decode}}{{end}}{{end}}", Plain),
    ("get secrets -o custom-columns=NAME:.metadata.name,DATA:.data", Base64),
    ("describe secrets", Nothing),
    ("get secrets,configmaps", Nothing),
    ("get secrets,configmaps -o yaml", Base64),
    ("get secrets,configmaps -o json", Base64),
    ("get secret/db configmap/settings -o yaml", Base64),
    ("get --raw /api/v1/namespaces/NAMESPACE/secrets/db", Base64),
    ("get --raw /api/v1/namespaces/NAMESPACE/secrets", Base64),
    ("get --raw /api/v1/namespaces/NAMESPACE/secrets?limit=1", Base64),
    ("get --raw /api/v1/namespaces/NAMESPACE/secrets?watch=true&timeoutSeconds=1", Base64),
    ("get --raw /api/v1/watch/namespaces/NAMESPACE/secrets?timeoutSeconds=1", Base64),
];

/// Every way to look at an environment.
const ENVIRONMENTS: &[(&str, Shown)] = &[
    ("get deployment web", Nothing),
    ("get deployment web -o wide --show-labels", Nothing),
    ("get deployment web -o name", Nothing),
    ("get deployment web -o json", Plain),
    ("get deployment web -o yaml", Plain),
    ("get deployments -o yaml", Plain),
    ("get deployment web -o jsonpath={.spec.template.spec.containers[0].env}", Plain),
    ("get deployment web -o jsonpath-as-json={..env[?(@.name==\"PASSWORD\")].value}", Plain),
    (
        "get deployment web -o go-template={{range.spec.template.spec.containers}}{{range.env}}{{.value}}{{end}}{{end}}",
        Plain,
    ),
    (
        "get deployment web -o custom-columns=NAME:.metadata.name,ENV:.spec.template.spec.containers[*].env[*].value",
        Plain,
    ),
    ("describe deployment web", Plain),
    ("describe deployments", Plain),
    ("set env deployment/web --list", Plain),
    ("apply view-last-applied deployment/web", Plain),
    ("get replicasets -o yaml", Plain),
    ("rollout history deployment/web --revision=1", Plain),
    ("get --raw /apis/apps/v1/namespaces/NAMESPACE/deployments/web", Plain),
    ("get --raw /apis/apps/v1/namespaces/NAMESPACE/deployments?watch=true&timeoutSeconds=1", Plain),
];

#[tokio::test]
async fn every_view_of_a_secret_is_whole_but_for_its_values() {
    let cluster = Cluster::from_env();
    let stage = Stage::set(&cluster).await;
    for (view, shown) in SECRETS {
        stage.looks_the_same(view, *shown).await;
    }
    stage.gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn every_view_of_an_environment_is_whole_but_for_the_values_of_secret_names() {
    let cluster = Cluster::from_env();
    let stage = Stage::set(&cluster).await;
    for (view, shown) in ENVIRONMENTS {
        stage.looks_the_same(view, *shown).await;
    }
    // What is no secret's name keeps its value.
    let said = stage.agent.run(&["set", "env", "deployment/web", "--list"]).await.ok();
    assert!(said.contains("COLOUR=red") && said.contains("PASSWORD=masked:env:"), "{said}");
    stage.gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn a_watch_is_whole_but_for_the_values() {
    let cluster = Cluster::from_env();
    let stage = Stage::set(&cluster).await;
    for (view, shown) in [
        ("get secrets --watch -o json", Base64),
        ("get secrets --watch -o json --output-watch-events", Base64),
        ("get secret db --watch -o json", Base64),
        ("get deployments --watch -o json", Plain),
    ] {
        let words: Vec<&str> = view.split(' ').collect();
        let wanted = if view.contains("secrets") { SECRETS_THERE } else { 1 };
        let watch = async |kubectl: &Kubectl| {
            let mut watching = kubectl.start(&words);
            let said = watching.wait_for_output(|said| objects(said) == wanted).await;
            watching.kill().await;
            said
        };
        let (through, direct) = tokio::join!(watch(&stage.agent), watch(&stage.admin));
        stage.are_the_same(view, shown, &through, &direct);
    }

    // A value that changes has another token, and no value.
    let mut watching =
        stage.agent.start(&["get", "secret", "db", "--watch", "-o", "jsonpath={.data.password}{'\\n'}"]);
    let first = watching.wait_for_output(|said| said.ends_with('\n')).await;
    let changed = value();
    let patch = json!({"stringData": {"password": changed}}).to_string();
    stage.admin.run(&["patch", "secret", "db", "-p", &patch]).await.ok();
    let both = watching.wait_for_output(|said| said.len() > first.len() && said.ends_with('\n')).await;
    watching.kill().await;
    let tokens: Vec<&str> = both.lines().collect();
    assert!(tokens.len() == 2 && tokens[0] != tokens[1], "{both}");
    assert!(tokens.iter().all(|token| is_token(token)), "{both}");
    assert!(!both.contains(&STANDARD.encode(&changed)), "{both}");
    stage.gateway.agrees_with_the_server().await;
}

/// Where a mask stands is told by the same key, and equal values at one place by equal tokens: in whatever format one looks.
#[tokio::test]
async fn a_value_has_one_token_in_every_format() {
    let cluster = Cluster::from_env();
    let stage = Stage::set(&cluster).await;
    let mut tokens = Vec::new();
    for view in [
        "get secret db -o jsonpath={.data.password}",
        "get secret db -o go-template={{.data.password}}",
        "get secrets --field-selector=metadata.name=db -o jsonpath={.items[0].data.password}",
        "get secrets -l tier=back -o jsonpath={.items[?(@.metadata.name==\"db\")].data.password}",
        "get secret db --no-headers -o custom-columns=PASSWORD:.data.password",
    ] {
        let words: Vec<&str> = view.split(' ').collect();
        tokens.push(stage.agent.run(&words).await.ok().trim().to_owned());
    }
    let raw = format!("/api/v1/namespaces/{}/secrets/db", stage.namespace);
    let raw: Value = serde_json::from_str(&stage.agent.run(&["get", "--raw", &raw]).await.ok()).unwrap();
    tokens.push(raw["data"]["password"].as_str().unwrap().to_owned());
    assert!(is_token(&tokens[0]), "{tokens:?}");
    assert!(tokens.iter().all(|token| *token == tokens[0]), "{tokens:?}");
    // And its neighbour, or another Secret with the same value, another.
    for other in ["get secret db -o jsonpath={.data.again}", "get secret twin -o jsonpath={.data.password}"] {
        let words: Vec<&str> = other.split(' ').collect();
        let token = stage.agent.run(&words).await.ok();
        assert!(is_token(&token) && token != tokens[0], "{other}: {token}");
    }
    stage.gateway.agrees_with_the_server().await;
}

/// How many Secrets there are.
const SECRETS_THERE: usize = 3;

/// A namespace with Secrets, a ConfigMap and a Deployment; one who may not see the values, and one who may.
struct Stage {
    gateway: Gateway,
    agent: Kubectl,
    admin: Kubectl,
    namespace: String,
    /// All that is in the Secrets and in the environment.
    values: Vec<String>,
}

impl Stage {
    async fn set(cluster: &Cluster) -> Self {
        let gateway = Gateway::start(cluster).await;
        let namespace = cluster.namespace_of_agents("masked").await;
        let agent = gateway.kubectl("agent-ci").await.namespace(&namespace);
        let admin = cluster.admin().namespace(&namespace);
        let (password, environment) = (value(), value());
        let docker = format!("{{\"x\":\"{}\"}}", &value()[..LENGTH - 8]);
        let secret = |name: &str, kind: &str, data: Value| {
            json!({"apiVersion": "v1", "kind": "Secret", "type": kind, "data": data,
                "metadata": {"name": name, "labels": {"tier": "back"}}})
        };
        let encoded = STANDARD.encode(&password);
        let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
            secret("db", "Opaque", json!({"password": encoded, "again": encoded})),
            secret("twin", "kubernetes.io/basic-auth", json!({"password": encoded})),
            secret("docker", "kubernetes.io/dockerconfigjson", json!({".dockerconfigjson": STANDARD.encode(&docker)})),
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"colour": "red"}},
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
                "replicas": 0,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "web", "image": "none", "env": [
                        {"name": "PASSWORD", "value": environment},
                        {"name": "COLOUR", "value": "red"},
                    ]}]},
                },
            }},
        ]});
        admin.run_with_input(&["apply", "-f", "-"], objects.to_string()).await.ok();
        // Which is when nothing changes any more.
        admin.run(&["rollout", "status", "deployment/web", "--timeout=50s"]).await.ok();
        Self { gateway, agent, admin, namespace, values: vec![password, environment, docker] }
    }

    /// The same command through the gateway and directly.
    async fn looks_the_same(&self, view: &str, shown: Shown) {
        let view = view.replace("NAMESPACE", &self.namespace);
        let words: Vec<&str> = view.split(' ').collect();
        let (through, direct) = tokio::join!(self.agent.run(&words), self.admin.run(&words));
        assert_eq!(through.err(), direct.err(), "{view}");
        self.are_the_same(&view, shown, &through.ok(), &direct.ok());
    }

    #[track_caller]
    fn are_the_same(&self, view: &str, shown: Shown, through: &str, direct: &str) {
        for value in &self.values {
            for hidden in [value.clone(), STANDARD.encode(value)] {
                assert!(!through.contains(&hidden), "{view} shows it: {through}");
            }
        }
        let through = comparable(&without_tokens(through));
        let direct = comparable(&self.without_values(direct));
        let there = [(Plain, PLAIN), (Base64, BASE64)].map(|(shown, mark)| (shown, direct.contains(mark)));
        for (kind, there) in there {
            assert_eq!(there, kind == shown, "{view}, directly, with {kind:?}: {direct}");
        }
        let apart = through.lines().zip(direct.lines()).find(|(through, direct)| through != direct);
        assert_eq!(through, direct, "{view}, first at {apart:?}");
    }

    fn without_values(&self, text: &str) -> String {
        self.values.iter().fold(text.to_owned(), |text, value| {
            text.replace(value.as_str(), PLAIN).replace(&STANDARD.encode(value), BASE64)
        })
    }
}

/// What a value is replaced by for the comparison, as is a token.
const PLAIN: &str = "<A VALUE>";
const BASE64: &str = "<A VALUE IN BASE64>";

/// So many bytes has a token of the rule `secrets`: then `describe`, which counts them, says the same.
const LENGTH: usize = "masked:secrets:".len() + 16;

/// A value that is nowhere else.
fn value() -> String {
    let value = format!("canary{}", uuid::Uuid::new_v4().simple());
    value[..LENGTH].to_owned()
}

#[expect(clippy::expect_used, reason = "without it there is no test")]
fn without_tokens(text: &str) -> String {
    // Which is what base64 makes of a token, from its beginning to its end.
    let encoded = Regex::new("bWFza2Vk[0-9A-Za-z+/]{34}==").expect("a pattern");
    let plain = Regex::new("masked:(secrets|env):[0-9a-f]{16}").expect("a pattern");
    plain.replace_all(&encoded.replace_all(text, BASE64), PLAIN).into_owned()
}

/// Without what is a matter of chance, and without what `describe` finds out by comparing the template of a Deployment with those
/// of its ReplicaSets: equal values have other tokens in another object.
#[expect(clippy::expect_used, reason = "without it there is no test")]
fn comparable(text: &str) -> String {
    let found_by_comparing = Regex::new(r"(?m)^(OldReplicaSets|NewReplicaSet):.*\n").expect("a pattern");
    found_by_comparing.replace_all(&without_chance(text), "").into_owned()
}

/// Whether a member of `data` is a token.
fn is_token(data: &str) -> bool {
    without_tokens(data) == BASE64
}

/// How many whole objects a text has, each with the end of its last line, which kubectl writes by itself; nothing, if it ends
/// within one.
fn objects(text: &str) -> usize {
    if !text.ends_with('\n') {
        return 0;
    }
    let objects: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(text).into_iter().collect();
    objects.map_or(0, |objects| objects.len())
}
