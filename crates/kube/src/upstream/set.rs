//! One upstream per cluster.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use portcullis_core::{Body, BoxError, BoxFuture, Reason, Refusal, RequestInfo, refuse};
use tower_service::Service;

use super::Upstream;

/// Chooses the upstream by the request's cluster (`RequestInfo::cluster`, where empty means the default one).
///
/// Clones share the set, and [`replace`](Self::replace) changes it under running traffic: requests that were already handed
/// to an upstream stay with it.
#[derive(Clone)]
pub struct UpstreamSet(Arc<ArcSwap<BTreeMap<String, Upstream>>>);

impl UpstreamSet {
    /// These clusters, by name; the empty name is the default cluster.
    pub fn new(upstreams: impl IntoIterator<Item = (String, Upstream)>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(upstreams.into_iter().collect())))
    }

    /// One cluster, at `/`.
    pub fn single(upstream: Upstream) -> Self {
        Self::new([(String::new(), upstream)])
    }

    /// Other clusters from now on.
    pub fn replace(&self, upstreams: impl IntoIterator<Item = (String, Upstream)>) {
        self.0.store(Arc::new(upstreams.into_iter().collect()));
    }

    /// The names of all clusters but the default one.
    pub fn names(&self) -> Vec<String> {
        self.0.load().keys().filter(|name| !name.is_empty()).cloned().collect()
    }

    /// The upstream of a cluster.
    pub fn find(&self, cluster: &str) -> Option<Upstream> {
        self.0.load().get(cluster).cloned()
    }
}

impl<B> Service<Request<B>> for UpstreamSet
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let cluster = request.extensions().get::<RequestInfo>().map_or("", |info| info.cluster.as_str());
        match self.find(cluster) {
            Some(mut upstream) => upstream.call(request),
            None => {
                let refusal = Refusal::new(
                    Reason::NotFound,
                    "upstream/unknown-cluster",
                    "there is no such cluster here",
                )
                .advice("the path must be /clusters/NAME/… with the name of a configured cluster");
                Box::pin(std::future::ready(Ok(refuse(request.extensions(), refusal))))
            }
        }
    }
}
