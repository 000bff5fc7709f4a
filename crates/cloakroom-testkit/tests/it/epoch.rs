//! The whole suite on a store with a ledger beside it, and the proof that what was ended stays ended
//! when the store comes back from a failover without its last writes.

use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use cloakroom_core::clock::Clock as _;
use cloakroom_core::layer::{EpochLayer, StoreExt as _};
use cloakroom_core::{
    Create, Durability, EndReason, Ended, Excess, Handle, Listing, Load, MemoryStore, Page, Principal, Probe, Record,
    Renew, Renewal, Revision, SessionId, SessionLimit, SessionStore, Signals, StoreError, StoreErrorKind, Stored,
    Swept, Touch, Update, Verb, WriteOutcome,
};
use cloakroom_testkit::store::Fixture;
use cloakroom_testkit::{Fault, FaultyStore, ManualClock, store_suite};

const HOUR: Duration = Duration::from_secs(60 * 60);

struct OnEpoch {
    clock: Arc<ManualClock>,
    store: Arc<dyn SessionStore>,
    /// Another process: the same data, and nothing seen yet.
    second: Arc<dyn SessionStore>,
}

impl OnEpoch {
    async fn start() -> Self {
        let clock = Arc::new(ManualClock::new());
        let memory = || -> Arc<dyn SessionStore> { Arc::new(MemoryStore::new().with_clock(clock.clone())) };
        let (inner, ledger) = (memory(), memory());
        let layer = EpochLayer::new(ledger).with_clock(clock.clone());
        Self { store: inner.clone().layer(layer.clone()), second: inner.layer(layer), clock }
    }
}

impl Fixture for OnEpoch {
    fn store(&self) -> Arc<dyn SessionStore> {
        self.store.clone()
    }

    fn second_handle(&self) -> Option<Arc<dyn SessionStore>> {
        Some(self.second.clone())
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        Some(self.clock.clone())
    }
}

store_suite!(suite, OnEpoch::start());

/// A primary that has told its replica of every write up to a point, and then the replica alone.
struct Replicated {
    primary: MemoryStore,
    replica: MemoryStore,
    state: AtomicU8,
    /// Somebody is quick, and the replica hears no more of it: whatever is renewed was ended before it was there.
    overtakes: AtomicBool,
    /// What happens after the next list was read.
    meanwhile: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
}

const LINKED: u8 = 0;
const CUT: u8 = 1;
const FAILED_OVER: u8 = 2;

impl Replicated {
    fn new(clock: &Arc<ManualClock>) -> Self {
        let memory = || MemoryStore::new().with_clock(clock.clone());
        Self {
            primary: memory(),
            replica: memory(),
            state: AtomicU8::new(LINKED),
            overtakes: AtomicBool::new(false),
            meanwhile: Mutex::default(),
        }
    }

    fn set(&self, state: u8) {
        self.state.store(state, Ordering::SeqCst);
    }

    fn serving(&self) -> &MemoryStore {
        if self.state.load(Ordering::SeqCst) == FAILED_OVER { &self.replica } else { &self.primary }
    }

    /// The write on whoever serves, and on the replica as long as it hears of writes.
    async fn write<'s, T>(
        &'s self,
        call: impl Fn(&'s MemoryStore) -> Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 's>> + Send,
    ) -> Result<T, StoreError> {
        if self.state.load(Ordering::SeqCst) == LINKED {
            call(&self.replica).await?;
        }
        call(self.serving()).await
    }
}

impl fmt::Debug for Replicated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Replicated(..)")
    }
}

impl fmt::Display for Replicated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("replicated")
    }
}

#[async_trait]
impl SessionStore for Replicated {
    async fn load(&self, id: &SessionId) -> Result<Load, StoreError> {
        self.serving().load(id).await
    }

    async fn create(&self, id: &SessionId, record: &Record, limit: Option<SessionLimit>) -> Result<Create, StoreError> {
        let (id, record) = (*id, record.clone());
        self.write(move |store| {
            let record = record.clone();
            Box::pin(async move { store.create(&id, &record, limit).await })
        })
        .await
    }

