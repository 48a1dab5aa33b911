//! A session in a few lines: who, under which grant, when, and how it went.

use std::net::IpAddr;
use std::time::Duration;

use portcullis_audit::{End, Intent, Outcome};
use portcullis_core::{Actor, Decision, Event, EventKind, Identity, Timestamp};
use serde::{Deserialize, Serialize};

/// A session as a whole. Its size does not grow with what was done in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// The session's id: its grant's, if it is one.
    pub id: String,
    /// Whether requests may still come: some are open; or the grant is known to have been issued, and has neither ended nor
    /// expired; or, without a grant, the client has not paused for long.
    pub active: bool,
    /// Who.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<Who>,
    /// From which address the first request came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// With which program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// The grant, if the session is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantView>,
    /// The time of its first record.
    pub began: Timestamp,
    /// The time of its newest record.
    pub last: Timestamp,
    /// How much was done, and how it went.
    pub counts: Counts,
    /// How many requests ended of which a timeline does not tell what was decided, since the session has too many tickets.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub untold: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// An identity, as far as a reader needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Who {
    /// The user's name.
    pub user: String,
    /// Who vouches for it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub issuer: String,
    /// The subject there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// On whose behalf, the nearest actor first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delegation: Vec<Actor>,
}

impl From<&Identity> for Who {
    fn from(identity: &Identity) -> Self {
        let Identity { user, issuer, subject, delegation, .. } = identity.clone();
        Self { user, issuer, subject, delegation }
    }
}

/// A grant from its issue to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantView {
    /// The profile it was cut from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// What it was for, in the requester's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Who approved it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<String>,
    /// When it was issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted: Option<Timestamp>,
    /// When it ends if nobody ends it earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
    /// By whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_by: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_for: Option<String>,
}

/// How much was done. The gateway's own requests on behalf of others (dry runs, look-ups) are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Requests.
    pub requests: u64,
    /// Those that may change something.
    pub mutating: u64,
    /// Those without an outcome so far.
    pub open: u64,
    /// Those that policy had held for people to decide.
    pub held: u64,
    /// Those that the gateway refused.
    pub refused: u64,
    /// Those that went wrong otherwise: the API server's own refusals, answers that broke off, commands with an exit status
    /// other than 0, requests of which nobody knows the end.
    pub failed: u64,
    /// Values masked in answers.
    pub masked: u64,
    /// Exec, attach, copies and forwarded ports.
    pub streams: u64,
    /// Those with a recording.
    pub recordings: u64,
}

impl Summary {
    pub(crate) fn new(id: &str, time: Timestamp) -> Self {
        Self {
            id: id.to_owned(),
            active: false,
            who: None,
            source: None,
            user_agent: None,
            grant: None,
            began: time,
            last: time,
            counts: Counts::default(),
            untold: 0,
        }
    }

    /// Whether `user` is who did it.
    #[must_use]
    pub fn is_of(&self, user: &str) -> bool {
        self.who.as_ref().is_some_and(|who| who.user == user)
    }

    pub(crate) fn intent(&mut self, time: Timestamp, intent: &Intent) {
        self.seen(time);
        self.by(intent.identity.as_ref());
        if self.source.is_none() {
            self.source = intent.request.source.map(|source| source.ip());
            self.user_agent.clone_from(&intent.request.user_agent);
        }
        if let Some(grant) = &intent.grant {
            let view = self.grant.get_or_insert_default();
            view.profile = Some(grant.profile.clone());
            view.task.clone_from(&grant.task);
            view.approvers.clone_from(&grant.approvers);
        }
        if intent.parent.is_none() {
            self.counts.requests += 1;
            self.counts.mutating += u64::from(intent.request.info.is_mutating());
            self.counts.open += 1;
        }
    }

    pub(crate) fn outcome(&mut self, time: Timestamp, outcome: &Outcome) {
        self.seen(time);
        self.by(outcome.identity.as_ref());
        if let Some(user) = &outcome.user
            && self.who.is_none()
        {
            self.who = Some(Who { user: user.clone(), ..Who::default() });
        }
        if outcome.grant.as_deref() == Some(&self.id) {
            self.grant.get_or_insert_default();
        }
        if outcome.parent.is_some() {
            return;
        }
        let counts = &mut self.counts;
        match outcome.intent {
            Some(_) => counts.open = counts.open.saturating_sub(1),
            None => {
                counts.requests += 1;
                counts.mutating += u64::from(outcome.info.is_mutating());
            }
        }
        let held = |verdict: &portcullis_core::Verdict| matches!(verdict.decision, Decision::Hold(_));
        counts.held += u64::from(outcome.verdict.as_ref().is_some_and(held));
        counts.refused += u64::from(outcome.end == End::Refused);
        counts.failed += u64::from(outcome.end != End::Refused && went_wrong(outcome));
        counts.masked += outcome.masked.values().sum::<u64>();
        if let Some(stream) = &outcome.stream {
            counts.streams += 1;
            counts.recordings += u64::from(stream.recording.is_some());
        }
    }

    /// An event about the session's grant.
    pub(crate) fn event(&mut self, time: Timestamp, event: &Event) {
        let text = |name: &str| event.details.get(name).and_then(|value| value.as_str()).map(str::to_owned);
        match event.kind {
            EventKind::Granted => {
                self.seen(time);
                self.by(event.identity.as_ref());
                let view = self.grant.get_or_insert_default();
                view.profile = text("profile");
                view.task = text("task");
                view.granted = Some(time);
                view.expires = text("expiresAt").and_then(|time| time.parse().ok());
            }
            EventKind::Revoked => {
                self.seen(time);
                let view = self.grant.get_or_insert_default();
                view.revoked = Some(time);
                view.revoked_by = text("by");
                view.revoked_for = text("reason");
            }
            _ => {}
        }
    }

    /// Says whether it is active at `now`, if a client's session ends after a pause of `idle`.
    pub(crate) fn judge(&mut self, now: Timestamp, idle: Duration) {
        let may_go_on = match &self.grant {
            // Without the record of its issue nothing tells when it expires: it is not said to be going on for ever.
            Some(grant) => {
                grant.granted.is_some()
                    && grant.revoked.is_none()
                    && grant.expires.is_none_or(|expires| now < expires)
            }
            None => now.duration_since(self.last).unsigned_abs() <= idle || now < self.last,
        };
        self.active = self.counts.open > 0 || may_go_on;
    }

    fn seen(&mut self, time: Timestamp) {
        self.began = self.began.min(time);
        self.last = self.last.max(time);
    }

    fn by(&mut self, identity: Option<&Identity>) {
        if let Some(identity) = identity
            && self.who.as_ref().is_none_or(|who| who.issuer.is_empty())
        {
            self.who = Some(identity.into());
        }
    }
}

/// Whether a reader's eye should stop here.
pub(crate) fn went_wrong(outcome: &Outcome) -> bool {
    outcome.end != End::Completed
        || outcome.status.is_some_and(|status| status >= 400)
        || outcome.stream.as_ref().is_some_and(|stream| stream.exit.is_some_and(|exit| exit != 0))
}
