//! `/identities`: off-boarding, for administrators.

use axum::{Extension, Json, extract::State};
use portcullis_core::{AuditId, Reason, Refusal};
use portcullis_store::DisabledIdentity;
use serde::{Deserialize, Serialize};

use super::{Api, Caller, Problem};
use crate::identities::{Change, ChangeError};

/// Whom it is about.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ChangeBody {
    /// Its tokens' `iss`.
    pub(crate) issuer: String,
    /// Its tokens' `sub`.
    pub(crate) subject: String,
    /// Why.
    #[serde(default)]
    pub(crate) reason: Option<String>,
}

/// Everyone who is disabled, by issuer and subject.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IdentityList {
    pub(crate) items: Vec<DisabledIdentity>,
}

pub(crate) async fn list(State(api): State<Api>, caller: Caller) -> Result<Json<IdentityList>, Problem> {
    administers(&api, &caller)?;
    everyone(&api).await
}

pub(crate) async fn disable(
    State(api): State<Api>,
    caller: Caller,
    audit_id: Option<Extension<AuditId>>,
    Json(body): Json<ChangeBody>,
) -> Result<Json<IdentityList>, Problem> {
    administers(&api, &caller)?;
    api.identities.disable(change(caller, audit_id, body, "disabled by hand")).await.map_err(problem)?;
    everyone(&api).await
}

pub(crate) async fn enable(
    State(api): State<Api>,
    caller: Caller,
    audit_id: Option<Extension<AuditId>>,
    Json(body): Json<ChangeBody>,
) -> Result<Json<IdentityList>, Problem> {
    administers(&api, &caller)?;
    api.identities.enable(change(caller, audit_id, body, "enabled by hand")).await.map_err(problem)?;
    everyone(&api).await
}

fn administers(api: &Api, caller: &Caller) -> Result<(), Problem> {
    match api.administrators.include(&caller.0) {
        true => Ok(()),
        false => {
            let refusal = Refusal::forbidden(
                "identities/not-an-administrator",
                "only administrators of the gateway disable identities, and see who is disabled",
            );
            Err(Problem(refusal.advice("ask somebody whom the configuration names under `administrators`")))
        }
    }
}

async fn everyone(api: &Api) -> Result<Json<IdentityList>, Problem> {
    Ok(Json(IdentityList { items: api.identities.list().await.map_err(problem)? }))
}

fn change(caller: Caller, audit_id: Option<Extension<AuditId>>, body: ChangeBody, why: &str) -> Change {
    Change {
        issuer: body.issuer,
        subject: body.subject,
        by: caller.0,
        reason: body.reason.unwrap_or_else(|| why.to_owned()),
        audit_id: audit_id.map(|Extension(id)| id),
    }
}

fn problem(error: ChangeError) -> Problem {
    let message = error.to_string();
    Problem(match error {
        ChangeError::UnknownIssuer(_) => Refusal::bad_request("identities/unknown-issuer", message)
            .advice("name the issuer as the tokens' `iss` does, letter by letter"),
        ChangeError::Oneself => {
            Refusal::forbidden("identities/oneself", message).advice("another administrator can")
        }
        ChangeError::NotDisabled => Refusal::new(Reason::Conflict, "identities/not-disabled", message),
        ChangeError::HalfDone(detail) => Refusal::unavailable("identities/half-done", message)
            .advice("do it again; until then, a restart may forget it")
            .detail(detail),
        ChangeError::Unavailable(detail) => {
            Refusal::unavailable("identities/unavailable", message).advice("try again").detail(detail)
        }
    })
}
