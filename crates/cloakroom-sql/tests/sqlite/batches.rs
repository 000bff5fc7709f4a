//! Writes that wait together: one commit, each its own answer.

use std::fs;
use std::time::Duration;

use cloakroom_core::{EndReason, Load, Revision, SessionStore, StoreError, StoreErrorKind, Update, WriteOutcome};
use cloakroom_sql::SqliteStore;
use futures_util::FutureExt as _;
use tokio::task::JoinHandle;

use crate::support::{Place, create, id, live, run};

/// Commits in the log: those frames that say how large the file is after them.
fn commits(place: &Place) -> usize {
    let log = fs::read(place.directory.path().join("sessions.db-wal")).unwrap();
    let number = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
    let (page, salt) = (number(8) as usize, number(16));
    let frames = (32..).step_by(24 + page).take_while(|at| at + 24 + page <= log.len());
    frames.filter(|at| number(at + 8) == salt && number(at + 4) != 0).count()
}

fn update(store: &SqliteStore, place: &Place, n: u8) -> JoinHandle<Result<Update, StoreError>> {
    let (store, record) = (store.clone(), place.record(n));
    tokio::spawn(async move { store.update(&id(n), Revision::FIRST, &record).await })
}

#[tokio::test]
async fn what_waits_together_is_committed_together() {
    let place = Place::new();
    let store = place.open().await;
    for n in 0..60 {
        create(&store, n, &place.record(n)).await;
    }
    let mut other = place.sqlite().await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    let before = commits(&place);
    let waiting: Vec<_> = (0..60).map(|n| update(&store, &place, n)).collect();
    tokio::task::yield_now().await;
    run(&mut other, "ROLLBACK").await;
    for update in waiting {
        assert_eq!(update.await.unwrap().unwrap(), Update::Saved(Revision::FIRST.next()));
    }
    assert!(commits(&place) - before <= 2, "60 updates took {} commits", commits(&place) - before);
}

#[tokio::test]
async fn one_that_fails_fails_alone() {
    let place = Place::new();
    let store = place.open().await;
    for n in 0..30 {
        create(&store, n, &place.record(n)).await;
    }
    let mut other = place.sqlite().await;
    let trap = "CREATE TRIGGER trap BEFORE UPDATE ON cloakroom_sessions WHEN hex(NEW.handle) LIKE '0D%' \
                BEGIN SELECT RAISE(ABORT, 'trap'); END";
    run(&mut other, trap).await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    let waiting: Vec<_> = (0..30).map(|n| update(&store, &place, n)).collect();
    tokio::task::yield_now().await;
    run(&mut other, "ROLLBACK").await;
    for (n, update) in (0..).zip(waiting) {
        match update.await.unwrap() {
            Ok(saved) => assert!(n != 0x0d && saved == Update::Saved(Revision::FIRST.next())),
            Err(error) => assert!(n == 0x0d && error.outcome() == WriteOutcome::NotDone, "{n}: {error}"),
        }
        let expected = if n == 0x0d { Revision::FIRST } else { Revision::FIRST.next() };
        assert_eq!(live(&store, n).await.revision, expected);
    }
}

#[tokio::test]
async fn a_conflict_among_others_is_told_its_own_record() {
    let place = Place::new();
    let store = place.open().await;
    for n in 0..16 {
        create(&store, n, &place.record(n)).await;
    }
    store.update(&id(3), Revision::FIRST, &place.record(3)).await.unwrap();
    store.delete(&id(5), EndReason::Destroyed).await.unwrap();
    let mut other = place.sqlite().await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    let waiting: Vec<_> = (0..16).map(|n| update(&store, &place, n)).collect();
    tokio::task::yield_now().await;
    run(&mut other, "ROLLBACK").await;
    for (n, update) in (0..).zip(waiting) {
        match (n, update.await.unwrap().unwrap()) {
            (3, Update::Conflict(stored)) => assert_eq!(stored, live(&store, 3).await),
            (5, Update::Gone(reason)) => assert_eq!(reason, Some(EndReason::Destroyed)),
            (_, answer) => assert_eq!(answer, Update::Saved(Revision::FIRST.next()), "session {n}"),
        }
    }
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let place = Place::new();
    let store = place.options().with_queue(1).open().await.unwrap();
    create(&store, 1, &place.record(1)).await;
    let mut other = place.sqlite().await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    // The first is with the writer, the second waits, and the third has no room.
    let first = update(&store, &place, 1);
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    let second = update(&store, &place, 1);
    tokio::task::yield_now().await;
    let error = store.delete(&id(1), EndReason::Destroyed).now_or_never().expect("refused at once").unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (StoreErrorKind::Unavailable, WriteOutcome::NotDone));
    assert!(error.is_transient() && error.to_string().contains("too many calls wait"), "{error}");
    run(&mut other, "ROLLBACK").await;
    assert_eq!(first.await.unwrap().unwrap(), Update::Saved(Revision::FIRST.next()));
    assert!(matches!(second.await.unwrap().unwrap(), Update::Conflict(_)));
}

#[tokio::test]
async fn a_lock_that_lasts_is_a_timeout_and_nothing_is_written() {
    let place = Place::new();
    let store = place.options().with_busy_timeout(Duration::from_millis(30)).open().await.unwrap();
    create(&store, 1, &place.record(1)).await;
    let mut other = place.sqlite().await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    let error = store.delete(&id(1), EndReason::Destroyed).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (StoreErrorKind::Timeout, WriteOutcome::NotDone));
    assert!(error.to_string().contains("another process kept"), "{error}");
    live(&store, 1).await;
    run(&mut other, "ROLLBACK").await;
    assert!(store.delete(&id(1), EndReason::Destroyed).await.unwrap());
}

#[tokio::test]
async fn a_queued_logout_happens_although_nobody_waits_for_it_any_more() {
    let place = Place::new();
    let store = place.open().await;
    create(&store, 1, &place.record(1)).await;
    assert!(store.delete(&id(1), EndReason::Destroyed).now_or_never().is_none());
    // Whatever is queued later is done later.
    assert!(!store.delete(&id(2), EndReason::Destroyed).await.unwrap());
    assert_eq!(store.load(&id(1)).await.unwrap(), Load::Gone(Some(EndReason::Destroyed)));
}
