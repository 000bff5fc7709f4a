//! The task that owns the connection for writing.
//!
//! What waits together commits together. A single statement is its own transaction; where an answer
//! takes several, or where several calls wait, they run between `BEGIN IMMEDIATE` and `COMMIT`, and
//! nobody is answered before the commit. Other processes do the same on the same file, so whatever
//! is read inside a transaction stays true until its end.

use std::mem::discriminant;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloakroom_core::{
    Clock, Create, EndReason, Excess, Handle, Principal, Renew, Revision, SessionId, SessionLimit, StoreError,
    StoreErrorKind, Swept, Touch, Update, Verb,
};
use futures_util::TryStreamExt;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection};
use sqlx::{Executor as _, Row as _};
use tokio::sync::oneshot;

use super::fault::Fault;
use super::open::{Connector, Reconnect};
use super::row::{found, handle, id};
use crate::dialect::sqlite as sql;
use crate::queue::Consumer;
use crate::row::{Found, Row, column_millis, names};

/// A call that writes, as it waits in the queue.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) op: Op,
    pub(crate) answer: oneshot::Sender<Result<Answer, WriteError>>,
}

/// What there is to write.
#[derive(Debug)]
pub(crate) enum Op {
    Create { row: Row, limit: Option<SessionLimit> },
    Update { expected: Revision, row: Row },
    Touch { id: SessionId, last_seen: i64, idle_deadline: i64 },
    Renew { old: SessionId, expected: Revision, row: Row, limit: Option<SessionLimit> },
    Delete { id: SessionId, reason: EndReason },
    Revoke { principal: Principal, handle: Handle },
    RevokeAll { principal: Principal, except: Option<Handle> },
    Sweep { limit: u32 },
    Probe,
}

/// What came of it: the value of the verb of the same name.
#[derive(Debug)]
pub(crate) enum Answer {
    Create(Create),
    Update(Update),
    Touch(Touch),
    Renew(Renew),
    Delete(bool),
    Revoke(bool),
    RevokeAll(u64),
    Sweep(Swept),
    /// The connection's `synchronous`.
    Probe(i64),
}

#[derive(Debug)]
pub(crate) enum WriteError {
    Fault(Fault),
    /// The store works, but must not do this.
    Refused(StoreError),
}

/// The most calls that share a commit.
const MOST: usize = 64;
/// How many statements of a kind are sent at once.
const TOGETHER: usize = 8;

pub(crate) struct Writer {
    pub(crate) consumer: Consumer<Write>,
    pub(crate) connection: Reconnect,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tombstones: Duration,
    pub(crate) busy_timeout: Duration,
}

impl Writer {
    pub(crate) async fn run(mut self) {
        loop {
            let batch = self.consumer.take(MOST).await;
            if batch.is_empty() {
                break;
            }
            self.write(batch).await;
        }
        if let Ok(connection) = self.connection.get(Connector::writer).await
            && let Err(error) = sqlx::query(sql::CHECKPOINT).execute(connection).await
        {
            // Nothing is lost: the log stays and is read at the next start.
            tracing::warn!(%error, "the log of the session database could not be folded into its file");
        }
        self.connection.close().await;
    }

    async fn write(&mut self, batch: Vec<Write>) {
        let (ops, answers): (Vec<_>, Vec<_>) = batch.into_iter().map(|write| (write.op, write.answer)).unzip();
        let results = match self.attempt(&ops).await {
            Ok(results) => results,
            // One of them cannot be done: which, shows when each is on its own.
            Err(Failed { fault, retry_alone: true, .. }) if ops.len() > 1 => {
                tracing::debug!(error = %fault.error, "a batch of {} writes failed; trying each alone", ops.len());
                let mut results = Vec::with_capacity(ops.len());
                for op in &ops {
                    results.push(match self.attempt(std::slice::from_ref(op)).await {
                        Ok(mut one) => one.pop().unwrap_or_else(|| Err(WriteError::Fault(fault.clone()))),
                        Err(failed) => Err(WriteError::Fault(failed.fault)),
                    });
                }
                results
            }
            Err(Failed { fault, .. }) => ops.iter().map(|_| Err(WriteError::Fault(fault.clone()))).collect(),
        };
        for (answer, result) in answers.into_iter().zip(results) {
            // Whoever asked may have left; what was written stays written.
            drop(answer.send(result));
        }
    }

