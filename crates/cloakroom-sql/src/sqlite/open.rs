//! Opening a session database, and saying exactly why it cannot be opened.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloakroom_core::{Clock, MemoryStore, SystemClock};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, Row as _};

use super::SqliteStore;
use super::fault::{self, Fault};
use crate::dialect::sqlite as sql;
use crate::migrations;

/// What an acknowledged write survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Synchronous {
    /// A power cut: every commit waits for the disk. A logout that was answered stays a logout.
    #[default]
    Full,
    /// A crash of the process. A power cut or a crash of the machine can take the last moments back,
    /// **logouts and revocations included**, but damages nothing.
    Normal,
}

/// How a [`SqliteStore`] is to be opened.
///
/// ```no_run
/// use cloakroom_sql::{SqliteOptions, Synchronous};
///
/// # async fn run() -> Result<(), cloakroom_sql::OpenError> {
/// let store = SqliteOptions::new("/var/lib/app/sessions.db").with_synchronous(Synchronous::Normal).open().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is opened before `open`"]
pub struct SqliteOptions {
    pub(super) file: PathBuf,
    pub(super) synchronous: Synchronous,
    pub(super) busy_timeout: Duration,
    pub(super) readers: usize,
    pub(super) queue: usize,
    pub(super) tombstones: Duration,
    pub(super) clock: Arc<dyn Clock>,
    create: bool,
    migrate: bool,
}

impl SqliteOptions {
    /// How long another process may hold the write lock unless told otherwise.
    pub const DEFAULT_BUSY_TIMEOUT: Duration = Duration::from_secs(5);
    /// How many calls may wait, for reading and for writing each, unless told otherwise.
    pub const DEFAULT_QUEUE: usize = 4096;
    /// The most connections for reading.
    pub const MAX_READERS: usize = 64;

    /// This file, created readable by its owner only if it does not exist; its directory must.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            synchronous: Synchronous::default(),
            busy_timeout: Self::DEFAULT_BUSY_TIMEOUT,
            readers: std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 4)),
            queue: Self::DEFAULT_QUEUE,
            tombstones: MemoryStore::DEFAULT_TOMBSTONES,
            clock: Arc::new(SystemClock),
            create: true,
            migrate: true,
        }
    }

    /// What an acknowledged write survives. Default [`Synchronous::Full`].
    pub const fn with_synchronous(mut self, synchronous: Synchronous) -> Self {
        self.synchronous = synchronous;
        self
    }

    /// How long to wait for another process that writes. Default 5 seconds, at most a day.
    pub fn with_busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout.min(Duration::from_secs(24 * 60 * 60));
        self
    }

    /// How many connections read. Default the number of cores, between 2 and 4.
    pub fn with_readers(mut self, readers: usize) -> Self {
        self.readers = readers.clamp(1, Self::MAX_READERS);
        self
    }

    /// How many calls may wait, for reading and for writing each; one more is refused at once.
    /// Default 4096.
    pub fn with_queue(mut self, calls: usize) -> Self {
        self.queue = calls.max(1);
        self
    }

    /// How long the reason of an end is remembered. Default 24 hours; must outlast the longest request.
    pub const fn with_tombstones(mut self, kept: Duration) -> Self {
        self.tombstones = kept;
        self
    }

    /// Another clock, for tests.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Whether to create the file if it does not exist. Default yes.
    pub const fn with_create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Whether to create and upgrade the tables. Default yes; otherwise apply
    /// [`SqliteStore::migrations`] yourself before.
    pub const fn with_migrate(mut self, migrate: bool) -> Self {
        self.migrate = migrate;
        self
    }

    /// Opens the store. Safe to call from several processes at once.
    ///
    /// # Errors
    /// When the file cannot be created, read, written or locked, is no database, is damaged, or has
    /// tables of another release. The error names the file, the cause and what to do.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub async fn open(self) -> Result<SqliteStore, OpenError> {
        let file = prepare_file(&self.file, self.create)?;
        let connector = Connector::new(&file, &self);
        let mut writer = connector.writer().await.map_err(|error| OpenError::driver(&file, error))?;
        match set_up(&mut writer, &file, self.migrate, self.busy_timeout).await {
            Ok(()) => {}
            Err(error) => {
                // The cause is what matters; a close that fails as well adds nothing to it.
                drop(writer.close().await);
                return Err(error);
            }
        }
        writer = Connector::without_waiting(writer).await.map_err(|error| OpenError::driver(&file, error))?;
        let mut readers = Vec::with_capacity(self.readers);
        for _ in 0..self.readers {
            readers.push(connector.reader().await.map_err(|error| OpenError::driver(&file, error))?);
        }
        let writer = Reconnect::new(connector.clone(), writer);
        let readers = readers.into_iter().map(|reader| Reconnect::new(connector.clone(), reader)).collect();
        Ok(SqliteStore::start(file, &self, writer, readers))
    }
}

