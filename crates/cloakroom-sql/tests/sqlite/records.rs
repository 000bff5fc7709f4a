//! What stands in the rows.

use std::time::Duration;

use cloakroom_core::{Clock as _, EndReason, Load, Page, SessionStore, Touch};

use crate::support::{Place, alice, create, handle, id, live, number, run};

/// I2: records identify themselves.
#[tokio::test]
async fn a_record_under_the_id_of_another_session_does_not_load() {
    let place = Place::new();
    let store = place.open().await;
    create(&store, 1, &place.record(1)).await;
    create(&store, 2, &place.record(2)).await;
    let mut sqlite = place.sqlite().await;
    run(&mut sqlite, "CREATE TABLE before AS SELECT id, record FROM cloakroom_sessions").await;
    let swap = "UPDATE cloakroom_sessions AS here SET record = \
                (SELECT record FROM before WHERE before.id <> here.id)";
    run(&mut sqlite, swap).await;
    for n in [1, 2] {
        assert_eq!(store.load(&id(n)).await.unwrap(), Load::Gone(None));
    }
    assert_eq!(store.list(&alice(), Page::FIRST).await.unwrap().sessions, []);
}

#[tokio::test]
async fn a_page_is_full_although_a_record_before_it_does_not_decode() {
    let place = Place::new();
    let store = place.open().await;
    for n in 1..=4 {
        create(&store, n, &place.record(n)).await;
    }
    run(&mut place.sqlite().await, "UPDATE cloakroom_sessions SET record = x'00' WHERE id < x'03'").await;
    let first = store.list(&alice(), Page { after: None, limit: 1 }).await.unwrap();
    assert_eq!(first.sessions.iter().map(|session| session.handle).collect::<Vec<_>>(), [handle(3)]);
    let last = store.list(&alice(), Page { after: first.next, limit: 1 }).await.unwrap();
    assert_eq!(last.sessions.iter().map(|session| session.handle).collect::<Vec<_>>(), [handle(4)]);
    assert_eq!(last.next, None);
    let scanned = store.scan(None, 2).await.unwrap();
    assert_eq!(scanned.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [id(3), id(4)]);
}

#[tokio::test]
async fn a_touch_writes_two_columns_and_the_record_shows_them() {
    let place = Place::new();
    let store = place.open().await;
    create(&store, 1, &place.record(1)).await;
    let mut sqlite = place.sqlite().await;
    run(&mut sqlite, "CREATE TABLE before AS SELECT record, revision FROM cloakroom_sessions").await;
    place.clock.advance(Duration::from_secs(10));
    let now = place.clock.now();
    assert_eq!(store.touch(&id(1), now, now + Duration::from_secs(60)).await.unwrap(), Touch::Touched);
    let same = "SELECT count(*) FROM cloakroom_sessions JOIN before USING (record, revision)";
    assert_eq!(number(&mut sqlite, same).await, 1);
    let record = live(&store, 1).await.record;
    assert_eq!((record.last_seen(), record.idle_deadline()), (now, now + Duration::from_secs(60)));
}

#[tokio::test]
async fn a_tombstone_keeps_neither_record_nor_owner() {
    let place = Place::new();
    let store = place.open().await;
    for n in 1..=4 {
        create(&store, n, &place.record(n)).await;
    }
    assert!(store.delete(&id(1), EndReason::Destroyed).await.unwrap());
    assert!(store.revoke(&alice(), handle(2)).await.unwrap());
    assert_eq!(store.revoke_all(&alice(), Some(handle(4))).await.unwrap(), 1);
    place.clock.advance(Duration::from_secs(60));
    assert_eq!(store.sweep(10).await.unwrap().removed, 1);
    let left = "SELECT count(*) FROM cloakroom_sessions WHERE record IS NOT NULL OR principal IS NOT NULL";
    assert_eq!(number(&mut place.sqlite().await, left).await, 0);
    for (n, reason) in
        [(1, EndReason::Destroyed), (2, EndReason::Revoked), (3, EndReason::Revoked), (4, EndReason::Expired)]
    {
        assert_eq!(store.load(&id(n)).await.unwrap(), Load::Gone(Some(reason)));
    }
}

#[tokio::test]
async fn tombstones_that_lead_in_a_circle_end_in_an_error() {
    let place = Place::new();
    let store = place.open().await;
    create(&store, 1, &place.record(1)).await;
    assert!(store.delete(&id(1), EndReason::Destroyed).await.unwrap());
    run(&mut place.sqlite().await, "UPDATE cloakroom_sessions SET successor = id").await;
    let error = store.delete(&id(1), EndReason::Destroyed).await.unwrap_err();
    assert_eq!(error.kind(), cloakroom_core::StoreErrorKind::Corrupt);
}
