//! Tokens that the server did not mint, and tokens that somebody else knows.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cloakroom_core::{Assurance, CookieSettings, Session, State};
use cloakroom_testkit::SeededRandom;
use std::sync::Arc;
use std::time::Duration;

use crate::setup::{Browser, Request, World, on_every_backend, on_every_store, principal, ring, token_of};

on_every_backend!(
    a_token_that_was_not_minted_here_is_never_adopted,
    every_way_to_sign_in_replaces_the_token,
    a_sign_in_keeps_the_cart_and_kills_the_planted_token,
    signing_in_as_somebody_else_brings_nothing_of_the_first_person_along,
    two_browsers_after_a_logout_are_two_sessions,
    two_cookies_of_a_host_only_name_are_nobody,
    of_two_cookies_without_prefix_only_one_authentic_one_is_taken,
    other_spellings_of_the_cookie_name_are_other_cookies,
    the_same_person_signing_in_twice_gets_two_tokens,
);

/// Tokens that somebody may make up, or find elsewhere.
fn unminted(world: &World) -> Vec<String> {
    let elsewhere = ring("elsewhere", &[9]);
    let mut tokens: Vec<String> =
        ["", " ", "0", "AAAA", "null", "../../etc/passwd", "' OR 1=1 --", "%00"].map(str::to_owned).into();
    tokens.push(URL_SAFE_NO_PAD.encode([0; 51]));
    tokens.push(URL_SAFE_NO_PAD.encode([1; 51]));
    tokens.push("A".repeat(4096));
    // Well formed, of a key that is not ours, and of our key without its secret.
    for keys in [&elsewhere, &world.keys] {
        let mut bytes = vec![1];
        bytes.extend_from_slice(keys.ids()[0].as_bytes());
        bytes.resize(51, 7);
        tokens.push(URL_SAFE_NO_PAD.encode(&bytes));
    }
    tokens
}

async fn a_token_that_was_not_minted_here_is_never_adopted(world: World) {
    for planted in unminted(&world) {
        let mut browser = world.browser();
        browser.plant(&planted);
        world.spy.forget_calls();
        let reply = browser.visit(async |session| {
            assert_eq!(session.state(), State::Absent, "{planted:?}");
            session.set("n", 1).unwrap();
        });
        let reply = reply.await;
        assert_eq!(world.spy.reads(), 0, "the store was asked about {planted:?}");
        assert_ne!(reply.token().unwrap(), planted);
        assert!(!world.opens(&planted).await);
        assert!(world.opens(browser.token()).await);
    }
}

