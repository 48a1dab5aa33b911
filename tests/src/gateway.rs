//! The gateway under test: the real binary, as a process of its own, between real clients and the
//! real API server.

use std::path::{Path, PathBuf};

use http::Request;
use portcullis_audit::{Entry, Intent, Outcome, Record};
use portcullis_core::AuditId;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::audit_log::{AuditEvent, Mark};
use crate::ca::TestCa;
use crate::cluster::{Cluster, gateway_binary};
use crate::disk::Disk;
use crate::http_client::{Answer, HttpClient};
use crate::idp::Idp;
use crate::kubectl::Kubectl;
use crate::oracle::Comparison;
use crate::process::{Finished, Running, wait_until};

/// A running gateway with a state directory, a certificate and an identity provider of its own.
/// Dropping it kills it; [`stop`](Self::stop) ends it as an operator would.
///
/// Unless told otherwise it believes the identity provider (`sub` is the user, `groups` the
/// groups), holds what the baseline pack holds for the group `approvers`, and offers agents the
/// grant profile `deploy` in the namespace `shop`.
pub struct Gateway {
    /// Where clients connect: `https://127.0.0.1:PORT`.
    pub url: String,
    /// Where `/readyz` and `/metrics` are: `http://127.0.0.1:PORT`.
    pub operations: String,
    /// Who signs its clients' tokens.
    pub idp: Idp,
    /// As whom it connects to the API server: a user that only this gateway is.
    pub user: String,
    cluster: Cluster,
    /// Where the API server's log was when this gateway began.
    mark: Mark,
    ca: TestCa,
    dir: TempDir,
    disk: Disk,
    process: Option<Running>,
}

impl Gateway {
    /// Starts one in front of this cluster, and waits until it is ready.
    pub async fn start(cluster: &Cluster) -> Self {
        Self::configured(cluster, |_| {}).await
    }

    /// Starts one whose configuration has been changed: `config["hold"]["holdFor"] = "2s".into()`.
    pub async fn configured(cluster: &Cluster, change: impl FnOnce(&mut Value)) -> Self {
        Self::on_disk(cluster, Disk::Sound, change).await
    }

    /// As [`configured`](Self::configured), with its state on such a disk.
    pub async fn on_disk(cluster: &Cluster, disk: Disk, change: impl FnOnce(&mut Value)) -> Self {
        let idp = Idp::start().await;
        let ca = TestCa::new();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let kubeconfig = dir.path().join("upstream.kubeconfig");
        let user = cluster.another_gateway(&kubeconfig).await;
        let mark = cluster.audit_log().mark();
        let mut config = configuration(&kubeconfig, &idp, &ca);
        change(&mut config);
        let mut gateway = Self {
            url: String::new(),
            operations: String::new(),
            idp,
            user,
            cluster: cluster.clone(),
            mark,
            ca,
            dir,
            disk,
            process: None,
        };
        gateway.write_config(&config);
        gateway.start_again().await;
        gateway
    }

    /// Starts it after [`stop`](Self::stop) or [`kill`](Self::kill): same state, same ports, so the
    /// kubeconfigs that are out there go on working.
    pub async fn start_again(&mut self) {
        let mut process = self.spawn();
        let said = process.wait_for_error(|said| ready_line(said).is_some() || said.contains("cannot start"));
        let said = said.await;
        let ready = ready_line(&said).unwrap_or_else(|| panic!("the gateway did not start: {said}"));
        let word =
            |name: &str| ready[name].as_str().unwrap_or_else(|| panic!("no {name}: {ready}")).to_owned();
        self.url = word("url");
        self.operations = format!("http://{}", word("operations"));
        self.process = Some(process);
        // From now on it keeps its ports.
        let mut config = self.config();
        config["listen"]["address"] = self.url["https://".len()..].into();
        config["operations"]["address"] = word("operations").into();
        self.write_config(&config);
        wait_until("the gateway to be ready", || async {
            self.http()
                .get(&format!("{}/readyz", self.operations), None)
                .await
                .status()
                .is_success()
                .then_some(())
        })
        .await;
    }

    /// Starts it and kills it (SIGKILL) when it has said so many lines, if it is not ready before.
    pub async fn die_while_starting(&mut self, lines: usize) {
        let mut process = self.spawn();
        let started = |said: &str| said.lines().count() >= lines || ready_line(said).is_some();
        process.wait_for_error(started).await;
        process.kill().await;
    }

