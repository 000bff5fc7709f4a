//! What a request does to the values: a log of changes over what was loaded, not a copy.
//!
//! Nothing is decoded until it is read, and nothing is lost when another request was faster: the log
//! is replayed on what that one wrote.

use std::borrow::Cow;

use bytes::Bytes;

use crate::error::SessionError;
use crate::record::{Record, Value};

/// Computes a value from the value before it, both encoded.
pub(crate) type Modify = Box<dyn FnMut(Option<&[u8]>) -> Result<Option<Vec<u8>>, SessionError> + Send>;

pub(crate) enum Change {
    Set { key: Cow<'static, str>, encoded: Bytes, expires: u64 },
    Remove { key: Cow<'static, str> },
    Clear,
    Modify { key: Cow<'static, str>, apply: Modify },
}

/// A changed value and when it ends; `None` for one that was removed.
type Overlaid = Option<(Bytes, u64)>;

/// The values of a session as this request sees them.
#[derive(Default)]
pub(crate) struct Changes {
    /// As loaded or last committed; `None` while nothing was.
    base: Option<Record>,
    /// Whether what was loaded shows through.
    cleared: bool,
    /// The latest state of the keys that were changed.
    overlay: Vec<(Cow<'static, str>, Overlaid)>,
    log: Vec<Change>,
    /// How many changes of the log a write holds that is on its way. They must stay as they are.
    in_flight: usize,
}

impl Changes {
    pub(crate) fn over(base: Option<Record>) -> Self {
        Self { base, ..Self::default() }
    }

    /// The same view with an empty log, to try something on.
    pub(crate) fn fork(&self) -> Self {
        Self {
            base: self.base.clone(),
            cleared: self.cleared,
            overlay: self.overlay.clone(),
            log: Vec::new(),
            in_flight: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.log.is_empty()
    }

    /// How many changes a view of this moment holds.
    pub(crate) fn len(&self) -> usize {
        self.log.len()
    }

    /// The first `count` changes are on their way; [`committed`](Self::committed) takes that back.
    pub(crate) fn sent(&mut self, count: usize) {
        self.in_flight = count;
    }

    pub(crate) fn get(&self, key: &str, now: u64) -> Option<&[u8]> {
        if let Some((_, value)) = self.overlay.iter().find(|(known, _)| known == key) {
            let (encoded, expires) = value.as_ref()?;
            return (*expires == 0 || now < *expires).then_some(encoded.as_ref());
        }
        let value = self.base.as_ref().filter(|_| !self.cleared)?.value(key)?;
        value.is_live(now).then_some(value.encoded)
    }

    pub(crate) fn keys(&self, now: u64) -> Vec<String> {
        self.visible(now).map(|value| value.key.to_owned()).collect()
    }

    /// Takes a change in, or leaves everything as it was.
    pub(crate) fn push(&mut self, mut change: Change, now: u64) -> Result<(), SessionError> {
        if !self.apply(&mut change, now)? {
            return Ok(());
        }
        // Setting one key again and again in a request leaves one change.
        if let (Change::Set { key, .. }, Some(Change::Set { key: last, .. })) = (&change, self.log.last())
            && key == last
            && self.log.len() > self.in_flight
        {
            self.log.pop();
        }
        self.log.push(change);
        Ok(())
    }

    /// Removes whatever is there, and whatever another request puts there before this is written.
    pub(crate) fn clear_for_good(&mut self) {
        self.cleared = true;
        self.overlay.clear();
        self.log.push(Change::Clear);
    }

    /// Whether the change does anything here.
    fn apply(&mut self, change: &mut Change, now: u64) -> Result<bool, SessionError> {
        match change {
            Change::Set { key, encoded, expires } => self.overlay(key.clone(), Some((encoded.clone(), *expires))),
            Change::Remove { key } => {
                if self.get(key, now).is_none() {
                    return Ok(false);
                }
                self.overlay(key.clone(), None);
            }
            Change::Clear => {
                if self.visible(now).next().is_none() {
                    return Ok(false);
                }
                self.cleared = true;
                self.overlay.clear();
            }
            Change::Modify { key, apply } => {
                let expires = self.expiry(key, now);
                let value = apply(self.get(key, now))?;
                self.overlay(key.clone(), value.map(|encoded| (encoded.into(), expires)));
            }
        }
        Ok(true)
    }

    /// A modified value keeps the time it has left; one whose time is over starts anew.
    fn expiry(&self, key: &str, now: u64) -> u64 {
        self.visible(now).find(|value| value.key == key).map_or(0, |value| value.expires)
    }

    fn overlay(&mut self, key: Cow<'static, str>, value: Overlaid) {
        match self.overlay.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => *known = value,
            None => self.overlay.push((key, value)),
        }
    }

    fn visible(&self, now: u64) -> impl Iterator<Item = Value<'_>> {
        let base = self.base.as_ref().filter(|_| !self.cleared);
        let kept = base.into_iter().flat_map(Record::values);
        let kept = kept.filter(|value| !self.overlay.iter().any(|(key, _)| key == value.key));
        let set = self.overlay.iter().filter_map(|(key, value)| {
            let (encoded, expires) = value.as_ref()?;
            Some(Value { key, encoded, expires: *expires })
        });
        kept.chain(set).filter(move |value| value.is_live(now))
    }

    /// The values to store: what was not changed byte for byte, what has expired not at all.
    pub(crate) fn encode(&self, now: u64) -> Bytes {
        if self.log.is_empty()
            && let Some(base) = &self.base
            && self.overlay.is_empty()
        {
            return base.values.clone();
        }
        let mut out = Vec::with_capacity(self.base.as_ref().map_or(0, |base| base.values.len()) + 64);
        for value in self.visible(now) {
            value.encode(&mut out);
        }
        out.into()
    }

    /// Another request was faster: makes the changes again on what it wrote, those that do nothing
    /// there included, because the next one may bring back what they remove.
    ///
    /// All changes, or none: where one fails, all are dropped, and what stays is the new base.
    pub(crate) fn rebase(&mut self, base: Record, now: u64) -> Result<(), SessionError> {
        // In this order a `modify` function that panics leaves no change without its log entry either.
        let log = std::mem::take(&mut self.log);
        *self = Self::over(Some(base));
        for mut change in log {
            if let Err(error) = self.apply(&mut change, now) {
                self.discard();
                return Err(error);
            }
            self.log.push(change);
        }
        Ok(())
    }

    /// The first `count` changes are written, and this is what stands there now.
    pub(crate) fn committed(&mut self, base: Record, count: usize, now: u64) -> Result<(), SessionError> {
        self.log.drain(..count.min(self.log.len()));
        self.rebase(base, now)
    }

    /// Forgets all changes.
    pub(crate) fn discard(&mut self) {
        *self = Self::over(self.base.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::SessionErrorKind;
    use crate::id::Handle;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::time::{Duration, UNIX_EPOCH};

    const NOW: u64 = 1_800_000_000_000;

    fn record(values: &[(&str, &[u8], u64)]) -> Record {
        let values = values.iter().map(|(key, encoded, expires)| Value { key, encoded, expires: *expires });
        let day = Duration::from_secs(86400);
        Record::new(Handle::from_bytes([1; Handle::LEN]), UNIX_EPOCH, day, day).with_values(values)
    }

    fn set(key: &'static str, value: &str) -> Change {
        Change::Set { key: key.into(), encoded: value.to_owned().into(), expires: 0 }
    }

    /// Appends a byte, and refuses what starts with an `x`.
    fn append(key: &'static str) -> Change {
        let apply = Box::new(|before: Option<&[u8]>| {
            let mut value = before.unwrap_or_default().to_vec();
            if value.starts_with(b"x") {
                return Err(SessionError::new(SessionErrorKind::WrongType, "x"));
            }
            value.push(b'+');
            Ok(Some(value))
        });
        Change::Modify { key: key.into(), apply }
    }

    fn seen(changes: &Changes) -> BTreeMap<String, Vec<u8>> {
        changes.visible(NOW).map(|value| (value.key.to_owned(), value.encoded.to_vec())).collect()
    }

    #[test]
    fn what_is_not_changed_goes_back_byte_for_byte() {
        let stored = record(&[("a", b"1", 0), ("b", b" {\"odd\":  1.0 }", NOW + 1)]);
        let mut changes = Changes::over(Some(stored.clone()));
        assert_eq!(changes.encode(NOW), stored.values);
        changes.push(set("c", "3"), NOW).unwrap();
        let mut expected = stored.values.to_vec();
        Value { key: "c", encoded: b"3", expires: 0 }.encode(&mut expected);
        assert_eq!(changes.encode(NOW), expected);
    }

    #[test]
    fn a_change_that_cannot_be_made_again_drops_all_and_keeps_what_the_other_request_wrote() {
        let mut changes = Changes::over(Some(record(&[("n", b"1", 0)])));
        changes.push(set("a", "1"), NOW).unwrap();
        changes.push(append("n"), NOW).unwrap();
        let theirs = record(&[("n", b"x", 0), ("b", b"2", 0)]);
        assert!(changes.rebase(theirs.clone(), NOW).is_err());
        assert!(changes.is_empty());
        // Not the old base: writing that later would undo the other request.
        changes.push(set("later", "1"), NOW).unwrap();
        let values = seen(&changes);
        assert_eq!(values["n"], b"x");
        assert_eq!(values.keys().map(String::as_str).collect::<Vec<_>>(), ["b", "later", "n"]);
    }

    #[test]
    fn a_value_set_while_an_earlier_one_is_on_its_way_is_not_lost() {
        let mut changes = Changes::over(Some(record(&[])));
        changes.push(set("k", "1"), NOW).unwrap();
        let count = changes.len();
        changes.sent(count);
        changes.push(set("k", "2"), NOW).unwrap();
        changes.committed(record(&[("k", b"1", 0)]), count, NOW).unwrap();
        assert!(!changes.is_empty());
        assert_eq!(changes.get("k", NOW), Some(b"2".as_slice()));
    }

    #[test]
    fn setting_one_key_again_and_again_leaves_one_change() {
        let mut changes = Changes::over(None);
        for value in ["1", "2", "3"] {
            changes.push(set("k", value), NOW).unwrap();
        }
        assert_eq!(changes.len(), 1);
        changes.push(set("other", "1"), NOW).unwrap();
        changes.push(set("k", "4"), NOW).unwrap();
        assert_eq!(changes.len(), 3);
    }

    #[test]
    fn a_value_whose_time_is_over_starts_anew_when_it_is_modified() {
        let mut changes = Changes::over(Some(record(&[("tries", b"+", NOW - 1), ("live", b"+", NOW + 1)])));
        changes.push(append("tries"), NOW).unwrap();
        changes.push(append("live"), NOW).unwrap();
        assert_eq!(changes.get("tries", NOW), Some(b"+".as_slice()), "neither counted on nor expired at once");
        assert_eq!(changes.get("live", NOW), Some(b"++".as_slice()));
        assert_eq!(changes.get("live", NOW + 1), None, "a modified value keeps the time it had");
    }

    #[test]
    fn clearing_for_good_clears_what_a_parallel_request_wrote_meanwhile() {
        let mut changes = Changes::over(Some(record(&[])));
        changes.clear_for_good();
        changes.push(set("mine", "1"), NOW).unwrap();
        changes.rebase(record(&[("theirs", b"1", 0)]), NOW).unwrap();
        changes.rebase(record(&[]), NOW).unwrap();
        changes.rebase(record(&[("theirs", b"1", 0)]), NOW).unwrap();
        assert_eq!(seen(&changes).into_keys().collect::<Vec<_>>(), ["mine"]);
    }

    #[test]
    fn removing_what_is_not_there_is_no_change() {
        let mut changes = Changes::over(Some(record(&[("gone", b"1", NOW)])));
        changes.push(Change::Remove { key: "k".into() }, NOW).unwrap();
        changes.push(Change::Remove { key: "gone".into() }, NOW).unwrap();
        changes.push(Change::Clear, NOW).unwrap();
        assert!(changes.is_empty());
    }

    #[derive(Clone, Debug)]
    enum Op {
        Set(&'static str, String),
        Remove(&'static str),
        Append(&'static str),
        Clear,
    }

    impl Op {
        fn change(&self) -> Change {
            match self {
                Self::Set(key, value) => set(key, value),
                Self::Remove(key) => Change::Remove { key: (*key).into() },
                Self::Append(key) => append(key),
                Self::Clear => Change::Clear,
            }
        }

        fn model(&self, values: &mut BTreeMap<String, Vec<u8>>) {
            match self {
                Self::Set(key, value) => drop(values.insert((*key).to_owned(), value.clone().into_bytes())),
                Self::Remove(key) => drop(values.remove(*key)),
                Self::Append(key) => values.entry((*key).to_owned()).or_default().push(b'+'),
                Self::Clear => values.clear(),
            }
        }
    }

    fn key() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["a", "b", "c"])
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (key(), "[0-9]{1,3}").prop_map(|(key, value)| Op::Set(key, value)),
            key().prop_map(Op::Remove),
            key().prop_map(Op::Append),
            Just(Op::Clear),
        ]
    }

    fn stored() -> impl Strategy<Value = BTreeMap<&'static str, String>> {
        prop::collection::btree_map(key(), "[0-9]{1,3}", 0..3)
    }

    fn base(values: &BTreeMap<&'static str, String>) -> Record {
        let values: Vec<_> = values.iter().map(|(key, value)| (*key, value.as_bytes(), 0)).collect();
        record(&values)
    }

    fn model(base: &BTreeMap<&'static str, String>, ops: &[Op]) -> BTreeMap<String, Vec<u8>> {
        let mut values = base.iter().map(|(key, value)| ((*key).to_owned(), value.clone().into_bytes())).collect();
        ops.iter().for_each(|op| op.model(&mut values));
        values
    }

    proptest! {
        #[test]
        fn replaying_is_applying_to_the_new_base(
            first in stored(), second in stored(), third in stored(), ops in prop::collection::vec(op(), 0..12),
        ) {
            let mut changes = Changes::over(Some(base(&first)));
            let mut logged = Vec::new();
            for op in ops {
                let before = changes.len();
                let coalesced = matches!((&op, logged.last()), (Op::Set(key, _), Some(Op::Set(last, _))) if key == last);
                changes.push(op.change(), NOW).unwrap();
                if coalesced {
                    logged.pop();
                }
                // What did nothing when it was asked for, such as removing what is not there, is not logged.
                if coalesced || changes.len() > before {
                    logged.push(op);
                }
            }
            prop_assert_eq!(seen(&changes), model(&first, &logged));
            changes.rebase(base(&second), NOW).unwrap();
            prop_assert_eq!(seen(&changes), model(&second, &logged));
            changes.rebase(base(&third), NOW).unwrap();
            prop_assert_eq!(seen(&changes), model(&third, &logged));
            let mut decoded = record(&[]);
            decoded.values = changes.encode(NOW);
            let written: BTreeMap<_, _> = decoded.values().map(|value| (value.key.to_owned(), value.encoded.to_vec())).collect();
            prop_assert_eq!(written, model(&third, &logged));
        }
    }
}
