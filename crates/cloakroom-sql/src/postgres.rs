//! Sessions in PostgreSQL.

mod connect;
mod fault;
mod hosts;
mod lane;
mod listen;
mod open;
mod options;
mod row;
mod statement;
mod swept_to;
mod tls;
mod work;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use cloakroom_core::{
    Create, Durability, EndReason, Ended, Excess, Handle, Listing, Load, Page, PageCursor, Principal, Probe, Record,
    Renew, Renewal, Revision, SessionId, SessionLimit, SessionStore, Signaller, Signals, StoreError, StoreErrorKind,
    Stored, Summary, Swept, Touch, Update, Verb,
};
use tokio::sync::{oneshot, watch};
use tokio_postgres::Row as DriverRow;
use tokio_postgres::types::{FromSql, ToSql};

use self::connect::{Connection, Connector};
use self::fault::Fault;
use self::lane::{Lane, Watchdog};
use self::row::{Seen, seen, seen_from};
use self::statement::Statement;
use self::swept_to::{Place, SweptTo};
use self::work::{Answer, Call, Job, Updated};
use crate::migrations::{self, Migration};
use crate::open_error::ServerOpenError;
use crate::prefix::TablePrefix;
use crate::queue::{Queue, Refused};
use crate::row::{Found, Row, column_millis, column_revision, names, reason, time};
use crate::touches::{Deadlines, Emptying, TouchBuffer, Touches};

pub use self::options::PostgresOptions;

/// Sessions in PostgreSQL 13 or later, for any number of processes. Clones share one store.
///
/// Each call is one statement and one round trip, decided by the server's clock; an update or a touch
/// that is refused takes a second one, which brings what is there. A write is answered when it is
/// committed; a load that starts after that sees it, from every process. Each call is done
/// whole or not at all, also when its future is dropped: what was queued before still happens. What
/// waits together travels together, and a lone call is sent at once.
///
/// While the server is away calls fail at once, and the first that finds it again succeeds; where nothing comes from it,
/// not even a refusal, a call may wait as long as a connection may take. A load
/// whose connection breaks is repeated once on a fresh one; a write is not, and its error says that
/// nobody knows whether it happened.
///
/// Bounded: when 4096 calls wait ([`with_queue`](PostgresOptions::with_queue)) the next fails at
/// once. Works behind PgBouncer, also where it pools transactions, with `prepared=off`.
///
/// ```no_run
/// use cloakroom_core::SessionStore;
/// use cloakroom_sql::PostgresStore;
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let store = PostgresStore::open("postgres://app:secret@db.example.com/app").await?;
/// assert!(store.probe().await?.server.starts_with("PostgreSQL "));
/// store.close().await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct PostgresStore(Arc<Inner>);

struct Inner {
    server: Arc<str>,
    connector: Arc<Connector>,
    prefix: TablePrefix,
    signaller: Signaller,
    tombstones: Duration,
    swept_to: SweptTo,
    reads: Arc<Queue<Job>>,
    writes: Arc<Queue<Job>>,
    /// Touches that need not be answered.
    touches: Option<Arc<TouchBuffer>>,
    /// Closes when the last task has closed its connection.
    ended: watch::Receiver<()>,
}

impl Drop for Inner {
    /// The tasks do what waits and end.
    fn drop(&mut self) {
        match &self.touches {
            // Its task closes the queue for writing, once what waits is in it.
            Some(touches) => touches.abandon(),
            None => self.writes.close(),
        }
        self.reads.close();
    }
}

/// The most rows that one transaction of a sweep removes, so that nobody waits long behind it.
const SWEPT_AT_ONCE: u32 = 1000;
/// The most rows that one statement of a scan brings.
const SCANNED_AT_ONCE: usize = 1000;

impl PostgresStore {
    /// Opens the store at this URL; [`PostgresOptions::new`] lists what may stand in it.
    ///
    /// # Errors
    /// As [`PostgresOptions::new`] and [`PostgresOptions::open`].
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub async fn open(url: &str) -> Result<Self, ServerOpenError> {
        PostgresOptions::new(url)?.open().await
    }

