//! `FaultyStore` does to each verb exactly what it was told.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cloakroom_core::{
    Clock as _, EndReason, Handle, Load, MemoryStore, Page, Principal, Record, Renewal, Revision, SessionId,
    SessionStore, StoreError, StoreErrorKind, Update, Verb, WriteOutcome,
};
use cloakroom_testkit::{Fault, FaultyStore, Gate, ManualClock};

const ID: SessionId = SessionId::from_bytes([1; SessionId::LEN]);
const NEW: SessionId = SessionId::from_bytes([2; SessionId::LEN]);
const HOUR: Duration = Duration::from_secs(3600);

struct Scene {
    clock: Arc<ManualClock>,
    store: Arc<FaultyStore>,
    record: Record,
    alice: Principal,
}

fn scene() -> Scene {
    let clock = Arc::new(ManualClock::new());
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new().with_clock(clock.clone()))));
    let alice = Principal::new("alice").unwrap();
    let record = Record::new(Handle::from_bytes([3; Handle::LEN]), clock.now(), HOUR, HOUR).owned_by(alice.clone());
    Scene { clock, store, record, alice }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap().block_on(future)
}

impl Scene {
    /// Calls a verb, whatever it answers.
    async fn call(&self, verb: Verb) -> Result<(), StoreError> {
        let store = &self.store;
        let renewal = Renewal { old: &ID, new: &NEW, expected: Revision::FIRST, record: &self.record, limit: None };
        match verb {
            Verb::Load => store.load(&ID).await.map(drop),
            Verb::Create => store.create(&ID, &self.record, None).await.map(drop),
            Verb::Update => store.update(&ID, Revision::FIRST, &self.record).await.map(drop),
            Verb::Touch => store.touch(&ID, self.clock.now(), self.clock.now() + HOUR).await.map(drop),
            Verb::Renew => store.renew(renewal).await.map(drop),
            Verb::Delete => store.delete(&ID, EndReason::Destroyed).await.map(drop),
            Verb::List => store.list(&self.alice, Page::FIRST).await.map(drop),
            Verb::Revoke => store.revoke(&self.alice, self.record.handle()).await.map(drop),
            Verb::RevokeAll => store.revoke_all(&self.alice, None).await.map(drop),
            Verb::Sweep => store.sweep(1).await.map(drop),
            Verb::Scan => store.scan(None, 1).await.map(drop),
            Verb::Explain => store.explain(self.record.handle()).await.map(drop),
            Verb::Probe => store.probe().await.map(drop),
            other => panic!("a verb that this test does not know: {other}"),
        }
    }
}

const VERBS: [Verb; 13] = [
    Verb::Load,
    Verb::Create,
    Verb::Update,
    Verb::Touch,
    Verb::Renew,
    Verb::Delete,
    Verb::List,
    Verb::Revoke,
    Verb::RevokeAll,
    Verb::Sweep,
    Verb::Scan,
    Verb::Explain,
    Verb::Probe,
];

#[test]
fn each_verb_fails_as_told_and_is_counted_and_no_other_is() {
    block_on(async {
        for verb in VERBS {
            let scene = scene();
            scene.store.once(verb, Fault::FailBefore(StoreErrorKind::Unavailable));
            scene.store.once(verb, Fault::FailAfter(StoreErrorKind::Timeout));
            for other in VERBS.into_iter().filter(|other| *other != verb) {
                scene.call(other).await.unwrap();
            }
            let first = scene.call(verb).await.unwrap_err();
            assert_eq!(
                (first.kind(), first.verb(), first.outcome()),
                (StoreErrorKind::Unavailable, verb, WriteOutcome::NotDone)
            );
            let second = scene.call(verb).await.unwrap_err();
            assert_eq!(
                (second.kind(), second.verb(), second.outcome()),
                (StoreErrorKind::Timeout, verb, WriteOutcome::Unknown)
            );
            scene.call(verb).await.unwrap();
            for counted in VERBS {
                assert_eq!(scene.store.calls(counted), if counted == verb { 3 } else { 1 }, "{counted}");
            }
            assert_eq!(scene.store.reads() + scene.store.writes(), 15);
            assert_eq!(
                scene.store.writes(),
                VERBS.iter().filter(|verb| verb.writes()).count() + if verb.writes() { 2 } else { 0 }
            );
        }
    });
}

