//! An agent's day: all that it does with Secrets and their like, and all that it gets to see.

use std::io::Read;

use base64::Engine;
use futures_util::{StreamExt, stream};
use portcullis_tests::{Cluster, Gateway, HttpClient, Kubectl, Running, wait_until};
use serde_json::{Value, json};

use crate::search::{Canaries, bytes_below, find, mask_pattern};

/// Where the canaries are.
const PLACES: [&str; 10] = [
    "directData",
    "directString",
    "appliedData",
    "appliedString",
    "serverSide",
    "literal",
    "patched",
    "environment",
    "heldEnvironment",
    "refused",
];

#[tokio::test]
async fn what_is_put_into_secrets_comes_back_nowhere() {
    let cluster = Cluster::from_env();
    let namespace = cluster.namespace_of_agents("leak").await;
    let mut gateway = Gateway::configured(&cluster, |config| {
        config["telemetry"]["log"] = "debug".into();
    })
    .await;
    let canaries = Canaries::new(&PLACES);
    let canary = |place: &str| canaries.values[place].clone();
    let mut story = Story {
        agent: gateway.kubectl("agent-ci").await.namespace(&namespace),
        token: gateway.token("agent-ci").await,
        http: gateway.http(),
        url: gateway.url.clone(),
        evidence: Vec::new(),
    };
    let admin = cluster.admin().namespace(&namespace);

    // -- What others have put there -----------------------------------------------------------------
    let direct = secret("direct", &canary("directData"), &canary("directString"));
    admin.run_with_input(&["apply", "-f", "-"], direct).await.ok();
    // More than the API server sends without compressing it.
    let large = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "large" },
        "stringData": { "x": "p".repeat(200_000) },
    });
    admin.run_with_input(&["create", "-f", "-"], large.to_string()).await.ok();

    // -- What the agent puts there --------------------------------------------------------------------
    let applied = secret("applied", &canary("appliedData"), &canary("appliedString"));
    story.feed(&["apply", "-f", "-"], &applied).await;
    story.feed(&["apply", "-f", "-"], &applied.replace("colour: red", "colour: blue")).await;
    story.feed(&["diff", "-f", "-"], &applied.replace("colour: red", "colour: green")).await;
    let by_server = secret("by-server", &canary("serverSide"), &canary("serverSide"));
    story.feed(&["apply", "--server-side", "-f", "-"], &by_server).await;
    story.feed(&["apply", "--server-side", "--field-manager=other", "-f", "-"], &by_server).await;
    let literal = format!("--from-literal=password={}", canary("literal"));
    story.run(&["create", "secret", "generic", "literal", &literal]).await;
    let patch = json!({ "stringData": { "more": canary("patched") } }).to_string();
    story.run(&["patch", "secret", "literal", "-p", &patch, "-o", "yaml"]).await;
    let guess = json!([{ "op": "test", "path": "/data/password", "value": canary("literal") }]).to_string();
    story.run(&["patch", "secret", "literal", "--type=json", "-p", &guess]).await;
    let wrong = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "Not A Name" },
        "stringData": { "password": canary("refused") }, "nonsense": canary("refused"),
    });
    story.feed(&["create", "-f", "-"], &wrong.to_string()).await;
    let untrue = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "untrue" },
        "data": { "password": format!("{}!", canary("refused")) },
    });
    story.feed(&["create", "--validate=false", "-f", "-"], &untrue.to_string()).await;
    story.feed(&["apply", "-f", "-"], &deployment(&canary("environment"))).await;
    story.run(&["rollout", "status", "deployment/web", "--timeout=50s"]).await;
    // This one waits for people, who see what it is and not what is in it.
    let mut held = story.agent.start(&["create", "-f", "-"]);
    held.write(held_pod(&canary("heldEnvironment"))).await;
    held.close_stdin();
    let (tickets, ticket) = wait_until("the pod to wait", || async {
        let tickets = gateway.cli("approver-amir", &["approvals", "list", "--output", "json"]).await;
        let list: Value = serde_json::from_str(&tickets.ok()).unwrap();
        let ticket = list["items"][0]["id"].as_str()?.to_owned();
        Some((tickets, ticket))
    })
    .await;
    story.keep("approvals list", tickets.all());
    for output in ["table", "json", "yaml"] {
        let shown = gateway.cli("approver-amir", &["approvals", "show", &ticket, "--output", output]).await;
        shown.ok();
        story.keep("approvals show", shown.all());
    }
    story.keep("deny", gateway.cli("approver-amir", &["approvals", "deny", &ticket]).await.all());
    story.keep("denied", held.finish().await.all());

    // -- What the agent gets to see ---------------------------------------------------------------------
    story.read_with_kubectl(&[]).await;
    // Once more with all that was on the wire, which is more than is shown. At `--v=9` kubectl cuts bodies off.
    story.read_with_kubectl(&["--v=10"]).await;
    story.edit().await;
    story.read_with_every_encoding(&namespace).await;
    story.watch(&admin, &namespace).await;
    story.keep("the agent's discovery cache", bytes_below(gateway.dir(), "cache"));

    // -- What is left ---------------------------------------------------------------------------------------
    let metrics = gateway.http().get(&format!("{}/metrics", gateway.operations), None).await;
    story.keep("metrics", metrics.body().to_vec());
    story.read_the_record(&gateway).await;
    story.evidence.extend(gateway.evidence().await);
    story.keep("audit tail", format!("{:?}", gateway.records().await).into_bytes());
    canaries.appear_nowhere_in(&story.evidence);
    let masked = |piece: &(String, Vec<u8>)| find(b"masked:", &piece.1);
    assert!(story.evidence.iter().filter(|piece| masked(piece)).count() > 10, "nothing was masked");
    let wire = |piece: &(String, Vec<u8>)| find(b"Response Body", &piece.1) && masked(piece);
    assert!(story.evidence.iter().filter(|piece| wire(piece)).count() > 10, "kubectl does not show the wire");

    // And the cluster holds what was meant: the values, and no mask.
    let stored = admin.run(&["get", "secrets,deployments", "-o", "yaml"]).await;
    canaries.all_but(&["heldEnvironment", "refused"]).all_appear_in(&stored.stdout);
    assert!(!mask_pattern().is_match(&stored.stdout), "a mask was stored: {stored}");
    gateway.start_again().await;
    gateway.agrees_with_the_server().await;
}