    async fn update(&self, id: &SessionId, expected: Revision, record: &Record) -> Result<Update, StoreError> {
        let (id, record) = (*id, record.clone());
        self.write(move |store| {
            let record = record.clone();
            Box::pin(async move { store.update(&id, expected, &record).await })
        })
        .await
    }

    async fn touch(&self, id: &SessionId, seen: SystemTime, deadline: SystemTime) -> Result<Touch, StoreError> {
        let id = *id;
        self.write(move |store| Box::pin(async move { store.touch(&id, seen, deadline).await })).await
    }

    async fn renew(&self, renewal: Renewal<'_>) -> Result<Renew, StoreError> {
        let Renewal { old, new, expected, record, limit } = renewal;
        let (old, new, record) = (*old, *new, record.clone());
        let renewed = self.write(move |store| {
            let record = record.clone();
            Box::pin(
                async move { store.renew(Renewal { old: &old, new: &new, expected, record: &record, limit }).await },
            )
        });
        let renewed = renewed.await?;
        if self.overtakes.load(Ordering::SeqCst) && matches!(renewed, Renew::Renewed { .. }) {
            self.set(CUT);
            self.delete(&new, EndReason::Revoked).await?;
            return Ok(Renew::Gone(Some(EndReason::Revoked)));
        }
        Ok(renewed)
    }

    async fn delete(&self, id: &SessionId, reason: EndReason) -> Result<bool, StoreError> {
        let id = *id;
        self.write(move |store| Box::pin(async move { store.delete(&id, reason).await })).await
    }

    async fn list(&self, principal: &Principal, page: Page) -> Result<Listing, StoreError> {
        let listing = self.serving().list(principal, page).await;
        let meanwhile = self.meanwhile.lock().unwrap().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile.await;
        }
        listing
    }

    async fn revoke(&self, principal: &Principal, handle: Handle) -> Result<bool, StoreError> {
        let principal = principal.clone();
        self.write(move |store| {
            let principal = principal.clone();
            Box::pin(async move { store.revoke(&principal, handle).await })
        })
        .await
    }

    async fn revoke_all(&self, principal: &Principal, except: Option<Handle>) -> Result<u64, StoreError> {
        let principal = principal.clone();
        self.write(move |store| {
            let principal = principal.clone();
            Box::pin(async move { store.revoke_all(&principal, except).await })
        })
        .await
    }

    async fn sweep(&self, limit: u32) -> Result<Swept, StoreError> {
        self.write(move |store| Box::pin(async move { store.sweep(limit).await })).await
    }

    async fn scan(&self, after: Option<SessionId>, limit: u32) -> Result<Vec<(SessionId, Stored)>, StoreError> {
        self.serving().scan(after, limit).await
    }

    async fn explain(&self, handle: Handle) -> Result<Option<Ended>, StoreError> {
        self.serving().explain(handle).await
    }

    async fn probe(&self) -> Result<Probe, StoreError> {
        Ok(Probe { durability: Durability::Async, ..self.serving().probe().await? })
    }

    fn signals(&self) -> Option<Signals> {
        self.serving().signals()
    }
}

/// A service before and after a failover that lost what came after the cut.
struct Stage {
    clock: Arc<ManualClock>,
    replicated: Arc<Replicated>,
    store: Arc<dyn SessionStore>,
    /// A process that has seen nothing.
    fresh: Arc<dyn SessionStore>,
    ledger: Arc<FaultyStore>,
}

struct Filed {
    id: SessionId,
    record: Record,
}

