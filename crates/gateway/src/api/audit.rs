//! `/audit`: the evidence, for auditors. Searching, reading and following it are on record like any request.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use portcullis_audit::{Audit, Stored};
use portcullis_core::{Approvers, BoxError, Clock, Reason, Refusal};
use portcullis_ledger::Reader;
use portcullis_search::{Follower, Freshness, IndexError, MOST_HITS, Searcher};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::{Api, Caller, Problem};
use crate::causes::causes;

/// How many records are looked into for what somebody who follows begins with; what is further back is for a search.
const LOOK_BACK: u64 = 20_000;
/// How often the log is looked at for who follows it.
const PAUSE: Duration = Duration::from_millis(200);

/// What the handlers below need.
#[derive(Clone)]
pub(crate) struct Evidence {
    audit: Audit,
    searcher: Arc<Searcher>,
    auditors: Approvers,
    /// Ends who follows, so that the gateway can stop.
    drain: CancellationToken,
}

impl Evidence {
    pub(crate) fn new(audit: Audit, auditors: Approvers, drain: CancellationToken) -> Self {
        let searcher = Arc::new(Searcher::new(audit.reader()));
        Self { audit, searcher, auditors, drain }
    }

    /// Who may read it.
    pub(crate) fn auditors(&self) -> &Approvers {
        &self.auditors
    }

    /// The log's files.
    pub(crate) fn log(&self) -> Reader {
        Reader::new(self.audit.dir())
    }
}

/// What to look for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SearchQuery {
    /// The query; everything, if empty.
    #[serde(default)]
    q: String,
    /// How many records at most.
    #[serde(default = "usual_limit")]
    limit: usize,
    /// Only records older than this one.
    #[serde(default)]
    before: Option<u64>,
}

fn usual_limit() -> usize {
    50
}

/// Some of what was found, the newest first.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Found {
    pub(crate) items: Vec<RecordView>,
    /// `before` of the next page, if there may be one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) next: Option<u64>,
    pub(crate) freshness: Freshness,
}

/// A record, as it stands in the log.
#[derive(Serialize, Deserialize)]
pub(crate) struct RecordView {
    pub(crate) index: u64,
    pub(crate) record: Box<RawValue>,
}

impl RecordView {
    /// The record itself; what is no JSON was written by nobody we know, and is not shown.
    pub(crate) fn of(stored: Stored) -> Self {
        let text = String::from_utf8(stored.raw).unwrap_or_default();
        let record = RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned());
        Self { index: stored.index, record }
    }
}

pub(crate) async fn search(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<SearchQuery>,
) -> Result<Json<Found>, Problem> {
    let evidence = audits(&api, &caller)?;
    if !(1..=MOST_HITS).contains(&query.limit) {
        let message = format!("limit is between 1 and {MOST_HITS}");
        return Err(Problem(Refusal::bad_request("audit/bad-limit", message)));
    }
    let wanted = parse(&query.q, &*api.clock)?;
    let end = evidence.audit.health().size;
    let page = evidence.searcher.search(&wanted, query.before, query.limit, end).await.map_err(problem)?;
    let items = page.hits.into_iter().map(RecordView::of).collect();
    Ok(Json(Found { items, next: page.next, freshness: page.freshness }))
}

pub(crate) async fn record(
    State(api): State<Api>,
    caller: Caller,
    Path(index): Path<u64>,
) -> Result<Json<RecordView>, Problem> {
    let evidence = audits(&api, &caller)?;
    let absent = || {
        let refusal = Refusal::new(Reason::NotFound, "audit/no-such-record", "the log has no such record");
        Problem(refusal.advice("records are numbered from 0 on"))
    };
    if index >= evidence.audit.health().size {
        return Err(absent());
    }
    let reader = evidence.audit.reader();
    let read = tokio::task::spawn_blocking(move || reader.records(index)?.next().transpose()).await;
    let unreadable = |error: &dyn std::error::Error| Problem(unavailable(causes(error)));
    let found = read.map_err(|e| unreadable(&e))?.map_err(|e| unreadable(&e))?;
    found.map(|stored| Json(RecordView::of(stored))).ok_or_else(absent)
}

/// Which records to follow.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TailQuery {
    #[serde(default)]
    q: String,
    /// How many to begin with.
    #[serde(default)]
    lines: usize,
    /// Intents, too.
    #[serde(default)]
    intents: bool,
}

/// One [`RecordView`] a line, for as long as the client listens.
pub(crate) async fn tail(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<TailQuery>,
) -> Result<Response, Problem> {
    let evidence = audits(&api, &caller)?.clone();
    let wanted = parse(&query.q, &*api.clock)?;
    let most = query.lines.min(MOST_HITS);
    let (log, end) = (evidence.audit.reader(), evidence.audit.health().size);
    let newest = Follower::newest(log, wanted, query.intents, most, end, LOOK_BACK).await;
    let (newest, follower) = newest.map_err(problem)?;
    let following = Following { waiting: newest.into(), follower, evidence };
    let lines = stream::unfold(following, |mut following| async move {
        let line = following.next().await?;
        Some((line, following))
    });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

struct Following {
    waiting: VecDeque<Stored>,
    follower: Follower,
    evidence: Evidence,
}

impl Following {
    /// The next line, or why there is none: the client must not take that for the end.
    async fn next(&mut self) -> Option<Result<Bytes, BoxError>> {
        loop {
            if let Some(stored) = self.waiting.pop_front() {
                let line = serde_json::to_vec(&RecordView::of(stored)).map(|mut line| {
                    line.push(b'\n');
                    line.into()
                });
                return Some(line.map_err(BoxError::from));
            }
            // What stands fast only: a record may yet be taken back while it is not acknowledged.
            let end = self.evidence.audit.health().size;
            self.waiting = match self.follower.more(end).await {
                Ok(found) => found.into(),
                Err(error) => {
                    tracing::warn!(%error, "who follows the audit log was cut off");
                    return Some(Err(error.into()));
                }
            };
            if self.waiting.is_empty() {
                tokio::select! {
                    () = self.evidence.drain.cancelled() => return None,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        }
    }
}

fn audits<'a>(api: &'a Api, caller: &Caller) -> Result<&'a Evidence, Problem> {
    match api.evidence.auditors.include(&caller.0) {
        true => Ok(&api.evidence),
        false => {
            let refusal =
                Refusal::forbidden("audit/not-an-auditor", "only auditors of the gateway read its record");
            Err(Problem(refusal.advice("ask somebody whom the configuration names under `auditors`")))
        }
    }
}

fn parse(text: &str, clock: &dyn Clock) -> Result<portcullis_search::Query, Problem> {
    portcullis_search::Query::parse(text, clock.now())
        .map_err(|error| Problem(Refusal::bad_request("audit/bad-query", error.to_string())))
}

fn problem(error: IndexError) -> Problem {
    Problem(match error {
        IndexError::Missing => {
            Refusal::unavailable("audit/no-index", "there is no search index yet").advice("try again shortly")
        }
        error => unavailable(error.to_string()),
    })
}

fn unavailable(detail: String) -> Refusal {
    Refusal::unavailable("audit/unavailable", "the record cannot be read").advice("try again").detail(detail)
}
