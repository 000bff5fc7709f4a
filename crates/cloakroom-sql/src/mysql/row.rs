//! From the driver's rows to records.

use bytes::Bytes;
use cloakroom_core::{Handle, PageCursor, Principal, Record, SessionId, StoreError, StoreErrorKind, Verb};
use sqlx::mysql::{MySql, MySqlRow};
use sqlx::{Decode, Row as _};

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

/// What the row says at `now`, or by the server's clock if there is none. Its columns are those of
/// `dialect`, from `at` on.
///
/// # Errors
/// As [`Columns::found`].
pub(crate) fn found(row: &MySqlRow, at: usize, now: Option<i64>, verb: Verb) -> Result<Found, StoreError> {
    let read = || {
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

// The places of `columns!` in `dialect::mysql`.
const NOW: usize = 0;
const HANDLE: usize = 1;
const REVISION: usize = 2;
const LAST_SEEN: usize = 3;
const IDLE_DEADLINE: usize = 4;
const ENDED_REASON: usize = 5;
const RECORD: usize = 6;
/// What a statement gives beside them.
const AFTER: usize = 7;

pub(crate) fn unreadable(verb: Verb, error: sqlx::Error) -> StoreError {
    let message = "a row does not have the columns of this release: apply its migrations";
    StoreError::new(StoreErrorKind::Corrupt, verb, message).with_source(error).not_done()
}
