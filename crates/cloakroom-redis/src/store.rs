//! The verbs of the store contract, as commands and scripts.

mod answer;
mod crossing;
mod listen;
mod scan;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use cloakroom_core::clock::unix_millis;
use cloakroom_core::{
    Clock, Create, EndReason, Ended, Excess, Handle, Listing, Load, Page, PageCursor, Principal, Probe, Record, Renew,
    Renewal, Revision, SessionId, SessionLimit, SessionStore, Signaller, Signals, StoreError, StoreErrorKind, Stored,
    Summary, Swept, Touch, Update, Verb,
};
use redis::{Pipeline, Value};

use self::answer::{Answer, Code};
use crate::batch::{Carry, Lane, Refused};
use crate::fault::Fault;
use crate::keys::{self, Keys};
use crate::link::Link;
use crate::options::RedisOptions;
use crate::scripts::{self, Script};
use crate::value::{self, Found};

/// Sessions in Redis or Valkey: one server, Sentinel, or Cluster. Clones share one store.
///
/// Every verb is atomic on the server, and one round trip; in a cluster a renewal that changes the
/// owner, which is what a sign-in of an anonymous visitor is, takes three, because the session moves
/// to the slot that holds all sessions of its owner. Nothing outside of the prefix is touched.
///
/// How much an acknowledged write survives is a choice: see [`RedisDurability`](crate::RedisDurability).
/// Sessions that are over, and tombstones, are removed by the server itself; a record stays for as
/// long as a tombstone would ([`with_tombstones`](RedisOptions::with_tombstones)), so that its id is
/// not given away again and `explain` can tell why it ended.
///
/// Bounded: when 4096 loads, updates or touches wait ([`with_queue`](RedisOptions::with_queue)) the next fails at once;
/// in a cluster nothing waits but for the server.
///
/// ```no_run
/// use cloakroom_core::SessionStore;
/// use cloakroom_redis::RedisOptions;
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let store = RedisOptions::new("redis://127.0.0.1:6379?prefix=shop:")?.open().await?;
/// for warning in store.probe().await?.warnings {
///     eprintln!("{warning}");
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct RedisStore(Arc<Inner>);

struct Inner {
    carrier: Arc<Carrier>,
    loads: Lane<SessionId, Result<(Bytes, SystemTime), Fault>>,
    updates: Lane<Written, Result<Value, Fault>>,
    touches: Lane<Seen, Result<Value, Fault>>,
    scanned: scan::Cache,
    signaller: Signaller,
    description: String,
}

/// What the tasks that carry calls share with the store.
struct Carrier {
    link: Link,
    keys: Keys,
    clock: Option<Arc<dyn Clock>>,
    tombstones: Duration,
}

/// An update on its way.
#[derive(Clone)]
struct Written {
    key: Vec<u8>,
    /// How the value begins that may be written over.
    start: Vec<u8>,
    value: Vec<u8>,
}

/// A touch on its way.
#[derive(Clone)]
struct Seen {
    key: Vec<u8>,
    last_seen: u64,
    idle_deadline: u64,
}

/// The most loads, and the most conditional writes, that travel in one command. The server serves
/// nobody else while it runs a script.
const LOADS_AT_ONCE: usize = 128;
const WRITES_AT_ONCE: usize = 32;

impl RedisStore {
    /// Opens the store that a URL names, with the default [`RedisOptions`].
    ///
    /// # Errors
    /// As [`RedisOptions::new`] and [`RedisOptions::open`].
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub async fn open(url: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(RedisOptions::new(url)?.open().await?)
    }

