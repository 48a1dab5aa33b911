//! Tokens that were verified, by digest, so that a token in use costs a hash rather than a signature check.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::digest;
use portcullis_core::{Authenticated, Timestamp};

/// What was found out about a token.
#[derive(Clone)]
pub(crate) struct Verified {
    pub(crate) authenticated: Authenticated,
    /// Which keys of which issuer said so.
    pub(crate) generation: u64,
    /// The token's `exp`, with the leeway.
    pub(crate) good_until: Timestamp,
}

pub(crate) type TokenDigest = [u8; digest::SHA256_OUTPUT_LEN];

/// SHA-256; the token itself is not kept.
pub(crate) fn digest_of(token: &str) -> TokenDigest {
    let mut bytes = [0; digest::SHA256_OUTPUT_LEN];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    bytes
}

/// Bounded, in two generations: what was used lately is in the young one; when that is full it becomes the old one, and
/// what nobody used since is forgotten.
pub(crate) struct TokenCache {
    half: usize,
    generations: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    young: HashMap<TokenDigest, Arc<Verified>>,
    old: HashMap<TokenDigest, Arc<Verified>>,
}

impl TokenCache {
    /// Keeps `size` tokens at most.
    pub(crate) fn new(size: usize) -> Self {
        Self { half: size / 2, generations: Mutex::default() }
    }

    pub(crate) fn find(&self, token: &TokenDigest) -> Option<Arc<Verified>> {
        let mut generations = self.lock();
        if let Some(found) = generations.young.get(token) {
            return Some(found.clone());
        }
        let found = generations.old.remove(token)?;
        self.put(&mut generations, *token, found.clone());
        Some(found)
    }

    pub(crate) fn insert(&self, token: TokenDigest, verified: Verified) {
        if self.half > 0 {
            self.put(&mut self.lock(), token, Arc::new(verified));
        }
    }

    pub(crate) fn remove(&self, token: &TokenDigest) {
        let mut generations = self.lock();
        generations.young.remove(token);
        generations.old.remove(token);
    }

    fn put(&self, generations: &mut Generations, token: TokenDigest, verified: Arc<Verified>) {
        if generations.young.len() >= self.half {
            generations.old = mem::take(&mut generations.young);
        }
        generations.young.insert(token, verified);
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use portcullis_core::{Identity, Liveness};

    use super::*;

    fn verified() -> Verified {
        Verified {
            authenticated: Authenticated {
                identity: Identity::default(),
                expires_at: None,
                liveness: Liveness::forever(),
            },
            generation: 1,
            good_until: Timestamp::MAX,
        }
    }

    #[test]
    fn what_is_used_stays_and_the_rest_is_bounded() {
        let cache = TokenCache::new(8);
        let used = digest_of("used");
        cache.insert(used, verified());
        for n in 0..1000 {
            cache.insert(digest_of(&n.to_string()), verified());
            assert!(cache.find(&used).is_some(), "{n}");
            let generations = cache.lock();
            assert!(generations.young.len() + generations.old.len() <= 8);
        }
        cache.remove(&used);
        assert!(cache.find(&used).is_none());
    }

    #[test]
    fn a_cache_of_none_keeps_none() {
        let cache = TokenCache::new(0);
        cache.insert(digest_of("a"), verified());
        assert!(cache.find(&digest_of("a")).is_none());
    }
}
