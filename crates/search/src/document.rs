//! What there is to find in a record.

use portcullis_audit::{Intent, Outcome, Record, Request, Stored};
use portcullis_core::{Decision, Event, Identity, RequestInfo, Timestamp, Verdict};

use crate::fields::{self, Field};
use crate::query::{Pattern, Phrase, Query, Term, What};
use crate::text::{add_words, value, without_escapes};

/// The most text of one record that is looked into, in bytes: hours of a terminal are not read word by word.
const MOST_TEXT: usize = 1024 * 1024;

/// Between texts that do not belong together: no phrase reaches across it, since it is no word.
const GAP: &str = " .";

/// A record as queries see it.
///
/// A request is one document: its outcome, with what its intent tells. An intent is one, too, but only those who follow a log
/// want to see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Document {
    pub(crate) time: Timestamp,
    pub(crate) fields: Vec<(&'static str, String)>,
    /// Words, a space before each.
    pub(crate) words: String,
}

impl Document {
    /// What is to be found of a record. `intent` is the one an outcome names, if it is still there.
    pub(crate) fn of(stored: &Stored, intent: Option<&Intent>) -> Self {
        let mut document = Self { time: stored.entry.time, ..Self::default() };
        match &stored.entry.record {
            Record::Intent(intent) => document.intent(intent),
            Record::Outcome(outcome) => document.outcome(outcome, intent),
            Record::Event(event) => document.event(event),
            _ => {
                document.field("type", "log");
                document.text(&stored.entry.line());
            }
        }
        document
    }

    /// Looks into a stored body, too.
    pub(crate) fn body(&mut self, body: &[u8]) {
        self.text(&String::from_utf8_lossy(body));
    }

    /// Looks into what a terminal showed, too.
    pub(crate) fn output(&mut self, output: &str) {
        self.text(&without_escapes(output));
    }

    fn outcome(&mut self, outcome: &Outcome, intent: Option<&Intent>) {
        self.field("type", "request");
        self.field("id", &outcome.id.to_string());
        self.some("parent", outcome.parent.map(|id| id.to_string()).as_deref());
        self.some("session", outcome.session.as_deref());
        self.some("user", outcome.user.as_deref());
        self.info(&outcome.info);
        self.text(&outcome.command);
        self.field("end", outcome.end.as_str());
        if let Some(status) = outcome.status {
            self.field("status", &status.to_string());
            self.field("status", &format!("{}xx", status / 100));
        }
        let identity = outcome.identity.as_ref().or_else(|| intent?.identity.as_ref());
        identity.inspect(|identity| self.identity(identity));
        let request = outcome.request.as_ref().or_else(|| Some(&intent?.request));
        request.inspect(|request| self.request(request));
        let verdict = outcome.verdict.as_ref().or_else(|| intent?.verdict.as_ref());
        verdict.inspect(|verdict| self.verdict(verdict));
        self.some("grant", outcome.grant.as_deref());
        self.some("ticket", outcome.ticket.as_deref());
        intent.inspect(|intent| self.permission(intent));
        if let Some(refusal) = &outcome.refusal {
            self.field("code", &refusal.code);
            self.text(&refusal.message);
            self.text(refusal.detail.as_deref().unwrap_or_default());
        }
        self.text(outcome.error.as_deref().unwrap_or_default());
        for rule in outcome.masked.keys() {
            self.field("masked", rule);
        }
        if let Some(stream) = &outcome.stream {
            self.some("container", stream.container.as_deref());
            self.some("exit", stream.exit.map(|exit| exit.to_string()).as_deref());
            self.text(&stream.ended);
            self.some("recorded", stream.recording.as_ref().map(|_| "true"));
        }
    }

    fn intent(&mut self, intent: &Intent) {
        self.field("type", "intent");
        self.field("id", &intent.id.to_string());
        self.some("parent", intent.parent.map(|id| id.to_string()).as_deref());
        self.some("session", intent.session.as_deref());
        self.info(&intent.request.info);
        self.text(&intent.command);
        self.request(&intent.request);
        if let Some(identity) = &intent.identity {
            self.field("user", &identity.user);
            self.identity(identity);
        }
        intent.verdict.iter().for_each(|verdict| self.verdict(verdict));
        self.some("grant", intent.grant.as_ref().map(|grant| grant.id.as_str()));
        self.some("ticket", intent.approval.as_ref().map(|approval| approval.ticket.as_str()));
        self.permission(intent);
    }

    /// Under which grant, and by whose approval.
    fn permission(&mut self, intent: &Intent) {
        if let Some(grant) = &intent.grant {
            self.field("profile", &grant.profile);
            self.some("task", grant.task.as_deref());
            self.text(grant.task.as_deref().unwrap_or_default());
        }
        for approver in intent.approval.iter().flat_map(|approval| &approval.approvers) {
            self.field("approver", approver);
        }
    }

