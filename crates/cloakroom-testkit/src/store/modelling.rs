//! Random sequences of calls, compared after each call with what a plain model of the contract says.

use std::time::{Duration, SystemTime};

use cloakroom_core::{
    Create, EndReason, Excess, Handle, Load, Principal, Record, Renew, Renewal, Revision, SessionId, Stored, Summary,
    Touch, Update,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::Fixture;
use super::stage::{Stage, limit, new_handle, new_id, principal, remade, with_number};

/// How many ids and how many principals a sequence plays with: few, so that calls meet.
const IDS: usize = 8;
const OWNERS: usize = 2;
const IDLE: Duration = Duration::from_secs(60);
const ABSOLUTE: Duration = Duration::from_secs(200);

/// Sequences of calls on few ids: every answer, and all that can be read after it, is the model's.
///
/// How many and how long, [`Options`](super::Options) says. The shortest sequence that fails is printed.
pub async fn random_calls_do_what_the_model_says(fixture: &dyn Fixture) {
    let options = fixture.options();
    let config = Config { cases: options.cases, failure_persistence: None, ..Config::default() };
    let calls = proptest::collection::vec(any_call(), 1..=options.calls.max(1));
    let runtime = tokio::runtime::Handle::current();
    let result = tokio::task::block_in_place(|| {
        TestRunner::new(config).run(&calls, |calls| runtime.block_on(run(fixture, &calls)))
    });
    if let Err(error) = result {
        panic!("random calls do not do what the contract says: {error}");
    }
}

#[derive(Clone, Debug)]
enum Call {
    Create { id: usize, owner: Option<usize>, limit: Option<(u32, Excess)> },
    Update { id: usize, stale: bool, number: u64 },
    Touch { id: usize, idle: u64 },
    Renew { old: usize, new: usize, owner: Option<usize>, stale: bool, limit: Option<(u32, Excess)> },
    Delete { id: usize },
    Revoke { owner: usize, id: usize },
    RevokeAll { owner: usize, except: Option<usize> },
    Sweep { limit: u32 },
    Advance { seconds: u64 },
}

fn any_call() -> impl Strategy<Value = Call> {
    let id = 0..IDS;
    let owner = proptest::option::of(0..OWNERS);
    let limit = proptest::option::of((1..4u32, prop_oneof![Just(Excess::Reject), Just(Excess::EvictOldest)]));
    let stale = proptest::bool::weighted(0.2);
    prop_oneof![
        6 => (id.clone(), owner.clone(), limit.clone()).prop_map(|(id, owner, limit)| Call::Create { id, owner, limit }),
        6 => (id.clone(), stale, any::<u64>()).prop_map(|(id, stale, number)| Call::Update { id, stale, number }),
        5 => (id.clone(), 0..150u64).prop_map(|(id, idle)| Call::Touch { id, idle }),
        5 => (id.clone(), id.clone(), owner, stale, limit)
            .prop_map(|(old, new, owner, stale, limit)| Call::Renew { old, new, owner, stale, limit }),
        2 => id.clone().prop_map(|id| Call::Delete { id }),
        1 => (0..OWNERS, id.clone()).prop_map(|(owner, id)| Call::Revoke { owner, id }),
        1 => (0..OWNERS, proptest::option::of(id)).prop_map(|(owner, except)| Call::RevokeAll { owner, except }),
        1 => (0..10u32).prop_map(|limit| Call::Sweep { limit }),
        2 => (0..40u64).prop_map(|seconds| Call::Advance { seconds }),
    ]
}

/// What was filed under an id.
#[derive(Clone, Debug)]
struct Entry {
    stored: Stored,
    ended: Option<(EndReason, Option<usize>)>,
}

/// The contract as plainly as it can be written: one map, one call at a time.
struct Model {
    entries: [Option<Entry>; IDS],
}

impl Model {
    fn live(&self, id: usize, now: SystemTime) -> Option<&Stored> {
        let entry = self.entries[id].as_ref()?;
        (entry.ended.is_none() && !entry.stored.record.is_expired(now)).then_some(&entry.stored)
    }

    /// Why nothing is live under this id.
    fn reason(&self, id: usize) -> Option<EndReason> {
        let entry = self.entries[id].as_ref()?;
        Some(entry.ended.map_or(EndReason::Expired, |(reason, _)| reason))
    }

    fn file(&mut self, id: usize, record: Record, revision: Revision) {
        self.entries[id] = Some(Entry { stored: Stored { record, revision }, ended: None });
    }

    fn end(&mut self, id: usize, reason: EndReason, successor: Option<usize>) {
        if let Some(entry) = &mut self.entries[id] {
            entry.ended = Some((reason, successor));
        }
    }

    /// The live ids of this owner, oldest first.
    fn owned(&self, owner: Option<&Principal>, now: SystemTime) -> Vec<usize> {
        let mut owned: Vec<_> = (0..IDS)
            .filter_map(|id| self.live(id, now).map(|stored| (Summary::from(&stored.record).cursor(), id, stored)))
            .filter(|(_, _, stored)| owner.is_some() && stored.record.principal() == owner)
            .map(|(cursor, id, _)| (cursor, id))
            .collect();
        owned.sort_unstable();
        owned.into_iter().map(|(_, id)| id).collect()
    }

    /// Who has to go so that one more session of this owner can be, or `None` if it cannot be.
    fn room(
        &self,
        owner: Option<&Principal>,
        limit: Option<(u32, Excess)>,
        instead_of: Option<usize>,
        now: SystemTime,
    ) -> Option<Vec<usize>> {
        let Some((max, excess)) = limit else { return Some(vec![]) };
        let mut others = self.owned(owner, now);
        others.retain(|id| Some(*id) != instead_of);
        others.truncate((others.len() + 1).saturating_sub(max as usize));
        (owner.is_none() || others.is_empty() || excess == Excess::EvictOldest).then_some(if owner.is_none() {
            vec![]
        } else {
            others
        })
    }

    fn evict(&mut self, ids: &[usize]) -> Vec<Handle> {
        for id in ids {
            self.end(*id, EndReason::Evicted, None);
        }
        let mut handles: Vec<_> = ids.iter().filter_map(|id| self.handle(*id)).collect();
        handles.sort_unstable();
        handles
    }

    fn handle(&self, id: usize) -> Option<Handle> {
        self.entries[id].as_ref().map(|entry| entry.stored.record.handle())
    }

    /// Where the session that was once under this id stands now.
    fn newest(&self, mut id: usize) -> usize {
        while let Some(Entry { ended: Some((_, Some(successor))), .. }) = self.entries[id] {
            id = successor;
        }
        id
    }
}

/// In whose shard an id is: by turns nobody's and each owner's. Under it are filed the records of that
/// owner, and anonymous ones.
fn shard_of(id: usize) -> Option<usize> {
    (id % (OWNERS + 1)).checked_sub(1)
}

/// The check's own names for ids and principals, and the model beside the store.
struct Game<'f> {
    stage: Stage<'f>,
    ids: [SessionId; IDS],
    owners: Vec<Principal>,
    model: Model,
}

