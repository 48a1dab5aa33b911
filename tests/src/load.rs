//! Mixed load: several clients at once, each of which does what such clients do, over and over, and remembers what it
//! was told. They go on while the gateway dies and comes back.

use std::sync::{Arc, Mutex};

use http::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::chance::Chance;
use crate::exec::exec;
use crate::gateway::Gateway;
use crate::http_client::{Answer, HttpClient};

/// What a client was told, to the end.
#[derive(Debug, Clone)]
pub struct Told {
    /// The id in the answer.
    pub id: String,
    /// What it had asked for: `POST /api/v1/…`.
    pub what: String,
    /// The status.
    pub status: u16,
    /// The answer's body: how long it was, and its SHA-256.
    pub body: (u64, String),
}

/// Clients at work. Dropping it stops them.
pub struct Load {
    shared: Arc<Shared>,
    clients: Mutex<JoinSet<()>>,
}

struct Shared {
    url: String,
    ca: std::path::PathBuf,
    namespace: String,
    agent: String,
    approver: String,
    /// Whether there is somebody to ask.
    up: watch::Sender<bool>,
    /// How many answers have come whole.
    answers: watch::Sender<u64>,
    /// Requests are held, or about to be.
    held: Notify,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    told: Vec<Told>,
    /// Ids of streams that were opened. How one ends is not held back until it is on record.
    opened: Vec<String>,
    /// Tokens of grants that have ended, as somebody was told.
    revoked: Vec<String>,
}

const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
const NAMES: u64 = 8;

impl Load {
    /// Starts them: readers, writers, watchers, an exec, somebody whose requests are held and somebody who approves them, and
    /// an agent that takes a grant for each task. The namespace is one that agents may edit.
    pub async fn start(gateway: &Gateway, namespace: &str, mut chance: Chance) -> Self {
        let token = async |persona: &str| gateway.idp.token(persona).lifetime(3 * 3600).mint().await;
        let shared = Arc::new(Shared {
            url: gateway.url.clone(),
            ca: gateway.ca(),
            namespace: namespace.to_owned(),
            agent: token("agent-ci").await,
            approver: token("approver-amir").await,
            up: watch::Sender::new(true),
            answers: watch::Sender::new(0),
            held: Notify::new(),
            seen: Mutex::default(),
        });
        let mut clients = JoinSet::new();
        let kinds = [
            Kind::Reader,
            Kind::Reader,
            Kind::Writer("configmaps"),
            Kind::Writer("configmaps"),
            Kind::Writer("secrets"),
            Kind::Watcher,
            Kind::Watcher,
            Kind::Exec,
            Kind::Held,
            Kind::Approver,
            Kind::Grantee,
        ];
        for kind in kinds {
            let client = Client {
                shared: Arc::clone(&shared),
                http: HttpClient::new(&shared.ca),
                chance: chance.split(),
            };
            clients.spawn(client.run(kind));
        }
        Self { shared, clients: Mutex::new(clients) }
    }

    /// The gateway is about to go: nobody asks anything more until it is [back](Self::resume).
    pub fn pause(&self) {
        self.shared.up.send_replace(false);
    }

    /// The gateway is there again.
    pub fn resume(&self) {
        self.shared.up.send_replace(true);
    }

    /// Waits until so many more answers have come whole.
    pub async fn answers(&self, more: u64) {
        let mut answers = self.shared.answers.subscribe();
        let enough = *answers.borrow() + more;
        let waiting = answers.wait_for(|answers| *answers >= enough);
        let came = tokio::time::timeout(crate::process::DEADLINE, waiting).await;
        came.expect("the load goes on").expect("it is there as long as we are");
        self.all_are_well();
    }

    /// A client that has seen something wrong has panicked; none ends otherwise.
    fn all_are_well(&self) {
        if let Some(ended) = self.clients.lock().unwrap().try_join_next() {
            ended.expect("a client saw something wrong");
            panic!("a client has ended");
        }
    }

