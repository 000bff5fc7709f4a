//! The tasks that own the connections.
//!
//! What waits to be loaded travels together; anything else goes one by one, each on whichever
//! connection is free. A call is sent and answered by the task alone, so a caller that leaves cannot
//! leave a connection half used.

use std::hash::{BuildHasher as _, RandomState};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cloakroom_core::{Clock, SessionId, StoreError, StoreErrorKind};
use futures_util::FutureExt as _;
use futures_util::future::{Either, select};
use sqlx::mysql::MySqlRow;
use sqlx::query::Query;
use sqlx::{Connection as _, query};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::call::{Answer, Desk, Op};
use super::connector::{Connector, Link};
use super::fault::{self, Fault};
use super::line::Line;
use super::row;
use crate::batch::waves;
use crate::dialect::mysql::{Statements, UPDATES};
use crate::queue::Consumer;
use crate::row::column_millis;

/// A load that waits.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) id: SessionId,
    pub(crate) answer: oneshot::Sender<Result<Option<Arc<MySqlRow>>, Fault>>,
}

/// Any other call that waits.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) op: Op,
    pub(crate) answer: oneshot::Sender<Result<Answer, CallError>>,
}

#[derive(Debug)]
pub(crate) enum CallError {
    Fault(Fault),
    /// The store works, but must not do this.
    Refused(StoreError),
}

/// The most ids that one statement asks for.
const MOST: usize = 32;
/// How often something is tried again that another transaction was in the way of.
const ATTEMPTS: u32 = 6;
/// How long a connection may be idle before the server is asked whether it is still there.
const IDLE: Duration = Duration::from_secs(30);
/// How long it may be idle before that is asked ahead of a write.
const STALE: Duration = Duration::from_secs(1);

pub(crate) struct Worker {
    pub(crate) queues: Queues,
    pub(crate) connector: Arc<Connector>,
    pub(crate) link: Option<Link>,
    /// How many of the tasks have a connection.
    pub(crate) connected: Arc<AtomicUsize>,
    /// How many connections the tasks have lost, and how many they had when this one was last known
    /// to be good: where one is lost, the others may be.
    pub(crate) losses: Arc<AtomicUsize>,
    pub(crate) losses_seen: usize,
    pub(crate) statements: Statements,
    pub(crate) clock: Option<Arc<dyn Clock>>,
    pub(crate) timeout: Duration,
    pub(crate) reconnect: Reconnect,
}

/// What a task takes from the queues at a time.
enum Taken {
    Loads(Vec<Read>),
    Writes(Vec<Call>),
    Calls(Vec<Call>),
    /// They are closed, and empty.
    Nothing,
}

/// The three queues of a store.
pub(crate) struct Queues {
    pub(crate) loads: Consumer<Read>,
    /// Updates and touches.
    pub(crate) writes: Consumer<Call>,
    /// Everything else.
    pub(crate) calls: Consumer<Call>,
}

impl Queues {
    /// Of whichever has something; where several have, by chance, so that none waits for long.
    async fn take(&self) -> Taken {
        let (mut loads_ended, mut writes_ended, mut calls_ended) = (false, false, false);
        loop {
            tokio::select! {
                loads = self.loads.take(MOST), if !loads_ended => match loads.is_empty() {
                    true => loads_ended = true,
                    false => return Taken::Loads(loads),
                },
                writes = self.writes.take(MOST), if !writes_ended => match writes.is_empty() {
                    true => writes_ended = true,
                    false => return Taken::Writes(writes),
                },
                calls = self.calls.take(1), if !calls_ended => match calls.is_empty() {
                    true => calls_ended = true,
                    false => return Taken::Calls(calls),
                },
                else => return Taken::Nothing,
            }
        }
    }
}

