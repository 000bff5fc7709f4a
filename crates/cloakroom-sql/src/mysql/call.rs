//! What a call sends, and what its answer means. Each is one statement and one round trip, but for
//! an update or a touch that found nothing: those look at the row once more to say why. After an error
//! one more sees that it was the answer.

use cloakroom_core::{
    Create, EndReason, Excess, Handle, PageCursor, Principal, Record, Renew, Revision, SessionId, SessionLimit,
    StoreError, StoreErrorKind, Swept, Touch, Update, Verb,
};
use sqlx::mysql::MySqlRow;
use sqlx::{SqlStr, query};

use super::fault;
use super::line::{Line, Statement};
use super::row::{self, bytes, found, integer, is_there, owner};
use super::worker::Call;
use crate::dialect::mysql::{Statements, TOUCHES, UPDATES, VARIABLES};
use crate::row::{Found, Row, column_millis, column_revision, names};
use crate::touches::Deadlines;

/// Anything but a load, as it waits in the queue.
#[derive(Debug)]
pub(crate) enum Op {
    Create {
        row: Row,
        limit: Option<SessionLimit>,
    },
    Update {
        expected: Revision,
        row: Row,
    },
    Touch {
        id: SessionId,
        last_seen: i64,
        idle_deadline: i64,
    },
    /// Each of another session, in the order of ids, and at most `TOUCHES` of them.
    TouchMany(Vec<(SessionId, Deadlines)>),
    Renew {
        old: SessionId,
        expected: Revision,
        row: Row,
        limit: Option<SessionLimit>,
    },
    Delete {
        id: SessionId,
        reason: EndReason,
    },
    Revoke {
        principal: Principal,
        handle: Handle,
    },
    RevokeAll {
        principal: Principal,
        except: Option<Handle>,
    },
    Sweep {
        tombstones: i64,
        limit: u32,
    },
    List {
        principal: Principal,
        after: Option<PageCursor>,
        limit: i64,
    },
    Scan {
        after: Option<SessionId>,
        limit: i64,
    },
    Explain {
        handle: Handle,
    },
    Probe,
}

/// What came of it: the value of the verb of the same name.
#[derive(Debug)]
pub(crate) enum Answer {
    Create(Create),
    Update(Update),
    Touch(Touch),
    Touches,
    Renew(Renew),
    Delete(bool),
    Revoke(bool),
    RevokeAll(u64),
    Sweep(Swept),
    Rows(Vec<MySqlRow>),
}

/// The driver's failure, or the store's refusal, or the answer.
pub(crate) type Verbed<T> = sqlx::Result<Result<T, StoreError>>;

impl Op {
    pub(crate) const fn verb(&self) -> Verb {
        match self {
            Self::Create { .. } => Verb::Create,
            Self::Update { .. } => Verb::Update,
            Self::Touch { .. } | Self::TouchMany(_) => Verb::Touch,
            Self::Renew { .. } => Verb::Renew,
            Self::Delete { .. } => Verb::Delete,
            Self::Revoke { .. } => Verb::Revoke,
            Self::RevokeAll { .. } => Verb::RevokeAll,
            Self::Sweep { .. } => Verb::Sweep,
            Self::List { .. } => Verb::List,
            Self::Scan { .. } => Verb::Scan,
            Self::Explain { .. } => Verb::Explain,
            Self::Probe => Verb::Probe,
        }
    }

    const fn as_update(&self) -> Option<(Revision, &Row)> {
        if let Self::Update { expected, row } = self { Some((*expected, row)) } else { None }
    }

    const fn as_touch(&self) -> Option<(SessionId, Deadlines)> {
        if let Self::Touch { id, last_seen, idle_deadline } = self {
            Some((*id, Deadlines { last_seen: *last_seen, idle_deadline: *idle_deadline }))
        } else {
            None
        }
    }

    /// Whether it waits with others of its kind for the next statement.
    pub(crate) const fn is_batched(&self) -> bool {
        matches!(self, Self::Update { .. } | Self::Touch { .. })
    }

