//! Verbs that look at every key: for operators and migrations.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use cloakroom_core::{Ended, Handle, SessionId, StoreError, Stored, Verb};
use redis::{Pipeline, Value};

use super::{RedisStore, answer};
use crate::fault::Fault;
use crate::link::{Answers, Held, Layout, Link, Primary};
use crate::value::{self, End, Found, HEADER};

/// How many keys one `SCAN` looks at.
const STEP: usize = 1000;
/// How many ids are remembered from one pass over all keys, so that a scan of a million sessions
/// takes ten passes and not ten thousand.
const REMEMBERED: usize = 100_000;
/// How many records travel in one message.
const RECORDS_AT_ONCE: usize = 64;
/// How many passes are begun, each because slots moved or a connection was lost in the one before.
const PASSES: usize = 3;

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
        let mut passes = Passes::new(Verb::Scan);
        loop {
            match self.pass_for_ids(after).await {
                Ok(found) => return Ok(found),
                Err(fault) => passes.lost(&fault)?,
            }
        }
    }

    async fn pass_for_ids(&self, after: Option<SessionId>) -> Result<(BTreeSet<SessionId>, bool), Fault> {
        let layout = self.layout().await?;
        let mut ids = BTreeSet::new();
        let mut more = false;
        let mut walk = self.walk().await?;
        while let Some(keys) = walk.step().await? {
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
        self.check_settled(&layout).await?;
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
        let mut passes = Passes::new(Verb::Explain);
        loop {
            match self.pass_for_end(handle).await {
                Ok(found) => return Ok(found),
                Err(fault) => passes.lost(&fault)?,
            }
        }
    }

    async fn pass_for_end(&self, handle: Handle) -> Result<Option<Ended>, Fault> {
        let layout = self.layout().await?;
        let mut ended: Option<Ended> = None;
        let mut walk = self.walk().await?;
        while let Some(keys) = walk.step().await? {
            let keys: Vec<_> = keys.into_iter().filter(|key| self.keys().id_of(key).is_some()).collect();
            let (headers, server) = walk.headers(&keys).await?;
            let now = self.0.carrier.clock.as_ref().map_or(server, |clock| clock.now());
            for header in headers {
                match value::end_of(&header, handle, now, self.0.carrier.tombstones) {
                    Some(End::Live) => return Ok(None),
                    Some(End::Ended(end)) if ended.is_none_or(|other| other.at <= end.at) => ended = Some(end),
                    Some(End::Ended(_)) | None => {}
                }
            }
        }
        self.check_settled(&layout).await?;
        Ok(ended)
    }

    /// Where the keys are before a pass over them.
    async fn layout(&self) -> Result<Layout, Fault> {
        let layout = self.0.carrier.link.layout().await?;
        if layout.is_moving() { Err(Fault::unsteady()) } else { Ok(layout) }
    }

    /// After a pass: an error if keys may have moved meanwhile from where it had yet to look to where it had looked.
    async fn check_settled(&self, before: &Layout) -> Result<(), Fault> {
        if self.0.carrier.link.layout().await? == *before { Ok(()) } else { Err(Fault::unsteady()) }
    }

    async fn walk(&self) -> Result<Walk<'_>, Fault> {
        let link = &self.0.carrier.link;
        let primaries = link.primaries().await?;
        Ok(Walk { link, pattern: self.keys().pattern(), primaries, held: None, cursor: None })
    }
}

/// How many passes are left to begin.
struct Passes {
    verb: Verb,
    left: usize,
}

impl Passes {
    const fn new(verb: Verb) -> Self {
        Self { verb, left: PASSES - 1 }
    }

    /// A pass was cut short by this, or was for nothing. An error where another one would not help, or would be one too many.
    fn lost(&mut self, fault: &Fault) -> Result<(), StoreError> {
        if self.left == 0 || !fault.is_of_the_moment() {
            return Err(fault.to_store_error(self.verb));
        }
        self.left -= 1;
        Ok(())
    }
}

/// Where a walk begins at a server, and what tells that it is over.
const START: &[u8] = b"0";

/// A way past all keys of the store, a step at a time. Some come more than once.
struct Walk<'s> {
    link: &'s Link,
    pattern: String,
    /// Those that nobody has looked at yet.
    primaries: Vec<Primary>,
    /// Where the keys of the last step are.
    held: Option<Held>,
    /// Nothing where that one has no more.
    cursor: Option<Vec<u8>>,
}

impl Walk<'_> {
    /// Some keys, perhaps none; nothing at the end of the way.
    async fn step(&mut self) -> Result<Option<Vec<Vec<u8>>>, Fault> {
        let cursor = match self.cursor.take() {
            Some(cursor) => cursor,
            None => {
                let Some(primary) = self.primaries.pop() else { return Ok(None) };
                self.held = Some(self.link.hold(&primary).await?);
                START.to_vec()
            }
        };
        let mut packet = Pipeline::with_capacity(1);
        packet.cmd("SCAN").arg(cursor).arg("MATCH").arg(&self.pattern).arg("COUNT").arg(STEP).arg("TYPE").arg("string");
        let answer = super::single(self.ask(packet).await?)?;
        let (next, keys) = scanned(answer).ok_or_else(|| Fault::wrong_answer("SCAN"))?;
        self.cursor = (next != START).then_some(next);
        Ok(Some(keys))
    }

    /// How the values under keys of the last step begin, and the time of their server.
    async fn headers(&self, keys: &[Vec<u8>]) -> Result<(Vec<Vec<u8>>, SystemTime), Fault> {
        let mut packet = Pipeline::with_capacity(keys.len() + 1);
        packet.cmd("TIME");
        for key in keys {
            packet.cmd("GETRANGE").arg(key.as_slice()).arg(0).arg(HEADER - 1);
        }
        let mut answers = self.ask(packet).await?.into_iter();
        let time = answers.next().unwrap_or_else(|| Err(Fault::wrong_answer("TIME")))?;
        let now = answer::time(&time).ok_or_else(|| Fault::wrong_answer("TIME"))?;
        let mut headers = Vec::with_capacity(keys.len());
        for answer in answers {
            let Value::BulkString(header) = answer? else { return Err(Fault::wrong_answer("GETRANGE")) };
            headers.push(header);
        }
        Ok((headers, now))
    }

    async fn ask(&self, mut packet: Pipeline) -> Result<Answers, Fault> {
        match &self.held {
            Some(held) => held.ask(&mut packet).await,
            None => Err(Fault::unsteady()),
        }
    }
}

/// The cursor to go on from, and keys.
fn scanned(value: Value) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let Value::Array(parts) = value else { return None };
    let [Value::BulkString(cursor), Value::Array(keys)] = <[Value; 2]>::try_from(parts).ok()? else { return None };
    let keys = keys.into_iter().map(|key| if let Value::BulkString(key) = key { Some(key) } else { None });
    Some((cursor, keys.collect::<Option<_>>()?))
}
