//! What the store leaves on the server, and what it makes of what others put there.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cloakroom_core::{
    Clock as _, Create, EndReason, Excess, Handle, Load, Page, Principal, Record, Renew, Renewal, Revision, SessionId,
    SessionLimit, SessionStore as _, StoreError, StoreErrorKind, Stored, Swept, Touch, Update, Value, WriteOutcome,
};
use cloakroom_redis::{RedisOptions, RedisStore};
use cloakroom_services::Redis;
use cloakroom_testkit::ManualClock;
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands as _, AsyncConnectionConfig};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const TOMBSTONES: Duration = Duration::from_secs(24 * 60 * 60);
const SECOND: Revision = Revision::FIRST.next();

/// A server of one's own, a store on it, and the server as any other program sees it.
struct Place {
    _server: Redis,
    store: RedisStore,
    raw: MultiplexedConnection,
    clock: Arc<ManualClock>,
}

impl Place {
    async fn new() -> Self {
        let server = tokio::task::spawn_blocking(Redis::start).await.unwrap().unwrap();
        let clock = Arc::new(ManualClock::new());
        let options = RedisOptions::new(&server.url()).unwrap().with_prefix("shop:").unwrap();
        let store = options.with_clock(clock.clone()).open().await.unwrap();
        // A busy machine is no failure.
        let patient = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let client = redis::Client::open(server.url()).unwrap();
        let raw = client.get_multiplexed_async_connection_with_config(&patient).await.unwrap();
        Self { _server: server, store, raw, clock }
    }

    fn record(&self, n: u8, owner: Option<&Principal>) -> Record {
        let record = Record::new(handle(n), self.clock.now(), 10 * MINUTE, HOUR);
        let record = record.with_values([Value { key: "n", encoded: &[b'0' + n % 10], expires: 0 }]);
        match owner {
            Some(owner) => record.owned_by(owner.clone()),
            None => record,
        }
    }

    async fn file(&self, n: u8, owner: Option<&Principal>) -> SessionId {
        let id = id(n, owner);
        let created = self.store.create(&id, &self.record(n, owner), None).await.unwrap();
        assert_eq!(created, Create::Created { evicted: vec![] });
        id
    }

    async fn keys(&mut self) -> Vec<Vec<u8>> {
        let mut keys: Vec<Vec<u8>> = self.raw.keys("*").await.unwrap();
        keys.sort_unstable();
        keys
    }

    /// The only key that a session of nobody has.
    async fn only_key(&mut self) -> Vec<u8> {
        let keys = self.keys().await;
        assert_eq!(keys.len(), 1);
        keys.into_iter().next().unwrap()
    }

    /// The keys that hold sessions and tombstones, and those that hold indexes.
    async fn keys_of_type(&mut self, wanted: &str) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        for key in self.keys().await {
            let kind: String = redis::cmd("TYPE").arg(&key).query_async(&mut self.raw).await.unwrap();
            if kind == wanted {
                found.push(key);
            }
        }
        found
    }

    async fn expires_in(&mut self, key: &[u8]) -> Duration {
        let milliseconds: i64 = self.raw.pttl(key).await.unwrap();
        assert_ne!(milliseconds, -1, "{} has no time to live", key.escape_ascii());
        // Below zero, it has gone since it was seen.
        Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0))
    }
}

fn alice() -> Principal {
    Principal::new("alice").unwrap()
}

fn handle(n: u8) -> Handle {
    Handle::from_bytes([n; Handle::LEN])
}

fn id(n: u8, owner: Option<&Principal>) -> SessionId {
    let mut bytes = [n; SessionId::LEN];
    if let Some(owner) = owner {
        bytes[..SessionId::SHARD_LEN].copy_from_slice(&owner.shard());
    }
    SessionId::from_bytes(bytes)
}

fn assert_about(actual: Duration, expected: Duration) {
    assert!(actual <= expected && actual + Duration::from_secs(30) > expected, "{actual:?} is not about {expected:?}");
}

fn assert_corrupt<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    let error = result.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (StoreErrorKind::Corrupt, WriteOutcome::NotDone), "{error:?}");
    assert!(error.to_string().contains("prefix"), "what to look for: {error}");
}

