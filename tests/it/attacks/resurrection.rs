//! Sessions that ended, presented again.

use std::sync::Arc;
use std::time::Duration;

use cloakroom_cookie::EncryptedSeal;
use cloakroom_core::{Backend, EndReason, Manager, OsRandom, Page, SessionErrorKind, State};
use cloakroom_testkit::ManualClock;

use crate::setup::{Browser, World, on_every_backend, on_every_store, principal, ring};

on_every_backend!(
    logout_is_not_undone_by_a_request_in_flight,
    a_copied_cookie_is_dead_after_logout,
    a_logout_takes_the_cookie_away_with_the_attributes_it_was_set_with,
    clearing_is_a_change,
    sign_out_everywhere_ends_every_device,
    sign_out_everywhere_else_leaves_this_device,
    a_sign_in_after_sign_out_everywhere_works,
    a_logout_without_a_session_only_removes_the_cookie,
    a_handle_kept_after_the_response_changes_nothing,
    a_logout_with_a_token_that_was_just_renewed_ends_the_session,
);

async fn logout_is_not_undone_by_a_request_in_flight(world: World) {
    let mut browser = world.signed_in("alice").await;
    let (token, handle) = (browser.token().to_owned(), world.handle_of(browser.token()).await);
    let slow = browser.request().await;
    slow.session.set("n", 1).unwrap();
    let renewing = browser.request().await;
    renewing.session.renew().unwrap();
    browser.visit(async |session| session.logout().unwrap()).await;
    for request in [slow, renewing] {
        let finish = request.finish().await;
        assert!(finish.error.is_none());
        assert_eq!(crate::setup::token_of(&finish), None, "no token after a logout");
    }
    assert_eq!(world.events.count("session_changes_dropped"), 2);
    assert!(!world.opens(&token).await);
    for token in world.issued() {
        assert_ne!(world.handle_of(&token).await, handle);
    }
    assert!(!world.keeps_records() || world.live_handles().await.is_empty());
}

async fn a_copied_cookie_is_dead_after_logout(world: World) {
    let mut browser = world.signed_in("alice").await;
    let mut thief = world.browser();
    thief.plant(browser.token());
    assert!(browser.visit(async |session| session.logout().unwrap()).await.clears_cookie());
    let reply = thief.visit(async |session| (session.state(), session.principal())).await;
    assert_eq!(reply.value, (State::Absent, None));
    assert!(reply.clears_cookie());
}

async fn a_logout_takes_the_cookie_away_with_the_attributes_it_was_set_with(world: World) {
    let mut browser = world.browser();
    let set = browser.visit(async |session| session.login("alice").unwrap()).await.finish.set_cookie.unwrap();
    let cleared = browser.visit(async |session| session.logout().unwrap()).await.finish.set_cookie.unwrap();
    let (_, attributes) = set.split_once("; ").unwrap();
    let expected = format!("__Host-id=; {attributes}; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT");
    assert_eq!(cleared, expected);
    assert!(!browser.has_cookie());
}

async fn clearing_is_a_change(world: World) {
    let mut browser = world.signed_in("alice").await;
    browser.visit(async |session| session.set("a", 1).unwrap()).await;
    browser.visit(async |session| session.clear().unwrap()).await;
    assert!(browser.visit(async |session| session.keys().unwrap()).await.value.is_empty());
    browser.visit(async |session| session.set("a", 1).unwrap()).await;
    browser.visit(async |session| session.remove("a").unwrap()).await;
    let reply = browser.visit(async |session| (session.keys().unwrap(), session.principal())).await;
    assert_eq!(reply.value, (Vec::new(), Some(principal("alice"))));
}

async fn sign_out_everywhere_ends_every_device(world: World) {
    let mut devices = Vec::new();
    for _ in 0..3 {
        devices.push(world.signed_in("alice").await);
    }
    let bystander = world.signed_in("bob").await;
    devices[0].visit(async |session| session.logout_everywhere().await.unwrap()).await;
    for token in world.issued() {
        assert_eq!(world.opens(&token).await, token == bystander.token());
    }
}

async fn sign_out_everywhere_else_leaves_this_device(world: World) {
    let (mut here, elsewhere) = (world.signed_in("alice").await, world.signed_in("alice").await);
    here.visit(async |session| session.revoke_others().await.unwrap()).await;
    assert!(world.opens(here.token()).await && !world.opens(elsewhere.token()).await);
    here.visit(async |session| session.logout_everywhere().await.unwrap()).await;
    for token in world.issued() {
        assert!(!world.opens(&token).await);
    }
}

async fn a_sign_in_after_sign_out_everywhere_works(world: World) {
    world.signed_in("alice").await;
    world.manager.revoke_all(&principal("alice"), None).await.unwrap();
    // `signed_in` asserts that it works, in the same millisecond even.
    world.signed_in("alice").await;
}

async fn a_logout_without_a_session_only_removes_the_cookie(world: World) {
    let mut browser = world.browser();
    world.spy.forget_calls();
    let reply = browser.visit(async |session| session.logout().unwrap()).await;
    assert!(reply.clears_cookie() && reply.finish.error.is_none());
    assert_eq!(world.spy.writes(), 0);
}

