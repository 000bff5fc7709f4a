//! Sessions in a SQLite file.

mod fault;
mod open;
mod reader;
mod row;
mod writer;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use cloakroom_core::{
    Clock, Create, Durability, EndReason, Ended, Handle, Listing, Load, Page, PageCursor, Principal, Probe, Record,
    Renew, Renewal, Revision, SessionId, SessionLimit, SessionStore, Signals, StoreError, StoreErrorKind, Stored,
    Summary, Swept, Touch, Update, Verb,
};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use tokio::sync::{oneshot, watch};

use self::fault::Fault;
use self::open::Reconnect;
use self::reader::{Read, Reader, Rows};
use self::row::{found, found_in};
use self::writer::{Answer, Op, Write, WriteError, Writer};
use crate::migrations::{self, Migration};
use crate::queue::{Queue, Refused};
use crate::row::{Found, Row, column_millis, reason, time};

pub use self::open::{OpenError, OpenErrorKind, SqliteOptions, Synchronous};

/// Sessions in a SQLite file, for the processes of one machine. Clones share one store.
///
/// A write is answered when it is committed; by default it then survives a power cut. A load that
/// starts after a write was answered sees it, in every process. Each call is done whole or not at
/// all, also when its future is dropped: what was queued before still happens.
///
/// Bounded: when 4096 calls wait ([`with_queue`](SqliteOptions::with_queue)) the next fails at once.
/// Not for files on a network file system: SQLite's locks do not work there.
///
/// ```
/// use cloakroom_core::SessionStore;
/// use cloakroom_sql::SqliteStore;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let file = directory.path().join("sessions.db");
/// let store = SqliteStore::open(&file).await?;
/// assert!(store.probe().await?.server.starts_with("SQLite 3."));
/// store.close().await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SqliteStore(Arc<Inner>);

struct Inner {
    file: PathBuf,
    clock: Arc<dyn Clock>,
    synchronous: Synchronous,
    reads: Arc<Queue<Read>>,
    writes: Arc<Queue<Write>>,
    /// Closes when the last task has closed its connection.
    ended: watch::Receiver<()>,
}

impl Drop for Inner {
    /// The tasks do what waits and end.
    fn drop(&mut self) {
        self.reads.close();
        self.writes.close();
    }
}

/// The most rows that one transaction of a sweep removes, so that nobody waits long behind it.
const SWEPT_AT_ONCE: u32 = 1000;
/// The most rows that one statement of a scan brings.
const SCANNED_AT_ONCE: usize = 1000;

impl SqliteStore {
    /// Opens or creates this file with the default [`SqliteOptions`].
    ///
    /// # Errors
    /// As [`SqliteOptions::open`].
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub async fn open(file: impl Into<PathBuf>) -> Result<Self, OpenError> {
        SqliteOptions::new(file).open().await
    }

    /// The steps that make and upgrade the tables, oldest first. Opening applies what is missing
    /// unless [told otherwise](SqliteOptions::with_migrate).
    ///
    /// ```
    /// for migration in cloakroom_sql::SqliteStore::migrations() {
    ///     println!("-- {}: {}\n{}", migration.version, migration.name, migration.sql);
    /// }
    /// ```
    #[must_use]
    pub const fn migrations() -> &'static [Migration] {
        migrations::SQLITE
    }

    /// The file, as an absolute path.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.0.file
    }

    /// Takes no more calls, does those that wait, folds the log into the file and closes it. Returns
    /// when that is done, for every clone.
    pub async fn close(&self) {
        self.0.reads.close();
        self.0.writes.close();
        let mut ended = self.0.ended.clone();
        // Nothing is ever sent: the channel closes with the last task.
        while ended.changed().await.is_ok() {}
    }

    fn start(file: PathBuf, options: &SqliteOptions, writer: Reconnect, readers: Vec<Reconnect>) -> Self {
        let (reads, writes) = (Queue::new(options.queue), Queue::new(options.queue));
        let (alive, ended) = watch::channel(());
        for connection in readers {
            let reader = Reader { consumer: reads.consumer(), connection };
            let alive = alive.clone();
            tokio::spawn(async move {
                reader.run().await;
                drop(alive);
            });
        }
        let writer = Writer {
            consumer: writes.consumer(),
            connection: writer,
            clock: Arc::clone(&options.clock),
            tombstones: options.tombstones,
            busy_timeout: options.busy_timeout,
        };
        tokio::spawn(async move {
            writer.run().await;
            drop(alive);
        });
        let (clock, synchronous) = (Arc::clone(&options.clock), options.synchronous);
        Self(Arc::new(Inner { file, clock, synchronous, reads, writes, ended }))
    }

    fn now(&self) -> SystemTime {
        self.0.clock.now()
    }

    /// Queues a read and waits for what it brings.
    async fn read<T>(
        &self,
        verb: Verb,
        read: impl FnOnce(oneshot::Sender<Result<T, Fault>>) -> Read,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.0.reads.push(read(answer)).map_err(|refused| self.refusal(verb, refused))?;
        match answered.await {
            Ok(result) => result.map_err(|fault| fault.to_store_error(verb, &self.0.file)),
            Err(_) => Err(self.gone(verb)),
        }
    }

    async fn rows(&self, verb: Verb, rows: Rows) -> Result<Vec<SqliteRow>, StoreError> {
        self.read(verb, |answer| Read::Rows(rows, answer)).await
    }

    /// Queues a write and waits until it is committed.
    async fn write<T>(&self, op: Op, value: impl FnOnce(Answer) -> Option<T>) -> Result<T, StoreError> {
        let verb = op.verb();
        let (answer, answered) = oneshot::channel();
        self.0.writes.push(Write { op, answer }).map_err(|refused| self.refusal(verb, refused))?;
        match answered.await {
            Ok(Ok(answer)) => value(answer).ok_or_else(|| self.gone(verb)),
            Ok(Err(WriteError::Refused(error))) => Err(error),
            Ok(Err(WriteError::Fault(fault))) => Err(fault.to_store_error(verb, &self.0.file)),
            Err(_) => Err(self.gone(verb)),
        }
    }

    fn refusal(&self, verb: Verb, refused: Refused) -> StoreError {
        let file = self.0.file.display();
        let message = match refused {
            Refused::Full => {
                format!("too many calls wait for {file}: it is slow, or the queue is too short for the load")
            }
            Refused::Closed => format!("the store on {file} was closed"),
        };
        StoreError::new(StoreErrorKind::Unavailable, verb, message).not_done()
    }

    /// The task that had the call ended with it: its runtime was shut down.
    fn gone(&self, verb: Verb) -> StoreError {
        let message = format!("the task that serves {} has ended: was its runtime shut down?", self.0.file.display());
        StoreError::new(StoreErrorKind::Unavailable, verb, message)
    }
}

