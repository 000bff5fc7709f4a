use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakroom_core::{EndReason, Load, Revision, SessionStore as _, Signal, StoreErrorKind, WriteOutcome};
use cloakroom_services::{Redis, shared};
use tokio::time::Instant;

use crate::fake::Fake;
use crate::{assert_live, file, new_id, open, options, record_of};

fn durable() -> Redis {
    Redis::builder().config("appendonly yes").config("appendfsync always").start().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_call_after_a_restart_is_answered() {
    let server = durable();
    let store = open(&server.url()).await;
    let (id, record) = file(&store).await;
    for _ in 0..3 {
        server.restart().unwrap();
        assert_live(store.load(&id).await.unwrap(), &record);
        server.restart().unwrap();
        // Scripts are gone with the old process, and a write over the old connection is surely not done.
        file(&store).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_while_there_is_no_server_fail_soon_and_as_not_done() {
    let server = durable();
    let store = options(&server.url()).with_connect_timeout(Duration::from_secs(1)).open().await.unwrap();
    let (id, record) = file(&store).await;
    server.kill().unwrap();
    for _ in 0..5 {
        let started = Instant::now();
        let error = store.load(&id).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
        assert!(error.is_transient() && error.to_string().contains("nothing listens there"), "{error}");
        let fresh = new_id();
        let error = store.create(&fresh, &record_of(&fresh), None).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (StoreErrorKind::Unavailable, WriteOutcome::NotDone), "{error}");
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
    server.restart().unwrap();
    assert_live(store.load(&id).await.unwrap(), &record);
}

#[tokio::test]
async fn many_calls_at_once_after_an_outage_share_one_connection() {
    let server = durable();
    let store = open(&server.url()).await;
    let (id, record) = file(&store).await;
    server.restart().unwrap();
    let loads = futures_util::future::join_all((0..200).map(|_| store.load(&id))).await;
    for load in loads {
        assert_live(load.unwrap(), &record);
    }
    let clients = server.command(&["CLIENT", "LIST"]).unwrap();
    assert_eq!(clients.lines().filter(|line| line.contains("name=cloakroom")).count(), 1, "{clients}");
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_sent_again() {
    let server = Redis::start().unwrap();
    let store = open(&server.url()).await;
    file(&store).await;
    server.command(&["SCRIPT", "FLUSH"]).unwrap();
    let (id, record) = file(&store).await;
    assert_live(store.load(&id).await.unwrap(), &record);
}

#[tokio::test]
async fn a_server_that_stands_still_times_calls_out_and_is_used_again_when_it_goes_on() {
    let server = durable();
    let store = options(&server.url())
        .with_timeout(Duration::from_millis(200))
        .with_connect_timeout(Duration::from_millis(400))
        .open()
        .await
        .unwrap();
    let mut sessions = Vec::new();
    for _ in 0..10 {
        sessions.push(file(&store).await);
    }
    // The server has the script from here on.
    let (id, _) = sessions.remove(0);
    assert!(store.delete(&id, EndReason::Destroyed).await.unwrap());
    server.process().pause().unwrap();
    let error = store.delete(&sessions[0].0, EndReason::Destroyed).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (StoreErrorKind::Timeout, WriteOutcome::Unknown), "{error}");
    // No connection comes about any more, so nothing was sent.
    let error = store.delete(&sessions[1].0, EndReason::Destroyed).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (StoreErrorKind::Unavailable, WriteOutcome::NotDone), "{error}");
    assert!(store.load(&sessions[2].0).await.unwrap_err().is_transient());
    server.process().resume().unwrap();
    for (id, record) in &sessions[1..] {
        assert_live(store.load(id).await.unwrap(), record);
    }
    // What was of unknown outcome was done in the end.
    assert_eq!(store.load(&sessions[0].0).await.unwrap(), Load::Gone(Some(EndReason::Destroyed)));
}

#[tokio::test]
async fn a_connection_that_is_cut_after_a_write_leaves_it_unknown() {
    let server = Fake::start(|mut client| async move {
        if client.greet().await {
            client.read().await;
        }
    })
    .await;
    let store = open(&server.url()).await;
    let error = store.delete(&new_id(), EndReason::Destroyed).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (StoreErrorKind::Unavailable, WriteOutcome::Unknown), "{error}");
    assert!(error.to_string().contains("cut before the answer came"), "{error}");
}

/// A cursor means nothing to another process, which may be what answers after a connection was lost.
#[tokio::test]
async fn a_scan_begins_anew_behind_a_new_connection() {
    let cursors = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&cursors);
    let server = Fake::start(move |mut client| {
        let seen = Arc::clone(&seen);
        async move {
            if !client.greet().await {
                return;
            }
            while client.read().await {
                let said = String::from_utf8_lossy(&client.said).into_owned();
                let cursor = said.split("SCAN\r\n$1\r\n").nth(1).and_then(|rest| rest.chars().next()).unwrap();
                seen.lock().unwrap().push(cursor);
                let next = match seen.lock().unwrap().len() {
                    1 => "7",
                    2 => return,
                    _ => "0",
                };
                client.send(&[format!("*2\r\n$1\r\n{next}\r\n*0\r\n").into_bytes(), client.marker()].concat()).await;
            }
        }
    })
    .await;
    let store = open(&server.url()).await;
    assert_eq!(store.scan(None, 10).await.unwrap(), []);
    assert_eq!(*cursors.lock().unwrap(), ['0', '7', '0']);
}