/// A way in which a session gains power.
type Gain = (&'static str, fn(&Session));

fn gains() -> [Gain; 5] {
    [
        ("login", |session| session.login("alice").unwrap()),
        ("login again", |session| session.login(principal("alice")).unwrap()),
        ("step-up", |session| session.step_up(Assurance::Two).unwrap()),
        ("remember me", |session| session.persist(Duration::from_secs(7 * 24 * 60 * 60)).unwrap()),
        ("renew", |session| session.renew().unwrap()),
    ]
}

async fn every_way_to_sign_in_replaces_the_token(world: World) {
    for (way, gain) in gains() {
        let mut browser = world.signed_in("alice").await;
        let before = browser.token().to_owned();
        let handle = world.handle_of(&before).await;
        browser.visit(async |session| gain(session)).await;
        assert_ne!(browser.token(), before, "{way}");
        assert!(!world.opens(&before).await, "{way}: the old token lives");
        assert_eq!(world.handle_of(browser.token()).await, handle, "{way}: the device list would change");
    }
}

async fn a_sign_in_keeps_the_cart_and_kills_the_planted_token(world: World) {
    let mut attacker = world.browser();
    attacker.visit(async |session| session.set("cart", vec![1, 2]).unwrap()).await;
    let mut victim = world.browser();
    victim.plant(attacker.token());
    victim.visit(async |session| session.login("victim").unwrap()).await;
    let reply = victim.visit(async |session| (session.principal(), session.get::<Vec<u32>>("cart").unwrap())).await;
    assert_eq!(reply.value, (Some(principal("victim")), Some(vec![1, 2])));
    let reply = attacker.visit(async |session| (session.principal(), session.state())).await;
    assert_eq!(reply.value, (None, State::Absent));
}

async fn signing_in_as_somebody_else_brings_nothing_of_the_first_person_along(world: World) {
    let mut browser = world.signed_in("alice").await;
    browser.visit(async |session| session.set("secret", "alice's").unwrap()).await;
    let (token, handle) = (browser.token().to_owned(), world.handle_of(browser.token()).await);
    let reply = browser.visit(async |session| {
        session.login("bob").unwrap();
        session.keys().unwrap()
    });
    assert!(reply.await.value.is_empty(), "gone before the response has left");
    let reply = browser.visit(async |session| (session.keys().unwrap(), session.principal())).await;
    assert_eq!(reply.value, (Vec::new(), Some(principal("bob"))));
    assert_ne!(world.handle_of(browser.token()).await, handle);
    assert!(!world.opens(&token).await);
}

async fn two_browsers_after_a_logout_are_two_sessions(world: World) {
    let mut first = world.signed_in("alice").await;
    first.visit(async |session| session.logout().unwrap()).await;
    let mut second = world.browser();
    second.plant("");
    first.visit(async |session| session.set("who", 1).unwrap()).await;
    second.visit(async |session| session.set("who", 2).unwrap()).await;
    assert_eq!(first.visit(async |session| session.get("who").unwrap()).await.value, Some(1));
    assert_eq!(second.visit(async |session| session.get("who").unwrap()).await.value, Some(2));
}

async fn open(world: &World, headers: &[&str]) -> Request {
    Request::open(&world.manager, headers.iter().map(|header| header.as_bytes())).await.unwrap()
}

async fn two_cookies_of_a_host_only_name_are_nobody(world: World) {
    let (one, two) = (world.signed_in("alice").await, world.signed_in("bob").await);
    let (one, two) = (format!("__Host-id={}", one.token()), format!("__Host-id={}", two.token()));
    world.events.forget();
    for headers in [&[format!("{one}; {two}").as_str()][..], &[&one, &two], &[&one, &one], &[&two, "__Host-id="]] {
        let request = open(&world, headers).await;
        assert_eq!(request.session.principal(), None, "{headers:?}");
    }
    assert_eq!(world.events.count("token_rejected"), 4, "each is an event");
    assert_eq!(open(&world, &["a=b", &one]).await.session.principal(), Some(principal("alice")), "split headers");
}

async fn of_two_cookies_without_prefix_only_one_authentic_one_is_taken(world: World) {
    let world = world.configured(|builder| builder.cookie(CookieSettings::danger_insecure_for_localhost()));
    let (one, two) = (world.signed_in("alice").await, world.signed_in("bob").await);
    let (one, two) = (format!("id={}", one.token()), format!("id={}", two.token()));
    let who = async |header: String| open(&world, &[&header]).await.session.principal();
    assert_eq!(who(format!("id=planted; {one}")).await, Some(principal("alice")));
    assert_eq!(who(format!("{one}; id=planted")).await, Some(principal("alice")));
    assert_eq!(who(format!("{one}; {two}")).await, None, "neither the first nor the last wins");
    assert_eq!(who(format!("id=1; id=2; id=3; id=4; {one}")).await, None, "nobody tries any number of them");
}

async fn other_spellings_of_the_cookie_name_are_other_cookies(world: World) {
    let token = world.signed_in("alice").await.token().to_owned();
    for name in [
        "__host-id",
        "__HOST-ID",
        "%5F%5FHost-id",
        "__Host%2Did",
        "\"__Host-id\"",
        "__Host-id ",
        "id",
        "\u{2000}__Host-id",
        "=__Host-id",
        "$Version=1, __Host-id",
    ] {
        let request = open(&world, &[&format!("{name}={token}")]).await;
        assert_eq!(request.session.state(), State::Absent, "{name}");
    }
    for value in
        [format!("\"{token}\""), format!(" {token}"), format!("{token}="), format!("{token}%00"), format!("{token},")]
    {
        let request = open(&world, &[&format!("__Host-id={value}")]).await;
        assert_eq!(request.session.state(), State::Absent, "{value}");
    }
}

async fn the_same_person_signing_in_twice_gets_two_tokens(world: World) {
    let (one, two) = (world.signed_in("alice").await, world.signed_in("alice").await);
    assert_ne!(one.token(), two.token());
    assert_ne!(world.handle_of(one.token()).await, world.handle_of(two.token()).await);
}

mod generator {
    use super::*;
    use cloakroom_core::SessionErrorKind;
    use cloakroom_testkit::FailingRandom;

    on_every_backend!(a_generator_that_fails_hands_out_nothing_and_writes_nothing);

    async fn a_generator_that_fails_hands_out_nothing_and_writes_nothing(world: World) {
        let world = world.configured(|builder| builder.random(Arc::new(FailingRandom::after(0))));
        world.spy.forget_calls();
        let reply = world.browser().visit(async |session| session.set("n", 1).unwrap()).await;
        assert_eq!(reply.error(), Some(SessionErrorKind::System));
        assert_eq!(reply.finish.set_cookie, None);
        assert_eq!(world.spy.writes(), 0);
    }
}

mod collision {
    use super::*;
    use cloakroom_testkit::FailingRandom;

    on_every_store!(
        an_id_that_is_taken_is_minted_anew_and_its_owner_left_alone,
        a_stuck_generator_hands_nobody_the_session_of_another,
    );

    /// The generator collides once, with the victim's id.
    async fn an_id_that_is_taken_is_minted_anew_and_its_owner_left_alone(world: World) {
        // Of a fresh session the first call names it and the second mints its token.
        let world = world.configured(|builder| builder.random(Arc::new(SeededRandom::new(5).repeating(3, 1))));
        let mut victim = world.browser();
        victim.visit(async |session| session.set("who", "victim").unwrap()).await;
        let before = world.store().scan(None, 10).await.unwrap();
        let mut other: Browser = world.browser();
        world.spy.forget_calls();
        let reply = other.visit(async |session| session.set("who", "other").unwrap()).await;
        assert_eq!(world.spy.calls(cloakroom_core::Verb::Create), 2, "the first id was taken");
        assert_ne!(token_of(&reply.finish), Some(victim.token()));
        let after = world.store().scan(None, 10).await.unwrap();
        assert!(before.iter().all(|record| after.contains(record)) && after.len() == 2);
        assert_eq!(victim.visit(async |session| session.get::<String>("who").unwrap()).await.value.unwrap(), "victim");
    }

    /// A generator that is broken and does not know: each token it makes is taken after the first.
    async fn a_stuck_generator_hands_nobody_the_session_of_another(world: World) {
        let world = world.configured(|builder| builder.random(Arc::new(FailingRandom::stuck())));
        let mut first = world.browser();
        first.visit(async |session| session.set("n", 1).unwrap()).await;
        let reply = world.browser().visit(async |session| session.set("n", 2).unwrap()).await;
        assert!(reply.finish.error.is_some() && reply.finish.set_cookie.is_none());
        assert_eq!(first.visit(async |session| session.get("n").unwrap()).await.value, Some(1));
    }
}
