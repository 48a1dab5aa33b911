//! A ticket: one held request, what people decided about it, and whether the approval has been used.
//!
//! ```text
//! pending ─approve─▶ approved ─claim─▶ claimed ─intent is in the log─▶ spent
//!    │                   │  ▲             │
//!    ├─deny──▶ denied    │  └──release────┤  (nothing was forwarded)
//!    ├─time──▶ expired ◀─┘                │
//!    └─────────withdraw──▶ withdrawn ◀────┘  (the object changed)
//! ```
//!
//! The transitions are here, without any I/O: a store exchanges one version of a ticket for the next, or refuses because
//! somebody was faster.

use std::time::Duration;

use portcullis_core::{AuditId, Grant, HoldTerms, Identity, Receipt, RequestInfo, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    diff::{Change, diff},
    error::TicketError,
    people::are_one_person,
};

/// One held request. Holds only redacted copies of what the client sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ticket {
    /// Its id: a UUIDv7.
    pub id: String,
    /// The version of this record, counted by whoever changes it.
    pub version: u64,
    /// What exactly is asked for: the digest of identity, cluster, method, canonical URI, content type and body.
    pub digest: String,
    /// Who asks.
    pub identity: Identity,
    /// Under which grant.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub grant: Option<Grant>,
    /// The policy rule that had it held.
    pub rule: String,
    /// The rule's words.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message: Option<String>,
    /// Who may decide, and how many must.
    pub terms: HoldTerms,
    /// What is asked for, as people are shown it.
    pub request: HeldRequest,
    /// What the server says it would do, masked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub preview: Option<TicketPreview>,
    /// What became of it.
    pub state: TicketState,
    /// Who approved so far.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub approvals: Vec<PersonalApproval>,
    /// When it was opened.
    pub created_at: Timestamp,
    /// Until when it can be decided; once approved, until when it can be used.
    pub expires_at: Timestamp,
    /// Whether its client has been told how it ended. Until then an identical request lands on this ticket.
    #[serde(default)]
    pub answered: bool,
}

/// A redacted copy of the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeldRequest {
    /// The id of the request that opened the ticket; resends have ids of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_id: Option<AuditId>,
    /// What it asks for.
    pub info: RequestInfo,
    /// Its method.
    pub method: String,
    /// Its target, redacted.
    pub uri: String,
    /// The command in words, as one would type it (without the word `kubectl`), redacted.
    pub command: String,
    /// Its `Content-Type`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Its body, redacted.
    pub body: HeldBody,
    /// Why the client says it wants this (`Portcullis-Reason`), redacted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The `User-Agent`, redacted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
}

/// What is kept of a body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum HeldBody {
    /// There is none, or it is a stream.
    #[default]
    None,
    /// All of it, with every secret replaced.
    Redacted {
        /// The body.
        text: String,
    },
    /// Nothing: it could not be redacted.
    Withheld {
        /// A keyed digest of it.
        digest: String,
        /// Why.
        reason: String,
    },
}

/// What the server says a request would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TicketPreview {
    /// The object as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// The object as it would be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
    /// The live object's `resourceVersion`, which must be the same when the request is let through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// Why there is no preview, if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
}

impl TicketPreview {
    /// What would change, field by field.
    pub fn changes(&self) -> Vec<Change> {
        match self.unavailable {
            Some(_) => Vec::new(),
            None => diff(self.before.as_ref(), self.after.as_ref()),
        }
    }
}

/// One person's approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PersonalApproval {
    /// Who.
    pub by: Identity,
    /// When.
    pub at: Timestamp,
    /// In their words.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub comment: Option<String>,
}

