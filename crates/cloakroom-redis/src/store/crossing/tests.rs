//! Processes that die after the first or the second step, and everybody who comes by afterwards.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use cloakroom_core::{
    Clock as _, Create, EndReason, Excess, Handle, Load, Page, Principal, SessionStore as _, Stored, SystemClock,
    Touch, Update,
};
use cloakroom_services::shared;
use cloakroom_testkit::ManualClock;

use super::*;
use crate::options::{RedisDurability, RedisOptions};

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Revision = Revision::FIRST.next();

/// A visitor of a cluster who is signing in, and a clock that stands still.
struct SignIn {
    options: RedisOptions,
    store: RedisStore,
    clock: Arc<ManualClock>,
    alice: Principal,
    old: SessionId,
    new: SessionId,
    before: Record,
    after: Record,
}

/// How far the process came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Died {
    AfterPreparing,
    AfterCommitting,
}

impl SignIn {
    async fn start() -> Self {
        let clock = Arc::new(ManualClock::new());
        let prefix = format!("cloakroom:crossing-{}:", unique());
        let options = RedisOptions::new(&shared::cluster()).unwrap().with_prefix(prefix).unwrap();
        let options = options.with_clock(clock.clone());
        let store = options.clone().open().await.unwrap();
        let alice = Principal::new(format!("alice-{}", unique())).unwrap();
        let before = record(&clock);
        let after = before.clone().owned_by(alice.clone());
        let sign_in = Self { options, store, clock, old: id(None), new: id(Some(&alice)), alice, before, after };
        let created = sign_in.store.create(&sign_in.old, &sign_in.before, None).await.unwrap();
        assert_eq!(created, Create::Created { evicted: vec![] });
        sign_in
    }

    async fn died(died: Died) -> Self {
        let sign_in = Self::start().await;
        let latest = sign_in.prepare(None).await;
        if died == Died::AfterCommitting {
            assert_eq!(sign_in.commit(latest).await.unwrap(), Code::Done);
        }
        sign_in
    }

    /// The first step; until when the second is possible.
    async fn prepare(&self, limit: Option<SessionLimit>) -> u64 {
        let (keys, mut arguments) = self.store.filing(&self.new, &self.after, SECOND, limit, Verb::Renew).unwrap();
        arguments.push(self.old.as_bytes().to_vec());
        let prepared = self.store.run(Verb::Renew, &scripts::PREPARE, &keys, &arguments).await.unwrap();
        assert_eq!(prepared.code, Code::Done);
        prepared.number().unwrap() + COMMITTED_WITHIN
    }

    async fn commit(&self, latest: u64) -> Result<Code, StoreError> {
        let arguments = self.store.committing(&self.new, Revision::FIRST, latest, &self.after);
        let keys = [self.store.keys().session(&self.old)];
        self.store.run(Verb::Renew, &scripts::COMMIT, &keys, &arguments).await.map(|answer| answer.code)
    }

    async fn load(&self, id: &SessionId) -> Load {
        self.store.load(id).await.unwrap()
    }

    async fn handles(&self) -> Vec<Handle> {
        let listing = self.store.list(&self.alice, Page::FIRST).await.unwrap();
        listing.sessions.iter().map(|summary| summary.handle).collect()
    }

    async fn scanned(&self) -> Vec<SessionId> {
        self.store.scan(None, 10).await.unwrap().into_iter().map(|(id, _)| id).collect()
    }

    /// The session is under the old id, as if nothing had happened.
    async fn assert_not_moved(&self) {
        let stored = Stored { record: self.before.clone(), revision: Revision::FIRST };
        assert_eq!(self.load(&self.old).await, Load::Live(stored));
        assert_eq!(self.load(&self.new).await, Load::Gone(None));
        assert_eq!(self.handles().await, []);
        assert_eq!(self.scanned().await, [self.old]);
    }

    async fn assert_moved(&self) {
        assert_eq!(self.load(&self.old).await, Load::Gone(Some(EndReason::Renewed)));
        let stored = Stored { record: self.after.clone(), revision: SECOND };
        assert_eq!(self.load(&self.new).await, Load::Live(stored));
        assert_eq!(self.handles().await, [self.after.handle()]);
        assert_eq!(self.scanned().await, [self.new]);
    }

