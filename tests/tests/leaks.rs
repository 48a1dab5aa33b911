//! Nothing leaks: values that are nowhere else are put into Secrets, their annotations, environment
//! variables and commands. Every byte that clients get back, and every file and log line of the gateway, is
//! searched for them, as they are and in base64.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use base64::Engine;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{GeneralPurpose, general_purpose::NO_PAD};
use futures_util::{StreamExt, stream};
use portcullis_tests::{Cluster, Gateway, HttpClient, Kubectl, wait_until};
use regex::bytes::Regex;
use serde_json::{Value, json};

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
    let canaries = Canaries::new();
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
    story.keep("the log", gateway.stop().await.all());
    story.keep("audit tail", format!("{:?}", gateway.records().await).into_bytes());
    for file in files_below(&gateway.state_dir()) {
        story.keep(&file.display().to_string(), std::fs::read(&file).unwrap());
    }
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

#[tokio::test]
async fn known_formats_are_found_in_what_commands_say_and_are_told() {
    let cluster = Cluster::from_env();
    let namespace = cluster.namespace_of_agents("format").await;
    let mut gateway = Gateway::start(&cluster).await;
    let letters = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
    let token = format!("ghp_{}", &letters[..36]);
    let canaries = Canaries { values: BTreeMap::from([("token", token.clone())]) };
    let agent = gateway.kubectl("agent-ci").await.namespace(&namespace);
    let mut evidence = Vec::new();

    let script = format!("echo token is {token}; while :; do sleep 1; done");
    let run = ["run", "box", "--image=none", "--restart=Never", "--command", "--", "sh", "-c", &script];
    cluster.admin().namespace(&namespace).run(&run).await.ok();
    agent.run(&["wait", "--for=condition=Ready", "pod/box", "--timeout=50s"]).await.ok();
    wait_until("the first line", || async {
        (!agent.run(&["logs", "box"]).await.ok().is_empty()).then_some(())
    })
    .await;
    for transport in portcullis_tests::Transport::BOTH {
        let agent = agent.clone().transport(transport);
        let said = agent.run(&["exec", "box", "--", "echo", &token]).await;
        assert!(said.ok().contains("masked:"), "{said}");
        evidence.push(("exec".to_owned(), said.all()));
        let said = agent.run_with_input(&["exec", "-i", "box", "--", "cat"], format!("{token}\n")).await;
        assert!(said.ok().contains("masked:"), "{said}");
        evidence.push(("exec -i".to_owned(), said.all()));
    }
    let said = agent.run(&["logs", "box"]).await;
    assert!(said.ok().contains("masked:"), "{said}");
    evidence.push(("logs".to_owned(), said.all()));
    let agents = agent.clone().env("KUBECTL_EXPLAIN_OPENAPIV3", "true");
    evidence.push(("version".to_owned(), agents.run(&["version", "--output=json"]).await.all()));

    evidence.push(("the log".to_owned(), gateway.stop().await.all()));
    for file in files_below(&gateway.state_dir()) {
        evidence.push((file.display().to_string(), std::fs::read(&file).unwrap()));
    }
    canaries.appear_nowhere_in(&evidence);
    gateway.start_again().await;
    gateway.agrees_with_the_server().await;
}