    pub(crate) fn start(link: Link, options: &RedisOptions) -> Self {
        let carrier = Arc::new(Carrier {
            keys: Keys::new(&options.prefix),
            clock: options.clock.clone(),
            tombstones: options.tombstones,
            link,
        });
        let patience = options.connect_timeout.max(options.timeout);
        Self(Arc::new(Inner {
            loads: Lane::start(Arc::clone(&carrier), options.queue, LOADS_AT_ONCE, patience),
            updates: Lane::start(Arc::clone(&carrier), options.queue, WRITES_AT_ONCE, patience),
            touches: Lane::start(Arc::clone(&carrier), options.queue, WRITES_AT_ONCE, patience),
            scanned: scan::Cache::default(),
            signaller: Signaller::new(),
            description: format!("redis({})", options.target),
            carrier,
        }))
    }

    /// Takes no more calls and closes the connections, for every clone. What was sent is answered.
    pub async fn close(&self) {
        self.0.signaller.close();
        self.0.carrier.link.close();
    }

    fn keys(&self) -> &Keys {
        &self.0.carrier.keys
    }

    /// Runs a script on the slot of its first key and reads its answer.
    async fn run(
        &self,
        verb: Verb,
        script: &Script,
        keys: &[Vec<u8>],
        arguments: &[Vec<u8>],
    ) -> Result<Answer, StoreError> {
        let value =
            self.0.carrier.run(verb, script, keys, arguments).await.map_err(|fault| fault.to_store_error(verb))?;
        Answer::read(value, verb)
    }

    /// `now` or nothing, and how long to keep what is over: what every script begins with.
    fn times(&self) -> Vec<Vec<u8>> {
        self.0.carrier.times()
    }

    /// The value under this id, and the time of its server.
    async fn value(&self, verb: Verb, id: &SessionId) -> Result<(Bytes, SystemTime), StoreError> {
        let mut questions = vec![*id];
        let answered = self.0.carrier.values(verb, &mut questions).await;
        let (mut values, now) = answered.map_err(|fault| fault.to_store_error(verb))?;
        Ok((values.pop().unwrap_or_default(), now))
    }

    /// What is under the id, once it is decided.
    async fn decided(&self, verb: Verb, id: &SessionId) -> Result<Found, StoreError> {
        let (value, now) = self.value(verb, id).await?;
        match Found::of(&value, now, verb)? {
            Found::Pending(stored) => {
                self.decide(verb, id, &stored.record).await?;
                let (value, now) = self.value(verb, id).await?;
                Ok(match Found::of(&value, now, verb)? {
                    // The session is where it comes from, and may come yet.
                    Found::Pending(_) => Found::Gone(None),
                    found @ (Found::Live(_) | Found::Gone(_)) => found,
                })
            }
            found @ (Found::Live(_) | Found::Gone(_)) => Ok(found),
        }
    }

    fn refused(&self, verb: Verb, refused: Refused) -> StoreError {
        let message = match refused {
            Refused::Full => "too many calls wait for Redis: it is slow, or the queue is too short for the load",
            Refused::Late => {
                "the call waited behind others for as long as a connection or an answer may take, and was not sent"
            }
            Refused::Ended => "the tasks that serve this store have ended: was it closed, or its runtime shut down?",
        };
        let error = StoreError::new(StoreErrorKind::Unavailable, verb, message);
        if refused == Refused::Ended { error } else { error.not_done() }
    }
}

fn wrong_answer(verb: Verb) -> StoreError {
    Fault::wrong_answer("a script").to_store_error(verb)
}

impl Carrier {
    fn times(&self) -> Vec<Vec<u8>> {
        let now = self.clock.as_ref().map(|clock| unix_millis(clock.now()).to_string()).unwrap_or_default();
        vec![now.into_bytes(), self.tombstones.as_millis().to_string().into_bytes()]
    }

    async fn run(&self, verb: Verb, script: &Script, keys: &[Vec<u8>], arguments: &[Vec<u8>]) -> Result<Value, Fault> {
        let route = keys.first().map(Vec::as_slice).unwrap_or_default();
        let one = |cmd| {
            let mut pipeline = Pipeline::with_capacity(1);
            pipeline.add_command(cmd);
            pipeline
        };
        let answer = self.link.send(route, one(script.by_hash(keys, arguments)), verb).await?;
        match single(answer) {
            Err(fault) if fault.is_no_script() => {
                single(self.link.send(route, one(script.by_text(keys, arguments)), verb).await?)
            }
            answer => answer,
        }
    }