    /// The steps that make and upgrade the tables, oldest first, with the default prefix. Opening
    /// applies what is missing unless [told otherwise](PostgresOptions::with_migrate);
    /// [`PostgresOptions::migrations`] has the steps for another prefix.
    ///
    /// ```
    /// for migration in cloakroom_sql::PostgresStore::migrations() {
    ///     println!("-- {}: {}\n{}", migration.version, migration.name, migration.sql);
    /// }
    /// ```
    #[must_use]
    pub const fn migrations() -> &'static [Migration] {
        migrations::POSTGRES
    }

    /// Takes no more calls, does those that wait, touches in the background included, and closes the
    /// connections. Returns when that is done, for every clone.
    pub async fn close(&self) {
        self.0.signaller.close();
        self.0.reads.close();
        match &self.0.touches {
            Some(touches) => touches.close().await,
            None => self.0.writes.close(),
        }
        let mut ended = self.0.ended.clone();
        // Nothing is ever sent: the channel closes with the last task.
        while ended.changed().await.is_ok() {}
    }

    fn start(options: &PostgresOptions, connector: &Arc<Connector>, connections: Vec<Connection>) -> Self {
        let (reads, writes) = (Queue::new(options.queue), Queue::new(options.queue));
        let (alive, ended) = watch::channel(());
        let of_readers = connections.len() / 2;
        let heard = Arc::new(AtomicUsize::new(0));
        let mut connections = connections.into_iter();
        for (queue, most) in [(&reads, of_readers), (&writes, usize::MAX)] {
            let connected = Arc::new(watch::channel(0).0);
            for connection in connections.by_ref().take(most) {
                connected.send_modify(|connected| *connected += 1);
                let lane = Lane {
                    consumer: queue.consumer(),
                    connector: Arc::clone(connector),
                    connection: Some(connection),
                    connected: Arc::clone(&connected),
                    heard: Arc::clone(&heard),
                    clock: options.clock.clone(),
                    watchdog: Watchdog::new(options.timeout),
                };
                let alive = alive.clone();
                tokio::spawn(async move {
                    lane.run().await;
                    drop(alive);
                });
            }
        }
        drop(alive);
        let touches = (options.touches == Touches::Background).then(|| {
            let (touches, emptying) = TouchBuffer::new(options.queue);
            tokio::spawn(flush(Arc::clone(&touches), Arc::clone(&writes), emptying));
            touches
        });
        let (server, tombstones) = (Arc::clone(&connector.server), options.tombstones);
        let (connector, prefix, signaller) = (Arc::clone(connector), options.prefix.clone(), Signaller::new());
        let swept_to = SweptTo::default();
        Self(Arc::new(Inner {
            server,
            connector,
            prefix,
            signaller,
            tombstones,
            swept_to,
            reads,
            writes,
            touches,
            ended,
        }))
    }

    /// Queues a job and waits for what comes of it.
    async fn ask<T>(
        &self,
        verb: Verb,
        queue: &Queue<Job>,
        job: impl FnOnce(Answer<T>) -> Job,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        queue.push(job(answer)).map_err(|refused| self.refusal(verb, refused))?;
        match answered.await {
            Ok(result) => result.map_err(|fault| fault.to_store_error(verb)),
            Err(_) => {
                let message = format!("the task that serves {} has ended: was its runtime shut down?", self.0.server);
                Err(StoreError::new(StoreErrorKind::Unavailable, verb, message))
            }
        }
    }

    async fn call(
        &self,
        verb: Verb,
        statement: Statement,
        parameters: Vec<Box<dyn ToSql + Sync + Send>>,
    ) -> Result<Vec<DriverRow>, StoreError> {
        let queue = if statement.writes() { &self.0.writes } else { &self.0.reads };
        self.ask(verb, queue, |answer| Job::Call { call: Call { statement, parameters }, answer }).await
    }

    /// As `call`, of a statement that returns one row.
    async fn call_one(
        &self,
        verb: Verb,
        statement: Statement,
        parameters: Vec<Box<dyn ToSql + Sync + Send>>,
    ) -> Result<DriverRow, StoreError> {
        let rows = self.call(verb, statement, parameters).await?;
        rows.into_iter().next().ok_or_else(|| self.absurd(verb, "no row"))
    }

    fn get<'r, T: FromSql<'r>>(&self, verb: Verb, row: &'r DriverRow, place: usize) -> Result<T, StoreError> {
        row::get(row, place).map_err(|error| self.absurd(verb, error))
    }

    fn seen(&self, verb: Verb, row: &DriverRow) -> Result<Seen, StoreError> {
        seen(row).map_err(|error| self.absurd(verb, error))
    }

    fn absurd(&self, verb: Verb, what: impl fmt::Display) -> StoreError {
        Fault::absurd(&self.0.server, what).to_store_error(verb)
    }

    fn refusal(&self, verb: Verb, refused: Refused) -> StoreError {
        let server = &self.0.server;
        let message = match refused {
            Refused::Full => {
                format!("too many calls wait for {server}: it is slow, or the queue is too short for the load")
            }
            Refused::Closed => format!("the store on {server} was closed"),
        };
        StoreError::new(StoreErrorKind::Unavailable, verb, message).not_done()
    }

    fn handles(&self, verb: Verb, row: &DriverRow, place: usize) -> Result<Vec<Handle>, StoreError> {
        let handles: Vec<&[u8]> = self.get(verb, row, place)?;
        Ok(handles.into_iter().filter_map(row::handle).collect())
    }
}

