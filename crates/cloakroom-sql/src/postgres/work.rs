//! What waits for a connection, and how it is packed to travel together.

use std::collections::HashMap;

use cloakroom_core::{EndReason, Principal, Revision, SessionId, Touch};
use tokio::sync::oneshot;
use tokio_postgres::Row as DriverRow;
use tokio_postgres::types::ToSql;

use super::connect::Session;
use super::fault::Fault;
use super::row::{Seen, get, id, seen};
use super::statement::Statement;
use crate::batch::waves;
use crate::row::{Row, column_millis, column_revision, reason};
use crate::touches::Deadlines;

/// Something to do, with where to send what came of it.
pub(crate) enum Job {
    Load { id: SessionId, answer: Answer<Option<Seen>> },
    Create { row: Row, answer: Answer<bool> },
    Update { expected: Revision, row: Row, answer: Answer<Updated> },
    Touch { id: SessionId, deadlines: Deadlines, answer: Answer<Touch> },
    Call { call: Call, answer: Answer<Vec<DriverRow>> },
}

pub(crate) type Answer<T> = oneshot::Sender<Result<T, Fault>>;

/// What an update found.
#[derive(Debug)]
pub(crate) enum Updated {
    Saved,
    /// What is there instead.
    Not(Option<Seen>),
}

/// A statement of its own. The last parameter, the time, is added when it is sent.
pub(crate) struct Call {
    pub(crate) statement: Statement,
    pub(crate) parameters: Vec<Box<dyn ToSql + Sync + Send>>,
}

/// What travels as one statement.
pub(crate) enum Parcel {
    Loads(Vec<(SessionId, Answer<Option<Seen>>)>),
    Creates(Vec<(Row, Answer<bool>)>),
    Updates(Vec<(Revision, Row, Answer<Updated>)>, Locking),
    Touches(Vec<(SessionId, Deadlines, Vec<Answer<Touch>>)>, Locking),
    Call(Call, Answer<Vec<DriverRow>>),
}

/// How the rows of a batch are locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locking {
    /// As they are found. Tells only what was written.
    AsFound,
    /// Before anything is decided. Tells what there is: for what was not written at first.
    First,
}

/// Packs what waited together. Reads first: they are quick, and nobody waits for them to commit.
/// Only statements that are prepared find the rows of many in the order of their ids.
pub(crate) fn pack(jobs: Vec<Job>, prepared: bool) -> Vec<Parcel> {
    let (mut loads, mut creates, mut updates, mut calls) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut touches: HashMap<SessionId, (Deadlines, Vec<Answer<Touch>>)> = HashMap::new();
    for job in jobs {
        match job {
            Job::Load { id, answer } => {
                // Nobody waits for it any more.
                if !answer.is_closed() {
                    loads.push((id, answer));
                }
            }
            Job::Create { row, answer } => creates.push((row, answer)),
            Job::Update { expected, row, answer } => updates.push((expected, row, answer)),
            Job::Touch { id, deadlines, answer } => {
                let (furthest, answers) = touches.entry(id).or_insert((deadlines, Vec::new()));
                *furthest = furthest.and(deadlines);
                answers.push(answer);
            }
            Job::Call { call, answer } => calls.push(Parcel::Call(call, answer)),
        }
    }
    let touches = touches.into_iter().map(|(id, (deadlines, answers))| (id, deadlines, answers)).collect();
    let mut parcels = Vec::new();
    if !loads.is_empty() {
        parcels.push(Parcel::Loads(loads));
    }
    parcels.extend(waves(creates, |(row, _)| row.id, |(row, _)| row.encoded.len()).into_iter().map(Parcel::Creates));
    let locking = |items: usize| if prepared || items == 1 { Locking::AsFound } else { Locking::First };
    let updates = waves(updates, |(_, row, _)| row.id, |(_, row, _)| row.encoded.len());
    for wave in updates {
        let locking = locking(wave.len());
        parcels.push(Parcel::Updates(wave, locking));
    }
    let touches = waves(touches, |(id, ..)| *id, |_| 0);
    for wave in touches {
        let locking = locking(wave.len());
        parcels.push(Parcel::Touches(wave, locking));
    }
    parcels.extend(calls);
    parcels
}