    /// What clients were told since it was last asked.
    pub fn told(&self) -> Vec<Told> {
        self.all_are_well();
        std::mem::take(&mut self.shared.seen.lock().unwrap().told)
    }

    /// The streams that were opened since it was last asked.
    pub fn opened(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.seen.lock().unwrap().opened)
    }

    /// Tokens of the grants that have been revoked since it was last asked.
    pub fn revoked(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.seen.lock().unwrap().revoked)
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Reader,
    Writer(&'static str),
    Watcher,
    Exec,
    Held,
    Approver,
    Grantee,
}

struct Client {
    shared: Arc<Shared>,
    http: HttpClient,
    chance: Chance,
}

impl Client {
    async fn run(mut self, kind: Kind) {
        let mut up = self.shared.up.subscribe();
        while up.wait_for(|up| *up).await.is_ok() {
            match kind {
                Kind::Reader => self.read().await,
                Kind::Writer(resource) => self.write(resource).await,
                Kind::Watcher => self.watch().await,
                Kind::Exec => self.exec().await,
                Kind::Held => self.be_held().await,
                Kind::Approver => self.approve().await,
                Kind::Grantee => self.use_a_grant().await,
            };
            // Also where nothing had to be waited for, the others get their turn.
            tokio::task::yield_now().await;
        }
    }

    async fn read(&mut self) -> Option<()> {
        let namespace = &self.shared.namespace;
        let path = match self.chance.below(6) {
            0 => format!("/api/v1/namespaces/{namespace}/configmaps"),
            1 => format!("/api/v1/namespaces/{namespace}/secrets"),
            2 => "/api/v1/namespaces/shop/pods".into(),
            3 => "/api/v1/namespaces/shop/secrets/db".into(),
            4 => format!("/api/v1/namespaces/{namespace}/configmaps/n{}", self.chance.below(NAMES)),
            _ => "/api/v1/namespaces/kube-system/secrets".into(),
        };
        self.ask(Method::GET, &path, None).await.map(drop)
    }

    async fn write(&mut self, resource: &str) -> Option<()> {
        let all = format!("/api/v1/namespaces/{}/{resource}", self.shared.namespace);
        let name = format!("n{}", self.chance.below(NAMES));
        let one = format!("{all}/{name}");
        let value = self.chance.below(u64::MAX).to_string();
        let field = if resource == "secrets" { "stringData" } else { "data" };
        match self.chance.below(5) {
            0 | 1 => {
                let object = json!({ "metadata": { "name": name }, field: { "value": value } });
                self.ask(Method::POST, &all, Some(object)).await.map(drop)
            }
            2 | 3 => {
                self.ask(Method::PATCH, &one, Some(json!({ field: { "value": value } }))).await.map(drop)
            }
            _ => self.ask(Method::DELETE, &one, None).await.map(drop),
        }
    }

    /// Some end by themselves.
    async fn watch(&mut self) -> Option<()> {
        let seconds = if self.chance.below(2) == 0 { 1 } else { 30 };
        let path = format!(
            "/api/v1/namespaces/{}/configmaps?watch=true&timeoutSeconds={seconds}",
            self.shared.namespace
        );
        self.ask(Method::GET, &path, None).await.map(drop)
    }

    async fn exec(&mut self) -> Option<()> {
        let path = "/api/v1/namespaces/shop/pods/toolbox/exec?command=cat&stdin=true&stdout=true&stderr=true";
        let shared = Arc::clone(&self.shared);
        let chance = self.chance.split();
        let (mut input, mut output) =
            exec(&shared.url, &shared.ca, path, &shared.agent, chance).await.ok()?;
        shared.seen.lock().unwrap().opened.push(output.id.clone());
        let length = 1 + self.chance.index(5000);
        let said = self.chance.bytes(length);
        input.stdin(&said).await.ok()?;
        input.close_stdin().await.ok()?;
        let end = output.end().await;
        if end.status.is_some_and(|status| status["status"] == "Success") {
            assert_eq!(end.channels.get(&1), Some(&said), "cat says what it is told");
            shared.answers.send_modify(|answers| *answers += 1);
        }
        Some(())
    }

