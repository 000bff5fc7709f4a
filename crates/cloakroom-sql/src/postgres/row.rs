//! From PostgreSQL's rows to records.

use bytes::Bytes;
use cloakroom_core::{Handle, SessionId};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::row::Columns;

/// A row and the server's time when it was read.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) columns: Columns,
    pub(crate) now: i64,
}

/// Of the columns of `dialect::postgres`, in their order.
pub(crate) fn seen(row: &Row) -> Result<Seen, tokio_postgres::Error> {
    seen_from(row, 1)
}

/// As `seen`, with the handle at another place, and the others after it.
pub(crate) fn seen_from(row: &Row, first: usize) -> Result<Seen, tokio_postgres::Error> {
    let columns = Columns {
        handle: get::<Option<&[u8]>>(row, first)?.and_then(handle),
        revision: get::<Option<i64>>(row, first + 1)?.unwrap_or(0),
        last_seen: get::<Option<i64>>(row, first + 2)?.unwrap_or(0),
        idle_deadline: get::<Option<i64>>(row, first + 3)?.unwrap_or(0),
        ended_reason: get(row, first + 4)?,
        record: get::<Option<&[u8]>>(row, first + 5)?.map(Bytes::copy_from_slice),
    };
    Ok(Seen { columns, now: get(row, first + 6)? })
}

pub(crate) fn id(row: &Row) -> Result<Option<SessionId>, tokio_postgres::Error> {
    Ok(get::<&[u8]>(row, 0)?.try_into().ok().map(SessionId::from_bytes))
}

pub(crate) fn handle(bytes: &[u8]) -> Option<Handle> {
    bytes.try_into().ok().map(Handle::from_bytes)
}

pub(crate) fn get<'r, T: FromSql<'r>>(row: &'r Row, place: usize) -> Result<T, tokio_postgres::Error> {
    row.try_get(place)
}
