//! Several stores on one file, and a process that is killed.

use std::io::{BufRead as _, BufReader};
use std::num::NonZeroU32;
use std::process::{Command, Stdio};
use std::time::Duration;

use cloakroom_core::{Create, EndReason, Excess, Load, Revision, SessionLimit, SessionStore, Touch, Update};
use cloakroom_sql::SqliteOptions;
use sqlx::Row as _;

use crate::support::{Place, alice, create, id, live, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn updates_through_two_stores_are_all_counted() {
    let place = Place::new();
    let stores = [place.open().await, place.open().await];
    create(&stores[0], 1, &place.record(1)).await;
    let writing: Vec<_> = (0..8)
        .map(|task| {
            let (store, record) = (stores[task % 2].clone(), place.record(1));
            tokio::spawn(async move {
                for _ in 0..20 {
                    let mut expected = Revision::FIRST;
                    loop {
                        match store.update(&id(1), expected, &record).await.unwrap() {
                            Update::Saved(_) => break,
                            Update::Conflict(stored) => expected = stored.revision,
                            Update::Gone(reason) => panic!("gone: {reason:?}"),
                        }
                    }
                }
            })
        })
        .collect();
    for task in writing {
        task.await.unwrap();
    }
    assert_eq!(live(&stores[0], 1).await.revision, Revision::from_u64(161));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_limit_holds_across_stores() {
    let place = Place::new();
    let stores = [place.open().await, place.open().await];
    let limit = SessionLimit { max: NonZeroU32::new(3).unwrap(), excess: Excess::Reject };
    let signing_in: Vec<_> = (0..24u8)
        .map(|n| {
            let (store, record) = (stores[usize::from(n) % 2].clone(), place.record(n));
            tokio::spawn(async move { store.create(&id(n), &record, Some(limit)).await.unwrap() })
        })
        .collect();
    let mut created = 0;
    for answer in signing_in {
        created += usize::from(matches!(answer.await.unwrap(), Create::Created { .. }));
    }
    assert_eq!(created, 3);
    assert_eq!(stores[0].revoke_all(&alice(), None).await.unwrap(), 3);
}

const FILE: &str = "CLOAKROOM_TEST_FILE";

/// Signs in and out, and says after each that it was acknowledged. The test below runs it in a
/// process of its own, without end; by itself it does a few.
#[test]
fn a_writer_that_says_what_was_acknowledged() {
    let place = Place::new();
    let given = std::env::var_os(FILE);
    let options =
        given.as_ref().map_or_else(|| place.options(), |file| SqliteOptions::new(file).with_clock(place.clock.clone()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = options.open().await.unwrap();
        for n in 0..if given.is_some() { u8::MAX } else { 3 } {
            create(&store, n, &place.record(n)).await;
            say(&format!("in {n}"));
            if n > 0 {
                assert!(store.delete(&id(n - 1), EndReason::Destroyed).await.unwrap());
                say(&format!("out {}", n - 1));
            }
        }
        if given.is_some() {
            std::future::pending::<()>().await;
        }
    });
}

/// Not through the test harness, which would hold the line back.
fn say(line: &str) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    writeln!(out, "acknowledged {line}").and_then(|()| out.flush()).unwrap();
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_killed_process() {
    for killed_after in [1, 2, 7, 40] {
        let place = Place::new();
        let file = place.directory.path().join("sessions.db");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes::a_writer_that_says_what_was_acknowledged", "--nocapture"])
            .env(FILE, &file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut acknowledged = Vec::new();
        let mut keep =
            |line: String| acknowledged.extend(line.split_once("acknowledged ").map(|(_, what)| what.to_owned()));
        for line in lines.by_ref().filter(|line| line.contains("acknowledged ")).take(killed_after) {
            keep(line);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        lines.for_each(keep);
        assert!(acknowledged.len() >= killed_after);

        let store = place.open().await;
        for line in &acknowledged {
            let (what, n) = line.split_once(' ').unwrap();
            let n: u8 = n.parse().unwrap();
            match (what, store.load(&id(n)).await.unwrap()) {
                ("in", Load::Live(stored)) => assert_eq!(stored.record.handle(), place.record(n).handle()),
                // Signed out afterwards, whether or not that was acknowledged.
                ("in" | "out", Load::Gone(reason)) => assert_eq!(reason, Some(EndReason::Destroyed)),
                (what, found) => panic!("{what} {n} was acknowledged, and now there is {found:?}"),
            }
        }
        let check = sqlx::query("PRAGMA integrity_check").fetch_one(&mut place.sqlite().await).await.unwrap();
        assert_eq!(check.get::<String, _>(0), "ok");
    }
}

/// What counts is the time when the lock was had, not when it was asked for.
#[tokio::test]
async fn a_session_that_expired_while_another_process_held_the_lock_is_not_revived() {
    let place = Place::new();
    let store = place.open().await;
    let record = place.record(1);
    create(&store, 1, &record).await;
    let mut other = place.sqlite().await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    let waiting = tokio::spawn({
        let store = store.clone();
        let later = record.last_seen() + Duration::from_secs(30);
        async move { store.touch(&id(1), later, later + Duration::from_secs(60)).await.unwrap() }
    });
    // On this thread nothing else is ready, so the call is as far as it gets.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    place.clock.advance(Duration::from_secs(61));
    assert_eq!(store.load(&id(1)).await.unwrap(), Load::Gone(Some(EndReason::Expired)));
    run(&mut other, "ROLLBACK").await;
    assert_eq!(waiting.await.unwrap(), Touch::Gone(Some(EndReason::Expired)));
    assert_eq!(store.load(&id(1)).await.unwrap(), Load::Gone(Some(EndReason::Expired)));
}
