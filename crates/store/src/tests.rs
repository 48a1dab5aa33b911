//! The stores, through their traits: in memory and in SQLite alike, and over restarts.

mod file;
mod grants;
mod identities;
mod model;
mod tickets;

use std::path::PathBuf;

use tempfile::TempDir;

use crate::SqliteStore;

/// A directory that is gone after the test, and the store's path in it.
pub(crate) fn scratch() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    (directory, path)
}

pub(crate) async fn open(path: &std::path::Path) -> SqliteStore {
    SqliteStore::open(path).await.unwrap()
}