/// Every verb once or more; what is left is one live session of alice, and tombstones.
async fn every_verb(place: &Place) {
    let (store, alice) = (&place.store, alice());
    let visitor = place.file(1, None).await;
    let device = place.file(2, Some(&alice)).await;
    place.file(3, Some(&alice)).await;
    let signed_in = id(4, Some(&alice));
    let record = place.record(1, Some(&alice));
    let saved = store.update(&visitor, Revision::FIRST, &place.record(1, None)).await.unwrap();
    assert_eq!(saved, Update::Saved(SECOND));
    let touched = store.touch(&visitor, place.clock.now(), place.clock.now() + 20 * MINUTE).await.unwrap();
    assert_eq!(touched, Touch::Touched);
    let renewal = Renewal { old: &visitor, new: &signed_in, expected: SECOND, record: &record, limit: None };
    assert_eq!(store.renew(renewal).await.unwrap(), Renew::Renewed { revision: SECOND.next(), evicted: vec![] });
    assert!(store.delete(&device, EndReason::Destroyed).await.unwrap());
    assert!(store.revoke(&alice, handle(3)).await.unwrap());
    let only = Some(SessionLimit { max: 1.try_into().unwrap(), excess: Excess::EvictOldest });
    let newest = place.record(5, Some(&alice));
    let created = store.create(&id(5, Some(&alice)), &newest, only).await.unwrap();
    assert_eq!(created, Create::Created { evicted: vec![handle(1)] });
    assert_eq!(store.revoke_all(&alice, Some(handle(5))).await.unwrap(), 0);
    assert_eq!(store.list(&alice, Page::FIRST).await.unwrap().sessions.len(), 1);
    assert_eq!(store.scan(None, 10).await.unwrap().len(), 1);
    assert_eq!(store.explain(handle(3)).await.unwrap().unwrap().reason, EndReason::Revoked);
    assert_eq!(store.sweep(10).await.unwrap(), Swept::default());
    assert!(store.probe().await.unwrap().server.contains("Redis"));
}

#[tokio::test]
async fn nothing_outside_of_the_prefix_is_written_or_taken_for_a_session() {
    let mut place = Place::new().await;
    let live = place.record(9, Some(&alice()));
    let value = [&[1, 0, 0, 0, 0, 0, 0, 0, 1][..], &live.encode()].concat();
    let foreign: [&[u8]; 6] =
        [b"shop", b"shop:", b"shop:visits", b"sho", b"shop2:{AAAAAA}AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", b"{shop:}x"];
    for key in foreign {
        let () = place.raw.set(key, &value).await.unwrap();
    }
    let () = place.raw.rpush("shop:{jobs}", "one").await.unwrap();
    let before = place.keys().await;
    every_verb(&place).await;
    for key in foreign {
        let now: Vec<u8> = place.raw.get(key).await.unwrap();
        assert_eq!(now, value, "{key:?}");
        assert_eq!(place.raw.pttl::<_, i64>(key).await.unwrap(), -1, "{key:?}");
    }
    assert_eq!(place.raw.lrange::<_, Vec<String>>("shop:{jobs}", 0, -1).await.unwrap(), ["one"]);
    let after = place.keys().await;
    assert!(before.iter().all(|key| after.contains(key)));
    assert!(after.iter().filter(|key| !before.contains(key)).all(|key| key.starts_with(b"shop:{")));
}

#[tokio::test]
async fn every_key_goes_by_itself_and_not_too_early() {
    let mut place = Place::new().await;
    let alice = alice();
    let session = place.file(1, None).await;
    let key = place.only_key().await;
    assert_about(place.expires_in(&key).await, 10 * MINUTE + TOMBSTONES);
    place.clock.advance(MINUTE);
    place.store.touch(&session, place.clock.now(), place.clock.now() + 30 * MINUTE).await.unwrap();
    assert_about(place.expires_in(&key).await, 30 * MINUTE + TOMBSTONES);
    place.store.delete(&session, EndReason::Destroyed).await.unwrap();
    assert_about(place.expires_in(&key).await, TOMBSTONES);

    let signed_in = place.file(2, Some(&alice)).await;
    let index = place.keys_of_type("zset").await.pop().unwrap();
    assert_about(place.expires_in(&index).await, HOUR + TOMBSTONES);
    // A shorter session does not cut it, and one that is made longer takes it along.
    let short = Record::new(handle(3), place.clock.now(), MINUTE, MINUTE).owned_by(alice.clone());
    place.store.create(&id(3, Some(&alice)), &short, None).await.unwrap();
    assert_about(place.expires_in(&index).await, HOUR + TOMBSTONES);
    let longer = Record::new(handle(2), place.clock.now(), 10 * MINUTE, 5 * HOUR).owned_by(alice);
    assert_eq!(place.store.update(&signed_in, Revision::FIRST, &longer).await.unwrap(), Update::Saved(SECOND));
    assert_about(place.expires_in(&index).await, 5 * HOUR + TOMBSTONES);

    let mut place = Place::new().await;
    every_verb(&place).await;
    for key in place.keys().await {
        assert!(place.expires_in(&key).await <= HOUR + TOMBSTONES);
    }
}