impl Stage {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new());
        let replicated = Arc::new(Replicated::new(&clock));
        let ledger = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new().with_clock(clock.clone()))));
        let layer = EpochLayer::new(ledger.clone()).with_clock(clock.clone());
        let inner: Arc<dyn SessionStore> = replicated.clone();
        let (store, fresh) = (inner.clone().layer(layer.clone()), inner.layer(layer));
        Self { clock, replicated, store, fresh, ledger }
    }

    fn record(&self, number: u8, owner: Option<&Principal>) -> Record {
        self.clock.advance(Duration::from_millis(1));
        let record = Record::new(Handle::from_bytes([number; Handle::LEN]), self.clock.now(), HOUR, 8 * HOUR);
        match owner {
            Some(owner) => record.owned_by(owner.clone()),
            None => record,
        }
    }

    async fn file(&self, number: u8, owner: Option<&Principal>) -> Filed {
        let (id, record) = (id(number), self.record(number, owner));
        let created = self.store.create(&id, &record, None).await.unwrap();
        assert_eq!(created, Create::Created { evicted: vec![] });
        Filed { id, record }
    }

    /// From here on the replica hears of nothing.
    fn cut(&self) {
        self.replicated.set(CUT);
    }

    fn fail_over(&self) {
        self.replicated.set(FAILED_OVER);
    }

    /// The store has it back, and nobody can do anything with it, whatever they have seen before.
    async fn assert_dead(&self, session: &Filed) {
        let Filed { id, record } = session;
        let Load::Live(back) = self.replicated.load(id).await.unwrap() else { panic!("the failover lost too little") };
        for store in [&self.store, &self.fresh] {
            assert!(matches!(store.load(id).await.unwrap(), Load::Gone(Some(_))), "load");
            let updated = store.update(id, back.revision, record).await.unwrap();
            assert!(matches!(updated, Update::Gone(Some(_))), "update: {updated:?}");
            let Load::Live(back) = self.replicated.load(id).await.unwrap() else { panic!("an update ends nothing") };
            let touched = store.touch(id, self.clock.now(), self.clock.now() + 2 * HOUR).await.unwrap();
            assert!(matches!(touched, Touch::Gone(Some(_))), "touch: {touched:?}");
            let new = self::id(0xee);
            for record in [record.clone(), self.record(0xee, Some(&mallory()))] {
                let renewal = Renewal { old: id, new: &new, expected: back.revision, record: &record, limit: None };
                let renewed = store.renew(renewal).await.unwrap();
                assert!(matches!(renewed, Renew::Gone(Some(_))), "renew: {renewed:?}");
            }
            assert_eq!(store.load(&new).await.unwrap(), Load::Gone(None));
            let scanned = store.scan(None, 100).await.unwrap();
            assert!(scanned.iter().all(|(found, _)| found != id), "scan");
            assert!(matches!(store.load(id).await.unwrap(), Load::Gone(Some(_))), "load after all that");
        }
    }

    async fn assert_listed(&self, principal: &Principal, handles: &[Handle]) {
        for store in [&self.store, &self.fresh] {
            let listing = store.list(principal, Page::FIRST).await.unwrap();
            let listed: Vec<_> = listing.sessions.iter().map(|summary| summary.handle).collect();
            assert_eq!(listed, handles);
        }
    }

    async fn assert_live(&self, id: &SessionId) {
        for store in [&self.store, &self.fresh] {
            assert!(matches!(store.load(id).await.unwrap(), Load::Live(_)));
        }
    }
}

fn id(number: u8) -> SessionId {
    SessionId::from_bytes([number; SessionId::LEN])
}

fn alice() -> Principal {
    Principal::new("alice").unwrap()
}

fn mallory() -> Principal {
    Principal::new("mallory").unwrap()
}

fn one(excess: Excess) -> Option<SessionLimit> {
    Some(SessionLimit { max: NonZeroU32::MIN, excess })
}

#[tokio::test]
async fn a_lost_delete_does_not_bring_the_session_back() {
    for owner in [None, Some(alice())] {
        let stage = Stage::new();
        let (session, other) = (stage.file(1, owner.as_ref()).await, stage.file(2, Some(&alice())).await);
        stage.cut();
        assert!(stage.store.delete(&session.id, EndReason::Destroyed).await.unwrap());
        stage.fail_over();
        stage.assert_dead(&session).await;
        stage.assert_live(&other.id).await;
        stage.assert_listed(&alice(), &[other.record.handle()]).await;
    }
}