#[async_trait]
impl SessionStore for SqliteStore {
    async fn load(&self, id: &SessionId) -> Result<Load, StoreError> {
        let loaded = self.read(Verb::Load, |answer| Read::Load(*id, answer)).await?;
        match loaded {
            None => Ok(Load::Gone(None)),
            Some(columns) => found_in(columns, self.now(), Verb::Load).map(Load::from),
        }
    }

    async fn create(&self, id: &SessionId, record: &Record, limit: Option<SessionLimit>) -> Result<Create, StoreError> {
        let value = |answer| if let Answer::Create(value) = answer { Some(value) } else { None };
        self.write(Op::Create { row: Row::new(id, record), limit }, value).await
    }

    async fn update(&self, id: &SessionId, expected: Revision, record: &Record) -> Result<Update, StoreError> {
        let value = |answer| if let Answer::Update(value) = answer { Some(value) } else { None };
        self.write(Op::Update { expected, row: Row::new(id, record) }, value).await
    }

    async fn touch(
        &self,
        id: &SessionId,
        last_seen: SystemTime,
        idle_deadline: SystemTime,
    ) -> Result<Touch, StoreError> {
        let value = |answer| if let Answer::Touch(value) = answer { Some(value) } else { None };
        let (last_seen, idle_deadline) = (column_millis(last_seen), column_millis(idle_deadline));
        self.write(Op::Touch { id: *id, last_seen, idle_deadline }, value).await
    }

    async fn renew(&self, renewal: Renewal<'_>) -> Result<Renew, StoreError> {
        let Renewal { old, new, expected, record, limit } = renewal;
        let value = |answer| if let Answer::Renew(value) = answer { Some(value) } else { None };
        self.write(Op::Renew { old: *old, expected, row: Row::new(new, record), limit }, value).await
    }

    async fn delete(&self, id: &SessionId, reason: EndReason) -> Result<bool, StoreError> {
        let value = |answer| if let Answer::Delete(value) = answer { Some(value) } else { None };
        self.write(Op::Delete { id: *id, reason }, value).await
    }

    async fn list(&self, principal: &Principal, page: Page) -> Result<Listing, StoreError> {
        let now = self.now();
        let wanted = page.bounded_limit() + 1;
        let mut after = page.after;
        let mut sessions = Vec::new();
        // More than once only where rows do not decode.
        loop {
            let limit = wanted - sessions.len();
            let rows = Rows::List {
                principal: principal.clone(),
                now: column_millis(now),
                after,
                limit: i64::try_from(limit).unwrap_or(i64::MAX),
            };
            let rows = self.rows(Verb::List, rows).await?;
            for row in &rows {
                if let Found::Live(stored) = found(row, now, Verb::List)? {
                    sessions.push(Summary::from(&stored.record));
                }
            }
            after = rows.last().and_then(cursor);
            if rows.len() < limit || sessions.len() >= wanted || after.is_none() {
                return Ok(Listing::from_summaries(sessions, page));
            }
        }
    }