impl Parcel {
    pub(crate) fn writes(&self) -> bool {
        match self {
            Self::Loads(_) => false,
            Self::Creates(_) | Self::Updates(..) | Self::Touches(..) => true,
            Self::Call(call, _) => call.statement.writes(),
        }
    }

    /// Each item alone; nothing if it is alone already.
    pub(crate) fn split(self) -> Result<Vec<Self>, Self> {
        if self.len() < 2 {
            return Err(self);
        }
        Ok(match self {
            Self::Loads(loads) => loads.into_iter().map(|one| Self::Loads(vec![one])).collect(),
            Self::Creates(rows) => rows.into_iter().map(|one| Self::Creates(vec![one])).collect(),
            Self::Updates(rows, locking) => rows.into_iter().map(|one| Self::Updates(vec![one], locking)).collect(),
            Self::Touches(ids, locking) => ids.into_iter().map(|one| Self::Touches(vec![one], locking)).collect(),
            Self::Call(call, answer) => vec![Self::Call(call, answer)],
        })
    }

    const fn len(&self) -> usize {
        match self {
            Self::Loads(loads) => loads.len(),
            Self::Creates(rows) => rows.len(),
            Self::Updates(rows, _) => rows.len(),
            Self::Touches(ids, _) => ids.len(),
            Self::Call(..) => 1,
        }
    }

    pub(crate) async fn send(
        &self,
        session: &Session,
        now: Option<i64>,
    ) -> Result<Option<Vec<DriverRow>>, tokio_postgres::Error> {
        match self {
            Self::Loads(loads) => match loads.as_slice() {
                [(id, _)] => session.query(Statement::Load, &[&id.as_bytes().as_slice(), &now]).await,
                many => {
                    let ids: Vec<_> = many.iter().map(|(id, _)| id.as_bytes().as_slice()).collect();
                    session.query(Statement::LoadMany, &[&ids, &now]).await
                }
            },
            Self::Creates(creates) => {
                let ids = column(creates, |(row, _)| row.id.as_bytes().as_slice());
                let handles = column(creates, |(row, _)| row.record.handle().as_bytes().to_vec());
                let principals = column(creates, |(row, _)| row.record.principal().map(Principal::as_str));
                let created = column(creates, |(row, _)| column_millis(row.record.created()));
                let last_seen = column(creates, |(row, _)| column_millis(row.record.last_seen()));
                let idle_deadlines = column(creates, |(row, _)| row.idle_deadline());
                let absolute_deadlines = column(creates, |(row, _)| row.absolute_deadline());
                let records = column(creates, |(row, _)| row.encoded.as_slice());
                let parameters: [&(dyn ToSql + Sync); 8] =
                    [&ids, &handles, &principals, &created, &last_seen, &idle_deadlines, &absolute_deadlines, &records];
                session.query(Statement::Create, &parameters).await
            }
            Self::Updates(updates, locking) => {
                if let ([(expected, row, _)], Locking::AsFound) = (updates.as_slice(), locking) {
                    return send_update(session, *expected, row, now).await;
                }
                let statement = match locking {
                    Locking::AsFound => Statement::UpdateMany,
                    Locking::First => Statement::UpdateLocked,
                };
                let ids = column(updates, |(_, row, _)| row.id.as_bytes().as_slice());
                let expected = column(updates, |(expected, ..)| column_revision(*expected));
                let last_seen = column(updates, |(_, row, _)| column_millis(row.record.last_seen()));
                let idle_deadlines = column(updates, |(_, row, _)| column_millis(row.record.idle_deadline()));
                let absolute_deadlines = column(updates, |(_, row, _)| row.absolute_deadline());
                let records = column(updates, |(_, row, _)| row.encoded.as_slice());
                let handles = column(updates, |(_, row, _)| row.record.handle().as_bytes().to_vec());
                let created = column(updates, |(_, row, _)| column_millis(row.record.created()));
                let principals = column(updates, |(_, row, _)| row.record.principal().map(Principal::as_str));
                let parameters: [&(dyn ToSql + Sync); 10] = [
                    &ids,
                    &expected,
                    &last_seen,
                    &idle_deadlines,
                    &absolute_deadlines,
                    &records,
                    &handles,
                    &created,
                    &principals,
                    &now,
                ];
                session.query(statement, &parameters).await
            }
            Self::Touches(touches, locking) => {
                let statement = match locking {
                    Locking::AsFound => Statement::Touch,
                    Locking::First => Statement::TouchLocked,
                };
                let ids = column(touches, |(id, ..)| id.as_bytes().as_slice());
                let last_seen = column(touches, |(_, deadlines, _)| deadlines.last_seen);
                let idle_deadlines = column(touches, |(_, deadlines, _)| deadlines.idle_deadline);
                session.query(statement, &[&ids, &last_seen, &idle_deadlines, &now]).await
            }
            Self::Call(Call { statement, parameters }, _) => {
                let mut all: Vec<&(dyn ToSql + Sync)> = Vec::with_capacity(parameters.len() + 1);
                all.extend(parameters.iter().map(|parameter| &**parameter as &(dyn ToSql + Sync)));
                if statement.types().len() > parameters.len() {
                    all.push(&now);
                }
                session.query(*statement, &all).await
            }
        }
    }

