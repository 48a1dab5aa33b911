//! A session while it goes on: which recordings come, which end, and whether more can.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use portcullis_audit::{Record, Stored, StreamProgress};
use portcullis_core::{AuditId, Timestamp};

use crate::step::Step;
use crate::summary::Summary;
use crate::timeline::Scope;

/// How many recordings wait for their turn, and how many streams that are open are remembered.
const MOST: usize = 4096;

/// Follows a session's recorded requests: what is going on when it is found, and what the log says from then on.
///
/// Each comes once, in the order in which they began; one that has ended before its turn comes, too, as it ended. Between its
/// intent and the upstream's answer, an exec has no recording: it keeps its place, and those behind it need not wait for it.
pub struct Following<I> {
    records: I,
    summary: Summary,
    /// Those whose turn has not come.
    waiting: VecDeque<Step>,
    /// Those without an outcome, as far as they are known.
    open: HashMap<AuditId, Step>,
    /// The one whose turn it is, and how it ended.
    current: Option<AuditId>,
    ended: Option<Step>,
    most: usize,
    left_out: u64,
}

impl<I> Following<I> {
    /// Of a session, as it was found. The records are those from [`Scope::end`] on; when they have come to the log's end, they
    /// are asked again.
    pub fn new(scope: &Scope, records: I) -> Self {
        Self {
            records,
            summary: scope.summary().clone(),
            waiting: VecDeque::new(),
            open: HashMap::new(),
            current: None,
            ended: None,
            most: MOST,
            left_out: 0,
        }
    }

    /// A request that was found with the session, to be followed from now on.
    pub fn add(&mut self, step: Step) {
        if self.waiting.len() >= self.most || self.open.len() >= self.most {
            self.left_out += 1;
            return;
        }
        if step.is_running() {
            self.open.insert(step.id, step.clone());
        }
        self.waiting.push_back(step);
    }

    /// The next whose turn it is, if one has come whose recording `is_there`. Those that have ended without one are dropped.
    pub fn take_next(&mut self, is_there: impl Fn(&Step) -> bool) -> Option<Step> {
        self.drop_without(&is_there);
        let at = self.waiting.iter().position(is_there)?;
        let step = self.waiting.remove(at)?;
        (self.current, self.ended) = (Some(step.id), None);
        Some(step)
    }

    /// Whether one waits for its turn whose recording `is_there`.
    pub fn has_next(&mut self, is_there: impl Fn(&Step) -> bool) -> bool {
        self.drop_without(&is_there);
        self.waiting.iter().any(is_there)
    }

    /// Whether this one waits for its turn, or for its recording to begin.
    pub fn is_waiting(&self, id: AuditId) -> bool {
        self.waiting.iter().any(|step| step.id == id)
    }

    /// What has ended and left no recording never will: the API server refused it, for instance.
    fn drop_without(&mut self, is_there: &impl Fn(&Step) -> bool) {
        self.waiting.retain(|step| step.is_running() || is_there(step));
    }

    /// Whether the log has no outcome of this one yet.
    pub fn is_running(&self, id: AuditId) -> bool {
        self.open.contains_key(&id)
    }

    /// How the one ended whose turn it is, if it has ended since.
    pub fn ended(&self) -> Option<&Step> {
        self.ended.as_ref()
    }

    /// Whether no more can come: the grant was revoked or has expired, or the client has paused for longer than `idle`, and
    /// nothing is open.
    pub fn is_over(&mut self, now: Timestamp, idle: Duration) -> bool {
        self.summary.judge(now, idle);
        !self.summary.active
    }

    /// How many were left out, since more than 4,096 waited or were open.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    fn record(&mut self, stored: Stored) {
        let time = stored.entry.time;
        let ours = |session: &Option<String>| session.as_deref() == Some(&self.summary.id);
        match stored.entry.record {
            Record::Intent(intent) if ours(&intent.session) => {
                self.summary.intent(time, &intent);
                let step = Step::begun(&intent);
                if step.is_recorded() {
                    self.add(step);
                }
            }
            Record::Outcome(outcome) if ours(&outcome.session) => {
                self.summary.outcome(time, &outcome);
                let Some(mut step) = self.open.remove(&outcome.id) else { return };
                step.finish(time, &outcome);
                match self.waiting.iter_mut().find(|waiting| waiting.id == step.id) {
                    Some(waiting) => *waiting = step,
                    None if self.current == Some(step.id) => self.ended = Some(step),
                    None => {}
                }
            }
            Record::Event(event) => {
                if event.grant.as_ref() == Some(&self.summary.id) {
                    self.summary.event(time, &event);
                }
                if let Some((id, progress)) = event.audit_id.zip(StreamProgress::of(&event))
                    && let Some(step) = self.open.get_mut(&id)
                {
                    step.progress(progress);
                    if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.id == id) {
                        waiting.clone_from(step);
                    }
                }
            }
            _ => {}
        }
    }
}

impl<I, E> Following<I>
where
    I: Iterator<Item = Result<Stored, E>>,
{
    /// Reads what has come into the log since.
    ///
    /// # Errors
    /// The records' own.
    pub fn look(&mut self) -> Result<(), E> {
        while let Some(stored) = self.records.next() {
            self.record(stored?);
        }
        Ok(())
    }
}