    fn request(&mut self, request: &Request) {
        let agent = request.user_agent.as_deref().unwrap_or_default();
        self.some("agent", agent.split_whitespace().next());
        self.text(agent);
        self.some("source", request.source.map(|source| source.ip().to_string()).as_deref());
    }

    fn event(&mut self, event: &Event) {
        self.field("type", "event");
        let kind = serde_json::to_value(event.kind).unwrap_or_default();
        let kind = kind.as_str().unwrap_or("other");
        self.field("event", kind);
        self.text(kind);
        self.some("id", event.audit_id.map(|id| id.to_string()).as_deref());
        if let Some(identity) = &event.identity {
            self.field("user", &identity.user);
            self.identity(identity);
            if ["approved", "denied"].contains(&kind) {
                self.field("approver", &identity.user);
            }
        }
        self.some("ticket", event.ticket.as_deref());
        self.some("grant", event.grant.as_deref());
        // A grant is a session of its own.
        self.some("session", event.grant.as_deref());
        for (name, detail) in &event.details {
            let text = detail.as_str().map_or_else(|| detail.to_string(), str::to_owned);
            if let Some(field) = ["profile", "task", "rule", "code"].into_iter().find(|field| field == name) {
                self.field(field, &text);
            }
            self.text(&text);
        }
    }

    fn info(&mut self, info: &RequestInfo) {
        self.field("verb", info.effective_verb());
        let present = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        if info.is_resource_request {
            self.field("resource", &info.resource_path());
            self.some("apigroup", present(&info.api_group).as_deref());
            self.some("namespace", present(&info.namespace).as_deref());
            self.some("name", present(&info.name).as_deref());
        } else {
            self.field("path", &info.path);
        }
        self.some("cluster", present(&info.cluster).as_deref());
        self.some("dryrun", info.dry_run.then_some("true"));
    }

    fn identity(&mut self, identity: &Identity) {
        self.some("issuer", Some(identity.issuer.as_str()).filter(|issuer| !issuer.is_empty()));
        self.some("subject", Some(identity.subject.as_str()).filter(|subject| !subject.is_empty()));
        for actor in &identity.delegation {
            self.field("subject", &actor.subject);
        }
        for group in &identity.groups {
            self.field("group", group);
        }
    }

    fn verdict(&mut self, verdict: &Verdict) {
        self.field(
            "decision",
            match verdict.decision {
                Decision::Allow => "allow",
                Decision::Deny => "deny",
                Decision::Hold(_) => "hold",
            },
        );
        self.some("rule", verdict.rule.as_deref());
    }

    fn some(&mut self, name: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            self.field(name, text);
        }
    }

    fn field(&mut self, name: &'static str, text: &str) {
        debug_assert!(fields::named(name).is_some(), "{name} is no field");
        self.fields.push((name, value(text)));
    }

    fn text(&mut self, text: &str) {
        let room = MOST_TEXT.saturating_sub(self.words.len());
        if !text.is_empty() && room > 0 {
            self.words.push_str(GAP);
            add_words(&text[..text.floor_char_boundary(room)], &mut self.words);
        }
        if text.len() > room {
            self.cut();
        }
    }

    /// Not all of its text is looked into: whoever asks can know which records these are.
    pub(crate) fn cut(&mut self) {
        if !self.fields.iter().any(|(name, _)| *name == "cut") {
            self.field("cut", "true");
        }
    }
}

impl Query {
    /// Whether the document is among what is asked for: what an index answers, said of one record.
    pub(crate) fn matches(&self, document: &Document) -> bool {
        self.is_within(document.time)
            && self.terms.iter().all(|Term { negated, what }| {
                let found = match what {
                    What::Field(field, patterns) => {
                        patterns.iter().any(|pattern| document.has(field, pattern))
                    }
                    What::Words(phrase) => document.says(phrase),
                };
                found != *negated
            })
    }

    pub(crate) fn is_within(&self, time: Timestamp) -> bool {
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until)
    }
}

impl Document {
    fn has(&self, field: &Field, pattern: &Pattern) -> bool {
        self.fields.iter().any(|(name, value)| *name == field.name && pattern.matches(value))
    }

    fn says(&self, phrase: &Phrase) -> bool {
        let Phrase { words, prefix } = phrase;
        let mut needle = words.iter().flat_map(|word| [" ", word.as_str()]).collect::<String>();
        if !prefix {
            needle.push(' ');
        }
        // The text ends like a word within it.
        self.words.contains(&needle) || !prefix && self.words.ends_with(needle.trim_end())
    }
}

impl Pattern {
    fn matches(&self, value: &str) -> bool {
        if self.prefix { value.starts_with(&self.text) } else { value == self.text }
    }
}
