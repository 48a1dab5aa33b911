//! Everything people and requests do with tickets: the one place that changes them.
//!
//! # Invariants
//!
//! * A held request, an approval and a denial are on record before they have any effect, and before anybody is told.
//! * A ticket changes only by a transition of [`ticket`](crate::ticket), from the version that was read.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use portcullis_core::{
    AuditId, Event, EventKind, EventSink, Identity, IntentLookup, Receipt, SharedClock, SystemClock,
    Timestamp,
};
use serde_json::json;
use tokio::sync::broadcast;

use crate::{
    error::TicketError,
    notify::{Notice, Notifier},
    store::{TicketQuery, TicketStore},
    ticket::{Claim, Ticket, TicketState, after},
};

/// How often a change is tried against others that change the same ticket.
const ATTEMPTS: usize = 16;
/// How many changes a slow listener may be behind before it must look for itself.
const CHANGES_KEPT: usize = 1024;

/// How long an approval can be used, if the request does not wait for it.
const USABLE_FOR: Duration = Duration::from_secs(15 * 60);
/// How long the end of a ticket is kept for a client that has not been told.
const LINGERS_FOR: Duration = Duration::from_secs(10 * 60);
/// How long tickets are kept for people to look at; the audit log keeps what happened.
const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

type Owners = Arc<dyn Fn(&Identity) -> Vec<String> + Send + Sync>;

/// The tickets of a service: what people decide on, and requests wait for. Clones share everything.
#[derive(Clone)]
pub struct Tickets(Arc<Inner>);

struct Inner {
    store: Arc<dyn TicketStore>,
    events: Arc<dyn EventSink>,
    settings: Settings,
    changes: broadcast::Sender<String>,
    /// Tickets that requests of this process have claimed and not settled, and how many such requests.
    under_way: Mutex<HashMap<String, usize>>,
}

#[derive(Clone)]
struct Settings {
    clock: SharedClock,
    notifiers: Vec<Arc<dyn Notifier>>,
    owners: Owners,
    usable_for: Duration,
    lingers_for: Duration,
    kept_for: Duration,
}

/// Puts [`Tickets`] together.
pub struct TicketsBuilder {
    store: Arc<dyn TicketStore>,
    events: Arc<dyn EventSink>,
    settings: Settings,
}

impl TicketsBuilder {
    /// Where the time comes from; the system's clock by default.
    #[must_use]
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.settings.clock = clock;
        self
    }

    /// One more who tells people.
    #[must_use]
    pub fn notifier(mut self, notifier: Arc<dyn Notifier>) -> Self {
        self.settings.notifiers.push(notifier);
        self
    }

    /// Who owns a bot, by user name: they do not decide on its requests. Delegation chains count anyway.
    #[must_use]
    pub fn owners(mut self, owners: impl Fn(&Identity) -> Vec<String> + Send + Sync + 'static) -> Self {
        self.settings.owners = Arc::new(owners);
        self
    }

    /// How long an approval can be used by a request that did not wait for it; 15 minutes by default.
    #[must_use]
    pub fn usable_for(mut self, usable_for: Duration) -> Self {
        self.settings.usable_for = usable_for;
        self
    }

    /// How long the end of a ticket is kept for a client that has not been told of it; 10 minutes by default.
    #[must_use]
    pub fn lingers_for(mut self, lingers_for: Duration) -> Self {
        self.settings.lingers_for = lingers_for;
        self
    }

    /// How long tickets are kept for people to look at; 30 days by default. The audit log keeps what happened.
    #[must_use]
    pub fn kept_for(mut self, kept_for: Duration) -> Self {
        self.settings.kept_for = kept_for;
        self
    }

    /// The tickets.
    pub fn build(self) -> Tickets {
        Tickets(Arc::new(Inner {
            store: self.store,
            events: self.events,
            settings: self.settings,
            changes: broadcast::Sender::new(CHANGES_KEPT),
            under_way: Mutex::default(),
        }))
    }
}

/// What people do.
impl Tickets {
    /// Tickets that are kept in `store`, and whose story is recorded in `events`.
    pub fn new(store: Arc<dyn TicketStore>, events: Arc<dyn EventSink>) -> Self {
        Self::builder(store, events).build()
    }

    /// The same, with settings.
    pub fn builder(store: Arc<dyn TicketStore>, events: Arc<dyn EventSink>) -> TicketsBuilder {
        let settings = Settings {
            clock: Arc::new(SystemClock),
            notifiers: Vec::new(),
            owners: Arc::new(|_| Vec::new()),
            usable_for: USABLE_FOR,
            lingers_for: LINGERS_FOR,
            kept_for: KEPT_FOR,
        };
        TicketsBuilder { store, events, settings }
    }

