//! Disabled identities: a row each. Whoever judges tokens keeps them in memory, and reads them here when it starts.

use portcullis_core::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    SqliteStore,
    error::Failure,
    record::{decode, encode},
};

/// An identity that is good no more, whatever its tokens say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DisabledIdentity {
    /// Its tokens' `iss`.
    pub issuer: String,
    /// Its tokens' `sub`.
    pub subject: String,
    /// Since when.
    pub at: Timestamp,
    /// The user name of who disabled it.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// The list of disabled identities was not read or not written.
#[derive(Debug, thiserror::Error)]
#[error("the list of disabled identities: {0}")]
pub struct IdentitiesError(#[source] Failure);

impl SqliteStore {
    /// Keeps that an identity is disabled. One that is disabled already stays as it was.
    ///
    /// # Errors
    ///
    /// [`IdentitiesError`]: nobody knows whether it is kept; do it again.
    pub async fn disable_identity(&self, identity: &DisabledIdentity) -> Result<(), IdentitiesError> {
        self.insert_identity(identity).await.map_err(IdentitiesError)
    }

    /// Forgets that an identity is disabled; whether it was.
    ///
    /// # Errors
    ///
    /// [`IdentitiesError`]: nobody knows whether it is forgotten; do it again.
    pub async fn enable_identity(&self, issuer: &str, subject: &str) -> Result<bool, IdentitiesError> {
        self.delete_identity(issuer, subject).await.map_err(IdentitiesError)
    }

    /// Everyone who is disabled, by issuer and subject.
    ///
    /// # Errors
    ///
    /// [`IdentitiesError`]
    pub async fn disabled_identities(&self) -> Result<Vec<DisabledIdentity>, IdentitiesError> {
        self.select_identities().await.map_err(IdentitiesError)
    }

    async fn insert_identity(&self, identity: &DisabledIdentity) -> Result<(), Failure> {
        sqlx::query(
            "INSERT INTO disabled_identities (issuer, subject, record) VALUES ($1, $2, $3)
             ON CONFLICT (issuer, subject) DO NOTHING",
        )
        .bind(&identity.issuer)
        .bind(&identity.subject)
        .bind(encode("disabled identity", &identity.subject, identity)?)
        .execute(self.writer())
        .await?;
        Ok(())
    }

    async fn delete_identity(&self, issuer: &str, subject: &str) -> Result<bool, Failure> {
        let done = sqlx::query("DELETE FROM disabled_identities WHERE issuer = $1 AND subject = $2")
            .bind(issuer)
            .bind(subject)
            .execute(self.writer())
            .await?;
        Ok(done.rows_affected() == 1)
    }

    async fn select_identities(&self) -> Result<Vec<DisabledIdentity>, Failure> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT subject, record FROM disabled_identities ORDER BY issuer, subject")
                .fetch_all(self.readers())
                .await?;
        rows.iter().map(|(subject, record)| decode("disabled identity", subject, record)).collect()
    }
}
