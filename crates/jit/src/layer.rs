//! The layer: a bearer token that is one of our grants becomes an identity, and what the grant does not cover does not pass.

use std::{
    convert::Infallible,
    mem,
    task::{Context, Poll},
};

use axum::http::{Request, Response};
use portcullis_core::{BearerToken, Body, BoxFuture, Connection, Refusal, RequestInfo, Trail, refuse};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    grants::{GrantError, Grants},
    scope::is_always_allowed,
};

/// Turns grants into identities, and enforces what they allow.
///
/// A request whose bearer token is not one of ours passes untouched: a layer further in will judge it.
#[derive(Clone, Debug)]
pub struct JitLayer {
    grants: Grants,
}

impl JitLayer {
    /// Believes the grants that `grants` issued.
    pub fn new(grants: Grants) -> Self {
        Self { grants }
    }
}

impl<S> Layer<S> for JitLayer {
    type Service = Jit<S>;

    fn layer(&self, inner: S) -> Jit<S> {
        Jit { inner, grants: self.grants.clone() }
    }
}

/// The service of [`JitLayer`].
#[derive(Clone, Debug)]
pub struct Jit<S> {
    inner: S,
    grants: Grants,
}

impl<S, B> Service<Request<B>> for Jit<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let token = match BearerToken::find(request.headers()) {
            Ok(Some(token)) if self.grants.claims(token.reveal()) => token,
            // None, or somebody else's: not ours to judge.
            Ok(_) => return Box::pin(self.inner.call(request)),
            Err(refusal) => return Box::pin(std::future::ready(Ok(refuse(request.extensions(), refusal)))),
        };
        let ready = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, ready);
        let grants = self.grants.clone();
        Box::pin(async move {
            match admit(&grants, &token, &mut request).await {
                Ok(()) => inner.call(request).await,
                Err(refusal) => Ok(refuse(request.extensions(), refusal)),
            }
        })
    }
}

async fn admit<B>(grants: &Grants, token: &BearerToken, request: &mut Request<B>) -> Result<(), Refusal> {
    let active = grants.verify(token.reveal()).await.map_err(refusal)?;
    let record = &active.record;
    let trail = Trail::of(request.extensions());
    {
        let mut note = trail.note();
        note.identity = Some(record.identity.clone());
        note.grant = Some(record.grant.clone());
    }
    if let Some(bound) = &record.certificate_sha256 {
        let shown = request.extensions().get::<Connection>().and_then(|c| c.certificate_sha256.as_ref());
        if shown != Some(bound) {
            return Err(Refusal::unauthorized(
                "jit/other-certificate",
                "the grant is bound to a client certificate, which this connection does not show",
            ));
        }
    }
    let info = RequestInfo::of(request);
    if !record.grant.permits(&info) && !is_always_allowed(&info) {
        return Err(outside(&record.grant, &info));
    }
    BearerToken::strip(request.headers_mut());
    let liveness = grants.liveness(&active);
    let extensions = request.extensions_mut();
    extensions.insert(record.identity.clone());
    extensions.insert(record.grant.clone());
    liveness.add_to(extensions);
    Ok(())
}

fn refusal(error: GrantError) -> Refusal {
    match error {
        GrantError::Unavailable(detail) => {
            Refusal::unavailable("jit/unavailable", "grants cannot be verified just now").detail(detail)
        }
        _ => Refusal::unauthorized("jit/ended", "the grant has ended, or was never issued")
            .advice("start the task again with `portcullis run` to get a new one"),
    }
}

fn outside(grant: &portcullis_core::Grant, info: &RequestInfo) -> Refusal {
    let what = match info.is_resource_request {
        true => {
            let place = match info.namespace.is_empty() {
                true => String::new(),
                false => format!(" in namespace {}", info.namespace),
            };
            format!("{} {}{place}", info.effective_verb(), info.resource_path())
        }
        false => format!("{} {}", info.verb, info.path),
    };
    let message = format!("the grant ({}) does not allow to {what}", grant.profile);
    let allowed = serde_json::to_string(&grant.rules).unwrap_or_default();
    Refusal::forbidden("jit/outside-grant", message)
        .advice("ask for a grant from a profile that allows it")
        .cause("GrantRules", allowed, None)
}
