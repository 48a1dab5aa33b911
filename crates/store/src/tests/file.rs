//! The file itself: who can read it, and which are refused.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use portcullis_hold::{TicketQuery, TicketStore};
use portcullis_jit::GrantStore;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{open, scratch};
use crate::{OpenErrorKind, SqliteStore};

/// The file is refused with these words, and not a byte of it is changed.
async fn check_refused(path: &Path, kind: OpenErrorKind, words: &str) {
    let before = fs::read(path).ok();
    let error = SqliteStore::open(path).await.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    let message = error.to_string();
    assert!(message.contains(words) && message.contains(&path.display().to_string()), "{message}");
    assert_eq!(fs::read(path).ok(), before, "{message}");
}

async fn run(path: &Path, sql: &str) {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn only_the_owner_can_read_it() {
    let (directory, path) = scratch();
    let store = open(&path).await;
    store.health().await.unwrap();
    let mut names = Vec::new();
    for entry in fs::read_dir(directory.path()).unwrap().map(Result::unwrap) {
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["state.db", "state.db-shm", "state.db-wal"]);
}

#[tokio::test]
async fn a_path_that_leads_nowhere_is_refused() {
    let (directory, path) = scratch();
    check_refused(&directory.path().join("missing/state.db"), OpenErrorKind::Inaccessible, "does not exist")
        .await;
    fs::create_dir(&path).unwrap();
    check_refused(&path, OpenErrorKind::Inaccessible, "no regular file").await;
}

#[tokio::test]
async fn what_is_not_ours_is_refused() {
    let (_directory, path) = scratch();
    fs::write(
        &path,
        "this is somebody's diary, and quite long enough to have a header of a hundred bytes ".repeat(9),
    )
    .unwrap();
    check_refused(&path, OpenErrorKind::Foreign, "no SQLite file").await;

    fs::remove_file(&path).unwrap();
    run(&path, "CREATE TABLE diary (day TEXT)").await;
    check_refused(&path, OpenErrorKind::Foreign, "another program").await;
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let (_directory, path) = scratch();
    open(&path).await.close().await;
    run(&path, "PRAGMA user_version = 999").await;
    check_refused(&path, OpenErrorKind::Newer, "schema 999").await;
}

#[tokio::test]
async fn a_damaged_file_is_refused() {
    let (_directory, path) = scratch();
    open(&path).await.close().await;
    let whole = fs::read(&path).unwrap();

    // Nothing but noise behind the first page.
    let mut noisy = whole.clone();
    noisy[4096..].fill(0xa5);
    fs::write(&path, noisy).unwrap();
    check_refused(&path, OpenErrorKind::Corrupt, "damaged").await;

    // The second half is missing.
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    check_refused(&path, OpenErrorKind::Corrupt, "damaged").await;
}

#[tokio::test]
async fn a_file_of_an_older_version_is_brought_up_to_date() {
    let (_directory, path) = scratch();
    run(&path, include_str!("../../migrations/sqlite/0001_grants.sql")).await;
    let store = open(&path).await;
    assert!(TicketStore::list(&store, &TicketQuery::default()).await.unwrap().is_empty());
    assert!(GrantStore::list(&store, 1).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_empty_file_becomes_a_store() {
    let (_directory, path) = scratch();
    fs::write(&path, "").unwrap();
    open(&path).await.health().await.unwrap();
}

#[tokio::test]
async fn two_may_start_at_once() {
    let (_directory, path) = scratch();
    let (one, two) = tokio::join!(SqliteStore::open(&path), SqliteStore::open(&path));
    one.unwrap().health().await.unwrap();
    two.unwrap().health().await.unwrap();
}

#[tokio::test]
async fn health_notices_what_would_be_lost() {
    let (directory, path) = scratch();
    let store = open(&path).await;
    store.health().await.unwrap();
    let elsewhere = directory.path().join("elsewhere.db");
    fs::rename(&path, &elsewhere).unwrap();
    assert!(store.health().await.unwrap_err().to_string().contains("state.db"));
    fs::copy(&elsewhere, &path).unwrap();
    assert!(store.health().await.unwrap_err().to_string().contains("replaced"));
    fs::rename(&elsewhere, &path).unwrap();
    store.health().await.unwrap();

    sqlx::query("PRAGMA query_only = ON").execute(store.writer()).await.unwrap();
    assert!(store.health().await.unwrap_err().to_string().contains("readonly"));
    store.close().await;
    store.health().await.unwrap_err();
    GrantStore::list(&store, 1).await.unwrap_err();
}
