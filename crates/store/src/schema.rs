//! The tables, and how a file gets them: embedded, numbered steps, of which a file remembers the last.

use std::path::Path;

use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::error::{OpenError, OpenErrorKind, damaged};

/// Marks a file as ours (`PRAGMA application_id`): "Port".
const APPLICATION_ID: i64 = 0x506f_7274;

/// Each brings a file from the version of its place in the list to the next, and says so in `user_version`. A step that was
/// ever released is never edited; a change is another step.
const STEPS: &[&str] = &[
    include_str!("../migrations/sqlite/0001_grants.sql"),
    include_str!("../migrations/sqlite/0002_tickets.sql"),
    include_str!("../migrations/sqlite/0003_disabled_identities.sql"),
];

/// Looks before anything is changed, by a connection that sets no journal mode, which would change a stranger's file.
pub(crate) async fn inspect(path: &Path, options: &SqliteConnectOptions) -> Result<(), OpenError> {
    let sqlite = |error| OpenError::from_sqlite(path, error);
    let mut connection = SqliteConnection::connect_with(options).await.map_err(sqlite)?;
    let seen = look(&mut connection).await.map_err(sqlite);
    connection.close().await.map_err(sqlite)?;
    let seen = seen?;
    if !seen.is_empty && seen.application_id != APPLICATION_ID {
        let problem = "it belongs to another program; name another file";
        return Err(OpenError::new(path, OpenErrorKind::Foreign, problem));
    }
    if seen.version > newest() {
        let problem = format!(
            "it has schema {}, and this version knows up to {}; run the version that wrote it, or a newer one",
            seen.version,
            newest()
        );
        return Err(OpenError::new(path, OpenErrorKind::Newer, problem));
    }
    match seen.finding.as_str() {
        "ok" => Ok(()),
        finding => Err(OpenError::new(path, OpenErrorKind::Corrupt, damaged(finding))),
    }
}

/// Takes the steps that the file has not taken, each in a transaction of its own; another process may be doing the same.
pub(crate) async fn migrate(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    for step in STEPS.iter().zip(0..) {
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *transaction).await?;
        if version == step.1 {
            sqlx::raw_sql(*step.0).execute(&mut *transaction).await?;
            tracing::info!(schema = version + 1, "the store's schema was brought up to date");
        }
        transaction.commit().await?;
    }
    Ok(())
}

struct Seen {
    is_empty: bool,
    application_id: i64,
    version: i64,
    finding: String,
}

async fn look(connection: &mut SqliteConnection) -> Result<Seen, sqlx::Error> {
    let tables: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM sqlite_master").fetch_one(&mut *connection).await?;
    let application_id = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *connection).await?;
    let version = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *connection).await?;
    let finding = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&mut *connection).await?;
    Ok(Seen {
        is_empty: tables == 0 && application_id == 0 && version == 0,
        application_id,
        version,
        finding,
    })
}

fn newest() -> i64 {
    i64::try_from(STEPS.len()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_leaves_its_number() {
        for (step, number) in STEPS.iter().zip(1..) {
            assert!(step.trim_end().ends_with(&format!("PRAGMA user_version = {number};")), "step {number}");
        }
        assert!(STEPS[0].contains(&format!("PRAGMA application_id = {APPLICATION_ID};")));
    }
}