/// The most touches that are in the queue for writing at once.
const TOUCHES_AT_ONCE: usize = 256;

/// Writes what waits in the background until the store closes, and then closes the queue for writing.
async fn flush(touches: Arc<TouchBuffer>, writes: Arc<Queue<Job>>, emptying: Emptying) {
    loop {
        let taken = touches.take().await;
        if taken.is_empty() {
            break;
        }
        let mut lost = 0;
        // One batch after the other: what comes meanwhile waits here, where it becomes one for each session, and leaves
        // room in the queue for calls that somebody waits for.
        for some in taken.chunks(TOUCHES_AT_ONCE) {
            let mut answers = Vec::with_capacity(some.len());
            for (id, deadlines) in some {
                let (answer, answered) = oneshot::channel();
                match writes.push(Job::Touch { id: *id, deadlines: *deadlines, answer }) {
                    Ok(()) => answers.push(answered),
                    Err(Refused::Full) => touches.put_back(*id, *deadlines),
                    Err(Refused::Closed) => lost += 1,
                }
            }
            if answers.is_empty() {
                TouchBuffer::wait_for_room().await;
            }
            for answered in answers {
                if !matches!(answered.await, Ok(Ok(_))) {
                    lost += 1;
                }
            }
        }
        if lost > 0 {
            tracing::warn!(lost, "touches were not written; their sessions end earlier unless they are used again");
        }
    }
    writes.close();
    drop(emptying);
}

/// Of a function under a limit: the most sessions, and whether to evict.
fn limit_parameters(record: &Record, limit: Option<SessionLimit>) -> (Option<i64>, bool) {
    let limit = limit.filter(|_| record.principal().is_some());
    (limit.map(|limit| i64::from(limit.max.get())), limit.is_some_and(|limit| limit.excess == Excess::EvictOldest))
}

/// The parameters that both functions have for a new record.
fn record_parameters(row: Row) -> Vec<Box<dyn ToSql + Sync + Send>> {
    let record = &row.record;
    vec![
        Box::new(row.id.as_bytes().to_vec()),
        Box::new(record.handle().as_bytes().to_vec()),
        Box::new(record.principal().map(|principal| principal.as_str().to_owned())),
        Box::new(column_millis(record.created())),
        Box::new(column_millis(record.last_seen())),
        Box::new(row.idle_deadline()),
        Box::new(row.absolute_deadline()),
        Box::new(row.encoded),
    ]
}

