//! The API server's own audit log as the judge of ours: which requests there were, and what each
//! one asked for.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_audit::{End, Outcome};
use portcullis_core::{EventKind, RequestInfo};

use crate::audit_log::{AuditEvent, ObjectRef};
use crate::gateway::Records;

const NOT_SENT: &str = "let through, but not sent: no such cluster, or no answer that could be masked";

const WAITED: &str = "it waited for people when the gateway was killed, and its ticket is its record";

const LEFT: &str = "let through, but its client left before it was sent";

/// A way in which the two logs may differ.
struct Explanation {
    why: &'static str,
    covers: fn(&RequestInfo, &ObjectRef) -> bool,
}

const EXPLAINED: [Explanation; 2] = [
    Explanation {
        why: "of what is created, the server adds the name and namespace that it finds in the object",
        covers: |info, server| {
            info.verb == "create"
                && info.subresource.is_empty()
                && (info.name.is_empty() || info.name == server.name)
                && (info.namespace.is_empty() || info.namespace == server.namespace)
        },
    },
    Explanation {
        why: "a name that looks like a credential is sent on as it is, and masked where it is kept",
        covers: |info, server| {
            info.namespace == server.namespace
                && info.name.starts_with("masked:request:")
                && server.name.starts_with("eyJ")
        },
    },
];

/// What the API server saw of a gateway, against what the gateway has on record.
#[derive(Debug, Default)]
pub struct Comparison {
    /// How many requests were compared.
    pub requests: usize,
    /// How many differences each explanation explains.
    pub explained: BTreeMap<&'static str, usize>,
    /// All other differences.
    pub differences: Vec<String>,
}

impl Comparison {
    /// Compares the two logs of a gateway that has been stopped.
    pub fn new(seen: &[AuditEvent], records: &Records) -> Self {
        let mut comparison = Self::default();
        let mut by_id: BTreeMap<&str, Vec<&AuditEvent>> = BTreeMap::new();
        for event in seen {
            by_id.entry(&event.audit_id).or_default().push(event);
        }
        comparison.requests = by_id.len();
        for (id, events) in &by_id {
            comparison.request(id, events, records);
        }
        // Whoever we ask something for is on record, too.
        for outcome in records.outcomes() {
            let Some(parent) = outcome.parent.filter(|parent| records.outcome(*parent).is_none()) else {
                continue;
            };
            match records
                .events()
                .any(|event| event.kind == EventKind::Held && event.audit_id == Some(parent))
            {
                true => *comparison.explained.entry(WAITED).or_default() += 1,
                false => comparison
                    .differ(format!("the parent of {} is not on record: {}", outcome.id, outcome.command)),
            }
        }
        // What was let through has arrived: else the id is not the one that was sent.
        for intent in records.intents().filter(|intent| !by_id.contains_key(intent.id.to_string().as_str())) {
            match records.outcome(intent.id) {
                // Nobody answered, and the client was told so.
                Some(outcome) if outcome.end == End::Refused && refused_behind_the_commit(outcome) => {
                    *comparison.explained.entry(NOT_SENT).or_default() += 1;
                }
                Some(outcome) if outcome.end == End::Aborted && outcome.upstream.is_none() => {
                    *comparison.explained.entry(LEFT).or_default() += 1;
                }
                outcome => comparison
                    .differ(format!("the server never saw {} {}: {outcome:?}", intent.id, intent.command)),
            }
        }
        comparison
    }

    /// Fails the test if they differ in what nothing explains.
    #[track_caller]
    pub fn assert_agreement(&self) {
        let all = self.differences.join("\n");
        assert!(self.differences.is_empty(), "the API server's log and ours differ:\n{all}");
    }

    fn request(&mut self, id: &str, events: &[&AuditEvent], records: &Records) {
        let intent = records.intents().find(|intent| intent.id.to_string() == id);
        let outcome = records.outcomes().find(|outcome| outcome.id.to_string() == id);
        let stages: BTreeSet<&str> = events.iter().map(|event| event.stage.as_str()).collect();
        if stages.len() != events.len() {
            self.differ(format!("{id} was sent more than once: {events:?}"));
        }
        for event in events {
            let what = format!("{} {} ({})", event.verb, event.request_uri, event.stage);
            match intent {
                None => self.differ(format!("no intent of {id}: {what}")),
                Some(intent) => self.info(&intent.request.info, event),
            }
            match outcome {
                None => self.differ(format!("no outcome of {id}: {what}")),
                Some(outcome) if outcome.intent.is_none() => {
                    self.differ(format!("the outcome of {id} knows no intent: {what}"));
                }
                Some(_) => {}
            }
        }
    }

