//! Held requests from end to end, over a store in memory, in paused time.

mod deciding;
mod previews;
mod using;
mod waiting;

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use portcullis_core::{
    Approval, Approvers, AuditId, Body, BoxFuture, CommitHooks, Decision, Event, EventKind, EventSink,
    HoldTerms, Identity, IntentLookup, MemorySink, Receipt, RecordError, Refusal, RequestInfo, SharedClock,
    Timestamp, Verdict, refuse,
};
use tokio::{task::JoinHandle, time::Instant};
use tower::{ServiceExt, service_fn};
use tower_layer::Layer;

use crate::{HoldLayer, MemoryTicketStore, Notice, Notifier, Ticket, TicketQuery, Tickets, TicketsBuilder};

/// A person or bot.
fn who(name: &str, groups: &[&str]) -> Identity {
    Identity {
        issuer: "https://idp".into(),
        subject: format!("sub-{name}"),
        user: name.into(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        ..Identity::default()
    }
}

fn ann() -> Identity {
    who("ann", &["sre"])
}

/// The wall clock, running with tokio's.
fn clock() -> SharedClock {
    let start = Instant::now();
    Arc::new(move || Timestamp::from_second(1_700_000_000).unwrap() + start.elapsed())
}

fn terms(quorum: u32) -> HoldTerms {
    let approvers = Approvers { groups: vec!["sre".into()], users: vec![] };
    HoldTerms { approvers, quorum, hold_for: None, expires_after: None }
}

/// A `POST` that a rule of the policy holds.
fn held(path: &str, body: &'static str, terms: HoldTerms) -> Request<Body> {
    let mut request =
        Request::post(path).header("content-type", "application/json").body(Body::from(body)).unwrap();
    let verdict = Verdict {
        decision: Decision::Hold(terms),
        rule: Some("big-refunds".into()),
        message: Some("refunds over 100".into()),
        ..Verdict::default()
    };
    request.extensions_mut().insert(verdict);
    request.extensions_mut().insert(who("bot", &[]));
    request.extensions_mut().insert(AuditId::generate());
    request
}

fn refund() -> Request<Body> {
    held("/refunds", r#"{"amount":200}"#, terms(1))
}

/// A log that can fail, and that knows intents.
#[derive(Default)]
struct Log {
    events: MemorySink,
    failing: AtomicBool,
    intents: Mutex<Vec<AuditId>>,
}

impl EventSink for Log {
    fn record(&self, event: Event) -> BoxFuture<'_, Result<Receipt, RecordError>> {
        match self.failing.load(Ordering::SeqCst) {
            true => Box::pin(std::future::ready(Err(RecordError("disk full".into())))),
            false => self.events.record(event),
        }
    }
}

impl IntentLookup for Log {
    fn has_intent(&self, id: AuditId) -> BoxFuture<'_, Result<bool, RecordError>> {
        let has = self.intents.lock().unwrap_or_else(PoisonError::into_inner).contains(&id);
        Box::pin(std::future::ready(Ok(has)))
    }
}

/// What the inner service does with a request that gets there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inner {
    /// Answers it.
    Answers,
    /// Runs the commit hooks, then answers, as a stack with a commit layer does.
    Commits,
    /// Refuses it before the hooks run, as a commit layer does whose log is full.
    RefusesToCommit,
    /// Puts its intent in the log and hangs before the hooks run.
    HangsBeforeHooks,
    /// Hangs before anything is in the log.
    HangsBeforeIntent,
    /// Runs the hooks, and never answers.
    HangsAfterCommit,
    /// Runs the hooks, and answers that the upstream did not.
    CommitsAndLosesTheAnswer,
}

/// What the inner service saw.
#[derive(Clone, Debug)]
struct Seen {
    body: Bytes,
    approval: Option<Approval>,
}

