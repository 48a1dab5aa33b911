//! Setting up a server.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use portcullis_core::{SharedClock, SystemClock};
use tokio::net::TcpListener;

use super::{ApiServer, Core, authn::Credentials, seed, seen::SeenLog, store::Store, token::TokenIssuer};
use crate::{CertificateAuthority, TestkitError, jwt::SigningKey, listen::Listening};

/// Configures an [`ApiServer`].
#[must_use]
pub struct ApiServerBuilder {
    authority: Option<CertificateAuthority>,
    clock: SharedClock,
    bind: SocketAddr,
    history: usize,
    demo: bool,
}

impl Default for ApiServerBuilder {
    fn default() -> Self {
        Self {
            authority: None,
            clock: Arc::new(SystemClock),
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            history: 1024,
            demo: false,
        }
    }
}

impl ApiServerBuilder {
    /// Who signs its certificates; by default an authority of its own.
    pub fn authority(mut self, authority: CertificateAuthority) -> Self {
        self.authority = Some(authority);
        self
    }

    /// What time it is; by default the system's.
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// Where to listen; by default a free port on loopback.
    pub fn bind(mut self, address: SocketAddr) -> Self {
        self.bind = address;
        self
    }

    /// How many events watches can look back on; by default 1024.
    pub fn history(mut self, events: usize) -> Self {
        self.history = events;
        self
    }

    /// Starts with the demonstration's objects: namespace `shop` with a Deployment, a Secret, people and their roles.
    pub fn seed_demo(mut self) -> Self {
        self.demo = true;
        self
    }

    /// A server without network, to be used as a [service](ApiServer::service).
    ///
    /// # Errors
    ///
    /// [`TestkitError`] if keys cannot be made.
    pub fn build(self) -> Result<ApiServer, TestkitError> {
        self.at("https://kubernetes.invalid".into())
    }

    /// A server that listens.
    ///
    /// # Errors
    ///
    /// [`TestkitError`] if the address is taken, or keys cannot be made.
    pub async fn start(self) -> Result<ApiServer, TestkitError> {
        let listener = TcpListener::bind(self.bind).await?;
        let mut server = self.at(format!("https://{}", listener.local_addr()?))?;
        let tls = server.authority.server_config()?;
        server.listening = Some(Arc::new(Listening::new(listener, tls, server.service())?));
        Ok(server)
    }

    fn at(self, url: String) -> Result<ApiServer, TestkitError> {
        let authority = match self.authority {
            Some(authority) => authority,
            None => CertificateAuthority::new("portcullis-testkit")?,
        };
        let core = Core {
            store: Store::new(self.clock, self.history),
            credentials: Credentials::default(),
            tokens: TokenIssuer { issuer: url.clone(), key: SigningKey::es256()? },
            seen: SeenLog::default(),
            url,
            ca_pem: authority.certificate_pem().to_owned(),
        };
        let server = ApiServer { core: Arc::new(core), authority, listening: None };
        seed::bootstrap(&server)?;
        if self.demo {
            server.seed_demo()?;
        }
        Ok(server)
    }
}

impl std::fmt::Debug for ApiServerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServerBuilder").field("bind", &self.bind).finish_non_exhaustive()
    }
}
