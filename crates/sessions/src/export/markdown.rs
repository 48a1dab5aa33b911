//! A session as Markdown: what was recorded stands in code, between more backticks than it has itself.

use std::io::Write;
use std::ops::ControlFlow;

use portcullis_audit::AuditReader;

use super::ExportError;
use crate::clean;
use crate::discovery::fold_discovery;
use crate::recording::Recording;
use crate::step::{State, Step};
use crate::summary::Summary;
use crate::text::read_text;
use crate::timeline::{Happening, Item};
use crate::words;

/// How much of one recording's text is shown: so many bytes of the document.
const TEXT_LIMIT: usize = 64 * 1024;

/// How often a terminal may draw 65,536 cells of which no line remains: with the limit above, what bounds the time it takes.
const MOST_EMPTY: usize = 4096;

/// Writes the session as Markdown (CommonMark, with GitHub's tables), with the text of its recordings.
///
/// # Errors
/// [`ExportError`].
pub fn markdown<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    out: &mut impl Write,
    summary: &Summary,
    items: impl IntoIterator<Item = Result<Item, E>>,
    reader: &AuditReader,
) -> Result<(), ExportError> {
    head(out, summary)?;
    writeln!(out, "## Timeline\n\nTimes are UTC.\n")?;
    for item in fold_discovery(items) {
        match item.map_err(ExportError::records)? {
            Item::Request(step) => request(out, &step, reader)?,
            Item::Event(event) => happening(out, &event)?,
            Item::Discovery(discovery) => {
                let (clock, what) = (words::clock(discovery.time), words::discovery(&discovery));
                writeln!(out, "- {clock} {what}")?;
            }
        }
    }
    Ok(())
}

fn head(out: &mut impl Write, session: &Summary) -> Result<(), ExportError> {
    writeln!(out, "# Session {}\n\n| | |\n|---|---|", code(&session.id))?;
    let mut row = |name: &str, value: &str| writeln!(out, "| {name} | {value} |");
    if let Some(who) = &session.who {
        row("who", &code(&who.user))?;
        row("vouched for by", &code(&who.issuer))?;
        for actor in &who.delegation {
            row("on behalf of", &format!("{} at {}", code(&actor.subject), code(&actor.issuer)))?;
        }
    }
    if let Some(grant) = &session.grant {
        row("grant", &code(grant.profile.as_deref().unwrap_or("-")))?;
        row("task", &code(grant.task.as_deref().unwrap_or("-")))?;
        if !grant.approvers.is_empty() {
            row("granted with the consent of", &code(&grant.approvers.join(", ")))?;
        }
        if let (Some(by), Some(time)) = (&grant.revoked_by, grant.revoked) {
            let why = code(grant.revoked_for.as_deref().unwrap_or("-"));
            row("revoked", &format!("{} by {}: {why}", words::moment(time), code(by)))?;
        }
    }
    if let Some(source) = session.source {
        row("from", &code(&format!("{source} {}", session.user_agent.as_deref().unwrap_or_default())))?;
    }
    let span = words::duration(words::length(session));
    row(
        "time",
        &format!("{} to {} UTC ({span})", words::moment(session.began), words::moment(session.last)),
    )?;
    row("state", words::standing(session))?;
    let counts = &session.counts;
    row(
        "requests",
        &format!(
            "{}, {} of them changing something, {} held, **{} refused**, **{} failed**, {} values masked",
            counts.requests, counts.mutating, counts.held, counts.refused, counts.failed, counts.masked
        ),
    )?;
    if let Some(left_out) = words::left_out(session) {
        row("left out", &left_out)?;
    }
    writeln!(out)?;
    Ok(())
}

