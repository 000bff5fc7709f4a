//! Touches in the background.

use std::time::Duration;

use cloakroom_core::{Clock as _, EndReason, Load, SessionStore, Touch};
use cloakroom_sql::{PostgresStore, Touches};

use crate::support::{Place, create, id, live};

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