/// Finds or creates the file; gives its absolute path, so that neither a change of directory nor a
/// path that looks like a URI leads elsewhere later.
fn prepare_file(file: &Path, create: bool) -> Result<PathBuf, OpenError> {
    if file.as_os_str().is_empty() || file.as_os_str() == ":memory:" {
        let advice = "name a file; for sessions in memory use the memory store";
        return Err(OpenError::new(OpenErrorKind::Path, file, "this is no file", advice));
    }
    match fs::metadata(file) {
        Ok(metadata) if metadata.is_dir() => {
            return Err(OpenError::new(OpenErrorKind::Path, file, "this is a directory", "name a file in it"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound && create => create_file(file)?,
        Err(error) => return Err(OpenError::io(file, error)),
    }
    let absolute = fs::canonicalize(file).map_err(|error| OpenError::io(file, error))?;
    if absolute.to_str().is_none() {
        let advice = "name a file whose path is UTF-8";
        return Err(OpenError::new(OpenErrorKind::Path, file, "SQLite cannot open a path that is not UTF-8", advice));
    }
    Ok(absolute)
}

/// SQLite gives the companions (-wal, -shm) the mode of the file itself.
fn create_file(file: &Path) -> Result<(), OpenError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(file) {
        Ok(_) => Ok(()),
        // Another process was a moment faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let advice = "create the directory first, or name a file in one that exists";
            Err(OpenError::new(OpenErrorKind::Path, file, "its directory does not exist", advice).with_source(error))
        }
        Err(error) => Err(OpenError::io(file, error)),
    }
}

async fn set_up(
    connection: &mut SqliteConnection,
    file: &Path,
    migrate: bool,
    patience: Duration,
) -> Result<(), OpenError> {
    let driver = |error| OpenError::driver(file, error);
    set_wal(connection, patience).await.map_err(driver)?;
    let newest = migrations::SQLITE.last().map_or(0, |migration| i64::from(migration.version));
    let mut version = migrated_to(connection).await.map_err(driver)?;
    if version < newest && migrate {
        migrate_from(connection).await.map_err(driver)?;
        version = migrated_to(connection).await.map_err(driver)?;
    }
    if version > newest {
        let cause = format!("its tables have version {version}, and this release knows {newest}");
        return Err(OpenError::new(OpenErrorKind::Newer, file, cause, "upgrade this release, or name another file"));
    }
    if version < newest {
        let cause = format!("its tables have version {version}, and this release needs {newest}");
        let advice = "apply the missing migrations (`SqliteStore::migrations` has them), or let the store apply them";
        return Err(OpenError::new(OpenErrorKind::Unmigrated, file, cause, advice));
    }
    // SQLite opens what it may only read without a word; here it shows.
    connection.execute(sql::BEGIN).await.map_err(driver)?;
    connection.execute(sql::ROLLBACK).await.map_err(driver)?;
    Ok(())
}

/// Where the file system cannot have a write-ahead log the mode stays as it is, and `probe` says so.
async fn set_wal(connection: &mut SqliteConnection, patience: Duration) -> sqlx::Result<()> {
    let started = Instant::now();
    loop {
        let mode: String = connection.fetch_one(sql::JOURNAL_MODE).await?.try_get(0)?;
        if mode == "wal" {
            return Ok(());
        }
        match connection.fetch_all(sql::SET_WAL).await {
            Ok(_) => return Ok(()),
            // Two processes at their first start: the busy timeout does not cover this change.
            Err(error) if fault::code(&error) == Some(fault::BUSY) && started.elapsed() < patience => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn migrated_to(connection: &mut SqliteConnection) -> sqlx::Result<i64> {
    let tables: i64 = connection.fetch_one(sql::HAS_MIGRATIONS).await?.try_get(0)?;
    if tables == 0 {
        return Ok(0);
    }
    connection.fetch_one(sql::MIGRATED_TO).await?.try_get(0)
}

/// Under the write lock, so that of several processes one applies each step.
async fn migrate_from(connection: &mut SqliteConnection) -> sqlx::Result<()> {
    connection.execute(sql::BEGIN).await?;
    let applied = apply_missing(connection).await;
    let end = if applied.is_ok() { sql::COMMIT } else { sql::ROLLBACK };
    let ended = connection.execute(end).await;
    applied?;
    ended.map(|_| ())
}

async fn apply_missing(connection: &mut SqliteConnection) -> sqlx::Result<()> {
    let version = migrated_to(connection).await?;
    for migration in migrations::SQLITE.iter().filter(|migration| i64::from(migration.version) > version) {
        connection.execute(migration.sql).await?;
    }
    Ok(())
}

/// Makes connections.
#[derive(Clone, Debug)]
pub(crate) struct Connector(SqliteConnectOptions);

impl Connector {
    fn new(file: &Path, options: &SqliteOptions) -> Self {
        let synchronous = match options.synchronous {
            Synchronous::Full => SqliteSynchronous::Full,
            Synchronous::Normal => SqliteSynchronous::Normal,
        };
        let options = SqliteConnectOptions::new()
            .filename(file)
            .busy_timeout(options.busy_timeout)
            .synchronous(synchronous)
            // Keeps the log from staying as large as it once was.
            .pragma("journal_size_limit", "67108864")
            .disable_statement_logging();
        Self(options)
    }

    pub(crate) async fn writer(&self) -> sqlx::Result<SqliteConnection> {
        self.0.connect().await
    }

    /// A writer that is refused at once where another process holds the lock. The writing task waits
    /// itself, and looks at the clock when it has the lock.
    pub(crate) async fn impatient_writer(&self) -> sqlx::Result<SqliteConnection> {
        Self::without_waiting(self.writer().await?).await
    }

    async fn without_waiting(mut writer: SqliteConnection) -> sqlx::Result<SqliteConnection> {
        writer.execute("PRAGMA busy_timeout = 0").await?;
        Ok(writer)
    }

    pub(crate) async fn reader(&self) -> sqlx::Result<SqliteConnection> {
        self.0.clone().pragma("query_only", "ON").connect().await
    }
}

/// A connection that is replaced after it was lost, at longer and longer intervals while that fails.
#[derive(Debug)]
pub(crate) struct Reconnect {
    connector: Connector,
    connection: Option<SqliteConnection>,
    failures: u32,
    not_before: Option<Instant>,
}

impl Reconnect {
    const LONGEST_PAUSE: Duration = Duration::from_secs(5);

    fn new(connector: Connector, connection: SqliteConnection) -> Self {
        Self { connector, connection: Some(connection), failures: 0, not_before: None }
    }

    /// The connection. While it is lost, and the last attempt to replace it was a moment ago, fails
    /// at once: whoever asks need not wait for what is not there.
    pub(crate) async fn get(
        &mut self,
        make: impl AsyncFn(&Connector) -> sqlx::Result<SqliteConnection>,
    ) -> Result<&mut SqliteConnection, Fault> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None if self.not_before.is_some_and(|at| Instant::now() < at) => {
                let error =
                    io::Error::new(io::ErrorKind::NotConnected, "the file could not be opened again a moment ago");
                return Err(Fault::before_commit(error.into()));
            }
            None => match make(&self.connector).await {
                Ok(connection) => {
                    self.failures = 0;
                    connection
                }
                Err(error) => {
                    let pause = Duration::from_millis(10 << self.failures.min(9)).min(Self::LONGEST_PAUSE);
                    self.failures = self.failures.saturating_add(1);
                    self.not_before = Some(Instant::now() + pause);
                    tracing::warn!(%error, "the session database cannot be opened again; next attempt in {pause:?}");
                    return Err(Fault::before_commit(error));
                }
            },
        };
        Ok(self.connection.insert(connection))
    }

    /// The connection is not to be trusted any more: whatever it had not committed is rolled back.
    pub(crate) fn lose(&mut self) {
        self.connection = None;
        self.not_before = None;
    }

    pub(crate) async fn close(self) {
        if let Some(connection) = self.connection
            && let Err(error) = connection.close().await
        {
            tracing::debug!(%error, "a connection did not close cleanly");
        }
    }
}

/// A session database cannot be opened. Names the file, the cause and what to do.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the session database {}: {cause}; {advice}", file.display())]
pub struct OpenError {
    kind: OpenErrorKind,
    file: PathBuf,
    cause: String,
    advice: &'static str,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Why a session database cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OpenErrorKind {
    /// There is no such file, or there can be none.
    Path,
    /// The file may not be read or written by this user, or lies on a read-only file system.
    Denied,
    /// Another process holds it.
    Locked,
    /// It is something else than a SQLite database.
    NotADatabase,
    /// It is damaged.
    Corrupt,
    /// Its tables are of a newer release.
    Newer,
    /// Its tables are missing or of an older release, and must not be upgraded by the store.
    Unmigrated,
    /// The disk is full, or fails.
    Disk,
    /// Anything else.
    Other,
}

impl OpenError {
    fn new(kind: OpenErrorKind, file: &Path, cause: impl Into<String>, advice: &'static str) -> Self {
        Self { kind, file: file.to_owned(), cause: cause.into(), advice, source: None }
    }

    fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    fn io(file: &Path, error: io::Error) -> Self {
        let (kind, advice) = if error.kind() == io::ErrorKind::NotFound {
            (OpenErrorKind::Path, "create it first, or let the store create it")
        } else if [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem].contains(&error.kind()) {
            (OpenErrorKind::Denied, "give the service's user the right to read and write it and its directory")
        } else if [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded].contains(&error.kind()) {
            (OpenErrorKind::Disk, "make room on the disk")
        } else {
            (OpenErrorKind::Path, "name a file that the service's user can create, read and write")
        };
        Self::new(kind, file, error.to_string(), advice).with_source(error)
    }

    fn driver(file: &Path, error: sqlx::Error) -> Self {
        let (kind, cause, advice) = match fault::code(&error) {
            Some(fault::BUSY | fault::LOCKED) => (
                OpenErrorKind::Locked,
                "another process kept it locked for longer than the busy timeout",
                "end what holds it (a backup, an open sqlite3 shell), or raise the timeout",
            ),
            Some(fault::NOTADB) => {
                (OpenErrorKind::NotADatabase, "it is not a SQLite database", "name another file, or remove this one")
            }
            Some(fault::CORRUPT) => (
                OpenErrorKind::Corrupt,
                "it is damaged",
                "check it with `PRAGMA integrity_check`, restore or remove it",
            ),
            Some(fault::READONLY | fault::PERM | fault::CANTOPEN | fault::AUTH) => (
                OpenErrorKind::Denied,
                "it, its directory or one of its companions (-wal, -shm) cannot be opened for writing",
                "give the service's user the right to, and check that the file system is not read-only",
            ),
            Some(fault::FULL) => (OpenErrorKind::Disk, "the disk is full", "make room on the disk"),
            Some(fault::ERROR) => (
                OpenErrorKind::Unmigrated,
                "its tables cannot be read or created",
                "check whether tables of these names (cloakroom_*) were made by something else",
            ),
            Some(_) | None => (OpenErrorKind::Other, "SQLite failed", "see the source of this error"),
        };
        Self::new(kind, file, cause, advice).with_source(error)
    }

    /// Why.
    #[must_use]
    pub const fn kind(&self) -> OpenErrorKind {
        self.kind
    }

    /// The file that was to be opened.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_lost_connection_is_replaced_and_not_at_every_call_while_that_fails() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sessions.db");
        let connector = Connector::new(&file, &SqliteOptions::new(&file));
        fs::write(&file, "").unwrap();
        let mut reconnect = Reconnect::new(connector.clone(), connector.writer().await.unwrap());
        let attempts = AtomicU32::new(0);
        let make = async |connector: &Connector| {
            attempts.fetch_add(1, Ordering::Relaxed);
            connector.writer().await
        };
        reconnect.get(make).await.unwrap();
        assert_eq!(attempts.load(Ordering::Relaxed), 0);
        reconnect.lose();
        reconnect.get(make).await.unwrap();
        assert_eq!(attempts.load(Ordering::Relaxed), 1);

        reconnect.lose();
        fs::remove_file(&file).unwrap();
        reconnect.get(make).await.unwrap_err();
        reconnect.not_before = Some(Instant::now() + Duration::from_secs(60));
        reconnect.get(make).await.unwrap_err();
        assert_eq!(attempts.load(Ordering::Relaxed), 2, "the pause was not kept");
        fs::write(&file, "").unwrap();
        reconnect.not_before = Some(Instant::now());
        reconnect.get(make).await.unwrap();
        assert_eq!((attempts.load(Ordering::Relaxed), reconnect.failures), (3, 0));
        reconnect.close().await;
    }
}
