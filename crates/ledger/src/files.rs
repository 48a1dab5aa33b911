//! Files as a ledger writes and reads them: its owner's only, there whole or not at all, and never taken into memory whatever
//! their size.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// What is in the file, at most `most` bytes: a file that somebody made large costs no memory.
///
/// # Errors
/// `FileTooLarge` when there is more; otherwise when it cannot be read.
pub(crate) fn read(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    read_into(path, most, &mut bytes)?;
    Ok(bytes)
}

/// The same, in place of what is in `bytes`.
pub(crate) fn read_into(path: &Path, most: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.clear();
    let read = File::open(path)?.take(most as u64 + 1).read_to_end(bytes)?;
    if read > most {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("it is longer than {most} bytes")));
    }
    Ok(())
}

/// Puts `bytes` at `path` in one step: readers see the old file or the new one, also after a crash.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_name(path, bytes)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// The same, but after a power cut it may be the old file still.
pub(crate) fn replace_name(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Each file has a temporary one of its own: another may be written at this moment.
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let mut file = private(File::options().write(true).create(true).truncate(true)).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

/// Makes a directory that is its owner's only, and those above it.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Makes files that only their owner may read: what agents did is nobody else's business.
pub(crate) fn private(options: &mut fs::OpenOptions) -> &mut fs::OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, b"1234").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"1234");
        assert_eq!(read(&path, 3).unwrap_err().kind(), ErrorKind::FileTooLarge);
        // Sparse: read whole, it would take more memory than there is.
        File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read(&path, 4).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn two_names_of_one_stem_do_not_share_a_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let (note, cosigned) = (dir.path().join("checkpoint"), dir.path().join("checkpoint.cosigned"));
        // The other's temporary name, taken: by a directory, so that whoever writes there fails.
        fs::create_dir(dir.path().join("checkpoint.tmp")).unwrap();
        assert!(replace(&note, b"note").is_err());
        replace(&cosigned, b"cosigned").unwrap();
        assert_eq!(fs::read(&cosigned).unwrap(), b"cosigned");
    }
}
