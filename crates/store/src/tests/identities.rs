//! Who is disabled is so after a restart, too.

use portcullis_core::Timestamp;

use super::{open, scratch};
use crate::DisabledIdentity;

fn disabled(issuer: &str, subject: &str, by: &str) -> DisabledIdentity {
    DisabledIdentity {
        issuer: issuer.into(),
        subject: subject.into(),
        at: Timestamp::UNIX_EPOCH,
        by: by.into(),
        reason: "left on Friday; it's \"final\"".into(),
    }
}

#[tokio::test]
async fn an_identity_is_disabled_until_it_is_enabled() {
    let (_directory, path) = scratch();
    let store = open(&path).await;
    assert!(store.disabled_identities().await.unwrap().is_empty());
    let (ci, other) = (disabled("https://b", "ci", "ann"), disabled("https://a", "ci", "ann"));
    store.disable_identity(&ci).await.unwrap();
    store.disable_identity(&other).await.unwrap();
    // Who did it first, and why, stays.
    store.disable_identity(&disabled("https://b", "ci", "bob")).await.unwrap();
    store.close().await;

    let store = open(&path).await;
    assert_eq!(store.disabled_identities().await.unwrap(), [other.clone(), ci]);
    assert!(store.enable_identity("https://b", "ci").await.unwrap());
    assert!(!store.enable_identity("https://b", "ci").await.unwrap());
    assert!(!store.enable_identity("https://a", "c").await.unwrap());
    store.close().await;
    assert_eq!(open(&path).await.disabled_identities().await.unwrap(), [other]);
}