    /// Does all of these, or none.
    async fn attempt(&mut self, ops: &[Op]) -> Result<Vec<OpResult>, Failed> {
        let connection = match self.connection.get(Connector::impatient_writer).await {
            Ok(connection) => connection,
            Err(fault) => return Err(Failed::all(fault)),
        };
        let mut desk =
            Desk { connection, clock: &*self.clock, tombstones: self.tombstones, busy_timeout: self.busy_timeout };
        let alone = match ops {
            [op] if op.is_one_statement() => Some(desk.alone(op).await),
            _ => None,
        };
        let result = match alone {
            // Another process has the lock: wait for it, and only then look at the clock.
            Some(Err(failed)) if failed.fault.is_busy() => desk.in_transaction(ops).await,
            Some(result) => result,
            None => desk.in_transaction(ops).await,
        };
        if result.as_ref().is_err_and(|failed| failed.broken || failed.fault.costs_the_connection()) {
            self.connection.lose();
        }
        result
    }
}

type OpResult = Result<Answer, WriteError>;

/// Why none of a batch was done.
struct Failed {
    fault: Fault,
    retry_alone: bool,
    /// A transaction may still be open.
    broken: bool,
}

impl Failed {
    const fn all(fault: Fault) -> Self {
        Self { fault, retry_alone: false, broken: false }
    }
}

impl Op {
    pub(crate) const fn verb(&self) -> Verb {
        match self {
            Self::Create { .. } => Verb::Create,
            Self::Update { .. } => Verb::Update,
            Self::Touch { .. } => Verb::Touch,
            Self::Renew { .. } => Verb::Renew,
            Self::Delete { .. } => Verb::Delete,
            Self::Revoke { .. } => Verb::Revoke,
            Self::RevokeAll { .. } => Verb::RevokeAll,
            Self::Sweep { .. } => Verb::Sweep,
            Self::Probe => Verb::Probe,
        }
    }

    /// Whether each of its statements is right by itself, whatever other processes do between them.
    fn is_one_statement(&self) -> bool {
        match self {
            Self::Create { row, limit } => limit.is_none() || row.record.principal().is_none(),
            Self::Update { .. } | Self::Touch { .. } | Self::Delete { .. } | Self::Revoke { .. } => true,
            Self::RevokeAll { .. } | Self::Sweep { .. } => true,
            // Taking the write lock is what it is about.
            Self::Renew { .. } | Self::Probe => false,
        }
    }

    /// The statement that does this and those after it in one message, if there are enough of a kind.
    fn together<'a>(&self, ops: &'a [Self]) -> Option<(&'static str, &'a [Self])> {
        let together = ops.get(..TOGETHER)?;
        let text = match self {
            Self::Update { .. } => sql::UPDATE_8,
            Self::Touch { .. } => sql::TOUCH_8,
            Self::Create { .. } | Self::Renew { .. } | Self::Delete { .. } | Self::Revoke { .. } => return None,
            Self::RevokeAll { .. } | Self::Sweep { .. } | Self::Probe => return None,
        };
        together.iter().all(|op| discriminant(op) == discriminant(self)).then_some((text, together))
    }

    /// The answer when its one statement found its row.
    fn done(&self) -> Option<Answer> {
        match self {
            Self::Update { expected, .. } => Some(Answer::Update(Update::Saved(expected.next()))),
            Self::Touch { .. } => Some(Answer::Touch(Touch::Touched)),
            Self::Create { .. } | Self::Renew { .. } | Self::Delete { .. } | Self::Revoke { .. } => None,
            Self::RevokeAll { .. } | Self::Sweep { .. } | Self::Probe => None,
        }
    }
}

/// The connection during one batch.
struct Desk<'a> {
    connection: &'a mut SqliteConnection,
    clock: &'a dyn Clock,
    tombstones: Duration,
    busy_timeout: Duration,
}

