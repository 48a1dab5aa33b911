//! A session as one HTML page that needs nothing else: no request leaves it, and no script runs but its own.
//!
//! **Invariant.** Recorded text gets into the page through [`text`] (as text) or [`data`] (as JSON in a data block), and from
//! there into the document as text nodes only. The page's policy (`Content-Security-Policy`, `default-src 'none'`) lets
//! run what has the digest of our own script, and nothing else.

use std::fmt::Write as _;
use std::io::Write;
use std::ops::ControlFlow;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis_audit::AuditReader;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::ExportError;
use super::film::Film;
use crate::cast::Source;
use crate::clean;
use crate::discovery::fold_discovery;
use crate::recording::{Integrity, Recording};
use crate::step::{State, Step};
use crate::summary::Summary;
use crate::text::read_text;
use crate::timeline::{Happening, Item};
use crate::words;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// How much is shown of what a command without a terminal wrote: so many bytes of the page.
const TEXT_LIMIT: usize = 256 * 1024;

/// How many recordings are in one page; of later ones it says how to play them. A page must still open.
const MOST_PLAYERS: usize = 50;

/// Writes the session as one HTML page, with players for its terminal recordings.
///
/// # Errors
/// [`ExportError`].
pub fn html<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    out: &mut impl Write,
    summary: &Summary,
    items: impl IntoIterator<Item = Result<Item, E>>,
    reader: &AuditReader,
) -> Result<(), ExportError> {
    head(out, summary)?;
    writeln!(out, "<ol class=\"timeline\" aria-label=\"Timeline\">")?;
    let (mut players, mut day) = (0, String::new());
    for item in fold_discovery(items) {
        let item = item.map_err(ExportError::records)?;
        let today = item.time().strftime("%A, %d %B %Y").to_string();
        if today != day {
            writeln!(out, "<li class=\"day\"><h3>{today}</h3></li>")?;
            day = today;
        }
        match &item {
            Item::Request(step) => request(out, step, reader, &mut players)?,
            Item::Event(event) => happening(out, event, item.is_failure())?,
            Item::Discovery(discovery) => writeln!(
                out,
                "<li class=\"item own\"><div class=\"line\"><time datetime=\"{}\">{}</time><span class=\"what\">{}</span></div></li>",
                discovery.time,
                words::clock(discovery.time),
                words::discovery(discovery)
            )?,
        }
    }
    writeln!(out, "</ol>\n<p class=\"none\" hidden>Nothing went wrong in this session.</p>\n</main>")?;
    writeln!(
        out,
        "<footer>Exported by Portcullis {} from the audit log. Times are UTC. What is shown is what the log said then; \
         <code>portcullis audit verify</code> proves the log.</footer>\n<script>{SCRIPT}</script>\n</body>\n</html>",
        env!("CARGO_PKG_VERSION")
    )?;
    Ok(())
}

fn head(out: &mut impl Write, session: &Summary) -> Result<(), ExportError> {
    let user = session.who.as_ref().map_or("somebody unknown", |who| who.user.as_str());
    let policy = format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; base-uri 'none'; form-action 'none'",
        digest(STYLE),
        digest(SCRIPT)
    );
    let task = session.grant.as_ref().and_then(|grant| grant.task.as_deref());
    let standing = words::standing(session);
    writeln!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"referrer\" content=\"no-referrer\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>Session of {user} · {began}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <a class=\"skip\" href=\"#timeline\">To the timeline</a>\n<header>\n\
         <p class=\"brand\"><span aria-hidden=\"true\">▦</span> Portcullis <span>session record</span></p>\n\
         <h1>{user} <span class=\"chip {standing}\">{standing}</span></h1>",
        user = text(user),
        began = words::moment(session.began),
    )?;
    if let Some(task) = task {
        writeln!(out, "<p class=\"task\">{}</p>", text(task))?;
    }
    facts(out, session)?;
    counts(out, session)?;
    writeln!(
        out,
        "</header>\n<main>\n<div class=\"bar\"><h2 id=\"timeline\">Timeline</h2>\
         <button type=\"button\" class=\"filter\" aria-pressed=\"false\" hidden>Failures only</button></div>"
    )?;
    Ok(())
}

