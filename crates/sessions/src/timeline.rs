//! What happened in a session, in order, streamed: memory does not grow with the session.
//!
//! Two passes. The first finds out what belongs to the session ([`Scope`]): a decision on a ticket is on record before the
//! request it is about, so one pass cannot know whose it is. The second tells it ([`Timeline`]).

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use portcullis_audit::{Record, Stored, StreamProgress};
use portcullis_core::{AuditId, Event, EventKind, Timestamp};
use serde::{Deserialize, Serialize};

use crate::discovery::Discovery;
use crate::step::Step;
use crate::summary::Summary;

/// The version of the timeline's JSON. Fields may be added without a new one; readers pass over what they do not know.
pub const TIMELINE_VERSION: u32 = 1;

/// How many items wait for an earlier request to end before they are told in spite of it.
const WINDOW: usize = 1024;

/// How many of those that were waited for in vain are remembered until they end.
const MOST_LATE: usize = 16_384;

/// How many held requests without a session are remembered while their session is being found out.
const MOST_HELD: usize = 16_384;

/// How many tickets of one session are told of. Of more, [`Summary::untold`] says so.
const MOST_TICKETS: usize = 16_384;

/// A whole timeline, for who can hold it in memory: see [`Timeline`] for who cannot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TimelineDocument {
    /// [`TIMELINE_VERSION`].
    pub v: u32,
    /// The session as a whole.
    pub session: Summary,
    /// What happened in it.
    pub items: Vec<Item>,
}

/// Something that happened in a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
#[non_exhaustive]
pub enum Item {
    /// A request.
    Request(Box<Step>),
    /// A grant's beginning or end, or a decision.
    Event(Box<Happening>),
    /// Requests that only ask what there is, in a row: of [`fold_discovery`](crate::fold_discovery) alone.
    Discovery(Discovery),
}

impl Item {
    /// When it began.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        match self {
            Self::Request(step) => step.received,
            Self::Event(event) => event.time,
            Self::Discovery(discovery) => discovery.time,
        }
    }

    /// Whether a reader's eye should stop here.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        match self {
            Self::Request(step) => step.failed,
            Self::Event(event) => matches!(event.event, EventKind::Denied | EventKind::Expired),
            Self::Discovery(_) => false,
        }
    }
}

/// A grant's beginning or end, or what became of a ticket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Happening {
    /// When.
    pub time: Timestamp,
    /// What.
    pub event: EventKind,
    /// Who did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why, in their words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<String>,
    /// The ticket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// What the ticket is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The rule that had it held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The profile of the grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The request it happened to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<AuditId>,
}

impl Happening {
    fn of(time: Timestamp, event: &Event) -> Self {
        let text = |name: &str| event.details.get(name).and_then(|value| value.as_str()).map(str::to_owned);
        let user = event.identity.as_ref().map(|identity| identity.user.clone());
        Self {
            time,
            event: event.kind,
            by: text("by").or(user),
            words: text("words").or_else(|| text("reason")).or_else(|| text("task")),
            ticket: event.ticket.clone(),
            command: text("command"),
            rule: text("rule"),
            profile: text("profile"),
            request: event.audit_id,
        }
    }

    /// The word for what happened.
    #[must_use]
    pub fn word(&self) -> String {
        let word = serde_json::to_value(self.event).unwrap_or_default();
        word.as_str().unwrap_or("event").to_owned()
    }
}

/// What belongs to a session: found in one pass over the log.
#[derive(Clone, Debug)]
pub struct Scope {
    summary: Summary,
    tickets: HashSet<String>,
    /// The indices of the first record that belongs to it, and after the last that was read.
    from: u64,
    to: u64,
}

impl Scope {
    /// Finds the session `id`; `None` if no record belongs to it. `now` and `idle` say whether it is
    /// [active](Summary::active).
    ///
    /// The records may be a whole log's, or as few as an index knows to be the session's and about its tickets.
    ///
    /// # Errors
    /// The records' own.
    pub fn find<E>(
        id: &str,
        records: impl IntoIterator<Item = Result<Stored, E>>,
        now: Timestamp,
        idle: Duration,
    ) -> Result<Option<Self>, E> {
        let mut finding = Finding { id, scope: None, held: HashMap::new(), order: VecDeque::new() };
        for stored in records {
            finding.record(&stored?);
        }
        Ok(finding.scope.map(|mut scope| {
            scope.summary.judge(now, idle);
            scope
        }))
    }