    async fn revoke(&self, principal: &Principal, handle: Handle) -> Result<bool, StoreError> {
        let value = |answer| if let Answer::Revoke(value) = answer { Some(value) } else { None };
        self.write(Op::Revoke { principal: principal.clone(), handle }, value).await
    }

    async fn revoke_all(&self, principal: &Principal, except: Option<Handle>) -> Result<u64, StoreError> {
        let value = |answer| if let Answer::RevokeAll(value) = answer { Some(value) } else { None };
        self.write(Op::RevokeAll { principal: principal.clone(), except }, value).await
    }

    async fn sweep(&self, limit: u32) -> Result<Swept, StoreError> {
        let limit = limit.min(SWEPT_AT_ONCE);
        let value = |answer| if let Answer::Sweep(value) = answer { Some(value) } else { None };
        self.write(Op::Sweep { limit }, value).await
    }

    async fn scan(&self, after: Option<SessionId>, limit: u32) -> Result<Vec<(SessionId, Stored)>, StoreError> {
        let wanted = limit as usize;
        let mut after = after;
        let mut scanned = Vec::new();
        while scanned.len() < wanted {
            let now = self.now();
            let limit = (wanted - scanned.len()).min(SCANNED_AT_ONCE);
            let now_column = column_millis(now);
            let rows = Rows::Scan { after, now: now_column, limit: i64::try_from(limit).unwrap_or(i64::MAX) };
            let rows = self.rows(Verb::Scan, rows).await?;
            for row in &rows {
                if let (Some(id), Found::Live(stored)) = (row::id(row), found(row, now, Verb::Scan)?) {
                    scanned.push((id, stored));
                }
            }
            after = rows.last().and_then(row::id);
            if rows.len() < limit || after.is_none() {
                break;
            }
        }
        Ok(scanned)
    }

    async fn explain(&self, handle: Handle) -> Result<Option<Ended>, StoreError> {
        let rows = self.rows(Verb::Explain, Rows::Explain { handle }).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let number = |column: usize| {
            row.try_get::<Option<i64>, _>(column)
                .map_err(|error| Fault::before_commit(error).to_store_error(Verb::Explain, &self.0.file))
        };
        let (reason, ended, deadline) = (number(0)?, number(1)?, number(2)?.unwrap_or(0));
        Ok(match (reason, ended) {
            (Some(reason), Some(at)) => self::reason(reason).map(|reason| Ended { reason, at: time(at) }),
            (None, _) | (_, None) if deadline > column_millis(self.now()) => None,
            (None, _) | (_, None) => Some(Ended { reason: EndReason::Expired, at: time(deadline) }),
        })
    }

    async fn probe(&self) -> Result<Probe, StoreError> {
        let answered = self.read(Verb::Probe, Read::Probe).await?;
        let mut warnings = Vec::new();
        if answered.journal_mode != "wal" {
            warnings.push(format!(
                "the journal mode is {}, so whoever reads and whoever writes wait for each other: put the file on a \
                 local file system",
                answered.journal_mode
            ));
        }
        let value = |answer| if let Answer::Probe(value) = answer { Some(value) } else { None };
        let durability = match self.write(Op::Probe, value).await {
            Ok(0) => {
                warnings.push("synchronous is off: a power cut can damage the file; set it to FULL".to_owned());
                Durability::Process
            }
            Ok(1) => Durability::Crash,
            Ok(_) => Durability::Machine,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|source| format!(" ({source})")).unwrap_or_default();
                warnings.push(format!("nothing can be written: {error}{cause}"));
                match self.0.synchronous {
                    Synchronous::Full => Durability::Machine,
                    Synchronous::Normal => Durability::Crash,
                }
            }
        };
        warnings.extend(file_warning(&self.0.file));
        Ok(Probe { server: format!("SQLite {}", answered.version), latency: answered.latency, durability, warnings })
    }

    fn signals(&self) -> Option<Signals> {
        None
    }
}

fn cursor(row: &SqliteRow) -> Option<PageCursor> {
    let created = row.try_get::<i64, _>("created").ok().and_then(|created| u64::try_from(created).ok())?;
    Some(PageCursor { created, handle: row::handle(row)? })
}

/// What the file system can tell of the file.
fn file_warning(file: &Path) -> Option<String> {
    let file_name = file.display();
    match fs::metadata(file) {
        Err(error) => Some(format!(
            "{file_name} is not there any more ({error}), and what is written now is lost with the process: restart \
             the service"
        )),
        #[cfg(unix)]
        Ok(metadata) if std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o007 != 0 => {
            Some(format!("{file_name} is open to every user of this machine: chmod o-rwx it"))
        }
        Ok(_) => None,
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { file, synchronous, .. } = &*self.0;
        f.debug_struct("SqliteStore").field("file", file).field("synchronous", synchronous).finish_non_exhaustive()
    }
}

impl fmt::Display for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sqlite({})", self.0.file.display())
    }
}
