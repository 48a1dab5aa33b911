//! `/approvals`

use axum::{
    Json,
    extract::{Path, Query, State},
};
use portcullis_hold::{Change, Ticket, TicketQuery};
use serde::{Deserialize, Serialize};

use super::{Api, Caller, Problem};

/// Which tickets to list.
#[derive(Deserialize)]
pub(crate) struct ListQuery {
    /// A state's name, or `all`; those that wait, by default.
    state: Option<String>,
    /// Older than this ticket: the next page.
    older_than: Option<String>,
    limit: Option<u32>,
}

/// A page of tickets, the newest first.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TicketList {
    pub(crate) items: Vec<TicketView>,
}

/// A ticket, with what it would change.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TicketView {
    #[serde(flatten)]
    pub(crate) ticket: Ticket,
    /// What the server says would change, field by field, masked.
    pub(crate) changes: Vec<Change>,
}

impl From<Ticket> for TicketView {
    fn from(ticket: Ticket) -> Self {
        let changes = ticket.preview.as_ref().map(|preview| preview.changes()).unwrap_or_default();
        Self { ticket, changes }
    }
}

/// What somebody says with their decision.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct DecisionBody {
    pub(crate) reason: Option<String>,
}

pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<Json<TicketList>, Problem> {
    let mut wanted = match query.state.as_deref() {
        None => TicketQuery::pending(),
        Some("all") => TicketQuery::default(),
        Some(state) => TicketQuery { states: vec![state.to_owned()], ..TicketQuery::default() },
    };
    wanted.older_than = query.older_than;
    wanted.limit = query.limit.unwrap_or_default().min(1000);
    let found = api.tickets.list(&caller.0, &wanted).await.map_err(|e| Problem(e.into_refusal()))?;
    Ok(Json(TicketList { items: found.into_iter().map(Into::into).collect() }))
}

pub(crate) async fn show(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<TicketView>, Problem> {
    let ticket = api.tickets.show(&caller.0, &id).await.map_err(|e| Problem(e.into_refusal()))?;
    Ok(Json(ticket.into()))
}

pub(crate) async fn approve(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<DecisionBody>,
) -> Result<Json<TicketView>, Problem> {
    let ticket =
        api.tickets.approve(&id, &caller.0, body.reason).await.map_err(|e| Problem(e.into_refusal()))?;
    Ok(Json(ticket.into()))
}

pub(crate) async fn deny(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<DecisionBody>,
) -> Result<Json<TicketView>, Problem> {
    let ticket =
        api.tickets.deny(&id, &caller.0, body.reason).await.map_err(|e| Problem(e.into_refusal()))?;
    Ok(Json(ticket.into()))
}