    /// Tickets that `viewer` may look at, the newest first.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn list(&self, viewer: &Identity, query: &TicketQuery) -> Result<Vec<Ticket>, TicketError> {
        let mut visible = Vec::new();
        let mut query = query.clone();
        loop {
            let page = self.0.store.list(&query).await?;
            let Some(last) = page.last() else { return Ok(visible) };
            query.older_than = Some(last.id.clone());
            for ticket in page.into_iter().filter(|ticket| ticket.is_visible_to(viewer)) {
                visible.push(ticket);
                if visible.len() == query.limit() {
                    return Ok(visible);
                }
            }
        }
    }

    /// A ticket that `viewer` may look at.
    ///
    /// # Errors
    ///
    /// [`TicketError::NotFound`] also when they may not.
    pub async fn show(&self, viewer: &Identity, id: &str) -> Result<Ticket, TicketError> {
        let ticket = self.find(id).await?;
        if ticket.is_visible_to(viewer) { Ok(ticket) } else { Err(TicketError::NotFound) }
    }

    /// Approves a ticket. What `by` may not see does not exist for them.
    ///
    /// # Errors
    ///
    /// When it is not theirs to approve, not waiting, or the approval cannot be recorded.
    ///
    /// # Cancellation
    ///
    /// Dropping the future may leave the approval recorded and not in effect; approve again.
    pub async fn approve(
        &self,
        id: &str,
        by: &Identity,
        comment: Option<String>,
    ) -> Result<Ticket, TicketError> {
        self.decide(id, by, EventKind::Approved, comment).await
    }

    /// Denies a ticket; also one that others have approved, as long as no request has taken the approval up.
    ///
    /// # Errors
    ///
    /// As [`approve`](Self::approve).
    ///
    /// # Cancellation
    ///
    /// As [`approve`](Self::approve).
    pub async fn deny(&self, id: &str, by: &Identity, reason: Option<String>) -> Result<Ticket, TicketError> {
        self.decide(id, by, EventKind::Denied, reason).await
    }

    /// Takes a ticket back, for the one who asked.
    ///
    /// # Errors
    ///
    /// When it is not theirs, or not waiting any more.
    pub async fn withdraw(&self, id: &str, by: &Identity) -> Result<Ticket, TicketError> {
        let ticket = self.show(by, id).await?;
        if !ticket.identity.is_same_principal(by) {
            return Err(TicketError::NotFound);
        }
        self.withdraw_because(id, None, "the requester took it back").await
    }

    /// The ids of tickets, as they change in this process. Who falls behind ([`broadcast::error::RecvError::Lagged`])
    /// must look for themselves, and so must who cares for what other replicas do.
    pub fn changes(&self) -> broadcast::Receiver<String> {
        self.0.changes.subscribe()
    }

    async fn decide(
        &self,
        id: &str,
        by: &Identity,
        kind: EventKind,
        words: Option<String>,
    ) -> Result<Ticket, TicketError> {
        self.show(by, id).await?;
        let mut recorded = false;
        for _ in 0..ATTEMPTS {
            let now = self.now();
            let mut ticket = self.find(id).await?;
            let owners = (self.0.settings.owners)(&ticket.identity);
            match kind {
                EventKind::Approved => {
                    ticket.approve(by, words.clone(), &owners, now, self.0.settings.usable_for)?;
                }
                _ => ticket.deny(by, words.clone(), &owners, now)?,
            }
            if !recorded {
                let event =
                    self.event(kind, &ticket).by(by).with("missingApprovals", ticket.missing_approvals());
                let event = match &words {
                    Some(words) => event.with("words", words.as_str()),
                    None => event,
                };
                self.0.events.record(event).await?;
                recorded = true;
            }
            if self.replace(&mut ticket).await? {
                if !matches!(ticket.state, TicketState::Pending) {
                    self.notify(Notice::Decided(Box::new(ticket.clone())));
                }
                return Ok(ticket);
            }
        }
        Err(TicketError::Busy)
    }
}