#[async_trait]
impl SessionStore for PostgresStore {
    async fn load(&self, id: &SessionId) -> Result<Load, StoreError> {
        let job = |answer| Job::Load { id: *id, answer };
        match self.ask(Verb::Load, &self.0.reads, job).await? {
            None => Ok(Load::Gone(None)),
            Some(Seen { columns, now }) => {
                let load = columns.found(now, Verb::Load).map(Load::from)?;
                if let (Some(touches), Load::Live(stored)) = (&self.0.touches, &load) {
                    touches.saw(*id, &stored.record, now);
                }
                Ok(load)
            }
        }
    }

    async fn create(&self, id: &SessionId, record: &Record, limit: Option<SessionLimit>) -> Result<Create, StoreError> {
        let row = Row::new(id, record);
        let (Some(most), evict) = limit_parameters(record, limit) else {
            let created = self.ask(Verb::Create, &self.0.writes, |answer| Job::Create { row, answer }).await?;
            return Ok(if created { Create::Created { evicted: Vec::new() } } else { Create::Occupied });
        };
        let mut parameters = record_parameters(row);
        parameters.extend([Box::new(most) as Box<dyn ToSql + Sync + Send>, Box::new(evict)]);
        let answer = self.call_one(Verb::Create, Statement::CreateLimited, parameters).await?;
        match self.get::<i64>(Verb::Create, &answer, 0)? {
            1 => Ok(Create::Created { evicted: self.handles(Verb::Create, &answer, 1)? }),
            2 => Ok(Create::Occupied),
            3 => Ok(Create::LimitReached),
            other => Err(self.absurd(Verb::Create, format_args!("outcome {other}"))),
        }
    }

    async fn update(&self, id: &SessionId, expected: Revision, record: &Record) -> Result<Update, StoreError> {
        let row = Row::new(id, record);
        let Seen { columns, now } =
            match self.ask(Verb::Update, &self.0.writes, |answer| Job::Update { expected, row, answer }).await? {
                Updated::Saved => return Ok(Update::Saved(expected.next())),
                Updated::Not(None) => return Ok(Update::Gone(None)),
                Updated::Not(Some(seen)) => seen,
            };
        match columns.found(now, Verb::Update)? {
            Found::Ended(reason) => Ok(Update::Gone(reason)),
            Found::Live(stored) if stored.revision != expected => Ok(Update::Conflict(stored)),
            Found::Live(stored) if names(&stored.record) != names(record) => {
                let message = "an update must not change the owner, the handle or the time of creation; renew instead";
                Err(StoreError::new(StoreErrorKind::Corrupt, Verb::Update, message).not_done())
            }
            // Only where somebody edited the columns beside the record.
            Found::Live(_) => Ok(Update::Gone(None)),
        }
    }

    async fn touch(
        &self,
        id: &SessionId,
        last_seen: SystemTime,
        idle_deadline: SystemTime,
    ) -> Result<Touch, StoreError> {
        let deadlines = Deadlines { last_seen: column_millis(last_seen), idle_deadline: column_millis(idle_deadline) };
        if self.0.touches.as_ref().is_some_and(|touches| touches.offer(*id, deadlines)) {
            return Ok(Touch::Touched);
        }
        self.ask(Verb::Touch, &self.0.writes, |answer| Job::Touch { id: *id, deadlines, answer }).await
    }