    /// Hands out what the statement returned; returns what has to be asked again because others came
    /// in between. Whoever asked may have left; what was written stays written.
    pub(crate) fn answer(self, rows: Vec<DriverRow>) -> Result<Option<Self>, (Self, tokio_postgres::Error)> {
        match self {
            Self::Loads(loads) => match by_id(&rows, |row| seen(row).map(Some)) {
                Ok(found) => give_seen(loads, found),
                Err(error) => return Err((Self::Loads(loads), error)),
            },
            Self::Creates(creates) => match by_id(&rows, |_| Ok(())) {
                Ok(filed) => {
                    for (row, answer) in creates {
                        drop(answer.send(Ok(filed.contains_key(&row.id))));
                    }
                }
                Err(error) => return Err((Self::Creates(creates), error)),
            },
            Self::Updates(updates, locking) => match by_id(&rows, |row| locking.updated(row)) {
                Ok(found) => return Ok(give_updated(updates, locking, found)),
                Err(error) => return Err((Self::Updates(updates, locking), error)),
            },
            Self::Touches(touches, locking) => match by_id(&rows, |row| locking.touched(row)) {
                Ok(found) => return Ok(give_touched(touches, locking, &found)),
                Err(error) => return Err((Self::Touches(touches, locking), error)),
            },
            Self::Call(_, answer) => drop(answer.send(Ok(rows))),
        }
        Ok(None)
    }

    pub(crate) fn fail(self, fault: &Fault) {
        match self {
            Self::Loads(loads) => loads.into_iter().for_each(|(_, answer)| drop(answer.send(Err(fault.clone())))),
            Self::Creates(rows) => rows.into_iter().for_each(|(_, answer)| drop(answer.send(Err(fault.clone())))),
            Self::Updates(rows, _) => rows.into_iter().for_each(|(.., answer)| drop(answer.send(Err(fault.clone())))),
            Self::Touches(ids, _) => {
                ids.into_iter()
                    .flat_map(|(.., answers)| answers)
                    .for_each(|answer| drop(answer.send(Err(fault.clone()))));
            }
            Self::Call(_, answer) => drop(answer.send(Err(fault.clone()))),
        }
    }
}

impl Locking {
    /// What a row of the statement says of an update.
    fn updated(self, row: &DriverRow) -> Result<Updated, tokio_postgres::Error> {
        let saved = self == Self::AsFound || get(row, 8)?;
        Ok(if saved { Updated::Saved } else { Updated::Not(Some(seen(row)?)) })
    }