// -- The agent's day ------------------------------------------------------------------------------------

struct Story {
    agent: Kubectl,
    token: String,
    http: HttpClient,
    url: String,
    evidence: Vec<(String, Vec<u8>)>,
}

impl Story {
    /// Every session, in every form in which it can be told.
    async fn read_the_record(&mut self, gateway: &Gateway) {
        let config = gateway.config_file().display().to_string();
        let read = async |words: &[&str]| {
            let words = [words, &["--config", &config]].concat();
            Running::start(gateway.command(&words)).finish().await
        };
        let list = read(&["sessions", "list", "-o", "name"]).await.ok();
        assert!(!list.is_empty(), "there were sessions");
        for id in list.lines() {
            self.keep("sessions show", read(&["sessions", "show", id]).await.all());
            for form in ["json", "markdown", "html"] {
                let told = read(&["sessions", "export", id, "-o", form]).await;
                told.ok();
                self.keep("sessions export", told.all());
            }
        }
        self.keep("audit search", read(&["audit", "search", "-n", "100000", "-o", "json"]).await.all());
    }

    fn keep(&mut self, what: &str, bytes: Vec<u8>) {
        self.evidence.push((what.to_owned(), bytes));
    }

    async fn run(&mut self, arguments: &[&str]) {
        let finished = self.agent.run(arguments).await;
        self.keep(&format!("{} {}", arguments[0], arguments.get(1).unwrap_or(&"")), finished.all());
    }

    async fn feed(&mut self, arguments: &[&str], input: &str) {
        let finished = self.agent.run_with_input(arguments, input).await;
        self.keep(&format!("{} {}", arguments[0], arguments.get(1).unwrap_or(&"")), finished.all());
    }

    async fn read_with_kubectl(&mut self, options: &[&str]) {
        for command in [
            "get secrets",
            "get secrets -o wide",
            "get secrets -o yaml",
            "get secrets -o json",
            "get secret direct -o yaml --show-managed-fields",
            "get secret applied -o jsonpath={.data.password}",
            "get secret applied -o jsonpath={.metadata.annotations}",
            "get secret applied -o go-template={{range.data}}{{.|base64decode}}{{end}}",
            "get secrets -o custom-columns=NAME:.metadata.name,DATA:.data",
            "describe secrets",
            "get deployment,replicasets,pods -o yaml",
            "get deployment web -o json",
            "describe deployment web",
            "describe pods",
            "rollout history deployment/web --revision=1",
            "rollout history deployment/web -o yaml",
            "set env deployment/web --list",
            "events",
            "apply view-last-applied secret/applied",
            "apply view-last-applied deployment/web",
            "annotate secret applied note=seen -o yaml",
            "label deployment web seen=yes -o yaml",
            "scale deployment web --replicas=2",
            "create token default",
            "delete secret by-server --dry-run=server -o yaml",
        ] {
            let words = command.split(' ').chain(options.iter().copied()).collect::<Vec<_>>();
            self.run(&words).await;
        }
    }

