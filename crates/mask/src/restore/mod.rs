//! Puts back what masks stand for, on the way to the cluster.
//!
//! Stands behind everything that looks at a request or keeps something of it (the hold, the record), next to the mask: what
//! people approve and what is recorded has the tokens. The [write guard](crate::WriteGuardLayer) lets a write with tokens through
//! only if this layer will restore it, which it says in the request's extensions.

pub(crate) mod values;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{
    Request, Response,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use portcullis_core::{
    Body, BoxError, Identity, LiveError, ProposedRequest, Refusal, Trail, UnmaskedObjects, refuse,
};
use serde_json::json;
use tower_layer::Layer;
use tower_service::Service;

use crate::{Caller, Rules, guard::would_store_mask};

/// In the extensions of a write with tokens: the write guard has seen them, and leaves them to [`RestoreLayer`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct ToRestore;

/// Replaces the mask tokens of a write by the values they stand for.
///
/// A token is replaced if and only if it is the one that the live object shows this caller at the same place: the same member,
/// the same element of the same list (by its `name`, where it has one). Any other is refused with 422 `mask/would-store-mask`.
/// The live object is read with the caller's own rights, and the write succeeds only if it has not changed since.
///
/// Writes without tokens pass as they are.
#[derive(Clone)]
pub struct RestoreLayer {
    rules: Rules,
    objects: Arc<dyn UnmaskedObjects>,
}

impl RestoreLayer {
    /// Restores what these rules mask, from what `objects` reads.
    pub fn new(rules: &Rules, objects: Arc<dyn UnmaskedObjects>) -> Self {
        Self { rules: rules.clone(), objects }
    }
}

impl fmt::Debug for RestoreLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestoreLayer").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl<S> Layer<S> for RestoreLayer {
    type Service = RestoreService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RestoreService { inner, layer: self.clone() }
    }
}

/// What [`RestoreLayer`] makes of a service.
#[derive(Clone, Debug)]
pub struct RestoreService<S> {
    inner: S,
    layer: RestoreLayer,
}

impl<S, B, R> Service<Request<B>> for RestoreService<S>
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: HttpBody<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let layer = self.layer.clone();
        let mut request = request.map(Body::new);
        Box::pin(async move {
            if request.extensions_mut().remove::<ToRestore>().is_some() {
                match layer.restore(request).await {
                    Ok(restored) => request = restored,
                    Err(refused) => return Ok(*refused),
                }
            }
            Ok(inner.call(request).await?.map(Body::new))
        })
    }
}

impl RestoreLayer {
    /// The request with the values in the tokens' places, or the answer that it cannot have them.
    async fn restore(&self, request: Request<Body>) -> Result<Request<Body>, Box<Response<Body>>> {
        let (mut parts, body) = request.into_parts();
        let restored = async {
            let read = body.collect().await;
            let body = read
                .map_err(|_| Refusal::bad_request("mask/unreadable-write", "the body broke off"))?
                .to_bytes();
            let extensions = &parts.extensions;
            let Some(identity) = extensions.get::<Identity>().cloned() else {
                return Err(would_store_mask(None));
            };
            let proposed = ProposedRequest::new(&parts, identity, body);
            let scope = self.rules.scope(&proposed.info, Caller::of(extensions));
            let live = self.objects.read_unmasked(&proposed).await.map_err(unavailable)?;
            let live = live.ok_or_else(|| would_store_mask(None))?;
            let content_type = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
            values::restore(content_type, &proposed.body, &live, &scope)
                .map_err(|wrong| would_store_mask(wrong.field))
        };
        match restored.await {
            Ok((body, count)) => {
                Trail::of(&parts.extensions).note().notes.insert("restored", json!(count));
                parts.headers.insert(CONTENT_LENGTH, body.len().into());
                Ok(Request::from_parts(parts, Body::from(body)))
            }
            Err(refusal) => Err(Box::new(refuse(&parts.extensions, refusal))),
        }
    }
}

fn unavailable(error: LiveError) -> Refusal {
    Refusal::unavailable(
        "mask/cannot-restore",
        "the request holds masks, and the values they stand for cannot be read now, so it was not sent",
    )
    .advice("send it again, or leave the masked fields out")
    .detail(error.to_string())
}