    async fn assert_ended(&self, reason: EndReason) {
        assert_eq!(self.load(&self.old).await, Load::Gone(Some(EndReason::Renewed)));
        assert_eq!(self.load(&self.new).await, Load::Gone(Some(reason)));
        assert_eq!(self.handles().await, []);
        assert_eq!(self.scanned().await, []);
        assert_eq!(self.store.explain(self.after.handle()).await.unwrap().map(|ended| ended.reason), Some(reason));
    }
}

fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let since = SystemClock.now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    format!("{}-{since}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn id(owner: Option<&Principal>) -> SessionId {
    let mut bytes = [0; SessionId::LEN];
    let name = Principal::new(unique()).unwrap();
    bytes[..SessionId::SHARD_LEN].copy_from_slice(&owner.unwrap_or(&name).shard());
    bytes[SessionId::SHARD_LEN..][..SessionId::SHARD_LEN].copy_from_slice(&name.shard());
    SessionId::from_bytes(bytes)
}

fn record(clock: &ManualClock) -> Record {
    let mut handle = [0; Handle::LEN];
    handle[..SessionId::SHARD_LEN].copy_from_slice(id(None).shard());
    Record::new(Handle::from_bytes(handle), clock.now(), 10 * MINUTE, 60 * MINUTE)
}

fn limit(max: u32, excess: Excess) -> Option<SessionLimit> {
    NonZeroU32::new(max).map(|max| SessionLimit { max, excess })
}

#[tokio::test]
async fn after_the_first_step_the_session_is_where_it_was() {
    let sign_in = SignIn::died(Died::AfterPreparing).await;
    sign_in.assert_not_moved().await;
    let SignIn { store, alice, new, after, .. } = &sign_in;
    assert_eq!(store.update(new, SECOND, after).await.unwrap(), Update::Gone(None));
    assert_eq!(store.touch(new, after.last_seen(), after.absolute_deadline()).await.unwrap(), Touch::Gone(None));
    let onward = id(Some(alice));
    let renewal = Renewal { old: new, new: &onward, expected: SECOND, record: after, limit: None };
    assert_eq!(store.renew(renewal).await.unwrap(), Renew::Gone(None));
    assert!(!store.delete(new, EndReason::Destroyed).await.unwrap());
    assert!(!store.revoke(alice, after.handle()).await.unwrap());
    assert_eq!(store.revoke_all(alice, None).await.unwrap(), 0);
    assert_eq!(store.explain(after.handle()).await.unwrap(), None);
    assert!(matches!(sign_in.load(&sign_in.old).await, Load::Live(_)));
}

#[tokio::test]
async fn after_the_first_step_the_visitor_signs_in_again() {
    let sign_in = SignIn::died(Died::AfterPreparing).await;
    let SignIn { store, alice, old, after, .. } = &sign_in;
    let again = id(Some(alice));
    let renewal = Renewal { old, new: &again, expected: Revision::FIRST, record: after, limit: None };
    assert_eq!(store.renew(renewal).await.unwrap(), Renew::Renewed { revision: SECOND, evicted: vec![] });
    assert!(matches!(sign_in.load(&again).await, Load::Live(_)));
    assert_eq!(sign_in.load(&sign_in.new).await, Load::Gone(None));
    assert_eq!(sign_in.handles().await, [after.handle()]);
}

#[tokio::test]
async fn the_second_step_does_not_come_late_and_the_first_is_taken_back() {
    let sign_in = SignIn::start().await;
    let latest = sign_in.prepare(None).await;
    sign_in.clock.advance(Duration::from_millis(COMMITTED_WITHIN + 1));
    let late = sign_in.commit(latest).await.unwrap_err();
    assert_eq!((late.kind(), late.outcome()), (StoreErrorKind::Timeout, WriteOutcome::NotDone));
    sign_in.assert_not_moved().await;
    sign_in.clock.advance(Duration::from_millis(MARGIN));
    sign_in.assert_not_moved().await;
    let created = sign_in.store.create(&sign_in.new, &sign_in.after, None).await.unwrap();
    assert_eq!(created, Create::Created { evicted: vec![] }, "nothing is left of the first step");
}

