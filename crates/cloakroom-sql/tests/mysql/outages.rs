//! Servers that go away, and locks that others hold.

use std::time::{Duration, Instant};

use cloakroom_core::{Load, Revision, SessionStore, StoreErrorKind, Update, WriteOutcome};
use cloakroom_services::MariaDb;
use cloakroom_sql::MySqlOptions;
use sqlx::{Executor as _, Row as _};

use crate::support::{Place, alice, create, id, live, run};

/// Ends every connection of the store, as an operator or a proxy would.
async fn cut(place: &Place) {
    let mut admin = place.admin().await;
    let role = place.prefix.trim_end_matches('_');
    let list = format!("SELECT CONCAT(id) FROM information_schema.PROCESSLIST WHERE user = '{role}'");
    let connections = admin.fetch_all(place.sql(&list)).await.unwrap();
    assert!(!connections.is_empty());
    for connection in connections {
        run(&mut admin, &format!("KILL {}", connection.get::<String, _>(0))).await;
    }
}

#[tokio::test]
async fn a_cut_connection_costs_a_load_nothing() {
    let place = Place::new().await;
    let store = place.open().await;
    create(&store, 1, &place.record(1)).await;
    for _ in 0..5 {
        cut(&place).await;
        live(&store, 1).await;
        assert_eq!(store.list(&alice(), cloakroom_core::Page::FIRST).await.unwrap().sessions.len(), 1);
    }
}

#[tokio::test]
async fn a_write_on_a_cut_connection_is_of_unknown_outcome_and_the_next_succeeds() {
    let place = Place::new().await;
    let store = place.options().with_migrate(false).with_connections(1).open().await.unwrap();
    create(&store, 1, &place.record(1)).await;
    cut(&place).await;
    let error = store.update(&id(1), Revision::FIRST, &place.record(1)).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (StoreErrorKind::Unavailable, WriteOutcome::Unknown));
    let revision = live(&store, 1).await.revision;
    assert!(matches!(store.update(&id(1), revision, &place.record(1)).await.unwrap(), Update::Saved(_)));
}

#[tokio::test]
async fn a_lock_that_somebody_holds_is_a_timeout_and_nothing_is_done() {
    let place = Place::new().await;
    let options = place.options().with_migrate(false).with_timeout(Duration::from_secs(3));
    let store = options.open().await.unwrap();
    create(&store, 1, &place.record(1)).await;
    let mut other = place.admin().await;
    run(&mut other, "BEGIN").await;
    other.execute(place.sql("SELECT * FROM cloakroom_sessions FOR UPDATE")).await.unwrap();
    let (id, record, alice) = (id(1), place.record(1), alice());
    let (updated, revoked) = tokio::join!(store.update(&id, Revision::FIRST, &record), store.revoke_all(&alice, None));
    for error in [updated.unwrap_err(), revoked.unwrap_err()] {
        assert_eq!((error.kind(), error.outcome()), (StoreErrorKind::Timeout, WriteOutcome::NotDone), "{error}");
    }
    run(&mut other, "ROLLBACK").await;
    assert_eq!(store.revoke_all(&alice, None).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_restarts_fails_calls_at_once_and_is_found_again() {
    let server = tokio::task::spawn_blocking(|| MariaDb::builder().durable().start().unwrap()).await.unwrap();
    let place = Place::bare();
    let store =
        MySqlOptions::new(&server.url()).unwrap().with_clock(place.clock.clone().unwrap()).open().await.unwrap();
    create(&store, 1, &place.record(1)).await;
    server.kill().unwrap();
    // The first call of each connection finds out; from then on nobody waits.
    for _ in 0..8 {
        store.load(&id(1)).await.unwrap_err();
    }
    let started = Instant::now();
    for _ in 0..200 {
        let error = store.update(&id(1), Revision::FIRST, &place.record(1)).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
        assert_eq!(error.outcome(), WriteOutcome::NotDone, "{error}");
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    let server = tokio::task::spawn_blocking(move || server.restart().map(|()| server).unwrap()).await.unwrap();
    let back = async {
        loop {
            match store.load(&id(1)).await {
                Ok(found) => break found,
                Err(error) => assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}"),
            }
            // tidy: sleep — the server's return gives no event to wait for
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(10), back).await.unwrap();
    assert!(matches!(found, Load::Live(_)), "what was acknowledged is lost: {found:?}");

    server.sql("SET GLOBAL read_only = ON").unwrap();
    let warnings = store.probe().await.unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("read-only")), "{warnings:?}");
    let error = store.update(&id(1), Revision::FIRST, &place.record(1)).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (StoreErrorKind::Misconfigured, WriteOutcome::NotDone), "{error}");
    assert!(error.to_string().contains("read-only"), "{error}");
    store.close().await;
    drop(server);
}