async fn run(fixture: &dyn Fixture, calls: &[Call]) -> Result<(), TestCaseError> {
    let owners: Vec<_> = (0..OWNERS).map(|owner| principal(&format!("owner {owner} of {}", new_handle()))).collect();
    let mut game = Game {
        stage: Stage::new(fixture),
        ids: std::array::from_fn(|id| new_id(shard_of(id).map(|owner| &owners[owner]))),
        owners,
        model: Model { entries: [const { None }; IDS] },
    };
    let mut result = Ok(());
    for call in calls {
        result = match game.play(call).await {
            Ok(()) => game.compare(call).await,
            Err(error) => Err(error),
        };
        if result.is_err() {
            break;
        }
    }
    for id in &game.ids {
        game.stage.client.delete(id).await;
    }
    result
}

/// `Gone` for a reason that the model allows: nobody has to remember that a session expired.
fn reasons(reason: Option<EndReason>) -> Vec<Option<EndReason>> {
    if reason == Some(EndReason::Expired) { vec![reason, None] } else { vec![reason] }
}

fn one_of<T: PartialEq + std::fmt::Debug>(call: &Call, answer: &T, allowed: &[T]) -> Result<(), TestCaseError> {
    prop_assert!(allowed.contains(answer), "{call:?} answered {answer:?}, allowed was {allowed:?}");
    Ok(())
}

