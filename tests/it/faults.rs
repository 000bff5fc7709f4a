//! A store that fails, loses its answer or never gives one: nobody gets in, nobody is thrown out.

use std::time::Duration;

use cloakroom_core::{OutagePolicy, Outcome, Policy, Session, SessionErrorKind, StoreErrorKind, Verb};
use cloakroom_testkit::{Fault, Gate};

use crate::setup::{Browser, Reply, Request, Stack, World, on_every_backend, on_every_store, principal};

const WRITES: [Verb; 5] = [Verb::Create, Verb::Update, Verb::Touch, Verb::Renew, Verb::Delete];

fn break_writes(world: &World, fault: &Fault) {
    for verb in WRITES {
        world.spy.always(verb, fault.clone());
    }
}

/// What a request may ask of the store.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Set,
    Renew,
    Login,
    Logout,
    /// Signing in as somebody else ends one session and begins another.
    LoginAsOther,
}

impl Action {
    const ALL: [Self; 5] = [Self::Set, Self::Renew, Self::Login, Self::Logout, Self::LoginAsOther];

    fn run(self, session: &Session) {
        match self {
            Self::Set => session.set("n", 1).unwrap(),
            Self::Renew => session.renew().unwrap(),
            Self::Login => session.login("alice").unwrap(),
            Self::Logout => session.logout().unwrap(),
            Self::LoginAsOther => session.login("carol").unwrap(),
        }
    }

    /// Whether the store is written to at all: a sealed session is changed in its cookie.
    fn writes(self, world: &World) -> bool {
        world.keeps_records() || self != Self::Set
    }
}

fn assert_failed(action: Action, reply: &Reply<()>, kind: SessionErrorKind) {
    assert_eq!(reply.error(), Some(kind), "{action:?}");
    assert_eq!(reply.finish.error.as_ref().unwrap().status(), 503, "{action:?}");
    assert_eq!(reply.token(), None, "{action:?}: no token leaves with a failed write");
    // A logout takes the cookie away all the same; nothing else does.
    assert_eq!(reply.clears_cookie(), action == Action::Logout, "{action:?}");
}

on_every_backend!(
    a_write_that_was_not_done_is_a_503_and_can_be_tried_again,
    a_write_of_unknown_outcome_hands_out_no_token,
    a_write_that_is_never_answered_is_a_503_in_time,
    a_load_that_fails_is_a_503_and_keeps_the_cookie,
    only_requests_that_use_the_session_feel_an_outage,
    an_outage_may_give_an_anonymous_view_that_refuses_changes,
    a_touch_that_fails_does_not_fail_the_request,
    a_failed_commit_is_told_to_the_handler,
    a_logout_after_an_unanswered_write_still_ends_the_session,
    a_server_error_drops_changes_but_not_a_logout_or_a_renewal,
    a_response_that_is_lost_takes_a_logout_with_it_and_nothing_else,
);

async fn a_write_that_was_not_done_is_a_503_and_can_be_tried_again(world: World) {
    for action in Action::ALL.into_iter().filter(|action| action.writes(&world)) {
        let mut browser = world.signed_in("alice").await;
        let token = browser.token().to_owned();
        break_writes(&world, &Fault::FailBefore(StoreErrorKind::Unavailable));
        let reply = browser.visit(async |session| action.run(session)).await;
        assert_failed(action, &reply, SessionErrorKind::NotCommitted);
        assert_eq!(world.events.count("session_commit_failed"), 1);
        world.events.forget();
        world.spy.heal();
        assert!(world.opens(&token).await, "{action:?}: nothing was written, so nothing ended");
        browser.plant(&token);
        let reply = browser.visit(async |session| action.run(session)).await;
        assert!(reply.finish.error.is_none(), "{action:?}: the second attempt");
    }
}

async fn a_write_of_unknown_outcome_hands_out_no_token(world: World) {
    for action in Action::ALL.into_iter().filter(|action| action.writes(&world)) {
        let mut browser = world.signed_in("alice").await;
        break_writes(&world, &Fault::FailAfter(StoreErrorKind::Timeout));
        let reply = browser.visit(async |session| action.run(session)).await;
        world.spy.heal();
        assert_failed(action, &reply, SessionErrorKind::Unknown);
    }
}