    /// Whatever an editor is shown, and whatever it leaves.
    async fn edit(&mut self) {
        for (editor, what) in [
            ("cat", "secret/applied"),
            ("sed -i s/red/green/", "secret/applied"),
            ("sed -i s/colour/taste/", "secret/literal"),
            (
                "sed -i s/password:.*/password:\\ bWFza2VkOnNlY3JldHM6MDAwMDAwMDAwMDAwMDAwMA==/",
                "secret/direct",
            ),
            ("sed -i s/web:1.0/web:2.0/", "deployment/web"),
        ] {
            let agent = self.agent.clone().env("KUBE_EDITOR", editor);
            let finished = agent.run(&["edit", what]).await;
            self.keep(&format!("edit {what}"), finished.all());
        }
    }

    #[expect(clippy::unwrap_used, reason = "without it there is no test")]
    async fn read_with_every_encoding(&mut self, namespace: &str) {
        let accepts = [
            "application/json",
            "*/*",
            "application/json;as=Table;v=v1;g=meta.k8s.io",
            "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json",
            "application/vnd.kubernetes.protobuf",
            "application/vnd.kubernetes.protobuf,application/json",
            "application/yaml",
            "application/cbor",
            "application/cbor,application/json;q=0.1",
            "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io",
        ];
        let paths = ["secrets", "secrets?limit=2", "secrets/applied", "secrets?watch=true&timeoutSeconds=1"];
        let tables = ["secrets?includeObject=Object", "secrets?includeObject=Metadata"];
        let all = paths.iter().chain(&tables).flat_map(|path| accepts.map(|accept| (*path, accept)));
        let all =
            all.flat_map(|(path, accept)| ["identity", "gzip"].map(|encoding| (path, accept, encoding)));
        let (http, url, token) = (&self.http, &self.url, &self.token);
        let ask = async |(path, accept, encoding): (&str, &str, &str)| {
            let request = http::Request::get(format!("{url}/api/v1/namespaces/{namespace}/{path}"))
                .header("authorization", format!("Bearer {token}"))
                .header("accept", accept)
                .header("accept-encoding", encoding);
            let what = format!("{path} as {accept}, {encoding}");
            // One that breaks off has said what it has said; the log tells whether that is well.
            let answer = http.try_send(request.body("").unwrap()).await.ok()?;
            let mut body = answer.body().to_vec();
            if answer.headers().get("content-encoding").is_some_and(|encoding| encoding == "gzip") {
                let mut plain = Vec::new();
                flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut plain).unwrap();
                body = plain;
            }
            body.extend(format!("{:?}", answer.headers()).into_bytes());
            Some((what, body))
        };
        // A few at a time: those that watch take a second each.
        let answers: Vec<_> = stream::iter(all).map(ask).buffer_unordered(16).collect().await;
        self.evidence.extend(answers.into_iter().flatten());
    }

    /// Two who watch while others write.
    async fn watch(&mut self, admin: &Kubectl, namespace: &str) {
        let mut yaml = self.agent.start(&["get", "secrets", "--watch", "-o", "yaml"]);
        let mut events =
            self.agent.start(&["get", "secrets", "--watch", "-o", "json", "--output-watch-events"]);
        let raw = format!("/api/v1/namespaces/{namespace}/secrets?watch=true&allowWatchBookmarks=true");
        let mut stream = self.agent.start(&["get", "--raw", &raw]);
        yaml.wait_for_output(|text| text.contains("name: direct")).await;
        events.wait_for_output(|text| text.contains("\"name\":\"direct\"")).await;
        stream.wait_for_output(|text| text.contains("\"name\":\"direct\"")).await;
        admin.run(&["label", "secret", "direct", "changed=yes"]).await.ok();
        admin.run(&["delete", "secret", "large"]).await.ok();
        yaml.wait_for_output(|text| text.contains("changed:")).await;
        events.wait_for_output(|text| text.contains("DELETED")).await;
        stream.wait_for_output(|text| text.contains("DELETED")).await;
        for watching in [yaml, events, stream] {
            let said = watching.kill().await;
            self.keep("watch", said.all());
        }
    }
}

fn secret(name: &str, data: &str, string: &str) -> String {
    let data = base64::engine::general_purpose::STANDARD.encode(data);
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\n  annotations: {{colour: red}}\n\
        data:\n  password: {data}\nstringData:\n  url: https://user:{string}@example.test/\n"
    )
}

fn deployment(password: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: web
          image: web:1.0
          command: [sh, -c, 'sleep 1000']
          env: [{{name: DB_PASSWORD, value: {password}}}, {{name: COLOUR, value: red}}]
"
    )
}

fn held_pod(token: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "asks" },
        "spec": { "containers": [{
            "name": "asks", "image": "none", "command": ["sleep", "1000"],
            "env": [
                { "name": "API_TOKEN", "value": token },
                { "name": "PASSWORD", "valueFrom": { "secretKeyRef": { "name": "direct", "key": "password" } } },
            ],
        }] },
    })
    .to_string()
}
