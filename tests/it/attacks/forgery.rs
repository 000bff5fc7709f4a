//! Tokens that were changed, cut, stretched, moved or made for something else.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cloakroom_cookie::{Cipher, EncryptedSeal, SignedSeal};
use cloakroom_core::{Backend, CookieSettings, KeyRing, Manager, MemoryStore, OsRandom, Rejection, Revocations, Seal};

use crate::setup::{Browser, Recorder, Request, World, key, on_every_backend, ring};

on_every_backend!(
    no_flipped_bit_of_a_token_is_accepted_and_none_reaches_the_store,
    no_shorter_longer_or_differently_spelled_token_is_accepted,
    new_tokens_are_made_with_the_primary_key_and_a_rotation_loses_nobody,
    a_token_of_a_key_that_was_removed_is_dead,
    every_rejection_that_clears_looks_the_same_to_the_client,
);

async fn refused(world: &World, token: &[u8]) -> bool {
    let cookie = [b"__Host-id=", token].concat();
    let request = Request::open(&world.manager, [cookie.as_slice()].into_iter()).await.unwrap();
    request.session.handle().is_none()
}

async fn signed_in_with_values(world: &World) -> Vec<u8> {
    let mut browser = world.signed_in("alice").await;
    browser.visit(async |session| session.set("n", 1).unwrap()).await;
    browser.token().as_bytes().to_vec()
}

async fn no_flipped_bit_of_a_token_is_accepted_and_none_reaches_the_store(world: World) {
    let token = signed_in_with_values(&world).await;
    assert!(!refused(&world, &token).await);
    world.spy.forget_calls();
    for place in 0..token.len() {
        for bit in 0..8 {
            let mut flipped = token.clone();
            flipped[place] ^= 1 << bit;
            assert!(refused(&world, &flipped).await, "bit {bit} of byte {place}");
        }
    }
    // The same on the bytes themselves, whatever their spelling.
    let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
    for place in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1 << bit;
            assert!(refused(&world, URL_SAFE_NO_PAD.encode(flipped).as_bytes()).await, "bit {bit} of byte {place}");
        }
    }
    assert_eq!(world.spy.reads() + world.spy.writes(), 0, "a forged token costs no store call");
}

async fn no_shorter_longer_or_differently_spelled_token_is_accepted(world: World) {
    let token = signed_in_with_values(&world).await;
    world.spy.forget_calls();
    for len in 0..token.len() {
        assert!(refused(&world, &token[..len]).await, "cut to {len}");
        assert!(refused(&world, &token[token.len() - len..]).await, "the last {len}");
    }
    for tail in ["A", "AA", "=", "==", ".", "%", "\"", "AAAA"] {
        assert!(refused(&world, &[&token, tail.as_bytes()].concat()).await, "followed by {tail}");
        assert!(refused(&world, &[tail.as_bytes(), &token].concat()).await, "after {tail}");
    }
    // Every other last letter: some decode to the same bytes, and are no spelling of them.
    for letter in (0..=255).filter(|letter| *letter != token[token.len() - 1] && !b"; \t".contains(letter)) {
        let mut other = token.clone();
        *other.last_mut().unwrap() = letter;
        assert!(refused(&world, &other).await, "ending in {letter}");
    }
    let swapped: Vec<u8> =
        token.iter().map(|byte| if byte.is_ascii_lowercase() { byte.to_ascii_uppercase() } else { *byte }).collect();
    assert!(refused(&world, &swapped).await);
    assert_eq!(world.spy.reads() + world.spy.writes(), 0);
}

/// Everything that makes tokens: backend × cookie name × audience × key.
fn managers() -> Vec<(String, Arc<Manager>)> {
    // One store, as if a careless operator had given all of them the same.
    let store = Arc::new(MemoryStore::new());
    let mut managers = Vec::new();
    for (audience, number) in [("shop", 1), ("shop", 2), ("admin", 1)] {
        let keys = ring(audience, &[number]);
        for name in ["__Host-id", "__Host-admin"] {
            for backend in backends(&keys, &store) {
                let what = format!("{} of {name} for {audience} with key {number}", backend.0);
                let settings = CookieSettings::new().with_name(name);
                let builder = Manager::builder(backend.1, keys.clone()).cookie(settings);
                managers.push((what, builder.events(Arc::new(Recorder::default())).build().unwrap()));
            }
        }
    }
    managers
}