    /// The session as a whole.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// The index of the first record that belongs to it: where the second pass begins.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.from
    }

    /// The index after that of the last record that was read for it: where [`Following`](crate::Following) begins.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.to
    }

    fn includes(&self, event: &Event) -> bool {
        match event.kind {
            EventKind::Granted | EventKind::Revoked => event.grant.as_deref() == Some(&self.summary.id),
            EventKind::Held
            | EventKind::Approved
            | EventKind::Denied
            | EventKind::Expired
            | EventKind::Withdrawn
            | EventKind::Released => {
                event.ticket.as_ref().is_some_and(|ticket| self.tickets.contains(ticket))
            }
            // That an approval was claimed and spent is in the request itself.
            _ => false,
        }
    }
}

/// The session a request belongs to.
///
/// # Errors
/// The records' own.
pub fn session_of<E>(
    request: AuditId,
    records: impl IntoIterator<Item = Result<Stored, E>>,
) -> Result<Option<String>, E> {
    for stored in records {
        let (id, session) = match stored?.entry.record {
            Record::Intent(intent) => (intent.id, intent.session),
            Record::Outcome(outcome) => (outcome.id, outcome.session),
            _ => continue,
        };
        if id == request && session.is_some() {
            return Ok(session);
        }
    }
    Ok(None)
}

struct Finding<'a> {
    id: &'a str,
    scope: Option<Scope>,
    /// Tickets of requests whose session is not known yet, and the index of the record that tells of each.
    held: HashMap<AuditId, (String, u64)>,
    order: VecDeque<AuditId>,
}

impl Finding<'_> {
    fn record(&mut self, stored: &Stored) {
        let (time, index) = (stored.entry.time, stored.index);
        match &stored.entry.record {
            Record::Intent(intent) => {
                let held = self.held.get(&intent.id).cloned();
                if intent.session.as_deref() == Some(self.id) {
                    let scope = self.scope(index, time, held);
                    scope.summary.intent(time, intent);
                    scope.ticket(intent.approval.as_ref().map(|approval| &approval.ticket));
                }
            }
            Record::Outcome(outcome) => {
                let held = self.held.remove(&outcome.id);
                if outcome.session.as_deref() == Some(self.id) {
                    let of_event = held.as_ref().map(|(ticket, _)| ticket.clone());
                    let scope = self.scope(index, time, held);
                    scope.summary.outcome(time, outcome);
                    if !scope.ticket(outcome.ticket.as_ref().or(of_event.as_ref())) {
                        scope.summary.untold += 1;
                    }
                }
            }
            Record::Event(event) => self.event(index, time, event),
            _ => {}
        }
        if let Some(scope) = &mut self.scope {
            scope.to = index + 1;
        }
    }

    fn event(&mut self, index: u64, time: Timestamp, event: &Event) {
        match (event.kind, event.audit_id, &event.ticket) {
            (EventKind::Granted | EventKind::Revoked, ..) if event.grant.as_deref() == Some(self.id) => {
                self.scope(index, time, None).summary.event(time, event);
            }
            (EventKind::Held, Some(request), Some(ticket)) => {
                if self.held.insert(request, (ticket.clone(), index)).is_none() {
                    self.order.push_back(request);
                }
                while self.order.len() > MOST_HELD {
                    self.order.pop_front().map(|oldest| self.held.remove(&oldest));
                }
            }
            _ => {}
        }
    }

    fn scope(&mut self, index: u64, time: Timestamp, held: Option<(String, u64)>) -> &mut Scope {
        let id = self.id;
        let scope = self.scope.get_or_insert_with(|| Scope {
            summary: Summary::new(id, time),
            tickets: HashSet::new(),
            from: index,
            to: index,
        });
        if let Some((ticket, since)) = held {
            scope.from = scope.from.min(since);
            scope.ticket(Some(&ticket));
        }
        scope
    }
}

impl Scope {
    /// What becomes of this ticket is told from now on; whether it is.
    fn ticket(&mut self, ticket: Option<&String>) -> bool {
        let Some(ticket) = ticket else { return true };
        if self.tickets.len() < MOST_TICKETS {
            self.tickets.insert(ticket.clone());
        }
        self.tickets.contains(ticket)
    }
}