#[tokio::test]
async fn an_index_does_not_grow_with_sessions_that_are_over() {
    let mut place = Place::new().await;
    let alice = alice();
    // The oldest are not those that are over.
    for n in 250..=251 {
        let remembered = Record::new(handle(n), place.clock.now(), 100 * HOUR, 100 * HOUR).owned_by(alice.clone());
        place.store.create(&id(n, Some(&alice)), &remembered, None).await.unwrap();
    }
    for n in 0..200 {
        place.file(n, Some(&alice)).await;
        place.clock.advance(2 * MINUTE);
    }
    let index = place.keys_of_type("zset").await.pop().unwrap();
    let entries: u64 = place.raw.zcard(&index).await.unwrap();
    // Seven are live at a time.
    assert!(entries <= 30, "{entries} entries");
    assert_eq!(place.store.list(&alice, Page::FIRST).await.unwrap().sessions.len(), 6);
}

#[tokio::test]
async fn scripts_that_the_server_has_lost_are_sent_again() {
    let mut place = Place::new().await;
    for _ in 0..2 {
        let () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut place.raw).await.unwrap();
        every_verb(&place).await;
        let () = redis::cmd("FLUSHALL").query_async(&mut place.raw).await.unwrap();
    }
    let session = place.file(1, None).await;
    let over = Arc::new(AtomicBool::new(false));
    let flushing = {
        let (mut raw, over) = (place.raw.clone(), Arc::clone(&over));
        tokio::spawn(async move {
            while !over.load(Ordering::SeqCst) {
                let () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut raw).await.unwrap();
            }
        })
    };
    let writers = (0..16).map(|_| {
        let store = place.store.clone();
        tokio::spawn(async move {
            let mut saved = 0;
            while saved < 10 {
                let Load::Live(Stored { record, revision }) = store.load(&session).await.unwrap() else {
                    panic!("the session is live")
                };
                saved += u64::from(
                    store.update(&session, revision, &record).await.unwrap() == Update::Saved(revision.next()),
                );
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    over.store(true, Ordering::SeqCst);
    flushing.await.unwrap();
    let Load::Live(Stored { revision, .. }) = place.store.load(&session).await.unwrap() else {
        panic!("the session is live")
    };
    assert_eq!(revision.as_u64(), 161, "each was written once");
}

#[tokio::test]
async fn what_is_no_session_under_our_key_is_named_and_left_alone() {
    let mut place = Place::new().await;
    let session = place.file(1, None).await;
    let key = place.only_key().await;
    let () = place.raw.del(&key).await.unwrap();
    let () = place.raw.rpush(&key, "one").await.unwrap();
    let (store, record, new) = (&place.store, place.record(1, None), id(2, None));
    assert_corrupt(store.update(&session, Revision::FIRST, &record).await);
    assert_corrupt(store.touch(&session, place.clock.now(), place.clock.now() + MINUTE).await);
    assert_corrupt(store.delete(&session, EndReason::Destroyed).await);
    let renewal = Renewal { old: &session, new: &new, expected: Revision::FIRST, record: &record, limit: None };
    assert_corrupt(store.renew(renewal).await);
    assert_eq!(store.create(&session, &record, None).await.unwrap(), Create::Occupied);
    assert!(!matches!(store.load(&session).await, Ok(Load::Live(_))));
    let kept: Vec<String> = place.raw.lrange(&key, 0, -1).await.unwrap();
    assert_eq!(kept, ["one"]);
}

/// Were it taken for sessions that are not there, they would outlive their end.
#[tokio::test]
async fn a_right_that_was_taken_away_fails_the_call_and_ends_nothing_unseen() {
    let mut place = Place::new().await;
    let alice = alice();
    let session = place.file(1, Some(&alice)).await;
    for rights in ["-getrange", "+getrange"] {
        let () = redis::cmd("ACL").arg(&["SETUSER", "default", rights]).query_async(&mut place.raw).await.unwrap();
        let (store, record) = (&place.store, place.record(1, Some(&alice)));
        let results = [
            store.update(&session, Revision::FIRST, &record).await.map(|updated| updated == Update::Saved(SECOND)),
            store.list(&alice, Page::FIRST).await.map(|listing| listing.sessions.len() == 1),
            store.revoke_all(&alice, None).await.map(|ended| ended == 1),
        ];
        for result in results {
            match result {
                Ok(done) => assert!(done && rights == "+getrange"),
                Err(error) => {
                    assert_eq!((rights, error.kind()), ("-getrange", StoreErrorKind::Misconfigured), "{error:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn one_poisoned_session_does_not_fail_its_neighbours() {
    let mut place = Place::new().await;
    let poisoned = place.file(0, None).await;
    let key = place.only_key().await;
    let () = place.raw.del(&key).await.unwrap();
    let () = place.raw.rpush(&key, "one").await.unwrap();
    for n in 1..32 {
        place.file(n, None).await;
    }
    // Started together, so that they wait and travel together.
    let updates = (0..32).map(|n| {
        let (store, record) = (place.store.clone(), place.record(n, None));
        async move { store.update(&id(n, None), Revision::FIRST, &record).await }
    });
    for (n, updated) in futures_util::future::join_all(updates).await.into_iter().enumerate() {
        match n {
            0 => assert_corrupt(updated),
            _ => assert_eq!(updated.unwrap(), Update::Saved(SECOND)),
        }
    }
    let loads = (0..32).map(|n| {
        let store = place.store.clone();
        async move { store.load(&id(n, None)).await }
    });
    for (n, loaded) in futures_util::future::join_all(loads).await.into_iter().enumerate().skip(1) {
        assert_eq!(loaded.unwrap().live().unwrap().record.handle(), handle(u8::try_from(n).unwrap()));
    }
    assert!(!matches!(place.store.load(&poisoned).await, Ok(Load::Live(_))));
}

#[tokio::test]
async fn a_record_of_a_newer_release_is_not_written_over() {
    let mut place = Place::new().await;
    let session = place.file(1, None).await;
    let key = place.only_key().await;
    let mut value: Vec<u8> = place.raw.get(&key).await.unwrap();
    value[9] = Record::FORMAT + 1;
    let () = place.raw.set(&key, &value).await.unwrap();
    let (store, record, new) = (&place.store, place.record(1, None), id(2, None));
    let renewal = Renewal { old: &session, new: &new, expected: Revision::FIRST, record: &record, limit: None };
    for error in [
        store.load(&session).await.map(drop),
        store.update(&session, Revision::FIRST, &record).await.map(drop),
        store.touch(&session, place.clock.now(), place.clock.now() + MINUTE).await.map(drop),
        store.renew(renewal).await.map(drop),
        store.scan(None, 10).await.map(drop),
    ] {
        let error = error.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (StoreErrorKind::NewerFormat, WriteOutcome::NotDone), "{error:?}");
    }
    assert_eq!(store.create(&session, &record, None).await.unwrap(), Create::Occupied);
    assert_eq!(place.raw.get::<_, Vec<u8>>(&key).await.unwrap(), value);
}

#[tokio::test]
async fn damaged_bytes_are_nobody_s_session_to_any_verb() {
    for damage in [&b""[..], b"\x01", b"\x02\xff", b"\x03", b"\xffnot ours", b"\x01\0\0\0\0\0\0\0\x01\x01\xff\xff"] {
        let mut place = Place::new().await;
        let alice = alice();
        let session = place.file(1, Some(&alice)).await;
        let key = place.keys_of_type("string").await.pop().unwrap();
        let () = place.raw.set(&key, damage).await.unwrap();
        let (store, record, new) = (&place.store, place.record(1, Some(&alice)), id(2, Some(&alice)));
        assert_eq!(store.load(&session).await.unwrap(), Load::Gone(None), "{damage:?}");
        assert_eq!(store.update(&session, Revision::FIRST, &record).await.unwrap(), Update::Gone(None));
        let touched = store.touch(&session, place.clock.now(), place.clock.now() + MINUTE).await;
        assert_eq!(touched.unwrap(), Touch::Gone(None));
        let renewal = Renewal { old: &session, new: &new, expected: Revision::FIRST, record: &record, limit: None };
        assert_eq!(store.renew(renewal).await.unwrap(), Renew::Gone(None));
        assert!(!store.delete(&session, EndReason::Destroyed).await.unwrap());
        assert!(store.list(&alice, Page::FIRST).await.unwrap().sessions.is_empty());
        assert!(store.scan(None, 10).await.unwrap().is_empty());
        assert_eq!(store.explain(handle(1)).await.unwrap(), None);
        assert!(!store.revoke(&alice, handle(1)).await.unwrap());
        assert_eq!(store.revoke_all(&alice, None).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn the_id_of_a_record_has_the_shard_of_its_owner() {
    let place = Place::new().await;
    let (alice, elsewhere) = (alice(), id(1, None));
    let record = place.record(1, Some(&alice));
    let refused = place.store.create(&elsewhere, &record, None).await.unwrap_err();
    assert_eq!((refused.kind(), refused.outcome()), (StoreErrorKind::Corrupt, WriteOutcome::NotDone));
    let visitor = place.file(2, None).await;
    let renewal = Renewal { old: &visitor, new: &elsewhere, expected: Revision::FIRST, record: &record, limit: None };
    let refused = place.store.renew(renewal).await.unwrap_err();
    assert_eq!((refused.kind(), refused.outcome()), (StoreErrorKind::Corrupt, WriteOutcome::NotDone));
    assert!(matches!(place.store.load(&visitor).await.unwrap(), Load::Live(_)));
}