#[tokio::test]
async fn a_closed_store_takes_no_more_calls() {
    let store = open(&shared::redis()).await;
    let (id, record) = file(&store).await;
    store.close().await;
    for error in [
        store.load(&id).await.map(drop),
        store.update(&id, Revision::FIRST, &record).await.map(drop),
        store.delete(&id, EndReason::Destroyed).await.map(drop),
        store.scan(None, 1).await.map(drop),
        store.probe().await.map(drop),
    ] {
        let error = error.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (StoreErrorKind::Unavailable, WriteOutcome::NotDone), "{error:?}");
        assert!(error.to_string().contains("the store is closed"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_becomes_a_replica_is_written_to_no_more() {
    let server = Redis::start().unwrap();
    let store = options(&server.url()).with_connect_timeout(Duration::from_secs(1)).open().await.unwrap();
    let (id, record) = file(&store).await;
    server.command(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
    let error = store.delete(&id, EndReason::Destroyed).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (StoreErrorKind::Unavailable, WriteOutcome::NotDone), "{error}");
    server.command(&["REPLICAOF", "NO", "ONE"]).unwrap();
    assert_live(store.load(&id).await.unwrap(), &record);
    assert!(store.delete(&id, EndReason::Destroyed).await.unwrap());
}

#[tokio::test]
async fn a_full_server_refuses_writes_as_not_done() {
    let server = Redis::start().unwrap();
    let store = open(&server.url()).await;
    let (id, record) = file(&store).await;
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    let fresh = new_id();
    let error = store.create(&fresh, &record_of(&fresh), None).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (StoreErrorKind::Full, WriteOutcome::NotDone), "{error}");
    assert!(error.to_string().contains("raise maxmemory"), "{error}");
    assert_live(store.load(&id).await.unwrap(), &record);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_are_told_again_once_the_server_is_back() {
    let server = durable();
    let store = open(&server.url()).await;
    let mut signals = store.signals().unwrap();
    let mut next = async || tokio::time::timeout(Duration::from_secs(20), signals.next()).await.unwrap();
    assert_eq!(next().await, Some(Signal::Unsure));
    for _ in 0..2 {
        server.restart().unwrap();
        assert_eq!(next().await, Some(Signal::Deaf));
        assert_eq!(next().await, Some(Signal::Unsure), "what ended meanwhile was told to nobody");
        let (id, record) = file(&store).await;
        store.delete(&id, EndReason::Destroyed).await.unwrap();
        assert_eq!(next().await, Some(Signal::Ended(record.handle())));
    }
    store.close().await;
    assert_eq!(next().await, None);
}
