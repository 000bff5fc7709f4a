//! Between records and rows, for every driver.

use bytes::Bytes;
use cloakroom_core::clock::{from_unix_millis, unix_millis};
use cloakroom_core::{
    DecodeError, EndReason, Handle, Load, Record, Revision, SessionId, StoreError, StoreErrorKind, Stored, Verb,
};
use std::time::SystemTime;

/// A record on its way into a row. Encoded by whoever calls, not by the few tasks that write.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) id: SessionId,
    pub(crate) record: Record,
    pub(crate) encoded: Vec<u8>,
}

impl Row {
    pub(crate) fn new(id: &SessionId, record: &Record) -> Self {
        Self { id: *id, record: record.clone(), encoded: record.encode() }
    }

    #[cfg(any(feature = "mysql", feature = "postgres"))]
    pub(crate) fn absolute_deadline(&self) -> i64 {
        column_millis(self.record.absolute_deadline())
    }

    /// Never beyond the absolute one.
    #[cfg(any(feature = "mysql", feature = "postgres"))]
    pub(crate) fn idle_deadline(&self) -> i64 {
        column_millis(self.record.idle_deadline()).min(self.absolute_deadline())
    }
}

/// The columns that a record is read back from.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    pub(crate) handle: Option<Handle>,
    pub(crate) revision: i64,
    pub(crate) last_seen: i64,
    pub(crate) idle_deadline: i64,
    pub(crate) ended_reason: Option<i64>,
    pub(crate) record: Option<Bytes>,
}

/// What a row says at a moment.
#[derive(Debug)]
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

impl Columns {
    /// Whether the row is of a live session, whatever its record says.
    pub(crate) fn is_live(&self, now: i64) -> bool {
        self.ended_reason.is_none() && self.idle_deadline > now
    }

    /// What the row says at `now`.
    ///
    /// A record that does not decode, or that names another session than its row does (somebody moved
    /// it), is as good as none.
    ///
    /// # Errors
    /// A record of a newer format, which is neither used nor removed.
    pub(crate) fn found(self, now: i64, verb: Verb) -> Result<Found, StoreError> {
        if let Some(ended) = self.ended_reason {
            return Ok(Found::Ended(reason(ended)));
        }
        if !self.is_live(now) {
            return Ok(Found::Ended(Some(EndReason::Expired)));
        }
        let record = match Record::decode(&self.record.unwrap_or_default()) {
            Ok(record) => record,
            Err(DecodeError::NewerFormat(format)) => {
                let message = format!("the record has format {format}, written by a newer release: upgrade this one");
                return Err(StoreError::new(StoreErrorKind::NewerFormat, verb, message).not_done());
            }
            Err(_) => return Ok(Found::Ended(None)),
        };
        if self.handle != Some(record.handle()) {
            return Ok(Found::Ended(None));
        }
        let revision = Revision::from_u64(u64::try_from(self.revision).unwrap_or(0));
        // A touch since the record was written is in the columns only.
        let unchanged = column_millis(record.last_seen()) == self.last_seen
            && column_millis(record.idle_deadline()) == self.idle_deadline;
        let record = if unchanged { record } else { record.seen(time(self.last_seen), time(self.idle_deadline)) };
        Ok(Found::Live(Stored { record, revision }))
    }
}

/// What an update must leave as it is.
pub(crate) fn names(record: &Record) -> (Option<&cloakroom_core::Principal>, Handle, i64) {
    (record.principal(), record.handle(), column_millis(record.created()))
}

/// A time as a column keeps it. Beyond the year 292,000,000 it saturates.
pub(crate) fn column_millis(time: SystemTime) -> i64 {
    i64::try_from(unix_millis(time)).unwrap_or(i64::MAX)
}

pub(crate) fn time(column: i64) -> SystemTime {
    from_unix_millis(u64::try_from(column).unwrap_or(0))
}

#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) fn column_revision(revision: Revision) -> i64 {
    i64::try_from(revision.as_u64()).unwrap_or(i64::MAX)
}

/// The reason column, for rows of other shapes.
pub(crate) fn reason(column: i64) -> Option<EndReason> {
    u8::try_from(column).ok().and_then(EndReason::from_byte)
}