    fn spawn(&self) -> Running {
        assert!(self.process.is_none(), "it is running");
        let state = self.dir.path().join("state");
        let mut shell = self.disk.shell(&state, &self.fault());
        shell.arg(gateway_binary()).args(["serve", "--config"]).arg(self.config_file());
        Running::start(self.dress(shell))
    }

    /// From now on its [faulty](Disk::Faulty) disk fails with this error, `EIO` or `EROFS`.
    pub fn break_disk(&self, error: &str) {
        std::fs::write(self.fault(), error).expect("the test's directory is writable");
    }

    /// Its disk is sound again.
    pub fn repair_disk(&self) {
        std::fs::remove_file(self.fault()).expect("it was broken");
    }

    fn fault(&self) -> PathBuf {
        self.dir.path().join("fault")
    }

    /// Ends it with SIGTERM, which drains, and returns what it logged. It must end well.
    pub async fn stop(&mut self) -> Finished {
        self.terminate().await;
        self.ended().await
    }

    /// Ends it, and returns all that it has kept, each piece with its name: what it logged, and the files of its state directory.
    pub async fn evidence(&mut self) -> Vec<(String, Vec<u8>)> {
        let mut evidence = vec![("the log".to_owned(), self.stop().await.all())];
        for file in files_below(&self.state_dir()) {
            let bytes = content(&file);
            evidence.push((file.display().to_string(), bytes));
        }
        evidence
    }

    /// Asks it to end (SIGTERM), and does not wait until it has.
    pub async fn terminate(&self) {
        self.process.as_ref().expect("it is running").terminate().await;
    }

    /// Waits until it has ended after [`terminate`](Self::terminate), and returns what it logged. It must end well.
    pub async fn ended(&mut self) -> Finished {
        let finished = self.process.take().expect("it is running").ended().await;
        finished.ok();
        finished
    }

    /// Ends it with SIGKILL: a crash.
    pub async fn kill(&mut self) -> Finished {
        self.process.take().expect("it is running").kill().await
    }

    /// From now on no file of it grows beyond so many bytes: a full disk.
    pub async fn limit_file_size(&self, bytes: u64) {
        let pid = self.process.as_ref().and_then(Running::pid).expect("it is running");
        let mut prlimit = Command::new("prlimit");
        prlimit.args([format!("--pid={pid}"), format!("--fsize={bytes}")]);
        Running::start(prlimit).finish().await.ok();
    }

    /// What it has logged since it was started.
    pub fn log(&self) -> String {
        self.process.as_ref().map_or_else(String::new, |process| process.out() + &process.err())
    }

    /// The memory it has in use, in bytes (`VmRSS`).
    pub fn memory(&self) -> usize {
        let pid = self.process.as_ref().and_then(Running::pid).expect("it is running");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process has a status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a running process");
        let kibibytes = line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number");
        kibibytes << 10
    }

    // -- Its clients ------------------------------------------------------------------------------

    /// kubectl as this persona, with a token of its own: an hour's access token in a file that
    /// `portcullis kubeconfig` points to.
    pub async fn kubectl(&self, persona: &str) -> Kubectl {
        Kubectl::new(self.kubeconfig(persona).await)
    }

    /// The kubeconfig that [`kubectl`](Self::kubectl) uses, for other clients.
    pub async fn kubeconfig(&self, persona: &str) -> PathBuf {
        let path = self.dir.path().join(format!("{persona}.kubeconfig"));
        let token = text(&self.token_file(persona).await);
        let ca = text(&self.ca());
        let arguments = ["kubeconfig", "--gateway", &self.url, "--certificate-authority", &ca];
        let written =
            self.command(&[&arguments[..], &["--token-file", &token, "--out", &text(&path)]].concat());
        Running::start(written).finish().await.ok();
        path
    }

    /// An hour's access token of a persona.
    pub async fn token(&self, persona: &str) -> String {
        self.idp.token(persona).lifetime(3600).mint().await
    }

    /// A file with a [`token`](Self::token) in it.
    pub async fn token_file(&self, persona: &str) -> PathBuf {
        let path = self.dir.path().join(format!("{persona}.token"));
        std::fs::write(&path, self.token(persona).await).expect("the test's directory is writable");
        path
    }

    /// `portcullis …` as this persona: `gateway.cli("approver-amir", &["approvals", "list"])`.
    pub async fn cli(&self, persona: &str, arguments: &[&str]) -> Finished {
        Running::start(self.cli_command(persona, arguments).await).finish().await
    }

    /// The command of [`cli`](Self::cli), for what goes on until it is stopped.
    pub async fn cli_command(&self, persona: &str, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        command
            .env("PORTCULLIS_GATEWAY", &self.url)
            .env("PORTCULLIS_CERTIFICATE_AUTHORITY", self.ca())
            .env("PORTCULLIS_TOKEN_FILE", self.token_file(persona).await);
        command
    }

