//! Renewing from one slot of a cluster into another: what every sign-in of an anonymous visitor is,
//! since all sessions of one owner are in one slot.
//!
//! No script spans slots, so it takes three, each atomic:
//!
//! 1. `prepare` files the new record, *pending*, with the old id beside it. It is not live yet.
//! 2. `commit` kills the old id, leaving a tombstone that names the new one. This is the point of no
//!    return: from here on the new id is the live one.
//! 3. `finalize` says so at the new id.
//!
//! Whoever meets a pending record looks at the old id: if that names the new one, and as many replicas know it as have to,
//! they do the third step themselves and go on; else the session is still under the old id. So every observer sees
//! exactly one of the two live, and a process that dies after any step leaves the one or the other.
//! The second step is refused when the first is long past; well after that, the first is taken back.

use cloakroom_core::clock::{from_unix_millis, unix_millis};
use cloakroom_core::{
    EndReason, Handle, Record, Renew, Renewal, Revision, SessionId, SessionLimit, StoreError, StoreErrorKind, Verb,
    WriteOutcome,
};
use redis::{Pipeline, Value};

use super::answer::{self, Code};
use super::{RedisStore, limit_arguments, revision, wrong_answer};
use crate::fault::Fault;
use crate::keys;
use crate::scripts;
use crate::value::Found;

/// The second step comes within so many milliseconds of the first, or not at all.
const COMMITTED_WITHIN: u64 = 10_000;
/// How much longer than that the first step stands: more than clocks of two nodes differ.
const MARGIN: u64 = 50_000;

const LOST: &str = "the server lost the session on its way to its new id: did a replica take over? Nobody knows under which id it \
                    lives, if it does; `durability=acked` or a ledger of ended sessions keeps what a failover may lose";

/// What is beside a pending record.
struct Marker {
    old: SessionId,
    prepared: u64,
    max: u64,
    evict: bool,
}

/// What the third step found and did.
#[derive(Debug)]
enum Third {
    /// And whom it evicted, whoever did the step.
    Lives {
        evicted: Vec<Handle>,
    },
    Ended(Option<EndReason>),
}

impl Marker {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (old, rest) = bytes.split_at_checked(SessionId::LEN)?;
        let (prepared, rest) = rest.split_at_checked(8)?;
        let (max, evict) = rest.split_at_checked(8)?;
        Some(Self {
            old: SessionId::from_bytes(old.try_into().ok()?),
            prepared: u64::from_be_bytes(prepared.try_into().ok()?),
            max: u64::from_be_bytes(max.try_into().ok()?),
            evict: evict == b"1",
        })
    }
}

impl RedisStore {
    /// In a task of its own, so that a future that is dropped stops it between no two steps.
    pub(super) async fn renew_across(&self, renewal: Renewal<'_>) -> Result<Renew, StoreError> {
        let (store, old, new) = (self.clone(), *renewal.old, *renewal.new);
        let (expected, record, limit) = (renewal.expected, renewal.record.clone(), renewal.limit);
        let moving = tokio::spawn(async move { store.cross(&old, &new, expected, &record, limit).await });
        match moving.await {
            Ok(renewed) => renewed,
            Err(_) => Err(self.refused(Verb::Renew, super::Refused::Ended)),
        }
    }

    async fn cross(
        &self,
        old: &SessionId,
        new: &SessionId,
        expected: Revision,
        record: &Record,
        limit: Option<SessionLimit>,
    ) -> Result<Renew, StoreError> {
        let verb = Verb::Renew;
        let (new_keys, mut arguments) = self.filing(new, record, expected.next(), limit, verb)?;
        arguments.push(old.as_bytes().to_vec());
        let prepared = self.file(verb, &scripts::PREPARE, &new_keys, &arguments, record).await?;
        let refused = match prepared.code {
            Code::Done => None,
            Code::Occupied => Some(Renew::Occupied),
            Code::Limit => Some(Renew::LimitReached),
            Code::Gone | Code::Conflict | Code::Undecided | Code::Follow => return Err(wrong_answer(verb)),
        };
        if let Some(refused) = refused {
            // That there is nothing to renew comes first.
            return Ok(match self.decided(verb, old).await? {
                Found::Live(stored) if stored.revision != expected => Renew::Conflict(stored),
                Found::Live(_) => refused,
                Found::Gone(reason) => Renew::Gone(reason),
                Found::Pending(_) => Renew::Gone(None),
            });
        }
        let latest = prepared.number().ok_or_else(|| wrong_answer(verb))?.saturating_add(COMMITTED_WITHIN);
        let refused = loop {
            let arguments = self.committing(new, expected, latest, record);
            let committed = match self.run(verb, &scripts::COMMIT, &[self.keys().session(old)], &arguments).await {
                Ok(committed) => committed,
                Err(error) if error.outcome() == WriteOutcome::NotDone => break Some(Err(error)),
                // Whether it is renewed, everybody who looks at the old id finds out.
                Err(error) => return Err(error),
            };
            break match committed.code {
                Code::Done => None,
                Code::Gone => Some(Ok(Renew::Gone(committed.reason()))),
                Code::Conflict => Some(committed.stored(verb).map(|stored| match stored {
                    Some(stored) => Renew::Conflict(stored),
                    None => Renew::Gone(None),
                })),
                Code::Undecided => match self.decided(verb, old).await? {
                    Found::Live(_) => continue,
                    Found::Gone(reason) => Some(Ok(Renew::Gone(reason))),
                    Found::Pending(_) => Some(Ok(Renew::Gone(None))),
                },
                Code::Occupied | Code::Limit | Code::Follow => Some(Err(wrong_answer(verb))),
            };
        };
        if let Some(refused) = refused {
            // What cannot be taken back now is taken back by whoever meets it.
            drop(self.run(verb, &scripts::ABANDON, &new_keys, &[keys::name(record.handle(), new)]).await);
            return refused;
        }
        self.arrive(new, expected.next(), record, limit).await
    }