/// Credentials are secrets, too: those the gateway is shown, and those it hands out.
#[tokio::test]
async fn tokens_are_kept_nowhere() {
    let cluster = Cluster::from_env();
    let mut gateway = Gateway::configured(&cluster, |config| {
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
    let mut evidence = vec![("the log".to_owned(), gateway.stop().await.all())];
    for file in files_below(&gateway.state_dir()) {
        evidence.push((file.display().to_string(), std::fs::read(&file).unwrap()));
    }
    Canaries { values }.appear_nowhere_in(&evidence);
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

// -- The search --------------------------------------------------------------------------------------------

/// Values that are nowhere but where the test puts them.
struct Canaries {
    values: BTreeMap<&'static str, String>,
}

impl Canaries {
    fn new() -> Self {
        let value = || format!("canary{}", uuid::Uuid::new_v4().simple());
        Self { values: PLACES.into_iter().map(|place| (place, value())).collect() }
    }

    fn all_but(&self, places: &[&str]) -> Self {
        let kept = self.values.iter().filter(|(place, _)| !places.contains(place));
        Self { values: kept.map(|(place, value)| (*place, value.clone())).collect() }
    }

    #[track_caller]
    fn appear_nowhere_in(&self, evidence: &[(String, Vec<u8>)]) {
        let bytes: usize = evidence.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(bytes > 1000, "nothing was searched");
        let mut hits = Vec::new();
        for (place, value) in &self.values {
            let pattern = pattern(value);
            for (what, bytes) in evidence {
                if let Some(hit) = pattern.find(bytes) {
                    let around = &bytes[hit.start().saturating_sub(200)..bytes.len().min(hit.end() + 50)];
                    hits.push(format!("{place} in {what}: …{}…", String::from_utf8_lossy(around)));
                }
            }
        }
        assert!(hits.is_empty(), "{} LEAKS\n{}", hits.len(), hits.join("\n"));
    }

    #[track_caller]
    fn all_appear_in(&self, bytes: &[u8]) {
        for (place, value) in &self.values {
            assert!(pattern(value).is_match(bytes), "{place} is not there");
        }
    }
}

/// Finds a value, any good part of it, and what it looks like in base64 at whatever offset, once and
/// twice encoded, and in hexadecimal.
#[expect(clippy::unwrap_used, reason = "without it there is no test")]
fn pattern(value: &str) -> Regex {
    const PART: usize = 14;
    let mut needles: Vec<String> = value.as_bytes().windows(PART).map(lossless).collect();
    let once = encoded(value.as_bytes());
    let twice = once.iter().flat_map(|needle| encoded(needle.as_bytes())).collect::<Vec<_>>();
    needles.extend(once.into_iter().chain(twice));
    needles.push(value.bytes().map(|byte| format!("{byte:02x}")).collect());
    let alternatives: Vec<String> = needles.iter().map(|needle| regex::escape(needle)).collect();
    Regex::new(&alternatives.join("|")).unwrap()
}

fn lossless(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What base64 makes of bytes in the middle of others: one of three, by where they begin.
fn encoded(bytes: &[u8]) -> Vec<String> {
    let with = |alphabet: &Alphabet, offset: usize| {
        let shifted = [vec![0; offset], bytes.to_vec()].concat();
        let text = GeneralPurpose::new(alphabet, NO_PAD).encode(&shifted);
        // The characters that only these bytes decide.
        let (from, to) = ((offset * 8).div_ceil(6), shifted.len() * 8 / 6);
        text[from..to].to_owned()
    };
    (0..3).flat_map(|offset| [with(&STANDARD, offset), with(&URL_SAFE, offset)]).collect()
}

#[expect(clippy::unwrap_used, reason = "without it there is no test")]
fn mask_pattern() -> Regex {
    let needles: Vec<String> = encoded(b"masked:").into_iter().chain(["masked:".to_owned()]).collect();
    Regex::new(&needles.join("|")).unwrap()
}

fn find(needle: &[u8], bytes: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// All files below a directory whose path has this in it, as one.
#[expect(clippy::unwrap_used, reason = "without it there is no test")]
fn bytes_below(dir: &Path, part: &str) -> Vec<u8> {
    let files = files_below(dir);
    let wanted = files.iter().filter(|file| file.to_string_lossy().contains(part));
    wanted.flat_map(|file| std::fs::read(file).unwrap()).collect()
}

#[expect(clippy::unwrap_used, reason = "without it there is no test")]
fn files_below(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files_below(&path)),
            false => found.push(path),
        }
    }
    found
}

#[test]
fn the_search_finds_what_is_there() {
    let value = "canary0123456789abcdef0123456789abcdef";
    let engine = base64::engine::general_purpose::STANDARD;
    for before in ["", "x", "xy", "xyz"] {
        let around = format!("{before}{value}{before}");
        let once = engine.encode(&around);
        for hidden in [around.clone(), once.clone(), engine.encode(format!("{{\"data\":\"{once}\"}}"))] {
            assert!(pattern(value).is_match(hidden.as_bytes()), "{hidden}");
        }
    }
    assert!(pattern(value).is_match(b"...0123456789abcdef..."));
    assert!(!pattern(value).is_match(b"canary0123 and nothing else"));
}
