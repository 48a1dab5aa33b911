//! Every [`GrantStore`] behaves alike.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use portcullis_core::{Grant, Identity, ResourceRule, Timestamp};
use portcullis_jit::{GrantRecord, GrantStore, MemoryGrantStore, Revocation};
use proptest::prelude::*;

use super::{open, scratch};
use crate::SqliteStore;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn record(id: &str, issued_at: i64, expires_at: i64) -> GrantRecord {
    GrantRecord {
        grant: Grant {
            id: id.into(),
            profile: "deploy".into(),
            task: Some("it's a \"task\" with \u{0} and ünïcode".into()),
            rules: vec![ResourceRule { verbs: vec!["get".into()], ..ResourceRule::default() }],
            issued_at: at(issued_at),
            expires_at: at(expires_at),
            approvers: vec![],
        },
        identity: Identity {
            issuer: "idp".into(),
            subject: "bot".into(),
            user: "bot".into(),
            ..Identity::default()
        },
        renewal_sha256: "00ff".into(),
        heartbeat: Some(Duration::from_millis(1500)),
        lease_until: Some(at(issued_at + 10)),
        certificate_sha256: None,
        revocation: None,
    }
}

fn revocation(by: &str) -> Revocation {
    Revocation { at: at(50), by: by.into(), reason: "done".into() }
}

fn ids(records: Vec<GrantRecord>) -> Vec<String> {
    records.into_iter().map(|record| record.grant.id).collect()
}

/// What every store must do, tried on an empty one.
async fn conforms(store: &dyn GrantStore) {
    assert_eq!(store.get("a").await.unwrap(), None);
    assert!(!store.renew("a", at(1)).await.unwrap());
    assert!(!store.revoke("a", revocation("ann")).await.unwrap());
    assert!(store.list(10).await.unwrap().is_empty());

    let (a, b, c) = (record("a", 1, 100), record("b", 3, 200), record("c", 2, 300));
    for record in [&a, &b, &c] {
        store.insert(record.clone()).await.unwrap();
    }
    assert_eq!(store.get("a").await.unwrap(), Some(a));
    assert_eq!(ids(store.list(10).await.unwrap()), ["b", "c", "a"], "newest first");
    assert_eq!(ids(store.list(2).await.unwrap()), ["b", "c"]);
    assert_eq!(ids(store.list(usize::MAX).await.unwrap()).len(), 3);
    assert!(store.list(0).await.unwrap().is_empty());

    // A grant is over at the very moment it expires, not one nanosecond sooner.
    let just_before = at(100).checked_sub(Duration::from_nanos(1)).unwrap();
    assert_eq!(ids(store.open(just_before).await.unwrap()), ["b", "c", "a"]);
    assert_eq!(ids(store.open(at(100)).await.unwrap()), ["b", "c"]);
    assert!(store.open(Timestamp::MAX).await.unwrap().is_empty());

    let until = at(77).checked_add(Duration::from_nanos(123_456_789)).unwrap();
    assert!(store.renew("b", until).await.unwrap());
    assert_eq!(store.get("b").await.unwrap().unwrap().lease_until, Some(until));
    assert!(store.renew("b", Timestamp::MAX).await.unwrap());
    assert_eq!(store.get("b").await.unwrap().unwrap().lease_until, Some(Timestamp::MAX));

    assert!(store.revoke("b", revocation("ann")).await.unwrap());
    assert!(!store.revoke("b", revocation("bob")).await.unwrap(), "only the first ends it");
    assert!(!store.renew("b", at(500)).await.unwrap(), "what has ended is not renewed");
    let ended = GrantRecord { revocation: Some(revocation("ann")), lease_until: Some(Timestamp::MAX), ..b };
    assert_eq!(store.get("b").await.unwrap(), Some(ended));
    assert_eq!(ids(store.open(at(0)).await.unwrap()), ["c", "a"]);
    assert_eq!(ids(store.list(10).await.unwrap()), ["b", "c", "a"], "history stays");

    let bare = GrantRecord { heartbeat: None, lease_until: None, ..record("d", 4, 400) };
    store.insert(bare.clone()).await.unwrap();
    let born_dead = GrantRecord { revocation: Some(revocation("eve")), ..record("e", 5, 500) };
    store.insert(born_dead.clone()).await.unwrap();
    assert_eq!(store.get("d").await.unwrap(), Some(bare));
    assert_eq!(store.get("e").await.unwrap(), Some(born_dead));
    assert_eq!(ids(store.open(at(0)).await.unwrap()), ["d", "c", "a"]);
}