    /// What a row of the statement says of a touch.
    fn touched(self, row: &DriverRow) -> Result<Touch, tokio_postgres::Error> {
        if self == Self::AsFound || get(row, 1)? {
            return Ok(Touch::Touched);
        }
        if let Some(ended) = get::<Option<i64>>(row, 2)? {
            return Ok(Touch::Gone(reason(ended)));
        }
        let expired = get::<Option<i64>>(row, 3)?.unwrap_or(0) <= get(row, 4)?;
        Ok(Touch::Gone(expired.then_some(EndReason::Expired)))
    }
}

fn column<'a, T, C>(items: &'a [T], value: impl Fn(&'a T) -> C) -> Vec<C> {
    items.iter().map(value).collect()
}

fn by_id<T>(
    rows: &[DriverRow],
    value: impl Fn(&DriverRow) -> Result<T, tokio_postgres::Error>,
) -> Result<HashMap<SessionId, T>, tokio_postgres::Error> {
    let mut found = HashMap::with_capacity(rows.len());
    for row in rows {
        if let Some(id) = id(row)? {
            found.insert(id, value(row)?);
        }
    }
    Ok(found)
}

/// One id may have been asked for by several.
fn give_seen(loads: Vec<(SessionId, Answer<Option<Seen>>)>, mut found: HashMap<SessionId, Option<Seen>>) {
    let mut asked: HashMap<SessionId, usize> = HashMap::with_capacity(loads.len());
    for (id, _) in &loads {
        *asked.entry(*id).or_default() += 1;
    }
    for (id, answer) in loads {
        let left = asked.get_mut(&id).map_or(0, |left| {
            *left -= 1;
            *left
        });
        let seen = if left == 0 { found.remove(&id).flatten() } else { found.get(&id).cloned().flatten() };
        drop(answer.send(Ok(seen)));
    }
}

fn give_updated(
    updates: Vec<(Revision, Row, Answer<Updated>)>,
    locking: Locking,
    mut found: HashMap<SessionId, Updated>,
) -> Option<Parcel> {
    let mut again = Vec::new();
    for (expected, row, answer) in updates {
        match found.remove(&row.id) {
            None if locking == Locking::AsFound => again.push((expected, row, answer)),
            updated => drop(answer.send(Ok(updated.unwrap_or(Updated::Not(None))))),
        }
    }
    (!again.is_empty()).then_some(Parcel::Updates(again, Locking::First))
}

fn give_touched(
    touches: Vec<(SessionId, Deadlines, Vec<Answer<Touch>>)>,
    locking: Locking,
    found: &HashMap<SessionId, Touch>,
) -> Option<Parcel> {
    let mut again = Vec::new();
    for (id, deadlines, answers) in touches {
        match found.get(&id) {
            None if locking == Locking::AsFound => again.push((id, deadlines, answers)),
            touch => {
                let touch = touch.copied().unwrap_or(Touch::Gone(None));
                answers.into_iter().for_each(|answer| drop(answer.send(Ok(touch))));
            }
        }
    }
    (!again.is_empty()).then_some(Parcel::Touches(again, Locking::First))
}

/// One without the arrays, which a lone update need not pay for.
async fn send_update(
    session: &Session,
    expected: Revision,
    row: &Row,
    now: Option<i64>,
) -> Result<Option<Vec<DriverRow>>, tokio_postgres::Error> {
    let record = &row.record;
    let handle = record.handle();
    let parameters: [&(dyn ToSql + Sync); 10] = [
        &row.id.as_bytes().as_slice(),
        &column_revision(expected),
        &column_millis(record.last_seen()),
        &column_millis(record.idle_deadline()),
        &row.absolute_deadline(),
        &row.encoded.as_slice(),
        &handle.as_bytes().as_slice(),
        &column_millis(record.created()),
        &record.principal().map(Principal::as_str),
        &now,
    ];
    session.query(Statement::Update, &parameters).await
}
