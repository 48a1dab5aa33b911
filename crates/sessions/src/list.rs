//! All sessions of a log, in one pass.

use std::collections::HashMap;
use std::time::Duration;

use portcullis_audit::{Record, Stored};
use portcullis_core::Timestamp;

use crate::summary::Summary;

/// How many sessions are remembered at most; the least recent are dropped beyond that.
const MOST: usize = 65_536;

/// Gathers the sessions of the records it is shown, in bounded memory.
#[derive(Clone, Debug, Default)]
pub struct SessionList {
    sessions: HashMap<String, Summary>,
    dropped: u64,
}

impl SessionList {
    /// With no session yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the log's next record. What belongs to no session is passed over.
    pub fn record(&mut self, stored: &Stored) {
        let time = stored.entry.time;
        match &stored.entry.record {
            Record::Intent(intent) => {
                if let Some(session) = self.session(intent.session.as_deref(), time) {
                    session.intent(time, intent);
                }
            }
            Record::Outcome(outcome) => {
                if let Some(session) = self.session(outcome.session.as_deref(), time) {
                    session.outcome(time, outcome);
                }
            }
            Record::Event(event) => {
                use portcullis_core::EventKind::{Granted, Revoked};
                let grant = event.grant.as_deref().filter(|_| matches!(event.kind, Granted | Revoked));
                if let Some(session) = self.session(grant, time) {
                    session.event(time, event);
                }
            }
            _ => {}
        }
    }

    /// The sessions, newest first, as they stand at `now`, and how many older ones were dropped. A client's session without a
    /// grant is over after a pause of `idle`.
    #[must_use]
    pub fn finish(self, now: Timestamp, idle: Duration) -> (Vec<Summary>, u64) {
        let mut sessions: Vec<Summary> = self.sessions.into_values().collect();
        // What the gateway asks itself, for dry runs, has a client of its own; nobody's work is in it.
        sessions.retain(|session| session.counts.requests > 0 || session.grant.is_some());
        for session in &mut sessions {
            session.judge(now, idle);
        }
        sessions.sort_by(|a, b| b.began.cmp(&a.began).then_with(|| a.id.cmp(&b.id)));
        (sessions, self.dropped)
    }

    fn session(&mut self, id: Option<&str>, time: Timestamp) -> Option<&mut Summary> {
        let id = id?;
        if !self.sessions.contains_key(id) {
            if self.sessions.len() >= MOST {
                self.drop_oldest();
            }
            self.sessions.insert(id.to_owned(), Summary::new(id, time));
        }
        self.sessions.get_mut(id)
    }

    /// A tenth at once, so that it does not happen for each new one.
    fn drop_oldest(&mut self) {
        let mut times: Vec<Timestamp> = self.sessions.values().map(|session| session.last).collect();
        let (_, limit, _) = times.select_nth_unstable(MOST / 10);
        let limit = *limit;
        let before = self.sessions.len();
        self.sessions.retain(|_, session| session.last > limit);
        self.dropped += (before - self.sessions.len()) as u64;
    }
}
