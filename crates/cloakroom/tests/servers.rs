//! Stacks on servers: the journey on each by configuration alone, and what a wrong password says.
#![cfg(all(feature = "config", any(feature = "mysql", feature = "postgres", feature = "redis")))]
#![expect(clippy::unwrap_used, reason = "in a test a surprise is a failure")]

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use cloakroom::{Backend, Cloakroom, Config, Key, Sources, State};
use cloakroom_core::{Client, Exchange, Outcome};
use cloakroom_services::shared;

const KEY: &str = "4ZcMrgfzVX5AHjvkb+U4hGrKsK0l77m0GsA8/T57TJk=";
const VISITS: Key<u64> = Key::new("visits");

async fn start(variables: &[(&str, &str)]) -> Cloakroom {
    let sources = Sources::new().in_directory(Path::new("/nonexistent")).with_variable("CLOAKROOM_KEYS", KEY);
    let sources = variables.iter().fold(sources, |sources, (name, value)| sources.with_variable(*name, *value));
    Cloakroom::from_config(Config::load(&sources).unwrap()).await.unwrap()
}

/// A request that signs in where nobody is and counts. Returns the cookie to send next.
async fn visit(sessions: &Cloakroom, cookie: &str) -> (u64, String) {
    let exchange = Exchange::new(sessions.manager().clone());
    let session = exchange.session([cookie.as_bytes()].into_iter(), Client::default).await.unwrap();
    if session.principal().is_none() {
        session.login("ada").unwrap();
    }
    let visits = session.modify(VISITS, |visits| *visits += 1).unwrap();
    let finish = exchange.finish(Outcome::Answered { status: 200, public: false }).await;
    assert!(finish.error.is_none(), "{:?}", finish.error);
    let set = finish.set.as_deref().and_then(|set| set.split(';').next());
    (visits, set.unwrap_or(cookie).to_owned())
}

async fn sign_out(sessions: &Cloakroom, cookie: &str) {
    let exchange = Exchange::new(sessions.manager().clone());
    exchange.session([cookie.as_bytes()].into_iter(), Client::default).await.unwrap().logout().unwrap();
    let finish = exchange.finish(Outcome::Answered { status: 200, public: false }).await;
    assert!(finish.error.is_none(), "{:?}", finish.error);
}

async fn state(sessions: &Cloakroom, cookie: &str) -> State {
    let exchange = Exchange::new(sessions.manager().clone());
    exchange.session([cookie.as_bytes()].into_iter(), Client::default).await.unwrap().state()
}

/// Two processes and a restart: one session, and one end of it.
async fn journey(variables: &[(&str, &str)], printed: &str) {
    let (one, other) = (start(variables).await, start(variables).await);
    if let Backend::Reference(store) = one.manager().backend() {
        assert!(store.to_string().contains(printed), "{store}");
        assert!(!store.to_string().contains("hunter2"));
    }
    let (_, staying) = visit(&one, "").await;
    let (first, cookie) = visit(&one, "").await;
    let (second, cookie) = visit(&other, &cookie).await;
    one.close().await;
    let restarted = start(variables).await;
    let (third, cookie) = visit(&restarted, &cookie).await;
    assert_eq!((first, second, third), (1, 2, 3));
    sign_out(&restarted, &cookie).await;
    for process in [&restarted, &other] {
        assert_eq!(state(process, &cookie).await, State::Absent);
        assert_ne!(state(process, &staying).await, State::Absent);
    }
    restarted.close().await;
    other.close().await;
}

/// A prefix that no other test has: of this process, and then one after the other.
fn prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("facade{}x{}_", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(feature = "redis")]
mod on_redis {
    use super::*;

    async fn on(url: &str) {
        let prefix = prefix();
        let variables = [("CLOAKROOM_STORE", url), ("CLOAKROOM_PREFIX", &prefix)];
        journey(&variables, "redis").await;
    }

    #[tokio::test]
    async fn a_session_lives_on_one_server() {
        on(&shared::redis()).await;
    }

    #[tokio::test]
    async fn a_session_lives_behind_sentinels() {
        on(&shared::sentinel()).await;
    }

    #[tokio::test]
    async fn a_session_lives_in_a_cluster() {
        on(&shared::cluster()).await;
    }

    #[tokio::test]
    #[cfg(feature = "cookie")]
    async fn the_list_of_ended_sessions_is_shared() {
        let (prefix, store) = (prefix(), format!("cookie+{}", shared::redis()));
        journey(&[("CLOAKROOM_STORE", &store), ("CLOAKROOM_PREFIX", &prefix)], "").await;
    }

    #[tokio::test]
    #[cfg(feature = "sqlite")]
    async fn the_ends_of_sessions_are_in_the_ledger() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = format!("sqlite:{}", directory.path().join("ledger.db").display());
        let (prefix, store) = (prefix(), shared::redis());
        let variables = [
            ("CLOAKROOM_STORE", &*store),
            ("CLOAKROOM_PREFIX", &*prefix),
            ("CLOAKROOM_DURABILITY", "epoch"),
            ("CLOAKROOM_LEDGER", &*ledger),
        ];
        journey(&variables, "observe(timeout(2s, epoch(").await;
    }
}

#[tokio::test]
#[cfg(feature = "postgres")]
async fn a_session_lives_in_postgresql() {
    let (prefix, store) = (prefix(), shared::postgres());
    journey(&[("CLOAKROOM_STORE", &store), ("CLOAKROOM_TABLE_PREFIX", &prefix)], "postgres").await;
    #[cfg(feature = "cookie")]
    journey(&[("CLOAKROOM_STORE", &format!("cookie+{store}")), ("CLOAKROOM_TABLE_PREFIX", &prefix)], "").await;
}

#[tokio::test]
#[cfg(feature = "mysql")]
async fn a_session_lives_in_mariadb() {
    let (prefix, store) = (prefix(), shared::mariadb());
    journey(&[("CLOAKROOM_STORE", &store), ("CLOAKROOM_TABLE_PREFIX", &prefix)], "mysql").await;
    #[cfg(feature = "cookie")]
    journey(&[("CLOAKROOM_STORE", &format!("cookie+{store}")), ("CLOAKROOM_TABLE_PREFIX", &prefix)], "").await;
}

/// The URL of a server with another password in it.
fn with_password(url: &str, password: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (credentials, place) = rest.split_once('@').expect("the shared servers have passwords");
    let user = credentials.split(':').next().unwrap();
    format!("{scheme}://{user}:{password}@{place}")
}

#[tokio::test]
async fn a_wrong_password_is_named_and_not_repeated() {
    let mut urls: Vec<String> = Vec::new();
    #[cfg(feature = "redis")]
    urls.extend([shared::redis(), shared::sentinel(), shared::cluster(), shared::redis_tls()]);
    #[cfg(feature = "postgres")]
    urls.push(shared::postgres());
    #[cfg(feature = "mysql")]
    urls.push(shared::mariadb());
    for url in urls {
        let wrong = with_password(&url, "hunter2");
        let sources = Sources::new().with_variable("CLOAKROOM_STORE", &wrong).with_variable("CLOAKROOM_KEYS", KEY);
        let error = Cloakroom::from_config(Config::load(&sources).unwrap()).await.unwrap_err();
        let message = format!("{error}\n{error:?}");
        assert!(!message.contains("hunter2"), "{message}");
        assert!(message.contains("store (environment variable CLOAKROOM_STORE)"), "{message}");
        assert!(message.contains("password"), "{message}");
    }
}
