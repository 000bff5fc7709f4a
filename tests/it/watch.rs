//! Connections that outlive their request: they end with the session, and one gets in with a ticket.

use std::sync::Arc;
use std::time::Duration;

use cloakroom_core::{
    Assurance, EndReason, Manager, Policy, ReadSession, Session, SessionErrorKind, SessionWatch, StoreErrorKind, Verb,
    WatchEnd,
};
use cloakroom_testkit::Fault;

use crate::setup::{Browser, World, on_every_backend, on_every_store, principal};

mod every_backend {
    use super::*;

    on_every_backend!(a_watch_ends_with_the_session_whichever_way_it_ends, who_has_no_session_has_nothing_to_watch,);
}

mod every_store {
    use super::*;

    on_every_store!(
        a_watch_goes_on_over_a_renewal_and_ends_with_the_rights_it_began_with,
        activity_on_a_connection_keeps_the_session_alive_and_never_past_its_end,
        a_ticket_lets_one_connection_in_once,
        a_ticket_is_worth_nothing_once_its_session_is_renewed_or_over,
    );
}

/// An end shows within a second; a test machine has other things to do.
const PATIENCE: Duration = Duration::from_secs(20);

async fn end(watch: &mut SessionWatch) -> WatchEnd {
    tokio::time::timeout(PATIENCE, watch.ended()).await.expect("the watch goes on")
}

async fn watch(browser: &mut Browser) -> SessionWatch {
    let mut watch = None;
    browser.visit(async |session| watch = Some(session.watch().unwrap())).await;
    watch.unwrap()
}

/// Whether it goes on once the store was asked.
async fn goes_on(watch: &mut SessionWatch) -> bool {
    tokio::time::timeout(Duration::from_millis(1_200), watch.ended()).await.is_err()
}

async fn a_watch_ends_with_the_session_whichever_way_it_ends(world: World) {
    let elsewhere = world.builder().build().unwrap();
    let destroyed = WatchEnd::Ended(Some(EndReason::Destroyed));
    let mut alice = world.signed_in("alice").await;
    let (mut one, mut other) = (watch(&mut alice).await, watch(&mut alice).await);
    let mut bystander = world.signed_in("bystander").await;
    let mut unconcerned = watch(&mut bystander).await;
    alice.visit(async |session| session.logout().unwrap()).await;
    assert_eq!((end(&mut one).await, end(&mut other).await), (destroyed, destroyed));
    assert_eq!(end(&mut one).await, destroyed, "once over, it stays over");

    let mut bob = world.signed_in("bob").await;
    let mut everywhere = watch(&mut bob).await;
    elsewhere.revoke_all(&principal("bob"), None).await.unwrap();
    assert_eq!(end(&mut everywhere).await, WatchEnd::Ended(Some(EndReason::Revoked)));

    // What ended before it was made shows too.
    let mut carol = world.signed_in("carol").await;
    let mut late = None;
    carol
        .visit(async |session| {
            elsewhere.revoke_all(&principal("carol"), None).await.unwrap();
            late = Some(session.watch().unwrap());
        })
        .await;
    assert_eq!(end(&mut late.unwrap()).await, WatchEnd::Ended(Some(EndReason::Revoked)));

    assert!(goes_on(&mut unconcerned).await, "others go on");
    let mut expired = watch(&mut bystander).await;
    world.clock.advance(Policy::default().idle());
    assert_eq!(end(&mut expired).await, WatchEnd::Ended(Some(EndReason::Expired)));
}

async fn who_has_no_session_has_nothing_to_watch(world: World) {
    let mut nobody = world.browser();
    nobody
        .visit(async |session| {
            assert_eq!(session.watch().unwrap_err().kind(), SessionErrorKind::NotSignedIn);
            let ticket = session.ticket().await.unwrap_err().kind();
            assert!(matches!(ticket, SessionErrorKind::NotSignedIn | SessionErrorKind::Unsupported), "{ticket:?}");
        })
        .await;
    assert_eq!(world.live_handles().await, [], "asking makes none");
}

