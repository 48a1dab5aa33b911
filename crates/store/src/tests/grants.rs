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
    assert!(!store.renew("a", at(0), at(1)).await.unwrap());
    assert!(!store.revoke("a", revocation("ann")).await.unwrap());
    assert!(!store.end_lapsed("a", at(1), revocation("ann")).await.unwrap());
    assert_eq!(store.forget(Timestamp::MAX).await.unwrap(), 0);
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
    assert!(store.renew("b", at(12), until).await.unwrap());
    assert_eq!(store.get("b").await.unwrap().unwrap().lease_until, Some(until));
    assert!(store.renew("b", at(77), Timestamp::MAX).await.unwrap());
    assert_eq!(store.get("b").await.unwrap().unwrap().lease_until, Some(Timestamp::MAX));
    assert!(!store.renew("b", at(200), at(300)).await.unwrap(), "what has expired is not renewed");

    assert!(store.revoke("b", revocation("ann")).await.unwrap());
    assert!(!store.revoke("b", revocation("bob")).await.unwrap(), "only the first ends it");
    assert!(!store.renew("b", at(60), at(500)).await.unwrap(), "what has ended is not renewed");
    assert!(!store.end_lapsed("b", Timestamp::MAX, revocation("bob")).await.unwrap());
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

/// A lease is good until the very moment it ends, and lost from then on.
async fn leases_are_compared_exactly(store: &dyn GrantStore) {
    let half = at(20).checked_add(Duration::from_millis(500)).unwrap();
    // Each grant's lease ends at second 20, or half a second later.
    for (id, until) in [("whole", at(20)), ("half", half)] {
        store.insert(GrantRecord { lease_until: Some(until), ..record(id, 1, 100) }).await.unwrap();
        let just_before = until.checked_sub(Duration::from_nanos(1)).unwrap();
        assert!(!store.end_lapsed(id, just_before, revocation("gateway")).await.unwrap());
        assert!(!store.renew(id, until, at(90)).await.unwrap(), "what is lost is not found again");
        assert!(store.renew(id, just_before, until).await.unwrap());
        assert!(store.end_lapsed(id, until, revocation("gateway")).await.unwrap());
        assert!(!store.end_lapsed(id, until, revocation("again")).await.unwrap());
        let kept = store.get(id).await.unwrap().unwrap();
        assert_eq!((kept.revocation, kept.lease_until), (Some(revocation("gateway")), Some(until)));
    }
    // Renewed after somebody saw it lost, by a clock that runs ahead.
    store.insert(record("seen", 1, 100)).await.unwrap();
    assert!(store.renew("seen", at(10), at(40)).await.unwrap());
    assert!(!store.end_lapsed("seen", at(12), revocation("gateway")).await.unwrap());
    // What has no lease does not lose it.
    let bare = GrantRecord { heartbeat: None, lease_until: None, ..record("bare", 1, 100) };
    store.insert(bare).await.unwrap();
    assert!(!store.end_lapsed("bare", Timestamp::MAX, revocation("gateway")).await.unwrap());
}

/// Open grants are counted by issuer and subject, and forgotten when they have expired.
async fn counts_and_forgets(store: &dyn GrantStore) {
    let of = |id: &str, issuer: &str, subject: &str, expires_at: i64| {
        let mut record = record(id, 1, expires_at);
        record.identity = Identity { issuer: issuer.into(), subject: subject.into(), ..record.identity };
        record
    };
    let odd = "o'brien \u{0} \"ünïcode\" %";
    for (id, issuer, subject, expires_at) in [
        ("1", "count", odd, 100),
        ("2", "count", odd, 200),
        ("3", "count", odd, 300),
        ("4", "other", odd, 300),
        ("5", "count", "o'brien", 300),
    ] {
        store.insert(of(id, issuer, subject, expires_at)).await.unwrap();
    }
    let principal = of("", "count", odd, 0).identity;
    let check = async |now: i64, expected: usize| {
        let principal = Identity { user: "whatever".into(), ..principal.clone() };
        assert_eq!(store.count_open(&principal, at(now)).await.unwrap(), expected, "at {now}");
    };
    check(99, 3).await;
    check(100, 2).await;
    store.revoke("3", revocation("ann")).await.unwrap();
    check(100, 1).await;
    check(200, 0).await;

    store.insert(of("2", "count", odd, 900)).await.unwrap_err();
    assert_eq!(store.forget(at(100)).await.unwrap(), 0);
    assert_eq!(store.forget(at(201)).await.unwrap(), 2);
    assert_eq!(store.get("1").await.unwrap(), None);
    assert!(store.get("3").await.unwrap().unwrap().revocation.is_some(), "it might have been good still");
    store.insert(of("2", "count", odd, 300)).await.unwrap();
    assert_eq!(store.forget(at(301)).await.unwrap(), 4);
}

/// Heartbeats and the end of a lease, at once: the grant is renewed or ended, never both.
async fn one_of_renewal_and_end_wins(stores: &[Arc<dyn GrantStore>]) {
    for round in 0..32 {
        let id = format!("lease {round}");
        let lease = GrantRecord { lease_until: Some(at(20)), ..record(&id, 1, 100) };
        stores[0].insert(lease).await.unwrap();
        // The one who ends it is a little ahead.
        let just_before = at(20).checked_sub(Duration::from_nanos(1)).unwrap();
        let (renewer, ender) = (stores[0].clone(), stores[stores.len() - 1].clone());
        let (renewed, ended) = tokio::join!(
            tokio::spawn({
                let id = id.clone();
                async move { renewer.renew(&id, just_before, at(50)).await.unwrap() }
            }),
            tokio::spawn({
                let id = id.clone();
                async move { ender.end_lapsed(&id, at(20), revocation("gateway")).await.unwrap() }
            }),
        );
        let (renewed, ended) = (renewed.unwrap(), ended.unwrap());
        assert!(renewed != ended, "renewed: {renewed}, ended: {ended}");
        let kept = stores[0].get(&id).await.unwrap().unwrap();
        assert_eq!(kept.revocation.is_some(), ended);
    }
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
        leases_are_compared_exactly(&*store).await;
        store.forget(Timestamp::MAX).await.unwrap();
        counts_and_forgets(&*store).await;
        one_wins(std::slice::from_ref(&store)).await;
        one_of_renewal_and_end_wins(&[store]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_rival_wins_among_processes() {
    let (_directory, path) = scratch();
    let stores: Vec<Arc<dyn GrantStore>> = vec![Arc::new(open(&path).await), Arc::new(open(&path).await)];
    one_wins(&stores).await;
    one_of_renewal_and_end_wins(&stores).await;
}

#[tokio::test]
async fn what_was_done_is_done_after_a_restart() {
    let (_directory, path) = scratch();
    for is_closed in [true, false] {
        let (kept, ended) = (format!("kept {is_closed}"), format!("ended {is_closed}"));
        let store = open(&path).await;
        store.insert(record(&kept, 1, 100)).await.unwrap();
        store.insert(record(&ended, 2, 100)).await.unwrap();
        assert!(store.renew(&kept, at(5), at(42)).await.unwrap());
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
    let stores: [Arc<dyn GrantStore>; 2] =
        [Arc::new(MemoryGrantStore::default()), Arc::new(SqliteStore::in_memory().await.unwrap())];
    for store in stores {
        store.insert(record("a", 1, 100)).await.unwrap();
        store.revoke("a", revocation("ann")).await.unwrap();
        store.insert(record("a", 1, 100)).await.unwrap_err();
        assert!(store.get("a").await.unwrap().unwrap().revocation.is_some());
    }
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
