//! Who sent a request, how that was proven, and for how long it stays true.

use std::{collections::BTreeMap, fmt, sync::Arc};

use futures_util::future::{pending, select_all};
use serde::{Deserialize, Serialize};

use crate::{BoxFuture, Refusal, Timestamp};

/// A verified identity, in the terms of Kubernetes' `user.Info`, with where it came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Identity {
    /// The token's issuer (`iss`), or the origin of the grant.
    pub issuer: String,
    /// The subject at that issuer (`sub`), before any mapping.
    pub subject: String,
    /// The user name that is sent to the API server.
    pub user: String,
    /// The stable user id, if the issuer's mapping yields one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The groups that are sent to the API server.
    pub groups: Vec<String>,
    /// Extra attributes, by key.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
    /// On whose behalf: the nearest actor first (`act`, RFC 8693 §4.1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub delegation: Vec<Actor>,
}

/// One link of a delegation chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// Who vouches for the subject.
    pub issuer: String,
    /// Whom they vouch for.
    pub subject: String,
}

impl Identity {
    /// Whether both are the same person or workload: same issuer and subject. Names and groups may be mapped alike.
    pub fn is_same_principal(&self, other: &Self) -> bool {
        self.issuer == other.issuer && self.subject == other.subject
    }
}

/// An [`Identity`] fresh from verification, with how long it may be relied on.
#[derive(Clone, Debug)]
pub struct Authenticated {
    /// Who it is.
    pub identity: Identity,
    /// When the proof runs out.
    pub expires_at: Option<Timestamp>,
    /// Ends when the identity is disabled, revoked or expired.
    pub liveness: Liveness,
}

/// Why a credential was not believed. `public` may be shown to the caller; `detail` is for the operator's log.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{public}")]
pub struct AuthenticationError {
    /// What the caller may read: never more than they know already.
    pub public: String,
    /// What the operator reads.
    pub detail: String,
    /// The refusal's stable code, such as `oidc/expired`.
    pub code: &'static str,
    /// Whether nobody could tell (an identity provider that is down), rather than that the credential is bad.
    pub unavailable: bool,
}

impl AuthenticationError {
    /// A credential that is bad.
    pub fn invalid(code: &'static str, public: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { public: public.into(), detail: detail.into(), code, unavailable: false }
    }

    /// A credential nobody can judge just now.
    pub fn unavailable(code: &'static str, public: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { public: public.into(), detail: detail.into(), code, unavailable: true }
    }

    /// The refusal that says so: 401 with a challenge, or 503.
    pub fn into_refusal(self) -> Refusal {
        match self.unavailable {
            true => Refusal::unavailable(self.code, self.public),
            false => Refusal::unauthorized(self.code, self.public),
        }
    }
}

/// Verifies bearer tokens. The token service of a grant issuer asks one, and so may an embedder's own layer.
pub trait Authenticator: Send + Sync + 'static {
    /// Who holds `token`?
    ///
    /// # Errors
    ///
    /// [`AuthenticationError`] when the token is not to be believed, or cannot be judged.
    ///
    /// # Cancellation
    ///
    /// Dropping the future changes nothing.
    fn authenticate<'a>(
        &'a self,
        token: &'a str,
    ) -> BoxFuture<'a, Result<Authenticated, AuthenticationError>>;
}

/// Why an identity or grant stopped being good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Ended {
    /// The credential ran out.
    Expired,
    /// Its grant was revoked.
    Revoked,
    /// The identity behind it was disabled.
    Disabled,
    /// The gateway is going away.
    Draining,
    /// What happens cannot be recorded any more.
    Unrecorded,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "the credential has expired",
            Self::Revoked => "the grant was revoked",
            Self::Disabled => "the identity was disabled",
            Self::Draining => "the gateway is shutting down",
            Self::Unrecorded => "the audit log cannot be written",
        })
    }
}

/// Something that can tell when an identity stops being good.
pub trait LivenessSource: Send + Sync + 'static {
    /// Resolves once, when it is over; never before. Any number of futures may be waiting at once.
    fn ended(&self) -> BoxFuture<'static, Ended>;
}

impl<F: Fn() -> BoxFuture<'static, Ended> + Send + Sync + 'static> LivenessSource for F {
    fn ended(&self) -> BoxFuture<'static, Ended> {
        self()
    }
}

/// How long what a request relies on stays true. Streams are cut when it ends.
///
/// Several layers may each know a reason to end; the first that resolves wins.
#[derive(Clone, Default)]
pub struct Liveness(Vec<Arc<dyn LivenessSource>>);

impl Liveness {
    /// One source.
    pub fn new(source: impl LivenessSource) -> Self {
        Self(vec![Arc::new(source)])
    }

    /// A liveness that never ends.
    pub fn forever() -> Self {
        Self::default()
    }

    /// Ends when either does.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Adds `self` to what `extensions` already hold.
    pub fn add_to(self, extensions: &mut http::Extensions) {
        let so_far = extensions.remove::<Self>().unwrap_or_default();
        extensions.insert(so_far.and(self));
    }

    /// Resolves when the first source ends; never, if there is none.
    pub fn ended(&self) -> BoxFuture<'static, Ended> {
        if self.0.is_empty() {
            return Box::pin(pending());
        }
        let first = select_all(self.0.iter().map(|source| source.ended()));
        Box::pin(async move { first.await.0 })
    }
}

impl fmt::Debug for Liveness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Liveness({} sources)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::ready};

    use super::*;

    #[test]
    fn the_first_source_to_end_decides() {
        let never = Liveness::new(|| -> BoxFuture<'static, Ended> { Box::pin(pending()) });
        assert_eq!(never.ended().now_or_never(), None);
        let revoked = Liveness::new(|| -> BoxFuture<'static, Ended> { Box::pin(ready(Ended::Revoked)) });
        assert_eq!(never.and(revoked).ended().now_or_never(), Some(Ended::Revoked));
        assert_eq!(Liveness::forever().ended().now_or_never(), None);
    }

    #[test]
    fn principals_are_told_apart_by_issuer_and_subject() {
        let of = |issuer: &str, user: &str| Identity {
            issuer: issuer.into(),
            subject: "42".into(),
            user: user.into(),
            ..Identity::default()
        };
        assert!(of("a", "x").is_same_principal(&of("a", "y")));
        assert!(!of("a", "x").is_same_principal(&of("b", "x")));
    }
}