fn facts(out: &mut impl Write, session: &Summary) -> Result<(), ExportError> {
    writeln!(out, "<dl class=\"facts\">")?;
    let mut fact = |name: &str, value: &str, more: &str| {
        let more = if more.is_empty() { String::new() } else { format!("<small>{}</small>", text(more)) };
        writeln!(out, "<div><dt>{name}</dt><dd>{}{more}</dd></div>", text(value))
    };
    if let Some(who) = &session.who {
        fact("Identity", &who.subject, &who.issuer)?;
        for actor in &who.delegation {
            fact("On behalf of", &actor.subject, &actor.issuer)?;
        }
    }
    if let Some(grant) = &session.grant {
        let until =
            grant.expires.map(|time| format!("good until {} UTC", words::moment(time))).unwrap_or_default();
        fact("Grant", grant.profile.as_deref().unwrap_or("-"), &until)?;
        if !grant.approvers.is_empty() {
            fact("Granted by", &grant.approvers.join(", "), "")?;
        }
        if let Some(by) = &grant.revoked_by {
            fact("Revoked by", by, grant.revoked_for.as_deref().unwrap_or_default())?;
        }
    }
    let times = format!("{} to {} UTC", words::moment(session.began), words::moment(session.last));
    fact("Time", &words::duration(words::length(session)), &times)?;
    if let Some(source) = session.source {
        fact("From", &source.to_string(), session.user_agent.as_deref().unwrap_or_default())?;
    }
    fact("Session", &session.id, "")?;
    if let Some(left_out) = words::left_out(session) {
        fact("Left out", &left_out, "")?;
    }
    writeln!(out, "</dl>")?;
    Ok(())
}

fn counts(out: &mut impl Write, session: &Summary) -> Result<(), ExportError> {
    let counts = &session.counts;
    writeln!(out, "<ul class=\"counts\" aria-label=\"Summary\">")?;
    for (name, count, class) in [
        ("requests", counts.requests, ""),
        ("changing", counts.mutating, ""),
        ("open", counts.open, "warn"),
        ("held", counts.held, "warn"),
        ("refused", counts.refused, "bad"),
        ("failed", counts.failed, "bad"),
        ("masked", counts.masked, ""),
        ("recorded", counts.recordings, ""),
    ] {
        let class = if count == 0 { "zero" } else { class };
        write!(out, "<li class=\"{class}\"><b>{count}</b> {name}</li>")?;
    }
    writeln!(out, "</ul>")?;
    Ok(())
}

fn request(
    out: &mut impl Write,
    step: &Step,
    reader: &AuditReader,
    players: &mut usize,
) -> Result<(), ExportError> {
    let class = match step.state {
        State::Running => "running",
        _ if step.failed => "failed",
        _ if step.parent.is_some() => "own",
        _ => "fine",
    };
    writeln!(
        out,
        "<li class=\"item {class}\" id=\"{id}\"><div class=\"line\"><time datetime=\"{received}\">{clock}</time>\
         <code class=\"command\">{command}</code><span class=\"chips\">{chips}</span></div>",
        id = step.id,
        received = step.received,
        clock = words::clock(step.received),
        command = text(&step.command),
        chips = chips(step),
    )?;
    let remarks = words::remarks(step);
    if !remarks.is_empty() {
        write!(out, "<ul class=\"remarks\">")?;
        for (nth, remark) in remarks.iter().enumerate() {
            let why = nth == 0 && (step.refusal.is_some() || step.error.is_some());
            write!(out, "<li{}>{}</li>", if why { " class=\"bad\"" } else { "" }, text(remark))?;
        }
        writeln!(out, "</ul>")?;
    }
    if let Some(recording) = Recording::of(step, reader) {
        *players += 1;
        if *players > MOST_PLAYERS {
            writeln!(
                out,
                "<p class=\"note\">Recorded: <code>portcullis sessions replay {}</code></p>",
                step.id
            )?;
        } else if recording.is_tty() {
            terminal(out, step, recording)?;
        } else {
            outputs(out, &recording)?;
        }
    }
    writeln!(out, "</li>")?;
    Ok(())
}

