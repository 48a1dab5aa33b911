//! The index against the plain reading of a query, and what happens to an index that lags, lies, or is made anew.

use std::sync::Arc;

use portcullis_audit::ledger::{self, BodyKeys, Durability, Ledger};
use portcullis_audit::{Audit, AuditOptions, AuditReader, Stored};
use portcullis_core::{
    AuditId, Clock as _, Event, EventKind, EventSink as _, Identity, RequestInfo, SystemClock,
};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::document::Document;
use crate::{Follower, IndexError, Indexer, Query, Searcher, reindex};

const KINDS: [EventKind; 4] =
    [EventKind::Held, EventKind::Approved, EventKind::Granted, EventKind::ConnectionRefused];
const USERS: [&str; 5] = ["ann", "ci-1", "ci-2", "CI-22", "o'brien \"x\""];
const TEXTS: [&str; 4] = ["exit code 137", "code exit", "Größe 10%", "it is *not* (so)"];

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn open(dir: &TempDir) -> Audit {
    Audit::open(dir.path(), AuditOptions::new("test.example/search")).unwrap().0
}

fn event(kind: usize, user: usize, text: usize) -> Event {
    let user = Identity { user: USERS[user].into(), groups: vec!["team".into()], ..Identity::default() };
    Event::new(KINDS[kind]).by(&user).with("reason", TEXTS[text])
}

fn query(text: &str) -> Query {
    Query::parse(text, SystemClock.now()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// All that a query finds, page by page.
async fn find(searcher: &Searcher, text: &str, page: usize) -> Vec<u64> {
    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let page = searcher.search(&query(text), before, page, u64::MAX).await.unwrap();
        found.extend(page.hits.iter().map(|hit| hit.index));
        before = page.next;
        if before.is_none() {
            return found;
        }
    }
}

/// The same, read off every record.
fn expected(dir: &TempDir, text: &str) -> Vec<u64> {
    let query = query(text);
    let matching = |stored: &Stored| query.matches(&Document::of(stored, None));
    let (found, _) = AuditReader::new(dir.path()).tail(usize::MAX, matching).unwrap();
    found.iter().rev().map(|stored| stored.index).collect()
}

fn term() -> impl Strategy<Value = String> {
    let value = prop::sample::select(vec![
        "user:ann",
        "user:ci-*",
        "user:ci-2",
        "user:c*,ann",
        r#"user:"o'brien \"x\"""#,
        "user:nobody",
        "user:*",
        "event:held,granted",
        "event:connectionrefused",
        "type:log",
        "type:event",
        "group:team",
        "approver:*",
        "exit",
        r#""exit code""#,
        r#""code exit""#,
        "größe",
        "co*",
        r#""exit co"*"#,
        "not",
        "137",
        "ann",
        "nothing",
    ]);
    (any::<bool>(), value).prop_map(|(negated, value)| format!("{}{value}", if negated { "-" } else { "" }))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn an_index_finds_what_reading_every_record_finds(
        events in prop::collection::vec((0..KINDS.len(), 0..USERS.len(), 0..TEXTS.len()), 0..60),
        indexed in 0_u64..60,
        queries in prop::collection::vec(prop::collection::vec(term(), 0..4), 12),
        page in 1_usize..20,
    ) {
        runtime().block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let audit = open(&dir).await;
            for (kind, user, text) in events {
                audit.record(event(kind, user, text)).await.unwrap();
            }
            // Some of the log is in the index, the rest is looked into one by one.
            Indexer::open(dir.path()).await.unwrap().catch_up(indexed, |_| {}).await.unwrap();
            let searcher = Searcher::new(dir.path());
            for terms in queries {
                let text = terms.join(" ");
                assert_eq!(find(&searcher, &text, page).await, expected(&dir, &text), "{text}");
            }
        });
    }
}

#[tokio::test]
async fn an_answer_says_how_fresh_it_is_and_what_is_behind_the_end_is_not_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(&dir).await;
    let searcher = Searcher::new(dir.path());
    assert!(matches!(searcher.search(&query(""), None, 1, u64::MAX).await, Err(IndexError::Missing)));
    for _ in 0..9 {
        audit.record(event(0, 0, 0)).await.unwrap();
    }
    // One more says that the log was opened.
    let mut indexer = Indexer::open(dir.path()).await.unwrap();
    indexer.catch_up(4, |_| {}).await.unwrap();
    assert_eq!(indexer.indexed(), 4);
    let page = searcher.search(&query(""), None, 100, 8).await.unwrap();
    let found = page.freshness;
    assert_eq!((found.indexed, found.searched, found.complete, page.hits.len()), (4, 8, true, 8));
    assert_eq!(page.hits[0].index, 7);
    indexer.catch_up(u64::MAX, |_| {}).await.unwrap();
    let page = searcher.search(&query(""), None, 3, u64::MAX).await.unwrap();
    assert_eq!((page.freshness.indexed, page.next), (10, Some(7)));

    // Times are bounds between records.
    let at = |hit: &Stored| hit.entry.time;
    let bound = format!("since:{} until:{}", at(&page.hits[2]), at(&page.hits[0]));
    let within = find(&searcher, &bound, 10).await;
    assert!(within.contains(&7) && within.contains(&8) && !within.contains(&9), "{within:?}");
    assert_eq!(find(&searcher, "until:1970-01-01", 10).await, [0; 0]);
}