/// A service with a hold layer, and everything around it.
struct Harness {
    tickets: Tickets,
    log: Arc<Log>,
    store: Arc<MemoryTicketStore>,
    layer: HoldLayer,
    inner: Mutex<Inner>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Harness {
    fn new() -> Self {
        Self::with(|tickets| tickets, |layer| layer)
    }

    /// A stack with a commit layer inside.
    fn committing(inner: Inner) -> Self {
        let mut harness = Self::new();
        harness.inner = Mutex::new(inner);
        harness.layer = harness.layer.clone().spend_at_commit("origin-1", harness.log.clone());
        harness
    }

    fn with(
        tickets: impl FnOnce(TicketsBuilder) -> TicketsBuilder,
        layer: impl FnOnce(HoldLayer) -> HoldLayer,
    ) -> Self {
        let (log, store) = (Arc::new(Log::default()), Arc::new(MemoryTicketStore::new()));
        let tickets = tickets(Tickets::builder(store.clone(), log.clone()).clock(clock())).build();
        let layer = layer(HoldLayer::new(tickets.clone()));
        Self { tickets, log, store, layer, inner: Mutex::new(Inner::Answers), seen: Arc::default() }
    }

    fn now_inner(&self, inner: Inner) {
        *self.inner.lock().unwrap() = inner;
    }

    /// Sends a request, in a task: it may wait.
    fn send(&self, request: Request<Body>) -> JoinHandle<Response<Body>> {
        let (seen, log, inner) = (self.seen.clone(), self.log.clone(), *self.inner.lock().unwrap());
        let service = self.layer.layer(service_fn(move |request: Request<Body>| {
            let (seen, log) = (seen.clone(), log.clone());
            async move { Ok::<_, Infallible>(answer(inner, &seen, &log, request).await) }
        }));
        tokio::spawn(async move { service.oneshot(request).await.unwrap() })
    }

    /// Sends a request that will wait, and returns its ticket as well.
    async fn send_and_see(&self, request: Request<Body>) -> (JoinHandle<Response<Body>>, Ticket) {
        let mut changes = self.tickets.changes();
        let answer = self.send(request);
        loop {
            let id = changes.recv().await.unwrap();
            let ticket = self.tickets.find(&id).await.unwrap();
            if ticket.version == 1 {
                return (answer, ticket);
            }
        }
    }

    async fn pending(&self) -> Vec<Ticket> {
        self.tickets.list(&ann(), &TicketQuery::pending()).await.unwrap()
    }

    async fn state(&self, ticket: &Ticket) -> String {
        self.tickets.find(&ticket.id).await.unwrap().state.name().to_owned()
    }

    /// Waits until the ticket is in this state.
    async fn until(&self, ticket: &Ticket, state: &str) {
        while self.state(ticket).await != state {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// That the request was refused with this, and the inner service has seen `seen` requests.
    async fn check_refused(&self, response: Response<Body>, status: u16, code: &str, seen: usize) -> Refusal {
        let refusal = response.extensions().get::<Refusal>().unwrap().clone();
        assert_eq!((response.status().as_u16(), refusal.code()), (status, code), "{}", refusal.message());
        assert_eq!(self.seen().len(), seen, "the inner service saw {:?}", self.seen());
        refusal
    }

    fn kinds(&self) -> Vec<EventKind> {
        self.log.events.kinds()
    }
}

async fn answer(inner: Inner, seen: &Mutex<Vec<Seen>>, log: &Log, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let id = *parts.extensions.get::<AuditId>().unwrap();
    let commit = || async {
        log.intents.lock().unwrap().push(id);
        let hooks = parts.extensions.get::<CommitHooks>().cloned().unwrap_or_default();
        hooks.run(&Receipt { origin: "origin-1".into(), index: 7, durable: true }).await
    };
    match inner {
        Inner::Answers => {}
        Inner::RefusesToCommit => {
            return refuse(&parts.extensions, Refusal::unavailable("audit/unavailable", "disk full"));
        }
        Inner::HangsBeforeIntent => std::future::pending().await,
        Inner::HangsBeforeHooks => {
            log.intents.lock().unwrap().push(id);
            std::future::pending().await
        }
        Inner::Commits | Inner::HangsAfterCommit | Inner::CommitsAndLosesTheAnswer => {
            if let Err(refusal) = commit().await {
                return refuse(&parts.extensions, refusal);
            }
        }
    }
    let approval = parts.extensions.get::<Approval>().cloned();
    let body = body.collect().await.unwrap().to_bytes();
    seen.lock().unwrap().push(Seen { body, approval });
    match inner {
        Inner::HangsAfterCommit => std::future::pending().await,
        Inner::CommitsAndLosesTheAnswer => refuse(
            &parts.extensions,
            Refusal::new(portcullis_core::Reason::BadGateway, "upstream/lost", "reset"),
        ),
        _ => Response::new(Body::from("done")),
    }
}
