//! Sessions in MySQL or MariaDB.

mod call;
mod connector;
#[cfg(test)]
mod costs;
mod fault;
mod line;
mod open;
mod row;
mod worker;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Instant, SystemTime};

use async_trait::async_trait;
use cloakroom_core::{
    Clock, Create, EndReason, Ended, Handle, Listing, Load, Page, Principal, Probe, Record, Renew, Renewal, Revision,
    SessionId, SessionLimit, SessionStore, Signals, StoreError, StoreErrorKind, Stored, Summary, Swept, SystemClock,
    Touch, Update, Verb,
};
use sqlx::mysql::MySqlRow;
use tokio::sync::{oneshot, watch};

use self::call::{Answer, Op};
use self::connector::{Connector, Link, Server};
use self::row::found;
use self::worker::{Call, CallError, Queues, Read, Reconnect, Worker};
use crate::dialect::mysql::{Statements, TOUCHES};
use crate::migrations::{self, Migration};
use crate::queue::{Queue, Refused};
use crate::row::{Found, Row, column_millis, reason, time};
use crate::touches::{Deadlines, Emptying, TouchBuffer, Touches};

pub use self::open::MySqlOptions;

/// Sessions in MySQL or MariaDB, for any number of processes and machines. Clones share one store.
///
/// A write is answered when it is committed; what it then survives is the server's setting, which
/// [`probe`](SessionStore::probe) reports. A load that starts after a write was answered sees it, in
/// every process. Each call is done whole or not at all, also when its future is dropped: what was
/// queued before still happens. Time is the server's.
///
/// Bounded: when 4096 calls wait ([`with_queue`](MySqlOptions::with_queue)) the next fails at once,
/// as does any call while there is no connection. For MariaDB from 10.6 and MySQL from 8.0.13, not
/// behind a proxy that shares connections between sessions.
///
/// ```no_run
/// use cloakroom_core::SessionStore;
/// use cloakroom_sql::MySqlOptions;
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MySqlOptions::new("mysql://app:secret@db.example.com/app?ca=/etc/ssl/db.pem")?.open().await?;
/// println!("{}", store.probe().await?.server);
/// store.close().await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct MySqlStore(Arc<Inner>);

struct Inner {
    /// What it is called in messages.
    server: String,
    clock: Option<Arc<dyn Clock>>,
    tombstones: i64,
    loads: Arc<Queue<Read>>,
    /// Updates and touches.
    writes: Arc<Queue<Call>>,
    /// Everything else.
    calls: Arc<Queue<Call>>,
    /// Those that were answered before they are written.
    touches: Option<Arc<TouchBuffer>>,
    /// Closes when the last task has closed its connection.
    ended: watch::Receiver<()>,
}

impl Drop for Inner {
    /// The tasks do what waits and end.
    fn drop(&mut self) {
        self.loads.close();
        self.writes.close();
        match &self.touches {
            // Whoever writes these closes the queue behind them.
            Some(touches) => touches.abandon(),
            None => self.calls.close(),
        }
    }
}

/// The most rows that one transaction of a sweep removes, so that nobody waits long behind it.
const SWEPT_AT_ONCE: u32 = 500;
/// The most rows that one statement of a scan brings.
const SCANNED_AT_ONCE: usize = 1000;