    /// The values of these ids, empty where there is none, and the time by which to judge them. The
    /// ids are on one server.
    async fn values(&self, verb: Verb, ids: &mut [SessionId]) -> Result<(Vec<Bytes>, SystemTime), Fault> {
        let keys: Vec<_> = ids.iter().map(|id| self.keys.session(id)).collect();
        let route = keys.first().map(Vec::as_slice).unwrap_or_default();
        let mut pipeline = Pipeline::with_capacity(2);
        // Before the values: else a touch between the two could be missed, and a deadline not.
        if self.clock.is_none() {
            pipeline.cmd("TIME");
        }
        match &keys[..] {
            [key] => pipeline.cmd("GET").arg(key),
            keys => pipeline.cmd("MGET").arg(keys),
        };
        let mut answers = self.link.send(route, pipeline, verb).await?.into_iter();
        let mut next = || answers.next().unwrap_or_else(|| Err(Fault::wrong_answer("GET")));
        let now = match &self.clock {
            Some(clock) => clock.now(),
            None => answer::time(&next()?).ok_or_else(|| Fault::wrong_answer("TIME"))?,
        };
        let values = match (next()?, keys.len()) {
            (value, 1) => vec![value],
            (Value::Array(values), many) if values.len() == many => values,
            (_, _) => return Err(Fault::wrong_answer("MGET")),
        };
        let bytes = |value| {
            if let Value::BulkString(bytes) = value {
                return Ok(Bytes::from(bytes));
            }
            (value == Value::Nil).then(Bytes::new).ok_or_else(|| Fault::wrong_answer("GET"))
        };
        Ok((values.into_iter().map(bytes).collect::<Result<_, _>>()?, now))
    }

    /// Runs one script over several sessions that are on one server.
    async fn write(
        &self,
        verb: Verb,
        script: &Script,
        keys: Vec<Vec<u8>>,
        rest: Vec<Vec<u8>>,
    ) -> Result<Vec<Value>, Fault> {
        let arguments = [self.times(), rest].concat();
        let answer = self.run(verb, script, &keys, &arguments).await?;
        let answers = if let Value::Array(answers) = answer { Some(answers) } else { None };
        answers.filter(|answers| answers.len() == keys.len()).ok_or_else(|| Fault::wrong_answer("a script"))
    }
}

/// The answer to the one command of a packet.
fn single(answers: Vec<Result<Value, Fault>>) -> Result<Value, Fault> {
    let [answer] = <[_; 1]>::try_from(answers).map_err(|_| Fault::wrong_answer("a packet"))?;
    answer
}

/// One answer for each question, or the same failure for all.
fn spread<T>(result: Result<Vec<T>, Fault>, questions: usize) -> Vec<Result<T, Fault>> {
    match result {
        Ok(answers) => answers.into_iter().map(Ok).collect(),
        Err(fault) => (0..questions).map(|_| Err(fault.clone())).collect(),
    }
}

impl Carry<SessionId, Result<(Bytes, SystemTime), Fault>> for Carrier {
    async fn carry(&self, mut ids: Vec<SessionId>) -> Vec<Result<(Bytes, SystemTime), Fault>> {
        let answered = self.values(Verb::Load, &mut ids).await;
        let answered = answered.map(|(values, now)| values.into_iter().map(|value| (value, now)).collect());
        spread(answered, ids.len())
    }
}

