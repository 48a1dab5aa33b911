//! What can go wrong with a ticket.

use portcullis_core::{Reason, RecordError, Refusal};

/// The store could not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the ticket store failed: {0}")]
pub struct StoreError(pub String);

/// Why a ticket is not what somebody wanted it to be.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// There is none with this id, or not for this identity.
    #[error("there is no such ticket")]
    NotFound,
    /// It is in a state in which this cannot be done.
    #[error("the ticket is {0}")]
    WrongState(&'static str),
    /// The rule does not name this person, nor a group of theirs.
    #[error("you are not among the approvers of this request")]
    NotAnApprover,
    /// It is their own request, or that of a bot that acts for them or belongs to them.
    #[error("nobody decides on their own request, nor on that of a bot of theirs")]
    OwnRequest,
    /// They approved already; others must.
    #[error("you have approved this request already; somebody else must, too")]
    AlreadyApproved,
    /// Too many others changed the ticket at the same time.
    #[error("the ticket is being changed by others")]
    Busy,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The decision could not be recorded, so it was not made.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl TicketError {
    /// The refusal that says so, for whoever serves tickets over HTTP.
    pub fn into_refusal(self) -> Refusal {
        let message = self.to_string();
        match self {
            Self::NotFound => Refusal::new(Reason::NotFound, "hold/no-ticket", message),
            Self::WrongState(_) => Refusal::new(Reason::Conflict, "hold/state", message)
                .advice("look at it again: somebody was faster, or its time is up"),
            Self::NotAnApprover => Refusal::forbidden("hold/not-an-approver", message),
            Self::OwnRequest => Refusal::forbidden("hold/own-request", message),
            Self::AlreadyApproved => Refusal::new(Reason::Conflict, "hold/already-approved", message),
            Self::Busy => Refusal::unavailable("hold/busy", message).advice("try again"),
            Self::Store(error) => {
                Refusal::unavailable("hold/unavailable", "held requests cannot be looked up now")
                    .detail(error.to_string())
            }
            Self::Record(error) => error.into_refusal(),
        }
    }
}
