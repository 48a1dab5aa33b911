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
    extract::{DefaultBodyLimit, FromRequestParts, Request},
    http::request::Parts,
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::{MethodFilter, MethodRouter, on},
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

/// A route: method, path, and what answers them. `docs/openapi.yaml` describes each.
pub(crate) type Route<S> = (MethodFilter, &'static str, fn(MethodFilter) -> MethodRouter<S>);

const V1: &[Route<Api>] = &[
    (MethodFilter::GET, "/whoami", |method| on(method, whoami)),
    (MethodFilter::GET, "/approvals", |method| on(method, approvals::list)),
    (MethodFilter::GET, "/approvals/{id}", |method| on(method, approvals::show)),
    (MethodFilter::POST, "/approvals/{id}/approve", |method| on(method, approvals::approve)),
    (MethodFilter::POST, "/approvals/{id}/deny", |method| on(method, approvals::deny)),
    (MethodFilter::GET, "/grants", |method| on(method, grants::list)),
    (MethodFilter::POST, "/grants/{id}/revoke", |method| on(method, grants::revoke)),
    (MethodFilter::GET, "/identities", |method| on(method, identities::list)),
    (MethodFilter::POST, "/identities/disable", |method| on(method, identities::disable)),
    (MethodFilter::POST, "/identities/enable", |method| on(method, identities::enable)),
    (MethodFilter::GET, "/audit/search", |method| on(method, audit::search)),
    (MethodFilter::GET, "/audit/tail", |method| on(method, audit::tail)),
    (MethodFilter::GET, "/audit/records/{index}", |method| on(method, audit::record)),
];
const V1_PREFIX: &str = "/portcullis/api/v1";
const LOG_PREFIX: &str = "/portcullis/log";

/// The routes.
pub(crate) fn router(api: Api) -> Router {
    let log = log::router(api.evidence.log(), api.evidence.auditors().clone());
    Router::new()
        .nest(V1_PREFIX, routes(V1, api))
        .nest(LOG_PREFIX, log)
        .fallback(|| async {
            Problem(Refusal::new(Reason::NotFound, "api/no-such-page", "there is nothing here"))
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(from_fn(on_record))
}

fn routes<S: Clone + Send + Sync + 'static>(table: &[Route<S>], state: S) -> Router {
    let add = |router: Router<S>, (method, path, answer): &Route<S>| router.route(path, answer(*method));
    table.iter().fold(Router::new(), add).with_state(state)
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
        let response: http::Response<Body> = refuse(&http::Extensions::new(), self.0.clone());
        let mut response = response.map(axum::body::Body::new);
        // For whoever knows the request it answers.
        response.extensions_mut().insert(self.0);
        response
    }
}

/// Answers what a handler refuses as the layers answer what they refuse: on record by its code, with the request's id.
async fn on_record(request: Request, next: Next) -> Response {
    let asked = request.extensions().clone();
    let mut response = next.run(request).await;
    match response.extensions_mut().remove::<Refusal>() {
        Some(refusal) => refuse(&asked, refusal).map(axum::body::Body::new),
        None => response,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn every_route_is_described_and_nothing_else() {
        #[derive(serde::Deserialize)]
        struct Document {
            paths: BTreeMap<String, BTreeMap<String, serde_yaml::Value>>,
        }
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.yaml");
        let text = std::fs::read_to_string(file).unwrap();
        let Document { paths } = serde_yaml::from_str(&text).unwrap();
        let described: BTreeSet<String> = paths
            .iter()
            .filter(|(path, _)| [V1_PREFIX, LOG_PREFIX].iter().any(|prefix| path.starts_with(prefix)))
            .flat_map(|(path, item)| item.keys().map(move |key| format!("{key} {path}")))
            .filter(|operation| !operation.starts_with("parameters "))
            .collect();
        let served = operations(V1_PREFIX, V1).chain(operations(LOG_PREFIX, log::ROUTES)).collect();
        assert_eq!(described, served);
    }

    fn operations<S>(prefix: &str, table: &[Route<S>]) -> impl Iterator<Item = String> {
        table.iter().map(move |(method, path, _)| {
            let method = match *method {
                MethodFilter::GET => "get",
                MethodFilter::POST => "post",
                other => panic!("{other:?}"),
            };
            // A path that takes all that follows has no other way to be written in OpenAPI.
            format!("{method} {prefix}{}", path.replace("{*", "{"))
        })
    }
}