    /// `portcullis …` without any credential or address.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(gateway_binary());
        command.args(arguments);
        self.dress(command)
    }

    fn dress(&self, mut command: Command) -> Command {
        command.current_dir(self.dir.path()).env_remove("RUST_LOG").env("NO_COLOR", "1");
        command
    }

    /// A client that trusts the gateway, for what no other client would send.
    pub fn http(&self) -> HttpClient {
        HttpClient::new(&self.ca())
    }

    /// GET of a path below [`url`](Self::url).
    pub async fn get(&self, path: &str, token: Option<&str>) -> Answer {
        self.http().get(&format!("{}{path}", self.url), token).await
    }

    /// A request for a path below [`url`](Self::url), with a bearer token.
    pub fn request(&self, method: &str, path: &str, token: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("authorization", format!("Bearer {token}"))
    }

    /// The certificate authority of its TLS certificate.
    pub fn ca(&self) -> PathBuf {
        self.ca.pem()
    }

    /// Replaces its certificate and key on disk by new ones of the same authority, and returns the certificate in DER.
    pub fn renew_certificate(&self) -> Vec<u8> {
        let issued = self.ca.issue("gateway");
        assert_eq!(self.config()["listen"]["tls"]["certFile"], text(&issued.cert), "it is the file in use");
        CertificateDer::from_pem_file(issued.cert).expect("a certificate").to_vec()
    }

    // -- What it leaves behind --------------------------------------------------------------------

    /// Everything on record so far, as `portcullis audit tail` prints it.
    pub async fn records(&self) -> Records {
        let ledger = text(&self.state_dir().join("ledger"));
        let tail = ["audit", "tail", "--ledger", &ledger, "--json", "--intents", "-n", "1000000"];
        let printed = Running::start(self.command(&tail)).finish().await.ok();
        let entry = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        Records { entries: printed.lines().map(entry).collect() }
    }

    /// What the API server has seen of this gateway, and of nobody else.
    pub async fn seen(&self) -> Vec<AuditEvent> {
        let mut events = self.cluster.events_since(self.mark).await;
        events.retain(|event| event.user.username == self.user);
        events
    }

    /// Stops it and compares what it says with what the API server saw: every request on record, and
    /// each one read as the server read it.
    pub async fn agrees_with_the_server(mut self) -> Comparison {
        let comparison = self.compared().await;
        comparison.assert_agreement();
        assert!(comparison.requests > 0, "nothing was compared");
        comparison
    }

    /// As [`agrees_with_the_server`](Self::agrees_with_the_server), where nothing was to reach the
    /// server: neither of the two logs has a request.
    pub async fn asked_the_server_nothing(mut self) {
        let comparison = self.compared().await;
        comparison.assert_agreement();
        assert_eq!(comparison.requests, 0, "the server saw {:?}", self.seen().await);
        let records = self.records().await;
        assert_eq!(records.intents().next(), None, "it let something through");
    }

    /// The two logs of a gateway that has been stopped, and whose own log holds together.
    async fn compared(&mut self) -> Comparison {
        self.stop().await;
        let config = text(&self.config_file());
        let verify = self.command(&["audit", "verify", "--config", &config]);
        Running::start(verify).finish().await.ok();
        Comparison::new(&self.seen().await, &self.records().await)
    }

    /// Waits until what is on record has what is looked for. A record of something that ended
    /// without its client, such as a broken stream, comes when it comes.
    pub async fn wait_for_record<T>(&self, what: &str, find: impl Fn(&Records) -> Option<T>) -> T {
        wait_until(what, || async { find(&self.records().await) }).await
    }

    /// The configuration's file.
    pub fn config_file(&self) -> PathBuf {
        self.dir.path().join("portcullis.yaml")
    }

    /// The configuration.
    pub fn config(&self) -> Value {
        let text = std::fs::read(self.config_file()).expect("the configuration that we wrote");
        serde_json::from_slice(&text).expect("the configuration that we wrote")
    }

    /// Replaces the configuration, for the next start.
    pub fn write_config(&self, config: &Value) {
        let text = serde_json::to_vec_pretty(config).expect("JSON");
        std::fs::write(self.config_file(), text).expect("the test's directory is writable");
    }

    /// The state directory: ledger, recordings, keys, tickets.
    pub fn state_dir(&self) -> PathBuf {
        let state = self.dir.path().join("state");
        match (&self.disk, self.process.as_ref().and_then(Running::pid)) {
            (Disk::Small { .. }, Some(pid)) => Disk::of_process(pid, &state),
            _ => state,
        }
    }

    /// A directory that lives as long as the gateway.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// All files below a directory.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => found.extend(files_below(&path)),
            false => found.push(path),
        }
    }
    found
}

