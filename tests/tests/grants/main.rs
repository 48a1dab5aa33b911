//! Credentials that exist for the length of a task: given out, bounded, and gone when the task is, however it ends.
#![expect(clippy::expect_used, reason = "a test fails by panicking, and so do its helpers")]

mod command;
mod end;
mod off_boarding;
mod scope;
mod token_service;

use portcullis_audit::Outcome;
use portcullis_core::{Event, EventKind};
use portcullis_tests::{Answer, Cluster, Gateway, Kubeconfig, Kubectl, Records, Running};
use serde_json::{Value, json};
use tokio::process::Command;

const TOKEN: &str = "/portcullis/oauth/token";
const RENEW: &str = "/portcullis/oauth/renew";
const REVOKE: &str = "/portcullis/oauth/revoke";
const INTROSPECT: &str = "/portcullis/oauth/introspect";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// A gateway with three profiles for agents: `deploy` needs a heartbeat, as `portcullis run` gives one; `task` does not; what is
/// cut from `moment` is soon over.
async fn gateway(cluster: &Cluster) -> Gateway {
    Gateway::configured(cluster, |config| {
        let rules = json!([
            { "apiGroups": ["", "apps"], "resources": ["*"], "verbs": ["*"], "namespaces": ["shop"] },
            { "apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"], "namespaces": ["shop"] },
        ]);
        let agents = json!({ "groups": ["agents"] });
        config["grants"]["profiles"] = json!([
            { "name": "deploy", "forWhom": agents, "heartbeat": "5s", "rules": rules },
            { "name": "task", "forWhom": agents, "maxTtl": "30m", "rules": rules },
            { "name": "moment", "forWhom": agents, "defaultTtl": "5s", "maxTtl": "5s", "rules": rules },
            { "name": "everything", "forWhom": { "users": ["agent-two"] },
              "rules": [
                  { "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] },
                  { "nonResourceURLs": ["*"], "verbs": ["*"] },
              ] },
        ]);
        config["administrators"] = json!({ "users": ["dev-dana"] });
    })
    .await
}

/// Starts `portcullis run` as `agent-ci`.
async fn run(gateway: &Gateway, profile: &str, options: &[&str], command: &[&str]) -> Running {
    let arguments = [&["run", "--grant", profile], options, &["--"], command].concat();
    let mut command: Command = gateway.cli_command("agent-ci", &arguments).await;
    command.env("KUBECACHEDIR", gateway.dir().join("run.cache"));
    Running::start(command)
}

/// The id of the grant that `portcullis run` says it has.
#[track_caller]
fn grant_of(said: &str) -> String {
    let found = said.lines().find_map(|line| line.strip_prefix("portcullis: grant ")?.split(' ').next());
    found.unwrap_or_else(|| panic!("no grant: {said}")).to_owned()
}

struct Grant {
    id: String,
    token: String,
    renewal: String,
}

/// Gets a grant at the token endpoint, as any OAuth client could.
async fn exchange(gateway: &Gateway, persona: &str, profile: &str) -> Grant {
    let subject = gateway.token(persona).await;
    let fields = [
        ("grant_type", EXCHANGE),
        ("subject_token", &*subject),
        ("subject_token_type", JWT),
        ("profile", profile),
    ];
    let answer = form(gateway, TOKEN, &fields, None).await;
    let said = json_of(&answer);
    let word = |name: &str| said[name].as_str().unwrap_or_else(|| panic!("no {name}: {said}")).to_owned();
    Grant { id: word("grant_id"), token: word("access_token"), renewal: word("renewal_token") }
}

async fn form(gateway: &Gateway, path: &str, fields: &[(&str, &str)], bearer: Option<&str>) -> Answer {
    let encoded = |text: &str| -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let letter =
            |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
        text.bytes().map(letter).collect()
    };
    let body: Vec<String> =
        fields.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
    let mut request = http::Request::post(format!("{}{path}", gateway.url))
        .header("content-type", "application/x-www-form-urlencoded");
    if let Some(bearer) = bearer {
        request = request.header("authorization", format!("Bearer {bearer}"));
    }
    gateway.http().send(request.body(body.join("&")).expect("a request")).await
}

#[track_caller]
fn json_of(answer: &Answer) -> Value {
    serde_json::from_slice(answer.body()).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

/// kubectl with this token and nothing else.
fn with_token(gateway: &Gateway, token: &str) -> Kubectl {
    let path = gateway.dir().join(format!("{}.kubeconfig", uuid::Uuid::new_v4()));
    Kubectl::new(Kubeconfig::new(&gateway.url, gateway.ca()).token(token).write(path))
}

/// What the ledger says happened to a grant.
async fn story_of(gateway: &Gateway, grant: &str) -> Vec<EventKind> {
    let records = gateway.records().await;
    let of_grant = |event: &&Event| event.grant.as_deref() == Some(grant);
    records.events().filter(of_grant).map(|event| event.kind).collect()
}

/// The outcome of a watch under this grant that was cut.
fn cut_watch<'r>(records: &'r Records, grant: &str) -> Option<&'r Outcome> {
    let mut watches = records.outcomes().filter(|outcome| outcome.grant.as_deref() == Some(grant));
    watches.find(|outcome| outcome.info.verb == "watch" && outcome.notes.contains_key("cut"))
}
