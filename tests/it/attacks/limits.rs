//! Requests that would make the service store, send or compute more than it should.

use cloakroom_core::{Backend, BuildError, CookieSettings, Manager, MemoryStore, Policy, SessionErrorKind};
use std::sync::Arc;

use crate::setup::{World, on_every_backend, on_every_store, ring};

on_every_backend!(
    anonymous_traffic_writes_nothing,
    a_value_of_another_type_is_an_error_for_its_key_and_is_kept,
    a_session_over_its_limit_is_refused_before_anything_is_written_and_stays_readable,
    keys_that_could_be_mistaken_are_refused,
    any_bytes_as_cookie_are_answered_without_a_panic,
    a_request_that_changes_nothing_writes_nothing,
    flashes_are_read_once,
);

async fn anonymous_traffic_writes_nothing(world: World) {
    world.spy.forget_calls();
    for n in 0..2000 {
        let mut browser = world.browser();
        match n % 5 {
            0 => {}
            1 => browser.plant("garbage"),
            2 => browser.plant("A".repeat(68)),
            3 => browser.plant(""),
            _ => browser.plant(format!("{n:068}")),
        }
        let reply = browser.visit(async |session| {
            assert_eq!(session.get::<u32>("n").unwrap(), None);
            assert!(session.keys().unwrap().is_empty() && session.take_flashes().unwrap().is_empty());
            session.remove("n").unwrap();
            session.clear().unwrap();
            session.renew().unwrap();
            assert!(!session.verify_csrf("x"));
            if n % 7 == 0 {
                session.logout().unwrap();
            }
        });
        assert_eq!(reply.await.token(), None);
    }
    assert_eq!((world.spy.reads(), world.spy.writes()), (0, 0));
}

async fn a_value_of_another_type_is_an_error_for_its_key_and_is_kept(world: World) {
    let mut browser = world.signed_in("alice").await;
    browser.visit(async |session| (session.set("n", "text").unwrap(), session.set("m", 1).unwrap())).await;
    let reply = browser.visit(async |session| {
        let errors = [
            session.get::<u32>("n").map(drop),
            session.take::<u32>("n").map(drop),
            session.modify("n", |n: &mut u32| *n += 1).map(drop),
        ];
        let texts = errors.map(|error| {
            let error = error.unwrap_err();
            assert_eq!(error.kind(), SessionErrorKind::WrongType);
            error.to_string()
        });
        session.set("m", 2).unwrap();
        texts
    });
    let texts = reply.await.value;
    assert!(texts.iter().all(|text| text.contains("`n`") && !text.contains("\"text\"")), "{texts:?}");
    let reply = browser.visit(async |session| (session.get::<String>("n").unwrap(), session.get("m").unwrap())).await;
    assert_eq!(reply.value, (Some("text".to_owned()), Some(2)));
}

async fn a_session_over_its_limit_is_refused_before_anything_is_written_and_stays_readable(world: World) {
    let world = world.with_policy(Policy::default().with_max_record(8 * 1024));
    let mut browser = world.signed_in("alice").await;
    browser.visit(async |session| session.set("small", 1).unwrap()).await;
    let (token, limit) = (browser.token().to_owned(), if world.keeps_records() { 8 * 1024 } else { 2900 });
    world.spy.forget_calls();
    // Each value fits by itself where the store keeps it; both together do not.
    let half = "x".repeat(limit / 2);
    let reply =
        browser.visit(async |session| (session.set("a", &half).unwrap(), session.set("b", &half).unwrap())).await;
    assert_eq!(reply.error(), Some(SessionErrorKind::TooLarge));
    assert_eq!((reply.finish.set_cookie.as_deref(), world.spy.writes()), (None, 0));
    let reply = browser.visit(async |session| session.set("a", "x".repeat(300_000)).unwrap_err().kind()).await;
    assert_eq!(reply.value, SessionErrorKind::TooLarge);
    assert_eq!(browser.token(), token);
    let reply = browser.visit(async |session| (session.get("small").unwrap(), session.contains("a").unwrap())).await;
    assert_eq!(reply.value, (Some(1), false));
}