impl Carry<Written, Result<Value, Fault>> for Carrier {
    async fn carry(&self, writes: Vec<Written>) -> Vec<Result<Value, Fault>> {
        let count = writes.len();
        let (mut keys, mut arguments) = (Vec::with_capacity(count), Vec::with_capacity(2 * count));
        for Written { key, start, value } in writes {
            keys.push(key);
            arguments.extend([start, value]);
        }
        spread(self.write(Verb::Update, &scripts::UPDATE, keys, arguments).await, count)
    }
}

impl Carry<Seen, Result<Value, Fault>> for Carrier {
    async fn carry(&self, touches: Vec<Seen>) -> Vec<Result<Value, Fault>> {
        let count = touches.len();
        let (mut keys, mut arguments) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for Seen { key, last_seen, idle_deadline } in touches {
            keys.push(key);
            arguments.push([last_seen, idle_deadline].map(u64::to_be_bytes).concat());
        }
        spread(self.write(Verb::Touch, &scripts::TOUCH, keys, arguments).await, count)
    }
}

/// The keys of a script, and its arguments.
type Call = (Vec<Vec<u8>>, Vec<Vec<u8>>);

fn revision(revision: Revision) -> Vec<u8> {
    revision.as_u64().to_be_bytes().to_vec()
}

/// What a script needs to know of a limit.
fn limit_arguments(limit: Option<SessionLimit>) -> [Vec<u8>; 2] {
    let (max, evict) = limit.map_or((0, false), |limit| (limit.max.get(), limit.excess == Excess::EvictOldest));
    [max.to_string().into_bytes(), u8::from(evict).to_string().into_bytes()]
}

impl RedisStore {
    /// The keys and arguments of what files a record: of `create`, and with more of the renewals.
    fn filing(
        &self,
        id: &SessionId,
        record: &Record,
        at: Revision,
        limit: Option<SessionLimit>,
        verb: Verb,
    ) -> Result<Call, StoreError> {
        if record.principal().is_some_and(|principal| principal.shard() != id.shard()) {
            let message = "the id does not have the shard of the record's owner: ids for an owner are minted with it";
            return Err(StoreError::new(StoreErrorKind::Corrupt, verb, message).not_done());
        }
        let keys = [Some(self.keys().session(id)), record.principal().map(|principal| self.keys().index(principal))];
        let mut arguments = self.times();
        arguments.extend([
            self.keys().base(id.shard()),
            keys::name(record.handle(), id),
            revision(at),
            record.encode(),
        ]);
        arguments.extend(limit_arguments(limit));
        Ok((keys.into_iter().flatten().collect(), arguments))
    }

    /// Runs a script that files a record. A session that is on its way to the owner counts until it is
    /// certain that it will not come, so before a limit refuses, that is looked up.
    async fn file(
        &self,
        verb: Verb,
        script: &Script,
        keys: &[Vec<u8>],
        arguments: &[Vec<u8>],
        record: &Record,
    ) -> Result<Answer, StoreError> {
        let answer = self.run(verb, script, keys, arguments).await?;
        match record.principal() {
            Some(owner) if answer.code == Code::Limit && self.0.carrier.link.is_cluster() => {
                self.listed(verb, owner, None, 0).await?;
                self.run(verb, script, keys, arguments).await
            }
            Some(_) | None => Ok(answer),
        }
    }

    /// Runs a script over the index of a principal, deciding first what it says is undecided.
    async fn over_index(
        &self,
        verb: Verb,
        script: &Script,
        principal: &Principal,
        arguments: impl Fn(bool) -> Vec<Vec<u8>>,
    ) -> Result<Answer, StoreError> {
        let keys = [self.keys().index(principal)];
        let answer = self.run(verb, script, &keys, &arguments(false)).await?;
        if answer.code != Code::Undecided {
            return Ok(answer);
        }
        for name in answer.strings().ok_or_else(|| wrong_answer(verb))? {
            if let Some(id) = keys::id_of_name(&principal.shard(), &name) {
                self.decided(verb, &id).await?;
            }
        }
        self.run(verb, script, &keys, &arguments(true)).await
    }

