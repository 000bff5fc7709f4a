//! Touches in the background.

use std::sync::Arc;
use std::time::Duration;

use cloakroom_core::{
    Clock as _, Create, EndReason, Excess, ForeignExpiry, ForeignSessions, KeyRing, Load, OsRandom, Page, Record,
    SecretKey, SessionLimit, SessionStore, Touch,
};
use cloakroom_sql::{PostgresStore, Touches};
use cloakroom_testkit::ManualClock;
use futures_util::future::join3;

use crate::support::{Place, alice, create, handle, id, live};

async fn in_the_background(place: &Place) -> PostgresStore {
    place.options().with_clock(place.clock.clone()).with_touches(Touches::Background).open().await.unwrap()
}

#[tokio::test]
async fn are_answered_at_once_and_written_when_the_store_closes() {
    let place = Place::new();
    let (store, other) = (in_the_background(&place).await, place.open().await);
    let now = place.clock.now();
    for n in 0..3 {
        create(&store, n, &place.record(n)).await;
        for seconds in [80, 90, 70] {
            let touched = store.touch(&id(n), now, now + Duration::from_secs(seconds)).await.unwrap();
            assert_eq!(touched, Touch::Touched);
        }
    }
    assert_eq!(live(&other, 0).await.record.idle_deadline(), now + Duration::from_secs(60), "it was not queued");
    store.close().await;
    for n in 0..3 {
        assert_eq!(live(&other, n).await.record.idle_deadline(), now + Duration::from_secs(90));
    }
}

#[tokio::test]
async fn are_written_within_about_a_second() {
    let place = Place::new();
    let store = in_the_background(&place).await;
    let now = place.clock.now();
    create(&store, 1, &place.record(1)).await;
    store.touch(&id(1), now, now + Duration::from_secs(90)).await.unwrap();
    let started = std::time::Instant::now();
    while live(&store, 1).await.record.idle_deadline() != now + Duration::from_secs(90) {
        assert!(started.elapsed() < Duration::from_secs(30), "never written");
        tokio::time::sleep(Duration::from_millis(20)).await; // tidy: sleep — what is tested is that time passes
    }
    assert!(started.elapsed() > Duration::from_millis(500), "it did not wait for others");
}

#[tokio::test]
async fn revive_nothing() {
    let place = Place::new();
    let (store, other) = (in_the_background(&place).await, place.open().await);
    let now = place.clock.now();
    for n in 1..4 {
        create(&store, n, &place.record(n)).await;
        store.touch(&id(n), now, now + Duration::from_secs(500)).await.unwrap();
    }
    assert!(other.delete(&id(1), EndReason::Destroyed).await.unwrap());
    // Comes before the touches are written.
    place.clock.advance(Duration::from_secs(61));
    store.close().await;
    assert_eq!(other.load(&id(1)).await.unwrap(), Load::Gone(Some(EndReason::Destroyed)));
    assert_eq!(other.load(&id(2)).await.unwrap(), Load::Gone(Some(EndReason::Expired)));
}

/// A process that dies takes a minute and a half of a session at most.
#[tokio::test]
async fn are_answered_when_they_are_worth_much() {
    const MINUTE: Duration = Duration::from_secs(60);
    let place = Place::new();
    let (store, other) = (in_the_background(&place).await, place.open().await);
    let begun = place.clock.now();
    create(&store, 1, &Record::new(handle(1), begun, 30 * MINUTE, 600 * MINUTE)).await;
    let visit = async || {
        live(&store, 1).await;
        let now = place.clock.now();
        store.touch(&id(1), now, now + 30 * MINUTE).await.unwrap();
        live(&other, 1).await.record.idle_deadline()
    };
    place.clock.advance(MINUTE);
    assert_eq!(visit().await, begun + 30 * MINUTE, "it was not queued");
    place.clock.advance(28 * MINUTE);
    assert_eq!(visit().await, begun + 59 * MINUTE, "it was answered before it was written");
    drop(store);
}

