//! What columns could do to records, and touches in the background.

use std::sync::Arc;
use std::time::Duration;

use cloakroom_core::{Page, Principal, SessionStore, StoreErrorKind, Touch, Value, WriteOutcome};
use cloakroom_sql::Touches;
use sqlx::{Executor as _, Row as _};

use crate::support::{Place, alice, create, id, live};

#[tokio::test]
async fn a_sweep_waits_for_no_row_that_somebody_has_locked() {
    let place = Place::new().await;
    let store = place.open().await;
    for n in 0..4 {
        create(&store, n, &place.record(n)).await;
    }
    place.clock.as_ref().unwrap().advance(Duration::from_secs(120));
    let mut admin = place.admin().await;
    let left = "SELECT COUNT(*) FROM cloakroom_sessions WHERE ended_at IS NULL";
    admin.execute("BEGIN").await.unwrap();
    let lock = sqlx::query(place.sql("SELECT id FROM cloakroom_sessions WHERE id = ? FOR UPDATE"));
    assert_eq!(lock.bind(id(0).as_bytes().as_slice()).fetch_all(&mut admin).await.unwrap().len(), 1);
    assert!(!store.sweep(10).await.unwrap().more);
    let (count,): (i64,) = sqlx::query_as(place.sql(left)).fetch_one(&mut admin).await.unwrap();
    assert_eq!(count, 1, "all but the locked one went");
    admin.execute("ROLLBACK").await.unwrap();
    store.sweep(10).await.unwrap();
    let (count,): (i64,) = sqlx::query_as(place.sql(left)).fetch_one(&mut admin).await.unwrap();
    assert_eq!(count, 0);
}

#[tokio::test]
async fn principals_are_compared_as_bytes() {
    let place = Place::new().await;
    let store = place.open().await;
    for (n, name) in ["alice", "Alice", "alice ", "ÁLICE", "álice"].into_iter().enumerate() {
        let n = n as u8;
        create(&store, n, &place.record(n).owned_by(Principal::new(name).unwrap())).await;
    }
    assert_eq!(store.list(&alice(), Page::FIRST).await.unwrap().sessions.len(), 1);
    assert_eq!(store.revoke_all(&alice(), None).await.unwrap(), 1);
    for n in 1..5 {
        live(&store, n).await;
    }
}

#[tokio::test]
async fn a_record_beyond_64_kib_comes_back_and_one_beyond_the_packet_is_refused_by_us() {
    let place = Place::new().await;
    let store = place.open().await;
    let record = |bytes: usize| {
        let json = vec![b'1'; bytes];
        place.record(1).with_values([Value { key: "n", encoded: &json, expires: 0 }])
    };
    let large = record(1 << 20);
    create(&store, 1, &large).await;
    assert_eq!(live(&store, 1).await.record, large);
    let packet: String = place.admin().await.fetch_one("SELECT CONCAT(@@max_allowed_packet)").await.unwrap().get(0);
    let error = store.create(&id(2), &record(packet.parse().unwrap()), None).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (StoreErrorKind::Misconfigured, WriteOutcome::NotDone));
    assert!(error.to_string().contains("max_allowed_packet"), "{error}");
    live(&store, 1).await;
}

#[tokio::test]
async fn touches_in_the_background_are_written_at_close() {
    let place = Place::new().await;
    let store = place.options().with_touches(Touches::Background).with_migrate(false).open().await.unwrap();
    for n in 0..80 {
        create(&store, n, &place.record(n)).await;
    }
    let later = place.now() + Duration::from_secs(30);
    for n in 0..80 {
        let touched = store.touch(&id(n), later, later + Duration::from_secs(60)).await.unwrap();
        assert_eq!(touched, Touch::Touched);
    }
    // Of an id that never was it is not known yet.
    assert_eq!(store.touch(&id(99), later, later).await.unwrap(), Touch::Touched);
    store.close().await;
    let store = place.open().await;
    for n in 0..80 {
        let stored = live(&store, n).await;
        assert_eq!(stored.record.idle_deadline(), later + Duration::from_secs(60));
        assert_eq!(stored.record.last_seen(), later);
    }
}

#[tokio::test]
async fn a_store_that_is_dropped_writes_the_touches_that_wait() {
    let place = Place::new().await;
    let store = place.options().with_touches(Touches::Background).with_migrate(false).open().await.unwrap();
    create(&store, 1, &place.record(1)).await;
    let later = place.now() + Duration::from_secs(30);
    store.touch(&id(1), later, later + Duration::from_secs(60)).await.unwrap();
    drop(store);
    let store = place.open().await;
    let seen = async {
        while live(&store, 1).await.record.last_seen() != later {
            // tidy: sleep — a write in the background gives no event to wait for
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), seen).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_of_many_that_wait_together_gets_its_own_answer() {
    let place = Place::new().await;
    let store = Arc::new(place.options().with_connections(1).with_migrate(false).open().await.unwrap());
    for n in 0..64 {
        create(&store, n, &place.record(n)).await;
    }
    let expected = cloakroom_core::Revision::FIRST;
    let calls: Vec<_> = (0..128u8)
        .map(|n| {
            let (store, record) = (store.clone(), place.record(n % 64));
            // Half of them come second, and each of those is told so.
            tokio::spawn(async move { store.update(&id(n % 64), expected, &record).await.unwrap() })
        })
        .collect();
    let (mut saved, mut conflicts) = (0, 0);
    for (n, call) in (0..128u8).zip(calls) {
        match call.await.unwrap() {
            cloakroom_core::Update::Saved(_) => saved += 1,
            cloakroom_core::Update::Conflict(stored) => {
                assert_eq!(stored.record.handle(), place.record(n % 64).handle());
                conflicts += 1;
            }
            cloakroom_core::Update::Gone(reason) => panic!("{n} is gone: {reason:?}"),
        }
    }
    assert_eq!((saved, conflicts), (64, 64));
}