    async fn be_held(&mut self) -> Option<()> {
        let name = format!("{}-{}", self.shared.namespace, self.chance.below(u64::MAX));
        let binding = json!({
            "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view" },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jo" }],
        });
        self.shared.held.notify_one();
        self.ask(Method::POST, BINDINGS, Some(binding)).await.map(drop)
    }

    /// Approves all that waits, also what waits since before a crash.
    async fn approve(&mut self) -> Option<()> {
        let shared = Arc::clone(&self.shared);
        shared.held.notified().await;
        loop {
            let waiting = self.approvals("GET", "", None).await?;
            let items = waiting["items"].as_array()?.clone();
            for ticket in &items {
                let how = if self.chance.below(4) == 0 { "deny" } else { "approve" };
                let id = ticket["id"].as_str()?;
                self.approvals("POST", &format!("/{id}/{how}"), Some(json!({}))).await;
            }
            if !items.is_empty() {
                return Some(());
            }
        }
    }

    async fn approvals(&self, method: &str, path: &str, body: Option<Value>) -> Option<Value> {
        let path = format!("/portcullis/api/v1/approvals{path}");
        let method = method.parse().expect("a method");
        let answer = self.ask_as(&self.shared.approver, method, &path, body).await?;
        serde_json::from_slice(answer.body()).ok()
    }

    /// Takes one, uses it, gives it back.
    async fn use_a_grant(&mut self) -> Option<()> {
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token", &self.shared.agent),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
            ("profile", "deploy"),
        ]
        .map(|(name, value)| format!("{name}={value}"))
        .join("&");
        let answer = self.post_form("/portcullis/oauth/token", form).await?;
        let answer: Value = serde_json::from_slice(answer.body()).ok()?;
        let token = answer["access_token"].as_str()?;
        let pods = "/api/v1/namespaces/shop/pods";
        self.ask_as(token, Method::GET, pods, None).await?;
        let ended = self.post_form("/portcullis/oauth/revoke", format!("token={token}")).await?;
        if ended.status() == 200 {
            self.shared.seen.lock().unwrap().revoked.push(token.to_owned());
        }
        Some(())
    }

    async fn post_form(&self, path: &str, form: String) -> Option<Answer> {
        let request = http::Request::post(format!("{}{path}", self.shared.url))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form);
        self.send(format!("POST {path}"), request.expect("a request")).await
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Option<Answer> {
        self.ask_as(&self.shared.agent, method, path, body).await
    }

    async fn ask_as(&self, token: &str, method: Method, path: &str, body: Option<Value>) -> Option<Answer> {
        let what = format!("{method} {path}");
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.shared.url))
            .header("authorization", format!("Bearer {token}"));
        if body.is_some() {
            request = request.header("content-type", kind);
        }
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        self.send(what, request.body(body).expect("a request")).await
    }

    /// The whole answer, if it came. That it did is remembered.
    async fn send(&self, what: String, request: http::Request<String>) -> Option<Answer> {
        let answer = self.http.try_send(request).await.ok()?;
        let id = answer.headers().get("audit-id").unwrap_or_else(|| panic!("{what}: no id: {answer:?}"));
        let sha256 = Sha256::digest(answer.body()).iter().map(|byte| format!("{byte:02x}")).collect();
        self.note(Told {
            id: id.to_str().expect("an id").to_owned(),
            what,
            status: answer.status().as_u16(),
            body: (answer.body().len() as u64, sha256),
        });
        Some(answer)
    }

    fn note(&self, told: Told) {
        self.shared.seen.lock().unwrap().told.push(told);
        self.shared.answers.send_modify(|answers| *answers += 1);
    }
}
