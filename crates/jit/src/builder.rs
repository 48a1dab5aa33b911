//! How [`Grants`] are put together.

use std::{fmt, sync::Arc};

use portcullis_core::{EventSink, Identity, Liveness, SharedClock};

use crate::{
    grants::{Grants, Inner},
    key::SigningKey,
    profile::Profile,
    store::GrantStore,
};

/// How many open grants one identity may have, unless somebody says otherwise.
const MAX_OPEN: usize = 1000;

/// Puts [`Grants`] together; see [`Grants::builder`].
pub struct GrantsBuilder(Inner);

impl GrantsBuilder {
    pub(crate) fn new(
        issuer: String,
        key: SigningKey,
        profiles: Vec<Profile>,
        store: Arc<dyn GrantStore>,
        events: Arc<dyn EventSink>,
        clock: SharedClock,
    ) -> Self {
        let standing =
            Standing { is_disabled: Box::new(|_| false), liveness: Box::new(|_| Liveness::forever()) };
        let (in_use, pruned) = Default::default();
        let max_open = MAX_OPEN;
        Self(Inner { issuer, key, profiles, store, events, clock, standing, max_open, in_use, pruned })
    }

    /// Who is disabled, and when that happens. A disabled identity gets no grant; the grants it has are refused at once, and
    /// ended by the next sweep; and what `liveness` says of it is added to the [`Liveness`] of each request they let in.
    #[must_use]
    pub fn disabled(
        mut self,
        is_disabled: impl Fn(&Identity) -> bool + Send + Sync + 'static,
        liveness: impl Fn(&Identity) -> Liveness + Send + Sync + 'static,
    ) -> Self {
        self.0.standing = Standing { is_disabled: Box::new(is_disabled), liveness: Box::new(liveness) };
        self
    }

    /// How many open grants one identity (issuer and subject) may have: 1000 unless said otherwise. Of requests that come at the
    /// same moment, some may be let past it.
    #[must_use]
    pub fn max_open_per_identity(mut self, most: usize) -> Self {
        self.0.max_open = most;
        self
    }

    /// The grants.
    pub fn build(self) -> Grants {
        Grants(Arc::new(self.0))
    }
}

impl fmt::Debug for GrantsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantsBuilder").field("issuer", &self.0.issuer).finish_non_exhaustive()
    }
}

/// Who can tell whether the owner of a grant is still welcome.
pub(crate) struct Standing {
    is_disabled: Box<dyn Fn(&Identity) -> bool + Send + Sync>,
    liveness: Box<dyn Fn(&Identity) -> Liveness + Send + Sync>,
}

impl Standing {
    pub(crate) fn is_disabled(&self, identity: &Identity) -> bool {
        (self.is_disabled)(identity)
    }

    /// Ends when the identity is disabled.
    pub(crate) fn liveness(&self, identity: &Identity) -> Liveness {
        (self.liveness)(identity)
    }
}