async fn a_watch_goes_on_over_a_renewal_and_ends_with_the_rights_it_began_with(world: World) {
    let mut alice = world.signed_in("alice").await;
    let mut renewed = watch(&mut alice).await;
    for _ in 0..2 {
        alice.visit(async |session| session.renew().unwrap()).await;
        assert!(goes_on(&mut renewed).await, "the same rights under another token");
    }
    alice.visit(async |session| session.logout().unwrap()).await;
    assert_eq!(end(&mut renewed).await, WatchEnd::Ended(Some(EndReason::Destroyed)), "under whatever token");

    let mut bob = world.signed_in("bob").await;
    let mut stepped_up = watch(&mut bob).await;
    bob.visit(async |session| session.step_up(Assurance::Two).unwrap()).await;
    assert_eq!(end(&mut stepped_up).await, WatchEnd::RightsChanged);

    let mut anonymous = world.browser();
    anonymous.visit(async |session| session.set("cart", 1).unwrap()).await;
    let mut signed_in = watch(&mut anonymous).await;
    anonymous.visit(async |session| session.login("carol").unwrap()).await;
    assert_eq!(end(&mut signed_in).await, WatchEnd::RightsChanged);
}

async fn activity_on_a_connection_keeps_the_session_alive_and_never_past_its_end(world: World) {
    let policy = Policy::default();
    let mut alice = world.signed_in("alice").await;
    let mut connection = watch(&mut alice).await;
    let steps = policy.absolute().as_secs() / (policy.idle().as_secs() - 3600);
    for _ in 0..steps {
        world.clock.advance(policy.idle() - Duration::from_secs(3600));
        connection.touch().await.unwrap();
        connection.touch().await.unwrap();
    }
    assert!(world.opens(alice.token()).await, "active for days");
    world.clock.advance(policy.idle() - Duration::from_secs(60));
    connection.touch().await.unwrap();
    assert_eq!(end(&mut connection).await, WatchEnd::Ended(Some(EndReason::Expired)), "the absolute limit stands");
    connection.touch().await.unwrap();
    assert!(!world.opens(alice.token()).await);
}

async fn ticket(browser: &mut Browser) -> String {
    let mut ticket = None;
    browser.visit(async |session| ticket = Some(session.ticket().await.unwrap())).await;
    ticket.unwrap()
}

async fn redeem(manager: &Arc<Manager>, ticket: &str) -> Option<ReadSession> {
    manager.redeem(ticket).await.unwrap()
}

async fn a_ticket_lets_one_connection_in_once(world: World) {
    let elsewhere = world.builder().build().unwrap();
    let mut alice = world.signed_in("alice").await;
    let ticket_of_alice = ticket(&mut alice).await;
    assert_ne!(ticket_of_alice, alice.token());
    let tries = (0..8).map(|n| {
        let manager = if n % 2 == 0 { world.manager.clone() } else { elsewhere.clone() };
        let ticket = ticket_of_alice.clone();
        async move { redeem(&manager, &ticket).await }
    });
    let mut let_in: Vec<_> = futures_util::future::join_all(tries).await.into_iter().flatten().collect();
    assert_eq!(let_in.len(), 1, "of any number one gets in");
    let session = let_in.remove(0);
    assert_eq!(session.principal(), Some(principal("alice")));
    let mut connection = session.watch().unwrap();
    assert!(redeem(&elsewhere, &ticket_of_alice).await.is_none(), "once");
    assert!(session.keys().unwrap().is_empty(), "tickets are nobody's values");

    // Each on its own, up to as many as may be out.
    let mut tickets = Vec::new();
    for _ in 0..=Session::MOST_TICKETS {
        tickets.push(ticket(&mut alice).await);
    }
    assert!(redeem(&world.manager, &tickets[0]).await.is_none(), "the oldest made room");
    for ticket in &tickets[1..] {
        assert!(redeem(&world.manager, ticket).await.is_some());
    }

    world.spy.forget_calls();
    let good = ticket(&mut alice).await;
    world.spy.forget_calls();
    for at in 0..good.len() {
        let mut forged = good.clone().into_bytes();
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        assert!(redeem(&world.manager, &String::from_utf8(forged).unwrap()).await.is_none(), "byte {at}");
    }
    for forged in ["", &good[1..], &format!("{good}A"), alice.token(), "ticket"] {
        assert!(redeem(&world.manager, forged).await.is_none(), "{forged:?}");
    }
    assert_eq!(world.spy.calls(Verb::Load), 0, "what is forged costs no call");
    assert!(!world.opens(&good).await, "a ticket is no token");
    assert!(redeem(&world.manager, &good).await.is_some());

    alice.visit(async |session| session.logout().unwrap()).await;
    assert_eq!(end(&mut connection).await, WatchEnd::Ended(Some(EndReason::Destroyed)));
}