    /// What a page shows, and one more if there is a next one.
    async fn summaries(&self, verb: Verb, principal: &Principal, page: Page) -> Result<Vec<Summary>, StoreError> {
        let mut sessions = Vec::new();
        for value in self.listed(verb, principal, page.after, page.bounded_limit() + 1).await? {
            if let Some(Stored { record, .. }) = value::stored(&value.into(), verb)? {
                sessions.push(Summary::from(&record));
            }
        }
        Ok(sessions)
    }

    /// As many sessions as are wanted, if any are, after what is undecided has been decided.
    async fn listed(
        &self,
        verb: Verb,
        principal: &Principal,
        after: Option<PageCursor>,
        wanted: usize,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let base = self.keys().base(&principal.shard());
        let now = self.times().swap_remove(0);
        let created = after.map(|after| after.created.to_string().into_bytes()).unwrap_or_default();
        let handle = after.map(|after| after.handle.as_bytes().to_vec()).unwrap_or_default();
        let wanted = wanted.to_string().into_bytes();
        let answer = self
            .over_index(verb, &scripts::LIST, principal, |skip| {
                let skip = u8::from(skip).to_string().into_bytes();
                vec![now.clone(), base.clone(), created.clone(), handle.clone(), wanted.clone(), skip]
            })
            .await?;
        if answer.code != Code::Done {
            return Err(wrong_answer(verb));
        }
        answer.strings().ok_or_else(|| wrong_answer(verb))
    }

    async fn ended_by(
        &self,
        verb: Verb,
        principal: &Principal,
        only: Option<Handle>,
        spared: Option<Handle>,
    ) -> Result<u64, StoreError> {
        let base = self.keys().base(&principal.shard());
        let bytes = |handle: Option<Handle>| handle.map(|handle| handle.as_bytes().to_vec()).unwrap_or_default();
        let answer = self
            .over_index(verb, &scripts::REVOKE, principal, |all| {
                let all = u8::from(all).to_string().into_bytes();
                [self.times(), vec![base.clone(), bytes(only), bytes(spared), all]].concat()
            })
            .await?;
        match answer.code {
            Code::Done => answer.number().ok_or_else(|| wrong_answer(verb)),
            Code::Gone | Code::Conflict | Code::Occupied | Code::Limit | Code::Undecided | Code::Follow => {
                Err(wrong_answer(verb))
            }
        }
    }
}

#[async_trait]
impl SessionStore for RedisStore {
    async fn load(&self, id: &SessionId) -> Result<Load, StoreError> {
        let answered = if self.0.carrier.link.is_cluster() {
            self.0.carrier.carry(vec![*id]).await.pop().unwrap_or_else(|| Err(Fault::wrong_answer("GET")))
        } else {
            let called = self.0.loads.call(&*self.0.carrier, *id).await;
            called.map_err(|refused| self.refused(Verb::Load, refused))?
        };
        let (value, now) = answered.map_err(|fault: Fault| fault.to_store_error(Verb::Load))?;
        match Found::of(&value, now, Verb::Load)? {
            Found::Pending(_) => self.decided(Verb::Load, id).await.map(Load::from),
            found @ (Found::Live(_) | Found::Gone(_)) => Ok(found.into()),
        }
    }

    async fn create(&self, id: &SessionId, record: &Record, limit: Option<SessionLimit>) -> Result<Create, StoreError> {
        let (keys, arguments) = self.filing(id, record, Revision::FIRST, limit, Verb::Create)?;
        let answer = self.file(Verb::Create, &scripts::CREATE, &keys, &arguments, record).await?;
        match answer.code {
            Code::Done => Ok(Create::Created { evicted: answer.handles().ok_or_else(|| wrong_answer(Verb::Create))? }),
            Code::Occupied => Ok(Create::Occupied),
            Code::Limit => Ok(Create::LimitReached),
            Code::Gone | Code::Conflict | Code::Undecided | Code::Follow => Err(wrong_answer(Verb::Create)),
        }
    }

