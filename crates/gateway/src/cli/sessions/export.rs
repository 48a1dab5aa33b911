//! `portcullis sessions export`

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use portcullis_sessions::{Integrity, Item, Recording, export};

use super::{Found, LogArgs, show::boxed};
use crate::cli::{CliError, Failure, files::create_private};

#[derive(Debug, Args)]
#[command(
    after_help = "A page (html) needs nothing but a browser: it fetches nothing, and what was recorded cannot run in it.\n\
    An asciicast holds what was recorded as it was: `asciinema play` writes it to your terminal, escape sequences and all; \
    `portcullis sessions replay` does not.\n\n\
    Exit codes: 0 exported, 65 (asciicast) the recording is not what the log says, 66 there is no such record, 73 the file is there \
    already, or cannot be made, 77 (asciicast) the recording, or a part of it, cannot be read, or it breaks off."
)]
pub(crate) struct ExportArgs {
    /// The session's id; for asciicast, that of the request that was recorded
    id: String,
    /// As what
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Format,
    /// Where to; by default standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One page, with players
    Html,
    /// With the text of recordings
    Markdown,
    /// The timeline
    Json,
    /// One recording, for other players
    Asciicast,
}

pub(super) fn export(args: ExportArgs) -> Result<(), CliError> {
    let found = Found::find(&args.log, &args.id)?;
    if args.output == Format::Asciicast {
        return asciicast(&only_recording(&found)?, args.out.as_deref());
    }
    let items = found.items()?.map(|item| item.map_err(boxed));
    let write = |out: &mut dyn Write| -> Result<(), CliError> {
        let (summary, reader, mut out) = (found.scope.summary(), &found.reader, BufWriter::new(out));
        let written = match args.output {
            Format::Html => export::html(&mut out, summary, items, reader),
            Format::Markdown => export::markdown(&mut out, summary, items, reader),
            _ => export::json(&mut out, summary, items),
        };
        written.map_err(failed)?;
        Ok(out.flush()?)
    };
    put(args.out.as_deref(), write)
}

fn put(
    file: Option<&Path>,
    write: impl FnOnce(&mut dyn Write) -> Result<(), CliError>,
) -> Result<(), CliError> {
    match file {
        Some(file) => create_private(file, write),
        None => write(&mut io::stdout().lock()),
    }
}

/// An asciicast has no room for a verdict, and what it plays passes for what happened: so it is only made of what the log vouches
/// for. What the log knows nothing of yet (a stream that is open, or that a crash cut off) is exported as far as it goes, and
/// fails afterwards if it breaks off.
fn asciicast(recording: &Recording, file: Option<&Path>) -> Result<(), CliError> {
    let integrity = recording.check();
    let unvouched = match &integrity {
        Integrity::Intact => false,
        Integrity::Unfinished => true,
        Integrity::Changed(_) | Integrity::Missing(_) => {
            return Err(Failure::new(65, integrity.to_string()).into());
        }
        Integrity::Unreadable(_) => return Err(Failure::new(77, integrity.to_string()).into()),
    };
    let mut problems = Vec::new();
    put(file, |out| {
        let mut out = BufWriter::new(out);
        problems = export::asciicast(&mut out, recording).map_err(failed)?;
        out.flush()?;
        match problems.is_empty() || unvouched {
            true => Ok(()),
            false => Err(not_whole(65, &problems)),
        }
    })?;
    if problems.is_empty() { Ok(()) } else { Err(not_whole(77, &problems)) }
}

fn not_whole(code: u8, problems: &[String]) -> CliError {
    Failure::new(code, format!("the recording is not whole: {}", problems.join("; "))).into()
}

fn only_recording(found: &Found) -> Result<Recording, CliError> {
    let mut only: Option<Recording> = None;
    for item in found.items()? {
        let Item::Request(step) = item? else { continue };
        if found.request.is_some_and(|request| request != step.id) {
            continue;
        }
        if let Some(recording) = Recording::of(&step, &found.reader)
            && let Some(first) = only.replace(recording)
        {
            let both = "the session has several recordings: name the request, as `portcullis sessions show` lists them";
            return Err(Failure::usage(format!("{both} (the first is {})", first.id())).into());
        }
    }
    only.ok_or_else(|| Failure::new(66, "nothing is recorded there").into())
}

pub(super) fn failed(error: export::ExportError) -> CliError {
    match error {
        export::ExportError::Io(error) => error.into(),
        error => CliError::Other(error.into()),
    }
}
