//! From a row to a record.

use std::time::SystemTime;

use bytes::Bytes;
use cloakroom_core::{Handle, SessionId, StoreError, StoreErrorKind, Verb};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::row::{Columns, Found, column_millis};

pub(crate) fn id(row: &SqliteRow) -> Option<SessionId> {
    row.try_get::<&[u8], _>("id").ok()?.try_into().ok().map(SessionId::from_bytes)
}

pub(crate) fn handle(row: &SqliteRow) -> Option<Handle> {
    row.try_get::<&[u8], _>("handle").ok()?.try_into().ok().map(Handle::from_bytes)
}

/// The columns of a record, taken out of the row: rows of this driver must not be read by two threads
/// at once, though they can be shared.
pub(crate) fn columns(row: &SqliteRow) -> sqlx::Result<Columns> {
    let number = |column: usize| row.try_get::<i64, _>(column);
    Ok(Columns {
        handle: handle(row),
        revision: number(REVISION)?,
        last_seen: number(LAST_SEEN)?,
        idle_deadline: number(IDLE_DEADLINE)?,
        ended_reason: row.try_get(ENDED_REASON)?,
        record: row.try_get::<Option<Vec<u8>>, _>(RECORD)?.map(Bytes::from),
    })
}

/// What the row says at `now`.
///
/// # Errors
/// A record of a newer format, which is neither used nor removed.
pub(crate) fn found(row: &SqliteRow, now: SystemTime, verb: Verb) -> Result<Found, StoreError> {
    found_in(columns(row), now, verb)
}

/// As `found`, of what was taken out.
pub(crate) fn found_in(columns: sqlx::Result<Columns>, now: SystemTime, verb: Verb) -> Result<Found, StoreError> {
    columns.map_err(|error| unreadable(verb, error))?.found(column_millis(now), verb)
}

// The places of `columns!` in `dialect`; what other statements return as well is read by name.
const REVISION: usize = 1;
const LAST_SEEN: usize = 2;
const IDLE_DEADLINE: usize = 3;
const ENDED_REASON: usize = 4;
const RECORD: usize = 5;

fn unreadable(verb: Verb, error: sqlx::Error) -> StoreError {
    let message = "a row does not have the columns of this release: apply its migrations";
    StoreError::new(StoreErrorKind::Corrupt, verb, message).with_source(error).not_done()
}
