//! An API server in memory: small, honest, for tests and demonstrations.

mod admission;
mod authn;
mod builder;
mod controllers;
mod crud;
mod discovery;
mod environment;
mod exec;
mod kinds;
mod kubeconfig;
mod logs;
mod object;
mod openapi;
mod patch;
mod rbac;
mod render;
mod reviews;
mod scale;
mod seed;
mod seen;
mod selector;
mod service;
mod status;
mod store;
mod table;
mod target;
mod token;
mod watch;
mod wire;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use portcullis_core::{Body, BoxError, BoxFuture};
use serde_json::Value;
use tower_service::Service;

use self::{
    authn::Credentials,
    crud::{Call, DeleteOptions},
    object::meta,
    seen::SeenLog,
    status::ApiError,
    store::Store,
    target::{Query, ResourceTarget},
    token::TokenIssuer,
};
pub use self::{
    authn::UserInfo,
    builder::ApiServerBuilder,
    kubeconfig::{Credential, Token},
    seen::SeenRequest,
};
use crate::{CertificateAuthority, TestkitError, listen::Listening};

/// What every request needs.
pub(crate) struct Core {
    store: Store,
    credentials: Credentials,
    tokens: TokenIssuer,
    seen: SeenLog,
    url: String,
    ca_pem: String,
}

/// An in-memory API server. Clones share it; the last one closes its listener.
///
/// It authenticates (client certificates, bearer tokens, service-account tokens, impersonation), authorizes by RBAC, stores,
/// watches, and prints tables. What it cannot do it refuses with a `Status`; it approximates nothing.
#[derive(Clone)]
pub struct ApiServer {
    core: Arc<Core>,
    authority: CertificateAuthority,
    listening: Option<Arc<Listening>>,
}

impl ApiServer {
    /// A server yet to be configured.
    pub fn builder() -> ApiServerBuilder {
        ApiServerBuilder::default()
    }

    /// A server on a free loopback port, with default settings.
    ///
    /// # Errors
    ///
    /// As [`ApiServerBuilder::start`].
    pub async fn start() -> Result<Self, TestkitError> {
        Self::builder().start().await
    }

    /// Where it listens: `https://127.0.0.1:<port>`. Without a listener, a name that resolves nowhere.
    pub fn url(&self) -> &str {
        &self.core.url
    }

    /// The address it listens on.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listening.as_ref().map(|listening| listening.address)
    }

    /// Who signed its certificate, and signs client certificates for it.
    pub fn authority(&self) -> &CertificateAuthority {
        &self.authority
    }

    /// The server as a service, without network: bearer tokens work, client certificates and upgrades need a connection.
    pub fn service(&self) -> ApiService {
        ApiService(self.core.clone())
    }

    /// The requests that reached it, oldest first: the newest 10,000.
    pub fn seen(&self) -> Vec<SeenRequest> {
        self.core.seen.all()
    }

    /// Forgets the requests seen so far.
    pub fn clear_seen(&self) {
        self.core.seen.clear();
    }

    /// Creates an object as the cluster's administrator, without a request: nothing is [`seen`](Self::seen).
    ///
    /// # Errors
    ///
    /// [`TestkitError::Seed`] with what the server has against it.
    pub fn create(&self, object: Value) -> Result<Value, TestkitError> {
        let what = format!("{} {}", object["kind"].as_str().unwrap_or("object"), meta(&object, "name"));
        let refused = |error: ApiError| TestkitError::Seed { what, message: error.message().to_owned() };
        self.call(&object, |call| call.create(object.clone()))
            .map(|created| Value::clone(&created))
            .map_err(refused)
    }

    /// The object of that resource (`secrets`, `deployments.apps`), as it is stored; an empty namespace for cluster scope.
    pub fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        let kind = kinds::find(group, plural)?;
        self.core.store.get(kind, namespace, name).map(|object| Value::clone(&object))
    }

    /// Deletes an object as the cluster's administrator, without a request. Whether there was one.
    pub fn delete(&self, resource: &str, namespace: &str, name: &str) -> bool {
        let Some(object) = self.object(resource, namespace, name) else { return false };
        let deleted = self.call(&object, |call| {
            call.delete(&DeleteOptions::of(&Query::default(), None)?).map(|(object, _)| object)
        });
        deleted.is_ok()
    }

    fn call<T>(
        &self,
        object: &Value,
        act: impl FnOnce(&mut Call<'_>) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let kind = kinds::of_object(object).ok_or_else(ApiError::path_not_found)?;
        let target = ResourceTarget {
            namespace: meta(object, "namespace").to_owned(),
            name: meta(object, "name").to_owned(),
            ..ResourceTarget::default()
        };
        let user = UserInfo::new("system:admin", &["system:masters"]);
        let query = Query::default();
        act(&mut Call {
            core: &self.core,
            kind,
            target: &target,
            query: &query,
            user: &user,
            warnings: Vec::new(),
        })
    }
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer").field("url", &self.core.url).finish_non_exhaustive()
    }
}

/// An [`ApiServer`] as a tower service.
#[derive(Clone)]
pub struct ApiService(Arc<Core>);

impl std::fmt::Debug for ApiService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiService").finish_non_exhaustive()
    }
}

impl<B> Service<Request<B>> for ApiService
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
        let core = self.0.clone();
        Box::pin(async move { Ok(service::handle(core, request.map(Body::new)).await) })
    }
}
