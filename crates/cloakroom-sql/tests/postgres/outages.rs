//! Connections that break, servers that go away, and those that may not be written to.

use std::time::{Duration, Instant};

use cloakroom_core::{
    Clock as _, Durability, EndReason, Load, SessionStore, Signal, StoreErrorKind, Touch, WriteOutcome,
};
use cloakroom_services::{Postgres, shared};
use cloakroom_sql::PostgresStore;

use crate::proxy::Proxy;
use crate::support::{Place, create, id, live};

/// Asks until it is answered, as a service does; every failure must be quick and say that nothing happened.
async fn recovered(store: &PostgresStore) {
    let started = Instant::now();
    loop {
        let asked = Instant::now();
        match store.delete(&id(99), EndReason::Destroyed).await {
            Ok(_) => return,
            Err(error) => {
                assert!(asked.elapsed() < Duration::from_secs(6), "hung for {:?}: {error}", asked.elapsed());
                assert!(started.elapsed() < Duration::from_secs(30), "never came back: {error:?}");
                tokio::time::sleep(Duration::from_millis(5)).await; // tidy: sleep — a client that tries again
            }
        }
    }
}

/// A store whose connections can be cut, with one session.
async fn behind_a_proxy() -> (Proxy, PostgresStore) {
    let url = shared::postgres();
    let proxy = Proxy::to(&url).await;
    let place = Place::at(proxy.url(&url));
    let store = place.options().with_clock(place.clock.clone()).open().await.unwrap();
    create(&store, 1, &place.record(1)).await;
    (proxy, store)
}

#[tokio::test]
async fn broken_connections_are_replaced_and_loads_do_not_notice() {
    let (proxy, store) = behind_a_proxy().await;
    for _ in 0..10 {
        let before = proxy.connections();
        proxy.cut();
        live(&store, 1).await;
        recovered(&store).await;
        assert!(proxy.connections() > before);
    }
}

#[tokio::test]
async fn a_write_that_was_sent_and_not_answered_is_unknown_and_not_repeated() {
    let url = shared::postgres();
    let proxy = Proxy::to(&url).await;
    let place = Place::at(proxy.url(&url));
    let timeout = Duration::from_secs(1);
    let options = place.options().with_clock(place.clock.clone()).with_timeout(timeout);
    let store = options.with_connect_timeout(2 * timeout).open().await.unwrap();
    create(&store, 1, &place.record(1)).await;
    proxy.fall_silent();
    let started = Instant::now();
    let error = store.create(&id(2), &place.record(2), None).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (StoreErrorKind::Timeout, WriteOutcome::Unknown));
    assert!(error.to_string().contains("did not answer within 1s"), "{error}");
    let error = store.load(&id(1)).await.unwrap_err();
    assert!(matches!(error.kind(), StoreErrorKind::Timeout | StoreErrorKind::Unavailable), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    // The silent connection was given up: new ones answer.
    proxy.speak();
    recovered(&store).await;
    assert_eq!(store.load(&id(2)).await.unwrap(), Load::Gone(None));
    live(&store, 1).await;
}

