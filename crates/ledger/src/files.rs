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
    let read = File::open(path)?.take(most as u64 + 1).read_to_end(&mut bytes)?;
    if read > most {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("it is longer than {most} bytes")));
    }
    Ok(bytes)
}

/// Reads files beside what they should be.
pub(crate) struct Comparison {
    file: Option<File>,
    buffer: Box<[u8]>,
    /// How much of `buffer` has been compared, and how much has been read.
    used: usize,
    filled: usize,
    /// How many bytes of the file were as they should be.
    pub(crate) same: u64,
}

impl Comparison {
    /// Reads so many bytes at once.
    pub(crate) fn new(buffer: usize) -> Self {
        Self { file: None, buffer: vec![0; buffer].into(), used: 0, filled: 0, same: 0 }
    }

    /// Begins with a file.
    pub(crate) fn open(&mut self, path: &Path) -> io::Result<()> {
        (self.used, self.filled, self.same) = (0, 0, 0);
        self.file = Some(File::open(path)?);
        Ok(())
    }

    /// Whether these are the bytes that come next.
    pub(crate) fn goes_on(&mut self, mut expected: &[u8]) -> io::Result<bool> {
        while !expected.is_empty() {
            if self.used == self.filled && !self.fill()? {
                return Ok(false);
            }
            let found = &self.buffer[self.used..self.filled];
            let length = found.len().min(expected.len());
            if found[..length] != expected[..length] {
                let alike = found.iter().zip(expected).take_while(|(found, expected)| found == expected);
                self.same += alike.count() as u64;
                return Ok(false);
            }
            self.used += length;
            self.same += length as u64;
            expected = &expected[length..];
        }
        Ok(true)
    }

    /// Whether nothing comes any more.
    pub(crate) fn ends(&mut self) -> io::Result<bool> {
        Ok(self.used == self.filled && !self.fill()?)
    }

    fn fill(&mut self) -> io::Result<bool> {
        let Some(file) = &mut self.file else { return Ok(false) };
        self.used = 0;
        self.filled = 0;
        self.filled = loop {
            match file.read(&mut self.buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        Ok(self.filled > 0)
    }
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

/// Makes a directory that is its owner's only, and those above it, unless it is there: for what lies in a ledger's directory.
///
/// # Errors
/// When it cannot be made.
pub fn private_dir(path: &Path) -> io::Result<()> {
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
    fn a_file_is_compared_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, b"12345").unwrap();
        for buffer in 1..8 {
            let mut comparison = Comparison::new(buffer);
            let mut differs = |expected: &[&[u8]]| {
                comparison.open(&path).unwrap();
                let same = expected.iter().all(|bytes| comparison.goes_on(bytes).unwrap());
                (!(same && comparison.ends().unwrap())).then_some(comparison.same)
            };
            assert_eq!([differs(&[b"12345"]), differs(&[b"1", b"", b"2345", b""])], [None, None]);
            assert_eq!([differs(&[b"1234"]), differs(&[b"1", b"23456"])], [Some(4), Some(5)]);
            assert_eq!(
                [differs(&[b"12x45"]), differs(&[b"12", b"x45"]), differs(&[])],
                [Some(2), Some(2), Some(0)]
            );
        }
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