impl MySqlStore {
    /// The steps that make and upgrade the tables, oldest first, in the database's own client's
    /// syntax (they set its `DELIMITER`). Opening applies what is missing unless
    /// [told otherwise](MySqlOptions::with_migrate).
    ///
    /// The names in them begin with `cloakroom_`; where the store has another
    /// [prefix](MySqlOptions::with_table_prefix), put that in its place.
    ///
    /// ```
    /// for migration in cloakroom_sql::MySqlStore::migrations() {
    ///     println!("-- {}: {}\n{}", migration.version, migration.name, migration.sql);
    /// }
    /// ```
    #[must_use]
    pub const fn migrations() -> &'static [Migration] {
        migrations::MYSQL
    }

    /// The script that gives a role the least rights that the store needs with
    /// [`with_migrate(false)`](MySqlOptions::with_migrate).
    #[must_use]
    pub const fn grants() -> &'static str {
        include_str!("../migrations/mysql/grants.sql")
    }

    /// Takes no more calls, does those that wait, and closes the connections. Returns when that is
    /// done, for every clone.
    pub async fn close(&self) {
        if let Some(touches) = &self.0.touches {
            touches.close().await;
        }
        self.0.loads.close();
        self.0.writes.close();
        self.0.calls.close();
        let mut ended = self.0.ended.clone();
        // Nothing is ever sent: the channel closes with the last task.
        while ended.changed().await.is_ok() {}
    }

    fn start(options: &MySqlOptions, connector: Connector, statements: Statements, links: Vec<Link>) -> Self {
        let (loads, writes, calls) = (Queue::new(options.queue), Queue::new(options.queue), Queue::new(options.queue));
        let (alive, ended) = watch::channel(());
        let server = connector.server().to_owned();
        let connector = Arc::new(connector);
        let connected = Arc::new(AtomicUsize::new(links.len()));
        let losses = Arc::new(AtomicUsize::new(0));
        for link in links {
            let worker = Worker {
                queues: Queues { loads: loads.consumer(), writes: writes.consumer(), calls: calls.consumer() },
                connector: Arc::clone(&connector),
                link: Some(link),
                connected: Arc::clone(&connected),
                losses: Arc::clone(&losses),
                losses_seen: 0,
                statements: statements.clone(),
                clock: options.clock.clone(),
                timeout: options.timeout,
                reconnect: Reconnect::default(),
            };
            let alive = alive.clone();
            tokio::spawn(async move {
                worker.run().await;
                drop(alive);
            });
        }
        let touches = (options.touches == Touches::Background).then(|| {
            let (touches, emptying) = TouchBuffer::new(options.queue);
            tokio::spawn(write_touches(Arc::clone(&touches), emptying, Arc::clone(&calls), server.clone()));
            touches
        });
        let tombstones = i64::try_from(options.tombstones.as_millis()).unwrap_or(i64::MAX);
        Self(Arc::new(Inner { server, clock: options.clock.clone(), tombstones, loads, writes, calls, touches, ended }))
    }

    /// The time to decide by, unless it is the server's.
    fn now(&self) -> Option<i64> {
        self.0.clock.as_ref().map(|clock| column_millis(clock.now()))
    }

    /// Queues a call and waits for its answer.
    async fn call<T>(&self, op: Op, value: impl FnOnce(Answer) -> Option<T>) -> Result<T, StoreError> {
        let verb = op.verb();
        let (answer, answered) = oneshot::channel();
        let queue = if op.is_batched() { &self.0.writes } else { &self.0.calls };
        queue.push(Call { op, answer }).map_err(|refused| self.refusal(verb, refused))?;
        match answered.await {
            Ok(Ok(answer)) => value(answer).ok_or_else(|| self.gone(verb)),
            Ok(Err(CallError::Refused(error))) => Err(error),
            Ok(Err(CallError::Fault(fault))) => Err(fault.to_store_error(verb, &self.0.server)),
            Err(_) => Err(self.gone(verb)),
        }
    }

    async fn rows(&self, op: Op) -> Result<Vec<MySqlRow>, StoreError> {
        self.call(op, |answer| if let Answer::Rows(rows) = answer { Some(rows) } else { None }).await
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

    /// The task that had the call ended with it: its runtime was shut down.
    fn gone(&self, verb: Verb) -> StoreError {
        let message = format!("the task that serves {} has ended: was its runtime shut down?", self.0.server);
        StoreError::new(StoreErrorKind::Unavailable, verb, message)
    }
}

