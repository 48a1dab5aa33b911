//! The gateway's own API, below `/portcullis/api/v1`: approvals, grants, identities, the record, who am I; and its log, below
//! `/portcullis/log`.
//!
//! Callers prove who they are with an OIDC token of their own. A grant is for a task, and no task approves, revokes or looks
//! at others.

pub(crate) mod approvals;
pub(crate) mod audit;
pub(crate) mod grants;
pub(crate) mod identities;
pub(crate) mod log;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, FromRequestParts},
    http::request::Parts,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use portcullis_core::{Approvers, Body, Clock, Grant, Identity, Reason, Refusal, refuse};
use portcullis_hold::Tickets;
use portcullis_jit::Grants;

use crate::identities::Identities;

/// The longest body anybody reads here.
const BODY_LIMIT: usize = 64 * 1024;

/// What the handlers work with.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) tickets: Tickets,
    pub(crate) grants: Grants,
    pub(crate) identities: Identities,
    pub(crate) administrators: Approvers,
    pub(crate) evidence: audit::Evidence,
    pub(crate) clock: Arc<dyn Clock>,
}

/// The routes.
pub(crate) fn router(api: Api) -> Router {
    let log = log::router(api.evidence.log(), api.evidence.auditors().clone());
    let v1 = Router::new()
        .route("/whoami", get(whoami))
        .route("/approvals", get(approvals::list))
        .route("/approvals/{id}", get(approvals::show))
        .route("/approvals/{id}/approve", post(approvals::approve))
        .route("/approvals/{id}/deny", post(approvals::deny))
        .route("/grants", get(grants::list))
        .route("/grants/{id}/revoke", post(grants::revoke))
        .route("/identities", get(identities::list))
        .route("/identities/disable", post(identities::disable))
        .route("/identities/enable", post(identities::enable))
        .route("/audit/search", get(audit::search))
        .route("/audit/tail", get(audit::tail))
        .route("/audit/records/{index}", get(audit::record))
        .with_state(api);
    Router::new()
        .nest("/portcullis/api/v1", v1)
        .nest("/portcullis/log", log)
        .fallback(|| async {
            Problem(Refusal::new(Reason::NotFound, "api/no-such-page", "there is nothing here"))
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
}

async fn whoami(caller: Caller) -> Json<Identity> {
    Json(caller.0)
}

/// Who asks: a person or workload with an identity of its own.
pub(crate) struct Caller(pub(crate) Identity);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        if parts.extensions.get::<Grant>().is_some() {
            let refusal = Refusal::forbidden("api/needs-identity", "a grant cannot be used here")
                .advice("use an OIDC token of your own");
            return Err(Problem(refusal));
        }
        match parts.extensions.get::<Identity>() {
            Some(identity) => Ok(Self(identity.clone())),
            None => Err(Problem(Refusal::unauthorized("api/needs-identity", "nobody knows who you are"))),
        }
    }
}

/// A refusal as a handler's answer.
pub(crate) struct Problem(pub(crate) Refusal);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let response: http::Response<Body> = refuse(&http::Extensions::new(), self.0);
        response.map(axum::body::Body::new)
    }
}
