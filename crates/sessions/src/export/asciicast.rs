//! A recording as one asciicast v2, whatever it is kept in.

use std::io::Write;

use serde_json::json;

use super::ExportError;
use crate::cast::{EventKind, Header, Source};
use crate::clean;
use crate::player::MOST_PROBLEMS;
use crate::recording::Recording;

/// Writes the recording as one asciicast v2: its parts joined, sizes as resize events, `"s"` and `"x"` kept.
///
/// What cannot be read of it is a marker, which players show; and is returned, of many the first 64: then the export is
/// not whole. That the files are what the log says, this does not tell: [`Recording::check`] does.
///
/// Lines are harmless on a terminal, but **what a player draws from them need not be**: `asciinema play` writes recorded
/// escape sequences to the terminal it runs in.
///
/// # Errors
/// [`ExportError`].
pub fn asciicast(out: &mut impl Write, recording: &Recording) -> Result<Vec<String>, ExportError> {
    let mut problems = Vec::new();
    let (mut playback, mut size, mut source) = (recording.play(), None, Source::Stdout);
    while let Some(event) = playback.next_event() {
        let seconds = event.time.as_secs_f64();
        let mut line = |value: &serde_json::Value| -> Result<(), ExportError> {
            writeln!(out, "{}", clean::json(&value.to_string()))?;
            Ok(())
        };
        if size.is_none() {
            // Where the first part cannot be read, what is wrong comes before any header; a file begins with one all the same.
            let header = match &event.kind {
                EventKind::Begin(header) => header.clone(),
                _ => Header { size: (80, 24), ..Header::default() },
            };
            let (width, height) = header.size;
            line(&json!({
                "version": 2, "width": width, "height": height, "timestamp": header.timestamp,
                "command": header.command, "title": header.title, "env": {"TERM": "xterm-256color"},
            }))?;
            size = Some(header.size);
        }
        match event.kind {
            EventKind::Begin(header) if size == Some(header.size) => {}
            EventKind::Begin(Header { size: (width, height), .. }) | EventKind::Resize(width, height) => {
                size = Some((width, height));
                line(&json!([seconds, "r", format!("{width}x{height}")]))?;
            }
            EventKind::Output(from, text) => {
                if from != source {
                    source = from;
                    line(&json!([seconds, "s", if from == Source::Stderr { "stderr" } else { "stdout" }]))?;
                }
                line(&json!([seconds, "o", text]))?;
            }
            EventKind::Input(text) => line(&json!([seconds, "i", text]))?,
            EventKind::Exit(exit) => line(&json!([seconds, "x", exit]))?,
            // A marker: players show where it is, and nothing is lost.
            EventKind::Problem(what) => {
                line(&json!([seconds, "m", what]))?;
                if problems.len() < MOST_PROBLEMS {
                    problems.push(what);
                }
            }
        }
    }
    Ok(problems)
}