#[tokio::test]
async fn one_process_keeps_an_index_and_another_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(&dir).await;
    let mut first = Indexer::open(dir.path()).await.unwrap();
    first.catch_up(u64::MAX, |_| {}).await.unwrap();
    assert!(matches!(Indexer::open(dir.path()).await, Err(IndexError::Busy)));
    drop(first);
    audit.record(event(0, 0, 0)).await.unwrap();
    let mut second = Indexer::open(dir.path()).await.unwrap();
    assert_eq!(second.indexed(), 1);
    second.catch_up(u64::MAX, |_| {}).await.unwrap();
    assert_eq!(second.indexed(), 2);
}

#[tokio::test]
async fn an_index_of_another_log_or_a_damaged_one_is_made_anew() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (dir, user) in [(&dir, 0), (&other, 1)] {
        let audit = open(dir).await;
        audit.record(event(0, user, 0)).await.unwrap();
        Indexer::open(dir.path()).await.unwrap().catch_up(u64::MAX, |_| {}).await.unwrap();
    }
    std::fs::copy(other.path().join("index/1.db"), dir.path().join("index/1.db")).unwrap();
    let _ = std::fs::remove_file(dir.path().join("index/1.db-wal"));
    let mut indexer = Indexer::open(dir.path()).await.unwrap();
    assert_eq!(indexer.indexed(), 0);
    indexer.catch_up(u64::MAX, |_| {}).await.unwrap();
    drop(indexer);
    assert_eq!(find(&Searcher::new(dir.path()), "user:ann", 10).await, [1]);
    assert!(!dir.path().join("index/1.db").exists());

    std::fs::write(
        dir.path().join("index/2.db"),
        "not a database, but quite long enough to look like a file",
    )
    .unwrap();
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(dir.path().join(format!("index/2.db{suffix}")));
    }
    let mut indexer = Indexer::open(dir.path()).await.unwrap();
    indexer.catch_up(u64::MAX, |_| {}).await.unwrap();
    assert_eq!(find(&Searcher::new(dir.path()), "user:ann", 10).await, [1]);
}

#[tokio::test]
async fn an_index_of_an_earlier_version_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(&dir).await;
    audit.record(event(0, 0, 0)).await.unwrap();
    Indexer::open(dir.path()).await.unwrap().catch_up(u64::MAX, |_| {}).await.unwrap();
    let path = dir.path().join("index/1.db");
    let pool = sqlx::SqlitePool::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    // The first had the words of what is encrypted.
    sqlx::query("PRAGMA user_version = 1").execute(&pool).await.unwrap();
    pool.close().await;
    let mut indexer = Indexer::open(dir.path()).await.unwrap();
    assert_eq!(indexer.indexed(), 0);
    assert!(!path.exists());
    indexer.catch_up(u64::MAX, |_| {}).await.unwrap();
    assert_eq!(find(&Searcher::new(dir.path()), "user:ann", 10).await, [1]);
}

#[tokio::test]
async fn an_index_is_made_anew_while_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(&dir).await;
    audit.record(event(0, 0, 0)).await.unwrap();
    let mut indexer = Indexer::open(dir.path()).await.unwrap();
    indexer.catch_up(u64::MAX, |_| {}).await.unwrap();
    let searcher = Searcher::new(dir.path());
    assert_eq!(find(&searcher, "user:ann", 10).await, [1]);

    let size = Arc::new(std::sync::Mutex::new(Vec::new()));
    let steps = size.clone();
    let indexed = reindex(dir.path(), u64::MAX, move |at| steps.lock().unwrap().push(at)).await.unwrap();
    assert_eq!((indexed, size.lock().unwrap().last().copied()), (2, Some(2)));
    assert_eq!(find(&searcher, "user:ann", 10).await, [1]);
    // The one who keeps it up to date goes over to the new one, and removes the old.
    audit.record(event(0, 0, 0)).await.unwrap();
    let end = audit.health().size;
    let running = tokio::spawn(indexer.run(move || end));
    let old = dir.path().join("index/1.db");
    let over = async {
        while old.exists() || searcher.search(&query(""), None, 1, end).await.unwrap().freshness.indexed < end
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), over)
        .await
        .expect("it goes over to the new one");
    running.abort();
    assert_eq!(find(&searcher, "user:ann", 10).await, [2, 1]);
}

