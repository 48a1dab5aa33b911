//! What a client of a held request is told, when it is not let through.

use std::time::Duration;

use bytes::Bytes;
use http::{Extensions, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use portcullis_core::{Approvers, Body, Ended, Reason, Refusal, refuse};

use crate::ticket::{Ticket, TicketState};

/// The response header that names the ticket.
const TICKET_HEADER: &str = "portcullis-ticket";

/// An answer other than the inner service's.
pub(crate) enum Answer {
    /// Ours.
    Refused {
        /// What is said.
        refusal: Refusal,
        /// About which ticket.
        ticket: Option<String>,
    },
    /// The server's own, from the dry run: it would refuse the request, so nobody was asked.
    Servers {
        /// Its status.
        status: u16,
        /// Its words, masked.
        body: Bytes,
    },
}

impl Answer {
    pub(crate) fn about(ticket: &Ticket, refusal: Refusal) -> Self {
        let refusal = refusal.cause("Ticket", ticket.id.clone(), None);
        Self::Refused { refusal, ticket: Some(ticket.id.clone()) }
    }

    pub(crate) fn into_response(self, request: &Extensions) -> Response<Body> {
        match self {
            Self::Refused { refusal, ticket } => {
                let mut response = refuse(request, refusal);
                if let Some(id) = ticket.and_then(|id| HeaderValue::from_str(&id).ok()) {
                    response.headers_mut().insert(TICKET_HEADER, id);
                }
                response
            }
            Self::Servers { status, body } => {
                let mut response = Response::new(Body::from(body));
                *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                response
            }
        }
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self::Refused { refusal, ticket: None }
    }
}

/// Still waiting: come back (client-go does so by itself), or, without `retry`, come back when you like.
pub(crate) fn pending(ticket: &Ticket, instructions: Option<&str>, retry: bool) -> Answer {
    let missing = ticket.missing_approvals();
    let people = if missing == 1 { "one approval" } else { "approvals" };
    let count = if missing > 1 { format!("{missing} ") } else { String::new() };
    let rule_says = ticket.message.as_deref().map(|message| format!(" ({message})")).unwrap_or_default();
    let refusal = Refusal::new(
        Reason::TooManyRequests,
        "hold/pending",
        format!(
            "policy rule {:?} holds this request until it has {count}{people} of {}{rule_says}; it waits as ticket {}",
            ticket.rule,
            named(&ticket.terms.approvers),
            ticket.id,
        ),
    );
    let refusal = match instructions {
        Some(text) => refusal.advice(text.replace("{ticket}", &ticket.id)),
        None => refusal.advice("send the same request again once it is approved"),
    };
    let refusal = if retry { refusal.retry_after(Duration::from_secs(1)) } else { refusal };
    Answer::about(ticket, refusal)
}

/// How a ticket ended, for a client that wanted what it was about. `None` for one that has not.
pub(crate) fn ended(ticket: &Ticket, under_way: bool) -> Option<Answer> {
    let refusal = match &ticket.state {
        TicketState::Pending | TicketState::Approved { .. } | TicketState::Claimed { .. } => return None,
        TicketState::Denied { by, reason, .. } => {
            let why = reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
            Refusal::forbidden("hold/denied", format!("{} denied this request{why}", by.user))
        }
        TicketState::Expired { .. } => Refusal::forbidden(
            "hold/expired",
            format!("{} did not approve this request in time", named(&ticket.terms.approvers)),
        )
        .advice("send it again to ask again"),
        TicketState::Withdrawn { reason, .. } => {
            Refusal::forbidden("hold/withdrawn", format!("the held request was taken back: {reason}"))
                .advice("send it again to ask again")
        }
        TicketState::Spent { outcome: Some(status), .. } => Refusal::new(
            Reason::Conflict,
            "hold/used",
            format!("the approval was for one use, and an identical request used it and was answered with {status}"),
        )
        .advice("send it again to ask again"),
        TicketState::Spent { outcome: None, .. } if under_way => Refusal::new(
            Reason::Conflict,
            "hold/under-way",
            "the approval was for one use, and an identical request is using it at this moment",
        )
        .advice("look at the outcome before you send it again"),
        TicketState::Spent { outcome: None, .. } => Refusal::new(
            Reason::Conflict,
            "hold/outcome-unknown",
            "this request was approved and sent on, and its outcome is not known: it may or may not have taken effect",
        )
        .advice("look whether it has; if it has not, send it again to ask again"),
    };
    Some(Answer::about(ticket, refusal))
}

/// The object is not what people were shown.
pub(crate) fn changed(ticket: &Ticket) -> Answer {
    let refusal = Refusal::new(
        Reason::Conflict,
        "hold/changed",
        "the object was changed after people looked at what this request would do to it",
    )
    .advice("send it again, to have them look again");
    Answer::about(ticket, refusal)
}

/// Whoever sent it is not who they were any more.
pub(crate) fn identity_ended(ticket: &Ticket, why: Ended) -> Answer {
    Answer::about(
        ticket,
        Refusal::unauthorized("hold/identity-ended", format!("while the request waited, {why}")),
    )
}

pub(crate) fn too_many(limit: u32) -> Refusal {
    Refusal::new(
        Reason::TooManyRequests,
        "hold/too-many",
        format!("{limit} other requests of yours wait for approval, and no more may"),
    )
    .advice("wait for their decisions, or withdraw some")
}

fn named(approvers: &Approvers) -> String {
    let groups = approvers.groups.iter().map(|group| format!("group {group}"));
    let names: Vec<String> = approvers.users.iter().cloned().chain(groups).collect();
    match names.is_empty() {
        true => "nobody".to_owned(),
        false => names.join(" or "),
    }
}
