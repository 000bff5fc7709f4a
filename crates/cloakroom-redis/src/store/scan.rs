//! Verbs that look at every key: for operators and migrations.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use cloakroom_core::{Ended, Handle, SessionId, StoreError, Stored, Verb};
use redis::{Pipeline, Value};

use super::{RedisStore, answer};
use crate::fault::Fault;
use crate::link::{Link, Primary};
use crate::value::{self, End, Found, HEADER};

/// How many keys one `SCAN` looks at.
const STEP: usize = 1000;
/// How many ids are remembered from one pass over all keys, so that a scan of a million sessions
/// takes ten passes and not ten thousand.
const REMEMBERED: usize = 100_000;
/// How many records travel in one message.
const RECORDS_AT_ONCE: usize = 64;

/// The ids of the last pass that are still to be handed out, in order.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<Option<Ahead>>);

#[derive(Debug)]
struct Ahead {
    /// Where the caller is.
    after: SessionId,
    ids: BTreeSet<SessionId>,
    /// Whether there are more behind the last of them.
    more: bool,
}

impl Cache {
    fn take(&self, after: SessionId) -> Option<(BTreeSet<SessionId>, bool)> {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = cached.as_ref().is_some_and(|ahead| ahead.after == after);
        cached.take_if(|_| fits).map(|ahead| (ahead.ids, ahead.more))
    }

    fn put(&self, after: SessionId, ids: BTreeSet<SessionId>, more: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Ahead { after, ids, more });
    }
}

impl RedisStore {
    /// In the order of ids, so that each comes once whatever is written meanwhile.
    pub(super) async fn scan_after(
        &self,
        after: Option<SessionId>,
        limit: usize,
    ) -> Result<Vec<(SessionId, Stored)>, StoreError> {
        let mut found = Vec::new();
        let mut after = after;
        let (mut ids, mut more) = after.and_then(|after| self.0.scanned.take(after)).unwrap_or((BTreeSet::new(), true));
        while found.len() < limit {
            if ids.is_empty() {
                if !more {
                    return Ok(found);
                }
                (ids, more) = self.ids_after(after).await?;
                continue;
            }
            let taken: Vec<_> =
                std::iter::from_fn(|| ids.pop_first()).take((limit - found.len()).min(RECORDS_AT_ONCE)).collect();
            after = taken.last().copied();
            for (id, value, now) in self.values_of(taken).await? {
                match Found::of(&value, now, Verb::Scan)? {
                    Found::Live(stored) => found.push((id, stored)),
                    Found::Gone(_) => {}
                    Found::Pending(_) => {
                        if let Found::Live(stored) = self.decided(Verb::Scan, &id).await? {
                            found.push((id, stored));
                        }
                    }
                }
            }
        }
        if let Some(after) = after {
            self.0.scanned.put(after, ids, more);
        }
        Ok(found)
    }

    /// The first ids after this one, and whether there are more.
    async fn ids_after(&self, after: Option<SessionId>) -> Result<(BTreeSet<SessionId>, bool), StoreError> {
        let mut ids = BTreeSet::new();
        let mut more = false;
        let mut walk = self.walk(Verb::Scan).await?;
        while let Some((_, keys)) = walk.step().await? {
            for id in keys.iter().filter_map(|key| self.keys().id_of(key)) {
                if after.is_none_or(|after| id > after) {
                    ids.insert(id);
                    if ids.len() > REMEMBERED {
                        ids.pop_last();
                        more = true;
                    }
                }
            }
        }
        Ok((ids, more))
    }

    async fn values_of(&self, ids: Vec<SessionId>) -> Result<Vec<(SessionId, bytes::Bytes, SystemTime)>, StoreError> {
        let fail = |fault: Fault| fault.to_store_error(Verb::Scan);
        let mut values = Vec::with_capacity(ids.len());
        if self.0.carrier.link.is_cluster() {
            let loads = ids.iter().map(|id| async move { Ok((*id, self.value(Verb::Scan, id).await?)) });
            for loaded in futures_util::future::join_all(loads).await {
                let (id, (value, now)) = loaded?;
                values.push((id, value, now));
            }
        } else {
            let mut ids = ids;
            let (found, now) = self.0.carrier.values(Verb::Scan, &mut ids).await.map_err(fail)?;
            values.extend(ids.into_iter().zip(found).map(|(id, value)| (id, value, now)));
        }
        Ok(values)
    }

