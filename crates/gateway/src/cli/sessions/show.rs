//! `portcullis sessions show`

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use clap::{Args, ValueEnum};
use portcullis_sessions::{
    Happening, Item, State, Step, Summary, TIMELINE_VERSION, clean, export, fold_discovery, words,
};

use super::{Found, LogArgs};
use crate::cli::{
    CliError,
    output::{BOLD, DIM, GREEN, PLAIN, RED, yaml},
};

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The session's id; or that of one of its requests, which its `Audit-ID` header said
    id: String,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
    Yaml,
}

pub(super) fn show(args: ShowArgs) -> Result<(), CliError> {
    let found = Found::find(&args.log, &args.id)?;
    let (summary, items) = (found.scope.summary(), found.items()?);
    // Item by item: a session may have millions of requests.
    let mut out = anstream::stdout().lock();
    match args.output {
        Format::Table => {
            head(&mut out, summary)?;
            for item in fold_discovery(items) {
                match item? {
                    Item::Request(step) => request(&mut out, &step, found.request == Some(step.id))?,
                    Item::Event(event) => happening(&mut out, &event)?,
                    Item::Discovery(discovery) => {
                        let (clock, what) = (words::clock(discovery.time), words::discovery(&discovery));
                        writeln!(out, "{DIM}{clock}  · {:<14} {what}{PLAIN}", "")?;
                    }
                    _ => {}
                }
            }
        }
        Format::Json => {
            let items = items.map(|item| item.map_err(boxed));
            export::json(&mut out, summary, items).map_err(super::export::failed)?;
        }
        Format::Yaml => {
            writeln!(out, "v: {TIMELINE_VERSION}\n{}items:", yaml(&BTreeMap::from([("session", summary)]))?)?;
            for item in items {
                write!(out, "{}", yaml(&[item?])?)?;
            }
        }
    }
    Ok(())
}

pub(super) fn boxed(error: CliError) -> Box<dyn std::error::Error + Send + Sync> {
    Box::new(error)
}

/// Who, why, when, and how it went.
pub(super) fn head(out: &mut impl Write, session: &Summary) -> Result<(), CliError> {
    writeln!(out, "{BOLD}session {}{PLAIN}  {}", clean::line(&session.id), words::standing(session))?;
    let mut line = |name: &str, value: &str| writeln!(out, "  {DIM}{name:<12}{PLAIN}{}", clean::line(value));
    if let Some(who) = &session.who {
        line("who", &format!("{} ({} at {})", who.user, who.subject, who.issuer))?;
        for actor in &who.delegation {
            line("on behalf of", &format!("{} at {}", actor.subject, actor.issuer))?;
        }
    }
    if let Some(grant) = &session.grant {
        line("grant", grant.profile.as_deref().unwrap_or("-"))?;
        if let Some(task) = &grant.task {
            line("task", task)?;
        }
        if !grant.approvers.is_empty() {
            line("granted by", &grant.approvers.join(", "))?;
        }
    }
    if let Some(source) = session.source {
        let agent = session.user_agent.as_ref().map(|agent| format!(", {agent}")).unwrap_or_default();
        line("from", &format!("{source}{agent}"))?;
    }
    let (from, to) = (words::moment(session.began), words::moment(session.last));
    line("time", &format!("{from} to {to} UTC, {}", words::duration(words::length(session))))?;
    let counts = &session.counts;
    let mut told = format!("{}", counts.requests);
    for (count, what) in [
        (counts.mutating, "changing something"),
        (counts.open, "open"),
        (counts.held, "held"),
        (counts.refused, "refused"),
        (counts.failed, "failed"),
        (counts.masked, "values masked"),
        (counts.recordings, "recorded"),
    ] {
        if count > 0 {
            told += &format!(", {count} {what}");
        }
    }
    line("requests", &told)?;
    if let Some(left_out) = words::left_out(session) {
        line("left out", &left_out)?;
    }
    writeln!(out)?;
    Ok(())
}

fn request(out: &mut impl Write, step: &Step, asked_for: bool) -> Result<(), CliError> {
    let (colour, mark) = match step.state {
        State::Running => (BOLD, '…'),
        _ if step.failed => (RED, '✘'),
        _ if step.parent.is_some() => (DIM, '·'),
        _ => (GREEN, '✔'),
    };
    let took = step.duration_ms.map(|ms| words::duration(Duration::from_millis(ms))).unwrap_or_default();
    let (result, command) = (words::result(step), clean::line(&step.command));
    let strong = if asked_for { BOLD } else { "" };
    writeln!(
        out,
        "{DIM}{}{PLAIN}  {colour}{mark} {result:<14}{PLAIN} {strong}{command}{PLAIN}  {DIM}{took}{PLAIN}",
        words::clock(step.received),
    )?;
    for remark in words::remarks(step) {
        writeln!(out, "{:31}{DIM}{}{PLAIN}", "", clean::line(&remark))?;
    }
    if step.stream.as_ref().is_some_and(|stream| !stream.recording.is_empty()) {
        writeln!(out, "{:31}{DIM}portcullis sessions replay {}{PLAIN}", "", step.id)?;
    }
    Ok(())
}

fn happening(out: &mut impl Write, event: &Happening) -> Result<(), CliError> {
    let by = event.by.as_ref().map(|by| format!("by {by}"));
    let profile = event.profile.as_ref().map(|profile| format!("profile {profile}"));
    let words_said = event.words.as_ref().map(|said| format!("“{said}”"));
    let parts = [by, profile, event.command.clone(), words_said];
    let told = parts.into_iter().flatten().collect::<Vec<_>>().join("  ");
    let (time, word) = (words::clock(event.time), event.word());
    writeln!(out, "{DIM}{time}{PLAIN}  {BOLD}◆ {word:<14}{PLAIN} {}", clean::line(&told))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_client_wrote_cannot_move_a_terminal_s_cursor() {
        let step: Step = serde_json::from_value(json!({
            "id": "01a2230f-0ad0-7124-ade2-a9affc29424a", "received": "2026-11-03T12:00:00Z",
            "command": "get pods evil\u{1b}[2J\r\nroot  get all", "verb": "get", "state": "refused", "failed": true,
            "forwarded": false, "status": 403,
            "refusal": { "code": "guard/denied", "message": "no\u{9b}1A\u{202e}" },
        }))
        .unwrap();
        let mut out = Vec::new();
        request(&mut out, &step, false).unwrap();
        let text = String::from_utf8(out).unwrap();
        let ours = [BOLD, DIM, GREEN, PLAIN, RED].iter().fold(text, |text, code| text.replace(code, ""));
        assert_eq!(
            ours,
            "12:00:00.000  ✘ 403 refused    get pods evil\u{fffd}[2J\u{fffd}\u{fffd}root  get all  \n\
             \x20                              refused (guard/denied): no\u{fffd}1A\u{fffd}\n"
        );
    }
}