/// Many end the same grant at once, through any of `stores`.
async fn one_wins(stores: &[Arc<dyn GrantStore>]) {
    stores[0].insert(record("race", 1, 100)).await.unwrap();
    let rivals = (0..32).map(|n| {
        let store = stores[n % stores.len()].clone();
        tokio::spawn(async move { (n, store.revoke("race", revocation(&n.to_string())).await.unwrap()) })
    });
    let winners: Vec<_> =
        join_all(rivals).await.into_iter().map(Result::unwrap).filter(|(_, won)| *won).collect();
    let [(winner, _)] = winners[..] else { panic!("{winners:?}") };
    for store in stores {
        let kept = store.get("race").await.unwrap().unwrap().revocation.unwrap();
        assert_eq!(kept.by, winner.to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_conform_and_one_rival_wins() {
    let (_directory, path) = scratch();
    let stores: [Arc<dyn GrantStore>; 3] = [
        Arc::new(MemoryGrantStore::default()),
        Arc::new(SqliteStore::in_memory().await.unwrap()),
        Arc::new(open(&path).await),
    ];
    for store in stores {
        conforms(&*store).await;
        one_wins(&[store]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_rival_wins_among_processes() {
    let (_directory, path) = scratch();
    let stores: Vec<Arc<dyn GrantStore>> = vec![Arc::new(open(&path).await), Arc::new(open(&path).await)];
    one_wins(&stores).await;
}

#[tokio::test]
async fn what_was_done_is_done_after_a_restart() {
    let (_directory, path) = scratch();
    for is_closed in [true, false] {
        let (kept, ended) = (format!("kept {is_closed}"), format!("ended {is_closed}"));
        let store = open(&path).await;
        store.insert(record(&kept, 1, 100)).await.unwrap();
        store.insert(record(&ended, 2, 100)).await.unwrap();
        store.renew(&kept, at(42)).await.unwrap();
        store.revoke(&ended, revocation("ann")).await.unwrap();
        match is_closed {
            true => store.close().await,
            false => drop(store),
        }
        let store = open(&path).await;
        assert_eq!(store.get(&kept).await.unwrap().unwrap().lease_until, Some(at(42)));
        assert_eq!(store.get(&ended).await.unwrap().unwrap().revocation, Some(revocation("ann")));
    }
}

#[tokio::test]
async fn nobody_revives_a_grant_by_keeping_it_anew() {
    let store = SqliteStore::in_memory().await.unwrap();
    store.insert(record("a", 1, 100)).await.unwrap();
    store.revoke("a", revocation("ann")).await.unwrap();
    store.insert(record("a", 1, 100)).await.unwrap_err();
    assert!(store.get("a").await.unwrap().unwrap().revocation.is_some());
}

#[tokio::test]
async fn only_what_has_expired_is_forgotten() {
    let store = SqliteStore::in_memory().await.unwrap();
    for record in [record("old", 1, 100), record("revoked", 2, 200), record("good", 3, 200)] {
        store.insert(record).await.unwrap();
    }
    store.revoke("revoked", revocation("ann")).await.unwrap();
    assert_eq!(store.forget_grants(at(100)).await.unwrap(), 0);
    assert_eq!(store.forget_grants(at(150)).await.unwrap(), 1);
    assert_eq!(ids(store.list(10).await.unwrap()), ["good", "revoked"]);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_an_error_and_not_quoted() {
    let store = SqliteStore::in_memory().await.unwrap();
    store.insert(record("a", 1, 100)).await.unwrap();
    let broken = r#"{"grant":"hunter2"}"#;
    sqlx::query("UPDATE grants SET record = $1").bind(broken).execute(store.writer()).await.unwrap();
    for error in [
        store.get("a").await.unwrap_err(),
        GrantStore::open(&store, at(0)).await.unwrap_err(),
        store.list(9).await.unwrap_err(),
    ] {
        let error = error.to_string();
        assert!(error.contains("grant a") && !error.contains("hunter2"), "{error}");
    }
    // It can be ended all the same.
    assert!(store.revoke("a", revocation("ann")).await.unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_text_comes_back_as_it_was(id in ".{0,40}", task in ".{0,40}", by in ".{0,40}") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = SqliteStore::in_memory().await.unwrap();
            let mut kept = record(&id, 1, 100);
            kept.grant.task = Some(task);
            store.insert(kept.clone()).await.unwrap();
            assert!(store.revoke(&id, revocation(&by)).await.unwrap());
            kept.revocation = Some(revocation(&by));
            assert_eq!(store.get(&id).await.unwrap(), Some(kept));
        });
    }
}