#[tokio::test]
async fn a_lost_revocation_does_not_bring_the_session_back() {
    let stage = Stage::new();
    let (session, other) = (stage.file(1, Some(&alice())).await, stage.file(2, Some(&alice())).await);
    stage.cut();
    assert!(!stage.store.revoke(&mallory(), session.record.handle()).await.unwrap());
    assert!(stage.store.revoke(&alice(), session.record.handle()).await.unwrap());
    stage.fail_over();
    stage.assert_dead(&session).await;
    stage.assert_live(&other.id).await;
    stage.assert_listed(&alice(), &[other.record.handle()]).await;
}

#[tokio::test]
async fn a_lost_sign_out_everywhere_brings_no_session_back_and_spares_the_excepted_one() {
    let stage = Stage::new();
    let (kept, session) = (stage.file(1, Some(&alice())).await, stage.file(2, Some(&alice())).await);
    let (anonymous, other) = (stage.file(3, None).await, stage.file(4, Some(&mallory())).await);
    stage.cut();
    assert_eq!(stage.store.revoke_all(&alice(), Some(kept.record.handle())).await.unwrap(), 1);
    stage.fail_over();
    stage.assert_dead(&session).await;
    for id in [&kept.id, &anonymous.id, &other.id] {
        stage.assert_live(id).await;
    }
    stage.assert_listed(&alice(), &[kept.record.handle()]).await;
    // Whoever signs in after it is in, from nothing and from an anonymous session.
    let later = stage.file(5, Some(&alice())).await;
    stage.assert_live(&later.id).await;
    let record = Record::new(anonymous.record.handle(), stage.clock.now(), HOUR, HOUR).owned_by(alice());
    let renewal = Renewal { old: &anonymous.id, new: &id(6), expected: Revision::FIRST, record: &record, limit: None };
    assert!(matches!(stage.store.renew(renewal).await.unwrap(), Renew::Renewed { .. }));
    stage.assert_live(&id(6)).await;
    // Excepting a session that is dead does not revive it.
    stage.store.revoke_all(&alice(), Some(session.record.handle())).await.unwrap();
    assert!(matches!(stage.fresh.load(&session.id).await.unwrap(), Load::Gone(Some(_))));
}

#[tokio::test]
async fn a_lost_renewal_does_not_bring_the_old_id_back() {
    for (owner, next) in [(None, None), (None, Some(alice())), (Some(alice()), Some(alice()))] {
        let stage = Stage::new();
        let session = stage.file(1, owner.as_ref()).await;
        stage.cut();
        let record = match &next {
            Some(next) => session.record.clone().owned_by(next.clone()),
            None => session.record.clone(),
        };
        let renewal =
            Renewal { old: &session.id, new: &id(2), expected: Revision::FIRST, record: &record, limit: None };
        assert!(matches!(stage.store.renew(renewal).await.unwrap(), Renew::Renewed { .. }));
        stage.assert_live(&id(2)).await;
        stage.fail_over();
        stage.assert_dead(&session).await;
    }
}

#[tokio::test]
async fn a_renewal_that_ended_on_its_way_does_not_come_back_under_either_id() {
    for lost in ["the renewal and the end", "the end"] {
        let stage = Stage::new();
        let session = stage.file(1, Some(&alice())).await;
        if lost == "the renewal and the end" {
            stage.cut();
        }
        stage.replicated.overtakes.store(true, Ordering::SeqCst);
        let renewed = Filed { id: id(2), record: session.record.clone().owned_by(mallory()) };
        let record = &renewed.record;
        let renewal = Renewal { old: &session.id, new: &renewed.id, expected: Revision::FIRST, record, limit: None };
        assert_eq!(stage.store.renew(renewal).await.unwrap(), Renew::Gone(Some(EndReason::Revoked)));
        stage.replicated.overtakes.store(false, Ordering::SeqCst);
        stage.fail_over();
        stage.assert_dead(if lost == "the end" { &renewed } else { &session }).await;
    }
}