/// Tells what happened in a session, in the order in which it began.
///
/// A request is told when it has ended, with all that came of it. Those that began after one that is still open wait for it,
/// up to 1024 of them; then they are told, and the one that takes so long is told when it ends. What is still open at the
/// end of the records is told last, as running. Of more than 16,384 that take so long, the oldest are told as running when
/// another comes, and once more when they end.
pub struct Timeline<I> {
    records: I,
    scope: Scope,
    waiting: VecDeque<Waiting>,
    /// Requests that were waited for in vain.
    late: BTreeMap<AuditId, Step>,
    most_late: usize,
    /// Items that can be told.
    ready: VecDeque<Item>,
    over: bool,
}

enum Waiting {
    /// It is held, and not on record itself yet: this is where it belongs.
    Held(AuditId),
    Open(Box<Step>),
    Done(Item),
}

impl<I> Timeline<I> {
    /// The second pass: the same records as the first was made over, or those from [`Scope::first`] on.
    pub fn new(scope: Scope, records: I) -> Self {
        Self {
            records,
            scope,
            waiting: VecDeque::new(),
            late: BTreeMap::new(),
            most_late: MOST_LATE,
            ready: VecDeque::new(),
            over: false,
        }
    }

    /// The session as a whole.
    pub fn summary(&self) -> &Summary {
        &self.scope.summary
    }

    fn record(&mut self, stored: Stored) {
        let time = stored.entry.time;
        let ours = |session: &Option<String>| session.as_deref() == Some(&self.scope.summary.id);
        match stored.entry.record {
            Record::Intent(intent) if ours(&intent.session) => {
                let (id, open) = (intent.id, Waiting::Open(Box::new(Step::begun(&intent))));
                self.place(id, open);
            }
            Record::Outcome(outcome) if ours(&outcome.session) => {
                if let Some(mut step) = self.late.remove(&outcome.id) {
                    step.finish(time, &outcome);
                    return self.ready.push_back(Item::Request(Box::new(step)));
                }
                match self.open(outcome.id) {
                    Some(waiting) => waiting.end(|step| step.finish(time, &outcome)),
                    None => {
                        let step = Box::new(Step::not_forwarded(time, &outcome));
                        self.place(outcome.id, Waiting::Done(Item::Request(step)));
                    }
                }
            }
            Record::Event(event) => {
                if self.scope.includes(&event) {
                    if let (EventKind::Held, Some(request)) = (event.kind, event.audit_id)
                        && self.open(request).is_none()
                    {
                        self.waiting.push_back(Waiting::Held(request));
                    }
                    self.done(Item::Event(Box::new(Happening::of(time, &event))));
                } else if let Some((id, progress)) = event.audit_id.zip(StreamProgress::of(&event)) {
                    if let Some(step) = self.late.get_mut(&id) {
                        step.progress(progress);
                    } else if let Some(Waiting::Open(step)) = self.open(id) {
                        step.progress(progress);
                    }
                }
            }
            _ => {}
        }
        self.settle();
    }

    fn done(&mut self, item: Item) {
        self.waiting.push_back(Waiting::Done(item));
    }

    /// Puts a request where it was waited for, or else at the end.
    fn place(&mut self, id: AuditId, request: Waiting) {
        let held = |waiting: &&mut Waiting| matches!(waiting, Waiting::Held(held) if *held == id);
        match self.waiting.iter_mut().rev().find(held) {
            Some(place) => *place = request,
            None => self.waiting.push_back(request),
        }
    }

    fn open(&mut self, id: AuditId) -> Option<&mut Waiting> {
        // Most requests are short: the newest are the likeliest.
        self.waiting.iter_mut().rev().find(|waiting| matches!(waiting, Waiting::Open(step) if step.id == id))
    }