/// What time does.
impl Tickets {
    /// Ends tickets whose time is up, and forgets those nobody needs any more. To be called every few seconds; returns how
    /// many it ended.
    ///
    /// # Errors
    ///
    /// When the store or the log fails; the next call goes on.
    pub async fn sweep(&self) -> Result<usize, TicketError> {
        let now = self.now();
        let query = TicketQuery { overdue_at: Some(now), limit: 500, ..TicketQuery::default() };
        let overdue = self.0.store.list(&query).await?;
        let mut ended = 0;
        for ticket in overdue {
            match self.expire(&ticket.id).await {
                Ok(_) => ended += 1,
                Err(TicketError::WrongState(_) | TicketError::Busy | TicketError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        let ended_and_untold =
            TicketQuery { open: true, limit: 500, ..TicketQuery::in_states(["denied", "expired", "spent"]) };
        for ticket in self.0.store.list(&ended_and_untold).await? {
            self.let_go_if_stale(&ticket).await?;
        }
        self.0.store.forget(before(now, self.0.settings.kept_for)).await?;
        Ok(ended)
    }

    /// Settles the claims that this replica held when it stopped: those whose intent is in its log are spent, with an
    /// outcome that nobody knows; the others can be used again. To be called once, before the first request, with the
    /// origin of this replica's log. Returns how many it settled.
    ///
    /// # Errors
    ///
    /// When the store fails, or the log cannot be read: then nothing may be assumed, and no request may be served.
    pub async fn recover(&self, origin: &str, intents: &dyn IntentLookup) -> Result<usize, TicketError> {
        let mut query = TicketQuery { limit: 500, ..TicketQuery::in_states(["claimed"]) };
        let mut settled = 0;
        loop {
            let page = self.0.store.list(&query).await?;
            for ticket in &page {
                let TicketState::Claimed { claim, .. } = &ticket.state else { continue };
                if claim.origin == origin {
                    self.settle(&ticket.id, claim, Some(intents)).await?;
                    settled += 1;
                }
            }
            match page.last() {
                Some(last) => query.older_than = Some(last.id.clone()),
                None => return Ok(settled),
            }
        }
    }

    pub(crate) async fn expire(&self, id: &str) -> Result<Ticket, TicketError> {
        let (ticket, ()) = self.change(id, |ticket, now| ticket.expire(now)).await?;
        let kind = match ticket.state {
            TicketState::Spent { .. } => EventKind::Spent,
            _ => EventKind::Expired,
        };
        self.0.events.record(self.event(kind, &ticket)).await?;
        self.notify(Notice::Decided(Box::new(ticket.clone())));
        Ok(ticket)
    }

    /// A claim whose request is gone: spent, if its intent is in the log; else usable again.
    pub(crate) async fn settle(
        &self,
        id: &str,
        claim: &Claim,
        intents: Option<&dyn IntentLookup>,
    ) -> Result<(), TicketError> {
        let is_used = match intents {
            Some(intents) => intents.has_intent(claim.audit_id).await?,
            None => false,
        };
        match is_used {
            true => self.spend(id, claim, None).await,
            false => self.release(id, claim).await,
        }
    }
}

/// What requests do.
impl Tickets {
    pub(crate) fn now(&self) -> Timestamp {
        self.0.settings.clock.now()
    }

    /// The open ticket for a digest, unless its end has waited for its client long enough.
    pub(crate) async fn find_open(&self, digest: &str) -> Result<Option<Ticket>, TicketError> {
        match self.0.store.find_open(digest).await? {
            Some(ticket) if self.let_go_if_stale(&ticket).await? => Ok(None),
            found => Ok(found),
        }
    }

    /// Opens a ticket, or returns the open one that says the same. On record before it exists, and before anybody is told.
    pub(crate) async fn open(&self, ticket: Ticket) -> Result<Ticket, TicketError> {
        let event =
            self.event(EventKind::Held, &ticket).by(&ticket.identity).request(ticket.request.audit_id);
        self.0.events.record(event).await?;
        if let Some(existing) = self.0.store.open(&ticket).await? {
            return Ok(existing);
        }
        metrics::counter!("portcullis_hold_tickets_total", "state" => "pending").increment(1);
        self.changed(&ticket.id);
        self.notify(Notice::Held(Box::new(ticket.clone())));
        Ok(ticket)
    }

    pub(crate) async fn find(&self, id: &str) -> Result<Ticket, TicketError> {
        self.0.store.find(id).await?.ok_or(TicketError::NotFound)
    }

    pub(crate) async fn open_tickets_of(
        &self,
        identity: &Identity,
        limit: u32,
    ) -> Result<usize, TicketError> {
        let requester = Some((identity.issuer.clone(), identity.subject.clone()));
        let query = TicketQuery { requester, limit, ..TicketQuery::pending() };
        Ok(self.0.store.list(&query).await?.len())
    }

    pub(crate) async fn claim(&self, id: &str, claim: &Claim) -> Result<Ticket, TicketError> {
        let (ticket, ()) = self.change(id, |ticket, now| ticket.claim(claim.clone(), now)).await?;
        let event =
            self.event(EventKind::Claimed, &ticket).request(Some(claim.audit_id)).by(&ticket.identity);
        if let Err(error) = self.0.events.record(event).await {
            self.release(id, claim).await?;
            return Err(error.into());
        }
        Ok(ticket)
    }

    pub(crate) async fn release(&self, id: &str, claim: &Claim) -> Result<(), TicketError> {
        let (ticket, ()) = self.change(id, |ticket, now| ticket.release(claim, now)).await?;
        self.0.events.record(self.event(EventKind::Released, &ticket).request(Some(claim.audit_id))).await?;
        Ok(())
    }

    pub(crate) async fn spend(
        &self,
        id: &str,
        claim: &Claim,
        receipt: Option<Receipt>,
    ) -> Result<(), TicketError> {
        let (ticket, ()) = self.change(id, |ticket, now| ticket.spend(claim, receipt.clone(), now)).await?;
        let event = self.event(EventKind::Spent, &ticket).request(Some(claim.audit_id)).by(&ticket.identity);
        self.0.events.record(event).await?;
        Ok(())
    }

    pub(crate) async fn finish(&self, id: &str, claim: &Claim, status: u16) -> Result<(), TicketError> {
        self.change(id, |ticket, now| ticket.finish(claim, status, now)).await.map(drop)
    }

    pub(crate) async fn withdraw_because(
        &self,
        id: &str,
        mine: Option<&Claim>,
        reason: &str,
    ) -> Result<Ticket, TicketError> {
        let (ticket, ()) = self.change(id, |ticket, now| ticket.withdraw(mine, reason, now)).await?;
        self.0.events.record(self.event(EventKind::Withdrawn, &ticket).with("reason", reason)).await?;
        self.notify(Notice::Decided(Box::new(ticket.clone())));
        Ok(ticket)
    }

    /// The client is being told how it ended: an identical request from now on is a new one.
    pub(crate) async fn answered(&self, id: &str) -> Result<(), TicketError> {
        match self.change(id, |ticket, now| ticket.answer(now)).await {
            Ok(_) | Err(TicketError::WrongState(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Marks a spent ticket as being answered by this process, until the guard is dropped.
    pub(crate) fn under_way(&self, id: &str) -> UnderWay {
        *self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner).entry(id.to_owned()).or_default() +=
            1;
        UnderWay { tickets: self.clone(), id: id.to_owned() }
    }

    pub(crate) fn is_under_way(&self, id: &str) -> bool {
        self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }

    /// Whether the ticket's end has waited for its client for too long; then it waits no more.
    async fn let_go_if_stale(&self, ticket: &Ticket) -> Result<bool, TicketError> {
        let is_stale = |ended: Timestamp| after(ended, self.0.settings.lingers_for) <= self.now();
        if ticket.answered || self.is_under_way(&ticket.id) || !ticket.state.ended_at().is_some_and(is_stale)
        {
            return Ok(false);
        }
        self.answered(&ticket.id).await.map(|()| true)
    }
}

/// How tickets change.
impl Tickets {
    /// Applies a transition to the newest version of a ticket, until nobody else was faster.
    async fn change<T>(
        &self,
        id: &str,
        mut transition: impl FnMut(&mut Ticket, Timestamp) -> Result<T, TicketError>,
    ) -> Result<(Ticket, T), TicketError> {
        for _ in 0..ATTEMPTS {
            let mut ticket = self.find(id).await?;
            let result = transition(&mut ticket, self.now())?;
            if self.replace(&mut ticket).await? {
                return Ok((ticket, result));
            }
        }
        Err(TicketError::Busy)
    }

    async fn replace(&self, ticket: &mut Ticket) -> Result<bool, TicketError> {
        ticket.version += 1;
        let done = self.0.store.replace(ticket).await?;
        if done {
            metrics::counter!("portcullis_hold_tickets_total", "state" => ticket.state.name()).increment(1);
            self.changed(&ticket.id);
        }
        Ok(done)
    }

    fn changed(&self, id: &str) {
        // Nobody listening is no error.
        let _ = self.0.changes.send(id.to_owned());
    }

    fn notify(&self, notice: Notice) {
        for notifier in &self.0.settings.notifiers {
            let (notifier, notice) = (notifier.clone(), notice.clone());
            tokio::spawn(async move { notifier.notify(&notice).await });
        }
    }

    fn event(&self, kind: EventKind, ticket: &Ticket) -> Event {
        Event::new(kind)
            .ticket(&ticket.id)
            .with("rule", ticket.rule.as_str())
            .with("digest", ticket.digest.as_str())
            .with("command", ticket.request.command.as_str())
            .with("requester", ticket.identity.user.as_str())
            .with(
                "approvers",
                json!(ticket.approvals.iter().map(|approval| &approval.by.user).collect::<Vec<_>>()),
            )
    }
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for TicketsBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TicketsBuilder").finish_non_exhaustive()
    }
}

/// A spent ticket whose request is being answered by this process.
pub(crate) struct UnderWay {
    tickets: Tickets,
    id: String,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut under_way = self.tickets.0.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = under_way.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.id);
            }
        }
    }
}

fn before(now: Timestamp, length: Duration) -> Timestamp {
    now.checked_sub(length).unwrap_or(Timestamp::MIN)
}

/// The id of a new ticket: ordered by time, as the store lists them.
pub(crate) fn new_id() -> String {
    AuditId::generate().to_string()
}