#[tokio::test]
async fn a_revocation_does_not_say_that_it_ended_what_went_on_to_another_owner() {
    let stage = Stage::new();
    let session = stage.file(1, Some(&alice())).await;
    let (store, old, record) = (stage.store.clone(), session.id, session.record.clone().owned_by(mallory()));
    *stage.replicated.meanwhile.lock().unwrap() = Some(Box::pin(async move {
        let renewal = Renewal { old: &old, new: &id(2), expected: Revision::FIRST, record: &record, limit: None };
        assert!(matches!(store.renew(renewal).await.unwrap(), Renew::Renewed { .. }));
    }));
    assert!(!stage.store.revoke(&alice(), session.record.handle()).await.unwrap());
    stage.assert_live(&id(2)).await;
}

#[tokio::test]
async fn a_conflict_is_judged_by_the_owner_that_the_session_has() {
    for lost in [false, true] {
        let stage = Stage::new();
        let session = stage.file(1, Some(&alice())).await;
        let record = session.record.clone().owned_by(mallory());
        let renewal =
            Renewal { old: &session.id, new: &id(2), expected: Revision::FIRST, record: &record, limit: None };
        assert!(matches!(stage.store.renew(renewal).await.unwrap(), Renew::Renewed { .. }));
        stage.cut();
        if lost {
            stage.store.revoke_all(&mallory(), None).await.unwrap();
        } else {
            stage.store.revoke_all(&alice(), None).await.unwrap();
        }
        stage.fail_over();
        for store in [&stage.store, &stage.fresh] {
            let updated = store.update(&id(2), Revision::FIRST, &session.record).await.unwrap();
            assert_eq!(matches!(updated, Update::Gone(Some(_))), lost, "{updated:?}");
            assert_eq!(matches!(updated, Update::Conflict(_)), !lost, "{updated:?}");
        }
    }
}

#[tokio::test]
async fn a_lost_eviction_does_not_bring_the_session_back() {
    let stage = Stage::new();
    let (first, second) = (stage.file(1, Some(&alice())).await, stage.file(2, None).await);
    stage.cut();
    let record = stage.record(2, Some(&alice()));
    let limit = one(Excess::EvictOldest);
    let renewal = Renewal { old: &second.id, new: &id(3), expected: Revision::FIRST, record: &record, limit };
    let evicted = vec![first.record.handle()];
    assert_eq!(
        stage.store.renew(renewal).await.unwrap(),
        Renew::Renewed { revision: Revision::FIRST.next(), evicted: evicted.clone() }
    );
    stage.fail_over();
    stage.assert_dead(&first).await;

    let stage = Stage::new();
    let first = stage.file(1, Some(&alice())).await;
    stage.cut();
    let record = stage.record(2, Some(&alice()));
    assert_eq!(stage.store.create(&id(2), &record, limit).await.unwrap(), Create::Created { evicted });
    stage.fail_over();
    stage.assert_dead(&first).await;
}

#[tokio::test]
async fn a_logout_ends_what_a_chain_of_renewals_led_to_whatever_of_it_is_lost() {
    for lost_from in 0..4 {
        for from in 0..4_u8 {
            let stage = Stage::new();
            let session = stage.file(10, None).await;
            for step in 0..3_u8 {
                if step == lost_from {
                    stage.cut();
                }
                let owner = if step % 2 == 0 { alice() } else { mallory() };
                // As the engine does it: somebody else in the same browser has another handle.
                let record = stage.record(if step == 0 { 10 } else { 20 + step }, Some(&owner));
                let (old, new) = (id(10 + step), id(11 + step));
                let expected = Revision::from_u64(u64::from(step) + 1);
                let renewal = Renewal { old: &old, new: &new, expected, record: &record, limit: None };
                assert!(matches!(stage.store.renew(renewal).await.unwrap(), Renew::Renewed { .. }));
            }
            stage.cut();
            assert!(stage.store.delete(&id(10 + from), EndReason::Destroyed).await.unwrap());
            stage.fail_over();
            for step in 0..4 {
                for store in [&stage.store, &stage.fresh] {
                    let loaded = store.load(&id(10 + step)).await.unwrap();
                    assert!(matches!(loaded, Load::Gone(_)), "lost from {lost_from}, logout with {from}: id {step}");
                }
            }
            drop(session);
        }
    }
}

