//! Sessions that somebody would like to last longer than they may.

use std::time::{Duration, SystemTime};

use cloakroom_core::{Assurance, Clock as _, Policy, Profile, SessionErrorKind};

use crate::setup::{World, on_every_backend};

const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

on_every_backend!(
    an_idle_session_dies_at_its_timeout_to_the_millisecond,
    a_session_in_use_dies_at_its_absolute_timeout_to_the_millisecond,
    a_clock_that_goes_back_extends_nothing,
    a_clock_that_cannot_be_right_lets_nobody_in,
    a_sign_in_starts_both_timeouts_anew_and_a_read_only_request_neither,
    a_value_with_its_own_time_ends_with_it,
    remembering_ends_at_its_time_and_cannot_be_asked_for_without_end,
    a_fresh_sign_in_is_demanded_and_not_faked_by_activity,
    extreme_durations_neither_panic_nor_last_forever,
);

async fn an_idle_session_dies_at_its_timeout_to_the_millisecond(world: World) {
    let mut browser = world.signed_in("alice").await;
    world.clock.advance(DAY - MS);
    assert!(world.opens(browser.token()).await);
    world.clock.advance(MS);
    assert!(!world.opens(browser.token()).await);
    let reply = browser.visit(async |session| session.principal()).await;
    assert!(reply.value.is_none() && reply.clears_cookie());
}

async fn a_session_in_use_dies_at_its_absolute_timeout_to_the_millisecond(world: World) {
    let policy = Policy::new(Profile::Aal3);
    let (absolute, world) = (policy.absolute(), world.with_policy(policy));
    let start = world.clock.now();
    let mut browser = world.signed_in("alice").await;
    while world.clock.now() + MINUTE < start + absolute {
        world.clock.advance(MINUTE);
        let reply = browser.visit(async |session| session.principal()).await;
        assert!(reply.value.is_some(), "in use after {:?}", world.clock.now().duration_since(start));
    }
    world.clock.set(start + absolute - MS);
    assert!(world.opens(browser.token()).await);
    browser.visit(async |session| session.set("n", 1).unwrap()).await;
    world.clock.set(start + absolute);
    assert!(!world.opens(browser.token()).await);
    for token in world.issued() {
        assert!(!world.opens(&token).await, "an earlier cookie of the same session");
    }
}

async fn a_clock_that_goes_back_extends_nothing(world: World) {
    let start = world.clock.now();
    let mut browser = world.signed_in("alice").await;
    world.clock.set(start - 3 * DAY);
    browser.visit(async |session| session.set("n", 1).unwrap()).await;
    world.clock.set(start + DAY);
    assert!(!world.opens(browser.token()).await);
}

async fn a_clock_that_cannot_be_right_lets_nobody_in(world: World) {
    let browser = world.signed_in("alice").await;
    let now = world.clock.now();
    world.clock.set(SystemTime::UNIX_EPOCH);
    assert_eq!(browser.try_request().await.err().unwrap().kind(), SessionErrorKind::System);
    world.clock.set(now);
    assert!(world.opens(browser.token()).await);
}

async fn a_sign_in_starts_both_timeouts_anew_and_a_read_only_request_neither(world: World) {
    let mut browser = world.signed_in("alice").await;
    for _ in 0..10 {
        world.clock.advance(DAY - MINUTE);
        browser.visit(async |session| session.login("alice").unwrap()).await;
    }
    world.clock.advance(DAY - MINUTE);
    // `opens` reads only, so it does not count as activity.
    assert!(world.opens(browser.token()).await);
    world.clock.advance(MINUTE);
    assert!(!world.opens(browser.token()).await);
}

async fn a_value_with_its_own_time_ends_with_it(world: World) {
    let mut browser = world.signed_in("alice").await;
    browser.visit(async |session| session.set_for("code", "123456", 5 * MINUTE).unwrap()).await;
    world.clock.advance(5 * MINUTE - MS);
    assert!(browser.visit(async |session| session.contains("code").unwrap()).await.value);
    browser.visit(async |session| session.set("other", 1).unwrap()).await;
    world.clock.advance(MS);
    let reply = browser.visit(async |session| (session.get::<String>("code").unwrap(), session.keys().unwrap())).await;
    assert_eq!(reply.value, (None, vec!["other".to_owned()]));
}

async fn remembering_ends_at_its_time_and_cannot_be_asked_for_without_end(world: World) {
    let mut browser = world.signed_in("alice").await;
    assert_eq!(browser.max_age(), None, "a session ends with the browser unless asked otherwise");
    let start = world.clock.now();
    browser.visit(async |session| session.persist(30 * DAY).unwrap()).await;
    assert_eq!(browser.max_age(), Some(30 * 24 * 60 * 60));
    for day in 1..30 {
        world.clock.set(start + day * DAY);
        // Asking again and again.
        browser.visit(async |session| session.persist(30 * DAY).unwrap()).await;
        assert!(world.opens(browser.token()).await, "day {day}");
    }
    world.clock.set(start + 30 * DAY - MS);
    assert!(world.opens(browser.token()).await);
    world.clock.set(start + 30 * DAY);
    assert!(!world.opens(browser.token()).await);
    let mut browser = world.signed_in("alice").await;
    let refused = browser.visit(async |session| session.persist(31 * DAY).unwrap_err().kind()).await.value;
    assert_eq!(refused, SessionErrorKind::OutOfRange);
}

async fn a_fresh_sign_in_is_demanded_and_not_faked_by_activity(world: World) {
    let mut browser = world.signed_in("alice").await;
    for _ in 0..6 {
        world.clock.advance(MINUTE);
        browser.visit(async |session| session.set("n", 1).unwrap()).await;
    }
    let stale = browser.visit(async |session| session.require_fresh(5 * MINUTE).unwrap_err().kind()).await.value;
    assert_eq!(stale, SessionErrorKind::ReauthenticationRequired);
    browser.visit(async |session| session.step_up(Assurance::Two).unwrap()).await;
    let reply = browser.visit(async |session| (session.require_fresh(5 * MINUTE).is_ok(), session.assurance())).await;
    assert_eq!(reply.value, (true, Assurance::Two));
    let nobody = world.browser().visit(async |session| session.require_fresh(DAY).unwrap_err().kind()).await.value;
    assert_eq!(nobody, SessionErrorKind::NotSignedIn);
}

async fn extreme_durations_neither_panic_nor_last_forever(world: World) {
    let mut browser = world.signed_in("alice").await;
    for (n, time) in [Duration::ZERO, MS, Duration::MAX, Duration::from_secs(u64::MAX)].into_iter().enumerate() {
        let key = format!("k{n}");
        browser.visit(async |session| session.set_for(key.as_str(), 1, time).unwrap()).await;
        drop(browser.visit(async |session| (session.persist(time), session.require_fresh(time))).await);
    }
    world.clock.advance(30 * DAY);
    assert!(!world.opens(browser.token()).await);
}