/// Writes what waits, until no more comes; then closes the queue.
async fn write_touches(touches: Arc<TouchBuffer>, emptying: Emptying, calls: Arc<Queue<Call>>, server: String) {
    loop {
        let mut taken = touches.take().await;
        if taken.is_empty() {
            break;
        }
        // As everybody locks several rows.
        taken.sort_unstable_by_key(|(id, _)| *id);
        for some in taken.chunks(TOUCHES) {
            let (answer, answered) = oneshot::channel();
            let pushed = calls.push(Call { op: Op::TouchMany(some.to_vec()), answer });
            if pushed == Err(Refused::Full) {
                some.iter().for_each(|(id, deadlines)| touches.put_back(*id, *deadlines));
                TouchBuffer::wait_for_room().await;
                continue;
            }
            let error = match (pushed, answered.await) {
                (Ok(()), Ok(Ok(_))) => continue,
                (Ok(()), Ok(Err(CallError::Fault(fault)))) => fault.to_store_error(Verb::Touch, &server).to_string(),
                (Ok(()), Ok(Err(CallError::Refused(error)))) => error.to_string(),
                (Ok(()), Err(_)) => "the tasks that write have ended".to_owned(),
                (Err(_), _) => "the store was closed".to_owned(),
            };
            tracing::warn!(error, "{} touches were lost: their sessions end earlier by that much", some.len());
        }
    }
    calls.close();
    drop(emptying);
}

#[async_trait]
impl SessionStore for MySqlStore {
    async fn load(&self, id: &SessionId) -> Result<Load, StoreError> {
        let (answer, answered) = oneshot::channel();
        let read = Read { id: *id, answer };
        self.0.loads.push(read).map_err(|refused| self.refusal(Verb::Load, refused))?;
        match answered.await {
            Ok(Ok(None)) => Ok(Load::Gone(None)),
            Ok(Ok(Some(row))) => {
                let load = found(&row, 0, self.now(), Verb::Load).map(Load::from)?;
                if let (Some(touches), Load::Live(stored)) = (&self.0.touches, &load) {
                    let now = self.now().unwrap_or_else(|| column_millis(SystemClock.now()));
                    touches.saw(*id, &stored.record, now);
                }
                Ok(load)
            }
            Ok(Err(fault)) => Err(fault.to_store_error(Verb::Load, &self.0.server)),
            Err(_) => Err(self.gone(Verb::Load).not_done()),
        }
    }

    async fn create(&self, id: &SessionId, record: &Record, limit: Option<SessionLimit>) -> Result<Create, StoreError> {
        let value = |answer| if let Answer::Create(value) = answer { Some(value) } else { None };
        self.call(Op::Create { row: Row::new(id, record), limit }, value).await
    }

    async fn update(&self, id: &SessionId, expected: Revision, record: &Record) -> Result<Update, StoreError> {
        let value = |answer| if let Answer::Update(value) = answer { Some(value) } else { None };
        self.call(Op::Update { expected, row: Row::new(id, record) }, value).await
    }

    async fn touch(
        &self,
        id: &SessionId,
        last_seen: SystemTime,
        idle_deadline: SystemTime,
    ) -> Result<Touch, StoreError> {
        let value = |answer| if let Answer::Touch(value) = answer { Some(value) } else { None };
        let (last_seen, idle_deadline) = (column_millis(last_seen), column_millis(idle_deadline));
        if let Some(touches) = &self.0.touches
            && touches.offer(*id, Deadlines { last_seen, idle_deadline })
        {
            return Ok(Touch::Touched);
        }
        self.call(Op::Touch { id: *id, last_seen, idle_deadline }, value).await
    }

    async fn renew(&self, renewal: Renewal<'_>) -> Result<Renew, StoreError> {
        let Renewal { old, new, expected, record, limit } = renewal;
        let value = |answer| if let Answer::Renew(value) = answer { Some(value) } else { None };
        self.call(Op::Renew { old: *old, expected, row: Row::new(new, record), limit }, value).await
    }

