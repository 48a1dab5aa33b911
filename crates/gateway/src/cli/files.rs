//! Files that commands write and read for people.

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use super::{CliError, Failure};

/// Writes a file that is there whole or not at all, also after a crash: what broke off must not pass for evidence, nor be in the
/// way of the next attempt. As confidential as the log, it is its owner's alone. What is there is not overwritten.
///
/// # Errors
/// With exit code 73 when it cannot be made, 74 when it cannot be written; what else `write` answers.
pub(crate) fn create_private(
    file: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let at = |error: io::Error| -> CliError {
        let why = match error.kind() {
            io::ErrorKind::AlreadyExists => "it is there already, and is not overwritten".to_owned(),
            _ => error.to_string(),
        };
        Failure::new(73, format!("{}: {why}", file.display())).into()
    };
    if file.symlink_metadata().is_ok() {
        return Err(at(io::ErrorKind::AlreadyExists.into()));
    }
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // With mode 0600, and removed when it is dropped without a name of its own.
    let mut unnamed = NamedTempFile::with_prefix_in(".portcullis-", directory).map_err(at)?;
    let cannot = |error: &dyn std::fmt::Display| Failure::new(74, format!("{}: {error}", file.display()));
    write(&mut unnamed).map_err(|error| match error {
        CliError::Other(error) if error.is::<io::Error>() => cannot(&error).into(),
        error => error,
    })?;
    unnamed.as_file().sync_all().map_err(|error| cannot(&error))?;
    unnamed.persist_noclobber(file).map_err(|error| at(error.error))?;
    // The name is kept, too.
    #[cfg(unix)]
    std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(at)?;
    Ok(())
}

/// The text of a small file, of at most `most` bytes.
pub(crate) fn read_text(path: &Path, most: usize) -> Result<String, CliError> {
    let refuse = |code, why: &str| Failure::new(code, format!("{}: {why}", path.display()));
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(most as u64 + 1).read_to_end(&mut bytes));
    if read.map_err(|error| refuse(74, &error.to_string()))? > most {
        return Err(refuse(65, &format!("it is longer than {most} bytes")).into());
    }
    String::from_utf8(bytes).map_err(|_| refuse(65, "it is not text").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_whole_or_not_at_all_and_none_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("session.html");
        let files = || std::fs::read_dir(directory.path()).unwrap().count();
        let full = create_private(&file, |_| Err(io::Error::from(io::ErrorKind::StorageFull).into()));
        assert_eq!((full.unwrap_err().exit_code(), files()), (74, 0));
        let broken = create_private(&file, |out| {
            out.write_all(b"half of")?;
            Err(Failure::new(1, "the log cannot be read").into())
        });
        assert!(broken.is_err() && files() == 0, "nothing is left in the way");
        create_private(&file, |out| Ok(out.write_all(b"whole")?)).unwrap();
        assert_eq!((std::fs::read(&file).unwrap(), files()), (b"whole".to_vec(), 1));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        let refused = create_private(&file, |_| panic!("it is looked at before anything is written"));
        assert_eq!((refused.unwrap_err().exit_code(), files()), (73, 1));
        // Whoever comes first has it.
        let late = directory.path().join("late.html");
        let raced = create_private(&late, |out| {
            std::fs::write(&late, "theirs")?;
            Ok(out.write_all(b"ours")?)
        });
        assert!(raced.is_err() && files() == 2);
        assert_eq!(std::fs::read(&late).unwrap(), b"theirs");
    }

    #[test]
    fn small_files_are_read_up_to_their_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let code = |most| read_text(&path, most).map_err(|error| error.exit_code());
        assert_eq!(code(4), Err(74));
        std::fs::write(&path, "text").unwrap();
        assert_eq!((code(4), code(3)), (Ok("text".to_owned()), Err(65)));
        std::fs::write(&path, [0xff]).unwrap();
        assert_eq!(code(4), Err(65));
    }
}
