//! From the driver's rows to records.

use bytes::Bytes;
use cloakroom_core::{Handle, PageCursor, Principal, Record, SessionId, StoreError, StoreErrorKind, Verb};
use sqlx::mysql::{MySql, MySqlRow};
use sqlx::{Column as _, Decode, Row as _};

use super::fault;
use crate::row::{Columns, Found};

/// Whatever its width: procedures give variables and constants, whose types differ between servers.
pub(crate) fn integer(row: &MySqlRow, column: usize) -> sqlx::Result<Option<i64>> {
    row.try_get_unchecked(column)
}

pub(crate) fn bytes<'r, T: Decode<'r, MySql>>(row: &'r MySqlRow, column: usize) -> sqlx::Result<T> {
    row.try_get_unchecked(column)
}

/// The id in the column after those of the record.
pub(crate) fn id(row: &MySqlRow) -> Option<SessionId> {
    bytes::<&[u8]>(row, AFTER).ok()?.try_into().ok().map(SessionId::from_bytes)
}

/// The place in a list, with the time of creation in the column after those of the record.
pub(crate) fn cursor(row: &MySqlRow) -> Option<PageCursor> {
    let created = integer(row, AFTER).ok()?.and_then(|created| u64::try_from(created).ok())?;
    Some(PageCursor { created, handle: handle(row, HANDLE).ok()?? })
}

/// Whose session it is, if the record can be read.
pub(crate) fn owner(row: &MySqlRow) -> Option<Principal> {
    let record = Bytes::copy_from_slice(bytes::<Option<&[u8]>>(row, RECORD).ok()??);
    Record::decode(&record).ok()?.principal().cloned()
}

fn handle(row: &MySqlRow, column: usize) -> sqlx::Result<Option<Handle>> {
    Ok(bytes::<&[u8]>(row, column)?.try_into().ok().map(Handle::from_bytes))
}

/// Whether there is a row at all behind what is joined to it.
pub(crate) fn is_there(row: &MySqlRow, at: usize) -> bool {
    bytes::<Option<&[u8]>>(row, at + HANDLE).is_ok_and(|handle| handle.is_some())
}

/// What the row says at `now`, or by the server's clock if there is none. Its columns are those of
/// `dialect`, from `at` on.
///
/// # Errors
/// As [`Columns::found`].
pub(crate) fn found(row: &MySqlRow, at: usize, now: Option<i64>, verb: Verb) -> Result<Found, StoreError> {
    let read = || {
        // Descriptions of columns that came in another order: what is read by them is not what was sent.
        let is_named = |(place, name): (usize, &&str)| row.columns().get(at + place).is_some_and(|c| c.name() == *name);
        if !(HANDLE..).zip(&NAMES).all(is_named) {
            return Err(fault::misdelivered());
        }
        let columns = Columns {
            handle: handle(row, at + HANDLE)?,
            revision: integer(row, at + REVISION)?.unwrap_or(0),
            last_seen: integer(row, at + LAST_SEEN)?.unwrap_or(0),
            idle_deadline: integer(row, at + IDLE_DEADLINE)?.unwrap_or(0),
            ended_reason: integer(row, at + ENDED_REASON)?,
            record: bytes::<Option<Vec<u8>>>(row, at + RECORD)?.map(Bytes::from),
        };
        Ok((columns, now.or(integer(row, at + NOW)?).unwrap_or(i64::MAX)))
    };
    let (columns, now) = read().map_err(|error| unreadable(verb, error))?;
    columns.found(now, verb)
}

// The places of `columns!` in `dialect::mysql`, which begins with the proof.
const NOW: usize = 1;
const HANDLE: usize = 2;
const REVISION: usize = 3;
const LAST_SEEN: usize = 4;
const IDLE_DEADLINE: usize = 5;
const ENDED_REASON: usize = 6;
const RECORD: usize = 7;
/// What those from `HANDLE` on are called.
const NAMES: [&str; 6] = ["handle", "revision", "last_seen", "idle_deadline", "ended_reason", "record"];
/// What a statement gives beside them.
const AFTER: usize = 8;

pub(crate) fn unreadable(verb: Verb, error: sqlx::Error) -> StoreError {
    let message = "a row does not have the columns of this release: apply its migrations";
    StoreError::new(StoreErrorKind::Corrupt, verb, message).with_source(error).not_done()
}
