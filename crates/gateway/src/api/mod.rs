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
    body::to_bytes,
    extract::{DefaultBodyLimit, FromRequestParts, Request},
    http::{StatusCode, header::ALLOW, request::Parts},
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

/// Answers what a handler refuses, or never saw, as the layers answer what they refuse: on record by its code, with the
/// request's id.
async fn on_record(request: Request, next: Next) -> Response {
    let asked = request.extensions().clone();
    let mut response = next.run(request).await;
    if let Some(refusal) = response.extensions_mut().remove::<Refusal>() {
        return refuse(&asked, refusal).map(axum::body::Body::new);
    }
    let reason = match response.status() {
        StatusCode::BAD_REQUEST => Reason::BadRequest,
        StatusCode::METHOD_NOT_ALLOWED => Reason::MethodNotAllowed,
        StatusCode::PAYLOAD_TOO_LARGE => Reason::RequestEntityTooLarge,
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Reason::UnsupportedMediaType,
        StatusCode::UNPROCESSABLE_ENTITY => Reason::Invalid,
        _ => return response,
    };
    let (head, body) = response.into_parts();
    let refusal = malformed(reason, body).await;
    let mut answer = refuse(&asked, refusal).map(axum::body::Body::new);
    if let Some(allow) = head.headers.get(ALLOW) {
        answer.headers_mut().insert(ALLOW, allow.clone());
    }
    answer
}

/// A request that no handler saw, since it was not as `docs/openapi.yaml` describes. What exactly was wrong may have words of the
/// caller in it: the caller hears it, and the record does not.
async fn malformed(reason: Reason, why: axum::body::Body) -> Refusal {
    let message = match reason {
        Reason::MethodNotAllowed => "there is nothing here for this method",
        _ => "the request's parameters or its body are not as the API describes them",
    };
    let refusal = Refusal::new(reason, "api/malformed", message);
    let why = to_bytes(why, WHY_LIMIT).await.unwrap_or_default();
    match String::from_utf8_lossy(&why) {
        nothing if nothing.is_empty() => refusal,
        why => refusal.cause("Malformed", why, None),
    }
}

/// The most that is said of what was wrong with a request, in bytes.
const WHY_LIMIT: usize = 4 * 1024;

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

    #[tokio::test]
    async fn what_no_handler_saw_is_refused_as_everything_else_is() {
        #[derive(serde::Deserialize)]
        struct Body {
            #[expect(dead_code, reason = "only its shape matters")]
            count: u8,
        }
        let post = axum::routing::post(|_: Json<Body>| async {});
        let router =
            Router::new().route("/", post).layer(DefaultBodyLimit::max(64)).layer(from_fn(on_record));
        let long = format!(r#"{{"count": "{}"}}"#, "x".repeat(64));
        for (method, content_type, body, status) in [
            ("POST", "application/json", r#"{"count": "hunter2"}"#, 422),
            ("POST", "application/json", "{", 400),
            ("POST", "text/plain", "{}", 415),
            ("POST", "application/json", &long, 413),
            ("GET", "application/json", "", 405),
        ] {
            let trail = portcullis_core::Trail::default();
            let request = Request::builder().method(method).uri("/").header("content-type", content_type);
            let body = axum::body::Body::from(body.to_owned());
            let request = request.extension(trail.clone()).body(body).unwrap();
            let answer = tower::ServiceExt::oneshot(router.clone(), request).await.unwrap();
            assert_eq!(answer.status(), status);
            assert_eq!(answer.headers()["content-type"], "application/problem+json");
            assert_eq!(answer.headers().get("allow").is_some(), status == 405);
            let text = to_bytes(answer.into_body(), 4096).await.unwrap();
            let problem: serde_json::Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(problem["type"], "urn:portcullis:problem:api/malformed");
            assert_eq!(problem["errors"].is_array(), status != 405, "{problem}");
            let refusal = trail.note().refusal.clone().unwrap();
            assert!(!refusal.message().contains("hunter2") && refusal.operator_detail().is_none());
        }
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
