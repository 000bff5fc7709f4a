//! What scripts answer: a code, and what belongs to it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use cloakroom_core::{EndReason, Handle, SessionId, StoreError, StoreErrorKind, Stored, Verb};
use redis::Value;

use super::wrong_answer;
use crate::value;

/// The answer of a script that did something, or what it was told to expect instead.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) code: Code,
    rest: Option<Value>,
}

/// What happened; the numbers are those of `scripts/prelude.lua`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Done,
    Gone,
    /// With what is there.
    Conflict,
    Occupied,
    Limit,
    /// A session on its way from one slot to another.
    Undecided,
    /// The session goes on under this id.
    Follow,
}

/// Why a script did nothing; the numbers go on behind those of [`Code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// An update that would have changed whose session it is.
    Renamed,
    /// Of a newer release.
    Newer,
    /// No string, or not ours.
    Foreign,
    /// Too much time between two steps.
    Late,
}

impl Code {
    const ALL: [Self; 7] =
        [Self::Done, Self::Gone, Self::Conflict, Self::Occupied, Self::Limit, Self::Undecided, Self::Follow];
}

impl Refusal {
    const ALL: [Self; 4] = [Self::Renamed, Self::Newer, Self::Foreign, Self::Late];

    fn to_error(self, rest: Option<&Value>, verb: Verb) -> StoreError {
        let refuse = |message| StoreError::new(StoreErrorKind::Corrupt, verb, message).not_done();
        match self {
            Self::Renamed => {
                refuse("an update must not change the owner, the handle or the time of creation; renew instead")
            }
            Self::Newer => {
                let format = rest.and_then(number).and_then(|format| u8::try_from(format).ok());
                StoreError::newer_format(verb, format.unwrap_or(u8::MAX))
            }
            Self::Foreign => refuse(
                "under a key with this store's prefix is something else than a session: does another application use \
                 the same prefix?",
            ),
            Self::Late => StoreError::new(
                StoreErrorKind::Timeout,
                verb,
                "the cluster took too long between two steps of the renewal, which was given up",
            )
            .not_done(),
        }
    }
}

impl Answer {
    /// # Errors
    /// What the script refused to do, and an answer that no script gives.
    pub(super) fn read(value: Value, verb: Verb) -> Result<Self, StoreError> {
        let Value::Array(parts) = value else { return Err(wrong_answer(verb)) };
        let mut parts = parts.into_iter();
        let Some(Value::Int(code)) = parts.next() else { return Err(wrong_answer(verb)) };
        let (code, rest) = (usize::try_from(code).unwrap_or(usize::MAX), parts.next());
        if let Some(&code) = Code::ALL.get(code) {
            return Ok(Self { code, rest });
        }
        match Refusal::ALL.get(code.wrapping_sub(Code::ALL.len())) {
            Some(refusal) => Err(refusal.to_error(rest.as_ref(), verb)),
            None => Err(wrong_answer(verb)),
        }
    }

    pub(super) fn number(&self) -> Option<u64> {
        self.rest.as_ref().and_then(number)
    }

    pub(super) fn reason(&self) -> Option<EndReason> {
        self.number().and_then(|byte| u8::try_from(byte).ok()).and_then(EndReason::from_byte)
    }

    pub(super) fn strings(self) -> Option<Vec<Vec<u8>>> {
        let Some(Value::Array(values)) = self.rest else { return None };
        values.into_iter().map(|value| if let Value::BulkString(bytes) = value { Some(bytes) } else { None }).collect()
    }

    pub(super) fn handles(self) -> Option<Vec<Handle>> {
        let bytes = |name: Vec<u8>| <[u8; Handle::LEN]>::try_from(name).ok().map(Handle::from_bytes);
        self.strings()?.into_iter().map(bytes).collect()
    }

    pub(super) fn id(&self) -> Option<SessionId> {
        let Some(Value::BulkString(bytes)) = &self.rest else { return None };
        <[u8; SessionId::LEN]>::try_from(bytes.as_slice()).ok().map(SessionId::from_bytes)
    }

    /// The record that stands in the way; nothing where it is damaged.
    pub(super) fn stored(self, verb: Verb) -> Result<Option<Stored>, StoreError> {
        match self.rest {
            Some(Value::BulkString(bytes)) => value::stored(&Bytes::from(bytes), verb),
            _ => Err(wrong_answer(verb)),
        }
    }
}

/// A number, in either form that servers send.
pub(super) fn number(value: &Value) -> Option<u64> {
    if let Value::BulkString(text) = value {
        std::str::from_utf8(text).ok()?.parse().ok()
    } else if let Value::Int(number) = value {
        u64::try_from(*number).ok()
    } else {
        None
    }
}

/// What `TIME` answers.
pub(super) fn time(value: &Value) -> Option<SystemTime> {
    let Value::Array(parts) = value else { return None };
    let [seconds, micros] = &parts[..] else { return None };
    let since = Duration::from_secs(number(seconds)?).checked_add(Duration::from_micros(number(micros)?))?;
    // Records count milliseconds.
    UNIX_EPOCH.checked_add(Duration::from_millis(u64::try_from(since.as_millis()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_of_the_scripts() {
        let prelude = include_str!("../scripts/prelude.lua");
        let (names, numbers) = prelude.split_once("local DONE").unwrap().1.split_once('=').unwrap();
        let names: Vec<_> = ["DONE".to_owned()]
            .into_iter()
            .chain(names.split(',').skip(1).map(|name| name.trim().to_owned()))
            .collect();
        let codes = Code::ALL.iter().map(|code| format!("{code:?}").to_uppercase());
        let ours: Vec<_> = codes.chain(Refusal::ALL.iter().map(|code| format!("{code:?}").to_uppercase())).collect();
        assert_eq!(names, ours);
        let numbers = numbers.lines().nth(1).unwrap().split(',').map(|number| number.trim().parse::<usize>().unwrap());
        assert_eq!(numbers.collect::<Vec<_>>(), (0..ours.len()).collect::<Vec<_>>());
    }

    #[test]
    fn answers_of_another_shape_are_errors() {
        for value in [
            Value::Nil,
            Value::Int(0),
            Value::Array(vec![]),
            Value::Array(vec![Value::Int(-1)]),
            Value::Array(vec![Value::Int(99)]),
            Value::Array(vec![Value::BulkString(b"0".to_vec())]),
        ] {
            if let Ok(answer) = Answer::read(value.clone(), Verb::Update) {
                assert_eq!((value, answer.number()), (Value::Array(vec![Value::Int(0)]), None));
            }
        }
        let newer = Answer::read(Value::Array(vec![Value::Int(8), Value::Int(2)]), Verb::Update).unwrap_err();
        assert_eq!(newer.kind(), StoreErrorKind::NewerFormat);
        let done = || Answer::read(Value::Array(vec![Value::Int(0), Value::Int(1)]), Verb::Update).unwrap();
        assert_eq!((done().number(), done().strings(), done().id()), (Some(1), None, None));
        assert_eq!(time(&Value::Array(vec![Value::Int(1)])), None);
        let year_2100 =
            Value::Array(vec![Value::BulkString(b"4102444800".to_vec()), Value::BulkString(b"1999".to_vec())]);
        assert_eq!(time(&year_2100), Some(UNIX_EPOCH + Duration::from_millis(4_102_444_800_001)));
    }
}
