//! The gateway's own credential: what it puts into `Authorization` when it speaks to the API server.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::TryFutureExt;
use http::{HeaderValue, Request, Response, header::AUTHORIZATION};
use http_body_util::Empty;
use kube::{
    Config,
    client::{ConfigExt, middleware::AuthLayer},
};
use portcullis_core::{BoxError, BoxFuture};
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    sync::{RwLock, RwLockWriteGuard},
    time::Instant,
};
use tower::{Layer, ServiceExt, service_fn};

use super::cluster::UpstreamConfigError;

/// Token files are read again once a minute, as client-go does: service-account tokens rotate.
const RELOAD_AFTER: Duration = Duration::from_secs(60);

type Ask = dyn Fn() -> BoxFuture<'static, Result<Option<HeaderValue>, BoxError>> + Send + Sync;

/// Yields the value of `Authorization`, fresh; `None` where a client certificate does it.
#[derive(Clone)]
pub(super) struct Credential(Arc<Ask>);

impl Credential {
    /// May run an exec plugin, and blocks while it does.
    pub(super) fn load(config: &Config) -> Result<Self, UpstreamConfigError> {
        let auth = &config.auth_info;
        if let Some(path) = &auth.token_file {
            return TokenFile::open(path.into(), auth.token.as_ref()).map(TokenFile::into_credential);
        }
        if auth.token.as_ref().is_some_and(|token| token.expose_secret().is_empty()) {
            return Err(UpstreamConfigError::new("the token is empty"));
        }
        let layer = config
            .auth_layer()
            .map_err(|error| UpstreamConfigError::because("the gateway's own credential", error))?;
        Ok(match layer {
            Some(layer) => Self::from_layer(&layer),
            None => Self(Arc::new(|| Box::pin(std::future::ready(Ok(None))))),
        })
    }

    /// kube's layer sets the header on a request; a request that goes nowhere gets it out.
    fn from_layer(layer: &AuthLayer) -> Self {
        let echo = layer.layer(service_fn(|mut request: Request<Empty<Bytes>>| {
            let mut response = Response::new(());
            if let Some(value) = request.headers_mut().remove(AUTHORIZATION) {
                response.headers_mut().insert(AUTHORIZATION, value);
            }
            std::future::ready(Ok::<_, BoxError>(response))
        }));
        Self(Arc::new(move || {
            let echo = echo.clone();
            let asking = echo.oneshot(Request::new(Empty::new()));
            Box::pin(
                asking.map_ok(|mut response| response.headers_mut().remove(AUTHORIZATION).map(sensitive)),
            )
        }))
    }

    pub(super) async fn header(&self) -> Result<Option<HeaderValue>, BoxError> {
        (self.0)().await
    }
}

struct TokenFile {
    path: PathBuf,
    current: RwLock<(HeaderValue, Instant)>,
}

impl TokenFile {
    /// The file rotates and a token beside it does not, so the file wins where both are given, as with client-go; the token
    /// serves until the file can be read.
    fn open(path: PathBuf, token: Option<&SecretString>) -> Result<Self, UpstreamConfigError> {
        let value = match (Self::read(&path), token.and_then(|token| bearer(token.expose_secret()))) {
            (Ok(value), _) => value,
            (Err(error), Some(value)) => {
                tracing::warn!(%error, "using the token beside it, until it can be read");
                value
            }
            (Err(error), None) => return Err(error),
        };
        Ok(Self { path, current: RwLock::new((value, Instant::now())) })
    }

    fn read(path: &Path) -> Result<HeaderValue, UpstreamConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| UpstreamConfigError::because(format!("token file {}", path.display()), error))?;
        bearer(&text)
            .ok_or_else(|| UpstreamConfigError::new(format!("{} does not hold a token", path.display())))
    }

    fn into_credential(self) -> Credential {
        let file = Arc::new(self);
        Credential(Arc::new(move || {
            let file = file.clone();
            Box::pin(async move { Ok(Some(file.value().await)) })
        }))
    }

    async fn value(&self) -> HeaderValue {
        {
            let current = self.current.read().await;
            if current.1.elapsed() < RELOAD_AFTER {
                return current.0.clone();
            }
        }
        let mut current = self.current.write().await;
        if current.1.elapsed() >= RELOAD_AFTER {
            self.reload(&mut current).await;
        }
        current.0.clone()
    }

    /// A file that cannot be read just now leaves the last token in use.
    async fn reload(&self, current: &mut RwLockWriteGuard<'_, (HeaderValue, Instant)>) {
        match tokio::fs::read_to_string(&self.path).await.ok().as_deref().and_then(bearer) {
            Some(value) => current.0 = value,
            None => {
                tracing::warn!(path = %self.path.display(), "cannot read the token file again; keeping the last token")
            }
        }
        current.1 = Instant::now();
    }
}

fn bearer(text: &str) -> Option<HeaderValue> {
    let token = text.trim();
    let value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    (!token.is_empty()).then(|| sensitive(value))
}

fn sensitive(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_token_file_is_read_again_when_it_rotates() {
        let path =
            std::env::temp_dir().join(format!("portcullis-token-{}", portcullis_core::AuditId::generate()));
        std::fs::write(&path, "first\n").unwrap();
        let mut config = Config::new("https://localhost".parse().unwrap());
        config.auth_info.token_file = Some(path.display().to_string());
        let credential = Credential::load(&config).unwrap();
        let check = async |expected: &str| {
            let value = credential.header().await.unwrap().unwrap();
            assert!(value.is_sensitive());
            assert_eq!(value, expected);
        };
        check("Bearer first").await;
        std::fs::write(&path, "second").unwrap();
        check("Bearer first").await;
        tokio::time::advance(RELOAD_AFTER).await;
        check("Bearer second").await;
        std::fs::remove_file(&path).unwrap();
        tokio::time::advance(RELOAD_AFTER).await;
        check("Bearer second").await;
        assert!(Credential::load(&config).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_file_wins_over_the_token_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let mut config = Config::new("https://localhost".parse().unwrap());
        config.auth_info.token = Some("static".to_owned().into());
        config.auth_info.token_file = Some(path.display().to_string());
        let check = async |credential: &Credential, expected: &str| {
            assert_eq!(credential.header().await.unwrap().unwrap(), expected);
        };
        // There is no such file yet.
        let credential = Credential::load(&config).unwrap();
        check(&credential, "Bearer static").await;
        std::fs::write(&path, "first").unwrap();
        tokio::time::advance(RELOAD_AFTER).await;
        check(&credential, "Bearer first").await;

        let credential = Credential::load(&config).unwrap();
        check(&credential, "Bearer first").await;
        std::fs::write(&path, "second").unwrap();
        tokio::time::advance(RELOAD_AFTER).await;
        check(&credential, "Bearer second").await;
    }

    #[tokio::test]
    async fn tokens_come_through_kubes_own_loading() {
        let mut config = Config::new("https://localhost".parse().unwrap());
        assert!(Credential::load(&config).unwrap().header().await.unwrap().is_none());
        config.auth_info.token = Some("hunter2".to_owned().into());
        let value = Credential::load(&config).unwrap().header().await.unwrap().unwrap();
        assert!(value.is_sensitive());
        assert_eq!(value, "Bearer hunter2");
    }
}
