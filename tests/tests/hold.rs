//! What needs people waits for them on the wire, is shown to them as it is, and is sent on once or not at all.
//!
//! The gateway's default policy holds changes of RBAC (`baseline/rbac-writes`). Agents may ask the API server for
//! ClusterRoleBindings, so whether one comes about is for the approvers to say. What the API server really saw is told by
//! its own audit log.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, and so do its helpers"
)]

use std::collections::BTreeSet;

use portcullis_core::{Event, EventKind};
use portcullis_tests::{
    Answer, AuditEvent, Cluster, Gateway, Kubectl, Mark, RawConnection, Records, Running, Transport,
    refusal_code, wait_until,
};
use serde_json::{Value, json};

const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";

#[tokio::test]
async fn an_approved_request_is_carried_out_exactly_once() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::start(&cluster).await;
    let agent = gateway.kubectl("agent-ci").await;
    let (name, mark) = (unique("once"), cluster.audit_log().mark());

    let create = start_binding(&agent, &name);
    let ticket = waiting_ticket(&gateway, &name).await;
    let listed = gateway.cli("approver-amir", &["approvals", "list"]).await.ok();
    let line = listed.lines().find(|line| line.contains(&ticket)).unwrap_or_else(|| panic!("{listed}"));
    for word in ["pending", "agent-ci", "create clusterrolebinding", "baseline/rbac-writes"] {
        assert!(line.contains(word), "{word}: {listed}");
    }
    // What the server's dry run says would change, not what the client sent.
    let shown = gateway.cli("approver-amir", &["approvals", "show", &ticket]).await.ok();
    assert!(shown.contains("what the server says would change"), "{shown}");
    for word in
        [&format!("+ /metadata/name {name}"), "+ /roleRef/name view", "+ /subjects ", "\"jo\"", "agent-ci"]
    {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    assert_eq!(creates(&cluster, mark, &name).await.len(), 0, "sent on before anybody agreed");

    let approve = ["approvals", "approve", &ticket, "--reason", "for the release"];
    gateway.cli("approver-amir", &approve).await.ok();
    assert!(create.finish().await.ok().contains("created"));

    let created = creates(&cluster, mark, &name).await;
    assert_eq!(created.len(), 1, "{created:?}");
    assert_eq!((created[0].code(), created[0].effective_user().username.as_str()), (Some(201), "agent-ci"));
    let records = gateway.records().await;
    let intent = records.intents().find(|intent| intent.id.to_string() == created[0].audit_id);
    let approval =
        intent.and_then(|intent| intent.approval.as_ref()).expect("the approval is with the intent");
    assert_eq!(
        (approval.ticket.as_str(), &approval.approvers[..]),
        (&*ticket, &["approver-amir".to_owned()][..])
    );
    let story = story_of(&gateway, &ticket).await;
    assert_eq!(story, [EventKind::Held, EventKind::Approved, EventKind::Claimed, EventKind::Spent]);
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn an_approval_is_for_one_use() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::start(&cluster).await;
    let agent = gateway.kubectl("agent-ci").await;
    let name = unique("again");

    let create = start_binding(&agent, &name);
    let first = waiting_ticket(&gateway, &name).await;
    gateway.cli("approver-amir", &["approvals", "approve", &first]).await.ok();
    create.finish().await.ok();
    cluster.admin().run(&["delete", "clusterrolebinding", &name]).await.ok();

    let mark = cluster.audit_log().mark();
    let identical = start_binding(&agent, &name);
    let second = waiting_ticket(&gateway, &name).await;
    assert_ne!(first, second);
    gateway.cli("approver-amir", &["approvals", "deny", &second]).await.ok();
    identical.finish().await.fails();
    assert_eq!(creates(&cluster, mark, &name).await.len(), 0);
    // And nobody can use the first one's approval, or decide on it again.
    let again = gateway.cli("approver-bea", &["approvals", "approve", &first]).await;
    assert_eq!(again.code(), Some(77), "{again}");
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn a_denied_request_is_told_by_whom_and_why_and_the_server_never_sees_it() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::start(&cluster).await;
    let agent = gateway.kubectl("agent-ci").await;
    let (name, mark) = (unique("denied"), cluster.audit_log().mark());

    let create = start_binding(&agent, &name);
    let ticket = waiting_ticket(&gateway, &name).await;
    let deny = ["approvals", "deny", &ticket, "--reason", "jo has left the company"];
    gateway.cli("approver-bea", &deny).await.ok();
    let said = create.finish().await.fails();
    assert!(said.contains("approver-bea") && said.contains("jo has left the company"), "{said}");

    assert_eq!(creates(&cluster, mark, &name).await.len(), 0);
    let records = gateway.records().await;
    let outcome = records.outcomes().find(|outcome| outcome.notes.get("ticket") == Some(&json!(ticket)));
    let outcome = outcome.expect("the refusal is on record");
    assert_eq!((outcome.status, outcome.intent), (Some(403), None));
    assert_eq!(outcome.refusal.as_ref().map(|refusal| refusal.code.as_str()), Some("hold/denied"));
    assert_eq!(story_of(&gateway, &ticket).await, [EventKind::Held, EventKind::Denied]);
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn nobody_decides_on_their_own_request_nor_on_what_is_not_theirs_to_decide() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::configured(&cluster, |config| {
        config["policy"]["approvers"]["groups"] = json!(["approvers", "agents"]);
    })
    .await;
    let agent = gateway.kubectl("agent-ci").await;
    let (name, mark) = (unique("own"), cluster.audit_log().mark());

    let create = start_binding(&agent, &name);
    let ticket = waiting_ticket(&gateway, &name).await;
    for verb in ["approve", "deny"] {
        let own = gateway.cli("agent-ci", &["approvals", verb, &ticket]).await;
        assert_eq!(own.code(), Some(77), "{own}");
        let stranger = gateway.cli("dev-dana", &["approvals", verb, &ticket]).await;
        assert_eq!(stranger.code(), Some(77), "{stranger}");
    }
    assert!(!gateway.cli("dev-dana", &["approvals", "list"]).await.ok().contains(&ticket));
    assert_eq!(gateway.cli("dev-dana", &["approvals", "show", &ticket]).await.code(), Some(77));
    assert_eq!(creates(&cluster, mark, &name).await.len(), 0);
    assert_eq!(story_of(&gateway, &ticket).await, [EventKind::Held]);

    // Another of the agents is somebody else.
    gateway.cli("agent-two", &["approvals", "approve", &ticket]).await.ok();
    create.finish().await.ok();
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn a_quorum_is_of_different_people() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::configured(&cluster, |config| {
        config["policy"]["rules"] = json!([{
            "name": "two-for-bindings",
            "match": { "verbs": ["create"], "resources": ["clusterrolebindings"] },
            "action": "hold",
            "message": "four eyes",
            "hold": { "quorum": 2 },
        }]);
    })
    .await;
    let agent = gateway.kubectl("agent-ci").await;
    let (name, mark) = (unique("quorum"), cluster.audit_log().mark());

    let create = start_binding(&agent, &name);
    let ticket = waiting_ticket(&gateway, &name).await;
    let one = gateway.cli("approver-amir", &["approvals", "approve", &ticket]).await.ok();
    assert!(one.contains("1 more needed"), "{one}");
    let twice = gateway.cli("approver-amir", &["approvals", "approve", &ticket]).await;
    assert_eq!(twice.code(), Some(77), "{twice}");
    assert_eq!(creates(&cluster, mark, &name).await.len(), 0);
    gateway.cli("approver-bea", &["approvals", "approve", &ticket]).await.ok();
    create.finish().await.ok();
    assert_eq!(creates(&cluster, mark, &name).await.len(), 1);
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn kubectl_comes_back_by_itself_and_lands_on_the_same_ticket() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::configured(&cluster, |config| config["hold"] = json!({ "holdFor": "1s" })).await;
    let agent = gateway.kubectl("agent-ci").await;
    let (name, mark) = (unique("resent"), cluster.audit_log().mark());

    let create = start_binding(&agent, &name);
    let ticket = waiting_ticket(&gateway, &name).await;
    let told_to_come_back = |records: &Records| {
        let of_ticket =
            |outcome: &&portcullis_audit::Outcome| outcome.notes.get("ticket") == Some(&json!(ticket));
        (records.outcomes().filter(of_ticket).filter(|outcome| outcome.status == Some(429)).count() >= 2)
            .then_some(())
    };
    gateway.wait_for_record("two answers that say `later`", told_to_come_back).await;
    assert_eq!(waiting_ticket(&gateway, &name).await, ticket);
    gateway.cli("approver-amir", &["approvals", "approve", &ticket]).await.ok();
    create.finish().await.ok();
    assert_eq!(creates(&cluster, mark, &name).await.len(), 1);
    assert_eq!(tickets(&gateway, "all").await.len(), 1);
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn what_the_server_would_refuse_nobody_is_asked_about() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::start(&cluster).await;
    let agent = gateway.kubectl("agent-ci").await;
    let mark = cluster.audit_log().mark();

    // It is there already; the role would be more than agents have; agents may not make roles at all.
    let exists =
        agent.run(&["create", "clusterrolebinding", "agents-view", "--clusterrole=view", "--user=jo"]);
    let said = exists.await.fails();
    assert!(said.contains("already exists") && said.contains("agents-view"), "{said}");
    let name = unique("root");
    let escalates =
        agent.run(&["create", "clusterrolebinding", &name, "--clusterrole=cluster-admin", "--user=jo"]);
    let said = escalates.await.fails();
    assert!(said.contains("forbidden") && said.contains("agent-ci"), "{said}");
    // What is missing is said in full: Go's way of printing lists is no echo of a body.
    assert!(said.contains(r#"{APIGroups:["*"], Resources:["*"], Verbs:["*"]}"#), "{said}");
    let role = agent.run(&["create", "clusterrole", &name, "--verb=get", "--resource=pods"]).await.fails();
    assert!(role.contains("forbidden") && role.contains("agent-ci"), "{role}");

    assert_eq!(tickets(&gateway, "all").await, Vec::<Value>::new());
    for name in ["agents-view", &name] {
        assert_eq!(creates(&cluster, mark, name).await.len(), 0);
    }
    // What did reach the server are dry runs, on record as what they are: the gateway's requests, for the agent.
    let records = gateway.records().await;
    let seen = cluster.events_since(mark).await;
    let mutating: Vec<_> = records.intents().filter(|intent| intent.request.info.verb == "create").collect();
    assert_eq!(mutating.len(), 3, "{mutating:?}");
    for intent in mutating {
        let event = seen.iter().find(|event| event.audit_id == intent.id.to_string());
        assert!(event.is_some_and(is_dry_run) && intent.parent.is_some(), "{intent:?}: {event:?}");
    }
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn an_object_that_changes_after_people_looked_is_not_overwritten() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::start(&cluster).await;
    let agent = gateway.kubectl("agent-ci").await;
    let name = unique("moved");
    let create = ["create", "clusterrolebinding", &name, "--clusterrole=view", "--user=jo"];
    cluster.admin().run(&create).await.ok();

    let mark = cluster.audit_log().mark();
    let patch = r#"{"subjects":[{"kind":"User","name":"kim","apiGroup":"rbac.authorization.k8s.io"}]}"#;
    let patching = agent.start(&["patch", "clusterrolebinding", &name, "--type=merge", "-p", patch]);
    let ticket = waiting_ticket(&gateway, &name).await;
    let shown = gateway.cli("approver-amir", &["approvals", "show", &ticket]).await.ok();
    assert!(shown.contains("jo") && shown.contains("kim"), "{shown}");
    cluster.admin().run(&["annotate", "clusterrolebinding", &name, "meanwhile=changed"]).await.ok();
    gateway.cli("approver-amir", &["approvals", "approve", &ticket]).await.ok();
    let said = patching.finish().await.fails();
    assert!(said.contains("changed after people looked"), "{said}");
    let seen = cluster.events_since(mark).await;
    let path = format!("{BINDINGS}/{name}");
    let mut patches =
        seen.iter().filter(|event| event.verb == "patch" && event.request_uri.starts_with(&path));
    assert!(patches.all(|event| event.effective_user().username != "agent-ci" || is_dry_run(event)));
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn an_exec_waits_on_its_open_connection() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::configured(&cluster, |config| {
        config["hold"] = json!({ "holdFor": "1s" });
        config["policy"]["rules"] = json!([{
            "name": "ask-before-exec",
            "match": { "verbs": ["create"], "resources": ["pods/exec"] },
            "action": "hold",
        }]);
    })
    .await;
    for transport in Transport::BOTH {
        let agent = gateway.kubectl("agent-ci").await.namespace("shop").transport(transport);
        let mark = cluster.audit_log().mark();
        let word = unique("released");
        let exec = agent.start(&["exec", "toolbox", "--", "echo", &word]);
        let ticket = waiting_ticket(&gateway, &word).await;
        let shown = gateway.cli("approver-amir", &["approvals", "show", &ticket]).await.ok();
        assert!(shown.contains("exec toolbox") && shown.contains(&format!("echo {word}")), "{shown}");
        assert_eq!(execs(&cluster, mark, &word).await, 0, "{transport:?}");
        gateway.cli("approver-amir", &["approvals", "approve", &ticket]).await.ok();
        assert_eq!(exec.finish().await.ok(), format!("{word}\n"), "{transport:?}");
        assert_eq!(execs(&cluster, mark, &word).await, 1, "{transport:?}");

        let mark = cluster.audit_log().mark();
        let word = unique("denied");
        let exec = agent.start(&["exec", "toolbox", "--", "echo", &word]);
        let ticket = waiting_ticket(&gateway, &word).await;
        gateway
            .cli("approver-amir", &["approvals", "deny", &ticket, "--reason", "not on a Friday"])
            .await
            .ok();
        let said = exec.finish().await.fails();
        assert!(said.contains("approver-amir") && said.contains("not on a Friday"), "{transport:?}: {said}");
        assert_eq!(execs(&cluster, mark, &word).await, 0, "{transport:?}");
    }
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn pipelines_ask_without_waiting() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::start(&cluster).await;
    let (name, mark) = (unique("nowait"), cluster.audit_log().mark());
    let token = gateway.token("agent-ci").await;

    let asked = post_binding(&gateway, &token, &name, "jo", true).await;
    assert_eq!((asked.status().as_u16(), refusal_code(asked.body()).as_str()), (429, "hold/pending"));
    // Without Retry-After no client comes back by itself.
    assert!(!asked.headers().contains_key("retry-after"), "{asked:?}");
    let ticket = ticket_of(&asked);
    assert_eq!(ticket_of(&post_binding(&gateway, &token, &name, "jo", true).await), ticket);
    // People agree to a body, not to whatever is sent to the same place.
    let changed = post_binding(&gateway, &token, &name, "kim", true).await;
    assert_ne!(ticket_of(&changed), ticket);
    // Nor may somebody else use it.
    let other = gateway.token("agent-two").await;
    assert_ne!(ticket_of(&post_binding(&gateway, &other, &name, "jo", true).await), ticket);

    gateway.cli("approver-amir", &["approvals", "approve", &ticket]).await.ok();
    assert_eq!(post_binding(&gateway, &token, &name, "kim", true).await.status(), 429);
    assert_eq!(creates(&cluster, mark, &name).await.len(), 0, "an approval alone carries nothing out");
    assert_eq!(post_binding(&gateway, &token, &name, "jo", true).await.status(), 201);
    let created = creates(&cluster, mark, &name).await;
    assert_eq!(created.len(), 1, "{created:?}");
    let made =
        cluster.admin().run(&["get", "clusterrolebinding", &name, "-o", "jsonpath={.subjects[0].name}"]);
    assert_eq!(made.await.ok(), "jo");
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn nothing_is_carried_out_for_a_client_that_has_gone() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::start(&cluster).await;
    let agent = gateway.kubectl("agent-ci").await;
    let mark = cluster.audit_log().mark();
    let gone = async |ticket: &str| {
        let ended = |records: &Records| {
            let mut outcomes = records.outcomes();
            outcomes.find(|outcome| outcome.notes.get("ticket") == Some(&json!(ticket))).map(|_| ())
        };
        gateway.wait_for_record("the end of the request that was given up", ended).await;
    };

    // Over HTTP/2, as kubectl speaks it: what is left is the approval, for when it comes back.
    let name = unique("gone");
    let create = start_binding(&agent, &name);
    let ticket = waiting_ticket(&gateway, &name).await;
    create.kill().await;
    gone(&ticket).await;
    gateway.cli("approver-amir", &["approvals", "approve", &ticket]).await.ok();
    assert_eq!(creates(&cluster, mark, &name).await.len(), 0);
    start_binding(&agent, &name).finish().await.ok();
    assert_eq!(creates(&cluster, mark, &name).await.len(), 1);
    let story = story_of(&gateway, &ticket).await;
    assert_eq!(story, [EventKind::Held, EventKind::Approved, EventKind::Claimed, EventKind::Spent]);

    // Over HTTP/1.1, where nothing but the end of the connection tells.
    let name = unique("gone-1");
    let body = binding(&name, "jo").to_string();
    let mut connection = RawConnection::open(&gateway.url, &gateway.ca()).await;
    let head = format!(
        "POST {BINDINGS} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        gateway.token("agent-ci").await,
        body.len()
    );
    connection.send(head + &body).await;
    let ticket = waiting_ticket(&gateway, &name).await;
    drop(connection);
    gone(&ticket).await;
    gateway.cli("approver-amir", &["approvals", "approve", &ticket]).await.ok();
    assert_eq!(creates(&cluster, mark, &name).await.len(), 0);
    assert_eq!(story_of(&gateway, &ticket).await, [EventKind::Held, EventKind::Approved]);
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn a_ticket_survives_a_crash_of_the_gateway() {
    let cluster = Cluster::from_env();
    let mut gateway = Gateway::start(&cluster).await;
    let agent = gateway.kubectl("agent-ci").await;
    let (name, mark) = (unique("crash"), cluster.audit_log().mark());

    let create = start_binding(&agent, &name);
    let ticket = waiting_ticket(&gateway, &name).await;
    gateway.kill().await;
    create.finish().await.fails();
    gateway.start_again().await;

    assert_eq!(waiting_ticket(&gateway, &name).await, ticket);
    let resent = start_binding(&agent, &name);
    gateway.cli("approver-amir", &["approvals", "approve", &ticket]).await.ok();
    resent.finish().await.ok();
    assert_eq!(creates(&cluster, mark, &name).await.len(), 1);
    assert_eq!(tickets(&gateway, "all").await.len(), 1);
    Running::start(gateway.command(&["audit", "verify", "--config", "portcullis.yaml"])).finish().await.ok();
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn nobody_deciding_is_a_no() {
    let cluster = Cluster::from_env();
    let gateway =
        Gateway::configured(&cluster, |config| config["hold"] = json!({ "expiresAfter": "1s" })).await;
    let (name, mark) = (unique("expired"), cluster.audit_log().mark());
    let said = start_binding(&gateway.kubectl("agent-ci").await, &name).finish().await.fails();
    assert!(said.contains("did not approve this request in time"), "{said}");
    assert_eq!(creates(&cluster, mark, &name).await.len(), 0);
    let all = tickets(&gateway, "all").await;
    let late = gateway.cli("approver-amir", &["approvals", "approve", all[0]["id"].as_str().unwrap()]).await;
    assert_eq!(late.code(), Some(77), "{late}");
    gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn without_approvers_what_would_be_held_is_refused() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::configured(&cluster, |config| config["policy"] = json!({})).await;
    let (name, mark) = (unique("nobody"), cluster.audit_log().mark());
    let said = start_binding(&gateway.kubectl("agent-ci").await, &name).finish().await.fails();
    assert!(said.contains("baseline/rbac-writes"), "{said}");
    let seen = cluster.events_since(mark).await;
    let named = |event: &AuditEvent| event.object_ref.as_ref().is_some_and(|object| object.name == name);
    assert!(!seen.iter().any(named), "not even a dry run");
    gateway.asked_the_server_nothing().await;
}

// -- What the agent does ----------------------------------------------------------------------------

fn unique(prefix: &str) -> String {
    format!("{prefix}-{}", &uuid::Uuid::new_v4().simple().to_string()[..8])
}

fn start_binding(agent: &Kubectl, name: &str) -> Running {
    agent.start(&["create", "clusterrolebinding", name, "--clusterrole=view", "--user=jo"])
}

fn binding(name: &str, user: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }],
    })
}