    /// The session that an update or a touch is of.
    pub(crate) fn id(&self) -> SessionId {
        match self {
            Self::Create { row, .. } | Self::Update { row, .. } | Self::Renew { row, .. } => row.id,
            Self::Touch { id, .. } | Self::Delete { id, .. } => *id,
            Self::TouchMany(touches) => touches.first().map_or(NOBODY, |(id, _)| *id),
            Self::Revoke { .. } | Self::RevokeAll { .. } | Self::Sweep { .. } | Self::List { .. } => NOBODY,
            Self::Scan { .. } | Self::Explain { .. } | Self::Probe => NOBODY,
        }
    }

    /// The bytes of the record that it sends.
    pub(crate) fn record_len(&self) -> usize {
        match self {
            Self::Create { row, .. } | Self::Update { row, .. } | Self::Renew { row, .. } => row.encoded.len(),
            Self::Touch { .. } | Self::TouchMany(_) | Self::Delete { .. } | Self::Revoke { .. } => 0,
            Self::RevokeAll { .. }
            | Self::Sweep { .. }
            | Self::List { .. }
            | Self::Scan { .. }
            | Self::Explain { .. }
            | Self::Probe => 0,
        }
    }
}

const NOBODY: SessionId = SessionId::from_bytes([0; SessionId::LEN]);

/// A connection during one call. `now` is the time to decide by, or nothing for the server's.
pub(crate) struct Desk<'a> {
    pub(crate) line: &'a mut Line,
    pub(crate) statements: &'a Statements,
    pub(crate) now: Option<i64>,
}

