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
}

impl Changes {
    pub(crate) fn over(base: Option<Record>) -> Self {
        Self { base, ..Self::default() }
    }

    /// The same view with an empty log, to try something on.
    pub(crate) fn fork(&self) -> Self {
        Self { base: self.base.clone(), cleared: self.cleared, overlay: self.overlay.clone(), log: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.log.is_empty()
    }

    /// How many changes there are; [`committed`](Self::committed) takes it back.
    pub(crate) fn len(&self) -> usize {
        self.log.len()
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
        {
            self.log.pop();
        }
        self.log.push(change);
        Ok(())
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
                let expires = self.expiry(key);
                let value = apply(self.get(key, now))?;
                self.overlay(key.clone(), value.map(|encoded| (encoded.into(), expires)));
            }
        }
        Ok(true)
    }

    /// A modified value keeps the time it has left.
    fn expiry(&self, key: &str) -> u64 {
        match self.overlay.iter().find(|(known, _)| known == key) {
            Some((_, value)) => value.as_ref().map_or(0, |(_, expires)| *expires),
            None => self
                .base
                .as_ref()
                .filter(|_| !self.cleared)
                .and_then(|base| base.value(key))
                .map_or(0, |value| value.expires),
        }
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

    /// Another request was faster: makes the changes again on what it wrote.
    pub(crate) fn rebase(&mut self, base: Record, now: u64) -> Result<(), SessionError> {
        let mut fresh = Self::over(Some(base));
        for mut change in self.log.drain(..) {
            if fresh.apply(&mut change, now)? {
                fresh.log.push(change);
            }
        }
        *self = fresh;
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
