//! `/grants`

use axum::{
    Json,
    extract::{Path, Query, State},
};
use portcullis_core::{Grant, Identity, Reason, Refusal, Timestamp};
use portcullis_jit::{GrantError, GrantRecord, Revocation};
use serde::{Deserialize, Serialize};

use super::{Api, Caller, Problem, approvals::DecisionBody};

/// The most grants one answer lists.
const LIST_LIMIT: usize = 1000;

/// Which grants to list.
#[derive(Deserialize)]
pub(crate) struct ListQuery {
    /// Also those that have ended.
    #[serde(default)]
    all: bool,
}

/// Grants, the newest first.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GrantList {
    pub(crate) items: Vec<GrantView>,
}

/// A grant, without anything that could be used in its place.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GrantView {
    #[serde(flatten)]
    pub(crate) grant: Grant,
    pub(crate) identity: Identity,
    pub(crate) active: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) lease_until: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) revocation: Option<Revocation>,
}

/// Administrators see all grants; others their own.
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<Json<GrantList>, Problem> {
    let sees_all = api.administrators.include(&caller.0);
    let now = api.clock.now();
    let items = api
        .grants
        .list(LIST_LIMIT)
        .await
        .map_err(problem)?
        .into_iter()
        .filter(|record| sees_all || record.identity.is_same_principal(&caller.0))
        .filter(|record| query.all || record.is_active(now))
        .map(|record| view(record, now))
        .collect();
    Ok(Json(GrantList { items }))
}

/// Administrators end any grant; others their own.
pub(crate) async fn revoke(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<DecisionBody>,
) -> Result<Json<GrantView>, Problem> {
    // Whose grant it is, and whether there is one, is nothing that others find out.
    let missing = || {
        let refusal = Refusal::new(Reason::NotFound, "grants/no-grant", "you have no such grant");
        Problem(refusal.advice("only administrators of the gateway end grants of others"))
    };
    let find = async || api.grants.find(&id).await.map_err(problem)?.ok_or_else(missing);
    let record = find().await?;
    let may_end = record.identity.is_same_principal(&caller.0) || api.administrators.include(&caller.0);
    if !may_end {
        return Err(missing());
    }
    let reason = body.reason.unwrap_or_else(|| "revoked by hand".into());
    if !api.grants.revoke(&id, &caller.0, &reason).await.map_err(problem)? {
        return Err(Problem(Refusal::new(Reason::Conflict, "grants/ended", "the grant has ended already")));
    }
    Ok(Json(view(find().await?, api.clock.now())))
}

fn view(record: GrantRecord, now: Timestamp) -> GrantView {
    GrantView {
        active: record.is_active(now),
        grant: record.grant,
        identity: record.identity,
        lease_until: record.lease_until,
        revocation: record.revocation,
    }
}

fn problem(error: GrantError) -> Problem {
    let detail = match &error {
        GrantError::Unavailable(detail) => detail.clone(),
        other => other.to_string(),
    };
    Problem(Refusal::unavailable("grants/unavailable", error.to_string()).detail(detail))
}
