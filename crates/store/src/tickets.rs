//! Tickets: a row each, exchanged for its next version by one compare-and-set.

use portcullis_core::{BoxFuture, Timestamp};
use portcullis_hold::{StoreError, Ticket, TicketQuery, TicketStore};
use sqlx::{QueryBuilder, Sqlite};

use crate::{
    SqliteStore,
    error::Failure,
    record::{decode, encode, nanoseconds},
};

/// `id`, `record`
type Row = (String, String);

/// A ticket as columns.
struct Columns<'a> {
    id: &'a str,
    version: i64,
    record: String,
    state: &'static str,
    open_digest: Option<&'a str>,
    issuer: &'a str,
    subject: &'a str,
    created_at: i64,
    overdue_from: Option<i64>,
}

impl<'a> Columns<'a> {
    fn of(ticket: &'a Ticket) -> Result<Self, Failure> {
        Ok(Self {
            id: &ticket.id,
            version: i64::try_from(ticket.version).map_err(|_| Failure::Range("a ticket's version"))?,
            record: encode("ticket", &ticket.id, ticket)?,
            state: ticket.state.name(),
            open_digest: ticket.is_open().then_some(&ticket.digest),
            issuer: &ticket.identity.issuer,
            subject: &ticket.identity.subject,
            created_at: nanoseconds(ticket.created_at),
            overdue_from: ticket.state.ended_at().is_none().then(|| nanoseconds(ticket.expires_at)),
        })
    }
}

impl SqliteStore {
    async fn open_ticket(&self, ticket: &Ticket) -> Result<Option<Ticket>, Failure> {
        let columns = Columns::of(ticket)?;
        loop {
            // That no two open ones have the same digest is the index's business, so it holds among processes, too.
            let done = sqlx::query(
                "INSERT INTO tickets
                 (id, version, record, state, open_digest, issuer, subject, created_at, overdue_from)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (open_digest) DO NOTHING",
            )
            .bind(columns.id)
            .bind(columns.version)
            .bind(&columns.record)
            .bind(columns.state)
            .bind(columns.open_digest)
            .bind(columns.issuer)
            .bind(columns.subject)
            .bind(columns.created_at)
            .bind(columns.overdue_from)
            .execute(self.writer())
            .await?;
            if done.rows_affected() == 1 {
                return Ok(None);
            }
            // The open one may close before we look: then there is room for ours.
            if let Some(existing) = self.find_open_ticket(&ticket.digest).await? {
                return Ok(Some(existing));
            }
        }
    }

    async fn find_ticket(&self, id: &str) -> Result<Option<Ticket>, Failure> {
        let row: Option<Row> = sqlx::query_as("SELECT id, record FROM tickets WHERE id = $1")
            .bind(id)
            .fetch_optional(self.readers())
            .await?;
        row.map(from_row).transpose()
    }

    async fn find_open_ticket(&self, digest: &str) -> Result<Option<Ticket>, Failure> {
        let row: Option<Row> = sqlx::query_as("SELECT id, record FROM tickets WHERE open_digest = $1")
            .bind(digest)
            .fetch_optional(self.readers())
            .await?;
        row.map(from_row).transpose()
    }

    async fn list_tickets(&self, query: &TicketQuery) -> Result<Vec<Ticket>, Failure> {
        let mut sql = QueryBuilder::<Sqlite>::new("SELECT id, record FROM tickets WHERE TRUE");
        if !query.states.is_empty() {
            let mut states = sql.push(" AND state IN (").separated(", ");
            for state in &query.states {
                states.push_bind(state.clone());
            }
            states.push_unseparated(")");
        }
        if query.open {
            sql.push(" AND open_digest IS NOT NULL");
        }
        if let Some((issuer, subject)) = &query.requester {
            sql.push(" AND issuer = ").push_bind(issuer.clone());
            sql.push(" AND subject = ").push_bind(subject.clone());
        }
        if let Some(now) = query.overdue_at {
            sql.push(" AND overdue_from <= ").push_bind(nanoseconds(now));
        }
        if let Some(id) = &query.older_than {
            sql.push(" AND id < ").push_bind(id.clone());
        }
        let limit = i64::try_from(query.limit()).unwrap_or(i64::MAX);
        sql.push(" ORDER BY id DESC LIMIT ").push_bind(limit);
        let rows: Vec<Row> = sql.build_query_as().fetch_all(self.readers()).await?;
        rows.into_iter().map(from_row).collect()
    }

    async fn replace_ticket(&self, ticket: &Ticket) -> Result<bool, Failure> {
        let columns = Columns::of(ticket)?;
        let done = sqlx::query(
            "UPDATE tickets SET version = $2, record = $3, state = $4, open_digest = $5, issuer = $6, subject = $7,
             created_at = $8, overdue_from = $9 WHERE id = $1 AND version = $10",
        )
        .bind(columns.id)
        .bind(columns.version)
        .bind(&columns.record)
        .bind(columns.state)
        .bind(columns.open_digest)
        .bind(columns.issuer)
        .bind(columns.subject)
        .bind(columns.created_at)
        .bind(columns.overdue_from)
        .bind(columns.version - 1)
        .execute(self.writer())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    async fn forget_tickets(&self, before: Timestamp) -> Result<u64, Failure> {
        let done = sqlx::query("DELETE FROM tickets WHERE open_digest IS NULL AND created_at < $1")
            .bind(nanoseconds(before))
            .execute(self.writer())
            .await?;
        Ok(done.rows_affected())
    }
}

fn from_row((id, record): Row) -> Result<Ticket, Failure> {
    decode("ticket", &id, &record)
}

impl TicketStore for SqliteStore {
    fn open<'a>(&'a self, ticket: &'a Ticket) -> BoxFuture<'a, Result<Option<Ticket>, StoreError>> {
        Box::pin(async move { Ok(self.open_ticket(ticket).await?) })
    }

    fn find<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Ticket>, StoreError>> {
        Box::pin(async move { Ok(self.find_ticket(id).await?) })
    }

    fn find_open<'a>(&'a self, digest: &'a str) -> BoxFuture<'a, Result<Option<Ticket>, StoreError>> {
        Box::pin(async move { Ok(self.find_open_ticket(digest).await?) })
    }

    fn list<'a>(&'a self, query: &'a TicketQuery) -> BoxFuture<'a, Result<Vec<Ticket>, StoreError>> {
        Box::pin(async move { Ok(self.list_tickets(query).await?) })
    }

    fn replace<'a>(&'a self, ticket: &'a Ticket) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move { Ok(self.replace_ticket(ticket).await?) })
    }

    fn forget(&self, before: Timestamp) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move { Ok(self.forget_tickets(before).await?) })
    }
}
