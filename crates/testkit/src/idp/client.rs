//! The programs that may ask this provider for tokens.

use url::{Host, Url};

/// A registered client (RFC 6749 §2).
#[derive(Clone)]
pub struct OidcClient {
    pub(super) id: String,
    pub(super) secret: Option<String>,
    pub(super) redirect_uris: Vec<String>,
    pub(super) loopback: bool,
}

impl OidcClient {
    /// A program on somebody's machine: no secret, PKCE instead, any loopback redirect (RFC 8252 §7.3).
    pub fn native(id: &str) -> Self {
        Self { id: id.into(), secret: None, redirect_uris: Vec::new(), loopback: true }
    }

    /// A web application: PKCE, and exactly the redirects named.
    pub fn web(id: &str, redirect_uris: &[&str]) -> Self {
        let redirect_uris = redirect_uris.iter().map(|uri| (*uri).to_owned()).collect();
        Self { id: id.into(), secret: None, redirect_uris, loopback: false }
    }

    /// With a secret, which it then must show.
    #[must_use]
    pub fn secret(mut self, secret: &str) -> Self {
        self.secret = Some(secret.into());
        self
    }

    /// One more redirect.
    #[must_use]
    pub fn redirect(mut self, uri: &str) -> Self {
        self.redirect_uris.push(uri.into());
        self
    }

    /// Whether a token may be sent there. Registered redirects match as text; loopback ones by host, whatever the port.
    pub(super) fn may_redirect_to(&self, uri: &str) -> bool {
        if self.redirect_uris.iter().any(|registered| registered == uri) {
            return true;
        }
        let Ok(url) = Url::parse(uri) else { return false };
        let loopback = match url.host() {
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        };
        let plain = url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
        self.loopback && loopback && plain && ["http", "https"].contains(&url.scheme())
    }
}

impl std::fmt::Debug for OidcClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OidcClient")
            .field("id", &self.id)
            .field("redirect_uris", &self.redirect_uris)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(client: &OidcClient, uri: &str, expected: bool) {
        assert_eq!(client.may_redirect_to(uri), expected, "{uri}");
    }

    #[test]
    fn tokens_go_to_registered_places_only() {
        let native = OidcClient::native("cli");
        check(&native, "http://127.0.0.1:8000/callback", true);
        check(&native, "http://[::1]:8000/callback", true);
        check(&native, "http://localhost:1/", true);
        check(&native, "http://127.0.0.1.evil.example/", false);
        check(&native, "http://127.0.0.1@evil.example/", false);
        check(&native, "http://127.0.0.1/#fragment", false);
        check(&native, "javascript:alert(1)", false);
        check(&native, "", false);
        let web = OidcClient::web("console", &["https://gateway.example/callback"]);
        check(&web, "https://gateway.example/callback", true);
        check(&web, "https://gateway.example/callback/", false);
        check(&web, "http://127.0.0.1:8000/callback", false);
    }
}