    fn info(&mut self, info: &RequestInfo, event: &AuditEvent) {
        let server = event.object_ref.clone().unwrap_or_default();
        let ours = ObjectRef {
            api_group: info.api_group.clone(),
            api_version: info.api_version.clone(),
            namespace: info.namespace.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            name: info.name.clone(),
        };
        let same_kind = info.is_resource_request == event.object_ref.is_some();
        if same_kind && info.verb == event.verb && ours == server {
            return;
        }
        let nameless =
            |of: &ObjectRef| ObjectRef { name: String::new(), namespace: String::new(), ..of.clone() };
        let only_names = same_kind && info.verb == event.verb && nameless(&ours) == nameless(&server);
        match EXPLAINED.iter().find(|explanation| only_names && (explanation.covers)(info, &server)) {
            Some(explanation) => *self.explained.entry(explanation.why).or_default() += 1,
            None => self.differ(format!(
                "{}\n  the server: {} {:?}\n  we:         {} {ours:?}",
                event.request_uri, event.verb, event.object_ref, info.verb
            )),
        }
    }

    fn differ(&mut self, how: String) {
        self.differences.push(how);
    }
}

/// Whether one of the steps behind the commit refused: the mask, which must be able to read the
/// answer, or what talks to the API server.
fn refused_behind_the_commit(outcome: &Outcome) -> bool {
    let code = outcome.refusal.as_ref().map_or("", |refusal| &refusal.code);
    code.starts_with("upstream/") || code.starts_with("mask/")
}

#[cfg(test)]
mod tests {
    use portcullis_audit::Entry;
    use serde_json::{Value, json};

    use super::*;

    const ID: &str = "0199c1d2-0000-7000-8000-000000000001";

    fn event(id: &str, verb: &str, object: Value) -> AuditEvent {
        let event = json!({
            "auditID": id, "stage": "ResponseComplete", "requestURI": "/x", "verb": verb,
            "user": { "username": "gateway" }, "objectRef": object,
        });
        serde_json::from_value(event).unwrap()
    }

    /// An intent and an outcome of one request.
    fn records(info: Value) -> Records {
        let time = "2026-01-02T03:04:05Z";
        let intent = json!({
            "v": 1, "time": time, "type": "intent", "id": ID, "received": time, "command": "c",
            "request": { "info": info, "method": "GET", "uri": "/x" },
        });
        let outcome = json!({
            "v": 1, "time": time, "type": "outcome", "id": ID, "end": "completed", "command": "c",
            "info": info, "intent": 1, "received": time,
        });
        let entry = |value: Value| -> Entry { serde_json::from_value(value).unwrap() };
        Records { entries: vec![entry(intent), entry(outcome)] }
    }

    #[track_caller]
    fn check(seen: &[AuditEvent], records: &Records, expected: &[&str]) {
        let found = Comparison::new(seen, records);
        let all = found.differences.join("\n");
        assert_eq!(found.differences.len(), expected.len(), "{all}");
        for (found, expected) in found.differences.iter().zip(expected) {
            assert!(found.contains(expected), "{all}");
        }
    }

    #[test]
    fn it_finds_what_it_looks_for() {
        let pod = json!({ "resource": "pods", "namespace": "shop", "name": "p", "apiVersion": "v1" });
        let info = |verb: &str, name: &str| {
            json!({ "isResourceRequest": true, "path": "/x", "verb": verb, "apiPrefix": "api", "apiVersion": "v1",
                "namespace": "shop", "resource": "pods", "name": name })
        };
        let get = event(ID, "get", pod.clone());
        check(std::slice::from_ref(&get), &records(info("get", "p")), &[]);
        check(std::slice::from_ref(&get), &records(info("get", "q")), &["we:         get"]);
        check(std::slice::from_ref(&get), &records(info("list", "p")), &["we:         list"]);
        check(&[get.clone(), get.clone()], &records(info("get", "p")), &["sent more than once"]);
        check(&[], &records(info("get", "p")), &["never saw"]);
        let other = "0199c1d2-0000-7000-8000-000000000002";
        let unknown = [get.clone(), event(other, "get", pod.clone())];
        check(&unknown, &records(info("get", "p")), &["no intent", "no outcome"]);
        check(&[event(ID, "get", Value::Null)], &records(info("get", "p")), &["we:         get"]);
        // What is created is named by its body; what is read is not.
        check(&[event(ID, "create", pod.clone())], &records(info("create", "")), &[]);
        check(&[event(ID, "get", pod)], &records(info("get", "")), &["we:         get"]);
        // A token where a name belongs is kept by nobody; any other name is.
        let named =
            |name: &str| json!({ "resource": "pods", "namespace": "shop", "name": name, "apiVersion": "v1" });
        let masked = records(info("get", "masked:request:0123456789abcdef"));
        check(&[event(ID, "get", named("eyJhbGciOiJFUzI1NiJ9.e30.c2ln"))], &masked, &[]);
        check(&[event(ID, "get", named("toolbox"))], &masked, &["we:         get"]);
    }
}
