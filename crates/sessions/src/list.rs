//! All sessions of a log, in one pass.

use std::collections::HashMap;
use std::time::Duration;

use portcullis_audit::{Record, Stored};
use portcullis_core::Timestamp;

use crate::summary::Summary;

/// How many sessions are remembered at most.
const MOST: usize = 65_536;

/// Which sessions are wanted: those to which all applies that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// With a record that is not older.
    pub since: Option<Timestamp>,
    /// Of this user.
    pub user: Option<String>,
    /// Those that are [active](Summary::active).
    pub active: bool,
}

/// Gathers the sessions of the records it is shown, in bounded memory.
///
/// Of more than 65,536, those go that are over by then, as far as the records tell, and not wanted; and then the least recent.
/// One that goes on after that is told from there on, and a grant's is not called active.
#[derive(Clone, Debug)]
pub struct SessionList {
    sessions: HashMap<String, Summary>,
    filter: SessionFilter,
    now: Timestamp,
    idle: Duration,
    most: usize,
    dropped: u64,
}

impl SessionList {
    /// With no session yet. A client's session without a grant is over at `now` after a pause of `idle`.
    #[must_use]
    pub fn new(now: Timestamp, idle: Duration) -> Self {
        let filter = SessionFilter::default();
        Self { sessions: HashMap::new(), filter, now, idle, most: MOST, dropped: 0 }
    }

    /// Only these are wanted.
    #[must_use]
    pub fn only(mut self, filter: SessionFilter) -> Self {
        self.filter = filter;
        self
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

    /// The wanted sessions, newest first, and how many of them, the least recent, were dropped.
    #[must_use]
    pub fn finish(mut self) -> (Vec<Summary>, u64) {
        self.drop_unwanted(self.now, &SessionFilter::is_met);
        let mut sessions: Vec<Summary> = self.sessions.into_values().collect();
        sessions.sort_by(|a, b| b.began.cmp(&a.began).then_with(|| a.id.cmp(&b.id)));
        (sessions, self.dropped)
    }

    fn session(&mut self, id: Option<&str>, time: Timestamp) -> Option<&mut Summary> {
        let id = id?;
        if !self.sessions.contains_key(id) {
            if self.sessions.len() >= self.most {
                // As it stood then: what has expired since may have more records before it did.
                self.drop_unwanted(time, &SessionFilter::may_be_met);
                self.drop_oldest();
            }
            self.sessions.insert(id.to_owned(), Summary::new(id, time));
        }
        self.sessions.get_mut(id)
    }

    fn drop_unwanted(&mut self, at: Timestamp, is_wanted: &dyn Fn(&SessionFilter, &Summary) -> bool) {
        let Self { sessions, filter, idle, .. } = self;
        sessions.retain(|_, session| {
            session.judge(at, *idle);
            // What the gateway asks itself, for dry runs, has a client of its own; nobody's work is in it.
            let worked = session.counts.requests > 0 || session.grant.is_some();
            worked && is_wanted(filter, session)
        });
    }

    /// A tenth of all at once, so that it does not happen for each new one.
    fn drop_oldest(&mut self) {
        let excess = (self.sessions.len() + self.most / 10 + 1).saturating_sub(self.most);
        if excess == 0 {
            return;
        }
        let mut all: Vec<(Timestamp, String)> =
            self.sessions.values().map(|session| (session.last, session.id.clone())).collect();
        let oldest = excess.min(all.len());
        all.select_nth_unstable(oldest - 1);
        for (_, id) in &all[..oldest] {
            self.sessions.remove(id);
        }
        self.dropped += oldest as u64;
    }
}

impl SessionFilter {
    /// Whether the session, as it was [judged](Summary::judge), is wanted.
    fn is_met(&self, session: &Summary) -> bool {
        self.user.as_deref().is_none_or(|user| session.is_of(user))
            && self.since.is_none_or(|since| session.last >= since)
            && (!self.active || session.active)
    }

    /// The same while more may come, also of whose session it is: only one that is over will not be seen later than it was.
    fn may_be_met(&self, session: &Summary) -> bool {
        let unknown = session.who.as_ref().is_none_or(|who| who.issuer.is_empty());
        (unknown || self.user.as_deref().is_none_or(|user| session.is_of(user)))
            && (session.active || !self.active && self.since.is_none_or(|since| session.last >= since))
    }
}

#[cfg(test)]
mod tests {
    use portcullis_audit::SESSION_IDLE;
    use portcullis_core::{Event, EventKind, Grant};