#[tokio::test]
async fn after_the_second_step_whoever_comes_first_finds_the_session_moved() {
    SignIn::died(Died::AfterCommitting).await.assert_moved().await;

    let sign_in = SignIn::died(Died::AfterCommitting).await;
    assert_eq!(sign_in.handles().await, [sign_in.after.handle()]);
    sign_in.assert_moved().await;

    let sign_in = SignIn::died(Died::AfterCommitting).await;
    assert_eq!(sign_in.scanned().await, [sign_in.new]);
    sign_in.assert_moved().await;

    let sign_in = SignIn::died(Died::AfterCommitting).await;
    assert_eq!(sign_in.store.explain(sign_in.after.handle()).await.unwrap(), None);
    sign_in.assert_moved().await;

    let sign_in = SignIn::died(Died::AfterCommitting).await;
    let touched = sign_in.store.touch(&sign_in.new, sign_in.after.last_seen(), sign_in.after.idle_deadline()).await;
    assert_eq!(touched.unwrap(), Touch::Touched);
    sign_in.assert_moved().await;

    // However late: the second step has no way back.
    let sign_in = SignIn::died(Died::AfterCommitting).await;
    sign_in.clock.advance(2 * MINUTE);
    sign_in.assert_moved().await;

    let sign_in = SignIn::died(Died::AfterCommitting).await;
    let updated = sign_in.store.update(&sign_in.new, SECOND, &sign_in.after).await.unwrap();
    assert_eq!(updated, Update::Saved(SECOND.next()));

    let sign_in = SignIn::died(Died::AfterCommitting).await;
    let onward = id(Some(&sign_in.alice));
    let renewal = Renewal { old: &sign_in.new, new: &onward, expected: SECOND, record: &sign_in.after, limit: None };
    assert_eq!(
        sign_in.store.renew(renewal).await.unwrap(),
        Renew::Renewed { revision: SECOND.next(), evicted: vec![] }
    );
    assert!(matches!(sign_in.load(&onward).await, Load::Live(_)));
}

#[tokio::test]
async fn after_the_second_step_the_session_can_be_ended_by_everybody_who_may() {
    for from_old in [true, false] {
        let sign_in = SignIn::died(Died::AfterCommitting).await;
        let id = if from_old { &sign_in.old } else { &sign_in.new };
        assert!(sign_in.store.delete(id, EndReason::Destroyed).await.unwrap());
        sign_in.assert_ended(EndReason::Destroyed).await;
    }

    let sign_in = SignIn::died(Died::AfterCommitting).await;
    assert!(sign_in.store.revoke(&sign_in.alice, sign_in.after.handle()).await.unwrap());
    sign_in.assert_ended(EndReason::Revoked).await;

    let sign_in = SignIn::died(Died::AfterCommitting).await;
    assert_eq!(sign_in.store.revoke_all(&sign_in.alice, Some(sign_in.after.handle())).await.unwrap(), 0);
    assert_eq!(sign_in.store.revoke_all(&sign_in.alice, None).await.unwrap(), 1);
    sign_in.assert_ended(EndReason::Revoked).await;
}

#[tokio::test]
async fn a_sign_out_of_the_old_session_wins_over_the_second_step() {
    let sign_in = SignIn::start().await;
    let latest = sign_in.prepare(None).await;
    assert!(sign_in.store.delete(&sign_in.old, EndReason::Destroyed).await.unwrap());
    assert_eq!(sign_in.commit(latest).await.unwrap(), Code::Gone);
    assert_eq!(sign_in.load(&sign_in.old).await, Load::Gone(Some(EndReason::Destroyed)));
    assert_eq!(sign_in.load(&sign_in.new).await, Load::Gone(None));
    assert_eq!(sign_in.handles().await, []);
}

