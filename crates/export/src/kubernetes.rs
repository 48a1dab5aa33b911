//! Records in the words of the API server's audit log: events of `audit.k8s.io/v1`
//! (<https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/>), so that what reads that log reads ours.
//!
//! A request becomes one event of the stage `ResponseComplete`. What the API server's events have no field for stands in
//! annotations below `portcullis.dev/`. Tickets, grants and other events are not requests, and none here; the decisions about a
//! request are in its own event's annotations.

use std::sync::Arc;

use portcullis_audit::{AuditPolicy, End, Intent, Level, Outcome, Record, Stage};
use portcullis_core::{Decision, Identity, RequestInfo};
use serde_json::{Map, Value, json};

use crate::exporter::Item;

/// Makes events.
#[derive(Clone, Debug, Default)]
pub struct EventWriter {
    policy: Option<Arc<AuditPolicy>>,
}

impl EventWriter {
    /// Events of everything, as `Metadata` or with the bodies that were kept.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only of what the policy wants to hear.
    #[must_use]
    pub fn policy(mut self, policy: Arc<AuditPolicy>) -> Self {
        self.policy = Some(policy);
        self
    }

    /// The event of a record, if it is one of a request that is to be told of.
    #[must_use]
    pub fn event(&self, item: &Item) -> Option<Value> {
        let Record::Outcome(outcome) = &item.stored.entry.record else { return None };
        let intent = item.intent.as_deref();
        let identity = outcome.identity.as_ref().or_else(|| intent?.identity.as_ref());
        let wanted = |policy: &AuditPolicy| policy.wants(Stage::ResponseComplete, &outcome.info, identity);
        if outcome.level == Some(Level::None) || !self.policy.as_deref().is_none_or(wanted) {
            return None;
        }
        let request = outcome.request.as_ref().or_else(|| intent.map(|intent| &intent.request));
        let mut event = json!({
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": level(item, outcome),
            "auditID": outcome.id,
            "stage": "ResponseComplete",
            "requestURI": request.map_or(outcome.info.path.as_str(), |request| request.uri.as_str()),
            "verb": outcome.info.verb,
            "user": user(outcome, identity),
            "requestReceivedTimestamp": micro(outcome.received),
            "stageTimestamp": micro(item.stored.entry.time),
            "annotations": annotations(item, outcome, intent),
        });
        let mut set = |name: &str, value: Option<Value>| {
            if let (Some(fields), Some(value)) = (event.as_object_mut(), value) {
                fields.insert(name.to_owned(), value);
            }
        };
        set("sourceIPs", request.and_then(|request| request.source).map(|source| json!([source.ip()])));
        set("userAgent", request.and_then(|request| request.user_agent.as_deref()).map(Value::from));
        set("objectRef", object(&outcome.info));
        set("responseStatus", status(outcome));
        set("requestObject", item.request_body.as_deref().and_then(parsed));
        set("responseObject", item.response_body.as_deref().and_then(parsed));
        Some(event)
    }