/// What a file of a gateway says: of a stored body, what was put in, since compressed nobody would find anything in it.
pub fn content(file: &Path) -> Vec<u8> {
    let bytes = std::fs::read(file).expect("it is there");
    let digest = file.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".body"));
    match (digest.map(str::parse), file.ancestors().nth(3)) {
        (Some(Ok(digest)), Some(ledger)) => {
            let store = if file.components().any(|part| part.as_os_str() == "recordings") {
                "recordings"
            } else {
                "bodies"
            };
            let body = portcullis_audit::ledger::Reader::new(ledger).bodies_in(store).read(digest);
            body.expect("a body that is what it was").expect("it is there")
        }
        _ => bytes,
    }
}

/// The configuration of [`Gateway::start`], for tests of the configuration itself. JSON is YAML.
pub fn configuration(kubeconfig: &Path, idp: &Idp, ca: &TestCa) -> Value {
    let tls = ca.issue("gateway");
    let authority = std::fs::read_to_string(idp.ca()).expect("the identity provider's authority");
    json!({
        "apiVersion": "portcullis.dev/v1alpha1",
        "kind": "Gateway",
        "listen": {
            "address": "127.0.0.1:0",
            "tls": { "certFile": tls.cert, "keyFile": tls.key },
            "drain": "10s",
        },
        "operations": { "address": "127.0.0.1:0" },
        "stateDir": "state",
        "clusters": [{ "name": "test", "kubeconfig": { "path": kubeconfig } }],
        "authentication": { "jwt": [{
            "issuer": { "url": idp.issuer, "audiences": ["portcullis"], "certificateAuthority": authority },
            "claimMappings": {
                "username": { "claim": "sub", "prefix": "" },
                "groups": { "claim": "groups", "prefix": "" },
            },
        }] },
        "policy": { "approvers": { "groups": ["approvers"] } },
        "grants": { "profiles": [{
            "name": "deploy",
            "forWhom": { "groups": ["agents"] },
            "heartbeat": "30s",
            "rules": [{
                "apiGroups": ["*"],
                "resources": ["*"],
                "verbs": ["*"],
                "namespaces": ["shop"],
            }],
        }] },
        "telemetry": { "logFormat": "json" },
        // What is handed on is searched for leaks, as what is kept is.
        "audit": { "exports": [{ "kind": "file", "name": "every-test", "path": "state/exported.log" }] },
        // `kubectl cp` is compared with what it does without a gateway.
        "mask": { "archives": "pass" },
    })
}

/// What is on record, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// All of it.
    pub entries: Vec<Entry>,
}

impl Records {
    /// The intents: what was let through to the API server.
    pub fn intents(&self) -> impl Iterator<Item = &Intent> {
        self.entries.iter().filter_map(|entry| match &entry.record {
            Record::Intent(intent) => Some(&**intent),
            _ => None,
        })
    }

    /// The outcomes: every request has one, refused or not.
    pub fn outcomes(&self) -> impl Iterator<Item = &Outcome> {
        self.entries.iter().filter_map(|entry| match &entry.record {
            Record::Outcome(outcome) => Some(&**outcome),
            _ => None,
        })
    }

    /// Everything that is neither: held, approved, granted, revoked, ….
    pub fn events(&self) -> impl Iterator<Item = &portcullis_core::Event> {
        self.entries.iter().filter_map(|entry| match &entry.record {
            Record::Event(event) => Some(&**event),
            _ => None,
        })
    }

    /// The intent of a request.
    pub fn intent(&self, id: AuditId) -> Option<&Intent> {
        self.intents().find(|intent| intent.id == id)
    }

    /// The outcome of a request.
    pub fn outcome(&self, id: AuditId) -> Option<&Outcome> {
        self.outcomes().find(|outcome| outcome.id == id)
    }

    /// The outcome of the request that was answered with this.
    pub fn outcome_of(&self, answer: &Answer) -> Option<&Outcome> {
        let id = answer.headers().get("audit-id")?.to_str().ok()?;
        self.outcomes().find(|outcome| outcome.id.to_string() == id)
    }
}

/// The log line that says where it listens.
fn ready_line(said: &str) -> Option<Value> {
    let line = said.lines().find(|line| line.contains("the gateway is ready"))?;
    serde_json::from_str(line).ok()
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}