impl Desk<'_> {
    async fn alone(&mut self, op: &Op) -> Result<Vec<OpResult>, Failed> {
        let now = self.now();
        match self.run(op, now).await {
            Ok(result) => Ok(vec![result]),
            Err(error) => Err(Failed::all(Fault::in_commit(error))),
        }
    }

    /// Waits for the write lock as long as the busy timeout, as SQLite would, at its intervals.
    async fn begin(&mut self) -> Result<(), Fault> {
        let started = Instant::now();
        let mut pauses = [1, 2, 5, 10, 15, 20].into_iter();
        loop {
            match sqlx::query(sql::BEGIN).execute(&mut *self.connection).await {
                Ok(_) => return Ok(()),
                Err(error) => {
                    let fault = Fault::before_commit(error);
                    let left = self.busy_timeout.saturating_sub(started.elapsed());
                    if left.is_zero() || !fault.is_busy() {
                        return Err(fault);
                    }
                    let pause = Duration::from_millis(pauses.next().unwrap_or(25));
                    tokio::time::sleep(left.min(pause)).await;
                }
            }
        }
    }

    async fn in_transaction(&mut self, ops: &[Op]) -> Result<Vec<OpResult>, Failed> {
        self.begin().await.map_err(Failed::all)?;
        // Only now: the lock may have taken its time.
        let now = self.now();
        let results = match self.run_all(ops, now).await {
            Ok(results) => results,
            Err(error) => {
                let broken = !self.roll_back().await;
                return Err(Failed { fault: Fault::before_commit(error), retry_alone: true, broken });
            }
        };
        match sqlx::query(sql::COMMIT).execute(&mut *self.connection).await {
            Ok(_) => Ok(results),
            Err(error) => {
                let broken = !self.roll_back().await;
                Err(Failed { fault: Fault::in_commit(error), retry_alone: false, broken })
            }
        }
    }

    /// Whether it worked. It does not where SQLite rolled back by itself.
    async fn roll_back(&mut self) -> bool {
        sqlx::query(sql::ROLLBACK).execute(&mut *self.connection).await.is_ok()
    }

    fn now(&self) -> i64 {
        column_millis(self.clock.now())
    }

    async fn run_all(&mut self, ops: &[Op], now: i64) -> sqlx::Result<Vec<OpResult>> {
        let mut results = Vec::with_capacity(ops.len());
        let mut rest = ops;
        while let Some((first, others)) = rest.split_first() {
            if let Some((text, together)) = first.together(rest) {
                for (op, found) in together.iter().zip(self.run_together(text, together, now).await?) {
                    results.push(match op.done().filter(|_| found) {
                        Some(answer) => Ok(answer),
                        None => self.run(op, now).await?,
                    });
                }
                rest = &rest[together.len()..];
            } else {
                results.push(self.run(first, now).await?);
                rest = others;
            }
        }
        Ok(results)
    }

    /// Several in one message. Says of each whether it found its row.
    async fn run_together(&mut self, text: &'static str, ops: &[Op], now: i64) -> sqlx::Result<Vec<bool>> {
        let query = ops.iter().fold(sqlx::query(text), |query, op| match op {
            Op::Update { expected, row } => bind_update(query, *expected, row, now),
            Op::Touch { id, last_seen, idle_deadline } => bind_touch(query, id, *last_seen, *idle_deadline, now),
            Op::Create { .. }
            | Op::Renew { .. }
            | Op::Delete { .. }
            | Op::Revoke { .. }
            | Op::RevokeAll { .. }
            | Op::Sweep { .. }
            | Op::Probe => query,
        });
        (&mut *self.connection).execute_many(query).map_ok(|done| done.rows_affected() > 0).try_collect().await
    }

    async fn run(&mut self, op: &Op, now: i64) -> sqlx::Result<OpResult> {
        Ok(match op {
            Op::Create { row, limit } => self.create(row, *limit, now).await?.map(Answer::Create),
            Op::Update { expected, row } => self.update(*expected, row, now).await?.map(Answer::Update),
            Op::Touch { id, last_seen, idle_deadline } => {
                self.touch(id, *last_seen, *idle_deadline, now).await?.map(Answer::Touch)
            }
            Op::Renew { old, expected, row, limit } => {
                self.renew(old, *expected, row, *limit, now).await?.map(Answer::Renew)
            }
            Op::Delete { id, reason } => self.delete(id, *reason, now).await?.map(Answer::Delete),
            Op::Revoke { principal, handle } => {
                let query = bind_end(sql::END_OF_OWNER, EndReason::Revoked, now).bind(principal.as_str().to_owned());
                Ok(Answer::Revoke(self.end(query.bind(handle.as_bytes().as_slice())).await? > 0))
            }
            Op::RevokeAll { principal, except } => {
                let query =
                    bind_end(sql::END_ALL_OF_OWNER, EndReason::Revoked, now).bind(principal.as_str().to_owned());
                let except = except.map(|handle| handle.as_bytes().to_vec());
                Ok(Answer::RevokeAll(self.end(query.bind(except)).await?))
            }
            Op::Sweep { limit } => Ok(Answer::Sweep(self.sweep(*limit, now).await?)),
            Op::Probe => {
                let synchronous = sqlx::query(sql::SYNCHRONOUS).fetch_one(&mut *self.connection).await?.try_get(0)?;
                Ok(Answer::Probe(synchronous))
            }
        })
    }

    async fn create(&mut self, row: &Row, limit: Option<SessionLimit>, now: i64) -> Verbed<Create> {
        let mut evicted = Vec::new();
        if let (Some(principal), Some(limit)) = (row.record.principal(), limit) {
            if self.is_taken(&row.id).await? {
                return Ok(Ok(Create::Occupied));
            }
            match self.make_room(principal, limit, &row.id, now).await? {
                Some(handles) => evicted = handles,
                None => return Ok(Ok(Create::LimitReached)),
            }
        }
        let filed = self.insert(row, Revision::FIRST).await?;
        Ok(Ok(if filed { Create::Created { evicted } } else { Create::Occupied }))
    }

    async fn update(&mut self, expected: Revision, row: &Row, now: i64) -> Verbed<Update> {
        for _ in 0..RACES {
            let query = bind_update(sqlx::query(sql::UPDATE), expected, row, now);
            if query.execute(&mut *self.connection).await?.rows_affected() > 0 {
                return Ok(Ok(Update::Saved(expected.next())));
            }
            match self.look(&row.id, Verb::Update).await? {
                Err(error) => return Ok(Err(error)),
                Ok(Found::Ended(reason)) => return Ok(Ok(Update::Gone(reason))),
                Ok(Found::Live(stored)) if stored.revision != expected => return Ok(Ok(Update::Conflict(stored))),
                Ok(Found::Live(stored)) if names(&stored.record) != names(&row.record) => {
                    let message =
                        "an update must not change the owner, the handle or the time of creation; renew instead";
                    let error = StoreError::new(StoreErrorKind::Corrupt, Verb::Update, message).not_done();
                    return Ok(Err(WriteError::Refused(error)));
                }
                // Between the two statements another process made it so.
                Ok(Found::Live(_)) => {}
            }
        }
        Ok(Err(contended(Verb::Update)))
    }

    async fn touch(&mut self, id: &SessionId, last_seen: i64, idle_deadline: i64, now: i64) -> Verbed<Touch> {
        let query = bind_touch(sqlx::query(sql::TOUCH), id, last_seen, idle_deadline, now);
        if query.execute(&mut *self.connection).await?.rows_affected() > 0 {
            return Ok(Ok(Touch::Touched));
        }
        Ok(match self.look(id, Verb::Touch).await? {
            Ok(Found::Ended(reason)) => Ok(Touch::Gone(reason)),
            // Was gone a moment ago by the clock of the touch, and that counts.
            Ok(Found::Live(_)) => Ok(Touch::Gone(None)),
            Err(error) => Err(error),
        })
    }

    async fn renew(
        &mut self,
        old: &SessionId,
        expected: Revision,
        row: &Row,
        limit: Option<SessionLimit>,
        now: i64,
    ) -> Verbed<Renew> {
        match self.look(old, Verb::Renew).await? {
            Err(error) => return Ok(Err(error)),
            Ok(Found::Ended(reason)) => return Ok(Ok(Renew::Gone(reason))),
            Ok(Found::Live(stored)) if stored.revision != expected => return Ok(Ok(Renew::Conflict(stored))),
            Ok(Found::Live(_)) => {}
        }
        if self.is_taken(&row.id).await? {
            return Ok(Ok(Renew::Occupied));
        }
        let mut evicted = Vec::new();
        if let (Some(principal), Some(limit)) = (row.record.principal(), limit) {
            match self.make_room(principal, limit, old, now).await? {
                Some(handles) => evicted = handles,
                None => return Ok(Ok(Renew::LimitReached)),
            }
        }
        let ended = sqlx::query(sql::END_RENEWED).bind(now).bind(row.id.as_bytes().as_slice());
        ended.bind(old.as_bytes().as_slice()).execute(&mut *self.connection).await?;
        let revision = expected.next();
        self.insert(row, revision).await?;
        Ok(Ok(Renew::Renewed { revision, evicted }))
    }

    async fn delete(&mut self, id: &SessionId, reason: EndReason, now: i64) -> Verbed<bool> {
        let mut id = *id;
        for _ in 0..LONGEST_TRAIL {
            let query = bind_end(sql::END, reason, now).bind(id.as_bytes().as_slice());
            let ended = query.fetch_all(&mut *self.connection).await?;
            if let Some(row) = ended.first() {
                return Ok(Ok(row.try_get(0)?));
            }
            let row = sqlx::query(sql::SUCCESSOR).bind(id.as_bytes().as_slice()).fetch_optional(&mut *self.connection);
            let Some(row) = row.await? else { return Ok(Ok(false)) };
            match row.try_get::<Option<&[u8]>, _>(0)?.map(<[u8; SessionId::LEN]>::try_from) {
                Some(Ok(successor)) => id = SessionId::from_bytes(successor),
                Some(Err(_)) | None => return Ok(Ok(false)),
            }
        }
        let message = "the tombstones lead in a circle: the database is damaged";
        Ok(Err(WriteError::Refused(StoreError::new(StoreErrorKind::Corrupt, Verb::Delete, message))))
    }

    async fn sweep(&mut self, limit: u32, now: i64) -> sqlx::Result<Swept> {
        let kept_since = now.saturating_sub(i64::try_from(self.tombstones.as_millis()).unwrap_or(i64::MAX));
        let query = sqlx::query(sql::SWEEP_ENDED).bind(kept_since).bind(i64::from(limit));
        let outdated = query.execute(&mut *self.connection).await?.rows_affected();
        let (mut removed, mut looked_at) = (outdated, outdated);
        let room = i64::from(limit).saturating_sub_unsigned(outdated);
        if room > 0 {
            let query = sqlx::query(sql::SWEEP_DUE).bind(now).bind(now).bind(now).bind(now).bind(now).bind(room);
            for row in query.fetch_all(&mut *self.connection).await? {
                looked_at += 1;
                removed += u64::from(row.try_get::<bool, _>(0)?);
            }
        }
        Ok(Swept { removed, more: looked_at >= u64::from(limit) })
    }

    /// Whether the principal may have one more session beside all but one; ends the oldest where the
    /// limit says so.
    async fn make_room(
        &mut self,
        principal: &Principal,
        limit: SessionLimit,
        beside: &SessionId,
        now: i64,
    ) -> sqlx::Result<Option<Vec<Handle>>> {
        let query = sqlx::query(sql::OTHERS_OF_OWNER).bind(principal.as_str().to_owned()).bind(now);
        let live = query.bind(beside.as_bytes().as_slice()).fetch_all(&mut *self.connection).await?;
        let too_many = (live.len() + 1).saturating_sub(limit.max.get() as usize);
        if too_many > 0 && limit.excess == Excess::Reject {
            return Ok(None);
        }
        let mut evicted = Vec::with_capacity(too_many);
        for row in live.iter().take(too_many) {
            if let Some(id) = id(row) {
                self.end(bind_end(sql::END, EndReason::Evicted, now).bind(id.as_bytes().as_slice())).await?;
            }
            evicted.extend(handle(row));
        }
        Ok(Some(evicted))
    }

    async fn insert(&mut self, row: &Row, revision: Revision) -> sqlx::Result<bool> {
        let Row { id, record, encoded } = row;
        let absolute_deadline = column_millis(record.absolute_deadline());
        let idle_deadline = column_millis(record.idle_deadline()).min(absolute_deadline);
        let query = sqlx::query(sql::INSERT)
            .bind(id.as_bytes().as_slice())
            .bind(record.handle().as_bytes().to_vec())
            .bind(i64::try_from(revision.as_u64()).unwrap_or(i64::MAX))
            .bind(record.principal().map(|principal| principal.as_str().to_owned()))
            .bind(column_millis(record.created()))
            .bind(column_millis(record.last_seen()))
            .bind(idle_deadline)
            .bind(absolute_deadline)
            .bind(idle_deadline)
            .bind(encoded.as_slice());
        Ok(query.execute(&mut *self.connection).await?.rows_affected() > 0)
    }

    async fn is_taken(&mut self, id: &SessionId) -> sqlx::Result<bool> {
        let query = sqlx::query(sql::SUCCESSOR).bind(id.as_bytes().as_slice());
        Ok(query.fetch_optional(&mut *self.connection).await?.is_some())
    }

    async fn look(&mut self, id: &SessionId, verb: Verb) -> sqlx::Result<Result<Found, WriteError>> {
        let row = sqlx::query(sql::LOAD).bind(id.as_bytes().as_slice()).fetch_optional(&mut *self.connection).await?;
        let Some(row) = row else { return Ok(Ok(Found::Ended(None))) };
        Ok(found(&row, self.clock.now(), verb).map_err(WriteError::Refused))
    }

    /// Runs one that ends sessions; says how many of them were live. Reads to the end: only there a
    /// commit that failed shows.
    async fn end(&mut self, query: Query<'_, Sqlite, SqliteArguments>) -> sqlx::Result<u64> {
        let mut live = 0;
        for row in query.fetch_all(&mut *self.connection).await? {
            live += u64::from(row.try_get::<bool, _>(0)?);
        }
        Ok(live)
    }
}