    async fn update(&self, id: &SessionId, expected: Revision, record: &Record) -> Result<Update, StoreError> {
        let start = value::start(expected);
        let written = Written { key: self.keys().session(id), start, value: value::live(expected.next(), record) };
        loop {
            let carrier = &*self.0.carrier;
            let answered = if carrier.link.is_cluster() {
                carrier.carry(vec![written.clone()]).await.pop().unwrap_or_else(|| Err(Fault::wrong_answer("a script")))
            } else {
                let called = self.0.updates.call(carrier, written.clone()).await;
                called.map_err(|refused| self.refused(Verb::Update, refused))?
            };
            let value = answered.map_err(|fault: Fault| fault.to_store_error(Verb::Update))?;
            let answer = Answer::read(value, Verb::Update)?;
            return match answer.code {
                Code::Done => Ok(Update::Saved(expected.next())),
                Code::Gone => Ok(Update::Gone(answer.reason())),
                Code::Conflict => match answer.stored(Verb::Update)? {
                    Some(stored) => Ok(Update::Conflict(stored)),
                    None => Ok(Update::Gone(None)),
                },
                Code::Undecided => match self.decided(Verb::Update, id).await? {
                    Found::Live(_) => continue,
                    Found::Gone(reason) => Ok(Update::Gone(reason)),
                    Found::Pending(_) => Ok(Update::Gone(None)),
                },
                Code::Occupied | Code::Limit | Code::Follow => Err(wrong_answer(Verb::Update)),
            };
        }
    }

    async fn touch(
        &self,
        id: &SessionId,
        last_seen: SystemTime,
        idle_deadline: SystemTime,
    ) -> Result<Touch, StoreError> {
        let (last_seen, idle_deadline) = (unix_millis(last_seen), unix_millis(idle_deadline));
        let seen = Seen { key: self.keys().session(id), last_seen, idle_deadline };
        loop {
            let carrier = &*self.0.carrier;
            let answered = if carrier.link.is_cluster() {
                carrier.carry(vec![seen.clone()]).await.pop().unwrap_or_else(|| Err(Fault::wrong_answer("a script")))
            } else {
                let called = self.0.touches.call(carrier, seen.clone()).await;
                called.map_err(|refused| self.refused(Verb::Touch, refused))?
            };
            let value = answered.map_err(|fault: Fault| fault.to_store_error(Verb::Touch))?;
            let answer = Answer::read(value, Verb::Touch)?;
            return match answer.code {
                Code::Done => Ok(Touch::Touched),
                Code::Gone => Ok(Touch::Gone(answer.reason())),
                Code::Undecided => match self.decided(Verb::Touch, id).await? {
                    Found::Live(_) => continue,
                    Found::Gone(reason) => Ok(Touch::Gone(reason)),
                    Found::Pending(_) => Ok(Touch::Gone(None)),
                },
                Code::Conflict | Code::Occupied | Code::Limit | Code::Follow => Err(wrong_answer(Verb::Touch)),
            };
        }
    }

