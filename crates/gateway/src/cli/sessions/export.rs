//! `portcullis sessions export`

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use portcullis_sessions::{Item, Recording, clean, export};
use tempfile::NamedTempFile;

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
        Some(file) => create(file, write),
        None => write(&mut io::stdout().lock()),
    }
}

/// Writes a file that is there whole or not at all, also after a crash: what broke off must not pass for evidence, nor be in the
/// way of the next attempt. As confidential as the log, it is its owner's alone. What is there is not overwritten.
fn create(file: &Path, write: impl FnOnce(&mut dyn Write) -> Result<(), CliError>) -> Result<(), CliError> {
    let at = |error: io::Error| -> CliError {
        let why = match error.kind() {
            io::ErrorKind::AlreadyExists => "it is there already, and is not overwritten".to_owned(),
            _ => error.to_string(),
        };
        Failure::new(1, format!("{}: {why}", clean::line(&file.display().to_string()))).into()
    };
    if file.symlink_metadata().is_ok() {
        return Err(at(io::ErrorKind::AlreadyExists.into()));
    }
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // With mode 0600, and removed when it is dropped without a name of its own.
    let mut unnamed = NamedTempFile::with_prefix_in(".portcullis-export-", directory).map_err(at)?;
    write(&mut unnamed)?;
    unnamed.as_file().sync_all().map_err(at)?;
    unnamed.persist_noclobber(file).map_err(|error| at(error.error))?;
    // The name is kept, too.
    #[cfg(unix)]
    std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(at)?;
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_whole_or_not_at_all_and_none_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("session.html");
        let files = || std::fs::read_dir(directory.path()).unwrap().count();
        let broken = create(&file, |out| {
            out.write_all(b"half of")?;
            Err(Failure::new(1, "the log cannot be read").into())
        });
        assert!(broken.is_err() && files() == 0, "nothing is left in the way");
        create(&file, |out| Ok(out.write_all(b"whole")?)).unwrap();
        assert_eq!((std::fs::read(&file).unwrap(), files()), (b"whole".to_vec(), 1));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        let refused = create(&file, |_| panic!("it is looked at before anything is written"));
        assert!(refused.is_err() && files() == 1);
        // Whoever comes first has it.
        let late = directory.path().join("late.html");
        let raced = create(&late, |out| {
            std::fs::write(&late, "theirs")?;
            Ok(out.write_all(b"ours")?)
        });
        assert!(raced.is_err() && files() == 2);
        assert_eq!(std::fs::read(&late).unwrap(), b"theirs");
    }
}