    async fn delete(&self, id: &SessionId, reason: EndReason) -> Result<bool, StoreError> {
        let value = |answer| if let Answer::Delete(value) = answer { Some(value) } else { None };
        self.call(Op::Delete { id: *id, reason }, value).await
    }

    async fn list(&self, principal: &Principal, page: Page) -> Result<Listing, StoreError> {
        let wanted = page.bounded_limit() + 1;
        let mut after = page.after;
        let mut sessions = Vec::new();
        // More than once only where rows do not decode.
        loop {
            let limit = wanted - sessions.len();
            let principal = principal.clone();
            let rows =
                self.rows(Op::List { principal, after, limit: i64::try_from(limit).unwrap_or(i64::MAX) }).await?;
            for row in &rows {
                if let Found::Live(stored) = found(row, 0, self.now(), Verb::List)? {
                    sessions.push(Summary::from(&stored.record));
                }
            }
            after = rows.last().and_then(row::cursor);
            if rows.len() < limit || sessions.len() >= wanted || after.is_none() {
                return Ok(Listing::from_summaries(sessions, page));
            }
        }
    }

    async fn revoke(&self, principal: &Principal, handle: Handle) -> Result<bool, StoreError> {
        let value = |answer| if let Answer::Revoke(value) = answer { Some(value) } else { None };
        self.call(Op::Revoke { principal: principal.clone(), handle }, value).await
    }

    async fn revoke_all(&self, principal: &Principal, except: Option<Handle>) -> Result<u64, StoreError> {
        let value = |answer| if let Answer::RevokeAll(value) = answer { Some(value) } else { None };
        self.call(Op::RevokeAll { principal: principal.clone(), except }, value).await
    }

    async fn sweep(&self, limit: u32) -> Result<Swept, StoreError> {
        let limit = limit.min(SWEPT_AT_ONCE);
        let value = |answer| if let Answer::Sweep(value) = answer { Some(value) } else { None };
        self.call(Op::Sweep { tombstones: self.0.tombstones, limit }, value).await
    }

    async fn scan(&self, after: Option<SessionId>, limit: u32) -> Result<Vec<(SessionId, Stored)>, StoreError> {
        let wanted = limit as usize;
        let mut after = after;
        let mut scanned = Vec::new();
        while scanned.len() < wanted {
            let limit = (wanted - scanned.len()).min(SCANNED_AT_ONCE);
            let rows = self.rows(Op::Scan { after, limit: i64::try_from(limit).unwrap_or(i64::MAX) }).await?;
            for row in &rows {
                if let (Some(id), Found::Live(stored)) = (row::id(row), found(row, 0, self.now(), Verb::Scan)?) {
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
        let rows = self.rows(Op::Explain { handle }).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let number = |column: usize| row::integer(row, column).map_err(|error| row::unreadable(Verb::Explain, error));
        let (reason, ended) = (number(1)?, number(2)?);
        let Some(deadline) = number(3)? else { return Ok(None) };
        let now = self.now().or(number(4)?).unwrap_or(i64::MAX);
        Ok(match (reason, ended) {
            (Some(reason), Some(at)) => self::reason(reason).map(|reason| Ended { reason, at: time(at) }),
            (None, _) | (_, None) if deadline > now => None,
            (None, _) | (_, None) => Some(Ended { reason: EndReason::Expired, at: time(deadline) }),
        })
    }

    async fn probe(&self) -> Result<Probe, StoreError> {
        let started = Instant::now();
        let rows = self.rows(Op::Probe).await?;
        let latency = started.elapsed();
        let server = Server::from_rows(&rows).map_err(|error| row::unreadable(Verb::Probe, error))?;
        let (durability, mut warnings) = server.durability();
        warnings.extend(server.warnings());
        Ok(Probe { server: server.name(), latency, durability, warnings })
    }

    fn signals(&self) -> Option<Signals> {
        None
    }
}

impl fmt::Debug for MySqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MySqlStore").field("server", &self.0.server).finish_non_exhaustive()
    }
}

impl fmt::Display for MySqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mysql({})", self.0.server)
    }
}