async fn post_binding(gateway: &Gateway, token: &str, name: &str, user: &str, no_wait: bool) -> Answer {
    let mut request = gateway.request("POST", BINDINGS, token).header("content-type", "application/json");
    if no_wait {
        request = request.header("portcullis-hold", "no-wait");
    }
    gateway.http().send(request.body(binding(name, user).to_string()).unwrap()).await
}

#[track_caller]
fn ticket_of(answer: &Answer) -> String {
    let ticket = answer.headers().get("portcullis-ticket");
    ticket.unwrap_or_else(|| panic!("no ticket: {answer:?}")).to_str().unwrap().to_owned()
}

// -- What approvers see -----------------------------------------------------------------------------

async fn tickets(gateway: &Gateway, state: &str) -> Vec<Value> {
    let found =
        gateway.cli("approver-amir", &["approvals", "list", "--state", state, "-o", "json"]).await.ok();
    let found: Value = serde_json::from_str(&found).unwrap_or_else(|error| panic!("{error}: {found}"));
    found["items"].as_array().cloned().unwrap_or_default()
}

/// The id of the ticket that waits and speaks of this word. There is one only.
async fn waiting_ticket(gateway: &Gateway, word: &str) -> String {
    wait_until("a ticket", || async {
        let mut found = tickets(gateway, "pending").await;
        found.retain(|ticket| ticket.to_string().contains(word));
        assert!(found.len() <= 1, "{found:?}");
        found.first().map(|ticket| ticket["id"].as_str().expect("a ticket's id").to_owned())
    })
    .await
}