/// Reads and writes have connections of their own: neither tells of an outage that the other saw end.
#[tokio::test]
async fn what_works_for_a_write_works_for_the_read_after_it() {
    let (proxy, store) = behind_a_proxy().await;
    for _ in 0..6 {
        proxy.fall_silent();
        for _ in 0..8 {
            proxy.cut();
            // tidy: sleep — attempts to connect fail, and each takes longer than a refusal does
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        proxy.speak();
        proxy.cut();
        recovered(&store).await;
        live(&store, 1).await;
    }
}

/// One whose power is gone: nothing comes back from it, not even a refusal.
#[tokio::test]
async fn a_host_that_is_silent_does_not_keep_from_the_one_that_answers() {
    let url = shared::postgres();
    let (one, other) = (Proxy::to(&url).await, Proxy::to(&url).await);
    one.fall_silent();
    let place = Place::at(other.url(&url).replacen('@', &format!("@{},", one.address()), 1));
    let options = place.options().with_clock(place.clock.clone());
    let store = options.with_connect_timeout(Duration::from_secs(2)).open().await.unwrap();
    create(&store, 1, &place.record(1)).await;
    assert_eq!(one.connections(), 1, "the silent one is asked first, and then no more");
    for _ in 0..5 {
        other.cut();
        live(&store, 1).await;
        recovered(&store).await;
    }
    assert_eq!(one.connections(), 1, "whoever connects anew begins with the host that answered");
    one.speak();
    other.fall_silent();
    other.cut();
    recovered(&store).await;
    live(&store, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_server_is_survived() {
    let server = Postgres::start().unwrap();
    let place = Place::at(server.url());
    let store = place.open().await;
    create(&store, 1, &place.record(1)).await;
    tokio::task::block_in_place(|| server.process().stop().unwrap());
    let asked = Instant::now();
    for _ in 0..20 {
        let error = store.touch(&id(1), place.clock.now(), place.clock.now()).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
    }
    assert!(asked.elapsed() < Duration::from_secs(2), "calls hang while the server is away: {:?}", asked.elapsed());
    let error = store.load(&id(1)).await.unwrap_err();
    assert!(error.to_string().contains("cannot be reached"), "{error}");
    tokio::task::block_in_place(|| server.restart().unwrap());
    recovered(&store).await;
    live(&store, 1).await;
    for _ in 0..3 {
        tokio::task::block_in_place(|| server.restart().unwrap());
        recovered(&store).await;
        live(&store, 1).await;
    }
}

#[tokio::test]
async fn a_server_that_became_read_only_is_left_and_nothing_is_done() {
    let server = Postgres::start().unwrap();
    let place = Place::at(server.url());
    let store = place.open().await;
    create(&store, 1, &place.record(1)).await;
    server.sql("ALTER SYSTEM SET default_transaction_read_only = on").unwrap();
    server.sql("SELECT pg_reload_conf()").unwrap();
    let now = place.clock.now();
    let error = loop {
        match store.touch(&id(1), now, now + Duration::from_secs(70)).await {
            // The server hears of it a moment later.
            Ok(touch) => assert_eq!(touch, Touch::Touched),
            Err(error) => break error,
        }
    };
    assert_eq!((error.kind(), error.outcome()), (StoreErrorKind::Unavailable, WriteOutcome::NotDone), "{error:?}");
    let error = place.options().open().await.unwrap_err();
    assert!(error.to_string().contains("read-only"), "{error}");
    drop(store);
}

#[tokio::test]
async fn a_probe_tells_what_is_set_up_wrongly() {
    let server = Postgres::builder().durable().start().unwrap();
    let place = Place::at(server.url());
    let store = place.open().await;
    let probe = store.probe().await.unwrap();
    assert_eq!((probe.durability, probe.warnings.as_slice()), (Durability::Machine, [].as_slice()));
    assert!(probe.server.starts_with("PostgreSQL 1") && probe.latency < Duration::from_secs(5));
    store.close().await;
    server.sql("ALTER ROLE cloakroom SET synchronous_commit = off").unwrap();
    place.run("ALTER TABLE cloakroom_sessions SET (autovacuum_enabled = off)").await;
    let store = place.open().await;
    let probe = store.probe().await.unwrap();
    assert_eq!(probe.durability, Durability::Crash);
    assert!(probe.warnings.iter().any(|warning| warning.contains("synchronous_commit is off")), "{probe:?}");
    assert!(probe.warnings.iter().any(|warning| warning.contains("autovacuum is off")), "{probe:?}");
    store.close().await;
    let unsafe_server = Postgres::start().unwrap();
    let place = Place::at(unsafe_server.url());
    let probe = place.open().await.probe().await.unwrap();
    assert_eq!(probe.durability, Durability::Process);
    assert!(probe.warnings.iter().any(|warning| warning.contains("fsync is off")), "{probe:?}");
}

#[tokio::test]
async fn ends_are_told_again_once_the_connection_is_back() {
    let url = shared::postgres();
    let proxy = Proxy::to(&url).await;
    let place = Place::at(proxy.url(&url));
    let store = place.options().with_clock(place.clock.clone()).open().await.unwrap();
    let mut signals = store.signals().unwrap();
    let mut next = async || tokio::time::timeout(Duration::from_secs(20), signals.next()).await.unwrap();
    assert_eq!(next().await, Some(Signal::Unsure));
    for n in 1..3 {
        create(&store, n, &place.record(n)).await;
        proxy.cut();
        assert_eq!(next().await, Some(Signal::Deaf));
        assert_eq!(next().await, Some(Signal::Unsure), "what ended meanwhile was told to nobody");
        recovered(&store).await;
        store.delete(&id(n), EndReason::Destroyed).await.unwrap();
        assert_eq!(next().await, Some(Signal::Ended(place.record(n).handle())));
    }
    store.close().await;
    assert_eq!(next().await, None);
}

#[tokio::test]
async fn nobody_is_told_who_does_not_listen() {
    let place = Place::new();
    let store = place.options().with_clock(place.clock.clone()).open().await.unwrap();
    let listening = "SELECT count(*) FROM cloakroom_listening WHERE until > cloakroom_now(NULL)";
    assert_eq!(place.number(listening).await, 0);
    let mut signals = store.signals().unwrap();
    assert_eq!(signals.next().await, Some(Signal::Unsure));
    assert_eq!(place.number(listening).await, 1);
    store.close().await;
}
