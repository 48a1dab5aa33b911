//! The file: how it is made, opened, looked after and closed.

use std::{
    fmt, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::fs;

use crate::{
    error::{HealthError, OpenError, OpenErrorKind},
    schema,
};

/// How long a change waits for another process that is changing the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call waits for its turn, before it fails instead of piling up.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);
/// Reads run beside each other and beside the one writer (<https://www.sqlite.org/wal.html>).
const READERS: u32 = 4;

/// Keeps grants and tickets in one SQLite file. Clones share it; so may other processes on the same machine.
///
/// The file is in WAL mode: two files beside it, with `-wal` and `-shm` at the end of their names, belong to it, and it must
/// not be on a network file system.
#[derive(Clone)]
pub struct SqliteStore(Arc<Inner>);

struct Inner {
    readers: SqlitePool,
    /// One connection, so that changes queue up here, in order, and not in SQLite's busy loop.
    writer: SqlitePool,
    file: Option<OpenFile>,
}

/// Which file was opened: a path can come to mean another.
struct OpenFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SqliteStore {
    /// Opens the file, or makes it, readable by its owner only. Its directory must exist. It is checked for damage, which takes
    /// about a second per gigabyte, and brought up to this version's schema.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: the file cannot be had, is not ours, is damaged, or was written by a newer version.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let inaccessible = |error: &dyn fmt::Display| {
            OpenError::new(path, OpenErrorKind::Inaccessible, format!("it cannot be opened: {error}"))
        };
        make(path).await?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(BUSY_TIMEOUT)
            .pragma("trusted_schema", "OFF")
            .foreign_keys(true);
        schema::inspect(path, &options).await?;

        let options = options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
        let sqlite = |error| OpenError::from_sqlite(path, error);
        let writer = pool(1).connect_with(options.clone()).await.map_err(sqlite)?;
        let migrated = async { schema::migrate(&mut *writer.acquire().await?).await };
        migrated.await.map_err(sqlite)?;
        let readers = pool(READERS).connect_with(options).await.map_err(sqlite)?;
        let file = OpenFile::at(path).await.map_err(|error| inaccessible(&error))?;
        Ok(Self(Arc::new(Inner { readers, writer, file: Some(file) })))
    }

    /// A store that is gone with its last clone: for tests, and for services that may forget.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: SQLite failed.
    pub async fn in_memory() -> Result<Self, OpenError> {
        let sqlite = |error| OpenError::from_sqlite(Path::new(":memory:"), error);
        let options = SqliteConnectOptions::new().in_memory(true).foreign_keys(true);
        // Another connection would have another database.
        let only = pool(1).connect_with(options).await.map_err(sqlite)?;
        let migrated = async { schema::migrate(&mut *only.acquire().await?).await };
        migrated.await.map_err(sqlite)?;
        Ok(Self(Arc::new(Inner { readers: only.clone(), writer: only, file: None })))
    }

    /// Whether a change can be kept just now: makes one, and looks whether the file still is where it was.
    ///
    /// # Errors
    ///
    /// [`HealthError`]: a full or read-only disk, a lock that another process keeps, or a file that was moved or replaced.
    pub async fn health(&self) -> Result<(), HealthError> {
        if let Some(file) = &self.0.file {
            file.check().await?;
        }
        sqlx::query(
            "INSERT INTO health (id, checks) VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET checks = health.checks + 1",
        )
        .execute(self.writer())
        .await?;
        Ok(())
    }

    /// Waits for what is under way and closes the file, for every clone: calls after that fail. Nothing is lost without it.
    pub async fn close(&self) {
        self.0.readers.close().await;
        self.0.writer.close().await;
    }

    /// For reading. What was written before a read began, the read sees.
    pub(crate) fn readers(&self) -> &SqlitePool {
        &self.0.readers
    }

    /// For changing.
    pub(crate) fn writer(&self) -> &SqlitePool {
        &self.0.writer
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.0.file.as_ref().map(|file| &file.path);
        f.debug_struct("SqliteStore").field("path", &path).finish_non_exhaustive()
    }
}

impl OpenFile {
    async fn at(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path).await?;
        Ok(Self { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() })
    }

    /// SQLite would go on writing to a file that nobody can find any more.
    async fn check(&self) -> Result<(), HealthError> {
        let path = self.path.display();
        match Self::at(&self.path).await {
            Ok(now) if (now.device, now.inode) == (self.device, self.inode) => Ok(()),
            Ok(_) => Err(HealthError::new(format!("{path} was replaced; start again"))),
            Err(error) => Err(HealthError::new(format!("{path}: {error}"))),
        }
    }
}

/// Makes an empty file, if there is none, before SQLite can make one that others may read. SQLite gives its companions the
/// same permissions.
async fn make(path: &Path) -> Result<(), OpenError> {
    let inaccessible = |problem: String| OpenError::new(path, OpenErrorKind::Inaccessible, problem);
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).await {
        Ok(_) => {
            // The name must survive a power cut, too.
            let synced = async { fs::File::open(directory).await?.sync_all().await };
            synced.await.map_err(|error| inaccessible(format!("its directory cannot be synced: {error}")))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = fs::metadata(path).await.map_err(|error| inaccessible(error.to_string()))?;
            match metadata.is_file() {
                true => Ok(()),
                false => Err(inaccessible("it is no regular file".to_owned())),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(inaccessible(format!("the directory {} does not exist; make it first", directory.display())))
        }
        Err(error) => Err(inaccessible(format!("it cannot be made: {error}"))),
    }
}

/// Connections are kept for good: one that is closed for being idle would take an in-memory database with it.
fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .min_connections(connections)
        .max_connections(connections)
        .acquire_timeout(QUEUE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
}