async fn a_handle_kept_after_the_response_changes_nothing(world: World) {
    let mut browser = world.signed_in("alice").await;
    let kept = browser.visit(async |session| session.clone()).await.value;
    let refused = [kept.set("n", 1), kept.login("bob"), kept.renew(), kept.logout(), kept.commit().await];
    for error in refused {
        assert_eq!(error.unwrap_err().kind(), SessionErrorKind::Closed);
    }
    assert!(browser.visit(async |session| session.keys().unwrap()).await.value.is_empty());
}

async fn a_logout_with_a_token_that_was_just_renewed_ends_the_session(world: World) {
    let mut browser = world.signed_in("alice").await;
    let mut overtaken = browser.clone();
    browser.visit(async |session| session.renew().unwrap()).await;
    assert!(overtaken.visit(async |session| session.logout().unwrap()).await.clears_cookie());
    assert!(!world.opens(browser.token()).await, "the session goes on under its new token");
}

mod by_handle {
    use super::*;
    on_every_store!(one_device_is_ended_by_its_handle_and_only_by_its_owner, the_reason_of_an_end_is_remembered,);

    async fn one_device_is_ended_by_its_handle_and_only_by_its_owner(world: World) {
        let (mut here, there) = (world.signed_in("alice").await, world.signed_in("alice").await);
        let mut other = world.signed_in("bob").await;
        let target = world.handle_of(there.token()).await.unwrap();
        let listed = here.visit(async |session| session.list(Page::FIRST).await.unwrap()).await.value;
        assert_eq!(listed.sessions.len(), 2);
        assert!(listed.sessions.iter().any(|summary| summary.handle == target));
        assert!(!other.visit(async |session| session.revoke(target).await.unwrap()).await.value, "not bob's to end");
        assert!(world.opens(there.token()).await);
        assert!(here.visit(async |session| session.revoke(target).await.unwrap()).await.value);
        assert!(!world.opens(there.token()).await && world.opens(here.token()).await);
    }

    async fn the_reason_of_an_end_is_remembered(world: World) {
        let mut browser = world.signed_in("alice").await;
        let handle = world.handle_of(browser.token()).await.unwrap();
        let directory = world.manager.directory().unwrap();
        assert_eq!(directory.explain(handle).await.unwrap(), None, "it lives");
        browser.visit(async |session| session.logout().unwrap()).await;
        assert_eq!(directory.explain(handle).await.unwrap().unwrap().reason, EndReason::Destroyed);
    }
}

mod self_contained {
    use super::*;
    use crate::setup::{Kind, Stack};

    #[tokio::test]
    async fn lists_and_ends_by_handle_are_refused_as_documented() {
        let world = World::start(Kind::Sealed, Stack::Bare).await;
        assert!(world.manager.directory().is_none());
        let mut browser = world.signed_in("alice").await;
        let handle = world.handle_of(browser.token()).await.unwrap();
        let reply = browser.visit(async |session| {
            (session.list(Page::FIRST).await.unwrap_err().kind(), session.revoke(handle).await.unwrap_err().kind())
        });
        assert_eq!(reply.await.value, (SessionErrorKind::Unsupported, SessionErrorKind::Unsupported));
    }
}

mod self_contained_without_a_revocation_list {
    use super::*;

    /// As its documentation warns: the cookie goes, and a copy of it opens until it times out.
    #[tokio::test]
    async fn a_logout_takes_the_cookie_and_nothing_else_and_a_copy_opens_until_its_timeout() {
        let (keys, clock) = (ring("tests", &[1]), Arc::new(ManualClock::new()));
        // A seal is all there is: no store.
        let seal = EncryptedSeal::new(keys.clone(), Arc::new(OsRandom::default()));
        let backend = Backend::danger_self_contained_without_revocation(Arc::new(seal));
        let manager = Manager::builder(backend, keys).clock(clock.clone()).build().unwrap();
        let alice = principal("alice");

        let mut browser = Browser::new(manager.clone(), Arc::default());
        browser.visit(async |session| session.login("alice").unwrap()).await;
        let mut copy = browser.clone();
        let reply = browser.visit(async |session| session.logout().unwrap()).await;
        assert!(reply.clears_cookie() && !browser.has_cookie());
        assert_eq!(reply.error(), None);
        let reply = copy.visit(async |session| (session.principal(), session.revoke_others().await)).await;
        assert_eq!(reply.value.0, Some(alice.clone()), "nothing on the server can end it");
        assert_eq!(reply.value.1.unwrap_err().kind(), SessionErrorKind::Unsupported);

        assert_eq!(manager.revoke_all(&alice, None).await.unwrap_err().kind(), SessionErrorKind::Unsupported);
        let refused = copy.visit(async |session| session.logout_everywhere().await.unwrap_err().kind()).await;
        assert_eq!(refused.value, SessionErrorKind::Unsupported);
        assert!(copy.has_cookie(), "a sign-out everywhere that did not happen is none here either");
        let reply = copy.visit(async |session| session.principal()).await;
        assert_eq!(reply.value, Some(alice));

        clock.advance(Duration::from_secs(24 * 60 * 60));
        assert_eq!(copy.visit(async |session| session.principal()).await.value, None);
    }
}