/// Runs the visit until its call hangs, and then lets time pass. Time runs again afterwards, for
/// stores that need it.
async fn until_timeout<R>(visit: impl Future<Output = R>, gate: &Gate) -> R {
    let pass_time = async {
        gate.arrived(1).await;
        tokio::time::pause();
        tokio::time::advance(World::TIMEOUT + Duration::from_millis(1)).await;
        tokio::time::resume();
    };
    futures_util::future::join(visit, pass_time).await.0
}

async fn a_write_that_is_never_answered_is_a_503_in_time(world: World) {
    if world.stack == Stack::Bare {
        // Nothing bounds it here: whoever serves the request does.
        return;
    }
    for hold in [Fault::HoldBefore, Fault::HoldAfter] {
        for action in Action::ALL.into_iter().filter(|action| action.writes(&world)) {
            let mut browser = world.signed_in("alice").await;
            let gate = Gate::new();
            break_writes(&world, &hold(gate.clone()));
            let reply = until_timeout(browser.visit(async |session| action.run(session)), &gate).await;
            world.spy.heal();
            assert_failed(action, &reply, SessionErrorKind::Unknown);
        }
    }
}

async fn a_load_that_fails_is_a_503_and_keeps_the_cookie(world: World) {
    let mut browser = world.signed_in("alice").await;
    for kind in [StoreErrorKind::Unavailable, StoreErrorKind::NewerFormat, StoreErrorKind::Corrupt] {
        world.spy.always(Verb::Load, Fault::FailBefore(kind));
        let error = browser.try_request().await.err().unwrap();
        assert_eq!((error.kind(), error.status()), (SessionErrorKind::Unavailable, 503));
        world.spy.heal();
    }
    assert_eq!(world.events.count("session_store_unavailable"), 3);
    assert_eq!(browser.visit(async |session| session.principal()).await.value.unwrap().as_str(), "alice");
}

async fn only_requests_that_use_the_session_feel_an_outage(world: World) {
    let browser = world.signed_in("alice").await;
    world.spy.always(Verb::Load, Fault::FailBefore(StoreErrorKind::Unavailable));
    break_writes(&world, &Fault::FailBefore(StoreErrorKind::Unavailable));
    world.spy.forget_calls();
    let exchange = cloakroom_core::Exchange::new(world.manager.clone());
    let finish = exchange.finish(crate::setup::OK).await;
    assert!(finish.error.is_none() && finish.set.is_none() && !finish.vary);
    // Without a cookie there is nothing to ask the store for.
    assert!(world.browser().try_request().await.is_ok());
    assert_eq!(world.spy.reads() + world.spy.writes(), 0);
    assert!(browser.try_request().await.is_err());
}

async fn an_outage_may_give_an_anonymous_view_that_refuses_changes(world: World) {
    let world = world.with_policy(Policy::default().with_outage(OutagePolicy::AnonymousReadOnly));
    let mut browser = world.signed_in("alice").await;
    world.spy.always(Verb::Load, Fault::FailBefore(StoreErrorKind::Unavailable));
    let reply = browser
        .visit(async |session| {
            assert_eq!(session.principal(), None, "never authenticated without the store");
            let refusals = [
                session.set("n", 1),
                session.login("mallory"),
                session.logout(),
                session.renew(),
                session.clear(),
                session.csrf_token().map(drop),
                session.commit().await,
            ];
            refusals.map(|refused| refused.unwrap_err().kind())
        })
        .await;
    let [changes @ .., commit] = reply.value;
    assert!(changes.iter().chain([&commit]).all(|kind| *kind == SessionErrorKind::ReadOnly));
    assert!(reply.finish.warning.is_some() && reply.finish.error.is_none() && reply.finish.set_cookie.is_none());
    assert_eq!(world.spy.calls(Verb::Update), 0);
    world.spy.heal();
    assert_eq!(browser.visit(async |session| session.principal()).await.value.unwrap().as_str(), "alice");
}

async fn a_touch_that_fails_does_not_fail_the_request(world: World) {
    let mut browser = world.signed_in("alice").await;
    world.clock.advance(Duration::from_secs(120));
    let request: Request = browser.request().await;
    break_writes(&world, &Fault::FailAfter(StoreErrorKind::Timeout));
    // A sealed session asks its revocation list once more before it is sealed again.
    world.spy.always(Verb::Load, Fault::FailBefore(StoreErrorKind::Unavailable));
    let finish = request.finish().await;
    assert!(finish.error.is_none() && finish.set_cookie.is_none(), "{finish:?}");
    assert_eq!(world.events.count("session_touch_failed"), 1);
    world.spy.heal();
    assert_eq!(browser.visit(async |session| session.principal()).await.value.unwrap().as_str(), "alice");
}