    async fn renew(&self, renewal: Renewal<'_>) -> Result<Renew, StoreError> {
        let Renewal { old, new, expected, record, limit } = renewal;
        let (most, evict) = limit_parameters(record, limit);
        let mut parameters: Vec<Box<dyn ToSql + Sync + Send>> =
            vec![Box::new(old.as_bytes().to_vec()), Box::new(column_revision(expected))];
        parameters.extend(record_parameters(Row::new(new, record)));
        parameters.extend([Box::new(most) as Box<dyn ToSql + Sync + Send>, Box::new(evict)]);
        let answer = self.call_one(Verb::Renew, Statement::Renew, parameters).await?;
        match self.get::<i64>(Verb::Renew, &answer, 0)? {
            1 => Ok(Renew::Renewed { revision: expected.next(), evicted: self.handles(Verb::Renew, &answer, 1)? }),
            2 => Ok(Renew::Occupied),
            3 => Ok(Renew::LimitReached),
            4 | 5 => {
                if self.get::<Option<&[u8]>>(Verb::Renew, &answer, 2)?.is_none() {
                    return Ok(Renew::Gone(None));
                }
                let Seen { columns, now } = seen_from(&answer, 2).map_err(|error| self.absurd(Verb::Renew, error))?;
                Ok(match columns.found(now, Verb::Renew)? {
                    Found::Ended(reason) => Renew::Gone(reason),
                    Found::Live(stored) => Renew::Conflict(stored),
                })
            }
            other => Err(self.absurd(Verb::Renew, format_args!("outcome {other}"))),
        }
    }

    async fn delete(&self, id: &SessionId, reason: EndReason) -> Result<bool, StoreError> {
        let parameters: Vec<Box<dyn ToSql + Sync + Send>> =
            vec![Box::new(id.as_bytes().to_vec()), Box::new(i64::from(reason.byte()))];
        let answer = self.call_one(Verb::Delete, Statement::Delete, parameters).await?;
        self.get(Verb::Delete, &answer, 0)
    }

    async fn list(&self, principal: &Principal, page: Page) -> Result<Listing, StoreError> {
        let wanted = page.bounded_limit() + 1;
        let mut after = page.after;
        let mut sessions = Vec::new();
        // More than once only where rows do not decode.
        loop {
            let limit = wanted - sessions.len();
            let created = after.map_or(-1, |after| i64::try_from(after.created).unwrap_or(i64::MAX));
            let handle = after.map_or([0; Handle::LEN], |after| *after.handle.as_bytes());
            let parameters: Vec<Box<dyn ToSql + Sync + Send>> = vec![
                Box::new(principal.as_str().to_owned()),
                Box::new(created),
                Box::new(handle.to_vec()),
                Box::new(i64::try_from(limit).unwrap_or(i64::MAX)),
            ];
            let rows = self.call(Verb::List, Statement::List, parameters).await?;
            for row in &rows {
                let Seen { columns, now } = self.seen(Verb::List, row)?;
                after = columns.handle.map(|handle| PageCursor { created: 0, handle });
                if let Some(after) = &mut after {
                    after.created = u64::try_from(self.get::<i64>(Verb::List, row, 8)?).unwrap_or(0);
                }
                if let Found::Live(stored) = columns.found(now, Verb::List)? {
                    sessions.push(Summary::from(&stored.record));
                }
            }
            if rows.len() < limit || sessions.len() >= wanted || after.is_none() {
                return Ok(Listing::from_summaries(sessions, page));
            }
        }
    }

    async fn revoke(&self, principal: &Principal, handle: Handle) -> Result<bool, StoreError> {
        let parameters: Vec<Box<dyn ToSql + Sync + Send>> = vec![
            Box::new(principal.as_str().to_owned()),
            Box::new(handle.as_bytes().to_vec()),
            Box::new(None::<Vec<u8>>),
        ];
        let answer = self.call_one(Verb::Revoke, Statement::Revoke, parameters).await?;
        Ok(self.get::<i64>(Verb::Revoke, &answer, 0)? > 0)
    }

