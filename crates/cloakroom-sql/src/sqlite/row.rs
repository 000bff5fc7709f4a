//! From a row to a record.

use bytes::Bytes;
use cloakroom_core::clock::{from_unix_millis, unix_millis};
use cloakroom_core::{
    DecodeError, EndReason, Handle, Load, Record, Revision, SessionId, StoreError, StoreErrorKind, Stored, Verb,
};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use std::time::SystemTime;

/// What a row of the columns of `dialect` says at a moment.
pub(crate) enum Found {
    Live(Stored),
    Ended(Option<EndReason>),
}

impl From<Found> for Load {
    fn from(found: Found) -> Self {
        match found {
            Found::Live(stored) => Self::Live(stored),
            Found::Ended(reason) => Self::Gone(reason),
        }
    }
}

/// A time as a column keeps it. Beyond the year 292,000,000 it saturates.
pub(crate) fn column_millis(time: SystemTime) -> i64 {
    i64::try_from(unix_millis(time)).unwrap_or(i64::MAX)
}

pub(crate) fn time(column: i64) -> SystemTime {
    from_unix_millis(u64::try_from(column).unwrap_or(0))
}

pub(crate) fn id(row: &SqliteRow) -> Option<SessionId> {
    row.try_get::<&[u8], _>("id").ok()?.try_into().ok().map(SessionId::from_bytes)
}

pub(crate) fn handle(row: &SqliteRow) -> Option<Handle> {
    row.try_get::<&[u8], _>("handle").ok()?.try_into().ok().map(Handle::from_bytes)
}

/// The reason column, for rows of other shapes.
pub(crate) fn reason(column: i64) -> Option<EndReason> {
    u8::try_from(column).ok().and_then(EndReason::from_byte)
}

/// What the row says at `now`.
///
/// A record that does not decode, or that names another session than its row does (somebody moved
/// it), is as good as none.
///
/// # Errors
/// A record of a newer format, which is neither used nor removed.
pub(crate) fn found(row: &SqliteRow, now: SystemTime, verb: Verb) -> Result<Found, StoreError> {
    if let Some(ended) = row.try_get::<Option<i64>, _>(ENDED_REASON).map_err(|error| unreadable(verb, error))? {
        return Ok(Found::Ended(reason(ended)));
    }
    let number = |column: usize| row.try_get::<i64, _>(column).map_err(|error| unreadable(verb, error));
    let idle_deadline = number(IDLE_DEADLINE)?;
    if idle_deadline <= column_millis(now) {
        return Ok(Found::Ended(Some(EndReason::Expired)));
    }
    let bytes = row.try_get::<Vec<u8>, _>(RECORD).map_err(|error| unreadable(verb, error))?;
    let record = match Record::decode(&Bytes::from(bytes)) {
        Ok(record) => record,
        Err(DecodeError::NewerFormat(format)) => {
            let message = format!("the record has format {format}, written by a newer release: upgrade this one");
            return Err(StoreError::new(StoreErrorKind::NewerFormat, verb, message).not_done());
        }
        Err(_) => return Ok(Found::Ended(None)),
    };
    if handle(row) != Some(record.handle()) {
        return Ok(Found::Ended(None));
    }
    let last_seen = number(LAST_SEEN)?;
    let revision = Revision::from_u64(u64::try_from(number(REVISION)?).unwrap_or(0));
    // A touch since the record was written is in the columns only.
    let unchanged =
        column_millis(record.last_seen()) == last_seen && column_millis(record.idle_deadline()) == idle_deadline;
    let record = if unchanged { record } else { record.seen(time(last_seen), time(idle_deadline)) };
    Ok(Found::Live(Stored { record, revision }))
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
