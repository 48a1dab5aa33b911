//! `portcullis sessions export`

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use portcullis_sessions::{Item, Recording, export};

use super::{Found, LogArgs, show::boxed};
use crate::cli::{CliError, Failure, files::create_private};

#[derive(Debug, Args)]
#[command(
    after_help = "A page (html) needs nothing but a browser: it fetches nothing, and what was recorded cannot run in it.\n\
    An asciicast holds what was recorded as it was: `asciinema play` writes it to your terminal, escape sequences and all; \
    `portcullis sessions replay` does not."
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
    let recording = (args.output == Format::Asciicast).then(|| only_recording(&found)).transpose()?;
    let items = found.items()?.map(|item| item.map_err(boxed));
    let write = |out: &mut dyn Write| -> Result<(), CliError> {
        let (summary, reader, mut out) = (found.scope.summary(), &found.reader, BufWriter::new(out));
        let written = match (args.output, &recording) {
            (_, Some(recording)) => export::asciicast(&mut out, recording),
            (Format::Html, _) => export::html(&mut out, summary, items, reader),
            (Format::Markdown, _) => export::markdown(&mut out, summary, items, reader),
            _ => export::json(&mut out, summary, items),
        };
        written.map_err(failed)?;
        Ok(out.flush()?)
    };
    match &args.out {
        Some(file) => create_private(file, write),
        None => write(&mut io::stdout().lock()),
    }
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
    only.ok_or_else(|| Failure::new(1, "nothing is recorded there").into())
}

pub(super) fn failed(error: export::ExportError) -> CliError {
    match error {
        export::ExportError::Io(error) => error.into(),
        error => CliError::Other(error.into()),
    }
}
