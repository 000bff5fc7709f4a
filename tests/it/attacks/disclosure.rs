//! Secrets that would leave by a log, an error, a debug print, a list or a stolen disk.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use cloakroom_core::{Page, TracingSink};
use tracing_subscriber::fmt::MakeWriter;

use crate::setup::{Browser, World, on_every_backend, on_every_store};

const CANARY: &str = "canary-value-7f3a";
const OWNER: &str = "canary-owner-91c2";

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Signs in, works, fails and signs out, and prints everything that can be printed on the way.
async fn journey(world: &World) -> String {
    let mut printed = String::new();
    let mut browser = world.browser();
    let mut debug = async |browser: &mut Browser| {
        let request = browser.request().await;
        let (session, manager) = (&request.session, &world.manager);
        drop(session.set("secret", CANARY));
        let wrong = session.get::<u32>("secret").unwrap_err();
        drop(session.csrf_token());
        printed.push_str(&format!("{session:?} {manager:?} {wrong} {wrong:?} {:?} {:?}", world.keys, world.store()));
        let finish = request.finish().await;
        printed.push_str(&format!("{:?}", finish.error));
        browser.receive(&finish);
    };
    debug(&mut browser).await;
    browser.visit(async |session| session.login(OWNER).unwrap()).await;
    debug(&mut browser).await;
    world.clock.advance(Duration::from_secs(120));
    debug(&mut browser).await;
    let mut forged = world.browser();
    forged.plant(format!("{}A", browser.token()));
    debug(&mut forged).await;
    browser.visit(async |session| session.logout_everywhere().await.unwrap()).await;
    for (_, stored) in world.store().scan(None, 100).await.unwrap() {
        printed.push_str(&format!("{stored:?}"));
    }
    printed
}

on_every_backend!(no_token_value_or_name_is_in_a_log_an_error_or_a_debug_print);

async fn no_token_value_or_name_is_in_a_log_an_error_or_a_debug_print(world: World) {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone())
        .with_ansi(false)
        .finish();
    let world = world.configured(|builder| builder.events(Arc::new(TracingSink)));
    let printed = {
        let _guard = tracing::subscriber::set_default(subscriber);
        journey(&world).await
    };
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("session_signed_in"), "the log was not captured: {logged}");
    for (what, text) in [("the log", &logged), ("debug and errors", &printed)] {
        assert!(!text.contains(CANARY), "{what} shows a value");
        assert!(!text.contains(OWNER), "{what} shows whose session it is");
        for token in world.issued() {
            assert!(!text.contains(&token), "{what} shows a token");
            let secret = &token[token.len() - 20..];
            assert!(!text.contains(secret), "{what} shows the end of a token");
        }
    }
}

mod stores {
    use super::*;
    on_every_store!(
        what_a_store_holds_contains_no_token,
        a_handle_is_no_credential,
        no_token_and_no_part_of_it_reaches_the_store
    );

    async fn sessions(world: &World) -> Vec<Browser> {
        let mut browsers = Vec::new();
        for name in ["alice", "bob"] {
            let mut browser = world.signed_in(name).await;
            browser.visit(async |session| session.set("k", "v").unwrap()).await;
            browsers.push(browser);
        }
        browsers
    }

    fn holds(dump: &[u8], needle: &[u8]) -> bool {
        dump.windows(needle.len()).any(|window| window == needle)
    }

    async fn what_a_store_holds_contains_no_token(world: World) {
        let browsers = sessions(&world).await;
        let mut dump = Vec::new();
        for (id, stored) in world.store().scan(None, 100).await.unwrap() {
            dump.extend_from_slice(id.as_bytes());
            dump.extend_from_slice(&stored.record.encode());
        }
        for file in world.files() {
            dump.extend_from_slice(&std::fs::read(file).unwrap());
        }
        assert!(holds(&dump, b"alice"), "the dump is empty");
        for token in world.issued() {
            let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
            // Version, key id and shard are public; the secret follows, and then the check.
            let (secret, check) = (&bytes[9..41], &bytes[41..]);
            for part in [token.as_bytes(), &bytes, secret, &secret[..16], &secret[16..], check] {
                assert!(!holds(&dump, part), "a part of {} bytes", part.len());
            }
        }
        // What was stolen opens nothing.
        for (id, stored) in world.store().scan(None, 100).await.unwrap() {
            let record = stored.record.encode();
            for stolen in [id.as_bytes().as_slice(), &record, stored.record.handle().as_bytes()] {
                assert!(!world.opens(&URL_SAFE_NO_PAD.encode(stolen)).await);
                assert!(!world.opens(&STANDARD.encode(stolen).replace(['+', '/', '='], "")).await);
            }
        }
        drop(browsers);
    }

    async fn a_handle_is_no_credential(world: World) {
        let mut browsers = sessions(&world).await;
        let listing = browsers[0].visit(async |session| session.list(Page::FIRST).await.unwrap()).await.value;
        assert_eq!(listing.sessions.len(), 1);
        let text = format!("{listing:?}");
        assert!(world.issued().iter().all(|token| !text.contains(token)));
        let handle = listing.sessions[0].handle.to_string();
        assert!(!world.opens(&handle).await);
        assert!(!world.opens(&format!("{handle:0>68}")).await);
    }

    async fn no_token_and_no_part_of_it_reaches_the_store(world: World) {
        world.spy.forget_calls();
        drop(sessions(&world).await);
        for (verb, id) in world.spy.ids() {
            for token in world.issued() {
                let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
                // The shard is public and in both.
                assert!(bytes[9..].windows(6).all(|part| !holds(&id.as_bytes()[4..], part)), "{verb}");
            }
        }
        assert!(world.spy.ids().len() > 4);
    }
}
