//! Forms that other sites send in a visitor's name.

use crate::setup::{Browser, World, on_every_backend};

on_every_backend!(
    a_form_token_is_good_for_its_session_only,
    a_form_token_from_before_the_sign_in_is_dead_after_it,
    a_form_token_of_one_action_is_none_for_another,
    two_renderings_of_a_form_token_differ,
    a_malformed_form_token_is_refused_and_so_is_any_without_a_session,
    an_anonymous_form_gets_a_session_to_be_bound_to,
);

async fn form_token(browser: &mut Browser) -> String {
    browser.visit(async |session| session.csrf_token().unwrap()).await.value
}

async fn accepts(browser: &mut Browser, token: &str) -> bool {
    browser.visit(async |session| session.verify_csrf(token)).await.value
}

async fn a_form_token_is_good_for_its_session_only(world: World) {
    let (mut alice, mut mallory) = (world.signed_in("alice").await, world.signed_in("mallory").await);
    let mut other_device = world.signed_in("alice").await;
    let token = form_token(&mut alice).await;
    assert!(accepts(&mut alice, &token).await);
    assert!(!accepts(&mut mallory, &token).await && !accepts(&mut other_device, &token).await);
}

async fn a_form_token_from_before_the_sign_in_is_dead_after_it(world: World) {
    let mut browser = world.browser();
    let before = form_token(&mut browser).await;
    assert!(accepts(&mut browser, &before).await);
    // A page that is rendered by the request that signs in gets the token of what comes after.
    let during = browser.visit(async |session| {
        session.login("alice").unwrap();
        session.csrf_token().unwrap()
    });
    let during = during.await.value;
    assert!(!accepts(&mut browser, &before).await);
    assert!(accepts(&mut browser, &during).await);
}

async fn a_form_token_of_one_action_is_none_for_another(world: World) {
    let mut browser = world.signed_in("alice").await;
    let global = form_token(&mut browser).await;
    let one = browser.visit(async |session| session.csrf_token_for("delete-account").unwrap()).await.value;
    let verdicts = browser.visit(async |session| {
        [
            session.verify_csrf_for("delete-account", &one),
            session.verify_csrf_for("change-address", &one),
            session.verify_csrf(&one),
            session.verify_csrf_for("delete-account", &global),
        ]
    });
    assert_eq!(verdicts.await.value, [true, false, false, false]);
}

async fn two_renderings_of_a_form_token_differ(world: World) {
    let mut browser = world.signed_in("alice").await;
    let (one, two) = (form_token(&mut browser).await, form_token(&mut browser).await);
    assert_ne!(one, two);
    let shared = one.bytes().zip(two.bytes()).skip(8).filter(|(a, b)| a == b).count();
    assert!(shared < 16, "the secret shows through the mask: {shared} letters are the same");
    assert!(accepts(&mut browser, &one).await && accepts(&mut browser, &two).await);
}

async fn a_malformed_form_token_is_refused_and_so_is_any_without_a_session(world: World) {
    let mut browser = world.signed_in("alice").await;
    let token = form_token(&mut browser).await;
    let zero = "A".repeat(token.len());
    for bad in ["", " ", "null", &token[1..], &format!("{token}="), &zero, browser.token().to_owned().as_str()] {
        assert!(!accepts(&mut browser, bad).await, "{bad:?}");
    }
    for place in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[place] ^= 1;
        let Ok(changed) = String::from_utf8(changed) else { continue };
        assert!(!accepts(&mut browser, &changed).await, "changed at {place}");
    }
    assert!(!accepts(&mut world.browser(), &token).await);
    assert!(!accepts(&mut world.browser(), "").await);
}

async fn an_anonymous_form_gets_a_session_to_be_bound_to(world: World) {
    let mut browser = world.browser();
    let request = browser.request().await;
    let token = request.session.csrf_token().unwrap();
    assert!(!request.session.verify_csrf(&token), "not before the session is there");
    let finish = request.finish().await;
    assert!(finish.vary_cookie && finish.no_store, "it must not be cached");
    browser.receive(&finish);
    assert!(accepts(&mut browser, &token).await);
}