    use super::*;
    use crate::tests::{Log, With, grant};

    fn list(log: &Log, most: usize, filter: SessionFilter) -> (Vec<String>, u64) {
        let (sessions, dropped) = summaries(log, most, filter);
        (sessions.into_iter().map(|session| session.id).collect(), dropped)
    }

    fn summaries(log: &Log, most: usize, filter: SessionFilter) -> (Vec<Summary>, u64) {
        let mut list = SessionList { most, ..SessionList::new(log.now(), SESSION_IDLE).only(filter) };
        for stored in log.reader().records(0).unwrap() {
            list.record(&stored.unwrap());
            assert!(list.sessions.len() <= most);
        }
        list.finish()
    }

    /// It is issued, for a quarter of an hour.
    async fn granted(log: &Log, id: &str) {
        let expires = log.now() + Duration::from_secs(900);
        let event = Event::new(EventKind::Granted).grant(id).with("profile", "deploy");
        log.event(event.with("expiresAt", expires.to_string())).await;
    }

    async fn request(log: &Log, id: &str) {
        let grant = Grant { id: id.into(), ..grant(log) };
        log.request("/pods/web", With { grant: Some(grant), ..With::default() }).await;
    }

    #[tokio::test]
    async fn what_is_not_wanted_goes_first_and_then_the_least_recent() {
        let log = Log::new();
        let open = Grant { id: "open".into(), ..grant(&log) };
        let held = log.stream("/pods/web/exec", With { grant: Some(open), ..With::default() }).await;
        for nth in 0..30 {
            // All at one time, so that only their ids tell which goes.
            request(&log, &format!("g-{nth:02}")).await;
            log.event(Event::new(EventKind::Revoked).grant(format!("g-{nth:02}"))).await;
        }
        let since = log.now() + Duration::from_secs(60);
        log.advance(Duration::from_secs(90));
        granted(&log, "late").await;
        request(&log, "late").await;

        let (ids, dropped) = list(&log, 20, SessionFilter::default());
        assert_eq!((ids.len() as u64 + dropped, ids.first().map(String::as_str)), (32, Some("late")));
        assert!(ids.len() > 15, "{ids:?}");
        // The one that is open is the oldest, and is found all the same.
        let active = SessionFilter { active: true, ..SessionFilter::default() };
        assert_eq!(list(&log, 20, active), (vec!["late".into(), "open".into()], 0));
        let recent = SessionFilter { since: Some(since), ..SessionFilter::default() };
        assert_eq!(list(&log, 20, recent), (vec!["late".into()], 0));
        let nobody = SessionFilter { user: Some("nobody".into()), ..SessionFilter::default() };
        assert_eq!(list(&log, 20, nobody), (vec![], 0));
        drop(held);
    }

    #[tokio::test]
    async fn of_too_many_a_grant_that_has_expired_since_is_neither_cut_in_two_nor_called_active() {
        let log = Log::new();
        granted(&log, "long").await;
        request(&log, "long").await;
        // Between its last two requests.
        let since = log.now() + Duration::from_secs(150);
        for half in 0..2 {
            for nth in 0..15 {
                let other = format!("g-{half}-{nth:02}");
                request(&log, &other).await;
                log.event(Event::new(EventKind::Revoked).grant(other)).await;
            }
            log.advance(Duration::from_secs(100));
            request(&log, "long").await;
        }
        // Of this one, the record of its issue is not there.
        request(&log, "unknown").await;

        let active = SessionFilter { active: true, ..SessionFilter::default() };
        let recent = SessionFilter { since: Some(since), ..SessionFilter::default() };
        assert_eq!(list(&log, 20, active.clone()), (vec!["long".into()], 0));
        log.advance(Duration::from_secs(900));
        assert_eq!(list(&log, 20, active), (vec![], 0));
        let (sessions, dropped) = summaries(&log, 20, recent);
        let long = sessions.iter().find(|session| session.id == "long").unwrap();
        assert_eq!((long.counts.requests, dropped), (3, 0));
        assert!(long.grant.as_ref().unwrap().expires.is_some());
        let standings = ["long", "unknown"]
            .map(|id| crate::words::standing(sessions.iter().find(|session| session.id == id).unwrap()));
        assert_eq!(standings, ["expired", "ended"]);
    }
}
