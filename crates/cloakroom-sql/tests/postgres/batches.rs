//! What travels together, and what must not.

use std::sync::Arc;
use std::time::Duration;

use cloakroom_core::{
    Clock as _, Create, Load, Record, Revision, SessionStore, StoreErrorKind, Touch, Update, Value, WriteOutcome,
};
use cloakroom_services::shared;
use futures_util::future::join_all;

use crate::proxy::Proxy;
use crate::support::{Place, create, handle, id, live};

#[tokio::test]
async fn what_waits_together_travels_together() {
    let url = shared::postgres();
    let proxy = Proxy::to(&url).await;
    let place = Place::at(proxy.url(&url));
    let store = place.options().with_connections(2).open().await.unwrap();
    proxy.take_counts();
    let records: Vec<_> = (0..200).map(|n| place.record(n)).collect();
    let ids: Vec<_> = (0..200).map(id).collect();
    let created = join_all(ids.iter().zip(&records).map(|(id, record)| store.create(id, record, None))).await;
    assert!(created.into_iter().all(|created| matches!(created.unwrap(), Create::Created { .. })));
    // The first goes alone, for nobody waits for others.
    assert!((1..=3).contains(&proxy.take_counts().0));

    let saved = join_all(ids.iter().zip(&records).map(|(id, record)| store.update(id, Revision::FIRST, record))).await;
    assert!(saved.into_iter().all(|saved| saved.unwrap() == Update::Saved(Revision::FIRST.next())));
    assert!((1..=3).contains(&proxy.take_counts().0));

    let loaded = join_all(ids.iter().chain(&ids).map(|id| store.load(id))).await;
    for (loaded, record) in loaded.into_iter().zip(records.iter().chain(&records)) {
        assert_eq!(loaded.unwrap().live().unwrap().record, *record);
    }
    assert!((1..=4).contains(&proxy.take_counts().0));

    let deadline = place.clock.now() + Duration::from_secs(90);
    let touched = join_all(ids.iter().chain(&ids).map(|id| store.touch(id, place.clock.now(), deadline))).await;
    assert!(touched.into_iter().all(|touched| touched.unwrap() == Touch::Touched));
    assert!((1..=4).contains(&proxy.take_counts().0));
}

#[tokio::test]
async fn of_two_updates_of_one_session_in_a_batch_the_second_hears_of_the_first() {
    let place = Place::new();
    let store = place.options().with_clock(place.clock.clone()).with_connections(2).open().await.unwrap();
    create(&store, 1, &place.record(1)).await;
    let record = place.record(1).with_values([Value { key: "n", encoded: b"99", expires: 0 }]);
    for turn in 0..10 {
        let expected = Revision::from_u64(1 + turn);
        let ids = [id(1); 20];
        let updates = join_all(ids.iter().map(|id| store.update(id, expected, &record))).await;
        let mut saved = 0;
        for update in updates {
            match update.unwrap() {
                Update::Saved(revision) => saved += u64::from(revision == expected.next()),
                Update::Conflict(stored) => {
                    assert_eq!((stored.revision, &stored.record), (expected.next(), &record));
                }
                Update::Gone(reason) => panic!("gone: {reason:?}"),
            }
        }
        assert_eq!(saved, 1);
    }
}

#[tokio::test]
async fn one_that_cannot_be_written_fails_alone_and_repeats_no_record() {
    let place = Place::new();
    let store = place.options().with_clock(place.clock.clone()).with_connections(2).open().await.unwrap();
    place.run("ALTER TABLE cloakroom_sessions ADD CONSTRAINT small CHECK (octet_length(record) < 1000)").await;
    let encoded = format!("\"hunter2{}\"", "x".repeat(1000));
    let large = place.record(7).with_values([Value { key: "large", encoded: encoded.as_bytes(), expires: 0 }]);
    let record = |n| if n == 7 { large.clone() } else { place.record(n) };
    let (records, ids): (Vec<Record>, Vec<_>) = ((0..20).map(record).collect(), (0..20).map(id).collect());
    let created = join_all(ids.iter().zip(&records).map(|(id, record)| store.create(id, record, None))).await;
    for (n, created) in created.into_iter().enumerate() {
        match created {
            Ok(created) => assert_eq!((created, n != 7), (Create::Created { evicted: vec![] }, true)),
            Err(error) => {
                assert_eq!((n, error.outcome()), (7, WriteOutcome::NotDone));
                assert_eq!(error.kind(), StoreErrorKind::Misconfigured);
                let source = std::error::Error::source(&error).unwrap().to_string();
                assert!(source.contains("constraint small"), "{source}");
                assert!(!format!("{error:?} {error} {source}").contains("hunter2"), "{error:?}");
            }
        }
    }
    assert_eq!(store.load(&id(7)).await.unwrap(), Load::Gone(None));
    assert_eq!(live(&store, 8).await.record, records[8]);
}

#[tokio::test]
async fn batches_of_two_processes_in_opposite_orders_do_not_deadlock() {
    let place = Arc::new(Place::new());
    let (one, other) = tokio::join!(place.open(), place.open());
    for n in 0..60 {
        create(&one, n, &place.record(n)).await;
    }
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let before = place.number(deadlocks).await;
    let traffic = |store: cloakroom_sql::PostgresStore, backwards: bool| {
        let place = Arc::clone(&place);
        async move {
            let ids: Vec<_> = (0..60).map(|n| id(if backwards { 59 - n } else { n })).collect();
            let records: Vec<_> = (0..60).map(|n| place.record(if backwards { 59 - n } else { n })).collect();
            for turn in 0..20 {
                let deadline = place.clock.now() + Duration::from_secs(60 + turn);
                let touches = join_all(ids.iter().map(|id| store.touch(id, place.clock.now(), deadline)));
                let updates =
                    join_all(ids.iter().zip(&records).map(|(id, record)| store.update(id, Revision::FIRST, record)));
                let (touches, updates) = tokio::join!(touches, updates);
                touches.into_iter().for_each(|touch| assert_eq!(touch.unwrap(), Touch::Touched));
                updates.into_iter().for_each(|update| drop(update.unwrap()));
            }
        }
    };
    tokio::join!(tokio::spawn(traffic(one, false)), tokio::spawn(traffic(other, true))).0.unwrap();
    assert_eq!(place.number(deadlocks).await, before);
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let place = Place::new();
    let store = place.options().with_queue(1).with_connections(2).open().await.unwrap();
    let record = place.record(1);
    let ids: Vec<_> = (0..50).map(id).collect();
    let results = join_all(ids.iter().map(|id| store.create(id, &record, None))).await;
    let refused = results.into_iter().filter_map(Result::err).inspect(|error| {
        assert_eq!((error.kind(), error.outcome()), (StoreErrorKind::Unavailable, WriteOutcome::NotDone));
        assert!(error.to_string().contains("too many calls wait"), "{error}");
    });
    assert!(refused.count() > 0);
    store.close().await;
    let error = store.create(&id(1), &record, None).await.unwrap_err();
    assert!(error.to_string().contains("was closed"), "{error}");
    assert_eq!(handle(1), record.handle());
}