impl Worker {
    pub(crate) async fn run(mut self) {
        loop {
            if self.link.is_none() && !self.connect().await {
                break;
            }
            let waiting = Instant::now();
            let Ok(taken) = tokio::time::timeout(IDLE, self.queues.take()).await else {
                self.ping().await;
                continue;
            };
            // Nobody told the driver if the server went away meanwhile, and a write that is sent to find
            // out would be of unknown outcome.
            let losses = self.losses.load(Ordering::Relaxed);
            let doubtful = waiting.elapsed() > STALE || self.losses_seen != losses;
            if doubtful && matches!(taken, Taken::Writes(_) | Taken::Calls(_)) {
                self.ping().await;
                self.losses_seen = losses;
                if self.link.is_none() {
                    self.relink().await;
                }
            }
            match taken {
                Taken::Loads(loads) => self.load(loads).await,
                Taken::Writes(writes) => self.write(writes).await,
                Taken::Calls(calls) => {
                    for call in calls {
                        self.call(call).await;
                    }
                }
                Taken::Nothing => break,
            }
        }
        if let Some(link) = self.unlink()
            && let Err(error) = link.line.connection.close().await
        {
            tracing::debug!(%error, "a connection did not close cleanly");
        }
    }

    /// Updates and touches, together with others of their kind.
    async fn write(&mut self, writes: Vec<Call>) {
        let (updates, touches): (Vec<_>, Vec<_>) =
            writes.into_iter().partition(|call| matches!(call.op, Op::Update { .. }));
        for wave in waves(updates, |call| call.op.id(), |call| call.op.record_len()) {
            let mut wave = wave.into_iter();
            loop {
                let some: Vec<_> = wave.by_ref().take(UPDATES).collect();
                if some.is_empty() {
                    break;
                }
                self.write_together(some).await;
            }
        }
        for wave in waves(touches, |call| call.op.id(), |_| 0) {
            self.write_together(wave).await;
        }
    }

    /// Updates of other sessions each, or touches of such. What does not work out for all of them is
    /// done for each alone, which then has an answer of its own.
    async fn write_together(&mut self, calls: Vec<Call>) {
        if calls.len() > 1
            && let Some(link) = &mut self.link
            && calls.iter().map(|call| call.op.record_len()).sum::<usize>() <= link.longest_record
        {
            let now = self.clock.as_ref().map(|clock| column_millis(clock.now()));
            let mut desk = Desk { line: &mut link.line, statements: &self.statements, now };
            match within(self.timeout, desk.run_together(&calls)).await {
                Ok(done) => {
                    for (call, done) in calls.into_iter().zip(done) {
                        match done {
                            Some(answer) => drop(call.answer.send(Ok(answer))),
                            None => self.call(call).await,
                        }
                    }
                    return;
                }
                Err(fault) if fault.costs_the_connection() => {
                    self.lose(&fault);
                    return calls
                        .into_iter()
                        .for_each(|call| drop(call.answer.send(Err(CallError::Fault(fault.clone())))));
                }
                Err(fault) => tracing::debug!(?fault, "{} writes failed together; trying each alone", calls.len()),
            }
        }
        for call in calls {
            self.call(call).await;
        }
    }

    async fn load(&mut self, mut loads: Vec<Read>) {
        // Nobody waits for these any more.
        loads.retain(|read| !read.answer.is_closed());
        // Nothing changes by asking twice: where the connection turns out to be lost, one more does.
        for last in [false, true] {
            if loads.is_empty() {
                return;
            }
            let Some(link) = &mut self.link else {
                let fault = self.reconnect.fault();
                return loads.into_iter().for_each(|read| drop(read.answer.send(Err(fault.clone()))));
            };
            let asked = async {
                let rows = fetch(&mut link.line, &self.statements, &loads).await?;
                let rows: Vec<_> = rows.into_iter().map(|row| (row::id(&row), Arc::new(row))).collect();
                let is_answered = |read: &Read| rows.iter().any(|(id, _)| *id == Some(read.id));
                if loads.iter().all(is_answered) { Ok(rows) } else { Err(fault::misdelivered()) }
            };
            let rows = within(self.timeout, asked).await;
            match rows {
                Ok(rows) => {
                    for Read { id, answer } in loads {
                        let row = rows.iter().find(|(found, _)| *found == Some(id)).map(|(_, row)| row);
                        drop(answer.send(Ok(row.filter(|row| row::is_there(row, 0)).map(Arc::clone))));
                    }
                    return;
                }
                Err(fault) => {
                    let again = !last && matches!(fault, Fault::Driver(_)) && fault.costs_the_connection();
                    if fault.costs_the_connection() {
                        self.lose(&fault);
                    }
                    if !again {
                        return loads.into_iter().for_each(|read| drop(read.answer.send(Err(fault.clone()))));
                    }
                    self.relink().await;
                }
            }
        }
    }