/// The database's failure, or a refusal, or the value.
type Verbed<T> = sqlx::Result<Result<T, WriteError>>;

/// How often an update starts over because another process came between its two statements.
const RACES: usize = 8;
/// More renewals than a session can have within the time that tombstones are kept.
const LONGEST_TRAIL: usize = 10_000;

fn contended(verb: Verb) -> WriteError {
    let message = "other processes change this session faster than it can be read";
    WriteError::Refused(StoreError::new(StoreErrorKind::Timeout, verb, message).not_done())
}

type Statement<'q> = Query<'q, Sqlite, SqliteArguments>;

fn bind_update<'q>(query: Statement<'q>, expected: Revision, row: &Row, now: i64) -> Statement<'q> {
    let Row { id, record, encoded } = row;
    let absolute_deadline = column_millis(record.absolute_deadline());
    query
        .bind(column_millis(record.last_seen()))
        .bind(column_millis(record.idle_deadline()))
        .bind(absolute_deadline)
        .bind(absolute_deadline)
        .bind(encoded.clone())
        .bind(id.as_bytes().to_vec())
        .bind(i64::try_from(expected.as_u64()).unwrap_or(i64::MAX))
        .bind(now)
        .bind(record.handle().as_bytes().to_vec())
        .bind(column_millis(record.created()))
        .bind(record.principal().map(|principal| principal.as_str().to_owned()))
}

fn bind_touch<'q>(query: Statement<'q>, id: &SessionId, last_seen: i64, idle_deadline: i64, now: i64) -> Statement<'q> {
    query.bind(last_seen).bind(idle_deadline).bind(id.as_bytes().to_vec()).bind(now)
}

fn bind_end(text: &'static str, reason: EndReason, now: i64) -> Statement<'static> {
    sqlx::query(text).bind(now).bind(i64::from(reason.byte())).bind(now)
}
