//! The whole story, played by itself: every claim of the product, through real HTTP and TLS, seen to be true.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anstream::println;
use futures_util::StreamExt;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Config,
    api::{AttachParams, ListParams},
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use portcullis_audit::{AuditReader, AuditVerifier, Record, Stored};
use portcullis_core::{Clock, SystemClock};
use portcullis_ledger::ReadError;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::{World, cluster::MADE_BY_PLAY};
use crate::{
    api::{
        approvals::{DecisionBody, TicketList, TicketView},
        grants::GrantView,
    },
    cli::output::{BOLD, DIM, GREEN, PLAIN, RED},
    client::{Gateway, GatewayArgs},
    grants::GrantRequest,
};

/// The password in the shop's Secret: what must be seen nowhere.
const PASSWORD: &str = "correct-horse-battery-staple";
const PASSWORD_BASE64: &str = "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5LXN0YXBsZQ==";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
const APPROVALS: &str = "/portcullis/api/v1/approvals";

type AnyError = Box<dyn std::error::Error + Send + Sync>;
/// What was seen, in a few words; or what was seen instead.
type Step = Result<String, AnyError>;

/// Plays the story. Returns how many steps went wrong.
pub(crate) async fn check(world: &World) -> Result<usize, AnyError> {
    let story = Story::new(world).await?;
    let mut failed = 0;
    println!("{BOLD}The story, against {}{PLAIN}", world.backdrop().describe());
    let mut tell = |name: &str, step: Step| match step {
        Ok(seen) => println!("  {GREEN}✔{PLAIN} {name}  {DIM}{seen}{PLAIN}"),
        Err(instead) => {
            failed += 1;
            println!("  {RED}✘{PLAIN} {name}\n      {RED}{instead}{PLAIN}");
        }
    };
    tell("a stranger gets nowhere", story.stranger().await);
    tell("an agent sees a Secret, but not its values", story.secret_is_masked().await);
    tell("not in lists and tables either", story.lists_are_masked().await);
    tell("nor in a service account token it asks for", story.token_is_masked().await);
    tell("a mask cannot be written back", story.mask_is_not_stored().await);
    tell("a ClusterRoleBinding waits, is approved, and is created once", story.held_and_approved().await);
    tell("another is denied, and is not created", story.held_and_denied().await);
    tell("the agent cannot approve its own request", story.own_request().await);
    tell("exec works, and is recorded", story.exec_is_recorded().await);
    tell("a grant allows its task and nothing else", story.grant_is_narrow().await);
    tell("revoked in the middle of a watch, it ends at once", story.grant_is_cut().await);
    tell("the log verifies", story.log_verifies());
    tell("one byte of it flipped is found, and the record named", story.flip_is_found());
    tell("no secret value is anywhere on disk", story.disk_is_clean());
    Ok(failed)
}

struct Story<'w> {
    world: &'w World,
    namespace: &'static str,
    agent: Client,
    /// The gateway's own API, as the approver and as the agent.
    approvals: Gateway,
    agents_view: Gateway,
    /// Names made in this run, so that it can be run again on the same cluster.
    run: String,
}

impl<'w> Story<'w> {
    async fn new(world: &'w World) -> Result<Self, AnyError> {
        let args = |person: &str| GatewayArgs {
            kubeconfig: Some(world.kubeconfig(person)),
            ..GatewayArgs::default()
        };
        Ok(Self {
            namespace: world.backdrop().namespace(),
            agent: client(&world.kubeconfig("agent")).await?,
            approvals: args("approver").connect().await?,
            agents_view: args("agent").connect().await?,
            run: SystemClock.now().as_second().to_string(),
            world,
        })
    }

    async fn stranger(&self) -> Step {
        let mut config = config(&self.world.kubeconfig("agent")).await?;
        config.auth_info = Default::default();
        let stranger = Client::try_from(config)?;
        let (status, said) = call(&stranger, Method::GET, &self.in_namespace("pods"), None).await?;
        expect(status == StatusCode::UNAUTHORIZED, || format!("answered {status}: {said}"))?;
        Ok(format!("401: {}", message(&said)))
    }