fn backends(keys: &KeyRing, store: &Arc<MemoryStore>) -> [(&'static str, Backend); 4] {
    let random = Arc::new(OsRandom::default());
    let sealed = |seal: Arc<dyn Seal>| Backend::self_contained(seal, Revocations::new(store.clone()));
    let encrypted = |cipher| {
        let seal = EncryptedSeal::new(keys.clone(), random.clone());
        seal.sealing_with(cipher).opening_only(&[cipher])
    };
    [
        ("reference", Backend::store(store.clone())),
        ("XChaCha20-Poly1305", sealed(Arc::new(encrypted(Cipher::XChaCha20Poly1305)))),
        ("AES-256-GCM-SIV", sealed(Arc::new(encrypted(Cipher::Aes256GcmSiv)))),
        ("signed", sealed(Arc::new(SignedSeal::danger_readable_by_client(keys.clone())))),
    ]
}

#[tokio::test]
async fn a_token_opens_only_where_and_for_what_it_was_made() {
    let managers = managers();
    let mut made = Vec::new();
    for (what, manager) in &managers {
        let mut browser = Browser::new(manager.clone(), Arc::default());
        let csrf = browser
            .visit(async |session| {
                session.login("alice").unwrap();
                session.csrf_token().unwrap()
            })
            .await
            .value;
        made.push((what, browser.token().to_owned()));
        let cookie = format!("{}={csrf}", manager.cookie_name().unwrap());
        let request = Request::open(manager, [cookie.as_bytes()].into_iter()).await.unwrap();
        assert_eq!(request.session.handle(), None, "a CSRF token is no session token");
        let reply = browser.visit(async |session| session.verify_csrf(&made.last().unwrap().1)).await;
        assert!(!reply.value, "a session token is no CSRF token");
    }
    for (for_whom, token) in &made {
        for (what, manager) in &managers {
            let cookie = format!("{}={token}", manager.cookie_name().unwrap());
            let request = Request::open(manager, [cookie.as_bytes()].into_iter()).await.unwrap();
            assert_eq!(request.session.handle().is_some(), what == *for_whom, "{for_whom} at {what}");
        }
    }
    assert_eq!(made.len(), 24);
}

/// The key id that stands in a token: after the version, and in a sealed one after the suite.
fn key_id(world: &World, token: &str) -> [u8; 4] {
    let bytes = URL_SAFE_NO_PAD.decode(token).unwrap();
    let at = if world.keeps_records() { 1 } else { 2 };
    bytes[at..at + 4].try_into().unwrap()
}

async fn new_tokens_are_made_with_the_primary_key_and_a_rotation_loses_nobody(world: World) {
    let keys = ring("tests", &[1]);
    let manager = world.builder_with(&keys).build().unwrap();
    let mut browser = world.browser().at(&manager);
    browser.visit(async |session| session.login("alice").unwrap()).await;
    for order in [[1, 2], [2, 1], [3, 2]] {
        keys.reload(&order.map(key)).unwrap();
        // The first two steps keep the key that the browser's token was made with.
        let reply = browser.visit(async |session| {
            let signed_in = session.principal().is_some();
            session.renew().unwrap();
            signed_in
        });
        assert!(reply.await.value, "{order:?}: a rotation signs nobody out");
        assert_eq!(key_id(&world, browser.token()), *keys.ids()[0].as_bytes(), "{order:?}: the primary key signs");
    }
}

async fn a_token_of_a_key_that_was_removed_is_dead(world: World) {
    let keys = ring("tests", &[1]);
    let manager = world.builder_with(&keys).build().unwrap();
    let mut browser = world.browser().at(&manager);
    browser.visit(async |session| session.login("alice").unwrap()).await;
    keys.reload(&[key(2)]).unwrap();
    let reply = browser.visit(async |session| session.principal()).await;
    assert_eq!(reply.value, None);
    // Another process may know the key: the cookie is left alone.
    assert_eq!(reply.finish.set_cookie, None);
}

async fn every_rejection_that_clears_looks_the_same_to_the_client(world: World) {
    let token = signed_in_with_values(&world).await;
    let token = std::str::from_utf8(&token).unwrap();
    let mut ended = world.signed_in("bob").await;
    let copy = ended.token().to_owned();
    ended.visit(async |session| session.logout().unwrap()).await;
    let mut forged = URL_SAFE_NO_PAD.decode(token).unwrap();
    *forged.last_mut().unwrap() ^= 1;
    let forged = URL_SAFE_NO_PAD.encode(forged);
    let refused = [(Rejection::Malformed, "garbage".to_owned()), (Rejection::Forged, forged), (Rejection::Ended, copy)];
    let mut looks = Vec::new();
    // Of two cookies one may be the visitor's own: it is refused with the same event, and left alone.
    let header = format!("__Host-id={token}; __Host-id={token}");
    world.events.forget();
    let request = Request::open(&world.manager, [header.as_bytes()].into_iter()).await.unwrap();
    assert_eq!(request.finish().await.set_cookie, None);
    assert!(world.events.of("token_rejected")[0].contains("Ambiguous"));
    for (reason, value) in refused {
        world.events.forget();
        let request =
            Request::open(&world.manager, [format!("__Host-id={value}").as_bytes()].into_iter()).await.unwrap();
        assert_eq!(request.session.principal(), None);
        looks.push(format!("{:?}", request.finish().await));
        let events = world.events.names();
        assert_eq!(events, ["token_rejected"], "{reason:?}: one event");
        assert!(world.events.of("token_rejected")[0].contains(&format!("{reason:?}")), "{:?}", world.events.dump());
    }
    world.events.forget();
    world.clock.advance(std::time::Duration::from_secs(24 * 60 * 60));
    let request = Request::open(&world.manager, [format!("__Host-id={token}").as_bytes()].into_iter()).await.unwrap();
    looks.push(format!("{:?}", request.finish().await));
    assert!(world.events.of("token_rejected")[0].contains("Expired"));
    looks.dedup();
    assert_eq!(looks.len(), 1, "{looks:?}");
}
