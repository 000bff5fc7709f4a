//! The tasks that own the connections for reading.

use std::time::{Duration, Instant};

use cloakroom_core::{Handle, PageCursor, Principal, SessionId};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection as _, Row as _};
use tokio::sync::oneshot;

use super::fault::Fault;
use super::open::{Connector, Reconnect};
use super::row::columns;
use crate::dialect::sqlite as sql;
use crate::queue::Consumer;
use crate::row::Columns;

/// Something to read. Every statement is a transaction of its own, so it sees every commit that was
/// acknowledged before it began.
#[derive(Debug)]
pub(crate) enum Read {
    Load(SessionId, oneshot::Sender<Result<Loaded, Fault>>),
    Rows(Rows, oneshot::Sender<Result<Vec<SqliteRow>, Fault>>),
    Probe(oneshot::Sender<Result<Answered, Fault>>),
}

/// The columns of a session, if there is one. Taken out of the row here, where no other thread is.
pub(crate) type Loaded = Option<sqlx::Result<Columns>>;

/// A question with any number of rows for an answer.
#[derive(Debug)]
pub(crate) enum Rows {
    List { principal: Principal, now: i64, after: Option<PageCursor>, limit: i64 },
    Scan { after: Option<SessionId>, now: i64, limit: i64 },
    Explain { handle: Handle },
}

/// What a probe found.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) version: String,
    pub(crate) journal_mode: String,
    pub(crate) latency: Duration,
}

/// The most ids that one statement asks for.
const MOST: usize = 32;

pub(crate) struct Reader {
    pub(crate) consumer: Consumer<Read>,
    pub(crate) connection: Reconnect,
}

impl Reader {
    pub(crate) async fn run(mut self) {
        loop {
            let taken = self.consumer.take(MOST).await;
            if taken.is_empty() {
                break;
            }
            self.answer(taken).await;
        }
        self.connection.close().await;
    }

    async fn answer(&mut self, taken: Vec<Read>) {
        let connection = match self.connection.get(Connector::reader).await {
            Ok(connection) => connection,
            Err(fault) => return taken.into_iter().for_each(|read| read.fail(&fault)),
        };
        let mut loads = Vec::with_capacity(taken.len());
        let mut lost = false;
        for read in taken {
            match read {
                Read::Load(id, answer) => loads.push((id, answer)),
                Read::Rows(rows, answer) => lost |= give(answer, self::rows(connection, rows).await),
                Read::Probe(answer) => lost |= give(answer, probe(connection).await),
            }
        }
        // Nobody waits for these any more.
        loads.retain(|(_, answer)| !answer.is_closed());
        if !loads.is_empty() {
            lost |= load(connection, loads).await;
        }
        if lost {
            self.connection.lose();
        }
    }
}

impl Read {
    fn fail(self, fault: &Fault) {
        let fault = fault.clone();
        // Whoever asked may have left; nobody else needs the answer.
        match self {
            Self::Load(_, answer) => drop(answer.send(Err(fault))),
            Self::Rows(_, answer) => drop(answer.send(Err(fault))),
            Self::Probe(answer) => drop(answer.send(Err(fault))),
        }
    }
}

/// Hands out an answer; says whether the connection is to be replaced.
fn give<T>(answer: oneshot::Sender<Result<T, Fault>>, result: sqlx::Result<T>) -> bool {
    let result = result.map_err(Fault::before_commit);
    let lost = result.as_ref().is_err_and(Fault::costs_the_connection);
    drop(answer.send(result));
    lost
}

type Loads = Vec<(SessionId, oneshot::Sender<Result<Loaded, Fault>>)>;

async fn load(connection: &mut SqliteConnection, loads: Loads) -> bool {
    if loads.len() > 1 {
        return load_together(connection, loads).await;
    }
    let mut lost = false;
    for (id, answer) in loads {
        let row = sqlx::query(sql::LOAD).bind(id.as_bytes().as_slice()).fetch_optional(&mut *connection).await;
        lost |= give(answer, row.map(|row| row.as_ref().map(columns)));
    }
    lost
}

async fn load_together(connection: &mut SqliteConnection, loads: Loads) -> bool {
    let mut query = sqlx::query(if loads.len() <= 8 { sql::LOAD_8 } else { sql::LOAD_32 });
    for (id, _) in &loads {
        query = query.bind(id.as_bytes().as_slice());
    }
    match query.fetch_all(&mut *connection).await {
        Ok(rows) => {
            let rows: Vec<_> = rows.into_iter().map(|row| (super::row::id(&row), row)).collect();
            for (id, answer) in loads {
                let row = rows.iter().find(|(found, _)| *found == Some(id)).map(|(_, row)| columns(row));
                drop(answer.send(Ok(row)));
            }
            false
        }
        Err(error) => {
            let fault = Fault::before_commit(error);
            let lost = fault.costs_the_connection();
            for (_, answer) in loads {
                drop(answer.send(Err(fault.clone())));
            }
            lost
        }
    }
}

async fn rows(connection: &mut SqliteConnection, rows: Rows) -> sqlx::Result<Vec<SqliteRow>> {
    let query = match &rows {
        Rows::List { principal, now, after, limit } => {
            let created = after.map_or(-1, |after| i64::try_from(after.created).unwrap_or(i64::MAX));
            let handle = after.map_or([0; Handle::LEN], |after| *after.handle.as_bytes());
            let query = sqlx::query(sql::LIST).bind(principal.as_str().to_owned()).bind(now);
            query.bind(created).bind(handle.to_vec()).bind(limit)
        }
        Rows::Scan { after, now, limit } => {
            let after = after.map_or_else(Vec::new, |after| after.as_bytes().to_vec());
            sqlx::query(sql::SCAN).bind(after).bind(now).bind(limit)
        }
        Rows::Explain { handle } => sqlx::query(sql::EXPLAIN).bind(handle.as_bytes().as_slice()),
    };
    query.fetch_all(connection).await
}

async fn probe(connection: &mut SqliteConnection) -> sqlx::Result<Answered> {
    let started = Instant::now();
    let version = sqlx::query(sql::VERSION).fetch_one(&mut *connection).await?.try_get(0)?;
    let latency = started.elapsed();
    connection.ping().await?;
    let journal_mode = sqlx::query(sql::JOURNAL_MODE).fetch_one(connection).await?.try_get(0)?;
    Ok(Answered { version, journal_mode, latency })
}