fn request(out: &mut impl Write, step: &Step, reader: &AuditReader) -> Result<(), ExportError> {
    let mark = match step.state {
        State::Running => "⏳",
        _ if step.failed => "❌",
        _ => "✅",
    };
    let result = words::result(step);
    let result = if step.failed { format!("**{result}**") } else { result };
    let took = step.duration_ms.map(|ms| words::duration(std::time::Duration::from_millis(ms)));
    let took = took.map(|took| format!(", {took}")).unwrap_or_default();
    let own = if step.parent.is_some() { " (by the gateway itself)" } else { "" };
    writeln!(out, "- {mark} {} {} {result}{took}{own}", words::clock(step.received), code(&step.command))?;
    for remark in words::remarks(step) {
        writeln!(out, "  - {}", code(&remark))?;
    }
    let Some(recording) = Recording::of(step, reader) else { return Ok(()) };
    let mut block = Block::default();
    let mut empty = 0;
    let end = read_text(&recording, |_, piece| {
        empty += usize::from(piece.is_empty());
        let more = block.push(piece) && empty < MOST_EMPTY;
        Ok(if more { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    writeln!(out, "  - {}\n", code(&recording.check().to_string()))?;
    block.write(out)?;
    for problem in &end.problems {
        writeln!(out, "    not whole: {}\n", code(problem))?;
    }
    if end.stopped {
        writeln!(
            out,
            "    The recording goes on; `portcullis sessions replay {}` shows all of it.\n",
            step.id
        )?;
    }
    Ok(())
}

fn happening(out: &mut impl Write, event: &Happening) -> Result<(), ExportError> {
    write!(out, "- ◆ {} **{}**", words::clock(event.time), event.word())?;
    if let Some(by) = &event.by {
        write!(out, " by {}", code(by))?;
    }
    for (name, value) in [
        ("", &event.command),
        ("rule ", &event.rule),
        ("profile ", &event.profile),
        ("", &event.words),
        ("ticket ", &event.ticket),
    ] {
        if let Some(value) = value {
            write!(out, ", {name}{}", code(value))?;
        }
    }
    writeln!(out)?;
    Ok(())
}

/// Text as a block of code in a list.
#[derive(Default)]
struct Block {
    text: String,
    lines: usize,
    /// The backticks at its end, and the longest run of them.
    run: usize,
    longest: usize,
}

const INDENT: &str = "    ";

impl Block {
    /// Adds text up to the limit; whether that was all of it.
    fn push(&mut self, piece: &str) -> bool {
        for character in piece.chars() {
            if self.size() >= TEXT_LIMIT {
                return false;
            }
            self.text.push(character);
            self.lines += usize::from(character == '\n');
            self.run = if character == '`' { self.run + 1 } else { 0 };
            self.longest = self.longest.max(self.run);
        }
        true
    }

    /// How many bytes it is in the document, about.
    fn size(&self) -> usize {
        self.text.len() + self.lines * INDENT.len() + 2 * self.fence()
    }

    fn fence(&self) -> usize {
        self.longest.max(2) + 1
    }

    fn write(&self, out: &mut impl Write) -> Result<(), ExportError> {
        let fence = "`".repeat(self.fence());
        writeln!(out, "{INDENT}{fence}text")?;
        for line in self.text.lines() {
            writeln!(out, "{INDENT}{line}")?;
        }
        writeln!(out, "{INDENT}{fence}\n")?;
        Ok(())
    }
}

/// Text as code within a line: nothing in it is markup, whatever it is. In a table, `|` ends a cell even within code.
fn code(text: &str) -> String {
    let text = clean::line(text).replace('|', "\u{2502}");
    if text.is_empty() {
        return "-".to_owned();
    }
    let ticks = "`".repeat(longest_run(&text) + 1);
    // One blank on each side is taken off by readers; without it a backtick at the edge would count as one of ours.
    format!("{ticks} {text} {ticks}")
}

/// The longest run of backticks.
fn longest_run(text: &str) -> usize {
    text.split(|character| character != '`').map(str::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_cannot_be_left() {
        assert_eq!(code("get pods"), "` get pods `");
        assert_eq!(code("a`b``c"), "``` a`b``c ```");
        assert_eq!(code("a\n# b|c"), "` a\u{fffd}# b\u{2502}c `");
        assert_eq!(code(""), "-");
    }

    #[test]
    fn of_a_recording_so_much_of_the_document_is_filled_and_no_more() {
        let check = |text: String, whole: bool| {
            let (mut block, mut out) = (Block::default(), Vec::new());
            assert_eq!(block.push(&text), whole);
            block.write(&mut out).unwrap();
            assert!(out.len() < TEXT_LIMIT + 64, "{}", out.len());
            assert!(whole || out.len() > TEXT_LIMIT - 64, "{}", out.len());
        };
        check("a".repeat(TEXT_LIMIT / 2), true);
        check("a".repeat(TEXT_LIMIT * 3), false);
        check("\n".repeat(TEXT_LIMIT / 2), false);
        check("`".repeat(TEXT_LIMIT / 2), false);
        check("`a".repeat(TEXT_LIMIT / 4), true);
        check("世".repeat(TEXT_LIMIT / 2), false);
    }
}