#[test]
fn a_call_that_fails_before_leaves_nothing_and_one_that_fails_after_is_done() {
    block_on(async {
        let scene = scene();
        scene.store.once(Verb::Create, Fault::FailBefore(StoreErrorKind::Full));
        scene.call(Verb::Create).await.unwrap_err();
        assert_eq!(scene.store.load(&ID).await.unwrap(), Load::Gone(None));
        scene.store.once(Verb::Create, Fault::FailAfter(StoreErrorKind::Timeout));
        scene.call(Verb::Create).await.unwrap_err();
        assert!(matches!(scene.store.load(&ID).await.unwrap(), Load::Live(_)));
    });
}

#[test]
fn a_call_without_answer_is_pending_and_was_done_or_not_as_told() {
    block_on(async {
        let scene = scene();
        let mut context = Context::from_waker(Waker::noop());
        scene.store.once(Verb::Create, Fault::NeverBegin);
        scene.store.once(Verb::Create, Fault::NeverAnswer);
        for done in [false, true] {
            assert_eq!(pin!(scene.call(Verb::Create)).poll(&mut context).map(|_| ()), Poll::Pending);
            assert_eq!(scene.store.load(&ID).await.unwrap().live().is_some(), done);
        }
    });
}

#[test]
fn a_gate_holds_a_call_before_or_after_its_work_until_it_opens() {
    block_on(async {
        let scene = scene();
        scene.call(Verb::Create).await.unwrap();
        for held_at in [1, 3] {
            let gate = Gate::new();
            let fault = if held_at == 1 { Fault::HoldBefore(gate.clone()) } else { Fault::HoldAfter(gate.clone()) };
            scene.store.once(Verb::Update, fault);
            let seen = scene.store.load(&ID).await.unwrap().live().unwrap();
            let (store, record) = (scene.store.clone(), scene.record.clone());
            let call = tokio::spawn(async move { store.update(&ID, seen.revision, &record).await });
            gate.arrived(1).await;
            let held = scene.store.load(&ID).await.unwrap().live().unwrap().revision;
            assert_eq!(held, Revision::from_u64(held_at));
            gate.open();
            assert_eq!(call.await.unwrap().unwrap(), Update::Saved(seen.revision.next()));
        }
    });
}

#[test]
fn faults_last_until_healed_and_ids_are_kept_in_order() {
    block_on(async {
        let scene = scene();
        scene.store.always(Verb::Renew, Fault::FailBefore(StoreErrorKind::Unavailable));
        scene.store.once(Verb::Renew, Fault::FailAfter(StoreErrorKind::Timeout));
        let kinds = [scene.call(Verb::Renew).await.is_err(), scene.call(Verb::Renew).await.is_err()];
        // The first goes through and answers that there is nothing to renew; only its answer is lost.
        assert_eq!(kinds, [true, true]);
        scene.store.heal();
        scene.call(Verb::Renew).await.unwrap();
        scene.call(Verb::Probe).await.unwrap();
        scene.call(Verb::Load).await.unwrap();
        let renewal = [(Verb::Renew, ID), (Verb::Renew, NEW)];
        let expected: Vec<_> = [renewal, renewal, renewal].concat().into_iter().chain([(Verb::Load, ID)]).collect();
        assert_eq!(scene.store.ids(), expected);
        scene.store.forget_calls();
        assert_eq!((scene.store.reads(), scene.store.writes(), scene.store.ids()), (0, 0, vec![]));
        assert_eq!(scene.store.to_string(), "faulty(memory)");
    });
}
