//! Where tickets are kept.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use portcullis_core::{BoxFuture, Timestamp};

use crate::{error::StoreError, ticket::Ticket};

/// Keeps tickets. One primitive makes every transition atomic: [`replace`](Self::replace) exchanges a ticket for its
/// next version only if nobody has changed it since it was read.
///
/// An implementation is right if it passes [`conformance`](crate::conformance).
pub trait TicketStore: Send + Sync + 'static {
    /// Keeps a new ticket, unless there is an open one with the same digest: then that one is returned, and nothing is
    /// kept. Of any number of concurrent calls with the same digest, one keeps its ticket.
    fn open<'a>(&'a self, ticket: &'a Ticket) -> BoxFuture<'a, Result<Option<Ticket>, StoreError>>;

    /// The ticket with this id.
    fn find<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Ticket>, StoreError>>;

    /// The open ticket with this digest.
    fn find_open<'a>(&'a self, digest: &'a str) -> BoxFuture<'a, Result<Option<Ticket>, StoreError>>;

    /// Tickets, the newest first.
    fn list<'a>(&'a self, query: &'a TicketQuery) -> BoxFuture<'a, Result<Vec<Ticket>, StoreError>>;

    /// Keeps `ticket` instead of the version before it (`ticket.version - 1`), and says whether it did: `false` if that
    /// is not the version it has.
    fn replace<'a>(&'a self, ticket: &'a Ticket) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Forgets tickets that are not open and were opened before `before`. Returns how many.
    fn forget(&self, before: Timestamp) -> BoxFuture<'_, Result<u64, StoreError>>;
}

/// Which tickets to list. What is not given does not narrow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TicketQuery {
    /// In one of these states, by name.
    pub states: Vec<String>,
    /// Open ones only.
    pub open: bool,
    /// Of this requester: issuer and subject.
    pub requester: Option<(String, String)>,
    /// Whose time was up at this moment, although they are not over.
    pub overdue_at: Option<Timestamp>,
    /// Older than the ticket with this id: for the next page.
    pub older_than: Option<String>,
    /// At most so many; 0 means 100.
    pub limit: u32,
}

impl TicketQuery {
    /// Those that wait for a decision.
    pub fn pending() -> Self {
        Self::in_states(["pending"])
    }

    /// Those in these states.
    pub fn in_states<const N: usize>(states: [&str; N]) -> Self {
        Self { states: states.map(str::to_owned).to_vec(), ..Self::default() }
    }

    /// How many at most.
    pub fn limit(&self) -> usize {
        match self.limit {
            0 => 100,
            limit => limit as usize,
        }
    }

    fn covers(&self, ticket: &Ticket) -> bool {
        let is_of = |(issuer, subject): &(String, String)| {
            *issuer == ticket.identity.issuer && *subject == ticket.identity.subject
        };
        (self.states.is_empty() || self.states.iter().any(|state| state == ticket.state.name()))
            && (!self.open || ticket.is_open())
            && self.requester.as_ref().is_none_or(is_of)
            && self.overdue_at.is_none_or(|now| ticket.is_overdue(now))
            && self.older_than.as_ref().is_none_or(|id| ticket.id < *id)
    }
}

/// Keeps tickets in memory: for tests, and for services that may forget them when they restart.
#[derive(Debug, Default)]
pub struct MemoryTicketStore(Mutex<BTreeMap<String, Ticket>>);

impl MemoryTicketStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn tickets(&self) -> MutexGuard<'_, BTreeMap<String, Ticket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn done<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, Result<T, StoreError>> {
    Box::pin(std::future::ready(Ok(value)))
}

impl TicketStore for MemoryTicketStore {
    fn open<'a>(&'a self, ticket: &'a Ticket) -> BoxFuture<'a, Result<Option<Ticket>, StoreError>> {
        let mut tickets = self.tickets();
        let existing =
            tickets.values().find(|other| other.is_open() && other.digest == ticket.digest).cloned();
        if existing.is_none() {
            tickets.insert(ticket.id.clone(), ticket.clone());
        }
        done(existing)
    }

    fn find<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Ticket>, StoreError>> {
        done(self.tickets().get(id).cloned())
    }

    fn find_open<'a>(&'a self, digest: &'a str) -> BoxFuture<'a, Result<Option<Ticket>, StoreError>> {
        done(self.tickets().values().find(|ticket| ticket.is_open() && ticket.digest == digest).cloned())
    }

    fn list<'a>(&'a self, query: &'a TicketQuery) -> BoxFuture<'a, Result<Vec<Ticket>, StoreError>> {
        let tickets = self.tickets();
        done(
            tickets
                .values()
                .rev()
                .filter(|ticket| query.covers(ticket))
                .take(query.limit())
                .cloned()
                .collect(),
        )
    }

    fn replace<'a>(&'a self, ticket: &'a Ticket) -> BoxFuture<'a, Result<bool, StoreError>> {
        let mut tickets = self.tickets();
        let Some(stored) = tickets.get_mut(&ticket.id) else { return done(false) };
        if stored.version + 1 != ticket.version {
            return done(false);
        }
        *stored = ticket.clone();
        done(true)
    }

    fn forget(&self, before: Timestamp) -> BoxFuture<'_, Result<u64, StoreError>> {
        let mut tickets = self.tickets();
        let count = tickets.len();
        tickets.retain(|_, ticket| ticket.is_open() || ticket.created_at >= before);
        done((count - tickets.len()) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn memory_conforms() {
        assert_eq!(crate::conformance(&MemoryTicketStore::new()).await, Ok(()));
    }
}