    /// Why the session of this handle ended.
    pub(super) async fn find_end(&self, handle: Handle) -> Result<Option<Ended>, StoreError> {
        let mut ended: Option<Ended> = None;
        let mut walk = self.walk(Verb::Explain).await?;
        while let Some((primary, keys)) = walk.step().await? {
            let (headers, now) =
                self.headers(&primary, &keys).await.map_err(|fault| fault.to_store_error(Verb::Explain))?;
            for header in headers {
                match value::end_of(&header, handle, now, self.0.carrier.tombstones) {
                    Some(End::Live) => return Ok(None),
                    Some(End::Ended(end)) if ended.is_none_or(|other| other.at <= end.at) => ended = Some(end),
                    Some(End::Ended(_)) | None => {}
                }
            }
        }
        Ok(ended)
    }

    /// How the values of sessions under these keys begin, and the time by which to judge them.
    async fn headers(&self, primary: &Primary, keys: &[Vec<u8>]) -> Result<(Vec<Vec<u8>>, SystemTime), Fault> {
        let mut packet = Pipeline::with_capacity(keys.len() + 1);
        packet.cmd("TIME");
        for key in keys.iter().filter(|key| self.keys().id_of(key).is_some()) {
            packet.cmd("GETRANGE").arg(key.as_slice()).arg(0).arg(HEADER - 1);
        }
        let mut answers = self.0.carrier.link.send_to(primary, packet, Verb::Explain).await?.into_iter();
        let server = answers.next().unwrap_or_else(|| Err(Fault::wrong_answer("TIME")))?;
        let now = match &self.0.carrier.clock {
            Some(clock) => clock.now(),
            None => answer::time(&server).ok_or_else(|| Fault::wrong_answer("TIME"))?,
        };
        // A key of another type, or one that has moved on meanwhile, is none of ours.
        let headers = answers
            .flatten()
            .filter_map(|answer| if let Value::BulkString(header) = answer { Some(header) } else { None });
        Ok((headers.collect(), now))
    }

    async fn walk(&self, verb: Verb) -> Result<Walk<'_>, StoreError> {
        let primaries = self.0.carrier.link.primaries().await.map_err(|fault| fault.to_store_error(verb))?;
        Ok(Walk { link: &self.0.carrier.link, verb, pattern: self.keys().pattern(), primaries, cursor: b"0".to_vec() })
    }
}

/// A way past all keys of the store, a step at a time.
struct Walk<'s> {
    link: &'s Link,
    verb: Verb,
    pattern: String,
    /// Those that are not done; the last is under way.
    primaries: Vec<Primary>,
    cursor: Vec<u8>,
}

impl Walk<'_> {
    /// Some keys, perhaps none, and the server that has them; nothing at the end of the way.
    async fn step(&mut self) -> Result<Option<(Primary, Vec<Vec<u8>>)>, StoreError> {
        let Some(primary) = self.primaries.last().cloned() else { return Ok(None) };
        let fail = |fault: Fault| fault.to_store_error(self.verb);
        let mut packet = Pipeline::with_capacity(1);
        packet.cmd("SCAN").arg(&self.cursor).arg("MATCH").arg(&self.pattern).arg("COUNT").arg(STEP);
        let answers = self.link.send_to(&primary, packet, self.verb).await.map_err(fail)?;
        let answer = super::single(answers).map_err(fail)?;
        let (next, keys) = scanned(answer).ok_or_else(|| fail(Fault::wrong_answer("SCAN")))?;
        if next == b"0" {
            self.primaries.pop();
        }
        self.cursor = next;
        Ok(Some((primary, keys)))
    }
}

/// The cursor to go on from, and keys.
fn scanned(value: Value) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let Value::Array(parts) = value else { return None };
    let [Value::BulkString(cursor), Value::Array(keys)] = <[Value; 2]>::try_from(parts).ok()? else { return None };
    let keys = keys.into_iter().map(|key| if let Value::BulkString(key) = key { Some(key) } else { None });
    Some((cursor, keys.collect::<Option<_>>()?))
}
