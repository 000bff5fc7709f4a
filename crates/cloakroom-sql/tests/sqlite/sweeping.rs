//! Removing what is over, in batches and in the background.

use std::sync::Arc;
use std::time::Duration;

use cloakroom_core::{
    Clock as _, Create, EndReason, Handle, Load, MemoryStore, Record, SessionId, SessionStore, Sweeper, Swept, Touch,
};
use cloakroom_core::{StoreErrorKind, Verb};
use cloakroom_sql::SqliteStore;
use cloakroom_testkit::{Fault, FaultyStore};
use tokio::time::{Instant, sleep};

use crate::support::{Place, create, id, live, number};

/// Sweeps to the end; how many went.
async fn sweep_out(store: &SqliteStore, limit: u32) -> u64 {
    let mut removed = 0;
    loop {
        let swept = store.sweep(limit).await.unwrap();
        removed += swept.removed;
        if !swept.more {
            return removed;
        }
    }
}

#[tokio::test]
async fn a_sweep_finds_what_expired_behind_any_number_of_touched_sessions() {
    let place = Place::new();
    let store = place.open().await;
    let wide = |n: u16| {
        let (mut id, mut handle) = ([1; SessionId::LEN], [1; Handle::LEN]);
        id[..2].copy_from_slice(&n.to_be_bytes());
        handle[..2].copy_from_slice(&n.to_be_bytes());
        (SessionId::from_bytes(id), Handle::from_bytes(handle))
    };
    let now = place.clock.now();
    let pushed = now + Duration::from_secs(120);
    for n in 0..1200 {
        let (id, handle) = wide(n);
        let idle = Duration::from_secs(if n < 1100 { 50 } else { 60 });
        let record = Record::new(handle, now, idle, Duration::from_secs(600));
        assert!(matches!(store.create(&id, &record, None).await.unwrap(), Create::Created { .. }));
        if n < 1100 {
            assert_eq!(store.touch(&id, now, pushed).await.unwrap(), Touch::Touched);
        }
    }
    place.clock.advance(Duration::from_secs(60));
    assert_eq!(sweep_out(&store, 1000).await, 100, "the others were touched");
    assert_eq!(store.sweep(1000).await.unwrap(), Swept::default());
    place.clock.advance(Duration::from_secs(60));
    assert_eq!(store.sweep(700).await.unwrap(), Swept { removed: 700, more: true });
    assert_eq!(store.sweep(700).await.unwrap(), Swept { removed: 400, more: false });
    let rows = "SELECT count(*) FROM cloakroom_sessions WHERE ended_reason = 4 AND record IS NULL";
    assert_eq!(number(&mut place.sqlite().await, rows).await, 1200);
    place.clock.advance(MemoryStore::DEFAULT_TOMBSTONES + Duration::from_secs(60));
    assert_eq!(sweep_out(&store, 5000).await, 1200);
    assert_eq!(number(&mut place.sqlite().await, "SELECT count(*) FROM cloakroom_sessions").await, 0);
}

#[tokio::test]
async fn a_sweep_of_nothing_removes_nothing() {
    let place = Place::new();
    let store = place.open().await;
    create(&store, 1, &place.record(1)).await;
    place.clock.advance(Duration::from_secs(60));
    assert_eq!(store.sweep(0).await.unwrap().removed, 0);
    assert_eq!(store.load(&id(1)).await.unwrap(), Load::Gone(Some(EndReason::Expired)));
}

#[tokio::test]
async fn the_sweeper_spares_what_is_live() {
    let place = Place::new();
    let store = place.open().await;
    create(&store, 1, &place.record(1)).await;
    place.clock.advance(Duration::from_secs(30));
    create(&store, 2, &place.record(2)).await;
    place.clock.advance(Duration::from_secs(30));
    let sweeper = Sweeper::start(Arc::new(store.clone()), Duration::from_secs(3600));
    let mut sqlite = place.sqlite().await;
    let swept = async {
        while number(&mut sqlite, "SELECT count(*) FROM cloakroom_sessions WHERE ended_reason = 4").await == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), swept).await.expect("nothing was swept");
    live(&store, 2).await;
    drop(sweeper);
}

#[tokio::test(start_paused = true)]
async fn the_sweeper_goes_on_after_failures_and_waits_longer_each_time() {
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new())));
    for _ in 0..2 {
        store.once(Verb::Sweep, Fault::FailBefore(StoreErrorKind::Unavailable));
    }
    let started = Instant::now();
    let sweeper = Sweeper::start(store.clone(), Duration::from_secs(60));
    let mut calls = Vec::new();
    while calls.len() < 4 {
        sleep(Duration::from_secs(1)).await; // tidy: sleep — the time is paused; this moves it
        if store.calls(Verb::Sweep) > calls.len() {
            calls.push(started.elapsed().as_secs());
        }
    }
    let pauses: Vec<_> = calls.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // Pauses after failures are lengthened by up to half, and are looked at once a second.
    assert!((1..=2).contains(&pauses[0]) && (2..=4).contains(&pauses[1]), "{pauses:?}");
    assert!(pauses[2].abs_diff(60) <= 1, "{pauses:?}");
    drop(sweeper);
    sleep(Duration::from_secs(3600)).await; // tidy: sleep — the time is paused
    assert_eq!(store.calls(Verb::Sweep), 4, "it swept after it was dropped");
}