    async fn revoke_all(&self, principal: &Principal, except: Option<Handle>) -> Result<u64, StoreError> {
        let parameters: Vec<Box<dyn ToSql + Sync + Send>> = vec![
            Box::new(principal.as_str().to_owned()),
            Box::new(None::<Vec<u8>>),
            Box::new(except.map(|handle| handle.as_bytes().to_vec())),
        ];
        let answer = self.call_one(Verb::RevokeAll, Statement::Revoke, parameters).await?;
        Ok(u64::try_from(self.get::<i64>(Verb::RevokeAll, &answer, 0)?).unwrap_or(0))
    }

    async fn sweep(&self, limit: u32) -> Result<Swept, StoreError> {
        let kept = i64::try_from(self.0.tombstones.as_millis()).unwrap_or(i64::MAX / 2);
        let limit = limit.min(SWEPT_AT_ONCE);
        let from = self.0.swept_to.get();
        let parameters: Vec<Box<dyn ToSql + Sync + Send>> =
            vec![Box::new(kept), Box::new(i64::from(limit)), Box::new(from.ended), Box::new(from.due)];
        let answer = self.call_one(Verb::Sweep, Statement::Sweep, parameters).await?;
        let number = |place| self.get::<i64>(Verb::Sweep, &answer, place).map(|n| u64::try_from(n).unwrap_or(0));
        let reached = |place| self.get::<Option<i64>>(Verb::Sweep, &answer, place);
        let (removed, looked_at) = (number(0)?, number(1)?);
        let met_its_limit = looked_at >= u64::from(limit);
        self.0.swept_to.set(if met_its_limit {
            Place { ended: reached(2)?.unwrap_or(from.ended), due: reached(3)?.unwrap_or(from.due) }
        } else {
            Place::START
        });
        // What others had locked, or what was not yet there, may be before the place.
        Ok(Swept { removed, more: met_its_limit || from != Place::START })
    }

    async fn scan(&self, after: Option<SessionId>, limit: u32) -> Result<Vec<(SessionId, Stored)>, StoreError> {
        let wanted = limit as usize;
        let mut after = after;
        let mut scanned = Vec::new();
        while scanned.len() < wanted {
            let limit = (wanted - scanned.len()).min(SCANNED_AT_ONCE);
            let parameters: Vec<Box<dyn ToSql + Sync + Send>> = vec![
                Box::new(after.map_or_else(Vec::new, |after| after.as_bytes().to_vec())),
                Box::new(i64::try_from(limit).unwrap_or(i64::MAX)),
            ];
            let rows = self.call(Verb::Scan, Statement::Scan, parameters).await?;
            for row in &rows {
                let Seen { columns, now } = self.seen(Verb::Scan, row)?;
                after = row::id(row).map_err(|error| self.absurd(Verb::Scan, error))?;
                if let (Some(id), Found::Live(stored)) = (after, columns.found(now, Verb::Scan)?) {
                    scanned.push((id, stored));
                }
            }
            if rows.len() < limit || after.is_none() {
                break;
            }
        }
        Ok(scanned)
    }

    async fn explain(&self, handle: Handle) -> Result<Option<Ended>, StoreError> {
        let parameters: Vec<Box<dyn ToSql + Sync + Send>> = vec![Box::new(handle.as_bytes().to_vec())];
        let rows = self.call(Verb::Explain, Statement::Explain, parameters).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let number = |place| self.get::<Option<i64>>(Verb::Explain, row, place);
        let (ended_reason, ended, deadline, now) = (number(0)?, number(1)?, number(2)?.unwrap_or(0), number(3)?);
        Ok(match (ended_reason, ended) {
            (Some(ended_reason), Some(at)) => reason(ended_reason).map(|reason| Ended { reason, at: time(at) }),
            (None, _) | (_, None) if deadline > now.unwrap_or(0) => None,
            (None, _) | (_, None) => Some(Ended { reason: EndReason::Expired, at: time(deadline) }),
        })
    }