/// Under another library a session is looked for by every key, and the store does not say by which it is.
#[tokio::test]
async fn reach_sessions_of_an_older_key() {
    const MINUTE: Duration = Duration::from_secs(60);
    let place = Place::new();
    let store = Arc::new(place.options().with_touches(Touches::Background).open().await.unwrap());
    let keys = [(); 2].map(|()| SecretKey::generate(&OsRandom::default()).unwrap());
    let before = ForeignSessions::new("test", store.clone(), KeyRing::new("a", &keys[1..]).unwrap());
    let after = ForeignSessions::new("test", store.clone(), KeyRing::new("a", &keys).unwrap());
    let (secret, _) = before.create::<16>(Vec::new(), ForeignExpiry::In(10 * MINUTE)).await.unwrap();
    after.touch(&secret, 60 * MINUTE).await.unwrap();
    store.close().await;
    let other = place.options().open().await.unwrap();
    let (_, stored) = other.scan(None, 10).await.unwrap().pop().unwrap();
    let left = stored.record.idle_deadline().duration_since(stored.record.last_seen()).unwrap();
    assert!(left > 59 * MINUTE, "{left:?}");
}

#[tokio::test]
async fn are_answered_when_too_many_wait() {
    let place = Place::new();
    let options = place.options().with_clock(place.clock.clone()).with_touches(Touches::Background);
    let store = options.with_queue(2).open().await.unwrap();
    let now = place.clock.now();
    let mut answers = Vec::new();
    // Nobody has these; only one that is answered can know.
    for n in 0..20 {
        answers.push(store.touch(&id(n), now, now + Duration::from_secs(90)).await.unwrap());
    }
    assert!(answers.contains(&Touch::Gone(None)) && answers[0] == Touch::Touched, "{answers:?}");
}

/// Whoever waits for a row that was only locked is not asked again whether it may.
#[tokio::test]
async fn revive_nothing_that_was_counted_as_over_while_they_waited() {
    const MINUTE: Duration = Duration::from_secs(60);
    let place = Place::new();
    let store = place.open().await;
    create(&store, 1, &place.record(1)).await;
    let longer = Record::new(handle(2), place.clock.now(), 10 * MINUTE, 10 * MINUTE).owned_by(alice());
    create(&store, 2, &longer).await;
    // Of another process, which asks a moment before the first of them is over.
    let earlier = Arc::new(ManualClock::new());
    earlier.set(place.clock.now() + MINUTE - Duration::from_secs(1));
    let late = place.options().with_clock(earlier.clone()).open().await.unwrap();
    place.clock.advance(MINUTE + Duration::from_secs(1));
    let client = place.client().await;
    client.batch_execute("BEGIN").await.unwrap();
    let lock = format!("SELECT FROM {}sessions WHERE id = $1 FOR UPDATE", place.prefix);
    assert_eq!(client.execute(&lock, &[&id(2).as_bytes().as_slice()]).await.unwrap(), 1);
    let waiting = async |calls: i64| {
        let who = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%cloakroom_%'";
        while place.number(who).await < calls {
            // tidy: sleep — another process gives no event to wait for, and must get its turn
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let limit = Some(SessionLimit { max: 2.try_into().unwrap(), excess: Excess::Reject });
    let (third, of_third, soon) = (place.record(3), id(3), earlier.now() + MINUTE);
    let creating = store.create(&of_third, &third, limit);
    let touching = async {
        waiting(1).await;
        late.touch(&id(1), earlier.now(), soon).await
    };
    let letting_go = async {
        waiting(2).await;
        client.batch_execute("ROLLBACK").await
    };
    let (created, touched, gone) = join3(creating, touching, letting_go).await;
    gone.unwrap();
    assert_eq!(created.unwrap(), Create::Created { evicted: Vec::new() });
    assert_eq!(touched.unwrap(), Touch::Gone(Some(EndReason::Expired)));
    assert_eq!(late.list(&alice(), Page::FIRST).await.unwrap().sessions.len(), 2);
}