impl<I> std::fmt::Debug for Following<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Following").field("session", &self.summary.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use portcullis_audit::{Records, SESSION_IDLE};
    use portcullis_core::{Channel, Event, EventKind};

    use super::*;
    use crate::recording::Recording;
    use crate::step::State;
    use crate::tests::{Log, With, exit, grant, pass};

    const EXEC: &str = "/pods/web/exec?command=sh";

    fn following(log: &Log) -> Following<Records> {
        let scope = log.scope(&log.list()[0].id);
        Following::new(&scope, log.reader().records(scope.end()).unwrap())
    }

    #[tokio::test]
    async fn what_begins_and_ends_between_two_looks_is_kept_and_comes_as_it_ended() {
        let log = Log::new();
        let (first, mut stage) = log.stream(EXEC, With::default()).await;
        let mut following = following(&log);
        following.add(log.step(first));
        following.look().unwrap();
        let there = |step: &Step| Recording::is_there(step, &log.reader());
        assert_eq!(
            following.take_next(there).map(|step| (step.id, step.state)),
            Some((first, State::Running))
        );
        assert!(following.is_running(first) && !following.has_next(there) && following.ended().is_none());

        let (second, other) = log.stream(EXEC, With::default()).await;
        log.request("/pods/web", With::default()).await;
        exit(other, 3).await;
        pass(&mut *stage, Channel::Stdout, "more");
        exit(stage, 0).await;
        following.look().unwrap();
        assert!(!following.is_running(first) && !following.is_running(second));
        let ended = following.ended().unwrap();
        assert_eq!((ended.id, ended.stream.as_ref().unwrap().exit), (first, Some(0)));
        let next = following.take_next(there).unwrap();
        assert_eq!((next.id, next.state, next.stream.unwrap().exit), (second, State::Completed, Some(3)));
        // What is not recorded does not come, and nothing comes twice.
        assert!(following.take_next(there).is_none() && following.ended().is_none());
        following.look().unwrap();
        assert!(following.take_next(there).is_none());
    }

    #[tokio::test]
    async fn what_the_upstream_has_not_agreed_to_yet_keeps_its_place_until_it_is_known_how_it_ended() {
        let log = Log::new();
        log.request("/pods/web", With::default()).await;
        let mut following = following(&log);
        let (first, opened) = log.stream(EXEC, With::default()).await;
        let (second, _other) = log.stream(EXEC, With::default()).await;
        following.look().unwrap();
        // Of the first, only the intent has been seen: its recording has not begun.
        assert!(following.take_next(|_| false).is_none() && following.is_waiting(first));
        let is_second = |step: &Step| step.id == second;
        assert_eq!(following.take_next(is_second).map(|step| step.id), Some(second));
        assert!(!following.has_next(|_| false) && following.is_waiting(first));
        assert_eq!(following.take_next(|_| true).map(|step| step.id), Some(first));
        exit(opened, 0).await;

        // One that is refused has none, and is not waited for.
        let refused = log.request(EXEC, With { status: 404, ..With::default() }).await;
        following.look().unwrap();
        assert!(following.is_waiting(refused));
        let there = |step: &Step| Recording::is_there(step, &log.reader());
        assert!(!following.has_next(there) && !following.is_waiting(refused));
    }

    #[tokio::test]
    async fn a_session_is_over_when_its_grant_or_its_client_is_done_and_nothing_is_open() {
        for ends in ["revoked", "expired"] {
            let log = Log::new();
            let granted = Event::new(EventKind::Granted).grant("g-1").with("profile", "deploy");
            let expires = log.now() + Duration::from_secs(900);
            log.event(granted.with("expiresAt", expires.to_string())).await;
            let with = With { grant: Some(grant(&log)), ..With::default() };
            let mut following = following(&log);
            assert!(!following.is_over(log.now(), SESSION_IDLE));
            let (_, stage) = log.stream(EXEC, with).await;
            match ends {
                "revoked" => log.event(Event::new(EventKind::Revoked).grant("g-1")).await,
                _ => log.advance(Duration::from_secs(900)),
            }
            following.look().unwrap();
            assert!(!following.is_over(log.now(), SESSION_IDLE), "{ends}, and one is still open");
            exit(stage, 0).await;
            following.look().unwrap();
            assert!(following.is_over(log.now(), SESSION_IDLE), "{ends}");
            let there = |step: &Step| Recording::is_there(step, &log.reader());
            assert!(following.take_next(there).is_some(), "what came is there all the same");
        }
        let log = Log::new();
        log.request("/pods/web", With::default()).await;
        let mut following = following(&log);
        log.advance(SESSION_IDLE);
        assert!(!following.is_over(log.now(), SESSION_IDLE));
        log.advance(Duration::from_secs(1));
        assert!(following.is_over(log.now(), SESSION_IDLE));
    }

    #[tokio::test]
    async fn of_too_many_that_wait_some_are_left_out_and_counted() {
        let log = Log::new();
        log.request("/pods/web", With::default()).await;
        let mut following = following(&log);
        following.most = 2;
        for _ in 0..3 {
            let (_, stage) = log.stream(EXEC, With::default()).await;
            exit(stage, 0).await;
        }
        following.look().unwrap();
        assert_eq!((following.waiting.len(), following.open.len(), following.left_out()), (2, 0, 1));
    }
}