    async fn probe(&self) -> Result<Probe, StoreError> {
        let started = Instant::now();
        let row = self.call_one(Verb::Probe, Statement::Probe, Vec::new()).await?;
        let latency = started.elapsed();
        let text = |place| self.get::<String>(Verb::Probe, &row, place);
        let switch = |place| self.get::<bool>(Verb::Probe, &row, place);
        let number = |place| self.get::<i64>(Verb::Probe, &row, place);
        let health = Health {
            fsync: switch(1)?,
            full_page_writes: switch(2)?,
            autovacuum: switch(3)?,
            synchronous_commit: text(4)?,
            standby_names: text(5)?,
            read_only: switch(6)?,
            standbys: number(7)?,
            version: number(8)?,
            table_autovacuum: switch(9)?,
        };
        let server = format!("PostgreSQL {}", text(0)?);
        Ok(Probe { server, latency, durability: health.durability(), warnings: health.warnings() })
    }

    fn signals(&self) -> Option<Signals> {
        // A proxy that pools transactions does not say what is said unasked.
        self.0.connector.prepared.then(|| {
            let (connector, prefix) = (Arc::clone(&self.0.connector), self.0.prefix.clone());
            self.0
                .signaller
                .signals_of(move |signaller| listen::listen(Arc::clone(&connector), prefix.clone(), signaller))
        })
    }
}

/// How the server is set up.
struct Health {
    fsync: bool,
    full_page_writes: bool,
    autovacuum: bool,
    synchronous_commit: String,
    standby_names: String,
    read_only: bool,
    standbys: i64,
    version: i64,
    table_autovacuum: bool,
}

impl Health {
    fn durability(&self) -> Durability {
        let waits_for_standbys = !["off", "local"].contains(&self.synchronous_commit.as_str());
        if !self.fsync || !self.full_page_writes {
            Durability::Process
        } else if self.synchronous_commit == "off" {
            Durability::Crash
        } else if waits_for_standbys && !self.standby_names.trim().is_empty() {
            Durability::Acked { replicas: acknowledging(&self.standby_names) }
        } else if self.standbys > 0 {
            Durability::Async
        } else {
            Durability::Machine
        }
    }

    fn warnings(&self) -> Vec<String> {
        let newest = migrations::POSTGRES.last().map_or(0, |migration| i64::from(migration.version));
        [
            (!self.fsync, "fsync is off: a power cut can damage the whole database; set it to on"),
            (
                !self.full_page_writes,
                "full_page_writes is off: a power cut can damage the whole database; set it to on",
            ),
            (
                self.synchronous_commit == "off",
                "synchronous_commit is off: a crash of the server takes back the last moments, sign-outs and \
                 revocations included; set it to on, for the role or the database of the service at least",
            ),
            (self.read_only, "the server is read-only: nothing can be written; let the URL name the one that writes"),
            (
                !self.autovacuum || !self.table_autovacuum,
                "autovacuum is off: the tables of sessions grow without end; switch it on, at least for them",
            ),
            (self.version < newest, "migrations are missing: apply those of this release"),
            (
                self.durability() == Durability::Async,
                "standbys follow without being waited for: a failover may bring back sessions that were ended in the \
                 last moments; set synchronous_standby_names if that must not be",
            ),
        ]
        .into_iter()
        .filter(|(wrong, _)| *wrong)
        .map(|(_, warning)| warning.to_owned())
        .collect()
    }
}

/// How many standbys a commit waits for: `FIRST 2 (a, b, c)`, `ANY 2 (…)`, `2 (…)`, or names alone for one.
fn acknowledging(standby_names: &str) -> u32 {
    let Some((number, _)) = standby_names.split_once('(') else { return 1 };
    number.split_whitespace().last().and_then(|number| number.parse().ok()).unwrap_or(1)
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("server", &self.0.server).finish_non_exhaustive()
    }
}

impl fmt::Display for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_standbys_that_are_waited_for() {
        for (names, expected) in
            [("a", 1), ("a, b", 1), ("*", 1), ("FIRST 2 (a, b, c)", 2), ("ANY 3 (*)", 3), ("2(a,b)", 2)]
        {
            assert_eq!(acknowledging(names), expected, "{names}");
        }
    }
}