    async fn secret_is_masked(&self) -> Step {
        let path = self.in_namespace("secrets/db-credentials");
        let (status, said) = call(&self.agent, Method::GET, &path, None).await?;
        expect(status == StatusCode::OK, || format!("answered {status}: {said}"))?;
        clean(&said)?;
        let secret: Value = serde_json::from_str(&said)?;
        let seen = secret["data"]["password"].as_str().ok_or("the key itself is missing")?;
        Ok(format!("password: {seen}"))
    }

    async fn lists_are_masked(&self) -> Step {
        let path = self.in_namespace("secrets");
        let (_, list) = call(&self.agent, Method::GET, &path, None).await?;
        clean(&list)?;
        let table = Request::get(format!("{path}?includeObject=Object"))
            .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
            .body(Body::empty())?;
        let said = collect(self.agent.send(table).await?).await?.1;
        clean(&said)?;
        expect(said.contains("\"Table\"") && said.contains("db-credentials"), || said.clone())?;
        Ok("list and table, objects included".into())
    }

    async fn token_is_masked(&self) -> Step {
        let path = self.in_namespace("serviceaccounts/web/token");
        let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} });
        let (status, said) = call(&self.agent, Method::POST, &path, Some(&body)).await?;
        expect(status == StatusCode::CREATED, || format!("answered {status}: {said}"))?;
        let minted: Value = serde_json::from_str(&said)?;
        let token = minted["status"]["token"].as_str().unwrap_or_default();
        // A JWT begins with `{"` in base64.
        expect(!token.is_empty() && !said.contains("eyJ"), || "a live token came through".to_owned())?;
        Ok(format!("token: {token}"))
    }

    async fn mask_is_not_stored(&self) -> Step {
        let path = self.in_namespace("secrets/db-credentials");
        let (_, said) = call(&self.agent, Method::GET, &path, None).await?;
        let masked: Value = serde_json::from_str(&said)?;
        let (status, said) = call(&self.agent, Method::PUT, &path, Some(&masked)).await?;
        expect(status == StatusCode::UNPROCESSABLE_ENTITY, || format!("answered {status}: {said}"))?;
        Ok(format!("422: {}", message(&said)))
    }

    async fn held_and_approved(&self) -> Step {
        let name = format!("demo-approved-{}", self.run);
        let asking = self.ask_for(&name);
        let ticket = self.ticket_for(&name).await?;
        let shown: TicketView = self.approvals.get(&format!("{APPROVALS}/{}", ticket.ticket.id)).await?;
        expect(!shown.changes.is_empty(), || "the approver sees no preview".to_owned())?;
        let decision = DecisionBody { reason: Some("the demo says so".into()) };
        let path = format!("{APPROVALS}/{}/approve", ticket.ticket.id);
        let _: TicketView = self.approvals.post(&path, &decision).await?;
        let (status, said) = asking.await??;
        expect(status == StatusCode::CREATED, || format!("answered {status}: {said}"))?;
        let (status, said) = call(&self.agent, Method::GET, &format!("{BINDINGS}/{name}"), None).await?;
        expect(status == StatusCode::OK, || format!("it is not there: {status}: {said}"))?;
        // The same again finds it there: nobody is asked a second time, and what was approved is spent.
        let (status, said) = self.ask_for(&name).await??;
        expect(status == StatusCode::CONFLICT, || format!("the same again: {status}: {said}"))?;
        let created = self.forwarded(&ticket.ticket.id)?;
        expect(created == 1, || format!("forwarded {created} times"))?;
        Ok(format!("{}: {}; again: 409", ticket.ticket.rule, ticket.ticket.request.command))
    }

    async fn held_and_denied(&self) -> Step {
        let name = format!("demo-denied-{}", self.run);
        let asking = self.ask_for(&name);
        let ticket = self.ticket_for(&name).await?;
        let decision = DecisionBody { reason: Some("not on a Friday".into()) };
        let path = format!("{APPROVALS}/{}/deny", ticket.ticket.id);
        let _: TicketView = self.approvals.post(&path, &decision).await?;
        let (status, said) = asking.await??;
        expect(status == StatusCode::FORBIDDEN, || format!("answered {status}: {said}"))?;
        expect(self.forwarded(&ticket.ticket.id)? == 0, || "it was forwarded all the same".to_owned())?;
        let (status, _) = call(&self.agent, Method::GET, &format!("{BINDINGS}/{name}"), None).await?;
        expect(status == StatusCode::NOT_FOUND, || format!("it exists: {status}"))?;
        Ok(format!("403: {}", message(&said)))
    }

    async fn own_request(&self) -> Step {
        let name = format!("demo-own-{}", self.run);
        let asking = self.ask_for(&name);
        let ticket = self.ticket_for(&name).await?;
        let id = &ticket.ticket.id;
        let path = format!("{APPROVALS}/{id}/approve");
        let refused = match self.agents_view.post::<TicketView>(&path, &DecisionBody::default()).await {
            Ok(_) => return Err("the agent approved its own request".into()),
            Err(error) => error.to_string(),
        };
        let _: TicketView =
            self.approvals.post(&format!("{APPROVALS}/{id}/deny"), &DecisionBody::default()).await?;
        let _ = asking.await?;
        Ok(refused)
    }

    async fn exec_is_recorded(&self) -> Step {
        let pods: Api<Pod> = Api::namespaced(self.agent.clone(), self.namespace);
        let found = pods.list(&ListParams::default().labels("app=web")).await?;
        let pod = found.items.iter().find_map(|pod| pod.metadata.name.clone()).ok_or("there is no pod")?;
        let params = AttachParams::default().stderr(false);
        let mut process = pods.exec(&pod, ["echo", "hello from the pod"], &params).await?;
        let mut said = String::new();
        process.stdout().ok_or("no output")?.read_to_string(&mut said).await?;
        process.join().await?;
        expect(said == "hello from the pod\n", || format!("the pod said {said:?}"))?;
        Ok(self.recording_with("hello from the pod")?.ok_or("no recording has the output")?)
    }

    /// The recording in which this was said: still where it is written, or, if it has moved from there, named by the log.
    fn recording_with(&self, words: &str) -> Result<Option<String>, AnyError> {
        let reader = AuditReader::new(self.world.ledger());
        let says = |recording: &mut dyn std::io::Read| {
            std::io::read_to_string(recording).is_ok_and(|text| text.contains(words))
        };
        for file in files(&self.world.ledger().join("recordings"))? {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if reader.open_live_recording(&name).is_ok_and(|mut live| says(&mut live)) {
                return Ok(Some(name));
            }
        }
        let (records, _) = reader.tail(100, |stored| matches!(stored.entry.record, Record::Outcome(_)))?;
        for stored in records.into_iter().rev() {
            let Record::Outcome(outcome) = stored.entry.record else { continue };
            let recording = outcome.stream.and_then(|stream| stream.recording);
            for part in recording.iter().flat_map(portcullis_audit::Recording::files) {
                if reader.open_recording(&part)?.is_some_and(|mut stored| says(&mut stored)) {
                    return Ok(Some(part.file));
                }
            }
        }
        Ok(None)
    }

    async fn grant_is_narrow(&self) -> Step {
        let (client, issued) = self.grant().await?;
        let (status, said) = call(&client, Method::GET, &self.in_namespace("pods"), None).await?;
        expect(status == StatusCode::OK, || format!("its task: {status}: {said}"))?;
        let (status, said) = call(&client, Method::GET, &self.in_namespace("secrets"), None).await?;
        expect(status == StatusCode::FORBIDDEN, || format!("something else: {status}: {said}"))?;
        self.revoke(&issued).await?;
        Ok(format!("403: {}", message(&said)))
    }

    async fn grant_is_cut(&self) -> Step {
        let (client, issued) = self.grant().await?;
        let watch = Request::get(format!("{}?watch=true", self.in_namespace("pods"))).body(Body::empty())?;
        let response = client.send(watch).await?;
        expect(response.status() == StatusCode::OK, || format!("the watch: {}", response.status()))?;
        let mut events = response.into_body().into_data_stream();
        let first = events.next().await.ok_or("the watch ended before anything happened")??;
        expect(!first.is_empty(), || "an empty event".to_owned())?;
        self.revoke(&issued).await?;
        let rest = tokio::time::timeout(Duration::from_secs(10), async {
            let mut rest = Vec::new();
            while let Some(Ok(data)) = events.next().await {
                rest.extend_from_slice(&data);
            }
            String::from_utf8_lossy(&rest).into_owned()
        });
        let rest = rest.await.map_err(|_| "the watch goes on")?;
        let (status, _) = call(&client, Method::GET, &self.in_namespace("pods"), None).await?;
        expect(status == StatusCode::UNAUTHORIZED, || format!("the next request: {status}"))?;
        let last =
            rest.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok()).unwrap_or_default();
        let why = last["object"]["message"].as_str().unwrap_or("the stream was broken off").to_owned();
        Ok(why)
    }

    fn log_verifies(&self) -> Step {
        let report = AuditVerifier::open(self.world.ledger())?.run()?;
        expect(report.is_ok(), || format!("{:?}", report.changed))?;
        Ok(format!("{} records, root {}", report.log.size, &report.log.root.to_string()[..16]))
    }

    /// In a copy: the demonstration goes on.
    fn flip_is_found(&self) -> Step {
        let copy = at_rest(|| {
            let copy = tempfile::tempdir()?;
            copy_dir(&self.world.ledger(), copy.path())?;
            AuditVerifier::open(copy.path())?.run()?;
            Ok(copy)
        })?;
        let segment =
            files(&copy.path().join("segments"))?.into_iter().next().ok_or("there is no segment")?;
        let mut bytes = std::fs::read(&segment)?;
        // Behind its last entry a log in use has room for the next ones.
        let end = bytes.iter().rposition(|byte| *byte != 0).ok_or("the segment is empty")?;
        bytes[end / 2] ^= 1;
        std::fs::write(&segment, bytes)?;
        match AuditVerifier::open(copy.path())?.run() {
            Err(ReadError::Fault(fault)) => Ok(format!("record {} was {}", fault.index, fault.kind.as_str())),
            Err(error) => Err(error.into()),
            Ok(_) => Err("it verifies all the same".into()),
        }
    }

    fn disk_is_clean(&self) -> Step {
        let found = at_rest(|| {
            let read = |path: PathBuf| Ok((std::fs::read(&path)?, path));
            files(&self.world.dir().join("state"))?
                .into_iter()
                .map(read)
                .collect::<Result<Vec<_>, AnyError>>()
        })?;
        for (bytes, file) in &found {
            let leaks = [PASSWORD, PASSWORD_BASE64]
                .iter()
                .any(|secret| bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
            expect(!leaks, || format!("the password is in {}", file.display()))?;
        }
        Ok(format!("{} files searched", found.len()))
    }

    /// The agent asks for a ClusterRoleBinding, and waits.
    fn ask_for(&self, name: &str) -> tokio::task::JoinHandle<Result<(StatusCode, String), AnyError>> {
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": { "name": name, "labels": { (MADE_BY_PLAY): "true" } },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view" },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "somebody" }],
        });
        let agent = self.agent.clone();
        tokio::spawn(async move { call(&agent, Method::POST, BINDINGS, Some(&binding)).await })
    }

    /// What the approver sees of it.
    async fn ticket_for(&self, name: &str) -> Result<TicketView, AnyError> {
        for _ in 0..200 {
            let waiting: TicketList = self.approvals.get(APPROVALS).await?;
            if let Some(view) =
                waiting.items.into_iter().find(|view| view.ticket.request.command.contains(name))
            {
                return Ok(view);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err("it does not wait for anybody".into())
    }

    /// How many requests were forwarded on the strength of this ticket, by our own log.
    fn forwarded(&self, ticket: &str) -> Result<usize, AnyError> {
        let by_ticket = |stored: &Stored| match &stored.entry.record {
            Record::Intent(intent) => {
                intent.approval.as_ref().is_some_and(|approval| approval.ticket == ticket)
            }
            _ => false,
        };
        Ok(self.world.gateway().reader().tail(usize::MAX, by_ticket)?.0.len())
    }

    async fn grant(&self) -> Result<(Client, String), AnyError> {
        let args = GatewayArgs {
            gateway: Some(self.world.gateway().url().to_owned()),
            certificate_authority: Some(self.world.dir().join("ca.crt")),
            token_file: Some(self.world.dir().join("agent.token")),
            ..GatewayArgs::default()
        };
        let wanted = GrantRequest {
            grant: "deploy".into(),
            ttl: None,
            task: Some("demo".into()),
            token_env: None,
            audience: "portcullis".into(),
        };
        let issued = wanted.exchange(&args.connect_anonymously().await?, &args).await?;
        let mut config = config(&self.world.kubeconfig("agent")).await?;
        config.auth_info = Default::default();
        config.auth_info.token = Some(issued.token().clone());
        Ok((Client::try_from(config)?, issued.grant_id))
    }

    /// By an administrator; not by the task itself.
    async fn revoke(&self, id: &str) -> Result<(), AnyError> {
        let reason = DecisionBody { reason: Some("the demo is over".into()) };
        let _: GrantView =
            self.approvals.post(&format!("/portcullis/api/v1/grants/{id}/revoke"), &reason).await?;
        Ok(())
    }

    fn in_namespace(&self, rest: &str) -> String {
        format!("/api/v1/namespaces/{}/{rest}", self.namespace)
    }
}

async fn config(kubeconfig: &Path) -> Result<Config, AnyError> {
    let read = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
    // A held request takes as long as people take.
    config.read_timeout = None;
    config.default_retry = false;
    Ok(config)
}

async fn client(kubeconfig: &Path) -> Result<Client, AnyError> {
    Ok(Client::try_from(config(kubeconfig).await?)?)
}

async fn call(
    client: &Client,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<(StatusCode, String), AnyError> {
    let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(Body::from(body))?;
    collect(client.send(request).await?).await
}

async fn collect(response: http::Response<Body>) -> Result<(StatusCode, String), AnyError> {
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8(body.to_vec())?))
}

fn message(status: &str) -> String {
    let said: Value = serde_json::from_str(status).unwrap_or_default();
    said["message"].as_str().unwrap_or(status).to_owned()
}

fn clean(said: &str) -> Result<(), AnyError> {
    expect(!said.contains(PASSWORD) && !said.contains(PASSWORD_BASE64), || {
        "the password came through".to_owned()
    })
}

fn expect(true_: bool, instead: impl FnOnce() -> String) -> Result<(), AnyError> {
    if true_ { Ok(()) } else { Err(instead().into()) }
}

/// Looks at files of the gateway, which goes on writing them: again, where one was replaced meanwhile.
fn at_rest<T>(look: impl Fn() -> Result<T, AnyError>) -> Result<T, AnyError> {
    for _ in 0..20 {
        if let Ok(seen) = look() {
            return Ok(seen);
        }
    }
    look()
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, AnyError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        match path.is_dir() {
            true => found.extend(files(&path)?),
            false => found.push(path),
        }
    }
    found.sort();
    Ok(found)
}

fn copy_dir(from: &Path, to: &Path) -> Result<(), AnyError> {
    for file in files(from)? {
        let target = to.join(file.strip_prefix(from)?);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::copy(&file, &target)?;
    }
    Ok(())
}
