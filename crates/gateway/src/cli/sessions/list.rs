//! `portcullis sessions list`

use anstream::{eprintln, println};
use clap::Args;
use portcullis_audit::SESSION_IDLE;
use portcullis_core::{Clock, SystemClock, Timestamp};
use portcullis_sessions::{SessionFilter, SessionList, Summary, clean, words};

use super::{LogArgs, unreadable};
use crate::cli::{
    CliError, Failure,
    approvals::age,
    output::{ListOutputArgs, PLAIN, RED, table},
};

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    log: LogArgs,
    /// With a record that is not older than this, such as 10m or 24h
    #[arg(long, value_name = "DURATION")]
    since: Option<jiff::Span>,
    /// Of this user
    #[arg(long)]
    user: Option<String>,
    /// Those in which requests may still come
    #[arg(long)]
    active: bool,
    #[command(flatten)]
    output: ListOutputArgs,
}

pub(super) fn list(args: ListArgs) -> Result<(), CliError> {
    let reader = args.log.reader()?;
    let now = SystemClock.now();
    // A day has 24 hours.
    let ago = |span: jiff::Span| span.to_duration(jiff::SpanRelativeTo::days_are_24_hours());
    let since = args.since.map(|span| ago(span).and_then(|ago| now.checked_sub(ago.abs()))).transpose();
    let since = since.map_err(|error| Failure::usage(error.to_string()))?;
    let filter = SessionFilter { since, user: args.user, active: args.active };
    let mut list = SessionList::new(now, SESSION_IDLE).only(filter);
    for stored in reader.records(0).map_err(unreadable)? {
        list.record(&stored.map_err(unreadable)?);
    }
    let (sessions, dropped) = list.finish();
    if dropped > 0 {
        eprintln!(
            "{RED}{dropped} sessions, the least recent, are left out{PLAIN}: narrow it with --since, --user or --active"
        );
    }
    let ids = sessions.iter().map(|session| session.id.as_str());
    args.output.print(&sessions, ids, |sessions| for_people(sessions, now))
}

fn for_people(sessions: &[Summary], now: Timestamp) {
    if sessions.is_empty() {
        println!("no sessions");
    } else {
        let rows = sessions.iter().map(|session| row(session, now)).collect();
        let header = [
            "SESSION", "WHO", "GRANT", "BEGAN", "TOOK", "STATE", "REQUESTS", "REFUSED", "FAILED", "RECORDED",
        ];
        table(&header, rows);
    }
}

fn row(session: &Summary, now: Timestamp) -> Vec<String> {
    let counts = &session.counts;
    let amount = |count: u64| if count == 0 { "-".to_owned() } else { count.to_string() };
    let who = session.who.as_ref().map_or("-", |who| who.user.as_str());
    let grant = session.grant.as_ref().map_or("-", |grant| grant.profile.as_deref().unwrap_or("?"));
    vec![
        clean::line(&session.id),
        clean::line(who),
        clean::line(grant),
        format!("{} ago", age(now, session.began)),
        words::duration(words::length(session)),
        words::standing(session).to_owned(),
        counts.requests.to_string(),
        amount(counts.refused),
        amount(counts.failed),
        amount(counts.recordings),
    ]
}