#[tokio::test]
async fn a_session_that_the_failover_brought_back_does_not_count_towards_the_limit() {
    let stage = Stage::new();
    let session = stage.file(1, Some(&alice())).await;
    stage.cut();
    stage.store.delete(&session.id, EndReason::Destroyed).await.unwrap();
    stage.fail_over();
    let (record, limit) = (stage.record(2, Some(&alice())), one(Excess::Reject));
    let created = stage.store.create(&id(2), &record, limit).await.unwrap();
    assert_eq!(created, Create::Created { evicted: vec![] });
    let refused = stage.store.create(&id(3), &stage.record(3, Some(&alice())), limit).await.unwrap();
    assert_eq!(refused, Create::LimitReached);
}

#[tokio::test]
async fn a_ledger_that_does_not_answer_fails_every_verb_and_ends_nothing() {
    let stage = Stage::new();
    let session = stage.file(1, Some(&alice())).await;
    let Filed { id, record } = &session;
    for verb in [Verb::Load, Verb::Create, Verb::Update] {
        stage.ledger.always(verb, Fault::FailBefore(StoreErrorKind::Unavailable));
    }
    for store in [&stage.store, &stage.fresh] {
        assert_eq!(store.load(id).await.unwrap_err().verb(), Verb::Load);
        assert_eq!(store.list(&alice(), Page::FIRST).await.unwrap_err().verb(), Verb::List);
        assert_eq!(store.scan(None, 10).await.unwrap_err().verb(), Verb::Scan);
        assert_eq!(store.touch(id, stage.clock.now(), record.deadline()).await.unwrap_err().verb(), Verb::Touch);
        let renewal = Renewal { old: id, new: &self::id(2), expected: Revision::FIRST, record, limit: None };
        let untouched = [
            store.renew(renewal).await.unwrap_err(),
            store.delete(id, EndReason::Destroyed).await.unwrap_err(),
            store.revoke(&alice(), record.handle()).await.unwrap_err(),
            store.revoke_all(&alice(), None).await.unwrap_err(),
            store.create(&self::id(3), record, None).await.unwrap_err(),
        ];
        for error in untouched {
            assert_eq!(
                (error.kind(), error.outcome()),
                (StoreErrorKind::Unavailable, WriteOutcome::NotDone),
                "{error}"
            );
        }
        let updated = store.update(id, Revision::FIRST, record).await;
        assert!(updated.is_err(), "{updated:?}");
    }
    assert!(matches!(stage.replicated.load(id).await.unwrap(), Load::Live(_)));
    assert_eq!(stage.replicated.load(&self::id(3)).await.unwrap(), Load::Gone(None));
    stage.ledger.heal();
    stage.assert_live(id).await;
}

#[tokio::test]
async fn a_store_that_fails_after_the_ledger_leaves_the_session_ended() {
    let clock = Arc::new(ManualClock::new());
    let memory = || -> Arc<dyn SessionStore> { Arc::new(MemoryStore::new().with_clock(clock.clone())) };
    let inner = Arc::new(FaultyStore::new(memory()));
    let as_store: Arc<dyn SessionStore> = inner.clone();
    let store = as_store.layer(EpochLayer::new(memory()).with_clock(clock.clone()));
    for (number, verb) in [(1, Verb::Delete), (2, Verb::Revoke), (3, Verb::RevokeAll)] {
        let record = Record::new(Handle::from_bytes([number; 10]), clock.now(), HOUR, HOUR).owned_by(alice());
        store.create(&id(number), &record, None).await.unwrap();
        inner.once(verb, Fault::FailBefore(StoreErrorKind::Unavailable));
        let error = if verb == Verb::Delete {
            store.delete(&id(number), EndReason::Destroyed).await.unwrap_err()
        } else if verb == Verb::Revoke {
            store.revoke(&alice(), record.handle()).await.unwrap_err()
        } else {
            store.revoke_all(&alice(), None).await.unwrap_err()
        };
        assert_eq!((error.verb(), error.outcome()), (verb, WriteOutcome::Unknown));
        assert!(matches!(store.load(&id(number)).await.unwrap(), Load::Gone(Some(_))), "{verb}");
    }
}