/// What the ledger says happened to a ticket.
async fn story_of(gateway: &Gateway, ticket: &str) -> Vec<EventKind> {
    let records = gateway.records().await;
    let of_ticket = |event: &&Event| event.ticket.as_deref() == Some(ticket);
    records.events().filter(of_ticket).map(|event| event.kind).collect()
}

// -- What the API server saw ------------------------------------------------------------------------

fn is_dry_run(event: &AuditEvent) -> bool {
    event.request_uri.contains("dryRun=All")
}

/// The requests that really were to create this ClusterRoleBinding, as agents.
async fn creates(cluster: &Cluster, mark: Mark, name: &str) -> Vec<AuditEvent> {
    let mut events = cluster.events_since(mark).await;
    events.retain(|event| {
        let object = event.object_ref.clone().unwrap_or_default();
        event.verb == "create"
            && object.resource == "clusterrolebindings"
            && object.name == name
            && event.effective_user().username.starts_with("agent-")
            && !is_dry_run(event)
    });
    events
}

/// How many execs with this word in their command reached the server.
async fn execs(cluster: &Cluster, mark: Mark, word: &str) -> usize {
    let events = cluster.events_since(mark).await;
    let execs = events.iter().filter(|event| event.request_uri.contains(word));
    execs.map(|event| event.audit_id.as_str()).collect::<BTreeSet<_>>().len()
}
