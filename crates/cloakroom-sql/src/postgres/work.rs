//! What waits for a connection, and how it is packed to travel together.

use std::collections::HashMap;

use cloakroom_core::{EndReason, Revision, SessionId, Touch};
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
    Updates(Vec<(Revision, Row, Answer<Updated>)>),
    Touches(Vec<(SessionId, Deadlines, Vec<Answer<Touch>>)>),
    Call(Call, Answer<Vec<DriverRow>>),
}

/// Packs what waited together. Reads first: they are quick, and nobody waits for them to commit.
pub(crate) fn pack(jobs: Vec<Job>) -> Vec<Parcel> {
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
    let bytes = |update: &(Revision, Row, Answer<Updated>)| update.1.encoded.len();
    parcels.extend(waves(updates, |(_, row, _)| row.id, bytes).into_iter().map(Parcel::Updates));
    parcels.extend(waves(touches, |(id, ..)| *id, |_| 0).into_iter().map(Parcel::Touches));
    parcels.extend(calls);
    parcels
}

impl Parcel {
    pub(crate) fn writes(&self) -> bool {
        match self {
            Self::Loads(_) => false,
            Self::Creates(_) | Self::Updates(_) | Self::Touches(_) => true,
            Self::Call(call, _) => call.statement.writes(),
        }
    }

    /// Each item alone; nothing if it is alone already.
    pub(crate) fn split(self) -> Result<Vec<Self>, Self> {
        match self {
            Self::Loads(loads) if loads.len() > 1 => Ok(loads.into_iter().map(|one| Self::Loads(vec![one])).collect()),
            Self::Creates(rows) if rows.len() > 1 => Ok(rows.into_iter().map(|one| Self::Creates(vec![one])).collect()),
            Self::Updates(rows) if rows.len() > 1 => Ok(rows.into_iter().map(|one| Self::Updates(vec![one])).collect()),
            Self::Touches(ids) if ids.len() > 1 => Ok(ids.into_iter().map(|one| Self::Touches(vec![one])).collect()),
            alone => Err(alone),
        }
    }

    pub(crate) async fn send(&self, session: &Session, now: Option<i64>) -> Result<Vec<DriverRow>, tokio_postgres::Error> {
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
                let principals = column(creates, |(row, _)| row.record.principal().map(|principal| principal.as_str()));
                let created = column(creates, |(row, _)| column_millis(row.record.created()));
                let last_seen = column(creates, |(row, _)| column_millis(row.record.last_seen()));
                let idle_deadlines = column(creates, |(row, _)| row.idle_deadline());
                let absolute_deadlines = column(creates, |(row, _)| row.absolute_deadline());
                let records = column(creates, |(row, _)| row.encoded.as_slice());
                let parameters: [&(dyn ToSql + Sync); 8] = [
                    &ids,
                    &handles,
                    &principals,
                    &created,
                    &last_seen,
                    &idle_deadlines,
                    &absolute_deadlines,
                    &records,
                ];
                session.query(Statement::Create, &parameters).await
            }
            Self::Updates(updates) => {
                let ids = column(updates, |(_, row, _)| row.id.as_bytes().as_slice());
                let expected = column(updates, |(expected, ..)| column_revision(*expected));
                let last_seen = column(updates, |(_, row, _)| column_millis(row.record.last_seen()));
                let idle_deadlines = column(updates, |(_, row, _)| column_millis(row.record.idle_deadline()));
                let absolute_deadlines = column(updates, |(_, row, _)| row.absolute_deadline());
                let records = column(updates, |(_, row, _)| row.encoded.as_slice());
                let handles = column(updates, |(_, row, _)| row.record.handle().as_bytes().to_vec());
                let created = column(updates, |(_, row, _)| column_millis(row.record.created()));
                let principals = column(updates, |(_, row, _)| row.record.principal().map(|principal| principal.as_str()));
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
                session.query(Statement::Update, &parameters).await
            }
            Self::Touches(touches) => {
                let ids = column(touches, |(id, ..)| id.as_bytes().as_slice());
                let last_seen = column(touches, |(_, deadlines, _)| deadlines.last_seen);
                let idle_deadlines = column(touches, |(_, deadlines, _)| deadlines.idle_deadline);
                session.query(Statement::Touch, &[&ids, &last_seen, &idle_deadlines, &now]).await
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

    /// Hands out what the statement returned. Whoever asked may have left; what was written stays
    /// written.
    pub(crate) fn answer(self, rows: Vec<DriverRow>) -> Result<(), (Self, tokio_postgres::Error)> {
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
            Self::Updates(updates) => match by_id(&rows, updated) {
                Ok(mut found) => {
                    for (_, row, answer) in updates {
                        drop(answer.send(Ok(found.remove(&row.id).unwrap_or(Updated::Not(None)))));
                    }
                }
                Err(error) => return Err((Self::Updates(updates), error)),
            },
            Self::Touches(touches) => match by_id(&rows, touched) {
                Ok(found) => {
                    for (id, _, answers) in touches {
                        let touch = found.get(&id).copied().unwrap_or(Touch::Gone(None));
                        answers.into_iter().for_each(|answer| drop(answer.send(Ok(touch))));
                    }
                }
                Err(error) => return Err((Self::Touches(touches), error)),
            },
            Self::Call(_, answer) => drop(answer.send(Ok(rows))),
        }
        Ok(())
    }

    pub(crate) fn fail(self, fault: &Fault) {
        match self {
            Self::Loads(loads) => loads.into_iter().for_each(|(_, answer)| drop(answer.send(Err(fault.clone())))),
            Self::Creates(rows) => rows.into_iter().for_each(|(_, answer)| drop(answer.send(Err(fault.clone())))),
            Self::Updates(rows) => rows.into_iter().for_each(|(.., answer)| drop(answer.send(Err(fault.clone())))),
            Self::Touches(ids) => {
                ids.into_iter().flat_map(|(.., answers)| answers).for_each(|answer| drop(answer.send(Err(fault.clone()))));
            }
            Self::Call(_, answer) => drop(answer.send(Err(fault.clone()))),
        }
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

fn updated(row: &DriverRow) -> Result<Updated, tokio_postgres::Error> {
    Ok(if get(row, 8)? { Updated::Saved } else { Updated::Not(Some(seen(row)?)) })
}

fn touched(row: &DriverRow) -> Result<Touch, tokio_postgres::Error> {
    if get(row, 1)? {
        return Ok(Touch::Touched);
    }
    let ended: Option<i64> = get(row, 2)?;
    Ok(Touch::Gone(ended.map_or(Some(EndReason::Expired), reason)))
}
