//! A request that is dropped at any await leaves the session as it was or as it was to be.

use std::pin::pin;
use std::task::Poll;

use cloakroom_core::{Session, SessionError, SessionErrorKind};

use crate::setup::{Browser, Kind, World, on_every_backend};

/// Polls a future so many times, as it is woken, and drops it. `None` if it did not get to its end.
async fn cancelled_after<T>(polls: u32, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(move |context| {
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Someone signed in with `a` and `b` at 1, as each test finds them.
async fn visitor(world: &World) -> Browser {
    let mut browser = world.signed_in("alice").await;
    browser.visit(async |session| set_both(session, 1)).await;
    browser
}

fn set_both(session: &Session, value: u32) {
    session.set("a", value).unwrap();
    session.set("b", value).unwrap();
}

async fn both(browser: &Browser) -> Option<(u32, u32)> {
    let request = browser.request().await;
    let (a, b) = (request.session.get("a").unwrap(), request.session.get("b").unwrap());
    a.zip(b)
}

/// Cuts the commit of `change` at every await; the next request must find one of the expected.
async fn at_every_await(world: &World, change: impl Fn(&Session), expected: &[Option<(u32, u32)>], repeatable: bool) {
    let mut bystander = world.signed_in("bob").await;
    bystander.visit(async |session| set_both(session, 7)).await;
    let mut cut = 0;
    for polls in 1.. {
        let browser = visitor(world).await;
        let handle = world.handle_of(browser.token()).await.unwrap();
        let request = browser.request().await;
        change(&request.session);
        if cancelled_after(polls, request.session.commit()).await.is_some() {
            break;
        }
        cut += 1;
        if !repeatable {
            let again = request.session.commit().await.unwrap_err();
            assert_eq!(again.kind(), SessionErrorKind::Unknown, "it must not be written twice");
            let finish = request.finish().await;
            assert_eq!(finish.error.unwrap().kind(), SessionErrorKind::Unknown);
            assert_eq!(finish.set_cookie, None, "no token leaves after an unknown write");
        }
        let found = both(&browser).await;
        assert!(expected.contains(&found), "cut after {polls} polls: {found:?}");
        let live = world.live_handles().await.iter().filter(|live| **live == handle).count();
        assert!(live <= 1, "{live} records of one session");
        assert_eq!(both(&bystander).await, Some((7, 7)), "somebody else's session");
    }
    // A sealed session is changed in the cookie: what asks the store first is the revocation list.
    assert!(cut >= 2, "only {cut} awaits were cut");
}

const OLD: Option<(u32, u32)> = Some((1, 1));
const NEW: Option<(u32, u32)> = Some((2, 2));
const GONE: Option<(u32, u32)> = None;

on_every_backend!(
    a_cut_update_is_done_or_not,
    a_cut_renewal_leaves_one_token_or_the_other,
    a_cut_sign_in_leaves_one_token_or_the_other,
    a_cut_touch_changes_no_value,
    a_cut_logout_ends_the_session_or_leaves_it,
    a_cut_transaction_is_done_or_not,
    a_cut_first_write_hands_out_nothing,
    a_cut_load_changes_nothing,
    a_cut_sign_out_everywhere_ends_all_or_none_and_the_next_one_ends_all,
    a_cut_sign_out_elsewhere_ends_all_or_none_and_the_next_one_ends_all,
);

async fn a_cut_update_is_done_or_not(world: World) {
    at_every_await(&world, |session| set_both(session, 2), &[OLD, NEW], false).await;
}

async fn a_cut_renewal_leaves_one_token_or_the_other(world: World) {
    let change = |session: &Session| {
        set_both(session, 2);
        session.renew().unwrap();
    };
    at_every_await(&world, change, &[OLD, GONE], false).await;
}

async fn a_cut_sign_in_leaves_one_token_or_the_other(world: World) {
    at_every_await(&world, |session| session.login("alice").unwrap(), &[OLD, GONE], false).await;
}

async fn a_cut_touch_changes_no_value(world: World) {
    let touch = |_: &Session| world.clock.advance(std::time::Duration::from_secs(120));
    at_every_await(&world, touch, &[OLD], true).await;
}

async fn a_cut_logout_ends_the_session_or_leaves_it(world: World) {
    at_every_await(&world, |session| session.logout().unwrap(), &[OLD, GONE], true).await;
}

async fn a_cut_transaction_is_done_or_not(world: World) {
    if world.kind == Kind::Sealed {
        return assert_transactions_are_unsupported(&world).await;
    }
    for polls in 1.. {
        let browser = visitor(&world).await;
        let request = browser.request().await;
        let transaction = request.session.transaction(|view| {
            view.set("a", 2)?;
            view.set("b", 2)
        });
        if cancelled_after(polls, transaction).await.is_some() {
            assert!(polls > 3, "it was never cut");
            assert_eq!(both(&browser).await, NEW);
            break;
        }
        let found = both(&browser).await;
        assert!([OLD, NEW].contains(&found), "{found:?}");
        drop(request.finish().await);
        // A store may still do what it was asked before the cut, and all of it.
        let later = both(&browser).await;
        assert!(later == found || later == NEW, "{later:?}");
    }
}

async fn assert_transactions_are_unsupported(world: &World) {
    let request = visitor(world).await.request().await;
    let error = request.session.transaction(|view| view.set("a", 2)).await.unwrap_err();
    assert_eq!(error.kind(), SessionErrorKind::Unsupported);
}

async fn a_cut_first_write_hands_out_nothing(world: World) {
    for polls in 1.. {
        let request = world.browser().request().await;
        set_both(&request.session, 2);
        if cancelled_after(polls, request.session.commit()).await.is_some() {
            // Sealing waits for nobody.
            assert_eq!(polls > 1, world.keeps_records());
            break;
        }
        let finish = request.finish().await;
        assert_eq!((finish.error.unwrap().status(), finish.set_cookie), (503, None));
    }
}

async fn a_cut_load_changes_nothing(world: World) {
    let browser = visitor(&world).await;
    for polls in 1.. {
        if cancelled_after(polls, browser.request()).await.is_some() {
            assert!(polls > 1, "it was never cut");
            break;
        }
    }
    assert_eq!(both(&browser).await, OLD);
}

/// Cuts `end` at every await, in one of three browsers of the same person, and then calls it again.
async fn ending_at_every_await(
    world: &World,
    end: impl AsyncFn(&Session) -> Result<(), SessionError>,
    spares_the_caller: bool,
) {
    let mut bystander = world.signed_in("bob").await;
    bystander.visit(async |session| set_both(session, 7)).await;
    let (mut cut, mut gone) = (0, 0);
    for polls in 1.. {
        let mut here = visitor(world).await;
        let elsewhere = [visitor(world).await, visitor(world).await];
        let request = here.request().await;
        let whole = cancelled_after(polls, end(&request.session)).await;
        drop(request);
        let found = (both(&elsewhere[0]).await, both(&elsewhere[1]).await, both(&here).await);
        let here_after = if spares_the_caller { OLD } else { GONE };
        if let Some(ended) = whole {
            ended.unwrap();
            assert_eq!(found, (GONE, GONE, here_after));
            break;
        }
        cut += 1;
        // A store may still do what it was asked before the cut, while this is read or called again.
        if let Err(error) = here.visit(async |session| end(session).await).await.value {
            assert_eq!(error.kind(), SessionErrorKind::NotSignedIn, "the first call ended this one too: {error}");
        }
        assert_eq!(here.has_cookie(), spares_the_caller, "cut after {polls} polls");
        let settled = (both(&elsewhere[0]).await, both(&elsewhere[1]).await, both(&here).await);
        assert_eq!(settled, (GONE, GONE, here_after), "cut after {polls} polls, and before that {found:?}");
        let halves = [(OLD, OLD), (OLD, GONE), (GONE, GONE)];
        assert!(halves.contains(&(found.0, found.1)), "cut after {polls} polls: {found:?}");
        gone += usize::from((found.0, found.1) == (GONE, GONE));
        assert_eq!(both(&bystander).await, Some((7, 7)), "somebody else's session");
    }
    assert!(cut >= 2, "only {cut} awaits were cut");
    assert!(gone >= 1, "no cut came after the end was written");
}

async fn a_cut_sign_out_everywhere_ends_all_or_none_and_the_next_one_ends_all(world: World) {
    ending_at_every_await(&world, async |session| session.logout_everywhere().await, false).await;
}

async fn a_cut_sign_out_elsewhere_ends_all_or_none_and_the_next_one_ends_all(world: World) {
    ending_at_every_await(&world, async |session| session.revoke_others().await, true).await;
}
