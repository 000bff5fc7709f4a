//! What is kept under a session's key.
//!
//! ```text
//! live     1 | revision 8 | record          pending, during a move between slots: the same with 2
//! ended    3 | reason 1 | at 8 | handle 10 | id it was renewed to 26, if it was
//! ```
//!
//! Scripts read and patch a record of format 1 in place. That format is frozen, and its first byte
//! tells it from those of newer releases, which no script touches.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cloakroom_core::clock::from_unix_millis;
use cloakroom_core::{DecodeError, EndReason, Ended, Handle, Load, Record, Revision, StoreError, Stored, Verb};

const LIVE: u8 = 1;
const PENDING: u8 = 2;
const ENDED: u8 = 3;
/// Where the record begins.
const RECORD: usize = 9;

/// What a value says at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Live(Stored),
    Gone(Option<EndReason>),
    /// To be looked up under the id it comes from.
    Pending(Stored),
}

impl Found {
    pub(crate) fn of(value: &Bytes, now: SystemTime, verb: Verb) -> Result<Self, StoreError> {
        match value.first() {
            Some(&(LIVE | PENDING)) => {}
            Some(&ENDED) => return Ok(Self::Gone(value.get(1).copied().and_then(EndReason::from_byte))),
            Some(_) | None => return Ok(Self::Gone(None)),
        }
        let Some(stored) = stored(value, verb)? else { return Ok(Self::Gone(None)) };
        Ok(if value[0] == PENDING {
            Self::Pending(stored)
        } else if stored.record.is_expired(now) {
            Self::Gone(Some(EndReason::Expired))
        } else {
            Self::Live(stored)
        })
    }
}

impl From<Found> for Load {
    fn from(found: Found) -> Self {
        match found {
            Found::Live(stored) => Self::Live(stored),
            Found::Gone(reason) => Self::Gone(reason),
            Found::Pending(_) => Self::Gone(None),
        }
    }
}

/// The record in a value and its revision. Nothing where the bytes are damaged.
pub(crate) fn stored(value: &Bytes, verb: Verb) -> Result<Option<Stored>, StoreError> {
    let Some(revision) = value.get(1..RECORD).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes) else {
        return Ok(None);
    };
    match Record::decode(&value.slice(RECORD..)) {
        Ok(record) => Ok(Some(Stored { record, revision: Revision::from_u64(revision) })),
        Err(DecodeError::NewerFormat(format)) => Err(StoreError::newer_format(verb, format)),
        Err(_) => Ok(None),
    }
}

/// A record as it is kept while it is live.
pub(crate) fn live(revision: Revision, record: &Record) -> Vec<u8> {
    let mut value = Vec::with_capacity(RECORD + record.encoded_len());
    value.push(LIVE);
    value.extend(revision.as_u64().to_be_bytes());
    record.encode_into(&mut value);
    value
}

/// How the value of a live record at this revision begins, if this release may write over it.
pub(crate) fn start(revision: Revision) -> Vec<u8> {
    [&[LIVE][..], &revision.as_u64().to_be_bytes(), &[Record::FORMAT]].concat()
}

/// The longest beginning of a value that tells whose it is and what became of it.
pub(crate) const HEADER: usize = 68;

/// What the beginning of a value says of the end of a session of this handle: nothing if it is of
/// another one, or of a token that was replaced.
pub(crate) fn end_of(header: &[u8], handle: Handle, now: SystemTime, kept: Duration) -> Option<End> {
    let number = |at: usize| header.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
    // What is older is there only where the server's clock is another one than this.
    let is_kept =
        |ended: Ended| ended.at.checked_add(kept).is_none_or(|until| now < until).then_some(End::Ended(ended));
    match *header.first()? {
        LIVE if header.get(12..12 + Handle::LEN)? == handle.as_bytes() => {
            let deadline = from_unix_millis(number(52)?.min(number(60)?));
            let ended = Ended { reason: EndReason::Expired, at: deadline };
            if now < deadline { Some(End::Live) } else { is_kept(ended) }
        }
        ENDED if header.get(10..10 + Handle::LEN)? == handle.as_bytes() => {
            let reason = EndReason::from_byte(*header.get(1)?).filter(|reason| *reason != EndReason::Renewed)?;
            is_kept(Ended { reason, at: from_unix_millis(number(2)?) })
        }
        _ => None,
    }
}

/// See [`end_of`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Live,
    Ended(Ended),
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use cloakroom_core::Principal;

    use super::*;

    /// The scripts patch these places.
    #[test]
    fn the_places_that_scripts_know_are_where_the_encoder_puts_them() {
        let now = UNIX_EPOCH + Duration::from_millis(0x0102_0304_0506);
        let handle = Handle::from_bytes([9; Handle::LEN]);
        let record = Record::new(handle, now, Duration::from_millis(10), Duration::from_millis(20))
            .owned_by(Principal::new("ada").unwrap())
            .seen(now + Duration::from_millis(1), now + Duration::from_millis(11));
        let value = Bytes::from(live(Revision::from_u64(7), &record));
        let number = |at: usize| u64::from_be_bytes(value[at..at + 8].try_into().unwrap()) - 0x0102_0304_0506;
        assert_eq!(value[RECORD], Record::FORMAT);
        assert_eq!(&value[12..22], handle.as_bytes());
        assert_eq!((number(28), number(44), number(52), number(60)), (0, 1, 11, 20));
        assert_eq!(&value[RECORD + 75..RECORD + 75 + 5], b"\0\x03ada");
        assert_eq!(value[RECORD + 17] & 2, 0, "the flag of a stamp, which would come before the owner");
        assert_eq!(usize::from(value[10]) * 256 + usize::from(value[11]) + 12, value.len(), "no values");
        assert_eq!(HEADER, 60 + 8);
    }

    #[test]
    fn bytes_of_every_kind_are_gone_or_newer_and_never_a_panic() {
        let record =
            Record::new(Handle::from_bytes([1; 10]), UNIX_EPOCH, Duration::from_secs(1), Duration::from_secs(2));
        let value = Bytes::from(live(Revision::from_u64(7), &record));
        assert!(
            matches!(Found::of(&value, UNIX_EPOCH, Verb::Load), Ok(Found::Live(stored)) if stored.record == record)
        );
        let late = UNIX_EPOCH + Duration::from_secs(1);
        assert_eq!(Found::of(&value, late, Verb::Load).unwrap(), Found::Gone(Some(EndReason::Expired)));
        for cut in 0..value.len() {
            assert_eq!(Found::of(&value.slice(..cut), UNIX_EPOCH, Verb::Load).unwrap(), Found::Gone(None), "{cut}");
        }
        for byte in 0..=255 {
            let mut bytes = value.to_vec();
            bytes[0] = byte;
            drop(Found::of(&bytes.clone().into(), UNIX_EPOCH, Verb::Load));
            assert!(end_of(&bytes, record.handle(), UNIX_EPOCH, Duration::ZERO).is_none_or(|end| end == End::Live));
            bytes[0] = LIVE;
            bytes[RECORD] = byte;
            assert_eq!(Found::of(&bytes.into(), UNIX_EPOCH, Verb::Load).is_err(), byte > Record::FORMAT);
        }
    }
}