/// What became of a ticket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "name")]
pub enum TicketState {
    /// Nobody has decided, or not enough people have.
    Pending,
    /// Enough people agreed; the request has not come for it yet.
    #[serde(rename_all = "camelCase")]
    Approved {
        /// When the last needed approval came.
        at: Timestamp,
    },
    /// A request has taken up the approval, and is on its way to the log.
    #[serde(rename_all = "camelCase")]
    Claimed {
        /// Which request, where.
        claim: Claim,
        /// When the approval came, for the claim's return.
        approved_at: Timestamp,
    },
    /// The approval has been used.
    #[serde(rename_all = "camelCase")]
    Spent {
        /// By which request, where.
        claim: Claim,
        /// When.
        at: Timestamp,
        /// The intent's place in the log.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        receipt: Option<Receipt>,
        /// The status of the answer; `None` while it is under way, and if nobody knows.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        outcome: Option<u16>,
    },
    /// Somebody said no.
    #[serde(rename_all = "camelCase")]
    Denied {
        /// Who.
        by: Box<Identity>,
        /// When.
        at: Timestamp,
        /// Why.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        reason: Option<String>,
    },
    /// Not enough people agreed in time, or the request did not come back in time.
    #[serde(rename_all = "camelCase")]
    Expired {
        /// When.
        at: Timestamp,
    },
    /// It was taken back.
    #[serde(rename_all = "camelCase")]
    Withdrawn {
        /// When.
        at: Timestamp,
        /// Why.
        reason: String,
    },
}

/// Which request has taken up an approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// The request.
    pub audit_id: AuditId,
    /// The replica it came through: the origin of its log.
    pub origin: String,
}

impl TicketState {
    /// The state's name, as it is serialised.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved { .. } => "approved",
            Self::Claimed { .. } => "claimed",
            Self::Spent { .. } => "spent",
            Self::Denied { .. } => "denied",
            Self::Expired { .. } => "expired",
            Self::Withdrawn { .. } => "withdrawn",
        }
    }

    /// When it came to an end, if it has.
    pub fn ended_at(&self) -> Option<Timestamp> {
        match self {
            Self::Pending | Self::Approved { .. } | Self::Claimed { .. } => None,
            Self::Spent { at, .. }
            | Self::Denied { at, .. }
            | Self::Expired { at }
            | Self::Withdrawn { at, .. } => Some(*at),
        }
    }
}

impl Ticket {
    /// Whether an identical request lands on this ticket, rather than opening another.
    pub fn is_open(&self) -> bool {
        !self.answered
    }