    /// After the second step: the third, and what it says of the renewal.
    async fn arrive(
        &self,
        new: &SessionId,
        revision: Revision,
        record: &Record,
        limit: Option<SessionLimit>,
    ) -> Result<Renew, StoreError> {
        let [max, evict] = limit_arguments(limit);
        match self.finalize(Verb::Renew, new, record, max, evict).await {
            Ok(Third::Lives { evicted }) => Ok(Renew::Renewed { revision, evicted }),
            // All sessions of the owner were ended while this one was on its way to them.
            Ok(Third::Ended(Some(reason))) => Ok(Renew::Gone(Some(reason))),
            // Nobody may call the old id dead: where the first step was lost, the second may be too.
            Ok(Third::Ended(None)) => Err(StoreError::new(StoreErrorKind::Unavailable, Verb::Renew, LOST)),
            // It is renewed, and whoever meets it next does the third step.
            Err(_) => Ok(Renew::Renewed { revision, evicted: Vec::new() }),
        }
    }

    /// The arguments of the second step.
    fn committing(&self, new: &SessionId, expected: Revision, latest: u64, record: &Record) -> Vec<Vec<u8>> {
        let mut arguments = self.times();
        let [latest, idle] = [latest, unix_millis(record.idle_deadline())].map(|time| time.to_string().into_bytes());
        arguments.extend([revision(expected), new.as_bytes().to_vec(), latest, idle]);
        arguments
    }

    async fn finalize(
        &self,
        verb: Verb,
        new: &SessionId,
        record: &Record,
        max: Vec<u8>,
        evict: Vec<u8>,
    ) -> Result<Third, StoreError> {
        let keys = [Some(self.keys().session(new)), record.principal().map(|principal| self.keys().index(principal))];
        let keys: Vec<_> = keys.into_iter().flatten().collect();
        let mut arguments = self.times();
        arguments.extend([self.keys().base(new.shard()), keys::name(record.handle(), new), max, evict]);
        let answer = self.run(verb, &scripts::FINALIZE, &keys, &arguments).await?;
        match answer.code {
            Code::Done => Ok(Third::Lives { evicted: answer.handles().ok_or_else(|| wrong_answer(verb))? }),
            Code::Gone => Ok(Third::Ended(answer.reason())),
            Code::Conflict | Code::Occupied | Code::Limit | Code::Undecided | Code::Follow => Err(wrong_answer(verb)),
        }
    }

    /// Decides a pending record as far as it can be decided. Whatever fails on the way is the failure
    /// of the verb that met it, and left that undone.
    pub(super) async fn decide(&self, verb: Verb, new: &SessionId, record: &Record) -> Result<(), StoreError> {
        let decided = self.follow_through(verb, new, record).await;
        decided.map_err(|error| StoreError::new(error.kind(), verb, error.to_string()).not_done())
    }

    async fn follow_through(&self, verb: Verb, new: &SessionId, record: &Record) -> Result<(), StoreError> {
        let carrier = &self.0.carrier;
        let mut pipeline = Pipeline::with_capacity(2);
        let key = self.keys().marker(new);
        pipeline.cmd("GET").arg(&key).cmd("TIME");
        let answers = carrier.link.send(&key, pipeline, verb).await.map_err(|fault| fault.to_store_error(verb))?;
        let mut answers =
            answers.into_iter().collect::<Result<Vec<_>, Fault>>().map_err(|fault| fault.to_store_error(verb))?;
        let (Some(server), Some(marker)) = (answers.pop(), answers.pop()) else { return Err(wrong_answer(verb)) };
        let now = match &carrier.clock {
            Some(clock) => clock.now(),
            None => answer::time(&server).ok_or_else(|| wrong_answer(verb))?,
        };
        let Value::BulkString(marker) = marker else {
            // Somebody has decided it meanwhile.
            return Ok(());
        };
        if marker.len() % Handle::LEN == 0 {
            // So too, and left whom it evicted.
            return Ok(());
        }
        let Some(Marker { old, prepared, max, evict }) = Marker::read(&marker) else { return Err(wrong_answer(verb)) };
        let committed = [self.keys().session(&old)];
        let committed = self.run(Verb::Renew, &scripts::COMMITTED, &committed, &[new.as_bytes().to_vec()]).await?;
        if committed.number().ok_or_else(|| wrong_answer(verb))? > 0 {
            let evict = u8::from(evict).to_string().into_bytes();
            self.finalize(Verb::Renew, new, record, max.to_string().into_bytes(), evict).await?;
        } else if now > from_unix_millis(prepared.saturating_add(COMMITTED_WITHIN + MARGIN)) {
            let keys =
                [Some(self.keys().session(new)), record.principal().map(|principal| self.keys().index(principal))];
            let keys: Vec<_> = keys.into_iter().flatten().collect();
            self.run(Verb::Renew, &scripts::ABANDON, &keys, &[keys::name(record.handle(), new)]).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