async fn a_ticket_is_worth_nothing_once_its_session_is_renewed_or_over(world: World) {
    let mut alice = world.signed_in("alice").await;
    let late = ticket(&mut alice).await;
    world.clock.advance(Session::TICKET_LIFETIME);
    assert!(redeem(&world.manager, &late).await.is_none(), "too late");
    let renewed = ticket(&mut alice).await;
    alice.visit(async |session| session.renew().unwrap()).await;
    assert!(redeem(&world.manager, &renewed).await.is_none());
    let ended = ticket(&mut alice).await;
    alice.visit(async |session| session.logout().unwrap()).await;
    assert!(redeem(&world.manager, &ended).await.is_none());
    for secret in [&late, &renewed, &ended] {
        assert!(!world.events.dump().contains(secret.as_str()), "no event has a ticket");
    }
}

/// A session of this person, without a server between.
async fn signed_in(world: &World, name: &str) -> Session {
    let exchange = cloakroom_core::Exchange::new(world.manager.clone());
    let session = exchange.session(std::iter::empty(), Default::default).await.unwrap();
    session.login(name).unwrap();
    session.commit().await.unwrap();
    session
}

/// Nothing here waits for a server, so time goes by as it is waited for.
#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_asked_for_long_ends_the_watch_and_one_that_comes_back_does_not() {
    use crate::apps::{Adapter, through};
    use crate::setup::{Kind, Stack};

    let world = World::start(Kind::Memory, Stack::Bare).await;
    through(Adapter::Axum, world.events.clone(), async {
        let session = signed_in(&world, "alice").await;
        let mut watch = session.watch().unwrap();
        world.spy.always(Verb::Load, Fault::FailBefore(StoreErrorKind::Unavailable));
        let short = tokio::time::timeout(SessionWatch::PATIENCE / 2, watch.ended()).await;
        assert!(short.is_err(), "a short outage signs nobody out");
        world.spy.heal();
        assert!(tokio::time::timeout(SessionWatch::PATIENCE * 2, watch.ended()).await.is_err());
        world.spy.always(Verb::Load, Fault::FailBefore(StoreErrorKind::Unavailable));
        assert_eq!(watch.ended().await, WatchEnd::Unverified);
        let mut unanswered = session.watch().unwrap();
        world.spy.always(Verb::Load, Fault::NeverBegin);
        assert_eq!(unanswered.ended().await, WatchEnd::Unverified);
        // Whoever waits in a `select!` gives up and begins anew with each message.
        let mut interrupted = session.watch().unwrap();
        let begun = tokio::time::Instant::now();
        let end = loop {
            match tokio::time::timeout(Duration::from_secs(1), interrupted.ended()).await {
                Ok(end) => break end,
                Err(_) => assert!(begun.elapsed() < SessionWatch::PATIENCE * 2, "it waits for ever"),
            }
        };
        assert_eq!(end, WatchEnd::Unverified);
    })
    .await;
}

