//! The layer: no request without an identity gets past it.

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use portcullis_core::{
    Authenticated, Authenticator, BearerToken, Body, BoxError, BoxFuture, Identity, Refusal, Trail, refuse,
};
use tower_layer::Layer;
use tower_service::Service;

/// Turns the bearer token of each request into an [`Identity`] in its extensions, or refuses the request.
///
/// A request that already has an identity (a grant's, from an outer layer) passes as it is. The token is taken off:
/// nothing behind this layer sees it. The [`Liveness`](portcullis_core::Liveness) of the identity is added too; whoever
/// keeps a stream open watches it.
#[derive(Clone)]
pub struct OidcLayer {
    authenticator: Arc<dyn Authenticator>,
}

impl OidcLayer {
    /// Tokens are judged by `authenticator`: an [`OidcAuthenticator`](crate::OidcAuthenticator), or one of your own.
    pub fn new(authenticator: Arc<dyn Authenticator>) -> Self {
        Self { authenticator }
    }
}

impl<S> Layer<S> for OidcLayer {
    type Service = OidcService<S>;

    fn layer(&self, inner: S) -> OidcService<S> {
        OidcService { inner, authenticator: self.authenticator.clone() }
    }
}

/// The service of [`OidcLayer`].
#[derive(Clone)]
pub struct OidcService<S> {
    inner: S,
    authenticator: Arc<dyn Authenticator>,
}

impl<S, B, R> Service<Request<B>> for OidcService<S>
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The instance that was polled ready answers this request; the fresh clone waits for the next.
        let fresh = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, fresh);
        let mut request = request.map(Body::new);
        let authenticator = self.authenticator.clone();
        Box::pin(async move {
            if request.extensions().get::<Identity>().is_none() {
                let found = BearerToken::find(request.headers());
                BearerToken::strip(request.headers_mut());
                let judged = judge(&*authenticator, found).await;
                match judged {
                    Ok(authenticated) => admit(&mut request, authenticated),
                    Err(refusal) => return Ok(refuse(request.extensions(), refusal)),
                }
            }
            inner.call(request).await.map(|response| response.map(Body::new))
        })
    }
}

async fn judge(
    authenticator: &dyn Authenticator,
    found: Result<Option<BearerToken>, Refusal>,
) -> Result<Authenticated, Refusal> {
    let Some(token) = found? else {
        return Err(Refusal::unauthorized("oidc/missing", "the request carries no bearer token")
            .advice("sign in and send the token as `Authorization: Bearer …`"));
    };
    authenticator.authenticate(token.reveal()).await.map_err(|error| {
        tracing::info!(code = error.code, detail = %error.detail, "a bearer token was not accepted");
        let detail = error.detail.clone();
        error.into_refusal().detail(detail)
    })
}

fn admit(request: &mut Request<Body>, authenticated: Authenticated) {
    let extensions = request.extensions_mut();
    Trail::of(extensions).note().identity = Some(authenticated.identity.clone());
    extensions.insert(authenticated.identity);
    authenticated.liveness.add_to(extensions);
}