async fn keys_that_could_be_mistaken_are_refused(world: World) {
    let mut browser = world.browser();
    let long = "k".repeat(65);
    let reply = browser.visit(async |session| {
        ["", "cloakroom.flash", "cloakroom.", &long].map(|key| session.set(key, 1).unwrap_err().kind())
    });
    assert_eq!(reply.await.value, [SessionErrorKind::InvalidKey; 4]);
    assert!(!browser.has_cookie());
    for name in ["", "a\nb", "a\u{7f}", &"x".repeat(256)] {
        let reply = browser.visit(async |session| session.login(name).unwrap_err().kind()).await;
        assert_eq!(reply.value, SessionErrorKind::OutOfRange);
        assert!(!browser.has_cookie());
    }
}

async fn any_bytes_as_cookie_are_answered_without_a_panic(world: World) {
    let all: Vec<u8> = (0..=255).collect();
    let mut corpus = vec![all.clone(), vec![b';'; 100_000], b"__Host-id=".repeat(10_000), b"a=b; ".repeat(10_000)];
    corpus.push([b"__Host-id=".as_slice(), &all].concat());
    corpus.push([b"__Host-id=".as_slice(), &vec![b'A'; 1 << 20]].concat());
    for byte in all {
        corpus.push([b"__Host-id=".as_slice(), &[byte; 68]].concat());
    }
    for header in corpus {
        let request = crate::setup::Request::open(&world.manager, [header.as_slice()].into_iter()).await.unwrap();
        assert_eq!(request.session.handle(), None);
        assert_eq!(crate::setup::token_of(&request.finish().await), None);
    }
}

async fn a_request_that_changes_nothing_writes_nothing(world: World) {
    let mut browser = world.signed_in("alice").await;
    browser.visit(async |session| session.set("n", 1).unwrap()).await;
    world.spy.forget_calls();
    let reply = browser.visit(async |session| {
        session.remove("unknown").unwrap();
        session.take_flashes().unwrap();
        session.get::<u32>("n").unwrap()
    });
    assert_eq!(reply.await.finish.set_cookie, None);
    assert_eq!(world.spy.writes(), 0);
}

async fn flashes_are_read_once(world: World) {
    let mut browser = world.browser();
    browser.visit(async |session| session.flash("success", "Saved.").unwrap()).await;
    let texts = async |browser: &mut crate::setup::Browser| {
        let flashes = browser.visit(async |session| session.take_flashes().unwrap()).await.value;
        flashes.into_iter().map(|flash| flash.text).collect::<Vec<_>>()
    };
    assert_eq!(texts(&mut browser).await, ["Saved."]);
    assert!(texts(&mut browser).await.is_empty());
}

mod stores {
    use super::*;
    on_every_store!(a_record_at_its_limit_is_kept_and_one_byte_more_is_not);

    async fn a_record_at_its_limit_is_kept_and_one_byte_more_is_not(world: World) {
        let world = world.with_policy(Policy::default().with_max_record(4096));
        let size = |n: usize| {
            let world = &world;
            async move {
                let mut browser = world.browser();
                let reply = browser.visit(async |session| session.set("k", "x".repeat(n)).unwrap()).await;
                reply.error().is_none()
            }
        };
        let (mut fits, mut too_large) = (1, 4096);
        while too_large - fits > 1 {
            let middle = (fits + too_large) / 2;
            if size(middle).await { fits = middle } else { too_large = middle }
        }
        let records = world.store().scan(None, 1000).await.unwrap();
        let largest = records.iter().map(|(_, stored)| stored.record.encoded_len()).max();
        assert_eq!(largest, Some(4096));
    }
}

#[test]
fn settings_that_would_inject_into_a_header_are_refused() {
    let build = |cookie| {
        let backend = Backend::store(Arc::new(MemoryStore::new()));
        Manager::builder(backend, ring("a", &[1])).cookie(cookie).build()
    };
    for evil in ["a\r\nSet-Cookie: x=y", "a;b", "a,b", "a\0b", "a b", "a\u{7f}", ""] {
        let named = CookieSettings::new().with_name(evil);
        let path = CookieSettings::new().with_name("id").with_path(format!("/{evil};"));
        let domain = CookieSettings::new().with_name("id").with_domain(evil);
        for settings in [named, path, domain] {
            assert!(matches!(build(settings), Err(BuildError::Cookie(_))), "{evil:?}");
        }
    }
    assert!(build(CookieSettings::new().with_name("id").with_path("/app").with_domain("example.org")).is_ok());
}