/// Whoever has not waited for long, and heard of an outage the last time or hears of it now, asks first.
#[tokio::test(start_paused = true)]
async fn a_watch_that_nobody_waited_on_asks_before_it_gives_up() {
    use crate::apps::{Adapter, through};
    use crate::setup::{Kind, Stack};

    let early = (Stack::Bare, Fault::FailBefore(StoreErrorKind::Unavailable));
    // Its time is up while nobody waits.
    let late = (Stack::Layered, Fault::NeverBegin);
    for (stack, fault) in [early, late] {
        let world = World::start(Kind::Memory, stack).await;
        through(Adapter::Axum, world.events.clone(), async {
            let session = signed_in(&world, "alice").await;
            let mut busy = session.watch().unwrap();
            world.spy.once(Verb::Load, fault);
            assert!(tokio::time::timeout(Duration::from_millis(1), busy.ended()).await.is_err());
            tokio::time::sleep(SessionWatch::PATIENCE * 2).await; // tidy: sleep — the clock stands, and is moved by this
            assert!(tokio::time::timeout(SessionWatch::PATIENCE * 2, busy.ended()).await.is_err());
        })
        .await;
    }
}

/// Whoever heard an answer long after it was given asks again: requests have pushed the deadline since.
#[tokio::test(start_paused = true)]
async fn a_watch_that_nobody_waited_on_does_not_expire_by_what_it_was_told_before() {
    use crate::apps::{Adapter, through};
    use crate::setup::{Kind, Stack};

    let world = World::start(Kind::Memory, Stack::Bare).await;
    through(Adapter::Axum, world.events.clone(), async {
        let session = signed_in(&world, "alice").await;
        let (mut busy, mut requests) = (session.watch().unwrap(), session.watch().unwrap());
        tokio::time::sleep(SessionWatch::ASKED_EVERY * 2).await; // tidy: sleep — the clock stands, and is moved by this
        assert!(tokio::time::timeout(Duration::ZERO, busy.ended()).await.is_err(), "it has asked, and does not wait");
        for _ in 0..3 {
            world.clock.advance(world.manager.policy().idle() / 2);
            requests.touch().await.unwrap();
        }
        tokio::time::sleep(SessionWatch::PATIENCE).await; // tidy: sleep — the clock stands, and is moved by this
        assert!(tokio::time::timeout(SessionWatch::PATIENCE, busy.ended()).await.is_err());
        // An end is an end, however late it is heard.
        world.manager.revoke_all(busy.principal().unwrap(), None).await.unwrap();
        let begun = tokio::time::Instant::now();
        let end = loop {
            match tokio::time::timeout(Duration::ZERO, busy.ended()).await {
                Ok(end) => break end,
                Err(_) => assert!(begun.elapsed() < SessionWatch::ASKED_EVERY * 2, "it is never heard"),
            }
            tokio::time::sleep(Duration::from_secs(6)).await; // tidy: sleep — the clock stands, and is moved by this
        };
        assert_eq!(end, WatchEnd::Ended(Some(EndReason::Revoked)));
    })
    .await;
}

/// A worker of a server may end, and the watches of the others go on.
#[test]
fn a_runtime_that_ends_takes_no_watch_of_another_with_it() {
    use crate::setup::{Kind, Stack};

    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (first, second) = (runtime(), runtime());
    let world = first.block_on(World::start(Kind::Memory, Stack::Bare));
    let sign_in = async |name: &str| signed_in(&world, name).await.watch().unwrap();
    let ends = async |watch: &mut SessionWatch, name: &str| {
        let revoking = world.manager.revoke_all(watch.principal().unwrap(), None).await.unwrap();
        assert_eq!(revoking, Some(1), "{name}");
        assert_eq!(end(watch).await, WatchEnd::Ended(Some(EndReason::Revoked)));
    };
    let mut early = first.block_on(sign_in("alice"));
    let mut late = second.block_on(async {
        assert!(goes_on(&mut early).await);
        early
    });
    drop(first);
    second.block_on(ends(&mut late, "alice"));
    let mut fresh = second.block_on(sign_in("bob"));
    second.block_on(ends(&mut fresh, "bob"));
}
