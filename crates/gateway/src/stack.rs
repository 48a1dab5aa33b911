//! The order of the layers, and why each stands where it does. No other file knows it.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use axum::Router;
use http::{Request, Response};
use portcullis_audit::{Audit, AuditLayer, CommitLayer};
use portcullis_core::{Authenticator, Body, BoxFuture, Reason, Redactor, Refusal, refuse};
use portcullis_hold::{HoldLayer, Tickets};
use portcullis_jit::{Grants, JitLayer, kubernetes_discovery};
use portcullis_kube::{GatewayCalls, KubeClassifier, UpstreamSet};
use portcullis_mask::{MaskLayer, RestoreLayer, Rules, WriteGuardLayer};
use portcullis_oidc::OidcLayer;
use portcullis_policy::{GuardLayer, PolicyHandle};
use tower::{Layer, Service, ServiceBuilder, util::BoxCloneSyncService};
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    config::Config, cut::CutLayer, limits::IdentityLimitLayer, log_limit::LogLimitLayer, server::Stack,
};

/// Where the gateway's own pages and endpoints are.
pub(crate) const OWN_PREFIX: &str = "/portcullis";
/// Where the token service is, whose callers have no identity yet: their token is what they ask with.
pub(crate) const OAUTH_PREFIX: &str = "/portcullis/oauth";
/// RFC 8414 §3.1: between the host and the issuer's path.
pub(crate) const METADATA_PATH: &str = "/.well-known/oauth-authorization-server/portcullis";

/// What the layers are made of.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) audit: Audit,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) grants: Grants,
    pub(crate) tickets: Tickets,
    pub(crate) policy: PolicyHandle,
    pub(crate) rules: Rules,
    pub(crate) redactor: Arc<dyn Redactor>,
    pub(crate) upstreams: UpstreamSet,
    /// Mixed into what tickets are told apart by.
    pub(crate) digest_salt: Vec<u8>,
    /// The token service and its metadata.
    pub(crate) oauth: Router,
    /// The gateway's own API.
    pub(crate) api: Router,
}

