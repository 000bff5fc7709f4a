//! Sweeps, which go on where the last batch ended.

use std::time::Duration;

use cloakroom_core::{Clock as _, MemoryStore, SessionStore, Swept};
use cloakroom_sql::PostgresStore;

use crate::support::{Place, create, id};

/// Twelve sessions, whose deadlines are a second apart.
async fn twelve() -> (Place, PostgresStore) {
    let place = Place::new();
    let store = place.open().await;
    for n in 0..12 {
        create(&store, n, &place.record(n)).await;
        place.clock.advance(Duration::from_secs(1));
    }
    (place, store)
}

#[tokio::test]
async fn what_somebody_had_locked_goes_before_the_sweep_ends() {
    let (place, store) = twelve().await;
    place.clock.advance(Duration::from_secs(120));
    let client = place.client().await;
    client.batch_execute("BEGIN").await.unwrap();
    let lock = format!("SELECT FROM {}sessions WHERE id = $1 FOR UPDATE", place.prefix);
    assert_eq!(client.execute(&lock, &[&id(0).as_bytes().as_slice()]).await.unwrap(), 1);
    assert_eq!(store.sweep(5).await.unwrap(), Swept { removed: 5, more: true });
    client.batch_execute("ROLLBACK").await.unwrap();
    // All that is left but for one is behind the first five.
    let mut removed = 5;
    loop {
        let swept = store.sweep(5).await.unwrap();
        removed += swept.removed;
        if !swept.more {
            break;
        }
    }
    assert_eq!(removed, 12);
    assert_eq!(place.number("SELECT count(*) FROM cloakroom_sessions WHERE ended_reason IS NULL").await, 0);
}

#[tokio::test]
async fn what_nobody_would_be_told_of_any_more_leaves_no_tombstone() {
    let place = Place::new();
    let store = place.open().await;
    for n in 0..3 {
        create(&store, n, &place.record(n)).await;
    }
    place.clock.advance(Duration::from_secs(60) + MemoryStore::DEFAULT_TOMBSTONES + Duration::from_secs(1));
    create(&store, 3, &place.record(3)).await;
    assert_eq!(store.sweep(10).await.unwrap(), Swept { removed: 3, more: false });
    assert_eq!(place.number("SELECT count(*) FROM cloakroom_sessions").await, 1, "the live one");
}

#[tokio::test]
async fn a_call_does_no_more_than_its_limit_of_work_where_all_turns_out_to_be_live() {
    let (place, store) = twelve().await;
    place.clock.advance(Duration::from_secs(30));
    let now = place.clock.now();
    for n in 0..12 {
        store.touch(&id(n), now, now + Duration::from_secs(300)).await.unwrap();
    }
    place.clock.advance(Duration::from_secs(120));
    assert_eq!(store.sweep(5).await.unwrap(), Swept { removed: 0, more: true });
    let due = "SELECT count(*) FROM cloakroom_sessions WHERE sweep_at < idle_deadline";
    assert_eq!(place.number(due).await, 7);
}