impl Desk<'_> {
    pub(crate) async fn run(&mut self, op: &Op) -> Verbed<Answer> {
        let Statements { delete, revoke, revoke_all, sweep, list, scan, explain, .. } = self.statements;
        Ok(match op {
            Op::Create { row, limit } => self.create(row, *limit).await?.map(Answer::Create),
            Op::Update { expected, row } => self.update(*expected, row).await?.map(Answer::Update),
            Op::Touch { id, last_seen, idle_deadline } => {
                self.touch(id, *last_seen, *idle_deadline).await?.map(Answer::Touch)
            }
            Op::TouchMany(touches) => {
                self.touch_many(touches).await?;
                Ok(Answer::Touches)
            }
            Op::Renew { old, expected, row, limit } => {
                self.renew(old, *expected, row, *limit).await?.map(Answer::Renew)
            }
            Op::Delete { id, reason } => {
                let query = self.call(delete).bind(id.as_bytes().as_slice()).bind(reason.byte());
                Ok(Answer::Delete(number(&self.line.call(query).await?, FIRST)? > 0))
            }
            Op::Revoke { principal, handle } => {
                let query = self.call(revoke).bind(principal.as_str().as_bytes()).bind(handle.as_bytes().as_slice());
                Ok(Answer::Revoke(number(&self.line.call(query).await?, FIRST)? > 0))
            }
            Op::RevokeAll { principal, except } => {
                let except = except.as_ref().map(|handle| handle.as_bytes().as_slice());
                let query = self.call(revoke_all).bind(principal.as_str().as_bytes()).bind(except);
                Ok(Answer::RevokeAll(number(&self.line.call(query).await?, FIRST)?))
            }
            Op::Sweep { tombstones, limit } => {
                let query = self.call(sweep).bind(*tombstones).bind(*limit);
                let row = self.line.call(query).await?;
                let (removed, looked_at): (u64, u64) = (number(&row, FIRST)?, number(&row, FIRST + 1)?);
                Ok(Answer::Sweep(Swept { removed, more: looked_at >= u64::from(*limit) }))
            }
            Op::List { principal, after, limit } => {
                let number = self.line.number();
                let query = bind_page(query(list.clone()), principal, *after, self.now, *limit).bind(number);
                let query = bind_page(query, principal, *after, self.now, *limit);
                let rows = self.line.counted(number, query).await?;
                if rows.iter().any(|row| owner(row).is_some_and(|owner| owner != *principal)) {
                    return Err(fault::misdelivered());
                }
                Ok(Answer::Rows(rows))
            }
            Op::Scan { after, limit } => {
                let after = after.as_ref().map_or(&[][..], |after| after.as_bytes());
                let number = self.line.number();
                let query = query(scan.clone()).bind(after).bind(self.now).bind(limit).bind(number);
                Ok(Answer::Rows(self.line.counted(number, query.bind(after).bind(self.now).bind(limit)).await?))
            }
            Op::Explain { handle } => {
                let number = self.line.number();
                let query = query(explain.clone()).bind(number).bind(handle.as_bytes().as_slice());
                Ok(Answer::Rows(self.line.rows(number, query, 1).await?))
            }
            Op::Probe => {
                let rows = query(SqlStr::from_static(VARIABLES)).fetch_all(&mut self.line.connection).await?;
                self.line.prove().await?;
                Ok(Answer::Rows(rows))
            }
        })
    }

    async fn create(&mut self, row: &Row, limit: Option<SessionLimit>) -> Verbed<Create> {
        let Some(limit) = limit.filter(|_| row.record.principal().is_some()) else {
            let query = bind_row(query(self.statements.insert.clone()), row).bind(row.idle_deadline());
            return match self.line.change(query.bind(&row.encoded)).await {
                Ok(1) => Ok(Ok(Create::Created { evicted: Vec::new() })),
                Ok(_) => Err(fault::misdelivered()),
                Err(error) if fault::number(&error) == Some(fault::DUPLICATE) => Ok(Ok(Create::Occupied)),
                Err(error) => Err(error),
            };
        };
        let query = bind_row(self.call(&self.statements.create), row).bind(&row.encoded);
        let answer = self.line.call(bind_limit(query, Some(limit))).await?;
        Ok(match number(&answer, FIRST)? {
            DONE => Ok(Create::Created { evicted: handles(&answer)? }),
            OCCUPIED => Ok(Create::Occupied),
            LIMIT_REACHED => Ok(Create::LimitReached),
            other => Err(unknown_answer(Verb::Create, other)),
        })
    }

    async fn update(&mut self, expected: Revision, row: &Row) -> Verbed<Update> {
        for _ in 0..RACES {
            let query = bind_update(query(self.statements.update.clone()), expected, row).bind(self.now);
            if self.line.change(query).await? > 0 {
                return Ok(Ok(Update::Saved(expected.next())));
            }
            match self.look(&row.id, Verb::Update).await? {
                Err(error) => return Ok(Err(error)),
                Ok(Found::Ended(reason)) => return Ok(Ok(Update::Gone(reason))),
                Ok(Found::Live(stored)) if stored.revision != expected => return Ok(Ok(Update::Conflict(stored))),
                Ok(Found::Live(stored)) if names(&stored.record) != names(&row.record) => {
                    let message =
                        "an update must not change the owner, the handle or the time of creation; renew instead";
                    return Ok(Err(StoreError::new(StoreErrorKind::Corrupt, Verb::Update, message).not_done()));
                }
                // Between the two statements somebody else made it so.
                Ok(Found::Live(_)) => {}
            }
        }
        let message = "other processes change this session faster than it can be read";
        Ok(Err(StoreError::new(StoreErrorKind::Timeout, Verb::Update, message).not_done()))
    }

    /// Updates of other sessions each, or touches of such, in the order of ids. Gives the answer of
    /// each that found its session, or of none where that is not known.
    pub(crate) async fn run_together(&mut self, calls: &[Call]) -> sqlx::Result<Vec<Option<Answer>>> {
        let updates: Vec<_> = calls.iter().filter_map(|call| call.op.as_update()).collect();
        if updates.len() == calls.len() {
            let found = self.update_together(&updates).await?;
            let answer = |(expected, _): &(Revision, _)| Answer::Update(Update::Saved(expected.next()));
            return Ok(updates.iter().zip(found).map(|(update, found)| found.then(|| answer(update))).collect());
        }
        let touches: Vec<_> = calls.iter().filter_map(|call| call.op.as_touch()).collect();
        // Touching twice changes nothing more.
        let all = touches.len() == calls.len() && self.touch_many(&touches).await? == touches.len() as u64;
        Ok(calls.iter().map(|_| all.then_some(Answer::Touch(Touch::Touched))).collect())
    }

    /// Those of other sessions each, in the order of ids. Says of each whether it found its session.
    async fn update_together(&mut self, updates: &[(Revision, &Row)]) -> sqlx::Result<[bool; UPDATES]> {
        let mut query = self.call(&self.statements.update_8);
        for (expected, row) in updates {
            let Row { id, record, encoded } = row;
            query = query
                .bind(column_millis(record.last_seen()))
                .bind(column_millis(record.idle_deadline()))
                .bind(row.absolute_deadline())
                .bind(encoded)
                .bind(id.as_bytes().as_slice())
                .bind(column_revision(*expected))
                .bind(record.handle().as_bytes().to_vec())
                .bind(column_millis(record.created()))
                .bind(record.principal().map(|principal| principal.as_str().as_bytes()));
        }
        let missing = UPDATES.saturating_sub(updates.len());
        let query = (0..missing * OF_AN_UPDATE).fold(query, |query, _| query.bind(None::<i64>));
        let found = number(&self.line.call(query).await?, FIRST)?;
        Ok(std::array::from_fn(|place| found & (1 << place) != 0))
    }

    async fn touch(&mut self, id: &SessionId, last_seen: i64, idle_deadline: i64) -> Verbed<Touch> {
        let query = query(self.statements.touch.clone()).bind(last_seen).bind(idle_deadline);
        let query = query.bind(id.as_bytes().as_slice()).bind(self.now);
        if self.line.change(query).await? > 0 {
            return Ok(Ok(Touch::Touched));
        }
        Ok(match self.look(id, Verb::Touch).await? {
            Ok(Found::Ended(reason)) => Ok(Touch::Gone(reason)),
            // Was gone a moment ago by the clock of the touch, and that counts.
            Ok(Found::Live(_)) => Ok(Touch::Gone(None)),
            Err(error) => Err(error),
        })
    }

    /// Those of other sessions each, in the order of ids. Says how many found theirs.
    async fn touch_many(&mut self, touches: &[(SessionId, Deadlines)]) -> sqlx::Result<u64> {
        let touches = touches.iter().map(Some).chain(std::iter::repeat(None)).take(TOUCHES);
        let query = touches.fold(query(self.statements.touch_many.clone()), |query, touch| {
            let query = query.bind(touch.map(|(id, _)| id.as_bytes().as_slice()));
            let deadlines = touch.map(|(_, deadlines)| deadlines);
            query.bind(deadlines.map(|d| d.last_seen)).bind(deadlines.map(|d| d.idle_deadline))
        });
        let found = self.line.change(query.bind(self.now)).await?;
        if found == 0 {
            self.line.prove().await?;
        }
        Ok(found)
    }

    async fn renew(
        &mut self,
        old: &SessionId,
        expected: Revision,
        row: &Row,
        limit: Option<SessionLimit>,
    ) -> Verbed<Renew> {
        let query = self.call(&self.statements.renew).bind(old.as_bytes().as_slice()).bind(column_revision(expected));
        let query = bind_row(query.bind(Record::FORMAT), row).bind(&row.encoded);
        let answer = self.line.call(bind_limit(query, limit)).await?;
        Ok(match number(&answer, FIRST)? {
            DONE => Ok(Renew::Renewed { revision: expected.next(), evicted: handles(&answer)? }),
            OCCUPIED => Ok(Renew::Occupied),
            LIMIT_REACHED => Ok(Renew::LimitReached),
            LOOK if !is_there(&answer, LOOKED_AT) => Ok(Renew::Gone(None)),
            LOOK => match found(&answer, LOOKED_AT, self.now, Verb::Renew) {
                Err(error) => Err(error),
                Ok(Found::Ended(reason)) => Ok(Renew::Gone(reason)),
                Ok(Found::Live(stored)) => Ok(Renew::Conflict(stored)),
            },
            other => Err(unknown_answer(Verb::Renew, other)),
        })
    }

    async fn look(&mut self, id: &SessionId, verb: Verb) -> Verbed<Found> {
        let number = self.line.number();
        let query = query(self.statements.load.clone()).bind(number).bind(id.as_bytes().as_slice());
        let rows = self.line.rows(number, query, 1).await?;
        if rows.iter().any(|row| row::id(row) != Some(*id)) {
            return Err(fault::misdelivered());
        }
        Ok(rows
            .first()
            .filter(|row| is_there(row, 0))
            .map_or(Ok(Found::Ended(None)), |row| found(row, 0, self.now, verb)))
    }

    /// The query with the time to decide by, which is the first parameter of every procedure.
    fn call<'q>(&self, text: &SqlStr) -> Statement<'q> {
        query(text.clone()).bind(self.now)
    }
}

