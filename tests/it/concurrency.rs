//! Many requests at once: every change lands, every limit holds, every code is used once.

use std::num::NonZeroU32;

use cloakroom_core::{Excess, Policy, SessionError, SessionErrorKind, SessionLimit};
use futures_util::future::{join, join_all};

use crate::setup::{Browser, World, on_every_backend, on_every_store, principal};

on_every_store!(
    parallel_modifies_of_one_value_are_all_counted,
    parallel_sets_of_different_keys_are_all_kept,
    a_code_is_redeemed_once_by_a_hundred_parallel_requests,
    a_limit_that_rejects_is_never_exceeded_by_parallel_sign_ins,
    a_limit_that_evicts_is_never_exceeded_by_parallel_sign_ins,
);

mod any {
    use super::*;
    on_every_backend!(
        a_logout_beside_a_sign_in_leaves_nothing_of_the_session,
        parallel_first_visits_get_sessions_of_their_own
    );

    async fn a_logout_beside_a_sign_in_leaves_nothing_of_the_session(world: World) {
        for _ in 0..8 {
            let browser = world.signed_in("alice").await;
            let handle = world.handle_of(browser.token()).await.unwrap();
            let (mut leaving, mut entering) = (browser.clone(), browser.clone());
            join(
                leaving.visit(async |session| session.logout().unwrap()),
                entering.visit(async |session| session.login("alice").unwrap()),
            )
            .await;
            for token in world.issued() {
                assert_ne!(world.handle_of(&token).await, Some(handle));
            }
        }
    }

    async fn parallel_first_visits_get_sessions_of_their_own(world: World) {
        let mut browsers: Vec<Browser> = (0..32).map(|_| world.browser()).collect();
        let visits =
            browsers.iter_mut().enumerate().map(|(n, browser)| browser.visit(async move |session| session.set("n", n)));
        for reply in join_all(visits).await {
            reply.value.unwrap();
        }
        for (n, browser) in browsers.iter_mut().enumerate() {
            let reply = browser.visit(async |session| session.get::<usize>("n").unwrap()).await;
            assert_eq!(reply.value, Some(n));
        }
    }
}

async fn parallel_modifies_of_one_value_are_all_counted(world: World) {
    let browser = world.signed_in("alice").await;
    let mut tabs = vec![browser.clone(); 64];
    let visits =
        tabs.iter_mut().map(|tab| tab.visit(async |session| session.modify("n", |n: &mut u32| *n += 1).map(drop)));
    for reply in join_all(visits).await {
        reply.value.unwrap();
        assert!(reply.finish.error.is_none());
    }
    let reply = browser.clone().visit(async |session| session.get::<u32>("n").unwrap()).await;
    assert_eq!(reply.value, Some(64));
    assert!(world.events.count("session_conflict") > 0, "the requests did not meet");
}

async fn parallel_sets_of_different_keys_are_all_kept(world: World) {
    let browser = world.signed_in("alice").await;
    let mut tabs = vec![browser.clone(); 64];
    let visits = tabs
        .iter_mut()
        .enumerate()
        .map(|(n, tab)| tab.visit(async move |session| session.set(format!("key{n}").as_str(), n)));
    for reply in join_all(visits).await {
        reply.value.unwrap();
        assert!(reply.finish.error.is_none());
    }
    let reply = browser.clone().visit(async |session| session.keys().unwrap()).await;
    assert_eq!(reply.value.len(), 64);
}

async fn a_code_is_redeemed_once_by_a_hundred_parallel_requests(world: World) {
    let mut browser = world.browser();
    browser.visit(async |session| session.set("code", "123456").unwrap()).await;
    let mut tabs = vec![browser.clone(); 100];
    let visits = tabs.iter_mut().map(|tab| {
        tab.visit(async |session| {
            session.transaction(|view| Ok::<_, SessionError>(view.take::<String>("code")?.is_some())).await
        })
    });
    let redeemed = join_all(visits).await.into_iter().filter(|reply| *reply.value.as_ref().unwrap()).count();
    assert_eq!(redeemed, 1);
}

fn at_most(max: u32, excess: Excess) -> Policy {
    Policy::default().with_session_limit(SessionLimit { max: NonZeroU32::new(max).unwrap(), excess })
}

/// Fifty sign-ins of one person at once, and how many of them were refused.
async fn fifty_sign_ins(world: &World) -> usize {
    let mut browsers: Vec<Browser> = (0..50).map(|_| world.browser()).collect();
    let visits = browsers.iter_mut().map(|browser| browser.visit(async |session| session.login("alice").unwrap()));
    let mut refused = 0;
    for reply in join_all(visits).await {
        if let Some(kind) = reply.error() {
            assert_eq!(kind, SessionErrorKind::LimitReached);
            assert_eq!(reply.token(), None, "a refused sign-in hands out nothing");
            refused += 1;
        }
    }
    refused
}

async fn live_tokens(world: &World) -> usize {
    let mut live = 0;
    for token in world.issued() {
        live += usize::from(world.opens(&token).await);
    }
    live
}

async fn a_limit_that_rejects_is_never_exceeded_by_parallel_sign_ins(world: World) {
    let world = world.with_policy(at_most(5, Excess::Reject));
    assert_eq!(fifty_sign_ins(&world).await, 45);
    assert_eq!(live_tokens(&world).await, 5);
    assert_eq!(world.events.count("excess_sessions_exceeded"), 45);
}

async fn a_limit_that_evicts_is_never_exceeded_by_parallel_sign_ins(world: World) {
    let world = world.with_policy(at_most(5, Excess::EvictOldest));
    assert_eq!(fifty_sign_ins(&world).await, 0);
    assert_eq!(live_tokens(&world).await, 5);
    let listing = world.manager.directory().unwrap().list(&principal("alice"), cloakroom_core::Page::FIRST).await;
    assert_eq!(listing.unwrap().sessions.len(), 5);
}

mod self_contained {
    use crate::setup::{Kind, Stack, World};

    use super::*;

    /// Each request carries a copy of its own, and the browser keeps the cookie it was sent last.
    #[tokio::test]
    async fn parallel_changes_do_not_merge_and_one_step_changes_are_refused() {
        let world = World::start(Kind::Sealed, Stack::Bare).await;
        let mut browser = world.signed_in("alice").await;
        let mut other = browser.clone();
        browser.visit(async |session| session.set("a", 1).unwrap()).await;
        other.visit(async |session| session.set("b", 1).unwrap()).await;
        let keys = other.visit(async |session| session.keys().unwrap()).await.value;
        assert_eq!(keys, ["b"]);
        let reply = browser.visit(async |session| session.transaction(|view| view.set("a", 2)).await).await;
        assert_eq!(reply.value.unwrap_err().kind(), SessionErrorKind::Unsupported);
    }

    #[test]
    fn a_limit_of_sessions_is_refused_when_the_manager_is_built() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let world = runtime.block_on(World::start(Kind::Sealed, Stack::Bare));
        let error = world.builder().policy(at_most(5, Excess::Reject)).build().unwrap_err();
        assert_eq!(error, cloakroom_core::BuildError::LimitWithoutStore);
    }
}