    async fn call(&mut self, call: Call) {
        let Call { op, answer } = call;
        if op.verb().writes() || !answer.is_closed() {
            let result = self.answer(&op).await;
            // Whoever asked may have left; what was written stays written.
            drop(answer.send(result));
        }
    }

    async fn answer(&mut self, op: &Op) -> Result<Answer, CallError> {
        let started = Instant::now();
        let mut attempt = 1;
        loop {
            let Some(link) = &mut self.link else { return Err(CallError::Fault(self.reconnect.fault())) };
            if op.record_len() > link.longest_record {
                return Err(CallError::Refused(too_long(op, link.longest_record)));
            }
            let now = self.clock.as_ref().map(|clock| column_millis(clock.now()));
            let mut desk = Desk { line: &mut link.line, statements: &self.statements, now };
            let fault = match within(self.timeout, desk.run(op)).await {
                Ok(result) => return result.map_err(CallError::Refused),
                Err(fault) => fault,
            };
            let lost = fault.costs_the_connection();
            if lost {
                self.lose(&fault);
            }
            if fault.is_contention() && attempt < ATTEMPTS && started.elapsed() < self.timeout {
                tokio::time::sleep(jitter(attempt)).await;
            } else if lost && !op.verb().writes() && attempt == 1 && matches!(fault, Fault::Driver(_)) {
                self.relink().await;
            } else {
                return Err(CallError::Fault(fault));
            }
            attempt += 1;
        }
    }

    async fn ping(&mut self) {
        if let Some(link) = &mut self.link
            && let Err(fault) = within(self.timeout, link.line.connection.ping()).await
        {
            self.lose(&fault);
        }
    }

    /// The connection is not to be trusted any more: dropped, its transaction is rolled back.
    fn lose(&mut self, fault: &Fault) {
        if self.unlink().is_some() {
            self.losses.fetch_add(1, Ordering::Relaxed);
            let error = fault.to_store_error(cloakroom_core::Verb::Probe, self.connector.server());
            tracing::warn!(%error, "a connection to the session database is given up");
        }
        self.reconnect = Reconnect::default();
    }

    fn unlink(&mut self) -> Option<Link> {
        let link = self.link.take();
        if link.is_some() {
            self.connected.fetch_sub(1, Ordering::Relaxed);
        }
        link
    }

    /// Tries once to have a connection again.
    async fn relink(&mut self) {
        let made = self.connector.connect().await;
        self.keep(made);
    }

    fn keep(&mut self, made: Result<Link, Fault>) {
        match made {
            Ok(link) => {
                self.reconnect = Reconnect::default();
                self.connected.fetch_add(1, Ordering::Relaxed);
                self.losses_seen = self.losses.load(Ordering::Relaxed);
                self.link = Some(link);
            }
            Err(fault) => {
                let error = fault.to_store_error(cloakroom_core::Verb::Probe, self.connector.server());
                let pause = self.reconnect.failed(&error);
                tracing::warn!(%error, "no connection to the session database; next attempt in {pause:?}");
            }
        }
    }

    /// Tries to have a connection again, at longer and longer intervals. Whoever calls in the
    /// meantime is served by the other tasks, or told at once where none of them has a connection.
    /// Says whether there is anything left to do.
    async fn connect(&mut self) -> bool {
        if let Some(at) = self.reconnect.not_before
            && self.fail_until(tokio::time::sleep_until(at)).await.is_none()
        {
            return false;
        }
        if self.reconnect.failures == 0 {
            self.relink().await;
            return true;
        }
        let connector = Arc::clone(&self.connector);
        let Some(made) = self.fail_until(connector.connect()).await else { return false };
        self.keep(made);
        true
    }