fn chips(step: &Step) -> String {
    let mut chips = String::new();
    let mut chip = |class: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = write!(chips, "<span class=\"chip {class}\">{}</span>", text(value));
    };
    let class = match step.state {
        State::Running => "active",
        _ if step.failed => "bad",
        _ => "good",
    };
    chip(class, &words::result(step));
    if step.decision.as_deref() == Some("hold") {
        chip("warn", "held");
    }
    if step.parent.is_some() {
        chip("quiet", "by the gateway");
    }
    if step.masked_values() > 0 {
        chip("quiet", &format!("{} masked", step.masked_values()));
    }
    if let Some(took) = step.duration_ms {
        chip("plain", &words::duration(Duration::from_millis(took)));
    }
    chips
}

fn happening(out: &mut impl Write, event: &Happening, failed: bool) -> Result<(), ExportError> {
    let class = if failed { "item event failed" } else { "item event" };
    write!(
        out,
        "<li class=\"{class}\"><div class=\"line\"><time datetime=\"{}\">{}</time><span class=\"what\"><b>{}</b>",
        event.time,
        words::clock(event.time),
        text(&event.word()),
    )?;
    if let Some(by) = &event.by {
        write!(out, " by {}", text(by))?;
    }
    if let Some(profile) = &event.profile {
        write!(out, ", profile {}", text(profile))?;
    }
    if let Some(command) = &event.command {
        write!(out, ": <code>{}</code>", text(command))?;
    }
    write!(out, "</span></div>")?;
    if let Some(said) = &event.words {
        write!(out, "<p class=\"said\">“{}”</p>", text(said))?;
    }
    writeln!(out, "</li>")?;
    Ok(())
}

fn terminal(out: &mut impl Write, step: &Step, recording: Recording) -> Result<(), ExportError> {
    let integrity = recording.check();
    let film = Film::of(recording);
    writeln!(
        out,
        "<figure class=\"player\" aria-label=\"Terminal recording of {command}\">\
         <div class=\"screen\" tabindex=\"0\" role=\"group\" aria-label=\"Terminal: space plays and pauses, arrows seek\">\
         <pre class=\"rows\" aria-live=\"off\"></pre></div><noscript>Playing needs JavaScript, which is off.</noscript>\
         <div class=\"controls\" hidden><button type=\"button\" class=\"play\" aria-label=\"Play\">▶</button>\
         <span class=\"clock\" aria-hidden=\"true\">0:00</span>\
         <input class=\"seek\" type=\"range\" min=\"0\" value=\"0\" step=\"1\" aria-label=\"Position\">\
         <span class=\"total\" aria-hidden=\"true\">0:00</span>\
         <label>Speed <select class=\"speed\"><option>0.5</option><option selected>1</option><option>2</option>\
         <option>4</option><option>16</option></select></label>\
         <label><input type=\"checkbox\" class=\"idle\" checked> Skip idle</label></div>",
        command = text(&step.command),
    )?;
    let bad = !matches!(integrity, Integrity::Intact | Integrity::Unfinished);
    write!(out, "<figcaption class=\"{}\">{}", if bad { "bad" } else { "" }, text(&integrity.to_string()))?;
    if let Some(exit) = &film.exit {
        write!(out, " · ended: {}", text(exit))?;
    }
    for problem in &film.problems {
        write!(out, " · <b>not whole</b>: {}", text(problem))?;
    }
    if film.truncated {
        write!(out, " · goes on: <code>portcullis sessions replay {}</code> plays all of it", step.id)?;
    }
    writeln!(
        out,
        "</figcaption><script type=\"application/json\" class=\"film\">{}</script></figure>",
        data(&film)?
    )?;
    Ok(())
}