#[tokio::test]
async fn what_was_ended_between_the_steps_stays_ended() {
    let sign_in = SignIn::start().await;
    let latest = sign_in.prepare(None).await;
    assert_eq!(sign_in.store.revoke_all(&sign_in.alice, None).await.unwrap(), 0);
    // The owner's sessions were all ended while this one was on its way to them: it may arrive, and
    // if so once only and whole, or be dead.
    assert_eq!(sign_in.commit(latest).await.unwrap(), Code::Done);
    assert_eq!(sign_in.load(&sign_in.old).await, Load::Gone(Some(EndReason::Renewed)));
    let live = matches!(sign_in.load(&sign_in.new).await, Load::Live(_));
    assert_eq!(sign_in.handles().await.len(), usize::from(live));
    assert_eq!(sign_in.scanned().await.len(), usize::from(live));
}

#[tokio::test]
async fn the_third_step_does_not_say_that_what_was_ended_lives() {
    let sign_in = SignIn::start().await;
    let latest = sign_in.prepare(None).await;
    assert_eq!(sign_in.store.revoke_all(&sign_in.alice, None).await.unwrap(), 0);
    assert_eq!(sign_in.commit(latest).await.unwrap(), Code::Done);
    let arrived = sign_in.store.arrive(&sign_in.new, SECOND, &sign_in.after, None).await;
    assert_eq!(arrived.unwrap(), Renew::Gone(Some(EndReason::Revoked)));
}

/// Else a failover at the one node takes the second step back, and the third stays at the other: both ids would live.
#[tokio::test]
async fn nobody_takes_the_third_step_where_replicas_may_not_know_of_the_second() {
    let sign_in = SignIn::died(Died::AfterCommitting).await;
    let more_than_there_are = RedisDurability::Acked { replicas: 9, timeout: Duration::from_millis(20) };
    let cautious = sign_in.options.clone().with_durability(more_than_there_are).open().await.unwrap();
    let (new, alice) = (&sign_in.new, &sign_in.alice);
    for error in [
        cautious.load(new).await.map(drop).unwrap_err(),
        cautious.list(alice, Page::FIRST).await.map(drop).unwrap_err(),
        cautious.update(new, SECOND, &sign_in.after).await.map(drop).unwrap_err(),
        cautious.revoke(alice, sign_in.after.handle()).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
        let (value, now) = sign_in.store.value(Verb::Load, new).await.unwrap();
        assert!(matches!(Found::of(&value, now, Verb::Load).unwrap(), Found::Pending(_)), "after {error}");
    }
    sign_in.assert_moved().await;
}

/// A replica takes over that had got neither of the two steps: the session is under the old id, as it was.
#[tokio::test]
async fn the_third_step_does_not_say_that_what_was_lost_is_over() {
    let sign_in = SignIn::died(Died::AfterCommitting).await;
    let link = &sign_in.store.0.carrier.link;
    for id in [&sign_in.new, &sign_in.old] {
        let key = sign_in.store.keys().session(id);
        let mut packet = Pipeline::with_capacity(1);
        packet.cmd("DEL").arg(&key);
        link.send(&key, packet, Verb::Delete).await.unwrap().pop().unwrap().unwrap();
    }
    sign_in.store.create(&sign_in.old, &sign_in.before, None).await.unwrap();
    let lost = sign_in.store.arrive(&sign_in.new, SECOND, &sign_in.after, None).await.unwrap_err();
    assert_eq!((lost.kind(), lost.outcome()), (StoreErrorKind::Unavailable, WriteOutcome::Unknown), "{lost}");
}

/// By it alone whoever comes late knows that the second step was done.
#[tokio::test]
async fn the_tombstone_of_the_old_session_outlives_the_record_of_the_new_one() {
    let sign_in = SignIn::died(Died::AfterCommitting).await;
    let left = async |id: &SessionId| {
        let key = sign_in.store.keys().session(id);
        let mut packet = Pipeline::with_capacity(1);
        packet.cmd("PTTL").arg(&key);
        let answer = sign_in.store.0.carrier.link.send(&key, packet, Verb::Load).await.unwrap().pop().unwrap();
        answer::number(&answer.unwrap()).unwrap()
    };
    let (new, old) = (left(&sign_in.new).await, left(&sign_in.old).await);
    assert!(old + 10_000 > new, "{old} {new}");
}