    /// The events of some records as one `EventList`, as the API server's webhook backend posts it; nothing, if there are none.
    #[must_use]
    pub fn list(&self, items: &[Item]) -> Option<Value> {
        let events: Vec<Value> = items.iter().filter_map(|item| self.event(item)).collect();
        let list =
            || json!({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": events});
        (!events.is_empty()).then(list)
    }
}

/// What the bodies that are there amount to.
fn level(item: &Item, outcome: &Outcome) -> Level {
    outcome.level.unwrap_or(match (&item.request_body, &item.response_body) {
        (_, Some(_)) => Level::RequestResponse,
        (Some(_), None) => Level::Request,
        (None, None) => Level::Metadata,
    })
}

fn user(outcome: &Outcome, identity: Option<&Identity>) -> Value {
    let Some(identity) = identity else {
        // As the API server calls those of whom nothing is known.
        return json!({"username": outcome.user.as_deref().unwrap_or("system:anonymous")});
    };
    let mut user = json!({"username": identity.user});
    if let Some(fields) = user.as_object_mut() {
        fields.extend(identity.uid.as_ref().map(|uid| ("uid".to_owned(), json!(uid))));
        if !identity.groups.is_empty() {
            fields.insert("groups".into(), json!(identity.groups));
        }
        if !identity.extra.is_empty() {
            fields.insert("extra".into(), json!(identity.extra));
        }
    }
    user
}

fn object(info: &RequestInfo) -> Option<Value> {
    let fields = [
        ("resource", &info.resource),
        ("namespace", &info.namespace),
        ("name", &info.name),
        ("apiGroup", &info.api_group),
        ("apiVersion", &info.api_version),
        ("subresource", &info.subresource),
    ];
    let present = fields.into_iter().filter(|(_, value)| !value.is_empty());
    let object: Map<String, Value> =
        present.map(|(name, value)| (name.to_owned(), Value::from(value.as_str()))).collect();
    info.is_resource_request.then_some(Value::Object(object))
}

fn status(outcome: &Outcome) -> Option<Value> {
    let code = outcome.status?;
    let mut status = json!({"metadata": {}, "code": code});
    if let (Some(fields), Some(refusal)) = (status.as_object_mut(), &outcome.refusal) {
        fields.insert("status".into(), "Failure".into());
        fields.insert("message".into(), refusal.message.as_str().into());
    }
    Some(status)
}

/// Annotations are texts.
fn annotations(item: &Item, outcome: &Outcome, intent: Option<&Intent>) -> Map<String, Value> {
    let mut found = Map::new();
    let mut say = |name: &str, value: Option<String>| {
        found.extend(value.map(|value| (name.to_owned(), Value::from(value))));
    };
    let verdict = outcome.verdict.as_ref().or_else(|| intent?.verdict.as_ref());
    let allowed = outcome.intent.is_some();
    say("authorization.k8s.io/decision", Some(if allowed { "allow" } else { "forbid" }.into()));
    say("portcullis.dev/record", Some(item.stored.index.to_string()));
    say("portcullis.dev/command", Some(outcome.command.clone()));
    say("portcullis.dev/cluster", Some(outcome.info.cluster.clone()).filter(|cluster| !cluster.is_empty()));
    say("portcullis.dev/end", (outcome.end != End::Completed).then(|| outcome.end.as_str().to_owned()));
    say("portcullis.dev/session", outcome.session.clone());
    say("portcullis.dev/grant", outcome.grant.clone());
    let decision = verdict.map(|verdict| match verdict.decision {
        Decision::Allow => "allow",
        Decision::Deny => "deny",
        Decision::Hold(_) => "hold",
    });
    say("portcullis.dev/decision", decision.map(str::to_owned));
    say("portcullis.dev/rule", verdict.and_then(|verdict| verdict.rule.clone()));
    say("portcullis.dev/ticket", outcome.ticket.clone());
    let approvers =
        intent.and_then(|intent| intent.approval.as_ref()).map(|approval| approval.approvers.join(","));
    say("portcullis.dev/approvers", approvers);
    say("portcullis.dev/refusal", outcome.refusal.as_ref().map(|refusal| refusal.code.clone()));
    let masked: u64 = outcome.masked.values().sum();
    say("portcullis.dev/masked", (masked > 0).then(|| masked.to_string()));
    let stream = outcome.stream.as_ref();
    say("portcullis.dev/exit", stream.and_then(|stream| stream.exit).map(|exit| exit.to_string()));
    let recording = stream.and_then(|stream| stream.recording.as_ref());
    say("portcullis.dev/recording", recording.map(|recording| recording.sha256.to_string()));
    found
}

/// A body as an object; one that was cut short, or is none, is left out.
fn parsed(body: &[u8]) -> Option<Value> {
    serde_json::from_slice::<Value>(body).ok().filter(Value::is_object)
}

/// `metav1.MicroTime`.
fn micro(time: portcullis_core::Timestamp) -> String {
    format!("{time:.6}")
}