async fn a_failed_commit_is_told_to_the_handler(world: World) {
    let mut browser = world.signed_in("alice").await;
    let reply = browser
        .visit(async |session| {
            break_writes(&world, &Fault::FailBefore(StoreErrorKind::Unavailable));
            session.renew().unwrap();
            let failed = session.commit().await.unwrap_err().kind();
            world.spy.heal();
            (failed, session.commit().await.is_ok())
        })
        .await;
    assert_eq!(reply.value, (SessionErrorKind::NotCommitted, true));
    assert!(reply.token().is_some(), "the second commit renewed the session");
}

async fn a_logout_after_an_unanswered_write_still_ends_the_session(world: World) {
    let mut browser = world.signed_in("alice").await;
    let token = browser.token().to_owned();
    let reply = browser
        .visit(async |session| {
            break_writes(&world, &Fault::FailAfter(StoreErrorKind::Timeout));
            session.renew().unwrap();
            let failed = session.commit().await.unwrap_err().kind();
            world.spy.heal();
            session.logout().unwrap();
            failed
        })
        .await;
    assert_eq!((reply.value, reply.error()), (SessionErrorKind::Unknown, None));
    assert!(reply.clears_cookie());
    assert!(!world.opens(&token).await);
    assert!(!world.keeps_records() || world.live_handles().await.is_empty());
}

async fn a_server_error_drops_changes_but_not_a_logout_or_a_renewal(world: World) {
    let failure = Outcome::Answered { status: 500, public: false };
    let mut browser = world.signed_in("alice").await;
    browser.visit_ending(failure, async |session| session.set("n", 1).unwrap()).await;
    assert_eq!(browser.visit(async |session| session.get::<u32>("n").unwrap()).await.value, None);

    let before = browser.token().to_owned();
    browser.visit_ending(failure, async |session| session.login("alice").unwrap()).await;
    assert_ne!(browser.token(), before, "the renewal stands");
    assert!(!world.opens(&before).await);
    assert_eq!(browser.visit(async |session| session.principal()).await.value, Some(principal("alice")));

    let mut other = browser.clone();
    other.visit_ending(failure, async |session| session.login("carol").unwrap()).await;
    let who = other.visit(async |session| session.principal()).await.value;
    assert_ne!(who, Some(principal("carol")), "nobody is signed in by a failure");
    let mut browser = world.signed_in("alice").await;

    let before = browser.token().to_owned();
    let reply = browser.visit_ending(failure, async |session| session.logout().unwrap()).await;
    assert!(reply.clears_cookie() && !world.opens(&before).await);
}

async fn a_response_that_is_lost_takes_a_logout_with_it_and_nothing_else(world: World) {
    let mut browser = world.signed_in("alice").await;
    let token = browser.token().to_owned();
    for change in [Action::Set, Action::Renew, Action::Login, Action::LoginAsOther] {
        let request = browser.request().await;
        change.run(&request.session);
        // A token that cannot be delivered must not replace one that works.
        assert_eq!(request.finish_with(Outcome::Lost).await.set_cookie, None, "{change:?}");
        assert!(world.opens(&token).await, "{change:?}");
    }
    let reply = browser.visit(async |session| (session.principal(), session.keys().unwrap())).await;
    assert_eq!(reply.value, (Some(principal("alice")), Vec::new()));
    let request = browser.request().await;
    request.session.logout().unwrap();
    drop(request.finish_with(Outcome::Lost).await);
    assert!(!world.opens(&token).await);
}

mod first_write {
    use super::*;
    on_every_store!(a_first_write_that_fails_hands_out_no_token);

    async fn a_first_write_that_fails_hands_out_no_token(world: World) {
        for fault in [Fault::FailBefore(StoreErrorKind::Full), Fault::FailAfter(StoreErrorKind::Unavailable)] {
            let mut browser: Browser = world.browser();
            break_writes(&world, &fault);
            let reply = browser.visit(async |session| session.set("n", 1).unwrap()).await;
            world.spy.heal();
            assert!(reply.finish.error.is_some() && reply.finish.set_cookie.is_none());
            assert!(!browser.has_cookie());
        }
    }
}