/// The parameters of one of several updates.
const OF_AN_UPDATE: usize = 9;

/// How often an update starts over because somebody else came between its two statements.
const RACES: usize = 8;

/// The first column of a procedure's row behind the proof.
const FIRST: usize = 1;
/// Where the columns of a row begin that a renewal looked at, as if there were a proof before them.
const LOOKED_AT: usize = 2;

// What the procedures say happened.
const DONE: u64 = 0;
const OCCUPIED: u64 = 1;
const LIMIT_REACHED: u64 = 2;
const LOOK: u64 = 3;

fn unknown_answer(verb: Verb, answer: u64) -> StoreError {
    let message = format!("a procedure answered {answer}, which this release does not know: apply its migrations");
    StoreError::new(StoreErrorKind::Corrupt, verb, message)
}

fn number(row: &MySqlRow, column: usize) -> sqlx::Result<u64> {
    Ok(integer(row, column)?.and_then(|number| u64::try_from(number).ok()).unwrap_or(0))
}

/// The handles of the evicted, one after the other.
fn handles(row: &MySqlRow) -> sqlx::Result<Vec<Handle>> {
    let evicted = bytes::<Option<&[u8]>>(row, FIRST + 1)?.unwrap_or_default();
    Ok(evicted.as_chunks().0.iter().map(|handle| Handle::from_bytes(*handle)).collect())
}