#[tokio::test]
async fn who_follows_sees_what_matches_as_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(&dir).await;
    let mut follower = Follower::new(dir.path(), query("user:ann"), false);
    assert!(follower.more(u64::MAX).await.unwrap().is_empty());
    for user in [0, 1, 0] {
        audit.record(event(0, user, 0)).await.unwrap();
    }
    let found: Vec<u64> = follower.more(u64::MAX).await.unwrap().iter().map(|hit| hit.index).collect();
    assert_eq!(found, [1, 3]);
    assert!(follower.more(u64::MAX).await.unwrap().is_empty());
}

#[test]
fn a_text_that_is_too_long_is_searched_at_its_beginning_and_says_so() {
    let mut document = Document::default();
    document.body("first ".as_bytes());
    document.body("x ".repeat(1024 * 1024).as_bytes());
    document.body(b"last");
    let found = |text: &str| query(text).matches(&document);
    assert!(found("first cut:true") && !found("last"));
    let mut short = Document::default();
    short.body(b"last");
    assert!(query("last -cut:true").matches(&short));
}

#[tokio::test]
async fn what_is_far_back_is_not_looked_for_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let options = AuditOptions::new("test.example/search").ledger(|ledger| ledger.segment_size(1000));
    let audit = Audit::open(dir.path(), options).unwrap().0;
    for nth in 0..40 {
        audit.record(event(0, usize::from(nth > 0), 0)).await.unwrap();
    }
    assert!(AuditReader::new(dir.path()).segments().unwrap().len() > 3);
    let newest =
        async |back| Follower::newest(dir.path(), query("user:ann"), false, 5, 41, back).await.unwrap();
    let (all, mut follower) = newest(u64::MAX).await;
    assert_eq!(all.iter().map(|hit| hit.index).collect::<Vec<_>>(), [1]);
    assert!(newest(3).await.0.is_empty());
    audit.record(event(0, 0, 0)).await.unwrap();
    assert_eq!(follower.more(u64::MAX).await.unwrap().iter().map(|hit| hit.index).collect::<Vec<_>>(), [41]);
}

/// The index has no words of it, so neither has what is searched until the index gets there.
#[tokio::test]
async fn what_is_encrypted_is_not_found_behind_the_index_either() {
    for (keys, found) in [(BodyKeys::default(), vec![0]), (BodyKeys::new([[7; 32]]), vec![])] {
        let dir = tempfile::tempdir().unwrap();
        let options = ledger::Options::new("test.example/search").body_keys(keys.clone());
        let (log, _) = Ledger::open(dir.path(), options).unwrap();
        let stored = log.bodies().put(b"hidden", Durability::Fsync).unwrap();
        let outcome = serde_json::json!({
            "v": 1, "time": "2026-01-01T00:00:00Z", "type": "outcome", "id": AuditId::generate(), "end": "completed",
            "command": "get", "info": RequestInfo::default(), "received": "2026-01-01T00:00:00Z",
            "response": {"bytes": 6, "sha256": stored, "stored": stored},
        });
        log.writer().append_blocking(outcome.to_string().into_bytes(), Durability::Fsync).unwrap();
        let searcher = Searcher::new(AuditReader::new(dir.path()).body_keys(keys));
        let mut indexer = Indexer::open(dir.path()).await.unwrap();
        assert_eq!(find(&searcher, "get", 10).await, [0]);
        assert_eq!(find(&searcher, "hidden", 10).await, found, "behind it");
        indexer.catch_up(u64::MAX, |_| {}).await.unwrap();
        assert_eq!(find(&searcher, "hidden", 10).await, found, "in it");
    }
}

/// Behind the index everything is looked into one by one, while the index goes on: nothing comes twice.
#[tokio::test]
async fn nothing_is_found_twice_while_the_index_catches_up() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(&dir).await;
    for _ in 0..300 {
        audit.record(event(0, 0, 0)).await.unwrap();
    }
    let mut indexer = Indexer::open(dir.path()).await.unwrap();
    let (searcher, ann) = (Searcher::new(dir.path()), query("user:ann"));
    for end in (1..=301).step_by(20) {
        let (page, caught_up) =
            tokio::join!(searcher.search(&ann, None, 1000, 301), indexer.catch_up(end, |_| {}));
        caught_up.unwrap();
        // Before there is an index, none is asked.
        let found: Vec<u64> = page.unwrap().hits.iter().map(|hit| hit.index).collect();
        assert_eq!(found, (1..301).rev().collect::<Vec<_>>());
    }
}
