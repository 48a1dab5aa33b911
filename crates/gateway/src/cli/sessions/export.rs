//! `portcullis sessions export`

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use portcullis_sessions::{Item, Recording, export};

use super::{Found, LogArgs, show::boxed};
use crate::cli::{CliError, Failure};

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
    let mut out: Box<dyn Write> = match &args.out {
        Some(file) => Box::new(BufWriter::new(create(file)?)),
        None => Box::new(BufWriter::new(std::io::stdout().lock())),
    };
    let (summary, reader) = (found.scope.summary(), &found.reader);
    let items = found.items()?.map(|item| item.map_err(boxed));
    let written = match args.output {
        Format::Html => export::html(&mut out, summary, items, reader),
        Format::Markdown => export::markdown(&mut out, summary, items, reader),
        Format::Json => export::json(&mut out, summary, items),
        Format::Asciicast => export::asciicast(&mut out, &only_recording(&found)?),
    };
    written.map_err(failed)?;
    out.flush()?;
    Ok(())
}

/// An export is as confidential as the log: its owner's alone. What is there is not overwritten unseen.
fn create(file: &PathBuf) -> Result<File, CliError> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(file).map_err(|error| Failure::new(1, format!("{}: {error}", file.display())).into())
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