    /// What the future gives, or nothing once the queues are closed and empty.
    async fn fail_until<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        loop {
            if self.connected.load(Ordering::Relaxed) > 0 {
                // Others take what comes, unless they lose their connections as well.
                let moment = pin!(tokio::time::sleep(Duration::from_millis(50)));
                match select(future.as_mut(), moment).await {
                    Either::Left((made, _)) => return Some(made),
                    Either::Right(_) if self.queues.calls.is_closed() => return None,
                    Either::Right(_) => continue,
                }
            }
            let taken = match select(future.as_mut(), pin!(self.queues.take())).await {
                Either::Left((made, _)) => return Some(made),
                Either::Right((taken, _)) => taken,
            };
            let fault = self.reconnect.fault();
            match taken {
                Taken::Loads(loads) => loads.into_iter().for_each(|read| drop(read.answer.send(Err(fault.clone())))),
                Taken::Writes(calls) | Taken::Calls(calls) => {
                    calls.into_iter().for_each(|call| drop(call.answer.send(Err(CallError::Fault(fault.clone())))));
                }
                Taken::Nothing => return None,
            }
        }
    }
}

pub(crate) async fn fetch(line: &mut Line, statements: &Statements, loads: &[Read]) -> sqlx::Result<Vec<MySqlRow>> {
    let (text, places) = match loads.len() {
        1 => (&statements.load, 1),
        2..=4 => (&statements.load_4, 4),
        5..=12 => (&statements.load_12, 12),
        _ => (&statements.load_32, MOST),
    };
    let number = line.number();
    let ids = loads.iter().map(|read| Some(read.id.as_bytes().as_slice())).chain(std::iter::repeat(None));
    let statement = ids.take(places).fold(query(text.clone()).bind(number), Query::bind);
    line.rows(number, statement, places).await
}

/// The result, unless the server takes too long for it.
pub(crate) async fn within<T>(patience: Duration, exchange: impl Future<Output = sqlx::Result<T>>) -> Result<T, Fault> {
    // The driver panics on some packets that no honest server sends. The connection is given up then,
    // so nothing half done is used again.
    let exchange = AssertUnwindSafe(exchange).catch_unwind();
    match tokio::time::timeout(patience, exchange).await {
        Ok(Ok(result)) => result.map_err(Fault::from),
        Ok(Err(_)) => Err(sqlx::Error::Protocol("the server sent what the driver cannot read".to_owned()).into()),
        Err(_) => Err(Fault::Silent(patience)),
    }
}

/// A moment that is not the same for two that were in each other's way.
fn jitter(attempt: u32) -> Duration {
    let random = RandomState::new().hash_one(attempt);
    Duration::from_micros(500 + random % (2_000 << attempt.min(5)))
}

fn too_long(op: &Op, longest: usize) -> StoreError {
    let message = format!(
        "the record has {} bytes, and the server takes {longest}: raise its max_allowed_packet above the limit of records",
        op.record_len()
    );
    StoreError::new(StoreErrorKind::Misconfigured, op.verb(), message).not_done()
}

/// When a connection is tried again, and why there is none.
#[derive(Debug, Default)]
pub(crate) struct Reconnect {
    failures: u32,
    not_before: Option<Instant>,
    cause: Option<Arc<str>>,
}

impl Reconnect {
    const LONGEST_PAUSE: Duration = Duration::from_secs(2);

    /// Counts a failure; says how long to wait after it.
    fn failed(&mut self, error: &StoreError) -> Duration {
        let pause = Duration::from_millis(10 << self.failures.min(9)).min(Self::LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(Instant::now() + pause);
        self.cause = Some(error.to_string().into());
        pause
    }

    fn fault(&self) -> Fault {
        Fault::NotConnected(self.cause.clone().unwrap_or_else(|| "it broke a moment ago".into()))
    }
}