    /// Makes ready what waits for nothing any more.
    fn settle(&mut self) {
        loop {
            match self.waiting.pop_front() {
                Some(Waiting::Done(item)) => self.ready.push_back(item),
                Some(Waiting::Open(step)) if self.waiting.len() >= WINDOW => {
                    self.late.insert(step.id, *step);
                    if self.late.len() > self.most_late {
                        // Ids are in the order of time.
                        let oldest = self.late.pop_first().map(|(_, step)| Item::Request(Box::new(step)));
                        self.ready.extend(oldest);
                    }
                }
                // Its own record will put it where that stands.
                Some(Waiting::Held(_)) if self.waiting.len() >= WINDOW => {}
                Some(open) => return self.waiting.push_front(open),
                None => return,
            }
        }
    }

    fn finish(&mut self) {
        self.over = true;
        let mut late: Vec<Step> = std::mem::take(&mut self.late).into_values().collect();
        late.sort_by_key(|step| step.received);
        self.ready.extend(late.into_iter().map(|step| Item::Request(Box::new(step))));
        for waiting in std::mem::take(&mut self.waiting) {
            match waiting {
                Waiting::Open(step) => self.ready.push_back(Item::Request(step)),
                Waiting::Done(item) => self.ready.push_back(item),
                Waiting::Held(_) => {}
            }
        }
    }
}

impl Waiting {
    fn end(&mut self, finish: impl FnOnce(&mut Step)) {
        let Self::Open(step) = self else { return };
        finish(step);
        *self = Self::Done(Item::Request(step.clone()));
    }
}

impl<I, E> Iterator for Timeline<I>
where
    I: Iterator<Item = Result<Stored, E>>,
{
    type Item = Result<Item, E>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(Ok(item));
            }
            if self.over {
                return None;
            }
            match self.records.next() {
                // What has been written since the first pass is not told: the summary does not know it.
                Some(Ok(stored)) if stored.index >= self.scope.to => self.finish(),
                Some(Ok(stored)) => self.record(stored),
                Some(Err(error)) => {
                    self.over = true;
                    return Some(Err(error));
                }
                None => self.finish(),
            }
        }
    }
}

impl<I> std::fmt::Debug for Timeline<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Timeline").field("scope", &self.scope).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::State;
    use crate::tests::{Log, With, exit};

    #[tokio::test]
    async fn of_too_many_that_stay_open_the_oldest_are_told_as_running_and_again_when_they_end() {
        let log = Log::new();
        let (mut ids, mut stages) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            let (id, stage) = log.stream("/pods/web/exec?command=sleep", With::default()).await;
            ids.push(id);
            stages.push(stage);
        }
        for _ in 0..WINDOW {
            log.request("/pods/web", With::default()).await;
        }
        exit(stages.remove(0), 0).await;
        exit(stages.pop().unwrap(), 0).await;
        let session = log.list()[0].id.clone();
        let scope = log.scope(&session);
        let mut timeline = Timeline::new(scope.clone(), log.reader().records(scope.first()).unwrap());
        timeline.most_late = 2;
        let mut told = Vec::new();
        while let Some(item) = timeline.next() {
            assert!(timeline.late.len() <= 2);
            let Item::Request(step) = item.unwrap() else { continue };
            if let Some(nth) = ids.iter().position(|id| *id == step.id) {
                told.push((nth, step.state, step.forwarded));
            }
        }
        let (running, ended) = (State::Running, State::Completed);
        assert_eq!(
            told,
            [(0, running, true), (1, running, true), (0, ended, true), (3, ended, true), (2, running, true)]
        );
    }

    #[tokio::test]
    async fn whose_tickets_are_too_many_is_told_that_some_are_left_out() {
        let log = Log::new();
        log.held("/pods/web", "t-1").await;
        let session = log.list()[0].id.clone();
        let mut scope = log.scope(&session);
        assert_eq!((scope.tickets.len(), scope.summary().untold), (1, 0));
        scope.tickets.extend((1..MOST_TICKETS).map(|nth| format!("other-{nth}")));
        assert!(scope.ticket(Some(&"t-1".to_owned())) && scope.ticket(None));
        assert!(!scope.ticket(Some(&"t-2".to_owned())));
        let records = log.reader().records(0).unwrap().map(Result::unwrap);
        scope.tickets.remove("t-1");
        scope.tickets.insert("one more".into());
        let mut finding =
            Finding { id: &session, scope: Some(scope), held: HashMap::new(), order: VecDeque::new() };
        records.for_each(|stored| finding.record(&stored));
        assert_eq!(finding.scope.unwrap().summary().untold, 1);
    }
}