#[tokio::test]
async fn a_renewal_that_the_ledger_does_not_take_hands_out_nothing() {
    let stage = Stage::new();
    let session = stage.file(1, None).await;
    stage.ledger.once(Verb::Create, Fault::FailBefore(StoreErrorKind::Unavailable));
    let record = session.record.clone().owned_by(alice());
    let renewal = Renewal { old: &session.id, new: &id(2), expected: Revision::FIRST, record: &record, limit: None };
    let error = stage.store.renew(renewal).await.unwrap_err();
    assert_eq!(error.verb(), Verb::Renew);
    assert_eq!(error.outcome(), WriteOutcome::Unknown, "the store has renewed it");
    // And a logout with the old token, which the client still has, ends what became of it.
    assert!(stage.store.delete(&session.id, EndReason::Destroyed).await.unwrap());
    for store in [&stage.store, &stage.fresh] {
        assert!(matches!(store.load(&id(2)).await.unwrap(), Load::Gone(Some(_))));
    }
}

/// Store and ledger are asked at once by whoever has seen the session before.
#[tokio::test]
async fn a_load_asks_store_and_ledger_at_once() {
    let clock = Arc::new(ManualClock::new());
    let memory = || -> Arc<dyn SessionStore> { Arc::new(MemoryStore::new().with_clock(clock.clone())) };
    let (inner, ledger) = (Arc::new(FaultyStore::new(memory())), Arc::new(FaultyStore::new(memory())));
    let as_store: Arc<dyn SessionStore> = inner.clone();
    let store = as_store.layer(EpochLayer::new(ledger.clone()).with_clock(clock.clone()));
    let record = Record::new(Handle::from_bytes([1; 10]), clock.now(), HOUR, HOUR).owned_by(alice());
    store.create(&id(1), &record, None).await.unwrap();
    let (of_store, of_ledger) = (cloakroom_testkit::Gate::new(), cloakroom_testkit::Gate::new());
    for verb in [Verb::Load, Verb::Update, Verb::Touch] {
        inner.always(verb, Fault::HoldBefore(of_store.clone()));
    }
    ledger.always(Verb::Load, Fault::HoldBefore(of_ledger.clone()));
    let calls = [
        tokio::spawn({
            let store = store.clone();
            async move { matches!(store.load(&id(1)).await, Ok(Load::Live(_))) }
        }),
        tokio::spawn({
            let (store, record) = (store.clone(), record.clone());
            async move { matches!(store.update(&id(1), Revision::FIRST, &record).await, Ok(Update::Saved(_))) }
        }),
        tokio::spawn({
            let (store, record) = (store.clone(), record.clone());
            async move { matches!(store.touch(&id(1), record.last_seen(), record.deadline()).await, Ok(Touch::Touched)) }
        }),
    ];
    // All of them, though none has been answered.
    of_store.arrived(3).await;
    of_ledger.arrived(9).await;
    of_store.open();
    of_ledger.open();
    for call in calls {
        assert!(call.await.unwrap());
    }
}

#[tokio::test]
async fn it_prints_both_stores_and_warns_of_a_ledger_that_forgets() {
    let stage = Stage::new();
    assert_eq!(stage.store.to_string(), "epoch(replicated, faulty(memory))");
    let probe = stage.store.probe().await.unwrap();
    assert_eq!(probe.durability, Durability::Epoch);
    assert_eq!(probe.server, "memory (0 entries); ledger: memory (0 entries)");
    assert!(probe.warnings.iter().any(|warning| warning.contains("its durability is `process`")), "{probe:?}");
}

#[tokio::test]
async fn sweeping_sweeps_the_ledger_too() {
    let stage = Stage::new();
    let session = stage.file(1, None).await;
    stage.store.delete(&session.id, EndReason::Destroyed).await.unwrap();
    stage.clock.advance(40 * HOUR);
    while stage.store.sweep(10).await.unwrap().more {}
    stage.clock.advance(40 * HOUR);
    while stage.store.sweep(10).await.unwrap().more {}
    assert_eq!(stage.ledger.probe().await.unwrap().server, "memory (0 entries)");
}