impl Game<'_> {
    async fn play(&mut self, call: &Call) -> Result<(), TestCaseError> {
        let now = self.stage.now();
        match *call {
            Call::Create { id, owner, limit: bound } => {
                let owner = owner.and(shard_of(id)).map(|owner| self.owners[owner].clone());
                let record = self.stage.record_until(owner.as_ref(), IDLE, ABSOLUTE);
                let bounded = bound.and_then(|(max, excess)| limit(max, excess));
                let mut answer = self.stage.client.create(&self.ids[id], &record, bounded).await;
                if let Create::Created { evicted } = &mut answer {
                    evicted.sort_unstable();
                }
                let room = self.model.room(owner.as_ref(), bound, None, now);
                let mut refusals = Vec::new();
                refusals.extend(self.model.entries[id].is_some().then_some(Create::Occupied));
                refusals.extend(room.is_none().then_some(Create::LimitReached));
                if !refusals.is_empty() {
                    return one_of(call, &answer, &refusals);
                }
                let evicted = self.model.evict(&room.unwrap_or_default());
                self.model.file(id, record, Revision::FIRST);
                one_of(call, &answer, &[Create::Created { evicted }])
            }
            Call::Update { id, stale, number } => {
                let Some(entry) = self.model.entries[id].clone() else {
                    let record = self.stage.record_until(None, IDLE, ABSOLUTE);
                    let answer = self.stage.client.update(&self.ids[id], Revision::FIRST, &record).await;
                    return one_of(call, &answer, &[Update::Gone(None)]);
                };
                let expected = if stale { entry.stored.revision.next() } else { entry.stored.revision };
                // As a request writes it that has read the record before any touch.
                let read = entry
                    .stored
                    .record
                    .clone()
                    .seen(entry.stored.record.created(), entry.stored.record.created() + IDLE);
                let answer = self.stage.client.update(&self.ids[id], expected, &with_number(&read, number)).await;
                let Some(stored) = self.model.live(id, now).cloned() else {
                    let allowed: Vec<_> = reasons(self.model.reason(id)).into_iter().map(Update::Gone).collect();
                    return one_of(call, &answer, &allowed);
                };
                if stale {
                    return one_of(call, &answer, &[Update::Conflict(stored)]);
                }
                self.model.file(id, with_number(&stored.record, number), expected.next());
                one_of(call, &answer, &[Update::Saved(expected.next())])
            }
            Call::Touch { id, idle } => {
                let deadline = now + Duration::from_secs(idle);
                let answer = self.stage.client.touch(&self.ids[id], now, deadline).await;
                let Some(Stored { record, revision }) = self.model.live(id, now).cloned() else {
                    let allowed: Vec<_> = reasons(self.model.reason(id)).into_iter().map(Touch::Gone).collect();
                    return one_of(call, &answer, &allowed);
                };
                let (seen, deadline) = (record.last_seen().max(now), record.idle_deadline().max(deadline));
                self.model.file(id, record.seen(seen, deadline), revision);
                one_of(call, &answer, &[Touch::Touched])
            }
            Call::Renew { old, new, owner, stale, limit: bound } => {
                self.renew(call, old, new, owner, stale, bound).await
            }
            Call::Delete { id } => {
                let answer = self.stage.client.delete(&self.ids[id]).await;
                let newest = self.model.newest(id);
                let live = self.model.live(newest, now).is_some();
                if live {
                    self.model.end(newest, EndReason::Destroyed, None);
                }
                one_of(call, &answer, &[live])
            }
            Call::Revoke { owner, id } => {
                let handle = self.model.handle(id).unwrap_or_else(new_handle);
                let answer = self.stage.client.revoke(&self.owners[owner], handle).await;
                let mut owned = self.model.owned(Some(&self.owners[owner]), now);
                owned.retain(|id| self.model.handle(*id) == Some(handle));
                for id in &owned {
                    self.model.end(*id, EndReason::Revoked, None);
                }
                one_of(call, &answer, &[!owned.is_empty()])
            }
            Call::RevokeAll { owner, except } => {
                let except = except.and_then(|id| self.model.handle(id));
                let answer = self.stage.client.revoke_all(&self.owners[owner], except).await;
                let mut owned = self.model.owned(Some(&self.owners[owner]), now);
                owned.retain(|id| except.is_none() || self.model.handle(*id) != except);
                for id in &owned {
                    self.model.end(*id, EndReason::Revoked, None);
                }
                one_of(call, &answer, &[owned.len() as u64])
            }
            Call::Sweep { limit } => {
                self.stage.client.sweep(limit).await;
                Ok(())
            }
            Call::Advance { seconds } => {
                self.stage.advance(Duration::from_secs(seconds));
                Ok(())
            }
        }
    }

    async fn renew(
        &mut self,
        call: &Call,
        old: usize,
        new: usize,
        owner: Option<usize>,
        stale: bool,
        bound: Option<(u32, Excess)>,
    ) -> Result<(), TestCaseError> {
        let now = self.stage.now();
        let owner = owner.and(shard_of(new)).map(|owner| self.owners[owner].clone());
        let current = self.model.entries[old].as_ref().map(|entry| entry.stored.clone());
        let (record, revision) = match &current {
            Some(Stored { record, revision }) => {
                let renewed = remade(record, record.handle(), owner.as_ref());
                (renewed.seen(record.last_seen(), now + IDLE), *revision)
            }
            None => (self.stage.record_until(owner.as_ref(), IDLE, ABSOLUTE), Revision::FIRST),
        };
        let expected = if stale { revision.next() } else { revision };
        let renewal = Renewal {
            old: &self.ids[old],
            new: &self.ids[new],
            expected,
            record: &record,
            limit: bound.and_then(|(max, excess)| limit(max, excess)),
        };
        let mut answer = self.stage.client.renew(renewal).await;
        if let Renew::Renewed { evicted, .. } = &mut answer {
            evicted.sort_unstable();
        }
        let Some(stored) = self.model.live(old, now).cloned() else {
            let allowed: Vec<_> = reasons(self.model.reason(old)).into_iter().map(Renew::Gone).collect();
            return one_of(call, &answer, &allowed);
        };
        let room = self.model.room(owner.as_ref(), bound, Some(old), now);
        let mut refusals = Vec::new();
        refusals.extend(stale.then_some(Renew::Conflict(stored)));
        refusals.extend(self.model.entries[new].is_some().then_some(Renew::Occupied));
        refusals.extend(room.is_none().then_some(Renew::LimitReached));
        if !refusals.is_empty() {
            return one_of(call, &answer, &refusals);
        }
        let evicted = self.model.evict(&room.unwrap_or_default());
        self.model.end(old, EndReason::Renewed, Some(new));
        self.model.file(new, record, expected.next());
        one_of(call, &answer, &[Renew::Renewed { revision: expected.next(), evicted }])
    }

    /// Everything that can be read is as the model has it.
    async fn compare(&self, call: &Call) -> Result<(), TestCaseError> {
        let now = self.stage.now();
        let found = self.stage.client.scan_all(50).await;
        for (at, id) in self.ids.iter().enumerate() {
            let loaded = self.stage.client.load(id).await;
            let allowed = match self.model.live(at, now) {
                Some(stored) => vec![Load::Live(stored.clone())],
                None => reasons(self.model.reason(at)).into_iter().map(Load::Gone).collect(),
            };
            prop_assert!(
                allowed.contains(&loaded),
                "after {call:?}, load of id {at} brought {loaded:?}, allowed was {allowed:?}"
            );
            let scanned: Vec<_> = found.iter().filter(|(found, _)| found == id).map(|(_, stored)| stored).collect();
            let live: Vec<_> = self.model.live(at, now).into_iter().collect();
            prop_assert!(scanned == live, "after {call:?}, scan of id {at} brought {scanned:?}, not {live:?}");
            if let Some(handle) = self.model.handle(at) {
                let newest = self.model.newest(at);
                let expected = if self.model.live(newest, now).is_some() { None } else { self.model.reason(newest) };
                let explained = self.stage.client.explain(handle).await.map(|ended| ended.reason);
                prop_assert!(
                    explained == expected,
                    "after {call:?}, explain of id {at} told {explained:?}, not {expected:?}"
                );
            }
        }
        for owner in &self.owners {
            let owned = self.model.owned(Some(owner), now);
            let expected: Vec<_> = owned
                .iter()
                .filter_map(|id| self.model.live(*id, now))
                .map(|stored| Summary::from(&stored.record))
                .collect();
            let listed = self.stage.client.list_all(owner).await;
            prop_assert!(listed == expected, "after {call:?}, list showed {listed:?}, not {expected:?}");
        }
        Ok(())
    }
}
