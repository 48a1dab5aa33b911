//! The API server's own audit log as the judge of ours: which requests there were, and what each
//! one asked for.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_core::RequestInfo;

use crate::audit_log::{AuditEvent, ObjectRef};
use crate::gateway::Records;

/// Where the two logs may differ, and why.
const EXPLAINED: [(&str, fn(&RequestInfo, &ObjectRef) -> bool); 1] = [(
    "of what is created, the server adds the name and namespace that it finds in the object",
    |info, server| {
        info.verb == "create"
            && info.subresource.is_empty()
            && (info.name.is_empty() || info.name == server.name)
            && (info.namespace.is_empty() || info.namespace == server.namespace)
    },
)];

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
        // What was let through has arrived: else the id is not the one that was sent.
        for intent in records.intents() {
            if !by_id.contains_key(intent.id.to_string().as_str()) {
                comparison.differ(format!("the server never saw {} {}", intent.id, intent.command));
            }
        }
        comparison
    }

    /// Fails the test if they differ in what nothing explains.
    #[track_caller]
    pub fn assert_agreement(&self) {
        let all = self.differences.join("\n");
        assert!(self.differences.is_empty(), "the API server's log and ours differ:\n{all}");
        assert!(self.requests > 0, "nothing was compared");
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
        match EXPLAINED.iter().find(|(_, explains)| only_names && explains(info, &server)) {
            Some((why, _)) => *self.explained.entry(why).or_default() += 1,
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