/// TLS, connection limits → **audit open** → JIT → OIDC → identity limits → cut → guard → write guard → hold → **audit commit** → restore → log limit → mask → upstream
pub(crate) fn stack(parts: Parts) -> Stack {
    let Parts { config, audit, policy, rules, .. } = parts;
    let classifier = Arc::new(KubeClassifier::new());
    // Outermost, so that refusals are evidence, and what is recorded is what the client saw.
    let open = AuditLayer::new(audit.clone()).classifier(classifier.clone());

    // The last step before the cluster. The intent is in the log before the upstream sees anything, whoever asks: agents,
    // and the gateway itself. Everything the upstream says passes the mask: also what is shown to approvers.
    let masked: Stack = BoxCloneSyncService::new(MaskLayer::new(rules.clone()).layer(parts.upstreams));

    // Dry runs and look-ups of the gateway's own are requests like any other: recorded, masked, with the rights of the
    // identity they are made for.
    let own_calls = Arc::new(GatewayCalls::new(open.layer(CommitLayer::new().layer(masked.clone()))));

    let restore = RestoreLayer::new(&rules, own_calls.clone());
    // Before anybody is asked: a write that would store a mask helps nobody.
    let write_guard = WriteGuardLayer::new(&rules).objects(own_calls.clone()).restored_by(&restore);
    let committed: Stack = BoxCloneSyncService::new(
        ServiceBuilder::new()
            .layer(CommitLayer::new())
            // Behind the record, which holds what the client sent: the values that masks stand for are nobody's but the cluster's.
            .layer(restore)
            // Outside the mask, which must see credentials whole.
            .layer(LogLimitLayer)
            .service(masked),
    );

    let mut hold = HoldLayer::new(parts.tickets)
        .redactor(parts.redactor)
        .live_objects(own_calls)
        .spend_at_commit(audit.origin(), Arc::new(audit.clone()))
        .digest_salt(parts.digest_salt)
        .hold_for(config.hold.hold_for)
        .expires_after(config.hold.expires_after)
        .max_body(config.limits.body_bytes)
        .instructions("an approver can decide with `portcullis approvals approve {ticket}`");
    if config.hold.withdraw_on_disconnect {
        hold = hold.withdraw_on_disconnect();
    }

    let cluster: Stack = BoxCloneSyncService::new(
        ServiceBuilder::new()
            // Reads the body once, if anybody must; everything further in finds it read.
            .layer(GuardLayer::new(policy).max_body(config.limits.body_bytes))
            .layer(write_guard)
            // Before commit, since what waits has not been let through.
            .layer(hold)
            .service(committed),
    );

    let identified: Stack = BoxCloneSyncService::new(
        ServiceBuilder::new()
            // Before OIDC, which believes whom JIT has believed.
            .layer(JitLayer::new(parts.grants).always_allow(kubernetes_discovery))
            .layer(OidcLayer::new(parts.authenticator))
            // As soon as it is known who asks.
            .layer(IdentityLimitLayer::new(
                config.limits.requests_per_identity,
                config.limits.streams_per_identity,
            ))
            // The one place where answers end because an identity does. Upgraded streams: the relay watches the same thing.
            .layer(CutLayer)
            .service(ByPath { prefix: OWN_PREFIX, own: pages(parts.api), other: cluster }),
    );

    let oauth = pages(parts.oauth);
    let front = ByPath {
        prefix: OAUTH_PREFIX,
        own: oauth.clone(),
        other: ByPath { prefix: METADATA_PATH, own: oauth, other: identified },
    };
    let front = ServiceBuilder::new()
        .map_response(|response: Response<_>| response.map(Body::new))
        // Within the record: a bug in a layer is an answer, an outcome and a log line, not a broken connection.
        .layer(CatchPanicLayer::custom(panicked))
        .service(front);
    BoxCloneSyncService::new(ServiceBuilder::new().layer(open).service(front))
}

/// What the panic said may hold anything; the panic hook has written it to standard error, and nobody else is told.
fn panicked(_: Box<dyn std::any::Any + Send + 'static>) -> Response<Body> {
    metrics::counter!("portcullis_panics_total").increment(1);
    let refusal =
        Refusal::new(Reason::InternalError, "gateway/bug", "the gateway has a bug that this request met")
            .advice(
                "nothing is known about whether it was carried out; tell the gateway's operator the Audit-ID",
            );
    refuse(&http::Extensions::new(), refusal)
}

/// Sends what is below a path to one service, and the rest to another.
#[derive(Clone)]
struct ByPath<O, S> {
    prefix: &'static str,
    own: O,
    other: S,
}

impl<O, S> Service<Request<Body>> for ByPath<O, S>
where
    O: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    O::Future: Send + 'static,
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        match (self.own.poll_ready(cx), self.other.poll_ready(cx)) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match is_below(self.prefix, request.uri().path()) {
            true => Box::pin(self.own.call(request)),
            false => Box::pin(self.other.call(request)),
        }
    }
}

/// Whether a path is one of the gateway's own endpoints.
pub(crate) fn is_own(path: &str) -> bool {
    is_below(OWN_PREFIX, path) || is_below(METADATA_PATH, path)
}

fn is_below(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn pages(router: Router) -> Stack {
    let service = ServiceBuilder::new()
        .map_request(|request: Request<Body>| request.map(axum::body::Body::new))
        .map_response(|response: Response<axum::body::Body>| response.map(Body::new))
        .service(router);
    BoxCloneSyncService::new(service)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_whole_segments() {
        assert!(is_below("/portcullis", "/portcullis") && is_below("/portcullis", "/portcullis/api"));
        assert!(!is_below("/portcullis", "/portcullisfoo") && !is_below("/portcullis", "/api/portcullis"));
    }
}
