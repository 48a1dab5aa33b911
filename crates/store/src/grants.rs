//! Grants: a row each, whose revocation is one compare-and-set.

use portcullis_core::{BoxFuture, Identity, Timestamp};
use portcullis_jit::{GrantRecord, GrantStore, Revocation, StoreError};

use crate::{
    SqliteStore,
    error::Failure,
    record::{decode, encode, nanoseconds},
};

/// `id`, `record`, `lease_until`, `revocation`
type Row = (String, String, Option<String>, Option<String>);

impl SqliteStore {
    /// An id that is there already is an error: nobody brings an ended grant back by keeping it anew.
    async fn insert_grant(&self, mut record: GrantRecord) -> Result<(), Failure> {
        let lease_until = record.lease_until.take().map(sortable);
        let id = record.grant.id.clone();
        let revocation = record.revocation.take().map(|how| encode("grant", &id, &how)).transpose()?;
        sqlx::query(
            "INSERT INTO grants (id, record, issued_at, expires_at, lease_until, revocation)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(&id)
        .bind(encode("grant", &id, &record)?)
        .bind(nanoseconds(record.grant.issued_at))
        .bind(nanoseconds(record.grant.expires_at))
        .bind(lease_until)
        .bind(revocation)
        .execute(self.writer())
        .await?;
        Ok(())
    }

    async fn find_grant(&self, id: &str) -> Result<Option<GrantRecord>, Failure> {
        let row: Option<Row> =
            sqlx::query_as("SELECT id, record, lease_until, revocation FROM grants WHERE id = $1")
                .bind(id)
                .fetch_optional(self.readers())
                .await?;
        row.map(from_row).transpose()
    }

    async fn open_grants(&self, now: Timestamp) -> Result<Vec<GrantRecord>, Failure> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT id, record, lease_until, revocation FROM grants
             WHERE revocation IS NULL AND expires_at > $1 ORDER BY issued_at DESC, id DESC",
        )
        .bind(nanoseconds(now))
        .fetch_all(self.readers())
        .await?;
        rows.into_iter().map(from_row).collect()
    }

    async fn count_open_grants(&self, principal: &Identity, now: Timestamp) -> Result<usize, Failure> {
        let count: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM grants WHERE revocation IS NULL AND expires_at > $1
             AND json_extract(record, '$.identity.issuer') = $2 AND json_extract(record, '$.identity.subject') = $3",
        )
        .bind(nanoseconds(now))
        .bind(&principal.issuer)
        .bind(&principal.subject)
        .fetch_one(self.readers())
        .await?;
        usize::try_from(count).map_err(|_| Failure::Range("a count of grants"))
    }

    async fn newest_grants(&self, limit: usize) -> Result<Vec<GrantRecord>, Failure> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT id, record, lease_until, revocation FROM grants ORDER BY issued_at DESC, id DESC LIMIT $1",
        )
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(self.readers())
        .await?;
        rows.into_iter().map(from_row).collect()
    }

    async fn renew_grant(&self, id: &str, now: Timestamp, until: Timestamp) -> Result<bool, Failure> {
        let done = sqlx::query(
            "UPDATE grants SET lease_until = $4 WHERE id = $1 AND revocation IS NULL AND expires_at > $2
             AND (lease_until IS NULL OR lease_until > $3)",
        )
        .bind(id)
        .bind(nanoseconds(now))
        .bind(sortable(now))
        .bind(sortable(until))
        .execute(self.writer())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    async fn revoke_grant(&self, id: &str, how: Revocation) -> Result<bool, Failure> {
        let done = sqlx::query("UPDATE grants SET revocation = $2 WHERE id = $1 AND revocation IS NULL")
            .bind(id)
            .bind(encode("grant", id, &how)?)
            .execute(self.writer())
            .await?;
        Ok(done.rows_affected() == 1)
    }

    async fn end_lapsed_grant(&self, id: &str, now: Timestamp, how: Revocation) -> Result<bool, Failure> {
        let done = sqlx::query(
            "UPDATE grants SET revocation = $3 WHERE id = $1 AND revocation IS NULL AND lease_until <= $2",
        )
        .bind(id)
        .bind(sortable(now))
        .bind(encode("grant", id, &how)?)
        .execute(self.writer())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    async fn forget_grants(&self, before: Timestamp) -> Result<u64, Failure> {
        let done = sqlx::query("DELETE FROM grants WHERE expires_at < $1")
            .bind(nanoseconds(before))
            .execute(self.writer())
            .await?;
        Ok(done.rows_affected())
    }
}

/// The end of a lease, exactly; of two from the year 0 on, the earlier is the lesser text.
fn sortable(time: Timestamp) -> String {
    format!("{time:.9}")
}

fn from_row((id, record, lease_until, revocation): Row) -> Result<GrantRecord, Failure> {
    let record: GrantRecord = decode("grant", &id, &record)?;
    let lease_until =
        lease_until.map(|until| until.parse().map_err(|_| Failure::Range("the end of a lease")));
    let revocation = revocation.map(|how| decode("grant", &id, &how));
    Ok(GrantRecord { lease_until: lease_until.transpose()?, revocation: revocation.transpose()?, ..record })
}

impl GrantStore for SqliteStore {
    fn insert(&self, record: GrantRecord) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { Ok(self.insert_grant(record).await?) })
    }

    fn get<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<GrantRecord>, StoreError>> {
        Box::pin(async move { Ok(self.find_grant(id).await?) })
    }

    fn open(&self, now: Timestamp) -> BoxFuture<'_, Result<Vec<GrantRecord>, StoreError>> {
        Box::pin(async move { Ok(self.open_grants(now).await?) })
    }

    fn count_open<'a>(
        &'a self,
        principal: &'a Identity,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<usize, StoreError>> {
        Box::pin(async move { Ok(self.count_open_grants(principal, now).await?) })
    }

    fn list(&self, limit: usize) -> BoxFuture<'_, Result<Vec<GrantRecord>, StoreError>> {
        Box::pin(async move { Ok(self.newest_grants(limit).await?) })
    }

    fn renew<'a>(
        &'a self,
        id: &'a str,
        now: Timestamp,
        until: Timestamp,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move { Ok(self.renew_grant(id, now, until).await?) })
    }

    fn revoke<'a>(&'a self, id: &'a str, how: Revocation) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move { Ok(self.revoke_grant(id, how).await?) })
    }

    fn end_lapsed<'a>(
        &'a self,
        id: &'a str,
        now: Timestamp,
        how: Revocation,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move { Ok(self.end_lapsed_grant(id, now, how).await?) })
    }

    fn forget(&self, before: Timestamp) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move { Ok(self.forget_grants(before).await?) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_time() -> impl Strategy<Value = Timestamp> {
        let year_zero = -62_167_219_200;
        let seconds = prop_oneof![year_zero..Timestamp::MAX.as_second(), 1_800_000_000..1_800_000_003_i64];
        let nanoseconds = prop_oneof![0..1_000_000_000, 0..3, Just(500_000_000)];
        (seconds, nanoseconds).prop_map(|(s, ns)| Timestamp::new(s, ns).unwrap())
    }

    proptest! {
        #[test]
        fn leases_sort_as_times_do(a in any_time(), b in any_time()) {
            prop_assert_eq!(a.cmp(&b), sortable(a).cmp(&sortable(b)));
            prop_assert_eq!(sortable(a).parse::<Timestamp>().unwrap(), a);
        }
    }
}