    /// Whether its time is up, although it is not over.
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        self.state.ended_at().is_none() && now >= self.expires_at
    }

    /// How many more people must approve.
    pub fn missing_approvals(&self) -> u32 {
        let approvals = u32::try_from(self.approvals.len()).unwrap_or(u32::MAX);
        self.terms.quorum.max(1).saturating_sub(approvals)
    }

    /// Whether `identity` may look at it: who asks, and who may decide.
    pub fn is_visible_to(&self, identity: &Identity) -> bool {
        self.identity.is_same_principal(identity) || self.terms.approvers.include(identity)
    }

    /// Adds a person's approval; the last that is needed makes it approved, and usable for `usable_for`.
    /// `owners` are the users who own the bot that asks.
    pub(crate) fn approve(
        &mut self,
        by: &Identity,
        comment: Option<String>,
        owners: &[String],
        now: Timestamp,
        usable_for: Duration,
    ) -> Result<(), TicketError> {
        self.check_decider(by, owners)?;
        if !matches!(self.state, TicketState::Pending) || self.is_overdue(now) {
            return Err(self.wrong_state(now));
        }
        if self.approvals.iter().any(|approval| are_one_person(&approval.by, by)) {
            return Err(TicketError::AlreadyApproved);
        }
        self.approvals.push(PersonalApproval { by: by.clone(), at: now, comment });
        if self.missing_approvals() == 0 {
            self.state = TicketState::Approved { at: now };
            self.expires_at = after(now, usable_for);
        }
        Ok(())
    }

    /// One no is enough, also after others agreed, as long as the approval has not been taken up.
    pub(crate) fn deny(
        &mut self,
        by: &Identity,
        reason: Option<String>,
        owners: &[String],
        now: Timestamp,
    ) -> Result<(), TicketError> {
        self.check_decider(by, owners)?;
        let is_undecided = matches!(self.state, TicketState::Pending | TicketState::Approved { .. });
        if !is_undecided || self.is_overdue(now) {
            return Err(self.wrong_state(now));
        }
        self.state = TicketState::Denied { by: Box::new(by.clone()), at: now, reason };
        Ok(())
    }

    fn check_decider(&self, by: &Identity, owners: &[String]) -> Result<(), TicketError> {
        if !self.terms.approvers.include(by) {
            return Err(TicketError::NotAnApprover);
        }
        if are_one_person(&self.identity, by) || owners.contains(&by.user) {
            return Err(TicketError::OwnRequest);
        }
        Ok(())
    }

    pub(crate) fn expire(&mut self, now: Timestamp) -> Result<(), TicketError> {
        match &self.state {
            _ if !self.is_overdue(now) => Err(self.wrong_state(now)),
            // Whether a claim that never ended was used is not known; so it was.
            TicketState::Claimed { claim, .. } => {
                self.state =
                    TicketState::Spent { claim: claim.clone(), at: now, receipt: None, outcome: None };
                Ok(())
            }
            _ => {
                self.state = TicketState::Expired { at: now };
                Ok(())
            }
        }
    }

    pub(crate) fn claim(&mut self, claim: Claim, now: Timestamp) -> Result<(), TicketError> {
        match self.state {
            TicketState::Approved { at } if !self.is_overdue(now) => {
                self.state = TicketState::Claimed { claim, approved_at: at };
                Ok(())
            }
            _ => Err(self.wrong_state(now)),
        }
    }

    /// Nothing was forwarded: the approval can be used again.
    pub(crate) fn release(&mut self, mine: &Claim, now: Timestamp) -> Result<(), TicketError> {
        match &self.state {
            TicketState::Claimed { claim, approved_at } if claim == mine => {
                self.state = TicketState::Approved { at: *approved_at };
                Ok(())
            }
            _ => Err(self.wrong_state(now)),
        }
    }

    pub(crate) fn spend(
        &mut self,
        mine: &Claim,
        receipt: Option<Receipt>,
        now: Timestamp,
    ) -> Result<(), TicketError> {
        match &self.state {
            TicketState::Claimed { claim, .. } if claim == mine => {
                self.state = TicketState::Spent { claim: claim.clone(), at: now, receipt, outcome: None };
                Ok(())
            }
            _ => Err(self.wrong_state(now)),
        }
    }

    /// The answer is known, and on its way to the client.
    pub(crate) fn finish(&mut self, mine: &Claim, status: u16, now: Timestamp) -> Result<(), TicketError> {
        match &mut self.state {
            TicketState::Spent { claim, outcome, .. } if claim == mine => {
                *outcome = Some(status);
                self.answered = true;
                Ok(())
            }
            _ => Err(self.wrong_state(now)),
        }
    }

    /// Takes it back: while nobody has used it, or by the request that has claimed it.
    pub(crate) fn withdraw(
        &mut self,
        mine: Option<&Claim>,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), TicketError> {
        let may = match &self.state {
            TicketState::Pending | TicketState::Approved { .. } => true,
            TicketState::Claimed { claim, .. } => Some(claim) == mine,
            _ => false,
        };
        if !may {
            return Err(self.wrong_state(now));
        }
        self.state = TicketState::Withdrawn { at: now, reason: reason.to_owned() };
        self.answered = true;
        Ok(())
    }

    /// The client has been told how it ended.
    pub(crate) fn answer(&mut self, now: Timestamp) -> Result<(), TicketError> {
        match self.state.ended_at() {
            Some(_) if !self.answered => {
                self.answered = true;
                Ok(())
            }
            _ => Err(self.wrong_state(now)),
        }
    }

    fn wrong_state(&self, now: Timestamp) -> TicketError {
        TicketError::WrongState(if self.is_overdue(now) { "expired" } else { self.state.name() })
    }
}

/// `from` + `length`, or the end of time.
pub(crate) fn after(from: Timestamp, length: Duration) -> Timestamp {
    from.checked_add(length).unwrap_or(Timestamp::MAX)
}