#[tokio::test]
async fn a_limit_counts_who_is_on_the_way_and_is_kept_by_whoever_does_the_third_step() {
    let sign_in = SignIn::start().await;
    let latest = sign_in.prepare(limit(1, Excess::Reject)).await;
    let other = id(Some(&sign_in.alice));
    let device = record(&sign_in.clock).owned_by(sign_in.alice.clone());
    let created = sign_in.store.create(&other, &device, limit(1, Excess::Reject)).await.unwrap();
    assert_eq!(created, Create::LimitReached, "the other could not come any more");
    assert_eq!(sign_in.commit(latest).await.unwrap(), Code::Done);
    sign_in.assert_moved().await;

    let sign_in = SignIn::start().await;
    sign_in.prepare(limit(1, Excess::Reject)).await;
    sign_in.clock.advance(Duration::from_millis(COMMITTED_WITHIN + MARGIN + 1));
    let other = id(Some(&sign_in.alice));
    let device = record(&sign_in.clock).owned_by(sign_in.alice.clone());
    let created = sign_in.store.create(&other, &device, limit(1, Excess::Reject)).await.unwrap();
    assert_eq!(created, Create::Created { evicted: vec![] }, "who will not come does not count");

    let sign_in = SignIn::start().await;
    let other = id(Some(&sign_in.alice));
    let device = record(&sign_in.clock).owned_by(sign_in.alice.clone());
    sign_in.store.create(&other, &device, None).await.unwrap();
    let latest = sign_in.prepare(limit(1, Excess::EvictOldest)).await;
    assert!(matches!(sign_in.load(&other).await, Load::Live(_)), "nobody has to go before it is certain");
    assert_eq!(sign_in.commit(latest).await.unwrap(), Code::Done);
    sign_in.assert_moved().await;
    assert_eq!(sign_in.load(&other).await, Load::Gone(Some(EndReason::Evicted)));
}

/// Somebody looks at the list between the second step and the third, and so does the third.
#[tokio::test]
async fn who_made_the_renewal_is_told_whom_it_evicted_also_when_somebody_else_was_first() {
    let sign_in = SignIn::start().await;
    let other = id(Some(&sign_in.alice));
    let device = record(&sign_in.clock).owned_by(sign_in.alice.clone());
    sign_in.store.create(&other, &device, None).await.unwrap();
    let limit = limit(1, Excess::EvictOldest);
    let latest = sign_in.prepare(limit).await;
    assert_eq!(sign_in.commit(latest).await.unwrap(), Code::Done);
    assert_eq!(sign_in.handles().await, [sign_in.after.handle()]);
    let arrived = sign_in.store.arrive(&sign_in.new, SECOND, &sign_in.after, limit).await;
    assert_eq!(arrived.unwrap(), Renew::Renewed { revision: SECOND, evicted: vec![device.handle()] });
    // What was left for that says nothing of a later end.
    assert!(sign_in.store.delete(&sign_in.new, EndReason::Destroyed).await.unwrap());
    sign_in.assert_ended(EndReason::Destroyed).await;
}

#[tokio::test]
async fn who_will_not_come_is_found_behind_any_number_of_others() {
    let sign_in = SignIn::start().await;
    let max = Page::MAX + 3;
    let limit = limit(max, Excess::Reject);
    for _ in 1..max {
        let device = record(&sign_in.clock).owned_by(sign_in.alice.clone());
        sign_in.store.create(&id(Some(&sign_in.alice)), &device, limit).await.unwrap();
    }
    sign_in.clock.advance(Duration::from_millis(1));
    let late = Record::new(sign_in.before.handle(), sign_in.clock.now(), 10 * MINUTE, 60 * MINUTE);
    let sign_in = SignIn { after: late.owned_by(sign_in.alice.clone()), ..sign_in };
    sign_in.prepare(limit).await;
    sign_in.clock.advance(Duration::from_millis(COMMITTED_WITHIN + MARGIN + 1));
    let device = record(&sign_in.clock).owned_by(sign_in.alice.clone());
    let created = sign_in.store.create(&id(Some(&sign_in.alice)), &device, limit).await.unwrap();
    assert_eq!(created, Create::Created { evicted: vec![] });
}