/// A command without a terminal: what it wrote, as it wrote it.
fn outputs(out: &mut impl Write, recording: &Recording) -> Result<(), ExportError> {
    let integrity = recording.check();
    let (mut shown, mut block) = (String::new(), None);
    let end = read_text(recording, |source, piece| {
        if block != Some(source) {
            let (class, name) = match source {
                Source::Stdout => ("stdout", "standard output"),
                Source::Stderr => ("stderr", "standard error"),
            };
            let close = if block.is_some() { "</pre>" } else { "" };
            let _ = write!(shown, "{close}<pre class=\"{class}\" tabindex=\"0\" aria-label=\"{name}\">");
            // The first line feed after the tag is not shown.
            shown.push('\n');
            block = Some(source);
        }
        Ok(if push(&mut shown, piece, TEXT_LIMIT) {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        })
    })?;
    if block.is_some() {
        shown.push_str("</pre>");
    }
    let bad = !matches!(integrity, Integrity::Intact | Integrity::Unfinished);
    write!(out, "<figure class=\"outputs\">{shown}<figcaption class=\"{}\">", if bad { "bad" } else { "" })?;
    write!(out, "{}", text(&integrity.to_string()))?;
    if let Some(exit) = &end.exit {
        write!(out, " · ended: {}", text(exit))?;
    }
    for problem in &end.problems {
        write!(out, " · <b>not whole</b>: {}", text(problem))?;
    }
    if end.stopped {
        write!(out, " · goes on: <code>portcullis sessions replay {}</code>", recording.id())?;
    }
    writeln!(out, "</figcaption></figure>")?;
    Ok(())
}

/// Text as text, in an element or an attribute.
fn text(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    push(&mut escaped, text, usize::MAX);
    escaped
}

/// Adds text as text, as long as there are less than `limit` bytes; whether that was all of it.
fn push(escaped: &mut String, text: &str, limit: usize) -> bool {
    for character in text.chars() {
        if escaped.len() >= limit {
            return false;
        }
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(character),
            plain if clean::is_plain(plain) => escaped.push(plain),
            _ => escaped.push('\u{fffd}'),
        }
    }
    true
}

/// A value as JSON in which nothing can end or begin an element.
pub(super) fn data(value: &impl Serialize) -> Result<String, ExportError> {
    let json = clean::json(&serde_json::to_string(value)?);
    Ok(json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026"))
}

/// What a policy calls a script or a style by (CSP Level 3, §6.7.3.3).
fn digest(inline: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(inline.as_bytes())))
}

#[cfg(test)]
mod tests {
    use portcullis_core::Channel;

    use super::*;
    use crate::tests::{Log, With, exit, pass};

    #[tokio::test]
    async fn of_a_command_s_output_so_much_of_a_page_is_filled_and_no_more() {
        // In one piece; what is escaped; and two outputs in turns, each with a tag of its own.
        let once = |text: String| vec![(Channel::Stdout, text)];
        let turns = [(Channel::Stdout, "a".to_owned()), (Channel::Stderr, "b".to_owned())];
        for (truncated, said) in [
            (false, once("a".repeat(TEXT_LIMIT / 2))),
            (true, once("a".repeat(TEXT_LIMIT * 3))),
            (true, once("\"".repeat(TEXT_LIMIT / 2))),
            (true, turns.into_iter().cycle().take(8_000).collect()),
        ] {
            let log = Log::new();
            let (id, mut stage) = log.stream("/pods/web/exec?command=cat", With::default()).await;
            for (channel, text) in said {
                pass(&mut *stage, channel, text);
            }
            exit(stage, 0).await;
            let (mut out, recording) = (Vec::new(), Recording::of(&log.step(id), &log.reader()).unwrap());
            outputs(&mut out, &recording).unwrap();
            let page = String::from_utf8(out).unwrap();
            assert_eq!(page.contains(" · goes on: "), truncated);
            // The caption, and a tag.
            assert!(page.len() < TEXT_LIMIT + 512, "{}", page.len());
            assert!(!truncated || page.len() > TEXT_LIMIT);
            assert_eq!(page.matches("<pre").count(), page.matches("</pre>").count());
        }
    }

    #[test]
    fn nothing_gets_out_of_text_or_data() {
        let evil = "</script><img src=x onerror='alert(\"1\")'>&\u{202e}\u{1b}";
        assert_eq!(
            text(evil),
            "&lt;/script&gt;&lt;img src=x onerror=&#39;alert(&quot;1&quot;)&#39;&gt;&amp;\u{fffd}\u{fffd}"
        );
        let json = data(&evil).unwrap();
        assert!(!json.contains(['<', '>', '&', '\u{202e}']), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), evil);
    }

    #[test]
    fn our_own_style_and_script_stay_within_their_elements() {
        assert!(!STYLE.contains("</") && !SCRIPT.contains("</") && !SCRIPT.contains("<!--"));
        assert!(!SCRIPT.contains("innerHTML"));
    }
}