/// A new row, in the order of every statement that makes one.
fn bind_row<'q>(query: Statement<'q>, row: &'q Row) -> Statement<'q> {
    let Row { id, record, .. } = row;
    query
        .bind(id.as_bytes().as_slice())
        .bind(record.handle().as_bytes().to_vec())
        .bind(record.principal().map(|principal| principal.as_str().as_bytes()))
        .bind(column_millis(record.created()))
        .bind(column_millis(record.last_seen()))
        .bind(row.idle_deadline())
        .bind(row.absolute_deadline())
}

fn bind_page<'q>(
    query: Statement<'q>,
    principal: &'q Principal,
    after: Option<PageCursor>,
    now: Option<i64>,
    limit: i64,
) -> Statement<'q> {
    let created = after.map_or(-1, |after| i64::try_from(after.created).unwrap_or(i64::MAX));
    let handle = after.map_or([0; Handle::LEN], |after| *after.handle.as_bytes());
    let query = query.bind(principal.as_str().as_bytes()).bind(created).bind(created).bind(handle.to_vec());
    query.bind(now).bind(limit)
}

fn bind_limit(query: Statement<'_>, limit: Option<SessionLimit>) -> Statement<'_> {
    let max = limit.map(|limit| limit.max.get());
    query.bind(max).bind(limit.is_some_and(|limit| limit.excess == Excess::EvictOldest))
}

fn bind_update<'q>(query: Statement<'q>, expected: Revision, row: &'q Row) -> Statement<'q> {
    let Row { id, record, encoded } = row;
    let absolute_deadline = row.absolute_deadline();
    query
        .bind(column_millis(record.last_seen()))
        .bind(column_millis(record.idle_deadline()))
        .bind(absolute_deadline)
        .bind(absolute_deadline)
        .bind(encoded)
        .bind(id.as_bytes().as_slice())
        .bind(column_revision(expected))
        .bind(record.handle().as_bytes().to_vec())
        .bind(column_millis(record.created()))
        .bind(record.principal().map(|principal| principal.as_str().as_bytes()))
}