    async fn renew(&self, renewal: Renewal<'_>) -> Result<Renew, StoreError> {
        let Renewal { old, new, expected, record, limit } = renewal;
        if self.0.carrier.link.is_cluster() && old.shard() != new.shard() {
            return self.renew_across(renewal).await;
        }
        let (mut keys, mut arguments) = self.filing(new, record, expected.next(), limit, Verb::Renew)?;
        keys.insert(0, self.keys().session(old));
        let old_rest = keys::name(record.handle(), old).split_off(Handle::LEN);
        arguments.extend([revision(expected), old_rest, new.as_bytes().to_vec()]);
        loop {
            let answer = self.file(Verb::Renew, &scripts::RENEW, &keys, &arguments, record).await?;
            return match answer.code {
                Code::Done => Ok(Renew::Renewed {
                    revision: expected.next(),
                    evicted: answer.handles().ok_or_else(|| wrong_answer(Verb::Renew))?,
                }),
                Code::Gone => Ok(Renew::Gone(answer.reason())),
                Code::Conflict => match answer.stored(Verb::Renew)? {
                    Some(stored) => Ok(Renew::Conflict(stored)),
                    None => Ok(Renew::Gone(None)),
                },
                Code::Occupied => Ok(Renew::Occupied),
                Code::Limit => Ok(Renew::LimitReached),
                Code::Undecided => match self.decided(Verb::Renew, old).await? {
                    Found::Live(_) => continue,
                    Found::Gone(reason) => Ok(Renew::Gone(reason)),
                    Found::Pending(_) => Ok(Renew::Gone(None)),
                },
                Code::Follow => Err(wrong_answer(Verb::Renew)),
            };
        }
    }

    async fn delete(&self, id: &SessionId, reason: EndReason) -> Result<bool, StoreError> {
        let mut id = *id;
        for _ in 0..LONGEST_TRAIL {
            let arguments = [self.times(), vec![reason.byte().to_string().into_bytes()]].concat();
            let answer = self.run(Verb::Delete, &scripts::DELETE, &[self.keys().session(&id)], &arguments).await?;
            match answer.code {
                Code::Done => return Ok(answer.number().ok_or_else(|| wrong_answer(Verb::Delete))? > 0),
                Code::Follow => id = answer.id().ok_or_else(|| wrong_answer(Verb::Delete))?,
                Code::Undecided => match self.decided(Verb::Delete, &id).await? {
                    // What it was renewed to meanwhile is ended as well: the script says where that is.
                    Found::Live(_) | Found::Gone(Some(_)) => {}
                    Found::Gone(None) | Found::Pending(_) => return Ok(false),
                },
                Code::Gone | Code::Conflict | Code::Occupied | Code::Limit => return Err(wrong_answer(Verb::Delete)),
            }
        }
        let message = "the tombstones lead in a circle: the data are damaged";
        Err(StoreError::new(StoreErrorKind::Corrupt, Verb::Delete, message))
    }

    async fn list(&self, principal: &Principal, page: Page) -> Result<Listing, StoreError> {
        Ok(Listing::from_summaries(self.summaries(Verb::List, principal, page).await?, page))
    }

    async fn revoke(&self, principal: &Principal, handle: Handle) -> Result<bool, StoreError> {
        Ok(self.ended_by(Verb::Revoke, principal, Some(handle), None).await? > 0)
    }

    async fn revoke_all(&self, principal: &Principal, except: Option<Handle>) -> Result<u64, StoreError> {
        self.ended_by(Verb::RevokeAll, principal, None, except).await
    }

    /// The server removes by itself what is over.
    async fn sweep(&self, _limit: u32) -> Result<Swept, StoreError> {
        Ok(Swept::default())
    }

    async fn scan(&self, after: Option<SessionId>, limit: u32) -> Result<Vec<(SessionId, Stored)>, StoreError> {
        self.scan_after(after, limit as usize).await
    }

    /// Looks at the keys of all sessions, a thousand at a time: seconds for a million.
    async fn explain(&self, handle: Handle) -> Result<Option<Ended>, StoreError> {
        self.find_end(handle).await
    }

    async fn probe(&self) -> Result<Probe, StoreError> {
        self.0.carrier.link.probe().await.map_err(|fault| fault.to_store_error(Verb::Probe))
    }

    fn signals(&self) -> Option<Signals> {
        let carrier = Arc::downgrade(&self.0.carrier);
        Some(self.0.signaller.signals_of(move |signaller| listen::listen(carrier.clone(), signaller)))
    }
}

/// More renewals than a session can have within the time that tombstones are kept.
const LONGEST_TRAIL: usize = 10_000;

impl fmt::Display for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.description)
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedisStore").field(&self.0.description).finish()
    }
}
